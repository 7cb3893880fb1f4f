"""Making a freeze: settle what is direct, check what is asked, solve, and say what became of each package."""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from offline_kit.core.errors import OfflineKitError, OutsideError, ProjectError
from offline_kit.core.report import SILENT, Reporter
from offline_kit.packages.freeze import direct_references, freeze_file, pin_fates, requirement_checks
from offline_kit.packages.freeze.dependency_walk import Ask, has, holds, satisfied
from offline_kit.packages.freeze.direct_references import Settled, Yard
from offline_kit.packages.freeze.distribution_facts import Library, of_wheel
from offline_kit.packages.freeze.engines import Problem
from offline_kit.packages.freeze.input_digest import OF_LOCK, FreezeRequest, Gathered
from offline_kit.packages.freeze.lock_files import LockPin
from offline_kit.packages.freeze.pin_fates import Finish, Policy
from offline_kit.packages.freeze.requirement_lines import Wanted
from offline_kit.packages.freeze.solve import Case, Solution, solve, torch_without_local
from offline_kit.packages.index import Index
from offline_kit.project.images import Image
from offline_kit.project.types import Fate, Freeze, Pin


def make(read: Gathered, request: FreezeRequest, yard: Yard, old: Freeze | None, report: Reporter) -> Freeze:
    """Make a freeze of what was gathered; pins of `old` are preferences. Its text and input hash are empty.

    Raises ProjectError for requirements that cannot be met, OutsideError where an index cannot be reached.
    """
    moment = (request.now or datetime.now(UTC)).astimezone(UTC)
    library = Library(Index(yard.settings, cache=yard.cache), yard)
    read = _met(read, library, yard.image)
    maker = _Maker(
        read=read,
        request=request,
        yard=yard,
        old=old,
        library=library,
        cutoff=moment.strftime("%Y-%m-%dT%H:%M:%SZ"),
        report=report,
    )
    settled, policy = _checked(maker)
    case = _case(maker, read, settled, policy)
    return _frozen(case, solve(case, report), read, report)


def _met(read: Gathered, library: Library, image: Image) -> Gathered:
    """Move a lock's pins that the image cannot have to the nearest version that it can; leave out what has none.

    Only names that stand in a lock because they were installed are left out, and none that own code imports.
    """
    wished = sorted(
        name
        for name in read.lock.pins.keys() | read.lock.loose
        if not has(image, name) and name not in read.policy.own
    )
    rooted = {one.name for one in read.wanted if one.origin == OF_LOCK}
    with ThreadPoolExecutor(8) as pool:
        fits = dict(zip(wished, pool.map(library.fits, wished), strict=True))
    pins = {
        name: replace(pin, version=library.nearest(name, pin.version) or pin.version) if name in fits else pin
        for name, pin in read.lock.pins.items()
    }
    left = {
        name: f"no version of it fits Python {image.python_minor}"
        if library.index.files(name)
        else "no index has it"
        for name in wished
        if not fits[name] and name in read.lock.loose & rooted and name not in read.imported
    }
    return replace(
        read,
        wanted=tuple(one for one in read.wanted if one.name not in left),
        lock=replace(read.lock, pins=pins),
        wishes=read.lock.pins,
        left_out={**read.left_out, **left},
    )


@dataclass(frozen=True, kw_only=True)
class _Maker:
    """What does not change while a freeze is made."""

    read: Gathered
    request: FreezeRequest
    yard: Yard
    old: Freeze | None
    library: Library
    cutoff: str
    report: Reporter


