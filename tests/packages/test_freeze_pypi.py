"""Freezing real requirement sets from a real index, as users would."""

from pathlib import Path

import pytest

from offline_kit.core import processes
from offline_kit.packages import pip_settings
from offline_kit.packages.file_choice import choose_file, is_sdist
from offline_kit.packages.freeze.freeze import FreezeRequest, freeze_requirements
from offline_kit.packages.index import PackageIndex
from offline_kit.project import images
from offline_kit.project.config import Config
from offline_kit.project.images import Image
from offline_kit.project.types import Fate, Freeze
from tests.support.freezing import bundled

pytestmark = pytest.mark.index

VISION = [
    "timm",
    "segmentation-models-pytorch",
    "pytorch-lightning",
    "albumentations",
    "transformers",
    "peft",
    "monai",
    "hydra-core",
    "torchmetrics",
    "kornia",
    "einops",
    "opencv-python-headless",
    "pandas",
    "scikit-learn",
]
SETS = [
    pytest.param(VISION, marks=pytest.mark.slow),
    ["optuna[optional]"],
    ["pandas[excel]"],
    ["hydra-core", "omegaconf"],
    # slow: a replacement reads the metadata of the whole image, once
    pytest.param(["torch", "xgboost<3"], marks=pytest.mark.slow),
]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache for all of these tests."""
    return tmp_path_factory.mktemp("cache")


def frozen(
    folder: Path, cache: Path, lines: list[str], *, name: str = "kaggle-2026-10-cpu", engine: str = "uv"
) -> Freeze:
    """Freeze lines for a built-in image with this machine's own pip configuration."""
    path = folder / "requirements.in"
    path.write_text("\n".join(lines) + "\n")
    config = Config(project=folder, name="", version="", requirements=(path,), engine=engine)
    settings = pip_settings.read_pip_settings(processes.copy_environment())
    return freeze_requirements(FreezeRequest(config=config, upgrade=True), load(name), settings, cache=cache)[
        0
    ]


def load(name: str) -> Image:
    """Load a built-in image."""
    return images.load_image(name, accelerator="none", project=Path())


def heavy(found: Freeze) -> set[str]:
    """Return what must never be in a kit."""
    names = {one.name for one in found.pins_with(Fate.BUNDLED)}
    return {
        name
        for name in names
        if name.startswith(("torch", "nvidia-", "cuda-", "triton", "numpy")) and name != "torchmetrics"
    }


@pytest.mark.parametrize("lines", SETS, ids=lambda lines: lines[0])
def test_kits_are_slim_and_fit(tmp_path: Path, cache: Path, lines: list[str]) -> None:
    """No torch, numpy or CUDA is bundled; everything that is has hashes and a file for the image."""
    found = frozen(tmp_path, cache, lines)
    assert heavy(found) == set()
    target = load("kaggle-2026-10-cpu")
    index = PackageIndex(pip_settings.read_pip_settings(processes.copy_environment()), cache=cache)
    for one in found.pins_with(Fate.BUNDLED):
        assert one.hashes
        assert choose_file(index.list_files(one.name), one.version, one.hashes, target), one.name
    assert len(bundled(found)) <= 4


def test_hydra_is_todays(tmp_path: Path, cache: Path) -> None:
    """hydra-core is of 1.3 or later with its sdist-only antlr runtime, not the 0.11 that a ban of sdists gives."""
    bare = images.load_image("kaggle-2026-10-cpu", accelerator="none", project=Path())
    lacking = {
        name: version
        for name, version in bare.packages.items()
        if name not in ("omegaconf", "antlr4-python3-runtime")
    }
    path = tmp_path / "requirements.in"
    path.write_text("hydra-core<1.4\n")
    request = FreezeRequest(config=Config(project=tmp_path, name="", version="", requirements=(path,)))
    from dataclasses import replace

    settings = pip_settings.read_pip_settings(processes.copy_environment())
    found, _ = freeze_requirements(request, replace(bare, packages=lacking), settings, cache=cache)
    assert bundled(found)["hydra-core"].startswith("1.3.")
    assert bundled(found)["antlr4-python3-runtime"] == "4.9.3"
    files = PackageIndex(settings, cache=cache).list_files("antlr4-python3-runtime")
    chosen = choose_file(files, "4.9.3", (), bare)
    assert chosen
    assert is_sdist(chosen)


@pytest.mark.slow
@pytest.mark.parametrize("lines", SETS, ids=lambda lines: lines[0])
def test_both_engines_agree(tmp_path: Path, cache: Path, lines: list[str]) -> None:
    """pip-tools on the image's Python and uv on any give the same pins to the last hash."""
    found = []
    for engine in ("uv", "pip-tools"):
        (tmp_path / engine).mkdir()
        found.append(frozen(tmp_path / engine, cache, lines, engine=engine).pins)
    assert found[0] == found[1]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["kaggle-2026-10-gpu", "kaggle-v170-cpu", "kaggle-v170-gpu"])
def test_the_other_images(tmp_path: Path, cache: Path, name: str) -> None:
    """The vision set is slim on every built-in image."""
    assert heavy(frozen(tmp_path, cache, VISION, name=name)) == set()
