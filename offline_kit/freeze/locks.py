"""Lock files as preferences: uv.lock, pylock.toml, compiled requirements and `pip freeze` text."""

import tomllib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from offline_kit.errors import ProjectError
from offline_kit.freeze.lines import BadLineError, logical_lines, option, split_options


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
    unread: Mapping[str, str] = field(default_factory=dict)
    """Lines of `pip freeze` that name no version of an index, by normalized name, with their file."""

    def without(self, excluded: Collection[str]) -> "Lock":
        """Return the same lock without these packages."""
        return Lock(
            pins={name: pin for name, pin in self.pins.items() if name not in excluded},
            roots=tuple(
                line for line in self.roots if canonicalize_name(Requirement(line).name) not in excluded
            ),
            unread={name: source for name, source in self.unread.items() if name not in excluded},
        )


def is_lock(path: Path) -> bool:
    """Whether a file is a lock by its name, so that it is not read as requirements."""
    return path.name == "uv.lock" or (path.name.startswith("pylock.") and path.suffix == ".toml")


def read(paths: Iterable[Path], environment: Mapping[str, str]) -> Lock:
    """Read lock files; the first that names a package wins. Raises one ProjectError with all bad lines.

    `environment` are the image's marker values: pins for other Pythons are left out.
    """
    pins: dict[str, LockPin] = {}
    roots: list[str] = []
    problems: list[str] = []
    unread: dict[str, str] = {}
    for path in paths:
        try:
            found, asked = _read_one(path, environment, problems, unread)
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            problems.append(f"cannot read '{path.name}': {error}")
            continue
        for name, version in found.items():
            pins.setdefault(name, LockPin(version=version, source=path.name))
        roots += asked
    if problems:
        raise ProjectError(
            "a lock file cannot be read" if len(problems) == 1 else f"{len(problems)} problems in lock files",
            hint="make the lock file again with the tool that wrote it",
            details=problems,
        )
    return Lock(pins=pins, roots=tuple(dict.fromkeys(roots)), unread=unread)


def _read_one(
    path: Path, environment: Mapping[str, str], problems: list[str], unread: dict[str, str]
) -> tuple[dict[str, str], list[str]]:
    text = path.read_text(encoding="utf-8-sig")
    if path.name == "uv.lock":
        return _uv_lock(tomllib.loads(text), environment)
    if path.suffix == ".toml":
        return _pylock(tomllib.loads(text), environment, path.name, problems)
    return _pip_freeze(text, environment, path.name, problems, unread)


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


def _pip_freeze(
    text: str, environment: Mapping[str, str], name: str, problems: list[str], unread: dict[str, str]
) -> tuple[dict[str, str], list[str]]:
    pins: dict[str, str] = {}
    for number, line in logical_lines(text, {}):
        try:
            if (said := option(line)) is not None:
                egg = said[1].partition("#egg=")[2].partition("&")[0]
                unread |= {canonicalize_name(egg): name} if egg else {}
                continue
            wanted = Requirement(split_options(line)[0])
        except (BadLineError, InvalidRequirement) as error:
            problems.append(f"{name}:{number}: {str(error).splitlines()[0]}")
            continue
        version = exact(wanted)
        if version and (wanted.marker is None or wanted.marker.evaluate({**environment, "extra": ""})):
            pins[canonicalize_name(wanted.name)] = version
        elif wanted.url:
            unread[canonicalize_name(wanted.name)] = name
        elif not version:
            problems.append(f"{name}:{number}: '{line}' is no exact pin, so this is no lock file")
    return pins, list(pins)


def exact(wanted: Requirement) -> str:
    """Return the version of an exact pin ("==1.2" or "===1.2"), else an empty string."""
    for one in wanted.specifier:
        if one.operator in ("==", "===") and not one.version.endswith(".*"):
            try:
                return str(Version(one.version))
            except InvalidVersion:
                return ""
    return ""
