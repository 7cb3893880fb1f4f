"""The test set in batches, tables, texts and pictures, with the ids and columns of the sample."""

import importlib
import inspect
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from .kit_runtime import KitError, in_scoring_run, print_once, read_csv_rows, shorten_list
from .kit_submission import LOOKED, find_sample

TABLES = (".csv", ".tsv", ".parquet")
IMAGE_SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".ppm", ".pgm"}
    | {".dcm", ".dicom", ".npy", ".npz"}
)
"""Suffixes of images in a test folder; other files count if an id of the sample names them."""
DTYPE_KINDS = {
    "whole": ("int", "uint"),
    "number": ("float", "double"),
    "truth": ("bool",),
    "time": ("datetime", "timedelta"),
}
"""What a dtype holds, by how pandas writes it; any other holds text."""

ONNX_TYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
    "tensor(bool)": "bool",
    "tensor(string)": "object",
}
"""NumPy's names of the types of ONNX inputs."""


@dataclass(frozen=True)
class SampleSubmission:
    """The content of the sample submission."""

    path: Path
    columns: tuple[str, ...]  # its header: the id column first
    ids: list[str]  # its ids, as they are written
    answers: frozenset[str] = frozenset()  # values of its first rows in the first target column

    @property
    def targets(self) -> tuple[str, ...]:
        """The columns to fill."""
        return self.columns[1:]


@dataclass(frozen=True)
class RowBatch:
    """A piece of the test set: the ids of its rows, and what the model gets."""

    ids: Sequence[Any]
    data: Any


def read_sample(root: Path | None) -> SampleSubmission:
    """Read the sample submission at the top of the competition's data; raises KitError if there is none."""
    path = find_sample(root) if root else None
    if path is None:
        raise KitError(
            f"there is no sample submission in '{root}'" if root else "no competition is attached",
            code="sample-submission-not-found",
        )
    # Files from Excel begin with a byte order mark, which is no part of the first column's name.
    with path.open(newline="", encoding="utf-8-sig") as stream:
        reader = read_csv_rows(stream)
        header = next(reader, [])
        first = [row for row in islice(reader, LOOKED) if row]
        ids = [row[0] for row in first] + [row[0] for row in reader if row]
    if len(header) < 2:
        raise KitError(f"'{path.name}' has no column beside the ids", code="sample-without-targets")
    return SampleSubmission(path, tuple(header), ids, frozenset(row[1] for row in first if len(row) > 1))


