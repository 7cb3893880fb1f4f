"""One sdist made ready: the closure that builds it offline, and its wheel, built in exactly that closure."""

import re
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from offline_kit.core.cache import key_of
from offline_kit.core.report import Reporter
from offline_kit.packages.builds import confined_build
from offline_kit.packages.builds.build_closure import Sources, obtain
from offline_kit.packages.builds.build_environment import (
    FRAMEWORKS,
    WITH_FRAMEWORK,
    BuildFailed,
    Workshop,
    static_requires,
    unpack,
    workshop,
)
from offline_kit.packages.builds.wheel_fit import DoesNotFit, fitted, kept
from offline_kit.project.types import Artifact, Sdist, Wheel

_FORMAT = 2  # raise it when the same input shall give another result


@dataclass(frozen=True, kw_only=True)
class Made:
    """What became of one sdist."""

    closure: tuple[Wheel, ...]
    """The wheels that its isolated build needs, sorted by file name; what could be found, if it failed."""
    wheel: Wheel | None
    """Built from it, fits the image; None if that failed."""
    why: str = ""
    """Why there is no wheel, without a capital; empty where there is one."""
    tail: tuple[str, ...] = ()
    """Last lines of the failed build."""


def log_name(sdist: Sdist, sources: Sources) -> str:
    """Return the name of the log that the build of this sdist leaves in the cache."""
    return f"{sdist.name}-{sdist.version}-py{sources.target.image.python_minor}"


def make(
    sdist: Sdist, sources: Sources, report: Reporter, *, above: tuple[str, ...] = (), retry: bool = True
) -> Made:
    """Make an sdist ready, or tell why that cannot be; from the cache where it was done before.

    `above` are the packages whose build asked for this one; `retry` tries a remembered failure again.
    Raises what `obtain` raises for indexes that do not answer.
    """
    if sdist.name in above:
        circle = " → ".join((*above, sdist.name))
        return Made(closure=(), wheel=None, why=f"its build needs itself: {circle}")
    key = _key(sdist, sources)
    with sources.cache.lock(f"sdist-{key[:32]}"):
        made = recall(sdist, sources, retry=retry)
        if made is None:
            made = _make(sdist, sources, report, above)
            sources.cache.remember("sdists", key, _record(made))
        return made


def recall(sdist: Sdist, sources: Sources, *, retry: bool = True) -> Made | None:
    """Return what became of the sdist before, or None; with `retry`, failures count as none."""
    made = _recalled(_key(sdist, sources), sources)
    return None if made and retry and made.wheel is None else made


def _make(sdist: Sdist, sources: Sources, report: Reporter, above: tuple[str, ...]) -> Made:
    report.step(f"Building {sdist.name} {sdist.version} from source")
    attempt = _Attempt(sdist, sources, report, above)
    if not confined_build.is_confined():
        report.warn(confined_build.WEAK)
    try:
        wheel = attempt.wheel()
    except BuildFailed as error:
        return Made(closure=attempt.closure, wheel=None, why=error.why, tail=error.tail)
    return Made(closure=attempt.closure, wheel=wheel)


