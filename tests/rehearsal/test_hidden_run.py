"""What a hidden run catches: the code of a notebook, as a plain function, on the public data and then on the hidden."""

import csv
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from offline_kit.core.errors import ProjectError
from offline_kit.core.report import SILENT
from offline_kit.core.sandboxes.box import BoxOutcome, Mount
from offline_kit.project.types import Kit
from offline_kit.rehearsal import environments, submission_check
from offline_kit.rehearsal.execution import KernelRun, KernelSetup, RehearsalEnvironment
from offline_kit.rehearsal.hidden_run import JudgedRun, judge_hidden_run, run_fewer_rows
from offline_kit.rehearsal.mounts import MountedInputs
from offline_kit.rehearsal.request import RehearsalRequest
from offline_kit.rehearsal.verdict import RunVerdict
from tests.rehearsal.test_rehearse import image

INSIDE = "/kaggle/input/competitions/plants"
Predict = Callable[[Path], dict[str, Any]]
NAMES = ("k1", "m2", "p3", "r4", "t5", "v6")


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def read_ids(root: Path) -> list[str]:
    return [row["id"] for row in read(root / "sample_submission.csv")]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Six plants with a picture and a mask each."""
    folder = tmp_path / "data"
    (folder / "test").mkdir(parents=True)
    for name in NAMES:
        (folder / "test" / f"{name}.png").write_text(name)
    rows = "".join(f"{name},{'red' if number else 'blue'},{number}.5\n" for number, name in enumerate(NAMES))
    (folder / "test.csv").write_text(f"id,color,size\n{rows}")
    (folder / "sample_submission.csv").write_text("id,label\n" + "".join(f"{name},0.5\n" for name in NAMES))
    (folder / "test_masks.csv").write_text("id,mask\n" + "".join(f"{name},1 4 8 2\n" for name in NAMES))
    return folder


@cache
def read_interpreter() -> environments.Interpreter:
    return environments.inspect_interpreter(Path(sys.executable))


def run_twice(data: Path, predict: Predict, **options: Any) -> tuple[RunVerdict, list[bool]]:
    """Run a function on the public data, which must work, then judge its hidden run; also return which were scoring runs."""
    are_scored: list[bool] = []

    def run_session(environment: RehearsalEnvironment, sample: Path | None, folder: Path) -> RunVerdict:
        are_scored.append("KAGGLE_IS_COMPETITION_RERUN" in environment.env)
        root, submission = folder / "root", folder / "working" / "submission.csv"
        shutil.copytree(data, root)
        for mount in environment.inputs[1:]:
            target = root / Path(mount.inside).relative_to(INSIDE)
            shutil.rmtree(target) if target.is_dir() else target.unlink()
            copy: Any = shutil.copytree if mount.source.is_dir() else shutil.copyfile
            copy(mount.source, target)
        outcome = BoxOutcome(code=0, started=0.0, seconds=1.5, memory_curve=(), memory_by="not measured")
        run = KernelRun(outcome=outcome, executed=folder, log=folder / "log.txt", working=submission.parent)
        submission.parent.mkdir()
        try:
            with submission.open("w", newline="") as stream:
                csv.writer(stream).writerows([("id", "label"), *predict(root).items()])
        except Exception as error:  # noqa: BLE001 - as a cell that failed
            failed = ProjectError("cell 1 failed", hint="", code="cell-failed", details=(repr(error),))
            return RunVerdict(run=run, problem=failed)
        checked = submission_check.check_submission(submission, sample)
        problems = ProjectError("invalid", hint="", code="submission-invalid", details=checked.problems)
        problem = problems if checked.problems else None
        return RunVerdict(run=run, problem=problem, rows=checked.rows, warnings=checked.warnings)

    python = read_interpreter()
    environment = RehearsalEnvironment(
        notebook=data,
        inputs=(Mount(inside=INSIDE, source=data),),
        kernel=KernelSetup(python=python, launch=()),
        papermill=python,
        uv=None,
        installer="auto",
        timeout=60,
    )
    sample = data / "sample_submission.csv"
    inputs = MountedInputs(mounts=environment.inputs, sample=sample, notes=(), data=INSIDE)
    kit = Kit(folder=data, id="", parts=())
    request = RehearsalRequest(
        kit=kit, image=image(), competition_data=data, **{"hidden": "auto", "hidden_rows": 30, **options}
    )
    first = run_session(environment, sample, data.parent / "run" / "box")
    assert first.problem is None
    public = JudgedRun(
        request=request,
        environment=environment,
        inputs=inputs,
        judgement=first,
        run_session=run_session,
        report=SILENT,
    )
    if not request.hidden:
        sessions = run_fewer_rows(public)
        return replace(first, hidden={"sessions": sessions}), are_scored
    return judge_hidden_run(public), are_scored


def predict_well(root: Path) -> dict[str, Any]:
    sizes = {row["id"]: float(row["size"]) / 10 for row in read(root / "test.csv")}
    return {name: sizes[name] for name in read_ids(root)}


def copy_stored_answer(_root: Path) -> dict[str, Any]:
    return {name: number / 10 for number, name in enumerate(NAMES)}


def merge_artifact(root: Path) -> dict[str, Any]:
    features = {name: number / 10 for number, name in enumerate(NAMES)}
    return {name: features[name] for name in read_ids(root)}


def default_to_constant(root: Path) -> dict[str, Any]:
    features = {name: number / 10 for number, name in enumerate(NAMES)}
    return {name: features.get(name, 0.5) for name in read_ids(root)}


def encode_test_categories(root: Path) -> dict[str, Any]:
    rows = read(root / "test.csv")
    columns = sorted({row["color"] for row in rows})  # as pandas.get_dummies does
    weights = dict(zip(columns, (0.2, 0.7), strict=True))
    return {row["id"]: weights[row["color"]] + float(row["size"]) for row in rows}


@pytest.mark.parametrize(
    ("predict", "cause"),
    [
        (copy_stored_answer, "submission-invalid"),
        (merge_artifact, "cell-failed"),
        (default_to_constant, "predictions-constant"),
        (encode_test_categories, "cell-failed"),
    ],
)
def test_code_made_for_the_public_ids_fails(data: Path, predict: Predict, cause: str) -> None:
    """A stored answer, a merge with a public artifact, a default for unknown ids, categories of the test set."""
    judgement, _ = run_twice(data, predict)
    assert judgement.problem
    assert judgement.problem.code == "hidden-run-failed"
    assert judgement.hidden
    assert judgement.hidden["problem"] == cause
    assert not judgement.hidden["rare_problem"]
    assert any("30 rows" in line for line in judgement.problem.details)


def test_good_code_passes_and_both_runs_are_measured(data: Path) -> None:
    """The second run is the scoring run; rows, time and memory of both are kept."""
    judgement, are_scored = run_twice(data, predict_well)
    assert judgement.problem is None
    assert judgement.warnings == ()
    assert judgement.hidden
    assert are_scored == [False, True]
    assert [session["rows"] for session in judgement.hidden["sessions"]] == [6, 30]
    assert judgement.hidden["sessions"][1]["seconds"] == 1.5
    assert len(judgement.hidden["changes"]) == 4
    assert not judgement.hidden["difference"]


def test_code_that_counts_on_an_order_is_named(data: Path) -> None:
    """Predictions that belong to other rows than the sample's."""

    def predict_by_position(root: Path) -> dict[str, Any]:
        sizes = [float(row["size"]) / 10 for row in read(root / "test.csv")]
        return dict(zip(read_ids(root), sizes, strict=True))

    judgement, _ = run_twice(data, predict_by_position)
    assert judgement.problem is None
    assert len(judgement.warnings) == 1
    assert judgement.hidden
    assert judgement.hidden["difference"]


