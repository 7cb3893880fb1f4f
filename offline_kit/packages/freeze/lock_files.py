"""Lock files as preferences: uv, pylock, poetry, PDM, Pipenv, rye, conda, and `pip freeze` of any system."""

import json
import re
import tomllib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from packaging.markers import InvalidMarker, Marker
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import InvalidVersion, Version

from offline_kit.core.errors import ProjectError
from offline_kit.packages.freeze.requirement_files import (
    InvalidLineError,
    decode_text,
    get_exact_version,
    iter_logical_lines,
    parse_option,
    split_options,
)

LOCK_NAMES = ("poetry.lock", "pdm.lock", "Pipfile.lock", "requirements.lock", "requirements-dev.lock")
"""Files that are locks by their name."""
MIN_FREEZE_PINS = 10
"""A sorted file with fewer exact pins may be a hand-written requirements file."""
_CONDA_NAME = re.compile(r"(conda|environment|env)[\w.-]*\.ya?ml$", re.IGNORECASE)
# Packages of conda keep the path of the machine that built them, and `pip freeze` shows it:
# https://github.com/conda/conda/issues/11580
_BUILT_ELSEWHERE = re.compile(
    r"@ file://(/[A-Za-z]:|\S*/(croots?|ci|ci_\w+|bld|feedstock_root|tmp/build|conda-bld|ktietz)/|\S*_\d{10,}\b)"
)
_CONDA_LINE = re.compile(r"^([A-Za-z0-9_.-]+)=([^=\s]+)=([^=\s]+)$")
_PIP_LIST = re.compile(r"^Package\s+Version\b.*\n-+\s+-+", re.MULTILINE)
_CONDA_SPEC = re.compile(r"^(?:[\w/.-]+::)?([A-Za-z0-9_.-]+)\s*(.*)$")
_POETRY_TABLE = ("pyproject.toml", ("tool", "poetry", "dependencies"))
_PIPFILE_TABLE = ("Pipfile", ("packages",))


@dataclass(frozen=True, kw_only=True)
class LockPin:
    """A version that a lock file prefers."""

    version: str
    source: str


@dataclass(frozen=True, kw_only=True)
class LockedPackages:
    """What all lock files of a project say together."""

    pins: Mapping[str, LockPin]
    """Preferred versions by normalized name, of packages from an index."""
    roots: tuple[str, ...]
    """Requirements of the locked project itself, as PEP 508; all names of a file that does not tell them."""
    installed_only: frozenset[str] = frozenset()
    """Roots from files that list a whole environment."""
    direct_references: tuple[str, ...] = ()
    """Repositories and addresses among the roots."""
    unpinned: Mapping[str, str] = field(default_factory=dict)
    """The file of every package without a version of an index, by normalized name."""

    def drop_packages(self, excluded: Collection[str]) -> "LockedPackages":
        """Return the same lock without these packages."""
        return LockedPackages(
            pins={name: pin for name, pin in self.pins.items() if name not in excluded},
            roots=tuple(line for line in self.roots if _get_name(line) not in excluded),
            installed_only=self.installed_only - set(excluded),
            direct_references=self.direct_references,
            unpinned={name: source for name, source in self.unpinned.items() if name not in excluded},
        )


@dataclass
class ParsedLock:
    """What one lock file says; the fields mean what they mean in LockedPackages."""

    pins: dict[str, str] = field(default_factory=dict)
    roots: list[str] = field(default_factory=list)
    lists_environment: bool = False
    """Whether the roots are all names of the file."""
    direct_references: list[str] = field(default_factory=list)
    unpinned: set[str] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)
    """Lines that cannot be read: "4: ..."."""

    def add_pin(self, name: str, version: str) -> None:
        """Add a pin, or just the name if its version is not valid."""
        try:
            self.pins[canonicalize_name(name)] = str(Version(version))
        except InvalidVersion:
            self.roots.append(canonicalize_name(name))

    def add_all_roots(self) -> "ParsedLock":
        """Return this lock, with every pinned name as a root if the file lists an environment."""
        if self.lists_environment:
            self.roots += [name for name in self.pins if name not in self.roots]
        return self


def is_lock_file(path: Path) -> bool:
    """Whether a file is read as a lock instead of requirements: by its name, else by its lines."""
    if path.name == "uv.lock" or (path.name.startswith("pylock.") and path.suffix == ".toml"):
        return True
    if path.name in LOCK_NAMES or _is_conda_file(path):
        return True
    if path.suffix not in (".txt", ""):
        return False
    try:
        raw = path.read_bytes()
        text = decode_text(raw)
    except (OSError, UnicodeDecodeError):
        return False
    # Nobody writes requirements in UTF-16 by hand: that is `pip freeze >` of PowerShell.
    return _lists_environment(text) or (b"\0" in raw[:64] and looks_like_pip_freeze(text, min_pins=1))


