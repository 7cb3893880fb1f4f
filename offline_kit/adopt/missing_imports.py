"""What a notebook imports and nobody brings: neither itself, nor the image, nor its installs, nor the project."""

import ast
import importlib.metadata
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from offline_kit.adopt import file_places, literals, shell
from offline_kit.adopt.calls import Code
from offline_kit.adopt.file_places import Ground
from offline_kit.adopt.findings import Became, Found, Kind, Wish
from offline_kit.adopt.outcomes import Basket, found_of
from offline_kit.adopt.own_names import OwnNames
from offline_kit.adopt.working_folders import Folders
from offline_kit.notebook import cells, imports
from offline_kit.project import import_names, references
from offline_kit.project.package_lists import normalized

_KAGGLES = frozenset(
    {"kaggle_secrets", "kaggle_evaluation", "kaggle_web_client", "learntools", "kaggle_datasets"}
)
"""Modules of Kaggle's that no list of packages names."""
_NAMED = re.compile(r"^[A-Za-z0-9][\w.-]*")
_ANSWER = re.compile(r"#\s*import\s+(?P<name>\w+)")
"""How a line of a requirements file says which import it is for."""
_COMMON = frozenset(
    {
        "src",
        "utils",
        "util",
        "common",
        "lib",
        "core",
        "config",
        "configs",
        "helper",
        "helpers",
        "models",
        "model",
    }
    | {
        "data",
        "dataset",
        "main",
        "test",
        "tests",
        "tools",
        "scripts",
        "train",
        "inference",
        "metrics",
        "modules",
    }
)
"""Names that an installed package may have by accident; they say nothing of where an import comes from."""


def look(code: Code, ground: Ground, basket: Basket, own: OwnNames) -> Iterator[Found]:
    """Yield the imports that lack a package, each with what was done about it.

    Modules of the project that are imported are read for their own imports, and so are scripts that cells write.
    """
    waiting = list(_written_imports(code))
    imported = {wish.target for wish in waiting}
    names: set[str] = set()
    while waiting:
        wish = waiting.pop(0)
        if wish.target in names or wish.target in own.modules:
            continue
        names.add(wish.target)
        if file := own.file_of(wish.target):
            waiting += _imports_of_file(file, wish)
        elif not _is_there(wish.target, ground, basket, own):
            found = _found(wish, imported, ground, basket, own)
            yield found
            if found.became is Became.MODULE:
                waiting += _imports_of_file(ground.project.resolve() / found.value, wish)


def _written_imports(code: Code) -> Iterator[Wish]:
    """Yield the imports of cells and of the scripts that they write."""
    for number, read in code.reads.items():
        lines = read.source.split("\n")
        for node, name in _tops(code.trees.get(number)):
            text = lines[node.lineno - 1].strip()
            yield Wish(kind=Kind.IMPORT, cell=number, line=node.lineno, text=text, target=name)
        for script in cells.scripts_of(read):
            before = read.line(script.start) - 1 if script.start >= 0 else 0
            for node, name in _tops(script.tree()):
                text = script.text.split("\n")[node.lineno - 1].strip()
                line = before + node.lineno if script.start >= 0 else 1
                yield Wish(kind=Kind.IMPORT, cell=number, line=line, text=text, target=name)


def _imports_of_file(place: Path, importer: Wish) -> Iterator[Wish]:
    """Yield what a module or package of the project imports, told at the line that imports it."""
    files = [place] if place.is_file() else sorted(place.rglob("*.py"))
    own = {path.stem for path in files} | {place.stem} | {path.parent.name for path in files}
    for file in files:
        for _, name in _tops(references.parse(file)):
            if name not in own:
                text = f"{importer.text}  ('{file.name}' imports {name})"
                yield Wish(kind=Kind.IMPORT, cell=importer.cell, line=importer.line, text=text, target=name)


