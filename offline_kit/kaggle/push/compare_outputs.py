"""Compare Kaggle's submission with the rehearsal's. Differences are notes, never errors: hardware differs."""

import csv
import math
from collections.abc import Sequence
from pathlib import Path

from offline_kit.core import files
from offline_kit.rehearsal.submission_check import SubmissionTable, is_close, parse_number, read_table

RELATIVE = 1e-3
ABSOLUTE = 1e-6
_SHOWN = 10


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
        our_table, remote_table = read_table(our_path)[0], read_table(remote_path)[0]
    except csv.Error as error:
        return (f"the submissions could not be compared: {error}",)
    return tuple(_describe_tables(our_table, remote_table, server_name))


def _describe_tables(
    our_table: SubmissionTable, remote_table: SubmissionTable, server_name: str
) -> list[str]:
    notes = []
    if our_table.header != remote_table.header:
        notes.append(_describe_columns(our_table.header, remote_table.header, server_name))
    our_rows, remote_rows = our_table.first_rows(), remote_table.first_rows()
    common = [row_id for row_id in remote_rows if row_id in our_rows]
    if not common:
        return [*notes, f"no row from {server_name} is in the rehearsal's submission: the input data differ"]
    if len(common) == len(our_rows) == len(remote_rows):
        notes.append(f"the same {len(common)} rows as in the rehearsal")
    else:
        counts = f"{len(remote_rows)} on {server_name} and {len(our_rows)} in the rehearsal"
        notes.append(f"{len(common)} rows in common of {counts}")
    if len(our_rows) < len(our_table.rows) or len(remote_rows) < len(remote_table.rows):
        notes.append("some ids occur more than once; only the first row of each is compared")
    shared = [name for name in dict.fromkeys(remote_table.header[1:]) if name in our_table.header]
    different = []
    for name in shared:
        our_values, remote_values = (
            [_get_value(rows[row_id], table.header.index(name)) for row_id in common]
            for table, rows in ((our_table, our_rows), (remote_table, remote_rows))
        )
        if note := _describe_column(name, list(zip(our_values, remote_values, strict=True))):
            different.append(note)
    if equal_count := len(shared) - len(different):
        notes.append(f"{equal_count} of {len(shared)} columns agree within {RELATIVE:.1%}")
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


def _describe_column(name: str, pairs: Sequence[tuple[str, str]]) -> str:
    """Return how the values of a column differ; "" if they agree."""
    numbers = [(parse_number(our_value), parse_number(remote_value)) for our_value, remote_value in pairs]
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
    beyond = [not is_close(*pair, relative=RELATIVE, absolute=ABSOLUTE) for pair in pairs]
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


def _get_value(row: Sequence[str], column: int) -> str:
    return row[column].strip() if column < len(row) else ""
