"""Following the run of a pushed notebook at the local Kaggle."""

import dataclasses
import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from offline_kit.core.errors import OutsideError, ProjectError
from offline_kit.kaggle.client.api_types import NotebookSources
from offline_kit.kaggle.client.client import KaggleClient
from offline_kit.kaggle.push import notebook_runs, push_notebook
from offline_kit.kaggle.push.notebook_runs import FinishedRun, KitNotMountedError
from offline_kit.local_kaggle.faults import Fault
from offline_kit.local_kaggle.kernel_runs import RunJob
from offline_kit.local_kaggle.server import TrafficEvent
from offline_kit.notebook.runtime import kit_runtime
from tests.support.listener import Listener
from tests.support.local_kaggle import HASTY, Bench, notebook, serving
from tests.support.notebooks import REF, WRITES, new, push_elsewhere, pushes, versions
from tests.support.pushing import EAGER, access, client, make_kit, pushed, ways


def ran(bench: Bench, alice: KaggleClient, *cells: str) -> FinishedRun:
    """Push cells and follow their run."""
    return notebook_runs.push_and_follow(new(*cells), access(alice, ways(bench)))[1]


def saved_log(bench: Bench, alice: KaggleClient) -> str:
    """Return the log that the last run left."""
    return (access(alice, ways(bench)).runs_folder(REF) / "log.txt").read_text()


def failing(what: str, *, hint: str, code: str) -> str:
    """Return a line of code that fails as the runtime of a rendered notebook does."""
    line = kit_runtime.KitError(what, hint=hint, code=code).to_json()
    return f"print({line!r}); raise RuntimeError({what!r})"


def by_papermill(job: RunJob) -> str:
    """Run a notebook as Kaggle does, so that its log is papermill's."""
    (job.folder / "output").mkdir()
    (job.folder / "in.ipynb").write_text(job.notebook)
    words = [sys.executable, "-m", "papermill", "../in.ipynb", "../out.ipynb"]
    words += ["--log-output", "--no-progress-bar"]
    done = subprocess.run(words, cwd=job.folder / "output", capture_output=True, text=True)
    job.say(done.stdout + done.stderr + "[NbConvertApp] Writing 305664 bytes to __results__.html\n")
    return "Your notebook threw an exception" if done.returncode else ""


# ------------------------------------------------------------------ a run that ends well


def test_a_finished_run_has_its_log_and_its_outputs(bench: Bench, alice: KaggleClient) -> None:
    """Exactly this version is followed, and its seconds are those of its own log."""
    done = ran(bench, alice, "import time; time.sleep(0.2); print('the end')", WRITES)
    assert (done.ref, done.version) == (REF, 1)
    assert done.outputs == ("submission.csv",)
    assert "the end" in saved_log(bench, alice)
    assert 0.1 < done.seconds < 20


def test_the_run_of_exactly_this_version_is_told(bench: Bench, alice: KaggleClient) -> None:
    """A later version that failed does not hide an earlier one that went well."""
    ran(bench, alice, WRITES)
    with pytest.raises(ProjectError):
        ran(bench, alice, "1/0")
    assert notebook_runs.follow_run(REF, 1, access(alice, ways(bench))).version == 1


def test_a_live_line_tells_state_minutes_and_the_last_words(bench: Bench, alice: KaggleClient) -> None:
    """Whoever waits sees how far it is."""
    listener = Listener()
    pushed_ = push_notebook.push_notebook(
        new("import time; print('epoch 3 of 9'); time.sleep(1)"), access(alice, ways(bench))
    )
    notebook_runs.follow_run(REF, pushed_.version, access(alice, ways(bench), listener))
    assert listener.live[0] == f"version 1 of '{REF}' runs on the local Kaggle"
    assert any(line == "running, 0 min: epoch 3 of 9" for line in listener.live)


def test_outputs_are_fetched(bench: Bench, alice: KaggleClient, tmp_path: Path) -> None:
    """The submission is whole, and nothing half made is left."""
    done = ran(bench, alice, WRITES)
    (place,) = notebook_runs.fetch_outputs(done, alice, tmp_path / "back", ["submission.csv"])
    assert place.read_text() == "id,label\n1,0.5\n"
    assert [path.name for path in (tmp_path / "back").iterdir()] == ["submission.csv"]


