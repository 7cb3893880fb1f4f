"""Requirements and extras of packages: read from the index, a wheel, or a build, each once."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from offline_kit.core import files
from offline_kit.core.cache import cache_key
from offline_kit.core.errors import OfflineKitError
from offline_kit.core.report import SILENT, Reporter
from offline_kit.core.thread_pool import cancelling_pool
from offline_kit.packages import distribution_metadata
from offline_kit.packages.builds.build_environment import unpack_sdist
from offline_kit.packages.builds.sdist_builds import BuildSources
from offline_kit.packages.file_choice import choose_file, is_same_version, is_sdist, rank_wheel
from offline_kit.packages.freeze.direct_references import build_wheel
from offline_kit.packages.index import IndexFile


@dataclass(frozen=True, kw_only=True)
class PackageMetadata:
    """The requirements and extras of one version."""

    name: str
    version: str  # as it was requested
    requires: tuple[Requirement, ...] = ()
    extras: frozenset[str] = frozenset()
    invalid_requires: tuple[str, ...] = ()  # Requires-Dist lines that pip 24.1 and later refuse


def parse_metadata(raw: bytes, name: str, version: str) -> PackageMetadata:
    """Read the bytes of a METADATA or PKG-INFO file."""
    valid, invalid = [], []
    for line in distribution_metadata.list_metadata_values(raw, "Requires-Dist"):
        try:
            valid.append(Requirement(line))
        except InvalidRequirement:
            invalid.append(line)
    extras = map(canonicalize_name, distribution_metadata.list_metadata_values(raw, "Provides-Extra"))
    return PackageMetadata(
        name=name,
        version=version,
        requires=tuple(valid),
        extras=frozenset(extras),
        invalid_requires=tuple(invalid),
    )


class MetadataStore:
    """Metadata by name and version, read once each; safe for threads."""

    def __init__(self, sources: BuildSources) -> None:
        self.sources = sources  # for sdists whose metadata only a build can tell
        self.index, self.image = sources.index, sources.image
        self._added: dict[str, PackageMetadata] = {}  # no index has these
        self._found_metadata: dict[tuple[str, str], PackageMetadata | None] = {}
        self._fitting_versions: dict[str, tuple[str, ...]] = {}

    def add_wheel(self, path: Path, name: str, version: str) -> None:
        """Add the metadata of a direct reference's wheel. Raises ProjectError for a file that is no wheel."""
        raw = distribution_metadata.read_metadata(path, path.name) or b""
        self._added[name] = parse_metadata(raw, name, version)

    def __call__(self, name: str, version: str) -> PackageMetadata | None:
        """Return the metadata of this version, None if no index has a file of it."""
        added = self._added.get(name)
        if added and is_same_version(added.version, version):
            return added
        if (name, version) not in self._found_metadata:
            self._found_metadata[name, version] = self._find_metadata(name, version)
        return self._found_metadata[name, version]

    def _find_metadata(self, name: str, version: str) -> PackageMetadata | None:
        listed = [file for file in self.index.list_files(name) if is_same_version(file.version, version)]
        best = choose_file(listed, version, (), self.image)
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
        cached_name = f"{file.sha256 or file.filename}.{self.image.python_minor}"
        cached_file = self.index.cache.root / "freeze" / "metadata" / cached_name
        if file.sha256 and cached_file.is_file():
            return cached_file.read_bytes()
        sdist = self.index.fetch_file(file)
        wheel = build_wheel(
            lambda folder: unpack_sdist(sdist, folder, filename=file.filename),
            self.sources,
            f"{file.project} {file.version}",
        )
        raw = distribution_metadata.read_metadata(wheel.path, wheel.filename) or b""
        if file.sha256:
            files.write_atomic(cached_file, raw)
        return raw

    def write_stub(self, name: str, folder: Path) -> IndexFile:
        """Write a stub wheel, which is metadata only, of the image's version of a package.

        It has the requirements of the same public version on the index, without accelerator libraries: torch's CPU
        build has none, and a GPU image has its own. Without that version on the index, it has none.
        """
        from wheel.wheelfile import WheelFile

        image = self.image
        version = str(Version(image.packages[name]))
        package = self(name, version.partition("+")[0]) or PackageMetadata(name=name, version=version)
        requires = [line for line in package.requires if not image.is_accelerator(line.name)]
        self._added[name] = replace(package, version=version, requires=tuple(requires))
        stem = f"{name.replace('-', '_')}-{version}"
        lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
        lines += [f"Provides-Extra: {extra}" for extra in sorted(package.extras)]
        lines += [f"Requires-Dist: {requirement}" for requirement in requires]
        facts = "Wheel-Version: 1.0\nGenerator: offline-kit\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        path = folder / f"{stem}-py3-none-any.whl"
        with WheelFile(path, "w") as wheel:  # it writes RECORD
            wheel.writestr(f"{stem}.dist-info/METADATA", "\n".join(lines) + "\n\n")
            wheel.writestr(f"{stem}.dist-info/WHEEL", facts)
        return IndexFile(project=name, version=version, filename=path.name, url=path.as_uri())

    def read_image_requirements(self, report: Reporter = SILENT) -> Mapping[str, tuple[Requirement, ...]]:
        """Return the requirements of the image's packages that have a wheel on the index.

        The first call asks the index for every package of the image; later ones read the cache.
        """
        image = self.image
        key = cache_key("image", *sorted(f"{name}=={version}" for name, version in image.packages.items()))
        requirement_lines = self.index.cache.read_record("image-requires", key)
        if requirement_lines is None:
            requirement_lines = {}
            title, count = "Reading the image's packages", len(image.packages)
            with cancelling_pool(16) as pool, report.progress(title, count, unit="packages") as advance:
                for package in pool.map(
                    self._read_indexed_wheel, *zip(*sorted(image.packages.items()), strict=True)
                ):
                    advance(1)
                    if package:
                        requirement_lines[package.name] = [str(line) for line in package.requires]
            self.index.cache.write_record("image-requires", key, requirement_lines)
        return {
            name: tuple(Requirement(line) for line in lines)
            for name, lines in requirement_lines.items()
            if isinstance(lines, list)
        }

    def _read_indexed_wheel(self, name: str, version: str) -> PackageMetadata | None:
        public_version = version.partition("+")[0]
        with suppress(OfflineKitError):
            for file in self.index.list_files(name):
                if file.filename.endswith(".whl") and is_same_version(file.version, public_version):
                    raw = self.index.read_metadata(file)
                    return parse_metadata(raw, name, version) if raw is not None else None
        return None

    def find_fitting_versions(self, name: str) -> tuple[str, ...]:
        """Return the versions with a wheel for the image, or an sdist of pure Python; newest first.

        An sdist counts as compiled code if its version has platform wheels; without any wheel, if the next newer
        version with wheels has.
        """
        if name in self._fitting_versions:
            return self._fitting_versions[name]
        wheels: dict[Version, list[IndexFile]] = {}
        sdists: dict[Version, list[IndexFile]] = {}
        for file in self.index.list_files(name):
            same_kind = wheels if file.filename.endswith(".whl") else sdists if is_sdist(file) else {}
            with suppress(InvalidVersion):
                same_kind.setdefault(Version(file.version), []).append(file)
        fitting_versions = []
        pure = True
        for version in sorted(wheels.keys() | sdists.keys(), reverse=True):
            built = wheels.get(version, [])
            if built:
                pure = all(file.filename.endswith("-any.whl") for file in built)
            fitting = [file for file in built if rank_wheel(file, self.image) is not None]
            if not fitting and pure:
                sources = sdists.get(version, [])
                fitting = [file for file in sources if self.image.accepts_python(file.requires_python)]
            if not all(file.yanked for file in fitting):
                fitting_versions.append(fitting[0].version)
        self._fitting_versions[name] = tuple(fitting_versions)
        return self._fitting_versions[name]

    def needs_compiler(self, name: str, version: str) -> bool:
        """Whether a version has no file for the image but an sdist of compiled code."""
        file = choose_file(self.index.list_files(name), version, (), self.image)
        return (
            file is not None
            and is_sdist(file)
            and not any(is_same_version(fitting, version) for fitting in self.find_fitting_versions(name))
        )
