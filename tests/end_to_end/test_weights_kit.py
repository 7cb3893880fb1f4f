"""Weights from the training to the submission: a script's own classes, light checkpoints, poison, hub names."""

import csv
import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.command_line import Done
from tests.support.workbench import run

pytestmark = [pytest.mark.slow, pytest.mark.index]

CONFIG = """
competition = "some-competition"
competition_data = "input"
dataset = "some-kit"
{more}
"""

TRAIN = '''
"""Train on a table: the commonest script, whose classes are pickled as __main__'s."""
import joblib
import numpy as np
import pandas as pd
from features import halved
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer


class Cleaner(BaseEstimator, TransformerMixin):
    def fit(self, x, y=None):
        self.medians_ = np.nanmedian(x, axis=0)
        return self

    def transform(self, x):
        return halved(np.where(np.isnan(np.asarray(x, float)), self.medians_, x))


def squashed(x):
    return np.tanh(x)


def main():
    rng = np.random.default_rng(0)
    x = pd.DataFrame(rng.normal(size=(300, 3)), columns=list("abc"))
    y = (x.a + x.b > 0).astype(int)
    x.loc[::7, "c"] = np.nan
    model = make_pipeline(Cleaner(), FunctionTransformer(squashed), LogisticRegression()).fit(x, y)
    joblib.dump(model, "model.joblib")
    test = x.head(20).assign(id=range(20))[["id", "a", "b", "c"]]
    test.to_csv("input/test.csv", index=False)
    test[["id"]].assign(target=0.5).to_csv("input/sample_submission.csv", index=False)
    test[["id"]].assign(target=model.predict_proba(x.head(20))[:, 1]).to_csv("expected.csv", index=False)


if __name__ == "__main__":
    main()
'''

LIT = """
import pytorch_lightning as pl
import torch


class Lit(pl.LightningModule):
    def __init__(self, width=8, lr=1e-2):
        super().__init__()
        self.save_hyperparameters()
        self.net = torch.nn.Sequential(torch.nn.Linear(4, width), torch.nn.ReLU(), torch.nn.Linear(width, 1))

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, index):
        return self(batch[0]).square().mean()

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), self.hparams.lr)


class Data(pl.LightningDataModule):
    def __init__(self, root=None):
        super().__init__()
        self.x = torch.linspace(-1, 1, 80).reshape(20, 4)

    def train_dataloader(self):
        return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(self.x), 5)

    def predict_dataloader(self):
        return self.train_dataloader()

    def submission(self, predictions):
        return [{"id": n, "target": float(value)} for n, value in enumerate(predictions[:, 0])]


if __name__ == "__main__":
    keep = pl.callbacks.ModelCheckpoint(".", "best")
    pl.Trainer(max_epochs=2, accelerator="cpu", logger=False, callbacks=[keep]).fit(Lit(width=256), Data())
"""


def project(folder: Path, config: str, **files: str) -> Path:
    """Write a project with these modules and this configuration."""
    (folder / "input").mkdir(parents=True)
    (folder / "requirements.txt").touch()
    (folder / "offline-kit.toml").write_text(CONFIG.format(more=config))
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    return folder


def python(folder: Path, script: str) -> None:
    """Run a script of the project, as its owner did."""
    subprocess.run([sys.executable, script], cwd=folder, check=True, capture_output=True, timeout=300)


def rehearsed(folder: Path) -> list[float]:
    """Rehearse in the running environment and return the target column."""
    run("rehearse", "--env", "current", "--json", cwd=folder).good()
    return targets(folder / "dist" / "offline-kit" / "rehearsal" / "submission.csv")


def targets(path: Path) -> list[float]:
    """Return the target column of a table."""
    with path.open() as stream:
        return [float(row["target"]) for row in csv.DictReader(stream)]


@pytest.mark.sandbox
def test_a_scripts_own_classes_predict_offline(tmp_path: Path) -> None:
    """`main_from` is asked for, and with it the notebook predicts what the training did."""
    config = 'checkpoints = ["model.joblib"]\n[notebook]\ntask = "tabular"'
    folder = project(tmp_path / "table", config, train=TRAIN, features="def halved(x):\n    return x / 2\n")
    python(folder, "train.py")
    asked: Done = run("build", cwd=folder)
    assert asked.code == 1
    assert 'set main_from = "train.py"' in asked.err
    (folder / "offline-kit.toml").write_text(CONFIG.format(more=f'main_from = "train.py"\n{config}'))
    assert rehearsed(folder) == pytest.approx(targets(folder / "expected.csv"), abs=1e-6)


@pytest.mark.sandbox
def test_light_checkpoints_give_the_same_submission(tmp_path: Path) -> None:
    """The same notebook over the whole checkpoint and the light one: the same file, a third of the size."""
    notebook = '[notebook]\nmodel = "lit.py:Lit"\ndata = "lit.py:Data"'
    folder = project(tmp_path / "lit", f'checkpoints = ["best.ckpt"]\n{notebook}', lit=LIT)
    sample = "".join(f"{n},0\n" for n in range(20))
    (folder / "input" / "sample_submission.csv").write_text(f"id,target\n{sample}")
    python(folder, "lit.py")
    # trained as a script, the hyper-parameters name nothing of __main__
    whole = rehearsed(folder)
    config = CONFIG.format(more=f'slim = true\ncheckpoints = ["best.ckpt"]\n{notebook}')
    (folder / "offline-kit.toml").write_text(config)
    assert rehearsed(folder) == whole
    (light,) = (folder / "dist" / "offline-kit" / "dataset" / "checkpoints").iterdir()
    assert light.stat().st_size < 0.5 * (folder / "best.ckpt").stat().st_size


def test_poison_and_hub_names_before_any_push(tmp_path: Path) -> None:
    """`build` stops at a poisoned pickle, and tells what a model folder would fetch from the hub."""
    config = 'checkpoints = ["bert", "extra.pkl"]'
    folder = project(tmp_path / "bert", config)
    (folder / "bert").mkdir()
    about: dict[str, Any] = {"model_type": "bert", "_name_or_path": "org/bert"}
    (folder / "bert" / "config.json").write_text(json.dumps(about))
    (folder / "bert" / "model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    (folder / "bert" / "optimizer.pt").write_bytes(b"large")
    (folder / "extra.pkl").write_bytes(b"cposix\nsystem\n(S'touch poisoned'\ntR.")
    stopped = run("build", cwd=folder)
    assert stopped.code == 1
    assert "'extra.pkl' imports 'posix.system'" in stopped.err
    assert 'trust = ["extra.pkl"]' in stopped.err
    (folder / "extra.pkl").write_bytes(pickle.dumps({"labels": ["a"]}))
    done = run("build", "--json", cwd=folder).good()
    assert any("org/bert" in each["what"] for each in done.facts["findings"])
    assert "org/bert" in done.err
    assert not list(folder.rglob("dist/**/optimizer*"))
    assert not (folder / "poisoned").exists()