def _tops(tree: ast.Module | None) -> Iterator[tuple[ast.stmt | ast.expr, str]]:
    """Yield the top-level names of imports that are meant to succeed: one in a `try` may fail."""
    waiting: list[ast.AST] = [tree] if tree else []
    while waiting:
        node = waiting.pop(0)
        if isinstance(node, ast.Import):
            yield from ((node, alias.name.partition(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.module and not node.level:
                yield node, node.module.partition(".")[0]
        elif not isinstance(node, ast.Try):
            if isinstance(node, ast.Call) and (name := _called_for(node)):
                yield node, name
            waiting += ast.iter_child_nodes(node)


def _called_for(call: ast.Call) -> str:
    """Return the top-level name that `importlib.import_module` or `__import__` is called for, else ""."""
    function = ast.unparse(call.func)
    if function not in ("import_module", "importlib.import_module", "__import__") or not call.args:
        return ""
    name = call.args[0].value if isinstance(call.args[0], ast.Constant) else ""
    return name.partition(".")[0] if isinstance(name, str) else ""


def _is_there(name: str, ground: Ground, basket: Basket, own: OwnNames) -> bool:
    if name in sys.stdlib_module_names or name in _KAGGLES or name == "IPython":
        return True
    if imports.distributions([name], ground.image.packages):
        return True
    wanted = normalized(name)
    if any(each.startswith(f"{wanted}-") for each in ground.image.packages):
        return True
    if any(_ANSWER.search(line) and _ANSWER.search(line)["name"] == name for line in ground.lines):  # type: ignore[index]
        return True
    if any(_gives(each, name) for each in _named((*_asked_for(ground, basket), *ground.lines, *own.wheels))):
        return True
    inside = [folder for each in (*basket.modules, *basket.packages) for folder in (each, f"{each}/src")]
    return any(_module(ground, f"{folder}/{name}") for folder in inside)


def _named(lines: Iterable[str]) -> list[str]:
    """Return the names of the packages that lines of a requirements file name."""
    named = (_NAMED.match(line) for line in lines if not shell.is_nameless(line))
    return list(dict.fromkeys(found[0] for found in named if found))


def _gives(package: str, name: str) -> bool:
    """Whether a package is called so that it brings an import."""
    known = map(normalized, import_names.distributions_of(name))
    return normalized(package) in known or normalized(name) in normalized(package)


def _module(ground: Ground, place: str) -> str:
    """Return the name of a module or package of the project, relative to it; "" for none."""
    for candidate in (f"{place}.py", place):
        for hit in ground.beside(candidate):
            if hit.is_file() or any(hit.glob("*.py")):
                return ground.name(hit)
    return ""


def _found(wish: Wish, imported: Iterable[str], ground: Ground, basket: Basket, own: OwnNames) -> Found:
    name = wish.target
    for folder in ("", "src/"):
        if module := _module(ground, f"{folder}{name}"):
            basket.modules[module] = None
            return found_of(wish, Became.MODULE, module)
    known = import_names.distributions_of(name) or _installed(name)
    if own.elsewhere and not _is_called(name, known, own):
        where = ", ".join(f"'{each}'" for each in own.elsewhere[:3])
        if not known:
            return found_of(wish, Became.KEPT, f"taken to come from {where}, which is not here to look into")
        remedy = (
            f"put a copy of {where} below 'input' and adopt again if it comes from there; run adopt with"
            f" `--import {name}={known[0]}` if not"
        )
        return found_of(wish, Became.ASKED, name, remedy)
    if own.elsewhere:
        return found_of(wish, Became.KEPT, f"taken to come from {', '.join(own.elsewhere[:3])}")
    if known:
        basket.requirements[known[0]] = None
        return found_of(wish, Became.REQUIREMENT, known[0])
    if found := _unnamed(wish, imported, ground, basket):
        return found
    remedy = (
        f"put '{name}.py' beside the notebook if it is yours; name the distribution that it comes from if it is on"
        f" the package index: run adopt with `--import {name}=DISTRIBUTION`"
    )
    return found_of(wish, Became.ASKED, name, remedy)


def _is_called(name: str, known: Iterable[str], own: OwnNames) -> bool:
    """Whether something that is not here is called like an import or its distribution."""
    wanted = {normalized(each) for each in (name, *known)}
    return any(each in normalized(place) for each in wanted for place in own.elsewhere)


def _installed(name: str) -> tuple[str, ...]:
    """Return the distributions of the running environment that have an import; those built from a folder tell nothing."""
    if name in _COMMON:
        return ()
    found = imports.installed_imports().get(name, ())
    texts = {each: importlib.metadata.distribution(each).read_text("direct_url.json") for each in found}
    return tuple(normalized(each) for each, text in texts.items() if text is None)


def _asked_for(ground: Ground, basket: Basket) -> list[str]:
    """Return the lines that the notebook installs: its own, and those of its requirements files."""
    lines = [*basket.requirements]
    for name in basket.files:
        lines += [
            line.removeprefix("-e ").strip() for line in file_places.requirement_lines(ground.project / name)
        ]
    return lines


def _unnamed(wish: Wish, imported: Iterable[str], ground: Ground, basket: Basket) -> Found | None:
    """Return what an import probably comes from: a clone that is missing, or what is installed for no import else."""
    waiting = [folder for folder in basket.clones if folder not in basket.made]
    if waiting:
        folder = file_places.beside_name(waiting[0])
        first = f"clone '{folder}' beside the notebook" if folder else "see to the clone first"
        remedy = f"{first}, and adopt again: it may bring '{wish.target}'"
        return found_of(wish, Became.ASKED, wish.target, remedy)
    lines = _asked_for(ground, basket)
    nameless = [line for line in lines if shell.is_nameless(line)]
    if nameless:
        return found_of(wish, Became.KEPT, f"taken to come with {' or '.join(nameless)}")
    idle = [each for each in _named(lines) if not _is_used(each, imported, ground)]
    remedy = "if it comes with another package, write that into the requirements"
    return found_of(wish, Became.KEPT, f"taken to come with {' or '.join(idle)}", remedy) if idle else None


def _is_used(package: str, imported: Iterable[str], ground: Ground) -> bool:
    """Whether it is known what a package is for: an import that it is called like, or one of the table."""
    known = any(normalized(package) in import_names.distributions_of(name) for name in imported)
    # what the image has too brings nothing that the image lacks
    in_image = normalized(package) in ground.image.packages
    return known or in_image or any(_gives(package, name) for name in imported)


def unread(code: Code) -> Iterator[Found]:
    """Yield the cells that this Python cannot read."""
    for number, read in code.reads.items():
        if number not in code.trees:
            first = next((line.strip() for line in read.source.split("\n") if line.strip()), "")
            wish = Wish(kind=Kind.UNREAD, cell=number, line=1, text=first)
            minor = "{}.{}".format(*sys.version_info)
            yield found_of(
                wish,
                Became.KEPT,
                f"no Python as Python {minor} reads it: it was looked through for magics and mounts alone",
            )


def path_folders(code: Code, ground: Ground, basket: Basket, folders: Folders) -> Iterator[Found]:
    """Yield the folders that are put on sys.path and lie in the project: they travel as modules."""
    for number, tree in code.trees.items():
        for call in _path_calls(tree.body):
            for node in call.args:
                text = literals.text(node, code.known)
                known = text and "*" not in text
                path = file_places.joined(folders.at(number, call.lineno), text) if known else ""
                hits = [hit for hit in ground.beside(path) if hit.is_dir()]
                for hit in hits:
                    basket.modules[ground.name(hit)] = None
                    line = code.reads[number].source.split("\n")[call.lineno - 1].strip()
                    wish = Wish(kind=Kind.FILE, cell=number, line=call.lineno, text=line)
                    yield found_of(wish, Became.MODULE, ground.name(hit))


def _path_calls(body: Iterable[ast.stmt]) -> Iterator[ast.Call]:
    for statement in body:
        for node in ast.walk(statement):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in (
                "sys.path.append",
                "sys.path.insert",
            ):
                yield node
