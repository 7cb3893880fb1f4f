"""What the end-to-end tests share: projects to build, and the command line as a user runs it."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.support.command_line import Done

IMAGE = "kaggle-2026-10-cpu"
TOLD = "EVIDENCE "
"""What a notebook of these tests prints before the JSON that a test reads."""

CONFIG = """
competition = "some-competition"
competition_data = "input"
dataset = "some-kit"
image = {image!r}
requirements = ["requirements.in"]

[notebook]
template = "function"
function = "answer.py:answer"
"""

ANSWER = """
import json
{code}

def answer(context):
    print({told!r} + json.dumps(evidence(context)))
    return [{{"id": "a", "target": 0.5}}, {{"id": "b", "target": 0.25}}]
"""


def environment(changes: Mapping[str, str | None] | None = None) -> dict[str, str]:
    """Return this process's environment with changes; None removes a variable."""
    env = dict(os.environ) | {"COLUMNS": "200", "NO_COLOR": "1"}
    for name, value in (changes or {}).items():
        env.pop(name, None)
        if value is not None:
            env[name] = value
    return env


def command(*words: str | Path) -> list[str]:
    """Return the argument list of an offline-kit command."""
    return [sys.executable, "-m", "offline_kit", *map(str, words)]


def run(
    *words: str | Path, env: Mapping[str, str | None] | None = None, cwd: Path | None = None, umask: int = -1
) -> Done:
    """Run offline-kit as a user does and return how it ended."""
    began = time.monotonic()
    done = subprocess.run(
        command(*words),
        env=environment(env),
        cwd=cwd,
        umask=umask,
        capture_output=True,
        text=True,
        check=False,
        timeout=1500,
        stdin=subprocess.DEVNULL,
    )
    return Done(code=done.returncode, out=done.stdout, err=done.stderr, seconds=time.monotonic() - began)


def only(index: str, cache: Path) -> dict[str, str | None]:
    """Return the environment in which this index is the only one, and this cache is taken."""
    return {
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_INDEX_URL": index,
        "PIP_EXTRA_INDEX_URL": None,
        "PIP_FIND_LINKS": None,
        "OFFLINE_KIT_CACHE": str(cache),
    }


def project(
    folder: Path,
    requirements: Sequence[str],
    code: str = "def evidence(context):\n    return None\n",
    *,
    image: str = IMAGE,
    more: str = "",
) -> Path:
    """Write a project with the function template; `code` defines evidence(context), `more` is TOML put first."""
    data = folder / "input"
    data.mkdir(parents=True)
    (data / "sample_submission.csv").write_text("id,target\na,0\nb,0\n")
    (folder / "requirements.in").write_text("".join(f"{line}\n" for line in requirements))
    (folder / "offline-kit.toml").write_text(more + CONFIG.format(image=image))
    (folder / "answer.py").write_text(ANSWER.format(code=code, told=TOLD))
    return folder


def evidence(project: Path) -> Any:
    """Return what evidence(context) returned in the last rehearsal."""
    path = project / "dist" / "offline-kit" / "rehearsal" / "executed.ipynb"
    for cell in json.loads(path.read_text())["cells"]:
        for output in cell.get("outputs", ()):
            for line in "".join(output.get("text", ())).splitlines():
                if line.startswith(TOLD):
                    return json.loads(line.removeprefix(TOLD))
    raise AssertionError(f"{path} holds no evidence")


def plan(project: Path) -> dict[str, Any]:
    """Return the install plan of a built kit."""
    path = project / "dist" / "offline-kit" / "dataset" / "packages" / "install.json"
    found = json.loads(path.read_text())
    assert isinstance(found, dict)
    return found
