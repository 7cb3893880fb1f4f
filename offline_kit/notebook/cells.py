"""Separate IPython magics from the Python of one cell, without running IPython.

A cell may contain `%magic`, `!shell`, `x = !shell`, `help?` and, in its first line, `%%magic`. Magics are found
as IPython finds them (at the start of a statement, never inside brackets or strings) and replaced by Python
that does nothing, so every other line keeps its number.
"""

import ast
import re
import textwrap
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

PYTHON_BODIES = frozenset({"time", "timeit", "capture", "prun", "memit", "mprun", "lprun", "debug"})
"""Cell magics whose body is still Python."""
SHELL_BODIES = frozenset({"bash", "sh", "script"})
"""Cell magics whose cell is a shell script."""

_TOKEN = re.compile(
    r"""(?P<comment>\#[^\n]*)
    |(?P<quote>(?<!\w)(?:[rRbBuUfFtT]{1,2})?(?:\"{3}|'{3}|"|')|["'])
    |(?P<open>[(\[{])|(?P<close>[)\]}])|(?P<joined>\\\n)|(?P<newline>\n)|(?P<help>\?)""",
    re.VERBOSE,
)
_SIGN = re.compile(r"(?P<indent>[ \t]*)(?P<before>)(?P<sign>!!|!|%%?|\?\??|[,;/])")
_ASSIGNED = re.compile(
    r"(?P<indent>[ \t]*)(?P<before>[^\W\d][\w.,* \t\[\]\"'-]*?[ \t]*=[ \t]*)(?P<sign>!!?|%(?=[^\W\d]))"
)
_CELL = re.compile(r"\s*?^(?P<sign>%%)(?P<name>\w+)(?!\?)", re.MULTILINE)
_AUTOMAGIC = re.compile(
    r"(?P<indent>)(?P<before>)(?P<sign>)(pip|pip3|conda|ls|cd|cp|mv|rm|mkdir|cat|pwd)\b(?!\s*[=(.,\[])"
)
_HEREDOC = re.compile(
    r"^(?=[^\n#]*>\s*['\"]?(?P<name>[\w./-]+\.py))[^\n#]*<<-?\s*(?P<quote>['\"]?)(?P<end>\w+)(?P=quote)[^\n]*\n"
    r"(?P<text>.*?)^\s*(?P=end)[ \t]*$",
    re.MULTILINE | re.DOTALL,
)
_ENDS = {
    quote: re.compile(rf"(?:\\.|[^\\{'' if len(quote) == 3 else chr(10)}])*?{quote}", re.DOTALL)
    for quote in ('"""', "'''", '"', "'")
}


@dataclass(frozen=True, kw_only=True)
class Magic:
    """One line of a cell, with its continuations, that is not Python."""

    start: int
    """Where it begins in the cell's text, its indent left out."""
    end: int
    """Where it ends, without the end of its last line."""
    indent: str
    """The blanks before it."""
    before: str
    """What it is assigned to, the sign of equality included: "files = "; else empty."""
    sign: str
    """"!", "!!", "%", "%%" or "?"; empty for an automagic."""
    text: str
    """The text after the sign."""

    @property
    def name(self) -> str:
        """The magic's name; empty for shell lines and help."""
        matched = re.match(r"\w+", self.text) if self.sign in ("%", "%%", "") else None
        return matched[0] if matched else ""

    @property
    def shell_command(self) -> str:
        """The command that a shell gets, or that is read like one (`%pip install ...`); else empty."""
        if self.sign in ("!", "!!"):
            return self.text
        if self.sign in ("%", "") and self.name in ("pip", "pip3", "conda", "uv", "sx", "system"):
            return self.text.partition(" ")[2] if self.name in ("sx", "system") else self.text
        return ""


