"""Judge a run: it passed, or one error quotes the cell and gives the cause and the remedy."""

import csv
import itertools
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path, PurePosixPath
from typing import Any

from offline_kit.core import files
from offline_kit.core.errors import ProjectError
from offline_kit.core.sandboxes.box import Mount
from offline_kit.kit.layout import RUNTIME_PACKAGE
from offline_kit.notebook.runtime.kit_deadline import TIME_IS_UP
from offline_kit.notebook.runtime.kit_report import REPORT
from offline_kit.notebook.runtime.kit_server import WRITTEN
from offline_kit.rehearsal import causes, execution, script_runs, submission_check, swallowed_errors
from offline_kit.rehearsal.causes import Explanation
from offline_kit.rehearsal.execution import ExecutedCell, KernelRun, RehearsalEnvironment

_RETRY_HINT = "fix it, then run 'offline-kit rehearse' again"
_NOTE_PREFIX = "note: "  # printed by the notebook runtime
_MAX_NOTES = 20
# The runtime's advice for a damaged kit on Kaggle; a rehearsal uses the local kit.
_PUSH_AGAIN = re.compile("push the kit again(?: and wait until .*)?")
_FRAME = re.compile(
    r"^(?:File (?P<path>.+?):(?P<line>\d+)(?:, in (?P<function>.+))?|(?:Cell|Input) In ?\[.*)$"
)
_PLAIN_FRAME = re.compile(r' *File "(?P<path>[^"]+)", line (?P<line>\d+)(?:, in (?P<function>.+))?$')
_LIBRARY = re.compile(rf"/(?:site|dist)-packages/|/lib/python3\.\d+/|/{RUNTIME_PACKAGE}/|^<")
# The notebook installs the kit's packages here, including the project's own.
_OVERLAY = "/offline-kit/site/"
_CODE = re.compile(r"^.*/offline-kit/kit/code/")
_TRACEBACK = "Traceback (most recent call last)"
_STARTS_SCRIPT = re.compile(r"(?m)^\s*[!%].*\b(?:python[\d.]*|run|bash|sh)\b|\bsubprocess\b|os\.system")
_COLUMN = (
    re.compile(r"KeyError: ['\"]?\[?'([^'\n]+)'\]?(?: not (?:in index|found in axis))?"),
    re.compile(r"None of \[Index\(\['([^'\n]+)'"),
    re.compile(r"Usecols do not match columns.*?\['([^'\n]+)'"),
    re.compile(
        r"ColumnNotFoundError: (?:unable to find column )?\"?'?([\w .-]+?)['\"]?(?:;|$)", re.MULTILINE
    ),
)
_NO_FILE = re.compile(r"No such file or directory: '?(/[^'\n]+)")
_MAX_NAMES = 8  # in a message
_MAX_LARGEST = 5  # files of a full working folder in a message


@dataclass(frozen=True, kw_only=True)
class RunVerdict:
    """What is known about a run once it has ended."""

    run: KernelRun
    problem: ProjectError | None
    rows: int = 0
    notes: tuple[str, ...] = ()
    notebook_notes: tuple[str, ...] = ()  # lines that the notebook marked as notes in its output, each once
    warnings: tuple[str, ...] = ()
    replay: Mapping[str, Any] | None = (
        None  # of a recorded kit: the fields of `replay_check.ReplayComparison`
    )
    hidden: Mapping[str, Any] | None = None  # of a hidden run: the fields of `hidden_run.HiddenRun`


