"""A replay with the real clients: pip, uv, huggingface_hub and torch find what was recorded, without a network."""

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.support.kits import wheel
from tests.support.recordings import RecordedPart, make_repository, run_git
from tests.support.replaying import replay_lines

pytestmark = pytest.mark.slow
INDEX = "https://index.invalid/simple"
GIT = "https://host.invalid/me/fromgit"
PATH = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
"""With uv."""
BACKEND = """
import helper, os, zipfile

def build_wheel(folder, config_settings=None, metadata_directory=None):
    name, info = "fromgit-1.0-py3-none-any.whl", "fromgit-1.0.dist-info"
    with zipfile.ZipFile(os.path.join(folder, name), "w") as archive:
        archive.write("fromgit.py")
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\\nName: fromgit\\nVersion: 1.0\\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        archive.writestr(f"{info}/RECORD", "")
    return name
"""
PROJECT = '[build-system]\nrequires = ["helper"]\nbuild-backend = "backend"\nbackend-path = ["."]\n'
SHOW = """
import importlib.metadata, json
packages = {dist.name: dist.version for dist in importlib.metadata.distributions()}
print("VERSIONS", json.dumps([packages.get(name, "") for name in ("left", "moved", "kept", "fromgit")]))
"""


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the environment of an image: pip, and two packages of its own."""
    folder = tmp_path_factory.mktemp("image") / "env"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    for name in ("kept", "moved"):
        filename, data = wheel(name, "1.0")
        (folder / filename).write_bytes(data)
        words = ["-m", "pip", "install", "-q", "--no-index", "--disable-pip-version-check", folder / filename]
        subprocess.run([str(folder / "bin" / "python"), *map(str, words)], check=True)
    return folder


@pytest.fixture
def part(tmp_path: Path) -> RecordedPart:
    """Return a recording of a run that installed "left", a newer "moved", and what "fromgit" is built with."""
    part = RecordedPart(tmp_path / "recorder")
    part.add_wheel("left", "2.0")
    part.add_wheel("moved", "3.0", replaces="1.0")
    part.add_build_wheel(*wheel("helper"))
    return part


def install(part: RecordedPart, folder: Path, image: Path, lines: Iterable[str]) -> list[list[str]]:
    """Run each line in a copy of the image; return the versions of left, moved, kept and fromgit then."""
    (folder / "show.py").write_text(SHOW)
    commands = []
    for number, line in enumerate(lines):
        env = folder / f"env{number}"
        run = line.replace("PYTHON", str(env / "bin" / "python"))
        commands.append(f"cp -a {image} {env}; {run}; {env}/bin/python {folder}/show.py")
    replay = replay_lines(part, folder, commands, env={"PATH": PATH})
    last = [output.splitlines()[-1] for output in replay.outputs]
    return [json.loads(line.removeprefix("VERSIONS ")) for line in last]


LEFT, MOVED, KEPT = ["2.0", "1.0", "1.0", ""], ["", "3.0", "1.0", ""], ["", "1.0", "1.0", ""]
LINES = {
    "left": LEFT,
    "-q left==2.0 kept": LEFT,
    f"--index-url {INDEX} left": LEFT,
    f"--extra-index-url {INDEX} -U moved kept": MOVED,
    f"-f {INDEX}/list.html left": LEFT,
    "-U kept": KEPT,
    "moved": KEPT,
    "-r requirements.txt": LEFT,
}
"""Arguments of `pip install`, and the versions after it."""


@pytest.mark.parametrize("installer", ["PYTHON -m pip install", "uv pip install --python PYTHON"])
def test_installs_come_from_the_recorded_wheels(
    part: RecordedPart, tmp_path: Path, image: Path, installer: str
) -> None:
    """Whatever index a line names, what was installed is installed, and what the image has stays."""
    part.add_file("{working}/requirements.txt", f"--index-url {INDEX}\nleft\n".encode(), "beside")
    versions = install(part, tmp_path, image, [f"{installer} {line}" for line in LINES])
    assert dict(zip(LINES, versions, strict=True)) == LINES


def test_an_unrecorded_package_is_a_miss(part: RecordedPart, tmp_path: Path) -> None:
    """pip fails for a package that was not installed when the run was recorded, and the miss is listed."""
    replay = replay_lines(part, tmp_path, [f"{sys.executable} -m pip install -q --target x left right"])
    assert replay.codes == (1,)
    assert replay.misses == [("package", "package right")]


@pytest.mark.parametrize("installer", ["PYTHON -m pip install", "uv pip install --python PYTHON"])
def test_packages_are_built_from_recorded_repositories(
    part: RecordedPart, tmp_path: Path, image: Path, installer: str
) -> None:
    """`git+https` builds the same package from the clone, at a commit or a branch, with recorded build requirements."""
    files = {"backend.py": BACKEND, "pyproject.toml": PROJECT, "fromgit.py": ""}
    repository = make_repository(tmp_path / "source", files, {"README": "2"})
    part.add_repository(GIT, repository)
    commit = run_git("rev-parse", "HEAD~1", folder=repository)
    lines = [f"git+{GIT}@{commit}", f"'fromgit @ git+{GIT}.git@main'", f"git+{GIT}"]
    versions = install(part, tmp_path, image, [f"{installer} {line}" for line in lines])
    assert versions == [["", "1.0", "1.0", "1.0"]] * 3


def test_hub_downloads_come_from_the_recorded_cache(part: RecordedPart, tmp_path: Path) -> None:
    """Files, snapshots and local folders of the Hub are found by huggingface_hub itself, without a request."""
    pytest.importorskip("huggingface_hub")
    commit = "a" * 40
    hub = "{scratch}/caches/huggingface/hub/models--me--net"
    part.add_file(f"{hub}/refs/main", commit.encode())
    for name, data in (("config.json", b"{}"), ("deep/model.bin", b"weights")):
        part.add_file(f"{hub}/snapshots/{commit}/{name}", data)
    metadata = f"{commit}\n{'b' * 40}\n1.0\n".encode()
    part.add_file("{working}/net/model.bin", b"weights", "hub")
    part.add_file("{working}/net/.cache/huggingface/download/model.bin.metadata", metadata, "hub")
    part.add_file("{working}/clone/deep/model.bin", b"heavy", "hub")
    code = """
