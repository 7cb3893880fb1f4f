"""Compare Kaggle's submission with the rehearsal's. Differences are notes, never errors: hardware differs."""

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from offline_kit.core import files
from offline_kit.notebook.runtime.kit_runtime import read_csv_rows

RELATIVE = 1e-3
ABSOLUTE = 1e-6
_SHOWN = 10


@dataclass(frozen=True, kw_only=True)
class _OutputTable:
    head: tuple[str, ...]
    rows: dict[str, list[str]] = field(repr=False)
    repeats: int


def compare_submissions(our_path: Path, remote_path: Path, server_name: str = "Kaggle") -> tuple[str, ...]:
    """Return how the submission from `server_name` (`remote_path`) differs from the rehearsal's.

    Rows are matched by the first column; numbers are equal within 0.1 % or 1e-6. Formats other than
    CSV are compared by size. Never raises because of a file's content.
    """
    if files.sha256_of(our_path) == files.sha256_of(remote_path):
        return ("the submission is identical to the rehearsal's",)
    if our_path.suffix.lower() != ".csv" or remote_path.suffix.lower() != ".csv":
        sizes = [files.format_size(path.stat().st_size) for path in (remote_path, our_path)]
        return (
            f"{sizes[0]} on {server_name}, {sizes[1]} in the rehearsal; only CSV files are compared by value",
        )
    try:
        our_table, remote_table = _read_table(our_path), _read_table(remote_path)
    except csv.Error as error:
        return (f"the submissions could not be compared: {error}",)
    return tuple(_describe_tables(our_table, remote_table, server_name))


def _read_table(path: Path) -> _OutputTable:
    with path.open(newline="", encoding="utf-8-sig", errors="replace") as stream:
        reader = read_csv_rows(line.replace("\0", "") for line in stream)
        head = tuple(next(reader, ()))
        rows: dict[str, list[str]] = {}
        count = 0
        for row in reader:
            if row:
                count += 1
                rows.setdefault(row[0], row)
    return _OutputTable(head=head, rows=rows, repeats=count - len(rows))


def _describe_tables(our_table: _OutputTable, remote_table: _OutputTable, server_name: str) -> list[str]:
    notes = []
    if our_table.head != remote_table.head:
        notes.append(_describe_columns(our_table.head, remote_table.head, server_name))
    common = [name for name in remote_table.rows if name in our_table.rows]
    if not common:
        return [*notes, f"no row from {server_name} is in the rehearsal's submission: the input data differ"]
    notes.append(_describe_rows(our_table, remote_table, len(common), server_name))
    if our_table.repeats or remote_table.repeats:
        notes.append("some ids occur more than once; only the first row of each is compared")
    shared = [name for name in dict.fromkeys(remote_table.head[1:]) if name in our_table.head]
    column_notes = [(name, _describe_column(name, our_table, remote_table, common)) for name in shared]
    different = [note for _, note in column_notes if note]
    equal_count = len(column_notes) - len(different)
    if equal_count:
        notes.append(f"{equal_count} of {len(column_notes)} columns agree within {RELATIVE:.1%}")
    omitted = [f"and {len(different) - _SHOWN} more columns differ"] if len(different) > _SHOWN else []
    return [*notes, *different[:_SHOWN], *omitted]


def _describe_columns(our_columns: Sequence[str], remote_columns: Sequence[str], server_name: str) -> str:
    if sorted(our_columns) == sorted(remote_columns):
        return f"the columns are in another order on {server_name}"
    added = [repr(name) for name in remote_columns if name not in our_columns]
    missing = [repr(name) for name in our_columns if name not in remote_columns]
    notes = [f"only on {server_name}: {', '.join(added[:_SHOWN])}"] if added else []
    notes += [f"only in the rehearsal: {', '.join(missing[:_SHOWN])}"] if missing else []
    return f"the columns differ; {'; '.join(notes)}"


def _describe_rows(our_table: _OutputTable, remote_table: _OutputTable, common: int, server_name: str) -> str:
    if common == len(our_table.rows) == len(remote_table.rows):
        return f"the same {common} rows as in the rehearsal"
    return f"{common} rows in common of {len(remote_table.rows)} on {server_name} and {len(our_table.rows)} in the rehearsal"


def _describe_column(
    name: str, our_table: _OutputTable, remote_table: _OutputTable, common: Sequence[str]
) -> str:
    """Return how a column differs in the common rows; "" if it agrees."""
    pairs = [(_get_value(our_table, row, name), _get_value(remote_table, row, name)) for row in common]
    numbers = [(_parse_number(our_value), _parse_number(remote_value)) for our_value, remote_value in pairs]
    number_pairs = [
        (our_value, remote_value)
        for our_value, remote_value in numbers
        if our_value is not None and remote_value is not None
    ]
    if len(number_pairs) < len(pairs):
        count = sum(our_value != remote_value for our_value, remote_value in pairs)
        return f"column '{name}': {count} of {len(pairs)} values differ" if count else ""
    return _describe_numbers(name, number_pairs)


def _describe_numbers(name: str, pairs: Sequence[tuple[float, float]]) -> str:
    beyond = [not _is_close(our_value, remote_value) for our_value, remote_value in pairs]
    if not any(beyond):
        return ""
    gaps = [
        abs(our_value - remote_value)
        for our_value, remote_value in pairs
        if math.isfinite(our_value) and math.isfinite(remote_value)
    ]
    measured = f" (largest difference {max(gaps):.3g}, mean {sum(gaps) / len(gaps):.3g})" if gaps else ""
    return (
        f"column '{name}': {sum(beyond)} of {len(pairs)} values differ by more than {RELATIVE:.1%}{measured}"
    )


def _is_close(our_value: float, remote_value: float) -> bool:
    if math.isnan(our_value) and math.isnan(remote_value):
        return True
    return math.isclose(our_value, remote_value, rel_tol=RELATIVE, abs_tol=ABSOLUTE)


def _get_value(table: _OutputTable, row: str, name: str) -> str:
    column, values = table.head.index(name), table.rows[row]
    return values[column].strip() if column < len(values) else ""


def _parse_number(value: str) -> float | None:
    try:
        return float(value)
    except ValueError:
        return None
