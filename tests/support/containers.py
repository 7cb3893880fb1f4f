"""An image for a container engine, made of this machine's Python and packages: no registry is asked."""

import functools
import hashlib
import importlib.metadata
import io
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from packaging.requirements import Requirement

PROGRAMS = ("sh", "bash", "cat", "env", "grep", "id", "ls", "sleep", "uname")
PACKAGES = ("papermill", "ipykernel", "pandas", "pip", "setuptools", "uv")
_UNUSED = re.compile(
    r"(^|/)(__pycache__|test|tests|idlelib|tkinter|lib2to3|ensurepip|site-packages|config-3[^/]*)(/|$)|\.(a|c|h|pyi|pyx)$"
)


@functools.cache
def make_image(*packages: str) -> str:
    """Import an image with a few programs, this Python and these packages; return its name, or "" if no engine works."""
    chosen = {dist.name: dist for dist in _with_requirements((*PACKAGES, *packages))}
    identity = (sys.version, PROGRAMS, sorted((dist.name, dist.version) for dist in chosen.values()))
    name = f"localhost/offline-kit-test:{hashlib.sha256(repr(identity).encode()).hexdigest()[:12]}"
    for engine in ("podman", "docker"):
        if not shutil.which(engine) or subprocess.run([engine, "info"], capture_output=True).returncode:
            continue
        if subprocess.run([engine, "image", "inspect", name], capture_output=True).returncode == 0:
            return name
        path = f"{sys.base_prefix}/bin:/usr/bin:/bin"
        with tempfile.NamedTemporaryFile(suffix=".tar") as file:
            with tarfile.open(fileobj=file, mode="w") as root:
                _fill_root(root, chosen.values())
            file.flush()
            changes = ("--change", f"ENV PATH={path}", "--change", "ENV OF_IMAGE=yes")
            subprocess.run(
                [engine, "import", *changes, file.name, name], check=True, stdout=subprocess.DEVNULL
            )
        return name
    return ""


def _fill_root(root: tarfile.TarFile, dists: Iterable[importlib.metadata.Distribution]) -> None:
    base = Path(sys.base_prefix)
    for folder in ("tmp", "proc", "sys", "dev", "etc"):
        root.addfile(_entry(folder, tarfile.DIRTYPE, 0o1777))
    account = b"root:x:0:0:root:/root:/bin/sh\n"
    passwd = _entry("etc/passwd", tarfile.REGTYPE, 0o644)
    passwd.size = len(account)
    root.addfile(passwd, io.BytesIO(account))
    sources: dict[Path, str] = {Path(str(shutil.which(name))): f"usr/bin/{name}" for name in PROGRAMS}
    minor = f"python3.{sys.version_info.minor}"
    library = base / "lib" / minor
    for path in (base / "bin" / minor, *base.glob("lib/libpython*.so*"), *library.rglob("*")):
        if path.is_file() and not _UNUSED.search(str(path.relative_to(base))):
            sources[path] = str(path).lstrip("/")
    site = f"{str(library).lstrip('/')}/site-packages"
    for dist in dists:
        for file in dist.files or ():
            path = Path(str(dist.locate_file(file)))
            if path.is_file() and ".." not in file.parts and not _UNUSED.search(str(file)):
                sources[path] = f"{site}/{file}"
    uv = Path(sys.prefix, "bin", "uv")
    sources[uv] = "usr/bin/uv"
    linked = [path for path in sources if path.suffix == ".so" or path.name in (*PROGRAMS, minor, "uv")]
    for path in _find_libraries(linked):
        sources.setdefault(path, str(path).lstrip("/"))
    for path, name in sources.items():
        root.add(path.resolve(), name, recursive=False)
    scripts = f"{str(base).lstrip('/')}/bin"
    for link, target in (("bin", "usr/bin"), (f"{scripts}/python3", minor), (f"{scripts}/python", minor)):
        entry = _entry(link, tarfile.SYMTYPE, 0o777)
        entry.linkname = target
        root.addfile(entry)


def _entry(name: str, kind: bytes, mode: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode = kind, mode
    return entry


def _find_libraries(programs: Iterable[Path]) -> set[Path]:
    """Return the shared libraries of the system that these files load."""
    printed = subprocess.run(["ldd", *programs], capture_output=True, text=True).stdout
    paths = map(Path, re.findall(r"(?:=> |\n\t)(/\S+) \(0x", printed))
    return {path for path in paths if ".." not in path.parts}  # those are in wheels


def _with_requirements(names: Iterable[str]) -> Iterator[importlib.metadata.Distribution]:
    """Yield the installed distributions of these names, and those that they require."""
    pending, seen = list(names), set[str]()
    while pending:
        name = re.sub(r"[-_.]+", "-", pending.pop()).lower()
        if name in seen:
            continue
        seen.add(name)
        try:
            dist = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        yield dist
        for line in dist.requires or ():
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                pending.append(requirement.name)
