"""The test set in batches: tables and texts, read in pieces, with the ids and columns of the sample.

This file is part of offline-kit and is pasted into the notebooks that it renders.
"""

import inspect
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from offline_kit.notebook.runtime.kit_runtime import KitError, Say, read_csv_rows, shorten_list
from offline_kit.notebook.runtime.kit_submission import LOOKED, find_sample

TABLES = (".csv", ".tsv", ".parquet")
ROWS, TEXTS = 65536, 256
"""Rows of a table, or texts, at once."""


@dataclass(frozen=True)
class SampleSubmission:
    """The content of the sample submission."""

    path: Path
    columns: tuple[str, ...]
    """Its header: the id column first."""
    ids: list[str]
    """Its ids, as they are written."""
    answers: frozenset[str] = frozenset()
    """Values of its first rows in the first target column."""

    @property
    def targets(self) -> tuple[str, ...]:
        """The columns to fill."""
        return self.columns[1:]


@dataclass(frozen=True)
class RowBatch:
    """A piece of the test set."""

    ids: Sequence[Any]
    """The ids of its rows."""
    data: Any
    """What the model gets."""


def read_sample(root: Path | None) -> SampleSubmission:
    """Read the sample submission at the top of the competition's data; raises KitError if there is none."""
    path = find_sample(root) if root else None
    if path is None:
        raise KitError(
            f"there is no sample submission in '{root}'" if root else "no competition is attached",
            code="sample-submission-not-found",
            hint="set `competition` in the configuration; a competition without a sample needs a `function`",
        )
    with path.open(newline="", encoding="utf-8-sig") as stream:
        reader = read_csv_rows(stream)
        header = next(reader, [])
        first = [row for row in islice(reader, LOOKED) if row]
        ids = [row[0] for row in first] + [row[0] for row in reader if row]
    if len(header) < 2:
        raise KitError(
            f"'{path.name}' has no column beside the ids",
            code="sample-without-targets",
            hint="write a `function` for this competition",
        )
    return SampleSubmission(path, tuple(header), ids, frozenset(row[1] for row in first if len(row) > 1))


