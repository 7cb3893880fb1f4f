"""What a person sees of a run while it runs."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from offline_kit.rehearsal.log_follower import LogFollower

CELLS = [
    {"source": "# Heading", "metadata": {}},
    {"source": ["import time\n", "time.sleep(9)"], "metadata": {"title": "load"}},
    {"source": "# Predict all rows\npredict()", "metadata": {}},
]


class Run:
    """A run whose log and time are written by the test."""

    def __init__(
        self, folder: Path, added_cells: int = 0, cells: Sequence[Mapping[str, Any]] = tuple(CELLS)
    ) -> None:
        self.log, self.now = folder / "log.txt", 100.0
        self.log.touch()
        self.lines: list[str] = []
        self.shown: list[str] = []
        self.follower = LogFollower(
            self.log,
            cells,
            added_cells=added_cells,
            say=self.lines.append,
            show=self.shown.append,
            clock=lambda: self.now,
        )

    def write(self, text: str, *, seconds: float = 0, memory: int = 0) -> str:
        """Return what is shown once this is in the log, so many seconds later."""
        self.now += seconds
        with self.log.open("a") as stream:
            stream.write(text)
        self.follower.follow(memory)
        return self.shown[-1]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def test_the_running_cell_its_time_and_the_memory_are_shown(run: Run) -> None:
    """Cell, title, both times and the memory of the processes stand in one line."""
    run.write("Executing Cell 2-----\n", seconds=5)
    shown = run.write("", seconds=65, memory=446_100_000)
    for word in ("1:10", "446.1 MB", "cell 2/3", "1:05", "load"):
        assert word in shown
    assert "left" not in shown
    assert run.write("", seconds=7200).startswith("2:01:10, cell 2/3 for 2:01:05")
    assert "Predict all rows" in run.write("Ending Cell 2-----\nExecuting Cell 3-----\n")


def test_of_a_script_the_time_and_its_bar_are_shown(tmp_path: Path) -> None:
    """It has no cells, so that no kernel is said to start."""
    run = Run(tmp_path, cells=())
    assert run.write("begun\n", seconds=65) == "01:05"
    assert run.write(" 40%|####  | 4/10 [00:08<00:12]", seconds=5) == "01:10, 4/10, 00:12 left"


def test_a_remaining_time_is_shown_only_where_the_rows_are_known(run: Run) -> None:
    """The newest bar of tqdm counts, until the next cell."""
    run.write("Executing Cell 2-----\n")
    shown = run.write("\r 1%|#  | 3/300 [00:01<01:39, 3it/s]\r13%|## | 40/300 [00:02<00:30, 9it/s]\n")
    assert "40/300" in shown
    assert "00:30 left" in shown
    assert "left" not in run.write("Executing Cell 3-----\n")


def test_cells_of_an_adopted_notebook_are_numbered_as_in_its_file(tmp_path: Path) -> None:
    """Cells that offline-kit put before the user's do not count."""
    run = Run(tmp_path, added_cells=1)
    assert "/" not in run.write("Executing Cell 1-----\n")
    assert "cell 1/2" in run.write("Executing Cell 2-----\n")


def test_the_log_is_passed_on_line_by_line(run: Run) -> None:
    """A line is passed on when it ends, and the last one without an end at the end."""
    run.write("one\ntw")
    run.write("o\nthree")
    assert run.lines == ["one\n", "two\n"]
    run.follower.end()
    assert run.lines[-1] == "three"


def test_a_notebook_without_titles_and_metadata_is_followed(tmp_path: Path) -> None:
    """Old notebooks have cells without metadata, and empty ones."""
    log = tmp_path / "log.txt"
    log.write_text("Executing Cell 1-----\n")
    shown: list[str] = []
    cells = json.loads('[{"cell_type": "code"}]')
    LogFollower(log, cells, say=lambda _line: None, show=shown.append).follow(0)
    assert "cell 1/1" in shown[0]
