"""Walk over packages and their extras: what the requirements reach, seen from the image."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from offline_kit.packages.freeze.direct_references import ResolvedReference
from offline_kit.packages.freeze.metadata_store import MetadataStore
from offline_kit.project.images import TORCH_FAMILY, Image


@dataclass(frozen=True, kw_only=True)
class PackagePolicy:
    """What the user decided about packages; all names are normalized."""

    exclude: frozenset[str] = frozenset()  # never bundled
    include: frozenset[str] = frozenset()  # bundled even if the image has them
    replace: frozenset[str] = frozenset()  # protected packages that may be replaced
    own: frozenset[str] = frozenset()  # the project's own packages
    direct_references: Mapping[str, ResolvedReference] = field(default_factory=dict)  # these are bundled
    hashes: Mapping[str, frozenset[str]] = field(default_factory=dict)  # those that the user's lines allow

    @property
    def always_bundled(self) -> frozenset[str]:
        """Packages that are bundled even if the image has them."""
        return self.include | self.direct_references.keys() - self.own

    @property
    def unfollowed(self) -> frozenset[str]:
        """Packages whose requirements do not count."""
        return self.exclude | self.own

    def allows_replacing(self, name: str, image: Image) -> bool:
        """Whether the kit may bring its own version of an image package."""
        return not image.is_protected(name) or name in self.replace | self.include


@dataclass(frozen=True, kw_only=True)
class Dependency:
    """One requirement whose marker holds, and where it comes from."""

    required_by: str  # a package, or the user's file: "-r requirements.in"
    requirement: Requirement

    @property
    def name(self) -> str:
        """Normalized name of the required package."""
        return canonicalize_name(self.requirement.name)

    def describe_request(self) -> str:
        """Return who requires what: "scipy wants numpy>=2.3"."""
        return f"{self.required_by} wants {format_requirement(self.requirement)}"


@dataclass(frozen=True, kw_only=True)
class DependencyGraph:
    """The packages that a walk reached."""

    dependencies: Mapping[str, tuple[Dependency, ...]]  # every reached package, all requirements on it
    replaced: frozenset[str]  # their image version does not meet all requirements: the kit brings another
    unresolved: tuple[Dependency, ...]  # on packages that the resolver did not pin

    def is_provided(self, name: str, image: Image) -> bool:
        """Whether the image's version meets all requirements on it."""
        return is_in_image(image, name) and name not in self.replaced


def format_requirement(requirement: Requirement) -> str:
    """Return name and versions of a requirement, without extras and marker."""
    return f"{canonicalize_name(requirement.name)}{requirement.specifier}"


def is_in_image(image: Image, name: str) -> bool:
    """Whether the image has a package, at a known version or not."""
    return name in image.packages or name in image.unversioned


def is_unused_accelerator(name: str, image: Image) -> bool:
    """Whether a package needs a GPU and the image is CPU-only."""
    return image.accelerator == "none" and image.is_accelerator(name)


def strip_local_versions(specifier: SpecifierSet) -> SpecifierSet:
    """Return a specifier without local versions: "==2.11.0+cu128" becomes "==2.11.0"."""
    return SpecifierSet(
        ",".join(f"{clause.operator}{clause.version.partition('+')[0]}" for clause in specifier)
    )


def satisfies_requirement(requirement: Requirement, name: str, version: str) -> bool:
    """Whether a version meets a requirement; an invalid version meets only requirements without a version."""
    specifier = requirement.specifier
    if not specifier:
        return True
    if name in TORCH_FAMILY:
        # PEP 440: "torch==2.11.0+cu128" excludes the image's 2.11.0+cpu, but every build of a version serves.
        version, specifier = version.partition("+")[0], strip_local_versions(specifier)
    try:
        return specifier.contains(Version(version), prereleases=True)
    except InvalidVersion:
        return False


def list_unmet(name: str, dependencies: Iterable[Dependency], version: str) -> list[str]:
    """Return the requirements that a version does not meet: "scipy wants numpy>=2.3"."""
    unmet = {
        dependency.describe_request()
        for dependency in dependencies
        if not satisfies_requirement(dependency.requirement, name, version)
    }
    return sorted(unmet)


def marker_holds(marker: Marker | None, environment: Mapping[str, str], extra: str = "") -> bool:
    """Whether a marker holds in this environment if the extra is requested."""
    return marker is None or marker.evaluate({**environment, "extra": extra})


def walk_dependencies(
    roots: tuple[Dependency, ...],
    image: Image,
    versions: Mapping[str, str],
    metadata: MetadataStore,
    policy: PackagePolicy,
    constraints: Mapping[str, list[Dependency]],
) -> DependencyGraph:
    """Walk from the roots until no more packages of the image have to be replaced.

    A package of the image is followed only into its requested extras. If its version does not meet a
    requirement, it is followed as the resolver pinned it in `versions`, and the walk starts again. `constraints`
    (and enforced lock pins) bind packages that are reached, and reach none.
    """
    replaced = set(policy.always_bundled)
    while True:
        graph = _walk_once(roots, image, versions, metadata, policy, constraints, frozenset(replaced))
        unserved = {
            name
            for name, dependencies in graph.dependencies.items()
            if name in image.packages
            and name not in policy.unfollowed
            and list_unmet(name, dependencies, image.packages[name])
        }
        if unserved <= replaced:
            return graph
        replaced |= unserved


def _walk_once(
    roots: tuple[Dependency, ...],
    image: Image,
    versions: Mapping[str, str],
    metadata: MetadataStore,
    policy: PackagePolicy,
    constraints: Mapping[str, list[Dependency]],
    replaced: frozenset[str],
) -> DependencyGraph:
    environment = image.marker_environment()
    dependencies: dict[str, list[Dependency]] = {}
    visited: set[tuple[str, str]] = set()
    unresolved: list[Dependency] = []
    pending = list(reversed(roots))
    while pending:
        dependency = pending.pop()
        name = dependency.name
        dependencies.setdefault(name, list(constraints.get(name, ()))).append(dependency)
        is_skipped = is_unused_accelerator(name, image) and name not in policy.always_bundled
        if name in policy.unfollowed or is_skipped:
            continue
        provided = is_in_image(image, name) and name not in replaced
        for extra in ("", *sorted(map(canonicalize_name, dependency.requirement.extras))):
            if (name, extra) in visited:
                continue
            visited.add((name, extra))
            if provided and not extra:
                continue
            version = image.packages.get(name, "") if provided else versions.get(name, "")
            if not version:
                unresolved += [] if provided else [dependency]
                continue
            package = metadata(name, version)
            children = [
                Dependency(required_by=name, requirement=requirement)
                for requirement in (package.requires if package else ())
                if marker_holds(requirement.marker, environment, extra)
                # What holds without the extra belongs to the package itself.
                and not (extra and marker_holds(requirement.marker, environment))
            ]
            pending += reversed(children)
    return DependencyGraph(
        dependencies={
            name: tuple(dict.fromkeys(requests)) for name, requests in sorted(dependencies.items())
        },
        replaced=replaced & dependencies.keys(),
        unresolved=tuple(unresolved),
    )
