"""A five-fold ensemble of two kinds, rehearsed: its mean, and the memory of its largest member alone."""

import json
from pathlib import Path
from typing import Any

import pytest
from test_matrix import Row, rows, train
from workbench import run

pytestmark = [pytest.mark.slow, pytest.mark.index, pytest.mark.sandbox, pytest.mark.usefixtures("python_313")]

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
    alone = rehearsed(project)
    # The figure means something: the model itself is a good part of that peak, and five were more than the limit.
    assert largest.stat().st_size > 0.4 * alone["peak_memory"]
    assert whole["peak_memory"] <= 1.25 * alone["peak_memory"], (whole["peak_memory"], alone["peak_memory"])
