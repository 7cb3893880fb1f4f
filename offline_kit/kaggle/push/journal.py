"""What we were about to do at Kaggle, written down before it is done.

Creating and adding a version cannot be asked back by an id of ours: when the answer is lost, or we are
killed, only this journal says that there may have been an effect, and what stood there before it.
"""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

from offline_kit.core import files
from offline_kit.core.errors import OutsideError
from offline_kit.core.files import append_line
from offline_kit.core.report import Reporter
from offline_kit.core.retry import PATIENT, RetryPolicy
from offline_kit.kaggle.client.api_types import KaggleApi, NoResponseError, RefusedError, UnreachableError
from offline_kit.kaggle.client.uploads import Uploader
from offline_kit.kaggle.push.poll_policy import DEFAULT_POLL, PollPolicy


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
    phase: Phase
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


_T = TypeVar("_T")


def run_once(
    journal: Journal,
    effect: Effect,
    send: Callable[[], _T],
    find_effect: Callable[[], _T | None],
    description: str,
    report: Reporter,
) -> _T:
    """Return the answer to what is sent, or what `find_effect` finds of it where the answer is lost.

    Then the journal says that it was answered. Raises Kaggle's refusal, and the trouble where nothing is
    found: both are in the journal. Where nobody could look, the journal leaves it open for the next run.
    """
    journal.append_entry(effect, Phase.BEGUN)
    try:
        answer = send()
    except UnreachableError:
        journal.append_entry(effect, Phase.LOST)
        raise
    except (RefusedError, NoResponseError) as trouble:
        if isinstance(trouble, RefusedError) and not trouble.is_server_error:
            journal.append_entry(effect, Phase.REFUSED)
            raise
        report.warn(f"no answer about {description}: looking whether it is there all the same")
        result = find_effect()
        if result is None:
            journal.append_entry(effect, Phase.LOST)
            raise
        answer = result
    journal.append_entry(effect, Phase.ANSWERED)
    return answer


def recover_interrupted(
    journal: Journal,
    target: str,
    find_effect: Callable[[Effect], _T | None],
    report: Reporter,
    *,
    processing: float = 0.0,
) -> _T | None:
    """Return what `find_effect` finds of the effect that an earlier run left open; None where there is none.

    How it ended is in the journal then. Raises OutsideError where Kaggle said yes less than `processing`
    seconds ago and still shows nothing: it may come yet.
    """
    entry = journal.find_open_entry(target)
    if entry is None:
        return None
    name = target.rpartition(":")[2]
    report.note(f"an earlier push of '{name}' was interrupted; looking what became of it")
    result = find_effect(entry.effect)
    if result is None and entry.phase is Phase.ANSWERED and time.time() - entry.at < processing:
        raise OutsideError(
            f"Kaggle took the push of '{name}', and does not show it yet",
            code="push-not-visible",
            hint="run the same command again later: it looks for it first, and nothing is sent twice",
        )
    journal.append_entry(entry.effect, Phase.LOST if result is None else Phase.DONE)
    return result


class LastSeenStore:
    """Small facts by name; whatever is lost or damaged is looked up again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def save_facts(self, name: str, facts: dict[str, Any]) -> None:
        """Remember facts that JSON can hold instead of what had this name."""
        files.write_atomic(self._folder / f"{name}.json", json.dumps(facts, indent=2, sort_keys=True) + "\n")

    def load_facts(self, name: str) -> dict[str, Any] | None:
        """Return what was kept under a name, None where there is nothing."""
        try:
            facts = json.loads((self._folder / f"{name}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return facts if isinstance(facts, dict) else None


@dataclass(frozen=True, kw_only=True)
class PushSettings:
    """How a push goes about it."""

    state_folder: Path
    """Folder for the journal and for uploads under way; one for each account."""
    poll_policy: PollPolicy = DEFAULT_POLL
    retry_policy: RetryPolicy = PATIENT
    """How long to go on with an upload that fails."""

    @property
    def effect_journal(self) -> Journal:
        """The journal of effects."""
        return Journal(self.state_folder / "jsonl")

    def create_uploader(self, kaggle: KaggleApi, ref: str, *, kind: str = "DATASET") -> Uploader:
        """Return what uploads for one dataset, or one variation of a "MODEL"."""
        state = self.state_folder / "uploads" / ref.lower().replace("/", "--")
        return Uploader(kaggle, state, patience=self.retry_policy, kind=kind)
