"""Write the submission and compare it with the sample before Kaggle does.

This file is part of offline-kit and is pasted into the notebooks that it renders.
"""

import csv
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from offline_kit.notebook.runtime.kit_runtime import LONGEST_CELL, KitError, Say, in_scoring_run, shorten_list

EMPTY = frozenset({"", "nan", "none", "null", "na", "n/a", "<na>", "inf", "-inf", "nat"})
"""Cells that no metric can score."""
BEGINS = frozenset({"", " ", *"nNiI-<"})
"""How they begin: most cells need no second look."""
LOOKED = 1000
"""Rows that decide whether a column has numbers or words."""


@dataclass(frozen=True)
class Context:
    """The argument of a user's `function`."""

    input: Path | None
    """The competition's data; None when no competition is attached."""
    inputs: dict[str, Path]
    """Every attached source, by its slug."""
    kit: Path
    """The restored kit."""
    checkpoints: tuple[Path, ...]
    """The checkpoints, under their original names."""
    working: Path
    """Where output files go."""
    submission: Path
    """The file to submit."""
    params: dict[str, Any]
    """[tool.offline-kit.notebook.params]."""
    device: str
    """"cpu" or "cuda"."""


def write_submission(result: Any, submission: Path, say: Say = print) -> None:
    """Write what was predicted: a data frame, rows as dictionaries, a path, or None for "written already".

    Raises KitError when it is none of these, or when no file came of it.
    """
    submission.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(result, str | Path):
        if Path(result).resolve() != submission.resolve():
            shutil.copyfile(result, submission)
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
    say(f"submission: {submission}, {submission.stat().st_size} bytes")


def _write_rows(result: Any, submission: Path) -> None:
    many = isinstance(result, Iterable) and not isinstance(result, Mapping)
    rows = list(result) if many else []
    if not rows or not all(isinstance(row, Mapping) for row in rows):
        raise KitError(
            f"a submission cannot be written from {'no rows' if many and not rows else type(result).__name__}",
            code="submission-type-unsupported",
            hint="return a pandas.DataFrame, or a list of dictionaries (column: value), one for each row",
        )
    with submission.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def check_submission(submission: Path, data: Path | None, say: Say = print) -> None:
    """Compare a CSV with the competition's sample; raises KitError with every problem that would spoil the score.

    In Kaggle's own scoring run every finding is only reported: an exception would throw away a file that is
    already written, and the sample may still be that of the public test set. A check that breaks is reported
    as well, in any run.
    """
    try:
        _compare_sample(submission, data, say)
    except KitError as error:
        if not in_scoring_run():
            raise
        say(f"note: {error}")
    except Exception as error:  # noqa: BLE001 - whatever breaks in a check, the submission is written
        say(f"note: the submission could not be checked: {type(error).__name__}: {error}")


def _compare_sample(submission: Path, data: Path | None, say: Say) -> None:
    sample = find_sample(data) if data else None
    if submission.suffix.lower() != ".csv" or sample is None:
        say(f"submission: not compared, {'no sample was found' if sample is None else 'it is not a CSV'}")
        return
    own_digest, sample_digest = digest_table(submission), digest_table(sample)
    problems, doubts = compare_digests(own_digest, sample_digest)
    scoring = in_scoring_run()
    if scoring:
        for line in doubts:
            say(f"note: differs from '{sample.name}': {line}")
    findings = problems if scoring else problems + doubts
    if findings:
        raise KitError(
            f"'{submission.name}' is not what '{sample.name}' asks for",
            findings,
            code="submission-invalid",
            hint="fix the code that creates the rows, and run again",
        )
    kinds = find_kind_changes(own_digest, sample_digest)
    for line in kinds:
        say(f"note: {line}")
    say(f"submission: agrees with '{sample.name}'{' in columns and ids' if kinds else ''}")


def find_sample(data: Path) -> Path | None:
    """Return the sample submission at the top of the competition's data; None if there is none."""
    candidates = [path for path in sorted(data.glob("*.csv")) if "submission" in path.name.lower()]
    return next(
        (path for path in candidates if "sample" in path.name.lower()), candidates[0] if candidates else None
    )


