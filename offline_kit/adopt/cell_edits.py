"""Edits of a notebook's cells: applied, shown as one diff, and checked for secrets that stay."""

import difflib
import re
from collections.abc import Iterable, Iterator, Sequence

from offline_kit.adopt.findings import (
    CellEdit,
    ExternalNeed,
    NeedKind,
    NotebookCell,
    Resolution,
    ResolvedNeed,
    resolve_need,
)
from offline_kit.core.redaction import find_secrets, redact_secrets

MARK = "# offline-kit:"
"""How a comment begins that keeps what stood there."""


def apply_edits(source: str, edits: Iterable[CellEdit]) -> str:
    """Return a cell's text with its changes; of two that overlap, the one that begins first and ends last counts."""
    parts, position = [], 0
    for edit in sorted(set(edits), key=lambda one: (one.start, -one.end)):
        if edit.start >= position:
            parts += [source[position : edit.start], edit.text]
            position = edit.end
    return "".join([*parts, source[position:]])


def comment_out(text: str, indent: str, before: str = "") -> str:
    """Return what stands for a whole statement: nothing, and the statement itself as a comment.

    `before` is what it was assigned to, with the sign of equality; the statement keeps its number of lines. Tokens
    and passwords do not stay: the notebook is pushed.
    """
    first, *following = redact_secrets(text).split("\n")
    lines = [f"{before}[]" if before else "pass"]
    lines[0] += f"  {MARK} {first.strip()}"
    lines += [f"{indent}#{_comment_text(line, indent)}" for line in following]
    return "\n".join(lines)


def _comment_text(line: str, indent: str) -> str:
    inner = line.removeprefix(indent).rstrip()
    return f" {inner}" if inner else ""


def find_indent(source: str, place: int) -> str:
    """Return the blanks at the beginning of the line that holds a place."""
    line = source[source.rfind("\n", 0, place) + 1 :]
    match = re.match(r"[ \t]*", line)
    return match[0] if match else ""


def diff_cells(cells: Sequence[NotebookCell], changed: Sequence[str], name: str) -> str:
    """Return the changes as one unified diff of the notebook's percent script; empty where nothing changes.

    It is shown: tokens and passwords are left out.
    """
    before = list(_script_lines(cells, [cell.source for cell in cells]))
    after = list(_script_lines(cells, changed))
    lines = difflib.unified_diff(before, after, f"{name} (as it is)", f"{name} (adopted)", lineterm="")
    return "".join(f"{redact_secrets(line)}\n" for line in lines)


def _script_lines(cells: Sequence[NotebookCell], sources: Sequence[str]) -> Iterator[str]:
    for cell, source in zip(cells, sources, strict=True):
        kind = "" if cell.kind == "code" else f" [{cell.kind}]"
        yield f"# %%{kind} cell {cell.number}"
        yield from (line if cell.kind == "code" else f"# {line}".rstrip() for line in source.split("\n"))
        yield ""


def find_written_secrets(cells: Sequence[NotebookCell], changed: Sequence[str]) -> Iterator[ResolvedNeed]:
    """Yield the lines of the adopted notebook that hold one, each with its variable and what to do; never the value.

    `changed` are the texts of the cells as they will be pushed: what is switched off holds none any more.
    """
    for cell, text in zip(cells, changed, strict=True):
        secrets: dict[str, tuple[str, int]] = {}
        for name, value, line in _list_secrets(cell):
            if value in text and not any(value in other for other in secrets):
                secrets[value] = (name, line)
        for name, line in secrets.values():
            yield _report_secret(cell, name, line, secrets)


def _list_secrets(cell: NotebookCell) -> Iterator[tuple[str, str, int]]:
    """Yield name, value and line of each secret of a cell; "" for a name that nobody gave it."""
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
        f"{secret} is written here and would be pushed with the notebook: take it out, nothing logs in offline"
        " (set it outside of the notebook where it runs online, and make a new one if others have seen it)"
    )
    return resolve_need(need, Resolution.UNRESOLVED, name or "a token", remedy)
