"""Map a notebook's paths: on Kaggle, in the adopted notebook, and in the project."""

import ast
import os
import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from offline_kit.adopt import literals
from offline_kit.adopt.findings import (
    AttachedSources,
    CellEdit,
    Collected,
    ExternalNeed,
    FindingResolution,
    NeedKind,
    ResolvedNeed,
    resolve_need,
)
from offline_kit.adopt.notebook_code import NotebookCode
from offline_kit.notebook.cells import Magic, ParsedCell
from offline_kit.project.images import Image

INPUT, SHOWN_INPUT = "/kaggle/input", "/tmp/kaggle/input"  # noqa: S108 - a path of the notebook's session, not of ours
"""Kaggle's mounts, and the folder with links to them under old and new paths, and to the kit's files."""
WORKING = "/tmp/kaggle/working"  # noqa: S108
"""Folder in which the adopted notebook finds the files that were next to it."""
_OUTPUT = "/kaggle/working"
"""Kaggle's working folder, whose files become the notebook's output."""
# https://www.kaggle.com/docs/notebooks: /kaggle/input/SLUG in the older layout; in the newer one
# /kaggle/input/datasets/OWNER/SLUG, .../competitions/SLUG, .../models/OWNER/MODEL/FRAMEWORK/VARIATION/VERSION
_GROUPS = {"competitions": 1, "datasets": 2, "notebooks": 2, "models": 5}
"""Folders of Kaggle's newer layout, and how many path parts below them name the source."""
MOUNT = re.compile(r"(?<![\w/.~-])(?:/kaggle/input|(?:\.\./)+input)(?=/|$|[\"'\s])")
"""Spellings of the mounts' folder in notebooks."""
_SKIPPED_FOLDERS = frozenset({".git", "dist", "__pycache__", "node_modules", ".venv", "venv"})
_MAX_FILES = 20_000


@dataclass(frozen=True, kw_only=True)
class MountPath:
    """A path below the mounts, split into source and rest."""

    kind: str
    """"competition", "dataset", "notebook", "model"; empty in the older layout, which has no kinds."""
    name: str
    """The source as in the path: "slug", "owner/slug"; empty for the mounts' folder itself."""
    below: str

    @property
    def source_slug(self) -> str:
        """The source's name without its owner."""
        return self.name.split("/")[1 if self.kind == "model" else -1]


def split_mount_path(path: str) -> MountPath:
    """Split a path below the mounts, in either layout."""
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
    """Resolve a path from a folder of the run: relative to the working folder ("" is itself), else absolute."""
    plain = path.replace("~", "/root", 1) if re.match(r"~(/|$)", path) else path
    absolute = posixpath.normpath(posixpath.join(_OUTPUT, folder, plain))
    return (
        absolute.removeprefix(_OUTPUT).lstrip("/") if f"{absolute}/".startswith(f"{_OUTPUT}/") else absolute
    )


def fetched_name(path: str) -> str:
    """Return the name that a downloaded file or folder has next to the notebook: a path outside keeps its last part."""
    return path.rpartition("/")[2] if path.startswith("/") else path


def read_requirement_lines(path: Path) -> list[str]:
    """Return the lines of a requirements file without comments; [] if there is no such file."""
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    lines = (re.split(r"(?:^|\s)#", line)[0].strip() for line in text.splitlines())
    return [line for line in lines if line]


@dataclass(frozen=True, kw_only=True)
class NotebookFiles:
    """The project, image and sources that a notebook's paths refer to."""

    project: Path
    notebook: Path
    image: Image
    sources: AttachedSources = field(default_factory=AttachedSources)
    unnamed: tuple[str, ...] = ()
    """Kinds of sources that its metadata attaches by number, without a name."""
    lines: tuple[str, ...] = ()
    """Lines of the project's requirements files, with comments."""

    @property
    def base_folders(self) -> tuple[Path, ...]:
        """Folders that relative paths of the notebook may start from, the likeliest first."""
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
        """Return the project's files and folders for a relative path of the notebook, "*" for unknown parts."""
        clean = posixpath.normpath(path) if path else ""  # "." is the working folder: nothing is next to it
        if not clean.strip("*/.") or clean.startswith(("/", "~", "..")) or "://" in path or "\n" in clean:
            return ()
        for base in self.base_folders:
            hits = self._match_below(base, clean)
            if hits:
                return hits
        return ()

    def find_mounted(self, place: MountPath) -> tuple[Path, ...]:
        """Return the project's copy of a path below the mounts: in a copy of the source, or a file of that name."""
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
        """Return the only file of the project with the name of a path's last part."""
        name = rest.rpartition("/")[2]
        stem = name.rpartition(".")[0]
        if "." not in name or len(stem.replace("*", "")) < ("*" in name) * 3:
            return ()  # "*.txt" names no particular file
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
        """Return the project's files that match a pattern, below the likeliest base folder with any."""
        return next(filter(None, (self._match_below(base, pattern) for base in self.base_folders)), ())

    def _match_below(self, base: Path, pattern: str) -> tuple[Path, ...]:
        root = self.project.resolve()
        try:
            hits = sorted(base.glob(pattern)) if "*" in pattern else [base / pattern]
            return tuple(hit for hit in hits if hit.exists() and hit.resolve().is_relative_to(root))
        except (OSError, ValueError, NotImplementedError):
            return ()

    def relative_name(self, path: Path) -> str:
        """Return a path relative to the project, as in the configuration."""
        return path.relative_to(self.project.resolve()).as_posix()


