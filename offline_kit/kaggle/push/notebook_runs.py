"""The run of a pushed notebook: followed to its end, judged, its output fetched."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from offline_kit.core import files
from offline_kit.core.errors import OfflineKitError, OutsideError, ProjectError
from offline_kit.core.report import SILENT, Reporter, Say
from offline_kit.core.retry import PassingError
from offline_kit.kaggle.client.api_types import (
    UNKNOWN,
    Kaggle,
    LogLine,
    NewNotebook,
    RefusedError,
    Run,
    UnansweredError,
    UnsentError,
)
from offline_kit.kaggle.push import push_notebook, run_files, run_logs
from offline_kit.kaggle.push.poll_policy import poll, shown
from offline_kit.kaggle.push.push_notebook import PushedNotebook
from offline_kit.kaggle.push.push_settings import Ways
from offline_kit.kaggle.push.run_logs import Trouble
from offline_kit.rehearsal import causes, execution

LONGEST = 13 * 3600.0
"""Seconds to wait for a run: the 12 hours that Kaggle gives a notebook, and an hour of queue."""
LOG_NAME = "log.txt"
_LOG_EVERY = 4  # longest pauses between two looks at the log of a run that goes on
_HEAD = 8  # lines of a quoted cell
_TAIL = 12  # lines of an error
_SHOWN = 10
_AGAIN = "run the same command again: it goes on waiting, and nothing is pushed twice"
_T = TypeVar("_T")


class NotMountedError(ProjectError):
    """The run found no kit: it started before the dataset's version was visible to it."""


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A run that came to a good end."""

    ref: str
    """"owner/slug"."""
    version: int
    """The version that was run."""
    seconds: float
    """How long it took by its own log, else by our clock."""
    log: tuple[LogLine, ...]
    """Its log."""
    outputs: tuple[str, ...]
    """Paths of what it wrote, sorted."""


def push_and_follow(
    new: NewNotebook,
    kaggle: Kaggle,
    ways: Ways,
    report: Reporter = SILENT,
    *,
    longest: float = LONGEST,
    logs: Path | None = None,
) -> tuple[PushedNotebook, Finished]:
    """Push a notebook and follow its run; raises as `notebooks.push` and `follow`.

    A run that did not see the kit is not the kit's fault: the notebook is pushed once more, which is said.
    """
    pushed = push_notebook.push(new, kaggle, ways, report)
    try:
        return pushed, follow(new.ref, pushed.version, kaggle, ways, report, longest=longest, logs=logs)
    except NotMountedError as error:
        report.warn(
            f"version {pushed.version} of '{new.ref}' ran before its kit was visible; it is pushed once more"
            f" ({error.what})"
        )
        push_notebook.void(new, pushed.version, ways)
    pushed = push_notebook.push(new, kaggle, ways, report)
    return pushed, follow(new.ref, pushed.version, kaggle, ways, report, longest=longest, logs=logs)


def follow(
    ref: str,
    version: int,
    kaggle: Kaggle,
    ways: Ways,
    report: Reporter = SILENT,
    *,
    longest: float = LONGEST,
    logs: Path | None = None,
) -> Finished:
    """Wait until the run of exactly this version has ended, at most `longest` seconds, and return how.

    Raises ProjectError for a run that failed, with the cell, its error, the cause and the remedy, and
    NotMountedError where it found no kit; OutsideError where it was cancelled, does not start or does not
    end in time. `logs` is a folder that gets the log, of a failed run too.
    """
    began = time.monotonic()
    watch = _Watch(ref, version, kaggle, ways, report)
    try:
        run = watch.ended()
    except PassingError:
        with report.waiting(f"version {version} of '{ref}' runs on {kaggle.account().place}") as watch.say:
            run = poll(watch.ended, ways.waiting.until(longest), lambda e: _never_ended(ref, version, str(e)))
    log = _at_last(lambda: kaggle.log(ref, version), ways) if run.state != "cancelacknowledged" else ()
    if logs:
        keep_log(log, logs)
    if run.state == "cancelacknowledged":
        raise OutsideError(
            f"the run of version {version} of '{ref}' was cancelled",
            hint="run the same command again: it pushes a new version",
            details=[run.failure] if run.failure else (),
        )
    if lost := run_logs.not_mounted(log):
        raise NotMountedError(
            f"version {version} of '{ref}' ran without its kit: {lost}",
            hint="push the kit and the notebook again; the run began before Kaggle showed the dataset to it",
        )
    if run.state == "error":
        raise _failed(ref, version, run, log, kaggle, logs)
    return Finished(
        ref=ref,
        version=version,
        seconds=run_logs.seconds(log) or time.monotonic() - began,
        log=log,
        outputs=_at_last(lambda: kaggle.outputs(ref, version), ways),
    )


def _at_last(ask: Callable[[], tuple[_T, ...]], ways: Ways) -> tuple[_T, ...]:
    """Return what a run that has ended left; nothing may mean that it does not show yet."""
    return shown(lambda: ask() or None, ways.waiting.until(ways.waiting.grace / 6)) or ()


class _Watch:
    """Looks at a run again and again, and tells what it sees."""

    def __init__(self, ref: str, version: int, kaggle: Kaggle, ways: Ways, report: Reporter) -> None:
        self._ref, self._version, self._kaggle, self._report = ref, version, kaggle, report
        self._waiting = ways.waiting
        self.say: Say = lambda _words: None
        self._began = self._seen = self._answered = time.monotonic()
        self._logged = float("-inf")
        self._last = ""
        self._foreign = ""

    def ended(self) -> Run:
        """Return a run that has ended; raises PassingError while it goes on."""
        try:
            run = self._kaggle.run(self._ref, self._version)
        except (RefusedError, UnansweredError, UnsentError) as error:
            if isinstance(error, RefusedError) and error.status < 500 and error.status != 429:
                raise
            # A run of hours outlives a bad line; it is looked at again until the line was bad for too long.
            if time.monotonic() - self._answered > self._waiting.processing:
                raise
            self.say(f"no answer at the moment: {error.what}")
            raise PassingError(error.what) from error
        now = self._answered = time.monotonic()
        if run is None:
            if now - self._seen > self._waiting.grace:
                raise _no_run(self._ref, self._version)
            raise PassingError("its run does not show yet")
        self._seen = now
        if run.state in ("complete", "error", "cancelacknowledged"):
            return run
        if run.state.startswith(UNKNOWN) and run.state != self._foreign:
            self._foreign = run.state
            page = self._kaggle.account().place
            self._report.warn(
                f"the state of version {self._version} of '{self._ref}' is {run.state}: whether it has ended"
                f" cannot be told, so it is waited for; {page} may show more"
            )
        self._tell(run.state, now)
        raise PassingError(f"it is still '{run.state}'")

    def _tell(self, state: str, now: float) -> None:
        if state == "running" and now - self._logged > _LOG_EVERY * self._waiting.longest:
            self._logged = now
            try:
                self._last = run_logs.last_line(self._kaggle.log(self._ref, self._version))
            except OfflineKitError:
                self._last = ""  # only the live line lacks it
        words = [state, f"{(now - self._began) / 60:.0f} min"]
        self.say(", ".join(words) + (f": {self._last}" if self._last else ""))


def keep_log(log: Sequence[LogLine], folder: Path) -> Path:
    """Write a log as plain text to `folder` and return the file."""
    path = folder / LOG_NAME
    files.write_atomic(path, run_logs.plain(log))
    return path


def fetch(
    finished: Finished, kaggle: Kaggle, folder: Path, names: Sequence[str], report: Reporter = SILENT
) -> tuple[Path, ...]:
    """Put outputs of a run, and its log, into `folder` and return the outputs' places, in order.

    A file takes its name when it is whole. Raises ProjectError for a name that the run did not write,
    OutsideError where what comes is not the file.
    """
    if missing := [name for name in names if name not in finished.outputs]:
        raise _not_written(finished, missing)
    run = (finished.ref, finished.version)
    found = []
    with report.progress("fetching the output", len(names), unit="files") as advance:
        for name in names:
            found.append(run_files.bring(run, name, kaggle, folder))
            advance(1)
    keep_log(finished.log, folder)  # at last: `fetched_before` takes all beside it for this run's
    return tuple(found)


def fetched_before(finished: Finished, folder: Path, name: str) -> Path | None:
    """Return an output that `fetch` put into `folder` of this very run, told by its log; None for none.

    The version's number alone does not tell: a notebook that is deleted and made anew begins at 1 again.
    """
    place, log = folder / name, folder / LOG_NAME
    if not place.is_file() or not log.is_file():
        return None
    return place if log.read_text(encoding="utf-8") == run_logs.plain(finished.log) else None


def _not_written(finished: Finished, missing: Sequence[str]) -> ProjectError:
    others = finished.outputs
    more = f" and {len(others) - _SHOWN} more" if len(others) > _SHOWN else ""
    return ProjectError(
        f"version {finished.version} of '{finished.ref}' ran to its end and wrote no '{missing[0]}'",
        hint=f"write '{missing[0]}' to /kaggle/working: Kaggle calls this 'Submission CSV Not Found'",
        details=[
            f"written instead: {', '.join(others[:_SHOWN])}{more}" if others else "nothing was written there"
        ],
    )


def _failed(
    ref: str, version: int, run: Run, log: tuple[LogLine, ...], kaggle: Kaggle, logs: Path | None
) -> ProjectError:
    """Return the error for a run that failed: the cell, its error, cause, remedy, and where to read on."""
    there = kaggle.notebook(ref, version)
    found = run_logs.trouble(log, there.text if there else "")
    cause, remedy = causes.explain(found.message or run.failure)
    if found.failure:
        cause, remedy = found.failure.what, found.failure.hint
    elif not cause:
        cause, remedy = causes.explain(run.failure)
    label = _label(found.cell, there.text if there else "")
    what = f"{label} failed" if label else "the notebook failed"
    place = kaggle.account().place
    said = [f"{place} says: {run.failure}"] if run.failure and run.failure not in found.message else []
    more = [f"the whole log: {logs / LOG_NAME}"] if logs else []
    more += [f"its page: {there.url}"] if there and place == "Kaggle" else []
    return ProjectError(
        f"{what} on {place}: version {version} of '{ref}'",
        hint=remedy or "correct it, rehearse it with 'offline-kit rehearse', and push again",
        code=found.failure.code if found.failure else "notebook-run-failed",
        details=[
            *_quoted(found, label),
            *_error(found, log),
            *said,
            *[f"cause: {cause}"] * bool(cause),
            *more,
        ],
    )


def _label(cell: int, notebook: str) -> str:
    """Return how the failed cell is called, as after a rehearsal; empty where it is not known."""
    if not cell:
        return ""
    try:
        sources = ["".join(each.get("source", "")) for each in json.loads(notebook)["cells"]]
    except (ValueError, KeyError, TypeError, AttributeError):
        sources = []
    return execution.label_of(cell, execution.cells_on_top(sources))


def _quoted(found: Trouble, label: str) -> list[str]:
    lines = found.source.splitlines()
    if not lines:
        return []
    more = [f"    ... {len(lines) - _HEAD} more lines"] if len(lines) > _HEAD else []
    return [f"{label}:", *(f"    {line}" for line in lines[:_HEAD]), *more, ""]


def _error(found: Trouble, log: Sequence[LogLine]) -> list[str]:
    lines = list(found.error) or [line for line in run_logs.plain(log).splitlines() if line.strip()]
    return [*(lines if len(lines) <= _TAIL else ["...", *lines[-_TAIL:]]), ""]


def _no_run(ref: str, version: int) -> OutsideError:
    return OutsideError(
        f"version {version} of '{ref}' has no run",
        hint="run the same command again: where the version has none, it pushes a new one",
    )


def _never_ended(ref: str, version: int, why: str) -> OutsideError:
    return OutsideError(f"the run of version {version} of '{ref}' has not ended in time: {why}", hint=_AGAIN)