@dataclass
class TableBatches:
    """The rows of the test table, batch by batch; it can be gone through again for the next model.

    The model and `prepare` get the same columns: all but the ids, unless training recorded these among its
    own. A `prepare` that needs the ids has a parameter `ids`, and gets those of the piece.
    """

    path: Path
    """The test set."""
    sample: SampleSubmission
    size: int = ROWS
    """Rows of a batch."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Names and dtypes of the training's columns; empty when they were not recorded."""
    categories: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """The categories of the training's columns, as far as they were recorded."""
    prepare: Callable[..., Any] | None = None
    """Makes the model's columns of a piece of the table, which has no id column; its parameter `ids` is optional."""
    text: str | None = None
    """The column of the texts; None if the model gets a table."""
    say: Say = print
    _said: set[str] = field(default_factory=set)

    def __iter__(self) -> Iterator[RowBatch]:
        row_count = 0
        for piece in read_pieces(self.path, self.size, self._text_columns()):
            ids = self._select_ids(piece, row_count)
            yield RowBatch(ids, self._prepare_data(piece, ids, row_count == 0))
            row_count += len(piece)
        if row_count == 0:
            raise KitError(
                f"'{self.path.name}' has no rows", code="table-empty", hint="check the competition's data"
            )
        if self.id_column is None and row_count != len(self.sample.ids):
            raise KitError(
                f"'{self.path.name}' has {row_count} rows without ids, and '{self.sample.path.name}' {len(self.sample.ids)}",
                code="row-count-mismatch",
                hint="name the test table with `test` in [tool.offline-kit.notebook.params]",
            )

    @property
    def total(self) -> int:
        """Approximate number of rows."""
        return len(self.sample.ids)

    @property
    def id_column(self) -> str | None:
        """The column of the ids; None if the table has none, and the sample's order counts."""
        return self.sample.columns[0] if self.sample.columns[0] in read_header(self.path) else None

    def _say_once(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            self.say(text)

    def _text_columns(self) -> list[str]:
        # An id "007" stays itself, and so does a category that looks like a number.
        text_columns = [name for name, dtype in self.columns.items() if dtype_kind(dtype) == "text"]
        return [
            *([self.id_column] if self.id_column else []),
            *text_columns,
            *([self.text] if self.text else []),
        ]

    def _select_ids(self, piece: Any, start: int) -> Sequence[Any]:
        if self.id_column is None:
            return self.sample.ids[start : start + len(piece)]
        return list(piece[self.id_column])

    def _prepare_data(self, piece: Any, ids: Sequence[Any], first: bool) -> Any:
        if self.text is not None:
            return self._apply_prepare(piece[self.text].fillna("").astype(str).tolist(), ids)
        if self.id_column is not None and self.id_column not in self.columns:
            piece = piece.drop(columns=[self.id_column])
        piece = self._apply_prepare(piece, ids)
        if self.columns:
            piece = fit_columns(piece, self.columns, self.id_column, self.say if first else None)
            return apply_categories(piece, self.categories, self._say_once)
        return piece

    def _apply_prepare(self, data: Any, ids: Sequence[Any]) -> Any:
        if self.prepare is None:
            return data
        try:
            # The first parameter takes the data, whatever its name is.
            if "ids" in list(inspect.signature(self.prepare).parameters)[1:]:
                return self.prepare(data, ids=ids)
            return self.prepare(data)
        except KeyError as error:
            if (
                self.id_column is None
                or self.id_column in self.columns
                or repr(self.id_column) not in str(error)
            ):
                raise
            raise KitError(
                f"`transform` asks for the id column '{self.id_column}', which is not among the model's columns",
                code="id-column-in-transform",
                hint="leave it out of `transform`, or give the function a parameter `ids`, which gets the ids",
            ) from error


def find_test_table(root: Path, name: str = "") -> Path:
    """Return the test table at the top of the data: test.csv or test.parquet, else the only test*; or the named one."""
    tables = sorted(path for path in root.iterdir() if path.suffix.lower() in TABLES)
    tests = [path for path in tables if path.stem.lower().startswith("test")]
    candidates = [path for path in tests if path.stem.lower() == "test"] or tests
    if name:
        candidates = [path for path in [root / name] if path.is_file()]
    if len(candidates) == 1 or len({path.stem for path in candidates}) == 1:
        return candidates[-1]  # of test.csv and test.parquet the quicker one
    raise KitError(
        f"'{name}' is not among the data"
        if name
        else f"{'no' if not candidates else 'more than one'} test table",
        [f"there is: {', '.join(path.name for path in tables) or 'no table'}, in '{root}'"],
        code="test-table-not-found",
        hint='set `test = "name.csv"` in [tool.offline-kit.notebook.params]',
    )


def read_header(path: Path) -> list[str]:
    """Return the columns of a table."""
    if path.suffix.lower() == ".parquet":
        import pyarrow.parquet

        return list(pyarrow.parquet.ParquetFile(path).schema_arrow.names)
    with path.open(newline="", encoding="utf-8-sig") as stream:
        return next(read_csv_rows(stream, cell_delimiter(path)), [])


def cell_delimiter(path: Path) -> str:
    """Return the cell delimiter of a table, by its suffix."""
    return "\t" if path.suffix.lower() == ".tsv" else ","


def read_pieces(path: Path, size: int, as_text: Iterable[str] = ()) -> Iterator[Any]:
    """Yield a table as data frames of at most `size` rows; the columns `as_text` are not taken for numbers."""
    import pandas as pd

    if path.suffix.lower() == ".parquet":
        import pyarrow.parquet

        for rows in pyarrow.parquet.ParquetFile(path).iter_batches(batch_size=size):
            if rows.num_rows:
                yield rows.to_pandas()
        return
    dtypes = dict.fromkeys(as_text, "object")
    with pd.read_csv(
        path, chunksize=size, dtype=dtypes, sep=cell_delimiter(path), encoding="utf-8-sig", low_memory=False
    ) as reader:
        for piece in reader:
            if len(piece):
                yield piece


def find_text_column(path: Path, key: str, name: str = "") -> str:
    """Return the column of the texts: the named one, or the only one with strings."""
    header = read_header(path)
    first = next(read_pieces(path, 1000), None)
    if name and name not in header:
        raise KitError(
            f"'{path.name}' has no column '{name}'",
            [f"it has: {', '.join(header)}"],
            code="column-not-found",
            hint=TEXT_HINT,
        )
    strings = [
        column for column in header if column != key and first is not None and _holds_text(first[column])
    ]
    if name or len(strings) == 1:
        return name or strings[0]
    columns_found = f"columns of strings: {', '.join(strings) or 'none'}; all: {', '.join(header)}"
    raise KitError(
        f"which column of '{path.name}' has the texts?",
        [columns_found],
        code="text-column-ambiguous",
        hint=TEXT_HINT,
    )


TEXT_HINT = 'set `text = "column"` in [tool.offline-kit.notebook.params]'


def _holds_text(column: Any) -> bool:
    return any(isinstance(value, str) for value in column[:1000])


def dtype_kind(dtype: str) -> str:
    """Return "text", "whole", "number", "truth", "time" for a dtype as pandas writes it."""
    word = str(dtype).lower()
    for kind, begins in (
        ("whole", ("int", "uint")),
        ("number", ("float", "double")),
        ("truth", ("bool",)),
        ("time", ("datetime", "timedelta")),
    ):
        if word.startswith(begins):
            return kind
    return "text"


def fit_columns(piece: Any, columns: Mapping[str, str], key: str | None, say: Say | None = None) -> Any:
    """Return a piece with the training's columns, in their order and with their dtypes.

    Other columns are dropped with a note. Raises KitError with every column that is missing or cannot be
    converted.
    """
    missing = [name for name in columns if name not in piece.columns]
    extra = [str(name) for name in piece.columns if name not in columns and name != key]
    problems = [f"column '{name}' ({columns[name]} in training) is missing" for name in missing]
    fitted_columns: dict[str, Any] = {}
    for name, dtype in columns.items():
        if name in piece.columns:
            fitted_columns[name], problem = cast_column(piece[name], dtype)
            problems += [f"column '{name}': {problem}"] if problem else []
    if problems:
        details = [f"columns that training did not have: {', '.join(extra)}"] if extra else []
        raise KitError(
            "the test set has other columns than training had",
            problems + details,
            code="test-columns-differ",
            hint="compute them as in training, in your own `transform`, or fix the file that `columns` names",
        )
    if extra and say:
        say(f"note: columns that training did not have are left out: {', '.join(extra)}")
    return type(piece)(fitted_columns, index=piece.index)


def apply_categories(piece: Any, categories: Mapping[str, Sequence[Any]], say: Say) -> Any:
    """Return a piece whose categorical columns have the categories of training, in their order.

    Some models know categories only by number, and a batch alone would number them differently. A category
    that training did not have becomes a missing value, with a note: hidden data may well have one.
    """
    import pandas as pd

    for name, trained_categories in categories.items():
        if name in piece.columns:
            new = [
                category for category in piece[name].dropna().unique() if category not in trained_categories
            ]
            if new:
                say(f"note: column '{name}' has categories that training did not have: {shorten_list(new)}")
            column = piece[name].astype("object")
            column = pd.Categorical(
                column.where(column.isin(trained_categories)), categories=list(trained_categories)
            )
            piece = piece.assign(**{name: column})
    return piece


def cast_column(column: Any, dtype: str) -> tuple[Any, str]:
    """Return a column with the dtype of training, and what is wrong with it; nothing for a good one."""
    import pandas as pd

    kind = dtype_kind(dtype)
    if str(column.dtype) == dtype:
        return column, ""
    try:
        if kind == "time":
            return pd.to_datetime(column) if "datetime" in dtype else pd.to_timedelta(column), ""
        if kind == "text":
            return column.astype("category" if dtype == "category" else "object"), ""
        if kind == "truth" and dtype_kind(str(column.dtype)) != "truth":
            wrong = column[~column.isin([0, 1])]
            return (
                (column, f"{dtype} in training, now {wrong.iloc[0]!r}")
                if len(wrong)
                else (column.astype(bool), "")
            )
        numbers = pd.to_numeric(column)
    except (ValueError, TypeError) as error:
        return column, f"{dtype} in training, now {column.dtype}: {str(error).splitlines()[0]}"
    if kind == "whole" and numbers.isna().any():
        return column, f"{dtype} in training, now with {int(numbers.isna().sum())} empty cells"
    if kind == "whole" and (numbers % 1 != 0).any():
        return column, f"{dtype} in training, now {numbers[numbers % 1 != 0].iloc[0]!r}"
    return numbers.astype(dtype), ""


def track_progress(batches: Iterable[Any], title: str, total: int = 0, say: Say = print) -> Iterator[Any]:
    """Yield the batches, and show how far it is: with tqdm's bar, or a line now and then."""
    began = reported_at = time.perf_counter()
    row_count = 0
    bar = _make_progress_bar(title, total)
    for batch in batches:
        yield batch
        row_count += len(batch.ids)
        current_time = time.perf_counter()
        if bar is not None:
            bar.update(len(batch.ids))
        elif current_time - reported_at > 30:
            reported_at = current_time
            say(
                f"{title}: {row_count}{f' of about {total}' if total else ''} rows, {current_time - began:.0f} s"
            )
    if bar is not None:
        bar.close()
    say(f"{title}: {row_count} rows in {time.perf_counter() - began:.1f} s")


def _make_progress_bar(title: str, total: int) -> Any:
    try:
        from tqdm import tqdm
    except ImportError:
        return None
    return tqdm(total=total or None, desc=title, unit=" rows", mininterval=5)
