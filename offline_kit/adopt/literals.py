"""Strings of a notebook's Python that are known without running it; unknown parts become "*"."""

import ast
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice, product

_MAX_COMBINATIONS = 64
"""Largest number of combinations of values."""


class KnownStrings(dict[str, str]):
    """Strings by name, and names with several: lists, loop variables, parameters of functions."""

    def __init__(self, said: Mapping[str, str], several: Mapping[str, tuple[str, ...]] | None = None) -> None:
        super().__init__(said)
        self.several = dict(several or {})


def possible_strings(node: ast.expr | None, known: Mapping[str, str]) -> tuple[str, ...]:
    """Return every possible string of an expression: one for each value of its names."""
    several: Mapping[str, tuple[str, ...]] = getattr(known, "several", {})
    names = [part.id for part in ast.walk(node) if isinstance(part, ast.Name)] if node else []
    names = [name for name in dict.fromkeys(names) if name in several and name not in known]
    strings = []
    for values in islice(product(*(several[name] for name in names)), _MAX_COMBINATIONS):
        strings.append(
            string_value(node, KnownStrings({**known, **dict(zip(names, values, strict=True))}, several))
        )
    return tuple(dict.fromkeys(strings))


def list_strings(node: ast.expr | None, known: Mapping[str, str]) -> tuple[str, ...] | None:
    """Return the strings of a list, "*" for unknown ones; None for other expressions."""
    if isinstance(node, ast.List | ast.Tuple | ast.Set):
        strings: list[str] = []
        for element in node.elts:
            if isinstance(element, ast.Starred):
                strings += list_strings(element.value, known) or ("*",)
            else:
                strings += (
                    filter(None, possible_strings(element, known))
                    if any(possible_strings(element, known))
                    else ("*",)
                )
        return tuple(strings)
    if isinstance(node, ast.Name):
        return getattr(known, "several", {}).get(node.id)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = list_strings(node.left, known), list_strings(node.right, known)
        listed = isinstance(node.left, ast.List) or isinstance(node.right, ast.List) or (left and right)
        return (*(left or ("*",)), *(right or ("*",))) if listed else None
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        if (
            node.func.attr == "split"
            and isinstance(node.func.value, ast.Name)
            and node.func.value.id == "shlex"
        ):
            return tuple(string_value(node.args[0], known).split()) if node.args else None
        if node.func.attr == "split" and (joined := string_value(node.func.value, known)):
            return tuple(joined.split(string_value(node.args[0], known) if node.args else None))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.args:
        return (
            list_strings(node.args[0], known)
            if node.func.id in ("list", "tuple", "set", "sorted", "tqdm")
            else None
        )
    return None


_PATHS = frozenset({"Path", "PurePath", "PosixPath", "str", "abspath", "expanduser", "normpath", "fspath"})
_PRINTF_FIELD = re.compile(r"%(?P<name>\(\w+\))?[-+#0 ]*\d*(?:\.\d+)?[sdifgrx]")
_BRACE_FIELD = re.compile(r"\{(?P<name>[^{}]*)\}")


