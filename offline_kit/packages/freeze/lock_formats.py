"""What lock files and frozen environments say: poetry, Pipenv, PDM, rye, conda, and `pip freeze` of any system."""

import json
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from packaging.markers import InvalidMarker, Marker
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import InvalidVersion, Version

from offline_kit.packages.freeze.requirement_lines import (
    InvalidLineError,
    iter_logical_lines,
    parse_option,
    split_options,
)

LOCK_NAMES = ("poetry.lock", "pdm.lock", "Pipfile.lock", "requirements.lock", "requirements-dev.lock")
"""Files that are locks by their name."""
_BUILT_ELSEWHERE = re.compile(
    r"@ file://(/[A-Za-z]:|\S*/(croots?|ci|ci_\w+|bld|feedstock_root|tmp/build|conda-bld|ktietz)/|\S*_\d{10,}\b)"
)
"""A path of a machine that builds conda's packages, or of Windows: no folder of the user's own."""
_CONDA_LINE = re.compile(r"^([A-Za-z0-9_.-]+)=([^=\s]+)=([^=\s]+)$")
_PIP_LIST = re.compile(r"^Package\s+Version\b.*\n-+\s+-+", re.MULTILINE)
_CONDA_SPEC = re.compile(r"^(?:[\w/.-]+::)?([A-Za-z0-9_.-]+)\s*(.*)$")
MIN_FREEZE_PINS = 10
"""Exact pins from which on a sorted file may be a freeze."""


@dataclass
class ParsedLock:
    """What one file says."""

    pins: dict[str, str] = field(default_factory=dict)
    """Versions by normalized name."""
    roots: list[str] = field(default_factory=list)
    """What is asked for, as PEP 508."""
    lists_environment: bool = False
    """Whether the roots are all names of the file, because it does not say what the project itself asks for."""
    direct_references: list[str] = field(default_factory=list)
    """Repositories and addresses that are asked for."""
    unpinned: set[str] = field(default_factory=set)
    """Names whose version the file does not tell."""
    problems: list[str] = field(default_factory=list)
    """Lines that cannot be read: "4: ..."."""

    def add_pin(self, name: str, version: str) -> None:
        """Take a pin; a version that is none is passed over."""
        try:
            self.pins[canonicalize_name(name)] = str(Version(version))
        except InvalidVersion:
            self.roots.append(canonicalize_name(name))


def is_environment_listing(text: str) -> bool:
    """Whether a text can only be a list of a whole environment: conda's, `pip list`, or with paths of other machines."""
    if _PIP_LIST.search(text) or _BUILT_ELSEWHERE.search(text):
        return True
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return bool(lines) and sum(bool(_CONDA_LINE.match(line)) for line in lines) * 2 > len(lines)


def is_listing_file(raw: bytes) -> bool:
    """Whether the bytes of a file can only be such a list; pins in UTF-16 are what `pip freeze >` of PowerShell writes."""
    text = decode_text(raw)
    return is_environment_listing(text) or (b"\0" in raw[:64] and looks_like_pip_freeze(text, min_pins=1))


def looks_like_pip_freeze(text: str, *, min_pins: int = MIN_FREEZE_PINS) -> bool:
    """Whether a text looks like `pip freeze`: enough exact pins and nothing else, sorted by name."""
    if is_environment_listing(text):
        return True
    names = []
    for _, line in iter_logical_lines(text, {}):
        name_match = re.match(r"^([A-Za-z0-9][\w.-]*)\s*(===?|@)", line)
        if not name_match and not line.startswith("-e "):
            return False
        names += [re.sub(r"[-_.]+", "-", name_match[1]).lower()] if name_match else []
    return len(names) >= min_pins and names == sorted(names)


def parse_lock(path: Path, text: str, environment: Mapping[str, str]) -> ParsedLock:
    """Read a file of any of these kinds; raises ValueError for TOML, JSON or YAML that is none."""
    if path.name == "poetry.lock":
        return _parse_poetry_lock(
            tomllib.loads(text), environment, _read_main_dependencies(path.parent, _POETRY)
        )
    if path.name == "pdm.lock":
        return _parse_poetry_lock(tomllib.loads(text), environment, [])
    if path.name == "Pipfile.lock":
        return _parse_pipfile_lock(
            json.loads(text), environment, _read_main_dependencies(path.parent, _PIPFILE)
        )
    if path.suffix in (".yml", ".yaml"):
        return _parse_conda_environment(text, environment)
    if _PIP_LIST.search(text):
        return _parse_pip_list(text)
    return _parse_pip_freeze(text, environment)


def _holds(marker: object, environment: Mapping[str, str]) -> bool:
    if not isinstance(marker, str) or not marker:
        return True
    try:
        return Marker(marker).evaluate({**environment, "extra": ""})
    except InvalidMarker:
        return True


_POETRY = ("pyproject.toml", ("tool", "poetry", "dependencies"))
_PIPFILE = ("Pipfile", ("packages",))


