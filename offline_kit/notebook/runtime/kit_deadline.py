"""The guard of the time limit: predicting stops while there is time to write what is there."""

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from .kit_report import add_fact
from .kit_runtime import shorten_list

TIME_IS_UP = "TIME IS UP: "
"""Begins the line that says what was left out; a rehearsal takes it for a warning."""
LEFT_OUT = "left_out"
"""Key of the run's report with these lines."""
_RUNNERS = ("papermill", "jupyter", "nbconvert")
_LATEST = 900.0  # seconds after the start of papermill in which the first kernel starts


class Deadline:
    """The moment at which only `reserve` seconds of a session of `limit` seconds are left."""

    def __init__(self, limit: float, reserve: float, *, started: float | None = None) -> None:
        self.limit, self.reserve = limit, reserve
        self.started = find_session_start(limit) if started is None else started

    @property
    def seconds_left(self) -> float:
        """Seconds until the reserve begins; negative after that."""
        return self.started + self.limit - self.reserve - time.time()

    def is_over(self) -> bool:
        """Whether the reserve has begun."""
        return self.seconds_left <= 0

    def report_models(self, finished: int, names: Sequence[str], cut: str = "") -> None:
        """Say which models are not in the prediction, if so many are; `cut` says how far the only one came."""
        parts = [cut] if cut else []
        if left_out := names[finished:]:
            models = f"{finished} of {len(names)} models are in the prediction"
            parts.append(f"{models}, left out: {shorten_list(left_out, 20)}")
        if parts:
            self.report(", ".join(parts))

    def report(self, left_out: str) -> None:
        """Print in large letters what was left out, and keep it in the report of the run."""
        passed = time.time() - self.started
        line = f"{TIME_IS_UP}{left_out} (after {passed:.0f} of {self.limit:.0f} s, {self.reserve:.0f} s in reserve)"
        print(f"{'#' * 100}\n{line}\n{'#' * 100}", flush=True)
        add_fact(LEFT_OUT, line.removeprefix(TIME_IS_UP))


def find_session_start(limit: float) -> float:
    """Return when this session began: papermill's start if it runs this kernel, else this process's, else now."""
    now = time.time()
    with suppress(OSError, ValueError, IndexError, AttributeError):  # a system without /proc, or an odd one
        age = _measure_age(os.getpid())
        parent = os.getppid()
        command = Path(f"/proc/{parent}/cmdline").read_text(encoding="utf-8", errors="replace")
        if any(runner in command for runner in _RUNNERS):
            parent_age = _measure_age(parent)
            # A server that runs for days starts kernels, too.
            age = parent_age if 0 <= parent_age - age <= _LATEST else age
        if 0 <= age <= limit:
            return now - age
    return now


def _measure_age(process: int) -> float:
    """Return the seconds since a process started (https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html)."""
    fields = (
        Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    )
    return time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")


def fill_from_sample(result: Any, sample: Any) -> Any:
    """Return a data frame with the sample's rows for all ids that no model reached."""
    key = sample.columns[0]
    if list(getattr(result, "columns", ())) != list(sample.columns):
        return result  # a function of the user's made something else
    import pandas as pd

    known_ids = set(map(str, result[key]))
    if not known_ids < set(sample.ids):
        return result  # nothing is missing, or the sample is that of the public test set
    table = pd.read_csv(sample.path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    return pd.concat([result, table[~table[key].isin(known_ids)]], ignore_index=True)
