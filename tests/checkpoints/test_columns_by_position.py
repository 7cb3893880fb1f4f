"""Models that take a table's columns by their places: warned of at the build, until something says the order."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from offline_kit.checkpoints import members
from offline_kit.project import images
from offline_kit.project.config import load_config
from offline_kit.project.types import NotebookSettings, Severity
from offline_kit.workflow.model_files import inspect_model_files
from tests.support.tabular_models import LIGHTGBM, WHOLE_H5, keras, member, onnx, ubj

SAID = NotebookSettings(template="predict", task="tabular")


def inputs(count: int) -> dict[str, Any]:
    """Return what Keras writes of a model with as many inputs."""
    return {"layers": [{"class_name": "InputLayer"}] * count}


FILES: dict[str, tuple[bytes, bool]] = {
    "one.onnx": (onnx(), True),
    "each.onnx": (onnx(names="ab"), False),
    "one.keras": (keras(inputs(1)), True),
    "each.keras": (keras(inputs(2)), False),
    "one.h5": (WHOLE_H5 + json.dumps(inputs(1)).encode(), True),
    "each.h5": (WHOLE_H5 + json.dumps(inputs(2)).encode(), False),
    "model.txt": (LIGHTGBM, False),
    "model.ubj": (ubj(3, 4, 1), False),
}
"""Files of models, and whether they know no names."""


@pytest.mark.parametrize("name", FILES)
def test_models_that_know_no_columns_are_warned_of(name: str, tmp_path: Path) -> None:
    """One input for a whole table takes the columns as they stand; several, and boosters, know them by name."""
    content, warns = FILES[name]
    made = member(tmp_path, name, content)
    warned = members.check_column_order(SAID, [made, made])
    assert [each.severity for each in warned] == [Severity.WARN] * warns
    assert all("takes columns by position (and 1 other)" in each.what for each in warned)
    assert all('set columns = "columns.json"' in each.remedy for each in warned)


@pytest.mark.parametrize(
    "settings",
    [
        dataclasses.replace(SAID, columns="columns.json"),
        dataclasses.replace(SAID, transform="a.py:f"),
        dataclasses.replace(SAID, function="a.py:f"),
        dataclasses.replace(SAID, task="images"),
    ],
)
def test_what_says_the_order_ends_the_warning(settings: NotebookSettings, tmp_path: Path) -> None:
    """Recorded columns, a function of the user's that chooses them, or a task without a table."""
    assert members.check_column_order(settings, [member(tmp_path, "one.onnx", onnx())]) == ()


@pytest.mark.parametrize("saved", ["state_dict", "script", "safetensors"])
def test_a_build_warns_of_a_module(saved: str, tmp_path: Path) -> None:
    """Modules of torch in whatever form take numbers by position, and it is said before any kit exists."""
    torch: Any = pytest.importorskip("torch")
    net = torch.nn.Linear(2, 3)
    name = "m.safetensors" if saved == "safetensors" else "m.pt"
    if saved == "script":
        torch.jit.trace(net.eval(), torch.zeros(1, 2)).save(tmp_path / name)
    elif saved == "safetensors":
        pytest.importorskip("safetensors.torch").save_file(net.state_dict(), tmp_path / name)
    else:
        torch.save(net.state_dict(), tmp_path / name)
    (tmp_path / "net.py").write_text("from torch import nn\ndef Net():\n    return nn.Linear(2, 3)\n")
    config = f'checkpoints = ["{name}"]\n[notebook]\ntemplate = "predict"\ntask = "tabular"\nmodel = "net.py:Net"\n'
    (tmp_path / "offline-kit.toml").write_text(config)
    settings = load_config(tmp_path, {})
    chosen = images.load_image(settings.image, accelerator=settings.accelerator, project=tmp_path)
    found = inspect_model_files(settings, chosen, cache=tmp_path / "cache").findings
    assert [(each.about, each.what[:25]) for each in found] == [(name, "takes columns by position")]