def read_pictures(root: Path) -> dict[str, Any]:
    pictures = {name: (root / "test" / f"{name}.png").read_text() for name in read_ids(root)}
    return {name: ord(text[0]) / 200 for name, text in pictures.items()}


def read_short_masks(root: Path) -> dict[str, Any]:
    masks = [line.split(",") for line in (root / "test_masks.csv").read_text().splitlines()[1:]]
    if any(len(mask) > 131_072 for _, mask in masks):
        raise csv.Error("field larger than field limit (131072)")
    return predict_well(root)


@pytest.mark.parametrize("predict", [read_pictures, read_short_masks])
def test_what_only_a_rare_case_stops_is_a_warning(data: Path, predict: Predict) -> None:
    """An id without a file, a mask longer than the csv module takes: the run passes without them."""
    judgement, are_scored = run_twice(data, predict)
    assert judgement.problem is None
    assert are_scored == [False, True, True]
    assert judgement.hidden
    assert judgement.hidden["rare_problem"] == "cell-failed"
    assert len(judgement.warnings) == 1


def test_an_unreadable_file_is_no_rare_case_if_it_was_asked_for(data: Path) -> None:
    """The run is not repeated without it: it fails, and the file is named; code that copes passes."""

    def read_whole_pictures(root: Path) -> dict[str, Any]:
        texts = {name: root / "test" / f"{name}.png" for name in read_ids(root)}
        sizes = {name: len(path.read_text()) if path.exists() else 2 for name, path in texts.items()}
        if 1 in sizes.values():
            raise OSError("cannot identify image file")
        return predict_well(root)

    judgement, are_scored = run_twice(data, read_whole_pictures, hidden="auto:unreadable")
    assert judgement.problem
    assert judgement.problem.code == "hidden-run-failed"
    assert any("unreadable" in line for line in judgement.problem.details)
    assert not any("missing" in line for line in judgement.problem.details), "those of the last run alone"
    assert are_scored == [False, True, True], (
        "it was repeated without the rare cases, with the unreadable file"
    )
    shutil.rmtree(data.parent / "run")
    judgement, _ = run_twice(data, predict_well, hidden="auto:3:unreadable")
    assert (judgement.problem, judgement.warnings) == (None, ())


