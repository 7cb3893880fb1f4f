"""A stand-in for a competition's kaggle_evaluation package: the same Python interface, another transport.

A rehearsal copies this file into the competition's mount, as kaggle_evaluation/core/standin.py, if the local copy of
the data has no such package. It reads the public test set, sends it in batches in random order, and checks the answers
as strictly as the gateways of competitions do. Only the standard library is imported at the top; both sides of a
rehearsal run in one sandbox, so nobody else can connect.
"""

import csv
import importlib.abc
import importlib.util
import json
import os
import random
import sys
import time
import traceback
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from multiprocessing.connection import Client, Listener
from pathlib import Path
from typing import Any

RERUN = "KAGGLE_IS_COMPETITION_RERUN"
BACKWARDS = "KAGGLE_EVALUATION_STANDIN_BACKWARDS"  # set for a second run, which sends the batches in reverse
MAX_BATCH_ROWS, MIN_BATCHES = 50, 5  # largest batch, and fewest batches if the test set has as many rows
OPTIONS = "standin.json"
PACKAGE = Path(__file__).parents[1]
Call = Callable[[str, Sequence[Any]], Any]


class GatewayRuntimeError(Exception):
    """Why the gateway ended the run: one of Kaggle's error types, and the details."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(f"{kind}: {text}")
        self.kind, self.text = kind, text


@dataclass(frozen=True)
class GatewayOptions:
    """Options of this gateway; set in [tool.offline-kit.notebook.params.gateway]."""

    batches: str = "polars"  # "polars" or "pandas": type of a batch
    rows: int = 0  # rows of a batch; 0: a fifth of the test set, at most 50
    by: str = ""  # column whose values make the batches ("date_id"), instead of a number of rows
    sends: Sequence[str] = ("test",)  # tables that `predict` is called with: "test", "sample_submission"
    ids: str = ""  # column of the row ids; empty: the first one of the sample, else of the test set
    submission: str = "submission.parquet"
    seed: int = 0
    # The limits are those of kaggle_evaluation 1.4.0 (core/relay.py, core/base_gateway.py).
    start_limit: float = 900  # seconds from the first call until the server must answer
    call_limit: float = 3600  # seconds for each batch except the first
    port: int = 50051

    @classmethod
    def read(cls) -> "GatewayOptions":
        """Read the options that the rehearsal wrote to this package."""
        path = PACKAGE / OPTIONS
        return cls(**json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {})


def find_option_problems(options: Any) -> list[str]:
    """Return the problems of the options of a stand-in gateway."""
    if not isinstance(options, Mapping):
        return [f"`gateway` must be a table of options, not a {type(options).__name__}"]
    defaults = {option.name: option.default for option in fields(GatewayOptions)}
    expected: dict[type, str] = {str: "a string", tuple: "a list of strings"}
    problems = []
    for name, value in options.items():
        kind = type(defaults.get(name))
        fits = isinstance(value, (int, float) if kind is float else kind) and not isinstance(value, bool)
        if kind is tuple:
            fits = isinstance(value, list) and all(isinstance(item, str) for item in value)
        if name not in defaults:
            problems.append(f"unknown option '{name}' of `gateway`; known: {', '.join(defaults)}")
        elif not fits:
            problems.append(f"option '{name}' of `gateway` must be {expected.get(kind, 'a number')}")
    return problems


class InferenceServer:
    """The notebook's side: the listeners, and how a gateway calls them."""

    def __init__(self, *listeners: Callable[..., Any]) -> None:
        if not listeners:
            raise ValueError("pass at least one endpoint listener, a function named `predict`")
        for listener in listeners:
            # kaggle_evaluation 0.9.0 checks this too; older and newer versions also accept bound methods.
            if not isinstance(listener, types.FunctionType):
                kind = type(listener).__name__
                raise ValueError(
                    f"an endpoint listener must be a function, defined with `def`; it is a {kind}"
                )
            if listener.__name__ == "<lambda>":
                raise ValueError("an endpoint listener must have a name: define it with `def predict(...)`")
        self.listeners = {listener.__name__: listener for listener in listeners}
        self.options = GatewayOptions.read()

    def serve(self) -> None:
        """Serve a gateway in another process in a scoring run; otherwise return at once."""
        # Kaggle sets the variable only when it scores: a notebook may call `serve` in any run.
        if not os.environ.get(RERUN):
            return
        # kaggle_evaluation speaks gRPC, which not every environment has; pickles are safe within one sandbox.
        with Listener(("localhost", self.options.port)) as listener, listener.accept() as connection:
            while True:
                try:
                    name, batch = connection.recv()
                except EOFError:
                    return
                connection.send(self._answer_call(name, batch))

    def _answer_call(self, name: str, batch: Sequence[Any]) -> tuple[str, Any]:
        if name not in self.listeners:
            return "SERVER_MISSING_ENDPOINT", f"there is no '{name}', only {', '.join(self.listeners)}"
        try:
            return "", self.listeners[name](*batch)
        except Exception as error:  # noqa: BLE001 - the gateway receives every error
            traceback.print_exc()
            return "SERVER_RAISED_EXCEPTION", f"{type(error).__name__}: {error}"

    # Competitions with large data pass `file_share_dir` as well.
    def run_local_gateway(self, data_paths: Sequence[str] | None = None, *_: Any, **__: Any) -> None:
        """Run the gateway in this process, so that errors are raised here."""
        gateway = Gateway(data_paths)
        if "predict" not in self.listeners:
            raise GatewayRuntimeError(*self._answer_call("predict", ()))
        gateway.call = lambda name, batch: self.listeners[name](*batch)
        gateway.run()


