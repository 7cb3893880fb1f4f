"""Check a submission: what Kaggle would score as an error, and what it accepts but scores badly."""

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from offline_kit.core import files
from offline_kit.notebook.runtime import kit_submission
from offline_kit.notebook.runtime.kit_runtime import read_csv_rows
from offline_kit.notebook.runtime.kit_submission import EMPTY, TableDigest

_MAX_EXAMPLES = 3
_ROUNDING = 1e-4  # relative, between two runs: sums depend on the order of the batches
_MIN_ROWS = 3  # fewer rows may well have one value
_CONSTANT = "predictions-constant"  # code of the warning; the hidden run's error has it too
_MAX_LABELS = 50  # distinct words in a column of class names


@dataclass(frozen=True, kw_only=True)
class SubmissionCheck:
    """The result of checking a submission."""

    rows: int  # without the header; 0 if the format cannot be read
    problems: tuple[str, ...] = ()  # what Kaggle would refuse or score as an error
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    """What may still spoil the score; never problems, because each may be intended."""
    is_placeholder: bool = False  # all rows have the same predictions, or the sample's


@dataclass(frozen=True, kw_only=True)
class SubmissionTable:
    """A CSV file, or its first rows."""

    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]] = field(repr=False)
    is_whole: bool = True

    def column_values(self, name: str) -> list[str]:
        """Return the values of a column, "" for rows that are too short; [] if there is no such column."""
        if name not in self.header:
            return []
        index = self.header.index(name)
        return [row[index] if index < len(row) else "" for row in self.rows]

    def ids(self) -> list[str]:
        """Return the values of the first column."""
        return self.column_values(self.header[0]) if self.header else []


@dataclass(frozen=True, kw_only=True)
class _Column:
    """A column of predictions beside the sample's."""

    name: str
    values: list[str]
    sample: list[str]  # [] if the sample has no such column

    @cached_property
    def numbers(self) -> list[float]:
        return parse_numbers(self.values)

    @cached_property
    def sample_numbers(self) -> list[float]:
        return parse_numbers(self.sample)

    def find_words(self) -> str:
        """Describe words where the sample has numbers; "" for none."""
        odd = [value for value in self.values if value.strip().lower() not in EMPTY and not _is_number(value)]
        if not odd or not self.sample or not all(map(_is_number, self.sample)):
            return ""
        return f"column '{self.name}' has {len(odd)} values that are not numbers ({_quote_examples(odd)})"

    def describe_out_of_range(self) -> str:
        """Describe how values leave the sample's range or labels; "" if they do not, or if the sample has placeholders."""
        if not (self.numbers and self.sample_numbers):
            return "" if self.numbers or self.sample_numbers else self._describe_unknown_labels()
        distinct = set(self.sample_numbers)
        lowest, highest, varied = min(distinct), max(distinct), len(distinct) > 1
        if lowest >= 0 and highest <= 1 and (varied or 0 < lowest < 1):
            low, high, expected = 0.0, 1.0, "the sample's are in [0, 1]"
        elif varied and len(distinct) <= _MAX_LABELS and all(map(float.is_integer, distinct)):
            low, high = lowest, highest
            expected = f"the sample's are whole numbers in [{low:g}, {high:g}]"
        elif varied and lowest >= 0:
            low, high, expected = 0.0, math.inf, "the sample has no negative value"
        else:
            return ""
        outside = [value for value in self.numbers if not low <= value <= high]
        return f"has {len(outside)} values such as {outside[0]:g}, and {expected}" if outside else ""

    def _describe_unknown_labels(self) -> str:
        """Name labels that the sample lacks, if its words are labels: few, repeated, and without spaces."""
        labels = set(self.sample)
        few_labels = 1 < len(labels) <= min(_MAX_LABELS, len(self.sample) - 1)
        odd = sorted(set(self.values) - labels)
        if not few_labels or not odd or any(" " in value for value in labels):
            return ""
        return f"names {_quote_examples(odd)}, which the sample never names"


