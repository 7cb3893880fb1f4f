"""Build sdists: the closure of wheels that builds each one offline, and its wheel, built in exactly that closure."""

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import InvalidWheelFilename, parse_wheel_filename
from packaging.version import Version

from offline_kit.core import files, interpreters
from offline_kit.core.cache import Cache, cache_key
from offline_kit.core.errors import ProjectError
from offline_kit.core.report import SILENT, Reporter
from offline_kit.packages.builds import confined_build, resolver_engines
from offline_kit.packages.builds.build_environment import (
    FRAMEWORKS,
    WITH_FRAMEWORK,
    BuildEnvironment,
    BuildFailedError,
    create_build_environment,
    read_static_requires,
    unpack_sdist,
)
from offline_kit.packages.file_choice import collect_hashes
from offline_kit.packages.index import PackageIndex
from offline_kit.packages.pip_settings import redact_urls
from offline_kit.packages.wheel_files import WheelMismatchError, fit_wheel, store_wheel
from offline_kit.packages.wheelhouse import fetch_files
from offline_kit.project.images import Image
from offline_kit.project.types import Fate, Pin, Sdist, SettledSdist, Wheel

_FORMAT = 2  # increase it when the same input gives another result


class BuildSources:
    """What builds are for, and what their requirements are resolved from and built with."""

    def __init__(self, image: Image, index: PackageIndex, cutoff: str) -> None:
        self.image, self.index = image, index
        self.cutoff = cutoff  # build requirements uploaded later are ignored; empty for no cut-off

    @cached_property
    def exact_python(self) -> Path | None:
        """The image's Python on this machine; looked for only if something is built, since that runs some."""
        if self.image.local and self.image.interpreter:
            return self.image.interpreter
        return interpreters.find_interpreter(self.image.python_minor)

    @property
    def python(self) -> Path:
        """The interpreter that builds: the image's version, or the running one if this machine lacks that."""
        return self.exact_python or Path(sys.executable)


@dataclass(frozen=True, kw_only=True)
class SdistBuild:
    """The result of building one sdist."""

    closure: tuple[Wheel, ...]  # what its isolated build needs, sorted; those found so far if it failed
    wheel: Wheel | None  # built from it, fits the image; None if that failed
    reason: str = ""  # why there is no wheel, without a capital
    tail: tuple[str, ...] = ()  # last lines of the failed build


def settle_sdists(
    sdists: Sequence[Sdist],
    image: Image,
    index: PackageIndex,
    *,
    policy: str = "both",
    allow_unbuilt: Sequence[str] = (),
    cutoff: str = "",
    report: Reporter = SILENT,
) -> tuple[SettledSdist, ...]:
    """Return each sdist with everything that builds it offline, and with the wheel built from it here.

    `policy` is one of config_keys.SDISTS; `cutoff` (ISO 8601) is the freeze's, so that the same freeze means the
    same build requirements. Earlier results come from the index's cache, without network. Raises ProjectError
    listing every sdist of which no fitting wheel can be built, unless `allow_unbuilt` names it.
    """
    sources = BuildSources(image, index, cutoff)
    retried = {sdist: sdist.name not in allow_unbuilt for sdist in sdists}
    is_recalled = all(_recall_build(sdist, sources, retry=retry) for sdist, retry in retried.items())
    if not is_recalled and not sources.exact_python:
        minor, running = image.python_minor, "{}.{}".format(*sys.version_info)
        report.note(
            f"Python {minor} is not installed here: sources are built with Python {running}, which works "
            f"for pure Python packages only; install it with 'uv python install {minor}'"
        )
    builds = {sdist: build_sdist(sdist, sources, report, retry=retry) for sdist, retry in retried.items()}
    failed = {sdist: build for sdist, build in builds.items() if build.wheel is None and retried[sdist]}
    if failed:
        raise _make_failure_error(failed, sources)
    settled = []
    for sdist, build in builds.items():
        if build.wheel is None:
            report.warn(f"{sdist.name} {sdist.version} is shipped as source only, as allowed: {build.reason}")
        with_source = policy != "wheel" or build.wheel is None
        settled.append(
            SettledSdist(
                name=sdist.name,
                version=sdist.version,
                sdist=sdist if with_source else None,
                wheel=None if policy == "rename" else build.wheel,
                closure=build.closure if with_source else (),
            )
        )
    return tuple(settled)


