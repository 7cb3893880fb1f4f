"""Find imports that neither the notebook, the image, its installs nor the project provides, and resolve them."""

import ast
import contextlib
import importlib.metadata
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from offline_kit.adopt import shell
from offline_kit.adopt.findings import ExternalNeed, NeedKind, Outcome
from offline_kit.adopt.notebook_files import MOUNT, InspectedNotebook, fetched_name, join_run_path
from offline_kit.core.errors import ProjectError
from offline_kit.notebook import cells, imports
from offline_kit.project import import_names, references
from offline_kit.project.package_lists import normalize_name

_KAGGLE_MODULES = frozenset(
    {"kaggle_secrets", "kaggle_evaluation", "kaggle_web_client", "learntools", "kaggle_datasets"}
)
"""Modules that Kaggle provides outside of any package."""
_IMPORTING_CALLS = ("import_module", "importlib.import_module", "__import__")
_PACKAGE_NAME = re.compile(r"^[A-Za-z0-9][\w.-]*")
_IMPORT_COMMENT = re.compile(r"#\s*import\s+(?P<name>\w+)")
"""Names the import that a line of a requirements file is for."""
_COMMON_NAMES = frozenset(
    {"src", "utils", "util", "common", "lib", "core", "config", "configs", "helper", "helpers"}
    | {"models", "model", "data", "dataset", "main", "test", "tests", "tools", "scripts", "train"}
    | {"inference", "metrics", "modules"}
)
"""Import names too common to tell which distribution provides them."""
_COPY_CALLS = frozenset(
    {"shutil.copy", "shutil.copy2", "shutil.copyfile", "shutil.copytree", "shutil.move", "os.rename"}
    | {"os.replace", "os.symlink", "cp", "mv", "ln", "rsync"}
)
_UNPACK_CALLS = re.compile(r"unpack_archive|extractall|unzip|tar|7z|gunzip")
_PATH_CALLS = frozenset(
    {"sys.path.append", "sys.path.insert", "sys.path.extend", "site.addsitedir", "os.chdir", "chdir"}
)
_PYTHONPATH = re.compile(r"PYTHONPATH\s*[= ]\s*(?P<value>\S+)")


@dataclass(kw_only=True)
class ProvidedImports:
    """Providers of imports besides the image and the requirements."""

    modules: set[str] = field(default_factory=set)
    folders: dict[str, tuple[Path, ...]] = field(default_factory=dict)
    """Folder on the import path: its copies in the project; () if there are none."""
    requirements: list[str] = field(default_factory=list)  # installed from the inputs
    unknown: dict[str, None] = field(default_factory=dict)
    """Archives and folders of wheels without a copy in the project: their contents are unknown."""

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
        return (*(folder for folder, copies in self.folders.items() if not copies), *self.unknown)


def find_provided_imports(notebook: InspectedNotebook) -> ProvidedImports:
    """Collect the imports that the notebook provides itself."""
    provided = ProvidedImports()
    for number, read in notebook.code.reads.items():
        for script in cells.find_scripts(read):  # any folder of its path may be on the import path
            names = (part.removesuffix(".py") for part in script.name.split("/"))
            provided.modules |= set(filter(str.isidentifier, names))
        for line, folder, is_shipped in _find_path_folders(notebook, number):
            path = join_run_path(notebook.folder_at(number, line), folder)
            copies = _find_copies(path, notebook)
            if copies or MOUNT.match(path):  # clones and downloads are decided on elsewhere
                provided.folders[path] = copies
            for copy in copies if is_shipped and path and not MOUNT.match(path) else ():  # a module now
                name = notebook.relative_name(copy)
                notebook.modules[name] = None
                need = notebook.make_need(NeedKind.FILE, number, line)
                notebook.record(need.resolve(Outcome.MODULE, name))
        for action in shell.list_actions(notebook, number):
            _add_copies(action, notebook, provided)
    for need in notebook.needs:
        if need.kind is NeedKind.INSTALL:
            _add_local_installs(need, notebook, provided)
    return provided


