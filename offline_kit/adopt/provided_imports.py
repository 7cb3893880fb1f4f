"""Import names that a notebook provides itself: by writing, copying, sys.path, or wheels in its inputs."""

import ast
import re
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from offline_kit.adopt import literals, notebook_files, shell
from offline_kit.adopt.findings import ExternalNeed, NeedKind
from offline_kit.adopt.notebook_code import NotebookCode
from offline_kit.adopt.notebook_files import NotebookFiles, WorkingFolders
from offline_kit.core.errors import ProjectError
from offline_kit.notebook import cells
from offline_kit.project import import_names

_COPY_CALLS = {
    "shutil.copy", "shutil.copy2", "shutil.copyfile", "shutil.copytree", "shutil.move", "os.rename", "os.replace",
    "os.symlink", "cp", "mv", "ln", "rsync",
}  # fmt: skip
_UNPACK_CALLS = re.compile(r"unpack_archive|extractall|unzip|tar|7z|gunzip")
_PATH_CALLS = {
    "sys.path.append",
    "sys.path.insert",
    "sys.path.extend",
    "site.addsitedir",
    "os.chdir",
    "chdir",
}
_PYTHONPATH = re.compile(r"PYTHONPATH\s*[= ]\s*(?P<value>\S+)")


@dataclass(frozen=True, kw_only=True)
class ProvidedImports:
    """Providers of imports besides the image and the requirements."""

    modules: dict[str, str] = field(default_factory=dict)
    """Import name: its provider, for messages."""
    folders: dict[str, tuple[Path, ...]] = field(default_factory=dict)
    """Folder on the import path: its copies in the project; () if there are none."""
    wheels: tuple[str, ...] = ()
    """Requirements that are installed from the inputs."""
    unknown: tuple[str, ...] = ()
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


def find_provided_imports(
    code: NotebookCode, files: NotebookFiles, folders: WorkingFolders, needs: Iterable[ExternalNeed]
) -> ProvidedImports:
    """Collect the imports that the notebook provides itself."""
    modules: dict[str, str] = {}
    paths: dict[str, tuple[Path, ...]] = {}
    unknown: dict[str, None] = {}
    for number, read in code.reads.items():
        for script in cells.find_scripts(read):
            modules |= dict.fromkeys(_import_names(script.name), f"'{script.name}', written in cell {number}")
        for line, folder in _import_path_folders(code, number):
            full = notebook_files.join_run_path(folders.folder_at(number, line), folder)
            copies = _find_project_copies(full, files)
            if copies or notebook_files.MOUNT.match(full):  # clones and downloads are decided on elsewhere
                paths[full] = copies
        for command, words in _list_actions(code, number):
            if command in _COPY_CALLS and len(words) > 1:
                modules |= dict.fromkeys(_copied_names(words), f"a copy made in cell {number}")
                for word in words[:-1]:  # all files of a folder, copied next to the notebook
                    if "*" in word.rpartition("/")[2]:
                        paths[word.rpartition("/")[0]] = _find_project_copies(word.rpartition("/")[0], files)
            elif _UNPACK_CALLS.search(command):
                unknown |= dict.fromkeys(word for word in words if not word.startswith("-"))
    wheels, archives = _installed_from_inputs(needs, files, modules)
    return ProvidedImports(modules=modules, folders=paths, wheels=wheels, unknown=(*unknown, *archives))


def _import_names(path: str) -> list[str]:
    """Return the names that a Python file can be imported by, from the first folder of its path or its own."""
    return [part.removesuffix(".py") for part in path.split("/") if part.removesuffix(".py").isidentifier()]


def _copied_names(words: list[str]) -> list[str]:
    ends = [word.rstrip("/").rpartition("/")[2].removesuffix(".py") for word in words]
    return [end for end in ends if end.isidentifier()]


def _find_project_copies(path: str, files: NotebookFiles) -> tuple[Path, ...]:
    if notebook_files.MOUNT.match(path):
        hits = files.find_mounted(notebook_files.split_mount_path(path))
    else:
        hits = files.find_beside(path) if path else files.base_folders
    return tuple(hit for hit in hits if hit.is_dir())


