"""Files that change between two builds in ways that their names, sizes and times do not show."""

import json
import os
import time
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from tests.support.command_line import offline_kit

OLD = time.time() - 1000


def run(*words: str, project: Path, cache: Path) -> "CompletedProcess[str]":
    """Run offline-kit in a project."""
    return offline_kit(*words, cwd=project, env={**os.environ, "OFFLINE_KIT_CACHE": str(cache)})


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a project of one checkpoint, which was not changed for a while."""
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "offline-kit.toml").write_text('dataset = "changed-kit"\ncheckpoints = ["best.bin"]\n')
    write(folder / "best.bin", b"a" * 1000)
    time.sleep(0.2)
    return folder


def write(path: Path, data: bytes) -> None:
    """Write into a file and set its times back, as `cp -p` does."""
    path.write_bytes(data)
    os.utime(path, (OLD, OLD))


def kit_id(project: Path, cache: Path) -> str:
    """Build, and return the kit's id."""
    built = run("build", "--json", project=project, cache=cache)
    assert built.returncode == 0, built.stderr
    return str(json.loads(built.stdout)["kit"])


def test_other_bytes_of_equal_size_and_time_are_another_kit(project: Path, tmp_path: Path) -> None:
    """A checkpoint that `cp -p` replaced in place is noticed, and without `dist` it is built as well."""
    cache = tmp_path / "cache"
    first = kit_id(project, cache)
    assert kit_id(project, cache) == first
    write(project / "best.bin", b"b" * 1000)
    second = kit_id(project, cache)
    assert second != first
    assert (project / "dist/offline-kit/dataset/checkpoints/best.bin").read_bytes() == b"b" * 1000


def test_a_wrong_record_of_a_file_is_forgotten(project: Path, tmp_path: Path) -> None:
    """Where the remembered digest is not the file's, the build says so once, and the next one works."""
    cache = tmp_path / "cache"
    right = kit_id(project, cache)
    (record,) = (cache / "records/checkpoints").glob("*.json")
    record.write_text(json.dumps({**json.loads(record.read_bytes()), "sha256": "0" * 64}))
    run("cache", "prune", project=project, cache=cache)
    for path in sorted((project / "dist").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    failed = run("build", project=project, cache=cache)
    assert failed.returncode == 1
    assert kit_id(project, cache) == right
