"""What we were about to do at Kaggle, written down before it is done.

Creating and adding a version cannot be asked back by an id of ours: when the answer is lost, or we are
killed, only this journal says that there may have been an effect, and what stood there before it.
"""

import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

from offline_kit.files import disk_errors, locked


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


_OPEN = frozenset({Phase.BEGUN, Phase.ANSWERED})


@dataclass(frozen=True, kw_only=True)
class Effect:
    """Something that is done once."""

    action: str
    """"create" or "version"."""
    target: str
    """What it is done to: "owner/slug"."""
    before: int
    """The version number that was current beforehand; 0 for none."""
    content: str
    """Id of the part that is sent."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One line of the journal."""

    effect: Effect
    """What it is about."""
    phase: Phase
    """How far that is."""
    at: float
    """Seconds since the epoch."""


class Journal:
    """An append-only file of JSON lines; each is on the disk before the call returns."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, effect: Effect, phase: Phase) -> None:
        """Add a line and have it on the disk."""
        line = json.dumps({**asdict(effect), "phase": phase.value, "at": round(time.time(), 3)}) + "\n"
        with locked(self.path.with_suffix(".lock")), disk_errors(self.path.parent):
            new = not self.path.exists()
            with self.path.open("ab+") as stream:
                # A line that a crash cut short must not swallow this one.
                if stream.tell() and not _ends_whole(self.path):
                    line = "\n" + line
                stream.write(line.encode())
                stream.flush()
                os.fsync(stream.fileno())
            if new:
                _sync_folder(self.path.parent)

    def entries(self) -> tuple[Entry, ...]:
        """Return all lines in their order; those that a crash cut short are left out."""
        try:
            lines = self.path.read_bytes().splitlines()
        except FileNotFoundError:
            return ()
        return tuple(entry for entry in map(_entry, lines) if entry)

    def open(self, target: str) -> Entry | None:
        """Return the last effect on a target if it is not known how it ended."""
        last = next((entry for entry in reversed(self.entries()) if entry.effect.target == target), None)
        return last if last and last.phase in _OPEN else None


def _ends_whole(path: Path) -> bool:
    with path.open("rb") as stream:
        stream.seek(-1, os.SEEK_END)
        return stream.read(1) == b"\n"


def _entry(line: bytes) -> Entry | None:
    try:
        raw = json.loads(line)
        return Entry(effect=_effect(raw), phase=Phase(raw["phase"]), at=float(raw["at"]))
    except (ValueError, KeyError, TypeError):
        return None


def _effect(raw: Mapping[str, object]) -> Effect:
    return Effect(
        action=str(raw["action"]),
        target=str(raw["target"]),
        before=int(str(raw["before"])),
        content=str(raw["content"]),
    )


def _sync_folder(folder: Path) -> None:
    if not hasattr(os, "O_DIRECTORY"):
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
