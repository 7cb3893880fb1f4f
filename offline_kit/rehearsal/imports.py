"""Which packages of the image the user's own code imports, found without running any of it."""

import ast
import importlib.metadata
import json
import sys
import zipfile
from collections.abc import Container, Iterable, Iterator
from pathlib import Path

from packaging.utils import canonicalize_name

from offline_kit import import_names
from offline_kit.adopting import cells


def of_source(text: str) -> frozenset[str]:
    """Return the top-level names that a piece of Python imports; nothing where it does not parse."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):
        return frozenset()
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return frozenset(found)


def of_files(paths: Iterable[Path]) -> frozenset[str]:
    """Return the names that these files import: .py, .ipynb (magic lines left out), and wheels."""
    return frozenset(name for path in paths for text in _texts(path) for name in of_source(text))


def of_formats(names: Iterable[str]) -> frozenset[str]:
    """Return what the notebook itself imports to read files of these names, though no code of the user's says so."""
    return frozenset({"safetensors"} if any(name.endswith(".safetensors") for name in names) else ())


def _texts(path: Path) -> Iterator[str]:
    if path.suffix == ".py":
        yield path.read_text(encoding="utf-8", errors="replace")
    elif path.suffix == ".ipynb":
        for cell in json.loads(path.read_text(encoding="utf-8")).get("cells", ()):
            if cell.get("cell_type") == "code":
                yield cells.imports_of("".join(cell.get("source", "")))
    elif zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as wheel:
            for name in wheel.namelist():
                if name.endswith(".py"):
                    yield wheel.read(name).decode("utf-8", errors="replace")


def distributions(names: Iterable[str], installed: Container[str]) -> tuple[str, ...]:
    """Return the distributions among `installed` (normalized) that have these import names, sorted."""
    known = importlib.metadata.packages_distributions()
    found = set()
    for name in names:
        if name in sys.stdlib_module_names:
            continue
        guesses = (*import_names.distributions_of(name), name, *known.get(name, ()))
        found |= set([guess for guess in map(canonicalize_name, guesses) if guess in installed][:1])
    return tuple(sorted(found))
