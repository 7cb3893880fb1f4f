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
from offline_kit.packages.freeze import resolver_engines, stub_wheels
from offline_kit.packages.freeze.dependency_walk import (
    Dependency,
    DependencyGraph,
    WalkContext,
    is_in_image,
    is_unused_accelerator,
    marker_holds,
    satisfies_requirement,
    walk_dependencies,
)
from offline_kit.packages.freeze.lock_files import LockPin
from offline_kit.packages.freeze.metadata_store import MetadataStore
from offline_kit.packages.freeze.pin_fates import PackagePolicy, format_requirement, list_unmet
from offline_kit.packages.freeze.resolver_engines import MetadataBuildError, NoSolutionError, ResolverInput
from offline_kit.project.images import TORCH_FAMILY, Image

MAX_ROUNDS = 5
"""How often the resolver may be asked again, each time knowing more of the image's own versions."""


@dataclass(frozen=True, kw_only=True)
class ResolutionRequest:
    """A freeze to be made."""

    roots: tuple[Dependency, ...]
    """The user's requirements whose markers hold; direct references by name and extras."""
    constraints: tuple[Dependency, ...]
    """The user's constraints."""
    preferred: Mapping[str, str]
    """Versions of an earlier freeze and of lock files, liked where the image has no say."""
    enforced: Mapping[str, LockPin]
    """Pins of lock files that win over the image."""
    policy: PackagePolicy
    """What the user decided."""
    metadata: MetadataStore
    """Metadata, from the index and elsewhere."""
    engine: str
    """"uv" or "pip-tools"."""
    resolver_input: ResolverInput
    """The settings of the resolver; requirements and constraints are filled in here."""

    @property
    def image(self) -> Image:
        """The target."""
        return self.resolver_input.image


@dataclass(frozen=True, kw_only=True)
class Resolution:
    """The packages that the requirements reach, and their versions."""

    graph: DependencyGraph
    versions: Mapping[str, str]
    """The resolver's version of every package."""
    notes: tuple[str, ...] = ()
    """Decisions that the user should know."""

    def get_version(self, name: str, image: Image) -> str:
        """Return the version that the notebook gets: the image's if it serves, else the resolver's; "" if unknown."""
        versions = image.packages if self.graph.is_provided(name, image) else self.versions
        return versions.get(name, "")


@dataclass
class _ResolutionState:
    """What grows from round to round."""

    stubbed: set[str]
    constrained: set[str] = field(default_factory=set)
    """Image packages that are constrained to their version."""
    notes: list[str] = field(default_factory=list)
    wheels_only: set[str] = field(default_factory=set)
    """Packages whose older versions nobody can build: only versions with a wheel count."""


def resolve_requirements(request: ResolutionRequest, report: Reporter) -> Resolution:
    """Resolve and walk until nothing new is learned of the image.

    Raises ProjectError where the requirements contradict each other, the image's Python, or its protected
    packages; OutsideError where an index cannot be reached.
    """
    image = request.image
    if not request.roots:
        return Resolution(
            graph=DependencyGraph(dependencies={}, replaced=frozenset(), unresolved=()), versions={}
        )
    state = _ResolutionState(
        stubbed=set(stub_wheels.list_local_versions(image))
        - request.policy.always_bundled
        - _find_replaceable(request)
    )
    state.constrained = {
        name
        for name in image.protected
        if name in image.packages
        and name not in request.policy.always_bundled | _find_replaceable(request)
        and not image.is_accelerator(name)
    }
    try:
        resolution = _avoid_compiling(request, state, _resolve_until_stable(request, state, report), report)
    except NoSolutionError as error:
        raise _explain_conflict(request, state, error, report) from error
    except MetadataBuildError as error:
        if error.package and (without := _suggest_excluding(request, state, error.package, report)):
            raise ProjectError(error.what, hint=without, details=error.details) from error
        raise
    resolution = _avoid_replacements(request, state, resolution, report)
    return (
        resolution
        if resolution.notes
        else replace(resolution, notes=tuple(_describe_older_versions(request, resolution)))
    )


