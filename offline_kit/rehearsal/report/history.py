"""The history of a project's rehearsals, kept outside of the kit, which a build replaces."""

import json
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from offline_kit.core import files

_HISTORY = "history.jsonl"
_SUBMISSION = "submission.csv"
_MAX_ENTRIES = 40  # that a report shows
_MAX_KEPT = 50_000_000  # bytes of a submission that is kept for comparison


def read_history(records: Path | None) -> list[dict[str, Any]]:
    """Return the latest rehearsals of the project, oldest first; invalid lines are skipped."""
    history = []
    for entry in [*files.read_json_lines(records / _HISTORY)][-_MAX_ENTRIES:] if records else ():
        with suppress(ValueError, KeyError, TypeError):
            history.append(entry | {"passed": bool(entry["passed"]), "seconds": float(entry["seconds"])})
    return history


def find_previous_submission(records: Path | None) -> Path | None:
    """Return the CSV that the last rehearsal that passed wrote, or None."""
    path = records / _SUBMISSION if records else None
    return path if path and path.is_file() else None


def add_rehearsal(records: Path, outcome: Mapping[str, Any], submission: Path) -> None:
    """Append a rehearsal to the history, and keep its submission for the next comparison."""
    records.mkdir(parents=True, exist_ok=True)
    files.ignore_in_git(records)
    keys = ("kit", "passed", "fidelity", "env", "seconds", "peak_memory", "rows", "rows_wanted")
    entry = {"at": files.utc_timestamp(), **{key: outcome.get(key) for key in keys}}
    entry["code"] = (outcome.get("problem") or {}).get("code", "")
    files.append_line(records / _HISTORY, json.dumps(entry))
    is_kept = outcome.get("passed") and submission.suffix.lower() == ".csv" and submission.is_file()
    if is_kept and submission.stat().st_size <= _MAX_KEPT:
        shutil.copyfile(submission, records / _SUBMISSION)
