"""List a project's files and folders by name, within limits: data folders may contain millions of images."""

import os
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path, PurePosixPath

DATA_FOLDERS = frozenset({"input", "inputs", "data", "dataset", "datasets", "hidden", "labels", ".kaggle"})
"""Top-level folders that contain data, not code or weights."""

_SKIPPED_FOLDERS = frozenset(
    {"node_modules", "venv", "env", "dist", "__pycache__", "site-packages", "wandb", "mlruns"}
    | {"__pypackages__", "htmlcov"}
)
"""Folders that are skipped at any depth, as are hidden ones except `.kaggle`."""


@dataclass(frozen=True, kw_only=True)
class ScanLimits:
    """Limits of a scan."""

    depth: int = 7
    data_depth: int = 3
    """The same in data folders."""
    per_folder: int = 2000
    """Entries per folder."""
    total: int = 50_000
    """Entries in total."""


LIMITS = ScanLimits()


@dataclass(frozen=True, kw_only=True)
class FileTree:
    """The files and folders that a scan found."""

    root: Path
    files: tuple[str, ...]
    """POSIX paths relative to the root, those near the top first, then by name."""
    folders: tuple[str, ...]
    """The same for folders, including data folders and `.kaggle`."""
    notes: tuple[str, ...] = ()
    """Sentences on what a limit left out."""

    def files_at(self, folder: str) -> tuple[str, ...]:
        """Return the files directly in a folder ("" for the root)."""
        return self._files_in.get(folder, ())

    def folders_at(self, folder: str) -> tuple[str, ...]:
        """Return the folders directly in a folder."""
        return self._folders_in.get(folder, ())

    def files_below(self, folder: str) -> tuple[str, ...]:
        """Return the files at any depth below a folder."""
        return tuple(name for name in self.files if name.startswith(f"{folder}/"))

    def file_size(self, name: str) -> int:
        """Return the size of a file in bytes; 0 if it is gone."""
        return self._file_status(name)[0]

    def modified_ns(self, name: str) -> int:
        """Return a file's modification time in nanoseconds; 0 if it is gone."""
        return self._file_status(name)[1]

    @cached_property
    def _files_in(self) -> dict[str, tuple[str, ...]]:
        return _group_by_folder(self.files)

    @cached_property
    def _folders_in(self) -> dict[str, tuple[str, ...]]:
        return _group_by_folder(self.folders)

    def _file_status(self, name: str) -> tuple[int, int]:
        try:
            status = (self.root / name).stat()
        except OSError:
            return 0, 0
        return status.st_size, status.st_mtime_ns


def _group_by_folder(names: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    names_by_folder: dict[str, list[str]] = {}
    for name in names:
        names_by_folder.setdefault(name.rpartition("/")[0], []).append(name)
    return {folder: tuple(inside) for folder, inside in names_by_folder.items()}


def top_folder(name: str) -> str:
    """Return the first folder of a path; "" for a file at the top."""
    return name.partition("/")[0] if "/" in name else ""


def scan_tree(root: Path, limits: ScanLimits = LIMITS) -> FileTree:
    """Scan a folder breadth first; the notes say what a limit left out.

    Links to folders are only followed at the top: deeper ones may form cycles.
    """
    scan = _TreeScan(root, limits)
    scan.scan_folders()
    return FileTree(root=root, files=tuple(scan.files), folders=tuple(scan.folders), notes=tuple(scan.notes))


class _TreeScan:
    def __init__(self, root: Path, limits: ScanLimits) -> None:
        self.root = root
        self.limits = limits
        self.files: list[str] = []
        self.folders: list[str] = []
        self.notes: list[str] = []
        self._entry_count = 0

    def scan_folders(self) -> None:
        waiting = deque([""])
        while waiting:
            folder = waiting.popleft()
            if self._entry_count >= self.limits.total:
                self.notes.append(
                    f"only scanned the first {self.limits.total} files and folders; skipped '{folder}' and others"
                )
                return
            inner = sorted(self._folder_entries(folder))
            if self._depth_left(folder) > 0:
                waiting.extend(inner)
            elif inner and not _is_data(folder):
                self.notes.append(
                    f"'{folder}' is {self.limits.depth} folders deep: skipped everything below it"
                )

    def _folder_entries(self, folder: str) -> Iterator[str]:
        """Record the files of a folder, and yield its folders that are scanned."""
        files = []
        for entry in self._list_folder(folder):
            name = f"{folder}/{entry.name}" if folder else entry.name
            if entry.is_dir(follow_symlinks=not folder):
                if not self._is_skipped(entry, folder):
                    self.folders.append(name)
                    yield name
            elif not entry.name.startswith(".") and entry.is_file():  # reading a pipe would block
                files.append(name)
        self.files += sorted(files)

    def _list_folder(self, folder: str) -> list["os.DirEntry[str]"]:
        most = self.limits.per_folder
        try:
            with os.scandir(self.root / folder) as entries:
                listed = list(islice(entries, most + 1))
        except OSError as error:
            self.notes.append(f"cannot list '{folder or self.root}': {error.strerror}")
            return []
        self._entry_count += len(listed)
        if len(listed) > most:
            self.notes.append(f"'{folder or '.'}' has more than {most} entries: skipped the others")
        return [entry for entry in listed[:most] if _is_printable(entry.name)]

    def _depth_left(self, folder: str) -> int:
        depth = len(PurePosixPath(folder).parts) if folder else 0
        return (self.limits.data_depth if _is_data(folder) else self.limits.depth) - depth

    def _is_skipped(self, entry: "os.DirEntry[str]", folder: str) -> bool:
        name = entry.name
        if name == ".kaggle" and not folder:
            return False
        if name in _SKIPPED_FOLDERS or name.startswith(".") or name.endswith((".egg-info", ".dist-info")):
            return True
        path = Path(entry.path)
        if (name == "build" and not folder) or (path / "pyvenv.cfg").exists():
            return True
        # a link to the project itself or above it would never end
        return entry.is_symlink() and self.root.resolve().is_relative_to(path.resolve())


def _is_data(folder: str) -> bool:
    return folder.partition("/")[0] in DATA_FOLDERS


def _is_printable(name: str) -> bool:
    """Whether a name can be written into a text file: no bytes outside UTF-8 and no line ends."""
    return name.isprintable()
