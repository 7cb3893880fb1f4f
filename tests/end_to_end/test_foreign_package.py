"""A package that was never meant for a kit: from its clone to a green rehearsal in three edits, named in advance."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.support.lazy_modules import torch

pytestmark = [
    pytest.mark.slow,
    pytest.mark.index,
    pytest.mark.sandbox,
    pytest.mark.skipif(
        not find_spec("pytorch_lightning"), reason="the rehearsal runs where the packages are"
    ),
]

SETUP = """\
[metadata]
name = picture-tools
version = 2022.5
[options]
packages = find:
install_requires =
    torch >=1.8.1, <2.0
    torchmetrics >=0.7.0, <0.11.0
    pytorch-lightning >=1.5.0, <2.0
"""
MODEL = """
import torch
from pytorch_lightning import LightningModule


class Lit{0}(LightningModule):
    def __init__(self, hidden: int, num_classes: int = 2, lr: float = 1e-4):
        super().__init__()
        self.model = torch.nn.Sequential(torch.nn.Linear(1, hidden), torch.nn.Linear(hidden, num_classes))
        self.learning_rate = lr

    def forward(self, x):
        return self.model(x)
"""
DATA = """
import csv
import os

import torch
from pytorch_lightning import LightningDataModule
from torch.utils.data import DataLoader


class {0}DM(LightningDataModule):
    def __init__(self, path_csv: str = "train.csv", base_path: str = ".", batch_size: int = 2):
        super().__init__()
        self.path_csv, self.base_path, self.batch_size = os.path.join(base_path, path_csv), base_path, batch_size

    def setup(self, *_, **__):
        assert os.path.isfile(self.path_csv)
        with open(os.path.join(self.base_path, "test.csv")) as stream:
            self.rows = list(csv.DictReader(stream))

    def test_dataloader(self):
        items = [(torch.tensor([float(row["width"])]), row["id"]) for row in self.rows]
        return DataLoader(items, batch_size=self.batch_size)
"""
SUBCLASS = """

class ForKaggle(LeafRustDM):
    def __init__(self, folder):
        super().__init__(base_path=str(folder))

    def submission(self, predictions):
        labels = predictions.argmax(1).tolist()
        return [{"id": row["id"], "label": label} for row, label in zip(self.rows, labels)]
"""


def clone(folder: Path) -> Path:
    """Write the project as it would be cloned, with what was trained and the competition's data beside it."""
    texts = {
        "setup.cfg": SETUP,
        "setup.py": "from setuptools import setup\nsetup()\n",
        "pyproject.toml": '[build-system]\nrequires = ["setuptools", "wheel"]\n',
        "picture_tools/__init__.py": "",
        "input/leaf-rust-2021/train.csv": "id,width,label\n9,1,0\n",
        "input/leaf-rust-2021/test.csv": "id,width\n1,-5\n2,7\n3,-6\n",
        "input/leaf-rust-2021/sample_submission.csv": "id,label\n1,0\n2,0\n3,0\n",
    }
    for name in ("airships", "leaf_rust"):
        texts[f"picture_tools/{name}/__init__.py"] = ""
        texts[f"picture_tools/{name}/models.py"] = MODEL.format(name.title().replace("_", ""))
        texts[f"picture_tools/{name}/data.py"] = DATA.format(name.title().replace("_", ""))
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    weights = {
        "model.0.weight": torch.tensor([[1.0], [0.0], [0.0]]),
        "model.0.bias": torch.zeros(3),
        "model.1.weight": torch.tensor([[-1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]),
        "model.1.bias": torch.zeros(2),
    }
    (folder / "checkpoints").mkdir()
    saved = {"state_dict": weights, "pytorch-lightning_version": "1.9.5", "epoch": 3, "global_step": 9}
    torch.save(saved, folder / "checkpoints" / "epoch=3.ckpt")
    return folder


def run(project: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "offline_kit", *words],
        cwd=project,
        env={**os.environ, "COLUMNS": "300"},
        capture_output=True,
        text=True,
        check=False,
    )


def edit(path: Path, *changes: tuple[str, str]) -> None:
    text = path.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path.write_text(text)


def test_three_edits_that_are_named_in_advance(tmp_path: Path) -> None:
    """`doctor` alone names all three; after them the first rehearsal passes, with the trained model's answers."""
    project = clone(tmp_path / "clone")
    made = run(project, "init", "--yes")
    assert made.returncode == 0, made.stderr
    config = project / "pyproject.toml"
    assert 'model = "picture_tools.leaf_rust.models:LitLeafRust"' in config.read_text()
    told = json.loads(run(project, "doctor", "--json").stdout)
    words = json.dumps(told)
    assert "'setup.cfg' excludes" in words
    assert "leaf_rust.data:LeafRustDM" in words
    assert "'hidden'" in words
    assert "notebook.params" in words

    edit(project / "setup.cfg", (", <2.0", ""), (", <0.11.0", ""))
    data = project / "picture_tools" / "leaf_rust" / "data.py"
    data.write_text(data.read_text() + SUBCLASS)
    edit(
        config,
        ("leaf_rust.data:LeafRustDM", "leaf_rust.data:ForKaggle"),
        (
            "[tool.offline-kit.notebook]",
            "[tool.offline-kit.notebook.params]\nhidden = 3\n\n[tool.offline-kit.notebook]",
        ),
    )
    told = json.loads(run(project, "doctor", "--json").stdout)
    assert next(each["state"] for each in told["checks"] if each["code"] == "K207") == "ok"
    done = run(project, "rehearse", "--env", "current", "--yes", "--json")
    assert done.returncode == 0, done.stderr
    answer = project / "dist" / "offline-kit" / "rehearsal" / "submission.csv"
    assert answer.read_text().split() == ["id,label", "1,0", "2,1", "3,0"]
