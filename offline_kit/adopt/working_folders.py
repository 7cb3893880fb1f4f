"""The folder in which each line of a notebook runs, as far as `%cd` and `os.chdir` tell it."""

import ast
from collections.abc import Iterator

from offline_kit.adopt import file_places, literals, shell
from offline_kit.adopt.calls import Code
from offline_kit.notebook.cells import Magic

_HOME = "/root"


class Folders:
    """Where the lines of a notebook run: its cells in their order, their changes of folder followed.

    A change to what is known only when it runs counts for the working folder, where most are.
    """

    def __init__(self, code: Code) -> None:
        self._steps: list[tuple[int, int, str]] = []
        here = before = ""
        for number in code.reads:
            for line, wanted in sorted(_moves(code, number)):
                here, before = before if wanted == "-" else moved(here, wanted), here
                self._steps.append((number, line, here))

    def at(self, cell: int, line: int) -> str:
        """Return the folder in which a line begins, as `places.joined` writes it."""
        found = [folder for number, at, folder in self._steps if (number, at) < (cell, line)]
        return found[-1] if found else ""


def moved(here: str, wanted: str) -> str:
    """Return the folder that a `cd` leads to."""
    return "" if "*" in wanted or shell.has_holes(wanted) else file_places.joined(here, wanted or _HOME)


def _moves(code: Code, number: int) -> Iterator[tuple[int, str]]:
    """Yield the lines of a cell that change the folder, and what they say."""
    read = code.reads[number]
    for magic in read.magics:
        if magic.name == "cd" and magic.sign in ("%", ""):
            yield read.line(magic.start), _said(magic, code)
    for node in _calls(code.trees.get(number)):
        if ast.unparse(node.func) in ("os.chdir", "chdir") and node.args:
            yield node.lineno, literals.text(node.args[0], code.known) or "*"


def _said(magic: Magic, code: Code) -> str:
    words = magic.text.strip().removeprefix("cd").strip()
    plain = words.removesuffix("-q").removeprefix("-q ").strip().strip("\"'")
    return shell.filled(plain, code.known)


def _calls(tree: ast.AST | None) -> Iterator[ast.Call]:
    """Yield the calls of a cell; those in functions run elsewhere."""
    for node in ast.iter_child_nodes(tree) if tree else ():
        if isinstance(node, ast.Call):
            yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from _calls(node)
