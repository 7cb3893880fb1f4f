"""Sdists whose builds ask for things, made for tests without any real build backend."""

from collections.abc import Mapping, Sequence
from importlib.metadata import distribution
from pathlib import Path

from tests.support.local_index import make_sdist, make_wheel

BACKEND = """
import os, pathlib, sys, zipfile

def get_requires_for_build_wheel(settings=None):
    return {asks!r}

def build_wheel(out, settings=None, metadata=None):
    {body}
    name = "{module}-{version}-{tag}.whl"
    info = "{module}-{version}.dist-info"
    with zipfile.ZipFile(os.path.join(out, name), "w") as archive:
        archive.writestr("{module}/__init__.py", pathlib.Path("{module}/__init__.py").read_text())
        archive.writestr("{module}/made_by.txt", "python%d.%d" % sys.version_info[:2])
        archive.writestr(info + "/METADATA", "Metadata-Version: 2.1\\nName: {module}\\nVersion: {version}\\n")
        archive.writestr(info + "/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: {tag}\\n")
        archive.writestr(info + "/RECORD", "")
    return name
"""


def own_backend(
    folder: Path,
    name: str,
    version: str = "1.0",
    *,
    requires: Sequence[str] = (),
    asks: Sequence[str] = (),
    body: str = "pass",
    tag: str = "py3-none-any",
    built_version: str = "",
    files: Mapping[str, str | bytes] | None = None,
    as_zip: bool = False,
) -> Path:
    """Write an sdist that builds itself; `requires` stand in its pyproject.toml, `asks` come from its hook."""
    module = name.replace("-", "_")
    backend = BACKEND.format(
        asks=list(asks), body=body, module=module, version=built_version or version, tag=tag
    )
    listed = ", ".join(f'"{one}"' for one in requires)
    system = f'[build-system]\nrequires = [{listed}]\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    content = {"pyproject.toml": system, "backend.py": backend, **(files or {})}
    return make_sdist(folder, name, version, files=content, as_zip=as_zip)


def wheel_of_installed(folder: Path, name: str) -> Path:
    """Pack an installed pure distribution into a wheel again: a real backend without a network."""
    found = distribution(name)
    files = {}
    for path in found.files or ():
        place = Path(str(found.locate_file(path)))
        if ".." not in path.parts and place.is_file() and "__pycache__" not in path.parts:
            files[str(path)] = place.read_bytes()
    kept = {
        path: data
        for path, data in files.items()
        # vendored metadata would be taken for its own
        if ".dist-info/" not in path or path.endswith(f"{found.version}.dist-info/entry_points.txt")
    }
    return make_wheel(folder, name, found.version, files=kept, requires=found.requires or ())
