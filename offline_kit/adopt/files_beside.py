"""Files that lie beside the notebook and are read by a relative path: they travel as checkpoints."""

import ast
from collections.abc import Iterator

from offline_kit.adopt import file_places, literals
from offline_kit.adopt.calls import NotebookCode
from offline_kit.adopt.file_places import NotebookFiles
from offline_kit.adopt.findings import CellEdit, ExternalNeed, NeedKind, Resolution, ResolvedNeed
from offline_kit.adopt.outcomes import Collected, resolve_need, serve_file
from offline_kit.adopt.working_folders import WorkingFolders
from offline_kit.notebook.cells import ParsedCell

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
"""Calls whose path is made, not read."""
_FOLDER_CALLS = frozenset(
    {"Path", "listdir", "glob", "iglob", "scandir", "walk", "from_pretrained", "load", "load_model"}
)
"""Calls whose bare word is a folder, where there is one of that name."""
_CODE_SUFFIXES = (".py", ".ipynb")


def find_read_files(
    code: NotebookCode, ground: NotebookFiles, basket: Collected, folders: WorkingFolders
) -> Iterator[tuple[ResolvedNeed, CellEdit | None]]:
    """Yield every relative path that means a file of the project, with the change of its string.

    Where the string cannot be changed (it comes from somewhere else), the finding asks for it; where the notebook
    has stepped into a folder that is laid out for it, nothing has to be changed.
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
            path = file_places.join_run_path(folder, text) if folder and text else text
            hits = ground.find_beside(path) if _is_read_path(text, path, node, parents, ground) else ()
            if not hits:
                continue
            opening = _opening_quote(node, number, code)
            if opening in changed_places:
                continue
            wish = ExternalNeed(
                kind=NeedKind.FILE,
                cell=number,
                line=node.lineno,
                text=code.reads[number].source.split("\n")[node.lineno - 1].strip(),
                target=text,
            )
            names = ", ".join(ground.relative_name(hit) for hit in hits)
            if folder and any(f"{path}/".startswith(f"{laid_out}/") for laid_out in basket.laid_out):
                basket.checkpoints |= dict.fromkeys(map(ground.relative_name, hits))
                yield resolve_need(wish, Resolution.CHECKPOINT, names), None
                continue
            if opening is None:
                yield (
                    resolve_need(
                        wish,
                        Resolution.UNRESOLVED,
                        text,
                        "write the path as one string, so that it can be served",
                    ),
                    None,
                )
                continue
            changed_places.add(opening)
            prefix = f"{file_places.WORKING}/{folder}".rstrip("/")
            for hit in hits:
                serve_file(_served_path(path, hit.name), hit, ground, basket)
            yield (
                resolve_need(wish, Resolution.CHECKPOINT, names),
                CellEdit(cell=opening[0], start=opening[1], end=opening[1], text=f"{prefix}/"),
            )


def _served_path(text: str, name: str) -> str:
    folder = text.removeprefix("./").rstrip("/")
    return f"{folder.rpartition('/')[0]}/{name}".lstrip("/") if "*" in folder else folder


def _is_whole_string(node: ast.expr, parents: dict[ast.AST, ast.AST], code: NotebookCode) -> bool:
    """Whether an expression is a string of its own, no part of a longer one and no docstring."""
    above = parents.get(node)
    if isinstance(above, ast.Expr | ast.JoinedStr | ast.FormattedValue):
        return False
    if isinstance(node, ast.Name | ast.Attribute):
        return False
    return not (isinstance(above, ast.BinOp | ast.Call) and literals.string_value(above, code.strings))


def _is_written(node: ast.expr, parents: dict[ast.AST, ast.AST]) -> bool:
    """Whether a path is written to, or is a name of something else."""
    parent = parents.get(node)
    if isinstance(parent, ast.keyword):
        parent = parents.get(parent)
    if not isinstance(parent, ast.Call):
        return isinstance(parent, ast.Subscript | ast.Compare)
    name = _call_name(parent)
    if name == "chdir" or ast.unparse(parent.func) in ("sys.path.append", "sys.path.insert"):
        return True  # a folder of the run, and one of modules
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
    text: str, path: str, node: ast.expr, parents: dict[ast.AST, ast.AST], ground: NotebookFiles
) -> bool:
    """Whether a string is meant as a path that is read: a file's, or a folder's where only a path makes sense.

    `path` is the same as the working folder sees it.
    """
    if (
        not text
        or text.endswith(_CODE_SUFFIXES)
        or file_places.MOUNT.match(text)
        or text.rpartition("/")[2] == "submission.csv"
    ):
        return False
    hits = ground.find_beside(path)
    if not hits or "*" in text.partition("/")[0]:
        return False
    if all(hit.is_file() for hit in hits):
        return True
    above = parents.get(node)
    return "/" in text.strip("/.") or (isinstance(above, ast.Call) and _call_name(above) in _FOLDER_CALLS)


def _opening_quote(node: ast.expr, number: int, code: NotebookCode) -> tuple[int, int] | None:
    """Return the cell and the place behind the first quote of the string that a path begins with."""
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
    """Return the place in the string that a name was given once and for all."""
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