def judge_run(
    result: KernelRun,
    environment: RehearsalEnvironment,
    name: str,
    sample: Path | None,
    *,
    table: Path | None = None,
    trusted: bool = False,
) -> RunVerdict:
    """Judge how a run ended, its cells, and the submission `name` compared with the sample.

    `table` and `trusted` are passed to `check_submission`.
    """
    written = result.working / name
    # One error: what stopped the run, else what is missing, else what Kaggle would not score.
    problem = find_run_problem(result, environment)
    if problem is None and not written.is_file():
        problem = _missing_submission_error(result, name)
    if problem is None and not result.cells:
        problem = ProjectError(
            "the executed notebook is missing or is not a notebook",
            hint="do not write to /rehearsal: the rehearsal itself uses this folder",
            code="executed-notebook-missing",
        )
    notebook_notes = _read_notes(result.log)
    if problem:
        return RunVerdict(run=result, problem=problem, notebook_notes=notebook_notes)
    checked = submission_check.check_submission(written, sample, table=table, trusted=trusted)
    if checked.problems:
        problem = ProjectError(
            f"Kaggle would not score '{name}'",
            hint="compare it with the sample submission; it is saved next to the executed notebook",
            code="submission-invalid",
            details=checked.problems,
        )
    swallowed = swallowed_errors.list_swallowed_errors(
        result.executed.parent, {cell.label: cell.source for cell in result.cells}
    )
    if problem is None and swallowed and checked.is_placeholder:
        problem = ProjectError(
            "all predictions are placeholders, and the notebook swallowed errors",
            hint="let errors stop the notebook: handle only those that you expect, such as `except FileNotFoundError`",
            code="errors-swallowed",
            details=swallowed,
        )
    warnings = [f"the time was up: {line}" for line in _read_notes(result.log, TIME_IS_UP)]
    warnings += [f"{line}: swallowed, so predictions may be missing (errors-swallowed)" for line in swallowed]
    return RunVerdict(
        run=result,
        problem=problem,
        rows=checked.rows,
        notes=(*checked.notes, *(f"not kept: {line}" for line in result.deleted)),
        notebook_notes=notebook_notes,
        warnings=(
            *checked.warnings,
            *warnings,
            *submission_check.check_output_files(result.working, environment.machine.files),
        ),
    )


def _read_notes(log: Path, prefix: str = _NOTE_PREFIX) -> tuple[str, ...]:
    if not log.is_file():
        return ()
    with log.open(encoding="utf-8", errors="replace") as lines:
        notes = (line.strip().removeprefix(prefix) for line in lines if line.startswith(prefix))
        unique_notes = list(dict.fromkeys(notes))
    omitted = len(unique_notes) - _MAX_NOTES
    return (*unique_notes[:_MAX_NOTES], *([f"{omitted} more notes are in the log"] if omitted > 0 else []))


def find_run_problem(result: KernelRun, environment: RehearsalEnvironment) -> ProjectError | None:
    """Return the error of a run that reached a limit, whose cell failed, or that crashed."""
    cell, outcome = execution.find_stopped_cell(result.cells), result.outcome
    # papermill marks the cell in which the kernel died as completed.
    last_cell = next((cell for cell in reversed(result.cells) if cell.seconds is not None), None)
    if outcome.over_memory and cell is None:  # a container's limit kills the kernel alone
        cell = last_cell
    location = f" in {cell.label}" if cell and not result.script else ""
    quoted = cell.quoted if cell else ()
    if outcome.timed_out:
        return ProjectError(
            f"the {result.kind} was stopped{location}: the time limit of {environment.timeout:.0f} s was reached",
            hint="make it faster, rehearse on fewer rows (--rows), or allow more time (--timeout)",
            code="time-limit-reached",
            details=quoted,
        )
    if outcome.over_memory:
        return ProjectError(
            f"the {result.kind} was stopped{location}: it used more than {files.format_size(environment.machine.memory or 0)} of memory",
            hint="use smaller batches, and free memory that is no longer needed",
            code="memory-limit-reached",
            details=quoted,
        )
    if outcome.over_disk:
        return ProjectError(
            f"/kaggle/working is full{location}: the {result.kind} wrote more than {files.format_size(environment.machine.disk)} there",
            hint="unpack and download to /tmp, and keep only what is the output",
            code="disk-limit-reached",
            details=(*quoted, "", *_list_largest_files(result)),
        )
    if cell and cell.status == "failed":
        frame, script = find_own_frame(cell.error, environment.own_packages), _find_script_error(cell)
        explained = _explain_cell(cell, environment)
        remedy = _PUSH_AGAIN.sub("build the kit again with 'offline-kit build'", explained.remedy)
        error = (*script, *execution.shorten_error(cell.error), *_format_cause(explained.cause))
        return ProjectError(
            f"{cell.label} failed",
            hint=remedy or _RETRY_HINT,
            code=explained.code or "cell-failed",
            details=(*((*frame, "") if frame else ()), *quoted, "", *error),
        )
    return None if outcome.succeeded else _crash_error(result, last_cell)


