"""Lock files as preferences: uv, pylock, poetry, PDM, Pipenv, rye, conda, and `pip freeze` of any system."""

import json
import re
import tomllib
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from packaging.markers import InvalidMarker, Marker
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
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
from offline_kit.project.package_lists import extract_version

# Files that are locks by their name; uv.lock and pylock.*.toml are as well.
_LOCK_NAMES = ("poetry.lock", "pdm.lock", "Pipfile.lock", "requirements.lock", "requirements-dev.lock")
_MIN_FREEZE_PINS = 10  # a sorted file with fewer exact pins may be a hand-written requirements file
_CONDA_NAME = re.compile(r"(conda|environment|env)[\w.-]*\.ya?ml$", re.IGNORECASE)
# Packages of conda keep the path of the machine that built them, and `pip freeze` shows it:
# https://github.com/conda/conda/issues/11580
_BUILT_ELSEWHERE = re.compile(
    r"@ file://(/[A-Za-z]:|\S*/(croots?|ci|ci_\w+|bld|feedstock_root|tmp/build|conda-bld|ktietz)/|\S*_\d{10,}\b)"
)
_CONDA_LINE = re.compile(r"^([A-Za-z0-9_.-]+)=([^=\s]+)=([^=\s]+)$")
_PIP_LIST = re.compile(r"^Package\s+Version\b.*\n-+\s+-+", re.MULTILINE)
_CONDA_SPEC = re.compile(r"^(?:[\w/.-]+::)?([A-Za-z0-9_.-]+)\s*(.*)$")

Environment = Mapping[str, str]  # the image's marker values: pins for other Pythons are left out


@dataclass(frozen=True, kw_only=True)
class LockPin:
    """A version that a lock file prefers."""

    version: str
    source: str  # the file


@dataclass(kw_only=True)
class LockedPackages:
    """What one lock file says, or all lock files of a project together; names are normalized."""

    source: str = ""  # the file
    pins: dict[str, LockPin] = field(default_factory=dict)  # preferred versions of packages from an index
    roots: list[str] = field(default_factory=list)  # requirements of the locked project, else all names
    installed_only: set[str] = field(default_factory=set)  # roots from files that list an environment
    direct_references: list[str] = field(default_factory=list)  # repositories and URLs among the roots
    unpinned: dict[str, str] = field(default_factory=dict)  # files of packages without an index's version
    problems: list[str] = field(default_factory=list)  # lines that cannot be read: "freeze.txt:4: ..."
    lists_environment: bool = False  # whether the roots are all names of the file

    def add_pin(self, name: str, version: str) -> None:
        """Add a pin, or just the name if its version is not valid."""
        try:
            pin = LockPin(version=str(Version(version)), source=self.source)
        except InvalidVersion:
            self.roots.append(canonicalize_name(name))
        else:
            self.pins[canonicalize_name(name)] = pin

    def add_unpinned(self, name: str) -> None:
        """Add a package that has no version of an index."""
        self.unpinned[canonicalize_name(name)] = self.source

    def merge(self, other: "LockedPackages") -> None:
        """Add another lock; pins that are here already win."""
        self.pins = other.pins | self.pins
        self.roots = list(dict.fromkeys((*self.roots, *other.roots)))
        self.direct_references = list(dict.fromkeys((*self.direct_references, *other.direct_references)))
        self.unpinned |= other.unpinned
        self.problems += other.problems
        if other.lists_environment:
            self.installed_only |= {_get_name(line) for line in other.roots}

    def drop_packages(self, excluded: Collection[str]) -> None:
        """Forget these packages."""
        self.pins = {name: pin for name, pin in self.pins.items() if name not in excluded}
        self.roots = [line for line in self.roots if _get_name(line) not in excluded]
        self.installed_only -= set(excluded)
        self.unpinned = {name: source for name, source in self.unpinned.items() if name not in excluded}


def is_lock_file(path: Path) -> bool:
    """Whether a file is read as a lock instead of requirements: by its name, else by its lines."""
    if path.name == "uv.lock" or (path.name.startswith("pylock.") and path.suffix == ".toml"):
        return True
    if path.name in _LOCK_NAMES or path.suffix in (".yml", ".yaml"):
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


def find_lock_names(paths: Iterable[str]) -> list[str]:
    """Return the paths whose name says that they lock an environment or describe one of conda."""
    locks = [path for path in paths if Path(path).name in _LOCK_NAMES or _CONDA_NAME.match(Path(path).name)]
    # rye's requirements-dev.lock contains all of requirements.lock.
    return [
        path
        for path in locks
        if Path(path).name != "requirements-dev.lock" or "requirements.lock" not in paths
    ]


def looks_like_pip_freeze(text: str, *, min_pins: int = _MIN_FREEZE_PINS) -> bool:
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


