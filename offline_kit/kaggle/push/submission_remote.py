"""Looking at Kaggle for all that a submission depends on, and for those that were made."""

import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from offline_kit.core.report import SILENT, Reporter
from offline_kit.kaggle.client.api_types import (
    Competition,
    Kaggle,
    Limits,
    RefusedError,
    RemoteNotebook,
    Submission,
)
from offline_kit.kaggle.push import parts_elsewhere, run_files
from offline_kit.kaggle.push.poll_policy import Waiting, shown
from offline_kit.kaggle.push.push_settings import Ways
from offline_kit.kaggle.push.rendered_for import missing, parts_of
from offline_kit.kaggle.push.submission_ledger import Ledger
from offline_kit.kaggle.push.submission_plan import Seen, SubmitRequest
from offline_kit.kaggle.push.submission_tag import Mark, exactly, of_same, read


def look(
    request: SubmitRequest,
    contest: Competition | None,
    notebook: RemoteNotebook | None,
    kaggle: Kaggle,
    ways: Ways,
    report: Reporter = SILENT,
) -> Seen:
    """Return what there is to know before a submission; a dataset that is still processed is waited for."""
    limits = _limits(kaggle, contest)
    if notebook is None:
        newest = kaggle.notebook(request.notebook)
        return Seen(competition=contest, limits=limits, newest=newest.current if newest else 0)
    run = kaggle.run(request.notebook, request.version)
    files = kaggle.outputs(request.notebook, request.version) if run and run.state == "complete" else ()
    parts = parts_of(notebook.text)
    # Its run was complete, so there were datasets: where none is told, nothing can be compared.
    datasets = notebook.sources.datasets if parts else ()
    return Seen(
        competition=contest,
        limits=limits,
        notebook=notebook,
        newest=notebook.current,
        run=run,
        size=_size(request, kaggle) if request.file in files else None,
        outputs=files,
        parts=parts,
        missing=_missing(parts, notebook, kaggle, ways, report) if datasets else {},
    )


def _missing(
    parts: Mapping[str, str], notebook: RemoteNotebook, kaggle: Kaggle, ways: Ways, report: Reporter
) -> dict[str, str]:
    """Return the parts that none of the notebook's sources holds now."""
    left = missing(parts, notebook.sources.datasets, kaggle, ways.waiting, report)
    return parts_elsewhere.lacking(left, notebook.sources, kaggle) if left else left


def _limits(kaggle: Kaggle, contest: Competition | None) -> Limits | RefusedError | None:
    if contest is None or not contest.entered:
        return None
    try:
        return kaggle.limits(contest.slug)
    except RefusedError as no:
        if no.status >= 500 or no.status == 429:
            raise
        return no


def _size(request: SubmitRequest, kaggle: Kaggle) -> int:
    """Return the size of the file, which is fetched for that: Kaggle's listings show sizes that are not true."""
    run = (request.notebook, request.version)
    with tempfile.TemporaryDirectory(prefix="offline-kit-") as folder:
        return run_files.bring(run, request.file, kaggle, Path(folder)).stat().st_size


def earlier(
    mark: Mark, competition: str, made: Iterable[Submission], kaggle: Kaggle, ledger: Ledger
) -> tuple[Submission, ...]:
    """Return the submissions of the same version and file among those `made`, the latest first.

    What the ledger alone knows counts where Kaggle still has it under that number: a list may be cut.
    """
    found = of_same(mark, made)
    if found:
        return found
    for entry in reversed(ledger.of_version(mark.notebook, mark.version)):
        if entry.competition == competition and entry.submission and mark.same(read(entry.message)):
            known = kaggle.submission(entry.submission)
            if known and mark.same(read(known.message)):
                return (known,)
    return ()


def listed(
    text: str, competition: str, kaggle: Kaggle, waiting: Waiting, seconds: float
) -> Submission | None:
    """Wait until a submission with this very mark is listed; None where none is within so many seconds."""
    return shown(lambda: exactly(text, kaggle.submissions(competition)), waiting.until(seconds))
