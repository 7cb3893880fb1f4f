"""The kit id is over content alone: not the day, the folder, the umask or what a cache knows."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.local_index import LocalIndex, make_sdist, make_wheel
from tests.support.sdists import wheel_of_installed
from tests.support.workbench import only, project, run

CLOCK = """
import os, time
_shift, _time, _ns = int(os.environ["TEST_CLOCK_SHIFT"]), time.time, time.time_ns
time.time = lambda: _time() + _shift
time.time_ns = lambda: _ns() + _shift * 10**9
"""
"""A sitecustomize that moves the clock; datetime is moved with it."""

DATETIME = """
import datetime as _datetime

class _Moved(_datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls.fromtimestamp(time.time(), tz)

    @classmethod
    def utcnow(cls):
        return cls.fromtimestamp(time.time(), _datetime.timezone.utc).replace(tzinfo=None)

_datetime.datetime = _Moved
"""

OWN = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "own-package"
version = "0.1"
dependencies = ["left"]

[tool.setuptools]
packages = ["own_package"]
"""


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalIndex]:
    """Serve a wheel, a package that is source alone, and what builds it."""
    files = tmp_path_factory.mktemp("index")
    with LocalIndex() as served:
        served.add(make_wheel(files, "left", "1.0"))
        served.add(make_sdist(files, "source-only", "0.5", requires=["left"], build_requires=["setuptools"]))
        served.add(wheel_of_installed(files, "setuptools"))
        yield served


def built(folder: Path, index: LocalIndex, *, umask: int, days: int) -> tuple[dict[str, Any], Path]:
    """Build the same project in this folder with a cache of its own, on another day."""
    place = project(
        folder / "project", ["left", "source-only"], more='packages = ["."]\ncheckpoints = ["*.bin"]\n'
    )
    (place / "pyproject.toml").write_text(OWN)
    (place / "own_package").mkdir()
    (place / "own_package" / "__init__.py").write_text("import left\n")
    (place / "weights.bin").write_bytes(bytes(range(256)) * 40)
    for number, path in enumerate(sorted(place.rglob("*"))):
        os.utime(path, (1_700_000_000 + days * 1000 + number,) * 2)
    clock = folder / "clock"
    clock.mkdir()
    (clock / "sitecustomize.py").write_text(CLOCK + DATETIME)
    search = os.pathsep.join(filter(None, [str(clock), os.environ.get("PYTHONPATH")]))
    # A build deletes temporary folders of ours that are a day old: by the moved clock, those of all tests beside it.
    (folder / "tmp").mkdir()
    env = only(index.url, folder / "cache") | {
        "PYTHONPATH": search,
        "TEST_CLOCK_SHIFT": str(days * 86_400),
        "TMPDIR": str(folder / "tmp"),
    }
    done = run("build", place, "--json", env=env, umask=umask).good()
    return done.facts, place


@pytest.mark.slow
def test_another_day_folder_umask_and_cache_give_the_same_kit(tmp_path: Path, index: LocalIndex) -> None:
    """Own wheel, built sdist, plan and checkpoint come out the same, byte for byte, and so does the id."""
    facts, here = built(tmp_path / "first", index, umask=0o022, days=0)
    second, there = built(tmp_path / "some" / "where else", index, umask=0o077, days=400)
    assert facts["cutoff"][:4] != second["cutoff"][:4], "the clock was moved"
    assert second["kit"] == facts["kit"]
    files = {
        path.relative_to(here): path.read_bytes()
        for path in (here / "dist" / "offline-kit" / "dataset").rglob("*")
        if path.is_file()
    }
    assert len(files) >= 6
    for name, data in files.items():
        assert (there / name).read_bytes() == data, name