def _list_actions(code: NotebookCode, number: int) -> Iterator[tuple[str, list[str]]]:
    """Yield the calls and shell commands of a cell with the values of their arguments."""
    tree, read = code.trees.get(number), code.reads[number]
    for node in ast.walk(tree) if tree else ():
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func) if isinstance(node.func, ast.Attribute | ast.Name) else ""
            name = code.aliases.get(name, name)
            yield name, [literals.string_value(argument, code.strings) for argument in node.args]
    for magic in read.magics:
        text = magic.shell_command or (magic.text if magic.name in ("cp", "mv") else "")
        if read.script and magic.sign == "%%":
            text = read.source[slice(*read.script)]
        for command in shell.split_commands(text, code.strings) if text else ():
            yield command.words[0], [word for word in command.words[1:] if not word.startswith("-")]


def _import_path_folders(code: NotebookCode, number: int) -> Iterator[tuple[int, str]]:
    """Yield the folders that a cell puts on the import path, with their lines."""
    tree, read = code.trees.get(number), code.reads[number]
    for node in ast.walk(tree) if tree else ():
        for value in _import_path_values(node):
            yield from (
                (value.lineno, folder)
                for folder in literals.string_value(value, code.strings).split(":")
                if folder
            )
    for magic in read.magics:
        line = read.line_number(magic.start)
        if magic.name == "cd" and (words := magic.text.split()[1:]):
            yield line, literals.fill_names(words[-1].strip("\"'"), code.strings)
        if match := _PYTHONPATH.search(magic.text):
            yield from (
                (line, folder) for folder in match["value"].split(":") if "$" not in folder and folder
            )


def _import_path_values(node: ast.AST) -> Iterator[ast.expr]:
    """Yield the expressions that a statement or call puts on the import path."""
    values: list[ast.expr] = []
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute | ast.Name):
        values = node.args if ast.unparse(node.func) in _PATH_CALLS else []
    elif isinstance(node, ast.AugAssign | ast.Assign):
        target = ast.unparse(node.target if isinstance(node, ast.AugAssign) else node.targets[0])
        inner = [expression for expression in ast.walk(node.value) if isinstance(expression, ast.expr)]
        values = inner if target == "sys.path" else []
        if "PYTHONPATH" in target:
            values = [expression for expression in inner if isinstance(expression, ast.Constant)]
    for value in values:
        yield from value.elts if isinstance(value, ast.List | ast.Tuple) else [value]


def _installed_from_inputs(
    needs: Iterable[ExternalNeed], files: NotebookFiles, modules: dict[str, str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the requirements installed from the inputs, and the wheels without a copy in the project."""
    names: list[str] = []
    unavailable: list[str] = []
    for need in (need for need in needs if need.kind is NeedKind.INSTALL):
        install = shell.parse_pip_install(shlex.split(need.target))
        if install is None or not (install.offline or install.local):
            continue
        names += install.requirements if install.offline else ()
        for file in install.files if install.offline else ():
            for hit in _list_files(file, files):
                names += hit.read_text(encoding="utf-8", errors="replace").split()
        for word in (*install.local, *install.links):
            wheels = [path for path in _list_files(word, files) if path.suffix == ".whl"]
            for wheel in wheels:
                try:
                    tops = {name.partition(".")[0] for name in import_names.read_wheel_imports(wheel)}
                except ProjectError:
                    continue
                modules |= dict.fromkeys(tops, f"'{wheel.name}', installed in cell {need.cell}")
            if not wheels:
                unavailable.append(word)
                names += [word.rpartition("/")[2].partition("-")[0]]
    return tuple(names), tuple(unavailable)


def _list_files(path: str, files: NotebookFiles) -> list[Path]:
    hits = (
        files.find_mounted(notebook_files.split_mount_path(path))
        if notebook_files.MOUNT.match(path)
        else files.find_beside(path)
    )
    return [file for hit in hits for file in (sorted(hit.rglob("*")) if hit.is_dir() else [hit])]
