"""Measure how close a rehearsal comes to the image: compare Python, packages and platform."""

import platform
import sys
from collections.abc import Iterable

from offline_kit.project.images import Image, is_same_version
from offline_kit.rehearsal.pythons import Interpreter

MATCHING = "matching"
STAND_IN = "stand-in"


def measure_fidelity(image: Image, python: Interpreter, used: Iterable[str]) -> tuple[str, tuple[str, ...]]:
    """Return the fidelity and all differences, including harmless ones ("Python 3.13.0 instead of 3.13.5").

    `used` are the normalized names of the image packages that the run needs. "matching" requires the image's minor
    Python version, its versions of these packages (without local parts such as "+cpu") and its platform.
    """
    grave, slight = [], []
    if not image.local:
        grave += _compare_platforms(image)
        if python.version.split(".")[:2] != image.python.split(".")[:2]:
            grave.append(f"Python {python.version} instead of {image.python}")
        elif python.version != image.python:
            slight.append(f"Python {python.version} instead of {image.python}")
        for name in sorted(set(used)):
            run_version, image_version = python.packages.get(name), image.packages.get(name)
            if image_version is None or run_version == image_version:
                continue
            if run_version is None:
                grave.append(f"{name} {image_version} is missing")
            elif run_version.partition("+")[0] == image_version.partition("+")[0] or is_same_version(
                name, run_version, image_version
            ):
                slight.append(f"{name} {run_version} instead of {image_version}")
            else:
                grave.append(f"{name} {run_version} instead of {image_version}")
    return (STAND_IN if grave else MATCHING), (*grave, *slight)


def _compare_platforms(image: Image) -> list[str]:
    differences = []
    if sys.platform != "linux":
        differences.append(f"{platform.system()} instead of Linux")
    if platform.machine().lower() not in (image.machine, "amd64"):
        differences.append(f"{platform.machine()} instead of {image.machine}")
    if image.accelerator != "none":
        differences.append(
            "no GPU in the rehearsal: CUDA, GPU memory, half precision and speed are not tested"
        )
    return differences
