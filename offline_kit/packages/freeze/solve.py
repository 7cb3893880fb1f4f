"""Resolving against the image: stubs, constraints and preferences in, what is reached out."""

import re
import tempfile
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from offline_kit.core.errors import ProjectError
from offline_kit.core.report import Reporter
from offline_kit.packages.freeze import engines, stub_wheels
from offline_kit.packages.freeze.dependency_walk import (
    Ask,
    Reached,
    World,
    has,
    holds,
    is_idle,
    satisfied,
    walk,
)
from offline_kit.packages.freeze.distribution_facts import Library
from offline_kit.packages.freeze.engines import MetadataError, Problem, Unsolvable
from offline_kit.packages.freeze.lock_files import LockPin
from offline_kit.packages.freeze.pin_fates import Policy, unmet, wording
from offline_kit.project.images import TORCH_FAMILY, Image

ROUNDS = 5
"""How often the resolver may be asked again, each time knowing more of the image's own versions."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A freeze to be made."""

    roots: tuple[Ask, ...]
    """The user's requirements whose markers hold; direct references by name and extras."""
    bounds: tuple[Ask, ...]
    """The user's constraints."""
    liked: Mapping[str, str]
    """Versions of an earlier freeze and of lock files, liked where the image has no say."""
    obeyed: Mapping[str, LockPin]
    """Pins of lock files that win over the image."""
    policy: Policy
    """What the user decided."""
    library: Library
    """Metadata, from the index and elsewhere."""
    engine: str
    """"uv" or "pip-tools"."""
    problem: Problem
    """The settings of the resolver; requirements and constraints are filled in here."""

    @property
    def image(self) -> Image:
        """The target."""
        return self.problem.image


@dataclass(frozen=True, kw_only=True)
class Solution:
    """What came of it."""

    reached: Reached
    """The walk's outcome."""
    resolved: Mapping[str, str]
    """The resolver's versions."""
    notes: tuple[str, ...] = ()
    """What was decided on the way, for a person."""


@dataclass
class _State:
    """What grows from round to round."""

    stubbed: set[str]
    held: set[str] = field(default_factory=set)
    """Image packages that are constrained to their version."""
    notes: list[str] = field(default_factory=list)
    wheels_only: set[str] = field(default_factory=set)
    """Packages whose older versions nobody can build: only versions with a wheel count."""


def solve(case: Case, report: Reporter) -> Solution:
    """Resolve and walk until nothing new is learned of the image.

    Raises ProjectError where the requirements contradict each other, the image's Python, or its protected
    packages; OutsideError where an index cannot be reached.
    """
    image = case.image
    if not case.roots:
        return Solution(reached=Reached(asks={}, shadowed=frozenset(), lost=()), resolved={})
    state = _State(stubbed=set(stub_wheels.with_local_versions(image)) - case.policy.bundle - _freed(case))
    state.held = {
        name
        for name in image.protected
        if name in image.packages
        and name not in case.policy.bundle | _freed(case)
        and not image.is_accelerator(name)
    }
    try:
        solution = _without_compiling(case, state, _settle(case, state, report), report)
    except Unsolvable as error:
        raise _explained(case, state, error, report) from error
    except MetadataError as error:
        if error.package and (without := _solves_without(case, state, error.package, report)):
            raise ProjectError(error.what, hint=without, details=error.details) from error
        raise
    solution = _spare_the_image(case, state, solution, report)
    return solution if solution.notes else replace(solution, notes=tuple(_held_back(case, solution)))


def _without_compiling(case: Case, state: _State, solution: Solution, report: Reporter) -> Solution:
    """Ask again for versions with wheels where the resolver took old compiled code that has none for this Python."""
    compiled = {
        name
        for name in solution.reached.asks
        if not solution.reached.provided(name, case.image)
        and name not in case.policy.leave | case.policy.direct.keys()
        and case.library.compiles(name, solution.resolved.get(name, ""))
    }
    if not compiled:
        return solution
    report.note(f"asking the resolver for versions with wheels of {', '.join(sorted(compiled))}")
    trial = _copied(state, wheels_only=state.wheels_only | compiled)
    try:
        return _settle(case, trial, report)
    except Unsolvable:
        # Nothing else serves: building it is left to whoever makes the wheels.
        asks = solution.reached.asks
        notes = [
            f"{name} {solution.resolved[name]} has no wheel for Python {case.image.python_minor} and would be compiled: "
            f"{', '.join(sorted({f'{ask.by} wants {wording(ask.requirement)}' for ask in asks[name]}))}"
            for name in sorted(compiled)
        ]
        return replace(solution, notes=(*solution.notes, *notes))


