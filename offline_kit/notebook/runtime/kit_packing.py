"""Pack a recorded session as a part of a kit: the document, the bytes of what was fetched, the runtime, the manifest."""

import fnmatch
import json
import os
import platform
import re
import shutil
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from . import kit_recording
from .kit_capture import write_manifest
from .kit_packages import PackageRecorder
from .kit_repositories import RepositoryRecorder
from .kit_runtime import KitError, SessionFolders

RECORDING_PART = "recording"
_INPUT_PATTERN = re.compile(
    r"""/kaggle/input/(\*[^"'\n]*\w[^"'\n]*)["']"""
)  # of all mounts, as "*/fold*.txt"
"""The name of the part, and of its folder with the document and the objects."""
MAX_OUTPUT = 20 * 10**9
"""Bytes that a notebook on Kaggle may leave in its working folder (https://www.kaggle.com/docs/notebooks)."""
_CREDENTIAL_FILE = re.compile(
    r"token|stored_tokens|access_token|kaggle\.json|\.netrc|\.env|cookies\.(?:txt|json)"
)
_UNFINISHED = (".lock", ".incomplete", ".part", ".tmp")
_SKIPPED_FOLDERS = {".git", ".locks", "__pycache__", "site-packages", "dist-packages", "node_modules"}
_GENERATED_CACHES = ("fontconfig", "matplotlib")
"""Nothing in them was fetched: they list the fonts of the machine."""
_SYSTEM_INSTALLERS = ("apt-get", "apt", "conda", "mamba")
_CACHE_HOSTS = {"huggingface": ("huggingface.co", "hf.co"), "kagglehub": ("kaggle.com", "googleapis.com")}
"""Hosts whose files a cache has, whatever client fetched them."""
_DEPTHS = {"competitions": 2, "datasets": 3, "notebooks": 3, "models": 6}
"""Folders of a mount below the inputs, by group; in the older layout a mount is one folder."""
_SHOWN_DEPTH = 4
_WORD = re.compile(r"[^\s'\"=:;,()\[\]{}|&<>]+")


@dataclass
class RecordedSession:
    """What is known of a recorded session: how it was started, and what its cells did."""

    source: dict[str, Any]
    where: str
    pack_inputs: tuple[str, ...]
    beside: str
    tool_version: str
    lacking: tuple[str, ...] = ()
    cells: list[dict[str, Any]] = field(default_factory=list)
    code: list[str] = field(default_factory=list)  # the sources of the cells that began
    started: float = field(default_factory=time.time)
    error: dict[str, Any] | None = None


@dataclass(frozen=True)
class FileToPack:
    """A file of the session that a replay must have, at the path that the cells know."""

    path: Path
    shown: Path
    kind: str


def pack_session(
    session: RecordedSession, packages: PackageRecorder, repositories: RepositoryRecorder
) -> None:
    """Write the part into the working folder; raises KitError if it is too large for it."""
    working = SessionFolders().working
    events: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for event in kit_recording.read_events(Path(os.environ[kit_recording.RECORDER])):
        events[event.pop("event")].append(event)
    opened, listed = ({event["path"] for event in events[kind]} for kind in ("open", "list"))
    if "{input}" in listed:  # as in the first cell of every notebook that Kaggle makes
        listed = {path for path in listed if not path.startswith("{input}")}
    processes = [event["words"] for event in events["process"]]
    files = [
        *_find_cached_files(),
        *_find_hub_files(session.started),
        *_find_own_inputs(session, opened | listed),
        *_find_project_files(session, opened, listed, "\n".join(map(" ".join, processes))),
    ]
    submission = _find_submission(working, session.started)
    added, build_wheels = packages.collect_packages(processes)
    mirrors = repositories.collect_repositories()
    _check_size(files, session.where)
    notes = [*packages.notes, *repositories.notes]
    document: dict[str, Any] = {
        "format": 1,
        "tool_version": session.tool_version,
        "source": {"name": session.source["name"], "sha256": session.source["sha256"]},
        "where": session.where,
        "python": platform.python_version(),
        "system": platform.platform(),
        "finished": session.error is None,
        "error": session.error,
        "cells": session.cells,
        "packages": added,
        "build_wheels": build_wheels,
        "repositories": mirrors,
        "files": [{**_store_file(file, notes), "kind": file.kind} for file in files],
        "commands": events["command"],
        "urls": events["url"],
        "inputs": _summarize_inputs(opened, listed),
        "secrets": sorted({event["name"] for event in events["secret"]}),
        "system_packages": _list_system_packages(events["command"]),
        "submission": None,
        "notes": notes,
    }
    if submission:
        stored = _store_file(FileToPack(submission, submission, "submission"), notes)
        document["submission"] = {name: stored[name] for name in ("path", "sha256", "size")}
    document["unrecorded"] = _list_unrecorded(events["connect"], document)
    if session.where != "here":
        _clear_working(working, keep=submission)
    part_id = _write_part(working, document)
    size = sum(path.stat().st_size for path in (working / RECORDING_PART).rglob("*") if path.is_file())
    summary = f"{kit_recording.count_recorded(document)}; {size / 1e6:.1f} MB, id {part_id[:12]}"
    print(f"recording: {summary}", *notes, sep="\nnote: ", flush=True)


