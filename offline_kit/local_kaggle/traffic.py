"""What came over the wire, one line each, without any secret: for tests, and for a person who wonders."""

import json
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class TrafficEvent:
    """A point in the life of one request."""

    phase: str
    """"begun", "bytes" (some of an upload's body arrived), "done" (the effect is there, the answer not sent),
    "ended" (answered) or "refused" (not for this server)."""
    name: str  # "package.Service/Method", "PUT", "GET", or the host that was asked for
    received: int = 0  # bytes of the body so far
    sent: int = 0  # bytes of the answer
    status: int = 0


class TrafficLog:
    """The log of a server, `traffic.jsonl` in its folder, and whoever listens in its process."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.listeners: list[Callable[[TrafficEvent], None]] = []
        self._lock = threading.Lock()
        self._events: list[TrafficEvent] = []

    def record_event(self, event: TrafficEvent) -> None:
        """Tell listeners; keep and log it if a request has come to its end."""
        for listener in tuple(self.listeners):
            listener(event)
        if event.phase in ("ended", "refused"):
            with self._lock, self.path.open("a", encoding="utf-8") as log:
                self._events.append(event)
                log.write(json.dumps({"time": round(time.time(), 3), **asdict(event)}) + "\n")

    def ended_requests(self, name: str = "") -> list[TrafficEvent]:
        """Return the requests answered so far, all or those whose name ends in `name`."""
        with self._lock:
            return [event for event in self._events if event.phase == "ended" and event.name.endswith(name)]

    def refused_hosts(self) -> list[str]:
        """Return the hosts other than this server that were asked for; nothing was sent to them."""
        with self._lock:
            return [event.name for event in self._events if event.phase == "refused"]

    def uploaded_bytes(self) -> int:
        """Return how many bytes of uploads arrived so far."""
        return sum(event.received for event in self.ended_requests("PUT"))
