"""Compare the rehearsal of a recorded kit with the recorded run: submission, packages, and what the recording lacks."""

import importlib
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import zip_longest
from operator import itemgetter
from pathlib import Path
from typing import Any

from offline_kit.core import files
from offline_kit.core.errors import ProjectError
from offline_kit.notebook.runtime import kit_replay
from offline_kit.notebook.runtime.kit_recording import RecordedObjects
from offline_kit.notebook.runtime.kit_runtime import read_csv_rows, shorten_list
from offline_kit.rehearsal import execution, kit_facts
from offline_kit.rehearsal.execution import KernelRun
from offline_kit.rehearsal.kit_facts import KitFile
from offline_kit.rehearsal.request import RehearsalRequest
from offline_kit.rehearsal.submission_check import parse_number
from offline_kit.rehearsal.verdict import RunVerdict

_TOLERANCE = 1e-4  # relative, of numbers: sums depend on the order of the batches and on the processor
IDENTICAL, CLOSE, DIFFERENT, NOT_COMPARED = "identical", "within tolerance", "different", "not compared"


@dataclass(frozen=True, kw_only=True)
class ReplayComparison:
    """How a rehearsal differs from the recorded run."""

    submission: str  # IDENTICAL, CLOSE, DIFFERENT or NOT_COMPARED
    difference: str = ""  # the largest one of the submission, or why it was not compared
    packages: tuple[str, ...] = ()  # recorded packages that have another version
    misses: tuple[tuple[int, str], ...] = ()  # what the recording lacks, by cell that asked for it; 0: none
    same_machine: bool = True  # whether the run was recorded on this one, with its data


def judge_replay(
    judgement: RunVerdict, request: RehearsalRequest, kit_files: Iterable[KitFile], result: KernelRun
) -> RunVerdict:
    """Compare a run with the recording in its kit, if it has one, and add the result to its verdict."""
    recording = kit_facts.find_recording(kit_files)
    if recording is None:
        return judgement
    document, out = files.read_json(recording), result.executed.parent
    state, difference = NOT_COMPARED, "the rehearsal ran on other rows than the recorded run"
    if request.rows is None:
        objects = RecordedObjects(recording.parent, result.log.parent / "recorded")
        submission = result.working / request.submission
        state, difference = _compare_with_recorded(submission, document.get("submission"), objects)
    replayed, is_whole = files.read_json(out / kit_replay.STATE), judgement.problem is None
    lines = [
        (line.get("cell"), str(line.get("what"))) for line in files.read_json_lines(out / execution.MISSES)
    ]
    misses = dict.fromkeys((cell if isinstance(cell, int) else 0, what) for cell, what in lines)
    comparison = ReplayComparison(
        submission=state,
        difference=difference,
        packages=tuple(_compare_packages(document, replayed, is_whole=is_whole)),
        misses=tuple(misses),
        same_machine=document.get("where") != "kaggle",
    )
    return replace(_add_differences(judgement, comparison), replay=asdict(comparison))


def _add_differences(judgement: RunVerdict, comparison: ReplayComparison) -> RunVerdict:
    problem, misses, difference = judgement.problem, comparison.misses, comparison.difference
    warnings = [
        f"not in the recording: {what}{f', asked for in cell {cell}' if cell else ''}"
        for cell, what in misses
    ]
    warnings += [f"another version than recorded: {package}" for package in comparison.packages]
    note = f"compared with the recorded run, the submission is {comparison.submission}"
    stopped = execution.find_stopped_cell(judgement.cells)
    number = stopped.number - stopped.added_cells if stopped else 0
    is_cause = stopped is None or (stopped.status == "failed" and {number, 0} & {cell for cell, _ in misses})
    if problem and misses and is_cause:
        problem = ProjectError(
            f"{problem.what}, and the recording lacks what the run asked for",
            hint="run 'offline-kit adopt NOTEBOOK --record' again",
            code="not-recorded",
            details=(*warnings, "", *problem.details),
        )
    elif problem:  # a limit, or a failure long after what the run coped with
        problem.details = (*problem.details, *warnings)
    elif comparison.submission == DIFFERENT and comparison.same_machine:
        problem = ProjectError(
            f"the submission differs from that of the recorded run: {difference}",
            hint="set the seeds of all that is random, then run 'offline-kit adopt NOTEBOOK --record' again",
            code="replay-differs",
            details=warnings,
        )
    elif comparison.submission == DIFFERENT:  # other processors, and perhaps other rows of the data
        warnings.append(f"the submission differs from that of the recorded run: {difference}")
    notes = () if problem else (f"{note}{f': {difference}' if difference else ''}",)
    warnings, notes = [*judgement.warnings, *warnings], (*judgement.notes, *notes)
    return replace(judgement, problem=problem, notes=notes, warnings=tuple(warnings))