def _held_back(case: Case, solution: Solution) -> list[str]:
    """Say of the user's own packages why an older version than the newest one was taken."""
    image, notes = case.image, []
    for ask in case.roots:
        name = ask.requirement.name
        taken = solution.resolved.get(name, "")
        if (
            not taken
            or name in case.policy.leave | case.policy.direct.keys()
            or solution.reached.provided(name, image)
            or case.liked.get(name) == taken
        ):
            continue
        newest = next(
            (one for one in case.library.fits(name) if ask.requirement.specifier.contains(one)), taken
        )
        facts = case.library(name, newest) if Version(newest) > Version(taken) else None
        reasons = [
            f"{wording(one)} (the image has {image.packages[wanted]})"
            for one in (facts.requires if facts else ())
            if (wanted := canonicalize_name(one.name)) in image.packages
            and holds(one.marker, image.environment())
            and not satisfied(one, wanted, image.packages[wanted])
        ]
        if reasons:
            notes.append(f"{name} {taken} was taken, not {newest}, which wants {', '.join(reasons)}")
    return list(dict.fromkeys(notes))


def _freed(case: Case) -> frozenset[str]:
    """Return the packages that need not have the image's version."""
    return case.policy.replace | case.obeyed.keys()


def _settle(case: Case, state: _State, report: Reporter) -> Solution:
    """Ask the resolver again while it shows image versions that no index has, or extras that it missed."""
    for _ in range(ROUNDS):
        try:
            solution = _once(case, state)
        except Unsolvable:
            if not _stub_constrained(case, state):
                raise
            continue
        moved = _moved(case, solution)
        lost = {ask.by for ask in solution.reached.lost if ask.by in case.image.packages}
        known = len(state.held)
        state.held |= lost - case.policy.bundle
        if not _stub_missing(case, state, moved) and len(state.held) == known:
            break
        report.note("asking the resolver again, with more of the image's versions")
    if solution.reached.lost:
        raise ProjectError(
            "some requirements of image packages' extras were not resolved",
            hint="add them to your requirements",
            details=[f"{ask.by} wants {ask.requirement}" for ask in solution.reached.lost],
        )
    return solution


def _moved(case: Case, solution: Solution) -> set[str]:
    """Return what the image provides and the resolver pinned at another version all the same."""
    image = case.image
    return {
        name
        for name in solution.reached.asks
        if name in image.packages
        and solution.reached.provided(name, image)
        and solution.resolved.get(name, image.packages[name]) != image.packages[name]
        and not is_idle(name, image)
    }


def _stub_missing(case: Case, state: _State, names: Iterable[str]) -> bool:
    """Stub those image packages whose version no index has; returns whether there were any."""
    image = case.image
    asked = sorted(name for name in set(names) - state.stubbed if name in image.packages)
    with ThreadPoolExecutor(8) as pool:
        there = pool.map(lambda name: case.library.has(name, image.packages[name]), asked)
        missing = {name for name, found in zip(asked, there, strict=True) if not found}
    state.stubbed |= missing
    return bool(missing)


def _stub_constrained(case: Case, state: _State) -> bool:
    """Stub what is bound to the image's version, and the image's own among the roots; whether that is news.

    An index may lack the version, or list files of it that do not fit before those of another index that do.
    """
    roots = {ask.requirement.name for ask in case.roots} - case.policy.bundle - _freed(case)
    image = case.image
    served = {
        ask.requirement.name
        for ask in case.roots
        if ask.requirement.name in roots
        and satisfied(ask.requirement, ask.requirement.name, image.packages.get(ask.requirement.name, ""))
    }
    new = {name for name in state.held | served if name in image.packages} - state.stubbed
    state.stubbed |= new
    return bool(new)