def _checked(maker: _Maker) -> tuple[tuple[Settled, ...], Policy]:
    """Settle direct references and check the rest; one error names the problems of both."""
    read, library, image = maker.read, maker.library, maker.yard.image
    refused: list[OfflineKitError] = [read.refused] if read.refused else []
    settled: tuple[Settled, ...] = ()
    try:
        settled = direct_references.settle(read.directs, maker.yard, report=maker.report)
    except (ProjectError, OutsideError) as error:
        refused.append(error)
    library.give({one.name: of_wheel(one.wheel, one.name, one.version) for one in settled})
    policy = replace(
        read.policy,
        direct={one.name: one for one in settled if one.name not in read.policy.own | read.policy.exclude},
        hashes={one.name: frozenset(one.hashes) for one in read.wanted if one.hashes},
    )
    named = {one.name for one in read.directs}
    try:
        requirement_checks.check(
            [one for one in read.wanted if one.name not in named], library, policy, image
        )
    except (ProjectError, OutsideError) as error:
        refused.append(error)
    try:
        requirement_checks.check_directs(policy, image)
    except ProjectError as error:
        refused.append(error)
    if refused:
        raise _together(refused, maker, settled, policy)
    return settled, policy


def _together(
    refused: Sequence[OfflineKitError], maker: _Maker, settled: tuple[Settled, ...], policy: Policy
) -> OfflineKitError:
    """Return one error for all problems, with remedies that were tried."""
    hints = []
    for error in refused:
        hints.append(error.hint)
        if isinstance(error, requirement_checks.UnmetError):
            hints += _remedies(error, maker, settled, policy, alone=len(refused) == 1)
    outside = all(isinstance(error, OutsideError) for error in refused)
    if len(refused) == 1:
        what, details = refused[0].what, refused[0].details
    else:
        image = maker.yard.image
        what = f"the requirements have problems for the image '{image.name}' (Python {image.python})"
        details = tuple(line for error in refused for line in error.details or (error.what,))
    hint = "; ".join(dict.fromkeys(one for one in hints if one))
    return (OutsideError if outside else ProjectError)(what, hint=hint, details=details)


def _remedies(
    error: requirement_checks.UnmetError,
    maker: _Maker,
    settled: tuple[Settled, ...],
    policy: Policy,
    *,
    alone: bool,
) -> list[str]:
    """Say what serves instead of requirements that cannot be met, having resolved with it."""
    library, image = maker.library, maker.yard.image
    free = {one.name for one in error.wanted if has(image, one.name) or library.fits(one.name)}
    hopeless = {one.name for one in error.wanted} - free
    hints = []
    if hopeless:
        hints.append(
            f"no version of {' and '.join(sorted(hopeless))} fits: exclude = {json.dumps(sorted(hopeless))} if predicting does "
            "not need it, or give a wheel that fits ('./NAME.whl' in the requirements)"
        )
    unknown = {
        one.name
        for one in maker.read.wanted
        if not has(image, one.name) and not library.index.files(one.name)
    }
    if not free:
        return hints
    rest = [one for one in maker.read.wanted if one.name not in hopeless | unknown]
    tried = replace(policy, exclude=policy.exclude | hopeless | unknown)
    told = _resolved_with(maker, settled, tried, rest, free) or _resolved_with(
        maker, settled, tried, rest, {one.name for one in rest}
    )
    with_ = " once the other problems are fixed" if not alone or hopeless or unknown else ""
    return [*hints, f"take versions that fit, which resolve{with_}: {told}"] if told else hints


def _resolved_with(
    maker: _Maker,
    settled: tuple[Settled, ...],
    policy: Policy,
    wanted: Sequence[Wanted],
    free: Collection[str],
) -> str:
    """Resolve with the versions of `free` left open; return the changes that this means, "" if nothing comes of it."""
    library, image = maker.library, maker.yard.image
    kept = tuple(
        replace(one, requirement=_without_version(one.requirement), hashes=()) if one.name in free else one
        for one in wanted
    )
    try:
        solution = solve(_case(maker, replace(maker.read, wanted=kept), settled, policy), SILENT)
    except OfflineKitError:
        return ""
    versions = {
        name: image.packages.get(name, "")
        if solution.reached.provided(name, image)
        else solution.resolved.get(name, "")
        for name in solution.reached.asks
    }
    brought = [name for name in versions if not solution.reached.provided(name, image)]
    # What would have to be compiled is the next error.
    if any(library.compiles(name, versions[name]) for name in brought if versions[name]):
        return ""
    changes = {
        one.name: versions[one.name].partition("+")[0]
        for one in wanted
        if versions.get(one.name)
        and not satisfied(Requirement(one.requirement), one.name, versions[one.name])
    }
    changes |= {
        name: versions[name].partition("+")[0]
        for name in free
        if len(free) < len(wanted) and versions.get(name)
    }
    return ", ".join(f"{name}=={version}" for name, version in sorted(changes.items()))


