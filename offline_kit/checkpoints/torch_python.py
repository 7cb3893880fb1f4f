"""Find an interpreter that has torch: this tool itself does not depend on it."""

import os
import sys
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path

from offline_kit.core import processes
from offline_kit.core.errors import OfflineKitError, ProjectError

_PROBE = "import importlib.util, sys; sys.exit(0 if importlib.util.find_spec('torch') else 3)"


def find_torch_python(project: Path, env: Mapping[str, str], *, requested_by: str) -> Path:
    """Return the first interpreter that can import torch; raise ProjectError, naming `requested_by`, if none can.

    The order is: the project's `.venv` or `venv`, the active environment (VIRTUAL_ENV, CONDA_PREFIX), the one that runs
    this tool, `python3` and `python` on PATH. `env` holds these variables.
    """
    attempts = []
    for candidate in dict.fromkeys(_list_candidates(project, env)):
        if _has_torch(candidate):
            return candidate
        attempts.append(f"'{candidate}' has no torch")
    raise ProjectError(
        f"{requested_by} needs an interpreter with torch, and none was found",
        hint="activate the environment of the training (or put it in the project's .venv) and build again, "
        f"or remove {requested_by} from [tool.offline-kit]",
        code="torch-not-found",
        details=attempts,
    )


def _list_candidates(project: Path, env: Mapping[str, str]) -> Iterator[Path]:
    # https://docs.python.org/3/library/venv.html#how-venvs-work
    inside = Path("Scripts/python.exe" if os.name == "nt" else "bin/python")
    environments = [project / ".venv", project / "venv"]
    environments += [Path(env[name]) for name in ("VIRTUAL_ENV", "CONDA_PREFIX") if env.get(name)]
    for environment in environments:
        if (environment / inside).is_file():
            yield environment / inside
    # Under pipx or uvx this is an environment of its own, which usually has no torch.
    yield Path(sys.executable)
    for folder in env.get("PATH", "").split(os.pathsep):
        for name in ("python3", "python"):
            if folder and os.access(Path(folder) / name, os.X_OK):
                yield Path(folder) / name


@lru_cache(maxsize=64)
def _has_torch(python: Path) -> bool:
    try:
        return processes.run_command(
            [python, "-c", _PROBE], cwd=python.parent, check=False, timeout=60
        ).succeeded
    except OfflineKitError:
        return False
