"""Warn about predictions that Kaggle accepts but that score badly: constant, equal to the sample, out of range.

These are warnings, never problems, because each may be intended.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from offline_kit.core import files
from offline_kit.core.sandboxes.leftovers import LIMIT

_MIN_ROWS = 3  # fewer rows may well have one value
_MAX_LABELS = 50  # distinct words in a column of class names
_MAX_EXAMPLES = 3
_MANY_FILES = 500
"""Kaggle lists more output files slowly, page by page, until "429 Too Many Requests"."""

Columns = Mapping[str, Sequence[str]]
"""The columns of a table by name, without its ids."""


def check_predictions(
    predictions: Columns, sample: Columns, *, same_rows: bool
) -> tuple[list[str], list[str]]:
    """Return warnings about the predictions, and notes with minimum, mean and maximum of each column of numbers.

    `same_rows` says that the sample has the same rows in the same order.
    """
    warnings, notes, constant = list[str](), list[str](), dict[str, list[str]]()
    if (
        same_rows
        and predictions
        and all(_is_same_column(predictions[name], sample.get(name, ())) for name in predictions)
    ):
        warnings.append(
            f"the predictions equal the sample's in every row: column {_quote_names(predictions)}"
        )
        constant = {"": []}
    for name, values in predictions.items():
        numbers = _parse_numbers(values)
        if numbers:
            largest = max(map(abs, numbers)) or 1.0
            # Scaled, because the sum of large values may overflow while their mean does not.
            mean = math.fsum(number / largest for number in numbers) / len(numbers) * largest
            notes.append(f"column '{name}': min {min(numbers):g}, mean {mean:g}, max {max(numbers):g}")
        if "" not in constant and len(values) >= _MIN_ROWS and len(set(values)) == 1:
            constant.setdefault(values[0], []).append(name)
        if odd := _describe_out_of_range(
            numbers, _parse_numbers(sample.get(name, ()))
        ) or _describe_unknown_labels(values, sample.get(name, ())):
            warnings.append(f"column '{name}' {odd}")
    for value, names in constant.items():
        if names:
            warnings.append(
                f"column {_quote_names(names)} has the same value in every row: {value or 'empty'}"
            )
    more_notes = [f"{len(notes) - _MAX_LABELS} more columns of numbers"] if len(notes) > _MAX_LABELS else []
    return warnings, [*notes[:_MAX_LABELS], *more_notes]


def check_output_size(working: Path) -> list[str]:
    """Return warnings about the size of the working folder, which Kaggle saves as the output."""
    sizes = [path.lstat().st_size for path in working.rglob("*") if not path.is_dir()]
    advice = "write other files than the submission to /tmp"
    warnings = []
    if sum(sizes) > LIMIT:
        total, limit = files.format_size(sum(sizes)), files.format_size(LIMIT)
        warnings.append(f"/kaggle/working contains {total}, and Kaggle saves at most {limit}: {advice}")
    if len(sizes) > _MANY_FILES:
        warnings.append(f"/kaggle/working contains {len(sizes)} files, which Kaggle lists slowly: {advice}")
    return warnings


def _is_same_column(first: Sequence[str], second: Sequence[str]) -> bool:
    return len(first) == len(second) and all(
        a == b or _parse_numbers([a]) == _parse_numbers([b]) != [] for a, b in zip(first, second, strict=True)
    )


def _parse_numbers(values: Iterable[str]) -> list[float]:
    """Return the values as numbers; [] if one of them is not a finite number."""
    try:
        numbers = [float(value) for value in values if value.strip()]
    except ValueError:
        return []
    return [] if any(map(math.isnan, numbers)) or any(map(math.isinf, numbers)) else numbers


def _describe_out_of_range(numbers: Sequence[float], sample_numbers: Sequence[float]) -> str:
    """Describe how numbers leave the sample's range; "" if they do not, or if the sample has one placeholder value."""
    if not numbers or not sample_numbers:
        return ""
    fractions = any(0 < value < 1 for value in sample_numbers)
    if min(sample_numbers) >= 0 and max(sample_numbers) <= 1 and (fractions or len(set(sample_numbers)) > 1):
        low, high, expected = 0.0, 1.0, "the sample's are in [0, 1]"
    elif all(value.is_integer() for value in sample_numbers) and 1 < len(set(sample_numbers)) <= _MAX_LABELS:
        low, high = min(sample_numbers), max(sample_numbers)
        expected = f"the sample's are whole numbers in [{low:g}, {high:g}]"
    elif len(set(sample_numbers)) > 1 and min(sample_numbers) >= 0:
        low, high, expected = 0.0, math.inf, "the sample has no negative value"
    else:
        return ""
    outside = [value for value in numbers if not low <= value <= high]
    return f"has {len(outside)} values such as {outside[0]:g}, and {expected}" if outside else ""


def _describe_unknown_labels(values: Sequence[str], sample_values: Sequence[str]) -> str:
    """Name labels that the sample lacks, if its words are labels: few, and repeated."""
    labels = set(sample_values)
    if _parse_numbers(sample_values) or not 1 < len(labels) <= min(_MAX_LABELS, len(sample_values) - 1):
        return ""
    odd = sorted(set(values) - labels)
    if not odd or _parse_numbers(values) or any(" " in value for value in labels):
        return ""
    return f"names {_quote_names(odd)}, which the sample never names"


def _quote_names(names: Iterable[str]) -> str:
    all_names = list(names)
    return ", ".join(f"'{name}'" for name in all_names[:_MAX_EXAMPLES]) + (
        ", ..." if len(all_names) > _MAX_EXAMPLES else ""
    )
