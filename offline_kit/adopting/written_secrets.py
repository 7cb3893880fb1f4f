"""Tokens and passwords that are written into cells which stay: whoever sees the pushed notebook can read them."""

import ast
import re
from collections.abc import Iterable, Iterator, Sequence

from offline_kit.adopting.calls import Code
from offline_kit.adopting.cells import Read
from offline_kit.adopting.nouns import Became, Cell, Found, Kind, Wish
from offline_kit.adopting.verdicts import found_of

_SHAPE = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{20,}|gh[opsur]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}|KGAT_\w{16,}"
    r"|sk-(?=[\w-]*\d)[\w-]{24,}|xox[abp]-(?=[\w-]*\d)[\w-]{16,}|AKIA[A-Z0-9]{16}|ya29\.[\w-]{20,})"
)
"""Tokens that tell by themselves what they are."""
_SECRET = re.compile(r"(?i)(?:^|_)(?:password|passwd|secret|api_?key|secret_?(?:access_?)?key|access_?key)$")
"""Names whose value is one, whatever it looks like."""
_PERHAPS = re.compile(r"(?i)(?:^|_)(?:key|token)$")
"""Names whose value is one where it looks like chance: keys of columns and tokens of words are called so too."""
_CHANCE = re.compile(r"(?=.*\d)(?=.*[A-Za-z])[A-Za-z0-9+=-]{20,}")
_PLACEHOLDER = re.compile(
    r"(?i:[^a-z0-9]*|x+|<.*|.*(?:^|[^a-z])your(?![a-z]).*|none|null|dummy|changeme)|[A-Z_]+|[{$].*"
)
"""What stands where one is to be filled in, the name of a variable among it."""
_SETTERS = frozenset({"setdefault", "putenv", "setenv"})
_SET = re.compile(
    r"(?:\b(?:set_)?env\s+|\bexport\s+|^\s*)(?P<name>[A-Za-z_]\w*)[= ]\s*['\"]?(?P<value>[^\s'\"]+)"
)
"""How a magic or a shell line sets a variable."""


def look(code: Code, cells: Sequence[Cell], changed: Sequence[str]) -> Iterator[Found]:
    """Yield the lines of the adopted notebook that hold one, each with its variable and what to do; never the value.

    `changed` are the texts of the cells as they will be pushed: what is switched off holds none any more.
    """
    for cell, text in zip(cells, changed, strict=True):
        found: dict[str, tuple[str, int]] = {}
        for name, value, line in _written(code, cell):
            if value in text and not any(value in each for each in found):
                found[value] = (name, line)
        for name, line in found.values():
            yield _found(cell, name, line, found)


def _written(code: Code, cell: Cell) -> Iterator[tuple[str, str, int]]:
    """Yield name, value and line of each secret of a cell; "" for a name that nobody gave it."""
    tree, read = code.trees.get(cell.number), code.reads.get(cell.number)
    for node in ast.walk(tree) if tree else ():
        for name, value in _named(node):
            text = value.value if isinstance(value, ast.Constant) else None
            if value and isinstance(text, str) and _is_secret(name, text):
                yield name, text, value.lineno
    yield from _of_magics(read) if read else ()
    for found in _SHAPE.finditer(cell.source):
        yield "", found[0], cell.source.count("\n", 0, found.start()) + 1


def _named(node: ast.AST) -> Iterator[tuple[str, ast.expr | None]]:
    """Yield what a node gives a value, by its name: a variable, an entry, an argument."""
    if isinstance(node, ast.Assign):
        yield from ((_name(target), node.value) for target in node.targets)
    elif isinstance(node, ast.AnnAssign | ast.NamedExpr):
        yield _name(node.target), node.value
    elif isinstance(node, ast.Dict):
        yield from ((_name(key), value) for key, value in zip(node.keys, node.values, strict=True))
    elif isinstance(node, ast.Call):
        yield from ((each.arg or "", each.value) for each in node.keywords)
        if isinstance(node.func, ast.Attribute) and node.func.attr in _SETTERS and len(node.args) == 2:
            yield _name(node.args[0]), node.args[1]


def _name(node: ast.expr | None) -> str:
    if isinstance(node, ast.Subscript):
        return _name(node.slice)
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def _of_magics(read: Read) -> Iterator[tuple[str, str, int]]:
    """Yield the same of `%env NAME=value` and of variables that a shell line sets."""
    for magic in read.magics:
        for found in _SET.finditer(magic.text):
            if _is_secret(found["name"], found["value"]):
                yield found["name"], found["value"], read.line(magic.start)


def _is_secret(name: str, value: str) -> bool:
    if _SHAPE.search(value):
        return True
    if _PLACEHOLDER.fullmatch(value) or _SECRET.search(value) or any(map(str.isspace, value)):
        return False
    return bool(_SECRET.search(name) or (_PERHAPS.search(name) and _CHANCE.fullmatch(value)))


def _found(cell: Cell, name: str, line: int, values: Iterable[str]) -> Found:
    text = cell.source.split("\n")[line - 1]
    for value in values:
        text = text.replace(value, "***")
    what = f"the value of '{name}'" if name else "a token"
    wish = Wish(kind=Kind.ACCOUNT, cell=cell.number, line=line, text=text, target=name)
    remedy = (
        f"{what} is written here and would be pushed with the notebook: take it out, nothing logs in offline"
        " (set it outside of the notebook where it runs online, and make a new one if others have seen it)"
    )
    return found_of(wish, Became.ASKED, name or "a token", remedy)
