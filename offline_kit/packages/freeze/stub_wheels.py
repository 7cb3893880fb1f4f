"""Stub wheels: wheels with metadata only, for versions of the image that no index has."""

import zipfile
from collections.abc import Iterable
from pathlib import Path

from packaging.version import InvalidVersion, Version

from offline_kit.packages.freeze.metadata_store import MetadataReader, PackageMetadata
from offline_kit.project.images import Image

_DATE = (1980, 1, 2, 0, 0, 0)


def derive_stub_metadata(name: str, image: Image, read_metadata: MetadataReader) -> PackageMetadata:
    """Return the likely metadata of the image's version of a package.

    It has the requirements of the same public version on the index, without accelerator libraries: torch's CPU
    build has none, and a GPU image has its own. Without that version on the index, it has no requirements.
    """
    version = image.packages[name]
    indexed = read_metadata(name, version.partition("+")[0])
    if indexed is None:
        return PackageMetadata(name=name, version=version)
    requires = tuple(
        requirement for requirement in indexed.requires if not image.is_accelerator(requirement.name)
    )
    return PackageMetadata(name=name, version=version, requires=requires, extras=indexed.extras)


def list_local_versions(image: Image) -> tuple[str, ...]:
    """Return the image's packages whose version has a local part, like "2.11.0+cpu"."""
    # Public indexes have no local versions:
    # https://packaging.python.org/en/latest/specifications/version-specifiers/#local-version-identifiers
    return tuple(sorted(name for name, version in image.packages.items() if "+" in version))


def write_stub_wheels(stubs: Iterable[PackageMetadata], folder: Path) -> Path:
    """Write stub wheels into a folder for --find-links, and return the folder.

    Versions that PEP 440 does not allow are left out, because no resolver accepts them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for stub in stubs:
        try:
            version = str(Version(stub.version))
        except InvalidVersion:
            continue
        stem = f"{stub.name.replace('-', '_')}-{version}"
        members = {
            "METADATA": _render_metadata(stub, version),
            "WHEEL": "Wheel-Version: 1.0\nGenerator: offline-kit\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        }
        with zipfile.ZipFile(folder / f"{stem}-py3-none-any.whl", "w") as archive:
            for name, text in members.items():
                archive.writestr(zipfile.ZipInfo(f"{stem}.dist-info/{name}", _DATE), text)
            listing = "".join(f"{stem}.dist-info/{name},,\n" for name in (*members, "RECORD"))
            archive.writestr(zipfile.ZipInfo(f"{stem}.dist-info/RECORD", _DATE), listing)
    return folder


def _render_metadata(stub: PackageMetadata, version: str) -> str:
    lines = ["Metadata-Version: 2.1", f"Name: {stub.name}", f"Version: {version}"]
    lines += [f"Provides-Extra: {extra}" for extra in sorted(stub.extras)]
    lines += [f"Requires-Dist: {requirement}" for requirement in stub.requires]
    return "\n".join(lines) + "\n\n"
