"""The sample is honest: its data, its requirements, its checkpoint, and the road from it to a score."""

import csv
import json
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from offline_kit.project import images

ROOT = Path(__file__).parent.parent
SAMPLE = ROOT / "sample_project"


def table(path: Path) -> dict[str, str]:
    """Return a table of images and labels."""
    with path.open(newline="") as stream:
        return {row["image"]: row["labels"] for row in csv.DictReader(stream)}


def scorer() -> dict[str, Any]:
    """Return what score.py defines."""
    return runpy.run_path(str(SAMPLE / "score.py"))


def test_the_hidden_test_has_other_ids_and_more_rows() -> None:
    """A stored answer for the public pictures is worth nothing on the hidden ones."""
    public, hidden = (table(SAMPLE / part / "sample_submission.csv") for part in ("input", "hidden"))
    assert not public.keys() & hidden.keys()
    assert len(hidden) > len(public) > 0


@pytest.mark.parametrize(("part", "labels"), [("input", "public"), ("hidden", "hidden")])
def test_pictures_sample_submission_and_labels_agree(part: str, labels: str) -> None:
    """Each picture has one row in the sample submission and one label, in a folder that is never mounted."""
    pictures = {path.name for path in (SAMPLE / part / "test").iterdir()}
    assert pictures == table(SAMPLE / part / "sample_submission.csv").keys()
    assert pictures == table(SAMPLE / "labels" / f"{labels}.csv").keys()
    assert not list((SAMPLE / part).rglob("labels*"))


def test_the_sample_is_small() -> None:
    """What everybody clones stays below 2 MB, the checkpoint below 500 kB."""
    listed = subprocess.run(["git", "ls-files", "-z", "."], cwd=SAMPLE, capture_output=True, check=False)
    names = [name for name in listed.stdout.decode().split("\0") if name]
    files = [SAMPLE / name for name in names] or [p for p in SAMPLE.rglob("*") if "dist" not in p.parts]
    assert sum(path.stat().st_size for path in files if path.is_file()) < 2_000_000
    assert (SAMPLE / "checkpoints" / "best.ckpt").stat().st_size < 500_000


def test_the_checkpoint_loads_without_trust() -> None:
    """torch.load(weights_only=True) takes it, and no optimizer state is in it."""
    import torch

    loaded = torch.load(SAMPLE / "checkpoints" / "best.ckpt", map_location="cpu", weights_only=True)
    assert loaded["state_dict"]
    assert loaded["hyper_parameters"]
    assert "optimizer_states" not in loaded


def test_the_data_can_be_made_again() -> None:
    """make_data.py composes the very pictures and labels that are committed."""
    import numpy as np
    from PIL import Image

    made = runpy.run_path(str(SAMPLE / "make_data.py"))
    rng = np.random.default_rng(8)
    bank, names = made["digits"]("test")
    labels = table(SAMPLE / "labels" / "public.csv")
    for _ in range(made["PUBLIC"]):
        name = f"{rng.bytes(6).hex()}.png"
        picture, shown = made["compose"](rng, bank, names)
        with Image.open(SAMPLE / "input" / "test" / name) as stored:
            assert np.array_equal(np.asarray(stored), picture)
        assert labels[name] == " ".join(map(str, shown))


def test_the_image_has_three_of_the_five_requirements() -> None:
    """The sample needs what the image has and what it lacks."""
    words = (line.split("==")[0].strip() for line in (SAMPLE / "requirements.in").read_text().splitlines())
    asked = {word for word in words if word and not word.startswith("#")}
    image = images.load_image("kaggle-2026-10-cpu", accelerator="none", project=SAMPLE)
    assert asked & set(image.packages) == {"torch", "pytorch-lightning", "pillow"}
    assert asked - set(image.packages) == {"efficientnet-pytorch", "ttach"}


def test_the_right_answers_score_one() -> None:
    """Macro-F1 of the labels against themselves is 1; of one digit for everything it is poor."""
    macro_f1, labels = scorer()["macro_f1"], SAMPLE / "labels" / "public.csv"
    assert macro_f1(labels, labels) == 1.0
    assert macro_f1(SAMPLE / "input" / "sample_submission.csv", labels) < 0.2


