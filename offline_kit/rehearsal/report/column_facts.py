"""What the columns of a submission hold: numbers in bins, or the counts of labels."""

import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from offline_kit.notebook.runtime.kit_runtime import read_csv_rows

_MAX_ROWS = 100_000  # read for the report; more rows change no picture
_MAX_CELLS = 200_000  # of a wide table, but at least a thousand rows: a report costs about a second
_MAX_COLUMNS = 60
_BINS = (8, 24)  # of a histogram; few numbers have few bins
_MAX_CLASSES = 20  # distinct whole numbers that count as classes
_MAX_LABELS = 40
_SHOWN_LABELS = 16
_MAX_CELL = 60  # characters of a cell in the table of first rows


@dataclass(frozen=True, kw_only=True)
class ReadTable:
    """A CSV file, or its first rows."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    is_whole: bool

    def column(self, index: int) -> list[str]:
        """Return the values of a column, "" for rows that are too short."""
        return [row[index] if index < len(row) else "" for row in self.rows]


def read_first_rows(path: Path) -> ReadTable:
    """Read the first rows of a CSV file, at most 100,000 and less of a wide one, without its empty lines."""
    with path.open(newline="", encoding="utf-8-sig", errors="replace") as stream:
        lines = (line.replace("\0", "") for line in stream)
        rows = (tuple(row) for row in read_csv_rows(lines) if row)
        header = next(rows, ())
        count = max(1000, min(_MAX_ROWS, _MAX_CELLS // max(1, len(header))))
        first_rows = tuple(itertools.islice(rows, count))
        return ReadTable(header=header, rows=first_rows, is_whole=next(rows, None) is None)


def describe_table(
    table: ReadTable, *, previous: ReadTable | None = None, sample: ReadTable | None = None
) -> dict[str, Any]:
    """Return a submission as JSON: its first rows, each column, and how both differ from two other tables.

    Rows are matched by their ids, the first column.
    """
    columns = []
    pairs = _pair_rows(table, previous) if previous else []
    for index, name in enumerate(table.header[1 : _MAX_COLUMNS + 1], 1):
        column = _describe_column(name, table.column(index))
        for key, other in (("previous", previous), ("sample", sample)):
            if other and name in other.header:
                column[key] = _summarize_like(column, other.column(other.header.index(name)))
        if previous and name in previous.header:
            column["change"] = _compare_column(pairs, index, previous.header.index(name))
        columns.append(column)
    first_rows = [[_shorten_cell(cell) for cell in row[: len(table.header)]] for row in table.rows[:8]]
    return {
        "header": [_shorten_cell(name) for name in table.header],
        "rows": len(table.rows),
        "is_whole": table.is_whole,
        "columns": columns,
        "other_columns": max(0, len(table.header) - 1 - _MAX_COLUMNS),
        "first_rows": first_rows,
        "matched": len(pairs) if previous else None,
    }


def _describe_column(name: str, values: Sequence[str]) -> dict[str, Any]:
    column: dict[str, Any] = {"name": name, "empty": sum(not value.strip() for value in values)}
    filled = [value for value in values if value.strip()]
    numbers = _parse_numbers(filled)
    distinct = len(set(filled))
    column["distinct"] = distinct
    if numbers and not (distinct <= _MAX_CLASSES and all(map(float.is_integer, numbers))):
        low, high = min(numbers), max(numbers)
        # The Rice rule: https://en.wikipedia.org/wiki/Histogram#Rice_rule
        count = min(_BINS[1], max(_BINS[0], round(2 * len(numbers) ** (1 / 3))))
        column |= {
            "kind": "numbers",
            **_summarize_numbers(numbers),
            "bins": _fill_bins(numbers, low, high, count),
        }
        return column
    words, unit = filled, "row"
    if distinct > _SHOWN_LABELS and not numbers:
        # Several labels in a cell, as "scab rust".
        split_words = [word for value in filled for word in value.split()]
        if len(set(split_words)) <= _MAX_LABELS and len(split_words) < 20 * len(filled):
            words, unit = split_words, "word"
    if 0 < len(set(words)) <= _MAX_LABELS:
        counts = Counter(words).most_common()
        column |= {"kind": "labels", "unit": unit, "total": len(words)}
        column["counts"] = [[_shorten_cell(label), count] for label, count in counts[:_SHOWN_LABELS]]
        column["other_labels"] = len(counts) - len(column["counts"])
    else:
        lengths = [len(value) for value in filled] or [0]
        column |= {"kind": "text", "longest": max(lengths), "mean_length": sum(lengths) / len(lengths)}
    return column


def _summarize_numbers(numbers: Sequence[float]) -> dict[str, float]:
    largest = max(map(abs, numbers)) or 1.0
    # Scaled, because the sum of large values may overflow while their mean does not.
    mean = math.fsum(number / largest for number in numbers) / len(numbers) * largest
    return {"min": min(numbers), "mean": mean, "max": max(numbers)}


def _fill_bins(numbers: Sequence[float], low: float, high: float, count: int) -> list[int]:
    """Return how many numbers each of `count` equal bins from `low` to `high` has; others are in none."""
    bins = [0] * count
    width = (high / count - low / count) or 1.0
    for number in numbers:
        if low <= number <= high:
            bins[min(count - 1, int(number / width - low / width))] += 1
    return bins


def _summarize_like(column: Mapping[str, Any], values: Sequence[str]) -> dict[str, Any]:
    """Describe the column of another table in the terms of this one: the same bins, the same labels."""
    filled = [value for value in values if value.strip()]
    if column["kind"] == "numbers":
        numbers = _parse_numbers(filled)
        bins = _fill_bins(numbers, column["min"], column["max"], len(column["bins"]))
        return {**_summarize_numbers(numbers), "bins": bins} if numbers else {}
    if column["kind"] == "labels":
        words = [word for value in filled for word in value.split()] if column["unit"] == "word" else filled
        counts = Counter(map(_shorten_cell, words))
        return {"counts": [[label, counts[label]] for label, _ in column["counts"]]}
    return {}


def _pair_rows(table: ReadTable, other: ReadTable) -> list[tuple[Sequence[str], Sequence[str]]]:
    """Return the rows of both tables that have the same id; none if ids repeat."""
    others = {row[0]: row for row in other.rows}
    ids = {row[0] for row in table.rows}
    if len(others) < len(other.rows) or len(ids) < len(table.rows):
        return []
    return [(row, others[row[0]]) for row in table.rows if row[0] in others]


def _compare_column(
    pairs: Sequence[tuple[Sequence[str], Sequence[str]]], index: int, other_index: int
) -> dict[str, Any]:
    values = [
        (row[index], other[other_index])
        for row, other in pairs
        if index < len(row) and other_index < len(other)
    ]
    changed = sum(value != before for value, before in values)
    change: dict[str, Any] = {"changed": changed, "rows": len(values)}
    numbers = _parse_numbers([value for value, _ in values])
    earlier = _parse_numbers([before for _, before in values])
    if changed and numbers and len(numbers) == len(earlier) == len(values):
        differences = [abs(number - before) for number, before in zip(numbers, earlier, strict=True)]
        change["mean_difference"] = _summarize_numbers(differences)["mean"]
    return change


def _parse_numbers(values: Sequence[str]) -> list[float]:
    """Return the values as numbers; [] if one of them is not a finite number."""
    try:
        numbers = list(map(float, values))
    except ValueError:
        return []
    return numbers if all(map(math.isfinite, numbers)) else []


def _shorten_cell(text: str) -> str:
    return text if len(text) <= _MAX_CELL else text[: _MAX_CELL - 1] + "…"