def split_lock_files(paths: Iterable[Path]) -> tuple[list[Path], list[Path]]:
    """Return the requirements files and the lock files among these paths."""
    plain: list[Path] = []
    locks: list[Path] = []
    for path in paths:
        (locks if is_lock_file(path) else plain).append(path)
    return plain, locks


def find_lock_names(paths: Iterable[str]) -> list[str]:
    """Return the paths whose name says that they lock an environment or describe one of conda."""
    locks = [path for path in paths if Path(path).name in LOCK_NAMES or _CONDA_NAME.match(Path(path).name)]
    # rye's requirements-dev.lock contains all of requirements.lock.
    return [
        path
        for path in locks
        if Path(path).name != "requirements-dev.lock" or "requirements.lock" not in paths
    ]


def looks_like_pip_freeze(text: str, *, min_pins: int = MIN_FREEZE_PINS) -> bool:
    """Whether a text looks like `pip freeze`: enough exact pins and nothing else, sorted by name."""
    if _lists_environment(text):
        return True
    names = []
    for _, line in iter_logical_lines(text, {}):
        name_match = re.match(r"^([A-Za-z0-9][\w.-]*)\s*(===?|@)", line)
        if not name_match and not line.startswith("-e "):
            return False
        names += [canonicalize_name(name_match[1])] if name_match else []
    return len(names) >= min_pins and names == sorted(names)


def read_lock_files(paths: Iterable[Path], environment: Mapping[str, str]) -> LockedPackages:
    """Read lock files; the first that names a package wins. Raises one ProjectError with all bad lines.

    `environment` holds the image's marker values: pins for other Pythons are left out.
    """
    pins: dict[str, LockPin] = {}
    roots: list[str] = []
    installed_only: set[str] = set()
    direct_references: list[str] = []
    problems: list[str] = []
    unpinned: dict[str, str] = {}
    for path in paths:
        try:
            lock = _parse_lock(path, decode_text(path.read_bytes()), environment)
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
            installed_only |= {_get_name(line) for line in lock.roots}
    if problems:
        raise ProjectError(
            "a lock file cannot be read" if len(problems) == 1 else f"{len(problems)} problems in lock files",
            hint="fix the lines listed above, or write the lock file again with its own tool",
            code="lock-file-invalid",
            details=problems,
        )
    return LockedPackages(
        pins=pins,
        roots=tuple(dict.fromkeys(roots)),
        installed_only=frozenset(installed_only),
        direct_references=tuple(dict.fromkeys(direct_references)),
        unpinned=unpinned,
    )


def _parse_lock(path: Path, text: str, environment: Mapping[str, str]) -> ParsedLock:
    """Parse a lock file of any kind; raises ValueError for TOML, JSON or YAML that is none."""
    if path.name == "uv.lock":
        return _parse_uv_lock(tomllib.loads(text), environment)
    if path.name == "poetry.lock":
        roots = _read_main_dependencies(path.parent, *_POETRY_TABLE)
        return _parse_poetry_lock(tomllib.loads(text), environment, roots)
    if path.name == "pdm.lock":
        return _parse_poetry_lock(tomllib.loads(text), environment, [])
    if path.name == "Pipfile.lock":
        roots = _read_main_dependencies(path.parent, *_PIPFILE_TABLE)
        return _parse_pipfile_lock(json.loads(text), environment, roots)
    if path.suffix == ".toml":
        return _parse_pylock(tomllib.loads(text), environment)
    if _is_conda_file(path):
        return _parse_conda_environment(text, environment)
    return _parse_pip_list(text) if _PIP_LIST.search(text) else _parse_pip_freeze(text, environment)


def _lists_environment(text: str) -> bool:
    """Whether a text can only be conda's list, `pip list`, or `pip freeze` with paths of other machines."""
    if _PIP_LIST.search(text) or _BUILT_ELSEWHERE.search(text):
        return True
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return bool(lines) and sum(bool(_CONDA_LINE.match(line)) for line in lines) * 2 > len(lines)


def _is_conda_file(path: Path) -> bool:
    return path.suffix in (".yml", ".yaml")


def _get_name(line: str) -> str:
    return canonicalize_name(Requirement(line).name)


def _any_marker_holds(markers: object, environment: Mapping[str, str]) -> bool:
    """Whether one of these markers holds, or there is none that can be read."""
    texts = [markers] if isinstance(markers, str) else markers if isinstance(markers, list) else []
    try:
        # uv lists the markers of a fork of its resolution as alternatives.
        results = [Marker(text).evaluate({**environment, "extra": ""}) for text in texts if text]
    except InvalidMarker:
        return True
    return not results or any(results)


