"""The ledger of submissions and their scores: an append-only file of JSON lines.

A later line with the same key (its number, its score) replaces the earlier one when read.
"""

import json
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from urllib.parse import quote, unquote

from offline_kit.core.files import append_line, read_json_lines, utc_timestamp
from offline_kit.kaggle.client.api_types import Submission


@dataclass(frozen=True, kw_only=True)
class LedgerEntry:
    """One submission; numbers and texts that are unknown are 0 and empty."""

    competition: str
    notebook: str
    version: int
    file: str
    message: str  # the description on Kaggle, including our tag; unique
    submission: int = 0
    kit: str = ""
    parts: Mapping[str, str] = field(default_factory=dict)  # part ids by part name
    commit: str = ""  # the project's git commit, marked if there were uncommitted changes
    run_seconds: float = 0.0
    place: str = "Kaggle"  # "Kaggle", or "LOCAL": its scores do not count on Kaggle
    at: str = ""  # when it was submitted: ISO 8601 in UTC
    state: str = "pending"  # "pending", "complete" or "error", as last seen
    error: str = ""
    score: str = ""
    private_score: str = ""
    scored_seconds: float = 0.0  # from the submission to its score; 0 if not observed


_FIELD_NAMES = {attribute.name for attribute in fields(LedgerEntry)}


class SubmissionLedger:
    """The submissions of one account, in chronological order."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add_entry(self, entry: LedgerEntry) -> LedgerEntry:
        """Append a submission and sync it to disk; an empty `at` becomes the current time."""
        stamped = entry if entry.at else replace(entry, at=utc_timestamp())
        append_line(self.path, json.dumps(asdict(stamped)))
        return stamped

    def update_entry(self, submission: Submission, scored_seconds: float = 0.0) -> LedgerEntry | None:
        """Update the entry of a submission and return it; None if the ledger has none.

        Nothing is written if nothing has changed.
        """
        tag = parse_tag(submission.message)
        for old in reversed(self.read_entries()):
            has_tag = old.message == submission.message or (tag and tag == parse_tag(old.message))
            # The number alone is not enough: a new local Kaggle counts from 1 again.
            if has_tag and old.submission in (0, submission.ref):
                new = replace(
                    old,
                    submission=submission.ref or old.submission,
                    state=submission.state,
                    error=submission.error,
                    score=submission.public_score,
                    private_score=submission.private_score,
                    scored_seconds=scored_seconds or old.scored_seconds,
                )
                return old if new == old else self.add_entry(new)
        return None

    def read_entries(self) -> tuple[LedgerEntry, ...]:
        """Return all submissions, oldest first, each with its latest state; invalid lines are skipped."""
        by_key: dict[tuple[str, str, str], LedgerEntry] = {}
        for raw in read_json_lines(self.path):
            with suppress(TypeError):
                known = {name: value for name, value in raw.items() if name in _FIELD_NAMES}
                entry = LedgerEntry(**known)
                by_key[entry.place, entry.competition, entry.message] = entry
        return tuple(by_key.values())

    def find_by_version(self, notebook: str, version: int) -> tuple[LedgerEntry, ...]:
        """Return the submissions of a notebook version, oldest first."""
        ref = notebook.lower()
        return tuple(e for e in self.read_entries() if e.notebook.lower() == ref and e.version == version)


_TAG = re.compile(
    r"\[offline-kit(?: kit=(?P<kit>[0-9a-f]+))? notebook=(?P<notebook>[^\s@\]]+)@v(?P<version>\d+)"
    r" file=(?P<file>[^\s\]]+)(?: again=(?P<again>\d+))?\]"
)


@dataclass(frozen=True, kw_only=True)
class SubmissionTag:
    """What was submitted; the tag of a submission is unique."""

    notebook: str
    version: int
    file: str
    kit: str = ""  # id of the kit, or its first 12 digits; empty if unknown
    again: int = 0  # how often the same version and file was submitted before

    @property
    def as_text(self) -> str:
        """The tag as text."""
        kit = f" kit={self.kit[:12]}" if self.kit else ""
        repeat = f" again={self.again}" if self.again else ""
        version = f"{quote(self.notebook)}@v{self.version}"
        return f"[offline-kit{kit} notebook={version} file={quote(self.file)}{repeat}]"

    def is_same_version(self, other: "SubmissionTag | None") -> bool:
        """Tell whether the other tag is for the same version and file."""
        if other is None or self.notebook.lower() != other.notebook.lower():
            return False
        return (self.version, self.file) == (other.version, other.file)

    def filter_same_version(self, submissions: Iterable[Submission]) -> tuple[Submission, ...]:
        """Return the submissions of the same version and file, in order."""
        return tuple(item for item in submissions if self.is_same_version(parse_tag(item.message)))

    def find_exact(self, submissions: Iterable[Submission]) -> Submission | None:
        """Return the submission with exactly this tag, the kit aside; None if there is none."""
        same_version = self.filter_same_version(submissions)
        return next((item for item in same_version if count_repeats(item) == self.again), None)


def parse_tag(message: str) -> SubmissionTag | None:
    """Return the tag in a description, None if there is none."""
    match = _TAG.search(message)
    if match is None:
        return None
    return SubmissionTag(
        notebook=unquote(match["notebook"]),
        version=int(match["version"]),
        file=unquote(match["file"]),
        kit=match["kit"] or "",
        again=int(match["again"] or 0),
    )


def build_message(message: str, tag: SubmissionTag) -> str:
    """Return the description: the user's message on one line, then the tag."""
    return f"{' '.join(message.split())} {tag.as_text}".strip()


def count_repeats(submission: Submission) -> int:
    """Return the number of earlier submissions that a tag counts; 0 without a tag."""
    tag = parse_tag(submission.message)
    return tag.again if tag else 0