def _once(case: Case, state: _State) -> Solution:
    image = case.image
    with tempfile.TemporaryDirectory(prefix="offline-kit-") as scratch:
        with ThreadPoolExecutor(8) as pool:
            made = list(
                pool.map(lambda name: stub_wheels.facts_for(name, image, case.library), sorted(state.stubbed))
            )
        case.library.give({stub.name: stub for stub in made})
        problem = replace(
            case.problem,
            requirements=tuple(
                _line(case, ask) for ask in case.roots if ask.requirement.name not in case.policy.leave
            ),
            constraints=_constraints(case, state),
            preferences=_preferences(case),
            stubs=stub_wheels.write(made, Path(scratch) / "stubs"),
            exclude=case.policy.leave,
        )
        resolved = _resolved(case, state, problem)
    bounds: dict[str, tuple[Ask, ...]] = {}
    for ask in (*case.bounds, *(_pinned(name, pin) for name, pin in case.obeyed.items())):
        bounds[ask.requirement.name] = (*bounds.get(ask.requirement.name, ()), ask)
    world = World(
        image=image,
        resolved=resolved,
        look=case.library,
        bounds=bounds,
        bundle=case.policy.bundle,
        leave=case.policy.leave,
    )
    return Solution(reached=walk(case.roots, world), resolved=resolved)


def _resolved(case: Case, state: _State, problem: Problem) -> dict[str, str]:
    """Resolve; what the resolver fell back on and nobody can build does not count, so that the true reason is told."""
    while True:
        try:
            return engines.resolve(replace(problem, wheels_only=frozenset(state.wheels_only)), case.engine)
        except MetadataError as error:
            target = case.library.target
            news = error.package and error.package not in state.wheels_only | case.policy.direct.keys()
            if not news or all(target.rank(one) is None for one in case.library.index.files(error.package)):
                raise
            state.wheels_only.add(error.package)


def _pinned(name: str, pin: LockPin) -> Ask:
    return Ask(by=pin.source, requirement=Requirement(f"{name}=={pin.version}"))


def _line(case: Case, ask: Ask) -> str:
    settled = case.policy.direct.get(ask.requirement.name)
    if settled:
        extras = f"[{','.join(sorted(ask.requirement.extras))}]" if ask.requirement.extras else ""
        return f"{settled.name}{extras} @ {settled.wheel.absolute().as_uri()}"
    return str(ask.requirement)


def _constraints(case: Case, state: _State) -> tuple[str, ...]:
    lines = [f"{ask.requirement.name}{ask.requirement.specifier}" for ask in case.bounds]
    lines += [f"{name}=={pin.version}" for name, pin in case.obeyed.items() if name not in case.policy.direct]
    held = {name: case.image.packages[name] for name in state.held - case.policy.direct.keys()}
    return (*lines, *(f"{name}=={version}" for name, version in sorted(held.items()) if _valid(version)))


def _preferences(case: Case) -> dict[str, str]:
    liked = {name: version for name, version in case.liked.items() if name not in case.policy.direct}
    for name, version in case.image.packages.items():
        if not (name in case.policy.replace and name in liked):
            liked[name] = version
    liked |= {name: pin.version for name, pin in case.obeyed.items()}
    return {name: version for name, version in liked.items() if _valid(version)}


def _valid(version: str) -> bool:
    try:
        Version(version)
    except InvalidVersion:
        return False
    return True


def _explained(case: Case, state: _State, error: Unsolvable, report: Reporter) -> ProjectError:
    """Find out whether protected packages are the reason, and return the error that says so."""
    image = case.image
    words = "\n".join(error.words)
    try:
        solution = _settle(case, _copied(state, held=set()), report)
    except Unsolvable as other:
        unknown = any(
            "not found in the package registry" in line or "versions: none" in line for line in other.words
        )
        remedy = "" if unknown else _remedy(case, state, "\n".join(other.words), report)
        return ProjectError(
            f"the requirements cannot be met together for the image '{image.name}' (Python {image.python})",
            hint="check the name that no index has, and pip's configuration ('pip config list'); if predicting "
            "does not need it, name it in `exclude`"
            if unknown
            else remedy
            or "change the requirements named above: dropping one bound or one package is not enough",
            details=other.words,
        )
    replaced = sorted(solution.reached.shadowed & state.held)
    lines = [
        f"{name}: the image has {image.packages[name]}, and {who}"
        for name in replaced
        for who in unmet(name, solution.reached.asks[name], image.packages[name])
    ]
    askers = {ask.by for name in replaced for ask in solution.reached.asks[name]}
    remedies = (
        _remedy(case, state, "\n".join((words, *sorted(askers))), report),
        f"name {' and '.join(replaced)} in `replace` if you have checked that the image's packages still work"
        if replaced
        else "",
    )
    return ProjectError(
        "the requirements want other versions of packages that are protected in the image",
        hint=", or ".join(one for one in remedies if one) or "change the requirements named above",
        details=lines or error.words,
    )


