"""What is wrong with the requirements themselves, said of all of them at once, before anything is resolved."""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

from packaging.requirements import Requirement
from packaging.version import InvalidVersion, Version

from offline_kit.core.errors import ProjectError, close_to
from offline_kit.packages.file_choice import choose, outlook
from offline_kit.packages.freeze.dependency_walk import has, satisfied
from offline_kit.packages.freeze.distribution_facts import Library
from offline_kit.packages.freeze.lock_formats import exact
from offline_kit.packages.freeze.pin_fates import Policy, wording
from offline_kit.packages.freeze.requirement_lines import Wanted
from offline_kit.packages.index import IndexFile
from offline_kit.project.images import Image

ANY = "*"
UNKNOWN = "no index has a package"
HAS = "the image has"
SEARCH = "check the spelling, or name the index that has it (--extra-index-url in the requirements, or pip's configuration)"


class UnmetError(ProjectError):
    """Requirements that the image cannot meet; `wanted` are those that an index knows in another version."""

    def __init__(self, what: str, *, hint: str, details: Sequence[str], wanted: Sequence[Wanted]) -> None:
        super().__init__(what, hint=hint, details=details)
        self.wanted = tuple(wanted)


def check(wanted: Iterable[Wanted], library: Library, policy: Policy, image: Image) -> None:
    """Ask the index for every requirement of the user's.

    Raises one ProjectError that lists every unknown package, every requirement of which nothing fits the
    image, and every one that a protected package of the image cannot meet; OutsideError where an index
    cannot be reached.
    """
    asked = [one for one in wanted if one.name not in policy.own | policy.exclude | policy.direct.keys()]
    with ThreadPoolExecutor(8) as pool:
        lines = list(pool.map(lambda one: _problem(one, library, policy, image), asked))
    problems = [line for line in lines if line]
    if not problems:
        return
    count = len(problems)
    what = "a requirement cannot be met" if count == 1 else f"{count} requirements cannot be met"
    raise UnmetError(
        f"{what} on the image '{image.name}' (Python {image.python})",
        hint=SEARCH if any(UNKNOWN in line for line in problems) else "",
        details=problems,
        wanted=[one for one, line in zip(asked, lines, strict=True) if line and UNKNOWN not in line],
    )


def _problem(one: Wanted, library: Library, policy: Policy, image: Image) -> str:
    requirement = Requirement(one.requirement)
    files = library.index.files(one.name)
    shown = f"{wording(requirement)} ({one.where})"
    here = image.packages.get(one.name, "")
    serves = has(image, one.name) and (not here or satisfied(requirement, one.name, here))
    if serves and one.name not in policy.include:
        return ""
    if not files and not policy.include & {one.name}:
        return f"{shown}: {UNKNOWN} '{one.name}'{close_to(one.name, image.packages, cutoff=0.75, most=2)}"
    if here and not policy.may_replace(one.name, image):
        return f"{shown}: {HAS} {here}, which is protected"
    return _unfit(requirement, files, library, here, shown)


def _unfit(
    requirement: Requirement, files: tuple[IndexFile, ...], library: Library, here: str, shown: str
) -> str:
    version = exact(requirement)
    if not version:
        version = _newest_unfit(requirement, files, library)
        if version == ANY:
            return ""
        if not version:
            newest = max((one.version for one in files), key=_order)
            return f"{shown}: no version is in that range; the newest is {newest}"
    chosen = choose(files, version, (), library.target)
    if chosen and not library.compiles(chosen.project, version):
        return ""
    newest = "" if exact(requirement) else f"{version}, the newest: "
    found = outlook(files, version, (), library.target)
    lines = [_brief(line, library) for line in found.lines]
    if chosen:
        why = f"of compiled code, which was never built for Python {library.target.image.python_minor}"
        lines = [f"{line}, {why}" if line == "there is an sdist" else line for line in lines]
    facts = "; ".join(lines) or "nothing of it fits"
    tail = f"; {HAS} {here}" if here else ""
    fitting = set(library.fits(files[0].project))
    fits = [one for one in found.versions if one in fitting]
    others = f"; what fits: {', '.join(fits[:4])}" if fits else ""
    return f"{shown}: {newest}{facts}{others}{tail}"


def _brief(line: str, library: Library) -> str:
    """Leave out the platforms, which are many, where already the Python does not fit."""
    ours = f"cp{library.target.image.python_minor.replace('.', '')}"
    return line if ours in line or "py3" in line else line.partition(" on ")[0]


def _newest_unfit(requirement: Requirement, files: Sequence[IndexFile], library: Library) -> str:
    """Return the newest version in the requirement's range, or ANY where something in the range fits."""
    if any(_in_range(requirement, version) for version in library.fits(files[0].project) if files):
        return ANY
    allowed = [one for one in files if _in_range(requirement, one.version)]
    return max((one.version for one in allowed), key=_order, default="")


def _in_range(requirement: Requirement, version: str) -> bool:
    try:
        return requirement.specifier.contains(version, prereleases=True)
    except InvalidVersion:
        return True  # the resolver knows better than to judge it here


def _order(version: str) -> tuple[bool, Version]:
    try:
        return True, Version(version)
    except InvalidVersion:
        return False, Version("0")


def check_directs(policy: Policy, image: Image) -> None:
    """Raise ProjectError where direct references would replace protected packages unasked."""
    lines = [
        f"{one.reference} ({one.wanted.where}): '{name}' is protected, the image has {image.packages[name]}"
        for name, one in policy.direct.items()
        if name in image.packages and not policy.may_replace(name, image)
    ]
    if lines:
        raise ProjectError(
            "direct references would replace protected packages",
            hint="remove the line (then the image's version serves), or name the package in `replace`",
            details=lines,
        )
