"""Decide about every reached package: bundled, provided by the image or skipped, each with its reason."""

from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from offline_kit.core.errors import OfflineKitError
from offline_kit.packages.file_choice import choose_file, is_same_version
from offline_kit.packages.freeze.dependency_walk import (
    Dependency,
    DependencyGraph,
    format_requirement,
    is_unused_accelerator,
    marker_holds,
    satisfies_requirement,
)
from offline_kit.packages.freeze.direct_references import ResolvedReference
from offline_kit.packages.freeze.metadata_store import MetadataStore
from offline_kit.project.images import Image
from offline_kit.project.types import Fate, Pin

MAX_SPARE_SIZE = 1_000_000
"""In bytes."""


@dataclass(frozen=True, kw_only=True)
class PackagePolicy:
    """What the user decided about packages."""

    exclude: frozenset[str] = frozenset()
    """Never bundled."""
    include: frozenset[str] = frozenset()
    """Bundled even if the image has them."""
    replace: frozenset[str] = frozenset()
    """Protected packages that may be replaced."""
    own: frozenset[str] = frozenset()
    """The project's own packages."""
    direct_references: Mapping[str, ResolvedReference] = field(default_factory=dict)
    """By name; they are bundled."""
    hashes: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Hashes that the user's lines allow, by name."""

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


def decide_pins(
    graph: DependencyGraph, resolved: Mapping[str, str], policy: PackagePolicy, image: Image
) -> tuple[Pin, ...]:
    """Return a pin for every reached package, sorted by name, without hashes and spares."""
    return tuple(
        _decide_pin(name, dependencies, graph, resolved, policy, image)
        for name, dependencies in sorted(graph.dependencies.items())
    )


def _decide_pin(
    name: str,
    dependencies: tuple[Dependency, ...],
    graph: DependencyGraph,
    resolved: Mapping[str, str],
    policy: PackagePolicy,
    image: Image,
) -> Pin:
    fate, reason = _decide_fate(name, dependencies, graph, policy, image)
    image_version = image.packages.get(name, "")
    version = image_version if fate is Fate.PROVIDED else resolved.get(name, "")
    direct = policy.direct_references.get(name)
    is_bundled = fate is Fate.BUNDLED
    return Pin(
        name=name,
        version=version,
        fate=fate,
        reason=reason,
        asked_by=tuple(sorted({dependency.required_by for dependency in dependencies})),
        requires=tuple(sorted({format_requirement(dependency.requirement) for dependency in dependencies})),
        hashes=(f"sha256:{direct.sha256}",) if direct and is_bundled else (),
        url=direct.reference if direct and is_bundled else "",
        local=direct.wheel if direct and is_bundled else None,
        replaces=image_version
        if is_bundled and image_version and not is_same_version(image_version, version)
        else "",
    )


def _decide_fate(
    name: str,
    dependencies: tuple[Dependency, ...],
    graph: DependencyGraph,
    policy: PackagePolicy,
    image: Image,
) -> tuple[Fate, str]:
    image_version = image.packages.get(name, "")
    if name in policy.own:
        return Fate.SKIPPED, "the project's own code, which travels as such"
    if name in policy.exclude:
        return Fate.SKIPPED, "named in `exclude`"
    if (
        is_unused_accelerator(name, image)
        and name not in policy.always_bundled
        and not graph.is_provided(name, image)
    ):
        return Fate.SKIPPED, "of use only beside an accelerator, which this image has not"
    if graph.is_provided(name, image):
        return (
            Fate.PROVIDED,
            f"in the image at {image_version}"
            if image_version
            else "in the image, which does not tell its version",
        )
    if name in policy.direct_references:
        return Fate.BUNDLED, "a direct reference"
    if name in policy.include:
        return Fate.BUNDLED, "named in `include`"
    if not image_version:
        return Fate.BUNDLED, "the image lacks it"
    return (
        Fate.BUNDLED,
        f"the image has {image_version}, and {' and '.join(list_unmet(name, dependencies, image_version))}",
    )