def _read_main_dependencies(folder: Path, table_path: tuple[str, tuple[str, ...]]) -> list[str]:
    """Return the names in a table of the file beside a lock; none if there is no such table."""
    try:
        table: Any = tomllib.loads((folder / table_path[0]).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    for key in table_path[1]:
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
    lock = ParsedLock(roots=roots, lists_environment=not roots)
    for package in data.get("package", []):
        groups = package.get("groups", [package.get("category", "main")])
        markers = package.get("markers", package.get("marker", ""))
        if isinstance(markers, dict):
            markers = markers.get("main", "")
        source = package.get("source", {}).get("type", "")
        if (
            not {"main", "default"} & set(groups)
            or package.get("optional")
            or not _holds(markers, environment)
        ):
            continue
        if source in ("directory", "file", "git", "url") or package.keys() & {"path", "git", "url"}:
            lock.unpinned.add(canonicalize_name(package["name"]))
        else:
            lock.add_pin(package["name"], str(package.get("version", "")))
    return _use_pins_as_roots(lock)


def _parse_pipfile_lock(
    data: Mapping[str, Any], environment: Mapping[str, str], roots: list[str]
) -> ParsedLock:
    lock = ParsedLock(roots=roots, lists_environment=not roots)
    for name, fields in data.get("default", {}).items():
        if not _holds(fields.get("markers", ""), environment):
            continue
        if version := str(fields.get("version", "")).lstrip("="):
            lock.add_pin(name, version)
        else:
            lock.unpinned.add(canonicalize_name(name))
    return _use_pins_as_roots(lock)


def _use_pins_as_roots(lock: ParsedLock) -> ParsedLock:
    if lock.lists_environment:
        lock.roots += [name for name in lock.pins if name not in lock.roots]
    return lock


@cache
def _load_conda_names() -> tuple[dict[str, str], frozenset[str], tuple[str, ...]]:
    text = (resources.files("offline_kit") / "data" / "conda.toml").read_text(encoding="utf-8")
    data = tomllib.loads(text)
    names = {str(canonicalize_name(conda)): pypi for conda, pypi in data["names"].items()}
    native = frozenset(str(canonicalize_name(name)) for name in data["native"]["names"])
    return names, native, tuple(data["native"]["starts"])


def _find_pypi_name(name: str) -> str:
    """Return what PyPI calls a package of conda; "" for what is no Python package."""
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
    is_exact = re.fullmatch(r"[0-9][\w.!+]*", version)
    # conda's "1.2" means 1.2.*: as a wish it is the nearest that there is.
    if is_exact:
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
    # An export names every package of the environment, with its build.
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
        if len(words) >= 2 and not (len(words) > 2 and re.search(r"[\\/]", words[2])):
            lock.add_pin(words[0], words[1])
    return _use_pins_as_roots(lock)


def _parse_pip_freeze(text: str, environment: Mapping[str, str]) -> ParsedLock:
    lock = ParsedLock(lists_environment=True)
    for number, line in iter_logical_lines(text, {}):
        if line.startswith(("git+", "https://", "http://")):
            lock.direct_references.append(line)
            continue
        conda_match = _CONDA_LINE.match(line)
        if conda_match:
            if conda_match[3].startswith("pypi"):
                lock.add_pin(conda_match[1], conda_match[2])
            else:
                _add_conda_spec(lock, line)
            continue
        try:
            if (option_pair := parse_option(line)) is not None:
                egg = option_pair[1].partition("#egg=")[2].partition("&")[0]
                lock.unpinned |= {canonicalize_name(egg)} if egg else set()
                continue
            requirement = Requirement(split_options(line)[0])
        except (InvalidLineError, InvalidRequirement) as error:
            lock.problems.append(f"{number}: {str(error).splitlines()[0]}")
            continue
        if requirement.marker is None or requirement.marker.evaluate({**environment, "extra": ""}):
            _add_freeze_line(lock, requirement, line)
    return _use_pins_as_roots(lock)


def _add_freeze_line(lock: ParsedLock, requirement: Requirement, line: str) -> None:
    name = canonicalize_name(requirement.name)
    if requirement.url:
        version = _read_wheel_version(requirement.url)
        if version:
            lock.pins[name] = version
        elif _BUILT_ELSEWHERE.search(line):
            # conda's own build of a package that PyPI has too; which version, the line does not tell.
            lock.roots.append(_find_pypi_name(requirement.name))
        else:
            lock.unpinned.add(name)
    elif version := get_exact_version(requirement):
        lock.pins[name] = version
        if requirement.extras:
            lock.roots.append(f"{name}[{','.join(sorted(requirement.extras))}]")
    else:
        lock.roots.append(str(requirement))
    lock.roots = [root for root in lock.roots if root]


def _read_wheel_version(url: str) -> str:
    try:
        return str(parse_wheel_filename(url.partition("#")[0].rsplit("/", 1)[-1].replace("%2B", "+"))[1])
    except (InvalidWheelFilename, InvalidVersion):
        return ""


def get_exact_version(requirement: Requirement) -> str:
    """Return the version of an exact pin ("==1.2" or "===1.2"), else an empty string."""
    for clause in requirement.specifier:
        if clause.operator in ("==", "===") and not clause.version.endswith(".*"):
            try:
                return str(Version(clause.version))
            except InvalidVersion:
                return ""
    return ""


def decode_text(raw: bytes) -> str:
    """Return the text of a file that PowerShell or an editor wrote: UTF-8 or UTF-16. Raises UnicodeDecodeError."""
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        return raw.decode("utf-16")
    if b"\0" in raw[:64]:
        return raw.decode("utf-16-le" if raw[1:2] == b"\0" else "utf-16-be")
    return raw.decode("utf-8-sig")


def is_conda_file(path: Path) -> bool:
    """Whether a file is an environment of conda by its name."""
    return path.suffix in (".yml", ".yaml")


def find_lock_names(paths: Iterable[str]) -> list[str]:
    """Return those of these paths whose name says that they lock an environment or describe one of conda."""
    conda = re.compile(r"(conda|environment|env)[\w.-]*\.ya?ml$", re.IGNORECASE)
    locks = [path for path in paths if Path(path).name in LOCK_NAMES or conda.match(Path(path).name)]
    # rye's lock for developers holds all of the other one.
    return [
        path
        for path in locks
        if Path(path).name != "requirements-dev.lock" or "requirements.lock" not in paths
    ]
