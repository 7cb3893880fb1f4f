"""Import names that a notebook provides by itself: what it writes, copies, puts on sys.path, installs from its inputs."""

import ast
import re
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from offline_kit.adopt import file_places, literals, shell
from offline_kit.adopt.calls import Code
from offline_kit.adopt.file_places import Ground
from offline_kit.adopt.findings import Kind, Wish
from offline_kit.adopt.working_folders import Folders
from offline_kit.core.errors import ProjectError
from offline_kit.notebook import cells
from offline_kit.project import import_names

_COPIES = {
    "shutil.copy", "shutil.copy2", "shutil.copyfile", "shutil.copytree", "shutil.move", "os.rename", "os.replace",
    "os.symlink", "cp", "mv", "ln", "rsync",
}  # fmt: skip
_UNPACKS = re.compile(r"unpack_archive|extractall|unzip|tar|7z|gunzip")
_PATHS = {"sys.path.append", "sys.path.insert", "sys.path.extend", "site.addsitedir", "os.chdir", "chdir"}
_PATH = re.compile(r"PYTHONPATH\s*[= ]\s*(?P<value>\S+)")


@dataclass(frozen=True, kw_only=True)
class OwnNames:
    """What a notebook's imports may come from besides image and requirements."""

    modules: dict[str, str] = field(default_factory=dict)
    """Import name: who provides it, for a person."""
    folders: dict[str, tuple[Path, ...]] = field(default_factory=dict)
    """Folder on the import path, as the notebook writes it: its copies in the project; () if there are none."""
    wheels: tuple[str, ...] = ()
    """Requirements that it installs from its inputs."""
    unknown: tuple[str, ...] = ()
    """Archives and folders of wheels that are not here: what is in them cannot be told."""

    def file_of(self, name: str) -> Path | None:
        """Return the module or package of this name in a folder of the import path that the project has a copy of."""
        copies = [copy for found in self.folders.values() for copy in found]
        for path in (copy / each for copy in copies for each in (f"{name}.py", name)):
            if path.is_file() or (path.is_dir() and any(path.rglob("*.py"))):
                return path
        return None

    @property
    def elsewhere(self) -> tuple[str, ...]:
        """What may provide a name and is not here to look into."""
        return (*(folder for folder, copies in self.folders.items() if not copies), *self.unknown)


def look(code: Code, ground: Ground, folders: Folders, wishes: Iterable[Wish]) -> OwnNames:
    """Collect what the notebook provides by itself."""
    modules: dict[str, str] = {}
    paths: dict[str, tuple[Path, ...]] = {}
    unknown: dict[str, None] = {}
    for number, read in code.reads.items():
        for script in cells.scripts_of(read):
            modules |= dict.fromkeys(_names(script.name), f"'{script.name}', written in cell {number}")
        for line, folder in _path_folders(code, number):
            full = file_places.joined(folders.at(number, line), folder)
            copies = _copies_of(full, ground)
            if copies or file_places.MOUNT.match(full):  # a clone or a download has its own question
                paths[full] = copies
        for command, words in _actions(code, number):
            if command in _COPIES and len(words) > 1:
                modules |= dict.fromkeys(_copied(words), f"a copy made in cell {number}")
                for word in words[:-1]:  # all files of a folder: they land beside the notebook
                    if "*" in word.rpartition("/")[2]:
                        paths[word.rpartition("/")[0]] = _copies_of(word.rpartition("/")[0], ground)
            elif _UNPACKS.search(command):
                unknown |= dict.fromkeys(word for word in words if not word.startswith("-"))
    wheels, archives = _installed(wishes, ground, modules)
    return OwnNames(modules=modules, folders=paths, wheels=wheels, unknown=(*unknown, *archives))


def _names(path: str) -> list[str]:
    """Return what a Python file can be imported as from the folder that its path starts in, or from its own."""
    return [part.removesuffix(".py") for part in path.split("/") if part.removesuffix(".py").isidentifier()]


def _copied(words: list[str]) -> list[str]:
    ends = [word.rstrip("/").rpartition("/")[2].removesuffix(".py") for word in words]
    return [end for end in ends if end.isidentifier()]


