"""The recording of a run with the internet on: its events while it runs, its objects by content, its paths by name.

A recording is a part of a kit: recording/recording.json, and the bytes of everything that was fetched, as
recording/objects/<sha256>. Small objects share one archive, because the output of a notebook may have 500 files. Every
process of the recorded run writes events and objects into one folder, which the variable OFFLINE_KIT_RECORDER names;
in a replay OFFLINE_KIT_REPLAY names the folder of the recording.
"""

import functools
import hashlib
import importlib
import io
import itertools
import json
import os
import re
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from .kit_runtime import CACHES, SessionFolders

RECORDER, REPLAY = "OFFLINE_KIT_RECORDER", "OFFLINE_KIT_REPLAY"
CELL, MISSES = "OFFLINE_KIT_CELL", "OFFLINE_KIT_MISSES"
"""Variables: the running cell, and a file that gets a line for everything that a replay lacks."""
DOCUMENT, SMALL_OBJECTS = "recording.json", "small.objects"
LARGE = 1 << 20
"""Bytes from which an object is a file of its own."""
MAX_FILES = 400
"""Files of objects; the output of a notebook may have 500 (https://www.kaggle.com/docs/notebooks)."""
_CHUNK = 1 << 22
_TOKEN = re.compile(
    r"(?<![A-Za-z0-9])(?:KGAT_\w{8,}|(?:hf|api_org)_[A-Za-z0-9]{20,}|gh[opsur]_[A-Za-z0-9]{20,}|github_pat_\w{20,}"
    r"|glpat-[\w-]{16,}|sk-[\w-]{20,}|(?:AKIA|ASIA)[A-Z0-9]{16}|eyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]{10,})"
)
_CREDENTIALS = re.compile(r"(?<=://)[^/\s@'\"]+@")
_QUERY = re.compile(
    r"(?i)([?&][\w-]*(?:token|secret|passw(?:or)?d|key|signature|credential|sig|policy|expires)=)[^\s&'\"#]+"
)
_SECRET_NAME = re.compile(r"(?i)(?:token|secret|passw(?:or)?d|api_?key|_key|credential)")


def root_folders() -> dict[str, Path]:
    """Return the folders that paths of a recording begin with, by name, deeper ones first."""
    session = SessionFolders()
    folders = {"scratch": session.scratch, "working": session.working, "input": session.inputs}
    return {**folders, "home": Path.home(), "tmp": Path(tempfile.gettempdir())}


def name_path(path: str | os.PathLike[str]) -> str:
    """Return an absolute path as a recording has it: "{working}/models/a.pt"; unchanged if no root contains it."""
    absolute = Path(os.path.abspath(path))  # noqa: PTH100 - `resolve` would follow links
    for name, folder in root_folders().items():
        if absolute.is_relative_to(folder):
            return f"{{{name}}}/{absolute.relative_to(folder).as_posix()}".removesuffix("/.")
    return absolute.as_posix()


def resolve_path(named: str) -> Path:
    """Return the path on this machine that `name_path` has named."""
    name, _, below = named.partition("/")
    folder = root_folders().get(name.strip("{}")) if name.startswith("{") else None
    return folder / below if folder else Path(named)


def hide_secrets(text: str) -> str:
    """Return a text without the shapes of tokens and the values of secret variables."""
    for name, value in os.environ.items():
        if len(value) >= 8 and _SECRET_NAME.search(name):
            text = text.replace(value, "***")
    return _TOKEN.sub("***", text)


def redact(text: str) -> str:
    """Return a text without credentials: secrets, the users of URLs, the keys of their queries."""
    return _QUERY.sub(r"\1***", _CREDENTIALS.sub("", hide_secrets(text)))


