"""One run of a notebook, whoever runs it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


def discard_text(text: str) -> None:
    """Hear what a run says, and keep nothing."""


@dataclass(frozen=True, kw_only=True)
class RunCompetition:
    """The competition that a notebook takes part in, as far as its run depends on it."""

    place: str
    """Where its data is mounted, below /kaggle/input."""
    submission: str
    """What its gateway writes, if it has an inference server."""
    gateway: Mapping[str, Any] | str | None
    """Options of the stand-in gateway, or a class of its own package; None: its competition.toml has no `gateway`."""


@dataclass(frozen=True, kw_only=True)
class RunJob:
    """What is run."""

    notebook: str
    """The notebook's text (nbformat 4)."""
    inputs: tuple[tuple[str, Path], ...]
    """What lies below /kaggle/input: (place, folder or file)."""
    folder: Path
    """An empty folder for the run; what is written to /kaggle/working is left in its `output`."""
    timeout: float
    rerun: bool = False
    """Whether it is the hidden run of a submission (KAGGLE_IS_COMPETITION_RERUN)."""
    say: Callable[[str], None] = discard_text
    """Takes what the run says, line by line while it says it."""
    contest: RunCompetition | None = None
    """The competition whose data is attached; the first one, if there are several."""
    internet: bool = False
    """Whether the version was saved with the internet on; a hidden run never has it."""


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """How it ended."""

    failure: str
    """Why it failed, one line; empty: it ran to its end."""
    log: tuple[tuple[float, str], ...] = ()
    """What was said and not told to `RunJob.say`: (seconds since the start, text)."""


NotebookRunner = Callable[[RunJob], RunResult]
"""Runs a job to its end; what goes wrong with the notebook is a failure, not an exception."""
Finder = Callable[[str, str], tuple[str, Path] | None]
"""From the reference of a data source and a user to (place below /kaggle/input, folder), or None."""
