"""Working directories and limits under which little can be written: one sentence, the right code, no traceback."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CONFIG = 'dataset = "some-kit"\ncheckpoints = ["a.bin"]\n'
COMMANDS = ["build", "adopt x.ipynb"]  # every command is checked before it is parsed


def run(line: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    """Run a shell line, in which $OK is offline-kit."""
    env = {**os.environ, "OFFLINE_KIT_CACHE": str(cwd / "cache"), "PYTHON": sys.executable}
    line = line.replace("$OK", '"$PYTHON" -m offline_kit')
    return subprocess.run(
        ["bash", "-c", line], cwd=cwd, env=env, capture_output=True, text=True, errors="replace", check=False
    )


def sentence(done: "subprocess.CompletedProcess[str]", code: int) -> None:
    """Fail unless a command ended with this code, and with an error and its remedy instead of a traceback."""
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert "bug in offline-kit" not in done.stderr
    assert ("error" in done.stderr, "hint: " in done.stderr) == (True, True), done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_a_deleted_working_directory(tmp_path: Path, command: str) -> None:
    """The error names it."""
    sentence(run(f"mkdir gone; cd gone; rmdir ../gone; $OK {command}", tmp_path), 2)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere file systems refuse such names")
@pytest.mark.parametrize("command", COMMANDS)
def test_a_project_whose_path_is_no_utf8(tmp_path: Path, command: str) -> None:
    """The error names it, whether it is the working directory or an argument."""
    place = Path(os.fsdecode(os.fsencode(tmp_path) + b"/pro\xff"))
    place.mkdir()
    (place / "offline-kit.toml").write_text(CONFIG)
    sentence(run(f"cd pro*; $OK {command}", tmp_path), 2)
    if "adopt" not in command:
        sentence(run(f"$OK {command} pro*", tmp_path), 2)


@pytest.mark.skipif(sys.platform == "win32", reason="no ulimit")
@pytest.mark.parametrize("blocks", [0, 100])
def test_a_limit_on_the_size_of_files(tmp_path: Path, blocks: int) -> None:
    """A kit that may not be written is the system's refusal and no bug, and nothing half made stays."""
    (tmp_path / "offline-kit.toml").write_text(CONFIG)
    (tmp_path / "a.bin").write_bytes(b"x" * 3_000_000)
    sentence(run(f"ulimit -f {blocks}; $OK build", tmp_path), 4)
    assert not (tmp_path / "dist/offline-kit").exists()
    assert not list(tmp_path.glob("*crash*"))
