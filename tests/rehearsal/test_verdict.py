"""What a run amounts to, from what it left."""

from pathlib import Path
from typing import Any

import pytest

from offline_kit.notebook.runtime.kit_runtime import KitError, PartFile, verify_files
from offline_kit.project.images import Image
from offline_kit.rehearsal import execution, kernel, verdict
from offline_kit.rehearsal.environments import Interpreter
from offline_kit.rehearsal.execution import KernelSetup
from tests.support.verdicts import BENCH, TEXT, cell, problem, ran

MARKED = {
    "cell_type": "markdown",
    "source": "papermill's own",
    "metadata": {"tags": ["papermill-error-cell-tag"]},
}


def test_a_failing_cell_is_counted_as_its_reader_counts(tmp_path: Path) -> None:
    """papermill's own cells do not count; the number is the cell's place in the notebook."""
    failed = cell("x", "failed", error="ValueError: boom")
    error = problem(ran(tmp_path, MARKED, TEXT, cell("1", "completed"), MARKED, failed, code=1))
    assert error.what == "cell 3 failed"
    assert "    x" in error.details
    assert "ValueError: boom" in error.details


def test_a_kit_that_is_damaged_here_is_built_again(tmp_path: Path) -> None:
    """The notebook's own words are for Kaggle; in a rehearsal nothing was pushed."""
    entry = PartFile(part=tmp_path, role="checkpoint", original="a", stored="a", size=1, sha256="0" * 64)
    with pytest.raises(KitError) as caught:
        verify_files([entry])
    assert "push the kit again" in caught.value.hint
    error = problem(ran(tmp_path, cell("open_kit()", "failed", failure=caught.value), code=1))
    assert error.code == "kit-damaged"
    assert error.hint == "build the kit again with 'offline-kit build'"


def test_the_notebooks_own_errors_speak_for_themselves(tmp_path: Path) -> None:
    """A KitError carries code, cause and remedy, whatever else its details remind of."""
    failure = KitError(
        "the checkpoint cannot be loaded",
        ["Weights only load failed"],
        hint="set `weights_only = false`",
        code="unsafe-checkpoint",
    )
    error = problem(ran(tmp_path, cell("load()", "failed", failure=failure), code=1))
    assert (error.code, error.hint) == ("unsafe-checkpoint", "set `weights_only = false`")
    assert "cause: the checkpoint cannot be loaded" in error.details


def test_long_cells_and_errors_are_shortened_and_colours_removed(tmp_path: Path) -> None:
    """The head of the cell and the end of the error are what a person reads."""
    trace = "\n".join(f"\x1b[0;31mframe {n}\x1b[0m" for n in range(40)) + "\nKeyError: 'x'"
    failed = cell("\n".join(f"line {n}" for n in range(30)), "failed", error="KeyError: 'x'", trace=trace)
    details = problem(ran(tmp_path, failed, code=1)).details
    assert "    ... 22 more lines" in details
    assert len(details) < 30
    assert details[-1] == "KeyError: 'x'", "no cause is invented"
    assert not any("\x1b" in line for line in details)


def test_the_cause_is_found_by_the_error_not_by_quoted_source(tmp_path: Path) -> None:
    """A frame of torch.load names weights_only in its source; a missing file is a missing file all the same."""
    trace = "def load(f, weights_only=True):\n  torch.hub\nFileNotFoundError: [Errno 2] No such file or directory: 'a.ckpt'"
    failed = cell(
        "x", "failed", error="FileNotFoundError: [Errno 2] No such file or directory: 'a.ckpt'", trace=trace
    )
    error = problem(ran(tmp_path, failed, code=1))
    assert error.code == "file-not-in-kit"


def test_the_first_error_of_a_chain_tells_the_cause(tmp_path: Path) -> None:
    """What a library wraps into its own error is still recognised."""
    trace = "gaierror: [Errno -3] Temporary failure in name resolution\n\nDuring handling ...\n\nHubError: cannot load"
    error = problem(ran(tmp_path, cell("x", "failed", error="HubError: cannot load", trace=trace), code=1))
    assert error.code == "network-not-available"


@pytest.mark.parametrize(
    ("end", "said"),
    [
        ({"timed_out": True, "code": -9}, "stopped in cell 2: the time limit of 60 s"),
        ({"over_memory": True, "code": -9}, "more than 1.0 GB"),
        ({"over_disk": True, "code": -9}, "full in cell 2: the notebook wrote more than 1.0 GB"),
    ],
)
def test_limits_name_the_running_cell(tmp_path: Path, end: dict[str, Any], said: str) -> None:
    """A run that was ended tells where it was."""
    error = problem(
        ran(tmp_path, cell("1", "completed"), cell("slow()", "running"), cell("2", "pending"), **end)
    )
    assert said in error.what
    assert "    slow()" in error.details


def test_a_papermill_that_never_came_to_a_cell_shows_its_log(tmp_path: Path) -> None:
    """Without an executed cell the end of the log is what there is to see."""
    done = ran(
        tmp_path, log="one\nValueError: No kernel name found in notebook and no override provided.", code=1
    )
    error = problem(done)
    assert error.what == "the notebook ended with code 1"
    assert "kernelspec" in error.hint


