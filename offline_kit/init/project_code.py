"""Find model classes, data classes and `predict` functions of a project in its syntax alone."""

import ast
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from offline_kit.init.file_tree import DATA_FOLDERS, FileTree, top_folder
from offline_kit.project.references import parse_module

MAX_FILES = 1500
"""Largest number of Python files to read."""
MAX_FILE_SIZE = 1_000_000
"""Bytes; larger Python files are generated."""
_NO_CODE = frozenset({"tests", "test", "docs", "doc", "examples", "bench", "benchmarks"})
_WORK_CALLS = frozenset({"fit", "train", "main", "parse_args", "run", "predict", "backward"})
"""Calls at the top of a module that an import should not run."""
_GENERAL_WORDS = frozenset(
    {"model", "models", "data", "src", "kaggle", "version", "checkpoint", "checkpoints", "ckpt", "best"}
)
"""Words of paths that do not identify a competition."""
_LOADERS = ("predict_dataloader", "test_dataloader")


@dataclass(frozen=True, kw_only=True)
class DetectedClass:
    """A class at the top of a module."""

    file: str
    """POSIX path relative to the project."""
    name: str
    bases: tuple[str, ...]
    """Last names of its base classes: "LightningModule" for pl.LightningModule."""
    methods: frozenset[str]
    """Methods that its body defines."""
    first: tuple[str, str, str] | None
    """Name, annotation and default of the first parameter of its own __init__; None without one."""
    needs: tuple[str, ...] = ()
    """Required parameters of its own __init__."""
    runs: bool
    """Whether importing the file runs something, such as training."""


@dataclass(frozen=True, kw_only=True)
class DetectedFunction:
    """A function called `predict` at the top of a module."""

    file: str
    """POSIX path relative to the project."""
    name: str
    takes: tuple[str, ...]
    """Its required parameters."""
    callable_with_one: bool
    """Whether it can be called with one positional argument."""
    runs: bool


@dataclass(frozen=True, kw_only=True)
class ProjectCode:
    """Code that a notebook may use, the likeliest first."""

    models: tuple[DetectedClass, ...] = ()
    """Direct and indirect subclasses of LightningModule."""
    plain_models: tuple[DetectedClass, ...] = ()
    """Other subclasses of torch's Module, including layers."""
    data: tuple[DetectedClass, ...] = ()
    """Classes with a dataloader to predict on, including subclasses of LightningDataModule."""
    functions: tuple[DetectedFunction, ...] = ()
    rivals: tuple[DetectedClass, ...] = ()
    """Models in other folders that the hints rank like the first one."""
    submitting: frozenset[str] = frozenset()
    """Names of the data classes with a method `submission`, their own or inherited."""
    notes: tuple[str, ...] = ()


def find_code(tree: FileTree, hints: Sequence[str] = ()) -> ProjectCode:
    """Read the project's Python files and return their model and data classes and functions.

    Args:
        hints: Names that identify the competition, the strongest first: code in files that share their words comes
            first.
    """
    names = [
        name
        for name in tree.files
        if name.endswith(".py")
        and top_folder(name) not in DATA_FOLDERS
        and not _NO_CODE & set(PurePosixPath(name).parts)
    ]
    notes = []
    if len(names) > MAX_FILES:
        notes.append(f"read {MAX_FILES} of {len(names)} Python files for models and data classes")
    classes: list[DetectedClass] = []
    functions: list[DetectedFunction] = []
    for name in names[:MAX_FILES]:
        for detected in _read_definitions(tree, name):
            classes += [detected] if isinstance(detected, DetectedClass) else []
            functions += [detected] if isinstance(detected, DetectedFunction) else []
    return _rank_code(classes, functions, notes, [distinctive_words(hint) for hint in hints])


def distinctive_words(text: str) -> frozenset[str]:
    """Return the words of a name or path that may identify a competition."""
    return frozenset(re.findall(r"[^\W\d_]{3,}", text.lower())) - _GENERAL_WORDS


