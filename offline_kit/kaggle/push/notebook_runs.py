"""Follow the run of a pushed notebook, explain its failure, and download its output."""

import csv
import re
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TypeVar

from offline_kit.adopt import script_setup
from offline_kit.core import files
from offline_kit.core.errors import OfflineKitError, OutsideError, ProjectError, UsageError
from offline_kit.core.report import SILENT, Advance, Reporter
from offline_kit.core.retry import TransientError, ignore_progress, retry_call
from offline_kit.kaggle.client.api_types import (
    RUNNING_STATES,
    NewNotebook,
    RunLog,
    RunStatus,
)
from offline_kit.kaggle.client.calls import is_transient
from offline_kit.kaggle.client.client import KaggleClient
from offline_kit.kaggle.push import push_notebook
from offline_kit.kaggle.push.journal import PushContext
from offline_kit.kaggle.push.notebook_equality import normalise_cells
from offline_kit.kaggle.push.poll_policy import StatusLine, wait_until_shown
from offline_kit.kaggle.push.push_notebook import NotebookPlan
from offline_kit.notebook.runtime.kit_report import REPORT
from offline_kit.notebook.runtime.kit_runtime import KitError, find_failure
from offline_kit.rehearsal import causes, execution, script_runs, submission_check
from offline_kit.rehearsal.causes import Explanation

# A notebook may run 12 h on Kaggle (https://www.kaggle.com/docs/notebooks), plus 1 h in the queue.
RUN_TIMEOUT_SECONDS = 13 * 3600.0
LOG_NAME = "log.txt"
_LOG_EVERY = 4  # maximum poll intervals between two requests for the log of a running notebook
_SHOWN = 10
_TOLERANCE = 1e-3  # other hardware gives other last digits
_RAISED = re.compile(r"[A-Za-z_][\w.]*(error|exception|interrupt|exit)\b.*: \S", re.IGNORECASE)
_TRACEBACK = "Traceback (most recent call last)"
_PAPERMILL = re.compile(r'^Exception encountered at "In \[(\d+|None| )\]":\s*$', re.MULTILINE)
_BEGUN = re.compile(r"^Executing Cell (\d+)-", re.MULTILINE)
_CONVERTING = re.compile(r"^\[NbConvertApp\]", re.MULTILINE)
_LINE = 100  # characters of a live line
_TAIL = 10_000  # characters of a log in which the live line is looked for
_T = TypeVar("_T")


class KitNotMountedError(ProjectError):
    """The run found no kit: it started before the dataset's version was visible to it."""

    default_code = "kit-not-mounted"


@dataclass(frozen=True, kw_only=True)
class FinishedRun:
    """A complete run."""

    ref: str
    version: int
    seconds: float  # duration by the run's log, or else by our clock
    outputs: tuple[str, ...]


def push_and_follow(
    notebook: NewNotebook, context: PushContext, timeout: float = RUN_TIMEOUT_SECONDS
) -> tuple[NotebookPlan, FinishedRun]:
    """Push a notebook and follow its run; raises as `push_notebook` and `follow_run`.

    If the run started before its kit was visible, warn and push the notebook once more.
    """
    pushed = push_notebook.push_notebook(notebook, context)
    try:
        return pushed, follow_run(notebook.ref, pushed.version, context, timeout=timeout)
    except KitNotMountedError as error:
        context.report.warn(
            f"version {pushed.version} of '{notebook.ref}' ran before its kit was visible;"
            f" pushing it once more ({error.what})"
        )
    push_notebook.void_version(notebook, pushed.version, context)
    pushed = push_notebook.push_notebook(notebook, context)
    return pushed, follow_run(notebook.ref, pushed.version, context, timeout=timeout)