def string_value(node: ast.expr | None, known: Mapping[str, str]) -> str:
    """Return the string value of an expression, with "*" for unknown parts; "" if it is no string."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    if isinstance(node, ast.Name):
        return known.get(node.id, "")
    if isinstance(node, ast.Attribute):
        dotted = ast.unparse(node)
        return known.get(dotted, known.get(node.attr, "") if isinstance(node.value, ast.Name) else "")
    if isinstance(node, ast.JoinedStr):
        return "".join(_part_value(part, known) for part in node.values)
    if isinstance(node, ast.BinOp):
        return _binary_value(node, known)
    return _call_value(node, known) if isinstance(node, ast.Call) else ""


def _part_value(node: ast.expr, known: Mapping[str, str]) -> str:
    if isinstance(node, ast.FormattedValue):
        plain = node.conversion < 0 and node.format_spec is None
        return (string_value(node.value, known) if plain else "") or "*"
    return string_value(node, known)


def _binary_value(node: ast.BinOp, known: Mapping[str, str]) -> str:
    left, right = string_value(node.left, known), string_value(node.right, known)
    if isinstance(node.op, ast.Mod) and left:
        parts = node.right.elts if isinstance(node.right, ast.Tuple) else [node.right]
        return _fill_placeholders(_PRINTF_FIELD, left, [string_value(part, known) for part in parts])
    if isinstance(node.op, ast.Add) and (left or right):
        return (left or "*") + (right or "*")
    if isinstance(node.op, ast.Div) and left:
        return f"{left.rstrip('/')}/{right or '*'}"
    return ""


def _call_value(node: ast.Call, known: Mapping[str, str]) -> str:
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    parts = [string_value(argument, known) for argument in node.args]
    if name == "format" and isinstance(node.func, ast.Attribute):
        return _fill_placeholders(_BRACE_FIELD, string_value(node.func.value, known), parts)
    if name == "join" and isinstance(node.func, ast.Attribute) and len(node.args) == 1:
        glue, listed = string_value(node.func.value, known), list_strings(node.args[0], known)
        if listed is not None and (glue or isinstance(node.func.value, ast.Constant)):
            return glue.join(listed)
    if name in ("joinpath", "glob", "rglob") and isinstance(node.func, ast.Attribute):
        if not (base := string_value(node.func.value, known)):
            return ""
        inner = ["**"] if name == "rglob" else []
        return "/".join([base.rstrip("/"), *inner, *(part or "*" for part in parts)])
    if name == "join" and parts and parts[0]:
        return "/".join([parts[0].rstrip("/"), *(part or "*" for part in parts[1:])])
    if name in _PATHS and len(parts) == 1:
        return parts[0]
    return "/".join(part or "*" for part in parts) if name == "Path" and parts and parts[0] else ""


def _fill_placeholders(hole: "re.Pattern[str]", pattern: str, parts: Sequence[str]) -> str:
    """Fill the nameless placeholders of a pattern in order, unknown ones with "*"."""
    values = list(parts)
    return hole.sub(lambda match: (values.pop(0) if values and not match["name"] else "") or "*", pattern)


def known_strings(trees: Iterable[ast.Module]) -> KnownStrings:
    """Return the variables and class attributes that are assigned one string only, and those with several."""
    trees = list(trees)
    once = _assigned_once(trees)
    names = KnownStrings(once)
    for _ in range(3):  # a list, a loop over it, a call with the loop's variable
        names = KnownStrings(once, _find_alternatives(trees, names))
    return names


def _find_alternatives(trees: Iterable[ast.Module], known: KnownStrings) -> dict[str, tuple[str, ...]]:
    values_by_name: dict[str, dict[str, None]] = {}
    functions = {
        node.name: node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)
    }
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                name = node.targets[0].id
                values = list_strings(node.value, known) if name not in known else None
                values_by_name.setdefault(name, {}).update(
                    dict.fromkeys(values or filter(None, possible_strings(node.value, known)))
                )
            elif isinstance(node, ast.For | ast.comprehension) and isinstance(node.target, ast.Name):
                values_by_name.setdefault(node.target.id, {}).update(
                    dict.fromkeys(list_strings(node.iter, known) or ())
                )
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in functions:
                for name, value in _passed_arguments(node, functions[node.func.id]):
                    values = list_strings(value, known) or possible_strings(value, known)
                    values_by_name.setdefault(name, {}).update(dict.fromkeys(filter(None, values)))
    return {name: tuple(values) for name, values in values_by_name.items() if values and name not in known}


def _passed_arguments(call: ast.Call, function: ast.FunctionDef) -> Iterator[tuple[str, ast.expr]]:
    """Yield the parameters of a function with a call's arguments."""
    arguments = [argument.arg for argument in function.args.args]
    yield from zip(arguments, call.args, strict=False)
    if function.args.vararg:
        yield from ((function.args.vararg.arg, argument) for argument in call.args[len(arguments) :])
    yield from ((argument.arg, argument.value) for argument in call.keywords if argument.arg in arguments)


