"""One own package built into a wheel that is the same bytes on every machine and every day."""

import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path

from offline_kit.core import files, interpreters, processes
from offline_kit.core.cache import Cache, key_of
from offline_kit.core.errors import ProjectError
from offline_kit.core.report import Reporter
from offline_kit.packages.builds import sdist_builds
from offline_kit.packages.builds.build_closure import Sources, obtain
from offline_kit.packages.builds.build_environment import BuildFailed, Workshop, static_requires, workshop
from offline_kit.packages.builds.wheel_fit import DoesNotFit, fitted, kept
from offline_kit.packages.file_choice import Target
from offline_kit.packages.index import Index
from offline_kit.packages.own import code_files as own_sources
from offline_kit.packages.pip_settings import IndexSettings
from offline_kit.project.images import Image
from offline_kit.project.package_lists import normalized
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
class Yard:
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
    def sources(self) -> Sources:
        """Build requirements and the interpreter; looked for only where something is built."""
        exact = (
            None if self.image.local else interpreters.find(self.image.python_minor, processes.environment())
        )
        return Sources(
            target=Target(self.image),
            index=Index(self.settings, cache=self.cache.root),
            cache=self.cache,
            python=self.image.interpreter or exact or Path(sys.executable),
            exact=bool(self.image.local or exact),
            cutoff=self.cutoff,
        )


def built(package: Path, yard: Yard, report: Reporter) -> Wheel:
    """Return the wheel of a package, from the cache where its sources did not change.

    Raises ProjectError with the build's last lines, OutsideError where an index does not answer.
    """
    tree = own_sources.package_tree(package)
    given = {
        name: value for name, value in processes.environment().items() if name.startswith(_VERSION_GIVEN)
    }
    key = _key(tree, given, yard.image)
    if found := _recalled(key, yard):
        return found
    with yard.cache.lock(f"own-{key[:32]}"):
        if found := _recalled(key, yard):
            return found
        report.step(f"Building your package '{package.resolve().name}'")
        if tree.left_out:
            report.warn(f"left out of '{package.name}' for their size: {', '.join(tree.left_out)}")
        try:
            wheel = _Build(tree, given, yard.sources, report).wheel()
        except BuildFailed as error:
            raise ProjectError(
                f"your package '{package}' cannot be built: {error.why}",
                hint=_remedy(error),
                details=error.tail,
            ) from error
        lines = {name: getattr(wheel, name) for name in ("name", "version", "filename", "sha256", "size")}
        yard.cache.remember("own", key, {**lines, "cutoff": yard.cutoff or files.timestamp()})
        return wheel


def as_built(package: Path, yard: Yard) -> Wheel | None:
    """Return the wheel of a package as it lies there now; None where it was not built so yet. Builds nothing."""
    tree = own_sources.package_tree(package)
    given = {
        name: value for name, value in processes.environment().items() if name.startswith(_VERSION_GIVEN)
    }
    return _recalled(_key(tree, given, yard.image), yard)


