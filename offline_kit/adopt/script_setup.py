"""The setup in an adopted script: where it goes, and which lines of the rendered script are its own."""

import ast
import re

_BEGINNING, _END = "# The setup by offline-kit begins here.", "# %% the lines of "
_CELL = re.compile(r"# ?%%")
_LINE_END = re.compile(r"(?<=\n)|(?<=\r)(?!\n)")  # as Python counts lines; a form feed ends none


def insert_setup(script: str, setup: str, name: str) -> str:
    """Return a script with the setup in front of its first statement; all of its own lines stay as they are.

    A docstring and imports from `__future__`, which must come first, and comments at the top precede the setup.
    """
    lines = _LINE_END.split(script)
    position = _find_position(script, lines)
    before, after = "".join(lines[:position]), "".join(lines[position:])
    newline = "" if not before or before.endswith(("\n", "\r")) else "\n"
    return f"{before}{newline}{_BEGINNING}\n{setup.strip()}\n\n{_END}{name}\n{after}"


def _find_position(script: str, lines: list[str]) -> int:
    """Return how many lines precede the setup."""
    position = 0
    for number, node in enumerate(ast.parse(script).body):
        match node:
            case ast.Expr(value=ast.Constant(value=str())) if number == 0:
                pass
            case ast.ImportFrom(module="__future__"):
                pass
            case _:
                break
        position = node.end_lineno or position
    if position == 0:  # a line for the shell, an encoding, a header by jupytext, a license
        own_comments = (line.startswith("#") and not _CELL.match(line) for line in lines)
        position = next((number for number, is_comment in enumerate(own_comments) if not is_comment), 0)
    return position


def find_setup_lines(script: str) -> range:
    """Return the lines of a rendered script, from 1, that are the setup's; an empty range if it was not adopted."""
    lines = script.split("\n")
    if _BEGINNING not in lines:
        return range(0)
    begin = lines.index(_BEGINNING)
    ends = (number for number in range(begin, len(lines)) if lines[number].startswith(_END))
    return range(begin + 1, next(ends, begin) + 2)


def label_line(script: str, line: int) -> str:
    """Return the label of a line of a rendered script: its number in the user's file, if that differs."""
    setup = find_setup_lines(script)
    if not setup:
        return f"line {line} of the script"
    if line in setup:
        return f"the setup (line {line} of the rendered script)"
    name = script.split("\n")[setup[-1] - 1].removeprefix(_END)
    own = line if line < setup[0] else line - len(setup)
    return f"line {own} of '{name}'"
