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
    """Empty if it bears no tag of ours: it was made by hand."""
    version: int = 0
    datasets: tuple[str, ...] = ()
    parts: Mapping[str, str] = field(default_factory=dict)
    """Ids of the parts that it needs, by name; empty if unknown."""


def list_queued(
    kaggle: KaggleClient, competition: str, ledger: SubmissionLedger
) -> tuple[QueuedSubmission, ...]:
    """Return the pending submissions to a competition, and record the finished ones in the ledger."""
    queued = []
    for submission in kaggle.list_submissions(competition):
        ledger.update_entry(submission)
        if submission.is_finished:
            continue
        tag = parse_tag(submission.message)
        if tag is None:
            queued.append(QueuedSubmission(submission=submission))
            continue
        notebook = kaggle.get_notebook(tag.notebook, tag.version)
        parts: Mapping[str, str] = parse_part_ids(notebook.text) if notebook else {}
        if not parts:
            entries = reversed(ledger.find_by_version(tag.notebook, tag.version))
            parts = next((entry.parts for entry in entries if entry.parts), {})
        queued.append(
            QueuedSubmission(
                submission=submission,
                notebook=tag.notebook,
                version=tag.version,
                datasets=notebook.sources.datasets if notebook else (),
                parts=parts,
            )
        )
    return tuple(queued)


def find_disturbed(
    waiting: Iterable[QueuedSubmission], changed: Mapping[str, str], parts: Collection[str]
) -> tuple[str, ...]:
    """Describe each queued submission that new dataset versions would break, or might.

    `changed` has the id of the part that each of these datasets holds, "" for none; `parts` are the ids
    that the datasets will hold afterwards. Submissions that are broken already are not reported.
    """
    held_ids = {ref.lower(): part_id for ref, part_id in changed.items()}
    lost_ids = frozenset(held_ids.values()) - frozenset(parts)
    lines = []
    for queued in waiting if held_ids else ():
        used = sorted(ref for ref in queued.datasets if ref.lower() in held_ids)
        lost = sorted(name for name, part_id in queued.parts.items() if part_id in lost_ids)
        name = f"submission {queued.submission.ref} has not run yet"
        if not queued.notebook:
            message = queued.submission.message
            lines.append(f"{name}; it was submitted by hand, and may use changed datasets: '{message}'")
        elif (used or not queued.datasets) and (lost or not queued.parts):
            subject = f"part {', '.join(lost)}" if lost else "what is there now"
            datasets = ", ".join(used) or "its datasets"
            lines.append(
                f"{name}; it uses {subject} of {datasets} (version {queued.version} of '{queued.notebook}')"
            )
    return tuple(lines)
