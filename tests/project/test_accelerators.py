"""Accelerators: the machine, its image, and wheels that are bound to one CUDA and one torch."""

import json
import zipfile
from pathlib import Path

import pytest

from offline_kit.notebook.rendering import NotebookTarget, render_notebook
from offline_kit.packages import cuda_abi
from offline_kit.packages.cuda_abi import WheelAbi
from offline_kit.project import images
from offline_kit.project.accelerators import ALIASES, MACHINE_SHAPES, find_machine, find_machine_shape
from offline_kit.project.images import Image
from offline_kit.project.types import Artifact, Kit, NotebookSettings

GPU = images.load_image("kaggle-2026-10-gpu", accelerator="t4x2", project=Path())
CPU = images.load_image("kaggle-2026-10-cpu", accelerator="none", project=Path())


def wheel(folder: Path, filename: str, content: dict[str, bytes] | None = None) -> Artifact:
    """Write a wheel with these files."""
    name, version, *_ = filename.split("-")
    path = folder / filename
    with zipfile.ZipFile(path, "w") as archive:
        for inside, data in (content or {}).items():
            archive.writestr(inside, data)
    return Artifact(
        name=name.replace("_", "-").lower(), version=version, filename=filename, path=path, sha256="", size=0
    )


@pytest.mark.parametrize("word", ["none", *ALIASES, *MACHINE_SHAPES])
def test_machine_and_image_follow_from_one_word(tmp_path: Path, word: str) -> None:
    """`accelerator` alone sets machine_shape, enable_gpu and the image; the CPU stays the default."""
    chosen = images.load_image("", accelerator=word, project=tmp_path)
    kit = Kit(folder=tmp_path, id="0" * 64, parts=())
    settings = NotebookSettings(template="function", function="work.py:main")
    rendered = render_notebook(
        kit, settings, chosen, NotebookTarget(project=tmp_path, name="plants", accelerator=word)
    )
    gpu = word != "none"
    assert rendered.metadata["enable_gpu"] is gpu
    assert rendered.metadata.get("machine_shape", "") == find_machine_shape(word)
    assert (find_machine_shape(word) in MACHINE_SHAPES) is gpu
    assert chosen.accelerator == ("gpu" if gpu else "none")
    kit_cell = next(cell for cell in json.loads(rendered.text)["cells"] if cell["id"].endswith("-kit"))
    assert f'pick_device("{find_machine_shape(word) or "none"}")' in "".join(kit_cell["source"])
    assert cuda_abi.check_image(chosen, word) == ()


@pytest.mark.parametrize(
    ("chosen", "accelerator", "words"),
    [
        (CPU, "t4x2", "is a CPU image, but accelerator = 't4x2' uses Kaggle's GPU image"),
        (GPU, "none", "is a GPU image, but a session without accelerator uses Kaggle's CPU image"),
    ],
)
def test_an_image_of_the_other_kind_is_warned_of(chosen: Image, accelerator: str, words: str) -> None:
    """An image that is named and does not go with the accelerator is a finding with its remedy."""
    (found,) = cuda_abi.check_cuda_abi([], chosen, accelerator)
    assert found.what == words
    assert (str(found.severity), found.about) == ("warn", chosen.name)
    assert "remove `image`" in found.remedy


@pytest.mark.parametrize(
    ("filename", "bond"),
    [
        (
            "flash_attn-2.8.3+cu12torch2.8cxx11abiTRUE-cp312-cp312-linux_x86_64.whl",
            WheelAbi(torch="2.8", cuda="12"),
        ),
        (
            "mamba_ssm-2.2.4+cu12torch2.5cxx11abiFALSE-cp312-cp312-linux_x86_64.whl",
            WheelAbi(torch="2.5", cuda="12", old_abi=True),
        ),
        ("torch_scatter-2.1.2+pt28cu128-cp313-cp313-linux_x86_64.whl", WheelAbi(torch="2.8", cuda="12.8")),
        (
            "torch_scatter-2.1.2+pt210cu130-cp313-cp313-linux_x86_64.whl",
            WheelAbi(torch="2.10", cuda="13.0"),
        ),
        ("torchvision-0.26.0+cu128-cp313-cp313-manylinux_2_28_x86_64.whl", WheelAbi(cuda="12.8")),
        ("auto_gptq-0.7.1+cu121-cp311-cp311-linux_x86_64.whl", WheelAbi(cuda="12.1")),
        ("numpy-2.3.0-cp313-cp313-manylinux_2_28_x86_64.whl", WheelAbi()),
        ("focus-1.0+local.1-py3-none-any.whl", WheelAbi()),
    ],
)
def test_names_tell_what_a_wheel_was_compiled_for(tmp_path: Path, filename: str, bond: WheelAbi) -> None:
    """torch, CUDA and the C++ ABI stand in the local version, in several spellings."""
    assert cuda_abi.read_wheel_abi(wheel(tmp_path, filename)) == bond


