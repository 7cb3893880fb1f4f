"""Find out where a Python interpreter is installed, its version and its packages."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from offline_kit.core import processes
from offline_kit.core.errors import OfflineKitError, OutsideError
from offline_kit.core.sandboxes.box import SYSTEM, Mount

_ASK = """
import importlib.metadata, json, platform, re, sys
names = {}
for d in importlib.metadata.distributions():
    name = d.metadata["Name"] if d.metadata else None
    if name:
        names.setdefault(re.sub(r"[-_.]+", "-", name).lower(), d.version)
print(json.dumps({
    "version": platform.python_version(), "prefix": sys.prefix, "base": [sys.base_prefix, sys.base_exec_prefix],
    "packages": names,
}))
"""


@dataclass(frozen=True, kw_only=True)
class Interpreter:
    """A Python interpreter on this machine, and what a sandbox must mount for it."""

    path: Path
    version: str
    packages: Mapping[str, str]
    """Version by normalized name."""
    mounts: tuple[Mount, ...]
    """Folders that it needs, read-only and at their own paths."""
    links: Mapping[str, str]
    """Symbolic links that lead to it."""


def inspect_interpreter(path: Path) -> Interpreter:
    """Run an interpreter to read its prefix, version and packages; raise OutsideError if it does not run."""
    try:
        answer = processes.run_command(
            [path, "-c", _ASK], env=processes.copy_environment(PYTHONPATH=None, PYTHONHOME=None), timeout=60
        )
        facts = json.loads(answer.out.strip().splitlines()[-1])
    except (OfflineKitError, ValueError, IndexError) as error:
        raise OutsideError(
            f"the Python '{path}' does not run: {error}",
            hint=f"run '{path} --version' and reinstall it if that fails",
            code="python-not-usable",
        ) from error
    folders = [Path(facts["prefix"]), *(Path(folder) for folder in facts["base"])]
    mounts = {
        str(folder): Mount(inside=str(folder), source=folder.resolve())
        for folder in folders
        if _is_hidden(folder)
    }
    for folder in folders:
        real = folder.resolve()
        if _is_hidden(real):
            mounts.setdefault(str(real), Mount(inside=str(real), source=real))
    return Interpreter(
        path=path,
        version=facts["version"],
        packages=facts["packages"],
        mounts=_keep_outermost(mounts),
        links=_find_links(path, tuple(mounts)),
    )


def _is_hidden(folder: Path) -> bool:
    """Whether the sandbox does not already show this folder as part of the system."""
    return len(folder.parts) > 1 and folder.parts[1] not in SYSTEM and folder.is_dir()


def _keep_outermost(mounts: Mapping[str, Mount]) -> tuple[Mount, ...]:
    folders = [Path(inside) for inside in mounts]
    outermost = [
        p for p in folders if not any(p != parent and p.is_relative_to(parent) for parent in folders)
    ]
    return tuple(mounts[str(folder)] for folder in outermost)


def _find_links(path: Path, mounted: tuple[str, ...]) -> dict[str, str]:
    """Return the symbolic links from `path` to the real file that lie outside the mounted folders."""
    links: dict[str, str] = {}
    while path.is_symlink():
        target = path.readlink()
        inside = any(path.is_relative_to(folder) for folder in mounted) or not _is_hidden(path.parent)
        if not inside:
            links[str(path)] = str(target)
        path = path.parent / target
    return links
