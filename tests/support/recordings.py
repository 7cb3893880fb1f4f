"""Recorded parts made by hand, as a recorder writes them, for the tests of what replays and ships them."""

import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from offline_kit.core.resources import runtime_files
from offline_kit.notebook.runtime import kit_capture, kit_recording
from tests.support.kits import wheel

SECTIONS = (
    *("cells", "packages", "build_wheels", "repositories", "files", "commands", "urls", "inputs"),
    *("unrecorded", "secrets", "system_packages", "notes"),
)
"""The lists of a document."""


class RecordedPart:
    """A recording in the making: `document`, and the objects that it names, in a recorder's folder."""

    def __init__(self, recorder: Path) -> None:
        recorder.mkdir(parents=True)
        self.recorder = recorder
        self.document: dict[str, Any] = {
            "format": 1,
            "tool_version": "1.0",
            "source": {"name": "predict.ipynb", "sha256": "0" * 64},
            "where": "here",
            "python": "3.11",
            "system": "Linux",
            "finished": True,
            "error": None,
            **{name: [] for name in SECTIONS},
            "submission": None,
        }

    @contextmanager
    def _running(self) -> Iterator[None]:
        before = os.environ.get(kit_recording.RECORDER)
        os.environ[kit_recording.RECORDER] = str(self.recorder)
        try:
            yield
        finally:
            del os.environ[kit_recording.RECORDER]
            if before is not None:
                os.environ[kit_recording.RECORDER] = before

    def add_object(self, content: bytes | Path) -> dict[str, Any]:
        """Store bytes; return the fields "sha256" and "size"."""
        with self._running():
            return kit_recording.add_object(content)

    def add(self, section: str, **fields: Any) -> None:
        """Append an entry to a list of the document."""
        self.document[section].append(fields)

    def add_file(self, path: str, content: bytes | Path, kind: str = "cache", **more: Any) -> None:
        """Add a file by its named path, such as "{working}/a.txt"."""
        self.add("files", path=path, kind=kind, **self.add_object(content), **more)

    def add_wheel(self, name: str, version: str = "1.0", *, replaces: str = "", **more: Any) -> None:
        """Add a package that the run installed from an index; `more` as for `tests.support.kits.wheel`."""
        filename, data = wheel(name, version, **more)
        fields = {"name": name, "version": version, "origin": "index", "cell": 1, "replaces": replaces}
        self.add("packages", wheel=filename, **fields, **self.add_object(data))

    def add_build_wheel(self, filename: str, data: bytes | Path) -> None:
        """Add a wheel that a package is built with."""
        self.add("build_wheels", wheel=filename, **self.add_object(data))

    def add_repository(self, url: str, repository: Path, *, depth: int = 0) -> None:
        """Add a clone of a repository on this disk, recorded as one of `url`."""
        mirror = self.recorder / f"{len(self.document['repositories'])}.git"
        depth_option = [f"--depth={depth}"] if depth else []
        run_git("clone", "-q", "--mirror", *depth_option, f"file://{repository}", mirror)
        if (repository / ".git" / "lfs").exists():
            shutil.copytree(repository / ".git" / "lfs", mirror / "lfs")
        with tarfile.open(mirror.with_suffix(".tar"), "w") as archive:
            archive.add(mirror, ".")
        commit = run_git("rev-parse", "HEAD", folder=mirror)
        self.add(
            "repositories", url=url, commit=commit, cell=1, **self.add_object(mirror.with_suffix(".tar"))
        )

    def mount(self, folder: Path, part: str = "recording") -> str:
        """Write the part into a folder, as Kaggle would mount it; return its id."""
        for name, source in runtime_files().items():
            (folder / "offline_kit_runtime").mkdir(parents=True, exist_ok=True)
            (folder / "offline_kit_runtime" / name).write_bytes(source)
        digests = [path.name for path in (self.recorder / "objects").glob("*")]
        with self._running():
            kit_recording.write_objects(digests, folder / "recording")
        (folder / "recording" / kit_recording.DOCUMENT).write_text(json.dumps(self.document))
        files = []
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            name = path.relative_to(folder).as_posix()
            files.append(("recording" if name.startswith("recording/") else "runtime", name, path))
        return kit_capture.write_manifest(folder, part, files)


def run_git(*words: str | Path, folder: Path | None = None) -> str:
    """Run git as somebody, and return what it prints."""
    author = ("-c", "user.name=tests", "-c", "user.email=tests@localhost", "-c", "protocol.file.allow=always")
    command = ["git", *author, *map(str, words)]
    completed = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    return completed.stdout.strip()


def make_repository(folder: Path, *commits: dict[str, str], branch: str = "main") -> Path:
    """Make a repository with these commits (path: text), and return it."""
    run_git("init", "-q", "-b", branch, folder)
    for number, files in enumerate(commits, 1):
        for name, text in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
        run_git("add", ".", folder=folder)
        run_git("commit", "-q", "-m", f"commit {number}", folder=folder)
    return folder