def test_an_output_that_was_not_written_is_told(bench: Bench, alice: KaggleClient, tmp_path: Path) -> None:
    """What was written instead stands there."""
    done = ran(bench, alice, "open('other.csv', 'w').write('x')")
    with pytest.raises(ProjectError, match=r"completed without writing 'submission\.csv'") as caught:
        notebook_runs.fetch_outputs(done, alice, tmp_path / "back", ["submission.csv"])
    assert caught.value.details == ("written instead: other.csv",)


# ------------------------------------------------------------------ a run that ends badly


def test_a_failed_cell_is_quoted_with_cause_and_remedy(tmp_path: Path) -> None:
    """From papermill's log: the cell by its count, the error without colours, what is known about it."""
    with serving(tmp_path, HASTY, by_papermill) as bench, client(bench) as alice:
        cells = ("x = 1", "", "def f():\n    import no_such_module", "f()")
        with pytest.raises(ProjectError, match="cell 4 failed on the local Kaggle") as caught:
            ran(bench, alice, *cells)
    details = "\n".join(caught.value.details)
    assert "cell 4:\n    f()" in details
    assert "ModuleNotFoundError: No module named 'no_such_module'" in details
    assert "cause: the module 'no_such_module' is neither in the kit" in details
    assert "NbConvertApp" not in details
    assert "\x1b" not in details
    assert "requirements" in caught.value.hint


def test_a_failed_script_is_quoted_at_its_line(bench: Bench, alice: KaggleClient) -> None:
    """From Python's traceback in the log: the line, those around it, the cause and the remedy."""
    text = "def f():\n    import no_such_module\n\n\nf()\n"
    script = dataclasses.replace(new(), kernel_type="script", text=text)
    with pytest.raises(ProjectError, match="line 2 of the script failed on the local Kaggle") as caught:
        notebook_runs.push_and_follow(script, access(alice, ways(bench)))
    assert caught.value.code == "module-not-found"
    assert "  >     import no_such_module" in caught.value.details
    assert "ModuleNotFoundError: No module named 'no_such_module'" in caught.value.details


def test_the_notebooks_own_errors_speak_for_themselves(bench: Bench, alice: KaggleClient) -> None:
    """A KitError's code, words and hint are those of the error; the log is kept."""
    code = failing("2 of 9 files are damaged", hint="push the kit again", code="kit-damaged")
    with pytest.raises(ProjectError, match="the notebook failed") as caught:
        notebook_runs.push_and_follow(new(code), access(alice, ways(bench)))
    assert (caught.value.code, caught.value.hint) == ("kit-damaged", "push the kit again")
    assert "cause: 2 of 9 files are damaged" in caught.value.details
    log_file = access(alice, ways(bench)).runs_folder(REF) / "log.txt"
    assert f"full log: {log_file}" in caught.value.details
    assert "Traceback" in saved_log(bench, alice)


@pytest.mark.parametrize(
    ("failure", "cause", "remedy"),
    [
        (
            "Your notebook tried to allocate more memory than is available. It has restarted.",
            "memory",
            "batches",
        ),
        (
            "Your notebook was stopped because it exceeded the max allowed execution duration.",
            "longer than Kaggle allows",
            "--rows",
        ),
    ],
)
def test_what_kaggle_itself_says_is_understood(
    bench: Bench, alice: KaggleClient, failure: str, cause: str, remedy: str
) -> None:
    """A run without a traceback has Kaggle's own sentence, its cause and its remedy."""
    bench.kaggle.faults.add_fault(Fault(on="RUN", fail=failure))
    with pytest.raises(ProjectError) as caught:
        ran(bench, alice)
    details = "\n".join(caught.value.details)
    assert failure in details
    assert cause in details
    assert remedy in caught.value.hint


@pytest.mark.parametrize("after", [0, 1], ids=["log", "files"])
def test_what_a_run_left_may_show_late(bench: Bench, alice: KaggleClient, after: int) -> None:
    """A log or a listing that is empty at first is looked at again."""
    nothing = {"files": [], "log": ""}
    bench.kaggle.faults.add_fault(Fault(on="ListKernelSessionOutput", answer=nothing, after=after, times=2))
    done = ran(bench, alice, WRITES + "; print('said')")
    assert saved_log(bench, alice) == "said\n"
    assert done.outputs == ("submission.csv",)


def test_a_state_with_the_name_of_its_kind_in_front_is_understood(bench: Bench, alice: KaggleClient) -> None:
    """Kaggle writes COMPLETE and KERNEL_WORKER_STATUS_COMPLETE; both are the end."""
    bench.kaggle.faults.add_fault(
        Fault(on="GetKernelSessionStatus", words="KERNEL_WORKER_STATUS_{}", times=0)
    )
    assert ran(bench, alice).version == 1
    assert ran(bench, alice).version == 1
    assert pushes(bench) == 1


