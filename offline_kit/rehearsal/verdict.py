"""What a run amounts to: passed, or one error that quotes the cell, says the cause and the remedy."""

import re
from dataclasses import dataclass
from pathlib import Path

from offline_kit.core import files
from offline_kit.core.errors import ProjectError
from offline_kit.notebook.runtime.kit_server import WRITTEN
from offline_kit.rehearsal import causes, execution, explanation, submission_check, suspicious
from offline_kit.rehearsal.execution import ExecutedCell, Ran, RehearsalEnvironment

_MAX_CELL_LINES = 8  # lines of a quoted cell
_MAX_ERROR_LINES = 12  # lines of an error
_RETRY_HINT = "correct it, then run 'offline-kit rehearse' again"
_NOTE_PREFIX = "note: "  # how the runtime in the notebook begins what is worth knowing
_MAX_NOTES = 20  # of them that are shown
_PUSH_AGAIN = re.compile("push the kit again(?: and wait until Kaggle has processed it)?")
"""What a notebook on Kaggle advises about a kit that is not whole; in a rehearsal, the kit is the one here."""


@dataclass(frozen=True, kw_only=True)
class RunVerdict:
    """A judged run."""

    cells: tuple[ExecutedCell, ...]
    problem: ProjectError | None
    """None if the run passed."""
    rows: int = 0
    notes: tuple[str, ...] = ()
    notebook_notes: tuple[str, ...] = ()
    """Lines that the notebook marked as notes in its output, each once."""
    warnings: tuple[str, ...] = ()
    """What may still spoil the score."""


def judge_run(
    result: Ran,
    environment: RehearsalEnvironment,
    name: str,
    sample: Path | None,
    *,
    table: Path | None = None,
    trusted: bool = False,
) -> RunVerdict:
    """Judge a run: its end, its cells, then the submission `name` against the sample.

    `table` and `trusted` are those of `submission.check`.
    """
    cells = execution.read_cells(result.executed)
    problem = _find_end_problem(result, environment, execution.find_stopped_cell(cells))
    if problem is None and not result.outcome.succeeded:
        problem = _describe_crash(result, execution.find_last_started_cell(cells))
    written = result.working / name
    if problem is None and not written.is_file():
        problem = _describe_missing_submission(result, name, cells)
    if problem is None and not cells:
        problem = ProjectError(
            "the executed notebook is missing or is no notebook any more",
            hint="do not write below /rehearsal: it is the rehearsal's own folder",
        )
    notebook_notes = _read_notes(result.log)
    if problem:
        return RunVerdict(cells=cells, problem=problem, notebook_notes=notebook_notes)
    checked = submission_check.check_submission(written, sample, table=table, trusted=trusted)
    if checked.problems:
        problem = ProjectError(
            f"'{name}' would not be scored as it is",
            hint="compare it with the sample submission; it is kept beside the executed notebook",
            details=checked.problems,
        )
    return RunVerdict(
        cells=cells,
        problem=problem,
        rows=checked.rows,
        notes=(*checked.notes, *(f"not kept: {line}" for line in result.deleted)),
        notebook_notes=notebook_notes,
        warnings=(*checked.warnings, *suspicious.check_output_size(result.working)),
    )


def _read_notes(log: Path) -> tuple[str, ...]:
    """Return the notes in a run's log, without what marks them."""
    if not log.is_file():
        return ()
    with log.open(encoding="utf-8", errors="replace") as lines:
        notes = (line.strip().removeprefix(_NOTE_PREFIX) for line in lines if line.startswith(_NOTE_PREFIX))
        unique_notes = list(dict.fromkeys(notes))
    more_notes = (
        [f"{len(unique_notes) - _MAX_NOTES} more notes of the notebook stand in its log"]
        if len(unique_notes) > _MAX_NOTES
        else []
    )
    return (*unique_notes[:_MAX_NOTES], *more_notes)


