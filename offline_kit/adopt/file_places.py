"""Where the files of a notebook lie: on Kaggle, in the adopted notebook, and in the project."""

import os
import posixpath
import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from offline_kit.adopt.findings import Sources
from offline_kit.project.images import Image

INPUT, SHOWN = "/kaggle/input", "/tmp/kaggle/input"  # noqa: S108 - a path of the notebook's session, not of ours
"""The mounts, and the folder that shows them under old and new paths alike, with the kit's files among them."""
WORKING = "/tmp/kaggle/working"  # noqa: S108
"""Where the adopted notebook finds the files that lay beside it."""
_OUT = "/kaggle/working"
"""Where a notebook runs, and what Kaggle keeps of it."""
_GROUPS = {"competitions": 1, "datasets": 2, "notebooks": 2, "models": 5}
"""Folders of the newer layout, and how many names behind them tell the source."""
MOUNT = re.compile(r"(?<![\w/.~-])(?:/kaggle/input|(?:\.\./)+input)(?=/|$|[\"'\s])")
"""How notebooks write the mounts' folder."""
_NEVER = frozenset({".git", "dist", "__pycache__", "node_modules", ".venv", "venv"})
_MOST = 20_000


@dataclass(frozen=True, kw_only=True)
class Mounted:
    """A path below the mounts, taken apart."""

    kind: str
    """"competition", "dataset", "notebook", "model"; empty where the path does not tell."""
    name: str
    """The source as the path names it: "slug", "owner/slug"; empty for the mounts' folder itself."""
    rest: str
    """The path below it."""

    @property
    def slug(self) -> str:
        """The source's own name."""
        return self.name.split("/")[1 if self.kind == "model" else -1]


def mounted(path: str) -> Mounted:
    """Take a path below the mounts apart, in either layout."""
    found = MOUNT.match(path)
    parts = [part for part in path[found.end() if found else 0 :].split("/") if part]
    depth = _GROUPS.get(parts[0], 0) if parts else 0
    if depth:
        return Mounted(
            kind=parts[0].removesuffix("s"),
            name="/".join(parts[1 : depth + 1]),
            rest="/".join(parts[depth + 1 :]),
        )
    return Mounted(kind="", name=parts[0] if parts else "", rest="/".join(parts[1:]))


def joined(folder: str, path: str) -> str:
    """Return where a path leads from a folder of the run, without dots: relative to the working folder in it.

    "" is the working folder itself; what lies outside is absolute.
    """
    plain = path.replace("~", "/root", 1) if re.match(r"~(/|$)", path) else path
    whole = posixpath.normpath(posixpath.join(_OUT, folder, plain))
    return whole.removeprefix(_OUT).lstrip("/") if f"{whole}/".startswith(f"{_OUT}/") else whole


def beside_name(path: str) -> str:
    """Return how a fetched file or folder is called beside the notebook: outside the working folder, its last part."""
    return path.rpartition("/")[2] if path.startswith("/") else path


def requirement_lines(path: Path) -> list[str]:
    """Return the requirements of a file without comments; [] if there is no such file."""
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    lines = (re.split(r"(?:^|\s)#", line)[0].strip() for line in text.splitlines())
    return [line for line in lines if line]


@dataclass(frozen=True, kw_only=True)
class Ground:
    """What a notebook is looked at against."""

    project: Path
    """The project's folder."""
    notebook: Path
    """The notebook."""
    image: Image
    """The image that it will run in."""
    sources: Sources = field(default_factory=Sources)
    """What is attached to it."""
    unnamed: tuple[str, ...] = ()
    """Kinds of sources that its metadata has attached by number, without their names."""
    lines: tuple[str, ...] = ()
    """Lines of the project's requirements files, with their comments."""

    @property
    def bases(self) -> tuple[Path, ...]:
        """Folders of the project from which the notebook's relative paths may be meant, the likeliest first."""
        return tuple(dict.fromkeys((self.notebook.parent.resolve(), self.project.resolve())))

    def is_attached(self, place: Mounted) -> bool:
        """Whether a path belongs to an attached source."""
        own = self.sources
        if place.kind in ("", "competition") and place.name in own.competitions:
            return True
        named = [*own.datasets, *own.notebooks]
        slugs = {each.rpartition("/")[2] for each in named} | {
            each.split("/")[1] for each in own.models if "/" in each
        }
        return place.name in (*named, *own.models) or place.slug in slugs

    def beside(self, path: str) -> tuple[Path, ...]:
        """Return what a relative path of the notebook ("*" for what is not known) is in the project."""
        clean = (
            posixpath.normpath(path) if path else ""
        )  # "." is where the notebook writes: nothing beside it
        if not clean.strip("*/.") or clean.startswith(("/", "~", "..")) or "://" in path or "\n" in clean:
            return ()
        for base in self.bases:
            found = self._matching(base, clean)
            if found:
                return found
        return ()

    def of_mount(self, place: Mounted) -> tuple[Path, ...]:
        """Return what a path below the mounts is in the project: a copy of the source, or a file of that name."""
        if not place.name:
            return ()
        tail = f"/{place.rest}" if place.rest else ""
        for base in self.bases:
            for folder in (f"input/{place.name}", f"input/{place.slug}", place.slug):
                found = self._matching(base, folder + tail)
                if found:
                    return found
        return self._of_name(place.rest)

    def _of_name(self, rest: str) -> tuple[Path, ...]:
        """Return the one file of the project that is called like the last part of a path."""
        name = rest.rpartition("/")[2]
        stem = name.rpartition(".")[0]
        if "." not in name or len(stem.replace("*", "")) < ("*" in name) * 3:
            return ()  # "*.txt" means no file in particular
        found = tuple(path for path in self._files if Path(path.name).match(name))
        return found if len(found) == 1 or ("*" in name and len({path.parent for path in found}) == 1) else ()

    @cached_property
    def _files(self) -> tuple[Path, ...]:
        found: list[Path] = []
        root = self.project.resolve()
        for here, folders, names in os.walk(root):
            folders[:] = sorted(each for each in folders if each not in _NEVER and not each.startswith("."))
            found += [Path(here, name) for name in sorted(names)]
            if len(found) > _MOST:
                break
        return tuple(found)

    def matching(self, pattern: str) -> tuple[Path, ...]:
        """Return the project's files that a pattern means, below the likeliest base that has any."""
        return next(filter(None, (self._matching(base, pattern) for base in self.bases)), ())

    def _matching(self, base: Path, pattern: str) -> tuple[Path, ...]:
        root = self.project.resolve()
        try:
            hits = sorted(base.glob(pattern)) if "*" in pattern else [base / pattern]
            return tuple(hit for hit in hits if hit.exists() and hit.resolve().is_relative_to(root))
        except (OSError, ValueError, NotImplementedError):
            return ()

    def name(self, path: Path) -> str:
        """Return a path of the project as the configuration writes it."""
        return path.relative_to(self.project.resolve()).as_posix()
