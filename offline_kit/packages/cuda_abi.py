"""Compare wheels that are compiled for one CUDA and one torch with those of the image.

flash-attn, mamba-ssm, vllm and the like are compiled against the C++ ABI of one torch and the libraries of one CUDA. The
file name tells which ("+cu12torch2.8cxx11abiTRUE", "+pt28cu128"), or the requirements inside, or the libraries that
the machine code is linked to. With another torch they fail at import with an undefined symbol.
"""

import re
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass, replace

from packaging.version import Version

from offline_kit.packages.distribution_metadata import find_dist_info_member, list_metadata_values
from offline_kit.project.accelerators import find_machine_shape
from offline_kit.project.images import Image
from offline_kit.project.types import Artifact, Finding, Severity

# Packages whose machine code is inspected if their file name does not tell.
_CUDA_PACKAGES = (
    "apex bitsandbytes causal-conv1d deepspeed-kernels exllamav2 flash-attn flash-attn-3 flashinfer-python "
    "grouped-gemm mamba-ssm natten pytorch3d sageattention sglang spconv torch-cluster torch-scatter torch-sparse "
    "torch-spline-conv vllm xformers"
)
# Packages that need a newer GPU than the T4 (compute capability 7.5): https://github.com/Dao-AILab/flash-attention
_NEEDS_AMPERE = {"flash-attn": "flash-attn 2", "flash-attn-3": "flash-attn 3"}
# "+cu128" of torch, "+cu12torch2.8" of flash-attn, "+pt28cu128" of PyG
_CUDA = re.compile(r"(?<![a-z])cu(\d{2,3})")
_TORCH = re.compile(r"(?:torch|pt)(\d)\.?(\d+)")
# The name in DT_NEEDED of an ELF library.
_RUNTIME = re.compile(rb"libcudart\.so\.(\d+)")
# bitsandbytes has a library for each: libbitsandbytes_cuda124.so
_BUNDLED = re.compile(r"_cuda(\d{3})\w*\.so$")
_PINNED = re.compile(r"torch\s*\(?==\s*(\d+\.\d+)")
_CHUNK = 1 << 22


@dataclass(frozen=True, kw_only=True)
class WheelAbi:
    """What a wheel was compiled for, as far as it can be told."""

    torch: str = ""  # major and minor version: "2.8"
    cuda: tuple[str, ...] = ()  # versions any of which is sufficient: "12", "12.8"
    old_abi: bool = False  # the old C++ ABI; torch's own wheels have the new one since 2.7
    cpu: bool = False  # whether it also works without CUDA


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
    if abi.cuda and not cuda and torch.endswith("+cpu") and not abi.cpu:
        yield (
            f"needs CUDA {' or '.join(abi.cuda)}, but the image has none",
            "set `accelerator` (the default image is then the GPU image), or leave the package out with `exclude`",
        )
    elif abi.cuda and cuda and not any(_is_cuda_compatible(version, cuda) for version in abi.cuda):
        yield f"was compiled for CUDA {' or '.join(abi.cuda)}, but the image has CUDA {cuda}", another
    if wheel.name in _NEEDS_AMPERE and find_machine_shape(accelerator).startswith("NvidiaTeslaT4"):
        yield (
            f"needs a newer GPU than the T4: {_NEEDS_AMPERE[wheel.name]} has no code for it",
            "use an L4 or better if the competition offers it, or torch's own attention (sdpa)",
        )


def read_wheel_abi(wheel: Artifact) -> WheelAbi:
    """Return what a wheel was compiled for, from its name, its requirements and its libraries."""
    words = wheel.filename.removesuffix(".whl").split("-")
    # Some packages put CUDA and torch into the build tag instead of the local version.
    build_tag = words[2] if len(words) == 6 else ""
    local = (wheel.version.partition("+")[2] or build_tag).lower()
    if wheel.name in ("torch", "torchvision", "torchaudio", "torchcodec"):
        return WheelAbi(cuda=_parse_cuda(local))
    torch_match = _TORCH.search(local)
    torch = f"{torch_match[1]}.{torch_match[2]}" if torch_match else ""
    abi = WheelAbi(torch=torch, cuda=_parse_cuda(local), old_abi="cxx11abifalse" in local)
    is_inspected = wheel.name in _CUDA_PACKAGES.split()
    if not is_inspected or not wheel.path.is_file() or not zipfile.is_zipfile(wheel.path):
        return abi
    with zipfile.ZipFile(wheel.path) as archive:
        names = archive.namelist()
        if not torch and (member := find_dist_info_member(names, "METADATA")):
            requires = list_metadata_values(archive.read(member), "Requires-Dist")
            torch = next((match[1] for line in requires if (match := _PINNED.match(line))), "")
        is_cpu = any(name.endswith("_cpu.so") for name in names)
        return replace(abi, torch=torch, cuda=abi.cuda or _find_cuda_versions(archive), cpu=is_cpu)


def _parse_cuda(text: str) -> tuple[str, ...]:
    match = _CUDA.search(text)
    return (_format_cuda(match[1]),) if match else ()


def _format_cuda(digits: str) -> str:
    """Return "12" and "12.8" for the "12" and "128" of a file name."""
    return digits if len(digits) == 2 else f"{digits[:2]}.{digits[2:]}"


def _find_cuda_versions(archive: zipfile.ZipFile) -> tuple[str, ...]:
    """Return the CUDA versions of a wheel's libraries; several if it has a library for each."""
    names = [name for name in archive.namelist() if name.endswith(".so")]
    versions = {_format_cuda(match[1]) for name in names if (match := _BUNDLED.search(name))}
    if versions:
        return tuple(sorted(versions))
    # Else the major versions of the CUDA runtime that they are linked to.
    for name in names:
        with archive.open(name) as stream:
            overlap = b""
            while chunk := stream.read(_CHUNK):
                versions |= {match.decode() for match in _RUNTIME.findall(overlap + chunk)}
                overlap = chunk[-32:]  # a name may span two chunks
    return tuple(sorted(versions))


def _find_cuda_version(image: Image, torch: str) -> str:
    """Return the CUDA version of a torch ("12.8"), else of the image's runtime; empty for none or unknown."""
    if versions := _parse_cuda(torch.partition("+")[2]):
        return versions[0]
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
