"""Logs of notebook runs: told while they run, replayed to whoever follows, kept when they have ended."""

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from offline_kit.core import files
from offline_kit.local_kaggle.store import RecordStore

Key = tuple[str, ...]
Event = dict[str, Any]
"""`stream_name`, `time` (seconds since the run began) and `data`, as the service writes it."""
BEAT = 15.0
"""Seconds of silence after which a follower gets a sign of life."""


@dataclass
class _Live:
    began: float
    events: list[Event] = field(default_factory=list)
    ended: bool = False


class LiveLogs:
    """The logs of one local Kaggle; a key names a version."""

    def __init__(self, store: RecordStore) -> None:
        self.store = store
        self._news = threading.Condition()
        self._live: dict[Key, _Live] = {}

    def begin_log(self, key: Key) -> None:
        """Take in what a run says from now on; the clock of its log stands at 0."""
        with self._news:
            self._live[key] = _Live(began=self.store.current_time())

    def add_text(self, key: Key, text: str, *, at: float | None = None) -> None:
        """Add what a run said, now or at a second of its own; time never goes back."""
        with self._news:
            live = self._live[key]
            second = self.store.current_time() - live.began if at is None else at
            last = live.events[-1]["time"] if live.events else 0.0
            event = {"stream_name": "stdout", "time": round(max(second, last), 3), "data": text}
            live.events.append(event)
            self._news.notify_all()

    def end_log(self, key: Key) -> None:
        """Write the log of a run that has ended, and let its followers go."""
        with self._news:
            live = self._live.pop(key)
            live.ended = True
            if self.store.key_folder(*key).exists():  # else it was deleted meanwhile
                files.write_atomic(self.store.key_folder(*key) / "log.json", json.dumps(live.events))
            self._news.notify_all()

    def log_text(self, key: Key) -> str:
        """Return a log as far as it goes, the text of a JSON array; empty if nothing was said yet."""
        path = self.store.key_folder(*key) / "log.json"
        with self._news:
            live = self._live.get(key)
            if live:
                return json.dumps(live.events) if live.events else ""
        return path.read_text(encoding="utf-8") if path.is_file() else ""

    def follow_log(self, key: Key) -> Iterator[Event | None]:
        """Yield a log from its first event to the run's end; None if it was silent for a while."""
        position = 0
        with self._news:
            live = self._live.get(key)
        if not live:
            yield from json.loads(self.log_text(key) or "[]")
            return
        while True:
            with self._news:
                if len(live.events) == position and not live.ended:
                    self._news.wait(BEAT)
                new, ended = live.events[position:], live.ended
            position += len(new)
            yield from new or (() if ended else (None,))
            if ended:
                return