def test_a_missing_submission_tells_what_was_written(tmp_path: Path) -> None:
    """The names that are there help to see the mistake."""
    done = ran(tmp_path, cell("1", "completed"))
    (done.working / "sub.csv").write_text("x")
    assert problem(done).details == ("written instead: sub.csv",)


@pytest.mark.parametrize(
    ("written", "named"),
    [("submission.parquet", "submission.parquet"), ("answers.parquet", "submission.csv")],
)
def test_what_a_gateway_writes_is_named_where_the_notebook_has_none(
    tmp_path: Path, written: str, named: str
) -> None:
    """A notebook that wrote a gateway's file by itself learns of the key; another file's name says nothing."""
    done = ran(tmp_path, cell("1", "completed"))
    (done.working / written).write_bytes(b"PAR1")
    error = problem(done)
    assert ("submission =" in error.hint) is (written == named)
    assert named in error.hint


def test_a_wrong_submission_fails_although_every_cell_passed(tmp_path: Path) -> None:
    """What Kaggle would score as an error is one here."""
    done = ran(tmp_path, cell("1", "completed"))
    (done.working / "submission.csv").write_text("id,x\n1,\n")
    assert any("empty" in line for line in problem(done).details)


def test_a_good_run_has_no_problem(tmp_path: Path) -> None:
    """Cells, rows and what was compared come along."""
    done = ran(tmp_path, TEXT, cell("1", "completed"))
    (done.working / "submission.csv").write_text("id,x\n1,2\n")
    judged = verdict.judge_run(done, BENCH, "submission.csv", done.working / "submission.csv")
    assert judged.problem is None
    assert (judged.rows, len(judged.run.cells), judged.run.cells[0].number) == (1, 1, 2)


def test_no_executed_notebook_has_no_cells(tmp_path: Path) -> None:
    """A broken or missing copy is nothing to fall over."""
    (tmp_path / "broken.ipynb").write_text("{")
    assert (
        execution.read_cells(tmp_path / "broken.ipynb") == execution.read_cells(tmp_path / "none.ipynb") == ()
    )


def compared(
    python: str = "3.13.0", accelerator: str = "none", **packages: str
) -> tuple[str, tuple[str, ...]]:
    image = Image(
        name="i",
        title="i",
        accelerator=accelerator,
        python="3.13.15",
        packages={"torch": "2.11.0+cpu", "numpy": "2.1.3"},
    )
    found = Interpreter(path=Path("python"), version=python, packages=packages, mounts=(), links={})
    setup = KernelSetup(python=found, launch=(), used=("torch", "numpy", "not-in-the-image"))
    level, differences = kernel.measure_fidelity(image, setup)
    return level, tuple(map(str, differences))


def test_the_same_versions_are_matching_and_small_differences_are_listed() -> None:
    """torch's build and the patch of Python do not lower the fidelity, and are told."""
    level, differences = compared(torch="2.11.0", numpy="2.1.3")
    assert level == "matching"
    assert differences == ("Python 3.13.0 instead of 3.13.15", "torch 2.11.0 instead of 2.11.0+cpu")


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({"torch": "2.11.0", "numpy": "2.2.0"}, "numpy 2.2.0 instead of 2.1.3"),
        ({"torch": "2.11.0"}, "numpy 2.1.3 is missing"),
        ({"torch": "2.11.0", "numpy": "2.1.3", "python": "3.11.7"}, "Python 3.11.7 instead of 3.13.15"),
        ({"torch": "2.11.0", "numpy": "2.1.3", "accelerator": "gpu"}, "no GPU in the rehearsal: "),
    ],
)
def test_other_versions_make_a_stand_in(found: dict[str, str], said: str) -> None:
    """Each grave difference is named first."""
    level, differences = compared(**found)
    assert level == "stand-in"
    assert differences[0].startswith(said)


def test_what_was_left_out_for_want_of_time_is_a_warning(tmp_path: Path) -> None:
    """The numbers that the notebook's guard printed are in it."""
    done = ran(tmp_path, cell("1", "completed"), log="###\nTIME IS UP: 1 of 2 models are in it\n###\n")
    (done.working / "submission.csv").write_text("id,x\n1,2\n")
    assert any(
        "1 of 2 models" in line for line in verdict.judge_run(done, BENCH, "submission.csv", None).warnings
    )


@pytest.mark.parametrize("code", [0, 1])
def test_what_the_notebook_notes_is_told_once(tmp_path: Path, code: int) -> None:
    """Notes in the middle of its output, behind a progress bar too; none of them twice, not hundreds of them."""
    lines = ["kit: 3 files", "note: columns by position: a = b", " 50%|##\r100%|####", "  note: quoted"]
    lines += [
        "bar 9/9\rnote: one row is left out",
        "note: columns by position: a = b",
        "main.c:3: note: here",
    ]
    done = ran(tmp_path, cell("1", "completed"), log="\n".join(lines) + "\n", code=code)
    said = verdict.judge_run(done, BENCH, "submission.csv", None).notebook_notes
    assert said == ("columns by position: a = b", "one row is left out")
    done.log.write_text("".join(f"note: number {number}\n" for number in range(100)))
    said = verdict.judge_run(done, BENCH, "submission.csv", None).notebook_notes
    assert len(said) == 21
    assert said[-1].startswith("80 ")