def _add_copies(action: shell.Action, notebook: InspectedNotebook, provided: ProvidedImports) -> None:
    """Add what a command or call copies or unpacks."""
    if action.name in _COPY_CALLS and len(action.words) > 1:
        names = (word.rstrip("/").rpartition("/")[2].removesuffix(".py") for word in action.words)
        provided.modules |= set(filter(str.isidentifier, names))
        for word in action.words[:-1]:  # all files of a folder, copied next to the notebook
            folder, _, file = word.rpartition("/")
            if "*" in file:
                provided.folders[folder] = _find_copies(folder, notebook)
    elif _UNPACK_CALLS.search(action.name):
        provided.unknown |= dict.fromkeys(word for word in action.words if not word.startswith("-"))


def _find_copies(path: str, notebook: InspectedNotebook) -> tuple[Path, ...]:
    hits = notebook.find_run_path(path) if path else notebook.base_folders
    return tuple(hit for hit in hits if hit.is_dir())


def _find_path_folders(notebook: InspectedNotebook, number: int) -> Iterator[tuple[int, str, bool]]:
    """Yield the folders that a cell puts on the import path: line, folder, and whether by sys.path itself."""
    strings, read = notebook.code.strings, notebook.code.reads[number]
    for node in notebook.code.walk(number):
        values, is_shipped = list[ast.expr](), False
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute | ast.Name):
            name = ast.unparse(node.func)
            values, is_shipped = node.args if name in _PATH_CALLS else [], name.startswith("sys.path.")
        elif isinstance(node, ast.AugAssign | ast.Assign):
            target = ast.unparse(node.target if isinstance(node, ast.AugAssign) else node.targets[0])
            inner = [expression for expression in ast.walk(node.value) if isinstance(expression, ast.expr)]
            if "PYTHONPATH" in target:
                inner = [expression for expression in inner if isinstance(expression, ast.Constant)]
            values = inner if target == "sys.path" or "PYTHONPATH" in target else []
        for value in values:
            for part in value.elts if isinstance(value, ast.List | ast.Tuple) else [value]:
                folders = strings.value(part).split(":")
                yield from ((part.lineno, folder, is_shipped) for folder in folders if folder)
    for magic in read.magics:
        line, words = read.line_number(magic.start), magic.text.split()[1:]
        if magic.name == "cd" and words:
            yield line, strings.fill(words[-1].strip("\"'")), False
        if match := _PYTHONPATH.search(magic.text):
            folders = match["value"].split(":")
            yield from ((line, folder, False) for folder in folders if folder and "$" not in folder)


def _add_local_installs(need: ExternalNeed, notebook: InspectedNotebook, provided: ProvidedImports) -> None:
    """Add what an install takes from the inputs: the imports of wheels, and names where their files are unknown."""
    install = shell.parse_pip_install(need.target)
    if install is None or not (install.offline or install.local):
        return
    if install.offline:
        provided.requirements += install.requirements
        for path in (path for file in install.files for path in _list_files(file, notebook)):
            provided.requirements += path.read_text(encoding="utf-8", errors="replace").split()
    for word in (*install.local, *install.links):
        wheels = [path for path in _list_files(word, notebook) if path.suffix == ".whl"]
        for wheel in wheels:
            with contextlib.suppress(ProjectError):
                names = import_names.read_wheel_imports(wheel)
                provided.modules |= {name.partition(".")[0] for name in names}
        if not wheels:
            provided.unknown[word] = None
            provided.requirements.append(word.rpartition("/")[2].partition("-")[0])


def _list_files(path: str, notebook: InspectedNotebook) -> list[Path]:
    hits = notebook.find_run_path(path)
    return [file for hit in hits for file in (sorted(hit.rglob("*")) if hit.is_dir() else [hit])]


def resolve_imports(notebook: InspectedNotebook, provided: ProvidedImports) -> Iterator[ExternalNeed]:
    """Yield the imports without a provider, resolved; imported modules of the project are followed."""
    queue = list(_list_imports(notebook))
    imported = {need.target for need in queue}
    done: set[str] = set()
    while queue:
        need = queue.pop(0)
        if need.target in done or need.target in provided.modules:
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
    code = notebook.code
    for number, read in code.reads.items():
        for node, name in _top_level_imports(code.trees.get(number)):
            yield notebook.make_need(NeedKind.IMPORT, number, node.lineno, name)
        for script in cells.find_scripts(read):
            before = read.line_number(script.start) - 1 if script.start >= 0 else 0
            lines = script.text.split("\n")
            for node, name in _top_level_imports(script.parse_tree()):
                line, text = before + node.lineno if script.start >= 0 else 1, lines[node.lineno - 1].strip()
                yield ExternalNeed(kind=NeedKind.IMPORT, cell=number, line=line, text=text, target=name)


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
    if name in sys.stdlib_module_names or name in _KAGGLE_MODULES or name == "IPython":
        return True
    if imports.match_distributions([name], packages):
        return True
    if any(package.startswith(f"{normal}-") for package in packages):
        return True
    lines = (*_installed_lines(notebook), *provided.requirements)
    if any(_provides_import(package, name) for package in _package_names(lines)):
        return True
    comments = map(_IMPORT_COMMENT.search, notebook.lines)
    if any(match["name"] == name for match in comments if match) or any(
        _provides_import(package, name) for package in _package_names(notebook.lines)
    ):
        notebook.needs_own_requirements = True
        return True
    folders = [*notebook.modules, *notebook.packages]
    folders += [f"{folder}/src" for folder in folders]
    return any(_find_module(notebook, f"{folder}/{name}") for folder in folders)