def _avoid_compiling(
    request: ResolutionRequest, state: _ResolutionState, resolution: Resolution, report: Reporter
) -> Resolution:
    """Ask again for versions with wheels where the resolver took old compiled code that has none for this Python."""
    compiled_names = {
        name
        for name in resolution.graph.dependencies
        if not resolution.graph.is_provided(name, request.image)
        and name not in request.policy.unfollowed | request.policy.direct_references.keys()
        and request.metadata.needs_compiler(name, resolution.versions.get(name, ""))
    }
    if not compiled_names:
        return resolution
    report.note(f"asking the resolver for versions with wheels of {', '.join(sorted(compiled_names))}")
    trial = _copy_state(state, wheels_only=state.wheels_only | compiled_names)
    try:
        return _resolve_until_stable(request, trial, report)
    except NoSolutionError:
        # Nothing else serves: building it is left to whoever makes the wheels.
        dependencies = resolution.graph.dependencies
        notes = [
            f"{name} {resolution.versions[name]} has no wheel for Python {request.image.python_minor} and would be compiled: "
            f"{', '.join(sorted({f'{dependency.required_by} wants {format_requirement(dependency.requirement)}' for dependency in dependencies[name]}))}"
            for name in sorted(compiled_names)
        ]
        return replace(resolution, notes=(*resolution.notes, *notes))


def _describe_older_versions(request: ResolutionRequest, resolution: Resolution) -> list[str]:
    """Say of the user's own packages why an older version than the newest one was taken."""
    image, notes = request.image, []
    for dependency in request.roots:
        name = dependency.requirement.name
        version = resolution.versions.get(name, "")
        if (
            not version
            or name in request.policy.unfollowed | request.policy.direct_references.keys()
            or resolution.graph.is_provided(name, image)
            or request.preferred.get(name) == version
        ):
            continue
        newest = next(
            (
                requirement
                for requirement in request.metadata.find_fitting_versions(name)
                if dependency.requirement.specifier.contains(requirement)
            ),
            version,
        )
        metadata = request.metadata(name, newest) if Version(newest) > Version(version) else None
        reasons = [
            f"{format_requirement(requirement)} (the image has {image.packages[required_name]})"
            for requirement in (metadata.requires if metadata else ())
            if (required_name := canonicalize_name(requirement.name)) in image.packages
            and marker_holds(requirement.marker, image.marker_environment())
            and not satisfies_requirement(requirement, required_name, image.packages[required_name])
        ]
        if reasons:
            notes.append(f"{name} {version} was taken, not {newest}, which wants {', '.join(reasons)}")
    return list(dict.fromkeys(notes))


def _find_replaceable(request: ResolutionRequest) -> frozenset[str]:
    """Return the packages that need not have the image's version."""
    return request.policy.replace | request.enforced.keys()


def _resolve_until_stable(
    request: ResolutionRequest, state: _ResolutionState, report: Reporter
) -> Resolution:
    """Ask the resolver again while it shows image versions that no index has, or extras that it missed."""
    for _ in range(MAX_ROUNDS):
        try:
            resolution = _resolve_once(request, state)
        except NoSolutionError:
            if not _stub_constrained_packages(request, state):
                raise
            continue
        moved_names = _find_moved_packages(request, resolution)
        unresolved_parents = {
            dependency.required_by
            for dependency in resolution.graph.unresolved
            if dependency.required_by in request.image.packages
        }
        count_before = len(state.constrained)
        state.constrained |= unresolved_parents - request.policy.always_bundled
        if not _stub_missing_versions(request, state, moved_names) and len(state.constrained) == count_before:
            break
        report.note("asking the resolver again, with more of the image's versions")
    if resolution.graph.unresolved:
        raise ProjectError(
            "some requirements of image packages' extras were not resolved",
            hint="add them to your requirements",
            details=[
                f"{dependency.required_by} wants {dependency.requirement}"
                for dependency in resolution.graph.unresolved
            ],
        )
    return resolution


def _find_moved_packages(request: ResolutionRequest, resolution: Resolution) -> set[str]:
    """Return what the image provides and the resolver pinned at another version all the same."""
    image = request.image
    return {
        name
        for name in resolution.graph.dependencies
        if name in image.packages
        and resolution.graph.is_provided(name, image)
        and resolution.versions.get(name, image.packages[name]) != image.packages[name]
        and not is_unused_accelerator(name, image)
    }