def _compare_packages(
    document: Mapping[str, Any], replayed: Mapping[str, Any], *, is_whole: bool
) -> Iterator[str]:
    if not isinstance(replayed.get("packages"), dict):
        return  # the run ended before its first cell, or wrote something else to this file
    # Only the minor version of Python decides what packages and pickles do.
    python, replayed_python = (
        ".".join(str(side.get("python")).split(".")[:2]) for side in (document, replayed)
    )
    versions = {"Python": python}
    versions |= {package["name"]: package["version"] for package in document.get("packages", ())}
    replayed_versions = {"Python": replayed_python, **replayed["packages"]}
    for name, version in versions.items():
        replayed_version = replayed_versions.get(name)
        if replayed_version != version and (replayed_version or is_whole):  # else not installed yet
            yield f"{name} {replayed_version or 'missing'} (recorded: {version})"


def _compare_with_recorded(
    submission: Path, recorded: Mapping[str, Any] | None, objects: RecordedObjects
) -> tuple[str, str]:
    if not recorded or not submission.is_file():
        return NOT_COMPARED, f"the {'rehearsal' if recorded else 'recorded run'} wrote none"
    if files.sha256_of(submission) == recorded["sha256"]:
        return IDENTICAL, ""
    try:
        return compare_submissions(submission, objects.find_object(recorded["sha256"]))
    except (OSError, KeyError, ValueError, ImportError) as error:
        return NOT_COMPARED, f"it cannot be read: {error}"


def compare_submissions(submission: Path, recorded: Path) -> tuple[str, str]:
    """Compare two submissions of one format; return the state and the largest difference.

    Columns and ids, the first column, must be the same in the same order; other texts too, but numbers in them only
    within a relative tolerance. Both are read row by row. Formats other than tables are not compared.
    """
    suffix = submission.suffix.lower()
    if suffix not in (".csv", ".tsv", ".parquet"):
        return NOT_COMPARED, "it has other bytes, and its format is not compared"
    rows, recorded_rows = _read_rows(submission, suffix), _read_rows(recorded, suffix)
    header, recorded_header = next(rows, ()), next(recorded_rows, ())
    if header != recorded_header:
        return DIFFERENT, f"the columns {shorten_list(header)} instead of {shorten_list(recorded_header)}"
    largest, changed, count = dict[str, tuple[float, str]](), Counter[str](), 0
    for count, (row, before) in enumerate(zip_longest(rows, recorded_rows, fillvalue=tuple[str, ...]()), 1):
        if row[:1] != before[:1]:
            ids = (f"'{shorten_list(ids[:1])}'" if ids else "none" for ids in (row, before))
            return DIFFERENT, f"row {count} is {' instead of '.join(ids)}"
        for name, value, other in zip_longest(header, row, before, fillvalue=""):
            if value != other:
                difference, is_close = _measure_difference(value, other)
                changed[name] += not is_close
                example = f"'{row[0]}': {value} instead of {other}"
                largest[name] = max(largest.get(name, (0.0, "")), (difference, example), key=itemgetter(0))
    candidates = [name for name in largest if changed[name] or not changed.total()]
    name = max(candidates, key=lambda name: largest[name][0], default="")
    difference, example = largest.get(name, (0.0, ""))
    if not changed.total():
        return (
            CLOSE,
            f"by {difference:.3g} at most, in column '{name}'" if difference else "only in its layout",
        )
    size = f" by up to {difference:.3g}" if math.isfinite(difference) else ""
    return DIFFERENT, f"column '{name}' in {changed[name]} of {count} rows{size}, as {example}"


def _read_rows(path: Path, suffix: str) -> Iterator[tuple[str, ...]]:
    """Yield the header and the rows of a table, one after the other; raise ImportError for Parquet without pyarrow."""
    if suffix == ".parquet":
        with importlib.import_module("pyarrow.parquet").ParquetFile(path) as table:
            yield tuple(table.schema_arrow.names)
            for batch in table.iter_batches():
                yield from zip(*(map(str, column.to_pylist()) for column in batch.columns), strict=True)
    else:
        delimiter = "\t" if suffix == ".tsv" else ","
        with path.open(newline="", encoding="utf-8-sig", errors="replace") as stream:
            lines = (line.replace("\0", "") for line in stream)
            yield from (tuple(row) for row in read_csv_rows(lines, delimiter) if row)


def _measure_difference(value: str, recorded: str) -> tuple[float, bool]:
    """Return the largest difference of the numbers in two cells, infinite for other text, and whether it is tolerated."""
    words, recorded_words = value.split(), recorded.split()
    pairs = [pair for pair in zip(words, recorded_words, strict=False) if pair[0] != pair[1]]
    numbers = [(parse_number(word), parse_number(before)) for word, before in pairs]
    largest, is_close = 0.0, True
    for number, before in numbers if len(words) == len(recorded_words) else [(None, None)]:
        if number is None or before is None or not (math.isfinite(number) and math.isfinite(before)):
            return math.inf, False
        largest = max(largest, abs(number - before))
        is_close = is_close and math.isclose(number, before, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE / 100)
    return largest, is_close
