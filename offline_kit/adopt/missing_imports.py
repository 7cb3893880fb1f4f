"""Find imports that neither the notebook, the image, its installs nor the project provides, and resolve them."""

import ast
import contextlib
import importlib.metadata
import re
import shlex
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from offline_kit.adopt import shell
from offline_kit.adopt.findings import ExternalNeed, NeedKind, Outcome
from offline_kit.adopt.notebook_files import MOUNT, InspectedNotebook, join_run_path
from offline_kit.core.errors import ProjectError
from offline_kit.notebook import cells, imports
from offline_kit.project import import_names, references
from offline_kit.project.package_lists import normalize_name

_KAGGLE_MODULES = frozenset(
    {"IPython", "kaggle_secrets", "kaggle_evaluation", "kaggle_web_client", "learntools", "kaggle_datasets"}
)
"""Modules that every notebook on Kaggle has, without a package of their name."""
_IMPORTING_CALLS = ("import_module", "importlib.import_module", "__import__")
_PACKAGE_NAME = re.compile(r"^[A-Za-z0-9][\w.-]*")
_IMPORT_COMMENT = re.compile(r"#\s*import\s+(?P<name>\w+)")
"""Names the import that a line of a requirements file is for."""
_COMMON_NAME = re.compile(
    r"src|utils?|common|lib|core|configs?|helpers?|models?|data(set)?|main|tests?|tools|scripts|train|inference|metrics|modules"
)
"""Import names too common to tell which distribution provides them."""
_COPYING = re.compile(r"shutil\.(copy\w*|move)|os\.(rename|replace|symlink)|cp|mv|ln|rsync")
_UNPACKING = re.compile(r"unpack_archive|extractall|unzip|tar|7z|gunzip")
_PATH_CALLS = ("sys.path.append", "sys.path.insert", "sys.path.extend", "site.addsitedir")
_PYTHONPATH = re.compile(r"PYTHONPATH\s*[= ]\s*(?P<value>\S+)")


@dataclass(kw_only=True)
class ProvidedImports:
    """Providers of imports besides the image and the requirements."""

    modules: set[str] = field(default_factory=set)
    folders: dict[str, tuple[Path, ...]] = field(default_factory=dict)
    """Folder on the import path, archive, or folder of wheels: its copies in the project; () if it has none."""
    requirements: list[str] = field(default_factory=list)  # installed from the inputs

    def find_file(self, name: str) -> Path | None:
        """Return the module or package of this name in the project's copies of import path folders."""
        copies = [copy for paths in self.folders.values() for copy in paths]
        for path in (copy / candidate for copy in copies for candidate in (f"{name}.py", name)):
            if path.is_file() or (path.is_dir() and any(path.rglob("*.py"))):
                return path
        return None

    @property
    def unavailable(self) -> tuple[str, ...]:
        """Folders and archives that may provide an import but have no copy in the project."""
        return tuple(folder for folder, copies in self.folders.items() if not copies)


def _find_provided_imports(notebook: InspectedNotebook) -> ProvidedImports:
    """Collect the imports that the notebook provides itself; folders of the project on the import path become modules."""
    provided = ProvidedImports()
    for _, _, folder in notebook.folder_changes:
        _add_folder(folder, notebook, provided)
    for number, read in notebook.code.reads.items():
        for script in cells.find_scripts(read):  # any folder of its path may be on the import path
            names = (part.removesuffix(".py") for part in script.name.split("/"))
            provided.modules |= set(filter(str.isidentifier, names))
        for line, folder, is_shipped in _find_path_folders(notebook, number):
            path = join_run_path(notebook.folder_at(number, line), folder)
            copies = _add_folder(path, notebook, provided)
            for copy in copies if is_shipped and path and not MOUNT.match(path) else ():  # a module now
                name = notebook.relative_name(copy)
                notebook.modules[name] = None
                need = notebook.make_need(NeedKind.FILE, number, line)
                notebook.resolved.append(need.resolve(Outcome.MODULE, name))
        for action in shell.list_actions(notebook, number):
            _add_copies(action, notebook, provided)
    for need in notebook.needs:
        if need.kind is NeedKind.INSTALL:
            _add_local_installs(need, notebook, provided)
    return provided


def _add_folder(path: str, notebook: InspectedNotebook, provided: ProvidedImports) -> tuple[Path, ...]:
    """Add a folder of the import path, and return its copies in the project."""
    hits = notebook.find_run_path(path) if path else notebook.base_folders
    copies = tuple(hit for hit in hits if hit.is_dir())
    if copies or MOUNT.match(path):  # clones and downloads are asked for elsewhere
        provided.folders[path] = copies
    return copies


