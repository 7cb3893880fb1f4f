"""The ledger of submissions and their scores: an append-only file of JSON lines.

A later line with the same key (its number, its score) replaces the earlier one when read.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from offline_kit.core.files import append_line, utc_timestamp
from offline_kit.kaggle.client.api_types import Submission


@dataclass(frozen=True, kw_only=True)
class LedgerEntry:
    """One submission."""

    competition: str
    notebook: str
    """"owner/slug"."""
    version: int
    file: str
    message: str
    """The description on Kaggle, including our tag; unique."""
    submission: int = 0
    """Kaggle's number; 0 while unknown."""
    kit: str = ""
    """Id of the kit; empty if unknown."""
    parts: Mapping[str, str] = field(default_factory=dict)
    """Part ids by part name."""
    commit: str = ""
    """The project's git commit, marked if there were uncommitted changes; empty for none."""
    run_seconds: float = 0.0
    """Duration of the version's run; 0 if unknown."""
    place: str = "Kaggle"
    """"Kaggle", or "LOCAL": such scores are worth nothing elsewhere."""
    at: str = ""
    """When it was submitted: ISO 8601 in UTC."""
    state: str = "pending"
    """"pending", "complete" or "error", as last seen."""
    error: str = ""
    score: str = ""
    """Public score as Kaggle prints it; empty for none yet."""
    private_score: str = ""
    scored_seconds: float = 0.0
    """From the submission to its score; 0 if not observed."""


_FIELD_NAMES = {each.name for each in fields(LedgerEntry)}
_NEEDED = {
    each.name for each in fields(LedgerEntry) if each.default is MISSING and each.default_factory is MISSING
}


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
        old = next(
            (entry for entry in reversed(self.read_entries()) if _is_same_submission(entry, submission)), None
        )
        if old is None:
            return None
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

    def read_entries(self) -> tuple[LedgerEntry, ...]:
        """Return all submissions, oldest first, each with its latest state; invalid lines are skipped."""
        try:
            lines = self.path.read_bytes().splitlines()
        except FileNotFoundError:
            return ()
        by_key: dict[tuple[str, str, str], LedgerEntry] = {}
        for entry in map(_parse_entry, lines):
            if entry:
                by_key[entry.place, entry.competition, entry.message] = entry
        return tuple(by_key.values())

    def find_by_version(self, notebook: str, version: int) -> tuple[LedgerEntry, ...]:
        """Return the submissions of a notebook version, oldest first."""
        ref = notebook.lower()
        return tuple(e for e in self.read_entries() if e.notebook.lower() == ref and e.version == version)

    def find_latest(self, competition: str = "") -> LedgerEntry | None:
        """Return the latest submission (to a competition, if given), None if there is none."""
        entries = [e for e in self.read_entries() if not competition or e.competition == competition]
        return entries[-1] if entries else None


def _is_same_submission(entry: LedgerEntry, submission: Submission) -> bool:
    # The number alone is not enough: a new local Kaggle counts from 1 again.
    mark = parse_tag(submission.message)
    is_same_tag = entry.message == submission.message or (
        mark is not None and mark == parse_tag(entry.message)
    )
    return is_same_tag and entry.submission in (0, submission.ref)


def _parse_entry(line: bytes) -> LedgerEntry | None:
    try:
        raw: Any = json.loads(line)
        fields_found = {name: value for name, value in raw.items() if name in _FIELD_NAMES}
        return LedgerEntry(**fields_found) if fields_found.keys() >= _NEEDED else None
    except (ValueError, AttributeError):
        return None


LONGEST_MESSAGE = 250
"""Characters of the user's message: a truncated description would lose the tag."""
_SHORT = 12
_FORM = re.compile(
    r"\[offline-kit(?: kit=(?P<kit>[0-9a-f]+))? notebook=(?P<notebook>[^\s@\]]+)@v(?P<version>\d+)"
    r" file=(?P<file>[^\s\]]+)(?: again=(?P<again>\d+))?\]"
)


@dataclass(frozen=True, kw_only=True)
class SubmissionTag:
    """What was submitted; the tag of a submission is unique."""

    notebook: str
    """"owner/slug"."""
    version: int
    file: str
    kit: str = ""
    """Id of the kit, or its first 12 digits; empty if unknown."""
    again: int = 0
    """How often the same version and file was submitted before."""

    @property
    def as_text(self) -> str:
        """The tag as text."""
        kit = f" kit={self.kit[:_SHORT]}" if self.kit else ""
        repeat = f" again={self.again}" if self.again else ""
        version = f"{quote(self.notebook)}@v{self.version}"
        return f"[offline-kit{kit} notebook={version} file={quote(self.file)}{repeat}]"

    def is_same_version(self, other_tag: "SubmissionTag | None") -> bool:
        """Tell whether the other tag is for the same version and file."""
        return other_tag is not None and self._version_key() == other_tag._version_key()

    def _version_key(self) -> tuple[str, int, str]:
        return self.notebook.lower(), self.version, self.file


def parse_tag(message: str) -> SubmissionTag | None:
    """Return the tag in a description, None if there is none."""
    match = _FORM.search(message)
    if match is None:
        return None
    return SubmissionTag(
        notebook=unquote(match["notebook"]),
        version=int(match["version"]),
        file=unquote(match["file"]),
        kit=match["kit"] or "",
        again=int(match["again"] or 0),
    )


def build_message(message: str, mark: SubmissionTag) -> str:
    """Return the description: the user's message on one line, then the tag."""
    return f"{' '.join(message.split())} {mark.as_text}".strip()


def filter_same_version(mark: SubmissionTag, submissions: Iterable[Submission]) -> tuple[Submission, ...]:
    """Return the submissions of the same version and file, in order."""
    return tuple(
        submission for submission in submissions if mark.is_same_version(parse_tag(submission.message))
    )


def find_exact(text: str, submissions: Iterable[Submission]) -> Submission | None:
    """Return the submission with exactly the tag of a text; None if there is none."""
    mark = parse_tag(text)
    return (
        next(
            (
                submission
                for submission in filter_same_version(mark, submissions)
                if _repeat_count(submission) == mark.again
            ),
            None,
        )
        if mark
        else None
    )


def _repeat_count(submission: Submission) -> int | None:
    mark = parse_tag(submission.message)
    return mark.again if mark else None
