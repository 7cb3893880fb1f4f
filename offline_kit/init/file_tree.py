"""List a project's files and folders by name, within limits: data folders may contain millions of images."""

import os
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path

DATA_FOLDERS = frozenset({"input", "inputs", "data", "dataset", "datasets", "hidden", "labels", ".kaggle"})
"""Top-level folders that contain data, not code or weights."""

_SKIPPED_FOLDERS = frozenset(
    {"node_modules", "venv", "env", "dist", "__pycache__", "site-packages", "wandb", "mlruns"}
    | {"__pypackages__", "htmlcov"}
)
"""Folders that are skipped at any depth, as are hidden ones except `.kaggle`."""


_DATA_DEPTH = 3  # how many folders deep data folders are scanned


@dataclass(frozen=True, kw_only=True)
class FileTree:
    """The files and folders that a scan found."""

    root: Path
    files: tuple[str, ...]  # POSIX paths relative to the root, those near the top first, then by name
    folders: tuple[str, ...]  # the same for folders, including data folders and `.kaggle`
    notes: tuple[str, ...] = ()  # sentences on what a limit left out

    def files_at(self, folder: str) -> tuple[str, ...]:
        """Return the files directly in a folder ("" for the root)."""
        return self._files_in.get(folder, ())

    def files_below(self, folder: str) -> tuple[str, ...]:
        """Return the files at any depth below a folder."""
        return tuple(name for name in self.files if name.startswith(f"{folder}/"))

    def file_size(self, name: str) -> int:
        """Return the size of a file in bytes; 0 if it is gone."""
        with suppress(OSError):
            return (self.root / name).stat().st_size
        return 0

    def modified_ns(self, name: str) -> int:
        """Return a file's modification time in nanoseconds; 0 if it is gone."""
        with suppress(OSError):
            return (self.root / name).stat().st_mtime_ns
        return 0

    @cached_property
    def _files_in(self) -> dict[str, tuple[str, ...]]:
        names_by_folder: dict[str, list[str]] = {}
        for name in self.files:
            names_by_folder.setdefault(name.rpartition("/")[0], []).append(name)
        return {folder: tuple(inside) for folder, inside in names_by_folder.items()}


def top_folder(name: str) -> str:
    """Return the first folder of a path; "" for a file at the top."""
    return name.partition("/")[0] if "/" in name else ""


def scan_tree(root: Path, *, depth: int = 7, per_folder: int = 2000, total: int = 50_000) -> FileTree:
    """Scan a folder breadth first; the notes say what a limit left out.

    The limits: how many folders deep, and how many entries in a folder and in all. Links to folders are only followed
    at the top: deeper ones may form cycles.
    """
    files, folders, notes = list[str](), list[str](), list[str]()
    count, waiting = 0, deque([""])
    while waiting:
        folder = waiting.popleft()
        if count >= total:
            notes.append(f"only scanned the first {total} files and folders; skipped '{folder}' and others")
            break
        entries = _list_entries(root, folder, per_folder, notes)
        count += len(entries)
        inner, own_files = list[str](), list[str]()
        for entry in entries[:per_folder]:
            name = f"{folder}/{entry.name}" if folder else entry.name
            # only names that can be written into a text file: no bytes outside UTF-8 and no line ends
            if not name.isprintable():
                continue
            if entry.is_dir(follow_symlinks=not folder):
                inner += [] if _is_skipped(entry, folder, root) else [name]
            elif not entry.name.startswith(".") and entry.is_file():  # reading a pipe would block
                own_files.append(name)
        files += sorted(own_files)
        folders += sorted(inner)
        is_data = folder.partition("/")[0] in DATA_FOLDERS
        own_depth = folder.count("/") + 1 if folder else 0
        if own_depth < (_DATA_DEPTH if is_data else depth):
            waiting.extend(sorted(inner))
        elif inner and not is_data:
            notes.append(f"'{folder}' is {depth} folders deep: skipped everything below it")
    return FileTree(root=root, files=tuple(files), folders=tuple(folders), notes=tuple(notes))


def _list_entries(root: Path, folder: str, most: int, notes: list[str]) -> list["os.DirEntry[str]"]:
    """Return the entries of a folder, one more than `most` if there are more."""
    try:
        with os.scandir(root / folder) as entries:
            listed = list(islice(entries, most + 1))
    except OSError as error:
        notes.append(f"cannot list '{folder or root}': {error.strerror}")
        return []
    if len(listed) > most:
        notes.append(f"'{folder or '.'}' has more than {most} entries: skipped the others")
    return listed


def _is_skipped(entry: "os.DirEntry[str]", folder: str, root: Path) -> bool:
    name = entry.name
    if name == ".kaggle" and not folder:
        return False
    if name in _SKIPPED_FOLDERS or name.startswith(".") or name.endswith((".egg-info", ".dist-info")):
        return True
    path = Path(entry.path)
    if (name == "build" and not folder) or (path / "pyvenv.cfg").exists():
        return True
    # a link to the project itself or above it would never end
    return entry.is_symlink() and root.resolve().is_relative_to(path.resolve())
