"""Scores one submission, in a process of its own: the metric is somebody's code.

Run as `python -m offline_kit.local_kaggle.judge REQUEST.json`; writes REQUEST.json.answer, an object with
"public" and "private", or with "error"; "metric" beside it means that the metric failed, not the submission.
"""

import contextlib
import csv
import importlib
import importlib.util
import json
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

Table = list[dict[str, str]]
USAGE = "Usage"


class ScoringError(Exception):
    """The submission cannot be scored; the text is for its author."""


class MetricError(Exception):
    """The competition's own metric fails; the submission is not to blame."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(f"{type(error).__name__}: {error}")


Metric = Callable[[Path, Path], float]  # takes the submission and the solution, two tables with the same ids


def score_submission(request: Mapping[str, Any]) -> dict[str, float]:
    """Return the public and the private score; raises ScoringError, or MetricError."""
    submission, solution = Path(request["submission"]), Path(request["solution"])
    try:
        metric = _load_metric(str(request["metric"]), Path(request["folder"]), dict(request["options"]))
    except BaseException as error:  # whatever somebody's file does when it is imported, SystemExit too
        raise MetricError(error) from error
    if submission.suffix != ".csv" or solution.suffix != ".csv":
        return dict.fromkeys(("public", "private"), _compute_score(metric, submission, solution))
    true, predictions = _read_table(solution), _read_table(submission)
    columns = [name for name in true[0] if name != USAGE]
    key = str(request.get("id") or columns[0])
    _check_table(predictions, columns, {row[key] for row in true}, key)
    by_id = {row[key]: row for row in predictions}
    scores = {"public": float("nan"), "private": float("nan")}
    with tempfile.TemporaryDirectory() as name:
        submission, solution = Path(name, "submission.csv"), Path(name, "solution.csv")
        for usage in scores:
            rows = [row for row in true if row.get(USAGE, usage).lower() == usage]
            if rows:
                _write_table(submission, columns, [by_id[row[key]] for row in rows])
                _write_table(solution, columns, rows)
                scores[usage] = _compute_score(metric, submission, solution)
    return scores


def _compute_score(metric: Metric, submission: Path, solution: Path) -> float:
    """Return the metric of a submission.

    Where it fails, the solution is scored against itself: a metric that fails on that as well is broken
    (MetricError), else the submission holds what the metric does not take (ScoringError).
    """
    try:
        return float(metric(submission, solution))
    except ImportError as error:
        raise MetricError(error) from error
    except BaseException as error:
        if type(error).__name__ == "ParticipantVisibleError":  # how Kaggle's metrics address the participant
            raise ScoringError(str(error)) from error
        try:
            metric(solution, solution)
        except BaseException:  # noqa: BLE001 - likewise: somebody's code
            raise MetricError(error) from error
        raise ScoringError(f"{type(error).__name__}: {error}") from error


def _check_table(given: Table, columns: Sequence[str], ids: set[str], key: str) -> None:
    """Raise ScoringError for what Kaggle would refuse about a table."""
    if missing := [name for name in columns if name not in given[0]]:
        raise ScoringError(f"Submission must have a column '{missing[0]}'")
    submitted_ids = [row[key] for row in given]
    if len(set(submitted_ids)) < len(submitted_ids):
        raise ScoringError(f"The {key} column has duplicates")
    if set(submitted_ids) != ids:
        raise ScoringError(f"Submission has {len(submitted_ids)} rows of {key}; {len(ids & set(submitted_ids))} of {len(ids)} expected ones are there")  # fmt: skip
    if any(row[name] in ("", None) for row in given for name in columns):
        raise ScoringError("Submission contains null values")


def _load_metric(name: str, folder: Path, options: dict[str, Any]) -> Metric:
    """Return the metric as a function of (submission, solution): "file.py:function", or one of scikit-learn."""
    metric_path, colon, function = name.partition(":")
    if colon:
        spec = importlib.util.spec_from_file_location("competition_metric", folder / metric_path)
        if spec is None or spec.loader is None:
            raise ImportError(f"'{name}' cannot be read")
        sys.path.append(str(folder))  # for what the metric imports from beside it
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        own: Metric = getattr(module, function)
        return own
    of_learn: Callable[..., float] = getattr(importlib.import_module("sklearn.metrics"), name)
    return lambda submission, solution: of_learn(
        _read_targets(solution), _read_targets(submission), **options
    )


def _read_targets(path: Path) -> list[Any]:
    """Return the table's targets, numbers where all are: one value a row, or a list of several."""
    rows: list[list[Any]] = [list(row.values())[1:] for row in _read_table(path)]
    with contextlib.suppress(ValueError):
        rows = [[float(value) for value in row] for row in rows]
    return [row[0] if len(row) == 1 else row for row in rows]


def _read_table(path: Path) -> Table:
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            # Cells of any length, as in kit_runtime.csv_rows: this file runs alone.
            csv.field_size_limit(2**31 - 1)
            rows = list(csv.DictReader(stream))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ScoringError(f"Submission cannot be read: {error}") from None
    if not rows:
        raise ScoringError("Submission is empty")
    return rows


def _write_table(path: Path, columns: Sequence[str], rows: Table) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def main(path: Path) -> None:
    """Judge a request on disk and write the answer beside it."""
    try:
        answer: dict[str, Any] = score_submission(json.loads(path.read_text(encoding="utf-8")))
    except ScoringError as error:
        answer = {"error": str(error)}
    except MetricError as error:
        answer = {"error": str(error), "metric": True}
    path.with_name(f"{path.name}.answer").write_text(json.dumps(answer), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
