"""The console: steps and progress bars on stderr, results on stdout, errors in one format."""

import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from offline_kit.cli.command_wording import CommandWording
from offline_kit.core.errors import OfflineKitError, OutsideError
from offline_kit.core.redaction import make_printable
from offline_kit.core.report import Advance, Say

if TYPE_CHECKING:
    import rich.console


WIDTH = 140
"""Columns of a table in a log."""
_NARROWEST = 8
"""Smallest width of a folded column, in characters."""
LOG_SECONDS = 300.0
"""Seconds between two progress lines of a wait in a log."""


class ReaderGoneError(Exception):
    """The reader of stdout closed the pipe."""


class Console:
    """A `Reporter` for a person; with `as_json` the result is one object on stdout."""

    def __init__(
        self, *, quiet: bool = False, as_json: bool = False, words: CommandWording | None = None
    ) -> None:
        """`words` adapt the commands and tables named in messages."""
        self.quiet = quiet
        self.as_json = as_json
        self.words = words or CommandWording()
        self._rich: rich.console.Console | None = None

    @property
    def _stderr(self) -> "rich.console.Console":
        if self._rich is None:
            import rich.console

            self._rich = rich.console.Console(stderr=True, highlight=False, soft_wrap=True)
            if not self._rich.is_terminal and not os.environ.get("COLUMNS"):
                self._rich.width = WIDTH  # a log has no width of its own, and 80 breaks wheel names
        return self._rich

    def _print_marked(self, mark: str, style: str, text: str) -> None:
        import rich.text

        self._stderr.print(rich.text.Text.assemble((mark, style), " ", make_printable(self.words(text))))

    def step(self, text: str) -> None:
        """Report that a step starts."""
        if not self.quiet:
            self._print_marked("•", "bold cyan", text)

    def note(self, text: str) -> None:
        """Report a fact."""
        if not self.quiet:
            self._print_marked("  ", "", text)

    def warn(self, text: str) -> None:
        """Warn of something that may make the run on Kaggle fail; shown even if quiet."""
        self._print_marked("warning:", "bold yellow", text)

    @contextmanager
    def progress(self, text: str, total: int, *, unit: str = "B") -> Iterator[Advance]:
        """Show a progress bar on a terminal; otherwise print the text once."""
        if self.quiet:
            yield lambda _amount: None
            return
        if not self._stderr.is_terminal:
            self.note(text)
            yield lambda _amount: None
            return
        from rich import progress as bars

        amount = bars.DownloadColumn() if unit == "B" else bars.MofNCompleteColumn()
        columns = [
            bars.TextColumn("  {task.description}"),
            bars.BarColumn(),
            amount,
            bars.TimeRemainingColumn(),
        ]
        with bars.Progress(*columns, console=self._stderr, transient=True) as bar:
            task = bar.add_task(text, total=total)
            yield lambda amount: bar.advance(task, amount)

    @contextmanager
    def waiting(self, text: str) -> Iterator[Say]:
        """Show a live line on a terminal; otherwise print it every few minutes."""
        if self.quiet:
            yield lambda _words: None
        elif self._stderr.is_terminal:
            with self._stderr.status(text) as line:
                yield lambda words: line.update(f"{text}: {_plain_text(words)}")
        else:
            self.note(text)
            last_note = time.monotonic()

            def say(words: str) -> None:
                nonlocal last_note
                if time.monotonic() - last_note >= LOG_SECONDS:
                    last_note = time.monotonic()
                    self.note(f"{text}: {words}")

            yield say

    def show_error(self, error: OfflineKitError) -> None:
        """Show an error, its details and its hint."""
        for line in error.details:
            self._print_marked("  ", "", line)
        self._print_marked(f"error[{error.code}]:" if error.code else "error:", "bold red", error.what)
        self._print_marked("hint:", "bold green", error.hint)
        self._print_failure(
            {
                "code": error.code,
                "error": error.what,
                "hint": error.hint,
                "details": list(error.details),
            }
        )

    def show_facts(self, title: str, rows: Sequence[tuple[str, str]]) -> None:
        """Show named facts, one per line, never wrapped, so that paths can be copied."""
        if self.quiet:
            return
        import rich.text

        self._stderr.print(rich.text.Text(title, "bold"))
        wide = max(len(name) for name, _ in rows)
        for name, value in rows:
            self._stderr.print(rich.text.Text(f"  {name:<{wide}}  {make_printable(value)}"))

    def report_usage(self, message: str) -> None:
        """Print a usage error of click as JSON; click has shown it to people."""
        self._print_failure({"code": "usage", "error": message, "hint": "see --help", "details": []})

    def report_bug(self, kind: str, report_path: Path) -> None:
        """Report a bug in offline-kit and the path of its crash report."""
        self.warn(f"this is a bug in offline-kit: {kind}; the report is in '{report_path}'")
        self._print_failure(
            {
                "code": "bug",
                "error": f"a bug in offline-kit: {kind}",
                "hint": f"see '{report_path}'",
                "details": [],
            }
        )

    def report_interrupt(self) -> None:
        """Report an interrupt by the user or the system."""
        message = "interrupted; run the same command again to continue"
        self.warn(message)
        self._print_failure(
            {
                "code": "interrupted",
                "error": "interrupted",
                "hint": "run the same command again",
                "details": [],
            }
        )

    def _print_failure(self, data: dict[str, Any]) -> None:
        """Print a failure as JSON; if stdout itself failed, stderr has shown it."""
        with suppress(OutsideError, ReaderGoneError):
            self.print_result({"ok": False, **data})

    def show_table(self, title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Show a table on stderr, or nothing if it has no rows."""
        if self.quiet or not rows:
            return
        import rich.box
        import rich.table

        table = rich.table.Table(
            title=title, title_justify="left", box=rich.box.SIMPLE_HEAD, title_style="bold"
        )
        cells = [[self.words(cell) for cell in row] for row in rows]
        unfolded = _unfolded_columns([heads, *cells], self._stderr.width)
        for number, head in enumerate(heads):
            table.add_column(head, overflow="fold", no_wrap=number in unfolded)
        for row in cells:
            table.add_row(*map(_plain_text, row))
        self._stderr.print(table, soft_wrap=False)

    def print_lines(self, lines: Sequence[str]) -> None:
        """Print a command's result to stdout, unless JSON was asked for."""
        if not self.as_json:
            _write_stdout("".join(f"{make_printable(line)}\n" for line in lines))

    def print_result(self, data: dict[str, Any]) -> None:
        """Print the JSON object to stdout if JSON was asked for."""
        if self.as_json:
            worded = self.words.word_value(data)
            _write_stdout(json.dumps(worded, indent=2, sort_keys=True, default=str) + "\n")

    def can_ask(self) -> bool:
        """Return whether a person can be asked."""
        return sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty()

    def confirm(self, question: str) -> bool:
        """Ask on a terminal; return False without one."""
        if not self.can_ask():
            return False
        self._stderr.print(f"{question} [y/N] ", end="", markup=False)  # as markup, [y/N] is a style
        return sys.stdin.readline().strip().lower() in ("y", "yes")


def unwritable_error(reason: str) -> OutsideError:
    """Return the error for a stdout that cannot be written."""
    return OutsideError(
        f"stdout cannot be written: {reason}",
        code="stdout-not-writable",
        hint="write to a disk with free space and run the same command again; its work is kept",
    )


def _write_stdout(text: str) -> None:
    """Write to stdout and flush it.

    Raises ReaderGoneError if the reader closed the pipe.
    """
    if sys.stdout is None:  # closed before we began
        raise unwritable_error("it is closed")
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError as error:
        raise ReaderGoneError from error
    except OSError as error:
        raise unwritable_error(error.strerror or str(error)) from error


def _unfolded_columns(rows: Sequence[Sequence[str]], width: int) -> set[int]:
    """Return the numbers of the columns that fit this width without folding, narrow columns first."""
    wants = [max(map(len, column)) for column in zip(*rows, strict=True)]
    room, left, columns = width - 3 * len(wants), len(wants), set()
    for number in sorted(range(len(wants)), key=lambda each: wants[each]):
        left -= 1
        if wants[number] + _NARROWEST * left > room:
            break
        room -= wants[number]
        columns.add(number)
    return columns


def _plain_text(cell: str) -> str:
    import rich.markup

    return rich.markup.escape(make_printable(cell))
