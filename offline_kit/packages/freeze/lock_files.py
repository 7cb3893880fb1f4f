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
from offline_kit.packages.freeze.lock_formats import ParsedLock


@dataclass(frozen=True, kw_only=True)
class LockPin:
    """A version that a lock file would like."""

    version: str
    """The version."""
    source: str
    """Name of the lock file."""


@dataclass(frozen=True, kw_only=True)
class LockedPackages:
    """What a lock file says."""

    pins: Mapping[str, LockPin]
    """Liked versions by normalized name; packages that are not from an index are left out."""
    roots: tuple[str, ...]
    """What the locked project itself asks for; without such knowledge, all names of the file."""
    installed_only: frozenset[str] = frozenset()
    """Roots that are asked for only because a file names everything that was installed."""
    direct_references: tuple[str, ...] = ()
    """Repositories and addresses among the roots."""
    unpinned: Mapping[str, str] = field(default_factory=dict)
    """Lines of `pip freeze` that name no version of an index, by normalized name, with their file."""

    def drop_packages(self, excluded: Collection[str]) -> "LockedPackages":
        """Return the same lock without these packages."""
        return LockedPackages(
            pins={name: pin for name, pin in self.pins.items() if name not in excluded},
            roots=tuple(
                line for line in self.roots if canonicalize_name(Requirement(line).name) not in excluded
            ),
            installed_only=self.installed_only - set(excluded),
            direct_references=self.direct_references,
            unpinned={name: source for name, source in self.unpinned.items() if name not in excluded},
        )


def is_lock_file(path: Path) -> bool:
    """Whether a file lists locked versions, so that it is not read as requirements: by its name, else by its lines."""
    if path.name == "uv.lock" or (path.name.startswith("pylock.") and path.suffix == ".toml"):
        return True
    if path.name in lock_formats.LOCK_NAMES or lock_formats.is_conda_file(path):
        return True
    try:
        return path.suffix in (".txt", "") and lock_formats.is_listing_file(path.read_bytes())
    except (OSError, UnicodeDecodeError):
        return False


def read_lock_files(paths: Iterable[Path], environment: Mapping[str, str]) -> LockedPackages:
    """Read lock files; the first that names a package wins. Raises one ProjectError with all bad lines.

    `environment` are the image's marker values: pins for other Pythons are left out.
    """
    pins: dict[str, LockPin] = {}
    roots: list[str] = []
    installed_only: set[str] = set()
    direct_references: list[str] = []
    problems: list[str] = []
    unpinned: dict[str, str] = {}
    for path in paths:
        try:
            lock = _read_lock_file(path, environment)
        except (OSError, ValueError) as error:
            problems.append(f"cannot read '{path.name}': {error}")
            continue
        problems += [f"{path.name}:{line}" for line in lock.problems]
        for name, version in lock.pins.items():
            pins.setdefault(name, LockPin(version=version, source=path.name))
        roots += lock.roots
        direct_references += lock.direct_references
        unpinned |= dict.fromkeys(lock.unpinned, path.name)
        if lock.lists_environment:
            installed_only |= {str(canonicalize_name(Requirement(line).name)) for line in lock.roots}
    if problems:
        raise ProjectError(
            "a lock file cannot be read" if len(problems) == 1 else f"{len(problems)} problems in lock files",
            hint="correct the lines named above, or make the lock file again with the tool that wrote it",
            details=problems,
        )
    return LockedPackages(
        pins=pins,
        roots=tuple(dict.fromkeys(roots)),
        installed_only=frozenset(installed_only),
        direct_references=tuple(dict.fromkeys(direct_references)),
        unpinned=unpinned,
    )


def _read_lock_file(path: Path, environment: Mapping[str, str]) -> ParsedLock:
    text = lock_formats.decode_text(path.read_bytes())
    if path.name == "uv.lock":
        pins, roots = _parse_uv_lock(tomllib.loads(text), environment)
        return ParsedLock(pins=pins, roots=roots)
    if path.suffix == ".toml":
        problems: list[str] = []
        pins, roots = _parse_pylock(tomllib.loads(text), environment, path.name, problems)
        return ParsedLock(pins=pins, roots=roots, problems=problems)
    return lock_formats.parse_lock(path, text, environment)


def _parse_uv_lock(data: dict[str, Any], environment: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    pins: dict[str, str] = {}
    roots: list[str] = []
    for package in data.get("package", []):
        source = package.get("source", {})
        if source.keys() & {"virtual", "editable", "directory"}:
            if "." in source.values():
                roots += _find_uv_roots(package)
        elif "registry" in source and _any_marker_holds(package.get("resolution-markers"), environment):
            pins[canonicalize_name(package["name"])] = str(package.get("version", ""))
    return {name: version for name, version in pins.items() if version}, roots or list(pins)


def _find_uv_roots(package: Mapping[str, Any]) -> list[str]:
    """Return what the locked project asks for; the versions stand in its metadata alone."""
    entries = [
        entry for entry in package.get("metadata", {}).get("requires-dist", []) if not _is_extra_entry(entry)
    ]
    return [_format_uv_root(entry) for entry in entries or package.get("dependencies", [])]


def _is_extra_entry(entry: Mapping[str, Any]) -> bool:
    return "extra ==" in entry.get("marker", "")


def _format_uv_root(entry: Mapping[str, Any]) -> str:
    # The lock calls them "extra" among its packages and "extras" in the project's metadata.
    names = entry.get("extras") or entry.get("extra") or ()
    extras = f"[{','.join(names)}]" if names else ""
    marker = f"; {entry['marker']}" if entry.get("marker") else ""
    return f"{entry['name']}{extras}{entry.get('specifier', '')}{marker}"


def _any_marker_holds(markers: list[str] | None, environment: Mapping[str, str]) -> bool:
    from packaging.markers import Marker

    # One that holds suffices: the markers of a fork are alternatives.
    return not markers or any(Marker(marker).evaluate({**environment, "extra": ""}) for marker in markers)


def _parse_pylock(
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