def _without_version(line: str) -> str:
    requirement = Requirement(line)
    requirement.specifier = type(requirement.specifier)("")
    return str(requirement)


def _case(maker: _Maker, read: Gathered, settled: tuple[Settled, ...], policy: Policy) -> Case:
    yard = maker.yard
    return Case(
        roots=_roots(read, settled, maker.library, policy),
        bounds=tuple(_ask(one) for one in read.constraints),
        liked=_liked(read, maker.old),
        obeyed=_obeyed(read, maker.request, policy, yard.image),
        policy=policy,
        library=maker.library,
        engine=read.engine,
        problem=Problem(
            requirements=(),
            constraints=(),
            preferences={},
            stubs=Path(),
            image=yard.image,
            settings=yard.settings,
            cutoff=maker.cutoff,
            undated=_undated(yard, read),
            cache=yard.cache,
        ),
    )


def _ask(one: Wanted) -> Ask:
    requirement = torch_without_local(Requirement(one.requirement))
    requirement.name = str(canonicalize_name(requirement.name))
    requirement.marker = None
    return Ask(by=one.origin, requirement=requirement)


def _roots(read: Gathered, settled: tuple[Settled, ...], library: Library, policy: Policy) -> tuple[Ask, ...]:
    roots = [_ask(one) for one in read.wanted]
    environment = library.yard.image.environment()
    for one in settled:
        extras = one.wanted.direct.extras if one.wanted.direct else ()
        words = f"[{','.join(extras)}]" if extras else ""
        if one.name not in policy.own:
            asked = Requirement(f"{one.name}{words}=={one.version}")
            roots.append(Ask(by=one.wanted.origin, requirement=asked))
            continue
        # The project's own package travels as code: what it asks for is asked for in its stead.
        facts = library(one.name, one.version)
        for wanted in facts.requires if facts else ():
            if any(holds(wanted.marker, environment, extra) for extra in ("", *extras)):
                text = Requirement(str(wanted))
                text.marker, text.name = None, str(canonicalize_name(wanted.name))
                roots.append(Ask(by=one.name, requirement=text))
    return tuple(dict.fromkeys(roots))


def _liked(read: Gathered, old: Freeze | None) -> dict[str, str]:
    kept = {pin.name: pin.version for pin in old.pins if pin.fate is not Fate.PROVIDED} if old else {}
    kept = {name: version for name, version in kept.items() if version}
    return kept | {name: pin.version for name, pin in read.lock.pins.items()}


def _obeyed(read: Gathered, request: FreezeRequest, policy: Policy, image: Image) -> dict[str, LockPin]:
    """Return the lock pins that win over the image: those named in `replace`, or all that are not protected."""
    return {
        name: pin
        for name, pin in read.lock.pins.items()
        if name in policy.replace
        or (request.pins == "lock" and policy.may_replace(name, image) and not image.is_accelerator(name))
    }


def _undated(yard: Yard, read: Gathered) -> frozenset[str]:
    """Return the indexes that do not tell upload times, judged by what they have of the user's packages."""
    found = set()
    for url in yard.settings.index_urls():
        if "//pypi.org/" in url:
            continue
        alone = Index(
            replace(yard.settings, index_url=url, extra_index_urls=(), find_links=()), cache=yard.cache
        )
        listed = [file for one in read.wanted[:8] for file in alone.files(one.name)]
        if not any(file.upload_time for file in listed):
            found.add(url)
    return frozenset(found)


