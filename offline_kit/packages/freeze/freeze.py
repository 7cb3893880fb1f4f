"""Freeze requirements to pins for the image, and keep them in a committed file beside the project."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from offline_kit.core import files
from offline_kit.core.errors import OfflineKitError, OutsideError, ProjectError
from offline_kit.core.report import SILENT, Reporter
from offline_kit.core.thread_pool import cancelling_pool
from offline_kit.packages.builds import confined_build
from offline_kit.packages.builds.sdist_builds import BuildSources
from offline_kit.packages.file_choice import collect_hashes
from offline_kit.packages.freeze import dependency_walk, direct_references, freeze_file
from offline_kit.packages.freeze.dependency_walk import (
    Dependency,
    PackagePolicy,
    Resolution,
    is_in_image,
    marker_holds,
    satisfies_requirement,
    strip_local_versions,
)
from offline_kit.packages.freeze.direct_references import ResolvedReference
from offline_kit.packages.freeze.freeze_inputs import LOCK_ORIGIN, FreezeInputs, gather_inputs, hash_inputs
from offline_kit.packages.freeze.freeze_inputs import FreezeRequest as FreezeRequest
from offline_kit.packages.freeze.lock_files import LockPin
from offline_kit.packages.freeze.metadata_store import MetadataStore
from offline_kit.packages.freeze.requirement_files import RequirementLine
from offline_kit.packages.freeze.resolve import Resolver, UnmetRequirementsError, check_requirements
from offline_kit.packages.index import PackageIndex
from offline_kit.packages.pip_settings import IndexSettings
from offline_kit.project.images import TORCH_FAMILY, Image
from offline_kit.project.types import Fate, Freeze, Pin

_MAX_DIFFERENCE_LINES = 8  # differences of one lock file up to which each has a line of its own


def freeze_requirements(
    request: FreezeRequest,
    image: Image,
    settings: IndexSettings,
    *,
    cache: Path,
    report: Reporter = SILENT,
) -> tuple[Freeze, PackageIndex]:
    """Freeze the project's requirements for the image, and write the result to the lock file.

    Return it with the index of its files, which requirements files may add to. If the inputs are those of the
    written freeze, read it back without network. If they changed, make it anew with its pins as preferences;
    with `upgrade`, without. Raises ProjectError for requirements that cannot be read or met, OutsideError if an
    index cannot be reached.
    """
    inputs = gather_inputs(request, image, strict=False)
    input_hash = hash_inputs(inputs, request, image)
    old = _read_old_freeze(request)
    current = old if not request.upgrade else None
    project = request.config.project.absolute()
    index = PackageIndex(settings.override(inputs.index_options), cache=cache)
    sources = BuildSources(image, index, cutoff="")
    old_pins = current.pins if current else ()
    if current and current.input_hash == input_hash and not inputs.error:
        references = direct_references.resolve_references(
            inputs.direct_references, project, sources, old_pins=old_pins, report=report
        )
        if restored := _restore_wheels(current, references):
            return restored, index
    for option_line in inputs.ignored_options:
        report.note(f"{option_line}: this option has no effect on a kit")
    report.step(f"Resolving the requirements for '{image.name}' (Python {image.python})")
    if not confined_build.is_confined():  # the metadata of a package without a wheel is a build, too
        report.warn(confined_build.UNCONFINED_WARNING)
    metadata = MetadataStore(sources)
    moment = (request.moment or datetime.now(UTC)).astimezone(UTC)
    inputs = _fit_lock_to_image(inputs, metadata)
    maker = _FreezeMaker(
        inputs=inputs,
        request=request,
        old_pins=old_pins,
        metadata=metadata,
        cutoff=moment.strftime("%Y-%m-%dT%H:%M:%SZ"),
        report=report,
        policy=inputs.policy,
    )
    maker.check_inputs()
    new_freeze = maker.make_freeze(input_hash)
    new_freeze = replace(new_freeze, text=freeze_file.render_freeze(new_freeze))
    if request.keep:
        _write_freeze(request.config.lock, new_freeze.text)
    return new_freeze, index


def is_freeze_current(request: FreezeRequest, image: Image) -> bool:
    """Whether the written freeze has these inputs; needs no index. Raises ProjectError for unreadable inputs."""
    old = _read_old_freeze(request)
    inputs = gather_inputs(request, image) if old else None
    return bool(old and inputs and old.input_hash == hash_inputs(inputs, request, image))


def _write_freeze(path: Path, text: str) -> None:
    try:
        files.write_atomic(path, text)
    except OutsideError as error:
        if getattr(error.__cause__, "errno", None) not in files.REFUSED:
            raise
        # Neither --out nor the cache would help: the freeze is always beside the project.
        raise OutsideError(
            f"'{path.name}' must be written beside the project, but '{path.parent}' is not writable",
            hint="build once in a writable copy of the project, then copy its freeze file here: a build only"
            " reads it until the requirements change",
            code="project-not-writable",
        ) from error


def _read_old_freeze(request: FreezeRequest) -> Freeze | None:
    lock = request.config.lock
    if not lock.is_file():
        return None
    text = lock.read_text(encoding="utf-8", errors="replace")
    try:
        return freeze_file.parse_freeze(text, name=lock.name)
    except ProjectError:
        # An upgrade replaces an edited or outdated freeze, but never a file of somebody else.
        if request.upgrade and freeze_file.is_freeze_text(text):
            return None
        raise


def _restore_wheels(old: Freeze, references: tuple[ResolvedReference, ...]) -> Freeze | None:
    """Return the freeze with the wheels of direct references; None if a rebuilt wheel has another hash."""
    wheels = {reference.name: reference for reference in references}
    pins = []
    for pin in old.pins:
        if pin.url and pin.fate is Fate.BUNDLED:
            wheel = wheels.get(pin.name)
            if wheel is None or f"sha256:{wheel.sha256}" not in pin.hashes:
                return None
            pin = replace(pin, local=wheel.wheel)
        pins.append(pin)
    return replace(old, pins=tuple(pins))


def _fit_lock_to_image(inputs: FreezeInputs, metadata: MetadataStore) -> FreezeInputs:
    """Replace lock pins that do not fit the image by the nearest version that does; drop packages without one.

    Dropped are only packages that a file lists because they were installed, and none that own code imports.
    """
    lock, image = inputs.lock, metadata.image
    known_names = inputs.policy.own | image.packages.keys() | set(image.unversioned)
    missing_names = sorted((lock.pins.keys() | lock.installed_only) - known_names)
    with cancelling_pool(8) as pool:
        versions = pool.map(metadata.find_fitting_versions, missing_names)
        fitting = dict(zip(missing_names, versions, strict=True))
    pins = dict(lock.pins)
    for name in pins.keys() & {name for name, fits in fitting.items() if fits}:
        # The version itself, else the next newer that fits, else the newest.
        pinned_version = Version(pins[name].version)
        above = [fit for fit in fitting[name] if Version(fit) >= pinned_version]
        pins[name] = replace(pins[name], version=above[-1] if above else fitting[name][0])
    listed_names = {line.name for line in inputs.requirements if line.origin == LOCK_ORIGIN}
    left_out = {
        name: f"no version of it fits Python {image.python_minor}"
        if metadata.index.list_files(name)
        else "no index has it"
        for name in missing_names
        if not fitting[name] and name in lock.installed_only & listed_names and name not in inputs.imported
    }
    return replace(
        inputs,
        requirements=tuple(line for line in inputs.requirements if line.name not in left_out),
        lock=replace(lock, pins=pins),
        locked_versions=lock.pins,
        left_out={**inputs.left_out, **left_out},
    )


@dataclass(kw_only=True)
class _FreezeMaker:
    """Makes one freeze: check the inputs, resolve, decide about every package."""

    inputs: FreezeInputs
    request: FreezeRequest
    old_pins: tuple[Pin, ...]  # preferences, and the commits of git references
    metadata: MetadataStore
    cutoff: str
    report: Reporter
    policy: PackagePolicy
    references: tuple[ResolvedReference, ...] = ()

    @property
    def image(self) -> Image:
        """The target."""
        return self.metadata.image

    def check_inputs(self) -> None:
        """Resolve direct references and check all requirements; raise one error with the problems of both."""
        inputs = self.inputs
        problems: list[OfflineKitError] = [inputs.error] if inputs.error else []
        try:
            self.references = direct_references.resolve_references(
                inputs.direct_references,
                self.request.config.project.absolute(),
                self.metadata.sources,
                old_pins=self.old_pins,
                report=self.report,
            )
        except (ProjectError, OutsideError) as error:
            problems.append(error)
        for reference in self.references:
            self.metadata.add_wheel(reference.wheel, reference.name, reference.version)
        not_bundled = inputs.policy.own | inputs.policy.exclude
        bundled = {item.name: item for item in self.references if item.name not in not_bundled}
        self.policy = replace(
            inputs.policy,
            direct_references=bundled,
            hashes={line.name: frozenset(line.hashes) for line in inputs.requirements if line.hashes},
        )
        direct_names = {line.name for line in inputs.direct_references}
        indexed = [line for line in inputs.requirements if line.name not in direct_names]
        try:
            check_requirements(indexed, self.metadata, self.policy)
        except (ProjectError, OutsideError) as error:
            problems.append(error)
        replacing = [
            f"{item.reference} ({item.line.position}): '{name}' is protected, the image has {self.image.packages[name]}"
            for name, item in bundled.items()
            if name in self.image.packages and not self.policy.allows_replacing(name, self.image)
        ]
        if replacing:
            problems.append(
                ProjectError(
                    "direct references would replace protected packages",
                    hint="remove the line to use the image's version, or name the package in `replace`",
                    code="protected-package-replaced",
                    details=replacing,
                )
            )
        if problems:
            raise self._merge_errors(problems)

    def _merge_errors(self, errors: Sequence[OfflineKitError]) -> OfflineKitError:
        """Return one error for all problems, with remedies that were tried."""
        hints = []
        for error in errors:
            hints.append(error.hint)
            if isinstance(error, UnmetRequirementsError):
                hints += self._suggest_versions(error, alone=len(errors) == 1)
        if len(errors) == 1:
            summary, code, details = errors[0].what, errors[0].code, errors[0].details
        else:
            summary = f"the requirements have problems for the image '{self.image.name}' (Python {self.image.python})"
            code = "requirements-not-met"
            details = tuple(line for error in errors for line in error.details or (error.what,))
        kind = OutsideError if all(isinstance(error, OutsideError) for error in errors) else ProjectError
        return kind(summary, hint="; ".join(dict.fromkeys(filter(None, hints))), code=code, details=details)

    def _suggest_versions(self, error: UnmetRequirementsError, *, alone: bool) -> list[str]:
        """Return hints for requirements that cannot be met; every version in them was resolved here."""
        unmet = {line.name for line in error.known_lines}
        replaceable = {
            name
            for name in unmet
            if is_in_image(self.image, name) or self.metadata.find_fitting_versions(name)
        }
        hopeless = unmet - replaceable
        hints = []
        if hopeless:
            hints.append(
                f"no version of {' and '.join(sorted(hopeless))} fits: set exclude = {json.dumps(sorted(hopeless))} if "
                "predicting does not need it, or add a wheel that fits ('./NAME.whl' in the requirements)"
            )
        names = {line.name for line in self.inputs.requirements}
        unknown = {
            name
            for name in names
            if not is_in_image(self.image, name) and not self.metadata.index.list_files(name)
        }
        resolver, dropped = self._make_resolver(SILENT), hopeless | unknown
        roots = tuple(root for root in resolver.roots if root.name not in dropped)
        policy = replace(self.policy, exclude=self.policy.exclude | dropped)
        for free in (replaceable, names - dropped) if replaceable else ():
            versions = replace(resolver, roots=roots, policy=policy).find_versions(free)
            changes = {
                f"{root.name}=={versions[root.name]}"
                for root in roots
                if root.name in versions
                and (
                    root.name in replaceable
                    or not satisfies_requirement(root.requirement, root.name, versions[root.name])
                )
            }
            if changes:
                condition = " once the other problems are fixed" if not alone or dropped else ""
                hints.append(f"use versions that fit and resolve{condition}: {', '.join(sorted(changes))}")
                break
        return hints

    def _make_resolver(self, report: Reporter) -> Resolver:
        lock_pins = self.inputs.lock.pins
        # Lock pins that win over the image: named in `replace`, or with `pins = "lock"` not protected.
        enforced = {
            name: pin
            for name, pin in lock_pins.items()
            if name in self.policy.replace
            or (
                self.request.config.pins == "lock"
                and self.policy.allows_replacing(name, self.image)
                and not self.image.is_accelerator(name)
            )
        }
        old_versions = {
            pin.name: pin.version for pin in self.old_pins if pin.version and pin.fate is not Fate.PROVIDED
        }
        return Resolver(
            roots=self._list_roots(),
            constraints=tuple(_build_dependency(line) for line in self.inputs.constraints),
            preferred=old_versions | {name: pin.version for name, pin in lock_pins.items()},
            enforced=enforced,
            policy=self.policy,
            metadata=self.metadata,
            engine=self.inputs.engine,
            cutoff=self.cutoff,
            report=report,
        )

    def _list_roots(self) -> tuple[Dependency, ...]:
        roots = [_build_dependency(line) for line in self.inputs.requirements]
        environment = self.image.marker_environment()
        for reference in self.references:
            extras = reference.line.direct.extras if reference.line.direct else ()
            extras_text = f"[{','.join(extras)}]" if extras else ""
            if reference.name not in self.policy.own:
                pinned = Requirement(f"{reference.name}{extras_text}=={reference.version}")
                roots.append(Dependency(required_by=reference.line.origin, requirement=pinned))
                continue
            # The project's own package goes into the kit as code, so its requirements are roots instead of it.
            own_metadata = self.metadata(reference.name, reference.version)
            for required in own_metadata.requires if own_metadata else ():
                if any(marker_holds(required.marker, environment, extra) for extra in ("", *extras)):
                    requirement = Requirement(str(required))
                    requirement.marker, requirement.name = None, str(canonicalize_name(required.name))
                    roots.append(Dependency(required_by=reference.name, requirement=requirement))
        return tuple(dict.fromkeys(roots))

    def make_freeze(self, input_hash: str) -> Freeze:
        """Resolve and decide about every package; the freeze has no text yet.

        Raises ProjectError for requirements that cannot be met, OutsideError if an index cannot be reached.
        """
        resolver = self._make_resolver(self.report)
        resolution = resolver.resolve()
        pins = self._decide_pins(resolver.roots, resolution)
        self._check_hashes(pins)
        replaced = {pin.name: pin.version for pin in pins if pin.replaces}
        if replaced:
            self.report.step(
                f"Looking for packages of the image that break with another {', '.join(sorted(replaced))}"
            )
            image_requires = self.metadata.read_image_requirements(self.report)
            broken = dependency_walk.find_broken_packages(replaced, self.image, image_requires)
            pins = tuple(replace(pin, breaks=broken.get(pin.name, ())) for pin in pins)
        return Freeze(
            image=self.image.name,
            python=self.image.python,
            engine=self.inputs.engine,
            cutoff=self.cutoff,
            input_hash=input_hash,
            pins=pins,
            differences=(
                *_describe_differences(pins, self.inputs.locked_versions),
                *self._describe_unpinned(pins),
                *resolution.notes,
                *self._describe_old_metadata(pins),
            ),
        )

    def _decide_pins(self, roots: Iterable[Dependency], resolution: Resolution) -> tuple[Pin, ...]:
        policy = self.policy
        decided = [dependency_walk.decide_pin(name, resolution, policy) for name in resolution.dependencies]
        requesters = {pin.name for pin in decided if pin.fate is Fate.BUNDLED}
        requesters |= {root.required_by for root in roots}

        def add_hashes(pin: Pin) -> Pin:
            spare = pin.fate is Fate.PROVIDED and dependency_walk.is_worth_spare(
                pin, self.metadata, requesters
            )
            if not spare and (pin.fate is not Fate.BUNDLED or pin.local):
                return pin
            hashes = collect_hashes(self.metadata.index.list_files(pin.name), pin.version, self.cutoff)
            # The user's lines may allow some of them alone.
            allowed = policy.hashes.get(pin.name, hashes)
            return replace(pin, spare=spare, hashes=tuple(value for value in hashes if value in allowed))

        with cancelling_pool(8) as pool:
            pins = {pin.name: pin for pin in pool.map(add_hashes, decided)}
        for name, cause in self.inputs.left_out.items():
            pins.setdefault(name, Pin(name=name, version="", fate=Fate.SKIPPED, reason=cause))
        return tuple(pin for _, pin in sorted(pins.items()))

    def _check_hashes(self, pins: Iterable[Pin]) -> None:
        """Raise ProjectError if no file of a bundled pin has a hash that its line allows."""
        without_hash = {pin.name: pin.version for pin in pins if pin.fate is Fate.BUNDLED and not pin.hashes}
        problems = [
            f"{line.position}: {line.name} {without_hash[line.name]}"
            for line in self.inputs.requirements
            if line.hashes and line.name in without_hash
        ]
        if problems:
            raise ProjectError(
                "files on the index have other hashes than the requirements allow",
                hint="fix the hashes, or find out who changed the files",
                code="hash-mismatch",
                details=problems,
            )

    def _describe_unpinned(self, pins: Iterable[Pin]) -> list[str]:
        """Return a line for every package of `pip freeze` without a version that nothing provides."""
        known_names = {pin.name for pin in pins} | self.policy.own | self.policy.exclude
        return [
            f"{name}: {source} has it from a folder or repository and names no version; add it to the requirements if "
            "the notebook needs it"
            for name, source in sorted(self.inputs.lock.unpinned.items())
            if name not in known_names | self.image.packages.keys()
        ]

    def _describe_old_metadata(self, pins: Iterable[Pin]) -> list[str]:
        """Return a line for every bundled package whose metadata the image's pip refuses."""
        lines = []
        for pin in pins:
            package = self.metadata(pin.name, pin.version) if pin.fate is Fate.BUNDLED else None
            if package and package.invalid_requires:
                # https://github.com/pypa/pip/issues/12063: legacy specifiers such as ">=1.9.*"
                lines.append(
                    f"{pin.name} {pin.version} asks for '{package.invalid_requires[0]}', which pip 24.1 and later refuse; take a newer version"
                )
        return lines