_HOME = "/root"


class WorkingFolders:
    """The folder in which each line of a notebook runs, following `%cd` and `os.chdir` through the cells.

    A change to a folder only known at run time counts as one to the working folder.
    """

    def __init__(self, code: NotebookCode) -> None:
        self._steps: list[tuple[int, int, str]] = []
        folder = previous = ""
        for number in code.reads:
            for line, target in sorted(_find_moves(code, number)):
                folder, previous = previous if target == "-" else change_folder(folder, target), folder
                self._steps.append((number, line, folder))

    def folder_at(self, cell: int, line: int) -> str:
        """Return the folder in which a line starts, as from `join_run_path`."""
        earlier = [folder for number, at, folder in self._steps if (number, at) < (cell, line)]
        return earlier[-1] if earlier else ""


def change_folder(here: str, wanted: str) -> str:
    """Return the folder that a `cd` changes to."""
    return "" if "*" in wanted or literals.has_unknowns(wanted) else join_run_path(here, wanted or _HOME)


def _find_moves(code: NotebookCode, number: int) -> Iterator[tuple[int, str]]:
    """Yield the lines of a cell that change the folder, with their targets."""
    read = code.reads[number]
    for magic in read.magics:
        if magic.name == "cd" and magic.sign in ("%", ""):
            yield read.line_number(magic.start), _magic_target(magic, code)
    for node in _outer_calls(code.trees.get(number)):
        if ast.unparse(node.func) in ("os.chdir", "chdir") and node.args:
            yield node.lineno, literals.string_value(node.args[0], code.strings) or "*"


def _magic_target(magic: Magic, code: NotebookCode) -> str:
    words = magic.text.strip().removeprefix("cd").strip()
    plain = words.removesuffix("-q").removeprefix("-q ").strip().strip("\"'")
    return literals.fill_names(plain, code.strings)


def _outer_calls(tree: ast.AST | None) -> Iterator[ast.Call]:
    """Yield the calls of a cell outside of functions, which run elsewhere."""
    for node in ast.iter_child_nodes(tree) if tree else ():
        if isinstance(node, ast.Call):
            yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from _outer_calls(node)


_WRITING_CALLS = frozenset(
    {
        "to_csv",
        "to_parquet",
        "to_json",
        "to_pickle",
        "to_feather",
        "save",
        "dump",
        "savefig",
        "makedirs",
        "mkdir",
    }
    | {"imwrite", "save_model", "save_pretrained", "write_csv", "savetxt", "save_weights", "rmtree", "remove"}
)
"""Calls whose path is written, not read."""
_FOLDER_CALLS = frozenset(
    {"Path", "listdir", "glob", "iglob", "scandir", "walk", "from_pretrained", "load", "load_model"}
)
"""Calls whose argument without a slash may be a folder."""
_CODE_SUFFIXES = (".py", ".ipynb")


def find_read_files(
    code: NotebookCode, files: NotebookFiles, collected: Collected, folders: WorkingFolders
) -> Iterator[tuple[ResolvedNeed, CellEdit | None]]:
    """Yield every relative path that means a file of the project, with the edit of its string.

    A string that cannot be edited needs a manual fix; in a placed folder nothing has to be edited.
    """
    changed_places: set[tuple[int, int]] = set()
    for number, tree in code.trees.items():
        parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
        for node in ast.walk(tree):
            if (
                not isinstance(node, ast.expr)
                or not _is_whole_string(node, parents, code)
                or _is_written(node, parents)
            ):
                continue
            text = literals.string_value(node, code.strings)
            folder = "" if text.startswith("/") else folders.folder_at(number, node.lineno)
            path = join_run_path(folder, text) if folder and text else text
            hits = files.find_beside(path) if _is_read_path(text, path, node, parents, files) else ()
            if not hits:
                continue
            opening = _opening_quote(node, number, code)
            if opening in changed_places:
                continue
            need = ExternalNeed(
                kind=NeedKind.FILE,
                cell=number,
                line=node.lineno,
                text=code.line_text(number, node.lineno),
                target=text,
            )
            names = ", ".join(files.relative_name(hit) for hit in hits)
            if folder and any(f"{path}/".startswith(f"{laid_out}/") for laid_out in collected.laid_out):
                collected.checkpoints |= dict.fromkeys(map(files.relative_name, hits))
                yield resolve_need(need, FindingResolution.CHECKPOINT, names), None
                continue
            if opening is None:
                yield (
                    resolve_need(
                        need,
                        FindingResolution.UNRESOLVED,
                        text,
                        "write the path as one string, so that it can be redirected",
                    ),
                    None,
                )
                continue
            changed_places.add(opening)
            prefix = f"{WORKING}/{folder}".rstrip("/")
            for hit in hits:
                collected.serve_file(_served_path(path, hit.name), files.relative_name(hit))
            yield (
                resolve_need(need, FindingResolution.CHECKPOINT, names),
                CellEdit(cell=opening[0], start=opening[1], end=opening[1], text=f"{prefix}/"),
            )


