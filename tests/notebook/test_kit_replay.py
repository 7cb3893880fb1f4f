"""A replay: the lines of a recorded run find offline what they fetched when it was recorded."""

import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from tests.support.recordings import RecordedPart, make_repository, run_git
from tests.support.replaying import replay_lines, session_env


@pytest.fixture
def part(tmp_path: Path) -> RecordedPart:
    return RecordedPart(tmp_path / "recorder")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    made = make_repository(tmp_path / "source", {"a": "1"}, {"a": "2"}, {"a": "3"})
    run_git("branch", "dev", "HEAD~1", folder=made)
    return made


def test_clones_are_those_of_the_recorded_run(part: RecordedPart, repository: Path, tmp_path: Path) -> None:
    """Every way to clone a recorded URL gives its files: other spellings, empty credentials, shallow or filtered."""
    url = "https://host.invalid/me"
    part.add_repository(f"{url}/whole", repository)
    part.add_repository(f"{url}/shallow.git", repository, depth=1)
    clones = {
        f"{url}/whole": "3",
        f"--depth 1 {url}/whole.git": "3",
        f"-b dev {url}/whole/": "2",
        f"--filter=blob:none {url}/whole": "3",
        f"{url}/shallow": "3",
        f"--depth 1 {url}/shallow.git": "3",
        "https://me:@host.invalid/me/whole": "3",
        "--depth 1 https://token@host.invalid/me/shallow.git": "3",
    }
    replay = replay_lines(
        part, tmp_path, [f"git clone -q {clone} x{n}; cat x{n}/a" for n, clone in enumerate(clones)]
    )
    files = [output[-1:] for output in replay.outputs]
    assert dict(zip(clones, files, strict=True)) == clones, replay.outputs
    assert not replay.misses


@pytest.mark.slow
def test_submodules_and_commits_are_fetched(part: RecordedPart, repository: Path, tmp_path: Path) -> None:
    """A recursive clone finds a recorded submodule, and a commit that is no branch's last one can be fetched."""
    url = "https://host.invalid/me"
    modules = f'[submodule "deep"]\n\tpath = deep\n\turl = {url}/inner.git\n'
    outer = make_repository(tmp_path / "outer", {"b": "1"})
    run_git("clone", "-q", repository, outer / "deep")
    (outer / ".gitmodules").write_text(modules)
    run_git("add", ".", folder=outer)
    run_git("commit", "-q", "-m", "submodule", folder=outer)
    part.add_repository(f"{url}/outer", outer)
    part.add_repository(f"{url}/inner", repository)
    first = run_git("rev-parse", "HEAD~2", folder=repository)
    lines = [
        f"git clone -q --recursive {url}/outer && cat outer/deep/a",
        f"git init -q x && cd x && git fetch -q --depth 1 {url}/inner {first} && git checkout -q FETCH_HEAD && cat a",
    ]
    assert replay_lines(part, tmp_path, lines).outputs == ("3", "1")


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("git-lfs"), reason="git-lfs is missing")
def test_large_files_of_a_clone_are_there(part: RecordedPart, tmp_path: Path) -> None:
    """A clone with Git LFS, as of a model of the Hub, gets the bytes that its pointers name."""
    tracked = {".gitattributes": "*.bin filter=lfs diff=lfs merge=lfs -text\n", "model.bin": "weights"}
    run_git("init", "-q", tmp_path / "model")
    run_git("lfs", "install", "--local", folder=tmp_path / "model")
    part.add_repository("https://host.invalid/me/model", make_repository(tmp_path / "model", tracked))
    lines = ["git lfs install && git clone -q https://host.invalid/me/model && cat model/model.bin"]
    assert replay_lines(part, tmp_path, lines).outputs[0].endswith("weights")


@pytest.mark.slow
def test_an_unrecorded_repository_is_a_miss(part: RecordedPart, tmp_path: Path) -> None:
    """git fails at once for a URL that is not in the recording, and the miss is listed without credentials."""
    lines = [
        "git clone -q https://me:hidden@host.invalid/me/other.git",
        "git clone -q git@host.invalid:me/third",
    ]
    replay = replay_lines(part, tmp_path, lines)
    assert all(replay.codes)
    urls = ("https://host.invalid/me/other.git", "git@host.invalid:me/third")
    assert replay.misses == [("repository", url) for url in urls]


