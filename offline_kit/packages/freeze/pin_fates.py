"""From what was reached to pins: bundled, provided or skipped, each with its reason."""

from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from offline_kit.core.errors import OfflineKitError
from offline_kit.packages.file_choice import choose, same_version
from offline_kit.packages.freeze.dependency_walk import Ask, Reached, holds, is_idle, satisfied
from offline_kit.packages.freeze.direct_references import Settled
from offline_kit.packages.freeze.distribution_facts import Library
from offline_kit.project.images import Image
from offline_kit.project.types import Fate, Pin

SPARE_SIZE = 1_000_000
"""Bytes up to which a provided package may travel as a spare."""


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What the user decided, and what is the user's own."""

    exclude: frozenset[str] = frozenset()
    """Never bundled."""
    include: frozenset[str] = frozenset()
    """Bundled although the image has them."""
    replace: frozenset[str] = frozenset()
    """Protected packages that may be replaced."""
    own: frozenset[str] = frozenset()
    """The project's own packages."""
    direct: Mapping[str, Settled] = field(default_factory=dict)
    """Direct references by name; they are bundled."""
    hashes: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Hashes that the user's lines allow, by name."""

    @property
    def bundle(self) -> frozenset[str]:
        """Packages that are bundled whatever the image has."""
        return self.include | self.direct.keys() - self.own

    @property
    def leave(self) -> frozenset[str]:
        """Packages that are not followed."""
        return self.exclude | self.own

    def may_replace(self, name: str, image: Image) -> bool:
        """Whether the kit may bring its own version of an image package."""
        return not image.is_protected(name) or name in self.replace | self.include


def pins(reached: Reached, resolved: Mapping[str, str], policy: Policy, image: Image) -> tuple[Pin, ...]:
    """Return a pin for every reached package, sorted by name; hashes and spares are yet to come."""
    return tuple(
        _pin(name, asks, reached, resolved, policy, image) for name, asks in sorted(reached.asks.items())
    )


def _pin(
    name: str,
    asks: tuple[Ask, ...],
    reached: Reached,
    resolved: Mapping[str, str],
    policy: Policy,
    image: Image,
) -> Pin:
    fate, reason = _fate(name, asks, reached, policy, image)
    here = image.packages.get(name, "")
    version = here if fate is Fate.PROVIDED else resolved.get(name, "")
    settled = policy.direct.get(name)
    brought = fate is Fate.BUNDLED
    return Pin(
        name=name,
        version=version,
        fate=fate,
        reason=reason,
        asked_by=tuple(sorted({ask.by for ask in asks})),
        requires=tuple(sorted({wording(ask.requirement) for ask in asks})),
        hashes=(f"sha256:{settled.sha256}",) if settled and brought else (),
        url=settled.reference if settled and brought else "",
        local=settled.wheel if settled and brought else None,
        replaces=here if brought and here and not same_version(here, version) else "",
    )


def _fate(
    name: str, asks: tuple[Ask, ...], reached: Reached, policy: Policy, image: Image
) -> tuple[Fate, str]:
    here = image.packages.get(name, "")
    if name in policy.own:
        return Fate.SKIPPED, "the project's own code, which travels as such"
    if name in policy.exclude:
        return Fate.SKIPPED, "named in `exclude`"
    if is_idle(name, image) and name not in policy.bundle and not reached.provided(name, image):
        return Fate.SKIPPED, "of use only beside an accelerator, which this image has not"
    if reached.provided(name, image):
        return (
            Fate.PROVIDED,
            f"in the image at {here}" if here else "in the image, which does not tell its version",
        )
    if name in policy.direct:
        return Fate.BUNDLED, "a direct reference"
    if name in policy.include:
        return Fate.BUNDLED, "named in `include`"
    if not here:
        return Fate.BUNDLED, "the image lacks it"
    return Fate.BUNDLED, f"the image has {here}, and {' and '.join(unmet(name, asks, here))}"


def is_doubtful(image: Image) -> bool:
    """Whether an image's list is a reconstruction, so that a package may turn out to be missing."""
    return not image.local and "reconstruction" in f"{image.title} {image.provenance}".lower()


def unmet(name: str, asks: Iterable[Ask], version: str) -> list[str]:
    """Return who is not served by this version: "scipy wants numpy>=2.3"."""
    broken = [ask for ask in asks if not satisfied(ask.requirement, name, version)]
    return sorted({f"{ask.by} wants {wording(ask.requirement)}" for ask in broken})


def wording(requirement: Requirement) -> str:
    """Return name and versions of a requirement, without extras and marker."""
    return f"{canonicalize_name(requirement.name)}{requirement.specifier}"


@dataclass(frozen=True, kw_only=True)
class Finish:
    """What finishing pins needs to know."""

    library: Library
    """Files on the index."""
    policy: Policy
    """For the hashes that the user's lines allow."""
    cutoff: str
    """Files uploaded later do not count."""
    doubtful: bool
    """Whether the image's list is a reconstruction, so that spares are worth their bytes."""
    direct_asks: Collection[str]
    """Who may want a spare: the user's files and bundled packages."""


def finish(found: Iterable[Pin], with_: Finish) -> tuple[Pin, ...]:
    """Add hashes to bundled pins, and choose the spares among provided ones."""
    with ThreadPoolExecutor(8) as pool:
        return tuple(pool.map(lambda pin: _finished(pin, with_), found))


def _finished(pin: Pin, with_: Finish) -> Pin:
    from dataclasses import replace

    if pin.fate is Fate.BUNDLED and not pin.local:
        return replace(pin, hashes=_hashes(pin, with_))
    if pin.fate is Fate.PROVIDED and with_.doubtful and _is_small(pin, with_):
        return replace(pin, spare=True, hashes=_hashes(pin, with_))
    return pin


def _hashes(pin: Pin, with_: Finish) -> tuple[str, ...]:
    listed = [one for one in with_.library.index.files(pin.name) if same_version(one.version, pin.version)]
    in_time = [one for one in listed if not one.upload_time or one.upload_time[:19] <= with_.cutoff[:19]]
    found = {f"sha256:{one.sha256}" for one in in_time if one.sha256}
    allowed = with_.policy.hashes.get(pin.name)
    return tuple(sorted(found & allowed if allowed else found))


def _is_small(pin: Pin, with_: Finish) -> bool:
    library = with_.library
    if library.yard.image.is_protected(pin.name) or not set(pin.asked_by) & set(with_.direct_asks):
        return False
    try:
        file = choose(library.index.files(pin.name), pin.version, (), library.target)
    except OfflineKitError:
        return False
    return file is not None and file.filename.endswith("-none-any.whl") and 0 < file.size <= SPARE_SIZE


def breaks(
    replaced: Mapping[str, str], image: Image, requires: Mapping[str, tuple[Requirement, ...]]
) -> dict[str, tuple[str, ...]]:
    """Return, for each replaced package and its new version, the image packages that no longer fit.

    `requires` is what the image's packages ask for; what was unmet in the image already is passed over.
    """
    environment = image.environment()
    found: dict[str, set[str]] = {name: set() for name in replaced}
    for asking, wanted in ((by, one) for by, lines in requires.items() for one in lines):
        name = canonicalize_name(wanted.name)
        if name not in replaced or asking in replaced or not holds(wanted.marker, environment):
            continue
        fits_no_more = satisfied(wanted, name, image.packages[name]) and not satisfied(
            wanted, name, replaced[name]
        )
        if fits_no_more:
            found[name].add(f"{asking} (wants {wording(wanted)})")
    return {name: tuple(sorted(lines)) for name, lines in found.items()}