def _served_path(text: str, name: str) -> str:
    folder = text.removeprefix("./").rstrip("/")
    return f"{folder.rpartition('/')[0]}/{name}".lstrip("/") if "*" in folder else folder


def _is_whole_string(node: ast.expr, parents: dict[ast.AST, ast.AST], code: NotebookCode) -> bool:
    """Whether an expression is a whole string: no part of a longer one and no docstring."""
    above = parents.get(node)
    if isinstance(above, ast.Expr | ast.JoinedStr | ast.FormattedValue):
        return False
    if isinstance(node, ast.Name | ast.Attribute):
        return False
    return not (isinstance(above, ast.BinOp | ast.Call) and literals.string_value(above, code.strings))


def _is_written(node: ast.expr, parents: dict[ast.AST, ast.AST]) -> bool:
    """Whether a path is written to, or the string is no path at all."""
    parent = parents.get(node)
    if isinstance(parent, ast.keyword):
        parent = parents.get(parent)
    if not isinstance(parent, ast.Call):
        return isinstance(parent, ast.Subscript | ast.Compare)
    name = _call_name(parent)
    if name == "chdir" or ast.unparse(parent.func) in ("sys.path.append", "sys.path.insert"):
        return True  # a folder of the run, or of modules
    modes = [
        argument.value
        for argument in (*parent.args[1:2], *(k.value for k in parent.keywords if k.arg == "mode"))
        if isinstance(argument, ast.Constant)
    ]
    return name in _WRITING_CALLS or (
        name == "open" and any(str(mode)[:1] in ("w", "a", "x") for mode in modes)
    )


def _call_name(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def _is_read_path(
    text: str, path: str, node: ast.expr, parents: dict[ast.AST, ast.AST], files: NotebookFiles
) -> bool:
    """Whether a string is a path that is read; `path` is the same relative to the working folder."""
    if (
        not text
        or text.endswith(_CODE_SUFFIXES)
        or MOUNT.match(text)
        or text.rpartition("/")[2] == "submission.csv"
    ):
        return False
    hits = files.find_beside(path)
    if not hits or "*" in text.partition("/")[0]:
        return False
    if all(hit.is_file() for hit in hits):
        return True
    above = parents.get(node)
    return "/" in text.strip("/.") or (isinstance(above, ast.Call) and _call_name(above) in _FOLDER_CALLS)


def _opening_quote(node: ast.expr, number: int, code: NotebookCode) -> tuple[int, int] | None:
    """Return the cell and the offset after the first quote of the string that a path begins with."""
    while True:
        if isinstance(node, ast.BinOp):
            node = node.left
        elif isinstance(node, ast.Call) and node.args:
            node = node.args[0]
        elif isinstance(node, ast.Name):
            return _defining_string(node.id, code)
        elif isinstance(node, ast.JoinedStr) and isinstance(node.values[0], ast.FormattedValue):
            inner = node.values[0].value
            return _defining_string(inner.id, code) if isinstance(inner, ast.Name) else None
        elif isinstance(node, ast.Constant | ast.JoinedStr):
            return number, _after_quote(code.reads[number], node)
        else:
            return None


def _defining_string(name: str, code: NotebookCode) -> tuple[int, int] | None:
    """Return the same for the string that a name is assigned."""
    for number, tree in code.trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign) and name in code.strings:
                target = node.targets[0]
                if isinstance(target, ast.Name) and target.id == name:
                    return _opening_quote(node.value, number, code)
    return None


def _after_quote(read: ParsedCell, node: ast.expr) -> int:
    start = read.text_offset(node.lineno, node.col_offset)
    text = read.source[start:].lstrip("rRbBuUfFtT")
    quote = 3 if text[:3] in ('"""', "'''") else 1
    return start + len(read.source[start:]) - len(text) + quote
