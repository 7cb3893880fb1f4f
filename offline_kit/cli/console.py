"""The console: steps and progress bars on stderr, results on stdout, errors in one format."""

import json
import operator
import os
import re
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from offline_kit.core.errors import OfflineKitError, OutsideError
from offline_kit.core.redaction import make_printable
from offline_kit.core.report import Advance, Reporter, Say

if TYPE_CHECKING:
    import rich.console


WIDTH = 140  # columns of a table in a log
_NARROWEST = 8  # smallest width of a folded column, in characters
LOG_SECONDS = 300.0  # seconds between two progress lines of a wait in a log

_TO = re.compile(r"'offline-kit (push|submit|ship|verify)\b(?![^']*--to )")
_ABOUT = re.compile(
    r"'offline-kit (?:build|doctor|init|notebook|push|rehearse|ship|status|submit|verify)\b[^'\n]*(?=')"
)
_ON = re.compile(r"('offline-kit [^']*--on )kaggle\b")
_TABLE = re.compile(r"\[tool\.offline-kit\.([\w.-]+)\]")
_MESSAGES = frozenset({"error", "hint", "details", "what", "remedy", "notes", "problem", "problems", "newer"})
"""Keys of a JSON object whose values are messages; all others are data."""


class ReaderGoneError(Exception):
    """The reader of stdout closed the pipe."""


@dataclass(kw_only=True)
class CommandWording:
    """Adapts the commands and tables named in messages to the Kaggle and the project of the running command.

    Messages name them in their full form, `'offline-kit push'` and `[tool.offline-kit.notebook]`. The fields are
    updated while the command parses its options.
    """

    local: bool = False  # --to local
    at: str = ""  # --at
    on_top: bool = False  # tables are at the top of an offline-kit.toml
    project: str = ""  # as it was typed; empty if commands without it mean the same project

    def __call__(self, text: str) -> str:
        """Return a message with the commands and tables of this project."""
        if self.local:
            target = f"--to local --at {self.at}" if self.at else "--to local"
            text = _TO.sub(lambda command: f"{command[0]} {target}", text)
            text = _ON.sub(r"\1local", text)
        if self.project:
            plain = shlex.quote(self.project) == self.project
            # Double quotes, as the command stands in single ones.
            quoted_project = self.project if plain else f'"{self.project}"'
            text = _ABOUT.sub(lambda command: f"{command[0]} {quoted_project}", text)
        if self.on_top:
            text = _TABLE.sub(r"[\1]", text).replace("[tool.offline-kit]", "offline-kit.toml")
        return text

    def word_value(self, value: Any, *, is_message: bool = False) -> Any:
        """Return data for a script with its messages adapted, and nothing else changed."""
        if isinstance(value, str):
            return self(value) if is_message else value
        if isinstance(value, dict):
            return {
                name: self.word_value(item, is_message=is_message or name in _MESSAGES)
                for name, item in value.items()
            }
        if isinstance(value, list | tuple):
            return [self.word_value(item, is_message=is_message) for item in value]
        return value


class Console(Reporter):
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

            # No highlighting: rich would color numbers and quotes in paths.
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
        if self.quiet or not self._stderr.is_terminal:
            self.note(text)
            yield lambda _amount: None
            return
        from rich import progress as bars

        columns = [
            bars.TextColumn("  {task.description}"),
            bars.BarColumn(),
            bars.DownloadColumn() if unit == "B" else bars.MofNCompleteColumn(),
            bars.TimeRemainingColumn(),
        ]
        with bars.Progress(*columns, console=self._stderr, transient=True) as bar:
            task = bar.add_task(text, total=total)
            yield lambda amount: bar.advance(task, amount)

    @contextmanager
    def waiting(self, text: str) -> Iterator[Say]:
        """Show a live line on a terminal; otherwise print it every few minutes."""
        if not self.quiet and self._stderr.is_terminal:
            with self._stderr.status(text) as line:
                yield lambda words: line.update(f"{text}: {_escape_cell(words)}")
            return
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
        self.print_failure(error.code, error.what, error.hint, error.details)

    def print_failure(self, code: str, error: str, hint: str, details: Sequence[str] = ()) -> None:
        """Print a failure that was shown on stderr as JSON, too."""
        with suppress(OutsideError, ReaderGoneError):  # stdout itself may be what failed
            facts = {"code": code, "error": error, "hint": hint, "details": list(details)}
            self.print_result({"ok": False, **facts})

    def show_facts(self, title: str, rows: Sequence[tuple[str, str]]) -> None:
        """Show named facts, one per line, never wrapped, so that paths can be copied."""
        if self.quiet:
            return
        import rich.text

        self._stderr.print(rich.text.Text(title, "bold"))
        wide = max(len(name) for name, _ in rows)
        for name, value in rows:
            self._stderr.print(rich.text.Text(f"  {name:<{wide}}  {make_printable(value)}"))

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
            table.add_row(*map(_escape_cell, row))
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


def pick(item: object, names: str = "", **renamed: str) -> dict[str, Any]:
    """Return attributes of an object for JSON: `names` under their own names, others as key="attribute.of.it".

    A tuple becomes a list.
    """
    paths = {name: name for name in names.split()} | renamed
    values = {key: operator.attrgetter(path)(item) for key, path in paths.items()}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}


def count_words(number: int, noun: str) -> str:
    """Return "1 file" or "2 files"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def unwritable_error(reason: str) -> OutsideError:
    """Return the error for a stdout that cannot be written."""
    return OutsideError(
        f"stdout cannot be written: {reason}",
        code="stdout-not-writable",
        hint="write to a disk with free space and run the same command again; its work is kept",
    )


def _write_stdout(text: str) -> None:
    """Write to stdout and flush it; raises ReaderGoneError if the reader closed the pipe."""
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
    for number in sorted(range(len(wants)), key=lambda column: wants[column]):
        left -= 1
        if wants[number] + _NARROWEST * left > room:
            break
        room -= wants[number]
        columns.add(number)
    return columns


def _escape_cell(cell: str) -> str:
    import rich.markup

    return rich.markup.escape(make_printable(cell))
