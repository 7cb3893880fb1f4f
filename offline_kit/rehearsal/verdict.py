"""What a run amounts to: passed, or one error that quotes the cell, says the cause and the remedy."""

import re
from dataclasses import dataclass
from pathlib import Path

from offline_kit.core import files
from offline_kit.core.errors import ProjectError
from offline_kit.notebook.runtime.kit_server import WRITTEN
from offline_kit.rehearsal import causes, execution, explanation, submission_check, suspicious
from offline_kit.rehearsal.execution import Bench, Cell, Ran

_HEAD = 8  # lines of a quoted cell
_TAIL = 12  # lines of an error
_AGAIN = "correct it, then run 'offline-kit rehearse' again"
_SAID = "note: "  # how the runtime in the notebook begins what is worth knowing
_NOTES = 20  # of them that are shown
_PUSH_AGAIN = re.compile("push the kit again(?: and wait until Kaggle has processed it)?")
"""What a notebook on Kaggle advises about a kit that is not whole; in a rehearsal, the kit is the one here."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A judged run."""

    cells: tuple[Cell, ...]
    """The executed code cells."""
    problem: ProjectError | None
    """What is wrong; None: it passed."""
    rows: int = 0
    """Rows of the submission."""
    notes: tuple[str, ...] = ()
    """What was compared."""
    said: tuple[str, ...] = ()
    """What the notebook itself noted, in its output; each thing once."""
    warnings: tuple[str, ...] = ()
    """What may spoil the score of a run that passed."""


def judge(
    ran: Ran,
    bench: Bench,
    name: str,
    sample: Path | None,
    *,
    table: Path | None = None,
    trusted: bool = False,
) -> Verdict:
    """Judge a run: its end, its cells, then the submission `name` against the sample.

    `table` and `trusted` are those of `submission.check`.
    """
    cells = execution.cells(ran.executed)
    problem = _end(ran, bench, execution.stopped_at(cells))
    if problem is None and not ran.outcome.succeeded:
        problem = _broken(ran, execution.last_started(cells))
    written = ran.working / name
    if problem is None and not written.is_file():
        problem = _missing(ran, name, cells)
    if problem is None and not cells:
        problem = ProjectError(
            "the executed notebook is missing or is no notebook any more",
            hint="do not write below /rehearsal: it is the rehearsal's own folder",
        )
    said = _said(ran.log)
    if problem:
        return Verdict(cells=cells, problem=problem, said=said)
    checked = submission_check.check(written, sample, table=table, trusted=trusted)
    if checked.problems:
        problem = ProjectError(
            f"'{name}' would not be scored as it is",
            hint="compare it with the sample submission; it is kept beside the executed notebook",
            details=checked.problems,
        )
    return Verdict(
        cells=cells,
        problem=problem,
        rows=checked.rows,
        notes=(*checked.notes, *(f"not kept: {line}" for line in ran.deleted)),
        said=said,
        warnings=(*checked.warnings, *suspicious.of_output(ran.working)),
    )


def _said(log: Path) -> tuple[str, ...]:
    """Return the notes in a run's log, without what marks them."""
    if not log.is_file():
        return ()
    with log.open(encoding="utf-8", errors="replace") as lines:
        notes = (line.strip().removeprefix(_SAID) for line in lines if line.startswith(_SAID))
        found = list(dict.fromkeys(notes))
    more = (
        [f"{len(found) - _NOTES} more notes of the notebook stand in its log"] if len(found) > _NOTES else []
    )
    return (*found[:_NOTES], *more)


