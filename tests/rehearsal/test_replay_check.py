"""A rehearsal of a recorded kit compared with the recorded run."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from offline_kit.project.images import load_image
from offline_kit.project.types import FileEntry, Kit, Role
from offline_kit.rehearsal import replay_check, verdict
from offline_kit.rehearsal.kit_facts import KitFile
from offline_kit.rehearsal.replay_check import CLOSE, DIFFERENT, IDENTICAL, NOT_COMPARED
from offline_kit.rehearsal.request import RehearsalRequest
from offline_kit.rehearsal.verdict import RunVerdict
from tests.support.verdicts import BENCH, cell, ran

SUBMISSION = "id,label,boxes\na,0.5,cat 0.9 1 1\nb,0.25,dog 0.8 2 2\n"


def compare(folder: Path, written: str, recorded: str, suffix: str = ".csv") -> tuple[str, str]:
    (folder / f"submission{suffix}").write_text(written)
    (folder / "recorded").write_text(recorded)
    return replay_check.compare_submissions(folder / f"submission{suffix}", folder / "recorded")


@pytest.mark.parametrize(
    ("written", "state", "words"),
    [
        (SUBMISSION.replace("0.5", "0.50000"), CLOSE, ["layout"]),
        (SUBMISSION.replace("0.5", "0.50001"), CLOSE, ["1e-05", "'label'"]),
        (SUBMISSION.replace("0.9", "0.90002"), CLOSE, ["2e-05", "'boxes'"]),
        (SUBMISSION.replace("0.5", "0.6").replace("0.25", "0.26"), DIFFERENT, ["'label'", "2 of 2", "'a'"]),
        (SUBMISSION.replace("0.5", "nan"), DIFFERENT, ["'label'", "nan"]),
        (SUBMISSION.replace("0.5", "0.50001").replace("cat", "dog"), DIFFERENT, ["'boxes'", "1 of 2"]),
        (SUBMISSION.replace("label", "target"), DIFFERENT, ["target"]),
        (SUBMISSION.replace("b,", "c,"), DIFFERENT, ["row 2", "'c'", "'b'"]),
        (SUBMISSION + "c,1,\n", DIFFERENT, ["row 3", "'c'", "none"]),
        (SUBMISSION.partition("b,")[0], DIFFERENT, ["row 2", "none", "'b'"]),
    ],
)
def test_numbers_may_differ_a_little_and_nothing_else(
    written: str, state: str, words: list[str], tmp_path: Path
) -> None:
    """Columns, ids, their order and texts are equal; the largest difference of a number is named with its column."""
    found, difference = compare(tmp_path, written, SUBMISSION)
    assert found == state
    assert [word for word in words if word not in difference] == []


def test_other_formats_are_not_compared_by_column(tmp_path: Path) -> None:
    assert compare(tmp_path, "{}", "{ }", ".json")[0] == NOT_COMPARED


def test_parquet_is_compared_by_column(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    for name, score in (("submission.parquet", 0.5), ("recorded", 0.7)):
        parquet.write_table(pyarrow.table({"id": [1, 2], "score": [score, None]}), tmp_path / name)
    state, difference = replay_check.compare_submissions(
        tmp_path / "submission.parquet", tmp_path / "recorded"
    )
    assert state == DIFFERENT
    assert "'score' in 1 of 2 rows" in difference


def rehearse(
    folder: Path,
    *cells: dict[str, Any],
    written: str = SUBMISSION,
    misses: tuple[dict[str, Any], ...] = (),
    replayed: dict[str, Any] | None = None,
    where: str = "here",
    rows: int | None = None,
    **end: Any,
) -> tuple[RunVerdict, dict[str, Any]]:
    """Judge a run of a kit whose recording has SUBMISSION and two packages."""
    recording = folder / "recording"
    digest = hashlib.sha256(SUBMISSION.encode()).hexdigest()
    (recording / "objects").mkdir(parents=True)
    (recording / "objects" / digest).write_text(SUBMISSION)
    document = {
        "where": where,
        "python": "3.12.4",
        "packages": [{"name": "timm", "version": "1.0"}, {"name": "einops", "version": "0.8"}],
        "submission": {"path": "{working}/submission.csv", "sha256": digest, "size": len(SUBMISSION)},
    }
    (recording / "recording.json").write_text(json.dumps(document))
    name = "recording/recording.json"
    entry = FileEntry(original=name, stored=name, size=1, sha256="", role=Role.RUNTIME)
    kit_files: list[KitFile] = [(entry, recording / "recording.json")]
    result = ran(folder, *(cells or [cell("1", "completed")]), **end)
    if written:
        (result.working / "submission.csv").write_text(written)
    (folder / "misses.jsonl").write_text("".join(f"{json.dumps(miss)}\n" for miss in misses))
    if replayed is not None:
        (folder / "replay.json").write_text(json.dumps(replayed))
    judgement = verdict.judge_run(result, BENCH, "submission.csv", None)
    kit = Kit(folder=folder, id="", parts=())
    request = RehearsalRequest(
        kit=kit, image=load_image("kaggle-2026-10-cpu", accelerator="none", project=folder), rows=rows
    )
    judged = replay_check.judge_replay(judgement, request, kit_files, result)
    assert judged.replay is not None
    return judged, dict(judged.replay)


MISS: dict[str, Any] = {"kind": "url", "what": "GET https://hub.test/model.bin", "cell": 2}


def test_the_same_submission_and_versions_pass(tmp_path: Path) -> None:
    """Nothing is warned of; the patch release of Python does not count."""
    packages = {"timm": "1.0", "einops": "0.8", "numpy": "2.1"}
    judged, comparison = rehearse(tmp_path, replayed={"python": "3.12.9", "packages": packages})
    assert judged.problem is None
    assert judged.warnings == ()
    assert [comparison[key] for key in ("submission", "packages", "misses")] == [IDENTICAL, (), ()]


def test_another_submission_is_a_problem(tmp_path: Path) -> None:
    """Its error names the column, and what else was different."""
    written, replayed = SUBMISSION.replace("0.5", "0.7"), {"python": "3.12.4", "packages": {"timm": "1.1"}}
    judged, comparison = rehearse(tmp_path, written=written, replayed=replayed, misses=(MISS, MISS))
    assert judged.problem is not None
    assert judged.problem.code == "replay-differs"
    assert "'label'" in judged.problem.what
    assert [line.split()[0] for line in comparison["packages"]] == ["timm", "einops"]
    assert comparison["misses"] == ((2, MISS["what"]),)
    assert len(judged.problem.details) == 3


def test_another_machine_may_compute_something_else(tmp_path: Path) -> None:
    """A run that was recorded on Kaggle had other processors, and perhaps more of the data."""
    judged, _ = rehearse(tmp_path, written=SUBMISSION.replace("0.5", "0.7"), where="kaggle")
    assert judged.problem is None
    assert len(judged.warnings) == 1


def test_a_rehearsal_on_other_rows_is_not_compared(tmp_path: Path) -> None:
    judged, comparison = rehearse(tmp_path, written=SUBMISSION.partition("b,")[0], rows=1)
    assert judged.problem is None
    assert comparison["submission"] == NOT_COMPARED


def test_a_run_that_fails_for_what_was_not_recorded(tmp_path: Path) -> None:
    """The error names the failed cell, then what is missing, then the error itself."""
    failed = cell("download()", "failed", error="URLError: no network")
    judged, _ = rehearse(tmp_path, cell("1", "completed"), failed, written="", misses=(MISS,), code=1)
    assert judged.problem is not None
    assert judged.problem.code == "not-recorded"
    assert judged.problem.what.startswith("cell 2 failed")
    assert MISS["what"] in judged.problem.details[0]
    assert "URLError: no network" in judged.problem.details


def test_a_later_failure_has_its_own_cause(tmp_path: Path) -> None:
    """What an earlier cell coped with is named below it."""
    cells = (cell("1", "completed"), cell("2", "completed"), cell("x['y']", "failed", error="KeyError: 'y'"))
    replayed = {"python": "3.12.4", "packages": {"timm": "1.0"}}
    judged, comparison = rehearse(tmp_path, *cells, written="", misses=(MISS,), replayed=replayed, code=1)
    assert comparison["packages"] == ()  # einops would have been installed later
    assert judged.problem is not None
    assert judged.problem.code == "cell-failed"
    assert [line for line in judged.problem.details if MISS["what"] in line]


def test_a_run_that_copes_with_what_was_not_recorded(tmp_path: Path) -> None:
    """The submission is the same, so it is a warning."""
    judged, _ = rehearse(tmp_path, misses=(MISS,))
    assert judged.problem is None
    assert len(judged.warnings) == 1


def test_a_time_limit_is_no_matter_of_the_recording(tmp_path: Path) -> None:
    judged, _ = rehearse(
        tmp_path, cell("1", "running"), written="", misses=(MISS,), code=None, timed_out=True
    )
    assert judged.problem is not None
    assert judged.problem.code == "time-limit-reached"
