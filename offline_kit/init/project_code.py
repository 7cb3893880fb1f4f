"""Find model classes, data classes and `predict` functions of a project, and check them, in syntax alone."""

import ast
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from offline_kit.checkpoints import downloads
from offline_kit.core.errors import OfflineKitError
from offline_kit.init.file_tree import DATA_FOLDERS, FileTree, top_folder
from offline_kit.project.config import Config
from offline_kit.project.references import (
    parse_module,
    read_parameters,
    resolve_references,
)
from offline_kit.project.types import Checkpoint, Finding, Severity

_MAX_FILES = 1500  # largest number of Python files to read
_MAX_FILE_SIZE = 1_000_000  # bytes; larger Python files are generated
_NO_CODE = frozenset({"tests", "test", "docs", "doc", "examples", "bench", "benchmarks"})
# Calls at the top of a module that an import should not run
_WORK_CALLS = frozenset({"fit", "train", "main", "parse_args", "run", "predict", "backward"})
# Words of paths that do not identify a competition
_GENERAL_WORDS = frozenset(
    {"model", "models", "data", "src", "kaggle", "version", "checkpoint", "checkpoints", "ckpt", "best"}
)
_LOADERS = ("predict_dataloader", "test_dataloader")
# Base classes outside the project that have no method `submission`
_OUTSIDE_BASES = frozenset({"LightningDataModule", "Dataset", "object", "ABC", "Generic"})
_NO_FOLDER = re.compile(
    r"(^|_)(csv|file|df|table|frame|json|batch|size|lr|transforms?|aug\w*|split|folds?|seed|workers?)(_|$)"
)
_NO_FOLDER_TYPES = re.compile(
    r"\b(int|float|bool|DataFrame|Module|dict|list|Sequence|Callable)\b", re.IGNORECASE
)


@dataclass(frozen=True, kw_only=True)
class Definition:
    """A class at the top of a module, or a function called `predict`."""

    kind: str  # "class" or "function"
    file: str  # POSIX path relative to the project
    name: str
    runs: bool  # whether importing the file runs something, such as training
    needs: tuple[str, ...] = ()  # required parameters of a function
    callable_with_one: bool = False  # whether it can be called with one positional argument
    bases: tuple[str, ...] = ()  # last names of its base classes: "LightningModule" for pl.LightningModule
    methods: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True)
class ProjectCode:
    """Code that a notebook may use, the likeliest first."""

    models: Sequence[Definition]  # direct and indirect subclasses of LightningModule
    plain_models: Sequence[Definition]  # other subclasses of torch's Module, including layers
    data: Sequence[Definition]
    """Classes with a dataloader to predict on, including subclasses of LightningDataModule."""
    functions: Sequence[Definition]
    rivals: Sequence[Definition]  # models in other folders that the hints rank like the first one
    submitting: frozenset[str]  # names of the data classes with a method `submission`, their own or inherited
    notes: Sequence[str]


