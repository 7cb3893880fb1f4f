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
from offline_kit.core.cache import cache_key
from offline_kit.core.errors import OfflineKitError, ProjectError
from offline_kit.core.report import SILENT, Reporter
from offline_kit.packages import distribution_metadata
from offline_kit.packages.file_choice import ImageTarget, choose_file, is_same_version, is_sdist
from offline_kit.packages.freeze.direct_references import ReferenceContext, build_wheel
from offline_kit.packages.index import IndexFile, PackageIndex


@dataclass(frozen=True, kw_only=True)
class PackageMetadata:
    """What one version of a package says of itself."""

    name: str
    """Normalized name."""
    version: str
    """The version asked for."""
    requires: tuple[Requirement, ...] = ()
    """Requires-Dist, as far as it can be read."""
    extras: frozenset[str] = frozenset()
    """Provides-Extra, normalized."""
    invalid_requires: tuple[str, ...] = ()
    """Requires-Dist lines that today's pip refuses."""


def parse_metadata(raw: bytes, name: str, version: str) -> PackageMetadata:
    """Read the bytes of a METADATA or PKG-INFO file."""
    headers = BytesHeaderParser().parsebytes(raw)
    good, bad = [], []
    for line in headers.get_all("Requires-Dist") or ():
        try:
            good.append(Requirement(str(line)))
        except InvalidRequirement:
            bad.append(str(line))
    extras = frozenset(canonicalize_name(str(extra)) for extra in headers.get_all("Provides-Extra") or ())
    return PackageMetadata(
        name=name, version=version, requires=tuple(good), extras=extras, invalid_requires=tuple(bad)
    )


def read_wheel_metadata(path: Path, name: str, version: str) -> PackageMetadata:
    """Read a wheel's own metadata; ProjectError for what is no wheel."""
    return parse_metadata(_read_metadata_bytes(path), name, version)


def _read_metadata_bytes(path: Path) -> bytes:
    try:
        with zipfile.ZipFile(path) as archive:
            member = distribution_metadata.find_dist_info_member(archive.namelist(), "METADATA")
            if member is None:
                raise zipfile.BadZipFile("it has no METADATA")
            return archive.read(member)
    except (zipfile.BadZipFile, OSError) as error:
        raise ProjectError(
            f"'{path.name}' cannot be read as a wheel", hint="get or build it again"
        ) from error


