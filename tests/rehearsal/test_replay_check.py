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


def rehearse(
    folder: Path,
    *cells: dict[str, Any],
    name: str = "submission.csv",
    recorded: bytes = SUBMISSION.encode(),
    written: str | bytes = SUBMISSION,
    misses: tuple[dict[str, Any], ...] = (),
    replayed: dict[str, Any] | None = None,
    where: str = "here",
    rows: int | None = None,
    **end: Any,
) -> tuple[RunVerdict, dict[str, Any]]:
    """Judge a run of a kit whose recording has a submission and two packages."""
    recording = folder / "recording"
    digest = hashlib.sha256(recorded).hexdigest()
    (recording / "objects").mkdir(parents=True)
    (recording / "objects" / digest).write_bytes(recorded)
    document = {
        "where": where,
        "python": "3.12.4",
        "packages": [{"name": "timm", "version": "1.0"}, {"name": "einops", "version": "0.8"}],
        "submission": {"path": f"{{working}}/{name}", "sha256": digest, "size": len(recorded)},
    }
    (recording / "recording.json").write_text(json.dumps(document))
    stored = "recording/recording.json"
    entry = FileEntry(original=stored, stored=stored, size=1, sha256="", role=Role.RUNTIME)
    kit_files: list[KitFile] = [(entry, recording / "recording.json")]
    result = ran(folder, *(cells or [cell("1", "completed")]), **end)
    if written:
        (result.working / name).write_bytes(written if isinstance(written, bytes) else written.encode())
    (folder / "misses.jsonl").write_text("".join(f"{json.dumps(miss)}\n" for miss in misses))
    if replayed is not None:
        (folder / "replay.json").write_text(json.dumps(replayed))
    judgement = verdict.judge_run(result, BENCH, name, None)
    kit, image = Kit(folder=folder, id="", parts=()), load_image("local", accelerator="none", project=folder)
    request = RehearsalRequest(kit=kit, image=image, rows=rows, submission=name)
    judged = replay_check.judge_replay(judgement, request, kit_files)
    assert judged.replay is not None
    return judged, dict(judged.replay)


@pytest.mark.parametrize(
    ("written", "state"),
    [
        (SUBMISSION.replace("0.5", "0.50000"), CLOSE),
        (SUBMISSION.replace("0.9", "0.90002"), CLOSE),  # among words
        (SUBMISSION.replace("0.5", "0.6"), DIFFERENT),
        (SUBMISSION.replace("0.5", "nan"), DIFFERENT),
        (SUBMISSION.replace("cat", "dog"), DIFFERENT),
        (SUBMISSION.replace("label", "target"), DIFFERENT),
        (SUBMISSION + "c,1,\n", DIFFERENT),
        ("{}", DIFFERENT),
    ],
)
def test_numbers_may_differ_a_little_and_nothing_else(written: str, state: str, tmp_path: Path) -> None:
    """Columns, ids and texts are equal; a difference is described."""
    _, comparison = rehearse(tmp_path, written=written)
    assert (comparison["submission"], bool(comparison["difference"])) == (state, state == DIFFERENT)


def test_parquet_is_compared_by_column(tmp_path: Path) -> None:
    """Other formats are not compared."""
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    for name, score in (("one", 0.5), ("two", 0.7)):
        parquet.write_table(arrow.table({"id": [1, 2], "score": [score, None]}), tmp_path / name)
    one, two = ((tmp_path / name).read_bytes() for name in ("one", "two"))
    _, comparison = rehearse(tmp_path, written=two, recorded=one, name="submission.parquet")
    assert comparison["submission"] == DIFFERENT
    assert "'score'" in comparison["difference"]
    (tmp_path / "other").mkdir()
    _, comparison = rehearse(tmp_path / "other", written=two, recorded=one, name="submission.json")
    assert comparison["submission"] == NOT_COMPARED


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
