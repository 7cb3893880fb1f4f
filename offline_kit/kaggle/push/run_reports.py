"""Compare what a notebook wrote of its run on Kaggle with the rehearsal of its kit."""

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from offline_kit.core import files
from offline_kit.core.files import format_size
from offline_kit.kaggle.client.client import KaggleClient
from offline_kit.kaggle.push import notebook_runs
from offline_kit.kit.manifest import compute_kit_id
from offline_kit.notebook.runtime.kit_report import REPORT
from offline_kit.project.types import Kit
from offline_kit.rehearsal import rehearse


def fetch_run_report(ref: str, version: int, kaggle: KaggleClient) -> dict[str, Any]:
    """Return what the run of a version wrote of itself; empty if it wrote nothing, or has not ended."""
    run = kaggle.get_notebook_run(ref, version)
    if not run or run.state != "complete" or REPORT not in kaggle.list_run_outputs(ref, version):
        return {}
    with tempfile.TemporaryDirectory(prefix="offline-kit-") as folder:
        run_report = files.read_json(notebook_runs.fetch_output((ref, version), REPORT, kaggle, Path(folder)))
    return run_report if run_report.get("format") == 1 else {}


def compare_run(kit: Kit, run: Mapping[str, Any]) -> tuple[str, ...]:
    """Return a line for each difference between a run on Kaggle and the kit's last rehearsal, and one for its figures."""
    return tuple(_compare(kit, run, rehearse.read_last_report(kit) or {})) if run else ()


def _compare(kit: Kit, run: Mapping[str, Any], receipt: Mapping[str, Any]) -> Iterator[str]:
    kit_id = compute_kit_id(map(str, run.get("parts", {}).values()))
    if kit_id != kit.id:
        yield f"the run was of kit {kit_id[:12]}"
    if moved := run.get("moved"):
        yield f"the image of the run has other versions than the kit was built for: {', '.join(map(str, moved))}"
    python, rehearsed_python = run.get("python"), receipt.get("python")
    if rehearsed_python and python != rehearsed_python:
        yield f"the run had Python {python}, the rehearsal {rehearsed_python}"
    if run.get("packages_hash", "unknown") == receipt.get("packages_hash"):
        yield f"the image of the run has exactly the packages of '{receipt['image']}'"
    rehearsed = f"; the rehearsal {_describe_cost(receipt)}" if receipt else "; it was not rehearsed here"
    yield f"the run took {_describe_cost(run)}{rehearsed}"


def _describe_cost(side: Mapping[str, Any]) -> str:
    memory = (
        f" and {format_size(side['peak_memory'])} ({side['memory_by']})" if side.get("peak_memory") else ""
    )
    return f"{side.get('seconds')} s{memory}"
