"""Which packages of the image the user's own code imports, found without running any of it."""

import ast
import importlib.metadata
import json
import sys
import tomllib
import zipfile
from collections.abc import Container, Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path

from packaging.utils import canonicalize_name

from offline_kit.core import resources
from offline_kit.notebook import cells
from offline_kit.project import import_names


@cache
def _load_engines() -> dict[str, list[str]]:
    """Return the optional dependencies that no import names, by the function, keyword or module that needs them."""
    text = resources.data_file("import_names.toml").read_text(encoding="utf-8")
    return dict(tomllib.loads(text)["engines"])


def find_imports(text: str) -> frozenset[str]:
    """Return the top-level names that a piece of Python imports, optional engines included."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):
        return frozenset()
    modules, words = set[str](), set[str]()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            modules |= {node.module} if node.module and not node.level else set()
            words |= {alias.name for alias in node.names}
        elif isinstance(node, ast.Attribute):
            # A dotted engine has a name before each dot; other expressions are as long as they like.
            is_dotted = isinstance(node.value, ast.Name | ast.Attribute)
            words |= {node.attr, ast.unparse(node)} if is_dotted else {node.attr}
        elif isinstance(node, ast.Name):
            words.add(node.id)
        elif isinstance(node, ast.keyword):
            words.add(node.arg or "")
    # Without any import there is no library whose engine it could be.
    engines = {engine for word in words | modules for engine in _load_engines().get(word, ())}
    return frozenset({module.partition(".")[0] for module in modules} | (engines if modules else set()))


def find_file_imports(paths: Iterable[Path]) -> frozenset[str]:
    """Return the names that these files import: .py, .ipynb (magic lines left out), and wheels."""
    return frozenset(name for path in paths for text in _read_code(path) for name in find_imports(text))


def _read_code(path: Path) -> Iterator[str]:
    if path.suffix == ".py":
        yield path.read_text(encoding="utf-8", errors="replace")
    elif path.suffix == ".ipynb":
        for cell in json.loads(path.read_text(encoding="utf-8")).get("cells", ()):
            if cell.get("cell_type") == "code":
                yield cells.extract_import_code("".join(cell.get("source", "")))
    # A wheel of the project: what its code imports counts as the user's own.
    elif zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as wheel:
            for name in wheel.namelist():
                if name.endswith(".py"):
                    yield wheel.read(name).decode("utf-8", errors="replace")


@cache
def installed_imports() -> Mapping[str, list[str]]:
    """Return the distributions of the running environment by import name; reading them takes a while."""
    return importlib.metadata.packages_distributions()


def match_distributions(names: Iterable[str], installed: Container[str]) -> tuple[str, ...]:
    """Return the distributions among `installed` (normalized) that have these import names, sorted."""
    installed_names = installed_imports()
    matched = set()
    # The curated table first, the environment's own answer last: on the index the name may be somebody else's.
    for name in set(names) - sys.stdlib_module_names:
        guesses = (*import_names.find_distributions(name), name, *installed_names.get(name, ()))
        matched |= set([guess for guess in map(canonicalize_name, guesses) if guess in installed][:1])
    return tuple(sorted(matched))