def follow_run(
    ref: str, version: int, context: PushContext, *, timeout: float = RUN_TIMEOUT_SECONDS
) -> FinishedRun:
    """Wait until the run of exactly this version has finished, at most `timeout` seconds.

    Raises ProjectError for a failed run, with the cell, its error, the cause and a fix, and
    KitNotMountedError if it found no kit; OutsideError if it was cancelled, does not start or does not
    finish in time. The log is written to the folder of the notebook's runs, for failed runs too.
    """

    def read_log() -> RunLog | None:
        log = kaggle.get_run_log(ref, version)
        return log if log.text else None

    kaggle = context.kaggle
    began, name = time.monotonic(), f"version {version} of '{ref}'"
    run = _wait_until_ended(ref, version, context, timeout)
    is_cancelled = run.state == "cancelacknowledged"
    # What is empty at first may come later.
    after_end = context.poll.retry_policy(context.poll.visibility_timeout / 6)
    log = (None if is_cancelled else wait_until_shown(read_log, after_end)) or RunLog()
    files.write_atomic(context.runs_folder(ref) / LOG_NAME, log.text)
    if is_cancelled:
        raise OutsideError(
            f"the run of {name} was cancelled",
            code="notebook-run-cancelled",
            hint="run the same command again: it pushes a new version",
            details=[run.failure_message] if run.failure_message else (),
        )
    failure = find_failure(log.text)
    if failure and failure.code == "kit-not-mounted":
        raise KitNotMountedError(
            f"{name} ran without its kit: {failure.what}",
            hint="run 'offline-kit push' again: the run started before the dataset was visible",
        )
    if run.state == "error":
        raise _build_failed_error(ref, version, run, log, context)
    return FinishedRun(
        ref=ref,
        version=version,
        seconds=log.seconds or time.monotonic() - began,
        outputs=wait_until_shown(lambda: kaggle.list_run_outputs(ref, version) or None, after_end) or (),
    )


def _wait_until_ended(ref: str, version: int, context: PushContext, timeout: float) -> RunStatus:
    """Poll the run of a version until it has ended, and show its state and the last line of its log meanwhile."""
    kaggle, poll, name = context.kaggle, context.poll, f"version {version} of '{ref}'"
    began = answered = shown = time.monotonic()
    logged, last_words, unknown_state = float("-inf"), "", ""

    def check_ended() -> RunStatus:
        nonlocal answered, shown, logged, last_words, unknown_state
        run = kaggle.get_notebook_run(ref, version)
        now = answered = time.monotonic()
        if run is None:
            if now - shown > poll.visibility_timeout:
                raise OutsideError(
                    f"{name} has no run",
                    code="notebook-run-missing",
                    hint="run the same command again: it pushes a new version",
                )
            raise TransientError("its run is not visible yet")
        shown = now
        if run.state in ("complete", "error", "cancelacknowledged"):
            return run
        if run.state not in (*RUNNING_STATES, unknown_state):
            unknown_state = run.state
            context.report.warn(
                f"the state of {name} is '{run.state}', which this version of offline-kit does not know; it keeps"
                f" waiting; check {context.server_name}"
            )
        if run.state == "running" and now - logged > _LOG_EVERY * poll.max_interval:
            logged, last_words = now, ""
            with suppress(OfflineKitError):  # only the status line lacks it
                last_words = f": {last_line(kaggle.get_run_log(ref, version).text)}"
        line.update_status(f"{run.state}, {(now - began) / 60:.0f} min{last_words}".removesuffix(": "))
        raise TransientError(f"it is '{run.state}'")

    def may_pass(error: Exception) -> bool:
        # A run takes hours: tolerate network failures for a while.
        is_tolerated = is_transient(error) and time.monotonic() - answered <= poll.processing_timeout
        if is_tolerated:
            line.update_status(f"no answer: {error}")
        return is_tolerated

    with StatusLine(context.report, f"{name} runs on {context.server_name}") as line:
        return retry_call(
            check_ended,
            poll.retry_policy(timeout),
            may_pass=may_pass,
            give_up=lambda trouble: OutsideError(
                f"the run of {name} has not finished in time: {trouble}",
                code="notebook-run-timeout",
                hint="run the same command again: it continues to wait, and nothing is pushed twice",
            ),
        )


