"""Whatever happens to a build, nothing half made is left, and the same command goes on from there."""

import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from offline_kit.kit import manifest
from tests.support.local_index import LocalIndex, make_wheel, unreachable
from tests.support.sdists import own_backend, wheel_of_installed
from tests.support.workbench import command, environment, only, project, run

pytestmark = pytest.mark.slow

OWN = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "own-package"
version = "0.1"

[tool.setuptools]
packages = ["own_package"]
"""


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalIndex]:
    """Serve a large wheel, a package that is source alone and slow to build, and setuptools."""
    files = tmp_path_factory.mktemp("index")
    large: dict[str, str | bytes] = {"left/__init__.py": "", "left/data.bin": os.urandom(3_000_000)}
    with LocalIndex() as served:
        served.add(make_wheel(files, "left", "1.0", files=large))
        served.add(own_backend(files, "source-only", body="__import__('time').sleep(2)"))
        served.add(wheel_of_installed(files, "setuptools"))
        yield served


@dataclass(frozen=True, kw_only=True)
class Case:
    """A project with a kit from before, whose next build makes another."""

    index: LocalIndex
    """The only index."""
    folder: Path
    """The project."""
    before: str
    """Id of the kit that lies there."""
    after: str
    """Id of the kit that the next build makes."""

    def env(self, cache: Path) -> dict[str, str | None]:
        """Return the environment of a build with this cache."""
        return only(self.index.url, cache)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, index: LocalIndex) -> Case:
    """Build the kit of yesterday; the packages come only with the next one."""
    root = tmp_path_factory.mktemp("made")
    folder = project(root / "project", [], more='packages = ["."]\ncheckpoints = ["*.bin"]\n')
    (folder / "pyproject.toml").write_text(OWN)
    (folder / "own_package").mkdir()
    (folder / "own_package" / "__init__.py").write_text("")
    (folder / "weights.bin").write_bytes(b"yesterday")
    env = only(index.url, root / "cache")
    before = run("build", folder, "--json", env=env).good().facts["kit"]
    today = shutil.copytree(folder, root / "today")
    make_today(today)
    after = run("build", today, "--json", env=env).good().facts["kit"]
    assert after != before
    return Case(index=index, folder=folder, before=before, after=after)


def make_today(folder: Path) -> None:
    """Change all that a build looks at."""
    (folder / "requirements.in").write_text("left\nsource-only\n")
    (folder / "own_package" / "__init__.py").write_text("today = True\n")
    (folder / "weights.bin").write_bytes(bytes(range(256)) * 380_000)


@pytest.fixture
def case(made: Case, tmp_path: Path) -> Case:
    """Return the case in a folder of its own, changed since its kit was built."""
    folder = shutil.copytree(made.folder, tmp_path / "project")
    make_today(folder)
    made.index.faults.clear()
    made.index.requests.clear()
    return Case(index=made.index, folder=folder, before=made.before, after=made.after)


@dataclass
class Running:
    """A build that runs in a process group of its own, as in a terminal."""

    process: subprocess.Popen[str]
    lines: list[str] = field(default_factory=list)

    def said(self, text: str) -> bool:
        """Tell whether it has said so yet."""
        return any(text in line for line in self.lines)

    def interrupt(self) -> int:
        """Press ^C and return the exit code."""
        os.killpg(self.process.pid, signal.SIGINT)
        return self.process.wait(60)

    def alone(self) -> bool:
        """Tell whether nothing that it started is left; the last may take a moment to go."""
        for _ in range(50):
            try:
                os.killpg(self.process.pid, 0)
            except ProcessLookupError:
                return True
            time.sleep(0.1)
        return False


def start(*words: str | Path, env: dict[str, str | None]) -> Running:
    """Start a command and listen to it."""
    process = subprocess.Popen(
        command(*words),
        env=environment(env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    running = Running(process)
    assert process.stderr
    threading.Thread(target=lambda: running.lines.extend(process.stderr or ()), daemon=True).start()
    return running


def until(condition: Callable[[], bool], running: Running) -> None:
    """Wait until it holds; fail when the build ends before."""
    end = time.monotonic() + 90
    while not condition():
        assert running.process.poll() is None, f"it ended too soon:\n{''.join(running.lines)}"
        assert time.monotonic() < end, f"it never came:\n{''.join(running.lines)}"
        time.sleep(0.01)


def kit_id(folder: Path) -> str:
    """Return the id of the kit in a project after checking every byte of it."""
    kit = manifest.read_kit(folder / "dist" / "offline-kit")
    problems = [line for part in kit.parts for line in manifest.verify_part(kit.part_folder(part), part)]
    assert problems == []
    return kit.id


def stray(folder: Path) -> list[str]:
    """Return what no finished build leaves in a project."""
    names = (path.name for path in folder.rglob("*"))
    return [name for name in names if name.endswith((".part", ".old", ".tmp", "-crash.log"))]


MOMENTS: dict[str, tuple[str, Callable[[Case, Running], bool]]] = {
    "at the start": ("", lambda case, running: True),
    "own package": ("", lambda case, running: running.said("Building your package")),
    "resolving": ("/simple/left", lambda case, running: bool(case.index.asked("/simple/left/"))),
    "downloading": ("/files/left-1.0-py3-none-any.whl", lambda case, running: bool(case.index.asked(".whl"))),
    "building an sdist": ("", lambda case, running: running.said("source-only")),
    "packing": ("", lambda case, running: running.said("Packing")),
    "rendering": ("", lambda case, running: running.said("Rendering")),
}
"""What the index dawdles over, and when ^C is pressed."""


@pytest.mark.parametrize("moment", MOMENTS)
def test_an_interrupt_leaves_the_old_kit_whole(case: Case, tmp_path: Path, moment: str) -> None:
    """^C: exit code 130, the kit of before intact, no half files, nothing running; then the build succeeds."""
    slow, reached = MOMENTS[moment]
    if slow:
        case.index.stall(slow, seconds=3)
    env = case.env(tmp_path / "cache")
    running = start("build", case.folder, env=env)
    until(lambda: reached(case, running), running)
    time.sleep(0.5 if moment == "at the start" else 0.05)
    code = running.interrupt()
    said = "".join(running.lines)
    assert code == 130 or (moment == "rendering" and code == 0), said
    assert "Traceback" not in said
    assert running.alone()
    assert kit_id(case.folder) in ({case.before, case.after} if moment == "rendering" else {case.before})
    assert stray(case.folder) == []
    assert run("build", case.folder, "--json", env=env).good().facts["kit"] == case.after
    assert kit_id(case.folder) == case.after
    assert stray(case.folder) == []


def test_two_builds_at_once_both_end_well(case: Case, tmp_path: Path) -> None:
    """One waits for the other; the kit is whole."""
    env = case.env(tmp_path / "cache")
    both = [start("build", case.folder, env=env) for _ in range(2)]
    assert [one.process.wait(120) for one in both] == [0, 0], [one.lines for one in both]
    assert kit_id(case.folder) == case.after
    assert stray(case.folder) == []


def test_without_a_network_a_warm_cache_is_enough(case: Case, tmp_path: Path) -> None:
    """The committed freeze and the cache rebuild the kit; a cold cache names the index and ends with 4."""
    dead = unreachable()
    warm, cold = case.env(tmp_path / "cache"), case.env(tmp_path / "cold")
    run("build", case.folder, "--json", env=warm).good()
    shutil.rmtree(case.folder / "dist")
    again = run("build", case.folder, "--json", env=warm | {"PIP_INDEX_URL": dead}).good()
    assert again.facts["kit"] == case.after
    done = run("build", case.folder, env=cold | {"PIP_INDEX_URL": dead})
    assert done.code == 4, done.err
    assert dead.removeprefix("http://").partition("/")[0] in done.err
    assert "hint: " in done.err
    assert kit_id(case.folder) == case.after


def test_a_place_that_cannot_be_written_is_named(case: Case, tmp_path: Path) -> None:
    """Below a file there is no folder: one clear error, for the kit and for the cache, and no crash."""
    (tmp_path / "file").write_text("")
    out = tmp_path / "file" / "kit"
    for words, env, place in (
        (("--out", str(out)), case.env(tmp_path / "cache"), "file"),
        ((), case.env(out), "file"),
    ):
        done = run("build", case.folder, *words, env=env)
        assert done.code in (1, 2, 4), done.err
        assert f"'{tmp_path / place}" in done.err
        assert "hint: " in done.err
    assert kit_id(case.folder) == case.before
    assert stray(case.folder) == []


def test_a_damaged_cache_heals(case: Case, tmp_path: Path) -> None:
    """Bytes that changed in the cache, even behind the same size, never reach a kit."""
    cache = tmp_path / "cache"
    env = case.env(cache)
    run("build", case.folder, "--json", env=env).good()
    damaged = [path for path in (cache / "blobs").rglob("*") if path.is_file()]
    assert damaged
    shutil.rmtree(case.folder / "dist")
    for path in damaged:
        data = path.read_bytes()
        path.write_bytes(bytes([data[0] ^ 255]) + data[1:])
    assert run("build", case.folder, "--json", env=env).good().facts["kit"] == case.after
    assert kit_id(case.folder) == case.after