def _package_names(lines: Iterable[str]) -> list[str]:
    matches = (_PACKAGE_NAME.match(line) for line in lines if not shell.is_nameless(line))
    return list(dict.fromkeys(match[0] for match in matches if match))


def _provides_import(package: str, name: str) -> bool:
    """Whether a distribution's name suggests that it provides an import."""
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
    if unavailable := provided.unavailable[:3]:
        # a folder or archive that nobody can look into here may contain it
        normal = {normalize_name(known) for known in (name, *distributions)}
        likely = any(known in normalize_name(origin) for known in normal for origin in provided.unavailable)
        if likely:
            return need.resolve(Outcome.UNCHANGED, f"taken to come from {', '.join(unavailable)}")
        origins = ", ".join(f"'{origin}'" for origin in unavailable)
        if not distributions:
            value = f"taken to come from {origins}, which is not available here"
            return need.resolve(Outcome.UNCHANGED, value)
        return need.ask(
            f"if {origins} contains it, put a copy below 'input' and adopt again; otherwise run adopt with"
            f" `--import {name}={distributions[0]}`"
        )
    if distributions:
        notebook.requirements[distributions[0]] = None
        return need.resolve(Outcome.REQUIREMENT, distributions[0])
    return _guess_provider(need, imported, notebook)


def _installed_distributions(name: str) -> tuple[str, ...]:
    """Return the distributions of the running environment that provide an import, except those built from a folder."""
    names = imports.installed_imports().get(name, ()) if name not in _COMMON_NAMES else ()
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


def _guess_provider(need: ExternalNeed, imported: set[str], notebook: InspectedNotebook) -> ExternalNeed:
    """Name the likely provider of an import: a missing clone, or an installed package without a known import."""
    missing_clones = [folder for folder in notebook.clones if folder not in notebook.laid_out]
    if missing_clones:
        folder = fetched_name(missing_clones[0])
        first = f"clone '{folder}' next to the notebook" if folder else "fix the clone first"
        return need.ask(f"{first}, and adopt again: it may contain '{need.target}'")
    lines = _installed_lines(notebook)
    if nameless := [line for line in lines if shell.is_nameless(line)]:
        return need.resolve(Outcome.UNCHANGED, f"taken to come with {' or '.join(nameless)}")
    # a package that the image has provides no import that the image lacks
    added = [name for name in _package_names(lines) if normalize_name(name) not in notebook.image.packages]
    idle = [package for package in added if not any(_provides_import(package, name) for name in imported)]
    if idle:
        value = f"taken to come with {' or '.join(idle)}"
        remedy = "if another package provides it, add that to the requirements"
        return need.resolve(Outcome.UNCHANGED, value, remedy)
    return need.ask(
        f"if it is your own module, put '{need.target}.py' next to the notebook; if it is on the package index,"
        f" run adopt with `--import {need.target}=DISTRIBUTION`"
    )


def report_unread(notebook: InspectedNotebook) -> Iterator[ExternalNeed]:
    """Yield the cells that this Python cannot parse."""
    for number, read in notebook.code.reads.items():
        if number not in notebook.code.trees:
            first = next((line.strip() for line in read.source.split("\n") if line.strip()), "")
            need = ExternalNeed(kind=NeedKind.UNREAD, cell=number, line=1, text=first)
            minor = "{}.{}".format(*sys.version_info)
            value = f"Python {minor} cannot parse it: only magics and input paths were checked"
            yield need.resolve(Outcome.UNCHANGED, value)
