"""Write a rehearsal's report; what fails there is a note, never a failed rehearsal."""

import json
from pathlib import Path

from offline_kit.core.errors import OfflineKitError
from offline_kit.core.report import SILENT, Reporter
from offline_kit.rehearsal.report import history, page, run_facts
from offline_kit.rehearsal.report.run_facts import RunEvidence
from offline_kit.rehearsal.request import ReportContext


def write_report(folder: Path, run: RunEvidence, *, report: Reporter = SILENT) -> bool:
    """Write facts and page of a run beside its evidence in `folder`, add it to the history; return whether it worked."""
    context = run.request.context
    try:
        run_facts.write_facts(folder, run_facts.collect_facts(folder, run))
        if context.records:
            _add_to_history(folder, context.records, run, report)
        page.write_page(folder, context)
    except Exception as error:  # noqa: BLE001 - whatever a run left behind, its verdict stands
        report.note(f"no report was written: {type(error).__name__}: {error}")
        return False
    return True


def _add_to_history(folder: Path, records: Path, run: RunEvidence, report: Reporter) -> None:
    outcome = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    try:
        history.add_rehearsal(records, outcome, folder / Path(run.request.submission).name)
    except (OSError, OfflineKitError) as error:  # the project's folder may be read-only
        report.note(f"this rehearsal is missing in the history: {error}")


def redraw_report(folder: Path, context: ReportContext, *, report: Reporter = SILENT) -> Path | None:
    """Draw the page in `folder` again, with what was sent and scored since; return it, None if that is not possible."""
    if not (folder / run_facts.FACTS).is_file():
        return None
    try:
        return page.write_page(folder, context)
    except Exception as error:  # noqa: BLE001 - a push that succeeded is not to fail for a picture
        report.note(f"the report was not updated: {type(error).__name__}: {error}")
        return None