def _parse_uv_lock(data: dict[str, Any], environment: Mapping[str, str]) -> ParsedLock:
    lock = ParsedLock()
    for package in data.get("package", []):
        source = package.get("source", {})
        if source.keys() & {"virtual", "editable", "directory"}:
            if "." in source.values():
                lock.roots += _find_uv_roots(package)
        elif "registry" in source and _any_marker_holds(package.get("resolution-markers"), environment):
            lock.pins[canonicalize_name(package["name"])] = str(package.get("version", ""))
    lock.pins = {name: version for name, version in lock.pins.items() if version}
    lock.roots = lock.roots or list(lock.pins)
    return lock


def _find_uv_roots(package: Mapping[str, Any]) -> list[str]:
    """Return the requirements of the locked project; only its metadata has their versions."""
    entries = [
        entry
        for entry in package.get("metadata", {}).get("requires-dist", [])
        if "extra ==" not in entry.get("marker", "")
    ]
    return [_format_uv_root(entry) for entry in entries or package.get("dependencies", [])]


def _format_uv_root(entry: Mapping[str, Any]) -> str:
    # uv.lock writes "extra" among its packages and "extras" in the project's metadata.
    names = entry.get("extras") or entry.get("extra") or ()
    extras = f"[{','.join(names)}]" if names else ""
    marker = f"; {entry['marker']}" if entry.get("marker") else ""
    return f"{entry['name']}{extras}{entry.get('specifier', '')}{marker}"


def _parse_pylock(data: dict[str, Any], environment: Mapping[str, str]) -> ParsedLock:
    from packaging.pylock import Pylock, PylockValidationError

    try:
        packages = Pylock.from_dict(data).packages
    except PylockValidationError as error:
        return ParsedLock(problems=[f" {error}"])
    pins: dict[str, str] = {}
    for package in packages:
        holds = package.marker is None or package.marker.evaluate(
            {**environment, "extras": frozenset(), "dependency_groups": frozenset()}, context="lock_file"
        )
        if package.version is not None and holds:
            pins[package.name] = str(package.version)
    return ParsedLock(pins=pins, roots=list(pins))


