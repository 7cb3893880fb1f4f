"""What holds for all tests."""

import compileall
import functools
import gc
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest

from offline_kit.core import interpreters

if TYPE_CHECKING:
    from offline_kit.kaggle.client.client import KaggleClient
    from tests.support.local_kaggle import Bench
    from tests.support.shipping import Yard

# A run in the background of a script (`.ci/run &`) begins with ^C ignored, and hands that on to the processes that
# the tests start and interrupt. A handler of our own is not handed on: they begin with the system's.
signal.signal(signal.SIGINT, signal.default_int_handler)

gc.disable()  # until all tests are collected: what they are made of stays

# Containers set PYTHONDONTWRITEBYTECODE: each worker would compile all tests, and each command the package, every time.
_bytecode_was_off, sys.dont_write_bytecode = sys.dont_write_bytecode, False
if "PYTEST_XDIST_WORKER" not in os.environ:
    compileall.compile_dir(Path(interpreters.__file__).parents[1], quiet=2)

os.environ["OFFLINE_KIT_NO_PRODUCTION"] = (
    "1"  # no test may reach the real Kaggle, whatever credentials lie here
)

# A deadline for one example measures the machine, not the code.
# The same examples in every run: a failure belongs to a change. `pytest --hypothesis-profile=explore` looks for new ones.
hypothesis.settings.register_profile("any machine", deadline=None, derandomize=True)
hypothesis.settings.register_profile("explore", deadline=None, max_examples=1000)
hypothesis.settings.load_profile("any machine")

# Several test processes share the cores: OpenMP's threads of each would spin and wait for those of the others.
# https://gcc.gnu.org/onlinedocs/libgomp/OMP_005fWAIT_005fPOLICY.html
os.environ.setdefault("OMP_NUM_THREADS", "1")

_MOST_WORKERS = 8


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Start two workers for each core: half of the time a test waits for another process, or for a local Kaggle."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return min(2 * cores, _MOST_WORKERS)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Let one worker run all files that import torch, scikit-learn or pandas, and each other file stay with one worker."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return "large libraries" if _imports_large_libraries(config.rootpath / file) else file

    return Scheduling(config, log)


@functools.cache
def _imports_large_libraries(file: Path) -> bool:
    return "tests.support.lazy_modules" in file.read_text(encoding="utf-8")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the files go first that take longest, so that none of them is left for one worker at the end."""
    driving = {item.path for item in items if {"here", "bench"} & set(getattr(item, "fixturenames", ()))}
    items.sort(key=lambda item: (not _imports_large_libraries(item.path), item.path not in driving))


def pytest_collection_finish() -> None:
    """Leave thousands of tests and their libraries out of all garbage collections, which took a fifth of the CPU time."""
    sys.dont_write_bytecode = _bytecode_was_off  # modules of a test's own stay without
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session")
def python_313() -> None:
    """Skip where the image's Python is not on this machine: a rehearsal at fidelity `matching` needs it."""
    if interpreters.find_interpreter("3.13", os.environ) is None:
        pytest.skip("no Python 3.13 on this machine; `uv python install 3.13` brings one")


@pytest.fixture(scope="session")
def container_image() -> str:
    """An image for containers, made of this environment; skips where no container engine runs it."""
    from offline_kit.core import sandbox
    from offline_kit.core.errors import OutsideError
    from tests.support.containers import make_image

    image = make_image()
    try:
        sandbox.find_container(image)
    except OutsideError as error:
        pytest.skip(f"{error.what}: {'; '.join(error.details)}")
    return image


@pytest.fixture
def bench(tmp_path: Path) -> "Iterator[Bench]":
    """A local Kaggle with alice and bob; a file that wants another one has a fixture of its own."""
    from tests.support.local_kaggle import serving

    with serving(tmp_path) as running:
        yield running


@pytest.fixture
def alice(bench: "Bench") -> "Iterator[KaggleClient]":
    """Alice's client."""
    from tests.support.pushing import client

    with client(bench) as mine:
        yield mine


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with one dataset, whose kit is built; tests work on copies."""
    from tests.support.shipping import built_copy, make_project

    return built_copy(make_project(tmp_path_factory.mktemp("built") / "project"))


@pytest.fixture
def here(tmp_path: Path, built: Path) -> "Iterator[Yard]":
    """A copy of the built project, and a local Kaggle with its competition."""
    from tests.support.shipping import yard

    with yard(tmp_path, built) as made:
        yield made