def _list_largest_files(result: KernelRun) -> tuple[str, ...]:
    paths = [path for path in result.working.rglob("*") if path.is_file()]
    largest = sorted(((path.lstat().st_size, path) for path in paths), reverse=True)[:_MAX_LARGEST]
    lines = (f"{files.format_size(size)}: {path.relative_to(result.working)}" for size, path in largest)
    return (*lines, f"{len(paths)} files", *result.deleted)


def _format_cause(cause: str) -> tuple[str, ...]:
    return ("", f"cause: {cause}") if cause else ()


def _crash_error(result: KernelRun, cell: ExecutedCell | None) -> ProjectError:
    """Return the error of a run in which no cell failed, but the kernel died, perhaps in this cell, or papermill."""
    log = result.log.read_text("utf-8", errors="replace").splitlines() if result.log.is_file() else []
    died = bool(log) and "DeadKernelError" in log[-1]
    tail = log[-1:] if died else log[-execution.MAX_ERROR_LINES :]
    problem, quoted = f"the {result.kind} ended with code {result.outcome.code}", tuple[str, ...]()
    if died:
        problem = f"the notebook's kernel died {f'in {cell.label}' if cell else 'at its start'}"
        quoted = cell.quoted if cell else ()
    explained = causes.explain_failure("\n".join(tail))
    memory = f"peak memory: {files.format_size(result.outcome.peak_memory)}"
    return ProjectError(
        problem,
        hint=explained.remedy or _RETRY_HINT,
        code="kernel-died" if died else "notebook-failed",
        details=(*quoted, *tail, *_format_cause(explained.cause), memory),
    )


def _missing_submission_error(result: KernelRun, name: str) -> ProjectError:
    for cell in reversed(result.cells):
        # IPython continues after a failed `!python script.py`.
        if script := _find_script_error(cell):
            explained = causes.explain_failure(script[-1])
            return ProjectError(
                f"a script that {cell.label} starts failed, and no '{name}' was written",
                hint=explained.remedy or _RETRY_HINT,
                code=explained.code or "script-failed",
                details=(*cell.quoted, "", *execution.shorten_error(script), *_format_cause(explained.cause)),
            )
    files_written = (path for path in result.working.rglob("*") if path.is_file() and path.name != REPORT)
    other_files = sorted(str(path.relative_to(result.working)) for path in files_written)
    written = f"written instead: {', '.join(other_files[:10])}" if other_files else "/kaggle/working is empty"
    instead = next((path for path in other_files if path in WRITTEN), "")
    # Kaggle shows this as "Submission CSV Not Found": https://www.kaggle.com/code-competition-debugging
    write = f"write '{name}' there: Kaggle calls this 'Submission CSV Not Found'"
    return ProjectError(
        f"the {result.kind} finished, but wrote no '{name}' to /kaggle/working",
        hint=f'set `submission = "{instead}"` in [tool.offline-kit.notebook]' if instead else write,
        code="submission-not-written",
        details=(*result.deleted, written),
    )


def find_own_frame(error: Sequence[str], own_packages: Collection[str] = ()) -> tuple[str, ...]:
    """Return the innermost frame of a traceback in a file of the user's, with its lines of code.

    Frames of libraries, of cells and of the script are none (its failing line is quoted anyway); `own_packages` has the import names of
    the packages that the kit installs and that are the project's own.
    """
    own_frame: tuple[str, ...] = ()
    for number, line in enumerate(error, 1):
        frame, plain_frame = _FRAME.match(line), _PLAIN_FRAME.match(line)
        match = frame or plain_frame
        if match is None or not match["path"] or not _is_own_file(match["path"], own_packages):
            continue
        code = []
        for code_line in error[number:]:  # to an empty line, the next frame, or the error itself
            is_error = plain_frame and not code_line.startswith(" ")
            if is_error or not code_line.strip() or _FRAME.match(code_line) or _PLAIN_FRAME.match(code_line):
                break
            code.append(f"    {code_line}")
        function = f", in {match['function']}" if match["function"] else ""
        own_frame = (f"in your code, {_CODE.sub('', match['path'])}:{match['line']}{function}:", *code)
    return own_frame


def _is_own_file(path: str, own_packages: Collection[str]) -> bool:
    if _OVERLAY in path:
        top = path.partition(_OVERLAY)[2].partition("/")[0]
        return top.removesuffix(".py") in own_packages
    return not _LIBRARY.search(path) and not path.endswith(script_runs.SCRIPT)


