"""What the replay of a recording needs of the image, besides what the notebook imports."""

import re
from collections.abc import Sequence
from pathlib import Path

from packaging.utils import canonicalize_name

from offline_kit.core import files
from offline_kit.notebook.runtime.kit_recording import RecordedObjects
from offline_kit.packages import distribution_metadata
from offline_kit.project.images import Image

_WORD = re.compile(r"[A-Za-z0-9][\w.-]*[A-Za-z0-9]")


def unpack_modules(recording: Path, folder: Path) -> list[Path]:
    """Return the modules that lay beside the notebook, unpacked to a folder: they import packages of the image, too."""
    objects, modules = RecordedObjects(recording.parent, folder), []
    for number, file in enumerate(files.read_json(recording)["files"]):
        if file["kind"] == "beside" and file["path"].endswith(".py"):
            modules.append(folder / "modules" / f"{number}.py")
            files.link_or_copy(objects.find_object(file["sha256"]), modules[-1])
    return modules


def find_pip_needs(recording: Path, code: Sequence[Path], image: Image, folder: Path) -> set[str]:
    """Return the image's packages that pip must find installed, since the recording has no wheels of them.

    Those are what the recorded wheels require, and what the code itself tells pip to install.
    """
    objects, names = RecordedObjects(recording.parent, folder), set[str]()
    packages = [package for package in files.read_json(recording)["packages"] if package["wheel"]]
    for package in packages:  # some could not be packed
        wheel = objects.find_object(package["sha256"])
        lines = distribution_metadata.read_requirements(wheel, package["wheel"])
        required = distribution_metadata.parse_requirements(lines, image.marker_environment())
        names |= {requirement.name for requirement in required}
    for path in code:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        names |= {word for line in lines if "install" in line for word in _WORD.findall(line)}
    # pip itself is in every kernel.
    return {*image.packages} & {canonicalize_name(name) for name in names} - {"pip"}
