"""Resolve requirements against the image: as much as possible of the image stays, and the rest goes into the kit.

Before, every requirement is checked by itself, so that all problems are reported at once.

The resolver knows nothing of the image: stub wheels stand for image versions that no index has, constraints hold
protected packages, and preferences favor all other image versions. A walk over the dependencies then finds what is
really needed.
"""

import re
import tempfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from offline_kit.core.errors import OfflineKitError, ProjectError, suggest_name
from offline_kit.core.report import SILENT, Reporter
from offline_kit.core.thread_pool import cancelling_pool
from offline_kit.packages.builds import resolver_engines
from offline_kit.packages.builds.resolver_engines import MetadataBuildError, NoSolutionError, ResolverInput
from offline_kit.packages.file_choice import (
    choose_file,
    describe_files,
    is_same_version,
    is_sdist,
    rank_wheel,
    sort_versions,
)
from offline_kit.packages.freeze.dependency_walk import (
    Dependency,
    PackagePolicy,
    Resolution,
    drop_versions,
    format_requirement,
    is_in_image,
    list_unmet,
    marker_holds,
    satisfies_requirement,
    walk_dependencies,
)
from offline_kit.packages.freeze.lock_files import LockPin
from offline_kit.packages.freeze.metadata_store import MetadataStore
from offline_kit.packages.freeze.requirement_files import RequirementLine, get_exact_version
from offline_kit.packages.index import IndexFile
from offline_kit.project.images import Image

_MAX_ROUNDS = 5
_SPELLING_HINT = "check the spelling, or name the index that has it (--extra-index-url in the requirements, or pip's configuration)"
_MAX_REMEDY_TRIALS = 6  # remedies that are tried before an error is shown; each runs the resolver once


