"""Files that lie beside the notebook and are read by a relative path: they travel as checkpoints."""

import ast
from collections.abc import Iterator

from offline_kit.adopt import file_places, literals
from offline_kit.adopt.calls import Code
from offline_kit.adopt.file_places import Ground
from offline_kit.adopt.findings import Became, Edit, Found, Kind, Wish
from offline_kit.adopt.outcomes import Basket, found_of, serve
from offline_kit.adopt.working_folders import Folders
from offline_kit.notebook.cells import Read

_WRITES = frozenset(
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
_FOLDERS = frozenset(
    {"Path", "listdir", "glob", "iglob", "scandir", "walk", "from_pretrained", "load", "load_model"}
)
"""Calls whose bare word is a folder, where there is one of that name."""
_CODE = (".py", ".ipynb")


def look(code: Code, ground: Ground, basket: Basket, folders: Folders) -> Iterator[tuple[Found, Edit | None]]:
    """Yield every relative path that means a file of the project, with the change of its string.

    Where the string cannot be changed (it comes from somewhere else), the finding asks for it; where the notebook
    has stepped into a folder that is laid out for it, nothing has to be changed.
    """
    seen: set[tuple[int, int]] = set()
    for number, tree in code.trees.items():
        parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
        for node in ast.walk(tree):
            if (
                not isinstance(node, ast.expr)
                or not _is_whole(node, parents, code)
                or _is_made(node, parents)
            ):
                continue
            text = literals.text(node, code.known)
            folder = "" if text.startswith("/") else folders.at(number, node.lineno)
            path = file_places.joined(folder, text) if folder and text else text
            hits = ground.beside(path) if _is_path(text, path, node, parents, ground) else ()
            if not hits:
                continue
            place = _opening(node, number, code)
            if place in seen:
                continue
            wish = Wish(
                kind=Kind.FILE,
                cell=number,
                line=node.lineno,
                text=code.reads[number].source.split("\n")[node.lineno - 1].strip(),
                target=text,
            )
            names = ", ".join(ground.name(hit) for hit in hits)
            if folder and any(f"{path}/".startswith(f"{made}/") for made in basket.made):
                basket.checkpoints |= dict.fromkeys(map(ground.name, hits))
                yield found_of(wish, Became.CHECKPOINT, names), None
                continue
            if place is None:
                yield (
                    found_of(
                        wish, Became.ASKED, text, "write the path as one string, so that it can be served"
                    ),
                    None,
                )
                continue
            seen.add(place)
            prefix = f"{file_places.WORKING}/{folder}".rstrip("/")
            for hit in hits:
                serve(_served(path, hit.name), hit, ground, basket)
            yield (
                found_of(wish, Became.CHECKPOINT, names),
                Edit(cell=place[0], start=place[1], end=place[1], text=f"{prefix}/"),
            )


def _served(text: str, name: str) -> str:
    folder = text.removeprefix("./").rstrip("/")
    return f"{folder.rpartition('/')[0]}/{name}".lstrip("/") if "*" in folder else folder


def _is_whole(node: ast.expr, parents: dict[ast.AST, ast.AST], code: Code) -> bool:
    """Whether an expression is a string of its own, no part of a longer one and no docstring."""
    above = parents.get(node)
    if isinstance(above, ast.Expr | ast.JoinedStr | ast.FormattedValue):
        return False
    if isinstance(node, ast.Name | ast.Attribute):
        return False
    return not (isinstance(above, ast.BinOp | ast.Call) and literals.text(above, code.known))


def _is_made(node: ast.expr, parents: dict[ast.AST, ast.AST]) -> bool:
    """Whether a path is written to, or is a name of something else."""
    above = parents.get(node)
    if isinstance(above, ast.keyword):
        above = parents.get(above)
    if not isinstance(above, ast.Call):
        return isinstance(above, ast.Subscript | ast.Compare)
    name = _name(above)
    if name == "chdir" or ast.unparse(above.func) in ("sys.path.append", "sys.path.insert"):
        return True  # a folder of the run, and one of modules
    modes = [
        each.value
        for each in (*above.args[1:2], *(k.value for k in above.keywords if k.arg == "mode"))
        if isinstance(each, ast.Constant)
    ]
    return name in _WRITES or (name == "open" and any(str(mode)[:1] in ("w", "a", "x") for mode in modes))


def _name(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def _is_path(text: str, path: str, node: ast.expr, parents: dict[ast.AST, ast.AST], ground: Ground) -> bool:
    """Whether a string is meant as a path that is read: a file's, or a folder's where only a path makes sense.

    `path` is the same as the working folder sees it.
    """
    if (
        not text
        or text.endswith(_CODE)
        or file_places.MOUNT.match(text)
        or text.rpartition("/")[2] == "submission.csv"
    ):
        return False
    hits = ground.beside(path)
    if not hits or "*" in text.partition("/")[0]:
        return False
    if all(hit.is_file() for hit in hits):
        return True
    above = parents.get(node)
    return "/" in text.strip("/.") or (isinstance(above, ast.Call) and _name(above) in _FOLDERS)


def _opening(node: ast.expr, number: int, code: Code) -> tuple[int, int] | None:
    """Return the cell and the place behind the first quote of the string that a path begins with."""
    while True:
        if isinstance(node, ast.BinOp):
            node = node.left
        elif isinstance(node, ast.Call) and node.args:
            node = node.args[0]
        elif isinstance(node, ast.Name):
            return _defined(node.id, code)
        elif isinstance(node, ast.JoinedStr) and isinstance(node.values[0], ast.FormattedValue):
            inner = node.values[0].value
            return _defined(inner.id, code) if isinstance(inner, ast.Name) else None
        elif isinstance(node, ast.Constant | ast.JoinedStr):
            return number, _behind_quote(code.reads[number], node)
        else:
            return None


def _defined(name: str, code: Code) -> tuple[int, int] | None:
    """Return the place in the string that a name was given once and for all."""
    for number, tree in code.trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign) and name in code.known:
                target = node.targets[0]
                if isinstance(target, ast.Name) and target.id == name:
                    return _opening(node.value, number, code)
    return None


def _behind_quote(read: Read, node: ast.expr) -> int:
    start = read.offset(node.lineno, node.col_offset)
    text = read.source[start:].lstrip("rRbBuUfFtT")
    quote = 3 if text[:3] in ('"""', "'''") else 1
    return start + len(read.source[start:]) - len(text) + quote
