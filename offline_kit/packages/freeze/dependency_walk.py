"""What the requirements reach, seen from the image, and what becomes of each package.

A package is bundled, provided by the image or skipped, each with its reason.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from offline_kit.core.errors import OfflineKitError
from offline_kit.packages.file_choice import choose_file, is_same_version
from offline_kit.packages.freeze.direct_references import ResolvedReference
from offline_kit.packages.freeze.metadata_store import MetadataStore
from offline_kit.project.images import TORCH_FAMILY, Image
from offline_kit.project.types import Fate, Pin

_MAX_SPARE_SIZE = 1_000_000  # bytes


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
class Resolution:
    """The packages that the requirements reach, and their versions."""

    image: Image
    versions: Mapping[str, str]  # the resolver's, of every package
    dependencies: Mapping[str, tuple[Dependency, ...]]  # every reached package, all requirements on it
    replaced: frozenset[str] = frozenset()  # the image's version does not meet them: the kit brings another
    unresolved: tuple[Dependency, ...] = ()  # on packages that the resolver did not pin
    notes: tuple[str, ...] = ()  # decisions that the user should know

    def is_provided(self, name: str) -> bool:
        """Whether the image's version meets all requirements on it."""
        return is_in_image(self.image, name) and name not in self.replaced

    def get_version(self, name: str) -> str:
        """Return the version that the notebook gets: the image's if it serves, else the resolver's; "" if unknown."""
        return (self.image.packages if self.is_provided(name) else self.versions).get(name, "")


def format_requirement(requirement: Requirement) -> str:
    """Return name and versions of a requirement, without extras and marker."""
    return f"{canonicalize_name(requirement.name)}{requirement.specifier}"


def drop_versions(requirement: Requirement) -> Requirement:
    """Return a requirement that any version meets."""
    copy = Requirement(str(requirement))
    copy.specifier = SpecifierSet()
    return copy


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
    versions: Mapping[str, str],
    metadata: MetadataStore,
    policy: PackagePolicy,
    constraints: Mapping[str, list[Dependency]],
    replaced: frozenset[str] = frozenset(),
) -> Resolution:
    """Walk from the roots until no more packages of the image have to be replaced.

    A package of the image is followed only into its requested extras. If its version does not meet a
    requirement, it is followed as the resolver pinned it in `versions`, and the walk starts again, with it among
    the `replaced`. `constraints` (and enforced lock pins) bind packages that are reached, and reach none.
    """
    image, replaced = metadata.image, replaced | policy.always_bundled
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
    unserved = {
        name
        for name, requests in dependencies.items()
        if name in image.packages
        and name not in policy.unfollowed
        and list_unmet(name, requests, image.packages[name])
    }
    if not unserved <= replaced:
        return walk_dependencies(roots, versions, metadata, policy, constraints, replaced | unserved)
    return Resolution(
        image=image,
        versions=versions,
        dependencies={
            name: tuple(dict.fromkeys(requests)) for name, requests in sorted(dependencies.items())
        },
        replaced=replaced & dependencies.keys(),
        unresolved=tuple(unresolved),
    )


def decide_pin(name: str, resolution: Resolution, policy: PackagePolicy) -> Pin:
    """Return the pin of a reached package, without hashes of the index and without spares."""
    dependencies = resolution.dependencies[name]
    fate, reason = _decide_fate(name, resolution, policy)
    image_version = resolution.image.packages.get(name, "")
    version = image_version if fate is Fate.PROVIDED else resolution.versions.get(name, "")
    is_bundled = fate is Fate.BUNDLED
    replaces = is_bundled and image_version and not is_same_version(image_version, version)
    direct = policy.direct_references.get(name) if is_bundled else None
    return Pin(
        name=name,
        version=version,
        fate=fate,
        reason=reason,
        asked_by=tuple(sorted({dependency.required_by for dependency in dependencies})),
        requires=tuple(sorted({format_requirement(dependency.requirement) for dependency in dependencies})),
        hashes=(f"sha256:{direct.sha256}",) if direct else (),
        url=direct.reference if direct else "",
        local=direct.wheel if direct else None,
        replaces=image_version if replaces else "",
    )


def _decide_fate(name: str, resolution: Resolution, policy: PackagePolicy) -> tuple[Fate, str]:
    image = resolution.image
    image_version, provided = image.packages.get(name, ""), resolution.is_provided(name)
    is_unused = is_unused_accelerator(name, image) and name not in policy.always_bundled and not provided
    # The first rule that holds decides.
    for holds, fate, reason in (
        (name in policy.own, Fate.SKIPPED, "the project's own code, which travels as such"),
        (name in policy.exclude, Fate.SKIPPED, "named in `exclude`"),
        (is_unused, Fate.SKIPPED, "of use only beside an accelerator, which this image has not"),
        (provided and image_version, Fate.PROVIDED, f"in the image at {image_version}"),
        (provided, Fate.PROVIDED, "in the image, which does not tell its version"),
        (name in policy.direct_references, Fate.BUNDLED, "a direct reference"),
        (name in policy.include, Fate.BUNDLED, "named in `include`"),
        (not image_version, Fate.BUNDLED, "the image lacks it"),
    ):
        if holds:
            return fate, reason
    unmet = " and ".join(list_unmet(name, resolution.dependencies[name], image_version))
    return Fate.BUNDLED, f"the image has {image_version}, and {unmet}"


def is_reconstructed_image(image: Image) -> bool:
    """Whether an image's package list is a reconstruction, so that a package may be missing on Kaggle."""
    return not image.local and "reconstruction" in f"{image.title} {image.provenance}".lower()


def is_worth_spare(pin: Pin, metadata: MetadataStore, requesters: Collection[str]) -> bool:
    """Whether to bundle a provided pin that one of these files and packages requires, in case the image lacks it."""
    image = metadata.image
    if not is_reconstructed_image(image) or image.is_protected(pin.name):
        return False
    if not set(pin.asked_by) & set(requesters):
        return False
    try:
        file = choose_file(metadata.index.list_files(pin.name), pin.version, (), metadata.image)
    except OfflineKitError:
        return False
    return file is not None and file.filename.endswith("-none-any.whl") and 0 < file.size <= _MAX_SPARE_SIZE


def find_broken_packages(
    replaced: Mapping[str, str], image: Image, requires: Mapping[str, tuple[Requirement, ...]]
) -> dict[str, tuple[str, ...]]:
    """Return the image packages that a replaced package breaks, by its name.

    `replaced` has the new versions, `requires` the requirements of the image's packages; those that the image
    itself does not meet are ignored.
    """
    environment = image.marker_environment()
    broken: dict[str, set[str]] = {name: set() for name in replaced}
    for requester, requirements in requires.items():
        for requirement in requirements if requester not in replaced else ():
            name = canonicalize_name(requirement.name)
            if (
                name in replaced
                and marker_holds(requirement.marker, environment)
                and satisfies_requirement(requirement, name, image.packages[name])
                and not satisfies_requirement(requirement, name, replaced[name])
            ):
                broken[name].add(f"{requester} (wants {format_requirement(requirement)})")
    return {name: tuple(sorted(lines)) for name, lines in broken.items()}
