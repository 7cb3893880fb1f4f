"""Where the files of a notebook lie: on Kaggle, in the adopted notebook, and in the project."""

import os
import posixpath
import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from offline_kit.adopt.findings import AttachedSources
from offline_kit.project.images import Image

INPUT, SHOWN_INPUT = "/kaggle/input", "/tmp/kaggle/input"  # noqa: S108 - a path of the notebook's session, not of ours
"""The mounts, and the folder that shows them under old and new paths alike, with the kit's files among them."""
WORKING = "/tmp/kaggle/working"  # noqa: S108
"""Where the adopted notebook finds the files that lay beside it."""
_OUTPUT = "/kaggle/working"
"""Where a notebook runs, and what Kaggle keeps of it."""
_GROUPS = {"competitions": 1, "datasets": 2, "notebooks": 2, "models": 5}
"""Folders of the newer layout, and how many names behind them tell the source."""
MOUNT = re.compile(r"(?<![\w/.~-])(?:/kaggle/input|(?:\.\./)+input)(?=/|$|[\"'\s])")
"""How notebooks write the mounts' folder."""
_SKIPPED_FOLDERS = frozenset({".git", "dist", "__pycache__", "node_modules", ".venv", "venv"})
_MAX_FILES = 20_000


@dataclass(frozen=True, kw_only=True)
class MountPath:
    """A path below the mounts, taken apart."""

    kind: str
    """"competition", "dataset", "notebook", "model"; empty where the path does not tell."""
    name: str
    """The source as the path names it: "slug", "owner/slug"; empty for the mounts' folder itself."""
    below: str
    """The path below it."""

    @property
    def source_slug(self) -> str:
        """The source's own name."""
        return self.name.split("/")[1 if self.kind == "model" else -1]


def split_mount_path(path: str) -> MountPath:
    """Take a path below the mounts apart, in either layout."""
    match = MOUNT.match(path)
    parts = [part for part in path[match.end() if match else 0 :].split("/") if part]
    depth = _GROUPS.get(parts[0], 0) if parts else 0
    if depth:
        return MountPath(
            kind=parts[0].removesuffix("s"),
            name="/".join(parts[1 : depth + 1]),
            below="/".join(parts[depth + 1 :]),
        )
    return MountPath(kind="", name=parts[0] if parts else "", below="/".join(parts[1:]))


def join_run_path(folder: str, path: str) -> str:
    """Return where a path leads from a folder of the run, without dots: relative to the working folder in it.

    "" is the working folder itself; what lies outside is absolute.
    """
    plain = path.replace("~", "/root", 1) if re.match(r"~(/|$)", path) else path
    absolute = posixpath.normpath(posixpath.join(_OUTPUT, folder, plain))
    return (
        absolute.removeprefix(_OUTPUT).lstrip("/") if f"{absolute}/".startswith(f"{_OUTPUT}/") else absolute
    )


def fetched_name(path: str) -> str:
    """Return how a fetched file or folder is called beside the notebook: outside the working folder, its last part."""
    return path.rpartition("/")[2] if path.startswith("/") else path


def read_requirement_lines(path: Path) -> list[str]:
    """Return the requirements of a file without comments; [] if there is no such file."""
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    lines = (re.split(r"(?:^|\s)#", line)[0].strip() for line in text.splitlines())
    return [line for line in lines if line]


@dataclass(frozen=True, kw_only=True)
class NotebookFiles:
    """What a notebook is looked at against."""

    project: Path
    """The project's folder."""
    notebook: Path
    """The notebook."""
    image: Image
    """The image that it will run in."""
    sources: AttachedSources = field(default_factory=AttachedSources)
    """What is attached to it."""
    unnamed: tuple[str, ...] = ()
    """Kinds of sources that its metadata has attached by number, without their names."""
    lines: tuple[str, ...] = ()
    """Lines of the project's requirements files, with their comments."""

    @property
    def base_folders(self) -> tuple[Path, ...]:
        """Folders of the project from which the notebook's relative paths may be meant, the likeliest first."""
        return tuple(dict.fromkeys((self.notebook.parent.resolve(), self.project.resolve())))

    def is_attached(self, place: MountPath) -> bool:
        """Whether a path belongs to an attached source."""
        own = self.sources
        if place.kind in ("", "competition") and place.name in own.competitions:
            return True
        names = [*own.datasets, *own.notebooks]
        slugs = {name.rpartition("/")[2] for name in names} | {
            name.split("/")[1] for name in own.models if "/" in name
        }
        return place.name in (*names, *own.models) or place.source_slug in slugs

    def find_beside(self, path: str) -> tuple[Path, ...]:
        """Return what a relative path of the notebook ("*" for what is not known) is in the project."""
        clean = (
            posixpath.normpath(path) if path else ""
        )  # "." is where the notebook writes: nothing beside it
        if not clean.strip("*/.") or clean.startswith(("/", "~", "..")) or "://" in path or "\n" in clean:
            return ()
        for base in self.base_folders:
            hits = self._match_below(base, clean)
            if hits:
                return hits
        return ()

    def find_mounted(self, place: MountPath) -> tuple[Path, ...]:
        """Return what a path below the mounts is in the project: a copy of the source, or a file of that name."""
        if not place.name:
            return ()
        tail = f"/{place.below}" if place.below else ""
        for base in self.base_folders:
            for folder in (f"input/{place.name}", f"input/{place.source_slug}", place.source_slug):
                hits = self._match_below(base, folder + tail)
                if hits:
                    return hits
        return self._find_by_name(place.below)

    def _find_by_name(self, rest: str) -> tuple[Path, ...]:
        """Return the one file of the project that is called like the last part of a path."""
        name = rest.rpartition("/")[2]
        stem = name.rpartition(".")[0]
        if "." not in name or len(stem.replace("*", "")) < ("*" in name) * 3:
            return ()  # "*.txt" means no file in particular
        hits = tuple(path for path in self._all_files if Path(path.name).match(name))
        return hits if len(hits) == 1 or ("*" in name and len({path.parent for path in hits}) == 1) else ()

    @cached_property
    def _all_files(self) -> tuple[Path, ...]:
        paths: list[Path] = []
        root = self.project.resolve()
        for folder, folders, names in os.walk(root):
            folders[:] = sorted(
                name for name in folders if name not in _SKIPPED_FOLDERS and not name.startswith(".")
            )
            paths += [Path(folder, name) for name in sorted(names)]
            if len(paths) > _MAX_FILES:
                break
        return tuple(paths)

    def find_matching(self, pattern: str) -> tuple[Path, ...]:
        """Return the project's files that a pattern means, below the likeliest base that has any."""
        return next(filter(None, (self._match_below(base, pattern) for base in self.base_folders)), ())

    def _match_below(self, base: Path, pattern: str) -> tuple[Path, ...]:
        root = self.project.resolve()
        try:
            hits = sorted(base.glob(pattern)) if "*" in pattern else [base / pattern]
            return tuple(hit for hit in hits if hit.exists() and hit.resolve().is_relative_to(root))
        except (OSError, ValueError, NotImplementedError):
            return ()

    def relative_name(self, path: Path) -> str:
        """Return a path of the project as the configuration writes it."""
        return path.relative_to(self.project.resolve()).as_posix()
