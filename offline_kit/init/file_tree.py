"""A bounded look at a project's files: names alone, and never all of a million pictures."""

import os
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path, PurePosixPath

DATA = frozenset({"input", "inputs", "data", "dataset", "datasets", "hidden", "labels", ".kaggle"})
"""Folders at the top of a project that hold data, not code or weights."""

_NEVER = frozenset(
    {"node_modules", "venv", "env", "dist", "__pycache__", "site-packages", "wandb", "mlruns"}
    | {"__pypackages__", "htmlcov"}
)
"""Folders that are never looked into, wherever they lie; nor hidden ones, but for `.kaggle`."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How far a look goes."""

    depth: int = 7
    """Folders below the project."""
    data_depth: int = 3
    """The same in folders of data."""
    per_folder: int = 2000
    """Entries of one folder."""
    total: int = 50_000
    """Entries altogether."""


LIMITS = Limits()


@dataclass(frozen=True, kw_only=True)
class Tree:
    """The names that were seen."""

    root: Path
    """The project's folder."""
    files: tuple[str, ...]
    """Posix paths of files relative to it, those near the top first, then by name."""
    folders: tuple[str, ...]
    """The same for folders, those of data and hidden `.kaggle` included."""
    notes: tuple[str, ...] = ()
    """Where the look ended early, in sentences."""

    def at(self, folder: str) -> tuple[str, ...]:
        """Return the files that lie in this very folder ("" for the project)."""
        return self._files_in.get(folder, ())

    def folders_at(self, folder: str) -> tuple[str, ...]:
        """Return the folders that lie in this very folder."""
        return self._folders_in.get(folder, ())

    def below(self, folder: str) -> tuple[str, ...]:
        """Return the files at any depth below a folder."""
        return tuple(name for name in self.files if name.startswith(f"{folder}/"))

    def size(self, name: str) -> int:
        """Return the bytes of a file; 0 where it is gone."""
        return self._stat(name)[0]

    def modified(self, name: str) -> int:
        """Return when a file was changed, in nanoseconds; 0 where it is gone."""
        return self._stat(name)[1]

    @cached_property
    def _files_in(self) -> dict[str, tuple[str, ...]]:
        return _by_folder(self.files)

    @cached_property
    def _folders_in(self) -> dict[str, tuple[str, ...]]:
        return _by_folder(self.folders)

    def _stat(self, name: str) -> tuple[int, int]:
        try:
            seen = (self.root / name).stat()
        except OSError:
            return 0, 0
        return seen.st_size, seen.st_mtime_ns


def _by_folder(names: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(name.rpartition("/")[0], []).append(name)
    return {folder: tuple(inside) for folder, inside in found.items()}


def top_of(name: str) -> str:
    """Return the first folder of a path; "" for a file at the top."""
    return name.partition("/")[0] if "/" in name else ""


def scan(root: Path, limits: Limits = LIMITS) -> Tree:
    """Look at the names below a folder, the nearest first, and say in the notes where a limit ended that.

    Links to folders are followed at the top alone: deeper they may be rings.
    """
    look = _Look(root, limits)
    look.go()
    return Tree(root=root, files=tuple(look.files), folders=tuple(look.folders), notes=tuple(look.notes))


class _Look:
    def __init__(self, root: Path, limits: Limits) -> None:
        self.root = root
        self.limits = limits
        self.files: list[str] = []
        self.folders: list[str] = []
        self.notes: list[str] = []
        self._seen = 0

    def go(self) -> None:
        waiting = deque([""])
        while waiting:
            folder = waiting.popleft()
            if self._seen >= self.limits.total:
                self.notes.append(
                    f"looked at the first {self.limits.total} files and folders alone; '{folder}' and others were not seen"
                )
                return
            inner = sorted(self._entries(folder))
            if self._depth_left(folder) > 0:
                waiting.extend(inner)
            elif inner and not _is_data(folder):
                self.notes.append(
                    f"'{folder}' is {self.limits.depth} folders deep: what lies below was not seen"
                )

    def _entries(self, folder: str) -> Iterator[str]:
        """Note the files of a folder, and yield the folders in it that are looked into."""
        files = []
        for entry in self._listed(folder):
            name = f"{folder}/{entry.name}" if folder else entry.name
            if entry.is_dir(follow_symlinks=not folder):
                if not self._is_never(entry, folder):
                    self.folders.append(name)
                    yield name
            elif not entry.name.startswith(".") and entry.is_file():  # a pipe would be waited for
                files.append(name)
        self.files += sorted(files)

    def _listed(self, folder: str) -> list["os.DirEntry[str]"]:
        most = self.limits.per_folder
        try:
            with os.scandir(self.root / folder) as entries:
                found = list(islice(entries, most + 1))
        except OSError as error:
            self.notes.append(f"cannot look into '{folder or self.root}': {error.strerror}")
            return []
        self._seen += len(found)
        if len(found) > most:
            self.notes.append(f"'{folder or '.'}' has more than {most} entries: the others were not seen")
        return [entry for entry in found[:most] if _is_text(entry.name)]

    def _depth_left(self, folder: str) -> int:
        depth = len(PurePosixPath(folder).parts) if folder else 0
        return (self.limits.data_depth if _is_data(folder) else self.limits.depth) - depth

    def _is_never(self, entry: "os.DirEntry[str]", folder: str) -> bool:
        name = entry.name
        if name == ".kaggle" and not folder:
            return False
        if name in _NEVER or name.startswith(".") or name.endswith((".egg-info", ".dist-info")):
            return True
        place = Path(entry.path)
        if (name == "build" and not folder) or (place / "pyvenv.cfg").exists():
            return True
        # a link that leads to the project itself, or above it, would be walked for ever
        return entry.is_symlink() and self.root.resolve().is_relative_to(place.resolve())


def _is_data(folder: str) -> bool:
    return folder.partition("/")[0] in DATA


def _is_text(name: str) -> bool:
    """Whether a name can be written into a text file: other bytes than UTF-8, or line ends, cannot."""
    return name.isprintable()
