"""sample_project in the versions of Kaggle's image: both installers, both mount layouts."""

import json
import runpy
import shutil
from pathlib import Path

import pytest

from tests.support.workbench import run

pytestmark = [pytest.mark.slow, pytest.mark.index, pytest.mark.sandbox, pytest.mark.usefixtures("python_313")]

SAMPLE = Path(__file__).parents[2] / "sample_project"


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the sample's kit in a copy."""
    ignored = shutil.ignore_patterns("dist", "__pycache__")
    folder = shutil.copytree(SAMPLE, tmp_path_factory.mktemp("sample") / "project", ignore=ignored)
    run("build", folder, "--json").good()
    return folder


@pytest.mark.parametrize(("installer", "layout"), [("uv", "new"), ("pip", "old")])
def test_it_scores_at_fidelity_matching(sample: Path, installer: str, layout: str) -> None:
    """Python 3.13 and the image's torch, numpy and lightning: at least 0.90 macro-F1 on the hidden pictures."""
    words = ("rehearse", sample, "--no-build", "--competition-data", sample / "hidden", "--yes", "--json")
    done = run(*words, "--installer", installer, "--layout", layout).good()
    report = done.facts["rehearsal"]
    assert report["fidelity"] == "matching"
    assert report["python"].startswith("3.13.")
    assert (report["installer"], report["layout"]) == (installer, layout)
    assert report["rows"] > len((sample / "labels" / "public.csv").read_text().splitlines())

    evidence = sample / "dist" / "offline-kit" / "rehearsal"
    kept = json.loads((evidence / "report.json").read_text())
    assert (kept["fidelity"], kept["passed"]) == ("matching", True)
    text = (evidence / "executed.ipynb").read_text()
    mount = "/kaggle/input/competitions/which-digits" if layout == "new" else "/kaggle/input/which-digits"
    assert mount in text
    score = runpy.run_path(str(sample / "score.py"))["macro_f1"](evidence / "submission.csv")
    assert score >= 0.90
