"""How close a rehearsal comes to the image: the Python that it ran in against what the image has."""

import platform
import sys
from collections.abc import Iterable

from offline_kit.project.images import Image, same_version
from offline_kit.rehearsal.pythons import Python

MATCHING = "matching"
STAND_IN = "stand-in"


def compare(image: Image, python: Python, used: Iterable[str]) -> tuple[str, tuple[str, ...]]:
    """Return the fidelity and all differences, those that do not matter to it ("3.13.0, not 3.13.5") too.

    `used` are the normalized names of what the run takes from the image. "matching" needs the image's
    minor Python version, its versions of these packages (torch's without "+cpu") and its platform.
    """
    grave, slight = [], []
    if not image.local:
        grave += _platform(image)
        if python.version.split(".")[:2] != image.python.split(".")[:2]:
            grave.append(f"Python {python.version} instead of {image.python}")
        elif python.version != image.python:
            slight.append(f"Python {python.version} instead of {image.python}")
        for name in sorted(set(used)):
            here, there = python.packages.get(name), image.packages.get(name)
            if there is None or here == there:
                continue
            if here is None:
                grave.append(f"{name} {there} is missing")
            elif here.partition("+")[0] == there.partition("+")[0] or same_version(name, here, there):
                slight.append(f"{name} {here} instead of {there}")
            else:
                grave.append(f"{name} {here} instead of {there}")
    return (STAND_IN if grave else MATCHING), (*grave, *slight)


def _platform(image: Image) -> list[str]:
    differences = []
    if sys.platform != "linux":
        differences.append(f"{platform.system()} instead of Linux")
    if platform.machine().lower() not in (image.machine, "amd64"):
        differences.append(f"{platform.machine()} instead of {image.machine}")
    if image.accelerator != "none":
        differences.append(
            "no GPU in the rehearsal: CUDA itself, GPU memory, half precision and speed are not proven"
        )
    return differences