@pytest.mark.parametrize("mount", ["recorder", "notebooks/me/recorder", "datasets/me/recorder"])
def test_files_lie_where_they_lay(part: RecordedPart, tmp_path: Path, mount: str) -> None:
    """Files are restored in either mount layout, as ones that cells may write to; existing ones stay as they are."""
    part.add_file("{working}/net.py", b"from the recording")
    part.add_file("{working}/changed.txt", b"from the recording")
    part.add_file("{home}/.tool/run.sh", b"#!/bin/sh\necho started\n")
    part.add_file("{scratch}/caches/huggingface/hub/x", b"cached", mode=0o600)
    (tmp_path / "working").mkdir()
    (tmp_path / "working" / "changed.txt").write_text("mine")
    lines = ["cat net.py changed.txt; echo more >> net.py", "~/.tool/run.sh", 'cat "$HF_HOME"/hub/x']
    replay = replay_lines(part, tmp_path, lines, mount=mount)
    assert replay.outputs == ("from the recordingmine", "started\n", "cached")
    assert (tmp_path / "scratch/caches/huggingface/hub/x").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "working" / "net.py").read_text() == "from the recordingmore\n"


@pytest.mark.slow
def test_large_files_are_links(part: RecordedPart, tmp_path: Path) -> None:
    """The disk has no room for weights twice."""
    part.add_file("{working}/large.bin", bytes(65 << 20), "beside")
    replay_lines(part, tmp_path)
    assert (tmp_path / "working" / "large.bin").resolve().is_relative_to(tmp_path / "input")


def test_inputs_of_the_recorded_run_lie_among_the_mounts(part: RecordedPart, tmp_path: Path) -> None:
    """A folder of inputs that no source is mounted as comes from the recording; what is mounted is seen beside it."""
    part.add_file("{input}/my-models/deep/a.pt", b"weights", "input")
    data = tmp_path / "input" / "datasets" / "me" / "maps"
    data.mkdir(parents=True)
    (data / "a.csv").write_text("mounted")
    root = tmp_path / "shown"
    lines = [f"cat {root}/input/my-models/deep/a.pt", f"cat {root}/input/maps/a.csv"]
    replay = replay_lines(
        part,
        tmp_path,
        lines,
        extra=f", {{'datasets': ['me/maps']}}, __import__('pathlib').Path({str(root)!r})",
    )
    assert replay.outputs == ("weights", "mounted")


def test_an_image_that_moved_is_noted(part: RecordedPart, tmp_path: Path) -> None:
    """Packages of which the image has another version than when the run was recorded are named, and no other."""
    part.add_wheel("pytest", "99.0", replaces="0.1")
    part.add_wheel("packaging", "99.0", replaces=metadata.version("packaging"))
    part.add_wheel("pluggy", metadata.version("pluggy"), replaces="0.1")
    part.add_wheel("unheard-of", "1.0", replaces="0.9")
    part.add_wheel("brand-new", "1.0")
    replay = replay_lines(part, tmp_path)
    noted = [name for line in replay.setup.splitlines() if line.startswith("note: ") for name in line.split()]
    named = {package["name"] for package in part.document["packages"]} & set(noted)
    assert named == {"pytest", "unheard-of"}
    assert replay.versions == {name: metadata.version(name) for name in ("pytest", "packaging", "pluggy")}


@pytest.mark.slow
def test_the_setup_can_run_again(part: RecordedPart, repository: Path, tmp_path: Path) -> None:
    """After a restart of the kernel the same cell leads to the same state."""
    part.add_wheel("left")
    part.add_repository("https://host.invalid/me/whole", repository)
    part.add_file("{working}/net.py", b"x")
    for number in range(2):
        replay = replay_lines(
            part, tmp_path, [f"git clone -q https://host.invalid/me/whole x{number}", "cat net.py"]
        )
        assert replay.codes == (0, 0), replay.outputs


def test_cells_have_the_numbers_of_the_recorded_run(tmp_path: Path) -> None:
    """Each cell after the setup has the next number and an end; calling the setup again begins anew."""
    code = """
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
setup = (
    "from offline_kit.notebook.runtime.kit_recording import count_cells; _ = count_cells([2, 5], lambda _: print('end'))"
)
show = "import os; print(os.environ['OFFLINE_KIT_CELL'])"
for cell in [setup, show, show, show, setup, show]:
    shell.run_cell(cell, store_history=True)
"""
    completed = subprocess.run(
        [sys.executable, "-c", code], env=session_env(tmp_path), check=True, capture_output=True, text=True
    )
    assert completed.stdout.split() == ["end", "2", "end", "5", "end", "6", "end", "end", "2", "end"]
