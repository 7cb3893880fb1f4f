"""Resolve references such as "src/model.py:Lit" and "package.module:Lit", without running any code."""

import ast
import builtins
import re
import symtable
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from offline_kit.core.errors import ProjectError, UsageError, suggest_name

_SHAPE = re.compile(r"(?P<where>[^:]+):(?P<name>[^\W\d]\w*(?:\.[^\W\d]\w*)*)")
_DOTTED = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)*")

_FORMS = 'write "package.module:Name" or "folder/file.py:Name"'
_OF_EVERY_MODULE = frozenset(
    {"__file__", "__name__", "__doc__", "__package__", "__spec__", "__path__", "__annotations__"}
)
# Functions of importlib, pkgutil, hydra and Python that import by a string.
_IMPORTERS = frozenset(
    {"import_module", "__import__", "instantiate", "walk_packages", "iter_modules", "exec"}
)


def resolve_references(project: Path, texts: Iterable[str], roots: Sequence[Path]) -> dict[str, Path | None]:
    """Find the file of each reference, and check that it defines the name; None for a module outside the project.

    Modules are looked up in `roots`, in this order.

    Raises UsageError if references are invalid; its details list all of them; ProjectError if a file cannot
    be read.
    """
    files, problems = {}, []
    for text in dict.fromkeys(texts):
        try:
            files[text] = _resolve_reference(project, text, roots)
        except UsageError as error:
            problems.append(error)
    if len(problems) == 1:
        raise problems[0]
    if problems:
        count = f"{len(problems)} references of the configuration are invalid"
        raise _invalid_reference(count, _FORMS, [error.what for error in problems])
    return files


def _invalid_reference(what: str, hint: str, details: Sequence[str] = ()) -> UsageError:
    return UsageError(what, hint=hint, code="reference-invalid", details=details)


def _resolve_reference(project: Path, text: str, roots: Sequence[Path]) -> Path | None:
    shape = _SHAPE.fullmatch(text)
    if not shape or not (shape["where"].endswith(".py") or _DOTTED.fullmatch(shape["where"])):
        raise _invalid_reference(f"'{text}' is not a reference", _FORMS)
    is_file = shape["where"].endswith(".py")
    file = _find_file(project, shape["where"], text) if is_file else _find_module(shape["where"], text, roots)
    tree = parse_module(file) if file else None
    if file and tree:
        name = shape["name"].partition(".")[0]
        names, open_ended = find_bound_names(tree.body)
        if name not in names and not open_ended:
            choices = ", ".join(sorted(names)[:12]) or "there are none"
            guess = suggest_name(name, names)
            raise _invalid_reference(
                f"'{text}': '{file.name}' defines no '{name}'{guess}", f"use one of its names: {choices}"
            )
    return file


def _find_file(project: Path, path_text: str, text: str) -> Path:
    path = project / path_text
    if not path.is_file():
        project_files = [file.relative_to(project).as_posix() for file in _list_python_files(project)]
        guess = suggest_name(path_text, project_files)
        raise _invalid_reference(
            f"'{text}': there is no file '{path_text}' in the project{guess}",
            "write its path relative to the project's folder",
        )
    if not path.resolve().is_relative_to(project.resolve()):
        raise _invalid_reference(
            f"'{text}' is outside the project",
            "copy it into the project, or add its folder to `modules` and write its module here",
        )
    return path


