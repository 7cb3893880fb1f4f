"""Metadata out of a large wheel that stays where it is: the few ranges of bytes that hold it are fetched."""

import io
import zipfile

from offline_kit.core import http
from offline_kit.core.errors import OfflineKitError
from offline_kit.packages import distribution_metadata

TAIL = 1 << 16
"""Bytes of the end that are asked for first: a zip's table of contents stands there."""
LARGE = 200_000
"""Bytes from which a wheel is read in pieces; a smaller one is fetched whole and most likely needed anyway."""


def metadata_of(url: str, size: int, *, settings: http.Connection, patience: http.Patience) -> bytes | None:
    """Return METADATA of the wheel at an http address; None where that needs the whole file.

    `size` is the file's in bytes. The wheel's hash cannot be checked this way, which is done when it is
    fetched to be used.
    """
    if not url.startswith("http") or size < LARGE:
        return None
    try:
        with zipfile.ZipFile(_Ranges(url, size, settings, patience)) as archive:
            member = distribution_metadata.dist_info_member(archive.namelist(), "METADATA")
            return archive.read(member) if member else None
    except (OfflineKitError, zipfile.BadZipFile, OSError):
        # A server without ranges, or one that answers them oddly: the plain way says what is wrong.
        return None


class _Ranges(io.RawIOBase):
    """A file at a URL, read as far as somebody looks."""

    def __init__(self, url: str, size: int, settings: http.Connection, patience: http.Patience) -> None:
        self._url, self._size, self._settings, self._patience = url, size, settings, patience
        self._place = 0
        self._held: list[tuple[int, bytes]] = []
        self._fetch(max(0, size - TAIL), size)

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        self._place = max(0, start + offset)
        return self._place

    def read(self, size: int = -1) -> bytes:
        end = self._size if size < 0 else min(self._size, self._place + size)
        if end <= self._place:
            return b""
        data = self._find(self._place, end)
        if data is None:
            self._fetch(self._place, min(self._size, max(end, self._place + TAIL)))
            data = self._find(self._place, end) or b""
        self._place += len(data)
        return data

    def _find(self, start: int, end: int) -> bytes | None:
        for first, data in self._held:
            if first <= start and end <= first + len(data):
                return data[start - first : end - first]
        return None

    def _fetch(self, start: int, end: int) -> None:
        headers = {"Range": f"bytes={start}-{end - 1}", "Accept-Encoding": "identity"}
        answer = http.ask(self._url, settings=self._settings, headers=headers, patience=self._patience)
        if answer is None:
            raise OSError("it is gone")
        whole = len(answer.content) == self._size
        if not whole and len(answer.content) != end - start:
            raise OSError("the server sent another range than was asked for")
        self._held.append((0 if whole else start, answer.content))
