"""Finding the image's Python."""

import os
import sys
from pathlib import Path

import pytest

from offline_kit.core import processes
from offline_kit.core.errors import OutsideError
from offline_kit.core.interpreters import find_interpreter, uv_program

RUNNING = "{}.{}".format(*sys.version_info)
ELSEWHERE = {"PATH": "", "HOME": "/nonexistent", "UV_PYTHON_INSTALL_DIR": "/nonexistent"}


def script(path: Path, text: str) -> Path:
    """Write an executable shell script."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def answering(path: Path, minor: str, implementation: str = "CPython", gil: str = "0") -> Path:
    """Write an interpreter that answers the probe with this version."""
    return script(path, f"printf '%s\\t%s\\t%s\\t%s\\n' {minor} {implementation} {gil} {path}")


def test_uv_is_the_one_that_came_with_us(monkeypatch: pytest.MonkeyPatch) -> None:
    """uv is found beside us, not on PATH; where it is gone the error says how it comes back."""
    monkeypatch.setenv("PATH", "")
    assert processes.run_command([uv_program(), "--version"]).out.startswith("uv ")

    def gone() -> str:
        raise FileNotFoundError

    monkeypatch.setattr("uv.find_uv_bin", gone)
    with pytest.raises(OutsideError, match="uv is not there") as caught:
        uv_program()
    assert caught.value.hint == "pip install --force-reinstall uv"


def test_the_running_interpreter_serves_its_own_version() -> None:
    """The running Python is taken for its own minor, and the base of its environment is named."""
    found = find_interpreter(RUNNING, ELSEWHERE)
    assert found is not None
    assert os.path.realpath(found) == os.path.realpath(sys.executable)


def test_a_shim_that_answers_nothing_is_passed_over(tmp_path: Path) -> None:
    """A pyenv shim without a version behind it does not hide pyenv's real interpreter."""
    script(tmp_path / "shims" / "python3.99", "echo 'command not found' >&2; exit 127")
    real = answering(tmp_path / "pyenv" / "versions" / "3.99.2" / "bin" / "python", "3.99")
    env = {**ELSEWHERE, "PATH": str(tmp_path / "shims"), "PYENV_ROOT": str(tmp_path / "pyenv")}
    assert find_interpreter("3.99", env) == real


def test_the_newest_of_pyenvs_versions_wins(tmp_path: Path) -> None:
    """3.99.10 is newer than 3.99.9."""
    answering(tmp_path / "versions" / "3.99.9" / "bin" / "python", "3.99")
    newest = answering(tmp_path / "versions" / "3.99.10" / "bin" / "python", "3.99")
    assert find_interpreter("3.99", {**ELSEWHERE, "PYENV_ROOT": str(tmp_path)}) == newest


def test_an_interpreter_that_is_gone_is_looked_for_again(tmp_path: Path) -> None:
    """What was found once is remembered only while it exists."""
    newer = answering(tmp_path / "versions" / "3.99.10" / "bin" / "python", "3.99")
    older = answering(tmp_path / "versions" / "3.99.9" / "bin" / "python", "3.99")
    env = {**ELSEWHERE, "PYENV_ROOT": str(tmp_path)}
    assert find_interpreter("3.99", env) == newer
    older.write_text("exit 1")
    assert find_interpreter("3.99", env) == newer, "nothing is run a second time"
    answering(older, "3.99")
    newer.unlink()
    assert find_interpreter("3.99", env) == older


def test_other_pythons_do_not_count(tmp_path: Path) -> None:
    """PyPy, a free-threaded build and a liar about its version are not Kaggle's Python."""
    answering(tmp_path / "a" / "python3.99", "3.99", implementation="PyPy")
    answering(tmp_path / "b" / "python3.99", "3.99", gil="1")
    answering(tmp_path / "c" / "python3.99", "3.98")
    env = {**ELSEWHERE, "PATH": os.pathsep.join(str(tmp_path / name) for name in "abc")}
    assert find_interpreter("3.99", env) is None


def test_a_folder_on_path_that_cannot_be_looked_into_is_passed_over(tmp_path: Path) -> None:
    """Another user's folder (here: a name too long, which root may not look into either) is no failure."""
    real = answering(tmp_path / "bin" / "python3.99", "3.99")
    path = os.pathsep.join([str(tmp_path / ("x" * 300)), str(real.parent)])
    assert find_interpreter("3.99", {**ELSEWHERE, "PATH": path}) == real