def build_sdist(
    sdist: Sdist,
    sources: BuildSources,
    report: Reporter,
    *,
    parents: tuple[str, ...] = (),
    retry: bool = True,
) -> SdistBuild:
    """Build an sdist, or return the cached result of an earlier build.

    `parents` are the packages whose build requires this one; `retry` tries a cached failure again. Raises what
    `_obtain_requirements` raises for indexes that do not answer.
    """
    if sdist.name in parents:
        circle = " → ".join((*parents, sdist.name))
        return SdistBuild(closure=(), wheel=None, reason=f"its build needs itself: {circle}")
    key, cache = _make_build_key(sdist, sources), sources.index.cache
    # Two runs must not build the same sdist at once.
    with cache.hold_lock(f"sdist-{key[:32]}"):
        if recalled := _recall_build(sdist, sources, retry=retry):
            return recalled
        report.step(f"Building {sdist.name} {sdist.version} from source")
        if not confined_build.is_confined():
            report.warn(confined_build.UNCONFINED_WARNING)
        attempt = IsolatedBuild(
            sources, report, log=_name_log(sdist, sources), parents=(*parents, sdist.name)
        )
        try:
            wheel = attempt.build_wheel(
                lambda folder: unpack_sdist(sdist.path, folder, filename=sdist.filename)
            )
            if (wheel.name, Version(wheel.version)) != (sdist.name, Version(sdist.version)):
                raise BuildFailedError(
                    f"its build makes {wheel.name} {wheel.version} instead",
                    [f"{sdist.filename} became {wheel.filename}"],
                )
            build = SdistBuild(closure=attempt.closure, wheel=replace(wheel, version=sdist.version))
        except BuildFailedError as error:
            build = SdistBuild(closure=attempt.closure, wheel=None, reason=error.reason, tail=error.tail)
        record = {
            "closure": [record_wheel(wheel) for wheel in build.closure],
            "wheel": record_wheel(build.wheel) if build.wheel else None,
            "why": build.reason,
            "tail": list(build.tail),
            "python": "" if sources.exact_python else sys.version,
        }
        cache.write_record("sdists", key, record)
        return build


def _recall_build(sdist: Sdist, sources: BuildSources, *, retry: bool) -> SdistBuild | None:
    """Return the cached result of an earlier build, or None; with `retry`, a failure does not count."""
    cache = sources.index.cache
    record: Any = cache.read_record("sdists", _make_build_key(sdist, sources))
    if record is None or (retry and not record.get("wheel")):
        return None
    # A build by another Python than the image's does not count once that is installed.
    if (python := record.get("python")) and (python != sys.version or sources.exact_python):
        return None
    try:
        closure = [recall_wheel(line, cache) for line in record["closure"]]
        wheel = recall_wheel(record["wheel"], cache) if record["wheel"] else None
        if None in closure or bool(wheel) != bool(record["wheel"]):
            return None
        return SdistBuild(
            closure=tuple(filter(None, closure)),
            wheel=wheel,
            reason=record["why"],
            tail=tuple(record["tail"]),
        )
    except (KeyError, TypeError):
        return None


def record_wheel(wheel: Wheel) -> dict[str, object]:
    """Return what the cache remembers of a wheel."""
    return {key: value for key, value in vars(wheel).items() if key != "path"}


def recall_wheel(record: Mapping[str, Any], cache: Cache) -> Wheel | None:
    """Return the wheel of a record if its file is still in the cache; raises KeyError for an incomplete record."""
    path = cache.find_blob(record["sha256"], size=record["size"])
    facts = {key: record[key] for key in ("name", "version", "filename", "sha256", "size")}
    return Wheel(path=path, **facts) if path else None


def _make_build_key(sdist: Sdist, sources: BuildSources) -> str:
    image = sources.image
    # The image's packages are preferences when the closure is resolved.
    return cache_key(
        _FORMAT,
        sdist.sha256,
        [image.python, image.machine, image.glibc, image.local, cache_key(dict(image.packages))],
        [sources.cutoff, True],
    )


def _name_log(sdist: Sdist, sources: BuildSources) -> str:
    return f"{sdist.name}-{sdist.version}-py{sources.image.python_minor}"


def _make_failure_error(failed: Mapping[Sdist, SdistBuild], sources: BuildSources) -> ProjectError:
    details: list[str] = []
    for sdist, build in failed.items():
        details.append(f"{sdist.name} {sdist.version}: {build.reason}")
        details += [f"    {line}" for line in build.tail]
        log = sources.index.cache.root / "logs" / f"{_name_log(sdist, sources)}.log"
        details += [f"    whole log: {log}"] if log.exists() else []
    names = ", ".join(f"'{sdist.name}'" for sdist in failed)
    allowed = ", ".join(f'"{sdist.name}"' for sdist in failed)
    minor = sources.image.python_minor
    install_python = f"install the image's Python ('uv python install {minor}'), or "
    return ProjectError(
        f"{names} {'exists' if len(failed) == 1 else 'exist'} only as source, and building a wheel for "
        f"{sources.image.describe_platform()} failed",
        code="sdist-build-failed",
        hint=f"{'' if sources.exact_python else install_python}install what the build needs; or pin a version that "
        "has a wheel, list a wheel of your own in the requirements, exclude it, or build it on Kaggle "
        f"('offline-kit build --on kaggle'); to ship the source unbuilt: allow_unbuilt = [{allowed}]",
        details=details,
    )


