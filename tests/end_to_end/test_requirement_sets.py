"""Real requirement sets, frozen from whatever Python runs the tests, restored over the image's versions."""

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from packaging.utils import parse_wheel_filename

from offline_kit.kit import manifest
from offline_kit.project import images
from offline_kit.project.types import Role
from tests.support.local_index import make_wheel
from tests.support.workbench import IMAGE, evidence, plan, project, run

pytestmark = [pytest.mark.slow, pytest.mark.index, pytest.mark.sandbox, pytest.mark.usefixtures("python_313")]

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
    "einops",
    "iterative-stratification",
    "ttach",
    "efficientnet-pytorch",
    "pretrainedmodels",
]
HYDRA = ["hydra-core", "hydra-colorlog", "hydra-joblib-launcher"]

CONFLICTS = """
import sys
from importlib import metadata
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

def conflicts(path):
    found = {}
    for folder in path:
        for dist in metadata.distributions(path=[folder]):
            found.setdefault(canonicalize_name(dist.metadata["Name"]), dist)
    unmet = set()
    for name, dist in found.items():
        for text in dist.requires or ():
            wanted = Requirement(text)
            if wanted.marker and not wanted.marker.evaluate({"extra": ""}):
                continue
            there = found.get(canonicalize_name(wanted.name))
            if there is None or not wanted.specifier.contains(there.version, prereleases=True):
                unmet.add(f"{name} wants {wanted}")
    return unmet, {name: dist.version for name, dist in found.items()}

def evidence(context):
    overlay = [folder for folder in sys.path if folder.startswith("/tmp/offline-kit")]
    before, _ = conflicts([folder for folder in sys.path if folder not in overlay])
    after, versions = conflicts(sys.path)
    return {"overlay": overlay, "new": sorted(after - before), "old": sorted(before), "versions": versions}
"""
"""Unmet requirements among what is installed, without the kit and with it."""

SHARED = """
def never_called():
    import albumentations, boto3, colorlog, einops, google_cloud_storage, greenlet, grpcio, huggingface_hub, joblib
    import matplotlib, numpy, omegaconf, optuna, pandas, peft, pillow, plotly, protobuf, pytorch_lightning, safetensors
    import scikit_learn, scipy, timm, torch, torchmetrics, torchvision, tqdm, transformers
"""
"""Image packages that one of the sets needs: all of them need all, and so they share one environment."""


def local_and_git(folder: Path) -> list[str]:
    """Return requirements on a local wheel and on a folder of git."""
    wheel = make_wheel(folder / "wheels", "tiny-thing", "1.2", requires=["einops>=0.6"])
    repository = folder / "repository"
    (repository / "hidden_gem").mkdir(parents=True)
    (repository / "hidden_gem" / "__init__.py").write_text("import ttach\n")
    (repository / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["setuptools>=77"]\nbuild-backend = "setuptools.build_meta"\n'
        '[project]\nname = "hidden-gem"\nversion = "0.3"\ndependencies = ["ttach", "numpy"]\n'
        '[tool.setuptools]\npackages = ["hidden_gem"]\n'
    )
    git = ["git", "-c", "user.name=nobody", "-c", "user.email=nobody@example.org"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "first"]):
        subprocess.run([*git, *words], cwd=repository, check=True)
    return [str(wheel), f"hidden-gem @ git+{repository.as_uri()}"]


def _check_files(kit_of: Path) -> None:
    """Every wheel of the kit fits the image, and nothing of torch, CUDA or numpy is among them."""
    tags = set(images.load_image(IMAGE, accelerator="none", project=kit_of).wheel_tags)
    kit = manifest.read_kit(kit_of / "dist" / "offline-kit")
    entries = [entry for part in kit.parts for entry in part.entries]
    wheels = [Path(entry.original).name for entry in entries if entry.role in (Role.WHEEL, Role.BUILD)]
    assert wheels
    names = {str(parse_wheel_filename(wheel)[0]) for wheel in wheels}
    assert not {name for name in names if name.startswith(("torch", "nvidia", "numpy", "triton"))} - {
        "torchmetrics"
    }
    assert [wheel for wheel in wheels if not parse_wheel_filename(wheel)[3] & tags] == []


def _pins(facts: dict[str, Any]) -> dict[str, list[tuple[str, str]]]:
    return {fate: [(pin["name"], pin["version"]) for pin in facts[fate]] for fate in ("bundled", "provided")}


@pytest.mark.parametrize(
    ("requirements", "bundled"),
    [
        pytest.param(VISION, {"segmentation-models-pytorch", "monai", "hydra-core", "munch"}, id="vision"),
        pytest.param(["optuna[optional]"], {"cmaes", "redis"}, id="optuna-optional"),
        pytest.param(HYDRA, set(HYDRA), id="hydra"),
        pytest.param((), {"tiny-thing", "hidden-gem", "ttach"}, id="local-and-git"),
    ],
)
def test_a_set_is_restored_over_the_image(
    tmp_path: Path, requirements: Sequence[str], bundled: set[str]
) -> None:
    """The kit is small, fits, imports over the image's versions, breaks nothing, and both engines agree on it."""
    folder = project(tmp_path / "project", requirements or local_and_git(tmp_path), CONFLICTS + SHARED)
    built = run("build", folder, "--json").good().facts
    assert bundled <= {pin["name"] for pin in built["bundled"]}
    _check_files(folder)

    report = run("rehearse", folder, "--no-build", "--yes", "--json").good().facts["rehearsal"]
    assert report["fidelity"] == "matching"
    seen = evidence(folder)
    assert seen["overlay"], "the kit stands on sys.path"
    assert seen["new"] == []
    here = {pin["name"]: pin["version"] for pin in built["bundled"]}
    assert {name: seen["versions"].get(name) for name in here} == here
    assert all(item["imports"] for item in plan(folder)["install"]), "each package was imported as a proof"

    (folder / "offline-kit.lock.txt").unlink()
    other = run("build", folder, "--dry-run", "--json", "--engine", "pip-tools").good().facts
    assert _pins(other) == _pins(built)