def test_a_state_that_nobody_knows_is_waited_for_and_never_pushed_over(
    bench: Bench, alice: KaggleClient
) -> None:
    """A word of Kaggle's that is new is said; it is neither an end nor a failure."""
    bench.kaggle.faults.add_fault(Fault(on="GetKernelSessionStatus", words="ALMOST_COMPLETE", times=0))
    listener = Listener()
    for _ in range(2):
        with pytest.raises(OutsideError, match="has not finished in time: it is 'almostcomplete'"):
            notebook_runs.push_and_follow(new(), access(alice, ways(bench), listener), timeout=0.5)
    assert len([line for line in listener.warnings if "offline-kit does not know" in line]) == 2
    assert versions(bench) == [1]


def test_a_cancelled_run_is_no_fault_of_the_project(bench: Bench, alice: KaggleClient) -> None:
    """Exit 4, and the same command pushes a new version."""
    bench.kaggle.faults.add_fault(Fault(on="RUN", ends="CANCEL_ACKNOWLEDGED"))
    with pytest.raises(OutsideError, match="was cancelled"):
        ran(bench, alice)
    assert ran(bench, alice).version == 2


def test_a_run_that_never_ends_is_waited_for_again(bench: Bench, alice: KaggleClient) -> None:
    """The wait has an end; the same command waits on and pushes nothing."""
    bench.kaggle.faults.add_fault(Fault(on="RUN", stuck="RUNNING"))
    for _ in range(2):
        with pytest.raises(OutsideError, match=r"not finished in time.*'running'"):
            notebook_runs.push_and_follow(new(), access(alice, ways(bench)), timeout=0.3)
    assert versions(bench) == [1]


def test_a_version_without_a_run_is_told(bench: Bench, alice: KaggleClient) -> None:
    """A draft that was saved on the web has nothing to wait for."""
    push_notebook.push_notebook(new(), access(alice, ways(bench)))
    short = dataclasses.replace(EAGER, visibility_timeout=0.2)
    with pytest.raises(OutsideError, match="has no run"):
        notebook_runs.follow_run(REF, 7, access(alice, ways(bench, short)))


def test_a_version_that_never_gets_a_run_is_replaced_by_the_same_command(
    bench: Bench, alice: KaggleClient
) -> None:
    """What is told about it comes true: pushed a moment ago it may be hidden, later it has no run."""
    mine = ways(bench, dataclasses.replace(EAGER, visibility_timeout=0.4))
    bench.kaggle.faults.add_fault(Fault(on="GetKernelSessionStatus", status=403, times=0))
    with pytest.raises(OutsideError, match=r"version 1 of .* has no run") as told:
        notebook_runs.push_and_follow(new(), access(alice, mine))
    assert "it pushes a new version" in told.value.hint
    with pytest.raises(OutsideError, match=r"version 2 of .* has no run"):
        notebook_runs.push_and_follow(new(), access(alice, mine))
    assert versions(bench) == [1, 2]


def test_a_bad_line_does_not_end_the_wait(bench: Bench, alice: KaggleClient) -> None:
    """A run of hours outlives minutes without an answer."""
    push_notebook.push_notebook(new("import time; time.sleep(0.3)"), access(alice, ways(bench)))
    bench.kaggle.faults.add_fault(Fault(on="GetKernelSessionStatus", status=503, times=9))
    assert notebook_runs.follow_run(REF, 1, access(alice, ways(bench))).version == 1


def test_a_refusal_ends_the_wait(bench: Bench, alice: KaggleClient) -> None:
    """What Kaggle refuses for good is told at once."""
    push_notebook.push_notebook(new(), access(alice, ways(bench)))
    bench.kaggle.faults.add_fault(Fault(on="GetKernelSessionStatus", status=400, message="no", times=0))
    with pytest.raises(OutsideError, match="Kaggle says: no"):
        notebook_runs.follow_run(REF, 1, access(alice, ways(bench)))


# ------------------------------------------------------------------ a run without its kit

FINDS = (
    "import os, pathlib\n"
    "if not list(pathlib.Path(os.environ['INPUT']).glob('datasets/*/*/offline-kit.json')):\n"
    f"    {failing('not mounted: part kit', hint='wait', code='kit-not-mounted')}\n" + WRITES
)