def _stub_missing_versions(request: ResolutionRequest, state: _ResolutionState, names: Iterable[str]) -> bool:
    """Stub those image packages whose version no index has; returns whether there were any."""
    image = request.image
    unstubbed = sorted(name for name in set(names) - state.stubbed if name in image.packages)
    with ThreadPoolExecutor(8) as pool:
        availability = pool.map(
            lambda name: request.metadata.has_usable_file(name, image.packages[name]), unstubbed
        )
        missing = {
            name for name, is_available in zip(unstubbed, availability, strict=True) if not is_available
        }
    state.stubbed |= missing
    return bool(missing)


def _stub_constrained_packages(request: ResolutionRequest, state: _ResolutionState) -> bool:
    """Stub what is bound to the image's version, and the image's own among the roots; whether that is news.

    An index may lack the version, or list files of it that do not fit before those of another index that do.
    """
    roots = (
        {dependency.requirement.name for dependency in request.roots}
        - request.policy.always_bundled
        - _find_replaceable(request)
    )
    image = request.image
    served = {
        dependency.requirement.name
        for dependency in request.roots
        if dependency.requirement.name in roots
        and satisfies_requirement(
            dependency.requirement,
            dependency.requirement.name,
            image.packages.get(dependency.requirement.name, ""),
        )
    }
    new_names = {name for name in state.constrained | served if name in image.packages} - state.stubbed
    state.stubbed |= new_names
    return bool(new_names)


def _resolve_once(request: ResolutionRequest, state: _ResolutionState) -> Resolution:
    image = request.image
    with tempfile.TemporaryDirectory(prefix="offline-kit-") as scratch:
        with ThreadPoolExecutor(8) as pool:
            stubs = list(
                pool.map(
                    lambda name: stub_wheels.derive_stub_metadata(name, image, request.metadata),
                    sorted(state.stubbed),
                )
            )
        request.metadata.add_metadata({stub.name: stub for stub in stubs})
        resolver_input = replace(
            request.resolver_input,
            requirements=tuple(
                _format_root(request, dependency)
                for dependency in request.roots
                if dependency.requirement.name not in request.policy.unfollowed
            ),
            constraints=_list_constraints(request, state),
            preferences=_list_preferences(request),
            stub_folder=stub_wheels.write_stub_wheels(stubs, Path(scratch) / "stubs"),
            exclude=request.policy.unfollowed,
        )
        versions = _run_resolver(request, state, resolver_input)
    constraints: dict[str, tuple[Dependency, ...]] = {}
    for dependency in (
        *request.constraints,
        *(_pin_dependency(name, pin) for name, pin in request.enforced.items()),
    ):
        constraints[dependency.requirement.name] = (
            *constraints.get(dependency.requirement.name, ()),
            dependency,
        )
    context = WalkContext(
        image=image,
        resolved=versions,
        read_metadata=request.metadata,
        constraints=constraints,
        always_bundled=request.policy.always_bundled,
        unfollowed=request.policy.unfollowed,
    )
    return Resolution(graph=walk_dependencies(request.roots, context), versions=versions)


def _run_resolver(
    request: ResolutionRequest, state: _ResolutionState, resolver_input: ResolverInput
) -> dict[str, str]:
    """Resolve; what the resolver fell back on and nobody can build does not count, so that the true reason is told."""
    while True:
        try:
            return resolver_engines.resolve_versions(
                replace(resolver_input, wheels_only=frozenset(state.wheels_only)), request.engine
            )
        except MetadataBuildError as error:
            target = request.metadata.target
            is_new = (
                error.package
                and error.package not in state.wheels_only | request.policy.direct_references.keys()
            )
            if not is_new or all(
                target.rank_wheel(file) is None for file in request.metadata.index.list_files(error.package)
            ):
                raise
            state.wheels_only.add(error.package)


def _pin_dependency(name: str, pin: LockPin) -> Dependency:
    return Dependency(required_by=pin.source, requirement=Requirement(f"{name}=={pin.version}"))


def _format_root(request: ResolutionRequest, dependency: Dependency) -> str:
    reference = request.policy.direct_references.get(dependency.requirement.name)
    if reference:
        extras = (
            f"[{','.join(sorted(dependency.requirement.extras))}]" if dependency.requirement.extras else ""
        )
        return f"{reference.name}{extras} @ {reference.wheel.absolute().as_uri()}"
    return str(dependency.requirement)