class NewInferenceServer(InferenceServer):
    """A server of a newer competition, with a single method `run`; notebooks may import it by any name."""

    def run(self, competition_data_folder: str = "") -> None:
        """Serve in a scoring run; otherwise run the gateway on this folder."""
        if os.environ.get(RERUN):
            self.serve()
        else:
            self.run_local_gateway([competition_data_folder] if competition_data_folder else None)


class Gateway:
    """Kaggle's side: send the test set in batches, check the answers, and write the submission."""

    def __init__(self, data_paths: Sequence[str] | None = None) -> None:
        self.options = GatewayOptions.read()
        given_paths = [data_paths] if isinstance(data_paths, str) else data_paths or ()
        self.paths = [Path(path) for path in given_paths]
        first = self.paths[0] if self.paths else PACKAGE.parent
        self.root = first if first.is_dir() else first.parent
        self.library: Any = import_library(self.options.batches)
        self.call: Call = self._call_remote
        self.connection: Any = None
        self.sent = 0

    def run(self) -> None:
        """Send every batch, and write the submission and result.json to the current folder."""
        result: dict[str, Any] = {"Succeeded": False}
        try:
            columns = self._collect_predictions()
            result |= {"Succeeded": True, "Rows": len(next(iter(columns.values())))}
        except GatewayRuntimeError as error:
            result |= {"ErrorType": error.kind, "ErrorDetails": error.text}
            raise
        finally:
            result["Batches"] = self.sent
            Path("result.json").write_text(json.dumps(result), encoding="utf-8")

    def _collect_predictions(self) -> dict[str, list[Any]]:
        test, sample = self._read_table("test"), self._read_table("sample_submission")
        if test is None:
            kind = "GATEWAY_RAISED_EXCEPTION"
            raise GatewayRuntimeError(kind, f"'{self.root}' has no test.csv and no test.parquet")
        key = self.options.ids or next(iter((test if sample is None else sample).columns))
        ids = list((test if key in test.columns else sample)[key])
        targets = [name for name in sample.columns if name != key] if sample is not None else []
        tables = {"test": test, "sample_submission": sample}
        columns: dict[str, list[Any]] = {}
        for rows in self._make_batches(test, ids):
            self.sent += 1
            batch = [self._take_rows(tables[name], rows) for name in self.options.sends]
            started = time.monotonic()
            answer = self.call("predict", batch)
            # The first call may load models: only the start limit counts for it.
            if self.sent > 1 and time.monotonic() - started > self.options.call_limit:
                text = f"batch {self.sent} took longer than {self.options.call_limit:g} s"
                raise GatewayRuntimeError("GRPC_DEADLINE_EXCEEDED", text)
            predictions = check_answer(answer, {key: [ids[row] for row in rows]}, targets, self.sent)
            targets = targets or [name for name in predictions if name != key]
            for name in (key, *targets):
                columns.setdefault(name, []).extend(predictions[name])
        self._write_submission(columns)
        return columns

    def _call_remote(self, name: str, batch: Sequence[Any]) -> Any:
        """Send a batch to a server in another process and return the answer; the first call waits for the server."""
        self.connection = self.connection or self._connect_server()
        try:
            self.connection.send((name, batch))
            kind, answer = self.connection.recv()
        except (EOFError, OSError) as error:
            text = f"the server closed the connection: {type(error).__name__} {error}"
            raise GatewayRuntimeError("SERVER_CONNECTION_FAILED", text) from error
        if kind:
            raise GatewayRuntimeError(kind, answer)
        return answer

    def _connect_server(self) -> Any:
        limit = time.monotonic() + self.options.start_limit
        while time.monotonic() < limit:
            try:
                return Client(("localhost", self.options.port))
            except OSError:
                time.sleep(0.1)
        text = f"the server did not start within {self.options.start_limit:g} s of the gateway's first call"
        raise GatewayRuntimeError("SERVER_NEVER_STARTED", text)

    def _take_rows(self, frame: Any, rows: list[int]) -> Any:
        return frame.iloc[rows].reset_index(drop=True) if self.options.batches == "pandas" else frame[rows]

    def _write_submission(self, columns: Mapping[str, list[Any]]) -> None:
        path = Path(self.options.submission)
        if path.suffix == ".csv":
            with path.open("w", newline="", encoding="utf-8") as stream:
                writer = csv.writer(stream, lineterminator="\n")
                writer.writerow(columns)
                writer.writerows(zip(*columns.values(), strict=True))
        elif self.options.batches == "pandas":
            import pyarrow as pa  # noqa: F401 - pandas needs it, and a rehearsal installs what it finds here

            self.library.DataFrame(dict(columns)).to_parquet(path, index=False)
        else:
            self.library.DataFrame(dict(columns)).write_parquet(path)

    def _read_table(self, name: str) -> Any:
        """Read the table of this name from the paths that the notebook gave, else from the data."""
        for path in self.paths:
            if path.suffix and not path.exists():
                raise FileNotFoundError(f"no such file, as a path of the gateway: '{path}'")
        given_tables = [
            path for path in self.paths if path.stem == name and path.suffix in (".csv", ".parquet")
        ]
        for path in (*given_tables, self.root / f"{name}.csv", self.root / f"{name}.parquet"):
            if path.is_file():
                return (
                    self.library.read_csv(path) if path.suffix == ".csv" else self.library.read_parquet(path)
                )
        return None

    def _make_batches(self, test: Any, ids: Sequence[Any]) -> Iterator[list[int]]:
        """Yield the rows of each batch, the batches in random order."""
        if self.options.by:
            groups: dict[Any, list[int]] = {}
            for row, value in enumerate(test[self.options.by]):
                groups.setdefault(value, []).append(row)
            batches = list(groups.values())
        else:
            size = self.options.rows or max(1, min(MAX_BATCH_ROWS, len(ids) // MIN_BATCHES))
            batches = [list(range(at, min(at + size, len(ids)))) for at in range(0, len(ids), size)]
        # Hidden test sets have other orders; state that is kept between calls shows in one of the two orders.
        random.Random(self.options.seed).shuffle(batches)  # noqa: S311 - an order, no secret
        yield from reversed(batches) if os.environ.get(BACKWARDS) else batches


def check_answer(
    answer: Any, keys: Mapping[str, Sequence[Any]], targets: Sequence[str], number: int
) -> dict[str, Sequence[Any]]:
    """Return the columns of the answer to a batch; raise GatewayRuntimeError if Kaggle's gateways would reject it.

    `keys` has the ids of the batch by the name of their column.
    """
    table = read_columns(answer, targets[0] if targets else "prediction", number)
    ((key, ids),) = keys.items()
    rows = len(next(iter(table.values()), ()))
    answered_ids = table.pop(key, None)
    problem = ""
    if rows != len(ids):
        first_ids = ", ".join(map(str, ids[:3])) + (", ..." if len(ids) > 3 else "")
        problem = f"{len(ids)} rows were asked for ({key}: {first_ids}), and predict returned {rows}"
    elif answered_ids is not None and list(map(str, answered_ids)) != list(map(str, ids)):
        problem = f"column '{key}' is not that of the batch, in the order of its rows"
    elif targets and set(table) != set(targets):
        problem = f"columns {', '.join(table)} instead of {', '.join(targets)}"
    if problem:
        raise GatewayRuntimeError("INVALID_SUBMISSION", f"batch {number}: {problem}")
    return {key: ids, **table}


def read_columns(answer: Any, name: str, number: int) -> dict[str, list[Any]]:
    """Return the columns of the answer to a batch; a series or a single value gets the target's name."""
    family = type(answer).__module__.partition(".")[0]
    if isinstance(answer, int | float | str):  # numpy's float64 is a float
        return {name: [answer]}
    if family == "numpy" and type(answer).__name__ in ("int64", "int_"):
        return {name: [answer.item()]}
    kind = "None" if answer is None else f"a {family}.{type(answer).__name__}".replace("builtins.", "")
    text = f"predict returned {kind}; return a data frame, a series, a number or a string"
    if family in ("pandas", "polars"):
        if not hasattr(answer, "columns"):
            return {name: list(answer)}
        odd = [column for column in answer.columns if not isinstance(column, str)]
        if not odd:
            return {column: list(answer[column]) for column in answer.columns}
        text = f"the column name {odd[0]!r} is not a string, which parquet requires"
    raise GatewayRuntimeError("INVALID_SUBMISSION", f"batch {number}: {text}")


def import_library(name: str) -> Any:
    """Return polars or pandas; a rehearsal reads from these statements which packages it installs."""
    if name == "pandas":
        import pandas as pd

        return pd
    import polars as pl

    return pl


class AnyNameFinder(importlib.abc.MetaPathFinder):
    """Finds a competition's own modules by any name: only its real package would know their names."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:  # noqa: ARG002
        """Return a spec for any module of the package outside `core`; existing files come first."""
        parent, _, module_name = name.partition(".")
        if parent != PACKAGE.name or not module_name or module_name.partition(".")[0] == "core":
            return None
        if (last := module_name.rpartition(".")[2])[:1].isupper():  # `from ...constraints import Constraints`
            raise ImportError(_describe_missing(last))
        any_name = PACKAGE / "core" / "any_name.py"
        return importlib.util.spec_from_file_location(name, any_name, submodule_search_locations=[])


def make_any_class(name: str) -> Any:
    """Return the server or gateway class that a notebook imports by this name."""
    for end, base in (("Server", NewInferenceServer), ("Gateway", Gateway)):
        if name.endswith(end) and not name.startswith("_"):
            return type(name, (base,), {})
    raise AttributeError(name if name.startswith("__") else _describe_missing(name))


def _describe_missing(name: str) -> str:
    problem = f"the stand-in for the competition's {PACKAGE.name} has no '{name}'"
    return f"{problem}: use the competition's own package, from its data in `competition_data`"


def import_any_name() -> None:
    """Answer every import from this package."""
    # A package that was imported before, from another folder, has a finder of its own.
    others = [finder for finder in sys.meta_path if type(finder).__name__ != AnyNameFinder.__name__]
    sys.meta_path[:] = [*others, AnyNameFinder()]
