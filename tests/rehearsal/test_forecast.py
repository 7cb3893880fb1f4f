"""The forecast for the hidden test set: its arithmetic, on numbers."""

from dataclasses import asdict
from pathlib import Path

import pytest

from offline_kit.core.sandboxes.box import BoxOutcome
from offline_kit.core.sandboxes.process_tree import MemorySample
from offline_kit.rehearsal.execution import KernelRun
from offline_kit.rehearsal.forecast import (
    Forecast,
    SessionFacts,
    make_forecast,
    measure_session,
    scale_forecast,
)
from tests.support.report_pages import make_cell, write_evidence

GB = 10**9


def session(rows: int, *cells: float, memory: float = 1.0, peaks: tuple[float, ...] = ()) -> SessionFacts:
    """Return a session with 5 s besides its cells; memory in GB."""
    return SessionFacts(
        rows=rows,
        seconds=5 + sum(cells),
        peak_memory=int(memory * GB),
        cell_seconds=cells,
        cell_memory=tuple(int(peak * GB) for peak in peaks or [memory for _ in cells]),
    )


def forecast(*sessions: SessionFacts, rows: int | None = 4000, limit: float = 9 * 3600) -> Forecast:
    made = make_forecast(sessions, rows, seconds_limit=limit, memory_limit=30 * GB)
    assert made
    return made


def test_a_fixed_part_and_one_per_row() -> None:
    """Both are found, of time and memory, and their sum for the rows asked for; sessions in any order."""
    made = forecast(session(400, 20, 44, memory=1.8), session(40, 20, 8, memory=1.08))
    assert made.seconds.per_row == pytest.approx(0.1)
    assert made.seconds.fixed == pytest.approx(29)
    assert made.seconds.value == pytest.approx(429)
    assert made.memory
    assert made.memory.value == pytest.approx(9 * GB)
    assert not made.problem
    assert made.rows_in_limit == pytest.approx((30 - 1) / 0.002, abs=1)
    assert "7 min 9 s" in made.summary
    assert "9.0 GB" in made.summary


@pytest.mark.parametrize(("first", "second"), [(20.0, 20.9), (20.0, 15.0)])
def test_what_does_not_grow_does_not_count(first: float, second: float) -> None:
    """Imports that took longer by chance are fixed; what they grew is in the margin."""
    steady, noisy = (
        forecast(session(40, 20, 8), session(400, 20, 44)),
        forecast(session(40, first, 8), session(400, second, 44)),
    )
    assert noisy.seconds.per_row == steady.seconds.per_row
    assert noisy.seconds.margin >= steady.seconds.margin


def test_the_margin_is_the_noise_of_the_measurements() -> None:
    """At least 5 % of a time, more if parts that do not grow differ more, and wider the farther the rows."""
    steady = forecast(session(40, 20, 8), session(400, 20, 44))
    assert steady.seconds.margin == pytest.approx(0.05 * (44**2 + 8**2) ** 0.5 / 360 * (4000 - 220))
    assert forecast(session(40, 20, 8), session(400, 17, 44)).seconds.margin > steady.seconds.margin
    assert (
        forecast(session(40, 20, 8), session(400, 20, 44), rows=1000).seconds.margin < steady.seconds.margin
    )


def test_the_cell_that_will_need_most_memory() -> None:
    """A cell that is small now, and grows, passes the one with the peak of both runs."""
    made = forecast(
        session(40, 5, 8, memory=4, peaks=(4, 0.28)), session(400, 5, 8, memory=4, peaks=(4, 1.0))
    )
    assert made.memory
    assert made.memory.value == pytest.approx(8.2 * GB)


def test_over_the_limit() -> None:
    """Of time or memory, also only with the margin; a margin above the value itself counts no more than that."""
    runs = session(40, 20, 8), session(400, 20, 44)
    assert forecast(*runs, limit=400).problem == "forecast-over-limit"
    assert forecast(*runs, limit=440).problem == "forecast-over-limit"
    assert not forecast(*runs, limit=900).problem
    assert forecast(session(40, 8, memory=1), session(400, 8, memory=5)).problem == "forecast-over-limit"
    assert not forecast(session(40, 20), session(41, 20.9), rows=100_000).problem


def test_growth_that_is_faster_than_the_rows_is_a_lower_bound() -> None:
    """A line through 1 s at 40 rows and 100 s at 400 begins below zero."""
    assert "at least" in forecast(session(40, 1, 0.001), session(400, 100, 0.1)).summary
    assert "at least" not in forecast(session(40, 10, 0.001), session(400, 100, 0.1)).summary


def test_unknown_rows_have_what_the_limits_are_enough_for() -> None:
    """And one size of runs, or unknown sizes, have no forecast."""
    made = forecast(session(40, 8), session(400, 44), rows=None)
    assert made.rows_in_limit == pytest.approx((9 * 3600 - 9) / 0.1, abs=1)
    assert not made.problem
    assert forecast(session(40, 8), session(400, 8), rows=None).rows_in_limit is None
    for pair in ((session(40, 8), session(40, 9)), (session(0, 8), session(40, 9)), ()):
        assert make_forecast(pair, 4000, seconds_limit=9, memory_limit=None) is None


def test_a_run_on_kaggle_replaces_the_time() -> None:
    """It scales the line of this machine; without one, all of it counts as if it grew."""
    local = asdict(forecast(session(40, 20, 8), session(400, 20, 44)))
    slower = scale_forecast(local, measured_rows=400, seconds=138.0, rows=4000, limit=3600)
    assert slower
    assert slower.seconds.value == pytest.approx(2 * 429)
    assert slower.memory
    assert slower.memory.value == GB
    alone = scale_forecast(None, measured_rows=7, seconds=10.0, rows=None, limit=3600)
    assert alone
    assert alone.rows_in_limit == 2520
    assert scale_forecast(None, measured_rows=0, seconds=10.0, rows=None, limit=3600) is None


def test_a_run_is_measured_by_cell(tmp_path: Path) -> None:
    """Each cell with the memory of its own time and end; the kit's installation is none of them."""
    write_evidence(
        tmp_path,
        make_cell("kit = 1\nkit.install()", start="2001-09-09T01:46:40"),
        make_cell("load()", start="2001-09-09T01:46:43"),
        make_cell("predict()", start="2001-09-09T01:46:46"),
    )
    curve = tuple(MemorySample(*sample) for sample in ((1.0, 9), (3.1, 7), (3.5, 3), (4.5, 5), (9.0, 8)))
    outcome = BoxOutcome(code=0, started=1e9, seconds=9.5, memory_curve=curve, memory_by="PSS")
    run = KernelRun(outcome=outcome, executed=tmp_path / "executed.ipynb", log=tmp_path, working=tmp_path)
    assert measure_session(run, 40) == SessionFacts(
        rows=40, seconds=9.5, peak_memory=9, cell_seconds=(2.0, 2.0), cell_memory=(5, 5, 0, 0)
    )
