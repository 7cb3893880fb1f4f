"""Model and data classes and `predict` functions of a project, read from its syntax: nothing is imported."""

import ast
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from offline_kit.init.file_tree import DATA, Tree, top_of
from offline_kit.project.references import parse

MOST_FILES = 1500
"""Python files that are read."""
LARGEST = 1_000_000
"""Bytes of a Python file above which nobody wrote it."""
_NO_CODE = frozenset({"tests", "test", "docs", "doc", "examples", "bench", "benchmarks"})
_WORK = frozenset({"fit", "train", "main", "parse_args", "run", "predict", "backward"})
"""Calls at the top of a module that nobody wants in a notebook's import."""
_GENERAL = frozenset(
    {"model", "models", "data", "src", "kaggle", "version", "checkpoint", "checkpoints", "ckpt", "best"}
)
"""Words of paths that tell nothing about the competition."""
_LOADERS = ("predict_dataloader", "test_dataloader")


@dataclass(frozen=True, kw_only=True)
class ClassFound:
    """A class at the top of a module."""

    file: str
    """Posix path of its file, relative to the project."""
    name: str
    """Its name."""
    bases: tuple[str, ...]
    """Last names of its bases: "LightningModule" for pl.LightningModule."""
    methods: frozenset[str]
    """Names that its body defines."""
    first: tuple[str, str, str] | None
    """Name, annotation and default of the first parameter of its own __init__; None if it defines none."""
    needs: tuple[str, ...] = ()
    """Parameters of its own __init__ that have no default."""
    runs: bool
    """Whether importing the file does something, such as training."""


@dataclass(frozen=True, kw_only=True)
class FunctionFound:
    """A function called `predict` at the top of a module."""

    file: str
    """Posix path of its file, relative to the project."""
    name: str
    """Its name."""
    takes: tuple[str, ...]
    """The arguments that it cannot do without."""
    callable_with_one: bool
    """Whether one positional argument is enough, and not too many."""
    runs: bool
    """Whether importing the file does something."""


@dataclass(frozen=True, kw_only=True)
class Code:
    """What of a project's code a notebook may use; the likeliest first."""

    models: tuple[ClassFound, ...] = ()
    """Subclasses of LightningModule, over any number of steps inside the project."""
    plain_models: tuple[ClassFound, ...] = ()
    """Other subclasses of torch's Module, the layers of a model among them."""
    data: tuple[ClassFound, ...] = ()
    """Classes that give a dataloader to predict on; subclasses of LightningDataModule among them."""
    functions: tuple[FunctionFound, ...] = ()
    """Functions called `predict`."""
    rivals: tuple[ClassFound, ...] = ()
    """Models of other folders that the hints do not tell from the first one."""
    submitting: frozenset[str] = frozenset()
    """Names of the data classes that have `submission`, of their own or inherited."""
    notes: tuple[str, ...] = ()
    """What was not read."""


def find(tree: Tree, hints: Sequence[str] = ()) -> Code:
    """Read the project's Python files and return what is in them.

    `hints` are names that tell what the kit is for, the strongest first: code in a folder or file that shares
    their words comes before other code.
    """
    names = [
        name
        for name in tree.files
        if name.endswith(".py") and top_of(name) not in DATA and not _NO_CODE & set(PurePosixPath(name).parts)
    ]
    notes = []
    if len(names) > MOST_FILES:
        notes.append(f"read {MOST_FILES} of {len(names)} Python files for models and data classes")
    classes: list[ClassFound] = []
    functions: list[FunctionFound] = []
    for name in names[:MOST_FILES]:
        for found in _of_file(tree, name):
            classes += [found] if isinstance(found, ClassFound) else []
            functions += [found] if isinstance(found, FunctionFound) else []
    return _sorted_out(classes, functions, notes, [words(hint) for hint in hints])


def words(text: str) -> frozenset[str]:
    """Return the words of a name or path that may tell one competition from another."""
    return frozenset(re.findall(r"[^\W\d_]{3,}", text.lower())) - _GENERAL


