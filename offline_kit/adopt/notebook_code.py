"""The Python of a notebook, parsed once, and its strings that are known without running it."""

import ast
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, product
from typing import Any

from offline_kit.notebook import cells
from offline_kit.notebook.cells import ParsedCell
from offline_kit.project import references

_MAX_COMBINATIONS = 64  # largest number of combinations of values
_PATH_CALLS = ("Path", "PurePath", "PosixPath", "str", "abspath", "expanduser", "normpath", "fspath")
_COPYING_CALLS = ("list", "tuple", "set", "sorted", "tqdm")
_PRINTF_FIELD = re.compile(r"%(?P<name>\(\w+\))?[-+#0 ]*\d*(?:\.\d+)?[sdifgrx]")
_BRACE_FIELD = re.compile(r"\{(?P<name>[^{}]*)\}")
_SHELL_FIELD = re.compile(r"\{\{|\}\}|\{(?P<braced>[^{}]*)\}|\$\{?(?P<dollar>[^\W\d]\w*)\}?")


class KnownStrings(dict[str, str]):
    """Strings by name; `several` holds names with more values: lists, loop variables, parameters of functions."""

    def __init__(
        self, single: Mapping[str, str] | None = None, several: Mapping[str, tuple[str, ...]] | None = None
    ) -> None:
        super().__init__(single or {})
        self.several = dict(several or {})

    def value(self, node: ast.AST | None) -> str:
        """Return the string value of an expression, with "*" for unknown parts; "" if it is no string."""
        match node:
            case ast.Constant(value=str(text)):
                return text
            case ast.Name(id=name):
                return self.get(name, "")
            case ast.Attribute(value=owner, attr=name):
                return self.get(ast.unparse(node), self.get(name, "") if isinstance(owner, ast.Name) else "")
            case ast.JoinedStr(values=parts):
                return "".join(map(self.value, parts))
            case ast.FormattedValue(value=inner, conversion=conversion, format_spec=spec):
                return (self.value(inner) if conversion < 0 and spec is None else "") or "*"
            case ast.BinOp(left=before, op=operator, right=after):
                left, right = self.value(before), self.value(after)
                if isinstance(operator, ast.Mod) and left:
                    fillings = after.elts if isinstance(after, ast.Tuple) else [after]
                    return _fill_fields(_PRINTF_FIELD, left, map(self.value, fillings))
                if isinstance(operator, ast.Add) and (left or right):
                    return (left or "*") + (right or "*")
                return f"{left.rstrip('/')}/{right or '*'}" if isinstance(operator, ast.Div) and left else ""
            case ast.Call():
                return self._call_value(node)
        return ""

    def _call_value(self, node: ast.Call) -> str:
        name, owner = call_name(node), node.func.value if isinstance(node.func, ast.Attribute) else None
        parts = [self.value(argument) for argument in node.args]
        if owner and name == "format":
            return _fill_fields(_BRACE_FIELD, self.value(owner), parts)
        if owner and name == "join" and len(parts) == 1:
            glue, listed = self.value(owner), self.listed(node.args[0])
            if listed is not None and (glue or isinstance(owner, ast.Constant)):
                return glue.join(listed)
        if owner and name in ("joinpath", "glob", "rglob"):
            base, middle = self.value(owner), ["**"] if name == "rglob" else []
            return "/".join([base.rstrip("/"), *middle, *(part or "*" for part in parts)]) if base else ""
        if name in _PATH_CALLS and len(parts) == 1:
            return parts[0]
        if name in ("join", "Path") and parts and parts[0]:
            return "/".join([parts[0].rstrip("/"), *(part or "*" for part in parts[1:])])
        return ""

    def possible(self, node: ast.AST | None) -> tuple[str, ...]:
        """Return every possible string of an expression: one for each value of its names."""
        names = [part.id for part in ast.walk(node) if isinstance(part, ast.Name)] if node else []
        names = [name for name in dict.fromkeys(names) if name in self.several and name not in self]
        strings = []
        for values in islice(product(*(self.several[name] for name in names)), _MAX_COMBINATIONS):
            assumed = KnownStrings({**self, **dict(zip(names, values, strict=True))}, self.several)
            strings.append(assumed.value(node))
        return tuple(dict.fromkeys(strings))

    def listed(self, node: ast.expr | None) -> tuple[str, ...] | None:
        """Return the strings of a list, "*" for unknown ones; None for other expressions."""
        match node:
            case ast.List(elts=elements) | ast.Tuple(elts=elements) | ast.Set(elts=elements):
                strings: list[str] = []
                for element in elements:
                    if isinstance(element, ast.Starred):
                        strings += self.listed(element.value) or ("*",)
                    else:
                        strings += [text for text in self.possible(element) if text] or ("*",)
                return tuple(strings)
            case ast.Name(id=name):
                return self.several.get(name)
            case ast.BinOp(left=before, op=ast.Add(), right=after):
                left, right = self.listed(before), self.listed(after)
                is_list = isinstance(before, ast.List) or isinstance(after, ast.List) or (left and right)
                return (*(left or ("*",)), *(right or ("*",))) if is_list else None
            case ast.Call(func=ast.Attribute(value=ast.Name(id="shlex"), attr="split"), args=[line, *_]):
                return tuple(self.value(line).split())
            case ast.Call(func=ast.Attribute(value=text, attr="split"), args=arguments) if self.value(text):
                return tuple(self.value(text).split(self.value(arguments[0]) if arguments else None))
            case ast.Call(func=ast.Name(id=name), args=[inner, *_]) if name in _COPYING_CALLS:
                return self.listed(inner)
        return None

    def fill(self, text: str) -> str:
        """Replace `{name}` and `$name` of a shell line by known strings."""

        def fill_field(match: "re.Match[str]") -> str:
            if match[0] in ("{{", "}}"):
                return match[0][0]
            name = (match["braced"] or match["dollar"] or "").strip()
            if name == "sys.executable":
                return "python"
            if name in self or name.isidentifier():
                return self.get(name) or " ".join(self.several.get(name, ())) or match[0]
            try:
                value = self.value(ast.parse(name, mode="eval").body)
            except (SyntaxError, ValueError):
                return match[0]
            return match[0] if not value or "*" in value else value

        return _SHELL_FIELD.sub(fill_field, text)


