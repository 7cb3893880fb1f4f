"""Find model classes, data classes and `predict` functions of a project in its syntax alone."""

import ast
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from offline_kit.init.file_tree import DATA_FOLDERS, FileTree, top_folder
from offline_kit.project.references import parse_module

MAX_FILES = 1500  # largest number of Python files to read
MAX_FILE_SIZE = 1_000_000  # bytes; larger Python files are generated
_NO_CODE = frozenset({"tests", "test", "docs", "doc", "examples", "bench", "benchmarks"})
_WORK_CALLS = frozenset({"fit", "train", "main", "parse_args", "run", "predict", "backward"})
"""Calls at the top of a module that an import should not run."""
_GENERAL_WORDS = frozenset(
    {"model", "models", "data", "src", "kaggle", "version", "checkpoint", "checkpoints", "ckpt", "best"}
)
"""Words of paths that do not identify a competition."""
_LOADERS = ("predict_dataloader", "test_dataloader")


@dataclass(frozen=True, kw_only=True)
class DetectedFunction:
    """A function called `predict` at the top of a module."""

    file: str  # POSIX path relative to the project
    name: str
    takes: tuple[str, ...]  # its required parameters
    callable_with_one: bool  # whether it can be called with one positional argument
    runs: bool  # whether importing the file runs something, such as training


@dataclass(frozen=True, kw_only=True)
class DetectedClass:
    """A class at the top of a module."""

    file: str
    name: str
    bases: tuple[str, ...]  # last names of its base classes: "LightningModule" for pl.LightningModule
    methods: frozenset[str]
    first: tuple[str, str, str] | None
    """Name, annotation and default of the first parameter of its own __init__; None without one."""
    needs: tuple[str, ...] = ()  # required parameters of its own __init__
    runs: bool


@dataclass(frozen=True, kw_only=True)
class ProjectCode:
    """Code that a notebook may use, the likeliest first."""

    models: Sequence[DetectedClass]  # direct and indirect subclasses of LightningModule
    plain_models: Sequence[DetectedClass]  # other subclasses of torch's Module, including layers
    data: Sequence[DetectedClass]
    """Classes with a dataloader to predict on, including subclasses of LightningDataModule."""
    functions: Sequence[DetectedFunction]
    rivals: Sequence[DetectedClass]  # models in other folders that the hints rank like the first one
    submitting: frozenset[str]  # names of the data classes with a method `submission`, their own or inherited
    notes: Sequence[str]


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
        notes = [f"read {MAX_FILES} of {len(names)} Python files for models and data classes"]
    classes, functions = list[DetectedClass](), list[DetectedFunction]()
    for name in names[:MAX_FILES]:
        module = parse_module(tree.root / name) if tree.file_size(name) <= MAX_FILE_SIZE else None
        nodes = module.body if module else []
        runs = any(map(_runs_work, nodes))
        classes += [
            _describe_class(node, name, runs=runs) for node in nodes if isinstance(node, ast.ClassDef)
        ]
        predict = [node for node in nodes if isinstance(node, ast.FunctionDef) and node.name == "predict"]
        functions += [_describe_function(node, name, runs=runs) for node in predict]
    named = group_by_name(classes)
    methods = {
        item.name: {method for member in class_family(item, named) for method in member.methods}
        for item in classes
    }
    parents = {base for item in classes for base in item.bases}
    hint_words = list(map(_distinctive_words, hints))

    def hint_rank(item: DetectedClass) -> list[int]:
        return [-len(words & _distinctive_words(item.file)) for words in hint_words]

    def depth_rank(item: DetectedClass | DetectedFunction) -> tuple[bool, int, str]:
        return item.runs, item.file.count("/"), item.file

    def model_rank(item: DetectedClass) -> tuple[object, ...]:
        runs, *depth = depth_rank(item)
        lacks = [name not in methods[item.name] for name in ("predict_step", "forward")]
        return (*hint_rank(item), item.name in parents, runs, *lacks, *depth)

    def data_rank(item: DetectedClass) -> tuple[object, ...]:
        no_submission, no_loader = (name not in methods[item.name] for name in ("submission", _LOADERS[0]))
        return (no_submission, *hint_rank(item), no_loader, item.name in parents, *depth_rank(item))

    modules = _descendant_names("LightningModule", classes)
    layers = _descendant_names("Module", classes) - modules
    with_data = _descendant_names("LightningDataModule", classes)
    with_data |= {item.name for item in classes if set(_LOADERS) & methods[item.name]}
    models = sorted((item for item in classes if item.name in modules), key=model_rank)
    data = sorted((item for item in classes if item.name in with_data - modules), key=data_rank)
    rivals = [
        item
        for item in models
        if item.name not in parents
        and hint_rank(item) == hint_rank(models[0])
        and PurePosixPath(item.file).parent != PurePosixPath(models[0].file).parent
    ]
    return ProjectCode(
        models=models,
        rivals=rivals,
        plain_models=sorted((item for item in classes if item.name in layers), key=model_rank),
        data=data,
        functions=sorted(functions, key=lambda item: (not item.callable_with_one, *depth_rank(item))),
        submitting=frozenset(item.name for item in data if "submission" in methods[item.name]),
        notes=notes,
    )


