"""Tokens and passwords that are written into cells which stay: whoever sees the pushed notebook can read them."""

from collections.abc import Iterable, Iterator, Sequence

from offline_kit.adopt.findings import ExternalNeed, NeedKind, NotebookCell, Resolution, ResolvedNeed
from offline_kit.adopt.outcomes import resolve_need
from offline_kit.core.redaction import find_secrets


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
    wish = ExternalNeed(kind=NeedKind.ACCOUNT, cell=cell.number, line=line, text=text, target=name)
    remedy = (
        f"{secret} is written here and would be pushed with the notebook: take it out, nothing logs in offline"
        " (set it outside of the notebook where it runs online, and make a new one if others have seen it)"
    )
    return resolve_need(wish, Resolution.UNRESOLVED, name or "a token", remedy)
