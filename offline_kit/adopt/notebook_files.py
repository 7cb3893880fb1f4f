"""A notebook under inspection: its paths on Kaggle, in the adopted notebook and in the project, and what it takes."""

import ast
import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from offline_kit.adopt.findings import AttachedSources, CellEdit, ExternalNeed, NeedKind
from offline_kit.adopt.notebook_code import NotebookCode, has_unknowns
from offline_kit.init import file_tree
from offline_kit.project.images import Image

INPUT, SHOWN_INPUT = "/kaggle/input", "/tmp/kaggle/input"  # noqa: S108 - a path of the notebook's session, not of ours
"""Kaggle's mounts, and the folder with links to them under old and new paths, and to copies of them in the kit."""
OUTPUT = "/kaggle/working"  # Kaggle's working folder, whose files become the notebook's output
# https://www.kaggle.com/docs/notebooks: /kaggle/input/SLUG in the older layout; in the newer one
# /kaggle/input/datasets/OWNER/SLUG, .../competitions/SLUG, .../models/OWNER/MODEL/FRAMEWORK/VARIATION/VERSION
SOURCE_PARTS = {"competition": 1, "dataset": 2, "notebook": 2, "model": 5}
"""How many parts the name of a source on Kaggle has, by its kind."""
MOUNT = re.compile(r"(?<![\w/.~-])(?:/kaggle/input|(?:\.\./)+input)(?=/|$|[\"'\s])")
"""Spellings of the mounts' folder in notebooks."""


@dataclass(frozen=True, kw_only=True)
class MountPath:
    """A path below the mounts, split into source and rest."""

    kind: str  # "competition", "dataset", "notebook", "model"; empty in the older layout, which has no kinds
    name: str  # the source as in the path: "slug", "owner/slug"; empty for the mounts' folder itself
    below: str

    @property
    def source_slug(self) -> str:
        """The source's name without its owner."""
        parts = self.name.split("/")
        return parts[1] if self.kind == "model" and len(parts) > 1 else parts[-1]


def split_mount_path(path: str) -> MountPath:
    """Split a path below the mounts, in either layout."""
    match = MOUNT.match(path)
    parts = [part for part in path[match.end() if match else 0 :].split("/") if part]
    kind = parts[0][:-1] if parts and parts[0].endswith("s") and parts[0][:-1] in SOURCE_PARTS else ""
    parts, depth = parts[1:] if kind else parts, SOURCE_PARTS.get(kind, 1)
    return MountPath(kind=kind, name="/".join(parts[:depth]), below="/".join(parts[depth:]))


def join_run_path(folder: str, path: str) -> str:
    """Resolve a path from a folder of the run: relative to the working folder ("" is itself), else absolute."""
    plain = path.replace("~", "/root", 1) if re.match(r"~(/|$)", path) else path
    absolute = posixpath.normpath(posixpath.join(OUTPUT, folder, plain))
    is_inside = f"{absolute}/".startswith(f"{OUTPUT}/")
    return absolute.removeprefix(OUTPUT).lstrip("/") if is_inside else absolute


def change_folder(here: str, wanted: str) -> str:
    """Return the folder that a `cd` changes to; one only known at run time counts as the working folder."""
    return "" if "*" in wanted or has_unknowns(wanted) else join_run_path(here, wanted or "~")


