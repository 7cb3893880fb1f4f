"""The folder in which each line of a notebook runs, as far as `%cd` and `os.chdir` tell it."""

import ast
from collections.abc import Iterator

from offline_kit.adopt import file_places, literals, shell
from offline_kit.adopt.calls import NotebookCode
from offline_kit.notebook.cells import Magic

_HOME = "/root"


class WorkingFolders:
    """Where the lines of a notebook run: its cells in their order, their changes of folder followed.

    A change to what is known only when it runs counts for the working folder, where most are.
    """

    def __init__(self, code: NotebookCode) -> None:
        self._steps: list[tuple[int, int, str]] = []
        folder = previous = ""
        for number in code.reads:
            for line, target in sorted(_find_moves(code, number)):
                folder, previous = previous if target == "-" else change_folder(folder, target), folder
                self._steps.append((number, line, folder))

    def folder_at(self, cell: int, line: int) -> str:
        """Return the folder in which a line begins, as `places.joined` writes it."""
        earlier = [folder for number, at, folder in self._steps if (number, at) < (cell, line)]
        return earlier[-1] if earlier else ""


def change_folder(here: str, wanted: str) -> str:
    """Return the folder that a `cd` leads to."""
    return (
        ""
        if "*" in wanted or shell.has_unknowns(wanted)
        else file_places.join_run_path(here, wanted or _HOME)
    )


def _find_moves(code: NotebookCode, number: int) -> Iterator[tuple[int, str]]:
    """Yield the lines of a cell that change the folder, and what they say."""
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
    return shell.fill_names(plain, code.strings)


def _outer_calls(tree: ast.AST | None) -> Iterator[ast.Call]:
    """Yield the calls of a cell; those in functions run elsewhere."""
    for node in ast.iter_child_nodes(tree) if tree else ():
        if isinstance(node, ast.Call):
            yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from _outer_calls(node)
