"""Find the image's Python among the interpreters of this machine, and uv, which is installed with us."""

import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from offline_kit.core import processes
from offline_kit.core.errors import OfflineKitError, OutsideError

_PROBE = (
    "import sys, sysconfig, platform\n"
    "print('%d.%d' % sys.version_info[:2], platform.python_implementation(),"
    " sysconfig.get_config_var('Py_GIL_DISABLED') or 0, getattr(sys, '_base_executable', '') or sys.executable, sep='\\t')"
)

# What decides which interpreters are found. A build asks several times, and pyenv's shims take 0.3 s each to answer.
_SEARCHED = ("PATH", "PYENV_ROOT", "PYENV_VERSION", "HOME", "UV_PYTHON_INSTALL_DIR")
_known_interpreters: dict[tuple[str, ...], Path] = {}


def uv_program() -> Path:
    """Return the program uv, as it was installed with us; OutsideError if it is gone."""
    from uv import find_uv_bin

    try:
        return Path(find_uv_bin())
    except FileNotFoundError as error:
        raise OutsideError(
            "uv is not there, though it belongs to offline-kit",
            code="uv-missing",
            hint="pip install --force-reinstall uv",
        ) from error


def find_interpreter(minor: str, env: Mapping[str, str] | None = None) -> Path | None:
    """Return an interpreter of this minor version ("3.13"), or None if the machine has none.

    Searched in this order: the running one, PATH, pyenv's versions (newest first), uv's. Only CPython with the GIL
    counts, as on Kaggle. Of an environment, the interpreter below it is returned. `env` gives PATH, PYENV_ROOT and HOME
    (default: ours). One that was found is remembered while it exists.
    """
    env = os.environ if env is None else env
    key = (minor, *(env.get(name, "") for name in _SEARCHED))
    known = _known_interpreters.get(key)
    if known and _is_file(known):
        return known
    for candidate in _list_candidates(minor, env):
        # Each is run: a shim on PATH (pyenv's) may run nothing.
        words = _run(candidate, ["-I", "-c", _PROBE], env).split("\t")
        if len(words) == 4 and words[:3] == [minor, "CPython", "0"]:
            base = Path(words[3])
            _known_interpreters[key] = base if _is_file(base) else candidate
            return _known_interpreters[key]
    return None


def _list_candidates(minor: str, env: Mapping[str, str]) -> Iterator[Path]:
    if "{}.{}".format(*sys.version_info) == minor:
        yield Path(sys.executable)
    name = f"python{minor}.exe" if os.name == "nt" else f"python{minor}"
    folders = [Path(folder) for folder in env.get("PATH", "").split(os.pathsep) if folder]
    yield from (folder / name for folder in folders if _is_file(folder / name))
    pyenv = env.get("PYENV_ROOT") or (f"{env['HOME']}/.pyenv" if env.get("HOME") else "")
    if pyenv:
        versions = list(Path(pyenv, "versions").glob(f"{minor}.*"))
        versions.sort(key=lambda path: [int(word) if word.isdigit() else -1 for word in path.name.split(".")])
        programs = [path / "bin" / "python" for path in reversed(versions)]
        yield from (program for program in programs if _is_file(program))
    words = ["python", "find", "--no-python-downloads", "--managed-python", minor]
    if managed := _run(uv_program(), words, env):
        yield Path(managed)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # in a folder of PATH that one may not look into
        return False


def _run(program: Path, words: list[str], env: Mapping[str, str]) -> str:
    """Return the output of a program; "" if it fails or does not run."""
    try:
        answer = processes.run_command([program, *words], env=env, check=False, timeout=30)
    except OfflineKitError:
        return ""
    return answer.out.strip() if answer.succeeded else ""