def _read_main_dependencies(folder: Path, file_name: str, table_path: tuple[str, ...]) -> list[str]:
    """Return the names in a table of the file beside a lock; none if there is no such table."""
    try:
        table: Any = tomllib.loads((folder / file_name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    for key in table_path:
        table = table.get(key, {}) if isinstance(table, dict) else {}
    lines = []
    for name, entry in table.items() if isinstance(table, dict) else ():
        fields = entry if isinstance(entry, dict) else {}
        if name == "python" or fields.get("optional") or fields.keys() & {"path", "git", "url"}:
            continue
        extras = fields.get("extras", [])
        lines.append(f"{canonicalize_name(name)}[{','.join(extras)}]" if extras else canonicalize_name(name))
    return lines


def _parse_poetry_lock(
    data: Mapping[str, Any], environment: Mapping[str, str], roots: list[str]
) -> ParsedLock:
    """Parse poetry.lock or pdm.lock, which have the same table of packages."""
    lock = ParsedLock(roots=roots, lists_environment=not roots)
    for package in data.get("package", []):
        # poetry before 1.5 has "category", from 2.0 on "groups", and "markers" may be a table by group.
        groups = package.get("groups", [package.get("category", "main")])
        markers = package.get("markers", package.get("marker", ""))
        if isinstance(markers, dict):
            markers = markers.get("main", "")
        source = package.get("source", {}).get("type", "")
        if (
            not {"main", "default"} & set(groups)
            or package.get("optional")
            or not _any_marker_holds(markers, environment)
        ):
            continue
        if source in ("directory", "file", "git", "url") or package.keys() & {"path", "git", "url"}:
            lock.unpinned.add(canonicalize_name(package["name"]))
        else:
            lock.add_pin(package["name"], str(package.get("version", "")))
    return lock.add_all_roots()


def _parse_pipfile_lock(
    data: Mapping[str, Any], environment: Mapping[str, str], roots: list[str]
) -> ParsedLock:
    lock = ParsedLock(roots=roots, lists_environment=not roots)
    for name, fields in data.get("default", {}).items():
        if not _any_marker_holds(fields.get("markers", ""), environment):
            continue
        if version := str(fields.get("version", "")).lstrip("="):
            lock.add_pin(name, version)
        else:
            lock.unpinned.add(canonicalize_name(name))
    return lock.add_all_roots()


@cache
def _load_conda_names() -> tuple[dict[str, str], frozenset[str], tuple[str, ...]]:
    text = (resources.files("offline_kit") / "data" / "conda.toml").read_text(encoding="utf-8")
    data = tomllib.loads(text)
    names = {str(canonicalize_name(conda)): pypi for conda, pypi in data["names"].items()}
    native = frozenset(str(canonicalize_name(name)) for name in data["native"]["names"])
    return names, native, tuple(data["native"]["starts"])


def _find_pypi_name(name: str) -> str:
    """Return PyPI's name of a conda package; "" if it is no Python package."""
    names, native, starts = _load_conda_names()
    plain = canonicalize_name(name)
    if plain in names:
        return names[plain]
    return "" if plain in native or name.lower().startswith(starts) else plain


def _add_conda_spec(lock: ParsedLock, spec: str) -> None:
    spec_match = _CONDA_SPEC.match(spec.strip())
    name = _find_pypi_name(spec_match[1]) if spec_match else ""
    if not spec_match or not name:
        return
    version = spec_match[2].strip().strip("=").partition("=")[0].strip()
    # conda's "1.2" means 1.2.*, but a preference falls back to the nearest version anyway.
    if re.fullmatch(r"[0-9][\w.!+]*", version):
        lock.add_pin(name, version)
    if name not in lock.roots:
        lock.roots.append(name)


def _parse_conda_environment(text: str, environment: Mapping[str, str]) -> ParsedLock:
    import yaml  # type: ignore[import-untyped]

    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error
    entries = data.get("dependencies") if isinstance(data, dict) else None
    if not isinstance(entries, list):
        raise ValueError("it has no list `dependencies`, so it is no environment of conda")
    # `conda env export` names every package of the environment with its build: name=version=build.
    exported = sum(
        str(entry).count("=") >= 2 and "==" not in str(entry) for entry in entries if isinstance(entry, str)
    )
    lock = ParsedLock(lists_environment=exported * 2 > len(entries))
    for entry in entries:
        if isinstance(entry, str):
            _add_conda_spec(lock, entry)
        elif isinstance(entry, dict) and isinstance(entry.get("pip"), list):
            pip_lock = _parse_pip_freeze("\n".join(str(line) for line in entry["pip"]), environment)
            lock.pins |= pip_lock.pins
            lock.roots += [line for line in pip_lock.roots if line not in lock.roots]
            lock.direct_references += pip_lock.direct_references
            lock.unpinned |= pip_lock.unpinned
            lock.problems += [f"pip {line}" for line in pip_lock.problems]
    return lock


def _parse_pip_list(text: str) -> ParsedLock:
    lock = ParsedLock(lists_environment=True)
    _, _, table = text.partition("\n-")
    for line in table.splitlines()[1:]:
        words = line.split()
        # A third column with a path is the folder of an editable install.
        if len(words) >= 2 and not (len(words) > 2 and re.search(r"[\\/]", words[2])):
            lock.add_pin(words[0], words[1])
    return lock.add_all_roots()


def _parse_pip_freeze(text: str, environment: Mapping[str, str]) -> ParsedLock:
    lock = ParsedLock(lists_environment=True)
    for number, line in iter_logical_lines(text, {}):
        if line.startswith(("git+", "https://", "http://")):
            lock.direct_references.append(line)
            continue
        if conda_match := _CONDA_LINE.match(line):
            # `conda list --export` gives what pip installed the build "pypi_0".
            if conda_match[3].startswith("pypi"):
                lock.add_pin(conda_match[1], conda_match[2])
            else:
                _add_conda_spec(lock, line)
            continue
        try:
            if (option := parse_option(line)) is not None:
                egg = option[1].partition("#egg=")[2].partition("&")[0]
                lock.unpinned |= {canonicalize_name(egg)} if egg else set()
                continue
            requirement = Requirement(split_options(line)[0])
        except (InvalidLineError, InvalidRequirement) as error:
            lock.problems.append(f"{number}: {str(error).splitlines()[0]}")
            continue
        if requirement.marker is None or requirement.marker.evaluate({**environment, "extra": ""}):
            _add_freeze_line(lock, requirement, line)
    return lock.add_all_roots()


def _add_freeze_line(lock: ParsedLock, requirement: Requirement, line: str) -> None:
    name = canonicalize_name(requirement.name)
    if requirement.url:
        if version := _read_wheel_version(requirement.url):
            lock.pins[name] = version
        elif not _BUILT_ELSEWHERE.search(line):
            lock.unpinned.add(name)
        elif pypi_name := _find_pypi_name(requirement.name):
            # conda's own build of a package that PyPI has too; the line does not tell its version.
            lock.roots.append(pypi_name)
    elif version := get_exact_version(requirement):
        lock.pins[name] = version
        if requirement.extras:
            lock.roots.append(f"{name}[{','.join(sorted(requirement.extras))}]")
    else:
        lock.roots.append(str(requirement))


def _read_wheel_version(url: str) -> str:
    try:
        return str(parse_wheel_filename(url.partition("#")[0].rsplit("/", 1)[-1].replace("%2B", "+"))[1])
    except (InvalidWheelFilename, InvalidVersion):
        return ""
