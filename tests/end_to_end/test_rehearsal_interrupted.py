"""A rehearsal that is stopped leaves no process behind and keeps the evidence of the one before."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.support.workbench import command, environment, project, run

pytestmark = [pytest.mark.slow, pytest.mark.index, pytest.mark.sandbox]

SLOW = """
import time

def evidence(context):
    print("now it sleeps", flush=True)
    time.sleep(context.params["seconds"])
"""


def alive(word: str) -> list[str]:
    """Return the command lines of all processes that name this word."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if word in line:
            found.append(line)
    return found


def slowly(folder: Path, seconds: int) -> None:
    """Make the notebook sleep so long."""
    config = folder / "offline-kit.toml"
    text = config.read_text().partition("[notebook.params]")[0]
    config.write_text(f"{text}[notebook.params]\nseconds = {seconds}\n")


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_rehearsal_is_over(tmp_path: Path, sign: signal.Signals) -> None:
    """^C and a scheduler's end while a cell runs: exit code 130 at once, nothing runs on, the last evidence stays."""
    folder = project(tmp_path / "project", [], SLOW)
    slowly(folder, 0)
    words = ("rehearse", folder, "--env", "current")
    run(*words).good()
    evidence = folder / "dist" / "offline-kit" / "rehearsal"
    before = {path.name: path.read_bytes() for path in evidence.iterdir()}
    slowly(folder, 300)
    run("build", folder).good()
    running = subprocess.Popen(
        command(*words, "--no-build"),
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    logs = folder.glob("dist/offline-kit/.rehearsal.*/run/box/log.txt")
    end = time.monotonic() + 60
    while not any("now it sleeps" in log.read_text() for log in logs):
        assert time.monotonic() < end
        assert running.poll() is None
        time.sleep(0.1)
        logs = folder.glob("dist/offline-kit/.rehearsal.*/run/box/log.txt")
    if sign == signal.SIGINT:
        os.killpg(running.pid, sign)  # a terminal tells the whole group
    else:
        running.send_signal(sign)
    _, said = running.communicate(timeout=20)
    assert running.returncode == 130, said
    assert "Traceback" not in said
    time.sleep(0.5)
    assert alive(str(folder)) == []
    assert [path.name for path in (folder / "dist" / "offline-kit").glob(".rehearsal.*")] == []
    kept = {path.name: path.read_bytes() for path in evidence.iterdir()} if evidence.is_dir() else {}
    assert kept in ({}, before), "the kit is another one by now, but what is kept is whole"


def test_a_run_out_of_time_is_told(tmp_path: Path) -> None:
    """The wall-clock limit ends the notebook: exit code 1, the limit named, the log kept."""
    folder = project(tmp_path / "project", [], SLOW)
    slowly(folder, 300)
    began = time.monotonic()
    done = run("rehearse", folder, "--env", "current", "--timeout", "12")
    assert done.code == 1, done.err
    assert time.monotonic() - began < 60
    assert "12" in done.err
    assert "time" in done.err
    assert "now it sleeps" in (folder / "dist" / "offline-kit" / "rehearsal" / "log.txt").read_text()
    assert alive(str(folder)) == []