class _Attempt:
    """The two rounds of one isolated build, as pip and uv go through them."""

    def __init__(self, sdist: Sdist, sources: Sources, report: Reporter, above: tuple[str, ...]) -> None:
        self.sdist, self.sources, self.report, self.above = sdist, sources, report, above
        self.log = sources.cache.log(log_name(sdist, sources))
        self.closure: tuple[Wheel, ...] = ()

    def wheel(self) -> Wheel:
        """Build the wheel and return it, audited, normalised and in the cache."""
        asked = self._static()
        self.closure = self._wheels(asked)
        with workshop(self.sources.python, self.closure, log=self.log) as shop:
            source = unpack(self.sdist, shop.scratch / "asked")
            more = {text for text in shop.asks(source) if text not in asked}
            if more:
                # What the hook asks for may move the versions of the first round: all is resolved together.
                self.closure = self._wheels(asked | more)
                shop.hold(self.closure)
                source = unpack(self.sdist, shop.scratch / "source")
            return self._build(shop, source)

    def _static(self) -> set[str]:
        with tempfile.TemporaryDirectory(prefix="offline-kit-sdist-") as name:
            return static_requires(unpack(self.sdist, Path(name)))

    def _wheels(self, asked: Iterable[str]) -> tuple[Wheel, ...]:
        asked = tuple(asked)
        for text in asked:
            if (
                name := re.split(r"[^\w.-]", text.strip(), maxsplit=1)[0].lower()
            ) in FRAMEWORKS and "@" not in text:
                raise BuildFailed(
                    f"its build asks for {name}, which only the image has as it must be", [WITH_FRAMEWORK]
                )
        wheels, sdists = obtain(asked, self.sources, self.report)
        built = [self._built(one) for one in sdists]
        return tuple(sorted((*wheels, *built), key=lambda wheel: wheel.filename))

    def _built(self, sdist: Sdist) -> Wheel:
        made = make(sdist, self.sources, self.report, above=(*self.above, self.sdist.name))
        if made.wheel is None:
            raise BuildFailed(f"its build needs {sdist.name} {sdist.version}, and {made.why}", made.tail)
        return made.wheel

    def _build(self, shop: Workshop, source: Path) -> Wheel:
        path = shop.build(source, shop.scratch / "built")
        _check(path, self.sdist)
        try:
            path = fitted(path, self.sources.target.image, shop.scratch / "audited")
        except DoesNotFit as error:
            raise BuildFailed(f"the wheel built from it does not fit: {error}", [path.name]) from error
        return kept(path, self.sdist.name, self.sdist.version, self.sources.cache)


def _check(wheel: Path, sdist: Sdist) -> None:
    from packaging.utils import InvalidWheelFilename, parse_wheel_filename
    from packaging.version import Version

    try:
        name, version, _, _ = parse_wheel_filename(wheel.name)
    except InvalidWheelFilename as error:
        raise BuildFailed("its build makes a wheel with an invalid file name", [str(error)]) from error
    if (name, version) != (sdist.name, Version(sdist.version)):
        raise BuildFailed(
            f"its build makes {name} {version} instead", [f"{sdist.filename} became {wheel.name}"]
        )


def _key(sdist: Sdist, sources: Sources) -> str:
    image = sources.target.image
    # The image's packages are preferences of the closure, so they are part of the question.
    return key_of(
        _FORMAT,
        sdist.sha256,
        [image.python, image.machine, image.glibc, image.local, key_of(dict(image.packages))],
        [sources.cutoff, sources.exact or sys.version],
    )


def _record(made: Made) -> dict[str, object]:
    return {
        "closure": [_line(wheel) for wheel in made.closure],
        "wheel": _line(made.wheel) if made.wheel else None,
        "why": made.why,
        "tail": list(made.tail),
    }


def _line(wheel: Artifact) -> dict[str, object]:
    return {key: getattr(wheel, key) for key in ("name", "version", "filename", "sha256", "size")}


def _recalled(key: str, sources: Sources) -> Made | None:
    record = sources.cache.recall("sdists", key)
    if record is None:
        return None
    try:
        lines = [*record["closure"], *([record["wheel"]] if record["wheel"] else [])]  # type: ignore[misc]
        wheels = [_wheel(line, sources) for line in lines]
        found = [wheel for wheel in wheels if wheel is not None]
        if len(found) < len(wheels):
            return None
        return Made(
            closure=tuple(found[:-1] if record["wheel"] else found),
            wheel=found[-1] if record["wheel"] else None,
            why=str(record["why"]),
            tail=tuple(str(line) for line in record["tail"]),  # type: ignore[attr-defined]
        )
    except (KeyError, TypeError):
        return None


def _wheel(line: dict[str, object], sources: Sources) -> Wheel | None:
    size = int(str(line["size"]))
    path = sources.cache.find(str(line["sha256"]), size=size)
    if path is None:
        return None
    words: Sequence[str] = [str(line[key]) for key in ("name", "version", "filename", "sha256")]
    return Wheel(name=words[0], version=words[1], filename=words[2], sha256=words[3], path=path, size=size)
