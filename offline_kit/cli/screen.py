"""Where text is shown: a terminal, on which it is wrapped between words and colored, or a log, which keeps whole lines."""

import os
import re
import textwrap
from collections.abc import Mapping, Sequence

import rich.box
import rich.console
import rich.progress
import rich.table
from rich.cells import cell_len
from rich.text import Text

_LOG_WIDTH = 140  # columns of a table in a log, which has no width of its own; 80 breaks wheel names
_SHORT = 16  # columns of a text that is broken only if names would be otherwise: "cell 12, line 11"
_WORD = re.compile(r"[\d.]+ [kMGT]?B\b|[^ ]+")  # a number stays with its unit


class Screen:
    """Stdout or stderr.

    rich decides on colors: none without a terminal or with TERM=dumb, unless FORCE_COLOR is set.
    """

    def __init__(self, *, stderr: bool) -> None:
        # NO_COLOR alone would leave bold and dim. Highlighting would color numbers and quotes in paths.
        self.console = rich.console.Console(
            stderr=stderr, highlight=False, color_system=None if os.environ.get("NO_COLOR") else "auto"
        )
        is_tty = self.console.file.isatty()
        has_width = is_tty or bool(os.environ.get("COLUMNS"))
        if not has_width:
            self.console.width = _LOG_WIDTH
        self.wraps = has_width and self.console.is_terminal
        self.is_live = is_tty and self.console.is_interactive
        """Whether a line can be written again; not so in a log with FORCE_COLOR, or with TERM=dumb."""

    def print_text(self, text: Text, *, indent: int | None = None, fold: bool = False) -> None:
        """Print a line, wrapped with a hanging indent on a terminal; None indents to the last aligned column.

        A word that is wider than the screen stays whole, so that a path can be copied, unless `fold` is set.
        """
        if not self.wraps:
            self.console.print(text, soft_wrap=True)
            return
        width = self.console.width
        margin = " " * (find_indent(text.plain, width) if indent is None else indent)
        wrapper = textwrap.TextWrapper(
            width, subsequent_indent=margin, break_long_words=fold, break_on_hyphens=False,
            expand_tabs=False, replace_whitespace=False,
        )  # fmt: skip
        for line in text.split("\n", allow_blank=True):
            start = 0
            for number, piece in enumerate(wrapper.wrap(line.plain) or [""]):
                words = piece.removeprefix(margin) if number else piece
                start = line.plain.index(words, start)
                row = Text(margin if number else "").append_text(line[start : start + len(words)])
                self.console.print(row, soft_wrap=True)
                start += len(words)

    def print_table(
        self, title: str, heads: Sequence[str], rows: Sequence[Sequence[str]], styles: Mapping[str, str]
    ) -> None:
        """Print a table that is never wider than the screen; `styles` are those of cells with these texts."""
        gap = 2 if self.wraps else 3
        table = rich.table.Table(
            title=Text(title, "bold"),
            title_justify="left",
            box=rich.box.SIMPLE_HEAD,
            padding=(0, gap - 2, 0, 1),
        )
        widths = fit_columns([heads, *rows], self.console.width - gap * len(heads) - 1)
        for head, width in zip(heads, widths, strict=True):
            table.add_column(Text(head), width=width, overflow="fold")
        for row in rows:
            table.add_row(*(Text(cell, styles.get(cell, "")) for cell in row))
        self.console.print(table)

    def render_texts(self, *texts: Text, fold: bool) -> str:
        """Return what `print_text` would print of these lines."""
        with self.console.capture() as captured:
            for text in texts:
                self.print_text(text, fold=fold)
        return captured.get()

    def open_bar(self, *columns: rich.progress.ProgressColumn) -> rich.progress.Progress:
        """Return a line that disappears at its end: a description, cut where these columns begin; without any, wrapped."""
        column = rich.table.Column(ratio=1, no_wrap=bool(columns), overflow="ellipsis" if columns else "fold")
        text = rich.progress.TextColumn("{task.description}", markup=False, table_column=column)
        margin = rich.progress.TextColumn(" ") if columns else rich.progress.SpinnerColumn()
        return rich.progress.Progress(
            margin, text, *columns, console=self.console, transient=True, expand=True
        )


def find_indent(line: str, width: int) -> int:
    """Return where the last column of an aligned line begins, else where its text begins, but at least 2."""
    ends = [match.end() for match in re.finditer(r"(?<=[^ ])  +(?=[^ ])", line) if match.end() <= width / 2]
    text = re.sub(r"^ *[-+~>•→]? *", "", line)
    return ends[-1] if ends else max(2, len(line) - len(text))


def fit_columns(rows: Sequence[Sequence[str]], room: int) -> list[int]:
    """Return the width of each column: the widest shrinks, but no word is broken as long as sentences can be."""
    columns = [*zip(*rows, strict=True)]
    widths = [max(map(cell_len, column)) for column in columns]
    words = [
        max(cell_len(word) for cell in column for word in _WORD.findall(cell) or " ") for column in columns
    ]
    prose = [max(word, min(width, _SHORT)) for word, width in zip(words, widths, strict=True)]
    while sum(widths) > room and max(widths) > 1:
        number = max(
            range(len(widths)), key=lambda n: (widths[n] > prose[n], widths[n] > words[n], widths[n])
        )
        widths[number] -= 1
    return widths