@dataclass(frozen=True, kw_only=True)
class ParsedCell:
    """A cell separated into Python and magics."""

    source: str
    """The text itself."""
    python: str
    """The cell with its magics replaced; line numbers are unchanged."""
    magics: tuple[Magic, ...]
    """The magics, in their order."""
    strings: tuple[tuple[int, int], ...]
    """Where the strings of the Python part begin and end, quotes and prefixes included."""
    script: tuple[int, int] | None = None
    """Where the body of a shell script begins and ends."""
    shift: int = 0
    """Columns that the Python part has lost to its left: an indent that all lines of the cell share."""
    foreign: str = ""
    """Name of the cell magic whose body is no Python: "bash", "html", "writefile"; else empty."""

    def parse_tree(self) -> ast.Module | None:
        """Return the syntax tree of the Python part; None if it does not parse."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of escapes in the user's strings
                return ast.parse(self.python)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return None

    def line_number(self, offset: int) -> int:
        """Return the 1-based line number of an offset in the text."""
        return self.source.count("\n", 0, offset) + 1

    def text_offset(self, line: int, column: int) -> int:
        """Return the place in the text of a line (from 1) and a column in bytes of UTF-8, as `ast` counts."""
        lines = self.source.split("\n")
        before = sum(len(line_text) + 1 for line_text in lines[: line - 1])
        return before + len(lines[line - 1].encode()[: column + self.shift].decode(errors="ignore"))


def parse_cell(source: str) -> ParsedCell:
    """Parse a cell; accepts any text."""
    opened = _CELL.match(source)
    if opened and opened["name"] not in PYTHON_BODIES:
        return _parse_foreign(source, opened)
    spans = _CellScanner(source, opened)
    spans.scan_cell()
    masked = _mask_magics(source, spans.magics)
    python = _dedent_cell(masked)
    return ParsedCell(
        source=source,
        python=python,
        shift=_indent_width(masked) - _indent_width(python),
        magics=tuple(spans.magics),
        strings=tuple(spans.strings),
    )


def extract_import_code(source: str) -> str:
    """Return a cell as Python for import scans: its code, the scripts that it writes, and the imports of its magics."""
    cell = parse_cell(source)
    tail = "\nimport matplotlib\n" if {"matplotlib", "pylab"} & {magic.name for magic in cell.magics} else ""
    scripts = (
        parse_cell(script.text).python for script in find_scripts(cell) if script.parse_tree() is not None
    )
    return "\n".join([cell.python + tail, *scripts])


@dataclass(frozen=True, kw_only=True)
class WrittenScript:
    """A Python file that a cell writes."""

    name: str
    """Its path as the cell writes it."""
    text: str
    """What is written, as far as it is one literal string."""
    start: int = -1
    """Offset of the text in the cell; -1 if the cell does not contain it literally."""

    def parse_tree(self) -> ast.Module | None:
        """Return the script's syntax tree; None for what this Python cannot parse."""
        return parse_cell(self.text).parse_tree()


def find_scripts(cell: ParsedCell) -> Iterator[WrittenScript]:
    """Yield the Python files that a cell writes: `%%writefile`, `open(...).write`, `write_text`, a shell's heredoc."""
    if cell.foreign in ("writefile", "file"):
        line, _, body = cell.source.lstrip("\n").partition("\n")
        name = line.split()[-1].strip("\"'")
        if name.endswith(".py"):
            yield WrittenScript(name=name, text=body, start=len(cell.source) - len(body))
    elif cell.script:
        for heredoc in _HEREDOC.finditer(cell.source, *cell.script):
            yield WrittenScript(name=heredoc["name"], text=heredoc["text"], start=heredoc.start("text"))
    elif tree := cell.parse_tree():
        yield from _find_written_files(tree)


def _find_written_files(tree: ast.Module) -> Iterator[WrittenScript]:
    handles: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.withitem) and isinstance(node.optional_vars, ast.Name):
            handles[node.optional_vars.id] = _opened_file(node.context_expr)
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            handles[node.targets[0].id] = _opened_file(node.value)
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute) or not node.args:
            continue
        text, owner = node.args[0], node.func.value
        if node.func.attr in ("write", "write_text") and isinstance(text, ast.Constant):
            name = handles.get(owner.id, "") if isinstance(owner, ast.Name) else _opened_file(owner)
            if name and isinstance(text.value, str):
                yield WrittenScript(name=name, text=text.value)


def _opened_file(node: ast.expr) -> str:
    """Return the Python file that an expression opens or names: `open("a.py", "w")`, `Path("a.py")`; else ""."""
    while isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and not node.args:
        node = node.func.value
    first = node.args[0] if isinstance(node, ast.Call) and node.args else None
    name = first.value if isinstance(first, ast.Constant) else ""
    return name if isinstance(name, str) and name.endswith(".py") else ""


