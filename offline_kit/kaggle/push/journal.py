"""What we were about to do at Kaggle, written down before it is done.

Creating and adding a version cannot be asked back by an id of ours: when the answer is lost, or we are
killed, only this journal says that there may have been an effect, and what stood there before it.
"""

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

from offline_kit.core.files import append_line


class Phase(StrEnum):
    """How far an effect is."""

    BEGUN = "begun"
    """It may be sent, or have been sent: whether it happened is unknown."""
    ANSWERED = "answered"
    """Kaggle said yes; it may not show yet."""
    DONE = "done"
    """It was seen there."""
    REFUSED = "refused"
    """Kaggle said no."""
    LOST = "lost"
    """It was waited for and never came."""
    VOID = "void"
    """It happened, but not as it was meant: what came of it does not count."""


_OPEN = frozenset({Phase.BEGUN, Phase.ANSWERED})


@dataclass(frozen=True, kw_only=True)
class Effect:
    """Something that is done once."""

    action: str
    """"create" or "version" of a dataset, "submit" of a notebook, ..."""
    target: str
    """What it is done to: "owner/slug", or "competition:owner/slug@v4"."""
    before: int
    """The newest number there beforehand, of versions or of submissions; 0 for none."""
    content: str
    """By what it is recognised: the id of the part that is sent, the mark of a submission."""


@dataclass(frozen=True, kw_only=True)
class JournalEntry:
    """One line of the journal."""

    effect: Effect
    """What it is about."""
    phase: Phase
    """How far that is."""
    at: float
    """Seconds since the epoch."""
    server_message: str = ""
    """Kaggle's words, where they are needed to tell how it ended."""


class Journal:
    """An append-only file of JSON lines; each is on the disk before the call returns."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append_entry(self, effect: Effect, phase: Phase, server_message: str = "") -> None:
        """Add a line, with Kaggle's words where there are any, and have it on the disk."""
        words = {"said": server_message} if server_message else {}
        line = {**asdict(effect), "phase": phase.value, "at": round(time.time(), 3), **words}
        append_line(self.path, json.dumps(line))

    def read_entries(self) -> tuple[JournalEntry, ...]:
        """Return all lines in their order; those that a crash cut short are left out."""
        try:
            lines = self.path.read_bytes().splitlines()
        except FileNotFoundError:
            return ()
        return tuple(entry for entry in map(_parse_entry, lines) if entry)

    def find_open_entry(self, target: str) -> JournalEntry | None:
        """Return the last effect on a target if it is not known how it ended."""
        last = next((entry for entry in reversed(self.read_entries()) if entry.effect.target == target), None)
        return last if last and last.phase in _OPEN else None


def _parse_entry(line: bytes) -> JournalEntry | None:
    try:
        raw = json.loads(line)
        server_message = str(raw.get("said") or "")
        return JournalEntry(
            effect=_parse_effect(raw),
            phase=Phase(raw["phase"]),
            at=float(raw["at"]),
            server_message=server_message,
        )
    except (ValueError, KeyError, TypeError):
        return None


def _parse_effect(raw: Mapping[str, object]) -> Effect:
    return Effect(
        action=str(raw["action"]),
        target=str(raw["target"]),
        before=int(str(raw["before"])),
        content=str(raw["content"]),
    )
