"""What passes every check and still scores badly: constant predictions, the sample's own, values of another kind.

Each is a warning, never a problem: any of it may be right.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from offline_kit.core import files
from offline_kit.core.sandboxes.leftovers import LIMIT

_ENOUGH = 3  # rows; fewer may well have one value
_LABELS = 50  # different words of a column that names classes, at most
_SHOWN = 3
_MANY_FILES = 500
"""Output files above which Kaggle's listing of them gets slow, up to "429 Too Many Requests"."""

Columns = Mapping[str, Sequence[str]]
"""The columns of a table by name, its ids left out."""


def of_columns(have: Columns, sample: Columns, *, same_rows: bool) -> tuple[list[str], list[str]]:
    """Return warnings and notes on the predictions; `same_rows`: the sample's rows are in the same order.

    The notes are the smallest, mean and largest value of each column of numbers.
    """
    warnings, notes, constant = list[str](), list[str](), dict[str, list[str]]()
    if same_rows and have and all(_same(have[name], sample.get(name, ())) for name in have):
        warnings.append(f"the predictions equal the sample's in every row: column {_names(have)}")
        constant = {"": []}
    for name, values in have.items():
        numbers = _numbers(values)
        if numbers:
            largest = max(map(abs, numbers)) or 1.0
            # Scaled, because a sum of large values overflows though their mean does not.
            mean = math.fsum(number / largest for number in numbers) / len(numbers) * largest
            notes.append(f"column '{name}': min {min(numbers):g}, mean {mean:g}, max {max(numbers):g}")
        if "" not in constant and len(values) >= _ENOUGH and len(set(values)) == 1:
            constant.setdefault(values[0], []).append(name)
        if odd := _outside(numbers, _numbers(sample.get(name, ()))) or _unseen(values, sample.get(name, ())):
            warnings.append(f"column '{name}' {odd}")
    for value, names in constant.items():
        if names:
            warnings.append(f"column {_names(names)} has the same value in every row: {value or 'nothing'}")
    more = [f"{len(notes) - _LABELS} more columns of numbers"] if len(notes) > _LABELS else []
    return warnings, [*notes[:_LABELS], *more]


def of_output(working: Path) -> list[str]:
    """Return warnings on how much lies in the working folder, all of which Kaggle keeps as the output."""
    sizes = [path.lstat().st_size for path in working.rglob("*") if not path.is_dir()]
    advice = "write what is not submitted to /tmp"
    warnings = []
    if sum(sizes) > LIMIT:
        total, limit = files.format_size(sum(sizes)), files.format_size(LIMIT)
        warnings.append(f"/kaggle/working holds {total}, and Kaggle keeps at most {limit}: {advice}")
    if len(sizes) > _MANY_FILES:
        warnings.append(f"/kaggle/working holds {len(sizes)} files, which Kaggle lists slowly: {advice}")
    return warnings


def _same(one: Sequence[str], two: Sequence[str]) -> bool:
    return len(one) == len(two) and all(
        a == b or _numbers([a]) == _numbers([b]) != [] for a, b in zip(one, two, strict=True)
    )


def _numbers(values: Iterable[str]) -> list[float]:
    """Return the values as numbers; nothing where one of them is none."""
    try:
        found = [float(value) for value in values if value.strip()]
    except ValueError:
        return []
    return [] if any(map(math.isnan, found)) or any(map(math.isinf, found)) else found


def _outside(numbers: Sequence[float], wanted: Sequence[float]) -> str:
    """Return how numbers leave the sample's range; a sample of one value, a placeholder, has none unless a fraction."""
    if not numbers or not wanted:
        return ""
    fractions = any(0 < value < 1 for value in wanted)
    if min(wanted) >= 0 and max(wanted) <= 1 and (fractions or len(set(wanted)) > 1):
        low, high, told = 0.0, 1.0, "the sample's are in [0, 1]"
    elif all(value.is_integer() for value in wanted) and 1 < len(set(wanted)) <= _LABELS:
        low, high = min(wanted), max(wanted)
        told = f"the sample's are whole numbers in [{low:g}, {high:g}]"
    elif len(set(wanted)) > 1 and min(wanted) >= 0:
        low, high, told = 0.0, math.inf, "the sample has no negative value"
    else:
        return ""
    outside = [value for value in numbers if not low <= value <= high]
    return f"has {len(outside)} values such as {outside[0]:g}, and {told}" if outside else ""


def _unseen(values: Sequence[str], wanted: Sequence[str]) -> str:
    """Return which labels the sample never names, if its words are labels: few, and repeated."""
    known = set(wanted)
    if _numbers(wanted) or not 1 < len(known) <= min(_LABELS, len(wanted) - 1):
        return ""
    odd = sorted(set(values) - known)
    if not odd or _numbers(values) or any(" " in value for value in known):
        return ""
    return f"names {_names(odd)}, which the sample never does"


def _names(names: Iterable[str]) -> str:
    every = list(names)
    return ", ".join(f"'{name}'" for name in every[:_SHOWN]) + (", ..." if len(every) > _SHOWN else "")