def _rank_code(
    classes: list[DetectedClass],
    functions: list[DetectedFunction],
    notes: Iterable[str],
    hints: Sequence[frozenset[str]],
) -> ProjectCode:
    classes_by_name: dict[str, list[DetectedClass]] = {}
    for item in classes:
        classes_by_name.setdefault(item.name, []).append(item)
    methods = {item.name: _inherited_methods(item, classes_by_name) for item in classes}
    modules = _descendant_names("LightningModule", classes)
    with_data = _descendant_names("LightningDataModule", classes)
    parents = {base for item in classes for base in item.bases}

    def hint_rank(item: DetectedClass) -> tuple[int, ...]:
        return tuple(-len(hint & distinctive_words(item.file)) for hint in hints)

    def model_rank(item: DetectedClass) -> tuple[object, ...]:
        own_methods = methods[item.name]
        return (
            *hint_rank(item),
            item.name in parents,
            item.runs,
            "predict_step" not in own_methods,
            "forward" not in own_methods,
            *_depth_key(item.file),
        )

    def data_rank(item: DetectedClass) -> tuple[object, ...]:
        own_methods = methods[item.name]
        return (
            "submission" not in own_methods,
            *hint_rank(item),
            _LOADERS[0] not in own_methods,
            item.name in parents,
            item.runs,
            *_depth_key(item.file),
        )

    models = sorted((item for item in classes if item.name in modules), key=model_rank)
    layers = _descendant_names("Module", classes) - modules
    plain = [item for item in classes if item.name in layers]
    with_data |= {item.name for item in classes if set(_LOADERS) & methods[item.name]}
    data = [item for item in classes if item.name in with_data - modules]
    rivals = [
        item
        for item in models
        if item.name not in parents
        and hint_rank(item) == hint_rank(models[0])
        and PurePosixPath(item.file).parent != PurePosixPath(models[0].file).parent
    ]
    return ProjectCode(
        models=tuple(models),
        rivals=tuple(rivals),
        plain_models=tuple(sorted(plain, key=model_rank)),
        data=tuple(sorted(data, key=data_rank)),
        functions=tuple(sorted(functions, key=_function_rank)),
        submitting=frozenset(item.name for item in data if "submission" in methods[item.name]),
        notes=tuple(notes),
    )


def _function_rank(function: DetectedFunction) -> tuple[object, ...]:
    return not function.callable_with_one, function.runs, *_depth_key(function.file)


def _depth_key(file: str) -> tuple[int, str]:
    """Return a sort key that puts files near the top first."""
    return file.count("/"), file


def _descendant_names(root: str, classes: Iterable[DetectedClass]) -> set[str]:
    """Return the names of all subclasses of a class, by the last names of base classes."""
    names = {root}
    while fresh := {definition.name for definition in classes if names & set(definition.bases)} - names:
        names |= fresh
    return names - {root}


def _inherited_methods(
    definition: DetectedClass, named: Mapping[str, Sequence[DetectedClass]]
) -> frozenset[str]:
    """Return the methods of a class and of its base classes in the project, found by their names."""
    methods, visited, waiting = set(definition.methods), {definition.name}, list(definition.bases)
    while waiting:
        name = waiting.pop()
        if name not in visited:
            visited.add(name)
            for base in named.get(name, ()):
                methods |= base.methods
                waiting += base.bases
    return frozenset(methods)


def _read_definitions(tree: FileTree, name: str) -> Iterator[DetectedClass | DetectedFunction]:
    if tree.file_size(name) > MAX_FILE_SIZE:
        return
    module = parse_module(tree.root / name)
    if module is None:
        return
    runs = any(_runs_work(node) for node in module.body)
    for node in module.body:
        if isinstance(node, ast.ClassDef):
            yield _describe_class(node, name, runs=runs)
        elif isinstance(node, ast.FunctionDef) and node.name == "predict":
            yield _describe_function(node, name, runs=runs)


def _runs_work(node: ast.stmt) -> bool:
    """Whether a top-level statement trains or parses a command line on import."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.If):
        return False
    calls = (call for call in ast.walk(node) if isinstance(call, ast.Call))
    return any(_base_name(call.func) in _WORK_CALLS for call in calls)


def _describe_class(node: ast.ClassDef, file: str, *, runs: bool) -> DetectedClass:
    methods = {function.name: function for function in node.body if isinstance(function, ast.FunctionDef)}
    bases = tuple(name for name in map(_base_name, node.bases) if name)
    constructor = methods.get("__init__")
    return DetectedClass(
        file=file,
        name=node.name,
        bases=bases,
        methods=frozenset(methods),
        first=_first_parameter(constructor.args) if constructor else None,
        needs=_required_parameters(constructor.args)[1:] if constructor else (),
        runs=runs,
    )


def _first_parameter(arguments: ast.arguments) -> tuple[str, str, str]:
    positional = [*arguments.posonlyargs, *arguments.args]
    if len(positional) < 2:
        return ("", "", "")
    defaults = [None] * (len(positional) - len(arguments.defaults)) + list(arguments.defaults)
    parameter, default = positional[1], defaults[1]
    annotation = ast.unparse(parameter.annotation) if parameter.annotation else ""
    return (parameter.arg, annotation, ast.unparse(default) if default else "")


def _required_parameters(arguments: ast.arguments) -> tuple[str, ...]:
    positional = [*arguments.posonlyargs, *arguments.args]
    needed = positional[: len(positional) - len(arguments.defaults)]
    keywords = [
        argument
        for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
        if default is None
    ]
    return tuple(argument.arg for argument in (*needed, *keywords))


def _base_name(node: ast.expr) -> str:
    if isinstance(node, ast.Subscript):
        return _base_name(node.value)
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _describe_function(node: ast.FunctionDef, file: str, *, runs: bool) -> DetectedFunction:
    arguments = node.args
    takes = _required_parameters(arguments)
    positional = bool(arguments.posonlyargs or arguments.args or arguments.vararg)
    keyword = any(default is None for default in arguments.kw_defaults)
    return DetectedFunction(
        file=file,
        name=node.name,
        takes=takes,
        callable_with_one=len(takes) <= 1 and positional and not keyword,
        runs=runs,
    )
