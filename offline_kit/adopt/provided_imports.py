"""Import names that a notebook provides itself: by writing, copying, sys.path, or wheels in its inputs."""

import ast
import contextlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from offline_kit.adopt import shell
from offline_kit.adopt.findings import ExternalNeed, NeedKind, Outcome
from offline_kit.adopt.notebook_files import MOUNT, InspectedNotebook, join_run_path
from offline_kit.core.errors import ProjectError
from offline_kit.notebook import cells
from offline_kit.project import import_names

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
    """Names of imports."""
    folders: dict[str, tuple[Path, ...]] = field(default_factory=dict)
    """Folder on the import path: its copies in the project; () if there are none."""
    shipped: list[ExternalNeed] = field(default_factory=list)
    """The lines that put a folder of the project on the import path; it becomes a module."""
    requirements: list[str] = field(default_factory=list)
    """What is installed from the inputs."""
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


def find_provided_imports(notebook: InspectedNotebook, needs: Iterable[ExternalNeed]) -> ProvidedImports:
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
            for copy in copies if is_shipped and path and not MOUNT.match(path) else ():
                name = notebook.relative_name(copy)
                notebook.modules[name] = None
                need = notebook.make_need(NeedKind.FILE, number, line)
                provided.shipped.append(need.resolve(Outcome.MODULE, name))
        for action in shell.list_actions(notebook, number):
            _add_copies(action, notebook, provided)
    for need in needs:
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
    """Return the project's copies of a folder."""
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