def _find_module(dotted: str, text: str, roots: Sequence[Path]) -> Path | None:
    parts = dotted.split(".")
    for root in roots:
        if file := _find_module_file(root, parts):
            return file
    for root in roots:
        if (root / parts[0]).is_dir() or (root / f"{parts[0]}.py").is_file():
            paths = (file.relative_to(root).with_suffix("") for file in _list_python_files(root / parts[0]))
            modules = [".".join(path.parts).removesuffix(".__init__") for path in paths]
            raise _invalid_reference(
                f"'{text}': there is no module '{dotted}' in '{parts[0]}'{suggest_name(dotted, modules)}",
                "fix the module's name",
            )
    first_names = {name for root in roots for name in list_top_level_names(root)}
    # A high cutoff, because a dependency may have a similar name to one of the project's own modules.
    if guess := suggest_name(parts[0], first_names, cutoff=0.8):
        raise _invalid_reference(
            f"'{text}': the project has no module '{parts[0]}'{guess}",
            "fix the name, or add the package to the requirements",
        )
    return None


def _find_module_file(root: Path, parts: Sequence[str]) -> Path | None:
    """Return the file of a module in an import root; None if it is not there."""
    base = root.joinpath(*parts)
    files = (base / "__init__.py", base.with_name(f"{base.name}.py"))
    return next((file for file in files if file.is_file()), None)


def list_top_level_names(root: Path) -> Iterator[str]:
    """Yield the top-level names that can be imported from an import root."""
    for path in root.iterdir() if root.is_dir() else ():
        if path.suffix == ".py" and path.stem.isidentifier():
            yield path.stem
        elif path.is_dir() and path.name.isidentifier() and any(path.glob("*.py")):
            yield path.name


def _list_python_files(folder: Path) -> Iterator[Path]:
    """Yield the Python files of a folder, three levels deep to stay fast on large folders."""
    for pattern in ("*.py", "*/*.py", "*/*/*.py"):
        yield from (path for path in folder.glob(pattern) if "site-packages" not in path.parts)


def _list_symbols(body: Sequence[ast.stmt]) -> list[tuple[bool, symtable.Symbol]]:
    """Return the symbols of statements and of all scopes in them, each with whether it is at the top."""
    # symtable knows scopes as the compiler does: comprehensions, `global`, class bodies
    text = ast.unparse(ast.Module(body=[*body], type_ignores=[]))
    scopes = [symtable.symtable(text, "code", "exec")]
    for scope in scopes:  # grows while it is walked
        scopes += scope.get_children()
    return [(scope is scopes[0], symbol) for scope in scopes for symbol in scope.get_symbols()]


def find_bound_names(body: Sequence[ast.stmt]) -> tuple[set[str], bool]:
    """Return the names that statements bind, and whether they may bind more (`import *`, `__getattr__`)."""
    names = {
        symbol.get_name()
        for at_top, symbol in _list_symbols(body)
        if (at_top or symbol.is_declared_global())
        and (symbol.is_assigned() or symbol.is_imported() or symbol.is_namespace())
    }
    imports = [node for top in body for node in ast.walk(top) if isinstance(node, ast.ImportFrom)]
    is_starred = any(alias.name == "*" for node in imports for alias in node.names)
    return names, is_starred or "__getattr__" in names  # PEP 562: a module computes names


def find_undefined_names(file: Path) -> tuple[str, ...]:
    """Return the undefined names that a module uses, sorted; () if an `import *` may define them."""
    tree = parse_module(file)
    names, open_ended = find_bound_names(tree.body) if tree else (set(), True)
    if tree is None or open_ended:
        return ()
    used = {
        symbol.get_name()
        for at_top, symbol in _list_symbols(tree.body)
        if symbol.is_referenced() and (at_top or symbol.is_global())
    }
    return tuple(sorted(used - names - set(dir(builtins)) - _OF_EVERY_MODULE))


def parse_module(file: Path) -> ast.Module | None:
    """Return the syntax tree of a file; None if this Python cannot parse it (a newer one may)."""
    try:
        return ast.parse(file.read_bytes(), filename=str(file))
    except (SyntaxError, ValueError):
        return None
    except OSError as error:
        raise ProjectError(
            f"cannot read '{file}': {error.strerror}",
            hint="fix its permissions, or remove it",
            code="file-unreadable",
        ) from error


