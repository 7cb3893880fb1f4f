"""Loose modules: which files of the project a notebook needs, and from which folders they import."""

import os
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from offline_kit.core import interpreters, processes
from offline_kit.core.errors import OfflineKitError, ProjectError
from offline_kit.core.report import SILENT, Reporter
from offline_kit.packages.own import code_files as own_sources
from offline_kit.project import references
from offline_kit.project.images import Image
from offline_kit.project.types import SourceFile

_TOOLS = frozenset(["setup.py", "conftest.py", "noxfile.py", "fabfile.py", "tasks.py"])
"""Files at the top of a project that serve the developer, not the model."""


def needed(
    project: Path, packages: Sequence[Path], modules: Sequence[Path], named: Sequence[str]
) -> tuple[Path, ...]:
    """Return the folders and files of loose modules to ship: those configured, and what the references need.

    `named` are references of the configuration ("src/model.py:Lit", "package.module:Lit"). What a package of
    `packages` holds is not shipped again, unless a reference names its file. A file brings the modules
    beside it and what it imports from the project; one at the top of the project, where `modules` says what is
    shipped, only the latter. Raises UsageError for references that lead nowhere.
    """
    project, packages = _plain(project), [_plain(path) for path in packages]
    shipped = list(dict.fromkeys(_plain(path) for path in modules))
    package_roots = [root for package in packages for root in (package / "src", package) if root.is_dir()]
    loose_roots = [root for place in shipped for root in (place, place.parent) if root.is_dir()]
    roots = list(dict.fromkeys([*package_roots, *loose_roots, project / "src", project]))
    for reference in references.resolve(project, named, roots):
        file = reference.file
        if file is None or (".py:" not in reference.text and _in_wheel(file, package_roots)):
            continue
        if not _below_any(file, shipped):
            start = _with_neighbours(file, (project, *package_roots), alone=bool(modules))
            shipped += _closure(start, [project, project / "src"], package_roots, shipped)
    return tuple(dict.fromkeys(shipped))


def listed(
    project: Path, modules: Sequence[Path], image: Image, report: Reporter = SILENT
) -> tuple[tuple[SourceFile, ...], tuple[str, ...]]:
    """Return every file of these folders and files that is shipped, and the import roots of them all.

    What lies outside the project is shipped under its folder's own name. Raises ProjectError where a place
    holds no module, two files would have one name, or the image's Python cannot parse a file.
    """
    places = [_Place(place, project) for place in modules]
    files = _source_files(places)
    _check_syntax([file.path for file in files if file.path.suffix == ".py"], image)
    roots = _roots(places, files)
    _warn_of_hidden(files, roots, report)
    return files, roots


class _Place:
    """One file or folder of loose modules, and how its files are called in the kit."""

    def __init__(self, path: Path, project: Path) -> None:
        self.path = _plain(path)
        folder = self.path if self.path.is_dir() else self.path.parent
        top = _top_of_package(folder)
        inside = self.path.is_relative_to(_plain(project))
        # What lies outside the project keeps the name of its folder.
        self._base = _plain(project) if inside else top.parent
        self._root = top.parent if _is_package(top) else top
        self._folder = folder

    def shown(self, path: Path) -> str:
        """Return the posix path in the kit's code; "." for the project itself."""
        return path.relative_to(self._base).as_posix()

    def roots(self) -> list[str]:
        """Return the folders from which it imports, nearest first."""
        # A file inside a package is run as a script by some, and then imports its neighbours plainly.
        own = [self._folder] if self._folder != self.path else []
        return list(dict.fromkeys(self.shown(root) for root in (self._root, *own)))

    @property
    def by_name(self) -> bool:
        """Whether it is a plain folder, whose modules may be imported as "folder.module" too."""
        return self.path.is_dir() and self._root == self.path


def _roots(places: Sequence[_Place], files: Sequence[SourceFile]) -> tuple[str, ...]:
    """Return the import roots of all places; the project comes last, where there is any other."""
    code = [file.path for file in files if file.path.suffix == ".py"]
    tops = {names[0] for path in code for names in references.imported(path)}
    found: dict[str, None] = {}
    for place in places:
        inside = {path.stem for path in place.path.glob("*")} if place.by_name else set()
        # "from lib.util import x" alone: the folder is no root, or lib/random.py would hide Python's own.
        if not (place.by_name and place.path.name in tops and not tops & inside):
            found |= dict.fromkeys(place.roots())
    if places:
        # "from src.model import ..." is as common as "from model import ..."
        found.setdefault(".")
    return tuple(found)