import os
from pathlib import Path
from huggingface_hub import HfApi, hf_hub_download, snapshot_download
os.mkdir("net")
os.mkdir("clone")
print(Path(hf_hub_download("me/net", "config.json")).read_text())
folder = Path(snapshot_download("me/net"))
print(sorted(path.name for path in folder.rglob("*") if path.is_file()))
print(Path(hf_hub_download("me/net", "model.bin", local_dir="net")).read_text())
print(Path(snapshot_download("me/net", local_dir="net")).name)
print(Path(HfApi().hf_hub_download("me/net", "model.bin", local_dir="clone/deep")).read_text())
"""
    (tmp_path / "code.py").write_text(code)
    replay = replay_lines(part, tmp_path, [f"{sys.executable} {tmp_path}/code.py 2>/dev/null"])
    assert replay.outputs == ("{}\n['config.json', 'model.bin']\nweights\nnet\nheavy\n",)
    assert not replay.misses


def test_torch_hub_downloads_come_from_the_recorded_cache(part: RecordedPart, tmp_path: Path) -> None:
    """A checkpoint that torch.hub downloaded is read from its cache."""
    pytest.importorskip("torch")
    (tmp_path / "make.py").write_text(
        f"import torch; torch.save({{'w': torch.ones(2)}}, {str(tmp_path / 'w')!r})"
    )
    subprocess.run([sys.executable, tmp_path / "make.py"], check=True)
    part.add_file("{scratch}/caches/torch/hub/checkpoints/net.pth", tmp_path / "w")
    code = "import torch; print(torch.hub.load_state_dict_from_url('https://nowhere.invalid/net.pth')['w'].sum().item())"
    replay = replay_lines(part, tmp_path, [f'{sys.executable} -c "{code}"'])
    assert replay.outputs == ("2.0\n",)
