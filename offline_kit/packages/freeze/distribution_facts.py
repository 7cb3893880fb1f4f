"""What distributions say of themselves: requirements and extras, from the index, a wheel, or a build."""

import tempfile
import zipfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from email.parser import BytesHeaderParser
from pathlib import Path
from threading import Lock

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from offline_kit.core import files, http
from offline_kit.core.cache import key_of
from offline_kit.core.errors import OfflineKitError, ProjectError
from offline_kit.core.report import SILENT, Reporter
from offline_kit.packages import distribution_metadata
from offline_kit.packages.file_choice import Target, choose, is_sdist, same_version
from offline_kit.packages.freeze.direct_references import Yard, build_wheel
from offline_kit.packages.index import Index, IndexFile


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What one version of a package says of itself."""

    name: str
    """Normalized name."""
    version: str
    """The version asked for."""
    requires: tuple[Requirement, ...] = ()
    """Requires-Dist, as far as it can be read."""
    extras: frozenset[str] = frozenset()
    """Provides-Extra, normalized."""
    invalid: tuple[str, ...] = ()
    """Requires-Dist lines that today's pip refuses."""


def parse(raw: bytes, name: str, version: str) -> Facts:
    """Read the bytes of a METADATA or PKG-INFO file."""
    headers = BytesHeaderParser().parsebytes(raw)
    good, bad = [], []
    for line in headers.get_all("Requires-Dist") or ():
        try:
            good.append(Requirement(str(line)))
        except InvalidRequirement:
            bad.append(str(line))
    extras = frozenset(canonicalize_name(str(one)) for one in headers.get_all("Provides-Extra") or ())
    return Facts(name=name, version=version, requires=tuple(good), extras=extras, invalid=tuple(bad))


def of_wheel(path: Path, name: str, version: str) -> Facts:
    """Read a wheel's own metadata; ProjectError for what is no wheel."""
    return parse(_metadata_of(path), name, version)


def _metadata_of(path: Path) -> bytes:
    try:
        with zipfile.ZipFile(path) as archive:
            member = distribution_metadata.dist_info_member(archive.namelist(), "METADATA")
            if member is None:
                raise zipfile.BadZipFile("it has no METADATA")
            return archive.read(member)
    except (zipfile.BadZipFile, OSError) as error:
        raise ProjectError(
            f"'{path.name}' cannot be read as a wheel", hint="get or build it again"
        ) from error