def _warn_of_hidden(files: Sequence[SourceFile], roots: Sequence[str], report: Reporter) -> None:
    """Warn of shipped modules that stand in the way of Python's own."""
    tops = {f"{root}/" if root != "." else "": root for root in roots}
    for file in files:
        folder, _, name = file.original.rpartition("/")
        stem = name.removesuffix(".py")
        if (
            name.endswith(".py")
            and (f"{folder}/" if folder else "") in tops
            and stem in sys.stdlib_module_names
        ):
            report.warn(f"'{file.original}' hides Python's own module '{stem}' in the notebook: rename it")


def _plain(path: Path) -> Path:
    """Return the absolute path without "..": links stay, since names come from it."""
    return Path(os.path.normpath(path.absolute()))


def _source_files(places: Sequence[_Place]) -> tuple[SourceFile, ...]:
    found: dict[str, SourceFile] = {}
    problems = []
    for place in places:
        listed = own_sources.module_files(place.path)
        if not any(path.suffix == ".py" for path in listed):
            problems.append(f"'{place.path}' holds no Python module")
        for path in listed:
            original = place.shown(path)
            other = found.setdefault(original, SourceFile(original=original, path=path))
            if other.path.resolve() != path.resolve():
                problems.append(f"'{other.path}' and '{path}' would both be '{original}'")
    if problems:
        raise ProjectError(
            problems[0] if len(problems) == 1 else "the loose modules cannot be shipped as they are",
            hint="correct `modules` of the configuration",
            details=problems if len(problems) > 1 else (),
        )
    return tuple(found[name] for name in sorted(found))


def _is_package(folder: Path) -> bool:
    return (folder / "__init__.py").is_file()


def _top_of_package(folder: Path) -> Path:
    """Return the outermost package that a folder belongs to; the folder itself where it is none."""
    top = folder
    while _is_package(top.parent):
        top = top.parent
    return top


def _below_any(path: Path, places: Iterable[Path]) -> bool:
    return any(path == place or place in path.parents for place in places)


def _in_wheel(path: Path, package_roots: Sequence[Path]) -> bool:
    """Whether a module or package is one that the builds of own packages take: below src/, or a package."""
    top = _top_of_package(path if path.is_dir() else path.parent)
    if _is_package(top):
        return top.parent in package_roots
    return any(root.name == "src" and root in path.parents for root in package_roots)


def _with_neighbours(file: Path, roots: Sequence[Path], *, alone: bool) -> list[Path]:
    """Return a referenced file with what lies beside it: its folder.

    Of a folder that is the project (or a package's), the modules at its top go along, not all below it; `alone`,
    none of them.
    """
    top = _top_of_package(file.parent)
    if _is_package(top) or top not in roots or top.name == "src":
        return [top]
    if alone:
        return [file]
    return [path for path in sorted(top.glob("*.py")) if path.name not in _TOOLS]


def _closure(
    start: Sequence[Path], roots: Sequence[Path], package_roots: Sequence[Path], shipped: Sequence[Path]
) -> list[Path]:
    """Add to places all modules of the project that their code imports, and what those import in turn."""
    found = list(start)
    for place in found:  # grows while it is walked
        for file in own_sources.module_files(place):
            tops = {names[0] for names in references.imported(file)} if file.suffix == ".py" else set()
            for target in (one for top in sorted(tops) for one in _local(top, roots)):
                if not _below_any(target, [*found, *shipped]) and not _in_wheel(target, package_roots):
                    found.append(target)
    return found


def _local(name: str, roots: Sequence[Path]) -> list[Path]:
    """Return what of the project a top-level name imports."""
    for root in roots:
        if (root / f"{name}.py").is_file():
            return [root / f"{name}.py"]
        if (root / name).is_dir() and any((root / name).rglob("*.py")):
            return [root / name]
    return []


def _check_syntax(paths: Sequence[Path], image: Image) -> None:
    """Raise for modules that the image's Python cannot parse, as far as this machine can tell."""
    doubtful = [path for path in paths if references.parse(path) is None]
    if not doubtful:
        return
    judge = interpreters.find(image.python_minor, processes.environment())
    if judge is None:
        return
    words = "import ast, sys\nfor name in sys.argv[1:]: ast.parse(open(name, 'rb').read(), name)"
    with tempfile.TemporaryDirectory(prefix="offline-kit-") as scratch:
        try:
            processes.run([judge, "-I", "-c", words, *doubtful], cwd=Path(scratch), timeout=60)
        except OfflineKitError as error:
            raise ProjectError(
                f"a module is no valid Python {image.python_minor}",
                hint="mend it: the notebook could not import it",
                details=error.details[-4:],
            ) from error