def _add_copies(action: shell.Action, notebook: InspectedNotebook, provided: ProvidedImports) -> None:
    """Add what a command or call copies or unpacks."""
    if _COPYING.fullmatch(action.name) and len(action.words) > 1:
        names = (word.rstrip("/").rpartition("/")[2].removesuffix(".py") for word in action.words)
        provided.modules |= set(filter(str.isidentifier, names))
        for word in action.words[:-1]:  # all files of a folder, copied next to the notebook
            folder, _, file = word.rpartition("/")
            if "*" in file:
                _add_folder(folder, notebook, provided)
    elif _UNPACKING.search(action.name):
        provided.folders = dict.fromkeys(action.words, ()) | provided.folders


def _find_path_folders(notebook: InspectedNotebook, number: int) -> Iterator[tuple[int, str, bool]]:
    """Yield the folders that a cell puts on the import path: line, folder, and whether by sys.path itself."""
    strings, read = notebook.code.strings, notebook.code.reads[number]
    for node in notebook.code.walk(number):
        values, is_shipped = list[ast.expr](), False
        if isinstance(node, ast.Call) and (name := notebook.code.full_name(node.func)) in _PATH_CALLS:
            values, is_shipped = node.args, name != "site.addsitedir"
        elif isinstance(node, ast.AugAssign | ast.Assign):
            target = ast.unparse(node.target if isinstance(node, ast.AugAssign) else node.targets[0])
            kind = ast.Constant if "PYTHONPATH" in target else ast.expr
            if kind is ast.Constant or target == "sys.path":
                values = [part for part in ast.walk(node.value) if isinstance(part, kind)]
        for value in values:
            for text in strings.listed(value) or (strings.value(value),):
                yield from ((value.lineno, folder, is_shipped) for folder in text.split(":") if folder)
    for magic in read.magics:
        if match := _PYTHONPATH.search(magic.text):
            folders = match["value"].split(":")
            line = read.line_number(magic.start)
            yield from ((line, folder, False) for folder in folders if folder and "$" not in folder)


def _add_local_installs(need: ExternalNeed, notebook: InspectedNotebook, provided: ProvidedImports) -> None:
    """Add what an install takes from the inputs: the names of packages, and where else an import may come from."""
    install = shell.parse_pip(shlex.split(need.target))
    if install is None or not (install.offline or install.local):
        return
    if install.offline:
        provided.requirements += install.requirements
        for path in (path for file in install.files for path in notebook.find_run_path(file)):
            provided.requirements += path.read_text(encoding="utf-8", errors="replace").split()
    for word in (*install.local, *install.links):
        files = [path for hit in notebook.find_run_path(word) for path in (hit, *hit.rglob("*.whl"))]
        wheels = [path for path in files if path.suffix == ".whl"]
        for wheel in wheels:
            with contextlib.suppress(ProjectError):
                provided.modules |= {
                    name.partition(".")[0] for name in import_names.read_wheel_imports(wheel)
                }
        if not wheels:
            provided.folders.setdefault(word, ())
            provided.requirements.append(word.rpartition("/")[2].partition("-")[0])


def resolve_imports(notebook: InspectedNotebook) -> Iterator[ExternalNeed]:
    """Yield the imports without a provider, resolved; imported modules of the project are followed."""
    provided = _find_provided_imports(notebook)
    queue = list(_list_imports(notebook))
    imported = {need.target for need in queue}
    done = set(provided.modules)
    while queue:
        need = queue.pop(0)
        if need.target in done:
            continue
        done.add(need.target)
        if file := provided.find_file(need.target):
            queue += _list_file_imports(file, need)
        elif not _is_provided(need.target, notebook, provided):
            resolved = _resolve_import(need, imported, notebook, provided)
            yield resolved
            if resolved.resolution is Outcome.MODULE:
                queue += _list_file_imports(notebook.project.resolve() / resolved.value, need)


def _list_imports(notebook: InspectedNotebook) -> Iterator[ExternalNeed]:
    for module in notebook.code.list_modules():
        lines = module.read.source.split("\n")
        for node, name in _top_level_imports(module.tree):
            text, line = lines[node.lineno - 1].strip(), module.line_in_cell(node.lineno)
            yield ExternalNeed(kind=NeedKind.IMPORT, cell=module.cell, line=line, text=text, target=name)


def _list_file_imports(path: Path, importer: ExternalNeed) -> Iterator[ExternalNeed]:
    """Yield the imports of a module or package of the project, at the line that imports it."""
    files = [path] if path.is_file() else sorted(path.rglob("*.py"))
    own = {path.stem, *(file.stem for file in files), *(file.parent.name for file in files)}
    for file in files:
        for _, name in _top_level_imports(references.parse_module(file)):
            if name not in own:
                text = f"{importer.text}  ('{file.name}' imports {name})"
                yield replace(importer, text=text, target=name)


def _top_level_imports(tree: ast.Module | None) -> Iterator[tuple[ast.stmt | ast.expr, str]]:
    """Yield the top-level names of imports; those in a `try` may fail and are left out."""
    waiting: list[ast.AST] = [tree] if tree else []
    while waiting:
        node = waiting.pop(0)
        match node:
            case ast.Import(names=aliases):
                yield from ((node, alias.name.partition(".")[0]) for alias in aliases)
            case ast.ImportFrom(module=name, level=level):
                if name and not level:
                    yield node, name.partition(".")[0]
            case ast.Call(func=function, args=[ast.Constant(value=str(name)), *_]) if (
                ast.unparse(function) in _IMPORTING_CALLS
            ):
                yield node, name.partition(".")[0]
            case ast.Try():
                pass
            case _:
                waiting += ast.iter_child_nodes(node)


