"""The report of the project's last rehearsal, with what was sent to Kaggle since."""

from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path
from typing import Any

from offline_kit.core.errors import ProjectError
from offline_kit.core.report import SILENT, Reporter
from offline_kit.project.config import Config
from offline_kit.rehearsal.report import page
from offline_kit.rehearsal.request import ReportContext
from offline_kit.workflow import part_locations
from offline_kit.workflow.part_locations import RemoteStatus, records_folder

_SHOWN = 30  # submissions; the page draws their scores


def read_context(config: Config) -> ReportContext:
    """Return what a report shows besides the run: the project, its earlier rehearsals, and what was sent and scored."""
    statuses = part_locations.read_remembered_status(config, shown=_SHOWN)
    kit = part_locations.find_kit(config)
    ids = [kit.id, *(part.id for part in kit.parts)] if kit else []
    return ReportContext(
        project=config.project.resolve().name,
        time_limit=config.time_limit,
        records=records_folder(config),
        remote=tuple(_describe_account(status, ids) for status in statuses),
    )


def update_report(config: Config, report: Reporter = SILENT) -> Path | None:
    """Draw the report of the last rehearsal again, with what was sent and scored since; None if there is none."""
    return page.redraw_report(config.out / "rehearsal", read_context(config), report=report)


def find_report(config: Config, report: Reporter = SILENT) -> Path:
    """Return the updated report of the last rehearsal; raise ProjectError if there is none."""
    path = config.out / "rehearsal" / page.PAGE
    if update_report(config, report) or path.is_file():
        return path
    raise ProjectError(
        f"there is no report of a rehearsal in '{config.out}'",
        code="report-not-found",
        hint="run 'offline-kit rehearse', which writes one",
    )


def _describe_account(status: RemoteStatus, ids: Collection[str]) -> dict[str, Any]:
    run = status.run
    return {
        **asdict(status),
        "pieces": [{**vars(piece), "is_current": piece.holds in ids} for piece in status.pieces],
        "run": run and {**run, "problem": (run.get("problem") or {}).get("what", "")},
        "scores": [vars(entry) for entry in status.submissions],
    }
