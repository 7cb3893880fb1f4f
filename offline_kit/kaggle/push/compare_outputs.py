"""Kaggle's submission beside the rehearsal's: what differs, as notes. Other hardware is never an error."""

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from offline_kit.core import files
from offline_kit.notebook.runtime.kit_runtime import csv_rows

RELATIVE = 1e-3
ABSOLUTE = 1e-6
_SHOWN = 10


@dataclass(frozen=True, kw_only=True)
class _SubmissionTable:
    head: tuple[str, ...]
    rows: dict[str, list[str]] = field(repr=False)
    repeats: int


def compare_submissions(ours: Path, theirs: Path, place: str = "Kaggle") -> tuple[str, ...]:
    """Return what a person may want to know about the submission from `place` (`theirs`) beside the rehearsal's.

    Rows are matched by the first column; numbers count as equal within 0.1 % or 1e-6. Other formats than
    CSV are compared by size. Never raises for what stands in the files.
    """
    if files.sha256_of(ours) == files.sha256_of(theirs):
        return ("the submission is the rehearsal's, byte for byte",)
    if ours.suffix.lower() != ".csv" or theirs.suffix.lower() != ".csv":
        sizes = [files.format_size(path.stat().st_size) for path in (theirs, ours)]
        return (f"{sizes[0]} on {place}, {sizes[1]} in the rehearsal; only CSV is compared value by value",)
    try:
        one, two = _read_table(ours), _read_table(theirs)
    except csv.Error as error:
        return (f"the submissions could not be compared: {error}",)
    return tuple(_describe_tables(one, two, place))


def _read_table(path: Path) -> _SubmissionTable:
    with path.open(newline="", encoding="utf-8-sig", errors="replace") as stream:
        reader = csv_rows(line.replace("\0", "") for line in stream)
        head = tuple(next(reader, ()))
        rows: dict[str, list[str]] = {}
        count = 0
        for row in reader:
            if row:
                count += 1
                rows.setdefault(row[0], row)
    return _SubmissionTable(head=head, rows=rows, repeats=count - len(rows))


def _describe_tables(ours: _SubmissionTable, theirs: _SubmissionTable, place: str) -> list[str]:
    notes = []
    if ours.head != theirs.head:
        notes.append(_describe_columns(ours.head, theirs.head, place))
    common = [name for name in theirs.rows if name in ours.rows]
    if not common:
        return [*notes, f"no row from {place} is in the rehearsal's submission: they ran on other data"]
    notes.append(_describe_rows(ours, theirs, len(common), place))
    if ours.repeats or theirs.repeats:
        notes.append("ids occur more than once; only the first row of each is compared")
    shared = [name for name in dict.fromkeys(theirs.head[1:]) if name in ours.head]
    told = [(name, _describe_column(name, ours, theirs, common)) for name in shared]
    different = [note for _, note in told if note]
    same = len(told) - len(different)
    if same:
        notes.append(f"{same} of {len(told)} columns agree within {RELATIVE:.1%}")
    more = [f"and {len(different) - _SHOWN} more columns differ"] if len(different) > _SHOWN else []
    return [*notes, *different[:_SHOWN], *more]


def _describe_columns(ours: Sequence[str], theirs: Sequence[str], place: str) -> str:
    if sorted(ours) == sorted(theirs):
        return f"the columns are in another order on {place}"
    new = [repr(name) for name in theirs if name not in ours]
    gone = [repr(name) for name in ours if name not in theirs]
    said = [f"only on {place}: {', '.join(new[:_SHOWN])}"] if new else []
    said += [f"only in the rehearsal: {', '.join(gone[:_SHOWN])}"] if gone else []
    return f"the columns differ; {'; '.join(said)}"


def _describe_rows(ours: _SubmissionTable, theirs: _SubmissionTable, common: int, place: str) -> str:
    if common == len(ours.rows) == len(theirs.rows):
        return f"the same {common} rows as in the rehearsal"
    return f"{common} rows in common of {len(theirs.rows)} on {place} and {len(ours.rows)} in the rehearsal"


def _describe_column(
    name: str, ours: _SubmissionTable, theirs: _SubmissionTable, common: Sequence[str]
) -> str:
    """Return how a column differs over the rows in common; "" where it agrees."""
    pairs = [(_get_value(ours, row, name), _get_value(theirs, row, name)) for row in common]
    numbers = [(_parse_number(one), _parse_number(two)) for one, two in pairs]
    whole = [(one, two) for one, two in numbers if one is not None and two is not None]
    if len(whole) < len(pairs):
        count = sum(one != two for one, two in pairs)
        return f"column '{name}': {count} of {len(pairs)} values differ" if count else ""
    return _describe_numbers(name, whole)


def _describe_numbers(name: str, pairs: Sequence[tuple[float, float]]) -> str:
    beyond = [not _is_close(one, two) for one, two in pairs]
    if not any(beyond):
        return ""
    gaps = [abs(one - two) for one, two in pairs if math.isfinite(one) and math.isfinite(two)]
    measured = f" (largest difference {max(gaps):.3g}, mean {sum(gaps) / len(gaps):.3g})" if gaps else ""
    return (
        f"column '{name}': {sum(beyond)} of {len(pairs)} values differ by more than {RELATIVE:.1%}{measured}"
    )


def _is_close(one: float, two: float) -> bool:
    if math.isnan(one) and math.isnan(two):
        return True
    return math.isclose(one, two, rel_tol=RELATIVE, abs_tol=ABSOLUTE)


def _get_value(table: _SubmissionTable, row: str, name: str) -> str:
    place, values = table.head.index(name), table.rows[row]
    return values[place].strip() if place < len(values) else ""


def _parse_number(value: str) -> float | None:
    try:
        return float(value)
    except ValueError:
        return None