@dataclass(kw_only=True)
class Resolver:
    """One resolution for an image, and what its rounds have learned so far."""

    roots: tuple[Dependency, ...]  # requirements whose markers hold; direct references by name and extras
    constraints: tuple[Dependency, ...]
    preferred: Mapping[str, str]  # of an earlier freeze and lock files, for what the image does not have
    enforced: Mapping[str, LockPin]  # pins of lock files that win over the image
    policy: PackagePolicy
    metadata: MetadataStore
    engine: str  # "uv" or "pip-tools"
    cutoff: str  # files uploaded later do not count
    report: Reporter
    protects: bool = True  # whether the image's protected packages must keep their version
    unmovable: frozenset[str] = frozenset()  # further packages of the image that must
    wheels_only: frozenset[str] = frozenset()  # only versions with a wheel count

    @property
    def image(self) -> Image:
        """The target."""
        return self.metadata.image

    @property
    def movable(self) -> frozenset[str]:
        """Packages that need not have the image's version."""
        return self.policy.always_bundled | self.policy.replace | self.enforced.keys()

    @property
    def constrained(self) -> frozenset[str]:
        """Packages of the image that must keep their version."""
        protected = self.image.protected & self.image.packages.keys() if self.protects else frozenset()
        return self.unmovable | {
            name for name in protected - self.movable if not self.image.is_accelerator(name)
        }

    def resolve(self) -> Resolution:
        """Resolve and walk until a round learns nothing new about the image.

        Raises ProjectError if the requirements contradict each other, the image's Python, or its protected
        packages; OutsideError if an index cannot be reached.
        """
        if not self.roots:
            return Resolution(image=self.image, versions={}, dependencies={})
        try:
            resolution = self._avoid_compiling(self._run_rounds())
        except NoSolutionError as error:
            raise self._explain_conflict(error) from error
        except MetadataBuildError as error:
            if error.package and (hint := self._suggest_excluding(error.package)):
                raise ProjectError(error.what, hint=hint, code=error.code, details=error.details) from error
            raise
        resolution = self._avoid_replacements(resolution)
        return (
            resolution if resolution.notes else replace(resolution, notes=self._explain_versions(resolution))
        )

    def _run_rounds(self) -> Resolution:
        """Resolve until no extras of image packages are missed: the resolver follows only those of versions that it takes."""
        for _ in range(_MAX_ROUNDS):
            resolution = self._run_round()
            parents = {lost.required_by for lost in resolution.unresolved} & self.image.packages.keys()
            newly_constrained = parents - self.policy.always_bundled - self.constrained
            if not newly_constrained:
                break
            self.unmovable |= newly_constrained
            self.report.note("running the resolver again, with more of the image's versions")
        if resolution.unresolved:
            raise ProjectError(
                "some requirements of image packages' extras were not resolved",
                hint="add them to your requirements",
                code="extras-not-resolved",
                details=[lost.describe_request() for lost in resolution.unresolved],
            )
        return resolution

    def _run_round(self) -> Resolution:
        policy = self.policy
        with tempfile.TemporaryDirectory(prefix="offline-kit-") as stubs:
            resolver_input = ResolverInput(
                image=self.image,
                index=self.metadata.index,
                cutoff=self.cutoff,
                requirements=tuple(
                    self._format_root(root) for root in self.roots if root.name not in policy.unfollowed
                ),
                constraints=self._list_constraints(),
                preferences=self._list_preferences(),
                list_files=lambda name: self._list_files(name, Path(stubs)),
                exclude=policy.unfollowed,
            )
            versions = self._run_engine(resolver_input)
        constraints: dict[str, list[Dependency]] = {}
        for constraint in self.constraints:
            constraints.setdefault(constraint.name, []).append(constraint)
        for name, pin in self.enforced.items():
            pinned = Dependency(required_by=pin.source, requirement=Requirement(f"{name}=={pin.version}"))
            constraints.setdefault(name, []).append(pinned)
        return walk_dependencies(self.roots, versions, self.metadata, policy, constraints)

    def _list_files(self, name: str, stubs: Path) -> Sequence[IndexFile]:
        """Return the files of a package among which the resolver chooses."""
        files = self.metadata.index.list_files(name)
        if name in self.wheels_only:
            files = tuple(file for file in files if not is_sdist(file))
        version = self.image.packages.get(name, "")
        # No resolver accepts a version that PEP 440 does not allow.
        if name in self.movable or not _is_valid(version):
            return files
        # Public indexes have no local versions, like torch's 2.11.0+cpu:
        # https://packaging.python.org/en/latest/specifications/version-specifiers/#local-version-identifiers
        if "+" in version or choose_file(files, version, (), self.metadata.image) is None:
            return (self.metadata.write_stub(name, stubs), *files)
        return files

    def _run_engine(self, resolver_input: ResolverInput) -> dict[str, str]:
        """Run the resolver, without old versions that it falls back on and that cannot be built.

        Their build errors would hide why the resolver did not take a newer version.
        """
        while True:
            try:
                return resolver_engines.resolve_versions(resolver_input, self.engine)
            except MetadataBuildError as error:
                metadata = self.metadata
                decided = self.wheels_only | self.policy.direct_references.keys()
                files = metadata.index.list_files(error.package) if error.package else ()
                has_wheel = any(rank_wheel(file, self.image) is not None for file in files)
                if error.package in decided or not has_wheel:
                    raise
                self.wheels_only |= {error.package}

    def _format_root(self, root: Dependency) -> str:
        reference = self.policy.direct_references.get(root.name)
        if not reference:
            return str(root.requirement)
        extras = f"[{','.join(sorted(root.requirement.extras))}]" if root.requirement.extras else ""
        return f"{reference.name}{extras} @ {reference.wheel.absolute().as_uri()}"

    def _list_constraints(self) -> tuple[str, ...]:
        direct_names = self.policy.direct_references.keys()
        pins = {name: pin.version for name, pin in self.enforced.items() if name not in direct_names}
        lines = [format_requirement(constraint.requirement) for constraint in self.constraints]
        lines += [f"{name}=={version}" for name, version in pins.items()]
        constraints = {name: self.image.packages[name] for name in sorted(self.constrained - direct_names)}
        lines += [f"{name}=={version}" for name, version in constraints.items() if _is_valid(version)]
        return tuple(lines)

    def _list_preferences(self) -> dict[str, str]:
        preferred = dict(self.preferred)
        for name in self.policy.direct_references:
            preferred.pop(name, None)
        for name, version in self.image.packages.items():
            if not (name in self.policy.replace and name in preferred):
                preferred[name] = version
        preferred |= {name: pin.version for name, pin in self.enforced.items()}
        return {name: version for name, version in preferred.items() if _is_valid(version)}

    def _avoid_compiling(self, resolution: Resolution) -> Resolution:
        """Resolve again with wheels only for old compiled code that has no wheel for this Python."""
        compiled_names = {
            name
            for name in resolution.dependencies
            if not resolution.is_provided(name)
            and name not in self.policy.unfollowed | self.policy.direct_references.keys()
            and self.metadata.needs_compiler(name, resolution.versions.get(name, ""))
        }
        if not compiled_names:
            return resolution
        names = ", ".join(sorted(compiled_names))
        self.report.note(f"running the resolver again for versions with wheels of {names}")
        try:
            return replace(self, wheels_only=self.wheels_only | compiled_names)._run_rounds()
        except NoSolutionError:
            return resolution  # the step that makes the wheels builds it, or says why it cannot

    def _avoid_replacements(self, resolution: Resolution) -> Resolution:
        """Resolve again without those replacements of image packages that no requirement of the user needs.

        The result counts only if no bundled package falls back by a major version: an old release that declares
        fewer requirements is no gain.
        """
        image = self.image
        avoidable = {
            name
            for name in resolution.replaced - self.movable
            if not any(
                dependency.required_by not in resolution.dependencies
                and not satisfies_requirement(dependency.requirement, name, image.packages[name])
                for dependency in resolution.dependencies[name]
            )
        }
        if not avoidable:
            return resolution
        try:
            alternative = replace(self, unmovable=self.unmovable | avoidable)._run_rounds()
        except NoSolutionError:
            return resolution
        falls_back = any(
            Version(alternative.versions[name]).major < Version(version).major
            for name, version in resolution.versions.items()
            if name in alternative.dependencies.keys() & alternative.versions.keys()
            and not alternative.is_provided(name)
        )
        if falls_back or len(alternative.replaced) >= len(resolution.replaced):
            return resolution
        concerned = resolution.dependencies.keys() | {root.name for root in self.roots}
        replaced_names = " and ".join(sorted(avoidable))
        notes = [
            f"{name} {alternative.versions[name]} was taken, not {version}, which would replace "
            f"{replaced_names} of the image"
            for name, version in sorted(resolution.versions.items())
            if name in concerned & alternative.dependencies.keys()
            and not is_in_image(image, name)
            and alternative.versions.get(name, version) != version
        ]
        return replace(alternative, notes=tuple(notes))

    def _explain_versions(self, resolution: Resolution) -> tuple[str, ...]:
        """Return a note for every package of the user that the image keeps at an older version than the newest."""
        image, notes = self.image, []
        decided = self.policy.unfollowed | self.policy.direct_references.keys()
        for root in self.roots:
            name = root.name
            version = resolution.versions.get(name, "")
            is_kept = resolution.is_provided(name) or self.preferred.get(name) == version
            if not version or name in decided or is_kept:
                continue
            fitting = self.metadata.find_fitting_versions(name)
            newest = next((fit for fit in fitting if root.requirement.specifier.contains(fit)), version)
            metadata = self.metadata(name, newest) if Version(newest) > Version(version) else None
            reasons = [
                f"{format_requirement(requirement)} (the image has {image.packages[required_name]})"
                for requirement in (metadata.requires if metadata else ())
                if (required_name := canonicalize_name(requirement.name)) in image.packages
                and marker_holds(requirement.marker, image.marker_environment())
                and not satisfies_requirement(requirement, required_name, image.packages[required_name])
            ]
            if reasons:
                notes.append(f"{name} {version} was taken, not {newest}, which wants {', '.join(reasons)}")
        return tuple(dict.fromkeys(notes))

    def _explain_conflict(self, error: NoSolutionError) -> ProjectError:
        """Return the error for requirements without a solution, after a trial without protected packages."""
        image = self.image
        try:
            resolution = replace(self, protects=False, unmovable=frozenset())._run_rounds()
        except NoSolutionError as unprotected_error:
            return self._explain_unsolvable(unprotected_error)
        replaced_names = sorted(resolution.replaced & self.constrained)
        lines = [
            f"{name}: the image has {image.packages[name]}, and {request}"
            for name in replaced_names
            for request in list_unmet(name, resolution.dependencies[name], image.packages[name])
        ]
        requesters = {
            request.required_by for name in replaced_names for request in resolution.dependencies[name]
        }
        hints = [self._find_remedy([*error.explanation, *sorted(requesters)])]
        if replaced_names:
            names = " and ".join(replaced_names)
            hints.append(
                f"name {names} in `replace` if you have checked that the image's packages still work"
            )
        return ProjectError(
            "the requirements want other versions of packages that are protected in the image",
            hint=", or ".join(filter(None, hints)) or "change the requirements listed above",
            code="protected-version-conflict",
            details=lines or error.explanation,
        )

    def _explain_unsolvable(self, error: NoSolutionError) -> ProjectError:
        text = "\n".join(error.explanation)
        # The wording of uv, which says one or the other.
        if "not found in the package registry" in text or "versions: none" in text:
            hint = (
                "check the name that no index has, and pip's configuration ('pip config list'); if predicting does not "
                "need it, name it in `exclude`"
            )
        else:
            hint = self._find_remedy(error.explanation) or (
                "change the requirements listed above: dropping one bound or one package is not enough"
            )
        return ProjectError(
            f"the requirements cannot be met together for the image '{self.image.name}' (Python {self.image.python})",
            hint=hint,
            code="requirements-conflict",
            details=error.explanation,
        )

    def _find_remedy(self, explanation: Iterable[str]) -> str:
        """Return a change of one requirement after which the rest resolves, tried here; "" if there is none."""
        text = "\n".join(explanation)
        mentioned = [
            root
            for root in dict.fromkeys(self.roots)
            if root.name not in self.policy.direct_references
            and re.search(rf"(?<![\w.-]){re.escape(root.name)}(?![\w-])", text)
        ]
        trials = [(self._suggest_version, root) for root in mentioned if root.requirement.specifier]
        trials += [(lambda root: self._suggest_excluding(root.name), root) for root in mentioned]
        return next((hint for suggest, root in trials[:_MAX_REMEDY_TRIALS] if (hint := suggest(root))), "")

    def _suggest_version(self, root: Dependency) -> str:
        """Return the version of a root with which the rest resolves, as advice; "" if there is none."""
        version = self.find_versions({root.name}).get(root.name)
        return (
            f"change '{format_requirement(root.requirement)}' to '{root.name}=={version}'" if version else ""
        )

    def find_versions(self, names: Collection[str]) -> dict[str, str]:
        """Resolve with any version of these roots, and return theirs; {} if that has no solution, or has to be compiled."""
        roots = tuple(
            replace(root, requirement=drop_versions(root.requirement)) if root.name in names else root
            for root in self.roots
        )
        try:
            trial = replace(self, roots=roots, report=SILENT)
            resolution = trial._avoid_compiling(trial._run_rounds())
        except (NoSolutionError, OfflineKitError):
            return {}
        versions = {name: resolution.get_version(name) for name in resolution.dependencies}
        # A suggestion that has to be compiled would only be the next error.
        for name, version in versions.items():
            if version and not resolution.is_provided(name) and self.metadata.needs_compiler(name, version):
                return {}
        return {root.name: versions[root.name].partition("+")[0] for root in roots if versions.get(root.name)}

    def _suggest_excluding(self, name: str) -> str:
        """Return the advice to exclude a package if the rest resolves without it, else an empty string."""
        policy = replace(self.policy, exclude=self.policy.exclude | {name})
        try:
            replace(self, policy=policy)._run_rounds()
        except (NoSolutionError, ProjectError):
            return ""
        return f'exclude = ["{name}"], if predicting does not need it (the rest resolves without)'


