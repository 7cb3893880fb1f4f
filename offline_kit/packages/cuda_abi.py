"""Compare wheels that are compiled for one CUDA and one torch with those of the image.

flash-attn, mamba-ssm, vllm and the like are compiled against the C++ ABI of one torch and the libraries of one CUDA. The
file name tells which ("+cu12torch2.8cxx11abiTRUE", "+pt28cu128"), or the requirements inside. With another torch they fail
at import with an undefined symbol.
"""

import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

from packaging.version import Version

from offline_kit.core.errors import ProjectError
from offline_kit.packages.distribution_metadata import read_requirements
from offline_kit.project.accelerators import find_machine_shape
from offline_kit.project.images import TORCH_FAMILY, Image
from offline_kit.project.types import Artifact, Finding, Severity

# Packages that need a newer GPU than the T4 (compute capability 7.5): https://github.com/Dao-AILab/flash-attention
_NEEDS_AMPERE = {"flash-attn": "flash-attn 2", "flash-attn-3": "flash-attn 3"}
# "+cu128" of torch, "+cu12torch2.8" of flash-attn, "+pt28cu128" of PyG
_CUDA = re.compile(r"(?<![a-z])cu(\d{2,3})")
_TORCH = re.compile(r"(?:torch|pt)(\d)\.?(\d+)")
_PINNED = re.compile(r"torch\s*\(?==\s*(\d+\.\d+)")


@dataclass(frozen=True, kw_only=True)
class WheelAbi:
    """What a wheel was compiled for, as far as it can be told."""

    torch: str = ""  # major and minor version: "2.8"
    cuda: str = ""  # "12" or "12.8"
    old_abi: bool = False  # the old C++ ABI; torch's own wheels have the new one since 2.7


def check_cuda_abi(wheels: Iterable[Artifact], image: Image, accelerator: str) -> tuple[Finding, ...]:
    """Return warnings about the image for this accelerator, and about wheels compiled for another CUDA or torch.

    `wheels` are all wheels of the kit; if torch is among them, it replaces the image's.
    """
    all_wheels = tuple(wheels)
    own = next((wheel.version for wheel in all_wheels if wheel.name == "torch"), "")
    torch = own or image.packages.get("torch", "")
    mismatches = [
        Finding(severity=Severity.WARN, about=wheel.filename, what=problem, remedy=remedy)
        for wheel in all_wheels
        for problem, remedy in _find_mismatches(wheel, read_wheel_abi(wheel), torch, image, accelerator)
    ]
    return (*check_image(image, accelerator), *mismatches)


def check_image(image: Image, accelerator: str) -> tuple[Finding, ...]:
    """Warn about an image that Kaggle does not use for sessions with this accelerator."""
    shape = find_machine_shape(accelerator)
    expected = "gpu" if shape else "none"
    if image.local or image.accelerator == expected:
        return ()
    session = f"accelerator = '{accelerator}'" if shape else "a session without accelerator"
    kinds = {"gpu": "GPU", "none": "CPU"}
    return (
        Finding(
            severity=Severity.WARN,
            about=image.name,
            what=f"is a {kinds[image.accelerator]} image, but {session} uses Kaggle's {kinds[expected]} image",
            remedy="remove `image`: the default follows the accelerator"
            + ("" if shape else ", or set `accelerator` to the GPU"),
        ),
    )


def _find_mismatches(
    wheel: Artifact, abi: WheelAbi, torch: str, image: Image, accelerator: str
) -> Iterable[tuple[str, str]]:
    minor = ".".join(torch.partition("+")[0].split(".")[:2])
    cuda = _find_cuda_version(image, torch)
    another = f"use the {wheel.name} that was compiled for torch {minor or '?'}" + (
        f" and CUDA {cuda}" if cuda else ""
    )
    if abi.torch and minor and abi.torch != minor:
        yield f"was compiled for torch {abi.torch}, but the notebook has torch {torch}", another
    elif abi.old_abi and re.fullmatch(r"\d+\.\d+", minor) and Version(minor) >= Version("2.7"):
        yield (
            f"was compiled for the C++ ABI from before torch 2.7, but the notebook has torch {torch}",
            another,
        )
    if abi.cuda and not cuda and torch.endswith("+cpu"):
        yield (
            f"needs CUDA {abi.cuda}, but the image has none",
            "set `accelerator` (the default image is then the GPU image), or leave the package out with `exclude`",
        )
    elif abi.cuda and cuda and not _is_cuda_compatible(abi.cuda, cuda):
        yield f"was compiled for CUDA {abi.cuda}, but the image has CUDA {cuda}", another
    if wheel.name in _NEEDS_AMPERE and find_machine_shape(accelerator).startswith("NvidiaTeslaT4"):
        yield (
            f"needs a newer GPU than the T4: {_NEEDS_AMPERE[wheel.name]} has no code for it",
            "use an L4 or better if the competition offers it, or torch's own attention (sdpa)",
        )


def read_wheel_abi(wheel: Artifact) -> WheelAbi:
    """Return what a wheel was compiled for, from its name and its requirements."""
    words = wheel.filename.removesuffix(".whl").split("-")
    # Some packages put CUDA and torch into the build tag instead of the local version.
    build_tag = words[2] if len(words) == 6 else ""
    local = (wheel.version.partition("+")[2] or build_tag).lower()
    if wheel.name in TORCH_FAMILY:
        return WheelAbi(cuda=_parse_cuda(local))
    torch_match = _TORCH.search(local)
    torch = f"{torch_match[1]}.{torch_match[2]}" if torch_match else ""
    is_compiled = not wheel.filename.endswith("-any.whl")
    if not torch and is_compiled:
        # vllm and xformers pin the torch that they are compiled against.
        with suppress(ProjectError):
            requires = read_requirements(wheel.path, wheel.filename)
            torch = next((match[1] for line in requires if (match := _PINNED.match(line))), "")
    return WheelAbi(torch=torch, cuda=_parse_cuda(local), old_abi="cxx11abifalse" in local)


def _parse_cuda(text: str) -> str:
    """Return "12" and "12.8" for "cu12" and "cu128"; empty if there is none."""
    match = _CUDA.search(text)
    digits = match[1] if match else ""
    return digits if len(digits) <= 2 else f"{digits[:2]}.{digits[2:]}"


def _find_cuda_version(image: Image, torch: str) -> str:
    """Return the CUDA version of a torch ("12.8"), else of the image's runtime; empty for none or unknown."""
    if version := _parse_cuda(torch.partition("+")[2]):
        return version
    # Local versions of torch: "+cpu" or the CUDA, "+cu128".
    if torch.endswith("+cpu"):
        return ""
    for name, version in image.packages.items():
        if re.fullmatch(r"nvidia-cuda-runtime(-cu\d+)?", name):
            return ".".join(version.split(".")[:2])
    return ""


def _is_cuda_compatible(required: str, available: str) -> bool:
    """Whether code for one CUDA runs on another: same major version, and not older.

    https://docs.nvidia.com/deploy/cuda-compatibility/
    """
    major, _, minor = required.partition(".")
    available_major, _, available_minor = available.partition(".")
    is_not_older = not minor or not available_minor or int(minor) <= int(available_minor)
    return major == available_major and is_not_older
