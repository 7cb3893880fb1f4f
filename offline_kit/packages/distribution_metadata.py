"""The metadata of a wheel or sdist, read without unpacking it to disk, or with HTTP range requests."""

import io
import os
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable
from email.parser import BytesHeaderParser
from pathlib import Path

from offline_kit.core import http
from offline_kit.core.errors import OfflineKitError, ProjectError

_STATIC_SINCE = (2, 2)  # from this Metadata-Version on, an sdist lists in Dynamic what only a build can tell
_RESOLVER_FIELDS = frozenset({"requires-dist", "provides-extra", "requires-python", "version"})
_TAIL = 1 << 16  # bytes of the end to request first: a zip's central directory is there
LARGE = 200_000
"""Bytes from which a wheel is read in ranges; a smaller one is downloaded, since it is most likely needed anyway."""


def list_metadata_values(metadata: bytes, field: str) -> list[str]:
    """Return all values of a field that METADATA or PKG-INFO may have several times, like Requires-Dist."""
    return [str(value) for value in BytesHeaderParser().parsebytes(metadata).get_all(field) or ()]


def find_dist_info_member(names: Iterable[str], name: str) -> str | None:
    """Return the path of `name` ("METADATA") in a wheel's own dist-info; None if it has none."""
    # Vendored distributions are deeper than the top: setuptools has its own in setuptools/_vendor/.
    ending = f".dist-info/{name}"
    return next((member for member in names if member.endswith(ending) and member.count("/") == 1), None)


def read_metadata(path: Path, filename: str) -> bytes | None:
    """Return METADATA of a wheel, or PKG-INFO of an sdist if it is static (PEP 643), else None.

    `filename` is the original name: `path` may be a blob of the cache. Raises ProjectError for a damaged archive
    and for a wheel without METADATA.
    """
    raw = None
    try:
        if filename.endswith((".whl", ".zip")):
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
                if filename.endswith(".whl"):
                    member = find_dist_info_member(names, "METADATA")
                else:
                    member = next(filter(_is_pkg_info, names), None)
                raw = archive.read(member) if member else None
        else:
            with tarfile.open(path) as tar:
                # One pass: a .tar.gz has no table of contents, and PKG-INFO is near its start.
                found = next((member for member in tar if _is_pkg_info(member.name)), None)
                stream = tar.extractfile(found) if found else None
                raw = stream.read() if stream else None
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, OSError) as error:
        raise ProjectError(
            f"'{filename}' cannot be read: {error}",
            code="archive-unreadable",
            hint="it is damaged on its index; use another version",
        ) from error
    if filename.endswith(".whl"):
        if raw is None:
            raise ProjectError(
                f"'{filename}' is not a wheel: it has no METADATA",
                code="wheel-invalid",
                hint="use another version of it",
            )
        return raw
    return raw if raw is not None and _is_static(raw) else None


def _is_pkg_info(name: str) -> bool:
    # "tar ." writes names with a leading "./".
    return name.removeprefix("./").count("/") == 1 and name.endswith("/PKG-INFO")


def _is_static(metadata: bytes) -> bool:
    """Whether every wheel built from an sdist will have the dependencies in its PKG-INFO (PEP 643)."""
    headers = BytesHeaderParser().parsebytes(metadata)
    numbers = str(headers.get("Metadata-Version", "")).split(".")
    if not all(number.isdigit() for number in numbers) or tuple(map(int, numbers)) < _STATIC_SINCE:
        return False
    # Field names are case-insensitive, as in email headers.
    dynamic = {str(value).strip().lower() for value in headers.get_all("Dynamic") or ()}
    return not dynamic & _RESOLVER_FIELDS


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
            member = find_dist_info_member(archive.namelist(), "METADATA")
            return archive.read(member) if member else None
    except (OfflineKitError, zipfile.BadZipFile, OSError):
        # Not every index supports ranges (RFC 9110: a server MAY ignore them). Downloading the whole file then
        # works, or reports what is wrong.
        return None


class _RangedFile(io.FileIO):
    """A file at a URL of which only the ranges that are read are requested; the rest are holes of a sparse file."""

    def __init__(
        self, url: str, size: int, settings: http.ConnectionSettings, patience: http.RetryPolicy
    ) -> None:
        with tempfile.TemporaryFile() as file:
            super().__init__(os.dup(file.fileno()), "r+b")
        self.truncate(size)
        self._url, self._size, self._settings, self._patience = url, size, settings, patience
        self._held: list[tuple[int, int]] = []
        # A zip's end record is 22 bytes long, and more only with a comment, which wheels do not have.
        self._hold(max(0, size - _TAIL), size)

    def read(self, size: int | None = -1, /) -> bytes:
        start = self.tell()
        end = self._size if size is None or size < 0 else min(self._size, start + size)
        if start < end and not any(first <= start and end <= last for first, last in self._held):
            self._hold(start, min(self._size, max(end, start + _TAIL)))
        return super().read(size)

    def _hold(self, start: int, end: int) -> None:
        # Uncompressed: ranges count the bytes of the encoded content (RFC 9110, 14.2).
        headers = {"Range": f"bytes={start}-{end - 1}", "Accept-Encoding": "identity"}
        answer = http.fetch_answer(
            self._url, settings=self._settings, headers=headers, patience=self._patience
        )
        # A server may answer a range request with the whole file and 200.
        if answer and len(answer.content) == self._size:
            start, end = 0, self._size
        elif answer is None or len(answer.content) != end - start:
            raise OSError("the server sent another range than requested")
        position = self.tell()
        self.seek(start)
        self.write(answer.content)
        self.seek(position)
        self._held.append((start, end))