def lay_out_project(beside: str, working: Path) -> None:
    """Show the project's files in the working folder: in real folders, small files as copies, because cells write there."""
    for path in _walk_files(Path(beside)) if beside else ():
        shown = working / path.relative_to(beside)
        shown.parent.mkdir(parents=True, exist_ok=True)
        if not shown.exists():
            shutil.copy2(path, shown) if path.stat().st_size < kit_recording.LARGE else shown.symlink_to(path)


def _walk_files(top: Path) -> Iterator[Path]:
    """Yield the files below a folder that a replay can use; none with what a client logs in with."""
    for folder, folders, names in os.walk(top):
        # The snapshots of a hub are links to its blobs, and are packed as files.
        skipped = _SKIPPED_FOLDERS | ({"blobs"} if "snapshots" in folders else set())
        folders[:] = sorted(set(folders) - skipped)
        for name in sorted(names):
            path = Path(folder) / name
            if not _CREDENTIAL_FILE.fullmatch(name) and path.is_file():
                yield path


def _find_cached_files() -> Iterator[FileToPack]:
    caches = SessionFolders().scratch / "caches"
    generated = tuple(caches / "xdg" / name for name in _GENERATED_CACHES)
    for path in _walk_files(caches):
        if not path.name.endswith(_UNFINISHED) and not any(map(path.is_relative_to, generated)):
            yield FileToPack(path, path, "cache")


def _find_hub_files(started: float) -> Iterator[FileToPack]:
    """Yield what a hub's client has downloaded since then to a folder that a cell names, in place of the cache."""
    session = SessionFolders()
    tops = {session.working, Path.home(), Path(tempfile.gettempdir())} - {Path("/")}
    others = {session.scratch, session.inputs, *tops}
    for top in tops:
        for name, folders, _ in os.walk(top):
            folder = Path(name)
            folders[:] = [
                child for child in folders if child not in _SKIPPED_FOLDERS and folder / child not in others
            ]
            paths: list[Path] = []
            if folder.name.startswith(("models--", "datasets--", "spaces--")) and "snapshots" in folders:
                folders.clear()
                paths = list(_walk_files(folder))
            elif ".cache" in folders:
                # There huggingface_hub has the commit and the hash of each file of a `local_dir`.
                downloads = folder / ".cache" / "huggingface" / "download"
                metadata = list(downloads.rglob("*.metadata"))
                paths = [
                    *metadata,
                    *(folder / path.relative_to(downloads).with_suffix("") for path in metadata),
                ]
            if paths and max(path.stat().st_mtime for path in paths if path.is_file()) >= int(started):
                yield from (FileToPack(path, path, "hub") for path in paths if path.is_file())


def _find_own_inputs(session: RecordedSession, used: Set[str]) -> Iterator[FileToPack]:
    """Yield every file of the inputs to pack that were used: libraries in C open files unseen."""
    patterns = [pattern for cell in session.code for pattern in _INPUT_PATTERN.findall(cell)]
    for mount in session.pack_inputs:
        paths = list(_walk_files(SessionFolders().inputs / mount))
        names = [path.relative_to(SessionFolders().inputs).as_posix() for path in paths]
        is_matched = any(fnmatch.filter(names, pattern) for pattern in patterns)
        name = rf"""(?<=["'/]){re.escape(mount)}(?=["'/\s]|$)"""
        is_named = any(re.search(name, cell, re.MULTILINE) for cell in session.code)
        is_used = any(f"{path}/".startswith(f"{{input}}/{mount}/") for path in used)
        if is_matched or is_named or is_used:
            yield from (FileToPack(path, path, "input") for path in paths)


def _find_project_files(
    session: RecordedSession, opened: Set[str], listed: Set[str], commands: str
) -> Iterator[FileToPack]:
    """Yield the project's files that Python opened or listed, that code names, or that lie in a folder a command names."""
    working = SessionFolders().working
    words, folders = (
        {word.removeprefix(f"{working}/").removeprefix("./").rstrip("/") for word in _WORD.findall(text)}
        for text in ("\n".join([*session.code, commands]), commands)
    )
    for path in _walk_files(Path(session.beside)) if session.beside else ():
        relative = path.relative_to(session.beside)
        shown = working / relative
        parents = relative.parents[:-1]  # each import lists the working folder itself
        if (
            kit_recording.name_path(shown) in opened
            or (parents and kit_recording.name_path(shown.parent) in listed)
            or {str(relative), relative.name} & words
            or {str(parent) for parent in parents} & folders
        ):
            yield FileToPack(path, shown, "beside")


def _find_submission(working: Path, started: float) -> Path | None:
    """Return submission.csv or .parquet, else the newest file of such a name; none that the project has brought."""
    paths = [path for path in working.glob("[sS]ubmission*") if path.is_file()]
    paths = [path for path in paths if path.stat().st_mtime >= int(started)]
    return max(paths, key=lambda path: (path.stem == "submission", path.stat().st_mtime), default=None)


