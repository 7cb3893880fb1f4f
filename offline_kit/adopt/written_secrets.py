"""Tokens and passwords that are written into cells which stay: whoever sees the pushed notebook can read them."""

from collections.abc import Iterable, Iterator, Sequence

from offline_kit.adopt.findings import Became, Cell, Found, Kind, Wish
from offline_kit.adopt.outcomes import found_of
from offline_kit.core.redaction import find_secrets


def look(cells: Sequence[Cell], changed: Sequence[str]) -> Iterator[Found]:
    """Yield the lines of the adopted notebook that hold one, each with its variable and what to do; never the value.

    `changed` are the texts of the cells as they will be pushed: what is switched off holds none any more.
    """
    for cell, text in zip(cells, changed, strict=True):
        found: dict[str, tuple[str, int]] = {}
        for name, value, line in _written(cell):
            if value in text and not any(value in each for each in found):
                found[value] = (name, line)
        for name, line in found.values():
            yield _found(cell, name, line, found)


def _written(cell: Cell) -> Iterator[tuple[str, str, int]]:
    """Yield name, value and line of each secret of a cell; "" for a name that nobody gave it."""
    for secret in find_secrets(cell.source):
        line = cell.source.count("\n", 0, secret.start) + 1
        yield secret.name, cell.source[secret.start : secret.end], line


def _found(cell: Cell, name: str, line: int, values: Iterable[str]) -> Found:
    text = cell.source.split("\n")[line - 1]
    for value in values:
        text = text.replace(value, "***")
    what = f"the value of '{name}'" if name else "a token"
    wish = Wish(kind=Kind.ACCOUNT, cell=cell.number, line=line, text=text, target=name)
    remedy = (
        f"{what} is written here and would be pushed with the notebook: take it out, nothing logs in offline"
        " (set it outside of the notebook where it runs online, and make a new one if others have seen it)"
    )
    return found_of(wish, Became.ASKED, name or "a token", remedy)