def _explain_cell(cell: ExecutedCell, environment: RehearsalEnvironment) -> Explanation:
    """Explain a failed cell by the runtime's own error, its inputs, its script, or its message."""
    if cell.failure:
        return Explanation(code=cell.failure.code, cause=cell.failure.what, remedy=cell.failure.hint)
    explained = _explain_missing_column(cell, environment.inputs)
    explained = explained or _explain_missing_file(cell, environment.inputs)
    for text in (*_find_script_error(cell)[-1:], cell.message):
        if explained is None or not explained.code:
            explained = causes.explain_failure(text, current=environment.current)
    return explained or Explanation()


def _explain_missing_column(cell: ExecutedCell, inputs: Iterable[Mount]) -> Explanation | None:
    """Explain an error about a column that the test set lacks; None for other errors."""
    column = next((match[1] for pattern in _COLUMN if (match := pattern.search(cell.message))), None)
    if column is None:
        return None
    tables = _read_headers(inputs)
    test = next((name for name in tables if "test" in name), None)
    train = next((name for name, columns in tables.items() if "train" in name and column in columns), None)
    if test is None or column in tables[test]:
        return None
    columns = tables[test]
    near = get_close_matches(column, columns, n=1)
    from_table = any(word in line for line in cell.error for word in ("pandas", "polars"))
    if not (train or near or from_table):
        return None  # it may as well be the key of a dict
    remaining = f" and {len(columns) - _MAX_NAMES} more" if len(columns) > _MAX_NAMES else ""
    cause = f"'{test}' has no column '{column}'; it has {', '.join(columns[:_MAX_NAMES])}{remaining}"
    if train:
        return Explanation(
            code="column-not-in-test-set",
            cause=f"{cause}. '{train}' has it: it is known only in training",
            remedy=f"do not use '{column}' when predicting, or compute it from columns of '{test}'",
        )
    meant = f"'{near[0]}'" if near else "an existing column"
    return Explanation(
        code="column-not-in-test-set", cause=cause, remedy=f"use {meant}, or add '{column}' before using it"
    )


def _read_headers(inputs: Iterable[Mount]) -> dict[str, tuple[str, ...]]:
    """Return the columns of the CSV files at the top of the mounted sources, those of the competition first."""
    headers: dict[str, tuple[str, ...]] = {}
    for mount in sorted(inputs, key=lambda mount: "/competitions/" not in mount.inside):
        tables = [mount.source] if mount.source.suffix == ".csv" else []
        if mount.source.is_dir() and mount.inside != "/kaggle/input":
            tables = sorted(mount.source.glob("*.csv"))
        for path in tables:
            with suppress(OSError, csv.Error):
                headers[path.name] = submission_check.read_table(path, max_cells=0).header
    return headers


def _explain_missing_file(cell: ExecutedCell, inputs: Iterable[Mount]) -> Explanation | None:
    """Explain a file that is missing from an existing folder, usually that of an id; None for other errors."""
    match = _NO_FILE.search(cell.message)
    if not match:
        return None
    path = PurePosixPath(match[1])
    folder = None
    for mount in sorted(inputs, key=lambda mount: len(mount.inside)):  # the innermost mount counts
        if path.parent.is_relative_to(mount.inside):
            folder = mount.source / path.parent.relative_to(mount.inside)
    names = sorted(entry.name for entry in folder.iterdir()) if folder and folder.is_dir() else []
    if not names:
        return None
    alike = next((name for name in names if PurePosixPath(name).stem == path.stem), None)
    content = f"'{alike}'" if alike else f"{len(names)} files or folders, such as '{names[0]}'"
    return Explanation(
        code="input-file-not-found",
        cause=f"'{path.parent}' has no '{path.name}'; the folder contains {content}",
        remedy="use the names in the folder, or handle ids without a file: the hidden test set may contain some",
    )


def _find_script_error(cell: ExecutedCell) -> tuple[str, ...]:
    """Return the last traceback printed by a script that a cell started; () if there is none."""
    if not _STARTS_SCRIPT.search(cell.source) or f"{_TRACEBACK}:" not in cell.printed:
        return ()
    lines = [line for line in cell.printed.rpartition(f"{_TRACEBACK}:")[2].splitlines() if line.strip()]
    frames = itertools.takewhile(lambda line: line.startswith((" ", "\t")), lines)
    return (f"{_TRACEBACK}:", *lines[: len([*frames]) + 1])