def fetch_outputs(
    finished: FinishedRun, kaggle: KaggleClient, folder: Path, names: Sequence[str], report: Reporter = SILENT
) -> tuple[Path, ...]:
    """Download outputs of a run to `folder` and return their paths, in order.

    A file gets its name when it is complete. Raises ProjectError for a file that the run did not write.
    """
    if missing := [name for name in names if name not in finished.outputs]:
        outputs = [name for name in finished.outputs if name != REPORT]
        omitted = f" and {len(outputs) - _SHOWN} more" if len(outputs) > _SHOWN else ""
        written = f"written instead: {', '.join(outputs[:_SHOWN])}{omitted}"
        raise ProjectError(
            f"version {finished.version} of '{finished.ref}' completed without writing '{missing[0]}'",
            code="submission-file-missing",
            hint=f"write '{missing[0]}' to /kaggle/working: Kaggle calls this 'Submission CSV Not Found'",
            details=[written if outputs else "nothing was written there"],
        )
    paths = []
    with report.progress("downloading the output", len(names), unit="files") as advance:
        for name in names:
            paths.append(fetch_output((finished.ref, finished.version), name, kaggle, folder))
            advance(1)
    return tuple(paths)


def _build_failed_error(
    ref: str, version: int, run: RunStatus, log: RunLog, context: PushContext
) -> ProjectError:
    """Return the error for a failed run: the cell, its error, cause, fix, and links."""
    notebook, server_name = context.kaggle.get_notebook(ref, version), context.server_name
    text = notebook.text if notebook else ""
    kind = (notebook.kernel_type if notebook else "") or "notebook"
    run_failure = analyse_failure(log.text, text, kind)
    explained = causes.explain_failure(run_failure.message or run.failure_message)
    if failure := run_failure.failure:
        explained = Explanation(code=failure.code, cause=failure.what, remedy=failure.hint)
    elif not explained.code:
        explained = causes.explain_failure(run.failure_message)
    label, quoted = f"the {kind}", tuple[str, ...]()
    if run_failure.line:
        label = script_setup.label_line(text, run_failure.line)
        quoted = execution.quote_line(text, run_failure.line)
    elif run_failure.cell:
        sources = [source for _, source in normalise_cells(text)]
        label = execution.label_cell(run_failure.cell, execution.count_added_cells(sources))
        quoted = execution.quote_cell(label, run_failure.source) if run_failure.source else ()
    details = [*quoted, *[""] * bool(quoted)]
    details += [*execution.shorten_error(run_failure.error or log.text.splitlines()), ""]
    if run.failure_message and run.failure_message not in run_failure.message:
        details.append(f"{server_name} says: {run.failure_message}")
    if explained.cause:
        details.append(f"cause: {explained.cause}")
    details.append(f"full log: {context.runs_folder(ref) / LOG_NAME}")
    if notebook and server_name == "Kaggle":
        details.append(f"its page: {notebook.url}")
    return ProjectError(
        f"{label} failed on {server_name}: version {version} of '{ref}'",
        hint=explained.remedy or "fix it, rehearse it with 'offline-kit rehearse', and push again",
        code=explained.code or "notebook-run-failed",
        details=details,
    )


def fetch_output(
    run: tuple[str, int], name: str, kaggle: KaggleClient, folder: Path, advance: Advance = ignore_progress
) -> Path:
    """Download one output of a run ("owner/slug", version) to `folder` and return its path.

    The file gets its name when it is complete. Kaggle does not report its size beforehand, so callers check the content.
    """
    path = folder / name
    if ".." in PurePosixPath(name).parts or PurePosixPath(name).is_absolute():
        raise UsageError(
            f"'{name}' is not the name of an output",
            code="output-name-invalid",
            hint="name a file below /kaggle/working",
        )
    part = path.with_name(f".{path.name}.part")
    files.make_folder(path.parent)
    kaggle.download_run_output(*run, name, part, advance)
    part.replace(path)
    return path


