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
SHELL_BODIES = frozenset({"bash", "sh", "script"})  # cell magics whose cell is a shell script

_TOKEN = re.compile(
    r"""(?P<comment>\#[^\n]*)
    |(?P<quote>(?<!\w)(?:[rRbBuUfFtT]{1,2})?(?:\"{3}|'{3}|"|')|["'])
    |(?P<open>[(\[{])|(?P<close>[)\]}])|(?P<joined>\\\n)|(?P<newline>\n)|(?P<help>\?)""",
    re.VERBOSE,
)
_SIGN = re.compile(r"[ \t]*(?P<before>)(?P<sign>!!|!|%%?|\?\??|[,;/])")
_ASSIGNED = re.compile(
    r"[ \t]*(?P<before>[^\W\d][\w.,* \t\[\]\"'-]*?[ \t]*=[ \t]*)(?P<sign>!!?|%(?=[^\W\d]))"
)
_CELL = re.compile(r"\s*?^(?P<sign>%%)(?P<name>\w+)(?!\?)", re.MULTILINE)
_AUTOMAGIC = re.compile(
    r"(?P<before>)(?P<sign>)(pip|pip3|conda|ls|cd|cp|mv|rm|mkdir|cat|pwd)\b(?!\s*[=(.,\[])"
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

    start: int  # where it begins in the cell's text, its indent left out
    end: int  # where it ends, without the end of its last line
    before: str  # what it is assigned to, the sign of equality included: "files = "; else empty
    sign: str  # "!", "!!", "%", "%%" or "?"; empty for an automagic
    text: str  # the text after the sign

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
    python: str  # the cell with its magics replaced; line numbers are unchanged
    magics: tuple[Magic, ...]
    strings: tuple[tuple[int, int], ...] = ()
    """Where the strings of the Python part begin and end, quotes and prefixes included."""
    script: tuple[int, int] | None = None  # where the body of a shell script begins and ends
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
    # IPython takes a cell magic in the first line only, blank lines aside.
    opened = _CELL.match(source)
    if opened and opened["name"] not in PYTHON_BODIES:
        start, text = opened.start("sign"), source[opened.start("name") :]
        magic = Magic(start=start, end=len(source), before="", sign="%%", text=text)
        body = source.find("\n", opened.end()) + 1 or len(source)
        return ParsedCell(
            source=source,
            python=_mask_magics(source, [magic]),
            magics=(magic,),
            script=(body, len(source)) if opened["name"] in SHELL_BODIES else None,
            foreign=opened["name"],
        )
    magics, strings = _scan_cell(source, opened)
    masked = python = _mask_magics(source, magics)
    if masked.strip() and masked.lstrip("\n")[:1].isspace():
        python = textwrap.dedent(masked)  # as IPython runs a cell whose first line is indented
    shift = _indent_width(masked) - _indent_width(python)
    return ParsedCell(source=source, python=python, magics=tuple(magics), strings=tuple(strings), shift=shift)


def extract_import_code(source: str) -> str:
    """Return a cell as Python for import scans: its code, the scripts that it writes, and the imports of its magics."""
    cell = parse_cell(source)
    tail = "\nimport matplotlib\n" if {"matplotlib", "pylab"} & {magic.name for magic in cell.magics} else ""
    scripts = [script for script in find_scripts(cell) if script.parse_tree() is not None]
    return "\n".join([cell.python + tail, *(parse_cell(script.text).python for script in scripts)])


@dataclass(frozen=True, kw_only=True)
class WrittenScript:
    """A Python file that a cell writes, as far as its text is one literal string."""

    name: str  # its path as the cell writes it
    text: str
    start: int = -1  # offset of the text in the cell; -1 if the cell does not contain it literally

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
        # `with open("a.py", "w") as file:` or `file = open("a.py", "w")`
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


def _mask_magics(source: str, magics: list[Magic]) -> str:
    parts, position = [], 0
    for magic in magics:
        # The same number of lines, so that line numbers of errors stay.
        stand_in = f"{magic.before}None" if magic.before else "pass"
        parts += [source[position : magic.start], stand_in, "\n" * source.count("\n", magic.start, magic.end)]
        position = magic.end
    return "".join([*parts, source[position:]])


def _indent_width(text: str) -> int:
    first = text.lstrip("\n")
    return len(first) - len(first.lstrip(" \t"))


def _scan_cell(source: str, opened: "re.Match[str] | None") -> tuple[list[Magic], list[tuple[int, int]]]:
    """Walk over a cell's statements; return its magics, and where its strings begin and end."""
    magics = [_read_magic(source, opened)] if opened else []
    strings: list[tuple[int, int]] = []
    position = magics[0].end + 1 if magics else 0
    is_line = "\n" not in source.strip()
    while position < len(source):
        matched = _AUTOMAGIC.match(source) if is_line and position == 0 else None
        matched = matched or _SIGN.match(source, position) or _ASSIGNED.match(source, position)
        if matched:
            magics.append(_read_magic(source, matched))
            position = magics[-1].end + 1
            continue
        statement, depth = position, 0
        while token := _TOKEN.search(source, position):
            kind, position = token.lastgroup, token.end()
            if kind == "quote":
                position = _find_string_end(source, token)
                strings.append((token.start(), position))
            # A line break inside brackets ends no statement.
            depth += {"open": 1, "close": -1}.get(str(kind), 0)
            if kind == "help":  # no Python has a question mark outside of strings
                start, end = statement + _indent_width(source[statement:]), _find_line_end(source, position)
                magics.append(Magic(start=start, end=end, before="", sign="?", text=source[start:end]))
                position = end + 1
                break
            if kind == "newline" and depth <= 0:
                break
        else:
            position = len(source)
    return magics, strings


def _read_magic(source: str, matched: "re.Match[str]") -> Magic:
    """Return the magic whose sign was matched, up to the end of its line or of its continuations."""
    groups = matched.groupdict(default="")
    sign, at = groups["sign"], matched.start("sign")
    end = _find_line_end(source, at)
    # IPython joins the lines of a magic at a backslash, as a shell does.
    while sign != "%%" and source[at:end].endswith("\\") and end < len(source):
        end = _find_line_end(source, end + 1)
    before = groups.get("before", "")
    return Magic(start=at - len(before), end=end, before=before, sign=sign, text=source[at + len(sign) : end])


def _find_line_end(source: str, start: int) -> int:
    end = source.find("\n", start)
    return len(source) if end < 0 else end


def _find_string_end(source: str, opening: "re.Match[str]") -> int:
    quote = opening[0].lstrip("rRbBuUfFtT")
    closed = _ENDS[quote].match(source, opening.end())
    if closed:
        return closed.end()
    return len(source) if len(quote) == 3 else _find_line_end(source, opening.end())
