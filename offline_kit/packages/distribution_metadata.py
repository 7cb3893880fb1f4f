"""The metadata of a wheel or sdist, read without unpacking it to disk."""

import tarfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from email.parser import BytesHeaderParser
from pathlib import Path
from typing import IO

from packaging.requirements import InvalidRequirement, Requirement

from offline_kit.core.errors import ProjectError

_STATIC_SINCE = (2, 2)  # from this Metadata-Version on, an sdist lists in Dynamic what only a build can tell
_RESOLVER_FIELDS = frozenset({"requires-dist", "provides-extra", "requires-python", "version"})


def list_metadata_values(metadata: bytes, field: str) -> list[str]:
    """Return all values of a field that METADATA or PKG-INFO may have several times, like Requires-Dist."""
    return [str(value) for value in BytesHeaderParser().parsebytes(metadata).get_all(field) or ()]


def read_requirements(path: Path, filename: str) -> list[str]:
    """Return what a wheel requires, as lines; raises as `read_metadata`."""
    return list_metadata_values(read_metadata(path, filename) or b"", "Requires-Dist")


def parse_requirements(lines: Iterable[str], environment: Mapping[str, str]) -> Iterator[Requirement]:
    """Yield the requirements that count in an environment, without those of extras and lines from before PEP 508."""
    for line in lines:
        with suppress(InvalidRequirement):
            requirement = Requirement(line)
            # "extra" must be defined, or a marker with it cannot be evaluated (PEP 508).
            if requirement.marker is None or requirement.marker.evaluate({**environment, "extra": ""}):
                yield requirement


def find_dist_info_member(names: Iterable[str], name: str) -> str | None:
    """Return the path of `name` ("METADATA") in a wheel's own dist-info; None if it has none."""
    # Vendored distributions are deeper than the top: setuptools has its own in setuptools/_vendor/.
    ending = f".dist-info/{name}"
    return next((member for member in names if member.endswith(ending) and member.count("/") == 1), None)


def read_metadata(path: Path | IO[bytes], filename: str) -> bytes | None:
    """Return METADATA of a wheel, or PKG-INFO of an sdist if it is static (PEP 643), else None.

    `filename` is the original name: `path` may be a blob of the cache, or an open wheel. Raises ProjectError for a damaged archive
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
        elif isinstance(path, Path):
            with tarfile.open(path) as tar:
                # One pass: a .tar.gz has no table of contents, and PKG-INFO is near its start.
                pkg_info = next((member for member in tar if _is_pkg_info(member.name)), None)
                stream = tar.extractfile(pkg_info) if pkg_info else None
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
