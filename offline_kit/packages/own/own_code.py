"""The project's own code: packages become reproducible wheels, loose modules are shipped as files."""

import re
import sys
import zipfile
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

from offline_kit.core import files, processes
from offline_kit.core.cache import cache_key
from offline_kit.core.errors import ProjectError, describe_problems
from offline_kit.core.report import SILENT, Reporter
from offline_kit.packages import code_files, distribution_metadata
from offline_kit.packages.builds.build_environment import BuildFailedError
from offline_kit.packages.builds.sdist_builds import BuildSources, IsolatedBuild, recall_wheel, record_wheel
from offline_kit.packages.freeze import freeze_file
from offline_kit.packages.index import PackageIndex
from offline_kit.packages.own import loose_modules
from offline_kit.project.config_keys import LOCK_NAME
from offline_kit.project.images import Image
from offline_kit.project.types import OwnCode, Wheel

_FORMAT = 1  # increase it when the same sources give another wheel
_FREEZE_DELAY = timedelta(hours=1)
# Variables by which a user gives a build the version that it would take from git.
_VERSION_VARIABLES = (
    "SETUPTOOLS_SCM_PRETEND_VERSION",
    "PBR_VERSION",
    "PDM_BUILD_SCM_VERSION",
    "POETRY_DYNAMIC_VERSIONING",
)
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
    files, roots = loose_modules.list_source_files(project, modules, report if build else SILENT)
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
    key, cache = _make_wheel_key(tree, sources.image), sources.index.cache
    wheel = _recall_own_wheel(key, sources)
    if wheel or not build:
        return wheel
    # Two runs must not build the same package at once.
    with cache.hold_lock(f"own-{key[:32]}"):
        if wheel := _recall_own_wheel(key, sources):
            return wheel
        name = tree.root.resolve().name
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
    record = sources.index.cache.read_record("own", key)
    if not record or not _is_same_cutoff(str(record.get("cutoff", "")), sources.cutoff):
        return None
    try:
        return recall_wheel(record, sources.index.cache)
    except (KeyError, ValueError):
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


def _is_same_cutoff(built: str, cutoff: str) -> bool:
    """Whether a build with one cut-off can be used for the other.

    A project's first build has no freeze yet; the freeze is made a moment later, and its cut-off is that time.
    """
    try:
        return (
            not cutoff or abs(datetime.fromisoformat(built) - datetime.fromisoformat(cutoff)) < _FREEZE_DELAY
        )
    except (ValueError, TypeError):
        return built == cutoff


def _make_wheel_key(tree: code_files.SourceTree, image: Image) -> str:
    platform = [image.python, image.machine, image.glibc, image.local, sys.version if image.local else ""]
    # The folder's name may become the package's.
    return cache_key(_FORMAT, tree.root.resolve().name, tree.digest, _read_version_variables(), platform)


def _read_version_variables() -> dict[str, str]:
    variables = processes.copy_environment()
    return {name: value for name, value in variables.items() if name.startswith(_VERSION_VARIABLES)}