def is_reconstructed_image(image: Image) -> bool:
    """Whether an image's package list is a reconstruction, so that a package may be missing on Kaggle."""
    return not image.local and "reconstruction" in f"{image.title} {image.provenance}".lower()


def list_unmet(name: str, dependencies: Iterable[Dependency], version: str) -> list[str]:
    """Return the requirements that a version does not meet: "scipy wants numpy>=2.3"."""
    return sorted(
        {
            dependency.describe_request()
            for dependency in dependencies
            if not satisfies_requirement(dependency.requirement, name, version)
        }
    )


@dataclass(frozen=True, kw_only=True)
class PinContext:
    """What completing pins depends on."""

    metadata: MetadataStore
    policy: PackagePolicy
    cutoff: str
    """Files uploaded later do not count."""
    is_reconstructed: bool
    """Whether the image's package list is a reconstruction, so that spares are worth their bytes."""
    direct_requesters: Collection[str]
    """Files and bundled packages that may need a spare."""


def complete_pins(pins: Iterable[Pin], context: PinContext) -> tuple[Pin, ...]:
    """Add hashes to bundled pins, and choose which provided packages to bundle as spares."""
    with ThreadPoolExecutor(8) as pool:
        return tuple(pool.map(lambda pin: _complete_pin(pin, context), pins))


def _complete_pin(pin: Pin, context: PinContext) -> Pin:
    if pin.fate is Fate.BUNDLED and not pin.local:
        return replace(pin, hashes=_collect_hashes(pin, context))
    if pin.fate is Fate.PROVIDED and context.is_reconstructed and _is_worth_spare(pin, context):
        return replace(pin, spare=True, hashes=_collect_hashes(pin, context))
    return pin


def _collect_hashes(pin: Pin, context: PinContext) -> tuple[str, ...]:
    files = [
        file
        for file in context.metadata.index.list_files(pin.name)
        if is_same_version(file.version, pin.version)
    ]
    in_time = [file for file in files if not file.upload_time or file.upload_time[:19] <= context.cutoff[:19]]
    hashes = {f"sha256:{file.sha256}" for file in in_time if file.sha256}
    allowed = context.policy.hashes.get(pin.name)
    return tuple(sorted(hashes & allowed if allowed else hashes))


def _is_worth_spare(pin: Pin, context: PinContext) -> bool:
    metadata = context.metadata
    if metadata.build_context.image.is_protected(pin.name) or not set(pin.asked_by) & set(
        context.direct_requesters
    ):
        return False
    try:
        file = choose_file(metadata.index.list_files(pin.name), pin.version, (), metadata.target)
    except OfflineKitError:
        return False
    return file is not None and file.filename.endswith("-none-any.whl") and 0 < file.size <= MAX_SPARE_SIZE


def find_broken_packages(
    replaced: Mapping[str, str], image: Image, requires: Mapping[str, tuple[Requirement, ...]]
) -> dict[str, tuple[str, ...]]:
    """Return the image packages that a replaced package breaks, by its name.

    `replaced` has the new versions, `requires` the requirements of the image's packages; those that the image
    itself does not meet are ignored.
    """
    environment = image.marker_environment()
    broken: dict[str, set[str]] = {name: set() for name in replaced}
    for requester, requirement in ((by, required) for by, lines in requires.items() for required in lines):
        name = canonicalize_name(requirement.name)
        if name not in replaced or requester in replaced or not marker_holds(requirement.marker, environment):
            continue
        fits_no_more = satisfies_requirement(
            requirement, name, image.packages[name]
        ) and not satisfies_requirement(requirement, name, replaced[name])
        if fits_no_more:
            broken[name].add(f"{requester} (wants {format_requirement(requirement)})")
    return {name: tuple(sorted(lines)) for name, lines in broken.items()}
