"""The mark in a submission's description, by which it is known again in Kaggle's list."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import quote, unquote

from offline_kit.kaggle.client.api_types import Submission

LONGEST_MESSAGE = 250
"""Characters of a person's own words: a list that cut the description would cut the mark."""
_SHORT = 12
_FORM = re.compile(
    r"\[offline-kit(?: kit=(?P<kit>[0-9a-f]+))? notebook=(?P<notebook>[^\s@\]]+)@v(?P<version>\d+)"
    r" file=(?P<file>[^\s\]]+)(?: again=(?P<again>\d+))?\]"
)


@dataclass(frozen=True, kw_only=True)
class SubmissionTag:
    """What was submitted; no two submissions have the same mark."""

    notebook: str
    """"owner/slug"."""
    version: int
    """Its version."""
    file: str
    """Its output that is scored."""
    kit: str = ""
    """Id of the kit, or its beginning; empty where it is not known."""
    again: int = 0
    """0 at first, then how often the same was submitted before."""

    @property
    def as_text(self) -> str:
        """The mark as it is written."""
        kit = f" kit={self.kit[:_SHORT]}" if self.kit else ""
        repeat = f" again={self.again}" if self.again else ""
        version = f"{quote(self.notebook)}@v{self.version}"
        return f"[offline-kit{kit} notebook={version} file={quote(self.file)}{repeat}]"

    def is_same_version(self, other_tag: "SubmissionTag | None") -> bool:
        """Whether the same version and file was submitted, for the first time or again."""
        return other_tag is not None and self._version_key() == other_tag._version_key()

    def _version_key(self) -> tuple[str, int, str]:
        return self.notebook.lower(), self.version, self.file


def parse_tag(message: str) -> SubmissionTag | None:
    """Return the mark in a description, None where there is none of ours."""
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
    """Return the description: a person's words on one line, then the mark."""
    return f"{' '.join(message.split())} {mark.as_text}".strip()


def filter_same_version(mark: SubmissionTag, submissions: Iterable[Submission]) -> tuple[Submission, ...]:
    """Return the submissions of the same version and file, in their order."""
    return tuple(
        submission for submission in submissions if mark.is_same_version(parse_tag(submission.message))
    )


def find_exact(text: str, submissions: Iterable[Submission]) -> Submission | None:
    """Return the submission that bears the mark in a text, its `again` included; None where none does."""
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
