"""Small kits made by hand, as the bundle lays them out, for the tests of what runs in the notebook."""

import base64
import gzip
import hashlib
import io
import json
import tarfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from offline_kit.core.resources import runtime_files
from offline_kit.notebook.runtime import kit_capture


def wheel(
    name: str, version: str = "1.0", *, files: Mapping[str, str] | None = None, tag: str = "py3-none-any"
) -> tuple[str, bytes]:
    """Return file name and bytes of a wheel that holds `files` (default: one module of that name)."""
    info = f"{name}-{version}.dist-info"
    content = {
        **(files if files is not None else {f"{name}.py": f"VERSION = {version!r}\n"}),
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: {tag}\n",
    }
    rows = []
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path, text in content.items():
            archive.writestr(zipfile.ZipInfo(path), text)  # no date: equal content gives equal bytes
            digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
            rows.append(f"{path},sha256={digest},{len(text.encode())}")
        archive.writestr(zipfile.ZipInfo(f"{info}/RECORD"), "\n".join([*rows, f"{info}/RECORD,,", ""]))
    return f"{name}-{version}-{tag}.whl", buffer.getvalue()


BACKEND = """
import os, zipfile

def get_requires_for_build_wheel(config_settings=None):
    return ["extrahook"]

def build_wheel(folder, config_settings=None, metadata_directory=None):
    import extrahook  # asked for by the hook alone
    name = "fromsource-2.0-py3-none-any.whl"
    info = "fromsource-2.0.dist-info"
    with zipfile.ZipFile(os.path.join(folder, name), "w") as archive:
        archive.writestr("fromsource.py", open("fromsource.py").read())
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\\nName: fromsource\\nVersion: 2.0\\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        archive.writestr(f"{info}/RECORD", f"fromsource.py,,\\n{info}/METADATA,,\\n{info}/WHEEL,,\\n{info}/RECORD,,\\n")
    return name
"""
"""A build backend that needs a second wheel, which only its hook names."""


def sdist() -> tuple[str, bytes, dict[str, bytes]]:
    """Return an sdist, and the wheels that its offline build needs: a backend and what its hook asks for."""
    members = {
        "pyproject.toml": '[build-system]\nrequires = ["tinybackend"]\nbuild-backend = "tinybackend"\n',
        "PKG-INFO": "Metadata-Version: 2.1\nName: fromsource\nVersion: 2.0\n",
        "fromsource.py": "ORIGIN = 'sdist'\n",
    }
    buffer = io.BytesIO()
    zipped = gzip.GzipFile(fileobj=buffer, mode="wb", mtime=0)
    with zipped, tarfile.open(fileobj=zipped, mode="w") as archive:
        for path, text in members.items():
            info = tarfile.TarInfo(f"fromsource-2.0/{path}")
            info.size = len(text.encode())
            archive.addfile(info, io.BytesIO(text.encode()))
    closure = dict([wheel("tinybackend", files={"tinybackend.py": BACKEND}), wheel("extrahook")])
    return "fromsource-2.0.tar.gz", buffer.getvalue(), closure


@dataclass
class Workshop:
    """A kit in the making: files under original names, and the plan that installs them."""

    files: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    """Original path: role and bytes."""
    plan: dict[str, Any] = field(default_factory=lambda: {"format": 1, "image": "tests", "python": "3.11"})
    """The install plan."""
    has_runtime: bool = False
    """Whether the kit carries the notebook's runtime, as one that was built does."""

    def add(self, original: str, data: bytes, role: str = "wheel") -> None:
        """Add a file."""
        self.files[original] = (role, data)

    def install(self, name: str, version: str = "1.0", **more: Any) -> None:
        """Add a package to the plan."""
        plain = {
            "name": name,
            "version": version,
            "wheel": None,
            "sdist": None,
            "build": [],
            "imports": [name],
        }
        self.plan.setdefault("install", []).append({**plain, "role": "bundled", **more})

    def add_wheel(self, name: str, version: str = "1.0", *, tag: str = "py3-none-any", **more: Any) -> None:
        """Add a wheel and install it."""
        files = more.pop("files", None)
        filename, data = wheel(name, version, files=files, tag=tag)
        self.add(f"packages/{filename}", data)
        self.install(name, version, wheel=filename, **more)

    def add_sdist(self) -> None:
        """Add an sdist with its build closure and install it."""
        filename, data, closure = sdist()
        self.add(f"packages/{filename}", data, "sdist")
        for built, content in closure.items():
            self.add(f"packages/{built}", content, "build")
        self.install("fromsource", "2.0", sdist=filename, build=sorted(closure))

    def mount(self, folder: Path, part: str = "kit") -> str:
        """Write the part under stored names, as Kaggle would mount it, and return its id."""
        plan = {"install": [], "provided": [], "roots": [], **self.plan}
        self.add("packages/install.json", json.dumps(plan).encode(), "lock")
        if self.has_runtime:
            for name, source in runtime_files().items():
                self.add(f"offline_kit_runtime/{name}", source, "runtime")
        files = []
        for original, (role, data) in sorted(self.files.items()):
            path = folder / original.replace("+", "_").replace(".tar.gz", ".tar.gz.xyz").replace("=", "_")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            files.append((role, original, path))
        return kit_capture.write_manifest(folder, part, files)
