"""A submission against its sample: what Kaggle would score as an error, found before."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from offline_kit.core import files
from offline_kit.notebook.runtime.kit_runtime import csv_rows
from offline_kit.rehearsal import suspicious

_SHOWN = 3  # examples of each problem
_ROUNDING = 1e-4  # between two runs: batches in another order may be summed up in another
_NOTHING = frozenset({"", "nan", "none", "null", "na"})


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What was found out about a submission."""

    rows: int
    """Rows without the head; 0 where that cannot be told."""
    problems: tuple[str, ...]
    """What Kaggle would refuse, or score as an error."""
    notes: tuple[str, ...] = ()
    """What was compared, or could not be."""
    warnings: tuple[str, ...] = ()
    """What may spoil the score all the same."""


@dataclass(frozen=True, kw_only=True)
class _Table:
    head: tuple[str, ...]
    rows: list[list[str]] = field(repr=False)

    def column(self, name: str) -> list[str]:
        place = self.head.index(name)
        return [row[place] if place < len(row) else "" for row in self.rows]


def check(
    submission: Path, sample: Path | None, *, table: Path | None = None, trusted: bool = False
) -> Checked:
    """Compare a submission with the sample of the test set that it was made for.

    Columns and their order, ids (the first column), number of rows, repeats and empty values where the sample
    has none, infinities, and numbers where the sample has some with a decimal point (whole ones may stand for
    lists of labels: there, other values are only noted). Without a sample only the submission itself is looked
    at. `table` has a submission of another format as CSV; without it, only that there is something in it is
    known. `trusted` says that the competition's own gateway chose ids, rows and columns: there, differences from
    the sample are only noted.
    """
    if submission.stat().st_size == 0:
        return Checked(rows=0, problems=(f"'{submission.name}' is empty",))
    if submission.suffix.lower() != ".csv" and table is None:
        size = files.format_size(submission.stat().st_size)
        return Checked(rows=0, problems=(), notes=(f"{size}; only CSV is compared with the sample",))
    have, broken = _read(table or submission)
    if not have.rows:
        return Checked(rows=0, problems=(f"'{submission.name}' has a head, but no rows",))
    wanted = _read(sample)[0] if sample and sample.suffix.lower() == ".csv" else None
    problems, notes = [*broken, *_holes(have, wanted)], list[str]()
    (notes if trusted else problems).extend(_repeats(have, wanted))
    if sample and wanted:
        (notes if trusted else problems).extend(_against(have, wanted))
        for name, odd in _no_numbers(have, wanted).items():
            text = f"column '{name}' has {len(odd)} values that are no numbers ({_some(odd)})"
            if any("." in value for value in wanted.column(name)):
                problems.append(text)
            else:
                notes.append(f"{text}; the sample has whole numbers there")
        notes += _no_words(have, wanted)
        notes.append(f"compared with '{sample.name}': {len(wanted.rows)} rows, {len(wanted.head)} columns")
    else:
        notes.append("no sample_submission.csv to compare with")
    same_rows = bool(wanted) and _ids(have) == _ids(wanted)
    warnings, figures = suspicious.of_columns(
        _predictions(have), _predictions(wanted) if wanted else {}, same_rows=same_rows
    )
    return Checked(
        rows=len(have.rows),
        problems=tuple(problems),
        notes=(*notes, *figures),
        warnings=tuple(warnings),
    )


def stored_answer(submission: Path, tables: Iterable[Path]) -> Path | None:
    """Return the table among these that has all rows of a submission, its predictions too; None if there is none."""
    mine = _read(submission)[0]
    rows = {tuple(row) for row in mine.rows}
    for table in tables:
        with table.open(newline="", encoding="utf-8-sig", errors="replace") as stream:
            reader = csv_rows(stream)
            if tuple(next(reader, [])) != mine.head:
                continue
            if rows and rows <= {tuple(row) for row in reader}:
                return table
    return None


def _ids(table: _Table | None) -> list[str]:
    return table.column(table.head[0]) if table and table.head else []


def _predictions(table: _Table) -> dict[str, list[str]]:
    return {name: table.column(name) for name in table.head[1:]}


def differing(first: Path, second: Path) -> str:
    """Return how two submissions of the same rows differ, for a person; empty: not at all, but for rounding.

    Rows are told apart by their ids, the first column; where those repeat, all of the row counts.
    """
    one, two = _read(first)[0], _read(second)[0]
    if one.head != two.head:
        return f"the columns {', '.join(one.head)} and then {', '.join(two.head)}"
    mine, yours = _by_id(one), _by_id(two)
    odd = [(name, *_cells(mine[name], yours[name])) for name in mine if name in yours]
    changed = [each for each in odd if each[1:] != ("", "")]
    lost = len(mine.keys() ^ yours.keys())
    if not changed:
        return f"{lost} rows are in one of the two alone" if lost else ""
    name, was, now = changed[0]
    rows = "row" if len(mine) == 1 else "rows"
    return f"{len(changed)} of {len(mine)} {rows}, as '{name}': {was}, then {now}"


def _by_id(table: _Table) -> dict[str, list[str]]:
    ids = table.column(table.head[0]) if table.head else []
    if len(set(ids)) == len(ids):
        return dict(zip(ids, table.rows, strict=True))
    return {f"row {number}": row for number, row in enumerate(sorted(table.rows), 1)}


