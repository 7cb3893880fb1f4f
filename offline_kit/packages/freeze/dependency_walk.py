"""The walk over (package, extra): what the requirements really reach, seen from the image."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from offline_kit.packages.freeze.metadata_store import MetadataReader
from offline_kit.project.images import TORCH_FAMILY, Image


@dataclass(frozen=True, kw_only=True)
class Dependency:
    """One requirement, and who puts it."""

    required_by: str
    """Name of the asking distribution, or the user's file: "-r requirements.in"."""
    requirement: Requirement
    """What is asked; its marker is known to hold."""


@dataclass(frozen=True, kw_only=True)
class WalkContext:
    """All that the walk looks at."""

    image: Image
    """What is already there."""
    resolved: Mapping[str, str]
    """The resolver's version of every package."""
    read_metadata: MetadataReader
    """The distributions' own metadata."""
    constraints: Mapping[str, tuple[Dependency, ...]] = field(default_factory=dict)
    """Constraints and obeyed lock pins: they count for what is reached, and reach nothing."""
    always_bundled: frozenset[str] = frozenset()
    """Packages that are bundled although the image has them."""
    unfollowed: frozenset[str] = frozenset()
    """Packages that are never followed: excluded ones and the project's own."""


@dataclass(frozen=True, kw_only=True)
class DependencyGraph:
    """The outcome of a walk."""

    dependencies: Mapping[str, tuple[Dependency, ...]]
    """Every reached package with all requirements on it."""
    replaced: frozenset[str]
    """Reached packages that the image has, but not as wanted: the kit brings its own."""
    unresolved: tuple[Dependency, ...]
    """Requirements on packages that the resolver did not pin."""

    def is_provided(self, name: str, image: Image) -> bool:
        """Whether the image's version serves all who ask."""
        return is_in_image(image, name) and name not in self.replaced


def is_in_image(image: Image, name: str) -> bool:
    """Whether the image has a package, at a known version or not."""
    return name in image.packages or name in image.unversioned


def satisfies_requirement(requirement: Requirement, name: str, version: str) -> bool:
    """Whether a version meets a requirement; torch's family is compared without local parts.

    A version that cannot be read meets only what asks for no version.
    """
    if not requirement.specifier:
        return True
    specifier = requirement.specifier
    if name in TORCH_FAMILY:
        version = version.partition("+")[0]
        specifier = SpecifierSet(
            ",".join(f"{clause.operator}{clause.version.partition('+')[0]}" for clause in specifier)
        )
    try:
        return specifier.contains(Version(version), prereleases=True)
    except InvalidVersion:
        return False


def marker_holds(marker: Marker | None, environment: Mapping[str, str], extra: str = "") -> bool:
    """Whether a marker holds in the image when this extra is asked for."""
    return marker is None or marker.evaluate({**environment, "extra": extra})


def walk_dependencies(roots: tuple[Dependency, ...], context: WalkContext) -> DependencyGraph:
    """Walk from the roots until nothing changes.

    Where the image has a package, only the extras that are asked of it are followed; where its version
    does not serve, the package is followed as the resolver pinned it, and the walk begins again.
    """
    replaced = set(context.always_bundled)
    while True:
        graph = _walk_once(roots, context, frozenset(replaced))
        unserved = {
            name
            for name, asks in graph.dependencies.items()
            if name in context.image.packages
            and not all(
                satisfies_requirement(ask.requirement, name, context.image.packages[name]) for ask in asks
            )
            and name not in context.unfollowed
        }
        if unserved <= replaced:
            return graph
        replaced |= unserved


def _walk_once(
    roots: tuple[Dependency, ...], context: WalkContext, replaced: frozenset[str]
) -> DependencyGraph:
    environment = context.image.marker_environment()
    dependencies: dict[str, list[Dependency]] = {}
    visited: set[tuple[str, str]] = set()
    unresolved: list[Dependency] = []
    pending = list(reversed(roots))
    while pending:
        dependency = pending.pop()
        name = canonicalize_name(dependency.requirement.name)
        if name not in dependencies:
            dependencies[name] = list(context.constraints.get(name, ()))
        dependencies[name].append(dependency)
        if name in context.unfollowed or _is_skipped_accelerator(name, context):
            continue
        for extra in (
            "",
            *sorted(canonicalize_name(requirement) for requirement in dependency.requirement.extras),
        ):
            if (name, extra) in visited:
                continue
            visited.add((name, extra))
            provided = is_in_image(context.image, name) and name not in replaced
            if provided and not extra:
                continue
            version = context.image.packages.get(name, "") if provided else context.resolved.get(name, "")
            if not version:
                unresolved += [] if provided else [dependency]
                continue
            metadata = context.read_metadata(name, version)
            if metadata is not None:
                children = [
                    Dependency(required_by=name, requirement=requirement)
                    for requirement in _select_requirements(metadata.requires, environment, extra)
                ]
                pending += reversed(children)
    return DependencyGraph(
        dependencies={
            name: tuple(dict.fromkeys(requests)) for name, requests in sorted(dependencies.items())
        },
        replaced=frozenset(replaced & dependencies.keys()),
        unresolved=tuple(unresolved),
    )


def _is_skipped_accelerator(name: str, world: WalkContext) -> bool:
    """Whether a package serves accelerators alone and the image has none."""
    return is_unused_accelerator(name, world.image) and name not in world.always_bundled


def is_unused_accelerator(name: str, image: Image) -> bool:
    """Whether a package is of use only beside an accelerator that the image's machine lacks."""
    return image.accelerator == "none" and image.is_accelerator(name)


def _select_requirements(
    requires: tuple[Requirement, ...], environment: Mapping[str, str], extra: str
) -> Iterator[Requirement]:
    for requirement in requires:
        without_extra = marker_holds(requirement.marker, environment)
        if (without_extra and not extra) or (
            extra and not without_extra and marker_holds(requirement.marker, environment, extra)
        ):
            yield requirement
