"""One sdist made ready: the closure that builds it offline, and its wheel, built in exactly that closure."""

import re
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from offline_kit.core.cache import cache_key
from offline_kit.core.report import Reporter
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
from offline_kit.project.types import Artifact, Sdist, Wheel

_FORMAT = 2  # raise it when the same input shall give another result


@dataclass(frozen=True, kw_only=True)
class SdistBuild:
    """What became of one sdist."""

    closure: tuple[Wheel, ...]
    """The wheels that its isolated build needs, sorted by file name; what could be found, if it failed."""
    wheel: Wheel | None
    """Built from it, fits the image; None if that failed."""
    reason: str = ""
    """Why there is no wheel, without a capital; empty where there is one."""
    tail: tuple[str, ...] = ()
    """Last lines of the failed build."""


def name_build_log(sdist: Sdist, sources: BuildSources) -> str:
    """Return the name of the log that the build of this sdist leaves in the cache."""
    return f"{sdist.name}-{sdist.version}-py{sources.target.image.python_minor}"


def build_sdist(
    sdist: Sdist,
    sources: BuildSources,
    report: Reporter,
    *,
    parents: tuple[str, ...] = (),
    retry: bool = True,
) -> SdistBuild:
    """Make an sdist ready, or tell why that cannot be; from the cache where it was done before.

    `parents` are the packages whose build asked for this one; `retry` tries a remembered failure again.
    Raises what `obtain` raises for indexes that do not answer.
    """
    if sdist.name in parents:
        circle = " → ".join((*parents, sdist.name))
        return SdistBuild(closure=(), wheel=None, reason=f"its build needs itself: {circle}")
    key = _make_build_key(sdist, sources)
    with sources.cache.hold_lock(f"sdist-{key[:32]}"):
        outcome = recall_build(sdist, sources, retry=retry)
        if outcome is None:
            outcome = _run_build(sdist, sources, report, parents)
            sources.cache.write_record("sdists", key, _make_record(outcome))
        return outcome


def recall_build(sdist: Sdist, sources: BuildSources, *, retry: bool = True) -> SdistBuild | None:
    """Return what became of the sdist before, or None; with `retry`, failures count as none."""
    outcome = _recall_record(_make_build_key(sdist, sources), sources)
    return None if outcome and retry and outcome.wheel is None else outcome


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
    """The two rounds of one isolated build, as pip and uv go through them."""

    def __init__(
        self, sdist: Sdist, sources: BuildSources, report: Reporter, parents: tuple[str, ...]
    ) -> None:
        self.sdist, self.sources, self.report, self.parents = sdist, sources, report, parents
        self.log = sources.cache.new_log(name_build_log(sdist, sources))
        self.closure: tuple[Wheel, ...] = ()

    def build_wheel(self) -> Wheel:
        """Build the wheel and return it, audited, normalised and in the cache."""
        requires = self._read_static_requires()
        self.closure = self._obtain_wheels(requires)
        with create_build_environment(self.sources.python, self.closure, log=self.log) as environment:
            source = unpack_sdist(self.sdist, environment.scratch / "asked")
            hook_requires = {text for text in environment.list_hook_requires(source) if text not in requires}
            if hook_requires:
                # What the hook asks for may move the versions of the first round: all is resolved together.
                self.closure = self._obtain_wheels(requires | hook_requires)
                environment.sync_wheels(self.closure)
                source = unpack_sdist(self.sdist, environment.scratch / "source")
            return self._make_wheel(environment, source)

    def _read_static_requires(self) -> set[str]:
        with tempfile.TemporaryDirectory(prefix="offline-kit-sdist-") as name:
            return read_static_requires(unpack_sdist(self.sdist, Path(name)))

    def _obtain_wheels(self, requires: Iterable[str]) -> tuple[Wheel, ...]:
        requires = tuple(requires)
        for text in requires:
            if (
                name := re.split(r"[^\w.-]", text.strip(), maxsplit=1)[0].lower()
            ) in FRAMEWORKS and "@" not in text:
                raise BuildFailedError(
                    f"its build asks for {name}, which only the image has as it must be", [WITH_FRAMEWORK]
                )
        wheels, sdists = obtain_requirements(requires, self.sources, self.report)
        built = [self._build_dependency(sdist) for sdist in sdists]
        return tuple(sorted((*wheels, *built), key=lambda wheel: wheel.filename))

    def _build_dependency(self, sdist: Sdist) -> Wheel:
        outcome = build_sdist(sdist, self.sources, self.report, parents=(*self.parents, self.sdist.name))
        if outcome.wheel is None:
            raise BuildFailedError(
                f"its build needs {sdist.name} {sdist.version}, and {outcome.reason}", outcome.tail
            )
        return outcome.wheel

    def _make_wheel(self, environment: BuildEnvironment, source: Path) -> Wheel:
        path = environment.build_wheel(source, environment.scratch / "built")
        _check_wheel_name(path, self.sdist)
        try:
            path = fit_wheel(path, self.sources.target.image, environment.scratch / "audited")
        except WheelMismatchError as error:
            raise BuildFailedError(f"the wheel built from it does not fit: {error}", [path.name]) from error
        return store_wheel(path, self.sdist.name, self.sdist.version, self.sources.cache)


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


def _make_build_key(sdist: Sdist, sources: BuildSources) -> str:
    image = sources.target.image
    # The image's packages are preferences of the closure, so they are part of the question.
    return cache_key(
        _FORMAT,
        sdist.sha256,
        [image.python, image.machine, image.glibc, image.local, cache_key(dict(image.packages))],
        [sources.cutoff, sources.exact or sys.version],
    )


def _make_record(outcome: SdistBuild) -> dict[str, object]:
    return {
        "closure": [_make_wheel_record(wheel) for wheel in outcome.closure],
        "wheel": _make_wheel_record(outcome.wheel) if outcome.wheel else None,
        "why": outcome.reason,
        "tail": list(outcome.tail),
    }


def _make_wheel_record(wheel: Artifact) -> dict[str, object]:
    return {key: getattr(wheel, key) for key in ("name", "version", "filename", "sha256", "size")}


def _recall_record(key: str, sources: BuildSources) -> SdistBuild | None:
    record = sources.cache.read_record("sdists", key)
    if record is None:
        return None
    try:
        lines = [*record["closure"], *([record["wheel"]] if record["wheel"] else [])]  # type: ignore[misc]
        wheels = [_find_wheel(line, sources) for line in lines]
        available = [wheel for wheel in wheels if wheel is not None]
        if len(available) < len(wheels):
            return None
        return SdistBuild(
            closure=tuple(available[:-1] if record["wheel"] else available),
            wheel=available[-1] if record["wheel"] else None,
            reason=str(record["why"]),
            tail=tuple(str(line) for line in record["tail"]),  # type: ignore[attr-defined]
        )
    except (KeyError, TypeError):
        return None


def _find_wheel(line: dict[str, object], sources: BuildSources) -> Wheel | None:
    size = int(str(line["size"]))
    path = sources.cache.find_blob(str(line["sha256"]), size=size)
    if path is None:
        return None
    words: Sequence[str] = [str(line[key]) for key in ("name", "version", "filename", "sha256")]
    return Wheel(name=words[0], version=words[1], filename=words[2], sha256=words[3], path=path, size=size)
