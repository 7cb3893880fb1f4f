"""One own package built into a wheel that is the same bytes on every machine and every day."""

import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path

from offline_kit.core import files, interpreters, processes
from offline_kit.core.cache import Cache, cache_key
from offline_kit.core.errors import ProjectError
from offline_kit.core.report import Reporter
from offline_kit.packages.builds import sdist_builds
from offline_kit.packages.builds.build_closure import BuildSources, obtain_requirements
from offline_kit.packages.builds.build_environment import (
    BuildEnvironment,
    BuildFailedError,
    create_build_environment,
    read_static_requires,
)
from offline_kit.packages.builds.wheel_fit import WheelMismatchError, fit_wheel, store_wheel
from offline_kit.packages.file_choice import ImageTarget
from offline_kit.packages.index import PackageIndex
from offline_kit.packages.own import code_files as own_sources
from offline_kit.packages.pip_settings import IndexSettings
from offline_kit.project.images import Image
from offline_kit.project.package_lists import normalize_name
from offline_kit.project.types import Sdist, Wheel

_FORMAT = 1  # raise it when the same sources shall give another wheel
_AN_INSTANT = timedelta(hours=1)
_VERSION_GIVEN = (
    "SETUPTOOLS_SCM_PRETEND_VERSION",
    "PBR_VERSION",
    "PDM_BUILD_SCM_VERSION",
    "POETRY_DYNAMIC_VERSIONING",
)
"""Variables by which a user tells a build the version that it would ask git for."""


@dataclass(frozen=True, kw_only=True)
class OwnBuildContext:
    """Where own packages are built."""

    image: Image
    """What the wheels must fit."""
    settings: IndexSettings
    """Where build requirements come from."""
    cache: Cache
    """Where wheels are kept."""
    cutoff: str
    """Nothing uploaded later is used by a build; empty: no cut-off."""

    @cached_property
    def find_sources(self) -> BuildSources:
        """Build requirements and the interpreter; looked for only where something is built."""
        exact = (
            None
            if self.image.local
            else interpreters.find_interpreter(self.image.python_minor, processes.copy_environment())
        )
        return BuildSources(
            target=ImageTarget(self.image),
            index=PackageIndex(self.settings, cache=self.cache.root),
            cache=self.cache,
            python=self.image.interpreter or exact or Path(sys.executable),
            exact=bool(self.image.local or exact),
            cutoff=self.cutoff,
        )


def build_own_wheel(package: Path, context: OwnBuildContext, report: Reporter) -> Wheel:
    """Return the wheel of a package, from the cache where its sources did not change.

    Raises ProjectError with the build's last lines, OutsideError where an index does not answer.
    """
    tree = own_sources.read_source_tree(package)
    version_variables = {
        name: value for name, value in processes.copy_environment().items() if name.startswith(_VERSION_GIVEN)
    }
    key = _make_wheel_key(tree, version_variables, context.image)
    if wheel_found := _recall_wheel(key, context):
        return wheel_found
    with context.cache.hold_lock(f"own-{key[:32]}"):
        if wheel_found := _recall_wheel(key, context):
            return wheel_found
        report.step(f"Building your package '{package.resolve().name}'")
        if tree.oversized:
            report.warn(f"left out of '{package.name}' for their size: {', '.join(tree.oversized)}")
        try:
            wheel = _OwnBuild(tree, version_variables, context.find_sources, report).build_wheel()
        except BuildFailedError as error:
            raise ProjectError(
                f"your package '{package}' cannot be built: {error.reason}",
                hint=_suggest_fix(error),
                details=error.tail,
            ) from error
        lines = {name: getattr(wheel, name) for name in ("name", "version", "filename", "sha256", "size")}
        context.cache.write_record("own", key, {**lines, "cutoff": context.cutoff or files.utc_timestamp()})
        return wheel


def recall_own_wheel(package: Path, context: OwnBuildContext) -> Wheel | None:
    """Return the wheel of a package as it lies there now; None where it was not built so yet. Builds nothing."""
    tree = own_sources.read_source_tree(package)
    version_variables = {
        name: value for name, value in processes.copy_environment().items() if name.startswith(_VERSION_GIVEN)
    }
    return _recall_wheel(_make_wheel_key(tree, version_variables, context.image), context)


