"""The walk over (package, extra): what the requirements really reach, seen from the image."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from offline_kit.packages.freeze.distribution_facts import Look
from offline_kit.project.images import TORCH_FAMILY, Image


@dataclass(frozen=True, kw_only=True)
class Ask:
    """One requirement, and who puts it."""

    by: str
    """Name of the asking distribution, or the user's file: "-r requirements.in"."""
    requirement: Requirement
    """What is asked; its marker is known to hold."""


@dataclass(frozen=True, kw_only=True)
class World:
    """All that the walk looks at."""

    image: Image
    """What is already there."""
    resolved: Mapping[str, str]
    """The resolver's version of every package."""
    look: Look
    """The distributions' own metadata."""
    bounds: Mapping[str, tuple[Ask, ...]] = field(default_factory=dict)
    """Constraints and obeyed lock pins: they count for what is reached, and reach nothing."""
    bundle: frozenset[str] = frozenset()
    """Packages that are bundled although the image has them."""
    leave: frozenset[str] = frozenset()
    """Packages that are never followed: excluded ones and the project's own."""


@dataclass(frozen=True, kw_only=True)
class Reached:
    """The outcome of a walk."""

    asks: Mapping[str, tuple[Ask, ...]]
    """Every reached package with all requirements on it."""
    shadowed: frozenset[str]
    """Reached packages that the image has, but not as wanted: the kit brings its own."""
    lost: tuple[Ask, ...]
    """Requirements on packages that the resolver did not pin."""

    def provided(self, name: str, image: Image) -> bool:
        """Whether the image's version serves all who ask."""
        return has(image, name) and name not in self.shadowed


def has(image: Image, name: str) -> bool:
    """Whether the image has a package, at a known version or not."""
    return name in image.packages or name in image.unversioned


def satisfied(requirement: Requirement, name: str, version: str) -> bool:
    """Whether a version meets a requirement; torch's family is compared without local parts.

    A version that cannot be read meets only what asks for no version.
    """
    if not requirement.specifier:
        return True
    specifier = requirement.specifier
    if name in TORCH_FAMILY:
        version = version.partition("+")[0]
        specifier = SpecifierSet(
            ",".join(f"{one.operator}{one.version.partition('+')[0]}" for one in specifier)
        )
    try:
        return specifier.contains(Version(version), prereleases=True)
    except InvalidVersion:
        return False


def holds(marker: Marker | None, environment: Mapping[str, str], extra: str = "") -> bool:
    """Whether a marker holds in the image when this extra is asked for."""
    return marker is None or marker.evaluate({**environment, "extra": extra})


def walk(roots: tuple[Ask, ...], world: World) -> Reached:
    """Walk from the roots until nothing changes.

    Where the image has a package, only the extras that are asked of it are followed; where its version
    does not serve, the package is followed as the resolver pinned it, and the walk begins again.
    """
    shadowed = set(world.bundle)
    while True:
        reached = _pass(roots, world, frozenset(shadowed))
        broken = {
            name
            for name, asks in reached.asks.items()
            if name in world.image.packages
            and not all(satisfied(ask.requirement, name, world.image.packages[name]) for ask in asks)
            and name not in world.leave
        }
        if broken <= shadowed:
            return reached
        shadowed |= broken


def _pass(roots: tuple[Ask, ...], world: World, shadowed: frozenset[str]) -> Reached:
    environment = world.image.environment()
    asks: dict[str, list[Ask]] = {}
    seen: set[tuple[str, str]] = set()
    lost: list[Ask] = []
    waiting = list(reversed(roots))
    while waiting:
        ask = waiting.pop()
        name = canonicalize_name(ask.requirement.name)
        if name not in asks:
            asks[name] = list(world.bounds.get(name, ()))
        asks[name].append(ask)
        if name in world.leave or _is_idle(name, world):
            continue
        for extra in ("", *sorted(canonicalize_name(one) for one in ask.requirement.extras)):
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            provided = has(world.image, name) and name not in shadowed
            if provided and not extra:
                continue
            version = world.image.packages.get(name, "") if provided else world.resolved.get(name, "")
            if not version:
                lost += [] if provided else [ask]
                continue
            facts = world.look(name, version)
            if facts is not None:
                new = [Ask(by=name, requirement=one) for one in _asked(facts.requires, environment, extra)]
                waiting += reversed(new)
    return Reached(
        asks={name: tuple(dict.fromkeys(found)) for name, found in sorted(asks.items())},
        shadowed=frozenset(shadowed & asks.keys()),
        lost=tuple(lost),
    )


def _is_idle(name: str, world: World) -> bool:
    """Whether a package serves accelerators alone and the image has none."""
    return is_idle(name, world.image) and name not in world.bundle


def is_idle(name: str, image: Image) -> bool:
    """Whether a package is of use only beside an accelerator that the image's machine lacks."""
    return image.accelerator == "none" and image.is_accelerator(name)


def _asked(
    requires: tuple[Requirement, ...], environment: Mapping[str, str], extra: str
) -> Iterator[Requirement]:
    for one in requires:
        plain = holds(one.marker, environment)
        if (plain and not extra) or (extra and not plain and holds(one.marker, environment, extra)):
            yield one