def _fill_fields(field_pattern: "re.Pattern[str]", pattern: str, parts: Iterable[str]) -> str:
    """Fill the nameless fields of a pattern in order, unknown ones with "*"."""
    values = iter(parts)
    return field_pattern.sub(lambda match: ("" if match["name"] else next(values, "")) or "*", pattern)


def has_unknowns(text: str) -> bool:
    """Whether a line still has parts that are only known at run time."""
    return bool(re.search(r"\{[^{}]*\}|\$[\w{(]|^[^=<>!~\[;@]*\*", text))


@dataclass(frozen=True, kw_only=True)
class CodeModule:
    """The Python of a cell, or of a file that a cell writes."""

    cell: int
    read: ParsedCell
    tree: ast.Module
    before: int | None = 0  # lines of the cell before it; None if the cell does not contain it literally
    is_written: bool = False

    def line_in_cell(self, line: int) -> int:
        """Return the line of the cell for a line of the module."""
        return 1 if self.before is None else self.before + line


class NotebookCode:
    """The Python of a whole notebook, as far as it can be parsed."""

    def __init__(self, sources: Iterable[tuple[int, str]]) -> None:
        """Parse the code cells (number, text) of a notebook."""
        self.reads = {number: cells.parse_cell(source) for number, source in sources}
        trees = {number: read.parse_tree() for number, read in self.reads.items()}
        self.trees = {number: tree for number, tree in trees.items() if tree is not None}
        nodes = [node for tree in self.trees.values() for node in ast.walk(tree)]
        self.aliases: dict[str, str] = {}  # full names of imported ones
        for tree in self.trees.values():
            self.aliases |= references.map_imported_names(tree)
        self.strings = _find_known_strings(nodes)

    def list_modules(self) -> Iterator[CodeModule]:
        """Yield the cells that can be parsed, each with the modules that it writes."""
        for number, read in self.reads.items():
            if tree := self.trees.get(number):
                yield CodeModule(cell=number, read=read, tree=tree)
            for script in cells.find_scripts(read):
                written = cells.parse_cell(script.text)
                if tree := written.parse_tree():
                    before = read.line_number(script.start) - 1 if script.start >= 0 else None
                    yield CodeModule(cell=number, read=written, tree=tree, before=before, is_written=True)

    def imports_package(self, name: str) -> bool:
        """Whether the notebook imports a package or something from it."""
        return any(full.partition(".")[0] == name for full in self.aliases.values())

    def is_set_true(self, name: str) -> bool:
        """Whether a variable, attribute, dictionary key or argument of this name is set to True anywhere."""
        setting = re.compile(rf"\b{re.escape(name)}\b['\"\]]*\s*(:\s*bool\s*)?[=:]\s*True\b")
        return any(setting.search(read.python) for read in self.reads.values())

    def walk(self, cell: int) -> Iterator[ast.AST]:
        """Yield the nodes of a cell's syntax tree; none if it cannot be parsed."""
        yield from ast.walk(self.trees[cell]) if cell in self.trees else ()

    def full_name(self, node: ast.expr) -> str:
        """Return the name of a called function, with its module if that is imported."""
        name = ast.unparse(node) if isinstance(node, ast.Attribute | ast.Name) else ""
        return self.aliases.get(name, name)