class IsolatedBuild:
    """One isolated build in two rounds, as pip and uv go through them (PEP 517).

    `own` builds are of the user's code: they may read this machine's files and require any framework.
    """

    def __init__(
        self,
        sources: BuildSources,
        report: Reporter,
        *,
        log: str,
        parents: tuple[str, ...] = (),
        own: bool = False,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        self.sources, self.report, self.parents, self.own = sources, report, parents, own
        self.variables = variables or {}
        self.log = sources.index.cache.new_log(log)
        self.closure: tuple[Wheel, ...] = ()

    def build_wheel(
        self, place_sources: Callable[[Path], Path], *, network: bool = False, fit: bool = True
    ) -> Wheel:
        """Build the wheel of the sources that are put into a folder; return it repaired, normalized and in the cache.

        Raises BuildFailedError, and OutsideError if an index does not answer.
        """
        with create_build_environment(
            self.sources.python, (), log=self.log, own=self.own, network=network, variables=self.variables
        ) as environment:
            # Compilers write the path of a source below the scratch folder into a library.
            source = place_sources(environment.scratch / ("source" if self.own else "asked"))
            requires = read_static_requires(source)
            self._sync(environment, requires)
            with environment.open_builder(source) as builder:
                hook_requires = builder.get_requires_for_build("wheel") - requires
            if hook_requires:
                # These may need other versions than the first round chose: resolve both together.
                self._sync(environment, requires | hook_requires)
                files.remove_path(environment.scratch / "source")
                source = place_sources(environment.scratch / "source")
            path = environment.build_wheel(source, environment.scratch / "built")
            try:
                if fit:
                    path = fit_wheel(path, self.sources.image, environment.scratch / "audited")
                name, version, _, _ = parse_wheel_filename(path.name)
            except (WheelMismatchError, InvalidWheelFilename) as error:
                raise BuildFailedError(f"its wheel does not fit the image: {error}", [path.name]) from error
            return store_wheel(path, name, str(version), self.sources.index.cache)

    def _sync(self, environment: BuildEnvironment, requires: Iterable[str]) -> None:
        """Install what the build requires, and nothing else."""
        wheels, sdists = _obtain_requirements(tuple(requires), self.sources, self.report, own=self.own)
        for sdist in sdists:
            build = build_sdist(sdist, self.sources, self.report, parents=self.parents)
            if build.wheel is None:
                reason = f"its build needs {sdist.name} {sdist.version}, and {build.reason}"
                raise BuildFailedError(reason, build.tail)
            wheels.append(build.wheel)
        self.closure = tuple(sorted(wheels, key=lambda wheel: wheel.filename))
        environment.sync_wheels(self.closure)


def _obtain_requirements(
    requires: Sequence[str], sources: BuildSources, report: Reporter, *, own: bool
) -> tuple[list[Wheel], list[Sdist]]:
    """Return everything that these requirements need in the image, as wheels if possible.

    The image's own versions are preferred: they work with its Python, and what is compiled against them works
    with them. Raises BuildFailedError if the requirements cannot be met, OutsideError if an index does not answer.
    """
    for text in requires:
        _check_requirement(text, own=own)
    index = sources.index
    problem = resolver_engines.ResolverInput(
        requirements=tuple(sorted(requires)),
        preferences=sources.image.packages,
        image=sources.image,
        index=index,
        cutoff=sources.cutoff,  # the same freeze then gives the same closure later on
    )
    try:
        versions = resolver_engines.resolve_versions(problem, "uv")
    except resolver_engines.NoSolutionError as error:
        reason = "its build requirements cannot be resolved"
        raise BuildFailedError(reason, error.explanation[-15:]) from error
    except resolver_engines.MetadataBuildError as error:
        raise BuildFailedError(error.what, error.details) from error
    pins = [
        Pin(
            name=name,
            version=version,
            fate=Fate.BUNDLED,
            hashes=collect_hashes(index.list_files(name), version, sources.cutoff),
        )
        for name, version in versions.items()
    ]
    artifacts, missing = fetch_files(pins, sources.image, index, report)
    if missing:
        labels = {pin: f"{pin.name}=={pin.version}" for pin in missing}
        lines = [f"{labels[pin]}: {fact}" for pin, facts in missing.items() for fact in facts]
        reason = f"its build needs {', '.join(labels.values())}, of which no file fits the image"
        raise BuildFailedError(reason, lines)
    return (
        [artifact for artifact in artifacts if isinstance(artifact, Wheel)],
        [artifact for artifact in artifacts if isinstance(artifact, Sdist)],
    )


def _check_requirement(text: str, *, own: bool) -> None:
    try:
        requirement = Requirement(text)
    except InvalidRequirement as error:
        reason = f"its build requires '{text}', which is not a valid requirement"
        raise BuildFailedError(reason, [str(error)]) from error
    if requirement.url:
        reason = f"its build requires '{requirement.name}' from a URL, which an offline build cannot reach"
        raise BuildFailedError(reason, [redact_urls(text)])
    # PyPI's torch is built for one CUDA and is not the image's build.
    if not own and requirement.name.lower() in FRAMEWORKS:
        reason = (
            f"its build needs {requirement.name} exactly as the image has it, and only the image has that"
        )
        raise BuildFailedError(reason, [WITH_FRAMEWORK])