def _list_constraints(request: ResolutionRequest, state: _ResolutionState) -> tuple[str, ...]:
    lines = [
        f"{dependency.requirement.name}{dependency.requirement.specifier}"
        for dependency in request.constraints
    ]
    lines += [
        f"{name}=={pin.version}"
        for name, pin in request.enforced.items()
        if name not in request.policy.direct_references
    ]
    image_versions = {
        name: request.image.packages[name]
        for name in state.constrained - request.policy.direct_references.keys()
    }
    return (
        *lines,
        *(
            f"{name}=={version}"
            for name, version in sorted(image_versions.items())
            if _is_valid_version(version)
        ),
    )


def _list_preferences(request: ResolutionRequest) -> dict[str, str]:
    preferred = {
        name: version
        for name, version in request.preferred.items()
        if name not in request.policy.direct_references
    }
    for name, version in request.image.packages.items():
        if not (name in request.policy.replace and name in preferred):
            preferred[name] = version
    preferred |= {name: pin.version for name, pin in request.enforced.items()}
    return {name: version for name, version in preferred.items() if _is_valid_version(version)}


def _is_valid_version(version: str) -> bool:
    try:
        Version(version)
    except InvalidVersion:
        return False
    return True


def _explain_conflict(
    request: ResolutionRequest, state: _ResolutionState, error: NoSolutionError, report: Reporter
) -> ProjectError:
    """Find out whether protected packages are the reason, and return the error that says so."""
    image = request.image
    explanation = "\n".join(error.explanation)
    try:
        resolution = _resolve_until_stable(request, _copy_state(state, constrained=set()), report)
    except NoSolutionError as other:
        unknown = any(
            "not found in the package registry" in line or "versions: none" in line
            for line in other.explanation
        )
        remedy = "" if unknown else _find_remedy(request, state, "\n".join(other.explanation), report)
        return ProjectError(
            f"the requirements cannot be met together for the image '{image.name}' (Python {image.python})",
            hint="check the name that no index has, and pip's configuration ('pip config list'); if predicting "
            "does not need it, name it in `exclude`"
            if unknown
            else remedy
            or "change the requirements named above: dropping one bound or one package is not enough",
            details=other.explanation,
        )
    replaced_names = sorted(resolution.graph.replaced & state.constrained)
    lines = [
        f"{name}: the image has {image.packages[name]}, and {requester}"
        for name in replaced_names
        for requester in list_unmet(name, resolution.graph.dependencies[name], image.packages[name])
    ]
    requesters = {
        dependency.required_by
        for name in replaced_names
        for dependency in resolution.graph.dependencies[name]
    }
    remedies = (
        _find_remedy(request, state, "\n".join((explanation, *sorted(requesters))), report),
        f"name {' and '.join(replaced_names)} in `replace` if you have checked that the image's packages still work"
        if replaced_names
        else "",
    )
    return ProjectError(
        "the requirements want other versions of packages that are protected in the image",
        hint=", or ".join(remedy for remedy in remedies if remedy) or "change the requirements named above",
        details=lines or error.explanation,
    )


MAX_REMEDY_TRIALS = 6
"""How many remedies are tried before an error is shown; each asks the resolver once."""


