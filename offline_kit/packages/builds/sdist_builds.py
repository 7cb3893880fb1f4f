"""Build sdists: the closure of wheels that builds each one offline, and its wheel, built in exactly that closure."""

import re
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from offline_kit.core import interpreters, processes
from offline_kit.core.cache import Cache, cache_key
from offline_kit.core.errors import ProjectError
from offline_kit.core.report import SILENT, Reporter
from offline_kit.packages.builds import confined_build
from offline_kit.packages.builds.build_closure import BuildSources, obtain_requirements
from offline_kit.packages.builds.build_environment import (
    FRAMEWORKS,
    WITH_FRAMEWORK,
    BuildEnvironment,
    BuildFailedError,
    create_build_environment,
    read_static_requires,
    unpack_sdist,
)
from offline_kit.packages.builds.wheel_fit import WheelMismatchError, fit_wheel, store_wheel
from offline_kit.packages.file_choice import ImageTarget
from offline_kit.packages.index import PackageIndex
from offline_kit.project.images import Image
from offline_kit.project.types import Sdist, SettledSdist, Wheel

_FORMAT = 2  # increase it when the same input gives another result
_RUNNING = "{}.{}".format(*sys.version_info)


@dataclass(frozen=True, kw_only=True)
class SdistBuild:
    """The result of building one sdist."""

    closure: tuple[Wheel, ...]
    """The wheels that its isolated build needs, sorted by file name; those found so far if it failed."""
    wheel: Wheel | None
    """Built from it, fits the image; None if that failed."""
    reason: str = ""
    """Why there is no wheel, without a capital; empty if there is one."""
    tail: tuple[str, ...] = ()
    """Last lines of the failed build."""


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
    if not sdists:
        return ()
    sources = BuildSources(target=ImageTarget(image), index=index, cutoff=cutoff)
    retried = [sdist.name not in allow_unbuilt for sdist in sdists]
    recalled = [recall_build(s, sources, retry=retry) for s, retry in zip(sdists, retried, strict=True)]
    if None in recalled:  # only now: choosing an interpreter runs some
        sources = _choose_python(sources, report)
    builds = [
        build or build_sdist(sdist, sources, report, retry=retry)
        for sdist, build, retry in zip(sdists, recalled, retried, strict=True)
    ]
    failed = [
        (sdist, build)
        for sdist, build, retry in zip(sdists, builds, retried, strict=True)
        if retry and build.wheel is None
    ]
    if failed:
        raise _make_failure_error(failed, sources)
    return tuple(
        _settle_sdist(sdist, build, policy, report) for sdist, build in zip(sdists, builds, strict=True)
    )


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
    `obtain_requirements` raises for indexes that do not answer.
    """
    if sdist.name in parents:
        circle = " → ".join((*parents, sdist.name))
        return SdistBuild(closure=(), wheel=None, reason=f"its build needs itself: {circle}")
    key, cache = _make_build_key(sdist, sources), sources.index.cache
    # Two runs must not build the same sdist at once.
    with cache.hold_lock(f"sdist-{key[:32]}"):
        build = recall_build(sdist, sources, retry=retry)
        if build is None:
            build = _run_build(sdist, sources, report, parents)
            record = {
                "closure": [record_wheel(wheel) for wheel in build.closure],
                "wheel": record_wheel(build.wheel) if build.wheel else None,
                "why": build.reason,
                "tail": list(build.tail),
            }
            cache.write_record("sdists", key, record)
        return build


def build_required_wheel(
    sdist: Sdist, sources: BuildSources, report: Reporter, *, parents: tuple[str, ...] = ()
) -> Wheel:
    """Build an sdist that another build requires; raise BuildFailedError if that fails."""
    build = build_sdist(sdist, sources, report, parents=parents)
    if build.wheel is None:
        raise BuildFailedError(
            f"its build needs {sdist.name} {sdist.version}, and {build.reason}", build.tail
        )
    return build.wheel


def recall_build(sdist: Sdist, sources: BuildSources, *, retry: bool = True) -> SdistBuild | None:
    """Return the cached result of an earlier build, or None; with `retry`, a failure does not count."""
    record = sources.index.cache.read_record("sdists", _make_build_key(sdist, sources))
    if record is None or (retry and not record.get("wheel")):
        return None
    try:
        lines = [*record["closure"], *([record["wheel"]] if record["wheel"] else [])]  # type: ignore[misc]
        wheels = [wheel for line in lines if (wheel := recall_wheel(line, sources.index.cache))]
        if len(wheels) < len(lines):
            return None
        return SdistBuild(
            closure=tuple(wheels[:-1] if record["wheel"] else wheels),
            wheel=wheels[-1] if record["wheel"] else None,
            reason=str(record["why"]),
            tail=tuple(str(line) for line in record["tail"]),  # type: ignore[attr-defined]
        )
    except (KeyError, TypeError):
        return None


def record_wheel(wheel: Wheel) -> dict[str, object]:
    """Return what the cache remembers of a wheel."""
    return {key: getattr(wheel, key) for key in ("name", "version", "filename", "sha256", "size")}


def recall_wheel(record: Mapping[str, object], cache: Cache) -> Wheel | None:
    """Return the wheel of a record if its file is still in the cache; raises KeyError for an incomplete record."""
    name, version, filename, sha256 = (str(record[key]) for key in ("name", "version", "filename", "sha256"))
    size = int(str(record["size"]))
    path = cache.find_blob(sha256, size=size)
    if path is None:
        return None
    return Wheel(name=name, version=version, filename=filename, sha256=sha256, path=path, size=size)


def _make_build_key(sdist: Sdist, sources: BuildSources) -> str:
    image = sources.target.image
    # The image's packages are preferences when the closure is resolved.
    return cache_key(
        _FORMAT,
        sdist.sha256,
        [image.python, image.machine, image.glibc, image.local, cache_key(dict(image.packages))],
        [sources.cutoff, sources.exact or sys.version],
    )


def _run_build(sdist: Sdist, sources: BuildSources, report: Reporter, parents: tuple[str, ...]) -> SdistBuild:
    report.step(f"Building {sdist.name} {sdist.version} from source")
    attempt = _SdistAttempt(sdist, sources, report, parents)
    if not confined_build.is_confined():
        report.warn(confined_build.UNCONFINED_WARNING)
    try:
        wheel = attempt.build_wheel()
    except BuildFailedError as error:
        return SdistBuild(closure=attempt.closure, wheel=None, reason=error.reason, tail=error.tail)
    return SdistBuild(closure=attempt.closure, wheel=wheel)


class _SdistAttempt:
    """The two rounds of one isolated build, as pip and uv go through them (PEP 517)."""

    def __init__(
        self, sdist: Sdist, sources: BuildSources, report: Reporter, parents: tuple[str, ...]
    ) -> None:
        self.sdist, self.sources, self.report, self.parents = sdist, sources, report, parents
        self.log = sources.index.cache.new_log(_name_build_log(sdist, sources))
        self.closure: tuple[Wheel, ...] = ()

    def build_wheel(self) -> Wheel:
        """Build the wheel and return it: repaired, normalized and in the cache."""
        with tempfile.TemporaryDirectory(prefix="offline-kit-sdist-") as name:
            requires = read_static_requires(unpack_sdist(self.sdist, Path(name)))
        self.closure = self._obtain_wheels(requires)
        with create_build_environment(self.sources.python, self.closure, log=self.log) as environment:
            source = unpack_sdist(self.sdist, environment.scratch / "asked")
            hook_requires = {text for text in environment.list_hook_requires(source) if text not in requires}
            if hook_requires:
                # These may need other versions than the first round chose: resolve both together.
                self.closure = self._obtain_wheels(requires | hook_requires)
                environment.sync_wheels(self.closure)
                source = unpack_sdist(self.sdist, environment.scratch / "source")
            return self._make_wheel(environment, source)

    def _obtain_wheels(self, requires: Iterable[str]) -> tuple[Wheel, ...]:
        requires = tuple(requires)
        for text in requires:
            name = re.split(r"[^\w.-]", text.strip(), maxsplit=1)[0].lower()
            # PyPI's torch is built for one CUDA and is not the image's build.
            if name in FRAMEWORKS and "@" not in text:
                raise BuildFailedError(
                    f"its build needs {name} exactly as the image has it, and only the image has that",
                    [WITH_FRAMEWORK],
                )
        wheels, sdists = obtain_requirements(requires, self.sources, self.report)
        parents = (*self.parents, self.sdist.name)
        built = [build_required_wheel(sdist, self.sources, self.report, parents=parents) for sdist in sdists]
        return tuple(sorted((*wheels, *built), key=lambda wheel: wheel.filename))

    def _make_wheel(self, environment: BuildEnvironment, source: Path) -> Wheel:
        path = environment.build_wheel(source, environment.scratch / "built")
        _check_wheel_name(path, self.sdist)
        try:
            path = fit_wheel(path, self.sources.target.image, environment.scratch / "audited")
        except WheelMismatchError as error:
            raise BuildFailedError(f"the wheel built from it does not fit: {error}", [path.name]) from error
        return store_wheel(path, self.sdist.name, self.sdist.version, self.sources.index.cache)


def _check_wheel_name(wheel: Path, sdist: Sdist) -> None:
    from packaging.utils import InvalidWheelFilename, parse_wheel_filename
    from packaging.version import Version

    try:
        name, version, _, _ = parse_wheel_filename(wheel.name)
    except InvalidWheelFilename as error:
        raise BuildFailedError("its build makes a wheel with an invalid file name", [str(error)]) from error
    if (name, version) != (sdist.name, Version(sdist.version)):
        raise BuildFailedError(
            f"its build makes {name} {version} instead", [f"{sdist.filename} became {wheel.name}"]
        )


def _choose_python(sources: BuildSources, report: Reporter) -> BuildSources:
    image = sources.target.image
    if image.local and image.interpreter:
        return replace(sources, python=image.interpreter, exact=True)
    if interpreter := interpreters.find_interpreter(image.python_minor, processes.copy_environment()):
        return replace(sources, python=interpreter, exact=True)
    report.note(
        f"Python {image.python_minor} is not installed here: sources are built with Python {_RUNNING}, which works "
        f"for pure Python packages only; install it with 'uv python install {image.python_minor}'"
    )
    return replace(sources, python=Path(sys.executable), exact=False)


def _settle_sdist(sdist: Sdist, build: SdistBuild, policy: str, report: Reporter) -> SettledSdist:
    if build.wheel is None:
        report.warn(f"{sdist.name} {sdist.version} is shipped as source only, as allowed: {build.reason}")
    with_source = policy != "wheel" or build.wheel is None
    return SettledSdist(
        name=sdist.name,
        version=sdist.version,
        sdist=sdist if with_source else None,
        wheel=None if policy == "rename" else build.wheel,
        closure=build.closure if with_source else (),
    )


def _name_build_log(sdist: Sdist, sources: BuildSources) -> str:
    return f"{sdist.name}-{sdist.version}-py{sources.target.image.python_minor}"


def _make_failure_error(failed: Sequence[tuple[Sdist, SdistBuild]], sources: BuildSources) -> ProjectError:
    details: list[str] = []
    for sdist, build in failed:
        details.append(f"{sdist.name} {sdist.version}: {build.reason}")
        details += [f"    {line}" for line in build.tail]
        log = sources.index.cache.root / "logs" / f"{_name_build_log(sdist, sources)}.log"
        details += [f"    whole log: {log}"] if log.exists() else []
    names = ", ".join(f"'{sdist.name}'" for sdist, _ in failed)
    allowed = ", ".join(f'"{sdist.name}"' for sdist, _ in failed)
    minor = sources.target.image.python_minor
    install_python = "" if sources.exact else f"install the image's Python ('uv python install {minor}'), or "
    return ProjectError(
        f"{names} {'exists' if len(failed) == 1 else 'exist'} only as source, and building a wheel for "
        f"{sources.target.describe_platform()} failed",
        code="sdist-build-failed",
        hint=f"{install_python}install what the build needs; or pin a version that has a wheel, list a wheel of your "
        "own in the requirements, exclude it, or build it on Kaggle ('offline-kit build --on kaggle'); to ship the "
        f"source unbuilt: allow_unbuilt = [{allowed}]",
        details=details,
    )
