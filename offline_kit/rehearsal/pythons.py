"""A Python as the sandbox must show it: where it lies, what it is, what is installed in it."""

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
class Python:
    """An interpreter of this machine."""

    path: Path
    """How it is started."""
    version: str
    """Full version."""
    packages: Mapping[str, str]
    """What is installed: normalized name to version."""
    mounts: tuple[Mount, ...]
    """Folders that it needs, read-only at their own paths."""
    links: Mapping[str, str]
    """Symbolic links that lead to it."""


def look(path: Path) -> Python:
    """Ask an interpreter where it lies and what it has; OutsideError where it does not answer."""
    try:
        done = processes.run_command(
            [path, "-c", _ASK], env=processes.copy_environment(PYTHONPATH=None, PYTHONHOME=None), timeout=60
        )
        said = json.loads(done.out.strip().splitlines()[-1])
    except (OfflineKitError, ValueError, IndexError) as error:
        raise OutsideError(
            f"the Python '{path}' does not answer: {error}", hint="check that it runs"
        ) from error
    places = [Path(said["prefix"]), *(Path(place) for place in said["base"])]
    mounts = {
        str(place): Mount(inside=str(place), source=place.resolve()) for place in places if _hidden(place)
    }
    for place in places:
        real = place.resolve()
        if _hidden(real):
            mounts.setdefault(str(real), Mount(inside=str(real), source=real))
    return Python(
        path=path,
        version=said["version"],
        packages=said["packages"],
        mounts=_outermost(mounts),
        links=_links(path, tuple(mounts)),
    )


def _hidden(place: Path) -> bool:
    """Whether the sandbox does not show this folder anyway as part of the system."""
    return len(place.parts) > 1 and place.parts[1] not in SYSTEM and place.is_dir()


def _outermost(mounts: Mapping[str, Mount]) -> tuple[Mount, ...]:
    places = [Path(inside) for inside in mounts]
    kept = [p for p in places if not any(p != other and p.is_relative_to(other) for other in places)]
    return tuple(mounts[str(place)] for place in kept)


def _links(path: Path, shown: tuple[str, ...]) -> dict[str, str]:
    """Return the links between the started path and the real file that lie outside of what is shown."""
    found: dict[str, str] = {}
    while path.is_symlink():
        target = path.readlink()
        inside = any(path.is_relative_to(place) for place in shown) or not _hidden(path.parent)
        if not inside:
            found[str(path)] = str(target)
        path = path.parent / target
    return found
