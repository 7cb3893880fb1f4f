"""The recording of a run with the internet on: its events while it runs, its objects by content, its paths by name.

A recording is a part of a kit: recording/recording.json, and the bytes of everything that was fetched, as
recording/objects/<sha256>. Small objects share one archive, because the output of a notebook may have 500 files. Every
process of the recorded run writes events and objects into one folder, which the variable OFFLINE_KIT_RECORDER names;
in a replay OFFLINE_KIT_REPLAY names the folder of the recording.
"""

import functools
import hashlib
import importlib
import itertools
import json
import os
import re
import shutil
import socket
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from .kit_capture import hash_file
from .kit_runtime import CACHES, SessionFolders, place_file

RECORDER, REPLAY = "OFFLINE_KIT_RECORDER", "OFFLINE_KIT_REPLAY"
CELL, MISSES = "OFFLINE_KIT_CELL", "OFFLINE_KIT_MISSES"
"""Variables: the running cell, and a file that gets a line for everything that a replay lacks."""
DOCUMENT, SMALL_OBJECTS = "recording.json", "small.objects"
LARGE = 1 << 20  # bytes from which an object is a file of its own
MAX_FILES = 400
"""Files of objects; the output of a notebook may have 500 (https://www.kaggle.com/docs/notebooks)."""
_TOKEN = re.compile(
    r"(?<![A-Za-z0-9])(?:KGAT_\w{8,}|(?:hf|api_org)_[A-Za-z0-9]{20,}|gh[opsur]_[A-Za-z0-9]{20,}|github_pat_\w{20,}"
    r"|glpat-[\w-]{16,}|sk-[\w-]{20,}|(?:AKIA|ASIA)[A-Z0-9]{16}|eyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]{10,})"
)
_CREDENTIALS = re.compile(r"(?<=://)[^/\s@'\"]+@")
_QUERY = re.compile(
    r"(?i)([?&][\w-]*(?:token|secret|passw(?:or)?d|key|signature|credential|sig|policy|expires)=)[^\s&'\"#]+"
)
_SECRET_NAME = re.compile(r"(?i)(?:token|secret|passw(?:or)?d|api_?key|_key|credential)")
_LOOPBACK = re.compile(r"localhost|.*\.localhost|127\.[\d.]+|::1?|0\.0\.0\.0")


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


def hide_in_bytes(content: bytes) -> bytes:
    """Return a small file's content without secrets."""
    return hide_secrets(content.decode(errors="surrogateescape")).encode(errors="surrogateescape")


def redact(text: str) -> str:
    """Return a text without credentials: secrets, the users of URLs, the keys of their queries."""
    return _QUERY.sub(r"\1***", _CREDENTIALS.sub("", hide_secrets(text)))


def is_loopback(host: str) -> bool:
    """Whether a host, maybe with a port, is this machine."""
    name = urlsplit(f"//{host}").hostname or ""
    return bool(_LOOPBACK.fullmatch(name)) or name == socket.gethostname().lower()


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


def count_cells(
    numbers: Sequence[int],
    end_cell: Callable[[Any], object] = lambda _result: None,
    begin_cell: Callable[[Any], object] = lambda _info: None,
) -> bool:
    """Let the variable of the running cell take the numbers of the cells that follow, one after the other.

    The callables get what IPython tells of a cell that begins, and of one that has ended. Returns False in a process
    without cells; safe to call again.
    """
    shell = importlib.import_module("IPython").get_ipython() if "IPython" in sys.modules else None
    if shell is None:
        return False
    # Cells that are unknown, as those after the one that failed, are counted on.
    following = itertools.chain(numbers, itertools.count(max(numbers, default=0) + 1))

    # `%%capture` runs the rest of its cell as a cell of its own, which is not stored in the history.
    def offline_kit_begins(info: Any) -> None:
        if info.store_history:
            os.environ[CELL] = str(next(following))
            begin_cell(info)

    def offline_kit_ends(result: Any) -> None:
        if result.info.store_history:
            end_cell(result)

    for name, callback in (("pre_run_cell", offline_kit_begins), ("post_run_cell", offline_kit_ends)):
        for earlier in [each for each in shell.events.callbacks[name] if each.__name__ == callback.__name__]:
            shell.events.unregister(name, earlier)
        shell.events.register(name, callback)
    return True


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


def add_object(source: Path | bytes, *, is_final: bool = False) -> dict[str, Any]:
    """Store bytes in the running recording; return "sha256" and "size" as a document has them.

    A file that is final, because nobody writes to it any more, is stored without a copy if that is possible.
    """
    objects = Path(os.environ[RECORDER]) / "objects"
    objects.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=objects) as folder:
        stored = Path(folder, "object")
        if isinstance(source, bytes):
            stored.write_bytes(source)
        elif is_final:
            link_file(source, stored)
        else:
            shutil.copyfile(source, stored)
        digest, size = hash_file(stored), stored.stat().st_size
        stored.replace(objects / digest)
    return {"sha256": digest, "size": size}


def link_file(source: Path, target: Path) -> None:
    """Make a file appear a second time, if possible without a copy."""
    try:
        os.link(source, target)
    except OSError:  # on another file system, or of another user
        shutil.copyfile(source, target)


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


def count_recorded(document: Mapping[str, Any]) -> str:
    """Return how many things of each kind are in a recording, for a person."""
    kinds = ("packages", "repositories", "files", "urls", "commands")
    return ", ".join(f"{kind} {len(document[kind])}" for kind in kinds)


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


def take_turn(key: str, answers: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Return what answers `key` now: in the order of the recording, and then the last one again."""
    path = SessionFolders().scratch / "turns" / hashlib.sha256(key.encode()).hexdigest()[:16]
    path.parent.mkdir(parents=True, exist_ok=True)
    # The position after one appended byte is this caller's own, whatever other processes append.
    with path.open("ab", buffering=0) as stream:
        stream.write(b".")
        return answers[min(stream.tell(), len(answers)) - 1]


def remove_masks(text: str) -> str:
    """Return what identifies a request or a command in both runs: a secret is "***" in the recording, and empty later."""
    return text.replace("***", "")


def request_key(method: str, url: str, body: bytes = b"") -> str:
    """Return what identifies a request: its method, its URL without fragment and credentials, a digest of its body."""
    parts = urlsplit(redact(url))
    query = f"?{parts.query}" if parts.query else ""
    digest = hashlib.sha256(body).hexdigest()[:16] if body else ""
    return f"{method} {parts.scheme}://{parts.netloc}{parts.path or '/'}{query} {digest}".rstrip()


def restore_files(local_dir: str | os.PathLike[str] = "") -> None:
    """Put the files of the recording where they lay; existing ones stay.

    Without `local_dir` these are all but the inputs, which are shown, and what a hub's client wrote to a folder other
    than its cache; with it, what the client wrote there.
    """
    document, objects = open_replay()
    for file in document["files"]:
        target = resolve_path(file["path"])
        with_download = file["kind"] == "hub" and not re.search(r"/(models|datasets|spaces)--", file["path"])
        if local_dir:
            is_wanted = with_download and target.is_relative_to(os.path.abspath(local_dir))  # noqa: PTH100
        else:
            is_wanted = not with_download and file["kind"] != "input"
        try:
            if is_wanted:
                place_file(objects.find_object(file["sha256"]), target, file.get("mode", 0))
        except OSError as error:
            print(f"note: cannot restore '{target}': {error}")