def _find_known_strings(nodes: Sequence[ast.AST]) -> KnownStrings:
    """Return the variables and class attributes that are assigned one string only, and those with several."""
    known, times = KnownStrings(), Counter[str]()
    for node in nodes:
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            times[node.id] += 1
        match node:
            case (
                ast.Assign(targets=[ast.Name(id=name)], value=value)
                | ast.AnnAssign(target=ast.Name(id=name), value=value)
            ) if text := known.value(value):
                known[name] = text
    once = {name: value for name, value in known.items() if times[name] == 1}
    names = KnownStrings(once)
    for _ in range(3):  # a list, a loop over it, a call with the loop's variable
        names = KnownStrings(once, _find_alternatives(nodes, names))
    return names


def _find_alternatives(nodes: Sequence[ast.AST], known: KnownStrings) -> dict[str, tuple[str, ...]]:
    values_by_name: dict[str, dict[str, None]] = {}
    functions = {node.name: node for node in nodes if isinstance(node, ast.FunctionDef)}

    def add_values(name: str, values: Iterable[str]) -> None:
        values_by_name.setdefault(name, {}).update(dict.fromkeys(filter(None, values)))

    for node in nodes:
        match node:
            case ast.Assign(targets=[ast.Name(id=name), *_], value=value):
                add_values(name, (name not in known and known.listed(value)) or known.possible(value))
            case (
                ast.For(target=ast.Name(id=name), iter=items)
                | ast.comprehension(target=ast.Name(id=name), iter=items)
            ):
                add_values(name, known.listed(items) or ())
            case ast.Call(func=ast.Name(id=name)) if name in functions:
                for parameter, argument in _passed_arguments(node, functions[name]):
                    add_values(parameter, known.listed(argument) or known.possible(argument))
    return {name: tuple(values) for name, values in values_by_name.items() if values and name not in known}


def _passed_arguments(call: ast.Call, function: ast.FunctionDef) -> Iterator[tuple[str, ast.expr]]:
    arguments = [argument.arg for argument in function.args.args]
    yield from zip(arguments, call.args, strict=False)
    if function.args.vararg:
        yield from ((function.args.vararg.arg, argument) for argument in call.args[len(arguments) :])
    yield from ((argument.arg, argument.value) for argument in call.keywords if argument.arg in arguments)


def call_name(call: ast.Call) -> str:
    """Return the last name of a called function: "load" for `torch.load(...)`."""
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def find_argument(call: ast.Call, name: str, place: int) -> ast.expr | None:
    """Return an argument of a call by its name or position."""
    for keyword in call.keywords:
        if keyword.arg == name:
            return keyword.value
    plain = [positional for positional in call.args if not isinstance(positional, ast.Starred)]
    return plain[place] if place < len(plain) else None


def node_span(read: ParsedCell, node: Any) -> tuple[int, int]:
    """Return the span of a node in the cell's text."""
    return read.text_offset(node.lineno, node.col_offset), read.text_offset(
        node.end_lineno, node.end_col_offset
    )
