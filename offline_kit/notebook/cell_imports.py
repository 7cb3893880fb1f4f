"""Remove repeated imports from a notebook's cells: to a linter and to a reader, a notebook is one module."""

import ast
from itertools import takewhile

WIDTH = 110
ImportedNames = set[tuple[str, str, str]]
"""What is imported already: module, name, other name."""


def deduplicate_imports(source: str, imported: ImportedNames) -> str:
    """Remove the imports at the top of a cell that an earlier cell made, and record the new ones.

    The cell's docstring becomes a comment: in the middle of a notebook it would be a statement.
    """
    tree = ast.parse(source)
    docstring = ast.get_docstring(tree) if len(tree.body) > 1 else None
    body = tree.body[1:] if docstring is not None else tree.body
    imports = [node for node in takewhile(_is_import, body) if isinstance(node, ast.Import | ast.ImportFrom)]
    if docstring is None and not imports:
        return source
    lines = source.splitlines()
    statements = body[len(imports) :]
    before = tree.body[len(tree.body) - len(statements) - 1]
    code = "\n".join(lines[before.end_lineno or 0 :]).strip("\n")
    head = "\n".join(f"# {line}".rstrip() for line in (docstring or "").splitlines())
    kept_lines = [line for node in imports for line in _keep_new_names(node, imported, lines)]
    space = "\n\n\n" if statements and isinstance(statements[0], ast.FunctionDef | ast.ClassDef) else "\n\n"
    top = "\n\n".join(piece for piece in (head, "\n".join(kept_lines)) if piece)
    return space.join(piece for piece in (top, code) if piece)


def _is_import(node: ast.stmt) -> bool:
    return isinstance(node, ast.Import | ast.ImportFrom)


def _keep_new_names(
    node: ast.Import | ast.ImportFrom, imported: ImportedNames, lines: list[str]
) -> list[str]:
    """Return the lines of an import statement reduced to its new names; empty if all are known."""
    module = (node.module or "") if isinstance(node, ast.ImportFrom) else ""
    fresh = [alias for alias in node.names if (module, alias.name, alias.asname or "") not in imported]
    imported |= {(module, alias.name, alias.asname or "") for alias in fresh}
    if len(fresh) == len(node.names):
        return lines[node.lineno - 1 : node.end_lineno]  # as it stands, with what is said about it
    if not fresh:
        return []
    names = [f"{alias.name} as {alias.asname}" if alias.asname else alias.name for alias in fresh]
    line = f"from {module} import {', '.join(names)}" if module else f"import {', '.join(names)}"
    if len(line) <= WIDTH:
        return [line]
    return [f"from {module} import (", *(f"    {name}," for name in names), ")"]
