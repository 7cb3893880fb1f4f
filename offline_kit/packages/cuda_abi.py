"""Compare wheels that are compiled for one CUDA and one torch with those of the image.

flash-attn, mamba-ssm, vllm and the like are compiled against the C++ ABI of one torch and the libraries of one CUDA. The
file name tells which ("+cu12torch2.8cxx11abiTRUE", "+pt28cu128"), or the requirements inside, or the libraries that
the machine code is linked to. With another torch they fail at import with an undefined symbol.
"""

import re
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass

from packaging.version import Version

from offline_kit.packages.distribution_metadata import find_dist_info_member, list_metadata_values
from offline_kit.project.accelerators import find_machine_shape
from offline_kit.project.images import Image
from offline_kit.project.types import Artifact, Finding, Severity

CUDA_PACKAGES = frozenset(
    [
        "apex",
        "bitsandbytes",
        "causal-conv1d",
        "deepspeed-kernels",
        "exllamav2",
        "flash-attn",
        "flash-attn-3",
        "flashinfer-",
        "python",
        "grouped-gemm",
        "mamba-ssm",
        "natten",
        "pytorch3d",
        "sageattention",
        "sglang",
        "spconv",
        "torch-cluster",
        "torch-",
        "scatter",
        "torch-sparse",
        "torch-spline-conv",
        "vllm",
        "xformers",
    ]
)
"""Packages whose machine code is inspected if their file name does not tell."""
NEEDS_AMPERE = {
    "flash-attn": "flash-attn 2 has no code for it",
    "flash-attn-3": "flash-attn 3 has no code for it",
}
"""Packages that need a newer GPU than the T4 (compute capability 7.5): https://github.com/Dao-AILab/flash-attention"""
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

    torch: str = ""
    """Major and minor version: "2.8"."""
    cuda: tuple[str, ...] = ()
    """Versions any of which is sufficient: "12", "12.8"."""
    old_abi: bool = False
    """Compiled for a torch with the old C++ ABI; torch's own wheels have the new one since 2.7."""
    cpu: bool = False
    """Whether it also works without CUDA."""


def check_cuda_abi(wheels: Iterable[Artifact], image: Image, accelerator: str) -> tuple[Finding, ...]:
    """Return warnings about the image for this accelerator, and about wheels compiled for another CUDA or torch.

    `wheels` are all wheels of the kit; if torch is among them, it replaces the image's.
    """
    all_wheels = tuple(wheels)
    own = next((wheel.version for wheel in all_wheels if wheel.name == "torch"), "")
    torch = own or image.packages.get("torch", "")
    return (
        *check_image(image, accelerator),
        *(finding for wheel in all_wheels for finding in check_wheel(wheel, torch, image, accelerator)),
    )


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


def check_wheel(wheel: Artifact, torch: str, image: Image, accelerator: str) -> tuple[Finding, ...]:
    """Return the warnings about one wheel; `torch` is the notebook's version, local part included."""
    abi = read_wheel_abi(wheel)
    return tuple(
        Finding(severity=Severity.WARN, about=wheel.filename, what=problem, remedy=remedy)
        for problem, remedy in _find_mismatches(wheel, abi, torch, image, accelerator)
    )


def _find_mismatches(
    wheel: Artifact, abi: WheelAbi, torch: str, image: Image, accelerator: str
) -> Iterable[tuple[str, str]]:
    minor = ".".join(torch.partition("+")[0].split(".")[:2])
    cuda = find_cuda_version(image, torch)
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
    if wheel.name in NEEDS_AMPERE and find_machine_shape(accelerator).startswith("NvidiaTeslaT4"):
        yield (
            f"needs a newer GPU than the T4: {NEEDS_AMPERE[wheel.name]}",
            "use an L4 or better if the competition offers it, or torch's own attention (sdpa)",
        )


def read_wheel_abi(wheel: Artifact) -> WheelAbi:
    """Return what a wheel was compiled for, from its name, its requirements and its libraries."""
    local = wheel.version.partition("+")[2].lower() or _read_build_tag(wheel.filename)
    if wheel.name in ("torch", "torchvision", "torchaudio", "torchcodec"):
        return WheelAbi(cuda=_parse_cuda(local))
    abi = WheelAbi(torch=_parse_torch(local), cuda=_parse_cuda(local), old_abi="cxx11abifalse" in local)
    if wheel.name not in CUDA_PACKAGES or not wheel.path.is_file() or not zipfile.is_zipfile(wheel.path):
        return abi
    with zipfile.ZipFile(wheel.path) as archive:
        return WheelAbi(
            torch=abi.torch or _read_torch_pin(archive),
            cuda=abi.cuda or _find_cuda_versions(archive),
            old_abi=abi.old_abi,
            cpu=any(name.endswith("_cpu.so") for name in archive.namelist()),
        )


def _read_build_tag(filename: str) -> str:
    """Return the build tag of a wheel's name: some packages put CUDA and torch there."""
    words = filename.removesuffix(".whl").split("-")
    return words[2].lower() if len(words) == 6 else ""


def _parse_cuda(text: str) -> tuple[str, ...]:
    match = _CUDA.search(text)
    return (_format_cuda(match[1]),) if match else ()


def _format_cuda(digits: str) -> str:
    """Return "12" and "12.8" for the "12" and "128" of a file name."""
    return digits if len(digits) == 2 else f"{digits[:2]}.{digits[2:]}"


def _parse_torch(text: str) -> str:
    match = _TORCH.search(text)
    return f"{match[1]}.{match[2]}" if match else ""


def _read_torch_pin(archive: zipfile.ZipFile) -> str:
    member = find_dist_info_member(archive.namelist(), "METADATA")
    lines = list_metadata_values(archive.read(member), "Requires-Dist") if member else ()
    return next((match[1] for line in lines if (match := _PINNED.match(line))), "")


def _find_cuda_versions(archive: zipfile.ZipFile) -> tuple[str, ...]:
    """Return the CUDA versions of a wheel's libraries; several if it has a library for each."""
    names = [name for name in archive.namelist() if name.endswith(".so")]
    several = {_format_cuda(match[1]) for name in names if (match := _BUNDLED.search(name))}
    if several:
        return tuple(sorted(several))
    return tuple(sorted({major for name in names for major in _find_cuda_runtimes(archive, name)}))


def _find_cuda_runtimes(archive: zipfile.ZipFile, name: str) -> set[str]:
    """Return the major versions of the CUDA runtime (libcudart) that a library is linked to."""
    versions: set[str] = set()
    with archive.open(name) as stream:
        overlap = b""
        while chunk := stream.read(_CHUNK):
            versions |= {match.decode() for match in _RUNTIME.findall(overlap + chunk)}
            # A name may span two chunks.
            overlap = chunk[-32:]
    return versions


def find_cuda_version(image: Image, torch: str) -> str:
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
    return major == available_major and (
        not minor or not available_minor or int(minor) <= int(available_minor)
    )