def read_table(path: Path, *, max_cells: int | None = None) -> SubmissionTable:
    """Read a CSV file without its empty lines; with `max_cells` only so many cells, but at least a thousand rows."""
    with path.open(newline="", encoding="utf-8-sig", errors="replace") as stream:
        rows = (tuple(row) for row in read_csv_rows(line.replace("\0", "") for line in stream) if row)
        header = next(rows, ())
        limit = None if max_cells is None else max(1000, max_cells // max(1, len(header)))
        first_rows = list(itertools.islice(rows, limit))
        return SubmissionTable(header=header, rows=first_rows, is_whole=next(rows, None) is None)


def check_submission(
    submission: Path, sample: Path | None, *, table: Path | None = None, trusted: bool = False
) -> SubmissionCheck:
    """Compare a submission with the sample submission of the same test set.

    It checks columns and their order, ids (the first column), the number of rows, repeated ids, empty values if the
    sample has none, infinities, and numbers if the sample's have a decimal point (whole numbers may stand for lists of
    labels, so other values are only noted). Without a sample it checks the submission alone.

    `table` is a submission of another format, converted to CSV; without it only its size is known. `trusted` says that
    the competition's own gateway chose ids, rows and columns, so differences from the sample are only noted.
    """
    if submission.stat().st_size == 0:
        return SubmissionCheck(rows=0, problems=(f"'{submission.name}' is empty",))
    if submission.suffix.lower() != ".csv" and table is None:
        size = files.format_size(submission.stat().st_size)
        return SubmissionCheck(rows=0, notes=(f"{size}; only CSV is compared with the sample",))
    written, digest = read_table(table or submission), kit_submission.digest_table(table or submission)
    if not written.rows:
        return SubmissionCheck(rows=0, problems=(f"'{submission.name}' has a header, but no rows",))
    reference, sample_digest = SubmissionTable(header=(), rows=[]), None
    comparison = "no sample_submission.csv to compare with"
    if sample and sample.suffix.lower() == ".csv":
        reference, sample_digest = read_table(sample), kit_submission.digest_table(sample)
        count = f"{len(reference.rows)} rows, {len(reference.header)} columns"
        comparison = f"compared with '{sample.name}': {count}"
    problems, notes = _compare_digests(digest, sample_digest, trusted=trusted)
    columns = [
        _Column(name=name, values=written.column_values(name), sample=reference.column_values(name))
        for name in written.header[1:]
    ]
    if sample_digest and written.header == reference.header:
        for column in columns:
            if text := column.find_words():
                has_decimals = any("." in value for value in column.sample)
                lines = problems if has_decimals else notes
                lines.append(text if has_decimals else f"{text}; the sample has whole numbers there")
        notes += kit_submission.find_kind_changes(digest, sample_digest)
    equals_sample = _equals_sample(written, reference)
    return SubmissionCheck(
        rows=len(written.rows),
        problems=tuple(problems),
        notes=(*notes, comparison, *_describe_numbers(columns)),
        warnings=tuple(_warn_of_predictions(columns, equals_sample=equals_sample)),
        is_placeholder=equals_sample or _is_constant(written),
    )


def _compare_digests(
    digest: TableDigest, sample: TableDigest | None, *, trusted: bool
) -> tuple[list[str], list[str]]:
    """Return the problems that Kaggle calls a Submission Scoring Error, and what is only noted.

    They are in https://www.kaggle.com/code-competition-debugging.
    """
    ids = digest.ids if trusted else Counter[str]()  # with ids of its own, none repeats that may not
    blank = TableDigest(digest.header, ids, [[] for _ in digest.header], [], digest.kinds)
    own_problems = kit_submission.compare_digests(digest, blank)[0]
    if sample is None:
        return own_problems, []
    problems, differences = kit_submission.compare_digests(digest, sample)
    if not trusted:
        return [*problems, *differences], []
    return own_problems, [line for line in (*problems, *differences) if line not in own_problems]


def _describe_numbers(columns: Iterable[_Column]) -> list[str]:
    """Return notes with minimum, mean and maximum of each column of numbers."""
    facts = [(column.name, summarize_numbers(column.numbers)) for column in columns if column.numbers]
    notes = [f"column '{name}': min {f['min']:g}, mean {f['mean']:g}, max {f['max']:g}" for name, f in facts]
    omitted = len(notes) - _MAX_LABELS
    return [*notes[:_MAX_LABELS], *([f"{omitted} more columns of numbers"] if omitted > 0 else [])]


def _warn_of_predictions(columns: Sequence[_Column], *, equals_sample: bool) -> Iterator[str]:
    """Warn of predictions that are constant, equal to the sample, out of its range, or labels that it does not know."""
    if equals_sample:
        names = _quote_examples([column.name for column in columns])
        yield f"the predictions equal the sample's in every row: column {names} ({_CONSTANT})"
    constant: dict[str, list[str]] = {}
    for column in columns:
        if len(column.values) >= _MIN_ROWS and len(set(column.values)) == 1 and not equals_sample:
            constant.setdefault(column.values[0], []).append(column.name)
        if odd := column.describe_out_of_range():
            yield f"column '{column.name}' {odd}"
    for value, names_of_value in constant.items():
        names = _quote_examples(names_of_value)
        yield f"column {names} has the same value in every row: {value or 'empty'} ({_CONSTANT})"


def _is_constant(table: SubmissionTable) -> bool:
    return len(table.rows) >= _MIN_ROWS and len({row[1:] for row in table.rows}) == 1


def _equals_sample(table: SubmissionTable, reference: SubmissionTable) -> bool:
    """Whether the submission has the sample's rows and values: then the notebook copied it."""
    return len(table.rows) >= _MIN_ROWS and not compare_tables(table, reference, 0)


def check_output_files(working: Path, limit: int) -> list[str]:
    """Return a warning if the working folder, which Kaggle saves as the output, has more files than that."""
    number = sum(not path.is_dir() for path in working.rglob("*"))
    if number <= limit:
        return []
    # Only in the end: what is written and deleted again is no output.
    advice = f"it is meant for {limit}, and lists more slowly: write other files than the submission to /tmp"
    return [f"/kaggle/working has {number} files that Kaggle saves; {advice}"]


def find_stored_answer(submission: Path, tables: Iterable[Path]) -> Path | None:
    """Return the first table that contains all rows of the submission, with its predictions; None if none does."""
    written = read_table(submission)
    rows = set(written.rows)
    for table in tables if rows else ():
        with table.open(newline="", encoding="utf-8-sig", errors="replace") as stream:
            reader = read_csv_rows(stream)
            if tuple(next(reader, [])) == written.header and rows <= {tuple(row) for row in reader}:
                return table
    return None


def describe_difference(first: Path, second: Path, *, tolerance: float = _ROUNDING) -> str:
    """Describe how two submissions of the same rows differ; see `compare_tables`."""
    return compare_tables(read_table(first), read_table(second), tolerance)


def compare_tables(first_table: SubmissionTable, second_table: SubmissionTable, tolerance: float) -> str:
    """Describe how two submissions of the same rows differ; "" if only by rounding.

    Rows are matched by their ids, the first column; if those repeat, whole rows are compared.
    """
    if first_table.header != second_table.header:
        return f"the columns {', '.join(first_table.header)} and then {', '.join(second_table.header)}"
    first_rows, second_rows = _index_by_id(first_table), _index_by_id(second_table)
    changed = []
    for name in [name for name in first_rows if name in second_rows]:
        cells = zip(first_table.header, first_rows[name], second_rows[name], strict=False)
        changed += [(name, *cell) for cell in cells if not _is_same_value(*cell[1:], tolerance=tolerance)][:1]
    lost = len(first_rows.keys() ^ second_rows.keys())
    if not changed:
        return f"{lost} rows are in only one of the two" if lost else ""
    name, column, first_value, second_value = changed[0]
    rows = f"{len(changed)} of {len(first_rows)} row{'s' * (len(first_rows) > 1)}"
    return f"{rows}, as '{name}' in column '{column}': {first_value}, then {second_value}"


def _index_by_id(table: SubmissionTable) -> dict[str, tuple[str, ...]]:
    ids = table.ids()
    if len(set(ids)) == len(ids):
        return dict(zip(ids, table.rows, strict=True))
    return {f"row {number}": row for number, row in enumerate(sorted(table.rows), 1)}


def _is_same_value(first: str, second: str, *, tolerance: float) -> bool:
    """Whether two cells have the same words, of which numbers may differ by a relative tolerance."""
    words, others = first.split(), second.split()
    return first == second or (
        len(words) == len(others)
        and all(_is_same_word(*pair, tolerance) for pair in zip(words, others, strict=True))
    )


def _is_same_word(first: str, second: str, tolerance: float) -> bool:
    number, other = parse_number(first), parse_number(second)
    if first == second or number is None or other is None:
        return first == second
    both_nan = math.isnan(number) and math.isnan(other)
    return both_nan or math.isclose(number, other, rel_tol=tolerance, abs_tol=tolerance / 100)


def parse_number(value: str) -> float | None:
    """Return a cell as a number; None if it is none."""
    try:
        return float(value)
    except ValueError:
        return None


def parse_numbers(values: Iterable[str]) -> list[float]:
    """Return the values as numbers, without the empty ones; [] if one of them is not a finite number."""
    try:
        numbers = [float(value) for value in values if value.strip()]
    except ValueError:
        return []
    return numbers if all(map(math.isfinite, numbers)) else []


def summarize_numbers(numbers: Sequence[float]) -> dict[str, float]:
    """Return "min", "mean" and "max"."""
    largest = max(map(abs, numbers)) or 1.0
    # Scaled, because the sum of large values may overflow while their mean does not.
    mean = math.fsum(number / largest for number in numbers) / len(numbers) * largest
    return {"min": min(numbers), "mean": mean, "max": max(numbers)}


def _is_number(value: str) -> bool:
    return parse_number(value) is not None


def _quote_examples(names: Sequence[str]) -> str:
    ellipsis = ", ..." if len(names) > _MAX_EXAMPLES else ""
    return ", ".join(f"'{name}'" for name in names[:_MAX_EXAMPLES]) + ellipsis
