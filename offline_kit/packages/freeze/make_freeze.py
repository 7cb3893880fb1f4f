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
from offline_kit.packages.freeze.dependency_walk import (
    Dependency,
    is_in_image,
    marker_holds,
    satisfies_requirement,
)
from offline_kit.packages.freeze.direct_references import ReferenceContext, ResolvedReference
from offline_kit.packages.freeze.distribution_facts import MetadataStore, read_wheel_metadata
from offline_kit.packages.freeze.engines import ResolverInput
from offline_kit.packages.freeze.input_digest import LOCK_ORIGIN, FreezeInputs, FreezeRequest
from offline_kit.packages.freeze.lock_files import LockPin
from offline_kit.packages.freeze.pin_fates import PackagePolicy, PinContext
from offline_kit.packages.freeze.requirement_lines import RequirementLine
from offline_kit.packages.freeze.solve import (
    Resolution,
    ResolutionRequest,
    resolve_requirements,
    strip_torch_local_version,
)
from offline_kit.packages.index import PackageIndex
from offline_kit.project.images import Image
from offline_kit.project.types import Fate, Freeze, Pin


def make_freeze(
    inputs: FreezeInputs,
    request: FreezeRequest,
    build_context: ReferenceContext,
    old: Freeze | None,
    report: Reporter,
) -> Freeze:
    """Make a freeze of what was gathered; pins of `old` are preferences. Its text and input hash are empty.

    Raises ProjectError for requirements that cannot be met, OutsideError where an index cannot be reached.
    """
    moment = (request.moment or datetime.now(UTC)).astimezone(UTC)
    metadata = MetadataStore(PackageIndex(build_context.settings, cache=build_context.cache), build_context)
    inputs = _fit_lock_to_image(inputs, metadata, build_context.image)
    context = _FreezeContext(
        read=inputs,
        request=request,
        build_context=build_context,
        old=old,
        metadata=metadata,
        cutoff=moment.strftime("%Y-%m-%dT%H:%M:%SZ"),
        report=report,
    )
    references, policy = _check_inputs(context)
    request_to_resolve = _build_request(context, inputs, references, policy)
    return _build_freeze(request_to_resolve, resolve_requirements(request_to_resolve, report), inputs, report)


def _fit_lock_to_image(inputs: FreezeInputs, metadata: MetadataStore, image: Image) -> FreezeInputs:
    """Move a lock's pins that the image cannot have to the nearest version that it can; leave out what has none.

    Only names that stand in a lock because they were installed are left out, and none that own code imports.
    """
    missing_names = sorted(
        name
        for name in inputs.lock.pins.keys() | inputs.lock.installed_only
        if not is_in_image(image, name) and name not in inputs.policy.own
    )
    listed_names = {line.name for line in inputs.requirements if line.origin == LOCK_ORIGIN}
    with ThreadPoolExecutor(8) as pool:
        fitting = dict(
            zip(missing_names, pool.map(metadata.find_fitting_versions, missing_names), strict=True)
        )
    pins = {
        name: replace(pin, version=metadata.find_nearest_version(name, pin.version) or pin.version)
        if name in fitting
        else pin
        for name, pin in inputs.lock.pins.items()
    }
    left_out = {
        name: f"no version of it fits Python {image.python_minor}"
        if metadata.index.list_files(name)
        else "no index has it"
        for name in missing_names
        if not fitting[name]
        and name in inputs.lock.installed_only & listed_names
        and name not in inputs.imported
    }
    return replace(
        inputs,
        requirements=tuple(line for line in inputs.requirements if line.name not in left_out),
        lock=replace(inputs.lock, pins=pins),
        locked_versions=inputs.lock.pins,
        left_out={**inputs.left_out, **left_out},
    )


@dataclass(frozen=True, kw_only=True)
class _FreezeContext:
    """What does not change while a freeze is made."""

    read: FreezeInputs
    request: FreezeRequest
    build_context: ReferenceContext
    old: Freeze | None
    metadata: MetadataStore
    cutoff: str
    report: Reporter


