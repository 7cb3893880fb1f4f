"""The console: steps and progress bars on stderr, results on stdout, errors in one format."""

import functools
import json
import operator
import os
import re
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from offline_kit.core.errors import OfflineKitError, OutsideError
from offline_kit.core.redaction import make_printable
from offline_kit.core.report import Advance, Reporter, Say

if TYPE_CHECKING:
    from offline_kit.cli.screen import Screen

_MANY = 12  # items of a list in a plan
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

    @functools.cached_property
    def _stderr(self) -> "Screen":
        from offline_kit.cli.screen import Screen

        return Screen(stderr=True)

    def _print_marked(self, mark: str, style: str, text: str) -> None:
        from rich.text import Text

        self._stderr.print_text(Text.assemble((mark, style), " ", make_printable(self.words(text))))

    def step(self, text: str) -> None:
        """Report that a step starts."""
        if not self.quiet:
            self._print_marked("•", "bold cyan", text)

    def note(self, text: str) -> None:
        """Report a fact."""
        if not self.quiet:
            self._print_marked("  ", "", text)

    def warn(self, text: str, *, hint: str = "") -> None:
        """Warn of something that may make the run on Kaggle fail, and show how to fix it; shown even if quiet."""
        self._print_marked("warning:", "bold yellow", text)
        if hint:
            self._print_marked("hint:", "bold green", hint)

    @contextmanager
    def progress(self, text: str, total: int, *, unit: str = "B") -> Iterator[Advance]:
        """Show a progress bar on a terminal; otherwise print the text once."""
        if self.quiet or not self._stderr.is_live:
            self.note(text)
            yield lambda _amount: None
            return
        from rich import progress as bars

        amounts = bars.DownloadColumn() if unit == "B" else bars.MofNCompleteColumn()
        with self._stderr.open_bar(bars.BarColumn(20), amounts, bars.TimeRemainingColumn()) as bar:
            task = bar.add_task(make_printable(text), total=total)
            yield lambda amount: bar.advance(task, amount)

    @contextmanager
    def waiting(self, text: str) -> Iterator[Say]:
        """Show a live line on a terminal; otherwise print it every few minutes."""
        if not self.quiet and self._stderr.is_live:
            with self._stderr.open_bar() as bar:
                task = bar.add_task(make_printable(text), total=None)
                yield lambda words: bar.update(task, description=make_printable(f"{text}: {words}"))
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

    def show_facts(self, title: str, rows: Sequence[tuple[str, str]], *, style: str = "bold") -> None:
        """Show named facts, one per line; words are never broken, so that paths can be copied."""
        if self.quiet:
            return
        from rich.text import Text

        self._stderr.print_text(Text(title, style))
        wide = max(len(name) for name, _ in rows)
        for name, value in rows:
            self._stderr.print_text(Text(f"  {name:<{wide}}  {make_printable(value)}"), indent=wide + 4)

    def show_plan(self, title: str, facts: Mapping[str, Any]) -> None:
        """Show the facts that a script gets, one per line, of a list or a table each item."""

        def list_texts(value: object) -> list[str]:
            if isinstance(value, dict):
                return [f"{name}: {text}" for name, item in value.items() for text in list_texts(item)]
            if isinstance(value, list | tuple):
                return [str(item) for item in value]
            return [("no", "yes")[value] if isinstance(value, bool) else str(value or "none")]

        rows = []
        for name, value in facts.items():
            texts = list_texts(value)
            more = [f"and {len(texts) - _MANY} more"] if len(texts) > _MANY else []
            rows += [(name.replace("_", " "), text) for text in (*texts[:_MANY], *more)]
        self.show_facts(title, rows)

    def show_table(
        self,
        title: str,
        heads: Sequence[str],
        rows: Sequence[Sequence[str]],
        styles: Mapping[str, str] | None = None,
    ) -> None:
        """Show a table on stderr, or nothing if it has no rows; `styles` are those of cells with these texts."""
        if rows and not self.quiet:
            cells = [[make_printable(self.words(cell)) for cell in row] for row in rows]
            self._stderr.print_table(title, heads, cells, styles or {})

    def print_lines(self, lines: Sequence[str], *, highlight: str = "", fold: bool = False) -> None:
        """Print a command's result to stdout, unless JSON was asked for.

        On a terminal, lines are wrapped, with `fold` even long words, and what the groups of the regular expression
        `highlight` match gets the style that each is named after.
        """
        if self.as_json:
            return
        if not (sys.stdout and sys.stdout.isatty()) and not os.environ.get("FORCE_COLOR"):
            _write_stdout("".join(f"{make_printable(line)}\n" for line in lines))
            return
        from rich.text import Text

        from offline_kit.cli.screen import Screen

        texts = [Text(make_printable(line)) for line in lines]
        for text in texts if highlight else ():
            text.highlight_regex(highlight)
        _write_stdout(Screen(stderr=False).render_texts(*texts, fold=fold))

    def print_script(self, text: str) -> None:
        """Print text for another program to stdout."""
        _write_stdout(text)

    def print_result(self, data: dict[str, Any]) -> None:
        """Print the JSON object to stdout if JSON was asked for."""
        if self.as_json:
            worded = self.words.word_value(data)
            _write_stdout(json.dumps(worded, indent=2, sort_keys=True, default=str) + "\n")

    def can_ask(self) -> bool:
        """Return whether a person can be asked: not by a script."""
        return not self.as_json and sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty()

    def is_watched(self) -> bool:
        """Whether a person reads what is printed on stdout."""
        return not self.as_json and sys.stdout is not None and sys.stdout.isatty()

    def ask(self, question: str) -> str:
        """Ask for a line on a terminal, and return it without spaces around it."""
        sys.stderr.write(f"{make_printable(question)} ")
        sys.stderr.flush()
        return sys.stdin.readline().strip()


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