@dataclass
class TableBatches:
    """The rows of the test table, batch by batch; it can be gone through again for the next model.

    The model and `prepare` get the same columns: all but the ids, unless training recorded these among its
    own. A `prepare` that needs the ids has a parameter `ids`, and gets those of the piece.
    """

    path: Path
    sample: SampleSubmission
    size: int = 65536
    columns: Mapping[str, str] = field(default_factory=dict)
    """Names and dtypes of the training's columns; empty when they were not recorded."""
    categories: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """The categories of the training's columns, as far as they were recorded."""
    prepare: Callable[..., Any] | None = None
    """Makes the model's columns of a piece of the table, which has no id column; its parameter `ids` is optional."""
    text: str | None = None  # the column of the texts; None if the model gets a table

    def __iter__(self) -> Iterator[RowBatch]:
        # As texts an id "007" stays itself, and so does a category that looks like a number.
        texts = [name for name, dtype in self.columns.items() if dtype_kind(dtype) == "text"]
        row_count = 0
        for piece in read_pieces(self.path, self.size, [*texts, self.sample.columns[0], self.text or ""]):
            yield self.prepare_batch(piece, self.sample.ids[row_count : row_count + len(piece)])
            row_count += len(piece)
        if row_count == 0:
            raise KitError(f"'{self.path.name}' has no rows", code="table-empty")
        if self.id_column is None and row_count != self.total:
            raise KitError(
                f"'{self.path.name}' has {row_count} rows without ids, and '{self.sample.path.name}' {self.total}",
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
        key = self.sample.columns[0]
        return key if key in read_header(self.path) else None

    def prepare_batch(self, piece: Any, ids: Sequence[Any]) -> RowBatch:
        """Return a piece of the table as the model takes it; `ids` are its ids if it has no column of them."""
        key = self.sample.columns[0] if self.sample.columns[0] in piece.columns else None
        ids = list(piece[key]) if key is not None else ids
        if self.text is not None:
            texts = piece[self.text].fillna("").astype(str).tolist()
            return RowBatch(ids, self._apply_prepare(texts, ids, key))
        if key is not None and key not in self.columns:
            piece = piece.drop(columns=[key])
        piece = self._apply_prepare(piece, ids, key)
        if self.columns:
            extra = [str(name) for name in piece.columns if name not in self.columns and name != key]
            piece = apply_categories(fit_columns(piece, self.columns, extra), self.categories)
            if extra:
                print_once(f"note: columns that training did not have are left out: {', '.join(extra)}")
        return RowBatch(ids, piece)

    def _apply_prepare(self, data: Any, ids: Sequence[Any], key: str | None) -> Any:
        if self.prepare is None:
            return data
        try:
            # The first parameter takes the data, whatever its name is.
            if "ids" in list(inspect.signature(self.prepare).parameters)[1:]:
                return self.prepare(data, ids=ids)
            return self.prepare(data)
        except KeyError as error:
            if key is None or key in self.columns or repr(key) not in str(error):
                raise
            raise KitError(
                f"`transform` asks for the id column '{key}', which is not among the model's columns",
                code="id-column-in-transform",
            ) from error


class GatewayTable(TableBatches):
    """Batches of a gateway, prepared for the models like the test table."""

    def make_batch(self, sent: Any) -> RowBatch:
        """Return a data frame of pandas or polars as a batch."""
        table = sent.to_pandas() if is_polars(sent) else sent.copy()  # a transform may write into it
        return self.prepare_batch(table, list(range(len(table))))


def is_polars(frame: Any) -> bool:
    """Whether a data frame is of polars."""
    return type(frame).__module__.partition(".")[0] == "polars"


def match_frame_type(result: Any, sent: Any) -> Any:
    """Return an answer as the kind of data frame that the gateway sent."""
    return importlib.import_module("polars").DataFrame(result.to_dict("list")) if is_polars(sent) else result


def find_test_table(root: Path, name: str = "") -> Path:
    """Return the test table at the top of the data: test.csv or test.parquet, else the only test*; or the named one."""
    tables = sorted(path for path in root.iterdir() if path.suffix.lower() in TABLES)
    tests = [path for path in tables if path.stem.lower().startswith("test")]
    candidates = [path for path in tests if path.stem.lower() == "test"] or tests
    if name:
        candidates = [path for path in [root / name] if path.is_file()]
    if len({path.stem for path in candidates}) == 1:
        return candidates[-1]  # of test.csv and test.parquet the quicker one
    problem = f"{'more than one' if candidates else 'no'} test table"
    raise KitError(
        f"'{name}' is not among the data" if name else problem,
        [f"there is: {', '.join(path.name for path in tables) or 'no table'}, in '{root}'"],
        code="test-table-not-found",
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

    # Piece by piece: hidden test sets are larger than memory once they are decompressed.
    if path.suffix.lower() == ".parquet":
        import pyarrow.parquet

        batches = pyarrow.parquet.ParquetFile(path).iter_batches(batch_size=size)
        yield from (rows.to_pandas() for rows in batches if rows.num_rows)
        return
    dtypes = dict.fromkeys(as_text, "object")
    with pd.read_csv(
        path, chunksize=size, dtype=dtypes, sep=cell_delimiter(path), encoding="utf-8-sig", low_memory=False
    ) as reader:
        yield from (piece for piece in reader if len(piece))


def find_text_column(path: Path, key: str, name: str = "") -> str:
    """Return the column of the texts: the named one, or the only one with strings."""
    header = read_header(path)
    if name in header:
        return name
    hint = 'set `text = "column"` in [tool.offline-kit.notebook.params]'
    if name:
        has = f"it has: {', '.join(header)}"
        raise KitError(f"'{path.name}' has no column '{name}'", [has], code="column-not-found", hint=hint)
    # Only strings: a column of numbers in quotes is read as numbers.
    first: Any = next(read_pieces(path, 1000), {})
    strings = [
        column for column in first if column != key and any(isinstance(value, str) for value in first[column])
    ]
    if len(strings) == 1:
        return str(strings[0])
    raise KitError(
        f"which column of '{path.name}' has the texts?",
        [f"columns of strings: {', '.join(strings) or 'none'}; all: {', '.join(header)}"],
        code="text-column-ambiguous",
        hint=hint,
    )


def dtype_kind(dtype: str) -> str:
    """Return "text", "whole", "number", "truth", "time" for a dtype as pandas writes it."""
    word = str(dtype).lower()
    return next((kind for kind, begins in DTYPE_KINDS.items() if word.startswith(begins)), "text")


def fit_columns(piece: Any, columns: Mapping[str, str], extra: Sequence[str] = ()) -> Any:
    """Return a piece with the training's columns alone, in their order and with their dtypes; `extra` are the others."""
    fitted_columns: dict[str, Any] = {}
    problems = []
    for name, dtype in columns.items():
        if name not in piece.columns:
            problems.append(f"column '{name}' ({dtype} in training) is missing")
            continue
        fitted_columns[name], problem = cast_column(piece[name], dtype)
        if problem:
            problems.append(f"column '{name}': {dtype} in training, now {problem}")
    if problems:
        raise KitError(
            "the test set has other columns than training had",
            problems + [f"columns that training did not have: {', '.join(extra)}"] * bool(extra),
            code="test-columns-differ",
        )
    return type(piece)(fitted_columns, index=piece.index)


def cast_column(column: Any, dtype: str) -> tuple[Any, str]:
    """Return a column with the dtype of training, and what it holds instead; nothing for a good one."""
    import pandas as pd

    kind, now = dtype_kind(dtype), str(column.dtype)
    if now == dtype:
        return column, ""
    try:
        if kind == "time":
            return pd.to_datetime(column) if "datetime" in dtype else pd.to_timedelta(column), ""
        if kind == "text":
            return column.astype("category" if dtype == "category" else "object"), ""
        if kind == "truth" and dtype_kind(now) != "truth":
            wrong = column[~column.isin([0, 1])]
            return (column, repr(wrong.iloc[0])) if len(wrong) else (column.astype(bool), "")
        # An id or a count becomes a float as soon as the hidden data has one empty cell.
        numbers = pd.to_numeric(column)
    except (ValueError, TypeError) as error:
        return column, f"{now}: {str(error).splitlines()[0]}"
    if kind == "whole" and numbers.isna().any():
        return column, f"with {int(numbers.isna().sum())} empty cells"
    if kind == "whole" and (numbers % 1 != 0).any():
        return column, repr(numbers[numbers % 1 != 0].iloc[0])
    return numbers.astype(dtype), ""


def apply_categories(piece: Any, categories: Mapping[str, Sequence[Any]]) -> Any:
    """Return a piece whose categorical columns have the categories of training, in their order; new ones are missing."""
    # Some models know categories only by number, and a batch alone would number them differently.
    import pandas as pd

    for name, trained_categories in categories.items():
        if name not in piece.columns:
            continue
        column = piece[name].astype("object")
        is_known = column.isin(trained_categories)
        if new := list(column[~is_known].dropna().unique()):
            print_once(
                f"note: column '{name}' has categories that training did not have: {shorten_list(new)}"
            )
        trained = pd.Categorical(column.where(is_known), categories=list(trained_categories))
        piece = piece.assign(**{name: trained})
    return piece


@dataclass
class ImageBatches:
    """The pictures, batch by batch; they can be gone through again for the next model."""

    files: dict[str, Path]
    size: int
    transform: Callable[[Path], Any] | None = None
    """Makes the model's input of a path; without it the model gets RGB pictures of PIL."""

    def __iter__(self) -> Iterator[RowBatch]:
        ids = list(self.files)
        # Decoders release the interpreter's lock, so threads are enough.
        with ThreadPoolExecutor(os.cpu_count() or 2) as pool:
            for start in range(0, len(ids), self.size):
                batch_ids = ids[start : start + self.size]
                pictures = pool.map(self.transform or open_rgb, [self.files[name] for name in batch_ids])
                yield RowBatch(batch_ids, stack_items(list(pictures)))

    @property
    def total(self) -> int:
        """Number of images."""
        return len(self.files)


def open_rgb(path: Path) -> Any:
    """Return a picture as PIL reads it, in RGB."""
    with importlib.import_module("PIL.Image").open(path) as picture:
        return picture.convert("RGB")


def stack_items(items: list[Any]) -> Any:
    """Return tensors or arrays of one shape as one batch; anything else stays a list."""
    if not hasattr(items[0], "shape"):
        return items
    shapes = {tuple(item.shape) for item in items}
    if len(shapes) > 1:
        raise KitError(
            f"`transform` gives pictures of different shapes: {shorten_list(sorted(shapes))}",
            code="image-shapes-differ",
        )
    library = "torch" if hasattr(items[0], "detach") else "numpy"
    return importlib.import_module(library).stack(items)


def find_images(root: Path, sample: SampleSubmission, name: str = "") -> dict[str, Path]:
    """Return the image of each id of the sample, whether or not the id includes the suffix.

    Searches the folders at the top of the data whose names begin with "test", or the named one,
    recursively. In Kaggle's scoring run, where the sample may still be the public one, the existing images
    decide. Raises KitError for ids without an image.
    """
    folders = sorted(path for path in root.glob("[tT][eE][sS][tT]*") if path.is_dir())
    folders = [root / name] if name else folders
    test_files: list[Path] = []
    path_of_id: dict[str, Path] = {}
    for folder in folders:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            test_files.append(path)
            for spelling in (path.name, path.stem, path.relative_to(folder).as_posix()):
                path_of_id.setdefault(spelling, path)
    images = {image_id: path_of_id[image_id] for image_id in sample.ids if image_id in path_of_id}
    pictures = [path for path in test_files if path.suffix.lower() in IMAGE_SUFFIXES]
    if in_scoring_run() and len(pictures) > len(images):
        has_suffix = any(Path(image_id).suffix.lower() in IMAGE_SUFFIXES for image_id in sample.ids[:5])
        return {path.name if has_suffix else path.stem: path for path in pictures}
    missing = [image_id for image_id in sample.ids if image_id not in path_of_id]
    if missing or not images:
        raise KitError(
            f"{len(missing)} of {len(sample.ids)} ids of '{sample.path.name}' have no picture: {shorten_list(missing)}",
            [
                f"looked in: {', '.join(map(str, folders)) or 'no folder, none is called test*'}",
                f"there are: {shorten_list(path.name for path in test_files) or 'no files'}",
            ],
            code="images-not-found",
        )
    return images


def make_onnx_inputs(session: Any, batch: Any) -> dict[str, Any]:
    """Return a batch as the inputs of an onnxruntime session; a table's columns are one input or one each."""
    numpy = importlib.import_module("numpy")
    if isinstance(batch, dict):
        return {name: numpy.asarray(values) for name, values in batch.items()}
    nodes = session.get_inputs()
    if hasattr(batch, "columns") and len(nodes) > 1:
        return {node.name: batch[[node.name]].to_numpy(ONNX_TYPES[node.type]) for node in nodes}
    return {nodes[0].name: numpy.asarray(batch, dtype=ONNX_TYPES[nodes[0].type])}


def make_keras_inputs(model: Any, batch: Any) -> Any:
    """Return a batch as a Keras model takes it; a table's columns are one input or one each."""
    if isinstance(batch, dict):
        return batch
    if not hasattr(batch, "columns"):
        is_text = isinstance(batch[0], str)
        return importlib.import_module("numpy").asarray(batch, dtype=object if is_text else None)
    names = [node.name for node in getattr(model, "inputs", [])]
    if len(names) > 1 and set(names) <= set(batch.columns):
        return {name: batch[name].to_numpy() for name in names}
    return batch.to_numpy("float32")


def serve_saved_model(model: Any, inputs: Any) -> Any:
    """Return the first output of a TensorFlow SavedModel's default signature, an array."""
    tensorflow = importlib.import_module("tensorflow")
    serve = model.signatures["serving_default"]
    name, node = next(iter(serve.structured_input_signature[1].items()))
    answers = serve(**{name: tensorflow.constant(inputs, dtype=node.dtype)})
    return next(iter(answers.values())).numpy()


def match_lightgbm_columns(booster: Any, batch: Any) -> Any:
    """Return a table with the columns that a booster was trained on, in its order, categorical ones as categories."""
    # LightGBM writes blanks in names as underscores.
    names = dict(zip([re.sub(r"\s", "_", str(name)) for name in batch.columns], batch.columns, strict=True))
    if set(booster.feature_name()) <= set(names):
        batch = batch[[names[name] for name in booster.feature_name()]]
    if booster.pandas_categorical:
        # The model knows the categories of training, and only its text says which columns have them.
        matched = re.search(r"\[categorical_feature: ([\d,]+)\]", booster.model_to_string(num_iteration=1))
        columns = [batch.columns[int(number)] for number in matched[1].split(",")] if matched else []
        batch = batch.astype(dict.fromkeys(columns, "category"))
    return batch
