"""Walk over packages and their extras: what the requirements reach, seen from the image."""

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
    """One requirement whose marker holds, and where it comes from."""

    required_by: str
    """A package, or the user's file: "-r requirements.in"."""
    requirement: Requirement

    @property
    def name(self) -> str:
        """Normalized name of the required package."""
        return canonicalize_name(self.requirement.name)

    def describe_request(self) -> str:
        """Return who requires what: "scipy wants numpy>=2.3"."""
        return f"{self.required_by} wants {format_requirement(self.requirement)}"


@dataclass(frozen=True, kw_only=True)
class WalkContext:
    """What a walk depends on, apart from its roots."""

    image: Image
    resolved: Mapping[str, str]
    """The resolver's version of every package."""
    read_metadata: MetadataReader
    constraints: Mapping[str, tuple[Dependency, ...]] = field(default_factory=dict)
    """Constraints and enforced lock pins: they bind reached packages, and reach none."""
    always_bundled: frozenset[str] = frozenset()
    """Packages that are bundled even if the image has them."""
    unfollowed: frozenset[str] = frozenset()
    """Excluded packages and the project's own."""


@dataclass(frozen=True, kw_only=True)
class DependencyGraph:
    """The packages that a walk reached."""

    dependencies: Mapping[str, tuple[Dependency, ...]]
    """Every reached package with all requirements on it."""
    replaced: frozenset[str]
    """Reached packages whose image version does not meet all requirements: the kit brings another one."""
    unresolved: tuple[Dependency, ...]
    """Requirements on packages that the resolver did not pin."""

    def is_provided(self, name: str, image: Image) -> bool:
        """Whether the image's version meets all requirements on it."""
        return is_in_image(image, name) and name not in self.replaced


def format_requirement(requirement: Requirement) -> str:
    """Return name and versions of a requirement, without extras and marker."""
    return f"{canonicalize_name(requirement.name)}{requirement.specifier}"


def is_in_image(image: Image, name: str) -> bool:
    """Whether the image has a package, at a known version or not."""
    return name in image.packages or name in image.unversioned


def satisfies_requirement(requirement: Requirement, name: str, version: str) -> bool:
    """Whether a version meets a requirement; an invalid version meets only requirements without a version."""
    specifier = requirement.specifier
    if not specifier:
        return True
    if name in TORCH_FAMILY:
        # PEP 440: "torch==2.11.0+cu128" excludes the image's 2.11.0+cpu, but every build of a version serves.
        version = version.partition("+")[0]
        specifier = SpecifierSet(
            ",".join(f"{clause.operator}{clause.version.partition('+')[0]}" for clause in specifier)
        )
    try:
        return specifier.contains(Version(version), prereleases=True)
    except InvalidVersion:
        return False


def marker_holds(marker: Marker | None, environment: Mapping[str, str], extra: str = "") -> bool:
    """Whether a marker holds in this environment if the extra is requested."""
    return marker is None or marker.evaluate({**environment, "extra": extra})


def walk_dependencies(roots: tuple[Dependency, ...], context: WalkContext) -> DependencyGraph:
    """Walk from the roots until no more packages of the image have to be replaced.

    A package of the image is followed only into its requested extras. If its version does not meet a
    requirement, it is followed as the resolver pinned it, and the walk starts again.
    """
    replaced = set(context.always_bundled)
    while True:
        graph = _walk_once(roots, context, frozenset(replaced))
        unserved = {
            name
            for name, dependencies in graph.dependencies.items()
            if name in context.image.packages
            and name not in context.unfollowed
            and not all(
                satisfies_requirement(dependency.requirement, name, context.image.packages[name])
                for dependency in dependencies
            )
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
        name = dependency.name
        dependencies.setdefault(name, list(context.constraints.get(name, ()))).append(dependency)
        is_skipped = is_unused_accelerator(name, context.image) and name not in context.always_bundled
        if name in context.unfollowed or is_skipped:
            continue
        for extra in ("", *sorted(map(canonicalize_name, dependency.requirement.extras))):
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


def is_unused_accelerator(name: str, image: Image) -> bool:
    """Whether a package needs a GPU and the image is CPU-only."""
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