def log_event(kind: str, **facts: Any) -> None:
    """Append an event of this process to the running recording; nothing if none runs."""
    if folder := os.environ.get(RECORDER):
        event = {"event": kind, "cell": int(os.environ.get(CELL) or 0), **facts}
        line = json.dumps(event).encode() + b"\n"
        # One write to a file opened for appending: lines of several processes do not mix.
        descriptor = os.open(f"{folder}/events.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(descriptor, line)
        finally:
            os.close(descriptor)


def redirect_caches() -> None:
    """Point the download caches of libraries at one folder, in a recording and in a replay alike."""
    for name, variable in CACHES.items():
        folder = SessionFolders().scratch / "caches" / name
        folder.mkdir(parents=True, exist_ok=True)  # nltk downloads to the first of its folders that exists
        os.environ[variable] = str(folder)
    # On Kaggle, kagglehub mounts a model or dataset unless this is set, and no cache has it then
    # (https://github.com/Kaggle/kagglehub/blob/main/src/kagglehub/config.py).
    os.environ["DISABLE_KAGGLE_CACHE"] = "true"


def count_cells(numbers: Sequence[int], after_cell: Callable[[], object] = lambda: None) -> None:
    """Let the variable of the running cell take the numbers of the cells that follow, one after the other.

    `after_cell` is called when a cell has ended. Nothing happens in a process without cells; safe to call again.
    """
    shell = importlib.import_module("IPython").get_ipython() if "IPython" in sys.modules else None
    if shell is None:
        return
    # Cells that are unknown, as those after the one that failed, are counted on.
    following = itertools.chain(numbers, itertools.count(max(numbers, default=0) + 1))

    def begin_cell(info: Any) -> None:
        if info.store_history:  # not what `%%capture` runs within a cell
            os.environ[CELL] = str(next(following))

    def end_cell(_result: object) -> None:
        after_cell()

    for name, callback in (("pre_run_cell", begin_cell), ("post_run_cell", end_cell)):
        for earlier in [each for each in shell.events.callbacks[name] if each.__name__ == callback.__name__]:
            shell.events.unregister(name, earlier)
        shell.events.register(name, callback)


def import_from_working() -> None:
    """Let a script import the project's files: they are in the working folder, and its own folder is another one."""
    working = str(SessionFolders().working)
    if "" not in sys.path and working not in sys.path:  # "" is in a notebook's
        sys.path.insert(1, working)


def read_events(folder: Path) -> list[dict[str, Any]]:
    """Return the events of a recording so far; a line that a killed process left unfinished is dropped."""
    events = []
    path = folder / "events.jsonl"
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            events.append(json.loads(line))
        except ValueError:
            continue
    return events


def report_miss(kind: str, what: str) -> None:
    """Print what a replay was asked for and does not have, with its cell, and add it to the file of misses."""
    line = {"kind": kind, "what": redact(what), "cell": int(os.environ.get(CELL) or 0)}
    print(f"offline-kit: not in the recording: {line['what']}", file=sys.stderr, flush=True)
    if path := os.environ.get(MISSES):
        with Path(path).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")


class ObjectWriter:
    """An object of the running recording while its bytes arrive."""

    def __init__(self) -> None:
        self.folder = Path(os.environ[RECORDER]) / "objects"
        self.folder.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=self.folder)
        self.path, self.stream = Path(name), os.fdopen(descriptor, "wb")
        self.digest, self.size = hashlib.sha256(), 0

    def write(self, data: bytes) -> None:
        """Append bytes."""
        self.digest.update(data)
        self.size += self.stream.write(data)

    def read(self) -> bytes:
        """Return what was written so far."""
        self.stream.flush()
        return self.path.read_bytes()

    def rewrite(self, data: bytes) -> None:
        """Replace what was written so far."""
        self.stream.seek(0)
        self.stream.truncate()
        self.digest, self.size = hashlib.sha256(), 0
        self.write(data)

    def close(self) -> tuple[str, int]:
        """Store the object; return its SHA-256 and size."""
        self.stream.close()
        self.path.replace(self.folder / self.digest.hexdigest())
        return self.digest.hexdigest(), self.size

    def discard(self) -> None:
        """Delete what was written."""
        self.stream.close()
        self.path.unlink(missing_ok=True)


