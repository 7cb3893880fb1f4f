"""What `build` and `doctor` see in the project's code before anything is rehearsed."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support import command_line

CONFIG = """
dataset = "checked-kit"
modules = ["net.py", "data.py"]
checkpoints = ["best.npz"]
[notebook]
template = "lightning"
model = "net.py:Net"
data = "data.py:Data"
"""
NET = "import timm\nfrom lightning import LightningModule\n\n\nclass Net(LightningModule):\n    def __init__(self):\n        {body}\n"
GOOD = "def submission(self, predictions):\n        return []\n"
DATA = "from lightning import LightningDataModule\n\n\nclass Data(LightningDataModule):\n    def __init__(self, {first}):\n        pass\n\n    def test_dataloader(self):\n        return []\n\n    {more}\n"


def run(project: Path, *words: str) -> Any:
    """Run offline-kit and return its JSON and its words."""
    done = command_line.offline_kit(
        *words,
        "--json",
        cwd=project,
        env={**os.environ, "OFFLINE_KIT_CACHE": str(project.parent / "cache"), "COLUMNS": "300"},
    )
    return json.loads(done.stdout), done.stderr


def make(folder: Path, first: str = "folder", more: str = GOOD, body: str = "pass") -> Path:
    """Write a project of a model and a data class."""
    project = folder / "project"
    project.mkdir()
    (project / "offline-kit.toml").write_text(CONFIG)
    (project / "best.npz").write_text("weights")
    (project / "net.py").write_text(NET.format(body=body))
    (project / "data.py").write_text(DATA.format(first=first, more=more))
    return project


@pytest.mark.parametrize(
    ("first", "more", "number"),
    [
        ("folder", GOOD, 0),
        ("root: str = '.'", GOOD, 0),
        ("path_csv: str = 'train.csv'", GOOD, 1),
        ("batch_size=32", GOOD, 1),
        ("path_csv: str = 'train.csv', base_path: str = '.'", "", 2),
        ("folder", "", 1),
    ],
)
def test_a_data_class_that_breaks_the_contract_is_named(
    tmp_path: Path, first: str, more: str, number: int
) -> None:
    """Both commands name the class, a missing `submission` and a first parameter that is no folder."""
    project = make(tmp_path, first, more)
    built, said = run(project, "build")
    found = [each for each in built["findings"] if each["about"] == "data.py:Data"]
    assert len(found) == number
    assert ("[notebook]" in said) == bool(number), "the table as it is in this file"
    checks = {each["code"]: each for each in run(project, "doctor")[0]["checks"]}
    assert checks["K207"]["state"] == ("warning" if number else "ok")


def test_a_hub_call_whose_cache_travels_is_no_warning(tmp_path: Path) -> None:
    """Weights that lie in a copy of the library's cache are not warned of; others are, in one line with a count."""
    call = "timm.create_model('resnet18.a1_in1k', pretrained=True)"
    project = make(tmp_path, body=f"self.a = {call}\n        self.b = {call}")
    built, said = run(project, "build")
    assert [each["about"] for each in built["findings"]] == ["net.py:7", "net.py:8"]
    assert said.count("whose weights are downloaded") == 1
    (project / "caches/huggingface/hub/models--timm--resnet18.a1_in1k").mkdir(parents=True)
    assert run(project, "build")[0]["findings"] == []


@pytest.mark.parametrize(
    ("first", "top", "number"),
    [
        ("", "", 0),
        ("import lib.other", "", 1),
        ("from lib import other", "", 1),
        ("import lib", "from .other import build", 1),
        ("import lib", "", 0),
        ("import importlib; importlib.import_module('lib.' + 'other')", "", 1),
    ],
)
def test_code_that_the_notebook_never_imports_is_no_warning(
    tmp_path: Path, first: str, top: str, number: int
) -> None:
    """Other models beside the one that predicts may fetch their weights; what is imported, or may be, counts."""
    project = make(tmp_path)
    config = project / "offline-kit.toml"
    config.write_text(config.read_text().replace('"data.py"]', '"data.py", "lib"]'))
    (project / "lib").mkdir()
    (project / "lib/__init__.py").write_text(f"{top}\n")
    (project / "lib/other.py").write_text(
        "import timm\n\n\ndef build():\n    return timm.create_model('a', pretrained=True)\n"
    )
    (project / "net.py").write_text(f"{first}\n{(project / 'net.py').read_text()}")
    found = run(project, "build")[0]["findings"]
    assert [each["about"] for each in found] == ["lib/other.py:5"] * number