def _assigned_once(trees: Iterable[ast.Module]) -> dict[str, str]:
    values: dict[str, str] = {}
    times: Counter[str] = Counter()
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                times[node.id] += 1
            if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                if (
                    len(targets) == 1
                    and isinstance(targets[0], ast.Name)
                    and (value := string_value(node.value, values))
                ):
                    values[targets[0].id] = value
    return {name: value for name, value in values.items() if times[name] == 1}


def find_true_names(trees: Mapping[int, ast.Module]) -> dict[str, tuple[int, ast.expr]]:
    """Return the variables, attributes and dictionary keys that are only ever True, with cell and value node."""
    places: dict[str, tuple[int, ast.expr]] = {}
    times: Counter[str] = Counter()
    for number, tree in trees.items():
        for node in ast.walk(tree):
            for name, value in _assignments_of(node):
                times[name] += 1
                if isinstance(value, ast.Constant) and value.value is True:
                    places[name] = number, value
    return {name: position for name, position in places.items() if times[name] == 1}


def _assignments_of(node: ast.AST) -> Iterator[tuple[str, ast.expr | None]]:
    """Yield the names that a node assigns, each with the value, or None if it is not one expression."""
    if isinstance(node, ast.Assign):
        yield from ((bound.id, node.value) for bound in node.targets if isinstance(bound, ast.Name))
        inner = [
            bound for target in node.targets if not isinstance(target, ast.Name) for bound in ast.walk(target)
        ]
        yield from (
            (bound.id, None)
            for bound in inner
            if isinstance(bound, ast.Name) and isinstance(bound.ctx, ast.Store)
        )
        yield from (
            (str(bound.slice.value), node.value)
            for bound in node.targets
            if isinstance(bound, ast.Subscript) and isinstance(bound.slice, ast.Constant)
        )
        yield from ((bound.attr, None) for bound in node.targets if isinstance(bound, ast.Attribute))
    elif isinstance(node, ast.AnnAssign | ast.AugAssign | ast.NamedExpr):
        if isinstance(node.target, ast.Name):
            yield node.target.id, node.value if isinstance(node, ast.AnnAssign) else None
    elif isinstance(node, ast.For | ast.comprehension):
        yield from ((bound.id, None) for bound in ast.walk(node.target) if isinstance(bound, ast.Name))
    elif isinstance(node, ast.Dict):
        pairs = zip(node.keys, node.values, strict=True)
        yield from ((str(key.value), value) for key, value in pairs if isinstance(key, ast.Constant))
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict":
        yield from ((bound.arg, bound.value) for bound in node.keywords if bound.arg)


PLACEHOLDER = re.compile(r"\{\{|\}\}|\{(?P<braced>[^{}]*)\}|\$\{?(?P<dollar>[^\W\d]\w*)\}?")


def fill_names(text: str, known: Mapping[str, str]) -> str:
    """Replace `{name}` and `$name` of a shell line by known strings of the notebook."""

    def fill_name(match: "re.Match[str]") -> str:
        if match[0] in ("{{", "}}"):
            return match[0][0]
        name = (match["braced"] or match["dollar"] or "").strip()
        if name == "sys.executable":
            return "python"
        if name in known or name.isidentifier():
            return known.get(name) or " ".join(getattr(known, "several", {}).get(name, ())) or match[0]
        return _evaluate_expression(name, known) or match[0]

    return PLACEHOLDER.sub(fill_name, text)


def _evaluate_expression(expression: str, known: Mapping[str, str]) -> str:
    """Return the string value of an expression in braces; "" if it is unknown."""
    try:
        node = ast.parse(expression, mode="eval").body
    except (SyntaxError, ValueError):
        return ""
    value = string_value(node, known)
    return "" if "*" in value else value


def has_unknowns(text: str) -> bool:
    """Whether a line still has parts that are only known at run time."""
    return bool(re.search(r"\{[^{}]*\}|\$[\w{(]|^[^=<>!~\[;@]*\*", text))
