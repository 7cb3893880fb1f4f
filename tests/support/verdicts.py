"""Shared by tests: what a run amounts to, from what it left."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from offline_kit.core.errors import ProjectError
from offline_kit.core.sandboxes.box import BoxOutcome
from offline_kit.core.sandboxes.process_tree import MemorySample
from offline_kit.notebook.runtime.kit_runtime import KitError
from offline_kit.project.accelerators import find_machine
from offline_kit.rehearsal import verdict
from offline_kit.rehearsal.environments import Interpreter
from offline_kit.rehearsal.execution import KernelRun, KernelSetup, RehearsalEnvironment
from offline_kit.rehearsal.verdict import RunVerdict

PYTHON = Interpreter(path=Path("python"), version="3.13.0", packages={}, mounts=(), links={})
BENCH = RehearsalEnvironment(
    notebook=Path("n.ipynb"),
    inputs=(),
    kernel=KernelSetup(python=PYTHON, launch=("python",)),
    papermill=PYTHON,
    uv=None,
    installer="auto",
    timeout=60,
    machine=replace(find_machine(""), memory=10**9, disk=10**9),
)


def cell(
    source: str, status: str, *, error: str = "", trace: str = "", failure: KitError | None = None
) -> dict[str, Any]:
    outputs: list[dict[str, Any]] = []
    if failure:
        outputs.append({"output_type": "stream", "name": "stdout", "text": f"{failure.to_json()}\n"})
        error = f"KitError: {failure}"
    if error:
        name, _, value = error.partition(": ")
        outputs.append(
            {"output_type": "error", "ename": name, "evalue": value, "traceback": [trace or error]}
        )
    told = {"status": status, "duration": 1.0 if status == "completed" else None}
    return {"cell_type": "code", "source": source, "metadata": {"papermill": told}, "outputs": outputs}


TEXT = {"cell_type": "markdown", "source": "# text", "metadata": {}}


def ran(folder: Path, *cells: dict[str, Any], log: str = "", **end: Any) -> KernelRun:
    (folder / "working").mkdir()
    (folder / "executed.ipynb").write_text(json.dumps({"cells": cells}))
    (folder / "log.txt").write_text(log)
    curve = (MemorySample(0.5, 5_000_000),)
    outcome = {"code": 0, "started": 0.0, "seconds": 1.0, "memory_curve": curve, "memory_by": "PSS", **end}
    return KernelRun(
        outcome=BoxOutcome(**outcome),
        executed=folder / "executed.ipynb",
        log=folder / "log.txt",
        working=folder / "working",
    )


def judge(done: KernelRun, sample: Path | None = None) -> RunVerdict:
    return verdict.judge_run(done, BENCH, "submission.csv", sample)


def problem(done: KernelRun, sample: Path | None = None) -> ProjectError:
    found = judge(done, sample).problem
    assert found is not None
    return found
