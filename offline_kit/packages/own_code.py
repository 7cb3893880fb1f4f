"""The project's own code: packages become reproducible wheels, loose modules are shipped as files."""

import os
import re
import sys
import tomllib
import zipfile
from collections.abc import Collection, Iterable, Sequence
from configparser import ConfigParser
from configparser import Error as ConfigError
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement

from offline_kit.core import files, processes
from offline_kit.core.cache import cache_key
from offline_kit.core.errors import ProjectError, describe_problems
from offline_kit.core.report import SILENT, Reporter
from offline_kit.packages import code_files, distribution_metadata
from offline_kit.packages.builds.build_environment import BuildFailedError
from offline_kit.packages.builds.sdist_builds import BuildSources, IsolatedBuild, recall_wheel, record_wheel
from offline_kit.packages.freeze import freeze_file
from offline_kit.packages.index import PackageIndex
from offline_kit.project import references
from offline_kit.project.config_keys import LOCK_NAME
from offline_kit.project.images import Image
from offline_kit.project.package_lists import normalize_name
from offline_kit.project.types import Finding, OwnCode, Severity, SourceFile, Wheel

_FORMAT = 1  # increase it when the same sources give another wheel
_FREEZE_DELAY = timedelta(hours=1)
# Variables by which a user gives a build the version that it would take from git.
_VERSION_VARIABLES = (
    "SETUPTOOLS_SCM_PRETEND_VERSION",
    "PBR_VERSION",
    "PDM_BUILD_SCM_VERSION",
    "POETRY_DYNAMIC_VERSIONING",
)
# Files at the top of a project that are for development, not for the model.
_TOOLS = ("setup.py", "conftest.py", "noxfile.py", "fabfile.py", "tasks.py")
_FILES = ("pyproject.toml", "setup.cfg", "setup.py")
# Build backends write the requirements of an extra with a marker: torch>=2; extra == "gpu"
_OF_EXTRA = re.compile(r";.*\bextra\s*==")


def collect_own_code(
    project: Path,
    packages: Sequence[Path],
    modules: Sequence[Path],
    image: Image,
    index: PackageIndex,
    *,
    build: bool = True,
    report: Reporter = SILENT,
) -> tuple[OwnCode, tuple[str, ...]]:
    """Return the project's packages as reproducible wheels, its loose modules, and folder names of unbuilt packages.

    Unchanged packages come from the cache, without asking an index; without `build`, nothing else does. If the
    project has a committed freeze, its cut-off also applies to build requirements. Raises ProjectError listing
    everything that cannot be built or does not fit the image, OutsideError if an index does not answer.
    """
    path = project / LOCK_NAME
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    cutoff = freeze_file.read_header(text).get("cut-off", "") if freeze_file.is_freeze_text(text) else ""
    sources = BuildSources(image, index, cutoff)
    wheels: dict[str, Wheel] = {}
    folders: dict[str, Path] = {}
    problems, unbuilt = [], []
    for package in dict.fromkeys(packages):
        try:
            wheel = _obtain_own_wheel(package, sources, report, build=build)
        except ProjectError as error:
            problems.append(error)
            continue
        if wheel is None:
            unbuilt.append(package.resolve().name)
            continue
        if wheel.name in wheels:
            problems.append(
                ProjectError(
                    f"'{folders[wheel.name]}' and '{package}' are both called '{wheel.name}'",
                    code="duplicate-package",
                    hint="rename one, or remove it from `packages`",
                )
            )
        wheels[wheel.name], folders[wheel.name] = wheel, package
    if len(problems) == 1:
        raise problems[0]
    if problems:
        raise ProjectError(
            f"{len(problems)} own packages cannot be built",
            code="own-package-build-failed",
            hint="fix each as described above",
            details=describe_problems(problems),
        )
    files, roots = list_source_files(project, modules, report if build else SILENT)
    own_wheels = tuple(sorted(wheels.values(), key=lambda wheel: wheel.filename))
    return OwnCode(wheels=own_wheels, sources=files, roots=roots), tuple(unbuilt)


