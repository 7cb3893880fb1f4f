"""Imports of a notebook's cells: one notebook is one module to a linter and to a reader, so each stands once."""

import ast
from itertools import takewhile

WIDTH = 110
Known = set[tuple[str, str, str]]
"""What is imported already: module, name, other name."""


def once(source: str, known: Known) -> str:
    """Return a cell without the imports at its top that are known already, and take note of the others.

    What the cell says of itself becomes a comment: in the middle of a notebook a docstring is a statement.
    """
    tree = ast.parse(source)
    about = ast.get_docstring(tree) if len(tree.body) > 1 else None
    body = tree.body[1:] if about is not None else tree.body
    imports = [node for node in takewhile(_is_import, body) if isinstance(node, ast.Import | ast.ImportFrom)]
    if about is None and not imports:
        return source
    lines = source.splitlines()
    rest = body[len(imports) :]
    before = tree.body[len(tree.body) - len(rest) - 1]
    code = "\n".join(lines[before.end_lineno or 0 :]).strip("\n")
    head = "\n".join(f"# {line}".rstrip() for line in (about or "").splitlines())
    kept = [line for node in imports for line in _new(node, known, lines)]
    space = "\n\n\n" if rest and isinstance(rest[0], ast.FunctionDef | ast.ClassDef) else "\n\n"
    top = "\n\n".join(piece for piece in (head, "\n".join(kept)) if piece)
    return space.join(piece for piece in (top, code) if piece)


def _is_import(node: ast.stmt) -> bool:
    return isinstance(node, ast.Import | ast.ImportFrom)


def _new(node: ast.Import | ast.ImportFrom, known: Known, lines: list[str]) -> list[str]:
    """Return the lines of a statement with the names alone that are new; nothing where all are known."""
    module = (node.module or "") if isinstance(node, ast.ImportFrom) else ""
    fresh = [alias for alias in node.names if (module, alias.name, alias.asname or "") not in known]
    known |= {(module, alias.name, alias.asname or "") for alias in fresh}
    if len(fresh) == len(node.names):
        return lines[node.lineno - 1 : node.end_lineno]  # as it stands, with what is said about it
    if not fresh:
        return []
    names = [f"{alias.name} as {alias.asname}" if alias.asname else alias.name for alias in fresh]
    line = f"from {module} import {', '.join(names)}" if module else f"import {', '.join(names)}"
    if len(line) <= WIDTH:
        return [line]
    return [f"from {module} import (", *(f"    {name}," for name in names), ")"]
