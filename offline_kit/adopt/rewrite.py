"""Changes of a notebook's cells: laid into their text, and shown as one diff of percent scripts."""

import difflib
import re
from collections.abc import Iterable, Iterator, Sequence

from offline_kit.adopt.findings import CellEdit, NotebookCell
from offline_kit.core.redaction import redact_secrets

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
