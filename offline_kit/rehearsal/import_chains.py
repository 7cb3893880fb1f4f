"""Find what importing a package imports in turn, by reading its files without running them.

Packages import what they do not declare: Kaggle's image has it, but in an environment made from declared requirements
the import fails. Only unconditional imports count: at module level, not in a function, not below a condition
(TYPE_CHECKING), not in a `try` that expects them to fail.
"""

import ast
import tarfile
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

_EXPECTED = {"ImportError", "ModuleNotFoundError", "Exception", "BaseException", "AttributeError", "OSError"}


def find_unavoidable_imports(archives: Iterable[Path], roots: Iterable[str]) -> frozenset[str]:
    """Return the top-level names outside these wheels and sdists that are imported along with `roots`.

    `roots` are dotted names of modules in the archives. Files that cannot be read or parsed are skipped.
    """
    waiting = list(roots)
    tops = {root.partition(".")[0] for root in waiting}
    modules: dict[str, tuple[str, bool]] = {}
    for path in archives:
        modules |= dict(_read_modules(path, tops))
    outside = set[str]()
    while waiting:
        # Each module is read once: it is taken out.
        module = waiting.pop()
        text, is_package = modules.pop(module, ("", False))
        for name in _find_imports(text, module if is_package else module.rpartition(".")[0]):
            words = name.split(".")
            if words[0] in tops:
                waiting += (".".join(words[:count]) for count in range(1, len(words) + 1))
            elif words[0]:
                outside.add(words[0])
    return frozenset(outside)


def _read_modules(path: Path, tops: set[str]) -> Iterator[tuple[str, tuple[str, bool]]]:
    """Yield name, source and "is a package" of an archive's modules, without the folders above a package."""
    try:
        for name, data in _read_members(path):
            parts = list(PurePosixPath(name).with_suffix("").parts)
            start = next((index for index, word in enumerate(parts) if word in tops), None)
            if start is not None:
                is_package = parts[-1] == "__init__"
                dotted = ".".join(parts[start : -1 if is_package else None])
                yield dotted, (data.decode("utf-8", errors="replace"), is_package)
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


def _find_imports(text: str, package: str) -> Iterator[str]:
    """Yield the dotted names that a module imports; a name imported from a module may be a module itself."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):
        return
    for node in _list_certain_statements(tree.body):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")
            # One dot is the package itself: https://docs.python.org/3/reference/import.html#package-relative-imports
            above = parents[: len(parents) - node.level + 1] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def _list_certain_statements(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield the statements that run on every import of the module."""
    for node in body:
        if isinstance(node, ast.Try):
            if not any(map(_expects_import_failure, node.handlers)):
                yield from _list_certain_statements([*node.body, *node.orelse, *node.finalbody])
        elif isinstance(node, (ast.With, ast.ClassDef)):
            yield from _list_certain_statements(node.body)
        else:
            yield node


def _expects_import_failure(handler: ast.ExceptHandler) -> bool:
    if handler.type is None:
        return True
    return bool(_EXPECTED & {node.id for node in ast.walk(handler.type) if isinstance(node, ast.Name)})
