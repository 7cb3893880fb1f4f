"""Find submissions in the queue that new dataset versions would break.

A hidden run mounts the newest version of its datasets, so a queued submission would find another kit
than its own, and fail.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from offline_kit.kaggle.client.api_types import Submission
from offline_kit.kaggle.client.client import KaggleClient
from offline_kit.kaggle.push.kit_parts import parse_part_ids
from offline_kit.kaggle.push.submission_ledger import SubmissionLedger, parse_tag


@dataclass(frozen=True, kw_only=True)
class QueuedSubmission:
    """A pending submission and what its run will mount."""

    submission: Submission
    notebook: str = ""
    """"owner/slug"; empty if it bears no mark of ours: it was made by hand."""
    version: int = 0
    datasets: tuple[str, ...] = ()
    """"owner/slug" of each attached dataset."""
    parts: Mapping[str, str] = field(default_factory=dict)
    """Ids of the parts that it needs, by name; empty if unknown."""


def list_queued(
    kaggle: KaggleClient, competition: str, ledger: SubmissionLedger
) -> tuple[QueuedSubmission, ...]:
    """Return the pending submissions to a competition, and record the finished ones in the ledger."""
    queued = []
    for submission in kaggle.list_submissions(competition):
        ledger.update_entry(submission)
        if not submission.is_finished:
            queued.append(_inspect_queued(submission, kaggle, ledger))
    return tuple(queued)


def find_disturbed(
    waiting: Iterable[QueuedSubmission], changed: Mapping[str, str], parts: Collection[str]
) -> tuple[str, ...]:
    """Describe each queued submission that new dataset versions would break, or might.

    `changed` has the id of the part that each of these datasets holds, "" for none; `parts` are the ids
    that the datasets will hold afterwards. Submissions that are broken already are not reported.
    """
    held_parts = {ref.lower(): part for ref, part in changed.items()}
    return tuple(
        line
        for submission in waiting
        if held_parts and (line := _describe_conflict(submission, held_parts, frozenset(parts)))
    )


def _inspect_queued(
    submission: Submission, kaggle: KaggleClient, ledger: SubmissionLedger
) -> QueuedSubmission:
    mark = parse_tag(submission.message)
    if mark is None:
        return QueuedSubmission(submission=submission)
    notebook = kaggle.get_notebook(mark.notebook, mark.version)
    ledger_parts = next(
        (e.parts for e in reversed(ledger.find_by_version(mark.notebook, mark.version)) if e.parts), {}
    )
    return QueuedSubmission(
        submission=submission,
        notebook=mark.notebook,
        version=mark.version,
        datasets=notebook.sources.datasets if notebook else (),
        parts=(parse_part_ids(notebook.text) if notebook else {}) or ledger_parts,
    )


def _describe_conflict(queued: QueuedSubmission, changed: Mapping[str, str], parts: Collection[str]) -> str:
    name = f"submission {queued.submission.ref} has not run yet"
    if not queued.notebook:
        return (
            f"{name}; it was submitted by hand, and may use changed datasets: '{queued.submission.message}'"
        )
    used = sorted(ref for ref in queued.datasets if ref.lower() in changed)
    if not used and queued.datasets:
        return ""
    held_ids = frozenset(changed.values())
    lost = sorted(part for part, ident in queued.parts.items() if ident in held_ids and ident not in parts)
    if queued.parts and not lost:
        return ""
    subject = f"part {', '.join(lost)}" if lost else "what is there now"
    return f"{name}; it uses {subject} of {', '.join(used) or 'its datasets'} (version {queued.version} of '{queued.notebook}')"