def _check_inputs(context: _FreezeContext) -> tuple[tuple[ResolvedReference, ...], PackagePolicy]:
    """Settle direct references and check the rest; one error names the problems of both."""
    inputs, metadata, image = context.read, context.metadata, context.build_context.image
    errors: list[OfflineKitError] = [inputs.error] if inputs.error else []
    references: tuple[ResolvedReference, ...] = ()
    try:
        references = direct_references.resolve_references(
            inputs.direct_references, context.build_context, report=context.report
        )
    except (ProjectError, OutsideError) as error:
        errors.append(error)
    metadata.add_metadata(
        {entry.name: read_wheel_metadata(entry.wheel, entry.name, entry.version) for entry in references}
    )
    policy = replace(
        inputs.policy,
        direct_references={
            entry.name: entry
            for entry in references
            if entry.name not in inputs.policy.own | inputs.policy.exclude
        },
        hashes={entry.name: frozenset(entry.hashes) for entry in inputs.requirements if entry.hashes},
    )
    direct_names = {entry.name for entry in inputs.direct_references}
    try:
        requirement_checks.check_requirements(
            [entry for entry in inputs.requirements if entry.name not in direct_names],
            metadata,
            policy,
            image,
        )
    except (ProjectError, OutsideError) as error:
        errors.append(error)
    try:
        requirement_checks.check_direct_references(policy, image)
    except ProjectError as error:
        errors.append(error)
    if errors:
        raise _merge_errors(errors, context, references, policy)
    return references, policy


def _merge_errors(
    errors: Sequence[OfflineKitError],
    context: _FreezeContext,
    references: tuple[ResolvedReference, ...],
    policy: PackagePolicy,
) -> OfflineKitError:
    """Return one error for all problems, with remedies that were tried."""
    hints = []
    for error in errors:
        hints.append(error.hint)
        if isinstance(error, requirement_checks.UnmetRequirementsError):
            hints += _suggest_versions(error, context, references, policy, alone=len(errors) == 1)
    outside = all(isinstance(error, OutsideError) for error in errors)
    if len(errors) == 1:
        summary, details = errors[0].what, errors[0].details
    else:
        image = context.build_context.image
        summary = f"the requirements have problems for the image '{image.name}' (Python {image.python})"
        details = tuple(line for error in errors for line in error.details or (error.what,))
    hint = "; ".join(dict.fromkeys(hint_part for hint_part in hints if hint_part))
    return (OutsideError if outside else ProjectError)(summary, hint=hint, details=details)


def _suggest_versions(
    error: requirement_checks.UnmetRequirementsError,
    context: _FreezeContext,
    references: tuple[ResolvedReference, ...],
    policy: PackagePolicy,
    *,
    alone: bool,
) -> list[str]:
    """Say what serves instead of requirements that cannot be met, having resolved with it."""
    metadata, image = context.metadata, context.build_context.image
    replaceable = {
        line.name
        for line in error.known_lines
        if is_in_image(image, line.name) or metadata.find_fitting_versions(line.name)
    }
    hopeless = {line.name for line in error.known_lines} - replaceable
    hints = []
    if hopeless:
        hints.append(
            f"no version of {' and '.join(sorted(hopeless))} fits: exclude = {json.dumps(sorted(hopeless))} if predicting does "
            "not need it, or give a wheel that fits ('./NAME.whl' in the requirements)"
        )
    unknown = {
        line.name
        for line in context.read.requirements
        if not is_in_image(image, line.name) and not metadata.index.list_files(line.name)
    }
    if not replaceable:
        return hints
    resolvable = [line for line in context.read.requirements if line.name not in hopeless | unknown]
    trial_policy = replace(policy, exclude=policy.exclude | hopeless | unknown)
    changes = _resolve_with_free(
        context, references, trial_policy, resolvable, replaceable
    ) or _resolve_with_free(context, references, trial_policy, resolvable, {line.name for line in resolvable})
    condition = " once the other problems are fixed" if not alone or hopeless or unknown else ""
    return [*hints, f"take versions that fit, which resolve{condition}: {changes}"] if changes else hints


def _resolve_with_free(
    context: _FreezeContext,
    references: tuple[ResolvedReference, ...],
    policy: PackagePolicy,
    lines: Sequence[RequirementLine],
    replaceable: Collection[str],
) -> str:
    """Resolve with the versions of `replaceable` left open; return the changes that this means, "" if nothing comes of it."""
    metadata, image = context.metadata, context.build_context.image
    trial_lines = tuple(
        replace(line, requirement=_drop_version(line.requirement), hashes=())
        if line.name in replaceable
        else line
        for line in lines
    )
    try:
        solution = resolve_requirements(
            _build_request(context, replace(context.read, requirements=trial_lines), references, policy),
            SILENT,
        )
    except OfflineKitError:
        return ""
    versions = {
        name: image.packages.get(name, "")
        if solution.graph.is_provided(name, image)
        else solution.versions.get(name, "")
        for name in solution.graph.dependencies
    }
    bundled = [name for name in versions if not solution.graph.is_provided(name, image)]
    # What would have to be compiled is the next error.
    if any(metadata.needs_compiler(name, versions[name]) for name in bundled if versions[name]):
        return ""
    changes = {
        line.name: versions[line.name].partition("+")[0]
        for line in lines
        if versions.get(line.name)
        and not satisfies_requirement(Requirement(line.requirement), line.name, versions[line.name])
    }
    changes |= {
        name: versions[name].partition("+")[0]
        for name in replaceable
        if len(replaceable) < len(lines) and versions.get(name)
    }
    return ", ".join(f"{name}=={version}" for name, version in sorted(changes.items()))