def _is_valid(version: str) -> bool:
    try:
        Version(version)
    except InvalidVersion:
        return False
    return True


class UnmetRequirementsError(ProjectError):
    """Requirements that the image cannot meet."""

    default_code = "requirements-not-met"
    known_lines: tuple[RequirementLine, ...] = ()  # those on packages that an index has


def check_requirements(
    requirement_lines: Iterable[RequirementLine], metadata: MetadataStore, policy: PackagePolicy
) -> None:
    """Look up every requirement of the user in the index.

    Raises one UnmetRequirementsError that lists unknown packages, requirements without a version for the image,
    and those that a protected package of the image does not meet; OutsideError if an index cannot be reached.
    """
    image = metadata.image
    unchecked = policy.own | policy.exclude | policy.direct_references.keys()
    checked_lines = [line for line in requirement_lines if line.name not in unchecked]
    with cancelling_pool(8) as pool:
        problems = list(pool.map(lambda line: _describe_problem(line, metadata, policy), checked_lines))
    unmet = {line: problem for line, problem in zip(checked_lines, problems, strict=True) if problem}
    if not unmet:
        return
    known_lines = tuple(line for line in unmet if metadata.index.list_files(line.name))
    summary = "a requirement" if len(unmet) == 1 else f"{len(unmet)} requirements"
    error = UnmetRequirementsError(
        f"{summary} cannot be met on the image '{image.name}' (Python {image.python})",
        hint=_SPELLING_HINT if len(known_lines) < len(unmet) else "",
        details=list(unmet.values()),
    )
    error.known_lines = known_lines
    raise error


