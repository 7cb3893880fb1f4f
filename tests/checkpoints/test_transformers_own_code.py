"""Folders of transformers that bring their own code: it runs in the notebook where that is allowed, and only there."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from offline_kit.project.types import ModelSpec
from offline_kit.rehearsal import causes
from tests.support.lazy_modules import safetensors, torch
from tests.support.predicting import Stage

pytestmark = pytest.mark.skipif(not find_spec("transformers"), reason="the folders are loaded with it")

OWN = """
import torch
from transformers import PretrainedConfig, PreTrainedModel


class Settings(PretrainedConfig):
    model_type = "mine-alone"


class NetForRows(PreTrainedModel):
    config_class = Settings

    def __init__(self, config):
        super().__init__(config)
        self.layer = torch.nn.Linear(2, 3)
        self.post_init()

    def forward(self, rows):
        return self.layer(rows)
"""


def stage_with(tmp_path: Path) -> tuple[Stage, Any]:
    """Return a project with such a folder and a test set, and what its model answers."""
    torch.manual_seed(0)
    layer = torch.nn.Linear(2, 3)
    stage = Stage(tmp_path)
    folder = stage.project / "models" / "net"
    folder.mkdir(parents=True)
    weights = {f"layer.{name}": value for name, value in layer.state_dict().items()}
    safetensors.save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    own = {"AutoConfig": "own_net.Settings", "AutoModelForSequenceClassification": "own_net.NetForRows"}
    config = {"model_type": "mine-alone", "architectures": ["NetForRows"], "auto_map": own}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own_net.py").write_text(OWN)
    (stage.data / "test.csv").write_text("id,a,b\n0,1,2\n1,3,4\n")
    (stage.data / "sample_submission.csv").write_text("id,x,y,z\n0,0,0,0\n1,0,0,0\n")
    with torch.inference_mode():
        return stage, layer(torch.tensor([[1.0, 2.0], [3.0, 4.0]])).softmax(-1).numpy()


def test_allowed_code_of_the_folder_predicts(tmp_path: Path) -> None:
    """`trust_remote_code = true` in the params of the entry lets the folder's own classes load its weights."""
    stage, expected = stage_with(tmp_path)
    entry = ModelSpec(files="models/net", params={"trust_remote_code": True})
    said = stage.run(
        stage.notebook("models", task="tabular", models=(entry,), params={"activation": "softmax"})
    )
    assert "submission: agrees" in said, said
    assert stage.submission()[["x", "y", "z"]].to_numpy() == pytest.approx(expected, abs=1e-5)


def test_code_that_nobody_allowed_does_not_run(tmp_path: Path) -> None:
    """The error is known, with the key that allows it."""
    stage, _ = stage_with(tmp_path)
    said = stage.run(stage.notebook("models", task="tabular"))
    explained = causes.explain_failure(said)
    assert explained.code == "remote-code-not-allowed"
    assert "trust_remote_code = true" in explained.remedy
