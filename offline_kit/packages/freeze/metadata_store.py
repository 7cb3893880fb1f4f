"""Requirements and extras of packages: read from the index, a wheel, or a build, each once."""

import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from offline_kit.core import files, http
from offline_kit.core.cache import cache_key
from offline_kit.core.errors import OfflineKitError
from offline_kit.core.report import SILENT, Reporter
from offline_kit.packages import distribution_metadata
from offline_kit.packages.file_choice import ImageTarget, choose_file, is_same_version, is_sdist
from offline_kit.packages.freeze.direct_references import ReferenceContext, build_wheel
from offline_kit.packages.index import IndexFile, PackageIndex


@dataclass(frozen=True, kw_only=True)
class PackageMetadata:
    """The requirements and extras of one version."""

    name: str
    version: str
    """As it was requested."""
    requires: tuple[Requirement, ...] = ()
    extras: frozenset[str] = frozenset()
    invalid_requires: tuple[str, ...] = ()
    """Requires-Dist lines that pip 24.1 and later refuse."""


def parse_metadata(raw: bytes, name: str, version: str) -> PackageMetadata:
    """Read the bytes of a METADATA or PKG-INFO file."""
    valid, invalid = [], []
    for line in distribution_metadata.list_metadata_values(raw, "Requires-Dist"):
        try:
            valid.append(Requirement(line))
        except InvalidRequirement:
            invalid.append(line)
    extras = frozenset(
        map(canonicalize_name, distribution_metadata.list_metadata_values(raw, "Provides-Extra"))
    )
    return PackageMetadata(
        name=name, version=version, requires=tuple(valid), extras=extras, invalid_requires=tuple(invalid)
    )


def read_wheel_metadata(path: Path, name: str, version: str) -> PackageMetadata:
    """Read the metadata of a wheel. Raises ProjectError for a file that is no wheel."""
    return parse_metadata(distribution_metadata.read_metadata(path, path.name) or b"", name, version)


class MetadataStore:
    """Metadata by name and version, read once each; safe for threads."""

    def __init__(self, index: PackageIndex, build_context: ReferenceContext) -> None:
        self.index = index
        self.build_context = build_context
        """For sdists whose metadata only a build can tell."""
        self.target = ImageTarget(build_context.image)
        self._added: dict[str, PackageMetadata] = {}
        self._found_metadata: dict[tuple[str, str], PackageMetadata | None] = {}
        self._fitting_versions: dict[str, tuple[str, ...]] = {}
        self._lock = Lock()

    def add_metadata(self, metadata: Mapping[str, PackageMetadata]) -> None:
        """Add metadata that no index has: of stubs, and of wheels of direct references."""
        self._added |= metadata

    def __call__(self, name: str, version: str) -> PackageMetadata | None:
        """Return the metadata of this version, None if no index has a file of it."""
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
        """Return the requirements of the image's packages that have a wheel on the index.

        The first call asks the index for every package of the image; later ones read the cache.
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
        """Whether an index has a file of this version for the image."""
        return choose_file(self.index.list_files(name), version, (), self.target) is not None

    def find_fitting_versions(self, name: str) -> tuple[str, ...]:
        """Return the versions with a wheel for the image, or an sdist of pure Python; newest first."""
        if name not in self._fitting_versions:
            versions = self._select_fitting_files(name)
            fitting = tuple(versions[version] for version in sorted(versions, reverse=True))
            with self._lock:
                self._fitting_versions[name] = fitting
        return self._fitting_versions[name]

    def needs_compiler(self, name: str, version: str) -> bool:
        """Whether a version has no file for the image but an sdist of compiled code.

        An sdist counts as compiled code if its version has platform wheels; without any wheel, if the next newer
        version with wheels has.
        """
        file = choose_file(self.index.list_files(name), version, (), self.target)
        return (
            file is not None
            and is_sdist(file)
            and not any(is_same_version(fitting, version) for fitting in self.find_fitting_versions(name))
        )

    def find_nearest_version(self, name: str, version: str) -> str:
        """Return the version itself if it fits, else the next newer that does, else the newest; "" if none fits."""
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
        # Nearly all packages have the same metadata in the wheels of every platform, which saves a build.
        candidates = sorted(listed, key=is_sdist)
        for file in [best, *candidates] if best and not is_sdist(best) else candidates:
            raw = self.index.read_metadata(file)
            if raw is None and is_sdist(file):
                raw = self._build_metadata(file)
            if raw is not None:
                return parse_metadata(raw, name, version)
        return None

    def _build_metadata(self, file: IndexFile) -> bytes:
        """Build an sdist for its metadata; the result is cached by the file's hash."""
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
            raw = distribution_metadata.read_metadata(wheel, wheel.name) or b""
        if file.sha256:
            files.write_atomic(cached_file, raw)
        return raw


MetadataReader = Callable[[str, str], PackageMetadata | None]
"""Returns the metadata of a name and version, None if it is unknown."""
