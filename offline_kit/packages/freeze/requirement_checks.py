"""Check every requirement by itself before resolving, and report all problems at once."""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

from packaging.requirements import Requirement
from packaging.version import InvalidVersion, Version

from offline_kit.core.errors import ProjectError, suggest_name
from offline_kit.packages.file_choice import choose_file, find_alternatives
from offline_kit.packages.freeze.dependency_walk import format_requirement, is_in_image, satisfies_requirement
from offline_kit.packages.freeze.metadata_store import MetadataStore
from offline_kit.packages.freeze.pin_fates import PackagePolicy
from offline_kit.packages.freeze.requirement_files import RequirementLine, get_exact_version
from offline_kit.packages.index import IndexFile
from offline_kit.project.images import Image

UNKNOWN_PACKAGE = "no index has a package"
IMAGE_HAS = "the image has"
SPELLING_HINT = "check the spelling, or name the index that has it (--extra-index-url in the requirements, or pip's configuration)"


class UnmetRequirementsError(ProjectError):
    """Requirements that the image cannot meet; `known_lines` are those on packages that an index has."""

    default_code = "requirements-not-met"

    def __init__(
        self, summary: str, *, hint: str, details: Sequence[str], known_lines: Sequence[RequirementLine]
    ) -> None:
        super().__init__(summary, hint=hint, details=details)
        self.known_lines = tuple(known_lines)


def check_requirements(
    requirement_lines: Iterable[RequirementLine], metadata: MetadataStore, policy: PackagePolicy, image: Image
) -> None:
    """Look up every requirement of the user in the index.

    Raises one UnmetRequirementsError that lists unknown packages, requirements without a version for the image,
    and those that a protected package of the image does not meet; OutsideError if an index cannot be reached.
    """
    checked_lines = [
        entry
        for entry in requirement_lines
        if entry.name not in policy.own | policy.exclude | policy.direct_references.keys()
    ]
    with ThreadPoolExecutor(8) as pool:
        lines = list(pool.map(lambda entry: _describe_problem(entry, metadata, policy, image), checked_lines))
    problems = [line for line in lines if line]
    if not problems:
        return
    count = len(problems)
    summary = "a requirement cannot be met" if count == 1 else f"{count} requirements cannot be met"
    raise UnmetRequirementsError(
        f"{summary} on the image '{image.name}' (Python {image.python})",
        hint=SPELLING_HINT if any(UNKNOWN_PACKAGE in line for line in problems) else "",
        details=problems,
        known_lines=[
            entry
            for entry, line in zip(checked_lines, lines, strict=True)
            if line and UNKNOWN_PACKAGE not in line
        ],
    )


def _describe_problem(
    line: RequirementLine, metadata: MetadataStore, policy: PackagePolicy, image: Image
) -> str:
    requirement = Requirement(line.requirement)
    files = metadata.index.list_files(line.name)
    description = f"{format_requirement(requirement)} ({line.position})"
    image_version = image.packages.get(line.name, "")
    image_serves = is_in_image(image, line.name) and (
        not image_version or satisfies_requirement(requirement, line.name, image_version)
    )
    if image_serves and line.name not in policy.include:
        return ""
    if not files and not policy.include & {line.name}:
        return f"{description}: {UNKNOWN_PACKAGE} '{line.name}'{suggest_name(line.name, image.packages, cutoff=0.75, limit=2)}"
    if image_version and not policy.allows_replacing(line.name, image):
        return f"{description}: {IMAGE_HAS} {image_version}, which is protected"
    return _describe_unfit(requirement, files, metadata, image_version, description)


def _describe_unfit(
    requirement: Requirement,
    files: tuple[IndexFile, ...],
    metadata: MetadataStore,
    image_version: str,
    description: str,
) -> str:
    version = get_exact_version(requirement)
    newest = ""
    if not version:
        fitting_versions = metadata.find_fitting_versions(files[0].project)
        if any(_is_in_range(requirement, fit) for fit in fitting_versions):
            return ""
        in_range = [file.version for file in files if _is_in_range(requirement, file.version)]
        if not in_range:
            newest = max((file.version for file in files), key=_get_sort_key)
            return f"{description}: no version is in that range; the newest is {newest}"
        version = max(in_range, key=_get_sort_key)
        newest = f"{version}, the newest: "
    file = choose_file(files, version, (), metadata.target)
    if file and not metadata.needs_compiler(file.project, version):
        return ""
    alternatives = find_alternatives(files, version, (), metadata.target)
    lines = [_shorten_fact(line, metadata) for line in alternatives.lines]
    if file:
        cause = f"of compiled code, which was never built for Python {metadata.target.image.python_minor}"
        lines = [f"{line}, {cause}" if line == "there is an sdist" else line for line in lines]
    fact_text = "; ".join(lines) or "nothing of it fits"
    image_text = f"; {IMAGE_HAS} {image_version}" if image_version else ""
    fitting = set(metadata.find_fitting_versions(files[0].project))
    fits = [fit for fit in alternatives.versions if fit in fitting]
    fitting_text = f"; what fits: {', '.join(fits[:4])}" if fits else ""
    return f"{description}: {newest}{fact_text}{fitting_text}{image_text}"


def _shorten_fact(line: str, metadata: MetadataStore) -> str:
    """Leave out the platforms, which are many, if the Python version does not fit anyway."""
    image_tag = f"cp{metadata.target.image.python_minor.replace('.', '')}"
    return line if image_tag in line or "py3" in line else line.partition(" on ")[0]


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


def check_direct_references(policy: PackagePolicy, image: Image) -> None:
    """Raise ProjectError if direct references would replace protected packages that `replace` does not name."""
    lines = [
        f"{reference.reference} ({reference.line.position}): '{name}' is protected, the image has {image.packages[name]}"
        for name, reference in policy.direct_references.items()
        if name in image.packages and not policy.allows_replacing(name, image)
    ]
    if lines:
        raise ProjectError(
            "direct references would replace protected packages",
            hint="remove the line to use the image's version, or name the package in `replace`",
            code="protected-package-replaced",
            details=lines,
        )