def list_requirements(own: OwnCode) -> tuple[str, ...]:
    """Return the requirements of the own wheels without those of extras, sorted: the freeze must include them."""
    requirements: set[str] = set()
    for wheel in own.wheels:
        lines = distribution_metadata.read_requirements(wheel.path, wheel.filename)
        requirements |= {line for line in lines if not _OF_EXTRA.search(line)}
    return tuple(sorted(requirements))


def _obtain_own_wheel(package: Path, sources: BuildSources, report: Reporter, *, build: bool) -> Wheel | None:
    """Return the cached wheel of a package's current sources, else build it, or None without `build`.

    Raises ProjectError with the build's last lines, OutsideError if an index does not answer.
    """
    tree = code_files.read_source_tree(package)
    image, cache, name = sources.image, sources.index.cache, tree.root.resolve().name
    platform = [image.python, image.machine, image.glibc, image.local, sys.version if image.local else ""]
    # The folder's name may become the package's.
    key = cache_key(_FORMAT, name, tree.digest, _read_version_variables(), platform)
    wheel = _recall_own_wheel(key, sources)
    if wheel or not build:
        return wheel
    # Two runs must not build the same package at once.
    with cache.hold_lock(f"own-{key[:32]}"):
        if wheel := _recall_own_wheel(key, sources):
            return wheel
        report.step(f"Building your package '{name}'")
        if tree.oversized:
            report.warn(f"too large to be sources of '{package.name}', left out: {', '.join(tree.oversized)}")
        # git status would write .git/index of the user's repository: git-scm.com/docs/git, GIT_OPTIONAL_LOCKS
        variables = {**_read_version_variables(), "GIT_OPTIONAL_LOCKS": "0"}
        attempt = IsolatedBuild(sources, report, log=f"own-{name}", own=True, variables=variables)

        def place_sources(folder: Path) -> Path:
            # Built from a copy: setuptools leaves build/ and *.egg-info beside the sources. The copy has the folder's
            # own name, since some builds name the package after it.
            return code_files.copy_tree(tree, folder / name)

        try:
            try:
                wheel = attempt.build_wheel(place_sources)
            except BuildFailedError as error:
                if not error.wants_network:
                    raise
                # The code is the user's own.
                report.note(f"the build of '{tree.root.name}' needs the network: building again with it")
                wheel = attempt.build_wheel(place_sources, network=True)
            with zipfile.ZipFile(wheel.path) as archive:
                members = archive.namelist()
            # Metadata alone is a valid wheel: setuptools builds one if it finds no package.
            if not any(member.endswith((".py", ".so", ".pyd")) for member in members):
                raise BuildFailedError("its wheel holds no module", members[:12])
        except BuildFailedError as error:
            raise ProjectError(
                f"your package '{package}' cannot be built: {error.reason}",
                code="own-package-build-failed",
                hint=_suggest_fix(error),
                details=error.tail,
            ) from error
        cutoff = sources.cutoff or files.utc_timestamp()
        cache.write_record("own", key, {**record_wheel(wheel), "cutoff": cutoff})
        return wheel


def _recall_own_wheel(key: str, sources: BuildSources) -> Wheel | None:
    record: Any = sources.index.cache.read_record("own", key)
    try:
        built, cutoff = record["cutoff"], sources.cutoff
        # A project's first build has no freeze yet; the freeze is made a moment later, and its cut-off is that time.
        if cutoff and abs(datetime.fromisoformat(built) - datetime.fromisoformat(cutoff)) >= _FREEZE_DELAY:
            return None
        return recall_wheel(record, sources.index.cache)
    except (KeyError, ValueError, TypeError):  # there is none, or it is of another version
        return None


