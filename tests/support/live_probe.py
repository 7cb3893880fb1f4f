"""One journey through a Kaggle, real or local: what it does to files, versions and notebooks, as facts to compare.

It makes a private dataset and a private notebook, or adds versions to those of the last journey, and deletes nothing.
"""

import gzip
import io
import json
import tarfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from offline_kit.core import files
from offline_kit.core.retry import TransientError, retry_call
from offline_kit.kaggle.client.api_types import NewNotebook, NewVersion, NotebookSources
from offline_kit.kaggle.client.uploads import Uploader, UploadFile
from offline_kit.kaggle.push import notebook_runs
from offline_kit.kaggle.push.journal import PushContext
from offline_kit.kaggle.push.poll_policy import may_appear
from offline_kit.project.images import load_image
from tests.support.local_kaggle import notebook

# Kaggle does not take one slug for both.
DATASET_SLUG, DATASET_TITLE = "offline-kit-live-data", "offline-kit live data"
NOTEBOOK_SLUG, NOTEBOOK_TITLE = "offline-kit-live-run", "offline-kit live run"
CELL = """
import json, os, pathlib, platform, shutil, socket

paths = []
for folder, _, names in os.walk(os.environ.get("INPUT", "/kaggle/input"), followlinks=True):
    paths += [pathlib.Path(folder, name) for name in names]
root = next(path.parent for path in paths if path.name == "probe-{number}.txt")
program, network = root / "program.sh", True
try:
    socket.create_connection(("1.1.1.1", 53), timeout=3).close()
except OSError:
    network = False
facts = {{
    "mount": str(root.relative_to(os.environ.get("INPUT", "/kaggle/input"))),
    "files": sorted(str(path.relative_to(root)) for path in paths if root in path.parents),
    "executable": os.access(program, os.X_OK) and bool(program.stat().st_mode & 0o111),
    "writable": bool(os.access(root, os.W_OK) and not os.statvfs(root).f_flag & os.ST_RDONLY),
    "network": network,
    "python": platform.python_version(),
    "uv": shutil.which("uv") or "",
    "run_type": os.environ.get("KAGGLE_KERNEL_RUN_TYPE", ""),
    "cores": len(os.sched_getaffinity(0)),
}}
pathlib.Path("facts.json").write_text(json.dumps(facts))
"""


@dataclass(frozen=True, kw_only=True)
class Fact:
    """What offline-kit counts on, and whether this Kaggle does it."""

    text: str
    confirmed: bool
    seen: str = ""

    def __str__(self) -> str:
        return f"{'confirmed' if self.confirmed else 'DIFFERS  '}  {self.text}{f' ({self.seen})' if self.seen else ''}"


def make_files(number: str) -> dict[str, bytes]:
    """Return files whose names and kinds Kaggle treats in ways of its own; `number` is in the name of one."""
    zipped, tarred = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("inside.txt", "1")
    with tarfile.open(fileobj=tarred, mode="w:gz") as tar:
        tar.addfile(tarfile.TarInfo("inside.txt"))
    return {
        "zipped.zip": zipped.getvalue(),
        "tarred.tar.gz": tarred.getvalue(),
        "table.csv.gz": gzip.compress(b"id\n1\n", mtime=0),
        "folder/deep.txt": b"1",
        "one+two.txt": b"1",
        "package-1.0-py3-none-any.whl": zipped.getvalue(),
        "model.ckpt": zipped.getvalue(),
        "program.sh": b"#!/bin/sh\n",
        f"probe-{number}.txt": number.encode(),
    }