def test_what_only_the_hidden_run_warns_of_is_a_warning(data: Path) -> None:
    """Predictions copied from the sample where the ids are other ones are told as the hidden run's."""

    def copy_sample_for_more(root: Path) -> dict[str, Any]:
        return predict_well(root) if len(read_ids(root)) == len(NAMES) else dict.fromkeys(read_ids(root), 0.5)

    judgement, _ = run_twice(data, copy_sample_for_more, hidden=str(make_own_data(data)))
    assert judgement.problem is None
    assert judgement.warnings
    assert all(line.startswith("in the hidden run: ") for line in judgement.warnings)


def test_data_that_cannot_be_varied(data: Path) -> None:
    """The public data again, with the variable set; the one change says why."""
    (data / "test_volumes.zarr").mkdir()
    (data / "test_volumes.zarr" / "0").write_text("?")
    judgement, are_scored = run_twice(data, copy_stored_answer)
    assert judgement.problem is None
    assert are_scored == [False, True]
    assert judgement.hidden
    assert len(judgement.hidden["changes"]) == 1


def make_own_data(data: Path) -> Path:
    """Write three rows of hidden data beside the public data."""
    own = data.with_name("own")
    own.mkdir()
    (own / "test.csv").write_text("id,color,size\nz7,red,1.5\nz8,red,2.5\nz9,red,3.5\n")
    (own / "sample_submission.csv").write_text("id,label\nz7,0.5\nz8,0.5\nz9,0.5\n")
    return own


def test_a_folder_of_ones_own(data: Path, tmp_path: Path) -> None:
    """The user's hidden data is what is mounted."""
    own = make_own_data(data)
    assert run_twice(data, predict_well, hidden=str(own))[0].problem is None
    shutil.rmtree(tmp_path / "run")
    judgement, _ = run_twice(data, merge_artifact, hidden=str(own))
    assert judgement.problem
    assert judgement.problem.code == "hidden-run-failed"


def test_a_run_on_fewer_rows_is_enough_for_a_forecast(data: Path) -> None:
    """Of a run without a hidden one, a tenth of the rows, at least one; none if that fails."""
    judgement, _ = run_twice(data, predict_well, hidden="")
    assert [session.rows for session in (judgement.hidden or {})["sessions"]] == [6, 1]
    shutil.rmtree(data.parent / "run")
    judgement, _ = run_twice(data, copy_stored_answer, hidden="")
    assert (judgement.hidden or {})["sessions"] == ()
