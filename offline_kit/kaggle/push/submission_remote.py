"""Looking at Kaggle for all that a submission depends on, and for those that were made."""

import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from offline_kit.core.report import SILENT, Reporter
from offline_kit.kaggle.client.api_types import (
    Competition,
    KaggleApi,
    RefusedError,
    RemoteNotebook,
    Submission,
    SubmissionLimits,
)
from offline_kit.kaggle.push import parts_elsewhere, run_files
from offline_kit.kaggle.push.poll_policy import PollPolicy, wait_until_shown
from offline_kit.kaggle.push.push_settings import PushSettings
from offline_kit.kaggle.push.rendered_for import find_missing_parts, parse_part_ids
from offline_kit.kaggle.push.submission_ledger import SubmissionLedger
from offline_kit.kaggle.push.submission_plan import SubmissionState, SubmitRequest
from offline_kit.kaggle.push.submission_tag import SubmissionTag, filter_same_version, find_exact, parse_tag


def inspect_submission(
    request: SubmitRequest,
    contest: Competition | None,
    notebook: RemoteNotebook | None,
    kaggle: KaggleApi,
    settings: PushSettings,
    report: Reporter = SILENT,
) -> SubmissionState:
    """Return what there is to know before a submission; a dataset that is still processed is waited for."""
    limits = _read_limits(kaggle, contest)
    if notebook is None:
        newest = kaggle.get_notebook(request.notebook)
        return SubmissionState(
            competition=contest, limits=limits, newest_version=newest.newest_version if newest else 0
        )
    run = kaggle.get_notebook_run(request.notebook, request.version)
    files = (
        kaggle.list_run_outputs(request.notebook, request.version) if run and run.state == "complete" else ()
    )
    parts = parse_part_ids(notebook.text)
    # Its run was complete, so there were datasets: where none is told, nothing can be compared.
    datasets = notebook.sources.datasets if parts else ()
    return SubmissionState(
        competition=contest,
        limits=limits,
        notebook=notebook,
        newest_version=notebook.newest_version,
        run=run,
        file_size=_fetch_file_size(request, kaggle) if request.file in files else None,
        outputs=files,
        parts=parts,
        missing_parts=_find_missing_parts(parts, notebook, kaggle, settings, report) if datasets else {},
    )


def _find_missing_parts(
    parts: Mapping[str, str],
    notebook: RemoteNotebook,
    kaggle: KaggleApi,
    settings: PushSettings,
    report: Reporter,
) -> dict[str, str]:
    """Return the parts that none of the notebook's sources holds now."""
    left = find_missing_parts(parts, notebook.sources.datasets, kaggle, settings.poll_policy, report)
    return parts_elsewhere.find_missing_parts(left, notebook.sources, kaggle) if left else left


def _read_limits(kaggle: KaggleApi, contest: Competition | None) -> SubmissionLimits | RefusedError | None:
    if contest is None or not contest.has_entered:
        return None
    try:
        return kaggle.get_submission_limits(contest.slug)
    except RefusedError as no:
        if no.status >= 500 or no.status == 429:
            raise
        return no


def _fetch_file_size(request: SubmitRequest, kaggle: KaggleApi) -> int:
    """Return the size of the file, which is fetched for that: Kaggle's listings show sizes that are not true."""
    run = (request.notebook, request.version)
    with tempfile.TemporaryDirectory(prefix="offline-kit-") as folder:
        return run_files.fetch_output(run, request.file, kaggle, Path(folder)).stat().st_size


def find_earlier(
    mark: SubmissionTag,
    competition: str,
    submissions: Iterable[Submission],
    kaggle: KaggleApi,
    ledger: SubmissionLedger,
) -> tuple[Submission, ...]:
    """Return the submissions of the same version and file among those `submissions`, the latest first.

    What the ledger alone knows counts where Kaggle still has it under that number: a list may be cut.
    """
    listed = filter_same_version(mark, submissions)
    if listed:
        return listed
    for entry in reversed(ledger.find_by_version(mark.notebook, mark.version)):
        if (
            entry.competition == competition
            and entry.submission
            and mark.is_same_version(parse_tag(entry.message))
        ):
            submission = kaggle.get_submission(entry.submission)
            if submission and mark.is_same_version(parse_tag(submission.message)):
                return (submission,)
    return ()


def wait_until_listed(
    text: str, competition: str, kaggle: KaggleApi, poll_policy: PollPolicy, seconds: float
) -> Submission | None:
    """Wait until a submission with this very mark is listed; None where none is within so many seconds."""
    return wait_until_shown(
        lambda: find_exact(text, kaggle.list_submissions(competition)), poll_policy.retry_policy(seconds)
    )