def test_requirements_tell_it_too(tmp_path: Path) -> None:
    """vllm and xformers pin their torch."""
    metadata = b"Metadata-Version: 2.1\nName: vllm\nRequires-Dist: torch==2.8.0\n"
    members = {"vllm-0.11.0.dist-info/METADATA": metadata}
    vllm = wheel(tmp_path, "vllm-0.11.0-cp38-abi3-manylinux1_x86_64.whl", members)
    assert cuda_abi.read_wheel_abi(vllm) == WheelAbi(torch="2.8")


@pytest.mark.parametrize(
    ("filename", "words"),
    [
        (
            "mamba_ssm-2.2.5+cu12torch2.8cxx11abiTRUE-cp313-cp313-linux_x86_64.whl",
            "was compiled for torch 2.8, but the notebook has torch 2.11.0+cu128",
        ),
        (
            "causal_conv1d-1.5+cu12cxx11abiFALSE-cp313-cp313-linux_x86_64.whl",
            "was compiled for the C++ ABI from before torch 2.7, but the notebook has torch 2.11.0+cu128",
        ),
        (
            "torch_scatter-2.1.2+pt211cu130-cp313-cp313-linux_x86_64.whl",
            "was compiled for CUDA 13.0, but the image has CUDA 12.8",
        ),
    ],
)
def test_a_wheel_for_another_torch_or_cuda_is_a_finding(tmp_path: Path, filename: str, words: str) -> None:
    """It names the wheel, what it was compiled for, what the image has, and which file to take instead."""
    (found,) = cuda_abi.check_cuda_abi([wheel(tmp_path, filename)], GPU, "l4x4")
    assert (found.about, found.what) == (filename, words)
    assert "compiled for torch 2.11 and CUDA 12.8" in found.remedy


def test_a_wheel_that_fits_is_none(tmp_path: Path) -> None:
    """The image's own torch and CUDA, an older minor version of CUDA, and pure packages pass."""
    good = [
        "mamba_ssm-2.3+cu12torch2.11cxx11abiTRUE-cp313-cp313-linux_x86_64.whl",
        "torch_scatter-2.1.2+pt211cu126-cp313-cp313-linux_x86_64.whl",
        "timm-1.0.20-py3-none-any.whl",
    ]
    assert cuda_abi.check_cuda_abi([wheel(tmp_path, name) for name in good], GPU, "t4x2") == ()


def test_the_torch_that_the_kit_brings_counts(tmp_path: Path) -> None:
    """Where torch itself is replaced, its wheel is what the others meet."""
    own = wheel(tmp_path, "torch-2.8.0+cu128-cp313-cp313-manylinux_2_28_x86_64.whl")
    mamba = wheel(tmp_path, "mamba_ssm-2.2.5+cu12torch2.8cxx11abiTRUE-cp313-cp313-linux_x86_64.whl")
    assert cuda_abi.check_cuda_abi([own, mamba], GPU, "t4x2") == ()
    assert len(cuda_abi.check_cuda_abi([mamba], GPU, "t4x2")) == 1


def test_cuda_code_in_a_cpu_notebook_is_a_finding(tmp_path: Path) -> None:
    """The CPU image has no CUDA at all: the remedy names the accelerator."""
    bits = wheel(tmp_path, "torch_scatter-2.1.2+pt211cu128-cp313-cp313-linux_x86_64.whl")
    (found,) = cuda_abi.check_cuda_abi([bits], CPU, "none")
    assert found.what == "needs CUDA 12.8, but the image has none"
    assert "accelerator" in found.remedy


def test_flash_attention_on_a_t4_is_told(tmp_path: Path) -> None:
    """It would import and then refuse the T4; on an L4 nothing is said."""
    flash = wheel(tmp_path, "flash_attn-2.8.3+cu12torch2.11cxx11abiTRUE-cp313-cp313-linux_x86_64.whl")
    (found,) = cuda_abi.check_cuda_abi([flash], GPU, "t4x2")
    assert "newer GPU than the T4" in found.what
    assert cuda_abi.check_cuda_abi([flash], GPU, "l4") == ()


@pytest.mark.parametrize("shape", ["", *MACHINE_SHAPES])
def test_each_machine_has_its_limits(shape: str) -> None:
    """Every machine shape has the limits of a session; GPUs exactly where there are some."""
    machine = find_machine(shape)
    assert (machine.seconds, machine.disk, machine.files) == (12 * 3600, 20 * 10**9, 500)
    assert (machine.gpus > 0) is bool(shape)
    assert find_machine("").memory == 30 * 1024**3
    assert find_machine("").cores == 4