def _suggest_fix(error: BuildFailedError) -> str:
    text = "\n".join(error.tail)
    # setuptools refuses to guess: setuptools.pypa.io/en/latest/userguide/package_discovery.html
    if "Multiple top-level" in text:
        return "list its packages in [tool.setuptools] of pyproject.toml, or ship the folder as `modules` instead"
    if "holds no module" in error.reason or "Unable to determine which files to ship" in text:
        return "configure in pyproject.toml where the package is, or ship the folder as `modules` instead of `packages`"
    if "version" in text and ("git" in text or "scm" in text.lower()):
        return "build from a git checkout with its tags, or set SETUPTOOLS_SCM_PRETEND_VERSION"
    return "make 'python -m build --wheel' work in that folder, then run again"


def _read_version_variables() -> dict[str, str]:
    variables = processes.copy_environment()
    return {name: value for name, value in variables.items() if name.startswith(_VERSION_VARIABLES)}


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


def check_package_bounds(
    packages: Sequence[Path], built: Iterable[str], image: Image, replaceable: Collection[str]
) -> tuple[Finding, ...]:
    """Return one finding with the protected versions of the image that the packages exclude.

    `built` holds the requirement lines of wheels built earlier, in addition to those of setup.cfg and
    pyproject.toml. `replaceable` names packages that the configuration replaces or excludes. Bounds of unprotected
    packages can stay, which the finding says: the kit brings versions that fit them.
    """
    lines = dict.fromkeys([*built, *(line for package in packages for line in _read_declared(package))])
    free = {normalize_name(name) for name in replaceable}
    # "extra" must be defined, or a marker with it cannot be evaluated (PEP 508).
    environment = {**image.marker_environment(), "extra": ""}
    excluded: dict[str, str] = {}
    for line in lines:
        try:
            requirement = Requirement(line)
        except InvalidRequirement:
            continue  # reported by the freeze
        name, version = normalize_name(requirement.name), image.public_version(requirement.name)
        applies = requirement.marker is None or requirement.marker.evaluate(environment)
        # Pre-releases of the image count: nightly builds of torch are some.
        fits = not version or requirement.specifier.contains(version, prereleases=True)
        if name not in free and applies and not fits:
            excluded[name] = str(requirement.specifier)
    blocking = sorted(filter(image.is_protected, excluded))
    if not blocking:
        return ()
    bounds = ", ".join(f"{name}{excluded[name]} (image: {image.packages[name]})" for name in blocking)
    names = ", ".join(f'"{name}"' for name in blocking)
    remedy = (
        f"drop {'these bounds' if len(blocking) > 1 else 'this bound'}, or set exclude = [{names}] to use"
    )
    remedy += " the image's version anyway"
    if satisfiable := sorted(excluded.keys() - set(blocking)):
        remedy += f"; keep the bounds of {', '.join(satisfiable)}: the kit brings versions that fit"
    # The file that holds the bounds, else the package's folder.
    about = ", ".join(package.name for package in packages)
    for path in reversed([package / name for package in packages for name in _FILES]):
        text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
        if all(name in normalize_name(text) for name in blocking):
            about = path.name if len(packages) == 1 else f"{path.parent.name}/{path.name}"
    what = f"excludes protected versions of the image '{image.name}': {bounds}"
    return (Finding(severity=Severity.WARN, about=about, what=what, remedy=remedy),)


def _read_declared(package: Path) -> list[str]:
    """Return the requirements in a package's files, without those that only a build can tell."""
    reader = ConfigParser(interpolation=None)
    try:
        reader.read(package / "setup.cfg", encoding="utf-8")
        lines = reader.get("options", "install_requires", fallback="").splitlines()
    except (ConfigError, OSError, UnicodeDecodeError):
        lines = []
    try:
        pyproject = tomllib.loads((package / "pyproject.toml").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        pyproject = {}
    dependencies = pyproject.get("project", {}).get("dependencies") or []
    return [line for line in map(str.strip, [*lines, *dependencies]) if line]