def _sorted_out(
    classes: list[ClassFound],
    functions: list[FunctionFound],
    notes: Iterable[str],
    hints: Sequence[frozenset[str]],
) -> Code:
    named: dict[str, list[ClassFound]] = {}
    for each in classes:
        named.setdefault(each.name, []).append(each)
    methods = {each.name: _inherited(each, named) for each in classes}
    modules = _descendants("LightningModule", classes)
    with_data = _descendants("LightningDataModule", classes)
    parents = {base for each in classes for base in each.bases}

    def unlike(each: ClassFound) -> tuple[int, ...]:
        return tuple(-len(hint & words(each.file)) for hint in hints)

    def model_rank(each: ClassFound) -> tuple[object, ...]:
        known = methods[each.name]
        return (
            *unlike(each),
            each.name in parents,
            each.runs,
            "predict_step" not in known,
            "forward" not in known,
            *_near(each.file),
        )

    def data_rank(each: ClassFound) -> tuple[object, ...]:
        known = methods[each.name]
        return (
            "submission" not in known,
            *unlike(each),
            _LOADERS[0] not in known,
            each.name in parents,
            each.runs,
            *_near(each.file),
        )

    models = sorted((each for each in classes if each.name in modules), key=model_rank)
    layers = _descendants("Module", classes) - modules
    plain = [each for each in classes if each.name in layers]
    data = [
        each
        for each in classes
        if each.name not in modules and (each.name in with_data or set(_LOADERS) & methods[each.name])
    ]
    rivals = [
        each
        for each in models
        if each.name not in parents
        and unlike(each) == unlike(models[0])
        and PurePosixPath(each.file).parent != PurePosixPath(models[0].file).parent
    ]
    return Code(
        models=tuple(models),
        rivals=tuple(rivals),
        plain_models=tuple(sorted(plain, key=model_rank)),
        data=tuple(sorted(data, key=data_rank)),
        functions=tuple(
            sorted(functions, key=lambda one: (not one.callable_with_one, one.runs, *_near(one.file)))
        ),
        submitting=frozenset(each.name for each in data if "submission" in methods[each.name]),
        notes=tuple(notes),
    )


def _near(file: str) -> tuple[int, str]:
    """Return what sorts files near the top before others."""
    return file.count("/"), file


def _descendants(root: str, classes: Iterable[ClassFound]) -> set[str]:
    """Return names of the classes that descend from one, told by the last name of each base."""
    known = {root}
    while fresh := {each.name for each in classes if known & set(each.bases)} - known:
        known |= fresh
    return known - {root}


def _inherited(one: ClassFound, named: Mapping[str, Sequence[ClassFound]]) -> frozenset[str]:
    """Return the methods of a class and of its bases inside the project; bases are known by their names alone."""
    methods, seen, waiting = set(one.methods), {one.name}, list(one.bases)
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            for each in named.get(name, ()):
                methods |= each.methods
                waiting += each.bases
    return frozenset(methods)


def _of_file(tree: Tree, name: str) -> Iterator[ClassFound | FunctionFound]:
    if tree.size(name) > LARGEST:
        return
    module = parse(tree.root / name)
    if module is None:
        return
    runs = any(_runs(node) for node in module.body)
    for node in module.body:
        if isinstance(node, ast.ClassDef):
            yield _class(node, name, runs=runs)
        elif isinstance(node, ast.FunctionDef) and node.name == "predict":
            yield _function(node, name, runs=runs)


def _runs(node: ast.stmt) -> bool:
    """Whether a statement at the top of a module trains or reads a command line when the module is imported."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.If):
        return False
    calls = (each for each in ast.walk(node) if isinstance(each, ast.Call))
    return any(_last_name(each.func) in _WORK for each in calls)


def _class(node: ast.ClassDef, file: str, *, runs: bool) -> ClassFound:
    methods = {each.name: each for each in node.body if isinstance(each, ast.FunctionDef)}
    bases = tuple(name for name in map(_last_name, node.bases) if name)
    made = methods.get("__init__")
    return ClassFound(
        file=file,
        name=node.name,
        bases=bases,
        methods=frozenset(methods),
        first=_first(made.args) if made else None,
        needs=_without_default(made.args)[1:] if made else (),
        runs=runs,
    )


def _first(arguments: ast.arguments) -> tuple[str, str, str]:
    positional = [*arguments.posonlyargs, *arguments.args]
    if len(positional) < 2:
        return ("", "", "")
    defaults = [None] * (len(positional) - len(arguments.defaults)) + list(arguments.defaults)
    taken, default = positional[1], defaults[1]
    annotation = ast.unparse(taken.annotation) if taken.annotation else ""
    return (taken.arg, annotation, ast.unparse(default) if default else "")


def _without_default(arguments: ast.arguments) -> tuple[str, ...]:
    positional = [*arguments.posonlyargs, *arguments.args]
    needed = positional[: len(positional) - len(arguments.defaults)]
    named = [
        one
        for one, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
        if default is None
    ]
    return tuple(one.arg for one in (*needed, *named))


def _last_name(node: ast.expr) -> str:
    if isinstance(node, ast.Subscript):
        return _last_name(node.value)
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _function(node: ast.FunctionDef, file: str, *, runs: bool) -> FunctionFound:
    arguments = node.args
    takes = _without_default(arguments)
    positional = bool(arguments.posonlyargs or arguments.args or arguments.vararg)
    keyword = any(default is None for default in arguments.kw_defaults)
    return FunctionFound(
        file=file,
        name=node.name,
        takes=takes,
        callable_with_one=len(takes) <= 1 and positional and not keyword,
        runs=runs,
    )
