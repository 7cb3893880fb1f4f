"""The page of error codes, read from the source: every expected failure has a code, a cause and a remedy."""

import ast
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from offline_kit.notebook.runtime.kit_runtime import HINTS
from offline_kit.rehearsal import causes

PACKAGE = Path(__file__).parents[1] / "offline_kit"
ENDS = {"ProjectError": 1, "UsageError": 2, "OutsideError": 4, "KitError": 1}
"""The exit code of each kind of error; a KitError is raised in the notebook."""
HEAD = """\
# Error codes

Every expected failure has a code. It stands behind `error` in the text, under `code` in `--json`, and does not change when
the wording does. `...` stands for the name of the thing.
"""


PASSED_ON = {
    "image-not-found": "there is no image of this name",
    "metadata-build-failed": "a source distribution fails to state what it requires",
    "reference-invalid": "a reference of the configuration is not understood, or its file or name does not exist",
    "slug-invalid": "Kaggle would refuse a name",
    "submission-failed": "Kaggle ended the submission with an error",
    "submission-limits-unknown": "Kaggle does not say how many submissions are left",
    "upload-expired": "Kaggle forgot the uploaded files",
}
"""Causes of codes whose messages are words of another place."""


class ErrorSite(NamedTuple):
    """Where an error is made."""

    code: str
    exit_code: int
    message: str
    hint: str
    place: str


def text_of(node: ast.expr | None, names: Mapping[str, ast.expr] = MappingProxyType({})) -> str:
    """Return a string of the source as it reads, with `...` for what is filled in; `names` are values and what functions return."""
    match node:
        case ast.Name(id=name) | ast.Call(func=ast.Name(id=name)) if name in names:
            return text_of(names[name])
        case ast.Constant(value=str(value)):
            return value
        case ast.JoinedStr(values=values):
            return "".join(text_of(value) if isinstance(value, ast.Constant) else "..." for value in values)
        case ast.BinOp(left=left, right=right):
            return text_of(left) + text_of(right)
        case ast.IfExp(body=body, orelse=orelse):
            first = text_of(body, names)
            return first if first != "..." else text_of(orelse, names)
    return "..."


def error_kinds(trees: dict[str, ast.Module]) -> dict[str, tuple[int, str]]:
    """Return exit code and default code of every class of errors, by its name."""
    kinds = {name: (code, "") for name, code in ENDS.items()}
    classes = [node for tree in trees.values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    for _ in range(3):  # as deep as errors are derived from each other
        for node in classes:
            bases = [base.id for base in node.bases if isinstance(base, ast.Name) and base.id in kinds]
            if bases and node.name not in kinds:
                default = [
                    text_of(item.value) for item in node.body
                    if isinstance(item, ast.Assign) and ast.unparse(item.targets[0]) == "default_code"
                ]  # fmt: skip
                kinds[node.name] = (kinds[bases[0]][0], default[0] if default else kinds[bases[0]][1])
    return kinds


def failure_sites(place: str, tree: ast.Module) -> Iterator[ErrorSite]:
    """Yield the known failures of notebooks and submissions, which are rows of tables: code, pattern, cause, remedy."""
    if place == "rehearsal/causes.py":
        for table in ("known_failures", "submission_failures"):
            for failure in causes.read_known_failures(table):
                yield failure_site(failure.code, failure.cause, failure.remedy, place)
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
            continue
        given = dict(zip(("code", "pattern", "cause", "remedy"), node.args, strict=False))
        given |= {keyword.arg or "": keyword.value for keyword in node.keywords}
        code = text_of(given.get("code"))
        if node.func.id in ("KnownFailure", "Explanation") and code != "...":
            yield failure_site(code, text_of(given.get("cause")), text_of(given.get("remedy")), place)


def failure_site(code: str, cause: str, remedy: str, place: str) -> ErrorSite:
    """Return a known failure; its texts may use groups of a pattern."""
    return ErrorSite(code, 1, re.sub(r"\{\d\}", "...", cause), re.sub(r"\{\d\}", "...", remedy), place)


def find_names(tree: ast.AST) -> dict[str, ast.expr]:
    """Return what is assigned to names, and what functions return, if it is text."""
    names: dict[str, ast.expr] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            if text_of(node.value).strip("."):
                names[node.targets[0].id] = node.value
        elif isinstance(node, ast.FunctionDef):
            texts = [item.value for item in ast.walk(node) if isinstance(item, ast.Return) and item.value]
            for text in texts:
                if text_of(text).strip("."):
                    names[node.name] = text
    return names


def calls_with_names(
    tree: ast.Module, names: dict[str, ast.expr]
) -> Iterator[tuple[ast.Call, dict[str, ast.expr]]]:
    """Yield all calls, each with the names that it can use: those of its function, then of the module and `names`."""
    module_names = names | find_names(tree)
    for node in tree.body:
        parts = node.body if isinstance(node, ast.ClassDef) else [node]
        for part in parts:
            local_names = module_names | find_names(part)
            yield from ((call, local_names) for call in ast.walk(part) if isinstance(call, ast.Call))


def error_sites() -> Iterator[ErrorSite]:
    """Yield every place that makes an expected error."""
    paths = sorted(PACKAGE.rglob("*.py"))
    trees = {path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_text("utf-8")) for path in paths}
    kinds = error_kinds(trees)
    names = {
        name: value for tree in trees.values() for name, value in find_names(tree).items() if name.isupper()
    }
    for place, tree in trees.items():
        yield from failure_sites(place, tree)
        for node, known in calls_with_names(tree, names):
            func = node.func.body if isinstance(node.func, ast.IfExp) else node.func  # one of two kinds
            name = func.id if isinstance(func, ast.Name) else ""
            if name not in kinds:
                continue
            given = {keyword.arg: keyword.value for keyword in node.keywords}
            exit_code, default = kinds[name]
            written = given.get("code")
            # One error of two kinds of things: `code="a" if ... else "b"`.
            branches = [written.body, written.orelse] if isinstance(written, ast.IfExp) else [written]
            codes = [text_of(branch) if branch else default for branch in branches]
            hint = text_of(given["hint"], known) if "hint" in given else HINTS.get(codes[0], "...")
            if hint == "..." and "hint" not in given and not default:
                continue  # a class that words its errors itself
            message = text_of(node.args[0] if node.args else given.get("what"), known)
            for code in codes:
                yield ErrorSite(code, exit_code, message, hint, f"{place}:{node.lineno}")


def cell(text: str) -> str:
    """Return a text as it stands in a cell of a table."""
    return re.sub(r"\s+", " ", text).replace("|", "\\|").replace("<", "&lt;").strip()


def errors_page() -> str:
    """Return the page: a section for each code with its causes and remedies."""
    sites: dict[str, list[ErrorSite]] = {}
    for site in error_sites():
        if not site.code:
            sys.exit(f"{site.place}: an error without a code")
        if site.code != "...":  # else it passes on what another error says
            sites.setdefault(site.code, []).append(site)
    rows = []
    for code in sorted(sites):
        worded = [site for site in sites[code] if site.message.strip(".")]
        worded = worded or [site._replace(message=PASSED_ON.get(code, "...")) for site in sites[code]]
        for number, (message, hint) in enumerate(dict.fromkeys((s.message, s.hint) for s in worded)):
            ends = "/".join(sorted({str(site.exit_code) for site in sites[code]}))
            head = f"`{code}`" if not number else ""
            rows.append(f"| {head} | {ends if head else ''} | {cell(message)} | {cell(hint)} |\n")
    return f"{HEAD}\n| Code | Exit code | What is wrong | What to do |\n|---|---|---|---|\n{''.join(rows)}"
