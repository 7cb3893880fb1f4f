"""Each framework from its training to a rehearsed kit: the notebook predicts what the model in memory did.

Trained with the image's Python and the image's own versions, in an environment of the framework's own, which
is kept in the cache; saved as people save; built and rehearsed by the command line.
"""

from pathlib import Path
from typing import Any

import pytest

from tests.support.matrix import Row, rows, train
from tests.support.workbench import run

pytestmark = [pytest.mark.slow, pytest.mark.index, pytest.mark.sandbox, pytest.mark.usefixtures("python_313")]


TRUSTED = """
[[notebook.models]]
files = "models/*.skops"
params = { trusted = ["sklearn.tree._tree.Tree"] }
"""
COLUMNS = 'columns = "columns.json"\n'  # for files that know no names of columns


SOFTMAX = 'params = { activation = "softmax" }\n'
NET = 'model = "torch_net.py:Net"\n' + COLUMNS + SOFTMAX
TRUSTED_MODULE = """
[[notebook.models]]
files = "models/model.pth"
params = { weights_only = false }
"""
WIDTH = """
[[notebook.models]]
files = "models/*"
params = { width = %d }
"""
PICTURES = """
[[notebook.models]]
files = "models/best.pth"
model = "timm:test_resnet"
params = { num_classes = 4 }
"""
TORCH = ("torch", "torchvision", "transformers", "timm", "safetensors", "pytorch-lightning", "pillow")
"""One environment for all rows of torch."""


def torch_row(script: str, framework: str, more: str, **others: Any) -> Row:
    """Return a row of torch's, in the environment that they share."""
    return Row(script=script, framework=framework, packages=TORCH, more=more, **others)


ROWS = (
    Row(script="sklearn_pickle", framework="sklearn"),
    Row(script="skops_regression", framework="skops", packages=("skops",), more=TRUSTED, optional=True),
    Row(script="xgboost_ubj", framework="xgboost", alone=("xgboost",)),
    Row(script="xgboost_json", framework="xgboost", alone=("xgboost",)),
    Row(script="lightgbm_text", framework="lightgbm", packages=("lightgbm",)),
    Row(script="pipeline_joblib", framework="sklearn", packages=("lightgbm",)),
    Row(script="catboost_cbm", framework="catboost", packages=("catboost",), optional=True),
    Row(script="onnx_sklearn", framework="onnx", packages=("onnx", "onnxruntime", "skl2onnx"), more=COLUMNS),
    Row(script="keras_all", framework="keras", packages=("keras", "tensorflow"), more=COLUMNS, optional=True),
    torch_row("torch_state_dict", "torch_state_dict", NET + WIDTH % 48, code=("torch_net.py",)),
    torch_row(
        "torch_module",
        "torch_module",
        COLUMNS + SOFTMAX + TRUSTED_MODULE,
        top='modules = ["torch_net.py"]',
        code=("torch_net.py",),
    ),
    torch_row("torch_script", "torchscript", COLUMNS + SOFTMAX),
    torch_row("torch_export", "torch_export", COLUMNS + SOFTMAX),
    torch_row("torch_safetensors", "safetensors", NET + WIDTH % 40, code=("torch_net.py",)),
    torch_row(
        "torch_lightning",
        "lightning",
        'model = "torch_lit.py:Lit"\n' + COLUMNS,
        code=("torch_net.py", "torch_lit.py"),
    ),
    torch_row(
        "torch_timm",
        "timm",
        SOFTMAX + PICTURES,
        task="images",
    ),
    torch_row("torch_transformers", "transformers", SOFTMAX, task="text"),
    torch_row("torch_vit", "transformers", SOFTMAX, task="images"),
)


EVERY_TIME = frozenset(
    {"sklearn_pickle", "pipeline_joblib", "xgboost_ubj", "lightgbm_text", "onnx_sklearn", "torch_state_dict"}
)
"""Rows for each run of CI; the others, gigabytes of frameworks among them, are for a release."""


def marked() -> list[Any]:
    """Return the rows with their marks."""
    return [
        pytest.param(row, id=row.script, marks=() if row.script in EVERY_TIME else pytest.mark.exhaustive)
        for row in ROWS
    ]


@pytest.mark.parametrize("row", marked())
def test_the_rehearsed_notebook_predicts_what_the_model_did_at_training(row: Row, tmp_path: Path) -> None:
    """The same numbers for each row of the test set, at fidelity matching, with the internet off."""
    project = train(row, tmp_path / "project")
    built = run("build", project, "--json", cwd=project).good().facts
    rehearsed = (
        run("rehearse", project, "--no-build", "--yes", "--json", cwd=project).good().facts["rehearsal"]
    )
    assert built["kit"]
    assert rehearsed["fidelity"] == "matching"
    assert rehearsed["python"].startswith("3.13.")
    kit = project / "dist" / "offline-kit"
    assert f"load_{row.framework}" in (kit / "notebook" / "inference.ipynb").read_text()
    ours, theirs = rows(kit / "rehearsal" / "submission.csv"), rows(project / "expected.csv")
    assert list(ours) == list(theirs)
    for key, expected in theirs.items():
        assert ours[key] == pytest.approx(expected, rel=1e-6, abs=1e-6), key
