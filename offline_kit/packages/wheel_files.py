"""Wheels that are the same bytes everywhere, whoever built them and when."""

import tempfile
import zipfile
from pathlib import Path
from typing import Any

from offline_kit.core.errors import ProjectError
from offline_kit.core.files import sha256_of
from offline_kit.packages.distribution_metadata import find_dist_info_member

EPOCH = 315619200
"""SOURCE_DATE_EPOCH of our builds: 2 January 1980, the first day that a zip file can hold in every time zone."""

_DATE = (1980, 1, 2, 0, 0, 0)
_UNIX = 3


def normalize_wheel(path: Path) -> str:
    """Rewrite a wheel so that equal contents are equal bytes, and return its sha256.

    Order, dates, modes, system and compression are fixed, RECORD is written anew, and signatures of the old
    RECORD are dropped. Members are stored, not deflated: zlib's output differs between its versions, and a kit
    must keep its id on every machine. Raises ProjectError for a file that is not a wheel.
    """
    from wheel.wheelfile import WheelError, WheelFile

    class NormalizedWheel(WheelFile):  # type: ignore[misc]  # wheel ships no types
        """Writes every member with the same date and modes, RECORD included."""

        def writestr(self, zinfo_or_arcname: Any, data: Any, compress_type: int | None = None) -> None:
            if isinstance(zinfo_or_arcname, str):
                zinfo_or_arcname = _make_entry(zinfo_or_arcname, executable=False)
            super().writestr(zinfo_or_arcname, data, compress_type)

    members = _read_members(path)
    record = find_dist_info_member(members, "RECORD")
    if record is None:
        raise ProjectError(
            f"'{path.name}' has no RECORD, so it is not a wheel", code="wheel-invalid", hint="build it again"
        )
    folder = record.removesuffix("RECORD")
    for name in ("RECORD", "RECORD.jws", "RECORD.p7s"):
        members.pop(folder + name, None)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as scratch:
        part = Path(scratch) / path.name
        try:
            with NormalizedWheel(part, "w", zipfile.ZIP_STORED) as archive:
                # The folder in the wheel may be spelled otherwise than the file's name.
                archive.record_path = record
                # The wheel specification recommends dist-info at the end of the archive; RECORD is written on closing.
                for name in sorted(members, key=lambda name: (name.startswith(folder), name)):
                    data, executable = members[name]
                    archive.writestr(_make_entry(name, executable=executable), data)
        except WheelError as error:
            raise ProjectError(
                f"'{path.name}' is not a wheel: {error}", code="wheel-invalid", hint="build it again"
            ) from error
        part.chmod(0o644)
        part.replace(path)
    return sha256_of(path)


def _read_members(path: Path) -> dict[str, tuple[bytes, bool]]:
    """Return content and execute bit of each file in a wheel, by name."""
    try:
        with zipfile.ZipFile(path) as archive:
            # Only the owner's bit: the others depend on the umask of whoever built it.
            return {
                info.filename: (archive.read(info), bool(info.external_attr >> 16 & 0o100))
                for info in archive.infolist()
                if not info.is_dir()
            }
    except (zipfile.BadZipFile, OSError) as error:
        raise ProjectError(
            f"'{path.name}' cannot be read as a wheel: {error}", code="wheel-invalid", hint="build it again"
        ) from error


def _make_entry(name: str, *, executable: bool) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, _DATE)
    # Otherwise 0 on Windows, and modes are then ignored.
    entry.create_system = _UNIX
    entry.external_attr = (0o100755 if executable else 0o100644) << 16
    entry.compress_type = zipfile.ZIP_STORED
    return entry
