"""Light checkpoints predict as the whole ones do: real models, made by Lightning and by a plain loop."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from offline_kit.checkpoints.file_kinds import classify_file
from offline_kit.checkpoints.prepare import slim_checkpoints
from offline_kit.core.files import sha256_of
from offline_kit.notebook.runtime.kit_torch import build_model, load_checkpoint
from offline_kit.project.config import Config
from offline_kit.project.types import Checkpoint
from tests.support.lazy_modules import torch

pytestmark = pytest.mark.slow

LIT = """
import pytorch_lightning as pl
import torch


class Lit(pl.LightningModule):
    def __init__(self, width=64, lr=1e-2):
        super().__init__()
        self.save_hyperparameters()
        self.net = torch.nn.Sequential(
            torch.nn.Linear(64, width), torch.nn.BatchNorm1d(width), torch.nn.ReLU(), torch.nn.Linear(width, 10)
        )

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, index):
        return torch.nn.functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self):
        adam = torch.optim.AdamW(self.parameters(), self.hparams.lr)
        return [adam], [torch.optim.lr_scheduler.CosineAnnealingLR(adam, 3)]
"""

TRAIN = """
import pytorch_lightning as pl
import torch
from sklearn.datasets import load_digits
from lit import Lit

torch.manual_seed(0)
x, y = (torch.tensor(each) for each in load_digits(return_X_y=True))
loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x.float() / 16, y), 128)
trainer = pl.Trainer(max_epochs=3, accelerator="cpu", logger=False, enable_progress_bar=False,
                     callbacks=[pl.callbacks.ModelCheckpoint("out", "best")])
trainer.fit(Lit(width=256), loader)
"""


def digits() -> Any:
    """Return the pictures of the digits as one tensor."""
    from sklearn.datasets import load_digits

    return torch.tensor(load_digits().data).float() / 16


def light(path: Path) -> Checkpoint:
    """Make one checkpoint light, with a cache of its own."""
    seen = classify_file(path)
    whole = Checkpoint(
        original=path.name,
        path=path,
        size=path.stat().st_size,
        sha256=sha256_of(path),
        kind=seen.kind,
        refused=seen.refused,
    )
    config = Config(project=path.parent, name="", version="", slim=True)
    return slim_checkpoints([whole], config, cache=path.parent / "cache")[0][0]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train a real Lightning module on the digits and return its checkpoint."""
    folder = tmp_path_factory.mktemp("digits")
    (folder / "lit.py").write_text(LIT)
    (folder / "train.py").write_text(TRAIN)
    subprocess.run([sys.executable, "train.py"], cwd=folder, check=True, capture_output=True, timeout=300)
    return folder / "out" / "best.ckpt"


def predictions(path: Path, lit: Any) -> Any:
    """Predict as the notebook's template does."""
    model = build_model(lit, load_checkpoint(path), {}, "cpu")
    with torch.inference_mode():
        return model(digits())


@pytest.fixture
def lit(trained: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Give the class of the checkpoint."""
    monkeypatch.syspath_prepend(trained.parent.parent)
    import importlib

    return importlib.import_module("lit").Lit


def test_a_slim_checkpoint_predicts_the_same(trained: Path, lit: Any) -> None:
    """Two thirds of the file are gone, and not a bit of any prediction; Lightning itself loads it too."""
    new = light(trained)
    assert new.size < 0.4 * trained.stat().st_size
    whole = predictions(trained, lit)
    assert torch.equal(predictions(new.path, lit), whole)
    model = lit.load_from_checkpoint(new.path, map_location="cpu").eval()
    assert torch.equal(model(digits()), whole)