def find_reached_files(starts: Iterable[Path], roots: Sequence[Path]) -> frozenset[Path] | None:
    """Return these files and the files in `roots` that they import, directly or indirectly.

    None if one of them imports modules by a computed name: then it may use any file.
    """
    files = [start.resolve() for start in starts]
    for file in files:  # the loop appends to this list
        tree = parse_module(file)
        calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)] if tree else []
        if tree is None or any(ast.unparse(name).rpartition(".")[2] in _IMPORTERS for name in calls):
            return None
        for level, parts, _ in _iter_imports(tree):
            # A script finds modules next to it. `from a import b` may mean a module a.b.
            folders = (file.parents[min(level, len(file.parents)) - 1],) if level else (*roots, file.parent)
            # importing a.b.c also runs a/__init__.py and a/b/__init__.py
            prefixes = [parts[:count] for count in range(1, len(parts) + 1)]
            modules = (_find_module_file(root, prefix) for root in folders for prefix in prefixes)
            files += dict.fromkeys(
                path for module in modules if module and (path := module.resolve()) not in files
            )
    return frozenset(files)


def _iter_imports(tree: ast.AST) -> Iterator[tuple[int, tuple[str, ...], str]]:
    """Yield level, dotted name and bound name of each import; `import a.b` binds no name of its own."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((0, tuple(alias.name.split(".")), alias.asname or "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = tuple(node.module.split(".")) if node.module else ()
            yield from (
                (node.level, (*module, alias.name), alias.asname or alias.name) for alias in node.names
            )


def list_absolute_imports(file: Path) -> set[tuple[str, ...]]:
    """Return a file's absolute imports as tuples: `from a.b import c` gives (a, b, c)."""
    tree = parse_module(file)
    return {parts for level, parts, _ in _iter_imports(tree) if not level} if tree else set()


def map_imported_names(tree: ast.AST) -> dict[str, str]:
    """Map the names bound by absolute imports: {"F": "torch.nn.functional", "load": "torch.hub.load"}."""
    imported: dict[str, str] = {}
    for level, parts, bound in _iter_imports(tree):
        if not level:
            imported[bound or parts[0]] = ".".join(parts) if bound else parts[0]
    return imported


@dataclass(frozen=True, kw_only=True)
class CallParameters:
    """The parameters of a class or function, read from its source."""

    names: tuple[str, ...]  # without self
    required: tuple[str, ...]  # those of them without a default
    open_ended: bool  # it accepts **kwargs


def read_parameters(file: Path, name: str) -> CallParameters | None:
    """Return the parameters of a class or function at the top of a module; None if its source is ambiguous."""
    tree = parse_module(file)
    definition = _find_definition(tree.body, name) if tree else None
    skipped = 0
    if isinstance(definition, ast.ClassDef):
        # An inherited __init__, a metaclass or __new__ cannot be read from this file alone.
        definition = None if definition.keywords else _find_definition(definition.body, "__init__")
        skipped = 1  # self
    if not isinstance(definition, ast.FunctionDef):
        return None
    arguments = definition.args
    positional = [argument.arg for argument in (*arguments.posonlyargs, *arguments.args)]
    required = positional[skipped : len(positional) - len(arguments.defaults)]
    keywords = list(zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True))
    return CallParameters(
        names=(*positional[skipped:], *(argument.arg for argument, _ in keywords)),
        required=(*required, *(argument.arg for argument, default in keywords if default is None)),
        open_ended=arguments.kwarg is not None,
    )


def _find_definition(body: Sequence[ast.stmt], name: str) -> ast.ClassDef | ast.FunctionDef | None:
    """Return the one definition of a name; None if it is bound twice, or decorated: then its signature is unknown."""
    kinds = (ast.ClassDef, ast.FunctionDef)
    definitions = [node for node in body if isinstance(node, kinds) and node.name == name]
    return definitions[0] if len(definitions) == 1 and not definitions[0].decorator_list else None