def _find_remedy(
    request: ResolutionRequest, state: _ResolutionState, explanation: str, report: Reporter
) -> str:
    """Return a change of one requirement with which the rest resolves, tried here; "" if there is none."""
    mentioned = [
        dependency
        for dependency in request.roots
        if dependency.requirement.name not in request.policy.direct_references
        and re.search(rf"(?<![\w.-]){re.escape(dependency.requirement.name)}(?![\w-])", explanation)
    ]
    bounded = [dependency for dependency in dict.fromkeys(mentioned) if dependency.requirement.specifier]
    trials = [(dependency, True) for dependency in bounded] + [
        (dependency, False) for dependency in dict.fromkeys(mentioned)
    ]
    for dependency, keeps_package in trials[:MAX_REMEDY_TRIALS]:
        name = dependency.requirement.name
        if not keeps_package:
            if exclude_hint := _suggest_excluding(request, state, name, report):
                return exclude_hint
            continue
        unversioned = Requirement(str(dependency.requirement))
        unversioned.specifier = type(unversioned.specifier)("")
        other_roots = tuple(root for root in request.roots if root.requirement.name != name)
        trial = replace(request, roots=(*other_roots, replace(dependency, requirement=unversioned)))
        try:
            resolution = _resolve_until_stable(trial, _copy_state(state), report)
        except (NoSolutionError, ProjectError):
            continue
        is_provided = resolution.graph.is_provided(name, request.image)
        version = request.image.packages.get(name, "") if is_provided else resolution.versions.get(name, "")
        return (
            f"change '{format_requirement(dependency.requirement)}' to '{name}=={version.partition('+')[0]}'"
        )
    return ""


def _suggest_excluding(
    request: ResolutionRequest, state: _ResolutionState, name: str, report: Reporter
) -> str:
    """Return the advice to exclude a package if the rest resolves without it, else an empty string."""
    policy = replace(request.policy, exclude=request.policy.exclude | {name})
    try:
        _resolve_until_stable(replace(request, policy=policy), _copy_state(state), report)
    except (NoSolutionError, ProjectError):
        return ""
    return f'exclude = ["{name}"], if predicting does not need it (the rest resolves without)'


def _copy_state(
    state: _ResolutionState, *, constrained: set[str] | None = None, wheels_only: set[str] | None = None
) -> _ResolutionState:
    """Return a copy to try something with."""
    return _ResolutionState(
        stubbed=set(state.stubbed),
        constrained=set(state.constrained if constrained is None else constrained),
        wheels_only=set(state.wheels_only if wheels_only is None else wheels_only),
    )


def _avoid_replacements(
    request: ResolutionRequest, state: _ResolutionState, resolution: Resolution, report: Reporter
) -> Resolution:
    """Where a bundled package replaces an image package unasked, try once to do without.

    Taken only where no bundled package falls back by a major version: an old release that declares fewer
    requirements is no gain.
    """
    image = request.image
    roots = {dependency.requirement.name for dependency in request.roots}
    avoidable = {
        name
        for name in resolution.graph.replaced - request.policy.always_bundled - _find_replaceable(request)
        if not any(
            dependency.required_by not in resolution.graph.dependencies
            and not satisfies_requirement(dependency.requirement, name, image.packages[name])
            for dependency in resolution.graph.dependencies[name]
        )
    }
    if not avoidable:
        return resolution
    trial_state = _copy_state(state, constrained=state.constrained | avoidable)
    try:
        alternative = _resolve_until_stable(request, trial_state, report)
    except NoSolutionError:
        return resolution
    if len(alternative.graph.replaced) >= len(resolution.graph.replaced) or _has_major_downgrade(
        resolution, alternative, image
    ):
        return resolution
    notes = [
        f"{name} {alternative.versions[name]} was taken, not {version}, which would replace "
        f"{' and '.join(sorted(avoidable))} of the image"
        for name, version in sorted(resolution.versions.items())
        if name in alternative.graph.dependencies
        and name in roots | resolution.graph.dependencies.keys()
        and not is_in_image(image, name)
        and alternative.versions.get(name, version) != version
    ]
    return replace(alternative, notes=tuple(notes))


def _has_major_downgrade(before: Resolution, after: Resolution, image: Image) -> bool:
    """Whether a package that goes into the kit fell back by a major version."""
    return any(
        Version(after.versions[name]).major < Version(version).major
        for name, version in before.versions.items()
        if name in after.graph.dependencies
        and name in after.versions
        and not after.graph.is_provided(name, image)
    )


def strip_torch_local_version(requirement: Requirement) -> Requirement:
    """Return a requirement on torch's family without local versions: "torch==2.11.0+cu128" asks for 2.11.0."""
    if requirement.name.lower() not in TORCH_FAMILY or "+" not in str(requirement.specifier):
        return requirement
    changed = Requirement(str(requirement))
    parts = [f"{clause.operator}{clause.version.partition('+')[0]}" for clause in requirement.specifier]
    changed.specifier = type(requirement.specifier)(",".join(parts))
    return changed