def test_a_missing_picture_is_no_score(tmp_path: Path) -> None:
    """A submission that lacks a row is refused, as on Kaggle."""
    labels = SAMPLE / "labels" / "public.csv"
    short = tmp_path / "short.csv"
    short.write_text("".join(labels.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(SystemExit, match="do not name the same pictures"):
        scorer()["macro_f1"](short, labels)


def copied(target: Path) -> Path:
    """Return a copy of the sample without its kit."""
    return Path(shutil.copytree(SAMPLE, target, ignore=shutil.ignore_patterns("dist", "__pycache__")))


def rehearsed(project: Path, *options: str) -> tuple[dict[str, Any], float]:
    """Build and rehearse on the hidden pictures; return the report and the score."""
    words = ["rehearse", project, "--competition-data", project / "hidden", "--json", "--yes", *options]
    done = subprocess.run(
        [sys.executable, "-m", "offline_kit", *map(str, words)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    submission = project / "dist" / "offline-kit" / "rehearsal" / "submission.csv"
    return json.loads(done.stdout), scorer()["macro_f1"](submission)


def shuffle(checkpoint: Path) -> None:
    """Shuffle the weights inside each tensor: same shapes, same values, nothing learned."""
    import torch

    loaded = torch.load(checkpoint, map_location="cpu", weights_only=True)
    order = torch.Generator().manual_seed(0)
    for name, value in loaded["state_dict"].items():
        mixed = value.flatten()[torch.randperm(value.numel(), generator=order)]
        loaded["state_dict"][name] = mixed.reshape(value.shape)
    torch.save(loaded, checkpoint)


@pytest.mark.slow
@pytest.mark.index
@pytest.mark.sandbox
def test_the_main_job(tmp_path: Path) -> None:
    """The rehearsed notebook scores at least 0.90 on the hidden pictures, with shuffled weights below 0.5."""
    project = copied(tmp_path / "sample")
    report, score = rehearsed(project, "--env", "current")
    assert "stand-in" in json.dumps(report), "the report names the fidelity"
    assert score >= 0.90
    shuffle(project / "checkpoints" / "best.ckpt")
    _, poor = rehearsed(project, "--env", "current")
    assert poor < 0.5


@pytest.mark.slow
@pytest.mark.index
@pytest.mark.sandbox
def test_the_main_job_in_the_versions_of_the_image(tmp_path: Path) -> None:
    """The same at fidelity `matching`: the image's Python and its torch."""
    project = copied(tmp_path / "sample")
    report, score = rehearsed(project)
    assert "matching" in json.dumps(report)
    assert score >= 0.90


@pytest.mark.slow
@pytest.mark.index
def test_the_checkpoint_can_be_trained_again(tmp_path: Path) -> None:
    """train.py reproduces a model of the committed one's quality."""
    lacking = tmp_path / "lacking"
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(lacking)]
    subprocess.run([*pip, "efficientnet-pytorch==0.7.1", "ttach"], check=True)
    fresh, submission = tmp_path / "fresh.ckpt", tmp_path / "submission.csv"
    path = {"PYTHONPATH": f"{lacking}:{SAMPLE / 'src'}"}
    subprocess.run([sys.executable, SAMPLE / "train.py", fresh], check=True, env={**_environment(), **path})
    predict = [sys.executable, "-c", PREDICT, str(fresh), str(SAMPLE / "hidden"), str(submission)]
    subprocess.run(predict, check=True, env={**_environment(), **path})
    assert scorer()["macro_f1"](submission) >= 0.90


PREDICT = """
import csv, pathlib, sys, torch
from which_digits.data import DigitsData
from which_digits.model import LitDigits
loaded = torch.load(sys.argv[1], weights_only=True)
model = LitDigits(**loaded["hyper_parameters"])
model.load_state_dict(loaded["state_dict"])
model.eval()
data = DigitsData(pathlib.Path(sys.argv[2]))
with torch.inference_mode():
    answers = torch.cat([model.predict_step(batch, 0) for batch in data.predict_dataloader()])
with open(sys.argv[3], "w", newline="") as stream:
    writer = csv.DictWriter(stream, ["image", "labels"])
    writer.writeheader()
    writer.writerows(data.submission(answers))
"""


def _environment() -> dict[str, str]:
    import os

    return dict(os.environ)