def find_code(tree: FileTree, hints: Sequence[str] = ()) -> ProjectCode:
    """Read the project's Python files and return their model and data classes and functions.

    `hints` are names that identify the competition, the strongest first: code in files that share their words comes
    first.
    """
    scripts = [name for name in tree.files if name.endswith(".py") and top_folder(name) not in DATA_FOLDERS]
    names = [name for name in scripts if not _NO_CODE & set(PurePosixPath(name).parts)]
    notes = []
    if len(names) > _MAX_FILES:
        notes = [f"read {_MAX_FILES} of {len(names)} Python files for models and data classes"]
    small = (name for name in names[:_MAX_FILES] if tree.file_size(name) <= _MAX_FILE_SIZE)
    definitions = [item for name in small for item in _read_definitions(tree.root, name)]
    classes = [item for item in definitions if item.kind == "class"]
    functions = [item for item in definitions if item.kind == "function"]
    methods: dict[str, set[str]] = {}
    named = _group_by_name(classes)
    for item in classes:
        methods[item.name] = {name for member in _class_family(item, named) for name in member.methods}
    parents = {base for item in classes for base in item.bases}
    hint_words = list(map(_distinctive_words, hints))

    def hint_rank(item: Definition) -> list[int]:
        return [-len(words & _distinctive_words(item.file)) for words in hint_words]

    def depth_rank(item: Definition) -> tuple[bool, int, str]:
        return item.runs, item.file.count("/"), item.file

    def model_rank(item: Definition) -> tuple[object, ...]:
        runs, *depth = depth_rank(item)
        lacks = [name not in methods[item.name] for name in ("predict_step", "forward")]
        return (*hint_rank(item), item.name in parents, runs, *lacks, *depth)

    def data_rank(item: Definition) -> tuple[object, ...]:
        no_submission, no_loader = (name not in methods[item.name] for name in ("submission", _LOADERS[0]))
        return (no_submission, *hint_rank(item), no_loader, item.name in parents, *depth_rank(item))

    modules = _descendant_names("LightningModule", classes)
    layers = _descendant_names("Module", classes) - modules
    with_data = _descendant_names("LightningDataModule", classes)
    with_data |= {item.name for item in classes if set(_LOADERS) & methods[item.name]}
    models = sorted((item for item in classes if item.name in modules), key=model_rank)
    data = sorted((item for item in classes if item.name in with_data - modules), key=data_rank)
    equal = [item for item in models if item.name not in parents and hint_rank(item) == hint_rank(models[0])]
    return ProjectCode(
        models=models,
        rivals=[item for item in equal if Path(item.file).parent != Path(models[0].file).parent],
        plain_models=sorted((item for item in classes if item.name in layers), key=model_rank),
        data=data,
        functions=sorted(functions, key=lambda item: (not item.callable_with_one, *depth_rank(item))),
        submitting=frozenset(item.name for item in data if "submission" in methods[item.name]),
        notes=notes,
    )


def _read_definitions(root: Path, name: str) -> Iterator[Definition]:
    module = parse_module(root / name)
    nodes = module.body if module else []
    runs = any(map(_runs_work, nodes))
    for node in nodes:
        if isinstance(node, ast.ClassDef):
            bases = tuple(filter(None, map(_base_name, node.bases)))
            methods = frozenset(item.name for item in node.body if isinstance(item, ast.FunctionDef))
            yield Definition(kind="class", file=name, name=node.name, runs=runs, bases=bases, methods=methods)
        elif isinstance(node, ast.FunctionDef) and node.name == "predict":
            needs, arguments = _required_parameters(node.args), node.args
            positional = bool(arguments.posonlyargs or arguments.args or arguments.vararg)
            with_one = len(needs) <= 1 and positional and None not in arguments.kw_defaults
            yield Definition(
                kind="function",
                file=name,
                name=node.name,
                runs=runs,
                needs=tuple(needs),
                callable_with_one=with_one,
            )


def _distinctive_words(text: str) -> frozenset[str]:
    """Return the words of a name or path that may identify a competition."""
    return frozenset(re.findall(r"[^\W\d_]{3,}", text.lower())) - _GENERAL_WORDS


def _descendant_names(root: str, classes: Iterable[Definition]) -> set[str]:
    """Return the names of all subclasses of a class, by the last names of base classes."""
    names = {root}
    while fresh := {definition.name for definition in classes if names & set(definition.bases)} - names:
        names |= fresh
    return names - {root}


def _group_by_name(classes: Iterable[Definition]) -> dict[str, list[Definition]]:
    named: dict[str, list[Definition]] = {}
    for item in classes:
        named.setdefault(item.name, []).append(item)
    return named


def _class_family(definition: Definition, named: Mapping[str, Sequence[Definition]]) -> list[Definition]:
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