def add_object(source: Path | bytes) -> tuple[str, int]:
    """Store the bytes of a file in the running recording; return their SHA-256 and number."""
    writer = ObjectWriter()
    with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            writer.write(chunk)
    return writer.close()


def link_file(source: Path, target: Path) -> None:
    """Make a file appear a second time, if possible without a copy."""
    try:
        os.link(source, target)
    except OSError:  # on another file system, or of another user
        shutil.copyfile(source, target)


def link_object(source: Path) -> dict[str, Any]:
    """Store a file that nobody writes to any more; return "sha256" and "size" as a document has them."""
    objects = Path(os.environ[RECORDER]) / "objects"
    objects.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with source.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    target = objects / digest.hexdigest()
    if not target.exists():
        link_file(source, target)
    return {"sha256": target.name, "size": target.stat().st_size}


def write_objects(digests: Iterable[str], folder: Path) -> None:
    """Move objects of the running recording to `folder`, the smallest into one archive."""
    objects = Path(os.environ[RECORDER]) / "objects"
    sizes = {digest: (objects / digest).stat().st_size for digest in set(digests)}
    by_size = sorted(sizes, key=lambda digest: (-sizes[digest], digest))
    single = [digest for digest in by_size[:MAX_FILES] if sizes[digest] >= LARGE]
    (folder / "objects").mkdir(parents=True, exist_ok=True)
    for digest in single:
        shutil.move(objects / digest, folder / "objects" / digest)
    # No suffix of an archive: Kaggle would unpack it.
    with zipfile.ZipFile(folder / SMALL_OBJECTS, "w", zipfile.ZIP_DEFLATED) as archive:
        for digest in sorted(set(sizes) - set(single)):
            entry = zipfile.ZipInfo(digest, (1980, 1, 1, 0, 0, 0))
            with (objects / digest).open("rb") as stream, archive.open(entry, "w") as target:
                shutil.copyfileobj(stream, target)


class RecordedObjects:
    """The objects of a finished recording; small ones are unpacked to `scratch` when they are first asked for."""

    def __init__(self, folder: Path, scratch: Path) -> None:
        self.folder, self.scratch = folder, scratch

    @functools.cached_property
    def _archive(self) -> zipfile.ZipFile:
        return zipfile.ZipFile(self.folder / SMALL_OBJECTS)

    def find_object(self, digest: str) -> Path:
        """Return a file with these bytes, which must not be written to."""
        large, small = self.folder / "objects" / digest, self.scratch / "objects" / digest
        if large.exists() or small.exists():
            return large if large.exists() else small
        small.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=small.parent)
        with os.fdopen(descriptor, "wb") as target, self._archive.open(digest) as stream:
            shutil.copyfileobj(stream, target)
        Path(name).replace(small)
        return small


def open_replay() -> tuple[Mapping[str, Any], RecordedObjects]:
    """Return the recording that this process replays, and its objects."""
    folder = Path(os.environ[REPLAY])
    document = json.loads((folder / DOCUMENT).read_text(encoding="utf-8"))
    return document, RecordedObjects(folder, SessionFolders().scratch)


def count_turn(key: str) -> int:
    """Return how often the processes of this replay have asked for `key` before."""
    path = SessionFolders().scratch / "turns" / hashlib.sha256(key.encode()).hexdigest()[:16]
    path.parent.mkdir(parents=True, exist_ok=True)
    # The position after one appended byte is this caller's own, whatever others append.
    with path.open("ab", buffering=0) as stream:
        stream.write(b".")
        return stream.tell() - 1


def request_key(method: str, url: str, body: bytes = b"") -> str:
    """Return what identifies a request: its method, its URL without fragment and credentials, a digest of its body."""
    parts = urlsplit(redact(url))
    query = f"?{parts.query}" if parts.query else ""
    digest = hashlib.sha256(body).hexdigest()[:16] if body else ""
    return f"{method} {parts.scheme}://{parts.netloc}{parts.path or '/'}{query} {digest}".rstrip()