def _clear_working(working: Path, keep: Path | None) -> None:
    """Delete what the cells wrote: the output is the part, and has no room for both in 20 GB and 500 files."""
    os.chdir(working)
    for path in working.iterdir():
        # Kaggle keeps the running notebook there, as __notebook__.ipynb.
        if path != keep and not path.name.startswith(("_", ".")):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink()


def _check_size(files: Iterable[FileToPack], where: str) -> None:
    """Raise KitError, before anything is packed, if the output of a notebook has no room for it."""
    sizes: Counter[str] = Counter()
    for path, shown in {file.path.resolve(): file.shown for file in files}.items():
        sizes["/".join(kit_recording.name_path(shown).split("/")[:_SHOWN_DEPTH])] += path.stat().st_size
    sizes["packages, repositories, URLs and commands"] = sum(
        path.stat().st_size for path in Path(os.environ[kit_recording.RECORDER]).glob("objects/*")
    )
    total = sum(sizes.values())
    details = [f"{size / 1e9:.2f} GB: {name}" for name, size in sizes.most_common(10) if size]
    if where != "here" and total > MAX_OUTPUT:
        raise KitError(
            f"the recording has {total / 1e9:.2f} GB, and Kaggle keeps {MAX_OUTPUT / 1e9:.0f} GB of a notebook's output",
            details,
            code="recording-too-large",
        )
    if total > 10**9:
        print(f"recording: packing {total / 1e9:.1f} GB", *details, sep="\n  ", flush=True)


def _store_file(file: FileToPack, notes: list[str]) -> dict[str, Any]:
    """Make a file an object, and return how the document names it."""
    facts = file.path.stat()
    named = kit_recording.name_path(file.shown)
    content: Path | bytes = file.path.resolve()
    if file.kind in ("beside", "input") and facts.st_size < kit_recording.LARGE:
        plain = file.path.read_bytes()
        content = kit_recording.hide_in_bytes(plain)
        if content != plain:
            notes.append(f"credentials in '{named}' are recorded as ***")
    stored = {"path": named, **kit_recording.add_object(content, is_final=True)}
    return {**stored, "mode": 0o755} if facts.st_mode & 0o100 else stored


def _summarize_inputs(opened: Set[str], listed: Set[str]) -> list[dict[str, Any]]:
    """Return how many files of each mount Python opened, and the names of some; a mount may only have been listed."""
    mounts: dict[str, list[str]] = {}
    for path in sorted(opened | listed):
        top, *parts = path.split("/")
        depth = _DEPTHS.get(parts[0], 1) if parts else 0
        if top == "{input}" and len(parts) >= depth > 0:
            names = mounts.setdefault("/".join(parts[:depth]), [])
            names += ["/".join(parts[depth:])] if path in opened else []
    return [{"mount": mount, "files": len(names), "read": names[:20]} for mount, names in mounts.items()]


def _list_system_packages(commands: Iterable[Mapping[str, Any]]) -> list[str]:
    names: set[str] = set()
    for words in (command["words"] for command in commands if command["words"][0] in _SYSTEM_INSTALLERS):
        if "install" in words:
            names |= {word for word in words[words.index("install") + 1 :] if not word.startswith("-")}
    return sorted(names)


def _list_unrecorded(
    connects: Sequence[Mapping[str, Any]], document: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Return the hosts that were contacted, and of which nothing was recorded."""
    urls = [url["key"].split()[1] for url in document["urls"]]
    urls += [repository["url"] for repository in document["repositories"]]
    urls += [word for command in document["commands"] for word in command["words"] if "://" in word]
    hosts = {urlsplit(url).hostname for url in urls}
    for cache, suffixes in _CACHE_HOSTS.items():
        if any(file["path"].startswith(f"{{scratch}}/caches/{cache}/") for file in document["files"]):
            hosts |= {event["host"] for event in connects if event["host"].endswith(suffixes)}
    if document["secrets"]:  # which Kaggle's own client asks for
        hosts.add("www.kaggle.com")
    cells = {event["host"]: event["cell"] for event in reversed(connects) if event["host"] not in hosts}
    return [{"host": host, "cell": cell} for host, cell in sorted(cells.items())]


def _write_part(folder: Path, document: Mapping[str, Any]) -> str:
    """Write document, objects, runtime and manifest into a folder; return the part's id."""
    top, runtime = folder / RECORDING_PART, folder / "offline_kit_runtime"
    for path in (top, runtime):
        shutil.rmtree(path, ignore_errors=True)
    top.mkdir(parents=True)
    digests = re.findall(r'"(?:sha256|output)": "([0-9a-f]{64})"', json.dumps({**document, "source": {}}))
    kit_recording.write_objects(digests, top)
    (top / kit_recording.DOCUMENT).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    shutil.copytree(Path(__file__).parent, runtime, ignore=shutil.ignore_patterns("__pycache__"))
    files = [
        (role, path.relative_to(folder).as_posix(), path)
        for role, parent in ((RECORDING_PART, top), ("runtime", runtime))
        for path in sorted(parent.rglob("*"))
        if path.is_file()
    ]
    return write_manifest(folder, RECORDING_PART, files)