def read_lock_files(paths: Iterable[Path], environment: Environment) -> LockedPackages:
    """Read lock files; the first that names a package wins. Raises one ProjectError with all bad lines."""
    locked = LockedPackages()
    for path in paths:
        try:
            locked.merge(_read_lock(path, environment))
        except (OSError, ValueError) as error:
            locked.problems.append(f"cannot read '{path.name}': {error}")
    if locked.problems:
        count = len(locked.problems)
        raise ProjectError(
            "a lock file cannot be read" if count == 1 else f"{count} problems in lock files",
            hint="fix the lines listed above, or write the lock file again with its own tool",
            code="lock-file-invalid",
            details=locked.problems,
        )
    return locked


def _read_lock(path: Path, environment: Environment) -> LockedPackages:
    """Read a lock file of any kind; raises ValueError for TOML, JSON or YAML that is none."""
    text, lock = decode_text(path.read_bytes()), LockedPackages(source=path.name)
    if path.name in _PARSERS:
        load, parse, roots_file, roots_table = _PARSERS[path.name]
        if roots_file:
            lock.roots = _read_main_dependencies(path.parent / roots_file, roots_table.split("."))
        parse(lock, load(text), environment)
    elif path.suffix == ".toml":
        _parse_pylock(lock, tomllib.loads(text), environment)
    elif path.suffix in (".yml", ".yaml"):
        _parse_conda_environment(lock, text, environment)
    elif _PIP_LIST.search(text):
        _parse_pip_list(lock, text)
    else:
        _parse_pip_freeze(lock, text, environment)
    if lock.lists_environment:
        lock.roots += [name for name in lock.pins if name not in lock.roots]
    return lock


def _lists_environment(text: str) -> bool:
    """Whether a text can only be conda's list, `pip list`, or `pip freeze` with paths of other machines."""
    if _PIP_LIST.search(text) or _BUILT_ELSEWHERE.search(text):
        return True
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return bool(lines) and sum(bool(_CONDA_LINE.match(line)) for line in lines) * 2 > len(lines)


def _get_name(line: str) -> str:
    return canonicalize_name(Requirement(line).name)


def _any_marker_holds(markers: object, environment: Environment) -> bool:
    """Whether one of these markers holds, or there is none that can be read."""
    texts = [markers] if isinstance(markers, str) else markers if isinstance(markers, list) else []
    try:
        # uv lists the markers of a fork of its resolution as alternatives.
        results = [Marker(text).evaluate({**environment, "extra": ""}) for text in texts if text]
    except InvalidMarker:
        return True
    return not results or any(results)


def _parse_uv_lock(lock: LockedPackages, data: dict[str, Any], environment: Environment) -> None:
    for package in data.get("package", []):
        source = package.get("source", {})
        if source.keys() & {"virtual", "editable", "directory"}:
            if "." not in source.values():
                continue
            # The locked project; only its metadata has the versions of its requirements.
            entries = [
                entry
                for entry in package.get("metadata", {}).get("requires-dist", [])
                if "extra ==" not in entry.get("marker", "")
            ]
            for entry in entries or package.get("dependencies", []):
                # uv.lock writes "extra" among its packages and "extras" in the project's metadata.
                names = entry.get("extras") or entry.get("extra") or ()
                extras = f"[{','.join(names)}]" if names else ""
                marker = f"; {entry['marker']}" if entry.get("marker") else ""
                lock.roots.append(f"{entry['name']}{extras}{entry.get('specifier', '')}{marker}")
        elif "registry" in source and _any_marker_holds(package.get("resolution-markers"), environment):
            version = str(package.get("version", ""))
            if version:
                lock.pins[canonicalize_name(package["name"])] = LockPin(version=version, source=lock.source)
    lock.roots = lock.roots or list(lock.pins)


def _parse_pylock(lock: LockedPackages, data: dict[str, Any], environment: Environment) -> None:
    from packaging.pylock import Pylock, PylockValidationError

    try:
        packages = Pylock.from_dict(data).packages
    except PylockValidationError as error:
        lock.problems.append(f"{lock.source}: {error}")
        return
    values: dict[str, str | frozenset[str]] = {**environment}
    values |= {"extras": frozenset(), "dependency_groups": frozenset()}
    for package in packages:
        holds = package.marker is None or package.marker.evaluate(values, context="lock_file")
        if package.version is not None and holds:
            lock.add_pin(package.name, str(package.version))
    lock.roots += lock.pins


def _read_main_dependencies(path: Path, keys: list[str]) -> list[str]:
    """Return the names in a table of the file beside a lock; none if there is no such table."""
    try:
        table: Any = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    for key in keys:
        table = table.get(key, {}) if isinstance(table, dict) else {}
    lines = []
    for name, entry in table.items() if isinstance(table, dict) else ():
        fields = entry if isinstance(entry, dict) else {}
        if name == "python" or fields.get("optional") or fields.keys() & {"path", "git", "url"}:
            continue
        extras = fields.get("extras", [])
        lines.append(f"{canonicalize_name(name)}[{','.join(extras)}]" if extras else canonicalize_name(name))
    return lines