def _cells(one: Sequence[str], two: Sequence[str]) -> tuple[str, str]:
    """Return the first values of two rows that differ."""
    return next(((a, b) for a, b in zip(one, two, strict=False) if not _same(a, b)), ("", ""))


def _same(one: str, two: str) -> bool:
    if one == two or not (_number(one) and _number(two)):
        return one == two
    a, b = float(one), float(two)
    return math.isclose(a, b, rel_tol=_ROUNDING, abs_tol=_ROUNDING / 100) or (math.isnan(a) and math.isnan(b))


def _read(path: Path) -> tuple[_Table, list[str]]:
    with path.open(newline="", encoding="utf-8-sig", errors="replace") as stream:
        table = [row for row in csv_rows(stream) if row]
    head = tuple(table[0]) if table else ()
    wrong = [number for number, row in enumerate(table[1:], 2) if len(row) != len(head)]
    shown = ", ".join(map(str, wrong[:_SHOWN]))
    problems = (
        [f"{len(wrong)} rows have another number of values than the head (line {shown})"] if wrong else []
    )
    return _Table(head=head, rows=table[1:]), problems


def _repeats(table: _Table, wanted: _Table | None) -> list[str]:
    asked = wanted.column(wanted.head[0]) if wanted and wanted.head else []
    if len(set(asked)) < len(asked):
        return []  # as one row for each box of a picture
    seen: set[str] = set()
    twice = [name for name in table.column(table.head[0]) if name in seen or seen.add(name)]  # type: ignore[func-returns-value]
    return [f"{len(twice)} ids occur more than once ({_some(twice)})"] if twice else []


def _holes(table: _Table, wanted: _Table | None) -> list[str]:
    problems = []
    for name in table.head:
        values = table.column(name)
        asked = wanted.column(name) if wanted and name in wanted.head else []
        empty = 0 if _may_be_empty(values, asked) else sum(map(_nothing, values))
        endless = sum(value.strip().lower().lstrip("+-") in ("inf", "infinity") for value in values)
        problems += [f"column '{name}' has {empty} empty or NaN values"] if empty else []
        problems += [f"column '{name}' has {endless} infinite values"] if endless else []
    return problems


def _may_be_empty(values: Sequence[str], asked: Sequence[str]) -> bool:
    """Whether empty cells are answers, as where nothing is found in a picture.

    So it is where some of the sample's are empty. Where all are, they only hold the place of what is to be
    predicted: then they are answers among words (lists, masks), and holes among numbers or alone.
    """
    if not any(map(_nothing, asked)):
        return False
    return not all(map(_nothing, asked)) or any(not _nothing(each) and not _number(each) for each in values)


def _nothing(value: str) -> bool:
    return value.strip().lower() in _NOTHING


def _against(table: _Table, wanted: _Table) -> list[str]:
    if table.head != wanted.head:
        return [_columns(table.head, wanted.head), *_count(table, wanted)]
    problems = _count(table, wanted)
    have, want = set(table.column(table.head[0])), set(wanted.column(wanted.head[0]))
    if missing := sorted(want - have):
        problems.append(f"{len(missing)} ids of the sample are missing ({_some(missing)})")
    if extra := sorted(have - want):
        problems.append(f"{len(extra)} ids are not in the sample ({_some(extra)})")
    return problems


def _no_numbers(table: _Table, wanted: _Table) -> dict[str, list[str]]:
    """Return the values that are no numbers in columns where all of the sample's are."""
    found = {}
    for name in wanted.head[1:] if table.head == wanted.head else ():
        odd = [value for value in table.column(name) if not _number(value) and not _nothing(value)]
        if odd and all(_number(value) for value in wanted.column(name)):
            found[name] = odd
    return found


def _no_words(table: _Table, wanted: _Table) -> list[str]:
    """Tell of the columns of numbers alone where the sample has words alone, as where a label was to be named."""
    notes = []
    for name in wanted.head[1:] if table.head == wanted.head else ():
        have, want = (
            [value for value in each.column(name) if not _nothing(value)] for each in (table, wanted)
        )
        if have and want and all(map(_number, have)) and not any(map(_number, want)):
            notes.append(
                f"column '{name}' has numbers ({have[0]}), and the sample words ({want[0]}): "  # as the notebook
                'is `postprocess` missing, such as "argmax"?'
            )
    return notes


def _columns(have: Sequence[str], want: Sequence[str]) -> str:
    if sorted(have) == sorted(want):
        return f"the columns are in another order: {', '.join(have)} instead of {', '.join(want)}"
    missing = [name for name in want if name not in have]
    extra = [name for name in have if name not in want]
    said = [f"missing {_some(missing)}"] if missing else []
    said += [f"not asked for {_some(extra)}"] if extra else []
    return f"the columns differ from the sample's: {'; '.join(said)}"


def _count(table: _Table, wanted: _Table) -> list[str]:
    have, want = len(table.rows), len(wanted.rows)
    return [f"{have} rows instead of {want}"] if have != want else []


def _number(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True


def _some(names: Sequence[str]) -> str:
    more = ", ..." if len(names) > _SHOWN else ""
    return ", ".join(f"'{name}'" for name in names[:_SHOWN]) + more
