"""A rehearsal on Kaggle itself: private, internet off, on as many rows as wanted, without a submission.

It is a notebook of its own beside the kit's, whose versions are what is submitted.
"""

import json
import re
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from offline_kit.adopt import script_setup
from offline_kit.core.errors import ProjectError, UsageError
from offline_kit.kit.layout import RUNTIME_PACKAGE
from offline_kit.notebook.runtime import kit_rows, kit_submission
from offline_kit.notebook.runtime.kit_runtime import KitError
from offline_kit.project.config import Config
from offline_kit.project.kaggle_names import TITLE_LENGTH, make_slug
from offline_kit.project.types import Kit
from offline_kit.rehearsal import forecast, rehearse, submission_check
from offline_kit.workflow import rehearsal_report, ship
from offline_kit.workflow.kaggle_session import KaggleSession

SUFFIX = " rehearsal"
_KIT_CELL = re.compile(r"\d+-kit")
_KIT_LINES = re.compile(r"^# %% kit$.*?(?=^# %%)", re.MULTILINE | re.DOTALL)  # the same cell of a script


@dataclass(frozen=True, kw_only=True)
class KaggleRehearsal:
    """A rehearsal on Kaggle that passed."""

    ran: ship.NotebookRun
    rows: int = 0  # rows of its submission; 0 for another format than CSV
    notes: tuple[str, ...]
    forecast: Mapping[str, Any] | None = None  # the fields of `forecast.Forecast`


def rehearse_on_kaggle(session: KaggleSession, kit: Kit, rows: int | None) -> KaggleRehearsal:
    """Run the kit's notebook on Kaggle, which has its data, on all or so many `rows`, and check its submission."""
    new = session.read_notebook(kit)
    # Kaggle makes the slug of the title, of which it keeps 50 characters.
    title = new.title[: TITLE_LENGTH[1] - len(SUFFIX)].rstrip(" -") + SUFFIX
    text = limit_rows(new.text, rows, is_script=new.kernel_type == "script") if rows else new.text
    owner = new.ref.partition("/")[0]
    new = replace(new, ref=f"{owner}/{make_slug(title)}", title=title, text=text)
    run = ship.run_notebook(session, kit, new=new, remember="last-rehearsal.json")
    if run.submission is None:
        return KaggleRehearsal(ran=run, notes=run.notes)
    with tempfile.TemporaryDirectory(prefix="offline-kit-") as scratch:
        sample = _cut_sample(session.config, rows, Path(scratch))
        checked = submission_check.check_submission(run.submission, sample)
    if checked.problems:
        raise ProjectError(
            f"'{run.submission.name}' would not be scored as it is",
            code="submission-invalid",
            hint=f"compare it with the sample submission; it is in '{run.submission.parent}'",
            details=checked.problems,
        )
    forecast = _replace_forecast(session.config, kit, checked.rows, run.seconds)
    return KaggleRehearsal(ran=run, rows=checked.rows, notes=(*run.notes, *checked.notes), forecast=forecast)


def _replace_forecast(config: Config, kit: Kit, rows: int, seconds: float) -> dict[str, Any] | None:
    """Return the forecast for Kaggle's machine, and keep it in the report of this kit's last rehearsal here."""
    last = rehearse.read_last_report(kit) or {}
    local = last.get("forecast")
    hidden_rows = config.hidden_rows or None
    scaled = forecast.scale_forecast(
        local, measured_rows=rows, seconds=seconds, rows=hidden_rows, limit=config.time_limit
    )
    if scaled and local:
        warnings = [line for line in last["warnings"] if line != local["warning"]]
        changes = {
            "forecast": asdict(scaled),
            "warnings": [*warnings, *([scaled.warning] if scaled.warning else [])],
        }
        rehearse.write_report_data(kit.folder / "rehearsal", last | changes)
        rehearsal_report.update_report(config)
    return asdict(scaled) if scaled else None


def limit_rows(text: str, rows: int, *, is_script: bool = False) -> str:
    """Return a notebook or script that is limited to so many rows after its kit's cell; UsageError without that cell."""
    code = (
        f"from {RUNTIME_PACKAGE}.kit_rows import limit_rows\n"
        f"from {RUNTIME_PACKAGE}.kit_submission import find_sample\n\n"
        f"root = limit_rows(root, find_sample(root), {rows}, kit.places.scratch)"
    )
    if is_script:
        kit_lines = None if script_setup.find_setup_lines(text) else _KIT_LINES.search(text)
        if kit_lines:
            return f"{text[: kit_lines.end()]}# %% kit-rows\n{code}\n\n{text[kit_lines.end() :]}"
    else:
        content = json.loads(text)
        for number, cell in enumerate(content["cells"], 1):
            if _KIT_CELL.fullmatch(cell.get("id", "")):
                # Its own id: Jupyter requires unique ones, https://nbformat.readthedocs.io/en/latest/format_description.html
                rows_cell = {
                    **cell, "id": f"{cell['id']}-rows", "source": code.splitlines(keepends=True)
                }  # fmt: skip
                content["cells"].insert(number, rows_cell)
                return json.dumps(content, indent=1)
    raise UsageError(
        "rows can be chosen only for a notebook with the kit's cell, and this template has none",
        code="rows-not-supported",
        hint="extend a built-in template, or rehearse without --rows",
    )


def _cut_sample(config: Config, rows: int | None, scratch: Path) -> Path | None:
    """Return the local sample submission, cut as the notebook cut its own."""
    data = config.competition_data if config.competition_data and config.competition_data.is_dir() else None
    sample = config.sample_submission or (kit_submission.find_sample(data) if data else None)
    if not (sample and rows and sample.suffix.lower() == ".csv"):
        return sample
    try:
        return kit_rows.cut_rows(data or sample.parent, sample, rows, scratch, lambda _from, _to: None)[1]
    except KitError:
        return None  # there is nothing to compare with an empty list
