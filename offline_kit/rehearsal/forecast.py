"""Forecast time and memory for the hidden test set from runs of different sizes: a fixed part, and one per row."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import mean, median
from typing import Any

from offline_kit.core.files import format_duration, format_size
from offline_kit.core.sandboxes.box import BoxOutcome
from offline_kit.rehearsal.execution import KernelRun

# Two runs of the same work never take the same time: relative differences, at least and at most.
_TIME_NOISE = (0.05, 0.25)
_MEMORY_NOISE = 0.02  # of peaks, which are samples
_MIN_SECONDS = 0.2  # of work whose time tells anything
_INSTALLS = "kit.install("  # in the kit's cell, whose time is that of a disk and does not grow


@dataclass(frozen=True, kw_only=True)
class SessionFacts:
    """What a forecast needs of a run; its cells without those that install the kit."""

    rows: int
    seconds: float
    peak_memory: int
    cell_seconds: tuple[float, ...] = ()
    cell_memory: tuple[int, ...] = ()
    """Two for each cell: the most that it held, and that of its last fifth, which may grow below it; 0: no sample."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Seconds or bytes as a line over the rows, and its value for the hidden test set."""

    fixed: float
    per_row: float
    error: float = 0.0  # of `per_row`
    center: float = 0.0  # mean of the rows that were measured
    limit: float | None
    value: float = 0.0
    margin: float = 0.0  # of error

    def project(self, rows: int) -> "Estimate":
        """Return it with value and margin for so many rows."""
        value, margin = self.fixed + self.per_row * rows, self.error * abs(rows - self.center)
        return replace(self, value=value, margin=margin)

    def scale(self, factor: float, limit: float) -> "Estimate":
        """Return it for a machine that takes `factor` times as long, not projected."""
        line = {name: factor * getattr(self, name) for name in ("fixed", "per_row", "error")}
        return Estimate(**line, center=self.center, limit=limit)

    @property
    def is_over_limit(self) -> bool:
        """Whether it may exceed its limit; a margin that says little counts no more than the value itself."""
        return bool(self.limit) and self.value + min(self.margin, self.value) > (self.limit or 0)

    @property
    def rows_in_limit(self) -> float:
        """The rows for which the limit is enough."""
        return max(0, (self.limit - self.fixed) / self.per_row) if self.limit and self.per_row else math.inf

    def describe(self, format_amount: Callable[[float], str]) -> str:
        """Return value, margin and limit in words."""
        margin = f" ± {format_amount(self.margin)}" if self.margin else ""
        return (
            f"{format_amount(self.value)}{margin}{f' of {format_amount(self.limit)}' if self.limit else ''}"
        )


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What the hidden test set would take."""

    rows: int | None  # of the hidden test set; None: unknown
    seconds: Estimate
    memory: Estimate | None  # None if it was not measured
    rows_in_limit: int | None  # for which time and memory are enough; None: nothing grows with the rows
    problem: str  # "forecast-over-limit", or empty
    summary: str  # in words, with the rows and the machine that were measured
    warning: str  # the same if there is a problem, else empty


def measure_session(run: KernelRun, rows: int) -> SessionFacts:
    """Return what a forecast needs of a run on so many rows."""
    cells = [
        (cell.started, cell.seconds)
        for cell in run.cells
        if cell.started and cell.seconds is not None and _INSTALLS not in cell.source
    ] or [(run.outcome.started, run.outcome.seconds)]
    return SessionFacts(
        rows=rows,
        seconds=round(run.outcome.seconds, 2),
        peak_memory=run.outcome.peak_memory,
        cell_seconds=tuple(round(seconds, 3) for _, seconds in cells),
        cell_memory=tuple(
            _find_held(samples)
            for started, seconds in cells
            for samples in _list_samples(run.outcome, started, seconds)
        ),
    )


def _find_held(samples: Sequence[int]) -> int:
    """Return the most memory held for two samples: which height of a shorter peak is sampled is chance."""
    return sorted(samples)[-2] if len(samples) > 2 else max(samples, default=0)


def _list_samples(outcome: BoxOutcome, started: float, seconds: float) -> tuple[list[int], list[int]]:
    """Return the memory while a cell ran, and in its last fifth: a function that returns frees what it held."""
    begin = started - outcome.started
    samples = [sample.memory for sample in outcome.memory_curve if begin <= sample.seconds <= begin + seconds]
    return samples, samples[-max(2, len(samples) // 5) :]


def make_forecast(
    sessions: Sequence[SessionFacts], rows: int | None, *, seconds_limit: float, memory_limit: int | None
) -> Forecast | None:
    """Fit a line to each cell of the sessions, and add them up for `rows` rows.

    None if the sessions have less than two sizes. Memory is that of the cell that needs most.
    """
    sessions = sorted(sessions, key=lambda session: session.rows)
    sizes = [session.rows for session in sessions]
    if len(set(sizes)) < 2 or min(sizes) < 1:
        return None
    columns = [*zip(*(session.cell_seconds for session in sessions), strict=False)]
    peaks = [[session.peak_memory for session in sessions]]
    highest = Estimate(fixed=max(peaks[0]), per_row=0.0, limit=memory_limit)
    if columns and len({len(session.cell_seconds) for session in sessions}) == 1:
        peaks = [*map(list, zip(*(session.cell_memory for session in sessions), strict=True))]
        # Start of the kernel, installation, end.
        rest = [session.seconds - sum(session.cell_seconds) for session in sessions]
    else:
        columns, rest = [tuple(session.seconds for session in sessions)], [0.0]
    noise = _find_noise([*columns, rest])
    lines = [_fit_line(sizes, column, noise, seconds_limit) for column in columns]
    time = replace(
        lines[0],
        fixed=mean(rest) + sum(line.fixed for line in lines),
        per_row=sum(line.per_row for line in lines),
        error=math.hypot(*(line.error for line in lines)),
    )
    target = rows or 100 * max(sizes)
    needs = [_fit_line(sizes, peak, _MEMORY_NOISE, memory_limit) for peak in peaks if min(peak)]
    needs += [highest] if highest.fixed else []
    memory = max(needs, key=lambda line: line.project(target).value, default=None)
    measured = f"from {' and '.join(f'{size:,}' for size in sizes)} rows here"
    chosen = (*lines, *([memory] if memory else []))
    grows_faster = any(line.fixed < -line.error * line.center - _MIN_SECONDS for line in chosen)
    return _conclude(time, memory, rows, measured, "at least " * grows_faster)


def scale_forecast(
    local: Mapping[str, Any] | None, *, measured_rows: int, seconds: float, rows: int | None, limit: float
) -> Forecast | None:
    """Return the forecast for a machine on which so many rows took so many seconds; None without them.

    The fixed part is that of `local`, the fields of the forecast here, scaled. Without it, all of the run counts as if
    it grew with the rows: that is careful.
    """
    if not (measured_rows and seconds):
        return None
    time = Estimate(fixed=0.0, per_row=seconds / measured_rows, limit=limit)
    memory = None
    if local and local["seconds"]["per_row"]:
        local_time = Estimate(**local["seconds"])
        time = local_time.scale(seconds / local_time.project(measured_rows).value, limit)
        memory = Estimate(**local["memory"]) if local["memory"] else None
    measured = f"from {measured_rows:,} rows on Kaggle{', the memory from here' if memory else ''}"
    return _conclude(time, memory, rows, measured)


def _find_noise(columns: Sequence[Sequence[float]]) -> float:
    """Return how much times differ that should be the same: the median of what took no longer for more rows."""
    pairs = [(column[0], column[-1]) for column in columns]  # the fewest rows first
    differences = [1 - more / fewer for fewer, more in pairs if fewer >= _MIN_SECONDS and more <= fewer]
    return min(max(_TIME_NOISE[0], median(differences or [0])), _TIME_NOISE[1])


def _fit_line(sizes: Sequence[int], values: Sequence[float], noise: float, limit: float | None) -> Estimate:
    """Fit a line by least squares, with its error if each value has this noise.

    A growth within that error is noise itself: it counts as a margin alone.
    """
    center = mean(sizes)
    spread = sum((size - center) ** 2 for size in sizes)
    parts = [(size - center) / spread * value for size, value in zip(sizes, values, strict=True)]
    per_row, error = sum(parts), noise * math.hypot(*parts)
    if per_row <= error:
        per_row, error = 0.0, max(per_row, 0.0)
    fixed = mean(values) - per_row * center
    return Estimate(fixed=fixed, per_row=per_row, error=error, center=center, limit=limit)


def _conclude(
    seconds: Estimate, memory: Estimate | None, rows: int | None, measured: str, at_least: str = ""
) -> Forecast:
    fitting_rows = min(line.rows_in_limit for line in (seconds, memory) if line)
    rows_in_limit = None if fitting_rows == math.inf else int(fitting_rows)
    problem, summary = "", "nothing grows with the rows"
    if rows:
        seconds, memory = seconds.project(rows), memory and memory.project(rows)
        problem = "forecast-over-limit" * any(line.is_over_limit for line in (seconds, memory) if line)
        needs = [seconds.describe(format_duration), *([memory.describe(format_size)] if memory else [])]
        summary = f"{rows:,} rows: {at_least}{'; '.join(needs)}"
    elif rows_in_limit is not None:
        limits = [format_duration(seconds.limit or 0)]
        limits += [format_size(memory.limit)] if memory and memory.limit else []
        summary = f"{' and '.join(limits)} should be enough for {rows_in_limit:,} rows"
    summary = f"{summary} ({measured})"
    return Forecast(
        rows=rows,
        seconds=seconds,
        memory=memory,
        rows_in_limit=rows_in_limit,
        problem=problem,
        summary=summary,
        warning=f"the hidden test set may exceed a limit: {summary}" if problem else "",
    )