def test_a_run_that_did_not_see_the_kit_is_pushed_once_more(bench: Bench, alice: KaggleClient) -> None:
    """The version began before the dataset was visible: said, and mended by one more version."""
    pushed(bench, make_kit(bench.folder / "kit"), alice)
    bench.kaggle.faults.add_fault(Fault(on="RUN", without="dataset"))
    listener = Listener()
    wanted = new(FINDS, sources=NotebookSources(datasets=("alice/plant-kit",)))
    where, done = notebook_runs.push_and_follow(wanted, access(alice, ways(bench), listener))
    assert (where.version, done.version, versions(bench)) == (2, 2, [1, 2])
    assert any("before its kit was visible" in line and "part kit" in line for line in listener.warnings)


@pytest.mark.slow
def test_a_kit_that_is_never_there_is_told_after_the_second_try(bench: Bench, alice: KaggleClient) -> None:
    """It is pushed once more, not for ever; later the same command succeeds."""
    pushed(bench, make_kit(bench.folder / "kit"), alice)
    bench.kaggle.faults.add_fault(Fault(on="RUN", without="dataset", times=2))
    wanted = new(FINDS, sources=NotebookSources(datasets=("alice/plant-kit",)))
    with pytest.raises(KitNotMountedError, match="ran without its kit") as caught:
        notebook_runs.push_and_follow(wanted, access(alice, ways(bench)))
    assert caught.value.exit_code == 1
    assert pushes(bench) == 2
    assert notebook_runs.push_and_follow(wanted, access(alice, ways(bench)))[1].version == 3


# ------------------------------------------------------------------ damaged outputs


@pytest.mark.parametrize(
    "fault", [Fault(on="GET", cut=100), Fault(on="GET", status=403)], ids=["cut", "link expired"]
)
def test_a_link_that_fails_once_is_asked_for_anew(
    bench: Bench, alice: KaggleClient, tmp_path: Path, fault: Fault
) -> None:
    """A fresh link brings the whole file."""
    done = ran(bench, alice, "open('submission.csv', 'w').write('id,x\\n' + '1,2\\n' * 1000)")
    bench.kaggle.faults.add_fault(fault)
    (place,) = notebook_runs.fetch_outputs(done, alice, tmp_path / "back", ["submission.csv"])
    assert place.stat().st_size == 4005


def test_an_error_page_is_never_taken_for_the_submission(
    bench: Bench, alice: KaggleClient, tmp_path: Path
) -> None:
    """Where the link stays expired, there is no file; later the same command fetches it."""
    done = ran(bench, alice, WRITES)
    bench.kaggle.faults.add_fault(Fault(on="GET", status=403, times=5))
    with pytest.raises(OutsideError):
        notebook_runs.fetch_outputs(done, alice, tmp_path / "back", ["submission.csv"])
    assert [path.name for path in (tmp_path / "back").iterdir()] == []
    assert notebook_runs.fetch_outputs(done, alice, tmp_path / "back", ["submission.csv"])


def test_files_in_folders_are_fetched_by_their_paths_whatever_a_listing_says(
    bench: Bench, alice: KaggleClient, tmp_path: Path
) -> None:
    """Kaggle's listing of outputs has bare names and sizes that are not true: nothing hangs on it."""
    done = ran(
        bench, alice, "import os; os.mkdir('packages')", "open('packages/a.whl', 'w').write('x' * 5000)"
    )
    listed = bench.rpc("ListKernelFiles", userName="alice", kernelSlug=REF.partition("/")[2])["files"]
    assert [(each["name"], each["size"]) for each in listed] == [("a.whl", 946)]
    assert done.outputs == ("packages/a.whl",)
    (place,) = notebook_runs.fetch_outputs(done, alice, tmp_path / "back", ["packages/a.whl"])
    assert place.stat().st_size == 5000
    assert len(bench.traffic.ended_requests("GET")) == 1, "it is fetched once"


# ------------------------------------------------------------------ logs alone


def told(*cells: str) -> str:
    """Return a notebook's text with words before its cells."""
    made: dict[str, Any] = notebook(*cells)
    made["cells"].insert(0, {"cell_type": "markdown", "metadata": {}, "source": "# Words"})
    return json.dumps(made)