def _frozen(case: Case, solution: Solution, read: Gathered, report: Reporter) -> Freeze:
    image = case.image
    found = pin_fates.pins(solution.reached, solution.resolved, case.policy, image)
    brought = {pin.name for pin in found if pin.fate is Fate.BUNDLED}
    with_ = Finish(
        library=case.library,
        policy=case.policy,
        cutoff=case.problem.cutoff,
        doubtful=pin_fates.is_doubtful(image),
        direct_asks=brought | {ask.by for ask in case.roots},
    )
    pins = pin_fates.finish(found, with_)
    there = {pin.name for pin in pins}
    left = [
        Pin(name=name, version="", fate=Fate.SKIPPED, reason=why)
        for name, why in read.left_out.items()
        if name not in there
    ]
    pins = tuple(sorted((*pins, *left), key=lambda pin: pin.name))
    _check_hashes(pins, read.wanted)
    replaced = {pin.name: pin.version for pin in pins if pin.replaces}
    broken: dict[str, tuple[str, ...]] = {}
    if replaced:
        report.step(
            f"Looking for packages of the image that break with another {', '.join(sorted(replaced))}"
        )
        broken = pin_fates.breaks(replaced, image, case.library.of_image(report))
    return Freeze(
        image=image.name,
        python=image.python,
        engine=case.engine,
        cutoff=case.problem.cutoff,
        input_hash="",
        pins=pins,
        replacements=freeze_file.replacements(pins, broken),
        differences=(
            *_differences(pins, read.wishes),
            *_left_out(pins, read, image),
            *solution.notes,
            *_old_metadata(pins, case.library),
        ),
    )


def _check_hashes(pins: Iterable[Pin], wanted: Iterable[Wanted]) -> None:
    """Raise ProjectError where no file of a bundled pin has a hash that its line allows."""
    bare = {pin.name: pin.version for pin in pins if pin.fate is Fate.BUNDLED and not pin.hashes}
    lines = [f"{one.where}: {one.name} {bare[one.name]}" for one in wanted if one.hashes and one.name in bare]
    if lines:
        raise ProjectError(
            "files on the index have other hashes than the requirements allow",
            hint="correct the hashes, or find out who changed the files",
            details=lines,
        )


LISTED = 8
"""Differences of one file up to which each has a line of its own."""


def _differences(pins: Iterable[Pin], wishes: Mapping[str, LockPin]) -> list[str]:
    """Return a line for every lock pin that another version won over; many of one file share a line."""
    moved: dict[tuple[str, str], list[tuple[Pin, str]]] = {}
    for pin in pins:
        liked = wishes.get(pin.name)
        if (
            liked
            and pin.fate is not Fate.SKIPPED
            and pin.version.partition("+")[0] != liked.version.partition("+")[0]
        ):
            winner = "the image has" if pin.fate is Fate.PROVIDED else "the kit brings"
            moved.setdefault((liked.source, winner), []).append((pin, liked.version))
    lines = []
    for (source, winner), pairs in moved.items():
        if len(pairs) <= LISTED:
            lines += [f"{pin.name}: {source} has {version}, {winner} {pin.version}" for pin, version in pairs]
        else:
            told = ", ".join(f"{pin.name} {pin.version} ({version})" for pin, version in pairs)
            lines.append(f"{source}: {winner} other versions than the file (in brackets) of {told}")
    return sorted(lines) if len(lines) <= 2 * LISTED else lines


def _left_out(pins: Iterable[Pin], read: Gathered, image: Image) -> list[str]:
    """Name what `pip freeze` had from a place of its own, and neither the image nor the kit has."""
    there = {pin.name for pin in pins} | read.policy.own | read.policy.exclude | image.packages.keys()
    return [
        f"{name}: {source} has it from a folder or repository and names no version; add it to the requirements if "
        "the notebook needs it"
        for name, source in sorted(read.lock.unread.items())
        if name not in there
    ]


def _old_metadata(pins: Iterable[Pin], library: Library) -> list[str]:
    """Name bundled packages whose metadata today's pip refuses, as the image's pip 24.1 does."""
    lines = []
    for pin in pins:
        facts = library(pin.name, pin.version) if pin.fate is Fate.BUNDLED else None
        if facts and facts.invalid:
            lines.append(
                f"{pin.name} {pin.version} asks for '{facts.invalid[0]}', which pip 24.1 and later refuse; take a newer version"
            )
    return lines
