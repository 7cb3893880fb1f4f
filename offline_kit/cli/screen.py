"""Where text is shown: a terminal, on which it is wrapped between words and colored, or a log, which keeps whole lines."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence

import rich.box
import rich.console
import rich.progress
import rich.table
from rich.cells import cell_len, chop_cells
from rich.text import Text

_LOG_WIDTH = 140  # columns of a table in a log, which has no width of its own; 80 breaks wheel names
_SHORT = 16  # columns of a text that is broken only if names would be otherwise: "cell 12, line 11"
# A number stays with its unit, the option with its file.
_WORD = re.compile(r"(?:-r |[^ ]*\d (?=(?:[kMGT]?B|m?s|min|h)\b))?[^ ]+")
_SEPARATORS = (r"/\\", ",=:@", "_-", ".")
"""A word that is wider than its column is broken after one of these, the first kind that is enough."""


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
        """Print a line, wrapped with a hanging indent on a terminal; None indents to the last aligned column."""
        if self.wraps:
            indent = find_indent(text.plain, self.console.width) if indent is None else indent
            self.console.print(WrappedText(text, indent=indent, fold=fold), crop=False)
        else:
            self.console.print(text, soft_wrap=True)

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
            table.add_column(WrappedText(Text(head), fold=True), width=width)
        for row in rows:
            table.add_row(*(WrappedText(Text(cell, styles.get(cell, "")), fold=True) for cell in row))
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


class WrappedText:
    """A text that is broken between words; with `fold` also in words that are wider than the line, after / - _ and such.

    Without `fold` such a word gets a line of its own and stays whole, so that a path can be copied.
    """

    def __init__(self, text: Text, *, indent: int = 0, fold: bool = False) -> None:
        """`indent` is that of each line but the first, in columns."""
        self.text, self.indent, self.fold = text, indent, fold

    def __rich_console__(
        self, console: rich.console.Console, options: rich.console.ConsoleOptions
    ) -> Iterator[Text]:
        """Yield the lines."""
        for line in self.text.split("\n", allow_blank=True):
            breaks = [*find_breaks(line.plain, options.max_width, self.indent, fold=self.fold)]
            indents = (0, *(indent for _, indent in breaks))
            for indent, part in zip(indents, line.divide([offset for offset, _ in breaks]), strict=True):
                part.rstrip()
                row = Text(" " * indent, no_wrap=True, overflow="ignore")
                yield row.append_text(part)


def find_breaks(line: str, width: int, indent: int = 0, *, fold: bool) -> Iterator[tuple[int, int]]:
    """Yield where each further line of a wrapped line begins, and its indent in columns."""
    column = end = 0
    for match in _WORD.finditer(line):
        gap, word, offset = match.start() - end, match[0], match.start()
        end = match.end()
        margin = indent if fold else max(0, min(indent, width - cell_len(word)))
        for piece in _split_word(word, width - indent) if fold else (word,):
            size = cell_len(piece)
            if column and column + gap + size > width:
                yield offset, margin
                column, gap = margin, 0
            column += gap + size
            offset, gap = offset + len(piece), 0


def _split_word(word: str, width: int, separators: Sequence[str] = _SEPARATORS) -> Iterator[str]:
    """Yield a word in pieces of at most this width."""
    if cell_len(word) <= width:
        yield word
    elif not separators:
        yield from chop_cells(word, max(1, width))
    else:
        for piece in re.findall(f"[^{separators[0]}]*[{separators[0]}]+|[^{separators[0]}]+", word):
            yield from _split_word(piece, width, separators[1:])


def find_indent(line: str, width: int) -> int:
    """Return where the last column of an aligned line begins, else where its text begins, but at least 2."""
    ends = [match.end() for match in re.finditer(r"(?<=[^ ])  +(?=[^ ])", line) if match.end() <= width / 2]
    text = re.sub(r"^ *[-+~>•→]? *", "", line)
    return ends[-1] if ends else max(2, len(line) - len(text))


def fit_columns(rows: Sequence[Sequence[str]], room: int) -> list[int]:
    """Return the width of each column: names stay whole as long as sentences can be wrapped instead."""
    columns = [*zip(*rows, strict=True)]
    full = [max(map(cell_len, column)) for column in columns]
    if sum(full) <= room:
        return full
    words = [
        max(cell_len(word) for cell in column for word in _WORD.findall(cell) or " ") for column in columns
    ]
    prose = [max(word, min(whole, _SHORT)) for word, whole in zip(words, full, strict=True)]
    pieces = ([min(word, limit) for word in words] for limit in range(_SHORT, 0, -1))
    for least in (prose, words, *pieces):
        spare = room - sum(least)
        if spare >= 0:
            lacks = [whole - width for whole, width in zip(full, least, strict=True)]
            for rank, number in enumerate(sorted(range(len(lacks)), key=lacks.__getitem__)):
                more = min(lacks[number], spare // (len(lacks) - rank))
                least[number] += more
                spare -= more
            return least
    return [1] * len(columns)
