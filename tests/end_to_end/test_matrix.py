"""Each framework from its training to a rehearsed kit: the notebook predicts what the model in memory did.

Trained with the image's Python and the image's own versions, in an environment of the framework's own, which
is kept in the cache; saved as people save; built and rehearsed by the command line.
"""

import csv
import hashlib
import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import uv
from filelock import FileLock
from workbench import IMAGE, run

from offline_kit import files, image, interpreters

pytestmark = [pytest.mark.slow, pytest.mark.index, pytest.mark.sandbox, pytest.mark.usefixtures("python_313")]

SCRIPTS = Path(__file__).parent / "matrix"
TABLES = ("numpy", "pandas", "scikit-learn", "scipy", "joblib")

CONFIG = """
competition = "some-competition"
competition_data = "input"
dataset = "some-kit"
image = {image!r}
checkpoints = ["models"]
{top}
[notebook]
task = "{task}"
"""
TRUSTED = """
[[notebook.models]]
files = "models/*.skops"
params = { trusted = ["sklearn.tree._tree.Tree"] }
"""
COLUMNS = 'columns = "columns.json"\n'  # for files that know no names of columns


@dataclass(frozen=True, kw_only=True)
class Row:
    """One framework, and how it is saved."""

    script: str
    """The training script, without its suffix."""
    framework: str
    """What the build should recognise."""
    packages: tuple[str, ...] = ()
    """What is trained with, besides the usual libraries of tables; at the image's versions where it has them."""
    alone: tuple[str, ...] = ()
    """Packages that are installed without what they ask for."""
    more: str = ""
    """What the [notebook] table says besides the task."""
    task: str = "tabular"
    """What it predicts on."""
    top: str = ""
    """What the configuration says at its top."""
    code: tuple[str, ...] = ()
    """Modules that the project has as its own."""
    optional: bool = False
    """An index may lack its packages."""


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


def train(row: Row, project: Path) -> Path:
    """Run the training script in an environment of its own; it leaves models, data, and what it expects."""
    (project / "models").mkdir(parents=True)
    config = CONFIG.format(image=IMAGE, task=row.task, top=row.top)
    (project / "offline-kit.toml").write_text(config + row.more)
    for name in row.code:
        shutil.copy(SCRIPTS / name, project)
    script = SCRIPTS / f"{row.script}.py"
    env = dict(os.environ) | {
        "CUDA_VISIBLE_DEVICES": "-1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    argv = [environment(row), script]
    done = subprocess.run(
        argv, cwd=project, env=env, capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return project


def environment(row: Row) -> Path:
    """Return the Python of an environment with the row's packages at the image's versions; made once."""
    versions = image.load(IMAGE, accelerator="none", project=Path()).packages
    wanted = [pinned(name, versions) for name in (*TABLES, *row.packages)]
    alone = [pinned(name, versions) for name in row.alone]
    base = interpreters.find("3.13", os.environ)
    assert base is not None
    key = hashlib.sha256(repr((wanted, alone, str(base))).encode()).hexdigest()[:16]
    folder = files.made(files.cache_dir() / "test-matrix")
    made = folder / key
    with FileLock(folder / f"{key}.lock"):
        if not (made / "whole").exists():
            over = folder / f"{key}.txt"
            over.write_text(
                "".join(f"{name}=={version.partition('+')[0]}\n" for name, version in versions.items())
            )
            tool(row, "venv", "--clear", "--python", base, made)
            tool(row, "pip", "install", "--python", made, "--override", over, *wanted)
            if alone:
                tool(row, "pip", "install", "--python", made, "--no-deps", *alone)
            (made / "whole").touch()
    return made / "bin" / "python"


def pinned(name: str, versions: Mapping[str, str]) -> str:
    """Return the requirement of a package: the image's version, or any where the image lacks it."""
    return f"{name}=={versions[name]}" if name in versions else name


def tool(row: Row, *words: str | Path) -> None:
    """Run uv; skip an optional row whose packages the index has not."""
    argv = [uv.find_uv_bin(), *map(str, words)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=900)
    if done.returncode != 0 and row.optional:
        pytest.skip(f"the index gives no environment for {row.script}: {done.stderr.strip()[-300:]}")
    assert done.returncode == 0, done.stderr[-3000:]


def rows(path: Path) -> dict[str, list[float]]:
    """Return the numbers of a submission by id."""
    with path.open(newline="") as stream:
        _, *found = csv.reader(stream)
    return {key: [float(value) for value in values] for key, *values in found}
