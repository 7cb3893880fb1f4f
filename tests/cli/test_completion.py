"""What a shell offers on Tab, asked of the shells themselves."""

import os
import pty
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

TYPED = [("reh", "rehearse"), ("rehearse --env m", "matching")]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Return a folder whose bin/ holds `offline-kit`, as an installation's does."""
    program = tmp_path / "bin" / "offline-kit"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m offline_kit "$@"\n')
    program.chmod(0o755)
    return tmp_path


def environment(home: Path) -> dict[str, str]:
    """Return the environment of a shell that finds this `offline-kit`."""
    return os.environ | {"PATH": f"{home / 'bin'}:{os.environ['PATH']}", "HOME": str(home), "TERM": "dumb"}


def script_for(shell: str, home: Path) -> Path:
    """Write the completion script of a shell, or skip the test if the shell is not installed."""
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    words = [str(home / "bin" / "offline-kit"), "completion", shell]
    script = home / f"completion.{shell}"
    script.write_bytes(subprocess.run(words, check=True, capture_output=True).stdout)
    return script


def run(home: Path, *words: str) -> list[str]:
    """Return the lines that a shell prints."""
    done = subprocess.run(words, env=environment(home), capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


@pytest.mark.parametrize(("typed", "offered"), TYPED)
def test_bash_completes(home: Path, typed: str, offered: str) -> None:
    """The function that the script registers answers with the one word that fits."""
    script = script_for("bash", home)
    words = typed.split()
    line = f"source {script}; COMP_WORDS=(offline-kit {typed}); COMP_CWORD={len(words)}"
    assert run(
        home, "bash", "-c", f"{line}; _offline_kit_completion offline-kit; echo ${{COMPREPLY[@]}}"
    ) == [offered]


@pytest.mark.parametrize(("typed", "offered"), TYPED)
def test_fish_completes(home: Path, typed: str, offered: str) -> None:
    """Fish says what it would offer, with a description after a tab."""
    script = script_for("fish", home)
    lines = run(home, "fish", "-c", f"source {script}; complete -C 'offline-kit {typed}'")
    assert [line.partition("\t")[0] for line in lines] == [offered]


@pytest.mark.parametrize(("typed", "offered"), TYPED)
def test_zsh_completes(home: Path, typed: str, offered: str) -> None:
    """Zsh completes in its line editor alone: it gets a terminal, and a Tab is typed into it."""
    script = script_for("zsh", home)
    process, terminal = pty.fork()
    if process == 0:
        os.execvpe("zsh", ["zsh", "-f", "-i"], environment(home))
    try:
        os.write(terminal, f"autoload -U compinit; compinit -u -D; source {script}; echo re''ady\n".encode())
        wait_for(terminal, b"ready\r\n")
        os.write(terminal, f"offline-kit {typed}\t".encode())
        wait_for(
            terminal, f"offline-kit {typed.rpartition(' ')[0]}".encode().strip() + b" " + offered.encode()
        )
    finally:
        os.close(terminal)
        os.waitpid(process, 0)


def wait_for(terminal: int, text: bytes) -> None:
    """Read what a terminal shows until `text` is in it."""
    shown = b""
    end = time.monotonic() + 60
    while text not in shown:
        assert time.monotonic() < end, shown
        if select.select([terminal], [], [], 0.2)[0]:
            shown += os.read(terminal, 4096)


def test_an_unknown_shell_is_a_usage_error() -> None:
    """The shells that there are scripts for are named."""
    done = subprocess.run(
        [sys.executable, "-m", "offline_kit", "completion", "tcsh"], capture_output=True, text=True
    )
    assert (done.returncode, "bash" in done.stderr) == (2, True)
