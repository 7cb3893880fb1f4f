"""What a notebook imports and nobody brings: neither the image, nor its own installs, nor the project."""

import ast
import re
import sys
from collections.abc import Iterable, Iterator

from offline_kit.adopting import literals, places, shell
from offline_kit.adopting.calls import Code
from offline_kit.adopting.folders import Folders
from offline_kit.adopting.nouns import Became, Found, Kind, Wish
from offline_kit.adopting.places import Ground
from offline_kit.adopting.verdicts import Basket, found_of
from offline_kit.package_lists import normalized
from offline_kit.rehearsal import imports

_KAGGLES = frozenset(
    {"kaggle_secrets", "kaggle_evaluation", "kaggle_web_client", "learntools", "kaggle_datasets"}
)
"""Modules of Kaggle's that no list of packages names."""
_NAMED = re.compile(r"^[A-Za-z0-9][\w.-]*")


def look(code: Code, ground: Ground, basket: Basket) -> Iterator[Found]:
    """Yield the imports that lack a package, each with what was done about it."""
    names: set[str] = set()
    imported = {name for tree in code.trees.values() for node in _imports(tree) for name in _tops(node)}
    for number, tree in code.trees.items():
        for node in _imports(tree):
            for name in _tops(node):
                if name not in names and not _is_there(name, ground, basket):
                    names.add(name)
                    text = code.reads[number].source.split("\n")[node.lineno - 1].strip()
                    wish = Wish(kind=Kind.IMPORT, cell=number, line=node.lineno, text=text, target=name)
                    yield _found(wish, imported, ground, basket)


def _imports(tree: ast.Module) -> Iterator[ast.Import | ast.ImportFrom]:
    """Yield the imports that are meant to succeed: one in a `try` may fail."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop(0)
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif not isinstance(node, ast.Try):
            waiting += ast.iter_child_nodes(node)


def _tops(node: ast.Import | ast.ImportFrom) -> list[str]:
    names = [one.name for one in node.names] if isinstance(node, ast.Import) else [node.module or ""]
    if isinstance(node, ast.ImportFrom) and (node.level or not node.module):
        return []
    return [name.partition(".")[0] for name in names]


def _is_there(name: str, ground: Ground, basket: Basket) -> bool:
    if name in sys.stdlib_module_names or name in _KAGGLES or name == "IPython":
        return True
    if imports.distributions([name], ground.image.packages):
        return True
    wanted = normalized(name)
    if any(each.startswith(f"{wanted}-") for each in ground.image.packages):
        return True
    if any(_gives(each, name) for each in _named(_asked_for(ground, basket))):
        return True
    inside = [folder for each in (*basket.modules, *basket.packages) for folder in (each, f"{each}/src")]
    return any(_module(ground, f"{folder}/{name}") for folder in inside)


def _named(lines: Iterable[str]) -> list[str]:
    """Return the names of the packages that lines of a requirements file name."""
    named = (_NAMED.match(line) for line in lines if not shell.is_nameless(line))
    return list(dict.fromkeys(found[0] for found in named if found))


def _gives(package: str, name: str) -> bool:
    """Whether a package is called so that it brings an import."""
    known = map(normalized, imports.DISTRIBUTIONS.get(name, ()))
    return normalized(package) in known or normalized(name) in normalized(package)


def _module(ground: Ground, place: str) -> str:
    """Return the name of a module or package of the project, relative to it; "" for none."""
    for candidate in (f"{place}.py", place):
        for hit in ground.beside(candidate):
            if hit.is_file() or any(hit.glob("*.py")):
                return ground.name(hit)
    return ""


def _found(wish: Wish, imported: Iterable[str], ground: Ground, basket: Basket) -> Found:
    for folder in ("", "src/"):
        if module := _module(ground, f"{folder}{wish.target}"):
            basket.modules[module] = None
            return found_of(wish, Became.MODULE, module)
    known = imports.DISTRIBUTIONS.get(wish.target, ())
    if not known and (found := _unnamed(wish, imported, ground, basket)):
        return found
    line = known[0] if known else wish.target.replace("_", "-")
    basket.requirements[line] = None
    if not known:
        basket.guesses[line] = wish.target
    remedy = "" if known else "the name is a guess from the import: see that the package is called so"
    return found_of(wish, Became.REQUIREMENT, line, remedy)


def _asked_for(ground: Ground, basket: Basket) -> list[str]:
    """Return the lines that the notebook installs: its own, and those of its requirements files."""
    lines = [*basket.requirements]
    for name in basket.files:
        path = ground.project / name
        text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
        found = (re.split(r"(?:^|\s)#", line)[0].strip() for line in text.splitlines())
        lines += [line.removeprefix("-e ").strip() for line in found if line]
    return lines


def _unnamed(wish: Wish, imported: Iterable[str], ground: Ground, basket: Basket) -> Found | None:
    """Return what an import probably comes from: a clone that is missing, or what is installed for no import else."""
    waiting = [folder for folder in basket.clones if folder not in basket.made]
    if waiting:
        folder = places.beside_name(waiting[0])
        first = f"clone '{folder}' beside the notebook" if folder else "see to the clone first"
        remedy = f"{first}, and adopt again: it may bring '{wish.target}'"
        return found_of(wish, Became.ASKED, wish.target, remedy)
    lines = [line for line in _asked_for(ground, basket) if line not in basket.guesses]
    nameless = [line for line in lines if shell.is_nameless(line)]
    if nameless:
        return found_of(wish, Became.KEPT, f"taken to come with {' or '.join(nameless)}")
    idle = [each for each in _named(lines) if not _is_used(each, imported, ground)]
    remedy = "where it comes with another package, write that into the requirements"
    return found_of(wish, Became.KEPT, f"taken to come with {' or '.join(idle)}", remedy) if idle else None


def _is_used(package: str, imported: Iterable[str], ground: Ground) -> bool:
    """Whether it is told what a package is for: an import that it is called like, or one that is known."""
    known = any(normalized(package) in map(normalized, each) for each in imports.DISTRIBUTIONS.values())
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
                path = places.joined(folders.at(number, call.lineno), text) if known else ""
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