class Library:
    """Facts by name and version; each is read once. Safe to ask from several threads."""

    def __init__(self, index: Index, yard: Yard) -> None:
        self.index = index
        """Where files are listed."""
        self.yard = yard
        """How sdists are built where nothing else tells their metadata."""
        self.target = Target(yard.image)
        """Judges which file of a version is the image's."""
        self._given: dict[str, Facts] = {}
        self._read: dict[tuple[str, str], Facts | None] = {}
        self._fits: dict[str, tuple[str, ...]] = {}
        self._lock = Lock()

    def give(self, facts: Mapping[str, Facts]) -> None:
        """Lay down facts that no index has: stubs, and wheels of direct references."""
        self._given |= facts

    def __call__(self, name: str, version: str) -> Facts | None:
        """Return the facts of this version, None where no index has any file of it."""
        given = self._given.get(name)
        if given and same_version(given.version, version):
            return given
        key = (name, version)
        if key not in self._read:
            found = self._look(name, version)
            with self._lock:
                self._read[key] = found
        return self._read[key]

    def of_image(self, report: Reporter = SILENT) -> Mapping[str, tuple[Requirement, ...]]:
        """Return what the image's packages require, as far as their wheels on the index tell.

        Nothing is built; packages that nobody knows are left out. The first time this asks for every package
        of the image, then it is kept in the cache.
        """
        image = self.yard.image
        key = key_of("image", *sorted(f"{name}=={version}" for name, version in image.packages.items()))
        kept = self.index.cache.recall("image-requires", key)
        if kept is None:
            with (
                ThreadPoolExecutor(16) as pool,
                report.progress(
                    "Reading the image's packages", len(image.packages), unit="packages"
                ) as advance,
            ):
                found = []
                for one in pool.map(lambda item: self._of_wheel(*item), sorted(image.packages.items())):
                    advance(1)
                    found.append(one)
            kept = {one.name: [str(line) for line in one.requires] for one in found if one}
            self.index.cache.remember("image-requires", key, kept)
        return {
            name: tuple(Requirement(line) for line in lines)
            for name, lines in kept.items()
            if isinstance(lines, list)
        }

    def _of_wheel(self, name: str, version: str) -> Facts | None:
        try:
            for file in self.index.files(name):
                if file.filename.endswith(".whl") and same_version(file.version, version.partition("+")[0]):
                    raw = self.index.metadata(file)
                    return parse(raw, name, version) if raw is not None else None
        except OfflineKitError:
            return None
        return None

    def has(self, name: str, version: str) -> bool:
        """Whether an index has a file of this version that the image could take."""
        return choose(self.index.files(name), version, (), self.target) is not None

    def fits(self, name: str) -> tuple[str, ...]:
        """Return the versions that have a wheel for the image, or a sdist that is no compiled code; newest first."""
        if name not in self._fits:
            versions = self._judged(name)
            found = tuple(versions[one] for one in sorted(versions, reverse=True))
            with self._lock:
                self._fits[name] = found
        return self._fits[name]

    def compiles(self, name: str, version: str) -> bool:
        """Whether all that the image could take of a version is a sdist of compiled code.

        It is, if it had wheels that are bound to a platform: none of them is for this Python, so the code is
        older than this Python. A version without any wheel is what the next one with wheels is.
        """
        chosen = choose(self.index.files(name), version, (), self.target)
        return (
            chosen is not None
            and is_sdist(chosen)
            and not any(same_version(one, version) for one in self.fits(name))
        )

    def nearest(self, name: str, version: str) -> str:
        """Return the version itself if it fits, else the next one up that does, else the next one down; or ""."""
        fits = self.fits(name)
        above = [one for one in fits if Version(one) >= Version(version)]
        return above[-1] if above else fits[0] if fits else ""

    def _judged(self, name: str) -> dict[Version, str]:
        wheels: dict[Version, list[IndexFile]] = {}
        sdists: dict[Version, list[IndexFile]] = {}
        for file in self.index.files(name):
            with suppress(InvalidVersion):
                kept = wheels if file.filename.endswith(".whl") else sdists if is_sdist(file) else {}
                kept.setdefault(Version(file.version), []).append(file)
        found = {}
        pure = True
        for version in sorted(wheels.keys() | sdists.keys(), reverse=True):
            built = wheels.get(version, [])
            if built:
                pure = all(one.filename.endswith("-any.whl") for one in built)
            fitting = [one for one in built if self.target.rank(one) is not None]
            if not fitting and pure:
                fitting = [one for one in sdists.get(version, []) if self.target.accepts(one.requires_python)]
            if fitting and not all(one.yanked for one in fitting):
                found[version] = fitting[0].version
        return found

    def _look(self, name: str, version: str) -> Facts | None:
        listed = [file for file in self.index.files(name) if same_version(file.version, version)]
        best = choose(listed, version, (), self.target)
        # A wheel for another platform says the same in nearly all packages, and is better than a build.
        others = sorted(listed, key=is_sdist)
        for file in [best, *others] if best and not is_sdist(best) else others:
            raw = self.index.metadata(file)
            if raw is None and is_sdist(file):
                raw = self._built(file)
            if raw is not None:
                return parse(raw, name, version)
        return None

    def _built(self, file: IndexFile) -> bytes:
        """Return the metadata that an sdist's build hooks make; kept in the cache by content."""
        kept = (
            self.yard.cache
            / "freeze"
            / "metadata"
            / f"{file.sha256 or file.filename}.{self.yard.image.python_minor}"
        )
        if file.sha256 and kept.is_file():
            return kept.read_bytes()
        with tempfile.TemporaryDirectory(prefix="offline-kit-") as scratch:
            sdist = Path(scratch) / file.filename
            http.download(file.url, sdist, settings=self.yard.settings, sha256=file.sha256)
            wheel = build_wheel(sdist, Path(scratch), self.yard, f"{file.project} {file.version}")
            raw = _metadata_of(wheel)
        if file.sha256:
            files.write_atomic(kept, raw)
        return raw


Look = Callable[[str, str], Facts | None]
"""The shape of a library: (name, version) to facts, None where nobody knows."""