def test_the_last_line_is_that_of_a_progress_bar() -> None:
    """Of a bar that redraws itself, the newest state."""
    assert notebook_runs.last_line("begun\n 10%\r 50%|###  |\r 90%|#### |\n") == "90%|#### |"
    assert notebook_runs.last_line("") == ""


def test_a_kernel_that_died_did_so_in_the_cell_that_was_begun_last() -> None:
    """papermill's own traceback has no cell."""
    text = (
        "Executing Cell 2-----\nEnding Cell 2-----\nExecuting Cell 3-----\n"
        "Traceback (most recent call last):\n  ...\nnbclient.exceptions.DeadKernelError: Kernel died\n"
    )
    found = notebook_runs.analyse_failure(text, told("a = 1", "grow()"))
    assert (found.cell, found.source) == (3, "grow()")
    assert found.error == (found.message,) == ("nbclient.exceptions.DeadKernelError: Kernel died",)


def test_of_a_script_the_line_is_told() -> None:
    """Its traceback names the line; words of the progress before it are not of the error."""
    text = (
        "50%|###|Traceback (most recent call last):\n"
        '  File "/kaggle/src/script.py", line 7, in <module>\n    main()\n'
        '  File "/kaggle/src/script.py", line 3, in main\n    1 / 0\nZeroDivisionError: division by zero\n'
    )
    found = notebook_runs.analyse_failure(text, "", "script")
    assert (found.line, found.cell, found.message) == (3, 0, "ZeroDivisionError: division by zero")


def test_a_log_of_nothing_names_nothing() -> None:
    """Without a traceback there is neither a cell nor an error."""
    assert notebook_runs.analyse_failure("words\n", "no notebook") == notebook_runs.RunFailure()


@pytest.mark.slow
def test_waiting_does_not_read_the_log_at_each_look(bench: Bench, alice: KaggleClient) -> None:
    """The log of a long run is large: it is looked at now and then."""
    rarely = dataclasses.replace(EAGER, max_interval=1000.0, sleep=lambda _seconds: time.sleep(0.05))
    push_notebook.push_notebook(
        new("import time\nfor n in range(10): print(n); time.sleep(0.1)"), access(alice, ways(bench, rarely))
    )
    notebook_runs.follow_run(REF, 1, access(alice, ways(bench, rarely)))
    names = [event.name.rpartition("/")[2] for event in bench.traffic.ended_requests()]
    looks = [number for number, name in enumerate(names) if name == "GetKernelSessionStatus"]
    assert len(looks) > 8, "it was looked at often"
    assert names[looks[0] : looks[-1]].count("ListKernelSessionOutput") <= 1


# ------------------------------------------------------------------ killed

POINTS = {
    "before anything is sent": ("ended", "/GetKernel"),
    "before the effect": ("begun", "/SaveKernel"),
    "after the effect, before its answer": ("done", "/SaveKernel"),
    "after the answer": ("ended", "/SaveKernel"),
    "while the notebook runs": ("ended", "/ListKernelSessionOutput"),
}


@pytest.mark.parametrize(
    "point",
    [
        pytest.param(name, marks=() if name.startswith("after the effect") else pytest.mark.slow)
        for name in POINTS
    ],
)
@pytest.mark.parametrize(
    "older",
    [pytest.param(False, marks=pytest.mark.slow), True],
    ids=["new notebook", "another version"],
)
def test_killed_anywhere_the_next_push_ends_with_one_new_version(
    bench: Bench, alice: KaggleClient, point: str, older: bool
) -> None:
    """SIGKILL, then the same command twice: one new version in all, and its run is the one that is told."""
    if older:
        ran(bench, alice, "1")
    before = versions(bench) if older else []
    wanted = new("import time; time.sleep(1)\n" + WRITES)
    phase, name = POINTS[point]
    hit = threading.Event()

    def watch(event: TrafficEvent) -> None:
        if event.phase == phase and event.name.endswith(name) and not hit.is_set():
            hit.set()
            process.send_signal(signal.SIGKILL)
            time.sleep(0.3)

    process = push_elsewhere(bench, wanted)
    bench.traffic.listeners.append(watch)
    process.wait(60)
    assert hit.is_set()
    time.sleep(0.5)  # what the server has in hand by now may still have its effect
    done = notebook_runs.push_and_follow(wanted, access(alice, ways(bench)))[1]
    again = notebook_runs.push_and_follow(wanted, access(alice, ways(bench)))[1]
    assert done.version == again.version == len(before) + 1
    assert versions(bench) == [*before, done.version]
    assert again.outputs == ("submission.csv",)
