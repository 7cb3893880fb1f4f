"""Apply edits to a notebook's cells, show them as one diff, and report secrets that remain."""

import difflib
from collections.abc import Iterable, Iterator, Sequence

from offline_kit.adopt.findings import (
    CellEdit,
    ExternalNeed,
    FindingResolution,
    NeedKind,
    NotebookCell,
    ResolvedNeed,
    resolve_need,
)
from offline_kit.core.redaction import find_secrets, redact_secrets

MARK = "# offline-kit:"
"""Begins the comment that keeps a disabled statement."""


def apply_edits(source: str, edits: Iterable[CellEdit]) -> str:
    """Return the edited text; of overlapping edits, the one that starts first and ends last wins."""
    parts, position = [], 0
    for edit in sorted(set(edits), key=lambda edit: (edit.start, -edit.end)):
        if edit.start >= position:
            parts += [source[position : edit.start], edit.text]
            position = edit.end
    return "".join([*parts, source[position:]])


def comment_out(text: str, indent: str, before: str = "") -> str:
    """Return a statement as a comment after `pass`, on as many lines, without secrets: the notebook is pushed.

    Args:
        before: The assignment in front of a magic, such as "files = ", which becomes an empty list.
    """
    first, *following = redact_secrets(text).split("\n")
    lines = [f"{before}[]" if before else "pass"]
    lines[0] += f"  {MARK} {first.strip()}"
    lines += [f"{indent}#{_comment_text(line, indent)}" for line in following]
    return "\n".join(lines)


def _comment_text(line: str, indent: str) -> str:
    inner = line.removeprefix(indent).rstrip()
    return f" {inner}" if inner else ""


def find_indent(source: str, offset: int) -> str:
    """Return the indentation of the line at an offset."""
    line = source[source.rfind("\n", 0, offset) + 1 :]
    return line[: len(line) - len(line.lstrip(" \t"))]


def diff_cells(cells: Sequence[NotebookCell], changed: Sequence[str], name: str) -> str:
    """Return a unified diff of the notebook's percent script, without secrets; empty if nothing changes."""
    before = list(_script_lines(cells, [cell.source for cell in cells]))
    diff = diff_lines(before, list(_script_lines(cells, changed)), name)
    return "\n".join(redact_secrets(line) for line in diff.split("\n"))


def diff_lines(before: Sequence[str], after: Sequence[str], name: str) -> str:
    """Return a unified diff of a file before and after adoption."""
    lines = difflib.unified_diff(before, after, f"{name} (as it is)", f"{name} (adopted)", lineterm="")
    return "".join(f"{line}\n" for line in lines)


def _script_lines(cells: Sequence[NotebookCell], sources: Sequence[str]) -> Iterator[str]:
    for cell, source in zip(cells, sources, strict=True):
        kind = "" if cell.kind == "code" else f" [{cell.kind}]"
        yield f"# %%{kind} cell {cell.number}"
        yield from (line if cell.kind == "code" else f"# {line}".rstrip() for line in source.split("\n"))
        yield ""


def find_written_secrets(cells: Sequence[NotebookCell], changed: Sequence[str]) -> Iterator[ResolvedNeed]:
    """Yield the lines that still contain a secret after the edits, with its variable but never its value."""
    for cell, text in zip(cells, changed, strict=True):
        secrets: dict[str, tuple[str, int]] = {}
        for name, value, line in _list_secrets(cell):
            if value in text and not any(value in other for other in secrets):
                secrets[value] = (name, line)
        for name, line in secrets.values():
            yield _report_secret(cell, name, line, secrets)


def _list_secrets(cell: NotebookCell) -> Iterator[tuple[str, str, int]]:
    """Yield variable, value and line of each secret of a cell; the variable may be ""."""
    for secret in find_secrets(cell.source):
        line = cell.source.count("\n", 0, secret.start) + 1
        yield secret.name, cell.source[secret.start : secret.end], line


def _report_secret(cell: NotebookCell, name: str, line: int, values: Iterable[str]) -> ResolvedNeed:
    text = cell.source.split("\n")[line - 1]
    for value in values:
        text = text.replace(value, "***")
    secret = f"the value of '{name}'" if name else "a token"
    need = ExternalNeed(kind=NeedKind.ACCOUNT, cell=cell.number, line=line, text=text, target=name)
    remedy = (
        f"{secret} would be pushed with the notebook: remove it, an offline notebook needs no account"
        " (set it outside the notebook for online runs, and revoke it if others have seen it)"
    )
    return resolve_need(need, FindingResolution.UNRESOLVED, name or "a token", remedy)