def _required_parameters(arguments: ast.arguments) -> list[str]:
    positional = [*arguments.posonlyargs, *arguments.args]
    needed = positional[: len(positional) - len(arguments.defaults)]
    keywords = zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    return [argument.arg for argument in (*needed, *(name for name, default in keywords if default is None))]


def _base_name(node: ast.expr) -> str:
    """Return the last name of a base class or function: "Module" for `nn.Module[T]`."""
    if isinstance(node, ast.Subscript):
        return _base_name(node.value)
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def check_data_class(config: Config) -> list[Finding]:
    """Return what the data class of the configuration lacks, as far as the class itself tells."""
    reference, name = config.notebook.data, config.notebook.data.rpartition(":")[2]
    file = _resolve(config, reference)
    tree = parse_module(file) if file else None
    classes = [node for node in (tree.body if tree else ()) if isinstance(node, ast.ClassDef)]
    problems = []
    for definition in (node for node in classes if node.name == name):
        functions = {node.name: node for node in definition.body if isinstance(node, ast.FunctionDef)}
        if "submission" not in functions and {*map(_base_name, definition.bases)} <= _OUTSIDE_BASES:
            problems.append("has no method submission(predictions), which returns the submission's rows")
        first = _read_first_parameter(functions["__init__"].args) if "__init__" in functions else None
        if first and first[0] not in config.notebook.params and _cannot_be_folder(*first):
            problems.append(f"gets the competition's folder as its first parameter '{first[0]}'")
    remedy = (
        "write a subclass with __init__(self, folder) and submission(self, predictions), and set it as `data` in "
        "[tool.offline-kit.notebook]"
    )
    return [
        Finding(severity=Severity.WARN, about=reference, what=problem, remedy=remedy) for problem in problems
    ]


def _resolve(config: Config, reference: str) -> Path | None:
    with suppress(OfflineKitError):  # the build reports what leads nowhere
        return resolve_references(config.project, [reference], config.code_roots)[reference]
    return None


def _read_first_parameter(arguments: ast.arguments) -> tuple[str, str, str]:
    """Return name, annotation and default of a method's first parameter; empty ones if it has none."""
    positional = [*arguments.posonlyargs, *arguments.args]
    # defaults belong to the last parameters
    required = len(positional) - len(arguments.defaults)
    for parameter in positional[1:2]:
        annotation = ast.unparse(parameter.annotation) if parameter.annotation else ""
        default = ast.unparse(arguments.defaults[1 - required]) if required <= 1 else ""
        return parameter.arg, annotation, default
    return "", "", ""


def _cannot_be_folder(name: str, annotation: str, default: str) -> bool:
    number = re.fullmatch(r"-?[\d.]+(e-?\d+)?|True|False", default)
    file = re.search(r"\.\w{2,5}['\"]$", default)
    return bool(not name or _NO_FOLDER.search(name) or _NO_FOLDER_TYPES.search(annotation) or number or file)


def check_model_class(config: Config, checkpoints: Iterable[Checkpoint]) -> list[Finding]:
    """Return the constructor's required parameters that neither a checkpoint nor the notebook's params contain."""
    model = config.notebook.model
    file = _resolve(config, model)
    parameters = read_parameters(file, model.rpartition(":")[2]) if file else None
    needs = parameters.required if parameters else ()
    findings: dict[tuple[str, ...], Finding] = {}  # one for all checkpoints that lack the same
    for item in checkpoints:
        known = {*config.notebook.params, *(downloads.read_saved_names(item) or needs)}
        if missing := tuple(parameter for parameter in needs if parameter not in known):
            stated = " and ".join(f"`{parameter} = …`" for parameter in missing)
            finding = Finding(
                severity=Severity.WARN,
                about=item.original,
                what=f"holds no hyper-parameter {', '.join(map(repr, missing))}, which '{model}' requires",
                remedy=f"set {stated} in [tool.offline-kit.notebook.params]",
            )
            findings.setdefault(missing, finding)
    return list(findings.values())