def _drop_version(line: str) -> str:
    requirement = Requirement(line)
    requirement.specifier = type(requirement.specifier)("")
    return str(requirement)


def _build_request(
    context: _FreezeContext,
    inputs: FreezeInputs,
    references: tuple[ResolvedReference, ...],
    policy: PackagePolicy,
) -> ResolutionRequest:
    build_context = context.build_context
    return ResolutionRequest(
        roots=_list_roots(inputs, references, context.metadata, policy),
        constraints=tuple(_build_dependency(line) for line in inputs.constraints),
        preferred=_collect_preferences(inputs, context.old),
        enforced=_select_enforced_pins(inputs, context.request, policy, build_context.image),
        policy=policy,
        metadata=context.metadata,
        engine=inputs.engine,
        resolver_input=ResolverInput(
            requirements=(),
            constraints=(),
            preferences={},
            stub_folder=Path(),
            image=build_context.image,
            settings=build_context.settings,
            cutoff=context.cutoff,
            undated=_find_undated_indexes(build_context, inputs),
            cache=build_context.cache,
        ),
    )


def _build_dependency(line: RequirementLine) -> Dependency:
    requirement = strip_torch_local_version(Requirement(line.requirement))
    requirement.name = str(canonicalize_name(requirement.name))
    requirement.marker = None
    return Dependency(required_by=line.origin, requirement=requirement)


def _list_roots(
    inputs: FreezeInputs,
    references: tuple[ResolvedReference, ...],
    metadata: MetadataStore,
    policy: PackagePolicy,
) -> tuple[Dependency, ...]:
    roots = [_build_dependency(entry) for entry in inputs.requirements]
    environment = metadata.build_context.image.marker_environment()
    for entry in references:
        extras = entry.line.direct.extras if entry.line.direct else ()
        extras_text = f"[{','.join(extras)}]" if extras else ""
        if entry.name not in policy.own:
            pinned = Requirement(f"{entry.name}{extras_text}=={entry.version}")
            roots.append(Dependency(required_by=entry.line.origin, requirement=pinned))
            continue
        # The project's own package travels as code: what it asks for is asked for in its stead.
        own_metadata = metadata(entry.name, entry.version)
        for required in own_metadata.requires if own_metadata else ():
            if any(marker_holds(required.marker, environment, extra) for extra in ("", *extras)):
                text = Requirement(str(required))
                text.marker, text.name = None, str(canonicalize_name(required.name))
                roots.append(Dependency(required_by=entry.name, requirement=text))
    return tuple(dict.fromkeys(roots))


def _collect_preferences(inputs: FreezeInputs, old: Freeze | None) -> dict[str, str]:
    versions = {pin.name: pin.version for pin in old.pins if pin.fate is not Fate.PROVIDED} if old else {}
    versions = {name: version for name, version in versions.items() if version}
    return versions | {name: pin.version for name, pin in inputs.lock.pins.items()}


def _select_enforced_pins(
    inputs: FreezeInputs, request: FreezeRequest, policy: PackagePolicy, image: Image
) -> dict[str, LockPin]:
    """Return the lock pins that win over the image: those named in `replace`, or all that are not protected."""
    return {
        name: pin
        for name, pin in inputs.lock.pins.items()
        if name in policy.replace
        or (
            request.pins == "lock" and policy.allows_replacing(name, image) and not image.is_accelerator(name)
        )
    }


def _find_undated_indexes(build_context: ReferenceContext, inputs: FreezeInputs) -> frozenset[str]:
    """Return the indexes that do not tell upload times, judged by what they have of the user's packages."""
    undated = set()
    for url in build_context.settings.list_index_urls():
        if "//pypi.org/" in url:
            continue
        single_index = PackageIndex(
            replace(build_context.settings, index_url=url, extra_index_urls=(), find_links=()),
            cache=build_context.cache,
        )
        listed = [file for line in inputs.requirements[:8] for file in single_index.list_files(line.name)]
        if not any(file.upload_time for file in listed):
            undated.add(url)
    return frozenset(undated)


