"""Build one package of the project into a wheel that is the same bytes on every machine and every day."""

import sys
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path

from offline_kit.core import files, interpreters, processes
from offline_kit.core.cache import Cache, cache_key
from offline_kit.core.errors import ProjectError
from offline_kit.core.report import Reporter
from offline_kit.packages.builds.build_closure import BuildSources, obtain_requirements
from offline_kit.packages.builds.build_environment import (
    BuildEnvironment,
    BuildFailedError,
    create_build_environment,
    read_static_requires,
)
from offline_kit.packages.builds.sdist_builds import build_required_wheel, recall_wheel, record_wheel
from offline_kit.packages.builds.wheel_fit import WheelMismatchError, fit_wheel, store_wheel
from offline_kit.packages.file_choice import ImageTarget
from offline_kit.packages.index import PackageIndex
from offline_kit.packages.own import code_files
from offline_kit.packages.pip_settings import IndexSettings
from offline_kit.project.images import Image
from offline_kit.project.package_lists import normalize_name
from offline_kit.project.types import Wheel

_FORMAT = 1  # increase it when the same sources give another wheel
_FREEZE_DELAY = timedelta(hours=1)
_VERSION_VARIABLES = (
    "SETUPTOOLS_SCM_PRETEND_VERSION",
    "PBR_VERSION",
    "PDM_BUILD_SCM_VERSION",
    "POETRY_DYNAMIC_VERSIONING",
)
"""Variables by which a user gives a build the version that it would take from git."""


@dataclass(frozen=True, kw_only=True)
class OwnBuildContext:
    """What the packages of the project are built for, and from which indexes."""

    image: Image
    settings: IndexSettings
    cache: Cache
    cutoff: str
    """Build requirements uploaded later are ignored; empty for no cut-off."""

    @cached_property
    def build_sources(self) -> BuildSources:
        """Target, index and interpreter; the interpreter is looked for only if something is built."""
        exact = (
            None
            if self.image.local
            else interpreters.find_interpreter(self.image.python_minor, processes.copy_environment())
        )
        return BuildSources(
            target=ImageTarget(self.image),
            index=PackageIndex(self.settings, cache=self.cache.root),
            python=self.image.interpreter or exact or Path(sys.executable),
            exact=bool(self.image.local or exact),
            cutoff=self.cutoff,
        )


def build_own_wheel(package: Path, context: OwnBuildContext, report: Reporter) -> Wheel:
    """Build a package, or return the cached wheel if its sources did not change.

    Raises ProjectError with the build's last lines, OutsideError if an index does not answer.
    """
    tree = code_files.read_source_tree(package)
    if wheel := _recall_tree_wheel(tree, context):
        return wheel
    key = _make_wheel_key(tree, context.image)
    with context.cache.hold_lock(f"own-{key[:32]}"):
        if wheel := _recall_tree_wheel(tree, context):
            return wheel
        report.step(f"Building your package '{package.resolve().name}'")
        if tree.oversized:
            report.warn(f"too large to be sources of '{package.name}', left out: {', '.join(tree.oversized)}")
        try:
            wheel = _OwnBuild(tree, context.build_sources, report).build_wheel()
        except BuildFailedError as error:
            raise ProjectError(
                f"your package '{package}' cannot be built: {error.reason}",
                code="own-package-build-failed",
                hint=_suggest_fix(error),
                details=error.tail,
            ) from error
        cutoff = context.cutoff or files.utc_timestamp()
        context.cache.write_record("own", key, {**record_wheel(wheel), "cutoff": cutoff})
        return wheel


def recall_own_wheel(package: Path, context: OwnBuildContext) -> Wheel | None:
    """Return the cached wheel of a package's current sources, or None; build nothing."""
    return _recall_tree_wheel(code_files.read_source_tree(package), context)


class _OwnBuild:
    """The two rounds of one isolated build, as pip and uv go through them (PEP 517)."""

    def __init__(self, tree: code_files.SourceTree, sources: BuildSources, report: Reporter) -> None:
        self.tree, self.sources, self.report = tree, sources, report
        self.log = sources.index.cache.new_log(f"own-{tree.root.resolve().name}")

    def build_wheel(self) -> Wheel:
        """Build without network, and if that fails for lack of it, with: the code is the user's own."""
        try:
            return self._build_once(network=False)
        except BuildFailedError as error:
            if not error.wants_network:
                raise
            self.report.note(
                f"the build of '{self.tree.root.name}' needs the network: building again with it"
            )
            return self._build_once(network=True)

    def _build_once(self, *, network: bool) -> Wheel:
        requires = read_static_requires(self.tree.root)
        wheels = self._obtain_wheels(requires)
        with create_build_environment(
            self.sources.python, wheels, log=self.log, own=True, network=network
        ) as environment:
            environment, source = self._copy_sources(environment)
            hook_requires = {text for text in environment.list_hook_requires(source) if text not in requires}
            if not hook_requires:
                return self._make_wheel(environment, source)
        wheels = self._obtain_wheels(requires | hook_requires)
        with create_build_environment(
            self.sources.python, wheels, log=self.log, own=True, network=network
        ) as environment:
            environment, source = self._copy_sources(environment)
            return self._make_wheel(environment, source)

    def _copy_sources(self, environment: BuildEnvironment) -> tuple[BuildEnvironment, Path]:
        # Built from a copy: setuptools leaves build/ and *.egg-info beside the sources. The copy has the folder's
        # own name, since some builds name the package after it.
        # git status would write .git/index of the user's repository: git-scm.com/docs/git, GIT_OPTIONAL_LOCKS
        env = {**environment.env, **_read_version_variables(), "GIT_OPTIONAL_LOCKS": "0"}
        source = code_files.copy_tree(
            self.tree, environment.scratch / "source" / self.tree.root.resolve().name
        )
        return replace(environment, env=env), source

    def _obtain_wheels(self, requires: Iterable[str]) -> tuple[Wheel, ...]:
        wheels, sdists = obtain_requirements(tuple(requires), self.sources, self.report)
        built = [build_required_wheel(sdist, self.sources, self.report) for sdist in sdists]
        return tuple(sorted((*wheels, *built), key=lambda wheel: wheel.filename))

    def _make_wheel(self, environment: BuildEnvironment, source: Path) -> Wheel:
        from packaging.utils import InvalidWheelFilename, parse_wheel_filename

        path = environment.build_wheel(source, environment.scratch / "built")
        _check_wheel_modules(path)
        try:
            path = fit_wheel(path, self.sources.target.image, environment.scratch / "audited")
            name, version, _, _ = parse_wheel_filename(path.name)
        except (WheelMismatchError, InvalidWheelFilename) as error:
            raise BuildFailedError(f"its wheel does not fit the image: {error}", [path.name]) from error
        return store_wheel(path, normalize_name(name), str(version), self.sources.index.cache)


def _check_wheel_modules(wheel: Path) -> None:
    """Raise BuildFailedError for a wheel without modules: setuptools builds one if it finds no package."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    # Metadata alone is a valid wheel: setuptools builds one if it finds no package.
    if not any(name.endswith((".py", ".so", ".pyd")) for name in names):
        raise BuildFailedError("its wheel holds no module", names[:12])


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


def _recall_tree_wheel(tree: code_files.SourceTree, context: OwnBuildContext) -> Wheel | None:
    record = context.cache.read_record("own", _make_wheel_key(tree, context.image))
    if not record or not _is_same_cutoff(str(record.get("cutoff", "")), context.cutoff):
        return None
    try:
        return recall_wheel(record, context.cache)
    except (KeyError, ValueError):
        return None


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
