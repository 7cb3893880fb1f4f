"""Find imports that neither the notebook, the image, its installs nor the project provides, and resolve them."""

import ast
import importlib.metadata
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from offline_kit.adopt import literals, notebook_files, shell
from offline_kit.adopt.findings import (
    Collected,
    ExternalNeed,
    FindingResolution,
    NeedKind,
    ResolvedNeed,
    resolve_need,
)
from offline_kit.adopt.notebook_code import NotebookCode
from offline_kit.adopt.notebook_files import NotebookFiles, WorkingFolders
from offline_kit.adopt.provided_imports import ProvidedImports
from offline_kit.notebook import cells, imports
from offline_kit.project import import_names, references
from offline_kit.project.package_lists import normalize_name

_KAGGLE_MODULES = frozenset(
    {"kaggle_secrets", "kaggle_evaluation", "kaggle_web_client", "learntools", "kaggle_datasets"}
)
"""Modules that Kaggle provides outside of any package."""
_PACKAGE_NAME = re.compile(r"^[A-Za-z0-9][\w.-]*")
_IMPORT_COMMENT = re.compile(r"#\s*import\s+(?P<name>\w+)")
"""Names the import that a line of a requirements file is for."""
_COMMON_NAMES = frozenset(
    {"src", "utils", "util", "common", "lib", "core", "config", "configs", "helper", "helpers"}
    | {"models", "model", "data", "dataset", "main", "test", "tests", "tools", "scripts", "train"}
    | {"inference", "metrics", "modules"}
)
"""Import names too common to tell which distribution provides them."""


def resolve_imports(
    code: NotebookCode, files: NotebookFiles, collected: Collected, own: ProvidedImports
) -> Iterator[ResolvedNeed]:
    """Yield the imports without a provider, resolved; imported modules of the project are followed."""
    queue = list(_list_imports(code))
    imported = {need.target for need in queue}
    done: set[str] = set()
    while queue:
        need = queue.pop(0)
        if need.target in done or need.target in own.modules:
            continue
        done.add(need.target)
        if file := own.find_file(need.target):
            queue += _imports_of_file(file, need)
        elif not _is_provided(need.target, files, collected, own):
            resolved = _resolve_import(need, imported, files, collected, own)
            yield resolved
            if resolved.resolution is FindingResolution.MODULE:
                queue += _imports_of_file(files.project.resolve() / resolved.value, need)


def _list_imports(code: NotebookCode) -> Iterator[ExternalNeed]:
    """Yield the imports of cells and of the scripts that cells write."""
    for number, read in code.reads.items():
        lines = read.source.split("\n")
        for node, name in _top_level_imports(code.trees.get(number)):
            text = lines[node.lineno - 1].strip()
            yield ExternalNeed(kind=NeedKind.IMPORT, cell=number, line=node.lineno, text=text, target=name)
        for script in cells.find_scripts(read):
            before = read.line_number(script.start) - 1 if script.start >= 0 else 0
            for node, name in _top_level_imports(script.parse_tree()):
                text = script.text.split("\n")[node.lineno - 1].strip()
                line = before + node.lineno if script.start >= 0 else 1
                yield ExternalNeed(kind=NeedKind.IMPORT, cell=number, line=line, text=text, target=name)


def _imports_of_file(place: Path, importer: ExternalNeed) -> Iterator[ExternalNeed]:
    """Yield the imports of a module or package of the project, at the line that imports it."""
    files = [place] if place.is_file() else sorted(place.rglob("*.py"))
    own = {path.stem for path in files} | {place.stem} | {path.parent.name for path in files}
    for file in files:
        for _, name in _top_level_imports(references.parse_module(file)):
            if name not in own:
                text = f"{importer.text}  ('{file.name}' imports {name})"
                yield ExternalNeed(
                    kind=NeedKind.IMPORT, cell=importer.cell, line=importer.line, text=text, target=name
                )


