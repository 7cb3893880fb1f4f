"""Forecast time and memory for the hidden test set from runs of different sizes: a fixed part, and one per row."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import mean, median
from typing import Any

from offline_kit.core.files import format_duration, format_size
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
    cell_seconds: tuple[float, ...]
    cell_memory: tuple[int, ...]
    """Two for each cell: the most that it held, and that of its last fifth, which may grow below it; 0: no sample."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Seconds or bytes as a line over the rows, and its value for the hidden test set."""

    fixed: float
    per_row: float = 0.0
    error: float = 0.0  # of `per_row`
    center: float = 0.0  # mean of the rows that were measured
    limit: float | None
    value: float = 0.0
    margin: float = 0.0  # of error

    def project(self, rows: int) -> "Estimate":
        """Return it with value and margin for so many rows."""
        margin = self.error * abs(rows - self.center)
        return replace(self, value=self.fixed + self.per_row * rows, margin=margin)

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
        limit = f" of {format_amount(self.limit)}" if self.limit else ""
        return f"{format_amount(self.value)}{margin}{limit}"


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
    outcome, held = run.outcome, list[int]()
    cells = [
        (cell.started - outcome.started, cell.seconds)
        for cell in run.cells
        if cell.started and cell.seconds is not None and _INSTALLS not in cell.source
    ] or [(0.0, outcome.seconds)]
    for begin, seconds in cells:
        samples = [
            sample.memory for sample in outcome.memory_curve if begin <= sample.seconds <= begin + seconds
        ]
        # A function that returns frees what it held; which height of a short peak is sampled is chance, so that what was
        # held for two samples counts.
        for part in (samples, samples[-max(2, len(samples) // 5) :]):
            held.append(sorted(part)[-2] if len(part) > 2 else max(part, default=0))
    return SessionFacts(
        rows=rows,
        seconds=round(outcome.seconds, 2),
        peak_memory=outcome.peak_memory,
        cell_seconds=tuple(round(seconds, 3) for _, seconds in cells),
        cell_memory=tuple(held),
    )


def make_forecast(
    sessions: Sequence[SessionFacts], rows: int | None, *, seconds_limit: float, memory_limit: int | None
) -> Forecast | None:
    """Fit a line to each cell of the sessions, and add them up for `rows` rows.

    None if the sessions have less than two sizes. Memory is that of the cell that needs most.
    """
    sessions = sorted(sessions, key=lambda session: session.rows)
    sizes = [session.rows for session in sessions]
    if len(set(sizes)) < 2 or sizes[0] < 1:
        return None
    by_cell = len({len(session.cell_seconds) for session in sessions}) == 1
    times = [session.cell_seconds if by_cell else (session.seconds,) for session in sessions]
    peaks = [session.cell_memory if by_cell else (session.peak_memory,) for session in sessions]
    # Start of the kernel, installation, end.
    rest = [session.seconds - sum(cells) for session, cells in zip(sessions, times, strict=True)]
    columns = [*zip(*times, strict=True)]
    noise = _find_noise([*columns, rest])
    lines = [_fit_line(sizes, column, noise, seconds_limit) for column in columns]
    time = replace(
        lines[0],
        fixed=mean(rest) + sum(line.fixed for line in lines),
        per_row=sum(line.per_row for line in lines),
        error=math.hypot(*(line.error for line in lines)),
    )
    needs = [
        _fit_line(sizes, peak, _MEMORY_NOISE, memory_limit) for peak in zip(*peaks, strict=True) if min(peak)
    ]
    if highest := max(session.peak_memory for session in sessions):
        needs.append(Estimate(fixed=highest, limit=memory_limit))
    target = rows or 100 * sizes[-1]
    memory = max(needs, key=lambda line: line.project(target).value, default=None)
    is_convex = any(
        line.fixed < -line.error * line.center - _MIN_SECONDS for line in (*lines, memory) if line
    )
    measured = f"from {' and '.join(f'{size:,}' for size in sizes)} rows here"
    return _conclude(time, memory, rows, measured, "at least " if is_convex else "")


def scale_forecast(
    local: Mapping[str, Any] | None, *, measured_rows: int, seconds: float, rows: int | None, limit: float
) -> Forecast | None:
    """Return the forecast for a machine on which so many rows took so many seconds; None without them.

    The fixed part is that of `local`, the fields of the forecast here, scaled. Without it, all of the run counts as if
    it grew with the rows: that is careful.
    """
    if not (measured_rows and seconds):
        return None
    measured = f"from {measured_rows:,} rows on Kaggle"
    if not (local and local["seconds"]["per_row"]):
        time = Estimate(fixed=0.0, per_row=seconds / measured_rows, limit=limit)
        return _conclude(time, None, rows, measured)
    line = Estimate(**local["seconds"])
    factor = seconds / line.project(measured_rows).value
    scaled = {name: factor * getattr(line, name) for name in ("fixed", "per_row", "error")}
    memory = Estimate(**local["memory"]) if local["memory"] else None
    measured += ", the memory from here" if memory else ""
    return _conclude(Estimate(**scaled, center=line.center, limit=limit), memory, rows, measured)


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
    needs = [(seconds, format_duration), *([(memory, format_size)] if memory else [])]
    enough = min(line.rows_in_limit for line, _ in needs)
    summary, problem = "nothing grows with the rows", ""
    if rows:
        needs = [(line.project(rows), format_amount) for line, format_amount in needs]
        summary = f"{rows:,} rows: {at_least}{'; '.join(line.describe(form) for line, form in needs)}"
        problem = "forecast-over-limit" if any(line.is_over_limit for line, _ in needs) else ""
    elif enough < math.inf:
        limits = [format_amount(line.limit) for line, format_amount in needs if line.limit]
        summary = f"{' and '.join(limits)} should be enough for {int(enough):,} rows"
    summary = f"{summary} ({measured})"
    return Forecast(
        rows=rows,
        seconds=needs[0][0],
        memory=needs[1][0] if memory else None,
        rows_in_limit=int(enough) if enough < math.inf else None,
        problem=problem,
        summary=summary,
        warning=f"the hidden test set may exceed a limit: {summary}" if problem else "",
    )