class MetadataStore:
    """Facts by name and version; each is read once. Safe to ask from several threads."""

    def __init__(self, index: PackageIndex, yard: ReferenceContext) -> None:
        self.index = index
        """Where files are listed."""
        self.build_context = yard
        """How sdists are built where nothing else tells their metadata."""
        self.target = ImageTarget(yard.image)
        """Judges which file of a version is the image's."""
        self._added: dict[str, PackageMetadata] = {}
        self._found_metadata: dict[tuple[str, str], PackageMetadata | None] = {}
        self._fitting_versions: dict[str, tuple[str, ...]] = {}
        self._lock = Lock()

    def add_metadata(self, metadata: Mapping[str, PackageMetadata]) -> None:
        """Lay down facts that no index has: stubs, and wheels of direct references."""
        self._added |= metadata

    def __call__(self, name: str, version: str) -> PackageMetadata | None:
        """Return the facts of this version, None where no index has any file of it."""
        added = self._added.get(name)
        if added and is_same_version(added.version, version):
            return added
        key = (name, version)
        if key not in self._found_metadata:
            metadata = self._find_metadata(name, version)
            with self._lock:
                self._found_metadata[key] = metadata
        return self._found_metadata[key]

    def read_image_requirements(self, report: Reporter = SILENT) -> Mapping[str, tuple[Requirement, ...]]:
        """Return what the image's packages require, as far as their wheels on the index tell.

        Nothing is built; packages that nobody knows are left out. The first time this asks for every package
        of the image, then it is kept in the cache.
        """
        image = self.build_context.image
        key = cache_key("image", *sorted(f"{name}=={version}" for name, version in image.packages.items()))
        requirement_lines = self.index.cache.read_record("image-requires", key)
        if requirement_lines is None:
            with (
                ThreadPoolExecutor(16) as pool,
                report.progress(
                    "Reading the image's packages", len(image.packages), unit="packages"
                ) as advance,
            ):
                packages = []
                for package in pool.map(
                    lambda item: self._read_indexed_wheel(*item), sorted(image.packages.items())
                ):
                    advance(1)
                    packages.append(package)
            requirement_lines = {
                package.name: [str(line) for line in package.requires] for package in packages if package
            }
            self.index.cache.write_record("image-requires", key, requirement_lines)
        return {
            name: tuple(Requirement(line) for line in lines)
            for name, lines in requirement_lines.items()
            if isinstance(lines, list)
        }

    def _read_indexed_wheel(self, name: str, version: str) -> PackageMetadata | None:
        try:
            for file in self.index.list_files(name):
                if file.filename.endswith(".whl") and is_same_version(
                    file.version, version.partition("+")[0]
                ):
                    raw = self.index.read_metadata(file)
                    return parse_metadata(raw, name, version) if raw is not None else None
        except OfflineKitError:
            return None
        return None

    def has_usable_file(self, name: str, version: str) -> bool:
        """Whether an index has a file of this version that the image could take."""
        return choose_file(self.index.list_files(name), version, (), self.target) is not None

    def find_fitting_versions(self, name: str) -> tuple[str, ...]:
        """Return the versions that have a wheel for the image, or a sdist that is no compiled code; newest first."""
        if name not in self._fitting_versions:
            versions = self._select_fitting_files(name)
            fitting = tuple(versions[version] for version in sorted(versions, reverse=True))
            with self._lock:
                self._fitting_versions[name] = fitting
        return self._fitting_versions[name]

    def needs_compiler(self, name: str, version: str) -> bool:
        """Whether all that the image could take of a version is a sdist of compiled code.

        It is, if it had wheels that are bound to a platform: none of them is for this Python, so the code is
        older than this Python. A version without any wheel is what the next one with wheels is.
        """
        file = choose_file(self.index.list_files(name), version, (), self.target)
        return (
            file is not None
            and is_sdist(file)
            and not any(is_same_version(fitting, version) for fitting in self.find_fitting_versions(name))
        )

    def find_nearest_version(self, name: str, version: str) -> str:
        """Return the version itself if it fits, else the next one up that does, else the next one down; or ""."""
        fits = self.find_fitting_versions(name)
        above = [fitting_version for fitting_version in fits if Version(fitting_version) >= Version(version)]
        return above[-1] if above else fits[0] if fits else ""

    def _select_fitting_files(self, name: str) -> dict[Version, str]:
        wheels: dict[Version, list[IndexFile]] = {}
        sdists: dict[Version, list[IndexFile]] = {}
        for file in self.index.list_files(name):
            with suppress(InvalidVersion):
                same_kind = wheels if file.filename.endswith(".whl") else sdists if is_sdist(file) else {}
                same_kind.setdefault(Version(file.version), []).append(file)
        fitting_versions = {}
        pure = True
        for version in sorted(wheels.keys() | sdists.keys(), reverse=True):
            built = wheels.get(version, [])
            if built:
                pure = all(file.filename.endswith("-any.whl") for file in built)
            fitting = [file for file in built if self.target.rank_wheel(file) is not None]
            if not fitting and pure:
                fitting = [
                    file
                    for file in sdists.get(version, [])
                    if self.target.accepts_python(file.requires_python)
                ]
            if fitting and not all(file.yanked for file in fitting):
                fitting_versions[version] = fitting[0].version
        return fitting_versions

    def _find_metadata(self, name: str, version: str) -> PackageMetadata | None:
        listed = [file for file in self.index.list_files(name) if is_same_version(file.version, version)]
        best = choose_file(listed, version, (), self.target)
        # A wheel for another platform says the same in nearly all packages, and is better than a build.
        candidates = sorted(listed, key=is_sdist)
        for file in [best, *candidates] if best and not is_sdist(best) else candidates:
            raw = self.index.read_metadata(file)
            if raw is None and is_sdist(file):
                raw = self._build_metadata(file)
            if raw is not None:
                return parse_metadata(raw, name, version)
        return None

    def _build_metadata(self, file: IndexFile) -> bytes:
        """Return the metadata that an sdist's build hooks make; kept in the cache by content."""
        cached_file = (
            self.build_context.cache
            / "freeze"
            / "metadata"
            / f"{file.sha256 or file.filename}.{self.build_context.image.python_minor}"
        )
        if file.sha256 and cached_file.is_file():
            return cached_file.read_bytes()
        with tempfile.TemporaryDirectory(prefix="offline-kit-") as scratch:
            sdist = Path(scratch) / file.filename
            http.download_file(file.url, sdist, settings=self.build_context.settings, sha256=file.sha256)
            wheel = build_wheel(sdist, Path(scratch), self.build_context, f"{file.project} {file.version}")
            raw = _read_metadata_bytes(wheel)
        if file.sha256:
            files.write_atomic(cached_file, raw)
        return raw


MetadataReader = Callable[[str, str], PackageMetadata | None]
"""The shape of a library: (name, version) to facts, None where nobody knows."""