def _distinctive_words(text: str) -> frozenset[str]:
    """Return the words of a name or path that may identify a competition."""
    return frozenset(re.findall(r"[^\W\d_]{3,}", text.lower())) - _GENERAL_WORDS


def _descendant_names(root: str, classes: Iterable[DetectedClass]) -> set[str]:
    """Return the names of all subclasses of a class, by the last names of base classes."""
    names = {root}
    while fresh := {definition.name for definition in classes if names & set(definition.bases)} - names:
        names |= fresh
    return names - {root}


def group_by_name(classes: Iterable[DetectedClass]) -> dict[str, list[DetectedClass]]:
    """Return the classes of each name."""
    named: dict[str, list[DetectedClass]] = {}
    for item in classes:
        named.setdefault(item.name, []).append(item)
    return named


def class_family(
    definition: DetectedClass, named: Mapping[str, Sequence[DetectedClass]]
) -> list[DetectedClass]:
    """Return a class and its base classes among others, found by their names, the nearest first."""
    family = [definition]
    for member in family:  # grows while it is walked
        known = {item.name for item in family}
        family += [item for name in member.bases if name not in known for item in named.get(name, ())]
    return family


def _runs_work(node: ast.stmt) -> bool:
    """Whether a top-level statement trains or parses a command line on import."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.If):
        return False
    return any(isinstance(call, ast.Call) and _base_name(call.func) in _WORK_CALLS for call in ast.walk(node))


def _describe_class(node: ast.ClassDef, file: str, *, runs: bool) -> DetectedClass:
    methods = {function.name: function for function in node.body if isinstance(function, ast.FunctionDef)}
    arguments = methods["__init__"].args if "__init__" in methods else None
    first = None
    if arguments:
        positional = [*arguments.posonlyargs, *arguments.args][1:2]
        # defaults belong to the last parameters
        defaults = [*arguments.defaults][::-1][len(arguments.posonlyargs) + len(arguments.args) - 2 :]
        first = ("", "", "")
        for parameter in positional:
            annotation = ast.unparse(parameter.annotation) if parameter.annotation else ""
            first = (parameter.arg, annotation, ast.unparse(defaults[0]) if defaults else "")
    return DetectedClass(
        file=file,
        name=node.name,
        bases=tuple(filter(None, map(_base_name, node.bases))),
        methods=frozenset(methods),
        first=first,
        needs=_required_parameters(arguments)[1:] if arguments else (),
        runs=runs,
    )


def _describe_function(node: ast.FunctionDef, file: str, *, runs: bool) -> DetectedFunction:
    arguments, takes = node.args, _required_parameters(node.args)
    positional = bool(arguments.posonlyargs or arguments.args or arguments.vararg)
    callable_with_one = len(takes) <= 1 and positional and None not in arguments.kw_defaults
    return DetectedFunction(
        file=file, name=node.name, takes=takes, callable_with_one=callable_with_one, runs=runs
    )


def _required_parameters(arguments: ast.arguments) -> tuple[str, ...]:
    positional = [*arguments.posonlyargs, *arguments.args]
    needed = positional[: len(positional) - len(arguments.defaults)]
    keywords = zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    return tuple(
        argument.arg for argument in (*needed, *(name for name, default in keywords if default is None))
    )


def _base_name(node: ast.expr) -> str:
    """Return the last name of a base class or function: "Module" for `nn.Module[T]`."""
    if isinstance(node, ast.Subscript):
        return _base_name(node.value)
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")
