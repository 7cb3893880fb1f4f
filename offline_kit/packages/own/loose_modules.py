"""Loose modules: the files of the project that a notebook needs, and the folders that they import from."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from offline_kit.core.errors import ProjectError
from offline_kit.core.report import SILENT, Reporter
from offline_kit.packages import code_files
from offline_kit.project import references
from offline_kit.project.types import SourceFile

# Files at the top of a project that are for development, not for the model.
_TOOLS = ("setup.py", "conftest.py", "noxfile.py", "fabfile.py", "tasks.py")


def find_needed_modules(
    project: Path, packages: Sequence[Path], modules: Sequence[Path], names: Sequence[str]
) -> tuple[Path, ...]:
    """Return the folders and files of loose modules to ship: those configured, and those that references need.

    `names` are references of the configuration ("src/model.py:Lit", "package.module:Lit"). Modules of `packages`
    are not shipped again unless a reference names their file. A referenced file is shipped with the modules
    beside it and those of the project that it imports; if it is at the top of the project and `modules` is
    configured, only with the latter. Raises UsageError for a reference that cannot be found.
    """
    project, packages = _normalize_path(project), [_normalize_path(path) for path in packages]
    shipped = list(dict.fromkeys(_normalize_path(path) for path in modules))
    package_roots = [root for package in packages for root in (package / "src", package) if root.is_dir()]
    loose_roots = [root for path in shipped for root in (path, path.parent) if root.is_dir()]
    roots = list(dict.fromkeys([*package_roots, *loose_roots, project / "src", project]))
    for text, file in references.resolve_references(project, names, roots).items():
        if file is None or (".py:" not in text and _is_in_wheel(file, package_roots)):
            continue
        if not any(file.is_relative_to(path) for path in shipped):
            top = _find_top_package(file.parent)
            if _is_package_folder(top) or top not in (project, *package_roots) or top.name == "src":
                start = [top]
            elif modules:
                start = [file]
            else:  # at the top of the project, beside much that is no module
                start = [path for path in sorted(top.glob("*.py")) if path.name not in _TOOLS]
            shipped += _add_imports(start, [project, project / "src"], package_roots, shipped)
    return tuple(dict.fromkeys(shipped))


def list_source_files(
    project: Path, modules: Sequence[Path], report: Reporter = SILENT
) -> tuple[tuple[SourceFile, ...], tuple[str, ...]]:
    """Return every file to ship of these folders and files, and their import roots.

    Files outside the project are shipped under the name of their folder. Raises ProjectError if a path holds no
    module, or two files would have the same name.
    """
    files, places = _collect_files(_normalize_path(project), modules)
    code = [file.path for file in files if file.path.suffix == ".py"]
    imported = {names[0] for path in code for names in references.list_absolute_imports(path)}
    roots: dict[str, None] = {}
    for path, root, base in places:
        # If code only says "from lib.util import x", the folder is not a root: lib/random.py would hide Python's own.
        if path == root and path.name in imported and not imported & {child.stem for child in path.glob("*")}:
            continue
        # A file of a package that is run as a script imports its neighbours as top-level modules; nearest first.
        folders = (root,) if path.is_dir() else (root, path.parent)
        roots |= dict.fromkeys(folder.relative_to(base).as_posix() for folder in folders)
    if modules:
        # "from src.model import ..." is as common as "from model import ..."; the project itself comes last.
        roots.setdefault(".")
    for file in files:
        folder, _, name = file.original.rpartition("/")
        stem = name.removesuffix(".py")
        if name.endswith(".py") and (folder or ".") in roots and stem in sys.stdlib_module_names:
            report.warn(f"'{file.original}' hides Python's own module '{stem}' in the notebook: rename it")
    return files, tuple(roots)


def _collect_files(
    project: Path, modules: Sequence[Path]
) -> tuple[tuple[SourceFile, ...], list[tuple[Path, Path, Path]]]:
    """Return the files of these modules, and each module with its import root and the folder that its names are below."""
    files: dict[str, SourceFile] = {}
    places, problems = [], []
    for module in map(_normalize_path, modules):
        top = _find_top_package(module if module.is_dir() else module.parent)
        root = top.parent if _is_package_folder(top) else top
        base = project if module.is_relative_to(project) else top.parent
        places.append((module, root, base))
        listed = code_files.list_module_files(module)
        if not any(path.suffix == ".py" for path in listed):
            problems.append(f"'{module}' holds no Python module")
        for path in listed:
            original = path.relative_to(base).as_posix()
            first = files.setdefault(original, SourceFile(original=original, path=path))
            if first.path.resolve() != path.resolve():
                problems.append(f"'{first.path}' and '{path}' would both be '{original}'")
    if problems:
        raise ProjectError(
            problems[0] if len(problems) == 1 else "the loose modules cannot be shipped",
            code="modules-invalid",
            hint="fix `modules` in the configuration",
            details=problems if len(problems) > 1 else (),
        )
    return tuple(files[name] for name in sorted(files)), places


def _normalize_path(path: Path) -> Path:
    """Return the absolute path without ".."; symbolic links are kept, since names come from the path."""
    # Path.resolve would follow the links.
    return Path(os.path.normpath(path.absolute()))


def _is_package_folder(folder: Path) -> bool:
    return (folder / "__init__.py").is_file()


def _find_top_package(folder: Path) -> Path:
    """Return the outermost package that a folder belongs to, or the folder itself."""
    top = folder
    while _is_package_folder(top.parent):
        top = top.parent
    return top


def _is_in_wheel(path: Path, package_roots: Sequence[Path]) -> bool:
    """Whether the builds of own packages include a module or package: below src/, or a package."""
    top = _find_top_package(path if path.is_dir() else path.parent)
    if _is_package_folder(top):
        return top.parent in package_roots
    return any(root.name == "src" and root in path.parents for root in package_roots)


def _add_imports(
    start: Sequence[Path], roots: Sequence[Path], package_roots: Sequence[Path], shipped: Sequence[Path]
) -> list[Path]:
    """Return paths with all modules of the project that their code imports, directly or indirectly."""
    paths = list(start)
    for path in paths:  # grows while it is walked
        code = [file for file in code_files.list_module_files(path) if file.suffix == ".py"]
        imported = [sorted({names[0] for names in references.list_absolute_imports(file)}) for file in code]
        for name in (name for names in imported for name in names):
            candidates = (target for root in roots for target in (root / f"{name}.py", root / name))
            target = next(filter(_holds_code, candidates), None)
            is_new = target and not any(target.is_relative_to(known) for known in (*paths, *shipped))
            if target and is_new and not _is_in_wheel(target, package_roots):
                paths.append(target)
    return paths


def _holds_code(path: Path) -> bool:
    return path.is_file() if path.suffix == ".py" else path.is_dir() and any(path.rglob("*.py"))
