"""Stub wheels: metadata alone, for versions of the image that no index has."""

import zipfile
from collections.abc import Iterable
from pathlib import Path

from packaging.version import InvalidVersion, Version

from offline_kit.packages.freeze.metadata_store import MetadataReader, PackageMetadata
from offline_kit.project.images import Image

_DATE = (1980, 1, 2, 0, 0, 0)


def derive_stub_metadata(name: str, image: Image, read_metadata: MetadataReader) -> PackageMetadata:
    """Return what the image's version of a package most likely requires.

    Those are the requirements of the same public version on the index, without accelerator libraries:
    torch's build for CPUs asks for none, and beside a GPU they are the image's own business. None at all
    where the index does not know the version.
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
    """Return the image's packages whose version has a local part ("2.11.0+cpu"): public indexes lack those."""
    return tuple(sorted(name for name, version in image.packages.items() if "+" in version))


def write_stub_wheels(stubs: Iterable[PackageMetadata], folder: Path) -> Path:
    """Write one stub wheel each into `folder`, which find-links can name, and return the folder.

    Versions that are not valid (PEP 440) are left out: no resolver could take them.
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