def _build_dependency(line: RequirementLine) -> Dependency:
    requirement = Requirement(line.requirement)
    requirement.name = str(canonicalize_name(requirement.name))
    requirement.marker = None
    if requirement.name in TORCH_FAMILY and "+" in str(requirement.specifier):
        # PyPI has no versions with a local part; the image's build is one of them, and serves.
        requirement.specifier = strip_local_versions(requirement.specifier)
    return Dependency(required_by=line.origin, requirement=requirement)


def _describe_differences(pins: Iterable[Pin], locked_versions: Mapping[str, LockPin]) -> list[str]:
    """Return a line for every lock pin that another version won over; many of one file share a line."""
    pins_by_source: dict[tuple[str, str], list[tuple[Pin, str]]] = {}
    for pin in pins:
        locked = locked_versions.get(pin.name)
        if not locked or pin.fate is Fate.SKIPPED:
            continue
        if pin.version.partition("+")[0] != locked.version.partition("+")[0]:
            winner = "the image has" if pin.fate is Fate.PROVIDED else "the kit brings"
            pins_by_source.setdefault((locked.source, winner), []).append((pin, locked.version))
    lines = []
    for (source, winner), pairs in pins_by_source.items():
        if len(pairs) <= _MAX_DIFFERENCE_LINES:
            lines += [f"{pin.name}: {source} has {version}, {winner} {pin.version}" for pin, version in pairs]
        else:
            versions = ", ".join(f"{pin.name} {pin.version} ({version})" for pin, version in pairs)
            lines.append(f"{source}: {winner} other versions than the file (in brackets) of {versions}")
    return sorted(lines) if len(lines) <= 2 * _MAX_DIFFERENCE_LINES else lines
