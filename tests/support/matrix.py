"""Shared by tests: each framework from its training to a rehearsed kit: the notebook predicts what the model in memory did."""

import csv
import hashlib
import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import uv
from filelock import FileLock

from offline_kit.core import files, interpreters
from offline_kit.project import images
from tests.support.workbench import IMAGE

SCRIPTS = Path(__file__).parents[1] / "end_to_end/matrix"


TABLES = ("numpy", "pandas", "scikit-learn", "scipy", "joblib")


CONFIG = """
competition = "some-competition"
competition_data = "input"
dataset = "some-kit"
image = {image!r}
checkpoints = ["models"]
{top}
[notebook]
task = "{task}"
"""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One framework, and how it is saved."""

    script: str
    """The training script, without its suffix."""
    framework: str
    """What the build should recognise."""
    packages: tuple[str, ...] = ()
    """What is trained with, besides the usual libraries of tables; at the image's versions where it has them."""
    alone: tuple[str, ...] = ()
    """Packages that are installed without what they ask for."""
    more: str = ""
    """What the [notebook] table says besides the task."""
    task: str = "tabular"
    """What it predicts on."""
    top: str = ""
    """What the configuration says at its top."""
    code: tuple[str, ...] = ()
    """Modules that the project has as its own."""
    optional: bool = False
    """An index may lack its packages."""


def train(row: Row, project: Path) -> Path:
    """Run the training script in an environment of its own; it leaves models, data, and what it expects."""
    (project / "models").mkdir(parents=True)
    config = CONFIG.format(image=IMAGE, task=row.task, top=row.top)
    (project / "offline-kit.toml").write_text(config + row.more)
    for name in row.code:
        shutil.copy(SCRIPTS / name, project)
    script = SCRIPTS / f"{row.script}.py"
    env = dict(os.environ) | {
        "CUDA_VISIBLE_DEVICES": "-1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    argv = [environment(row), script]
    done = subprocess.run(
        argv, cwd=project, env=env, capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return project


def environment(row: Row) -> Path:
    """Return the Python of an environment with the row's packages at the image's versions; made once."""
    versions = images.load_image(IMAGE, accelerator="none", project=Path()).packages
    wanted = [pinned(name, versions) for name in (*TABLES, *row.packages)]
    alone = [pinned(name, versions) for name in row.alone]
    base = interpreters.find_interpreter("3.13", os.environ)
    assert base is not None
    key = hashlib.sha256(repr((wanted, alone, str(base))).encode()).hexdigest()[:16]
    folder = files.make_folder(files.cache_dir() / "test-matrix")
    made = folder / key
    with FileLock(folder / f"{key}.lock"):
        if not (made / "whole").exists():
            over = folder / f"{key}.txt"
            over.write_text(
                "".join(f"{name}=={version.partition('+')[0]}\n" for name, version in versions.items())
            )
            tool(row, "venv", "--clear", "--python", base, made)
            tool(row, "pip", "install", "--python", made, "--override", over, *wanted)
            if alone:
                tool(row, "pip", "install", "--python", made, "--no-deps", *alone)
            (made / "whole").touch()
    return made / "bin" / "python"


def pinned(name: str, versions: Mapping[str, str]) -> str:
    """Return the requirement of a package: the image's version, or any where the image lacks it."""
    return f"{name}=={versions[name]}" if name in versions else name


def tool(row: Row, *words: str | Path) -> None:
    """Run uv; skip an optional row whose packages the index has not."""
    argv = [uv.find_uv_bin(), *map(str, words)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=900)
    if done.returncode != 0 and row.optional:
        pytest.skip(f"the index gives no environment for {row.script}: {done.stderr.strip()[-300:]}")
    assert done.returncode == 0, done.stderr[-3000:]


def rows(path: Path) -> dict[str, list[float]]:
    """Return the numbers of a submission by id."""
    with path.open(newline="") as stream:
        _, *found = csv.reader(stream)
    return {key: [float(value) for value in values] for key, *values in found}
