"""Choose the file of a version that the image gets: the best wheel, else the sdist, else the alternatives."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import InvalidWheelFilename, parse_wheel_filename
from packaging.version import InvalidVersion, Version

from offline_kit.core.cache import cache_key
from offline_kit.packages.index import IndexFile
from offline_kit.project.images import Image

_SDISTS = (".tar.gz", ".zip")

WheelRank = tuple[bool, int, tuple[int, str]]
"""Smaller is better: yanked, position of the best tag, negated build number."""


class ImageTarget:
    """Tells which files fit an image."""

    def __init__(self, image: Image) -> None:
        self.image = image
        self._places = {tag: position for position, tag in enumerate(image.list_wheel_tags())}
        self._python = Version(image.python)
        self.key = cache_key(image.python, [str(tag) for tag in self._places])
        """Identifies everything that its answers depend on, for the cache."""

    def rank_wheel(self, file: IndexFile) -> WheelRank | None:
        """Return how well a wheel fits; None if it is no wheel, or for another platform or Python."""
        position = self.find_tag_position(file.filename)
        if position is None or not self.accepts_python(file.requires_python):
            return None
        # Of equal tags the higher build number wins (PEP 427).
        build = parse_wheel_filename(file.filename)[2] or (0, "")
        return file.yanked, position, (-build[0], build[1])

    def find_tag_position(self, filename: str) -> int | None:
        """Return the position of a wheel's best tag among the image's tags; None if none fits."""
        if not filename.endswith(".whl"):
            return None
        try:
            tags = parse_wheel_filename(filename)[3]
        except (InvalidWheelFilename, InvalidVersion):
            return None
        return min((self._places[tag] for tag in tags if tag in self._places), default=None)

    def accepts_python(self, requires_python: str) -> bool:
        """Whether the image's full Python version is allowed; pip, too, ignores an invalid Requires-Python."""
        try:
            # An image may have a pre-release of Python.
            return SpecifierSet(requires_python).contains(self._python, prereleases=True)
        except InvalidSpecifier:
            return True

    def describe_platform(self) -> str:
        """Return image, Python and platform for a message."""
        libc = f", glibc {self.image.glibc[0]}.{self.image.glibc[1]}" if self.image.glibc[0] else ""
        return f"'{self.image.name}' (Python {self.image.python}, {self.image.machine}{libc})"


def is_same_version(left: str, right: str) -> bool:
    """Whether two strings are the same version (PEP 440), local part included."""
    try:
        return Version(left) == Version(right)
    except InvalidVersion:
        return left == right


def choose_file(
    files: Iterable[IndexFile], version: str, hashes: Sequence[str], target: ImageTarget
) -> IndexFile | None:
    """Return the best wheel of this version, else its sdist, else None.

    With `hashes`, only files with one of them are considered, and those whose hash the index does not state (it is
    checked after the download). A yanked file is chosen only if no other fits (PEP 592).
    """
    listed = [file for file in files if is_same_version(file.version, version) and is_trusted(file, hashes)]
    ranked = [(rank, file) for file in listed if (rank := target.rank_wheel(file)) is not None]
    if ranked:
        return min(ranked, key=lambda pair: pair[0])[1]
    sources = [file for file in listed if is_sdist(file) and target.accepts_python(file.requires_python)]
    # PEP 625 sdists are .tar.gz; pip and uv also build old .zip ones.
    return min(sources, key=lambda file: (file.yanked, not file.filename.endswith(".tar.gz")), default=None)


def is_sdist(file: IndexFile) -> bool:
    """Whether a file is a source distribution that pip and uv can build."""
    return file.filename.endswith(_SDISTS)


def is_trusted(file: IndexFile, hashes: Sequence[str]) -> bool:
    """Whether the file may be one of those with these hashes."""
    return not hashes or not file.sha256 or f"sha256:{file.sha256}" in hashes


@dataclass(frozen=True, kw_only=True)
class Alternatives:
    """What the indexes have of a package whose pinned version does not fit the image."""

    lines: tuple[str, ...]
    """Facts about the files of this version."""
    changed: bool
    """Whether a file fits, but has another hash than the frozen one."""
    versions: tuple[str, ...]
    """Other versions with a fitting file, newest first."""
    nearest: str
    """The next higher of these versions, else the newest; empty for none."""


def find_alternatives(
    files: Sequence[IndexFile], version: str, hashes: Sequence[str], target: ImageTarget
) -> Alternatives:
    """Return what the indexes have instead of a fitting file."""
    same_version_files = [file for file in files if is_same_version(file.version, version)]
    changed = bool(hashes) and choose_file(same_version_files, version, (), target) is not None
    wheels = [file for file in same_version_files if file.filename.endswith(".whl")]
    lines = []
    if not files:
        lines.append("no index has a file of it")
    elif not same_version_files:
        newest = ", ".join(_sort_versions(files)[:5])
        lines.append(f"no index has a file of this version; the newest are {newest}")
    elif changed:
        lines.append("the index has files of this version, but none has a hash of the freeze")
    if wheels:
        lines.append(f"its wheels are for {_describe_tags(wheels)}")
    if any(is_sdist(file) for file in same_version_files):
        lines.append("there is an sdist")
    elif same_version_files:
        lines.append("there is no sdist")
    lines += [
        f"they require Python {requires_python}"
        for requires_python in _list_rejected_pythons(same_version_files, target)
    ]
    versions = _find_fitting_versions(files, version, target)
    return Alternatives(
        lines=tuple(lines), changed=changed, versions=versions, nearest=_find_nearest(versions, version)
    )


def _find_nearest(versions: Sequence[str], version: str) -> str:
    try:
        above = [candidate for candidate in versions if Version(candidate) > Version(version)]
    except InvalidVersion:
        above = []
    return above[-1] if above else versions[0] if versions else ""


def _sort_versions(files: Iterable[IndexFile]) -> list[str]:
    spellings: dict[Version, str] = {}
    for file in files:
        try:
            spellings.setdefault(Version(file.version), file.version)
        except InvalidVersion:
            continue
    return [spellings[version] for version in sorted(spellings, reverse=True)]


def _find_fitting_versions(files: Sequence[IndexFile], version: str, target: ImageTarget) -> tuple[str, ...]:
    good = [file for file in files if not file.yanked and target.accepts_python(file.requires_python)]
    wheels = [file for file in good if target.rank_wheel(file) is not None]
    fitting_files = wheels or [file for file in good if is_sdist(file)]
    versions = [
        candidate for candidate in _sort_versions(fitting_files) if not is_same_version(candidate, version)
    ]
    return tuple([candidate for candidate in versions if not Version(candidate).is_prerelease] or versions)


def _list_rejected_pythons(files: Iterable[IndexFile], target: ImageTarget) -> list[str]:
    return sorted({file.requires_python for file in files if not target.accepts_python(file.requires_python)})


def _describe_tags(wheels: Iterable[IndexFile]) -> str:
    interpreters, platforms = set(), set()
    for file in wheels:
        words = file.filename.removesuffix(".whl").split("-")
        interpreters |= set(words[-3].split("."))
        platforms |= set(words[-1].split("."))
    return f"{', '.join(sorted(interpreters, key=_make_tag_key))} on {', '.join(sorted(platforms))}"


def _make_tag_key(tag: str) -> tuple[str, int]:
    letters = tag.rstrip("0123456789")
    digits = tag[len(letters) :]
    # In cp313 the first digit is the major version: (3, 13), see PEP 425.
    return letters + digits[:1], int(digits[1:] or 0)