def _top_level_imports(tree: ast.Module | None) -> Iterator[tuple[ast.stmt | ast.expr, str]]:
    """Yield the top-level names of imports; those in a `try` may fail and are left out."""
    waiting: list[ast.AST] = [tree] if tree else []
    while waiting:
        node = waiting.pop(0)
        if isinstance(node, ast.Import):
            yield from ((node, alias.name.partition(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.module and not node.level:
                yield node, node.module.partition(".")[0]
        elif not isinstance(node, ast.Try):
            if isinstance(node, ast.Call) and (name := _imported_by_call(node)):
                yield node, name
            waiting += ast.iter_child_nodes(node)


def _imported_by_call(call: ast.Call) -> str:
    """Return the top-level name that `importlib.import_module` or `__import__` imports; "" for other calls."""
    function = ast.unparse(call.func)
    if function not in ("import_module", "importlib.import_module", "__import__") or not call.args:
        return ""
    name = call.args[0].value if isinstance(call.args[0], ast.Constant) else ""
    return name.partition(".")[0] if isinstance(name, str) else ""


def _is_provided(name: str, files: NotebookFiles, collected: Collected, own: ProvidedImports) -> bool:
    if name in sys.stdlib_module_names or name in _KAGGLE_MODULES or name == "IPython":
        return True
    if imports.match_distributions([name], files.image.packages):
        return True
    normalized_name = normalize_name(name)
    if any(package.startswith(f"{normalized_name}-") for package in files.image.packages):
        return True
    if any(match["name"] == name for match in map(_IMPORT_COMMENT.search, files.lines) if match):
        return True
    if any(
        _provides_import(package, name)
        for package in _package_names((*_installed_lines(files, collected), *files.lines, *own.wheels))
    ):
        return True
    folders = [
        folder
        for package in (*collected.modules, *collected.packages)
        for folder in (package, f"{package}/src")
    ]
    return any(_find_module(files, f"{folder}/{name}") for folder in folders)


def _package_names(lines: Iterable[str]) -> list[str]:
    """Return the distribution names of requirement lines."""
    matches = (_PACKAGE_NAME.match(line) for line in lines if not shell.is_nameless(line))
    return list(dict.fromkeys(match[0] for match in matches if match))


def _provides_import(package: str, name: str) -> bool:
    """Whether a distribution's name suggests that it provides an import."""
    distributions = map(normalize_name, import_names.find_distributions(name))
    return normalize_name(package) in distributions or normalize_name(name) in normalize_name(package)


def _find_module(files: NotebookFiles, place: str) -> str:
    """Return the project's module or package at a path, relative to the project; "" for none."""
    for candidate in (f"{place}.py", place):
        for hit in files.find_beside(candidate):
            if hit.is_file() or any(hit.glob("*.py")):
                return files.relative_name(hit)
    return ""


def _resolve_import(
    need: ExternalNeed,
    imported: Iterable[str],
    files: NotebookFiles,
    collected: Collected,
    own: ProvidedImports,
) -> ResolvedNeed:
    name = need.target
    for folder in ("", "src/"):
        if module := _find_module(files, f"{folder}{name}"):
            collected.modules[module] = None
            return resolve_need(need, FindingResolution.MODULE, module)
    distributions = import_names.find_distributions(name) or _installed_distributions(name)
    if own.unavailable and not _is_named_like(name, distributions, own):
        origins = ", ".join(f"'{origin}'" for origin in own.unavailable[:3])
        if not distributions:
            return resolve_need(
                need,
                FindingResolution.UNCHANGED,
                f"taken to come from {origins}, which is not available here",
            )
        remedy = (
            f"if {origins} contains it, put a copy below 'input' and adopt again; otherwise run adopt with"
            f" `--import {name}={distributions[0]}`"
        )
        return resolve_need(need, FindingResolution.UNRESOLVED, name, remedy)
    if own.unavailable:
        return resolve_need(
            need, FindingResolution.UNCHANGED, f"taken to come from {', '.join(own.unavailable[:3])}"
        )
    if distributions:
        collected.requirements[distributions[0]] = None
        return resolve_need(need, FindingResolution.REQUIREMENT, distributions[0])
    if resolved := _guess_provider(need, imported, files, collected):
        return resolved
    remedy = (
        f"if it is your own module, put '{name}.py' next to the notebook; if it is on the package index,"
        f" run adopt with `--import {name}=DISTRIBUTION`"
    )
    return resolve_need(need, FindingResolution.UNRESOLVED, name, remedy)


def _is_named_like(name: str, known: Iterable[str], own: ProvidedImports) -> bool:
    """Whether an unavailable folder or archive is named like an import or its distribution."""
    names = {normalize_name(name) for name in (name, *known)}
    return any(name in normalize_name(origin) for name in names for origin in own.unavailable)


def _installed_distributions(name: str) -> tuple[str, ...]:
    """Return the distributions of the running environment that provide an import, except those built from a folder."""
    if name in _COMMON_NAMES:
        return ()
    distributions = imports.installed_imports().get(name, ())
    texts = {
        distribution: importlib.metadata.distribution(distribution).read_text("direct_url.json")
        for distribution in distributions
    }
    return tuple(normalize_name(distribution) for distribution, text in texts.items() if text is None)


def _installed_lines(files: NotebookFiles, collected: Collected) -> list[str]:
    """Return the requirements that the notebook installs, directly or from requirements files."""
    lines = [*collected.requirements]
    for name in collected.files:
        lines += [
            line.removeprefix("-e ").strip()
            for line in notebook_files.read_requirement_lines(files.project / name)
        ]
    return lines


def _guess_provider(
    need: ExternalNeed, imported: Iterable[str], files: NotebookFiles, collected: Collected
) -> ResolvedNeed | None:
    """Return the likely provider of an import: a missing clone, or an installed package without a known import."""
    missing_clones = [folder for folder in collected.clones if folder not in collected.laid_out]
    if missing_clones:
        folder = notebook_files.fetched_name(missing_clones[0])
        first = f"clone '{folder}' next to the notebook" if folder else "fix the clone first"
        remedy = f"{first}, and adopt again: it may contain '{need.target}'"
        return resolve_need(need, FindingResolution.UNRESOLVED, need.target, remedy)
    lines = _installed_lines(files, collected)
    nameless = [line for line in lines if shell.is_nameless(line)]
    if nameless:
        return resolve_need(need, FindingResolution.UNCHANGED, f"taken to come with {' or '.join(nameless)}")
    idle = [package for package in _package_names(lines) if not _has_known_import(package, imported, files)]
    remedy = "if another package provides it, add that to the requirements"
    return (
        resolve_need(need, FindingResolution.UNCHANGED, f"taken to come with {' or '.join(idle)}", remedy)
        if idle
        else None
    )


def _has_known_import(package: str, imported: Iterable[str], files: NotebookFiles) -> bool:
    """Whether a package's import is known, by its name or by the table of import names."""
    is_known = any(normalize_name(package) in import_names.find_distributions(name) for name in imported)
    # a package that the image has provides no import that the image lacks
    in_image = normalize_name(package) in files.image.packages
    return is_known or in_image or any(_provides_import(package, name) for name in imported)


def report_unread(code: NotebookCode) -> Iterator[ResolvedNeed]:
    """Yield the cells that this Python cannot parse."""
    for number, read in code.reads.items():
        if number not in code.trees:
            first = next((line.strip() for line in read.source.split("\n") if line.strip()), "")
            need = ExternalNeed(kind=NeedKind.UNREAD, cell=number, line=1, text=first)
            minor = "{}.{}".format(*sys.version_info)
            yield resolve_need(
                need,
                FindingResolution.UNCHANGED,
                f"Python {minor} cannot parse it: only magics and input paths were checked",
            )


def collect_path_folders(
    code: NotebookCode, files: NotebookFiles, collected: Collected, folders: WorkingFolders
) -> Iterator[ResolvedNeed]:
    """Yield the project's folders that are put on sys.path; they become modules."""
    for number, tree in code.trees.items():
        for call in _find_path_calls(tree.body):
            for node in call.args:
                text = literals.string_value(node, code.strings)
                is_known = text and "*" not in text
                path = (
                    notebook_files.join_run_path(folders.folder_at(number, call.lineno), text)
                    if is_known
                    else ""
                )
                hits = [hit for hit in files.find_beside(path) if hit.is_dir()]
                for hit in hits:
                    collected.modules[files.relative_name(hit)] = None
                    line = code.line_text(number, call.lineno)
                    need = ExternalNeed(kind=NeedKind.FILE, cell=number, line=call.lineno, text=line)
                    yield resolve_need(need, FindingResolution.MODULE, files.relative_name(hit))


def _find_path_calls(body: Iterable[ast.stmt]) -> Iterator[ast.Call]:
    for statement in body:
        for node in ast.walk(statement):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in (
                "sys.path.append",
                "sys.path.insert",
            ):
                yield node
