"""The code of one cell: what IPython takes for magics, and the Python around them, told without running IPython.

A cell may hold `%magic`, `!shell`, `x = !shell`, `help?` and, in its first line, `%%magic`. Their lines are found
as IPython finds them (at the beginning of a statement, never inside brackets or strings) and stood in for by
Python that does nothing, so that every other line keeps its place.
"""

import ast
import re
import textwrap
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

PYTHON_BODIES = frozenset({"time", "timeit", "capture", "prun", "memit", "mprun", "lprun", "debug"})
"""Cell magics whose cell is Python all the same."""
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
    """"!", "!!", "%", "%%", "?"; empty for a word that IPython takes for a magic by itself."""
    text: str
    """What follows the sign, as it stands."""

    @property
    def name(self) -> str:
        """The magic's name; empty for shell lines and help."""
        found = re.match(r"\w+", self.text) if self.sign in ("%", "%%", "") else None
        return found[0] if found else ""

    @property
    def shell(self) -> str:
        """The command that a shell gets, or that is read like one (`%pip install ...`); else empty."""
        if self.sign in ("!", "!!"):
            return self.text
        if self.sign in ("%", "") and self.name in ("pip", "pip3", "conda", "uv", "sx", "system"):
            return self.text.partition(" ")[2] if self.name in ("sx", "system") else self.text
        return ""


@dataclass(frozen=True, kw_only=True)
class Read:
    """A cell's text, taken apart."""

    source: str
    """The text itself."""
    python: str
    """The same with magics stood in for: as many lines, every other line unchanged."""
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

    def tree(self) -> ast.Module | None:
        """Return the syntax tree of the Python part; None where this Python cannot read it."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of escapes in the user's strings
                return ast.parse(self.python)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return None

    def line(self, offset: int) -> int:
        """Return the number of the line that holds a place of the text, from 1."""
        return self.source.count("\n", 0, offset) + 1

    def offset(self, line: int, column: int) -> int:
        """Return the place in the text of a line (from 1) and a column in bytes of UTF-8, as `ast` counts."""
        lines = self.source.split("\n")
        before = sum(len(each) + 1 for each in lines[: line - 1])
        return before + len(lines[line - 1].encode()[: column + self.shift].decode(errors="ignore"))


def read(source: str) -> Read:
    """Take a cell apart; any text will do."""
    opened = _CELL.match(source)
    if opened and opened["name"] not in PYTHON_BODIES:
        return _foreign(source, opened)
    spans = _Spans(source, opened)
    spans.go()
    whole = _masked(source, spans.magics)
    python = _dedented(whole)
    return Read(
        source=source,
        python=python,
        shift=_indent(whole) - _indent(python),
        magics=tuple(spans.magics),
        strings=tuple(spans.strings),
    )


def imports_of(source: str) -> str:
    """Return a cell as Python for import scans: its code, the scripts that it writes, and imports made by magics."""
    cell = read(source)
    tail = "\nimport matplotlib\n" if {"matplotlib", "pylab"} & {magic.name for magic in cell.magics} else ""
    scripts = (read(script.text).python for script in scripts_of(cell) if script.tree() is not None)
    return "\n".join([cell.python + tail, *scripts])


@dataclass(frozen=True, kw_only=True)
class Script:
    """A Python file that a cell writes."""

    name: str
    """Its path as the cell writes it."""
    text: str
    """What is written, as far as it is one literal string."""
    start: int = -1
    """Where the text begins in the cell; -1 where it does not stand there letter by letter."""

    def tree(self) -> ast.Module | None:
        """Return the script's syntax tree; None for what this Python cannot parse."""
        return read(self.text).tree()


def scripts_of(cell: Read) -> Iterator[Script]:
    """Yield the Python files that a cell writes: `%%writefile`, `open(...).write`, `write_text`, a shell's heredoc."""
    if cell.foreign in ("writefile", "file"):
        line, _, body = cell.source.lstrip("\n").partition("\n")
        name = line.split()[-1].strip("\"'")
        if name.endswith(".py"):
            yield Script(name=name, text=body, start=len(cell.source) - len(body))
    elif cell.script:
        for here in _HEREDOC.finditer(cell.source, *cell.script):
            yield Script(name=here["name"], text=here["text"], start=here.start("text"))
    elif tree := cell.tree():
        yield from _written_by_calls(tree)


