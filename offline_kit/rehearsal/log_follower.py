"""Follow a run: pass on the lines of its log, and describe the cell of a notebook that is running."""

import re
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from offline_kit.core.files import format_size
from offline_kit.core.report import Say

# https://github.com/nteract/papermill/blob/main/papermill/execute.py
_CELL_BEGINS = re.compile(rb"Executing Cell (\d+)-+")
# A bar of tqdm, the only thing in a log that knows how much there is to do:
# https://github.com/tqdm/tqdm/blob/master/tqdm/std.py (`bar_format`)
_BAR = re.compile(rb"(\d+)/(\d+) \[[\d:]+<([\d:]+)")


class LogFollower:
    """Reads the growing log of papermill or of a script, each time it is called."""

    def __init__(
        self,
        log: Path,
        cells: Sequence[Mapping[str, Any]],
        *,
        added_cells: int = 0,
        say: Say,
        show: Say,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`say` gets the log, line by line; `show` gets the newest description of the run.

        Cells are numbered as in the user's file, without the `added_cells` that offline-kit put before them; a script
        has none.
        """
        self._log, self._say, self._show, self._clock = log, say, show, clock
        self._cells, self._added_cells = cells, added_cells
        self._started = self._cell_started = clock()
        self._offset = 0
        self._line = b""  # the last one, as long as it has no end
        self._cell = 0  # the number of the running cell, from 1
        self._bar = ""  # the newest one that the cell printed

    def follow(self, memory: int) -> None:
        """Read what was added since the last call, and show the run with the bytes that its processes hold."""
        with self._log.open("rb") as stream:
            stream.seek(self._offset)
            new = stream.read()
        self._offset += len(new)
        *lines, self._line = (self._line + new).split(b"\n")
        for line in lines:
            self._say(line.decode(errors="replace") + "\n")
            if match := _CELL_BEGINS.match(line):
                self._cell, self._cell_started, self._bar = int(match[1]), self._clock(), ""
            self._find_bar(line)
        if not self._cells:  # nothing ends the line of a script's bar before the bar is full
            self._find_bar(new)
        self._show(self._describe_run(memory))

    def end(self) -> None:
        """Pass on a last line that has no end."""
        if self._line:
            self._say(self._line.decode(errors="replace"))

    def _find_bar(self, line: bytes) -> None:
        for bar in _BAR.finditer(line):  # several, as tqdm moves it with carriage returns
            self._bar = "{}/{}, {} left".format(*(group.decode() for group in bar.groups()))

    def _describe_run(self, memory: int) -> str:
        words, cell_title = [self._format_time(self._started)], ""
        words += [format_size(memory)] if memory else []
        if self._cell:
            number, cell = self._cell - self._added_cells, self._cells[self._cell - 1]
            label = (
                f"cell {number}/{len(self._cells) - self._added_cells}" if number > 0 else "the setup cell"
            )
            words.append(f"{label} for {self._format_time(self._cell_started)}")
            first_line = "".join(cell.get("source") or "").strip("#% \n").partition("\n")[0]
            cell_title = f": {(cell.get('metadata') or {}).get('title') or first_line}"
        elif self._cells:
            words.append("starting the kernel")
        words += [self._bar] if self._bar else []
        return ", ".join(words) + cell_title

    def _format_time(self, since: float) -> str:
        """Return how long ago it was, as "01:05" or "2:00:05"."""
        return str(timedelta(seconds=int(self._clock() - since))).removeprefix("0:")