def _build_freeze(
    resolution_request: ResolutionRequest, resolution: Resolution, inputs: FreezeInputs, report: Reporter
) -> Freeze:
    image = resolution_request.image
    decided = pin_fates.decide_pins(resolution.graph, resolution.versions, resolution_request.policy, image)
    bundled_names = {pin.name for pin in decided if pin.fate is Fate.BUNDLED}
    pin_context = PinContext(
        metadata=resolution_request.metadata,
        policy=resolution_request.policy,
        cutoff=resolution_request.resolver_input.cutoff,
        is_reconstructed=pin_fates.is_reconstructed_image(image),
        direct_requesters=bundled_names | {ask.required_by for ask in resolution_request.roots},
    )
    pins = pin_fates.complete_pins(decided, pin_context)
    pinned_names = {pin.name for pin in pins}
    left_out = [
        Pin(name=name, version="", fate=Fate.SKIPPED, reason=cause)
        for name, cause in inputs.left_out.items()
        if name not in pinned_names
    ]
    pins = tuple(sorted((*pins, *left_out), key=lambda pin: pin.name))
    _check_hashes(pins, inputs.requirements)
    replaced = {pin.name: pin.version for pin in pins if pin.replaces}
    broken: dict[str, tuple[str, ...]] = {}
    if replaced:
        report.step(
            f"Looking for packages of the image that break with another {', '.join(sorted(replaced))}"
        )
        broken = pin_fates.find_broken_packages(
            replaced, image, resolution_request.metadata.read_image_requirements(report)
        )
    return Freeze(
        image=image.name,
        python=image.python,
        engine=resolution_request.engine,
        cutoff=resolution_request.resolver_input.cutoff,
        input_hash="",
        pins=pins,
        replacements=freeze_file.list_replacements(pins, broken),
        differences=(
            *_describe_differences(pins, inputs.locked_versions),
            *_describe_unpinned(pins, inputs, image),
            *resolution.notes,
            *_describe_old_metadata(pins, resolution_request.metadata),
        ),
    )


def _check_hashes(pins: Iterable[Pin], requirement_lines: Iterable[RequirementLine]) -> None:
    """Raise ProjectError where no file of a bundled pin has a hash that its line allows."""
    versions_without_hash = {
        pin.name: pin.version for pin in pins if pin.fate is Fate.BUNDLED and not pin.hashes
    }
    lines = [
        f"{line.position}: {line.name} {versions_without_hash[line.name]}"
        for line in requirement_lines
        if line.hashes and line.name in versions_without_hash
    ]
    if lines:
        raise ProjectError(
            "files on the index have other hashes than the requirements allow",
            hint="correct the hashes, or find out who changed the files",
            details=lines,
        )


MAX_DIFFERENCE_LINES = 8
"""Differences of one file up to which each has a line of its own."""


def _describe_differences(pins: Iterable[Pin], locked_versions: Mapping[str, LockPin]) -> list[str]:
    """Return a line for every lock pin that another version won over; many of one file share a line."""
    pins_by_source: dict[tuple[str, str], list[tuple[Pin, str]]] = {}
    for pin in pins:
        locked = locked_versions.get(pin.name)
        if (
            locked
            and pin.fate is not Fate.SKIPPED
            and pin.version.partition("+")[0] != locked.version.partition("+")[0]
        ):
            winner = "the image has" if pin.fate is Fate.PROVIDED else "the kit brings"
            pins_by_source.setdefault((locked.source, winner), []).append((pin, locked.version))
    lines = []
    for (source, winner), pairs in pins_by_source.items():
        if len(pairs) <= MAX_DIFFERENCE_LINES:
            lines += [f"{pin.name}: {source} has {version}, {winner} {pin.version}" for pin, version in pairs]
        else:
            versions = ", ".join(f"{pin.name} {pin.version} ({version})" for pin, version in pairs)
            lines.append(f"{source}: {winner} other versions than the file (in brackets) of {versions}")
    return sorted(lines) if len(lines) <= 2 * MAX_DIFFERENCE_LINES else lines


def _describe_unpinned(pins: Iterable[Pin], inputs: FreezeInputs, image: Image) -> list[str]:
    """Name what `pip freeze` had from a place of its own, and neither the image nor the kit has."""
    known_names = (
        {pin.name for pin in pins} | inputs.policy.own | inputs.policy.exclude | image.packages.keys()
    )
    return [
        f"{name}: {source} has it from a folder or repository and names no version; add it to the requirements if "
        "the notebook needs it"
        for name, source in sorted(inputs.lock.unpinned.items())
        if name not in known_names
    ]


def _describe_old_metadata(pins: Iterable[Pin], metadata: MetadataStore) -> list[str]:
    """Name bundled packages whose metadata today's pip refuses, as the image's pip 24.1 does."""
    lines = []
    for pin in pins:
        package = metadata(pin.name, pin.version) if pin.fate is Fate.BUNDLED else None
        if package and package.invalid_requires:
            lines.append(
                f"{pin.name} {pin.version} asks for '{package.invalid_requires[0]}', which pip 24.1 and later refuse; take a newer version"
            )
    return lines
