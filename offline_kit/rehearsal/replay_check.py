"""Compare the rehearsal of a recorded kit with the recorded run: submission, packages, and what the recording lacks."""

import importlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from offline_kit.core import files
from offline_kit.core.errors import ProjectError
from offline_kit.notebook.runtime import kit_replay
from offline_kit.notebook.runtime.kit_recording import RecordedObjects
from offline_kit.rehearsal import execution, kit_facts, submission_check
from offline_kit.rehearsal.kit_facts import KitFile
from offline_kit.rehearsal.request import RehearsalRequest
from offline_kit.rehearsal.submission_check import SubmissionTable
from offline_kit.rehearsal.verdict import RunVerdict

_TOLERANCE = 1e-4  # relative, of numbers: sums depend on the order of the batches and on the processor
IDENTICAL, CLOSE, DIFFERENT, NOT_COMPARED = "identical", "within tolerance", "different", "not compared"


@dataclass(frozen=True, kw_only=True)
class ReplayComparison:
    """How a rehearsal differs from the recorded run."""

    submission: str  # IDENTICAL, CLOSE, DIFFERENT or NOT_COMPARED
    difference: str = ""  # of the submission, or why it was not compared
    packages: tuple[str, ...] = ()  # recorded packages that have another version
    misses: tuple[tuple[int, str], ...] = ()  # what the recording lacks, by cell that asked for it; 0: none
    same_machine: bool = True  # whether the run was recorded on this one, with its data


def judge_replay(
    judgement: RunVerdict, request: RehearsalRequest, kit_files: Iterable[KitFile]
) -> RunVerdict:
    """Compare a run with the recording in its kit, if it has one, and add the result to its verdict."""
    recording = kit_facts.find_recording(kit_files)
    if recording is None:
        return judgement
    result, document = judgement.run, files.read_json(recording)
    out = result.executed.parent
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
    stopped = execution.find_stopped_cell(judgement.run.cells)
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
    suffix = submission.suffix.lower()
    if suffix not in (".csv", ".parquet"):
        return NOT_COMPARED, "it has other bytes, and its format is not compared"
    try:
        tables = [
            submission_check.read_table(path) if suffix == ".csv" else _read_parquet(path)
            for path in (objects.find_object(recorded["sha256"]), submission)
        ]
    except (OSError, KeyError, ValueError, ImportError) as error:
        return NOT_COMPARED, f"it cannot be read: {error}"
    difference = submission_check.compare_tables(tables[0], tables[1], _TOLERANCE)
    return DIFFERENT if difference else CLOSE, difference


def _read_parquet(path: Path) -> SubmissionTable:
    table = importlib.import_module("pyarrow.parquet").read_table(path)
    columns = [map(str, column.to_pylist()) for column in table.columns]
    return SubmissionTable(header=tuple(table.column_names), rows=[*zip(*columns, strict=True)])
