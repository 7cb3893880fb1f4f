"""Links to files: whoever has one may fetch the file, for a while, without an account."""

import secrets
import threading
import time
import urllib.parse
from pathlib import Path

from offline_kit.local_kaggle.wire import ServiceRefusal


class DownloadLinks:
    """Links of one run of the server; those of an earlier run have expired."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._lock = threading.Lock()
        self._given: dict[str, tuple[Path, float]] = {}

    def create_link(self, base: str, path: Path, name: str) -> str:
        """Return a link to the file; it ends in `name`, after which clients call what they fetched."""
        word = secrets.token_hex(12)
        with self._lock:
            self._given[word] = (path, time.monotonic() + self.seconds)
        return f"{base}/files/{word}/{urllib.parse.quote(name)}"

    def find_file(self, word: str) -> Path:
        """Return the file behind a link; an expired or unknown one is refused with 403."""
        with self._lock:
            path, until = self._given.get(word, (Path(), 0.0))
        if time.monotonic() >= until or not path.is_file():
            raise ServiceRefusal(403, "The link has expired")
        return path
