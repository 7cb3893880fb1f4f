"""Metadata of a large wheel on a server, read with HTTP range requests instead of downloading the wheel."""

import io
import zipfile

from offline_kit.core import http
from offline_kit.core.errors import OfflineKitError
from offline_kit.packages import distribution_metadata

TAIL = 1 << 16
"""Bytes of the end to request first: a zip's central directory is there."""
LARGE = 200_000
"""Bytes from which a wheel is read in ranges; a smaller one is downloaded, since it is most likely needed anyway."""


def read_remote_metadata(
    url: str, size: int, *, settings: http.ConnectionSettings, patience: http.RetryPolicy
) -> bytes | None:
    """Return METADATA of the wheel at an http address; None if that needs the whole file.

    `size` is the file's in bytes. The wheel's hash is not checked here, but when it is downloaded.
    """
    if not url.startswith("http") or size < LARGE:
        return None
    try:
        with zipfile.ZipFile(_RangedFile(url, size, settings, patience)) as archive:
            member = distribution_metadata.find_dist_info_member(archive.namelist(), "METADATA")
            return archive.read(member) if member else None
    except (OfflineKitError, zipfile.BadZipFile, OSError):
        # Not every index supports ranges (RFC 9110: a server MAY ignore them). Downloading the whole file then
        # works, or reports what is wrong.
        return None


class _RangedFile(io.RawIOBase):
    """A file at a URL of which only the ranges that are read are requested."""

    def __init__(
        self, url: str, size: int, settings: http.ConnectionSettings, patience: http.RetryPolicy
    ) -> None:
        self._url, self._size, self._settings, self._patience = url, size, settings, patience
        self._position = 0
        self._ranges: list[tuple[int, bytes]] = []
        # A zip's end record is 22 bytes long, and more only with a comment, which wheels do not have.
        self._fetch_range(max(0, size - TAIL), size)

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, start + offset)
        return self._position

    def read(self, size: int = -1) -> bytes:
        end = self._size if size < 0 else min(self._size, self._position + size)
        if end <= self._position:
            return b""
        data = self._find_range(self._position, end)
        if data is None:
            self._fetch_range(self._position, min(self._size, max(end, self._position + TAIL)))
            data = self._find_range(self._position, end) or b""
        self._position += len(data)
        return data

    def _find_range(self, start: int, end: int) -> bytes | None:
        for first, data in self._ranges:
            if first <= start and end <= first + len(data):
                return data[start - first : end - first]
        return None

    def _fetch_range(self, start: int, end: int) -> None:
        # Uncompressed: ranges count the bytes of the encoded content (RFC 9110, 14.2).
        headers = {"Range": f"bytes={start}-{end - 1}", "Accept-Encoding": "identity"}
        answer = http.fetch_answer(
            self._url, settings=self._settings, headers=headers, patience=self._patience
        )
        if answer is None:
            raise OSError("the file no longer exists")
        # A server may answer a range request with the whole file and 200.
        is_whole_file = len(answer.content) == self._size
        if not is_whole_file and len(answer.content) != end - start:
            raise OSError("the server sent another range than requested")
        self._ranges.append((0 if is_whole_file else start, answer.content))
