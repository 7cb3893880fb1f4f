"""The metadata of a wheel or sdist, read without unpacking it to disk."""

import tarfile
import zipfile
from collections.abc import Iterable
from email.parser import BytesHeaderParser
from pathlib import Path

from offline_kit.core.errors import ProjectError

_STATIC_SINCE = (2, 2)
"""From this Metadata-Version on, an sdist lists in Dynamic what only a build can tell (PEP 643)."""
_RESOLVER_FIELDS = frozenset({"requires-dist", "provides-extra", "requires-python", "version"})


def read_metadata(path: Path, filename: str) -> bytes | None:
    """Return METADATA of a wheel, or PKG-INFO of an sdist if it is static (PEP 643), else None.

    `filename` is the original name: `path` may be a blob of the cache. Raises ProjectError for a damaged archive
    and for a wheel without METADATA.
    """
    try:
        if filename.endswith(".whl"):
            return _read_wheel(path, filename)
        raw = _read_zip_sdist(path) if filename.endswith(".zip") else _read_tar_sdist(path)
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, OSError) as error:
        raise ProjectError(
            f"'{filename}' cannot be read: {error}",
            code="archive-unreadable",
            hint="it is damaged on its index; use another version",
        ) from error
    return raw if raw is not None and is_static_metadata(raw) else None


def find_dist_info_member(names: Iterable[str], name: str) -> str | None:
    """Return the path of `name` ("METADATA") in a wheel's own dist-info; None if it has none.

    Wheels may also hold the dist-info of distributions that they vendor, deeper down and before their own.
    """
    # Vendored distributions are deeper than the top: setuptools has its own in setuptools/_vendor/.
    ending = f".dist-info/{name}"
    return next((member for member in names if member.endswith(ending) and member.count("/") == 1), None)


def list_metadata_values(metadata: bytes, field: str) -> list[str]:
    """Return all values of a field that METADATA or PKG-INFO may have several times, like Requires-Dist."""
    return [str(value) for value in BytesHeaderParser().parsebytes(metadata).get_all(field) or ()]


def is_static_metadata(metadata: bytes) -> bool:
    """Whether every wheel built from an sdist will have the dependencies in its PKG-INFO (PEP 643)."""
    headers = BytesHeaderParser().parsebytes(metadata)
    numbers = str(headers.get("Metadata-Version", "")).split(".")
    if not all(number.isdigit() for number in numbers) or tuple(map(int, numbers)) < _STATIC_SINCE:
        return False
    # Field names are case-insensitive, as in email headers.
    dynamic = {str(value).strip().lower() for value in headers.get_all("Dynamic") or ()}
    return not dynamic & _RESOLVER_FIELDS


def _read_wheel(path: Path, filename: str) -> bytes:
    with zipfile.ZipFile(path) as archive:
        if member := find_dist_info_member(archive.namelist(), "METADATA"):
            return archive.read(member)
    raise ProjectError(
        f"'{filename}' is not a wheel: it has no METADATA",
        code="wheel-invalid",
        hint="use another version of it",
    )


def _read_zip_sdist(path: Path) -> bytes | None:
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if _is_pkg_info(name)]
        return archive.read(names[0]) if names else None


def _read_tar_sdist(path: Path) -> bytes | None:
    with tarfile.open(path) as archive:
        # One pass: a .tar.gz has no table of contents, and PKG-INFO is near its start.
        for member in archive:
            if _is_pkg_info(member.name) and (stream := archive.extractfile(member)):
                return stream.read()
    return None


def _is_pkg_info(name: str) -> bool:
    # "tar ." writes names with a leading "./".
    return name.removeprefix("./").count("/") == 1 and name.endswith("/PKG-INFO")