def visit_kaggle(context: PushContext, folder: Path, number: str) -> list[Fact]:
    """Make two versions of the dataset, run the notebook on the second, and fetch its output; return what was seen.

    `number` is new for each journey.
    """
    owner = context.kaggle.fetch_account().username
    dataset, contents = f"{owner}/{DATASET_SLUG}", make_files(number)
    add_version(context, folder / "first", {**contents, "old.txt": b"1"})
    second = add_version(context, folder / "second", contents)
    listed = context.kaggle.list_dataset_files(dataset, second).keys()
    remote = context.kaggle.get_dataset(dataset)
    new = NewNotebook(
        ref=f"{owner}/{NOTEBOOK_SLUG}",
        title=NOTEBOOK_TITLE,
        text=json.dumps(notebook(CELL.format(number=number))),
        sources=NotebookSources(datasets=(dataset,)),
    )
    _, run = notebook_runs.push_and_follow(new, context)
    (output,) = notebook_runs.fetch_outputs(run, context.kaggle, folder / "output", ["facts.json"])
    pushed = context.kaggle.get_notebook(new.ref, run.version)
    assert remote
    assert pushed
    return [
        Fact(text="a dataset that is created with isPrivate is private", confirmed=remote.private),
        Fact(text="a version holds its own files only", confirmed="old.txt" not in listed),
        Fact(
            text="a notebook is saved privately, with the internet off",
            confirmed=pushed.private and not pushed.internet,
        ),
        *compare_session(json.loads(output.read_text()), dataset),
    ]


def add_version(context: PushContext, folder: Path, contents: Mapping[str, bytes]) -> int:
    """Upload files as a version of the dataset, which is created if there is none; return its number once it is ready."""
    kaggle, ref = context.kaggle, f"{context.kaggle.fetch_account().username}/{DATASET_SLUG}"
    current = kaggle.get_dataset(ref)
    latest = current.version if current else 0
    uploader, tokens = Uploader(kaggle, folder / "uploads"), {}
    for name, data in contents.items():
        path = folder / "files" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        file = UploadFile(path=path, name=name, size=len(data), sha256=files.sha256_of(path))
        tokens[name] = uploader.upload_file(file)
    version = NewVersion(ref=ref, version_notes="live test", blob_tokens=tokens, title=DATASET_TITLE)
    (kaggle.add_dataset_version if current else kaggle.create_dataset)(version)

    def check_ready() -> None:
        remote = kaggle.get_dataset(ref)
        if remote is None or remote.version <= latest or kaggle.get_dataset_status(ref) != "ready":
            raise TransientError("the version is not ready yet")

    retry_call(check_ready, context.poll.until_processed, may_pass=may_appear)
    return latest + 1


def compare_session(seen: Mapping[str, Any], dataset: str) -> list[Fact]:
    """Compare what the notebook saw with what offline-kit counts on."""
    names = set(seen["files"])
    python = load_image("kaggle-2026-10-cpu", accelerator="none", project=Path()).python
    listed = ", ".join(sorted(names))
    return [
        Fact(text="x.zip becomes a folder x", confirmed="zipped/inside.txt" in names, seen=listed),
        Fact(text="x.tar.gz becomes a folder x", confirmed="tarred/inside.txt" in names),
        Fact(text="x.csv.gz becomes x.csv", confirmed="table.csv" in names),
        Fact(text="a notebook gets the newest ready version", confirmed="old.txt" not in names),
        Fact(text="folders stay folders", confirmed="folder/deep.txt" in names),
        Fact(text="+ is removed from names", confirmed="onetwo.txt" in names),
        Fact(
            text=".whl and .ckpt stay files",
            confirmed={"package-1.0-py3-none-any.whl", "model.ckpt"} <= names,
        ),
        Fact(text="the executable bit is lost", confirmed=not seen["executable"]),
        Fact(
            text="datasets are mounted at datasets/OWNER/SLUG",
            confirmed=seen["mount"] == f"datasets/{dataset}",
            seen=seen["mount"],
        ),
        Fact(text="inputs are read-only", confirmed=not seen["writable"]),
        Fact(text="the session is offline", confirmed=not seen["network"]),
        Fact(text="the run is a batch run", confirmed=seen["run_type"] == "Batch", seen=seen["run_type"]),
        Fact(
            text=f"Python is {python.rpartition('.')[0]}, as in the built-in image",
            confirmed=seen["python"].rpartition(".")[0] == python.rpartition(".")[0],
            seen=seen["python"],
        ),
        Fact(text="uv is on PATH", confirmed=bool(seen["uv"]), seen=seen["uv"]),
        Fact(text="a CPU session has 4 cores", confirmed=seen["cores"] == 4, seen=str(seen["cores"])),
    ]
