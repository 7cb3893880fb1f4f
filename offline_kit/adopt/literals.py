"""Strings of a notebook's Python whose value is known without running it; unknown parts become "*"."""

import ast
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice, product

_MOST = 64
"""Combinations of values that are looked at."""


class Names(dict[str, str]):
    """Names with one string each, and those with several: lists, variables of loops, parameters of functions."""

    def __init__(self, said: Mapping[str, str], several: Mapping[str, tuple[str, ...]] | None = None) -> None:
        super().__init__(said)
        self.several = dict(several or {})


def texts(node: ast.expr | None, known: Mapping[str, str]) -> tuple[str, ...]:
    """Return every string that an expression may be, as `text` does: once for each value of its names."""
    several: Mapping[str, tuple[str, ...]] = getattr(known, "several", {})
    names = [each.id for each in ast.walk(node) if isinstance(each, ast.Name)] if node else []
    names = [name for name in dict.fromkeys(names) if name in several and name not in known]
    found = []
    for values in islice(product(*(several[name] for name in names)), _MOST):
        found.append(text(node, Names({**known, **dict(zip(names, values, strict=True))}, several)))
    return tuple(dict.fromkeys(found))


def words(node: ast.expr | None, known: Mapping[str, str]) -> tuple[str, ...] | None:
    """Return the strings of a list, "*" for what is not known; None for what is no list."""
    if isinstance(node, ast.List | ast.Tuple | ast.Set):
        found: list[str] = []
        for each in node.elts:
            if isinstance(each, ast.Starred):
                found += words(each.value, known) or ("*",)
            else:
                found += filter(None, texts(each, known)) if any(texts(each, known)) else ("*",)
        return tuple(found)
    if isinstance(node, ast.Name):
        return getattr(known, "several", {}).get(node.id)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = words(node.left, known), words(node.right, known)
        listed = isinstance(node.left, ast.List) or isinstance(node.right, ast.List) or (left and right)
        return (*(left or ("*",)), *(right or ("*",))) if listed else None
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        if (
            node.func.attr == "split"
            and isinstance(node.func.value, ast.Name)
            and node.func.value.id == "shlex"
        ):
            return tuple(text(node.args[0], known).split()) if node.args else None
        if node.func.attr == "split" and (said := text(node.func.value, known)):
            return tuple(said.split(text(node.args[0], known) if node.args else None))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.args:
        return (
            words(node.args[0], known) if node.func.id in ("list", "tuple", "set", "sorted", "tqdm") else None
        )
    return None


_PATHS = frozenset({"Path", "PurePath", "PosixPath", "str", "abspath", "expanduser", "normpath", "fspath"})
_PRINTF = re.compile(r"%(?P<name>\(\w+\))?[-+#0 ]*\d*(?:\.\d+)?[sdifgrx]")
_BRACES = re.compile(r"\{(?P<name>[^{}]*)\}")


