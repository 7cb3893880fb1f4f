"""What importing a package pulls in before anything of it is called, read from its files without running them.

Packages import what they do not declare: on Kaggle the image has it and nobody notices, in an environment made
of declared requirements alone their import fails. Only imports that cannot be avoided count: at module level,
not in a function, not under a condition (TYPE_CHECKING), not in a try that expects them to fail.
"""

import ast
import tarfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

_EXPECTED = {"ImportError", "ModuleNotFoundError", "Exception", "BaseException", "AttributeError", "OSError"}


@dataclass(frozen=True)
class _Import:
    """One import statement."""

    module: str
    """Absolute dotted name."""
    names: tuple[str, ...]
    """What is taken from it; each may be a module of its own."""


def unavoidable(archives: Iterable[Path], roots: Iterable[str]) -> frozenset[str]:
    """Return the top-level names outside these wheels and sdists that importing `roots` imports.

    `roots` are dotted names of modules in the archives. What cannot be read or parsed imports nothing.
    """
    tops = {root.partition(".")[0] for root in roots}
    sources: dict[str, tuple[str, bool]] = {}
    for path in archives:
        sources |= dict(_modules(path, tops))
    waiting, seen, outside = [*roots], set[str](), set[str]()
    while waiting:
        module = waiting.pop()
        if module in seen:
            continue
        seen.add(module)
        text, package = sources.get(module, ("", False))
        for one in _imports(text, module if package else module.rpartition(".")[0]):
            if one.module.partition(".")[0] in tops:
                waiting += _with_parents(one, sources)
            elif one.module:
                outside.add(one.module.partition(".")[0])
    return frozenset(outside)


def _with_parents(one: _Import, sources: Mapping[str, object]) -> Iterator[str]:
    words = one.module.split(".")
    yield from (".".join(words[:count]) for count in range(1, len(words) + 1))
    yield from (name for name in (f"{one.module}.{taken}" for taken in one.names) if name in sources)


def _modules(path: Path, tops: set[str]) -> Iterator[tuple[str, tuple[str, bool]]]:
    """Yield the modules of an archive by dotted name; the folders above a package do not count."""
    try:
        for name, data in _members(path):
            parts = list(PurePosixPath(name).with_suffix("").parts)
            start = next((place for place, word in enumerate(parts) if word in tops), None)
            if start is None:
                continue
            package = parts[-1] == "__init__"
            dotted = ".".join(parts[start : -1 if package else None])
            yield dotted, (data.decode("utf-8", errors="replace"), package)
    except (OSError, zipfile.BadZipFile, tarfile.TarError):
        return


def _members(path: Path) -> Iterator[tuple[str, bytes]]:
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


def _imports(text: str, package: str) -> Iterator[_Import]:
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):
        return
    for node in _certain(tree.body):
        if isinstance(node, ast.Import):
            yield from (_Import(alias.name, ()) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            yield _Import(module, tuple(alias.name for alias in node.names))


def _certain(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield the statements that run whenever the module is imported."""
    for node in body:
        if isinstance(node, ast.Try):
            yield from _certain([] if _expects_failure(node) else node.body)
            yield from _certain([*node.orelse, *node.finalbody] if not _expects_failure(node) else [])
        elif isinstance(node, (ast.With, ast.ClassDef)):
            yield from _certain(node.body)
        else:
            yield node


def _expects_failure(node: ast.Try) -> bool:
    for handler in node.handlers:
        caught = (
            {word.id for word in ast.walk(handler.type) if isinstance(word, ast.Name)}
            if handler.type
            else set()
        )
        if handler.type is None or caught & _EXPECTED:
            return True
    return False
