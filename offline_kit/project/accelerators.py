"""Translate the names of accelerators into Kaggle's machine shapes, and tell what each machine has."""

import tomllib
from dataclasses import dataclass
from functools import cache
from typing import Any

from offline_kit.core import resources
from offline_kit.core.errors import UsageError, suggest_name

MACHINE_SHAPES = (
    "NvidiaTeslaT4",
    "NvidiaL4",
    "NvidiaL4X1",
    "NvidiaTeslaA100",
    "NvidiaH100",
    "NvidiaRtxPro6000",
)
"""Machine shapes with a GPU (https://github.com/Kaggle/kaggle-cli/blob/main/docs/kernels.md); some only in certain competitions."""
ALIASES = {
    "gpu": "NvidiaTeslaT4",
    "t4": "NvidiaTeslaT4",
    "t4x2": "NvidiaTeslaT4",
    "l4": "NvidiaL4",
    "l4x4": "NvidiaL4",
    "l4x1": "NvidiaL4X1",
    "a100": "NvidiaTeslaA100",
    "h100": "NvidiaH100",
    "rtxpro6000": "NvidiaRtxPro6000",
}
"""Common names for them."""
RETIRED = ("p100", "nvidiateslap100")
"""Dropped from the image: https://github.com/Kaggle/docker-python/pull/1560."""
RESERVED = ("t4highmem", "nvidiateslat4highmem")
"""Listed by Kaggle's client, but only for Kaggle's administrators."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What a session on Kaggle may use, sizes in bytes; None: not published."""

    cores: int | None = None
    memory: int | None = None
    gpus: int = 0
    gpu_memory: int | None = None  # of each GPU
    seconds: int
    disk: int  # of /kaggle/working
    files: int  # in /kaggle/working; more are saved, but Kaggle lists them slowly


def find_machine(shape: str) -> Machine:
    """Return the machine of a machine shape, "" for a CPU; of a shape that is not known, only what all have."""
    table = _read_machines()
    return Machine(**table["session"], **table["machines"].get(shape or "cpu", {}))


@cache
def _read_machines() -> dict[str, Any]:
    return tomllib.loads(resources.data_file("machines.toml").read_text(encoding="utf-8"))


def find_machine_shape(accelerator: str) -> str:
    """Return Kaggle's machine shape for an accelerator's name, ignoring case; "" for a CPU.

    Raises UsageError if Kaggle does not have this accelerator.
    """
    word = accelerator.lower()
    if word in ("", "none", "cpu"):
        return ""
    shapes = {shape.lower(): shape for shape in MACHINE_SHAPES} | ALIASES
    if word in shapes:
        return shapes[word]
    if word in RETIRED:
        raise UsageError(
            f"the accelerator '{accelerator}' is retired: Kaggle's images no longer support the P100",
            hint="use 't4x2', or 'none' for a CPU notebook",
            code="accelerator-retired",
        )
    if word in RESERVED:
        raise UsageError(
            f"the accelerator '{accelerator}' is reserved for Kaggle's administrators",
            hint="use 't4x2', or 'none' for a CPU notebook",
            code="accelerator-reserved",
        )
    # Kaggle has TPUs; the images of their notebooks are other ones.
    if "tpu" in word:
        raise UsageError(
            f"the accelerator '{accelerator}' is a TPU, which no template and no image supports",
            hint="use 't4x2', or 'none' for a CPU notebook",
            code="tpu-unsupported",
        )
    raise UsageError(
        f"unknown accelerator '{accelerator}'{suggest_name(word, shapes)}",
        hint=f"use 'none', one of {', '.join(map(repr, ALIASES))}, or a machine shape of Kaggle's",
        code="unknown-accelerator",
    )