def text(node: ast.expr | None, known: Mapping[str, str]) -> str:
    """Return the string that an expression is, with "*" for what is not known; "" for no string at all."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    if isinstance(node, ast.Name):
        return known.get(node.id, "")
    if isinstance(node, ast.Attribute):
        dotted = ast.unparse(node)
        return known.get(dotted, known.get(node.attr, "") if isinstance(node.value, ast.Name) else "")
    if isinstance(node, ast.JoinedStr):
        return "".join(_part(each, known) for each in node.values)
    if isinstance(node, ast.BinOp):
        return _joined(node, known)
    return _called(node, known) if isinstance(node, ast.Call) else ""


def _part(node: ast.expr, known: Mapping[str, str]) -> str:
    if isinstance(node, ast.FormattedValue):
        plain = node.conversion < 0 and node.format_spec is None
        return (text(node.value, known) if plain else "") or "*"
    return text(node, known)


def _joined(node: ast.BinOp, known: Mapping[str, str]) -> str:
    left, right = text(node.left, known), text(node.right, known)
    if isinstance(node.op, ast.Mod) and left:
        parts = node.right.elts if isinstance(node.right, ast.Tuple) else [node.right]
        return _filled(_PRINTF, left, [text(each, known) for each in parts])
    if isinstance(node.op, ast.Add) and (left or right):
        return (left or "*") + (right or "*")
    if isinstance(node.op, ast.Div) and left:
        return f"{left.rstrip('/')}/{right or '*'}"
    return ""


def _called(node: ast.Call, known: Mapping[str, str]) -> str:
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    parts = [text(each, known) for each in node.args]
    if name == "format" and isinstance(node.func, ast.Attribute):
        return _filled(_BRACES, text(node.func.value, known), parts)
    if name == "join" and isinstance(node.func, ast.Attribute) and len(node.args) == 1:
        glue, listed = text(node.func.value, known), words(node.args[0], known)
        if listed is not None and (glue or isinstance(node.func.value, ast.Constant)):
            return glue.join(listed)
    if name in ("joinpath", "glob", "rglob") and isinstance(node.func, ast.Attribute):
        if not (base := text(node.func.value, known)):
            return ""
        inner = ["**"] if name == "rglob" else []
        return "/".join([base.rstrip("/"), *inner, *(part or "*" for part in parts)])
    if name == "join" and parts and parts[0]:
        return "/".join([parts[0].rstrip("/"), *(part or "*" for part in parts[1:])])
    if name in _PATHS and len(parts) == 1:
        return parts[0]
    return "/".join(part or "*" for part in parts) if name == "Path" and parts and parts[0] else ""


def _filled(hole: "re.Pattern[str]", pattern: str, parts: Sequence[str]) -> str:
    """Return a pattern with its nameless holes filled in, in their order; what is not known is "*"."""
    rest = list(parts)
    return hole.sub(lambda found: (rest.pop(0) if rest and not found["name"] else "") or "*", pattern)


def constants(trees: Iterable[ast.Module]) -> Names:
    """Return the names, of variables and of class attributes, that are assigned one string and nothing else.

    With them those that have several: lists, variables of loops, parameters of functions, other assignments.
    """
    trees = list(trees)
    once = _assigned(trees)
    names = Names(once)
    for _ in range(3):  # a list, a loop over it, a call with the loop's variable
        names = Names(once, _several(trees, names))
    return names


def _several(trees: Iterable[ast.Module], known: Names) -> dict[str, tuple[str, ...]]:
    found: dict[str, dict[str, None]] = {}
    functions = {
        node.name: node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)
    }
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                name = node.targets[0].id
                values = words(node.value, known) if name not in known else None
                found.setdefault(name, {}).update(
                    dict.fromkeys(values or filter(None, texts(node.value, known)))
                )
            elif isinstance(node, ast.For | ast.comprehension) and isinstance(node.target, ast.Name):
                found.setdefault(node.target.id, {}).update(dict.fromkeys(words(node.iter, known) or ()))
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in functions:
                for name, value in _passed(node, functions[node.func.id]):
                    values = words(value, known) or texts(value, known)
                    found.setdefault(name, {}).update(dict.fromkeys(filter(None, values)))
    return {name: tuple(values) for name, values in found.items() if values and name not in known}


def _passed(call: ast.Call, function: ast.FunctionDef) -> Iterator[tuple[str, ast.expr]]:
    """Yield the parameters of a function with what a call gives them."""
    arguments = [each.arg for each in function.args.args]
    yield from zip(arguments, call.args, strict=False)
    if function.args.vararg:
        yield from ((function.args.vararg.arg, each) for each in call.args[len(arguments) :])
    yield from ((each.arg, each.value) for each in call.keywords if each.arg in arguments)


def _assigned(trees: Iterable[ast.Module]) -> dict[str, str]:
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
                    and (said := text(node.value, values))
                ):
                    values[targets[0].id] = said
    return {name: said for name, said in values.items() if times[name] == 1}


def flags(trees: Mapping[int, ast.Module]) -> dict[str, tuple[int, ast.expr]]:
    """Return the names that are assigned True and nothing else, each with its cell and the place of the value.

    Names of variables and class attributes, and what dictionaries of settings call theirs.
    """
    found: dict[str, tuple[int, ast.expr]] = {}
    times: Counter[str] = Counter()
    for number, tree in trees.items():
        for node in ast.walk(tree):
            for name, value in _settings(node):
                times[name] += 1
                if isinstance(value, ast.Constant) and value.value is True:
                    found[name] = number, value
    return {name: place for name, place in found.items() if times[name] == 1}


def _settings(node: ast.AST) -> Iterator[tuple[str, ast.expr | None]]:
    """Yield what a node sets: names with what they are assigned, where that is one thing."""
    if isinstance(node, ast.Assign):
        yield from ((each.id, node.value) for each in node.targets if isinstance(each, ast.Name))
        inner = [
            each for target in node.targets if not isinstance(target, ast.Name) for each in ast.walk(target)
        ]
        yield from (
            (each.id, None)
            for each in inner
            if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store)
        )
        yield from (
            (str(each.slice.value), node.value)
            for each in node.targets
            if isinstance(each, ast.Subscript) and isinstance(each.slice, ast.Constant)
        )
        yield from ((each.attr, None) for each in node.targets if isinstance(each, ast.Attribute))
    elif isinstance(node, ast.AnnAssign | ast.AugAssign | ast.NamedExpr):
        if isinstance(node.target, ast.Name):
            yield node.target.id, node.value if isinstance(node, ast.AnnAssign) else None
    elif isinstance(node, ast.For | ast.comprehension):
        yield from ((each.id, None) for each in ast.walk(node.target) if isinstance(each, ast.Name))
    elif isinstance(node, ast.Dict):
        pairs = zip(node.keys, node.values, strict=True)
        yield from ((str(key.value), value) for key, value in pairs if isinstance(key, ast.Constant))
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict":
        yield from ((each.arg, each.value) for each in node.keywords if each.arg)
