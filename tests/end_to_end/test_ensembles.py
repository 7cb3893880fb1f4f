"""Ensembles, rehearsed: of two kinds, of several sources, and at the memory of their largest member alone."""

import gzip
import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest

from tests.support.matrix import Row, rows, train
from tests.support.workbench import run

pytestmark = [pytest.mark.index, pytest.mark.sandbox]

FOLDS = Row(script="ensemble_folds", framework="xgboost", alone=("xgboost",))
ALONE = """
[[notebook.models]]
files = "models/{name}"
"""


def rehearsed(project: Path) -> dict[str, Any]:
    """Build and rehearse; return the report."""
    run("build", project, "--json").good()
    found = run("rehearse", project, "--no-build", "--yes", "--json").good().facts["rehearsal"]
    assert isinstance(found, dict)
    return found


@pytest.mark.slow
@pytest.mark.usefixtures("python_313")
def test_five_folds_of_two_kinds_take_little_more_memory_than_the_largest(tmp_path: Path) -> None:
    """The notebook predicts the mean of all five, at a peak of at most 1.25 times that of its largest model alone."""
    project = train(FOLDS, tmp_path / "project")
    whole = rehearsed(project)
    assert whole["fidelity"] == "matching"
    kit = project / "dist" / "offline-kit"
    ours, theirs = rows(kit / "rehearsal" / "submission.csv"), rows(project / "expected.csv")
    assert list(ours) == list(theirs)
    assert [ours[key] for key in ours] == [pytest.approx(theirs[key], abs=1e-6) for key in ours]
    notebook = json.loads((kit / "notebook" / "inference.ipynb").read_text())
    text = "\n".join("".join(cell["source"]) for cell in notebook["cells"])
    assert "def load_sklearn" in text
    assert "def load_xgboost" in text

    models = sorted((project / "models").iterdir(), key=lambda path: path.stat().st_size)
    assert len(models) == 5
    largest = models[-1]
    config = project / "offline-kit.toml"
    config.write_text(config.read_text() + ALONE.format(name=largest.name))
    alone = 0
    for _ in range(3):  # the peak is sampled: a busy machine may miss it
        alone = max(alone, rehearsed(project)["peak_memory"])
        if whole["peak_memory"] <= 1.25 * alone:
            break
    # The figure means something: the model itself is a good part of that peak, and five were more than the limit.
    assert largest.stat().st_size > 0.4 * alone
    assert whole["peak_memory"] <= 1.25 * alone, (whole["peak_memory"], alone)