def _find_end_problem(
    result: Ran, environment: RehearsalEnvironment, cell: ExecutedCell | None
) -> ProjectError | None:
    """Return what is wrong with how the run ended."""
    location = f" in {cell.label}" if cell else ""
    quoted = _quote_cell(cell) if cell else ()
    if result.outcome.timed_out:
        return ProjectError(
            f"the notebook was stopped{location}: the time limit of {environment.timeout:.0f} s was reached",
            hint="make it faster, rehearse on fewer rows (--rows), or allow more time (--timeout)",
            details=quoted,
        )
    if result.outcome.over_memory:
        return ProjectError(
            f"the notebook was stopped{location}: it used more than {files.format_size(environment.memory or 0)} of memory",
            hint="use smaller batches, free what is no longer needed, or raise the limit",
            details=quoted,
        )
    if cell and cell.status == "failed":
        frame = explanation.find_own_frame(cell.error, environment.own_packages)
        script = explanation.find_script_error(cell)
        cause, remedy = _explain_cell(cell, script, environment)
        remedy = _PUSH_AGAIN.sub("build the kit again with 'offline-kit build'", remedy)
        details = (
            *frame,
            *[""] * bool(frame),
            *quoted,
            "",
            *script,
            *_shorten_error(cell.error),
            *_format_cause(cause),
        )
        code = cell.failure.code if cell.failure else "cell-failed"
        return ProjectError(f"{cell.label} failed", hint=remedy or _RETRY_HINT, code=code, details=details)
    return None


def _explain_cell(
    cell: ExecutedCell, script: tuple[str, ...], environment: RehearsalEnvironment
) -> tuple[str, str]:
    """Return cause and remedy of a failed cell; both empty if nothing is known about its failure."""
    if cell.failure:
        return cell.failure.what, cell.failure.hint
    explained = explanation.explain_missing_column(
        cell, environment.inputs
    ) or explanation.explain_missing_file(cell, environment.inputs)
    if explained:
        return explained.cause, explained.remedy
    failure = causes.explain_failure(script[-1], current=environment.current) if script else ("", "")
    return failure if failure[0] else causes.explain_failure(cell.message, current=environment.current)


def _format_cause(cause: str) -> tuple[str, ...]:
    return ("", f"cause: {cause}") if cause else ()


def _describe_crash(result: Ran, cell: ExecutedCell | None) -> ProjectError:
    """Return the error for a run that ended badly although no cell failed: its kernel or papermill died."""
    log = (
        result.log.read_text(encoding="utf-8", errors="replace").splitlines() if result.log.is_file() else []
    )
    died = bool(log) and "DeadKernelError" in log[-1]
    tail = log[-1:] if died else log[-_MAX_ERROR_LINES:]
    cause, remedy = causes.explain_failure("\n".join(tail))
    quoted = _quote_cell(cell) if cell and died else ()
    problem = f"the notebook ended with code {result.outcome.code}"
    if died:
        problem = (
            f"the notebook's kernel died in {cell.label}"
            if cell
            else "the notebook's kernel died at its start"
        )
    memory = f"peak memory: {files.format_size(result.outcome.peak_memory)}"
    return ProjectError(
        problem, hint=remedy or _RETRY_HINT, details=(*quoted, *tail, *_format_cause(cause), memory)
    )


def _quote_cell(cell: ExecutedCell) -> tuple[str, ...]:
    lines = cell.source.splitlines()
    remaining = [f"    ... {len(lines) - _MAX_CELL_LINES} more lines"] if len(lines) > _MAX_CELL_LINES else []
    return (f"{cell.label}:", *(f"    {line}" for line in lines[:_MAX_CELL_LINES]), *remaining)


def _shorten_error(error: tuple[str, ...]) -> tuple[str, ...]:
    """Return the last lines of an error; the first ones of a long one are frames of other people's code."""
    lines = tuple(line for line in error if line.strip())
    return lines if len(lines) <= _MAX_ERROR_LINES else ("...", *lines[-_MAX_ERROR_LINES:])


def _describe_missing_submission(result: Ran, name: str, cells: tuple[ExecutedCell, ...]) -> ProjectError:
    for cell in reversed(cells):
        if script := explanation.find_script_error(cell):
            cause, remedy = causes.explain_failure(script[-1])
            return ProjectError(
                f"a script that {cell.label} starts failed, and no '{name}' was written",
                hint=remedy or _RETRY_HINT,
                details=(*_quote_cell(cell), "", *_shorten_error(script), *_format_cause(cause)),
            )
    working = result.working
    other_files = sorted(str(path.relative_to(working)) for path in working.rglob("*") if path.is_file())
    written_files = (
        [f"written instead: {', '.join(other_files[:10])}"]
        if other_files
        else ["nothing was written to /kaggle/working"]
    )
    instead = next((path for path in other_files if path in WRITTEN), "")
    write = f"write '{name}' there: Kaggle calls this 'Submission CSV Not Found'"
    return ProjectError(
        f"the notebook ran to its end and wrote no '{name}' to /kaggle/working",
        hint=f'set `submission = "{instead}"` in [tool.offline-kit.notebook]' if instead else write,
        details=(*result.deleted, *written_files),
    )
