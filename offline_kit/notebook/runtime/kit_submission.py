"""Write the submission and compare it with the sample before Kaggle does."""

import csv
import importlib
import importlib.util
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .kit_runtime import KitError, in_scoring_run, read_csv_rows, shorten_list

EMPTY = frozenset(
    {"", "nan", "none", "null", "na", "n/a", "<na>", "nat"} | {"inf", "-inf", "infinity", "-infinity"}
)
"""Cells that no metric can score."""
BEGINS = frozenset({"", " ", *"nNiI-<"})  # how they begin: most cells need no second look
SHOWN_ROWS, SHOWN_COLUMNS = 100_000, 6
LOOKED = 1000  # rows that decide whether a column has numbers or words


def write_submission(result: Any, submission: Path) -> None:
    """Write what was predicted: a data frame, rows as dictionaries, a path, or None for "written already"."""
    submission.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(result, str | Path):
        if Path(result).resolve() != submission.resolve():
            shutil.copyfile(result, submission)
    # By what it can do: neither pandas nor polars need be installed.
    elif hasattr(result, "to_csv"):
        result.to_csv(submission, index=False)
    elif hasattr(result, "write_csv"):
        result.write_csv(submission)
    elif result is not None:
        _write_rows(result, submission)
    if not submission.is_file() or submission.stat().st_size == 0:
        raise KitError(
            f"'{submission}' was not written",
            code="submission-not-written",
            hint="return a data frame or rows, or write the file yourself",
        )
    print(f"submission: {submission}, {submission.stat().st_size} bytes")


def _write_rows(result: Any, submission: Path) -> None:
    is_list = isinstance(result, Iterable) and not isinstance(result, Mapping)
    rows = list(result) if is_list else []
    if not rows or not all(isinstance(row, Mapping) for row in rows):
        raise KitError(
            f"a submission cannot be written from {'no rows' if is_list and not rows else type(result).__name__}",
            code="submission-type-unsupported",
        )
    with submission.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def check_submission(submission: Path, data: Path | None) -> None:
    """Compare a CSV with the competition's sample; raises KitError with every problem that would spoil the score."""
    # In the scoring run every finding is only reported: an exception would throw away a file that is already written,
    # and the sample may still be that of the public test set.
    try:
        _compare_sample(submission, data)
    except KitError as error:
        if not in_scoring_run():
            raise
        print(f"note: {error}")
    except Exception as error:  # noqa: BLE001 - whatever breaks in a check, the submission is written
        print(f"note: the submission could not be checked: {type(error).__name__}: {error}")


def show_submission(submission: Path) -> None:
    """Show statistics of a CSV's first rows, and a histogram of each column of numbers if matplotlib is there."""
    # For whoever looks at the notebook: nothing here may cost a run its submission, neither an error nor memory.
    if in_scoring_run() or submission.suffix.lower() != ".csv":
        return
    with suppress(Exception):
        table = importlib.import_module("pandas").read_csv(submission, nrows=SHOWN_ROWS)
        print(table.describe(include="all").to_string(max_cols=SHOWN_COLUMNS))
        numbers = table[table.columns[1:]].select_dtypes("number").iloc[:, :SHOWN_COLUMNS]
        if importlib.util.find_spec("matplotlib") and len(numbers.columns):
            importlib.import_module("matplotlib.pyplot").close("all")
            numbers.hist(bins=30, figsize=(8, 3), layout=(1, -1))
            importlib.import_module("matplotlib.pyplot").show()


def _compare_sample(submission: Path, data: Path | None) -> None:
    sample = find_sample(data) if data else None
    if submission.suffix.lower() != ".csv" or sample is None:
        print(f"submission: not compared, {'no sample was found' if sample is None else 'it is not a CSV'}")
        return
    own_digest, sample_digest = digest_table(submission), digest_table(sample)
    problems, doubts = compare_digests(own_digest, sample_digest)
    if in_scoring_run():
        for line in doubts:
            print(f"note: differs from '{sample.name}': {line}")
    else:
        problems += doubts
    if problems:
        raise KitError(
            f"'{submission.name}' is not what '{sample.name}' asks for", problems, code="submission-invalid"
        )
    changed_kinds = find_kind_changes(own_digest, sample_digest)
    for line in changed_kinds:
        print(f"note: {line}")
    print(f"submission: agrees with '{sample.name}'{' in columns and ids' if changed_kinds else ''}")