def _describe_problem(line: RequirementLine, metadata: MetadataStore, policy: PackagePolicy) -> str:
    """Return why a requirement cannot be met; empty if it can."""
    requirement, image = Requirement(line.requirement), metadata.image
    description = f"{format_requirement(requirement)} ({line.position})"
    image_version = image.packages.get(line.name, "")
    image_serves = is_in_image(image, line.name) and (
        not image_version or satisfies_requirement(requirement, line.name, image_version)
    )
    files = metadata.index.list_files(line.name)
    if image_serves and line.name not in policy.include:
        return ""
    if not files:
        similar = suggest_name(line.name, image.packages, cutoff=0.75, limit=2)
        return f"{description}: no index has a package '{line.name}'{similar}"
    if image_version and not policy.allows_replacing(line.name, image):
        return f"{description}: the image has {image_version}, which is protected"
    problem = _describe_unfit(requirement, files, metadata)
    if not problem:
        return ""
    is_about_range = problem.startswith("no version")
    image_text = f"; the image has {image_version}" if image_version and not is_about_range else ""
    return f"{description}: {problem}{image_text}"


def _describe_unfit(requirement: Requirement, files: tuple[IndexFile, ...], metadata: MetadataStore) -> str:
    """Return why no version that the requirement allows fits the image; empty if one does."""
    version, prefix = get_exact_version(requirement), ""
    fitting = metadata.find_fitting_versions(files[0].project)
    if not version:
        if any(_is_in_range(requirement, fit) for fit in fitting):
            return ""
        in_range = sort_versions(file for file in files if _is_in_range(requirement, file.version))
        if not in_range:
            return f"no version is in that range; the newest is {sort_versions(files)[0]}"
        version = in_range[0]
        prefix = f"{version}, the newest: "
    file = choose_file(files, version, (), metadata.image)
    if file and not metadata.needs_compiler(file.project, version):
        return ""
    minor = metadata.image.python_minor
    facts = []
    for fact in describe_files(files, version, (), metadata.image):
        # The platforms, which are many, do not matter if the Python version does not fit anyway.
        has_python = f"cp{minor.replace('.', '')}" in fact or "py3" in fact
        text = fact if has_python else fact.partition(" on ")[0]
        is_compiled = file and text == "there is an sdist"
        facts.append(
            f"{text}, of compiled code, which was never built for Python {minor}" if is_compiled else text
        )
    others = [fit for fit in fitting if not is_same_version(fit, version)]
    fits = [fit for fit in others if not Version(fit).is_prerelease] or others
    fitting_text = f"; what fits: {', '.join(fits[:4])}" if fits else ""
    return f"{prefix}{'; '.join(facts) or 'nothing of it fits'}{fitting_text}"


def _is_in_range(requirement: Requirement, version: str) -> bool:
    try:
        return requirement.specifier.contains(version, prereleases=True)
    except InvalidVersion:
        return True  # left to the resolver