def _end(ran: Ran, bench: Bench, cell: Cell | None) -> ProjectError | None:
    """Return what is wrong with how the run ended."""
    where = f" in {cell.label}" if cell else ""
    quoted = _quoted(cell) if cell else ()
    if ran.outcome.timed_out:
        return ProjectError(
            f"the notebook was stopped{where}: the time limit of {bench.timeout:.0f} s was reached",
            hint="make it faster, rehearse on fewer rows (--rows), or allow more time (--timeout)",
            details=quoted,
        )
    if ran.outcome.over_memory:
        return ProjectError(
            f"the notebook was stopped{where}: it used more than {files.format_size(bench.memory or 0)} of memory",
            hint="use smaller batches, free what is no longer needed, or raise the limit",
            details=quoted,
        )
    if cell and cell.status == "failed":
        frame = explanation.own_frame(cell.error, bench.own)
        script = explanation.script_error(cell)
        cause, remedy = _explained(cell, script, bench)
        remedy = _PUSH_AGAIN.sub("build the kit again with 'offline-kit build'", remedy)
        details = (
            *frame,
            *[""] * bool(frame),
            *quoted,
            "",
            *script,
            *_shortened(cell.error),
            *_because(cause),
        )
        code = cell.failure.code if cell.failure else "cell-failed"
        return ProjectError(f"{cell.label} failed", hint=remedy or _AGAIN, code=code, details=details)
    return None


def _explained(cell: Cell, script: tuple[str, ...], bench: Bench) -> tuple[str, str]:
    """Return cause and remedy of a failed cell; both empty if nothing is known about its failure."""
    if cell.failure:
        return cell.failure.what, cell.failure.hint
    about = explanation.of_column(cell, bench.inputs) or explanation.of_file(cell, bench.inputs)
    if about:
        return about.cause, about.remedy
    known = causes.explain(script[-1], current=bench.current) if script else ("", "")
    return known if known[0] else causes.explain(cell.message, current=bench.current)


def _because(cause: str) -> tuple[str, ...]:
    return ("", f"cause: {cause}") if cause else ()


def _broken(ran: Ran, cell: Cell | None) -> ProjectError:
    """Return the error for a run that ended badly although no cell failed: its kernel or papermill died."""
    log = ran.log.read_text(encoding="utf-8", errors="replace").splitlines() if ran.log.is_file() else []
    died = bool(log) and "DeadKernelError" in log[-1]
    tail = log[-1:] if died else log[-_TAIL:]
    cause, remedy = causes.explain("\n".join(tail))
    quoted = _quoted(cell) if cell and died else ()
    what = f"the notebook ended with code {ran.outcome.code}"
    if died:
        what = (
            f"the notebook's kernel died in {cell.label}"
            if cell
            else "the notebook's kernel died at its start"
        )
    memory = f"peak memory: {files.format_size(ran.outcome.peak_memory)}"
    return ProjectError(what, hint=remedy or _AGAIN, details=(*quoted, *tail, *_because(cause), memory))


def _quoted(cell: Cell) -> tuple[str, ...]:
    lines = cell.source.splitlines()
    more = [f"    ... {len(lines) - _HEAD} more lines"] if len(lines) > _HEAD else []
    return (f"{cell.label}:", *(f"    {line}" for line in lines[:_HEAD]), *more)


def _shortened(error: tuple[str, ...]) -> tuple[str, ...]:
    """Return the last lines of an error; the first ones of a long one are frames of other people's code."""
    lines = tuple(line for line in error if line.strip())
    return lines if len(lines) <= _TAIL else ("...", *lines[-_TAIL:])


def _missing(ran: Ran, name: str, cells: tuple[Cell, ...]) -> ProjectError:
    for cell in reversed(cells):
        if script := explanation.script_error(cell):
            cause, remedy = causes.explain(script[-1])
            return ProjectError(
                f"a script that {cell.label} starts failed, and no '{name}' was written",
                hint=remedy or _AGAIN,
                details=(*_quoted(cell), "", *_shortened(script), *_because(cause)),
            )
    working = ran.working
    others = sorted(str(path.relative_to(working)) for path in working.rglob("*") if path.is_file())
    shown = (
        [f"written instead: {', '.join(others[:10])}"]
        if others
        else ["nothing was written to /kaggle/working"]
    )
    instead = next((other for other in others if other in WRITTEN), "")
    write = f"write '{name}' there: Kaggle calls this 'Submission CSV Not Found'"
    return ProjectError(
        f"the notebook ran to its end and wrote no '{name}' to /kaggle/working",
        hint=f'set `submission = "{instead}"` in [tool.offline-kit.notebook]' if instead else write,
        details=(*ran.deleted, *shown),
    )
