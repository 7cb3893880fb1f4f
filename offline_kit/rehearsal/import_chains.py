"""Find what importing a package imports in turn, by reading its files without running them.

Packages import what they do not declare: Kaggle's image has it, but in an environment made from declared requirements
the import fails. Only unconditional imports count: at module level, not in a function, not below a condition
(TYPE_CHECKING), not in a `try` that expects them to fail.
"""

import ast
import tarfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

_EXPECTED = {"ImportError", "ModuleNotFoundError", "Exception", "BaseException", "AttributeError", "OSError"}


@dataclass(frozen=True)
class ImportStatement:
    """One import statement."""

    module: str
    """Absolute dotted name."""
    names: tuple[str, ...]
    """Names imported from the module; each may be a module itself."""


def find_unavoidable_imports(archives: Iterable[Path], roots: Iterable[str]) -> frozenset[str]:
    """Return the top-level names outside these wheels and sdists that are imported along with `roots`.

    `roots` are dotted names of modules in the archives. Files that cannot be read or parsed are skipped.
    """
    tops = {root.partition(".")[0] for root in roots}
    sources: dict[str, tuple[str, bool]] = {}
    for path in archives:
        sources |= dict(_read_modules(path, tops))
    waiting, visited, outside = [*roots], set[str](), set[str]()
    while waiting:
        module = waiting.pop()
        if module in visited:
            continue
        visited.add(module)
        text, package = sources.get(module, ("", False))
        for statement in _find_imports(text, module if package else module.rpartition(".")[0]):
            if statement.module.partition(".")[0] in tops:
                waiting += _list_with_parents(statement, sources)
            elif statement.module:
                outside.add(statement.module.partition(".")[0])
    return frozenset(outside)


def _list_with_parents(statement: ImportStatement, sources: Mapping[str, object]) -> Iterator[str]:
    words = statement.module.split(".")
    yield from (".".join(words[:count]) for count in range(1, len(words) + 1))
    yield from (
        name
        for name in (f"{statement.module}.{imported_name}" for imported_name in statement.names)
        if name in sources
    )


def _read_modules(path: Path, tops: set[str]) -> Iterator[tuple[str, tuple[str, bool]]]:
    """Yield name, source and "is a package" of an archive's modules, without the folders above a package."""
    try:
        for name, data in _read_members(path):
            parts = list(PurePosixPath(name).with_suffix("").parts)
            start = next((index for index, word in enumerate(parts) if word in tops), None)
            if start is None:
                continue
            package = parts[-1] == "__init__"
            dotted = ".".join(parts[start : -1 if package else None])
            yield dotted, (data.decode("utf-8", errors="replace"), package)
    except (OSError, zipfile.BadZipFile, tarfile.TarError):
        return


def _read_members(path: Path) -> Iterator[tuple[str, bytes]]:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if name.endswith(".py"):
                    yield name, archive.read(name)
        return
    with tarfile.open(path) as tar:
        for member in tar:
            stream = tar.extractfile(member) if member.isfile() and member.name.endswith(".py") else None
            if stream:
                yield member.name, stream.read()


def _find_imports(text: str, package: str) -> Iterator[ImportStatement]:
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):
        return
    for node in _list_certain_statements(tree.body):
        if isinstance(node, ast.Import):
            yield from (ImportStatement(alias.name, ()) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            yield ImportStatement(module, tuple(alias.name for alias in node.names))


def _list_certain_statements(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield the statements that run on every import of the module."""
    for node in body:
        if isinstance(node, ast.Try):
            if not _expects_import_failure(node):
                yield from _list_certain_statements([*node.body, *node.orelse, *node.finalbody])
        elif isinstance(node, (ast.With, ast.ClassDef)):
            yield from _list_certain_statements(node.body)
        else:
            yield node


def _expects_import_failure(node: ast.Try) -> bool:
    for handler in node.handlers:
        names = ast.walk(handler.type) if handler.type else ()
        if handler.type is None or _EXPECTED & {name.id for name in names if isinstance(name, ast.Name)}:
            return True
    return False
