"""Judge a run: it passed, or one error quotes the cell and gives the cause and the remedy."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from offline_kit.core import files
from offline_kit.core.errors import ProjectError
from offline_kit.notebook.runtime.kit_server import WRITTEN
from offline_kit.rehearsal import causes, execution, explanation, submission_check
from offline_kit.rehearsal.execution import ExecutedCell, KernelRun, RehearsalEnvironment

_RETRY_HINT = "fix it, then run 'offline-kit rehearse' again"
_NOTE_PREFIX = "note: "  # printed by the notebook runtime
_MAX_NOTES = 20
# The runtime's advice for a damaged kit on Kaggle; a rehearsal uses the local kit.
_PUSH_AGAIN = re.compile("push the kit again(?: and wait until Kaggle has processed it)?")


@dataclass(frozen=True, kw_only=True)
class RunVerdict:
    """What is known about a run once it has ended."""

    cells: tuple[ExecutedCell, ...]
    problem: ProjectError | None
    rows: int = 0
    notes: tuple[str, ...] = ()
    notebook_notes: tuple[str, ...] = ()
    """Lines that the notebook marked as notes in its output, each once."""
    warnings: tuple[str, ...] = ()


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
    cells = execution.read_cells(result.executed)
    written = result.working / name
    # One error: what stopped the run, else what is missing, else what Kaggle would not score.
    problem = _find_problem(result, environment, cells)
    if problem is None and not written.is_file():
        problem = _missing_submission_error(result, name, cells)
    if problem is None and not cells:
        problem = ProjectError(
            "the executed notebook is missing or is not a notebook",
            hint="do not write to /rehearsal: the rehearsal itself uses this folder",
            code="executed-notebook-missing",
        )
    notebook_notes = _read_notes(result.log)
    if problem:
        return RunVerdict(cells=cells, problem=problem, notebook_notes=notebook_notes)
    checked = submission_check.check_submission(written, sample, table=table, trusted=trusted)
    if checked.problems:
        problem = ProjectError(
            f"Kaggle would not score '{name}'",
            hint="compare it with the sample submission; it is saved next to the executed notebook",
            code="submission-invalid",
            details=checked.problems,
        )
    return RunVerdict(
        cells=cells,
        problem=problem,
        rows=checked.rows,
        notes=(*checked.notes, *(f"not kept: {line}" for line in result.deleted)),
        notebook_notes=notebook_notes,
        warnings=(*checked.warnings, *submission_check.check_output_size(result.working)),
    )


def _read_notes(log: Path) -> tuple[str, ...]:
    if not log.is_file():
        return ()
    with log.open(encoding="utf-8", errors="replace") as lines:
        notes = (line.strip().removeprefix(_NOTE_PREFIX) for line in lines if line.startswith(_NOTE_PREFIX))
        unique_notes = list(dict.fromkeys(notes))
    omitted = len(unique_notes) - _MAX_NOTES
    return (*unique_notes[:_MAX_NOTES], *([f"{omitted} more notes are in the log"] if omitted > 0 else []))


def _find_problem(
    result: KernelRun, environment: RehearsalEnvironment, cells: tuple[ExecutedCell, ...]
) -> ProjectError | None:
    """Return the error of a run that reached a limit, whose cell failed, or that crashed."""
    cell, outcome = execution.find_stopped_cell(cells), result.outcome
    location = f" in {cell.label}" if cell else ""
    quoted = execution.quote_cell(cell.label, cell.source) if cell else ()
    if outcome.timed_out:
        return ProjectError(
            f"the notebook was stopped{location}: the time limit of {environment.timeout:.0f} s was reached",
            hint="make it faster, rehearse on fewer rows (--rows), or allow more time (--timeout)",
            code="time-limit-reached",
            details=quoted,
        )
    if outcome.over_memory:
        return ProjectError(
            f"the notebook was stopped{location}: it used more than {files.format_size(environment.memory or 0)} of memory",
            hint="use smaller batches, free memory that is no longer needed, or raise the limit",
            code="memory-limit-reached",
            details=quoted,
        )
    if cell and cell.status == "failed":
        frame = explanation.find_own_frame(cell.error, environment.own_packages)
        script = explanation.find_script_error(cell)
        explained = explanation.explain_cell(cell, environment)
        remedy = _PUSH_AGAIN.sub("build the kit again with 'offline-kit build'", explained.remedy)
        details = (
            *((*frame, "") if frame else ()),
            *quoted,
            "",
            *script,
            *execution.shorten_error(cell.error),
            *_format_cause(explained.cause),
        )
        code = explained.code or "cell-failed"
        return ProjectError(f"{cell.label} failed", hint=remedy or _RETRY_HINT, code=code, details=details)
    return None if outcome.succeeded else _crash_error(result, cells)


def _format_cause(cause: str) -> tuple[str, ...]:
    return ("", f"cause: {cause}") if cause else ()


def _crash_error(result: KernelRun, cells: Sequence[ExecutedCell]) -> ProjectError:
    """Return the error of a run in which no cell failed, but the kernel or papermill died."""
    log = (
        result.log.read_text(encoding="utf-8", errors="replace").splitlines() if result.log.is_file() else []
    )
    died = bool(log) and "DeadKernelError" in log[-1]
    tail = log[-1:] if died else log[-execution.MAX_ERROR_LINES :]
    problem, quoted = f"the notebook ended with code {result.outcome.code}", tuple[str, ...]()
    if died:
        # papermill marks a cell as completed even if the kernel died in it.
        cell = next((cell for cell in reversed(cells) if cell.seconds is not None), None)
        problem = f"the notebook's kernel died {f'in {cell.label}' if cell else 'at its start'}"
        quoted = execution.quote_cell(cell.label, cell.source) if cell else ()
    explained = causes.explain_failure("\n".join(tail))
    memory = f"peak memory: {files.format_size(result.outcome.peak_memory)}"
    return ProjectError(
        problem,
        hint=explained.remedy or _RETRY_HINT,
        code="kernel-died" if died else "notebook-failed",
        details=(*quoted, *tail, *_format_cause(explained.cause), memory),
    )


def _missing_submission_error(result: KernelRun, name: str, cells: Sequence[ExecutedCell]) -> ProjectError:
    for cell in reversed(cells):
        # IPython continues after a failed `!python script.py`.
        if script := explanation.find_script_error(cell):
            explained = causes.explain_failure(script[-1])
            quoted = execution.quote_cell(cell.label, cell.source)
            return ProjectError(
                f"a script that {cell.label} starts failed, and no '{name}' was written",
                hint=explained.remedy or _RETRY_HINT,
                code=explained.code or "script-failed",
                details=(
                    *quoted,
                    "",
                    *execution.shorten_error(script),
                    *_format_cause(explained.cause),
                ),
            )
    working = result.working
    other_files = sorted(str(path.relative_to(working)) for path in working.rglob("*") if path.is_file())
    written = f"written instead: {', '.join(other_files[:10])}" if other_files else "/kaggle/working is empty"
    instead = next((path for path in other_files if path in WRITTEN), "")
    # Kaggle shows this as "Submission CSV Not Found": https://www.kaggle.com/code-competition-debugging
    write = f"write '{name}' there: Kaggle calls this 'Submission CSV Not Found'"
    return ProjectError(
        f"the notebook finished, but wrote no '{name}' to /kaggle/working",
        hint=f'set `submission = "{instead}"` in [tool.offline-kit.notebook]' if instead else write,
        code="submission-not-written",
        details=(*result.deleted, written),
    )