def _written_by_calls(tree: ast.Module) -> Iterator[Script]:
    handles: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.withitem) and isinstance(node.optional_vars, ast.Name):
            handles[node.optional_vars.id] = _python_file(node.context_expr)
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            handles[node.targets[0].id] = _python_file(node.value)
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute) or not node.args:
            continue
        text, owner = node.args[0], node.func.value
        if node.func.attr in ("write", "write_text") and isinstance(text, ast.Constant):
            name = handles.get(owner.id, "") if isinstance(owner, ast.Name) else _python_file(owner)
            if name and isinstance(text.value, str):
                yield Script(name=name, text=text.value)


def _python_file(node: ast.expr) -> str:
    """Return the Python file that an expression opens or names: `open("a.py", "w")`, `Path("a.py")`; else ""."""
    while isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and not node.args:
        node = node.func.value
    first = node.args[0] if isinstance(node, ast.Call) and node.args else None
    name = first.value if isinstance(first, ast.Constant) else ""
    return name if isinstance(name, str) and name.endswith(".py") else ""


def _foreign(source: str, opened: "re.Match[str]") -> Read:
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
    return Read(
        source=source,
        python=_masked(source, [magic]),
        magics=(magic,),
        strings=(),
        script=(body, len(source)) if shell else None,
        foreign=opened["name"],
    )


def _masked(source: str, magics: list[Magic]) -> str:
    parts, place = [], 0
    for magic in magics:
        stand_in = f"{magic.before}None" if magic.before else "pass"
        parts += [source[place : magic.start], stand_in, "\n" * source.count("\n", magic.start, magic.end)]
        place = magic.end
    return "".join([*parts, source[place:]])


def _dedented(text: str) -> str:
    """Return a cell whose first line is indented as IPython would run it; other cells as they are."""
    if not text.lstrip("\n")[:1].isspace():
        return text
    return textwrap.dedent(text) if text.strip() else text


def _indent(text: str) -> int:
    first = text.lstrip("\n")
    return len(first) - len(first.lstrip(" \t"))


class _Spans:
    """Walks over a cell's statements and notes magics and strings."""

    def __init__(self, source: str, opened: "re.Match[str] | None") -> None:
        self.source = source
        self.magics: list[Magic] = []
        self.strings: list[tuple[int, int]] = []
        self.place = 0
        if opened:
            self._take(opened.start("sign"), opened.start("sign"), "", "", "%%")

    def go(self) -> None:
        if "\n" not in self.source.strip() and (found := _AUTOMAGIC.match(self.source)):
            self._magic(found)
        while self.place < len(self.source):
            found = _SIGN.match(self.source, self.place) or _ASSIGNED.match(self.source, self.place)
            if found:
                self._magic(found)
            else:
                self._statement()

    def _magic(self, found: "re.Match[str]") -> None:
        self._take(
            found.start("before"), found.start("sign"), found["indent"], found["before"], found["sign"]
        )

    def _take(self, start: int, at: int, indent: str, before: str, sign: str) -> None:
        end = self._line_end(at)
        while sign != "%%" and self.source[at:end].endswith("\\") and end < len(self.source):
            end = self._line_end(end + 1)
        text = self.source[at + len(sign) : end]
        self.magics.append(Magic(start=start, end=end, indent=indent, before=before, sign=sign, text=text))
        self.place = end + 1

    def _line_end(self, place: int) -> int:
        found = self.source.find("\n", place)
        return len(self.source) if found < 0 else found

    def _statement(self) -> None:
        start, depth = self.place, 0
        for kind, place in self._tokens():
            depth += {"open": 1, "close": -1}.get(kind, 0)
            if kind == "help":  # no Python has a question mark outside of strings
                self._help(start)
                return
            if kind == "newline" and depth <= 0:
                self.place = place
                return

    def _help(self, start: int) -> None:
        """Take the statement of `thing?` for a magic."""
        indent = re.match(r"[ \t]*", self.source[start:])
        blanks = indent[0] if indent else ""
        end = self._line_end(self.place)
        text = self.source[start + len(blanks) : end]
        self.magics.append(
            Magic(start=start + len(blanks), end=end, indent=blanks, before="", sign="?", text=text)
        )
        self.place = end + 1

    def _tokens(self) -> Iterator[tuple[str, int]]:
        """Yield what matters for the ends of statements, each with the place behind it."""
        while found := _TOKEN.search(self.source, self.place):
            kind, self.place = str(found.lastgroup), found.end()
            if kind == "quote":
                self.place = self._string_end(found)
                self.strings.append((found.start(), self.place))
            yield kind, self.place
        self.place = len(self.source)

    def _string_end(self, found: "re.Match[str]") -> int:
        quote = found[0].lstrip("rRbBuUfFtT")
        closed = _ENDS[quote].match(self.source, found.end())
        if closed:
            return closed.end()
        return len(self.source) if len(quote) == 3 else self._line_end(found.end())
