"""Check every requirement by itself before resolving, and report all problems at once."""

from collections.abc import Iterable

from packaging.requirements import Requirement
from packaging.version import InvalidVersion, Version

from offline_kit.core.errors import ProjectError, suggest_name
from offline_kit.core.thread_pool import cancelling_pool
from offline_kit.packages.file_choice import choose_file, describe_files, is_same_version
from offline_kit.packages.freeze.dependency_walk import (
    PackagePolicy,
    format_requirement,
    is_in_image,
    satisfies_requirement,
)
from offline_kit.packages.freeze.metadata_store import MetadataStore
from offline_kit.packages.freeze.requirement_files import RequirementLine, get_exact_version
from offline_kit.packages.index import IndexFile

_SPELLING_HINT = "check the spelling, or name the index that has it (--extra-index-url in the requirements, or pip's configuration)"


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
    image = metadata.target.image
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
    requirement, image = Requirement(line.requirement), metadata.target.image
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
        in_range = [file.version for file in files if _is_in_range(requirement, file.version)]
        if not in_range:
            newest = max((file.version for file in files), key=_get_sort_key)
            return f"no version is in that range; the newest is {newest}"
        version = max(in_range, key=_get_sort_key)
        prefix = f"{version}, the newest: "
    file = choose_file(files, version, (), metadata.target)
    if file and not metadata.needs_compiler(file.project, version):
        return ""
    minor = metadata.target.image.python_minor
    facts = []
    for fact in describe_files(files, version, (), metadata.target):
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


def _get_sort_key(version: str) -> tuple[bool, Version]:
    try:
        return True, Version(version)
    except InvalidVersion:
        return False, Version("0")