def compare_submissions(rehearsed: Path, submission: Path, server_name: str = "Kaggle") -> tuple[str, ...]:
    """Return how the submission from `server_name` differs from the rehearsal's: notes, because hardware differs.

    Formats other than CSV are compared by size. Never raises because of a file's content.
    """
    if files.sha256_of(rehearsed) == files.sha256_of(submission):
        return ("the submission is identical to the rehearsal's",)
    if rehearsed.suffix.lower() != ".csv" or submission.suffix.lower() != ".csv":
        sizes = [files.format_size(path.stat().st_size) for path in (submission, rehearsed)]
        return (
            f"{sizes[0]} on {server_name}, {sizes[1]} in the rehearsal; only CSV files are compared by value",
        )
    try:
        difference = submission_check.describe_difference(rehearsed, submission, tolerance=_TOLERANCE)
    except csv.Error as error:
        return (f"the submissions could not be compared: {error}",)
    if difference:
        return (f"the submission differs, in the rehearsal and then on {server_name}: {difference}",)
    return (f"the submission agrees with the rehearsal's within {_TOLERANCE:.1%}",)


@dataclass(frozen=True, kw_only=True)
class RunFailure:
    """Why a run failed, according to its log."""

    cell: int = 0  # 1-based number of the failed cell among all cells; 0 if unknown
    line: int = 0  # 1-based number of the line of a script that failed; 0 if unknown
    source: str = ""
    error: tuple[str, ...] = ()
    message: str = ""  # the error and the errors that caused it, without tracebacks
    failure: KitError | None = None


def last_line(text: str) -> str:
    """Return the last non-empty line, shortened; of a progress bar its latest state."""
    words = re.split(r"[\r\n]", text[-_TAIL:].rstrip())[-1]
    return words.strip()[:_LINE]


def analyse_failure(text: str, notebook: str, kernel_type: str = "notebook") -> RunFailure:
    """Return why a run of a notebook (its JSON text) or script failed, by the text of its log."""
    if kernel_type == "script":
        failed = script_runs.find_script_failure(text)
        if failed is None:
            return RunFailure(failure=find_failure(text))
        return RunFailure(
            line=failed.line, error=failed.error, message=failed.message, failure=failed.failure
        )
    heads = list(_PAPERMILL.finditer(text))
    start = heads[-1].end() if heads else text.rfind(_TRACEBACK)
    end = _CONVERTING.search(text, max(start, 0))
    # After a failure, Kaggle still converts the notebook with nbconvert, whose log comes last.
    section = text[max(start, 0) : end.start() if end else None]
    code = {
        number: source
        for number, (kind, source) in enumerate(normalise_cells(notebook), 1)
        if kind == "code" and source.strip()
    }
    # papermill counts executed cells only. Without its count, it is the cell that was begun last: there the kernel died.
    executed, begun = heads[-1][1] if heads else "", _BEGUN.findall(text)
    cell = int(begun[-1]) if begun else 0
    if executed.isdigit() and 0 < int(executed) <= len(code):
        cell = list(code)[int(executed) - 1]
    lines = tuple(line for line in section.splitlines() if line.strip().strip("-")) if start >= 0 else ()
    if lines and "DeadKernelError" in lines[-1]:
        lines = lines[-1:]  # the frames are papermill's own
    raised = [index for index, line in enumerate(lines) if _RAISED.match(line)]
    message = [*(lines[index] for index in raised[:-1]), *lines[raised[-1] if raised else -1 :]]
    return RunFailure(
        cell=cell if cell in code else 0,
        source=code.get(cell, ""),
        error=lines,
        message="\n".join(message),
        failure=find_failure(text),
    )