def _is_provided(name: str, notebook: InspectedNotebook, provided: ProvidedImports) -> bool:
    packages, normal = notebook.image.packages, normalize_name(name)
    if name in sys.stdlib_module_names or name in _KAGGLE_MODULES:
        return True
    if imports.match_distributions([name], packages) or any(key.startswith(f"{normal}-") for key in packages):
        return True
    if _is_named(name, (*_installed_lines(notebook), *provided.requirements)):
        return True
    comments = map(_IMPORT_COMMENT.search, notebook.lines)
    if any(match["name"] == name for match in comments if match) or _is_named(name, notebook.lines):
        notebook.needs_own_requirements = True
        return True
    folders = [*notebook.modules, *notebook.packages]
    folders += [f"{folder}/src" for folder in folders]
    return any(_find_module(notebook, f"{folder}/{name}") for folder in folders)


def _is_named(name: str, lines: Iterable[str]) -> bool:
    """Whether a requirement's name suggests that it provides an import."""
    return any(_provides_import(package, name) for package in _package_names(lines))


def _package_names(lines: Iterable[str]) -> list[str]:
    matches = (_PACKAGE_NAME.match(line) for line in lines if not shell.is_nameless(line))
    return list(dict.fromkeys(match[0] for match in matches if match))


def _provides_import(package: str, name: str) -> bool:
    distributions = map(normalize_name, import_names.find_distributions(name))
    return normalize_name(package) in distributions or normalize_name(name) in normalize_name(package)


def _find_module(notebook: InspectedNotebook, path: str) -> str:
    """Return the project's module or package at a path, relative to the project; "" for none."""
    for hit in (*notebook.find_beside(f"{path}.py"), *notebook.find_beside(path)):
        if hit.is_file() or any(hit.glob("*.py")):
            return notebook.relative_name(hit)
    return ""


def _resolve_import(
    need: ExternalNeed, imported: set[str], notebook: InspectedNotebook, provided: ProvidedImports
) -> ExternalNeed:
    name = need.target
    if module := _find_module(notebook, name) or _find_module(notebook, f"src/{name}"):
        notebook.modules[module] = None
        return need.resolve(Outcome.MODULE, module)
    distributions = import_names.find_distributions(name) or _installed_distributions(name)
    # a folder or archive that nobody can look into here may contain it
    closed = provided.unavailable
    normal = {normalize_name(known) for known in (name, *distributions)}
    is_likely = any(known in normalize_name(origin) for known in normal for origin in closed)
    if distributions and closed and not is_likely:
        origins = ", ".join(f"'{origin}'" for origin in closed[:3])
        return need.ask(
            f"if {origins} contains it, put a copy below 'input' and adopt again; otherwise run adopt with"
            f" `--import {name}={distributions[0]}`"
        )
    if distributions and not is_likely:
        notebook.requirements[distributions[0]] = None
        return need.resolve(Outcome.REQUIREMENT, distributions[0])
    if any(need.kind is NeedKind.CLONE for need in notebook.needs):
        return need.ask_to_record("put the clone that may contain it next to the notebook and adopt again")
    lines = _installed_lines(notebook)
    # a package that the image has provides no import that the image lacks
    added = [key for key in _package_names(lines) if normalize_name(key) not in notebook.image.packages]
    idle = [package for package in added if not any(_provides_import(package, other) for other in imported)]
    if likely := closed[:3] or tuple(filter(shell.is_nameless, lines)) or tuple(idle):
        return need.resolve(Outcome.UNCHANGED, f"taken to come with {' or '.join(likely)}")
    return need.ask(
        f"if it is your own module, put '{name}.py' next to the notebook; if it is on the package index, run adopt with"
        f" `--import {name}=DISTRIBUTION`"
    )


def _installed_distributions(name: str) -> tuple[str, ...]:
    """Return the distributions of the running environment that provide an import, except those built from a folder."""
    names = imports.installed_imports().get(name, ()) if not _COMMON_NAME.fullmatch(name) else ()
    distributions = map(importlib.metadata.distribution, names)
    return tuple(
        normalize_name(item.name) for item in distributions if item.read_text("direct_url.json") is None
    )


def _installed_lines(notebook: InspectedNotebook) -> list[str]:
    """Return the requirements that the notebook installs, directly or from requirements files."""
    lines = [*notebook.requirements]
    for path in (notebook.project / name for name in notebook.requirement_files):
        text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
        plain = (re.split(r"(?:^|\s)#", line)[0].strip() for line in text.splitlines())
        lines += [line.removeprefix("-e ").strip() for line in plain if line]
    return lines