def find_sample(data: Path) -> Path | None:
    """Return the sample submission at the top of the competition's data; None if there is none."""
    # "sample_submission.csv", but also "SampleSubmission.csv" or "submission_format.csv".
    candidates = [path for path in data.glob("*.csv") if re.search("submission|sample_sub", path.name, re.I)]

    def rank(path: Path) -> tuple[bool, bool, str]:
        return path.name != "sample_submission.csv", "sample" not in path.name.lower(), path.name

    return min(candidates, key=rank, default=None)


@dataclass
class TableDigest:
    """What a comparison needs of a CSV file; files of ten million rows are read once and not kept."""

    header: list[str]
    ids: Counter[str]
    empty: list[list[int]]  # for each column, the lines whose cell is empty
    ragged: list[int]
    kinds: list[dict[str, str]]
    """For each column, a first "number", "word" and "empty" of its first rows, if it has some."""

    @property
    def rows(self) -> int:
        """Number of rows below the header."""
        return sum(self.ids.values()) + len(self.ragged)

    def holds_numbers(self, column: int) -> bool:
        """Whether the first rows of a column have numbers, and no words."""
        return "number" in self.kinds[column] and "word" not in self.kinds[column]


def digest_table(path: Path) -> TableDigest:
    """Read a CSV file."""
    with path.open(newline="", encoding="utf-8-sig", errors="replace") as stream:
        reader = read_csv_rows(stream)
        header = next(reader, [])
        table = TableDigest(header, Counter(), [[] for _ in header], [], [{} for _ in header])
        for number, row in enumerate(reader, 2):
            # csv gives an empty row for an empty line.
            if len(row) != len(header):
                table.ragged += [number] if row else []
                continue
            table.ids[row[0]] += 1
            for column, cell in enumerate(row):
                is_empty = cell[:1] in BEGINS and cell.strip().lower() in EMPTY
                if is_empty:
                    table.empty[column].append(number)
                if number <= LOOKED:
                    table.kinds[column].setdefault("empty" if is_empty else _classify_cell(cell), cell)
    return table


def _classify_cell(cell: str) -> str:
    try:
        float(cell)
    except ValueError:
        return "word"
    return "number"


def compare_digests(submission: TableDigest, sample: TableDigest) -> tuple[list[str], list[str]]:
    """Return the problems of a submission, and doubts: what hidden data may explain, as other ids and rows."""
    if submission.header != sample.header:
        order = f"{shorten_list(submission.header)} instead of {shorten_list(sample.header)}"
        absent = [name for name in sample.header if name not in submission.header]
        extra = [name for name in submission.header if name not in sample.header]
        lists = (("missing", absent), ("not in the sample", extra))
        words = "; ".join(f"{text}: {shorten_list(names)}" for text, names in lists if names)
        return [f"columns: {order}{f' ({words})' if words else ''}"], []
    problems = [] if submission.rows else ["it has no rows"]
    doubts = []
    if submission.ragged:
        lines = shorten_list(submission.ragged)
        problems.append(f"rows of another width than {len(submission.header)}: line {lines}")
    for column, name in enumerate(submission.header):
        empty, allowed = submission.empty[column], sample.empty[column]
        problem = f"column '{name}': empty, NaN or infinite in {len(empty)} rows, line {shorten_list(empty)}"
        # Empty cells of the sample hold the place of what is to be predicted. Among words (lists, masks) an empty
        # cell means that nothing was found; among numbers it is a hole.
        are_holes = len(empty) == submission.rows or submission.holds_numbers(column)
        if empty and not allowed:
            problems.append(problem)
        elif empty and len(allowed) == sample.rows and are_holes:
            doubts.append(problem)
    twice = [name for name, count in submission.ids.items() if count > 1]
    if twice and max(sample.ids.values(), default=1) == 1:
        key = submission.header[0]
        problems.append(f"column '{key}': {len(twice)} ids stand there more than once: {shorten_list(twice)}")
    if submission.rows != sample.rows:
        doubts.append(f"{submission.rows} rows instead of {sample.rows}")
    missing, unknown = sample.ids.keys() - submission.ids.keys(), submission.ids.keys() - sample.ids.keys()
    for text, names in (("missing", missing), ("unknown", unknown)):
        doubts += [f"{len(names)} {text} ids: {shorten_list(sorted(names))}"] if names else []
    return problems, doubts


def find_kind_changes(submission: TableDigest, sample: TableDigest) -> list[str]:
    """Return the columns with numbers for which the sample has only words, as if labels were expected."""
    return [
        f"column '{name}' has numbers ({submission.kinds[column]['number']}), and the sample words "
        f'({sample.kinds[column]["word"]}): is `postprocess` missing, such as "argmax"?'
        for column, name in enumerate(submission.header)
        if column and submission.holds_numbers(column)
        if "word" in sample.kinds[column] and "number" not in sample.kinds[column]
    ]