@dataclass
class TableDigest:
    """What a comparison needs of a CSV file; files of ten million rows are read once and not kept."""

    header: list[str]
    ids: Counter[str]
    """How often each value of the first column occurs."""
    empty: list[list[int]]
    """For each column, the lines whose cell is empty."""
    ragged: list[int]
    """Lines of another width than the header's."""
    kinds: list[dict[str, str]]
    """For each column, a first "number" and a first "word" of its first rows, if it has some."""

    @property
    def rows(self) -> int:
        """Number of rows below the header."""
        return sum(self.ids.values()) + len(self.ragged)


def digest_table(path: Path) -> TableDigest:
    """Read a CSV file."""
    with path.open(newline="", encoding="utf-8-sig", errors="replace") as stream:
        csv.field_size_limit(LONGEST_CELL)
        reader = csv.reader(stream)
        header = next(reader, [])
        table = TableDigest(header, Counter(), [[] for _ in header], [], [{} for _ in header])
        for row in reader:
            if row and len(row) != len(header):
                table.ragged.append(reader.line_num)
            elif row:
                table.ids[row[0]] += 1
                for cell, lines in zip(row, table.empty, strict=True):
                    if cell[:1] in BEGINS and cell.strip().lower() in EMPTY:
                        lines.append(reader.line_num)
                if reader.line_num <= LOOKED:
                    for cell, kinds in zip(row, table.kinds, strict=True):
                        kinds.setdefault(_classify_cell(cell), cell)
    return table


def _classify_cell(cell: str) -> str:
    if cell.strip().lower() in EMPTY:
        return "empty"
    try:
        float(cell)
    except ValueError:
        return "word"
    return "number"


def compare_digests(submission: TableDigest, sample: TableDigest) -> tuple[list[str], list[str]]:
    """Return the problems of a submission, and doubts: what hidden data may explain, as other ids and rows."""
    if submission.header != sample.header:
        return [f"columns: {shorten_list(submission.header)} instead of {shorten_list(sample.header)}"], []
    problems = [] if submission.rows else ["it has no rows"]
    if submission.ragged:
        problems.append(
            f"rows of another width than {len(submission.header)}: line {shorten_list(submission.ragged)}"
        )
    doubts = []
    for name, lines, allowed, kinds in zip(
        submission.header, submission.empty, sample.empty, submission.kinds, strict=True
    ):
        problem = f"column '{name}': empty, NaN or infinite in {len(lines)} rows, line {shorten_list(lines)}"
        if lines and not allowed:
            problems.append(problem)
        elif lines and len(allowed) == sample.rows and _are_holes(len(lines), submission.rows, kinds):
            # All of the sample's are empty: they hold the place of what is to be predicted.
            doubts.append(problem)
    twice = [name for name, count in submission.ids.items() if count > 1]
    if twice and max(sample.ids.values(), default=1) == 1:
        problems.append(
            f"column '{submission.header[0]}': {len(twice)} ids stand there more than once: {shorten_list(twice)}"
        )
    doubts += [f"{submission.rows} rows instead of {sample.rows}"] if submission.rows != sample.rows else []
    for text, names in (
        ("missing", sample.ids.keys() - submission.ids.keys()),
        ("unknown", submission.ids.keys() - sample.ids.keys()),
    ):
        if names:
            doubts.append(f"{len(names)} {text} ids: {shorten_list(sorted(names))}")
    return problems, doubts


def _are_holes(empty: int, rows: int, kinds: Mapping[str, str]) -> bool:
    """Whether empty cells are holes: among words (lists, masks) they mean that nothing was found."""
    return empty == rows or ("number" in kinds and "word" not in kinds)


def find_kind_changes(submission: TableDigest, sample: TableDigest) -> list[str]:
    """Return the columns with numbers for which the sample has only words, as if labels were expected."""
    return [
        f"column '{name}' has numbers ({own_kinds['number']}), and the sample words ({sample_kinds['word']}): "
        'is `postprocess` missing, such as "argmax"?'
        for name, own_kinds, sample_kinds in list(
            zip(submission.header, submission.kinds, sample.kinds, strict=False)
        )[1:]
        if "word" in sample_kinds
        and "number" not in sample_kinds
        and "number" in own_kinds
        and "word" not in own_kinds
    ]
