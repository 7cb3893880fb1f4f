"""Follow a run: pass on the lines of its log, and describe the cell of a notebook that is running."""

import re
import time
from collections.abc import Callable, Mapping, Sequence
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
        self.log, self.say, self.show = log, say, show
        self.partial = b""
        """The last line, as long as it has no end."""
        sources = ["".join(cell.get("source") or "") for cell in cells]
        self._titles = [
            str((cell.get("metadata") or {}).get("title") or source.strip("#% \n").partition("\n")[0])
            for cell, source in zip(cells, sources, strict=True)
        ]
        self._added_cells = added_cells
        self._offset = 0
        self._clock = clock
        self._started = self._cell_started = clock()
        self._cell = 0  # the number of the running cell, from 1
        self._bar: re.Match[bytes] | None = None  # the newest one that the cell printed

    def follow(self, memory: int) -> None:
        """Read what was added since the last call, and show the run with the bytes that its processes hold."""
        with self.log.open("rb") as stream:
            stream.seek(self._offset)
            new = stream.read()
        self._offset += len(new)
        *lines, self.partial = (self.partial + new).split(b"\n")
        for line in lines:
            self.say(line.decode(errors="replace") + "\n")
            if match := _CELL_BEGINS.match(line):
                self._cell, self._cell_started, self._bar = int(match[1]), self._clock(), None
            for bar in _BAR.finditer(line):  # several, as tqdm moves it with carriage returns
                self._bar = bar
        if not self._titles:  # nothing ends the line of a script's bar before the bar is full
            self._bar = next(reversed(list(_BAR.finditer(new))), self._bar)
        self.show(self._describe_run(memory))

    def end(self) -> None:
        """Pass on a last line that has no end."""
        if self.partial:
            self.say(self.partial.decode(errors="replace"))

    def _describe_run(self, memory: int) -> str:
        now = self._clock()
        words = [format_clock(now - self._started)]
        words += [format_size(memory)] if memory else []
        if self._bar and not self._titles:
            words.append(_describe_bar(self._bar))
        if not self._cell:
            return ", ".join([*words, "starting the kernel"] if self._titles else words)
        own_number = self._cell - self._added_cells
        label = f"cell {own_number}/{len(self._titles) - self._added_cells}"
        words.append(
            f"{label if own_number > 0 else 'the setup cell'} for {format_clock(now - self._cell_started)}"
        )
        if self._bar:
            words.append(_describe_bar(self._bar))
        return f"{', '.join(words)}: {self._titles[self._cell - 1]}"


def _describe_bar(bar: "re.Match[bytes]") -> str:
    done, total, left = (group.decode() for group in bar.groups())
    return f"{done}/{total}, {left} left"


def format_clock(seconds: float) -> str:
    """Return a duration as "1:05" or "2:00:05"."""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"
