"""Finding the image's Python among the interpreters of this machine, and uv, which we bring."""

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


def find_interpreter(minor: str, env: Mapping[str, str]) -> Path | None:
    """Return an interpreter of this minor version ("3.13"), or None if the machine has none.

    Looked for in this order: the running one, PATH, pyenv's versions (newest first), what uv knows. Each
    candidate is run before it is believed, since a shim on PATH may answer with nothing; only CPython
    with the GIL counts, as on Kaggle. Environments are resolved to the interpreter that they stand on.
    `env` gives PATH, PYENV_ROOT and HOME.
    """
    for candidate in _list_candidates(minor, env):
        if interpreter := _probe_interpreter(candidate, minor, env):
            return interpreter
    return None


def _list_candidates(minor: str, env: Mapping[str, str]) -> Iterator[Path]:
    if "{}.{}".format(*sys.version_info) == minor:
        yield Path(sys.executable)
    name = f"python{minor}.exe" if os.name == "nt" else f"python{minor}"
    for folder in env.get("PATH", "").split(os.pathsep):
        if folder and _is_file(Path(folder) / name):
            yield Path(folder) / name
    yield from _find_pyenv(minor, env)
    yield from _find_uv_python(minor, env)


def _is_file(path: Path) -> bool:
    """Tell whether there is such a file; a folder of PATH that one may not look into has none."""
    try:
        return path.is_file()
    except OSError:
        return False


def _find_pyenv(minor: str, env: Mapping[str, str]) -> list[Path]:
    root = env.get("PYENV_ROOT") or (f"{env['HOME']}/.pyenv" if env.get("HOME") else "")
    if not root:
        return []
    versions = [
        path for path in (Path(root) / "versions").glob(f"{minor}.*") if _is_file(path / "bin" / "python")
    ]
    versions.sort(key=lambda path: [int(word) if word.isdigit() else -1 for word in path.name.split(".")])
    return [path / "bin" / "python" for path in reversed(versions)]


def _find_uv_python(minor: str, env: Mapping[str, str]) -> Iterator[Path]:
    words = ["python", "find", "--no-python-downloads", "--managed-python", minor]
    try:
        answer = processes.run_command([uv_program(), *words], env=env, check=False, timeout=30)
    except OfflineKitError:
        return
    if answer.succeeded and answer.out.strip():
        yield Path(answer.out.strip())


def _probe_interpreter(candidate: Path, minor: str, env: Mapping[str, str]) -> Path | None:
    try:
        answer = processes.run_command([candidate, "-I", "-c", _PROBE], env=env, check=False, timeout=30)
    except OfflineKitError:
        return None
    words = answer.out.strip().split("\t")
    if not answer.succeeded or len(words) != 4 or words[:3] != [minor, "CPython", "0"]:
        return None
    base = Path(words[3])
    return base if _is_file(base) else candidate
