"""What the columns of a submission hold: numbers in bins, or the counts of labels."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from offline_kit.rehearsal.submission_check import SubmissionTable, parse_numbers, summarize_numbers

_MAX_COLUMNS = 60
_BINS = (8, 24)  # of a histogram; few numbers have few bins
_MAX_CLASSES = 20  # distinct whole numbers that count as classes
_MAX_LABELS = 40
_SHOWN_LABELS = 16
_MAX_CELL = 60  # characters of a cell in the table of first rows


def describe_table(
    table: SubmissionTable, *, previous: SubmissionTable | None = None, sample: SubmissionTable | None = None
) -> dict[str, Any]:
    """Return a submission as JSON: its first rows, each column, and how both differ from two other tables.

    Rows are matched by their ids, the first column.
    """
    columns = []
    before = {row[0]: row for row in previous.rows} if previous else {}
    ids = set(table.ids())
    if len(ids) < len(table.rows) or len(before) < len(previous.rows if previous else ()):
        before = {}  # ids that repeat name no row
    for name in table.header[1 : _MAX_COLUMNS + 1]:
        column = _describe_column(name, table.column_values(name))
        for key, other in (("previous", previous), ("sample", sample)):
            if other and name in other.header:
                column[key] = _summarize_like(column, other.column_values(name))
        if previous and name in previous.header:
            earlier_values = dict(zip(previous.ids(), previous.column_values(name), strict=True))
            values = zip(table.ids(), table.column_values(name), strict=True)
            column["change"] = _compare_values(
                [(value, earlier_values[key]) for key, value in values if key in before]
            )
        columns.append(column)
    return {
        "header": [_shorten_cell(name) for name in table.header],
        "rows": len(table.rows),
        "is_whole": table.is_whole,
        "columns": columns,
        "other_columns": max(0, len(table.header) - 1 - _MAX_COLUMNS),
        "first_rows": [[_shorten_cell(cell) for cell in row[: len(table.header)]] for row in table.rows[:8]],
        "matched": len(ids & {*before}) if previous else None,
    }


def _describe_column(name: str, values: Sequence[str]) -> dict[str, Any]:
    filled = [value for value in values if value.strip()]
    numbers, distinct = parse_numbers(filled), len(set(filled))
    column: dict[str, Any] = {"name": name, "empty": len(values) - len(filled), "distinct": distinct}
    if numbers and not (distinct <= _MAX_CLASSES and all(map(float.is_integer, numbers))):
        # The Rice rule: https://en.wikipedia.org/wiki/Histogram#Rice_rule
        count = min(_BINS[1], max(_BINS[0], round(2 * len(numbers) ** (1 / 3))))
        bins = _fill_bins(numbers, min(numbers), max(numbers), count)
        return {**column, "kind": "numbers", **summarize_numbers(numbers), "bins": bins}
    words, unit = filled, "row"
    if distinct > _SHOWN_LABELS and not numbers:
        # Several labels in a cell, as "scab rust".
        split_words = [word for value in filled for word in value.split()]
        if len(set(split_words)) <= _MAX_LABELS and len(split_words) < 20 * len(filled):
            words, unit = split_words, "word"
    if 0 < len(set(words)) <= _MAX_LABELS:
        counts = [[_shorten_cell(label), count] for label, count in Counter(words).most_common()]
        labels = {"counts": counts[:_SHOWN_LABELS], "other_labels": len(counts[_SHOWN_LABELS:])}
        return {**column, "kind": "labels", "unit": unit, "total": len(words), **labels}
    lengths = [len(value) for value in filled] or [0]
    return {**column, "kind": "text", "longest": max(lengths), "mean_length": sum(lengths) / len(lengths)}


def _fill_bins(numbers: Iterable[float], low: float, high: float, count: int) -> list[int]:
    """Return how many numbers each of `count` equal bins from `low` to `high` has; others are in none."""
    bins = [0] * count
    width = (high / count - low / count) or 1.0
    for number in numbers:
        if low <= number <= high:
            bins[min(count - 1, int(number / width - low / width))] += 1
    return bins


def _summarize_like(column: Mapping[str, Any], values: Sequence[str]) -> dict[str, Any]:
    """Describe the column of another table in the terms of this one: the same bins, the same labels."""
    if column["kind"] == "numbers" and (numbers := parse_numbers(values)):
        bins = _fill_bins(numbers, column["min"], column["max"], len(column["bins"]))
        return {**summarize_numbers(numbers), "bins": bins}
    if column["kind"] == "labels":
        words = [word for value in values for word in value.split()] if column["unit"] == "word" else values
        counts = Counter(map(_shorten_cell, words))
        return {"counts": [[label, counts[label]] for label, _ in column["counts"]]}
    return {}


def _compare_values(pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
    change: dict[str, Any] = {"changed": sum(value != before for value, before in pairs), "rows": len(pairs)}
    numbers, earlier = (parse_numbers(side) for side in zip(*pairs, strict=True)) if pairs else ([], [])
    if change["changed"] and len(numbers) == len(earlier) == len(pairs):
        differences = [abs(number - before) for number, before in zip(numbers, earlier, strict=True)]
        change["mean_difference"] = summarize_numbers(differences)["mean"]
    return change


def _shorten_cell(text: str) -> str:
    return text if len(text) <= _MAX_CELL else text[: _MAX_CELL - 1] + "…"
