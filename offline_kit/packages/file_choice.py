"""Choose the file of a version that the image gets: the best wheel, else the sdist."""

from collections.abc import Iterable, Sequence

from packaging.utils import parse_wheel_filename
from packaging.version import InvalidVersion, Version

from offline_kit.packages.index import IndexFile
from offline_kit.project.images import Image

WheelRank = tuple[bool, int, tuple[int, str]]
"""Smaller is better: yanked, position of the best tag, negated build number."""


def rank_wheel(file: IndexFile, image: Image) -> WheelRank | None:
    """Return how well a wheel fits an image; None if it is no wheel, or for another platform or Python."""
    position = image.find_tag_position(file.filename)
    if position is None or not image.accepts_python(file.requires_python):
        return None
    # Of equal tags the higher build number wins (PEP 427).
    build = parse_wheel_filename(file.filename)[2] or (0, "")
    return file.yanked, position, (-build[0], build[1])


def is_same_version(left: str, right: str) -> bool:
    """Whether two strings are the same version (PEP 440), local part included."""
    try:
        return Version(left) == Version(right)
    except InvalidVersion:
        return left == right


def is_sdist(file: IndexFile) -> bool:
    """Whether a file is a source distribution that pip and uv can build."""
    return file.filename.endswith((".tar.gz", ".zip"))


def choose_file(
    files: Iterable[IndexFile], version: str, hashes: Sequence[str], image: Image
) -> IndexFile | None:
    """Return the best wheel of this version, else its sdist, else None.

    With `hashes`, only files with one of them are considered, and those whose hash the index does not state (it is
    checked after the download). A yanked file is chosen only if no other fits (PEP 592).
    """
    listed = [
        file
        for file in files
        if is_same_version(file.version, version)
        and (not hashes or not file.sha256 or f"sha256:{file.sha256}" in hashes)
    ]
    ranked = [(rank, file) for file in listed if (rank := rank_wheel(file, image)) is not None]
    if ranked:
        return min(ranked, key=lambda pair: pair[0])[1]
    sources = [file for file in listed if is_sdist(file) and image.accepts_python(file.requires_python)]
    # PEP 625 sdists are .tar.gz; pip and uv also build old .zip ones.
    return min(sources, key=lambda file: (file.yanked, not file.filename.endswith(".tar.gz")), default=None)


def was_uploaded_before(file: IndexFile, cutoff: str) -> bool:
    """Whether a file counts at a cut-off (ISO 8601 in UTC; empty for none), as it does without an upload time."""
    return not cutoff or not file.upload_time or file.upload_time[:19] <= cutoff[:19]


def collect_hashes(files: Iterable[IndexFile], version: str, cutoff: str) -> tuple[str, ...]:
    """Return the hashes of the files of a version that were uploaded before the cut-off; empty for no cut-off."""
    hashes = {
        f"sha256:{file.sha256}"
        for file in files
        if file.sha256 and is_same_version(file.version, version) and was_uploaded_before(file, cutoff)
    }
    return tuple(sorted(hashes))


def describe_files(
    files: Sequence[IndexFile], version: str, hashes: Sequence[str], image: Image
) -> tuple[str, ...]:
    """Return what the indexes have of a version of which no file fits the image."""
    same_version_files = [file for file in files if is_same_version(file.version, version)]
    wheels = [file for file in same_version_files if file.filename.endswith(".whl")]
    has_sdist = any(is_sdist(file) for file in same_version_files)
    lines = []
    if not files:
        lines.append("no index has a file of it")
    elif not same_version_files:
        newest = ", ".join(sort_versions(files)[:5])
        lines.append(f"no index has a file of this version; the newest are {newest}")
    elif hashes and choose_file(same_version_files, version, (), image):
        lines.append("the index has files of this version, but none has a hash of the freeze")
    if wheels:
        tags = [file.filename.removesuffix(".whl").split("-") for file in wheels]
        interpreters = {tag for words in tags for tag in words[-3].split(".")}
        platforms = {tag for words in tags for tag in words[-1].split(".")}
        # By length first: cp39 is older than cp310.
        joined_interpreters = ", ".join(sorted(interpreters, key=lambda tag: (len(tag), tag)))
        lines.append(f"its wheels are for {joined_interpreters} on {', '.join(sorted(platforms))}")
    if same_version_files:
        lines.append("there is an sdist" if has_sdist else "there is no sdist")
    pythons = {file.requires_python for file in same_version_files}
    lines += [f"they require Python {text}" for text in sorted(pythons) if not image.accepts_python(text)]
    return tuple(lines)


def sort_versions(files: Iterable[IndexFile]) -> list[str]:
    """Return the versions of files, newest first, invalid ones last."""

    def rank_version(text: str) -> tuple[bool, Version]:
        try:
            return True, Version(text)
        except InvalidVersion:
            return False, Version("0")

    return sorted({file.version for file in files}, key=rank_version, reverse=True)