class _OwnBuild:
    """The two rounds of one isolated build, as pip and uv go through them."""

    def __init__(
        self,
        tree: own_sources.SourceTree,
        version_variables: dict[str, str],
        sources: BuildSources,
        report: Reporter,
    ) -> None:
        self.tree, self.version_variables, self.sources, self.report = (
            tree,
            version_variables,
            sources,
            report,
        )
        self.log = sources.cache.new_log(f"own-{tree.root.resolve().name}")

    def build_wheel(self) -> Wheel:
        """Build; a build that wants the network gets it, since the code is the user's own."""
        try:
            return self._build_once(network=False)
        except BuildFailedError as first:
            if not first.wants_network:
                raise
            self.report.note(f"the build of '{self.tree.root.name}' asks for the network: once more with it")
            return self._build_once(network=True)

    def _build_once(self, *, network: bool) -> Wheel:
        requires = read_static_requires(self.tree.root)
        with create_build_environment(
            self.sources.python, self._obtain_wheels(requires), log=self.log, own=True, network=network
        ) as environment:
            environment, source = self._copy_sources(environment)
            hook_requires = {text for text in environment.list_hook_requires(source) if text not in requires}
            if not hook_requires:
                return self._make_wheel(environment, source)
        with create_build_environment(
            self.sources.python,
            self._obtain_wheels(requires | hook_requires),
            log=self.log,
            own=True,
            network=network,
        ) as environment:
            environment, source = self._copy_sources(environment)
            return self._make_wheel(environment, source)

    def _copy_sources(self, environment: BuildEnvironment) -> tuple[BuildEnvironment, Path]:
        # The sources are a copy: no build leaves build/ or *.egg-info in the user's folder. Its path is the
        # package's own name, since some builds take names from there.
        env = {**environment.env, **self.version_variables, "GIT_OPTIONAL_LOCKS": "0"}
        source = own_sources.copy_tree(
            self.tree, environment.scratch / "source" / self.tree.root.resolve().name
        )
        return replace(environment, env=env), source

    def _obtain_wheels(self, requires: Iterable[str]) -> tuple[Wheel, ...]:
        wheels, sdists = obtain_requirements(tuple(requires), self.sources, self.report)
        return tuple(
            sorted((*wheels, *map(self._build_dependency, sdists)), key=lambda wheel: wheel.filename)
        )

    def _build_dependency(self, sdist: Sdist) -> Wheel:
        outcome = sdist_builds.build_sdist(sdist, self.sources, self.report)
        if outcome.wheel is None:
            raise BuildFailedError(
                f"its build needs {sdist.name} {sdist.version}, and {outcome.reason}", outcome.tail
            )
        return outcome.wheel

    def _make_wheel(self, environment: BuildEnvironment, source: Path) -> Wheel:
        from packaging.utils import InvalidWheelFilename, parse_wheel_filename

        path = environment.build_wheel(source, environment.scratch / "built")
        _check_wheel_modules(path)
        try:
            path = fit_wheel(path, self.sources.target.image, environment.scratch / "audited")
            name, version, _, _ = parse_wheel_filename(path.name)
        except (WheelMismatchError, InvalidWheelFilename) as error:
            raise BuildFailedError(f"its wheel does not fit the image: {error}", [path.name]) from error
        return store_wheel(path, normalize_name(name), str(version), self.sources.cache)


def _check_wheel_modules(wheel: Path) -> None:
    """Raise for a wheel that installs nothing that can be imported: a build found no package and said nothing."""
    import zipfile

    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    if not any(name.endswith((".py", ".so", ".pyd")) for name in names):
        raise BuildFailedError("its wheel holds no module", names[:12])


def _suggest_fix(error: BuildFailedError) -> str:
    text = "\n".join(error.tail)
    if "Multiple top-level" in text:
        return "name its packages in [tool.setuptools] of pyproject.toml, or ship the folder as `modules` instead"
    if "holds no module" in error.reason or "Unable to determine which files to ship" in text:
        return "tell its build where the package lies, or ship the folder as `modules` instead of `packages`"
    if "version" in text and ("git" in text or "scm" in text.lower()):
        return "build from a git checkout with its tags, or set SETUPTOOLS_SCM_PRETEND_VERSION"
    return "see that 'python -m build --wheel' works in that folder, then run again"


def _recall_wheel(key: str, context: OwnBuildContext) -> Wheel | None:
    record = context.cache.read_record("own", key)
    try:
        words = (
            {name: str(record[name]) for name in ("name", "version", "filename", "sha256")}
            if record
            else None
        )
        size = int(str(record["size"])) if record else 0
    except (KeyError, ValueError):
        return None
    if not record or not words or not _is_same_cutoff(str(record.get("cutoff", "")), context.cutoff):
        return None
    path = context.cache.find_blob(words["sha256"], size=size)
    return Wheel(**words, size=size, path=path) if path else None


def _is_same_cutoff(built: str, cutoff: str) -> bool:
    """Whether a build with one cut-off is as good as one with the other.

    The first build of a project has no freeze yet; that is made an instant later, and its cut-off is then.
    """
    try:
        return not cutoff or abs(datetime.fromisoformat(built) - datetime.fromisoformat(cutoff)) < _AN_INSTANT
    except (ValueError, TypeError):
        return built == cutoff


def _make_wheel_key(tree: own_sources.SourceTree, version_variables: dict[str, str], image: Image) -> str:
    platform_facts = [
        image.python,
        image.machine,
        image.glibc,
        image.local,
        sys.version if image.local else "",
    ]
    # The folder's name may become the package's.
    return cache_key(_FORMAT, tree.root.resolve().name, tree.digest, version_variables, platform_facts)