MIXED = """
competition = "some-competition"
competition_data = "input"
dataset = "some-kit"
image = "kaggle-2026-10-cpu"
checkpoints = ["models"]
copies = {"dataset:me/folds" = "elsewhere"}

[[notebook.models]]
files = "models/*"

[[notebook.models]]
files = "folds/*.pkl"
from = "dataset:me/folds"
weight = 3
"""


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Make a project whose models lie in its kit and in a dataset, with a scaler among them."""
    linear = pytest.importorskip("sklearn.linear_model")
    preprocessing = pytest.importorskip("sklearn.preprocessing")
    for name, thing in {
        "models/one.pkl": linear.LinearRegression().fit([[0.0], [1.0]], [0.0, 1.0]),
        "models/scaler.pkl": preprocessing.StandardScaler().fit([[0.0], [1.0]]),
        "elsewhere/folds/five.pkl": linear.LinearRegression().fit([[0.0], [1.0]], [0.0, 5.0]),
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(pickle.dumps(thing))
    (tmp_path / "offline-kit.toml").write_text(MIXED)
    (tmp_path / "requirements.in").touch()
    (tmp_path / "input").mkdir()
    (tmp_path / "input" / "test.csv").write_text("id,x\n007,1\n008,2\n")
    (tmp_path / "input" / "sample_submission.csv").write_text("id,target\n007,0\n008,0\n")
    return tmp_path


def test_models_of_the_kit_and_of_a_dataset_are_one_ensemble(mixed: Path) -> None:
    """The weighted mean of both, the dataset attached; the scaler among the models travels, and is none."""
    done = run("rehearse", mixed, "--env", "current").good()
    kit = mixed / "dist" / "offline-kit"
    answers = rows(kit / "rehearsal" / "submission.csv")
    assert answers == {"007": pytest.approx([4.0]), "008": pytest.approx([8.0])}
    metadata = json.loads((kit / "notebook" / "kernel-metadata.json").read_text())
    assert metadata["dataset_sources"] == ["some-kit", "me/folds"]
    said = " ".join(done.err.split())
    assert "'models/scaler.pkl' prepares data and cannot predict" in said
    assert "were saved with scikit-learn" in said
    roles = {
        each["original"]: each["role"]
        for each in json.loads((kit / "dataset" / "offline-kit.json").read_text())["files"]
    }
    assert roles["checkpoints/preprocessing/models/scaler.pkl"] == "preprocessing"
    assert roles["checkpoints/models/one.pkl"] == "checkpoint"


def test_a_poisoned_pickle_of_a_dataset_stops_the_build(mixed: Path) -> None:
    """What is loaded from another source is scanned in its copy, though it does not travel."""

    class Poison:
        def __reduce__(self) -> Any:
            return (os.system, ("true",))

    (mixed / "elsewhere" / "folds" / "five.pkl").write_bytes(pickle.dumps(Poison()))
    done = run("build", mixed)
    assert done.code == 1
    assert "folds/five.pkl" in done.err
    assert "system" in done.err


PUBLISHED = """
image = "local"
checkpoints = ["models/*.pkl.gz"]
publish_model = "some-model/scikitLearn/folds"
"""
TAKEN = """
competition = "some-competition"
competition_data = "input"
dataset = "some-kit"
image = "local"
{copies}

[notebook]
task = "tabular"

[[notebook.models]]
files = "{files}"
from = "{source}"
framework = "sklearn"
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "files"),
    [
        ("model:me/some-model/scikitLearn/folds/1", "models/*.pkl.gz"),
        pytest.param("dataset:me/some-model", "checkpoints/models/five.pkl.gz", marks=pytest.mark.exhaustive),
        pytest.param("notebook:me/some-model", "checkpoints/models/*.gz.xyz", marks=pytest.mark.exhaustive),
    ],
)
def test_what_a_kit_has_published_is_taken_by_its_original_names(
    mixed: Path, tmp_path: Path, source: str, files: str
) -> None:
    """One project publishes its checkpoint, which Kaggle must not unpack; another names it as the first one had it."""
    first = tmp_path / "first"
    (first / "models").mkdir(parents=True)
    packed = gzip.compress((mixed / "elsewhere" / "folds" / "five.pkl").read_bytes())
    (first / "models" / "five.pkl.gz").write_bytes(packed)
    (first / "offline-kit.toml").write_text(PUBLISHED)
    (first / "requirements.in").touch()
    run("build", first, "--json").good()
    (manifest,) = [
        path
        for path in (first / "dist" / "offline-kit").glob("**/offline-kit.json")
        if "five.pkl.gz" in path.read_text()
    ]
    assert [path.name for path in manifest.parent.rglob("five*")] == ["five.pkl.gz.xyz"]
    copies = f'copies = {{"{source}" = "{manifest.parent}"}}'
    (mixed / "offline-kit.toml").write_text(TAKEN.format(copies=copies, files=files, source=source))
    done = run("rehearse", mixed, "--env", "current", "--yes", "--json").good()
    assert done.facts["rehearsal"]["rows"] == 2
    written = rows(mixed / "dist" / "offline-kit" / "rehearsal" / "submission.csv")
    assert list(written.values()) == [pytest.approx([5.0]), pytest.approx([10.0])]
