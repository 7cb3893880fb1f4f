"""Making a freeze: settle what is direct, check what is asked, solve, and say what became of each package."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from offline_kit.errors import ProjectError
from offline_kit.freeze import checks, direct, fates, written
from offline_kit.freeze.direct import Settled, Yard
from offline_kit.freeze.engines import Problem
from offline_kit.freeze.facts import Library, of_wheel
from offline_kit.freeze.fates import Finish, Policy
from offline_kit.freeze.gather import FreezeRequest, Gathered
from offline_kit.freeze.lines import Wanted
from offline_kit.freeze.locks import Lock, LockPin
from offline_kit.freeze.solve import Case, Solution, solve, torch_without_local
from offline_kit.freeze.walk import Ask, holds
from offline_kit.image import Image
from offline_kit.index import Index
from offline_kit.model import Fate, Freeze, Pin
from offline_kit.report import Reporter


def make(read: Gathered, request: FreezeRequest, yard: Yard, old: Freeze | None, report: Reporter) -> Freeze:
    """Make a freeze of what was gathered; pins of `old` are preferences. Its text and input hash are empty.

    Raises ProjectError for requirements that cannot be met, OutsideError where an index cannot be reached.
    """
    image = yard.image
    moment = (request.now or datetime.now(UTC)).astimezone(UTC)
    cutoff = moment.strftime("%Y-%m-%dT%H:%M:%SZ")
    index = Index(yard.settings, cache=yard.cache)
    library = Library(index, yard)
    settled = direct.settle(read.directs, yard, report=report)
    library.give({one.name: of_wheel(one.wheel, one.name, one.version) for one in settled})
    policy = replace(
        read.policy,
        direct={one.name: one for one in settled if one.name not in read.policy.own | read.policy.exclude},
        hashes={one.name: frozenset(one.hashes) for one in read.wanted if one.hashes},
    )
    checks.check(read.wanted, library, policy, image)
    checks.check_directs(policy, image)
    case = Case(
        roots=_roots(read, settled, library, policy),
        bounds=tuple(_ask(one) for one in read.constraints),
        liked=_liked(read, old),
        obeyed=_obeyed(read, request, policy, image),
        policy=policy,
        library=library,
        engine=read.engine,
        problem=Problem(
            requirements=(),
            constraints=(),
            preferences={},
            stubs=Path(),
            image=image,
            settings=yard.settings,
            cutoff=cutoff,
            undated=_undated(yard, read),
            cache=yard.cache,
        ),
    )
    solution = solve(case, report)
    return _frozen(case, solution, read, report)


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
    found = fates.pins(solution.reached, solution.resolved, case.policy, image)
    brought = {pin.name for pin in found if pin.fate is Fate.BUNDLED}
    with_ = Finish(
        library=case.library,
        policy=case.policy,
        cutoff=case.problem.cutoff,
        doubtful=fates.is_doubtful(image),
        direct_asks=brought | {ask.by for ask in case.roots},
    )
    pins = fates.finish(found, with_)
    _check_hashes(pins, read.wanted)
    replaced = {pin.name: pin.version for pin in pins if pin.replaces}
    broken: dict[str, tuple[str, ...]] = {}
    if replaced:
        report.step(
            f"Looking for packages of the image that break with another {', '.join(sorted(replaced))}"
        )
        broken = fates.breaks(replaced, image, case.library.of_image(report))
    return Freeze(
        image=image.name,
        python=image.python,
        engine=case.engine,
        cutoff=case.problem.cutoff,
        input_hash="",
        pins=pins,
        replacements=written.replacements(pins, broken),
        differences=(
            *_differences(pins, read.lock),
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


def _differences(pins: Iterable[Pin], lock: Lock) -> list[str]:
    """Return a line for every lock pin that another version won over."""
    lines = []
    for pin in pins:
        liked = lock.pins.get(pin.name)
        if (
            liked
            and pin.fate is not Fate.SKIPPED
            and pin.version.partition("+")[0] != liked.version.partition("+")[0]
        ):
            winner = "the image has" if pin.fate is Fate.PROVIDED else "the kit brings"
            lines.append(f"{pin.name}: {liked.source} has {liked.version}, {winner} {pin.version}")
    return lines


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