def test_a_notebook_as_main_from_is_named(tmp_path: Path) -> None:
    """Classes of a notebook cannot be imported: the build says which cell to copy instead of failing later."""
    project = make(tmp_path)
    code = "import __main__, pickle\nclass Scaler: pass\n__main__.Scaler = Scaler\nScaler.__module__ = '__main__'\npickle.dump(Scaler(), open('s.pkl', 'wb'))\n"
    subprocess.run([sys.executable, "-c", code], cwd=project, check=True)
    cell: dict[str, Any] = {
        "cell_type": "code",
        "source": "class Scaler: pass",
        "metadata": {},
        "outputs": [],
        "execution_count": None,
    }
    (project / "train.ipynb").write_text(
        json.dumps({"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5})
    )
    (project / "offline-kit.toml").write_text(
        'preprocessing = ["s.pkl"]\nmain_from = "train.ipynb"\n' + CONFIG
    )
    told, said = run(project, "build")
    assert (told["ok"], "train.ipynb" in said) == (False, True)
    assert "copy the cell" in said


@pytest.mark.parametrize(
    ("asked", "more", "named"),
    [
        ("torch >=1.8, <2.0\n    numpy <2\n    torchmetrics <0.11\n    tqdm", "", ["numpy", "torch"]),
        ("torch <2.0\n    torchmetrics <0.11", 'exclude = ["torch"]\n', []),
        ("torch >=1.8\n    torchmetrics >=0.7", "", []),
        ("torchmetrics <0.11", "", []),  # not protected: the kit brings the other version
        ("torch <2.0", 'replace = ["torch"]\n', []),
        ("torch <2.0; python_version < '3'", "", []),
    ],
)
def test_bounds_of_an_own_package_are_named_at_once(
    tmp_path: Path, asked: str, more: str, named: list[str]
) -> None:
    """All bounds that exclude protected versions are in one finding before the build; other bounds need no edit."""
    project = make(tmp_path)
    (project / "setup.py").write_text("from setuptools import setup\nsetup()\n")
    (project / "setup.cfg").write_text(
        f"[metadata]\nname = plants\n[options]\npy_modules = net\ninstall_requires =\n    {asked}\n"
    )
    (project / "offline-kit.toml").write_text(
        f'packages = ["."]\nimage = "kaggle-2026-10-cpu"\n{more}{CONFIG}'
    )
    check = next(each for each in run(project, "doctor")[0]["checks"] if each["code"] == "K207")
    lines = [check["what"], *check["details"]]
    bounds = [line for line in lines if "'setup.cfg'" in line]
    assert len(bounds) == bool(named)
    assert all(f"{name}<" in bounds[0] for name in named)
    assert not any(f"{name}<" in "".join(bounds) for name in ("torchmetrics", "tqdm"))


@pytest.mark.parametrize(
    ("saved", "params", "number"),
    [
        ({}, "", 1),
        ({"hyper_parameters": {"hidden": 3}}, "", 0),
        ({"hyper_parameters": {"lr": 3}}, "", 1),
        ({}, "[notebook.params]\nhidden = 3\n", 0),
    ],
)
def test_an_argument_that_nothing_gives_is_named(
    tmp_path: Path, saved: dict[str, Any], params: str, number: int
) -> None:
    """A constructor's argument stands in the checkpoint or in the notebook's params, or both commands name it."""
    torch: Any = pytest.importorskip("torch", reason="the checkpoint is made with torch")
    project = make(tmp_path)
    (project / "net.py").write_text(
        NET.format(body="pass").replace("import timm", "").replace("(self)", "(self, hidden, *, lr=1)")
    )
    weights = {"state_dict": {"a": torch.zeros(1)}, "pytorch-lightning_version": "2.5", **saved}
    torch.save(weights, project / "best.ckpt")
    config = CONFIG.replace("best.npz", "best.ckpt") + params
    (project / "offline-kit.toml").write_text(config)
    found = [each["about"] for each in run(project, "build")[0]["findings"]]
    assert found == ["best.ckpt"] * number
    checks = {each["code"]: each for each in run(project, "doctor")[0]["checks"]}
    assert checks["K207"]["state"] == ("warning" if number else "ok")
    assert ("'hidden'" in json.dumps(checks["K207"])) == bool(number)


def test_names_that_main_from_lacks_are_named(tmp_path: Path) -> None:
    """What was copied out of a notebook without its imports is known before a pickle is loaded."""
    project = make(tmp_path)
    config = project / "offline-kit.toml"
    config.write_text('main_from = "train.py"\n' + config.read_text())
    good = "import os\nLIMIT = 3\n\n\ndef later():\n    global TABLE\n    TABLE = [each for each in range(LIMIT)]\n    return TABLE, __file__\n"
    (project / "train.py").write_text(good)
    assert [one for one in run(project, "build")[0]["findings"] if one["about"] == "train.py"] == []
    (project / "train.py").write_text(
        f"{good}\n\nclass Cleaner:\n    def transform(self, x):\n        return np.log(x) + SHIFT\n"
    )
    found = [one for one in run(project, "build")[0]["findings"] if one["about"] == "train.py"]
    assert len(found) == 1
    assert "SHIFT, np" in found[0]["what"]
