"""What a build makes of the weights: poison stops it, a script is lent to pickles, hub names are told before a push."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from offline_kit.checkpoints import members
from offline_kit.checkpoints.downloads import read_settings
from offline_kit.core.errors import ProjectError
from offline_kit.project import images
from offline_kit.project.config import Config, load_config
from offline_kit.project.types import Member, Severity
from offline_kit.workflow import model_files
from offline_kit.workflow.model_files import ModelFiles

TRAIN = """
import pickle
class Cleaner:
    def clean(self, x): return x
if __name__ == "__main__":
    pickle.dump(Cleaner(), open("model.pkl", "wb"))
"""


def looked(project: Path, table: str) -> ModelFiles:
    """Look at the trained files of a project with this configuration, as a build does first."""
    (project / "offline-kit.toml").write_text(table)
    (project / "requirements.txt").touch()
    (project / "predict.py").write_text("def predict(context): return []\n")
    config: Config = load_config(project, {"notebook": {"function": "predict.py:predict"}})
    chosen = images.load_image(config.image, accelerator=config.accelerator, project=project)
    return model_files.inspect_model_files(config, chosen, cache=project.parent / "cache")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Give an empty project."""
    folder = tmp_path / "project"
    folder.mkdir()
    return folder


def folder_of_bert(project: Path, **config: Any) -> Path:
    """Write a model folder as transformers' Trainer leaves it."""
    folder = project / "bert"
    folder.mkdir()
    (folder / "config.json").write_text(
        json.dumps({"model_type": "bert", "_name_or_path": "org/bert", **config})
    )
    for name in ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state_0.pth", "training_args.bin"):
        (folder / name).write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    (folder / "trainer_state.json").write_text("{}")
    return folder


class Poison:
    """Runs something when it is loaded."""

    def __reduce__(self) -> Any:
        return os.system, ("touch poisoned",)


def test_a_poisoned_pickle_stops_the_build(project: Path) -> None:
    """Among the checkpoints or beside them, it stops the build; `trust` lets it travel."""
    (project / "good.pkl").write_bytes(pickle.dumps([1]))
    (project / "bad.pkl").write_bytes(pickle.dumps(Poison()))
    with pytest.raises(ProjectError, match=r"'bad\.pkl' imports 'posix\.system'"):
        looked(project, 'checkpoints = ["*.pkl"]')
    with pytest.raises(ProjectError, match=r"'bad\.pkl' imports 'posix\.system'"):
        looked(project, 'checkpoints = ["good.pkl"]\npreprocessing = ["bad.pkl"]')
    assert looked(project, 'checkpoints = ["*.pkl"]\ntrust = ["bad.pkl"]').checkpoints


def test_a_script_is_asked_for_and_lent(project: Path) -> None:
    """A class of the training script needs `main_from`, and then the notebook lends it."""
    (project / "train.py").write_text(TRAIN)
    subprocess.run([sys.executable, "train.py"], cwd=project, check=True)
    with pytest.raises(ProjectError, match="needs 'Cleaner' of the script") as caught:
        looked(project, 'checkpoints = ["model.pkl"]')
    assert 'main_from = "train.py"' in caught.value.hint
    seen = looked(project, 'checkpoints = ["model.pkl"]\nmain_from = "train.py"')
    assert (seen.lent.path, seen.lent.names) == ("train.py", ("Cleaner",))


def test_the_trainers_files_stay_at_home(project: Path) -> None:
    """Of a model folder the optimizer, schedulers and states are left out, unless one is named outright."""
    folder_of_bert(project)
    names = [each.original for each in looked(project, 'checkpoints = ["bert"]').checkpoints]
    assert names == ["bert/config.json", "bert/model.safetensors"]
    table = 'checkpoints = ["bert", "bert/training_args.bin"]'
    assert "bert/training_args.bin" in [each.original for each in looked(project, table).checkpoints]


def about(seen: ModelFiles) -> dict[str, str]:
    """Return what is warned of, by file."""
    return {each.about: each.what for each in seen.findings if each.severity is Severity.WARN}


def test_a_folder_that_names_a_hub_id_is_found(project: Path) -> None:
    """A folder without its tokenizer would fetch the one of the hub that its config names."""
    folder = folder_of_bert(project)
    found = about(looked(project, 'checkpoints = ["bert"]'))
    assert "the hub's 'org/bert'" in found["bert/config.json"]
    (folder / "tokenizer.json").write_text("{}")
    assert not about(looked(project, 'checkpoints = ["bert"]'))


def test_code_and_base_models_of_the_hub_are_found(project: Path) -> None:
    """`auto_map` to another repository and an adapter's base model are told with their hub ids."""
    folder = folder_of_bert(
        project, auto_map={"AutoModel": "org/code--modeling.Net", "AutoConfig": "here.Config"}
    )
    (folder / "tokenizer.json").write_text("{}")
    (folder / "here.py").write_text("class Config: pass\n")
    adapter = project / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "org/base"}))
    found = about(looked(project, 'checkpoints = ["bert", "adapter"]'))
    assert "'org/code'" in found["bert/config.json"]
    assert "'org/base'" in found["adapter/adapter_config.json"]
    seen = looked(project, 'checkpoints = ["bert"]').findings
    assert "trust_remote_code = true in the `params`" in seen[0].remedy
    assert 'model = "src/modeling.py:Class"' in seen[0].remedy


@pytest.mark.parametrize(
    "text", ["[1]", "{", '{"model_type": 1, "weight_map": [1]}', "{}" + " " * (17 << 20)]
)
def test_settings_that_are_none_say_nothing(tmp_path: Path, text: str) -> None:
    """A list, half a file, another kind of table, or a file that is far too large is no configuration of a model."""
    for name in ("config.json", "model.safetensors.index.json"):
        (tmp_path / name).write_text(text)
    made = Member(name="b", framework="transformers", path=tmp_path, kit_path="b", model="net.py:Net")
    assert members.check_members([made]) == ()
    assert read_settings(tmp_path / "config.json").keys() <= {"model_type", "weight_map"}


def test_a_model_of_pictures_needs_a_processor(project: Path) -> None:
    """A vision model without its processor is told; its backbone's own weights would be fetched."""
    folder_of_bert(project, model_type="vit", use_pretrained_backbone=True, backbone="resnet50")
    whats = [each.what for each in looked(project, 'checkpoints = ["bert"]').findings]
    assert "processor" in whats[0]
    assert "'resnet50'" in whats[1]
