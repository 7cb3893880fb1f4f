"""A write-ahead journal: run non-idempotent API calls at most once.

Kaggle's API has no idempotency key: if the answer to a call is lost, or this process is
killed, only the journal shows that there may be an effect, and what the state before it was.
"""

import json
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

from offline_kit.core import files
from offline_kit.core.errors import OutsideError
from offline_kit.core.report import SILENT, Reporter
from offline_kit.kaggle.client.api_types import NoResponseError, RefusedError, UnreachableError
from offline_kit.kaggle.client.client import KaggleClient
from offline_kit.kaggle.push.poll_policy import DEFAULT_CLIENT, ClientSettings, PollPolicy

_T = TypeVar("_T")


class Phase(StrEnum):
    """The state of an effect."""

    BEGUN = "begun"  # it may have been sent; whether it happened is unknown
    ANSWERED = "answered"  # Kaggle accepted it; it may not be visible yet
    DONE = "done"  # it is visible
    REFUSED = "refused"  # Kaggle refused it
    LOST = "lost"  # it did not become visible in time
    VOID = "void"  # it happened, but its result is unusable


@dataclass(frozen=True, kw_only=True)
class Effect:
    """A call that must happen at most once."""

    action: str  # "create" or "version" of a dataset, "submit" of a notebook, ...
    target: str  # "owner/slug", or "competition:owner/slug@v4"
    before: int  # the newest version or submission number beforehand; 0 for none
    content: str  # what identifies it: the part's id, or the submission's tag


@dataclass(frozen=True, kw_only=True)
class JournalEntry:
    """One line of the journal."""

    effect: Effect
    phase: Phase
    at: float  # seconds since the epoch
    server_message: str = ""


class Journal:
    """An append-only file of JSON lines, each synced to disk."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append_entry(self, effect: Effect, phase: Phase, server_message: str = "") -> None:
        """Append a line, with Kaggle's message if there is one, and sync it to disk."""
        words = {"said": server_message} if server_message else {}
        line = {**asdict(effect), "phase": phase.value, "at": round(time.time(), 3), **words}
        files.append_line(self.path, json.dumps(line))

    def read_entries(self) -> tuple[JournalEntry, ...]:
        """Return all entries in order; lines that a crash truncated are skipped."""
        entries = []
        for raw in files.read_json_lines(self.path):
            with suppress(ValueError, KeyError, TypeError):
                effect = Effect(**{name: raw[name] for name in ("action", "target", "before", "content")})
                phase, message = Phase(raw["phase"]), raw.get("said", "")
                entries.append(JournalEntry(effect=effect, phase=phase, at=raw["at"], server_message=message))
        return tuple(entries)

    def find_open_entry(self, target: str) -> JournalEntry | None:
        """Return the last effect on a target if its result is unknown."""
        for entry in reversed(self.read_entries()):
            if entry.effect.target == target:
                return entry if entry.phase in (Phase.BEGUN, Phase.ANSWERED) else None
        return None


@dataclass(frozen=True, kw_only=True)
class PushContext:
    """What every step of a push needs."""

    kaggle: KaggleClient
    state_folder: Path  # folder for the journal, unfinished uploads and runs; one per account
    client: ClientSettings = DEFAULT_CLIENT
    report: Reporter = SILENT

    @property
    def journal(self) -> Journal:
        """The journal in the state folder."""
        return Journal(self.state_folder / "journal.jsonl")

    @property
    def poll(self) -> PollPolicy:
        """How long to wait, and how often to poll."""
        return self.client.poll

    @property
    def server_name(self) -> str:
        """The server as a person calls it: Kaggle or the local Kaggle."""
        return self.kaggle.fetch_account().server_name

    def runs_folder(self, ref: str) -> Path:
        """Return the folder for logs and outputs of a notebook's runs."""
        return self.state_folder / "runs" / ref.partition("/")[2]

    def save_facts(self, name: str, facts: dict[str, Any]) -> None:
        """Store facts (JSON values) for later runs, in a file of the state folder."""
        files.write_atomic(self.state_folder / name, json.dumps(facts, indent=2, sort_keys=True) + "\n")

    def load_facts(self, name: str) -> dict[str, Any]:
        """Return the facts of an earlier run; none if they are missing or damaged."""
        return files.read_json(self.state_folder / name)

    def run_once(
        self,
        effect: Effect,
        send: Callable[[], _T],
        find_effect: Callable[[], _T | None],
        description: str,
    ) -> _T:
        """Send a call and return its answer, or what `find_effect` returns if the answer is lost.

        The journal then has ANSWERED. Raises Kaggle's refusal, and the original error if no effect is
        found. If `find_effect` fails, the entry stays open for the next run.
        """
        self.journal.append_entry(effect, Phase.BEGUN)
        try:
            answer = send()
        except UnreachableError:
            self.journal.append_entry(effect, Phase.LOST)
            raise
        except (RefusedError, NoResponseError) as trouble:
            if isinstance(trouble, RefusedError) and not trouble.is_server_error:
                self.journal.append_entry(effect, Phase.REFUSED)
                raise
            self.report.warn(f"no answer about {description}: checking whether it happened")
            result = find_effect()
            if result is None:
                self.journal.append_entry(effect, Phase.LOST)
                raise
            answer = result
        self.journal.append_entry(effect, Phase.ANSWERED)
        return answer

    def recover_interrupted(
        self,
        target: str,
        find_effect: Callable[[Effect], _T | None],
        *,
        processing: float = 0.0,
        what: str = "push",
    ) -> _T | None:
        """Return what `find_effect` finds of the effect that an earlier run left open; None if there is none.

        The result is written to the journal. Raises OutsideError if Kaggle accepted the call less than `processing`
        seconds ago and its effect is not visible yet.
        """
        entry = self.journal.find_open_entry(target)
        if entry is None:
            return None
        name = target.rpartition(":")[2]
        self.report.note(f"an earlier {what} of '{name}' was interrupted; checking its state")
        result = find_effect(entry.effect)
        was_accepted = entry.phase is Phase.ANSWERED and not is_refusal(entry.server_message)
        if result is None and was_accepted and time.time() - entry.at < processing:
            raise build_unseen_error(what, name, entry.server_message)
        self.journal.append_entry(entry.effect, Phase.LOST if result is None else Phase.DONE)
        return result


def is_refusal(server_message: str) -> bool:
    """Tell whether the message of an answer without a number is a refusal."""
    return bool(server_message) and "success" not in server_message.lower()


def build_unseen_error(what: str, name: str, server_message: str = "") -> OutsideError:
    """Return the error for a "push" or "submission" that Kaggle accepted, and that is not visible in time."""
    return OutsideError(
        f"Kaggle accepted the {what} of '{name}', but does not show it yet",
        code="submission-not-visible" if what == "submission" else "push-not-visible",
        hint="run the same command again later: it first looks for it, and nothing is sent twice",
        details=(f"Kaggle's message: {server_message}",) if server_message else (),
    )
