"""Import names that a notebook provides itself: by writing, copying, sys.path, or wheels in its inputs."""

import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from offline_kit.adopt import shell
from offline_kit.adopt.findings import ExternalNeed, NeedKind
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

    modules: dict[str, str] = field(default_factory=dict)
    """Import name: its provider, for messages."""
    folders: dict[str, tuple[Path, ...]] = field(default_factory=dict)
    """Folder on the import path: its copies in the project; () if there are none."""
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
        for script in cells.find_scripts(read):
            # any folder of its path may be on the import path
            names = [part.removesuffix(".py") for part in script.name.split("/")]
            origin = f"'{script.name}', written in cell {number}"
            provided.modules |= dict.fromkeys(filter(str.isidentifier, names), origin)
        for line, folder in _find_path_folders(notebook, number):
            path = join_run_path(notebook.folder_at(number, line), folder)
            copies = _find_copies(path, notebook)
            if copies or MOUNT.match(path):  # clones and downloads are decided on elsewhere
                provided.folders[path] = copies
        _add_copies(notebook, number, provided)
    for need in needs:
        if need.kind is NeedKind.INSTALL:
            _add_local_installs(need, notebook, provided)
    return provided


def _add_copies(notebook: InspectedNotebook, number: int, provided: ProvidedImports) -> None:
    """Add what a cell copies or unpacks."""
    for command, words in _list_actions(notebook, number):
        if command in _COPY_CALLS and len(words) > 1:
            names = [word.rstrip("/").rpartition("/")[2].removesuffix(".py") for word in words]
            origin = f"a copy made in cell {number}"
            provided.modules |= dict.fromkeys(filter(str.isidentifier, names), origin)
            for word in words[:-1]:  # all files of a folder, copied next to the notebook
                folder, _, file = word.rpartition("/")
                if "*" in file:
                    provided.folders[folder] = _find_copies(folder, notebook)
        elif _UNPACK_CALLS.search(command):
            provided.unknown |= dict.fromkeys(word for word in words if not word.startswith("-"))


def _find_copies(path: str, notebook: InspectedNotebook) -> tuple[Path, ...]:
    """Return the project's copies of a folder."""
    hits = notebook.find_run_path(path) if path else notebook.base_folders
    return tuple(hit for hit in hits if hit.is_dir())


def _list_actions(notebook: InspectedNotebook, number: int) -> Iterator[tuple[str, list[str]]]:
    """Yield the calls and shell commands of a cell with the values of their arguments."""
    code, read = notebook.code, notebook.code.reads[number]
    for node in code.walk(number):
        if isinstance(node, ast.Call):
            yield code.full_name(node.func), [code.strings.value(argument) for argument in node.args]
    for magic in read.magics:
        texts = [text for _, text in shell.shell_texts(read, magic)]
        for text in [magic.text] if magic.name in ("cp", "mv") else texts:
            for command in shell.split_commands(text, code.strings):
                yield command.words[0], [word for word in command.words[1:] if not word.startswith("-")]


def _find_path_folders(notebook: InspectedNotebook, number: int) -> Iterator[tuple[int, str]]:
    """Yield the folders that a cell puts on the import path, with their lines."""
    strings, read = notebook.code.strings, notebook.code.reads[number]
    for node in notebook.code.walk(number):
        for value in _find_path_values(node):
            yield from ((value.lineno, folder) for folder in strings.value(value).split(":") if folder)
    for magic in read.magics:
        line = read.line_number(magic.start)
        if magic.name == "cd" and (words := magic.text.split()[1:]):
            yield line, strings.fill(words[-1].strip("\"'"))
        if match := _PYTHONPATH.search(magic.text):
            folders = match["value"].split(":")
            yield from ((line, folder) for folder in folders if folder and "$" not in folder)


def _find_path_values(node: ast.AST) -> Iterator[ast.expr]:
    """Yield the expressions that a statement or call puts on the import path."""
    values: list[ast.expr] = []
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute | ast.Name):
        values = node.args if ast.unparse(node.func) in _PATH_CALLS else []
    elif isinstance(node, ast.AugAssign | ast.Assign):
        target = ast.unparse(node.target if isinstance(node, ast.AugAssign) else node.targets[0])
        inner = [expression for expression in ast.walk(node.value) if isinstance(expression, ast.expr)]
        if "PYTHONPATH" in target:
            inner = [expression for expression in inner if isinstance(expression, ast.Constant)]
        values = inner if target == "sys.path" or "PYTHONPATH" in target else []
    for value in values:
        yield from value.elts if isinstance(value, ast.List | ast.Tuple) else [value]


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
            try:
                names = {name.partition(".")[0] for name in import_names.read_wheel_imports(wheel)}
            except ProjectError:
                continue
            provided.modules |= dict.fromkeys(names, f"'{wheel.name}', installed in cell {need.cell}")
        if not wheels:
            provided.unknown[word] = None
            provided.requirements.append(word.rpartition("/")[2].partition("-")[0])


def _list_files(path: str, notebook: InspectedNotebook) -> list[Path]:
    hits = notebook.find_run_path(path)
    return [file for hit in hits for file in (sorted(hit.rglob("*")) if hit.is_dir() else [hit])]