def _parse_foreign(source: str, opened: "re.Match[str]") -> ParsedCell:
    first = source.find("\n", opened.end())
    body = len(source) if first < 0 else first + 1
    magic = Magic(
        start=opened.start("sign"),
        end=len(source),
        indent="",
        before="",
        sign="%%",
        text=source[opened.start("name") :],
    )
    shell = opened["name"] in SHELL_BODIES
    return ParsedCell(
        source=source,
        python=_mask_magics(source, [magic]),
        magics=(magic,),
        strings=(),
        script=(body, len(source)) if shell else None,
        foreign=opened["name"],
    )


def _mask_magics(source: str, magics: list[Magic]) -> str:
    parts, position = [], 0
    for magic in magics:
        stand_in = f"{magic.before}None" if magic.before else "pass"
        parts += [source[position : magic.start], stand_in, "\n" * source.count("\n", magic.start, magic.end)]
        position = magic.end
    return "".join([*parts, source[position:]])


def _dedent_cell(text: str) -> str:
    """Return a cell whose first line is indented as IPython would run it; other cells as they are."""
    if not text.lstrip("\n")[:1].isspace():
        return text
    return textwrap.dedent(text) if text.strip() else text


def _indent_width(text: str) -> int:
    first = text.lstrip("\n")
    return len(first) - len(first.lstrip(" \t"))


class _CellScanner:
    """Walks over a cell's statements and notes magics and strings."""

    def __init__(self, source: str, opened: "re.Match[str] | None") -> None:
        self.source = source
        self.magics: list[Magic] = []
        self.strings: list[tuple[int, int]] = []
        self.position = 0
        if opened:
            self._add_magic(opened.start("sign"), opened.start("sign"), "", "", "%%")

    def scan_cell(self) -> None:
        if "\n" not in self.source.strip() and (matched := _AUTOMAGIC.match(self.source)):
            self._take_match(matched)
        while self.position < len(self.source):
            matched = _SIGN.match(self.source, self.position) or _ASSIGNED.match(self.source, self.position)
            if matched:
                self._take_match(matched)
            else:
                self._scan_statement()

    def _take_match(self, matched: "re.Match[str]") -> None:
        self._add_magic(
            matched.start("before"),
            matched.start("sign"),
            matched["indent"],
            matched["before"],
            matched["sign"],
        )

    def _add_magic(self, start: int, at: int, indent: str, before: str, sign: str) -> None:
        end = self._find_line_end(at)
        while sign != "%%" and self.source[at:end].endswith("\\") and end < len(self.source):
            end = self._find_line_end(end + 1)
        text = self.source[at + len(sign) : end]
        self.magics.append(Magic(start=start, end=end, indent=indent, before=before, sign=sign, text=text))
        self.position = end + 1

    def _find_line_end(self, start: int) -> int:
        end = self.source.find("\n", start)
        return len(self.source) if end < 0 else end

    def _scan_statement(self) -> None:
        start, depth = self.position, 0
        for kind, position in self._scan_tokens():
            depth += {"open": 1, "close": -1}.get(kind, 0)
            if kind == "help":  # no Python has a question mark outside of strings
                self._add_help(start)
                return
            if kind == "newline" and depth <= 0:
                self.position = position
                return

    def _add_help(self, start: int) -> None:
        """Record the statement of `thing?` as a magic."""
        indent = re.match(r"[ \t]*", self.source[start:])
        blanks = indent[0] if indent else ""
        end = self._find_line_end(self.position)
        text = self.source[start + len(blanks) : end]
        self.magics.append(
            Magic(start=start + len(blanks), end=end, indent=blanks, before="", sign="?", text=text)
        )
        self.position = end + 1

    def _scan_tokens(self) -> Iterator[tuple[str, int]]:
        """Yield what matters for the ends of statements, each with the place behind it."""
        while token := _TOKEN.search(self.source, self.position):
            kind, self.position = str(token.lastgroup), token.end()
            if kind == "quote":
                self.position = self._find_string_end(token)
                self.strings.append((token.start(), self.position))
            yield kind, self.position
        self.position = len(self.source)

    def _find_string_end(self, opening: "re.Match[str]") -> int:
        quote = opening[0].lstrip("rRbBuUfFtT")
        closed = _ENDS[quote].match(self.source, opening.end())
        if closed:
            return closed.end()
        return len(self.source) if len(quote) == 3 else self._find_line_end(opening.end())
