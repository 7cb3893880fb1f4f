"""Compare a submission with the sample, to find what Kaggle would score as an error."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from offline_kit.core import files
from offline_kit.notebook.runtime.kit_runtime import read_csv_rows
from offline_kit.rehearsal import suspicious

_MAX_EXAMPLES = 3
_ROUNDING = 1e-4  # relative, between two runs: sums depend on the order of the batches
_NOTHING = frozenset({"", "nan", "none", "null", "na"})


@dataclass(frozen=True, kw_only=True)
class SubmissionCheck:
    """The result of checking a submission."""

    rows: int
    """Without the header; 0 if the format cannot be read."""
    problems: tuple[str, ...]
    """What Kaggle would refuse or score as an error."""
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    """What may still spoil the score."""


@dataclass(frozen=True, kw_only=True)
class SubmissionTable:
    """A CSV file: its header and its rows."""

    header: tuple[str, ...]
    rows: list[list[str]] = field(repr=False)

    def column_values(self, name: str) -> list[str]:
        """Return the values of a column, "" for rows that are too short."""
        index = self.header.index(name)
        return [row[index] if index < len(row) else "" for row in self.rows]

    def first_rows(self) -> dict[str, list[str]]:
        """Return the first row of each id, the value of the first column."""
        rows: dict[str, list[str]] = {}
        for row in self.rows:
            rows.setdefault(row[0], row)
        return rows


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
        return SubmissionCheck(rows=0, problems=(), notes=(f"{size}; only CSV is compared with the sample",))
    written_table, broken = read_table(table or submission)
    if not written_table.rows:
        return SubmissionCheck(rows=0, problems=(f"'{submission.name}' has a header, but no rows",))
    sample_table = read_table(sample)[0] if sample and sample.suffix.lower() == ".csv" else None
    problems, notes = [*broken, *_check_empty_values(written_table, sample_table)], list[str]()
    (notes if trusted else problems).extend(_check_repeated_ids(written_table, sample_table))
    if sample and sample_table:
        (notes if trusted else problems).extend(_compare_with_sample(written_table, sample_table))
        for name, odd in _find_non_numbers(written_table, sample_table).items():
            text = f"column '{name}' has {len(odd)} values that are not numbers ({_quote_examples(odd)})"
            if any("." in value for value in sample_table.column_values(name)):
                problems.append(text)
            else:
                notes.append(f"{text}; the sample has whole numbers there")
        notes += _note_missing_words(written_table, sample_table)
        notes.append(
            f"compared with '{sample.name}': {len(sample_table.rows)} rows, {len(sample_table.header)} columns"
        )
    else:
        notes.append("no sample_submission.csv to compare with")
    same_rows = bool(sample_table) and _list_ids(written_table) == _list_ids(sample_table)
    warnings, figures = suspicious.check_predictions(
        _select_predictions(written_table),
        _select_predictions(sample_table) if sample_table else {},
        same_rows=same_rows,
    )
    return SubmissionCheck(
        rows=len(written_table.rows),
        problems=tuple(problems),
        notes=(*notes, *figures),
        warnings=tuple(warnings),
    )


def find_stored_answer(submission: Path, tables: Iterable[Path]) -> Path | None:
    """Return the first table that contains all rows of the submission, with its predictions; None if none does."""
    written_table = read_table(submission)[0]
    rows = {tuple(row) for row in written_table.rows}
    for table in tables:
        with table.open(newline="", encoding="utf-8-sig", errors="replace") as stream:
            reader = read_csv_rows(stream)
            if tuple(next(reader, [])) != written_table.header:
                continue
            if rows and rows <= {tuple(row) for row in reader}:
                return table
    return None


def _list_ids(table: SubmissionTable | None) -> list[str]:
    return table.column_values(table.header[0]) if table and table.header else []


def _select_predictions(table: SubmissionTable) -> dict[str, list[str]]:
    return {name: table.column_values(name) for name in table.header[1:]}


def describe_difference(first: Path, second: Path) -> str:
    """Describe how two submissions of the same rows differ; "" if only by rounding.

    Rows are matched by their ids, the first column; if those repeat, whole rows are compared.
    """
    first_table, second_table = read_table(first)[0], read_table(second)[0]
    if first_table.header != second_table.header:
        return f"the columns {', '.join(first_table.header)} and then {', '.join(second_table.header)}"
    first_rows, second_rows = _index_by_id(first_table), _index_by_id(second_table)
    compared_rows = [
        (name, *_find_differing_values(first_rows[name], second_rows[name]))
        for name in first_rows
        if name in second_rows
    ]
    changed = [values for values in compared_rows if values[1:] != ("", "")]
    lost = len(first_rows.keys() ^ second_rows.keys())
    if not changed:
        return f"{lost} rows are in only one of the two" if lost else ""
    name, first_value, second_value = changed[0]
    rows = "row" if len(first_rows) == 1 else "rows"
    return f"{len(changed)} of {len(first_rows)} {rows}, as '{name}': {first_value}, then {second_value}"


def _index_by_id(table: SubmissionTable) -> dict[str, list[str]]:
    ids = table.column_values(table.header[0]) if table.header else []
    if len(set(ids)) == len(ids):
        return dict(zip(ids, table.rows, strict=True))
    return {f"row {number}": row for number, row in enumerate(sorted(table.rows), 1)}


def _find_differing_values(first: Sequence[str], second: Sequence[str]) -> tuple[str, str]:
    """Return the first values of two rows that differ."""
    return next(((a, b) for a, b in zip(first, second, strict=False) if not _is_same_value(a, b)), ("", ""))


def _is_same_value(first: str, second: str) -> bool:
    numbers = parse_number(first), parse_number(second)
    if first == second or numbers[0] is None or numbers[1] is None:
        return first == second
    return is_close(numbers[0], numbers[1], relative=_ROUNDING, absolute=_ROUNDING / 100)


def read_table(path: Path) -> tuple[SubmissionTable, list[str]]:
    """Read a CSV file without its empty lines; also return the problems of its rows."""
    with path.open(newline="", encoding="utf-8-sig", errors="replace") as stream:
        table = [row for row in read_csv_rows(line.replace("\0", "") for line in stream) if row]
    head = tuple(table[0]) if table else ()
    wrong = [number for number, row in enumerate(table[1:], 2) if len(row) != len(head)]
    first_lines = ", ".join(map(str, wrong[:_MAX_EXAMPLES]))
    problems = (
        [f"{len(wrong)} rows have another number of values than the header (line {first_lines})"]
        if wrong
        else []
    )
    return SubmissionTable(header=head, rows=table[1:]), problems


def _check_repeated_ids(table: SubmissionTable, sample_table: SubmissionTable | None) -> list[str]:
    sample_ids = (
        sample_table.column_values(sample_table.header[0]) if sample_table and sample_table.header else []
    )
    if len(set(sample_ids)) < len(sample_ids):
        return []  # for example, one row for each box in an image
    counts = Counter(table.column_values(table.header[0]))
    repeated_ids = [name for name, count in counts.items() for _ in range(count - 1)]
    return (
        [f"{len(repeated_ids)} ids occur more than once ({_quote_examples(repeated_ids)})"]
        if repeated_ids
        else []
    )


def _check_empty_values(table: SubmissionTable, sample_table: SubmissionTable | None) -> list[str]:
    problems = []
    for name in table.header:
        values = table.column_values(name)
        sample_values = (
            sample_table.column_values(name) if sample_table and name in sample_table.header else []
        )
        empty = 0 if _may_be_empty(values, sample_values) else sum(map(_is_empty_value, values))
        endless = sum(value.strip().lower().lstrip("+-") in ("inf", "infinity") for value in values)
        problems += [f"column '{name}' has {empty} empty or NaN values"] if empty else []
        problems += [f"column '{name}' has {endless} infinite values"] if endless else []
    return problems


def _may_be_empty(values: Sequence[str], sample_values: Sequence[str]) -> bool:
    """Whether empty cells are valid answers, for example for an image without objects.

    They are if some of the sample's cells are empty. If all are, they are placeholders: then empty cells are valid
    among words (lists, masks), but not among numbers or alone.
    """
    if not any(map(_is_empty_value, sample_values)):
        return False
    return not all(map(_is_empty_value, sample_values)) or any(
        not _is_empty_value(value) and not _is_number(value) for value in values
    )


def _is_empty_value(value: str) -> bool:
    return value.strip().lower() in _NOTHING


def _compare_with_sample(table: SubmissionTable, sample_table: SubmissionTable) -> list[str]:
    if table.header != sample_table.header:
        return [
            _compare_columns(table.header, sample_table.header),
            *_compare_row_counts(table, sample_table),
        ]
    problems = _compare_row_counts(table, sample_table)
    written_ids, sample_ids = (
        set(table.column_values(table.header[0])),
        set(sample_table.column_values(sample_table.header[0])),
    )
    if missing := sorted(sample_ids - written_ids):
        problems.append(f"{len(missing)} ids of the sample are missing ({_quote_examples(missing)})")
    if extra := sorted(written_ids - sample_ids):
        problems.append(f"{len(extra)} ids are not in the sample ({_quote_examples(extra)})")
    return problems


def _find_non_numbers(table: SubmissionTable, sample_table: SubmissionTable) -> dict[str, list[str]]:
    """Return the values that are not numbers in columns in which the sample has only numbers."""
    non_numbers = {}
    for name in sample_table.header[1:] if table.header == sample_table.header else ():
        odd = [
            value
            for value in table.column_values(name)
            if not _is_number(value) and not _is_empty_value(value)
        ]
        if odd and all(_is_number(value) for value in sample_table.column_values(name)):
            non_numbers[name] = odd
    return non_numbers


def _note_missing_words(table: SubmissionTable, sample_table: SubmissionTable) -> list[str]:
    """Note columns that have only numbers, while the sample has only words, such as class names."""
    notes = []
    for name in sample_table.header[1:] if table.header == sample_table.header else ():
        written_values, sample_values = (
            [value for value in values_table.column_values(name) if not _is_empty_value(value)]
            for values_table in (table, sample_table)
        )
        if (
            written_values
            and sample_values
            and all(map(_is_number, written_values))
            and not any(map(_is_number, sample_values))
        ):
            notes.append(
                f"column '{name}' has numbers ({written_values[0]}), and the sample words ({sample_values[0]}): "
                'is `postprocess` missing, such as "argmax"?'
            )
    return notes


def _compare_columns(written_columns: Sequence[str], sample_columns: Sequence[str]) -> str:
    if sorted(written_columns) == sorted(sample_columns):
        return f"the columns are in another order: {', '.join(written_columns)} instead of {', '.join(sample_columns)}"
    missing = [name for name in sample_columns if name not in written_columns]
    extra = [name for name in written_columns if name not in sample_columns]
    differences = [f"missing {_quote_examples(missing)}"] if missing else []
    differences += [f"not in the sample: {_quote_examples(extra)}"] if extra else []
    return f"the columns differ from the sample's: {'; '.join(differences)}"


def _compare_row_counts(table: SubmissionTable, sample_table: SubmissionTable) -> list[str]:
    row_count, sample_count = len(table.rows), len(sample_table.rows)
    return [f"{row_count} rows instead of {sample_count}"] if row_count != sample_count else []


def parse_number(value: str) -> float | None:
    """Return a value as a number; None if it is not one."""
    try:
        return float(value)
    except ValueError:
        return None


def is_close(first: float, second: float, *, relative: float, absolute: float) -> bool:
    """Whether two numbers agree within these tolerances; NaN agrees with NaN."""
    if math.isnan(first) and math.isnan(second):
        return True
    return math.isclose(first, second, rel_tol=relative, abs_tol=absolute)


def _is_number(value: str) -> bool:
    return parse_number(value) is not None


def _quote_examples(names: Sequence[str]) -> str:
    ellipsis = ", ..." if len(names) > _MAX_EXAMPLES else ""
    return ", ".join(f"'{name}'" for name in names[:_MAX_EXAMPLES]) + ellipsis
