"""What a local Kaggle was asked, for tests that count requests and bytes."""

import threading
from collections.abc import Callable

from offline_kit.local_kaggle.server import LocalKaggleServer, TrafficEvent


class Traffic:
    """The requests of a server that came to their end, and whoever else listens to it."""

    def __init__(self, server: LocalKaggleServer) -> None:
        self._lock = threading.Lock()
        self._events: list[TrafficEvent] = []
        self.listeners: list[Callable[[TrafficEvent], None]] = server.listeners
        self.listeners.append(self._keep)

    def _keep(self, event: TrafficEvent) -> None:
        if event.phase in ("ended", "refused"):
            with self._lock:
                self._events.append(event)

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