def _parse_poetry_lock(lock: LockedPackages, data: dict[str, Any], environment: Environment) -> None:
    """Parse poetry.lock or pdm.lock, which have the same table of packages."""
    lock.lists_environment = not lock.roots
    for package in data.get("package", []):
        # poetry before 1.5 has "category", from 2.0 on "groups", and "markers" may be a table by group.
        groups = package.get("groups", [package.get("category", "main")])
        markers = package.get("markers", package.get("marker", ""))
        if isinstance(markers, dict):
            markers = markers.get("main", "")
        is_main = {"main", "default"} & set(groups) and not package.get("optional")
        if not is_main or not _any_marker_holds(markers, environment):
            continue
        source = package.get("source", {}).get("type", "")
        is_elsewhere = source in ("directory", "file", "git", "url") or package.keys() & {
            "path",
            "git",
            "url",
        }
        if is_elsewhere or not package.get("version"):
            lock.add_unpinned(package["name"])
        else:
            lock.add_pin(package["name"], str(package.get("version", "")))


def _parse_pipfile_lock(lock: LockedPackages, data: dict[str, Any], environment: Environment) -> None:
    packages = [
        {
            "name": name,
            "markers": fields.get("markers", ""),
            "version": str(fields.get("version", "")).lstrip("="),
        }
        for name, fields in data.get("default", {}).items()
    ]
    _parse_poetry_lock(lock, {"package": packages}, environment)


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


def _add_conda_spec(lock: LockedPackages, spec: str) -> None:
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


def _parse_conda_environment(lock: LockedPackages, text: str, environment: Environment) -> None:
    import yaml  # type: ignore[import-untyped]

    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error
    entries = data.get("dependencies") if isinstance(data, dict) else None
    if not isinstance(entries, list):
        raise ValueError("it has no list `dependencies`, so it is no environment of conda")
    for entry in entries:
        if isinstance(entry, str):
            _add_conda_spec(lock, entry)
        elif isinstance(entry, dict) and isinstance(entry.get("pip"), list):
            pip_lock = LockedPackages(source=lock.source)
            _parse_pip_freeze(pip_lock, "\n".join(str(line) for line in entry["pip"]), environment)
            pip_lock.roots += pip_lock.pins
            lock.pins |= pip_lock.pins
            pip_lock.lists_environment = False
            pip_lock.problems = [line.replace(":", ":pip ", 1) for line in pip_lock.problems]
            lock.merge(pip_lock)
    # `conda env export` names every package of the environment with its build: name=version=build.
    exported = sum(
        str(entry).count("=") >= 2 and "==" not in str(entry) for entry in entries if isinstance(entry, str)
    )
    lock.lists_environment = exported * 2 > len(entries)


def _parse_pip_list(lock: LockedPackages, text: str) -> None:
    lock.lists_environment = True
    _, _, table = text.partition("\n-")
    for line in table.splitlines()[1:]:
        words = line.split()
        # A third column with a path is the folder of an editable install.
        if len(words) >= 2 and not (len(words) > 2 and re.search(r"[\\/]", words[2])):
            lock.add_pin(words[0], words[1])


def _parse_pip_freeze(lock: LockedPackages, text: str, environment: Environment) -> None:
    lock.lists_environment = True
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
                if egg := option[1].partition("#egg=")[2].partition("&")[0]:
                    lock.add_unpinned(egg)
                continue
            requirement = Requirement(split_options(line)[0])
        except (InvalidLineError, InvalidRequirement) as error:
            lock.problems.append(f"{lock.source}:{number}: {str(error).splitlines()[0]}")
            continue
        if requirement.marker is None or requirement.marker.evaluate({**environment, "extra": ""}):
            _add_freeze_line(lock, requirement, line)


def _add_freeze_line(lock: LockedPackages, requirement: Requirement, line: str) -> None:
    if requirement.url:
        if version := extract_version(requirement.url):
            lock.add_pin(requirement.name, version)
        elif not _BUILT_ELSEWHERE.search(line):
            lock.add_unpinned(requirement.name)
        elif pypi_name := _find_pypi_name(requirement.name):
            # conda's own build of a package that PyPI has too; the line does not tell its version.
            lock.roots.append(pypi_name)
    elif version := get_exact_version(requirement):
        lock.add_pin(requirement.name, version)
        if requirement.extras:
            lock.roots.append(
                f"{canonicalize_name(requirement.name)}[{','.join(sorted(requirement.extras))}]"
            )
    else:
        lock.roots.append(str(requirement))


# How a lock file is loaded and parsed, and where its project lists what it requires itself.
_PARSERS: dict[str, tuple[Callable[[str], Any], Callable[..., None], str, str]] = {
    "uv.lock": (tomllib.loads, _parse_uv_lock, "", ""),
    "pdm.lock": (tomllib.loads, _parse_poetry_lock, "", ""),
    "poetry.lock": (tomllib.loads, _parse_poetry_lock, "pyproject.toml", "tool.poetry.dependencies"),
    "Pipfile.lock": (json.loads, _parse_pipfile_lock, "Pipfile", "packages"),
}
