"""Apply edits to a notebook's cells, show them as one diff, and report secrets that remain."""

import difflib
from collections.abc import Iterable, Iterator, Sequence

from offline_kit.adopt.findings import CellEdit, ExternalNeed, NeedKind, NotebookCell
from offline_kit.core.redaction import find_secrets, redact_secrets

_MARK = "# offline-kit:"
"""Begins the comment that keeps a disabled statement."""


def apply_edits(source: str, edits: Iterable[CellEdit]) -> str:
    """Return the edited text; of overlapping edits, the one that starts first and ends last wins."""
    parts, position = [], 0
    for edit in sorted(set(edits), key=lambda edit: (edit.span[0], -edit.span[1])):
        if edit.span[0] >= position:
            parts += [source[position : edit.span[0]], edit.text]
            position = edit.span[1]
    return "".join([*parts, source[position:]])


def comment_out(text: str, indent: str, before: str = "") -> str:
    """Return a statement as a comment after `pass`, on as many lines, without secrets: the notebook is pushed.

    Args:
        before: The assignment in front of a magic, such as "files = ", which becomes an empty list.
    """
    first, *following = redact_secrets(text).split("\n")
    statement = f"{before}[]" if before else "pass"
    rest = [f"{indent}# {line.removeprefix(indent)}".rstrip() for line in following]
    return "\n".join([f"{statement}  {_MARK} {first.strip()}", *rest])


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


def find_written_secrets(cells: Sequence[NotebookCell], changed: Sequence[str]) -> Iterator[ExternalNeed]:
    """Yield the lines that still contain a secret after the edits, with its variable but never its value."""
    for cell, text in zip(cells, changed, strict=True):
        secrets: dict[str, tuple[str, int]] = {}
        for secret in find_secrets(cell.source):
            value = cell.source[secret.start : secret.end]
            if value in text and not any(value in other for other in secrets):
                secrets[value] = (secret.name, cell.source.count("\n", 0, secret.start) + 1)
        for name, line in secrets.values():
            shown = cell.source.split("\n")[line - 1]
            for value in secrets:
                shown = shown.replace(value, "***")
            described = f"the value of '{name}'" if name else "a token"
            need = ExternalNeed(kind=NeedKind.ACCOUNT, cell=cell.number, line=line, text=shown, target=name)
            remedy = (
                f"{described} would be pushed with the notebook: remove it, an offline notebook needs no account"
                " (set it outside the notebook for online runs, and revoke it if others have seen it)"
            )
            yield need.ask(remedy, name or "a token")
