"""Other programs: what they say is kept, and they end with us."""

import os
import sys
import time
from pathlib import Path

import pytest

from offline_kit.core import processes
from offline_kit.core.errors import OutsideError

PYTHON = sys.executable


def test_a_command_gives_back_what_it_said() -> None:
    """Both streams are kept apart."""
    done = processes.run_command([PYTHON, "-c", "import sys; print('out'); print('err', file=sys.stderr)"])
    assert (done.succeeded, done.out, done.err) == (True, "out\n", "err\n")


def test_a_failing_command_carries_its_last_words() -> None:
    """The error names the program and quotes the tail."""
    with pytest.raises(processes.CommandError, match="code 3") as caught:
        processes.run_command(
            [PYTHON, "-c", "import sys; sys.exit('no luck') if 0 else (print('no luck'), sys.exit(3))"]
        )
    assert caught.value.details == ("no luck",)


@pytest.mark.parametrize("way", ["run", "run with a log", "start", "converse"])
def test_a_program_that_is_not_there(way: str, tmp_path: Path) -> None:
    """A missing program is an outside error, not a traceback, however it is begun."""
    argv, log = ["no-such-program-here"], tmp_path / "log"
    with log.open("ab") as sink, pytest.raises(OutsideError, match="cannot start 'no-such-program-here'"):
        match way:
            case "run":
                processes.run_command(argv)
            case "run with a log":
                processes.run_command(argv, log=log)
            case "start":
                processes.start_process(argv, log=log)
            case _:
                processes.start_conversation(argv, errors=sink)


def test_the_log_holds_both_streams_as_they_came(tmp_path: Path) -> None:
    """With a log, output survives whatever happens to the command."""
    done = processes.run_command(
        [PYTHON, "-c", "print('a'); raise SystemExit(2)"], log=tmp_path / "log", check=False
    )
    assert (done.code, done.out, (tmp_path / "log").read_text()) == (2, "a\n", "a\n")


def test_time_is_up_for_the_whole_process_group(tmp_path: Path) -> None:
    """A child of the command ends with it when its time is up."""
    code = (
        "import subprocess, sys, time, pathlib\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        f"pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(child.pid))\n"
        "time.sleep(60)\n"
    )
    done = processes.run_command([PYTHON, "-c", code], timeout=1.5, check=False)
    assert done.timed_out
    pid = int((tmp_path / "pid").read_text())
    for _ in range(50):
        if not _alive(pid):
            return
        time.sleep(0.1)
    pytest.fail("the child outlived its command")


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_the_environment_is_a_copy() -> None:
    """Changes do not reach our own environment; None removes a variable."""
    env = processes.copy_environment(OFFLINE_KIT_TEST="1", PATH=None)
    assert env["OFFLINE_KIT_TEST"] == "1"
    assert "PATH" not in env
    assert "OFFLINE_KIT_TEST" not in os.environ
