"""Lock files as preferences: uv.lock, pylock.toml, compiled requirements and `pip freeze` text."""

import tomllib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from offline_kit.core.errors import ProjectError
from offline_kit.packages.freeze import lock_formats
from offline_kit.packages.freeze.lock_formats import Locked


@dataclass(frozen=True, kw_only=True)
class LockPin:
    """A version that a lock file would like."""

    version: str
    """The version."""
    source: str
    """Name of the lock file."""


@dataclass(frozen=True, kw_only=True)
class Lock:
    """What a lock file says."""

    pins: Mapping[str, LockPin]
    """Liked versions by normalized name; packages that are not from an index are left out."""
    roots: tuple[str, ...]
    """What the locked project itself asks for; without such knowledge, all names of the file."""
    loose: frozenset[str] = frozenset()
    """Roots that are asked for only because a file names everything that was installed."""
    directs: tuple[str, ...] = ()
    """Repositories and addresses among the roots."""
    unread: Mapping[str, str] = field(default_factory=dict)
    """Lines of `pip freeze` that name no version of an index, by normalized name, with their file."""

    def without(self, excluded: Collection[str]) -> "Lock":
        """Return the same lock without these packages."""
        return Lock(
            pins={name: pin for name, pin in self.pins.items() if name not in excluded},
            roots=tuple(
                line for line in self.roots if canonicalize_name(Requirement(line).name) not in excluded
            ),
            loose=self.loose - set(excluded),
            directs=self.directs,
            unread={name: source for name, source in self.unread.items() if name not in excluded},
        )


def is_lock(path: Path) -> bool:
    """Whether a file lists locked versions, so that it is not read as requirements: by its name, else by its lines."""
    if path.name == "uv.lock" or (path.name.startswith("pylock.") and path.suffix == ".toml"):
        return True
    if path.name in lock_formats.NAMES or lock_formats.is_conda(path):
        return True
    try:
        return path.suffix in (".txt", "") and lock_formats.is_freeze_file(path.read_bytes())
    except (OSError, UnicodeDecodeError):
        return False


def read(paths: Iterable[Path], environment: Mapping[str, str]) -> Lock:
    """Read lock files; the first that names a package wins. Raises one ProjectError with all bad lines.

    `environment` are the image's marker values: pins for other Pythons are left out.
    """
    pins: dict[str, LockPin] = {}
    roots: list[str] = []
    loose: set[str] = set()
    directs: list[str] = []
    problems: list[str] = []
    unread: dict[str, str] = {}
    for path in paths:
        try:
            found = _read_one(path, environment)
        except (OSError, ValueError) as error:
            problems.append(f"cannot read '{path.name}': {error}")
            continue
        problems += [f"{path.name}:{line}" for line in found.problems]
        for name, version in found.pins.items():
            pins.setdefault(name, LockPin(version=version, source=path.name))
        roots += found.roots
        directs += found.directs
        unread |= dict.fromkeys(found.unread, path.name)
        if found.everything:
            loose |= {str(canonicalize_name(Requirement(line).name)) for line in found.roots}
    if problems:
        raise ProjectError(
            "a lock file cannot be read" if len(problems) == 1 else f"{len(problems)} problems in lock files",
            hint="correct the lines named above, or make the lock file again with the tool that wrote it",
            details=problems,
        )
    return Lock(
        pins=pins,
        roots=tuple(dict.fromkeys(roots)),
        loose=frozenset(loose),
        directs=tuple(dict.fromkeys(directs)),
        unread=unread,
    )


def _read_one(path: Path, environment: Mapping[str, str]) -> Locked:
    text = lock_formats.decoded(path.read_bytes())
    if path.name == "uv.lock":
        pins, roots = _uv_lock(tomllib.loads(text), environment)
        return Locked(pins=pins, roots=roots)
    if path.suffix == ".toml":
        problems: list[str] = []
        pins, roots = _pylock(tomllib.loads(text), environment, path.name, problems)
        return Locked(pins=pins, roots=roots, problems=problems)
    return lock_formats.read(path, text, environment)


def _uv_lock(data: dict[str, Any], environment: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    pins: dict[str, str] = {}
    roots: list[str] = []
    for package in data.get("package", []):
        source = package.get("source", {})
        if source.keys() & {"virtual", "editable", "directory"}:
            if "." in source.values():
                roots += _uv_roots(package)
        elif "registry" in source and _holds(package.get("resolution-markers"), environment):
            pins[canonicalize_name(package["name"])] = str(package.get("version", ""))
    return {name: version for name, version in pins.items() if version}, roots or list(pins)


def _uv_roots(package: Mapping[str, Any]) -> list[str]:
    """Return what the locked project asks for; the versions stand in its metadata alone."""
    asked = [one for one in package.get("metadata", {}).get("requires-dist", []) if not _of_extra(one)]
    return [_uv_root(entry) for entry in asked or package.get("dependencies", [])]


def _of_extra(entry: Mapping[str, Any]) -> bool:
    return "extra ==" in entry.get("marker", "")


def _uv_root(entry: Mapping[str, Any]) -> str:
    # The lock calls them "extra" among its packages and "extras" in the project's metadata.
    names = entry.get("extras") or entry.get("extra") or ()
    extras = f"[{','.join(names)}]" if names else ""
    marker = f"; {entry['marker']}" if entry.get("marker") else ""
    return f"{entry['name']}{extras}{entry.get('specifier', '')}{marker}"


def _holds(markers: list[str] | None, environment: Mapping[str, str]) -> bool:
    from packaging.markers import Marker

    # One that holds suffices: the markers of a fork are alternatives.
    return not markers or any(Marker(one).evaluate({**environment, "extra": ""}) for one in markers)


def _pylock(
    data: dict[str, Any], environment: Mapping[str, str], name: str, problems: list[str]
) -> tuple[dict[str, str], list[str]]:
    from packaging.pylock import Pylock, PylockValidationError

    try:
        lock = Pylock.from_dict(data)
    except PylockValidationError as error:
        problems.append(f"{name}: {error}")
        return {}, []
    pins: dict[str, str] = {}
    for package in lock.packages:
        holds = package.marker is None or package.marker.evaluate(
            {**environment, "extras": frozenset(), "dependency_groups": frozenset()}, context="lock_file"
        )
        if package.version is not None and holds:
            pins[canonicalize_name(package.name)] = str(package.version)
    return pins, list(pins)