TRIES = 6
"""How many remedies are tried before an error is shown; each asks the resolver once."""


def _remedy(case: Case, state: _State, words: str, report: Reporter) -> str:
    """Return a change of one requirement with which the rest resolves, tried here; "" if there is none."""
    named = [
        ask
        for ask in case.roots
        if ask.requirement.name not in case.policy.direct
        and re.search(rf"(?<![\w.-]){re.escape(ask.requirement.name)}(?![\w-])", words)
    ]
    bounded = [ask for ask in dict.fromkeys(named) if ask.requirement.specifier]
    trials = [(ask, True) for ask in bounded] + [(ask, False) for ask in dict.fromkeys(named)]
    for ask, keep in trials[:TRIES]:
        name = ask.requirement.name
        if not keep:
            if without := _solves_without(case, state, name, report):
                return without
            continue
        free = Requirement(str(ask.requirement))
        free.specifier = type(free.specifier)("")
        others = tuple(one for one in case.roots if one.requirement.name != name)
        trial = replace(case, roots=(*others, replace(ask, requirement=free)))
        try:
            solution = _settle(trial, _copied(state), report)
        except (Unsolvable, ProjectError):
            continue
        there = solution.reached.provided(name, case.image)
        version = case.image.packages.get(name, "") if there else solution.resolved.get(name, "")
        return f"change '{wording(ask.requirement)}' to '{name}=={version.partition('+')[0]}'"
    return ""


def _solves_without(case: Case, state: _State, name: str, report: Reporter) -> str:
    """Return the advice to exclude a package if the rest resolves without it, else an empty string."""
    policy = replace(case.policy, exclude=case.policy.exclude | {name})
    try:
        _settle(replace(case, policy=policy), _copied(state), report)
    except (Unsolvable, ProjectError):
        return ""
    return f'exclude = ["{name}"], if predicting does not need it (the rest resolves without)'


def _copied(state: _State, *, held: set[str] | None = None, wheels_only: set[str] | None = None) -> _State:
    """Return a copy to try something with."""
    return _State(
        stubbed=set(state.stubbed),
        held=set(state.held if held is None else held),
        wheels_only=set(state.wheels_only if wheels_only is None else wheels_only),
    )


def _spare_the_image(case: Case, state: _State, solution: Solution, report: Reporter) -> Solution:
    """Where a bundled package replaces an image package unasked, try once to do without.

    Taken only where no bundled package falls back by a major version: an old release that declares fewer
    requirements is no gain.
    """
    image = case.image
    roots = {ask.requirement.name for ask in case.roots}
    avoidable = {
        name
        for name in solution.reached.shadowed - case.policy.bundle - _freed(case)
        if not any(
            ask.by not in solution.reached.asks and not satisfied(ask.requirement, name, image.packages[name])
            for ask in solution.reached.asks[name]
        )
    }
    if not avoidable:
        return solution
    held = _copied(state, held=state.held | avoidable)
    try:
        other = _settle(case, held, report)
    except Unsolvable:
        return solution
    if len(other.reached.shadowed) >= len(solution.reached.shadowed) or _fell(solution, other, image):
        return solution
    notes = [
        f"{name} {other.resolved[name]} was taken, not {version}, which would replace "
        f"{' and '.join(sorted(avoidable))} of the image"
        for name, version in sorted(solution.resolved.items())
        if name in other.reached.asks
        and name in roots | solution.reached.asks.keys()
        and not has(image, name)
        and other.resolved.get(name, version) != version
    ]
    return replace(other, notes=tuple(notes))


def _fell(before: Solution, after: Solution, image: Image) -> bool:
    """Whether a package that goes into the kit fell back by a major version."""
    return any(
        Version(after.resolved[name]).major < Version(version).major
        for name, version in before.resolved.items()
        if name in after.reached.asks and name in after.resolved and not after.reached.provided(name, image)
    )


def torch_without_local(requirement: Requirement) -> Requirement:
    """Return a requirement on torch's family without local versions: "torch==2.11.0+cu128" asks for 2.11.0."""
    if requirement.name.lower() not in TORCH_FAMILY or "+" not in str(requirement.specifier):
        return requirement
    changed = Requirement(str(requirement))
    parts = [f"{one.operator}{one.version.partition('+')[0]}" for one in requirement.specifier]
    changed.specifier = type(requirement.specifier)(",".join(parts))
    return changed