class _Build:
    """The two rounds of one isolated build, as pip and uv go through them."""

    def __init__(
        self, tree: own_sources.Tree, given: dict[str, str], sources: Sources, report: Reporter
    ) -> None:
        self.tree, self.given, self.sources, self.report = tree, given, sources, report
        self.log = sources.cache.log(f"own-{tree.root.resolve().name}")

    def wheel(self) -> Wheel:
        """Build; a build that wants the network gets it, since the code is the user's own."""
        try:
            return self._wheel(network=False)
        except BuildFailed as first:
            if not first.wants_network:
                raise
            self.report.note(f"the build of '{self.tree.root.name}' asks for the network: once more with it")
            return self._wheel(network=True)

    def _wheel(self, *, network: bool) -> Wheel:
        asked = static_requires(self.tree.root)
        with workshop(
            self.sources.python, self._wheels(asked), log=self.log, own=True, network=network
        ) as shop:
            shop, source = self._open(shop)
            more = {text for text in shop.asks(source) if text not in asked}
            if not more:
                return self._make(shop, source)
        with workshop(
            self.sources.python, self._wheels(asked | more), log=self.log, own=True, network=network
        ) as shop:
            shop, source = self._open(shop)
            return self._make(shop, source)

    def _open(self, shop: Workshop) -> tuple[Workshop, Path]:
        # The sources are a copy: no build leaves build/ or *.egg-info in the user's folder. Its path is the
        # package's own name, since some builds take names from there.
        env = {**shop.env, **self.given, "GIT_OPTIONAL_LOCKS": "0"}
        source = own_sources.copy(self.tree, shop.scratch / "source" / self.tree.root.resolve().name)
        return replace(shop, env=env), source

    def _wheels(self, asked: Iterable[str]) -> tuple[Wheel, ...]:
        wheels, sdists = obtain(tuple(asked), self.sources, self.report)
        return tuple(sorted((*wheels, *map(self._from_sdist, sdists)), key=lambda wheel: wheel.filename))

    def _from_sdist(self, sdist: Sdist) -> Wheel:
        made = sdist_builds.make(sdist, self.sources, self.report)
        if made.wheel is None:
            raise BuildFailed(f"its build needs {sdist.name} {sdist.version}, and {made.why}", made.tail)
        return made.wheel

    def _make(self, shop: Workshop, source: Path) -> Wheel:
        from packaging.utils import InvalidWheelFilename, parse_wheel_filename

        path = shop.build(source, shop.scratch / "built")
        _check_modules(path)
        try:
            path = fitted(path, self.sources.target.image, shop.scratch / "audited")
            name, version, _, _ = parse_wheel_filename(path.name)
        except (DoesNotFit, InvalidWheelFilename) as error:
            raise BuildFailed(f"its wheel does not fit the image: {error}", [path.name]) from error
        return kept(path, normalized(name), str(version), self.sources.cache)


def _check_modules(wheel: Path) -> None:
    """Raise for a wheel that installs nothing that can be imported: a build found no package and said nothing."""
    import zipfile

    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    if not any(name.endswith((".py", ".so", ".pyd")) for name in names):
        raise BuildFailed("its wheel holds no module", names[:12])


def _remedy(error: BuildFailed) -> str:
    text = "\n".join(error.tail)
    if "Multiple top-level" in text:
        return "name its packages in [tool.setuptools] of pyproject.toml, or ship the folder as `modules` instead"
    if "holds no module" in error.why or "Unable to determine which files to ship" in text:
        return "tell its build where the package lies, or ship the folder as `modules` instead of `packages`"
    if "version" in text and ("git" in text or "scm" in text.lower()):
        return "build from a git checkout with its tags, or set SETUPTOOLS_SCM_PRETEND_VERSION"
    return "see that 'python -m build --wheel' works in that folder, then run again"


def _recalled(key: str, yard: Yard) -> Wheel | None:
    record = yard.cache.recall("own", key)
    try:
        words = (
            {name: str(record[name]) for name in ("name", "version", "filename", "sha256")}
            if record
            else None
        )
        size = int(str(record["size"])) if record else 0
    except (KeyError, ValueError):
        return None
    if not record or not words or not _same_time(str(record.get("cutoff", "")), yard.cutoff):
        return None
    path = yard.cache.find(words["sha256"], size=size)
    return Wheel(**words, size=size, path=path) if path else None


def _same_time(built: str, cutoff: str) -> bool:
    """Whether a build with one cut-off is as good as one with the other.

    The first build of a project has no freeze yet; that is made an instant later, and its cut-off is then.
    """
    try:
        return not cutoff or abs(datetime.fromisoformat(built) - datetime.fromisoformat(cutoff)) < _AN_INSTANT
    except (ValueError, TypeError):
        return built == cutoff


def _key(tree: own_sources.Tree, given: dict[str, str], image: Image) -> str:
    where = [image.python, image.machine, image.glibc, image.local, sys.version if image.local else ""]
    # The folder's name may become the package's.
    return key_of(_FORMAT, tree.root.resolve().name, tree.digest, given, where)