def _copies_of(path: str, ground: Ground) -> tuple[Path, ...]:
    if file_places.MOUNT.match(path):
        hits = ground.of_mount(file_places.mounted(path))
    else:
        hits = ground.beside(path) if path else ground.bases
    return tuple(hit for hit in hits if hit.is_dir())


def _actions(code: Code, number: int) -> Iterator[tuple[str, list[str]]]:
    """Yield the calls and shell commands of a cell with the texts of their arguments."""
    tree, read = code.trees.get(number), code.reads[number]
    for node in ast.walk(tree) if tree else ():
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func) if isinstance(node.func, ast.Attribute | ast.Name) else ""
            name = code.aliases.get(name, name)
            yield name, [literals.text(each, code.known) for each in node.args]
    for magic in read.magics:
        text = magic.shell or (magic.text if magic.name in ("cp", "mv") else "")
        if read.script and magic.sign == "%%":
            text = read.source[slice(*read.script)]
        for command in shell.commands(text, code.known) if text else ():
            yield command.words[0], [word for word in command.words[1:] if not word.startswith("-")]


def _path_folders(code: Code, number: int) -> Iterator[tuple[int, str]]:
    """Yield the folders that a cell puts on the import path, each with its line."""
    tree, read = code.trees.get(number), code.reads[number]
    for node in ast.walk(tree) if tree else ():
        for value in _path_values(node):
            yield from (
                (value.lineno, folder) for folder in literals.text(value, code.known).split(":") if folder
            )
    for magic in read.magics:
        line = read.line(magic.start)
        if magic.name == "cd" and (words := magic.text.split()[1:]):
            yield line, shell.filled(words[-1].strip("\"'"), code.known)
        if found := _PATH.search(magic.text):
            yield from (
                (line, folder) for folder in found["value"].split(":") if "$" not in folder and folder
            )


def _path_values(node: ast.AST) -> Iterator[ast.expr]:
    """Yield what a statement or call puts on the import path."""
    values: list[ast.expr] = []
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute | ast.Name):
        values = node.args if ast.unparse(node.func) in _PATHS else []
    elif isinstance(node, ast.AugAssign | ast.Assign):
        target = ast.unparse(node.target if isinstance(node, ast.AugAssign) else node.targets[0])
        inner = [each for each in ast.walk(node.value) if isinstance(each, ast.expr)]
        values = inner if target == "sys.path" else []
        if "PYTHONPATH" in target:
            values = [each for each in inner if isinstance(each, ast.Constant)]
    for value in values:
        yield from value.elts if isinstance(value, ast.List | ast.Tuple) else [value]


def _installed(
    wishes: Iterable[Wish], ground: Ground, modules: dict[str, str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the requirements that lines install from the inputs, and the wheels that are not here to look into."""
    names: list[str] = []
    elsewhere: list[str] = []
    for wish in (each for each in wishes if each.kind is Kind.INSTALL):
        wanted = shell.pip_of(shlex.split(wish.target))
        if wanted is None or not (wanted.offline or wanted.local):
            continue
        names += wanted.requirements if wanted.offline else ()
        for file in wanted.files if wanted.offline else ():
            for hit in _files_of(file, ground):
                names += hit.read_text(encoding="utf-8", errors="replace").split()
        for word in (*wanted.local, *wanted.links):
            found = [path for path in _files_of(word, ground) if path.suffix == ".whl"]
            for wheel in found:
                try:
                    tops = {name.partition(".")[0] for name in import_names.of_wheel(wheel)}
                except ProjectError:
                    continue
                modules |= dict.fromkeys(tops, f"'{wheel.name}', installed in cell {wish.cell}")
            if not found:
                elsewhere.append(word)
                names += [word.rpartition("/")[2].partition("-")[0]]
    return tuple(names), tuple(elsewhere)


def _files_of(path: str, ground: Ground) -> list[Path]:
    hits = (
        ground.of_mount(file_places.mounted(path)) if file_places.MOUNT.match(path) else ground.beside(path)
    )
    return [file for hit in hits for file in (sorted(hit.rglob("*")) if hit.is_dir() else [hit])]