@dataclass(kw_only=True)
class InspectedNotebook:
    """A notebook, the project and image that it is inspected against, and what it takes so far.

    Dictionaries without values are ordered sets.
    """

    path: Path
    project: Path
    image: Image
    code: NotebookCode
    unnamed: tuple[str, ...] = ()  # kinds of sources that its metadata attaches by number, without a name
    lines: tuple[str, ...] = ()  # lines of the project's requirements files, with comments
    sources: AttachedSources = field(default_factory=AttachedSources)
    requirements: dict[str, None] = field(default_factory=dict)
    requirement_files: dict[str, None] = field(default_factory=dict)
    needs_own_requirements: bool = False  # whether it imports what only the project's requirements provide
    packages: dict[str, None] = field(default_factory=dict)
    checkpoints: dict[str, None] = field(default_factory=dict)
    modules: dict[str, None] = field(default_factory=dict)
    served: dict[str, str] = field(default_factory=dict)
    """Path below the inputs ("input/..."): the project's file or folder that is shown there."""
    beside: dict[str, str] = field(default_factory=dict)
    """Path below the working folder: the project's file or folder that was there when it was next to the notebook."""
    indexes: dict[str, None] = field(default_factory=dict)
    """Lines of a requirements file that name further indexes."""
    needs: list[ExternalNeed] = field(default_factory=list)  # of lines and calls, before they are decided
    resolved: list[ExternalNeed] = field(default_factory=list)
    edits: list[CellEdit] = field(default_factory=list)

    def make_need(self, kind: NeedKind, cell: int, line: int, target: str = "") -> ExternalNeed:
        """Return the need of a whole line of a cell."""
        text = self.code.reads[cell].source.split("\n")[line - 1].strip()
        return ExternalNeed(kind=kind, cell=cell, line=line, text=text, target=target)

    def is_attached(self, mount_path: MountPath) -> bool:
        """Whether a path belongs to an attached source."""
        own, name = self.sources, mount_path.name
        names = (*own.datasets, *own.notebooks, *own.models)
        slugs = {"".join(key.split("/")[1:2]) for key in names}
        is_competition = mount_path.kind in ("", "competition") and name in own.competitions
        return is_competition or name in names or mount_path.source_slug in slugs

    @cached_property
    def base_folders(self) -> tuple[Path, ...]:
        """Folders that relative paths of the notebook may start from, the likeliest first."""
        return tuple(dict.fromkeys((self.path.parent.resolve(), self.project.resolve())))

    def find_beside(self, path: str) -> tuple[Path, ...]:
        """Return the project's files and folders for a relative path of the notebook, "*" for unknown parts."""
        clean = posixpath.normpath(path) if path else ""  # "." is the working folder: nothing is next to it
        if not clean.strip("*/.") or clean.startswith(("/", "~", "..")) or "://" in path or "\n" in clean:
            return ()
        return self.find_matching(clean)

    def find_mounted(self, mount_path: MountPath) -> tuple[Path, ...]:
        """Return the project's copy of a path below the mounts: in a copy of the source, or a file of that name."""
        name, slug, below = mount_path.name, mount_path.source_slug, mount_path.below
        if not name:
            return ()
        tail = f"/{below}" if below else ""
        if hits := self.find_matching(f"input/{name}{tail}", f"input/{slug}{tail}", f"{slug}{tail}"):
            return hits
        # else the only file of the project with the name of the last part; "*.txt" names no particular file
        file = below.rpartition("/")[2]
        is_pattern = "*" in file
        if "." not in file or (is_pattern and len(file.rpartition(".")[0].replace("*", "")) < 3):
            return ()
        hits = tuple(path for path in self._project_files if Path(path.name).match(file))
        folders = {path.parent for path in hits}
        return hits if len(hits) == 1 or (is_pattern and len(folders) == 1) else ()

    @cached_property
    def _project_files(self) -> list[Path]:
        root = self.project.resolve()
        return [root / name for name in file_tree.scan_tree(root).files]

    def find_run_path(self, path: str) -> tuple[Path, ...]:
        """Return the project's files and folders for a path below the mounts or next to the notebook."""
        return self.find_mounted(split_mount_path(path)) if MOUNT.match(path) else self.find_beside(path)

    def find_matching(self, *patterns: str) -> tuple[Path, ...]:
        """Return the project's files that match the first pattern with any, below the likeliest base folder."""
        root = self.project.resolve()
        for base in self.base_folders:
            for pattern in patterns:
                try:
                    hits = sorted(base.glob(pattern)) if "*" in pattern else [base / pattern]
                    hits = [hit for hit in hits if hit.exists() and hit.resolve().is_relative_to(root)]
                except (OSError, ValueError, NotImplementedError):  # no name of a file: too long, "**.csv"
                    continue
                if hits:
                    return tuple(hits)
        return ()

    def relative_name(self, path: Path) -> str:
        """Return a path relative to the project, as in the configuration."""
        return path.relative_to(self.project.resolve()).as_posix()

    def folder_at(self, cell: int, line: int) -> str:
        """Return the folder in which a line starts, as from `join_run_path`."""
        earlier = [folder for number, at, folder in self.folder_changes if (number, at) < (cell, line)]
        return earlier[-1] if earlier else ""

    @cached_property
    def folder_changes(self) -> list[tuple[int, int, str]]:
        """The folder after each `%cd` and `os.chdir` of the cells, with cell and line."""
        changes = []
        folder = previous = ""
        for number in self.code.reads:
            for line, target in sorted(self._find_changes(number)):
                folder, previous = previous if target == "-" else change_folder(folder, target), folder
                changes.append((number, line, folder))
        return changes

    def _find_changes(self, number: int) -> Iterator[tuple[int, str]]:
        """Yield the lines of a cell that change the folder, with their targets."""
        read, strings = self.code.reads[number], self.code.strings
        for magic in read.magics:
            if magic.name == "cd" and magic.sign in ("%", ""):
                words = magic.text.strip().removeprefix("cd").strip()
                plain = words.removesuffix("-q").removeprefix("-q ").strip().strip("\"'")
                yield read.line_number(magic.start), strings.fill(plain)
        for node in _outer_nodes(self.code.trees.get(number)):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("os.chdir", "chdir") and node.args:
                yield node.lineno, strings.value(node.args[0]) or "*"


def _outer_nodes(tree: ast.AST | None) -> Iterator[ast.AST]:
    """Yield the nodes of a cell outside of functions, which run elsewhere."""
    for node in ast.iter_child_nodes(tree) if tree else ():
        yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from _outer_nodes(node)
