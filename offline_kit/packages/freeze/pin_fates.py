"""Decide about every reached package: bundled, provided by the image or skipped, each with its reason."""

from collections.abc import Collection, Mapping

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from offline_kit.core.errors import OfflineKitError
from offline_kit.packages.file_choice import choose_file, collect_hashes, is_same_version
from offline_kit.packages.freeze.dependency_walk import (
    Dependency,
    DependencyGraph,
    PackagePolicy,
    format_requirement,
    is_unused_accelerator,
    list_unmet,
    marker_holds,
    satisfies_requirement,
)
from offline_kit.packages.freeze.metadata_store import MetadataStore
from offline_kit.project.images import Image
from offline_kit.project.types import Fate, Pin

_MAX_SPARE_SIZE = 1_000_000  # bytes


def decide_pin(
    name: str, graph: DependencyGraph, resolved: Mapping[str, str], policy: PackagePolicy, image: Image
) -> Pin:
    """Return the pin of a reached package, without hashes of the index and without spares."""
    dependencies = graph.dependencies[name]
    fate, reason = _decide_fate(name, dependencies, graph, policy, image)
    image_version = image.packages.get(name, "")
    version = image_version if fate is Fate.PROVIDED else resolved.get(name, "")
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


def _decide_fate(
    name: str,
    dependencies: tuple[Dependency, ...],
    graph: DependencyGraph,
    policy: PackagePolicy,
    image: Image,
) -> tuple[Fate, str]:
    image_version = image.packages.get(name, "")
    provided = graph.is_provided(name, image)
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
    unmet = " and ".join(list_unmet(name, dependencies, image_version))
    return Fate.BUNDLED, f"the image has {image_version}, and {unmet}"


def is_reconstructed_image(image: Image) -> bool:
    """Whether an image's package list is a reconstruction, so that a package may be missing on Kaggle."""
    return not image.local and "reconstruction" in f"{image.title} {image.provenance}".lower()


def list_allowed_hashes(
    pin: Pin, metadata: MetadataStore, policy: PackagePolicy, cutoff: str
) -> tuple[str, ...]:
    """Return the hashes of a pin's files on the index, as far as the user's lines allow them."""
    hashes = collect_hashes(metadata.index.list_files(pin.name), pin.version, cutoff)
    allowed = policy.hashes.get(pin.name)
    return tuple(value for value in hashes if not allowed or value in allowed)


def is_worth_spare(pin: Pin, metadata: MetadataStore, requesters: Collection[str]) -> bool:
    """Whether to bundle a provided pin that one of these files and packages requires, in case the image lacks it."""
    image = metadata.target.image
    if not is_reconstructed_image(image) or image.is_protected(pin.name):
        return False
    if not set(pin.asked_by) & set(requesters):
        return False
    try:
        file = choose_file(metadata.index.list_files(pin.name), pin.version, (), metadata.target)
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
