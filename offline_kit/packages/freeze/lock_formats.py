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

from offline_kit.packages.freeze.requirement_lines import BadLineError, logical_lines, option, split_options

NAMES = ("poetry.lock", "pdm.lock", "Pipfile.lock", "requirements.lock", "requirements-dev.lock")
"""Files that are locks by their name."""
_BUILT_ELSEWHERE = re.compile(
    r"@ file://(/[A-Za-z]:|\S*/(croots?|ci|ci_\w+|bld|feedstock_root|tmp/build|conda-bld|ktietz)/|\S*_\d{10,}\b)"
)
"""A path of a machine that builds conda's packages, or of Windows: no folder of the user's own."""
_CONDA_LINE = re.compile(r"^([A-Za-z0-9_.-]+)=([^=\s]+)=([^=\s]+)$")
_PIP_LIST = re.compile(r"^Package\s+Version\b.*\n-+\s+-+", re.MULTILINE)
_CONDA_SPEC = re.compile(r"^(?:[\w/.-]+::)?([A-Za-z0-9_.-]+)\s*(.*)$")
FEWEST = 10
"""Exact pins from which on a sorted file may be a freeze."""


@dataclass
class Locked:
    """What one file says."""

    pins: dict[str, str] = field(default_factory=dict)
    """Versions by normalized name."""
    roots: list[str] = field(default_factory=list)
    """What is asked for, as PEP 508."""
    everything: bool = False
    """Whether the roots are all names of the file, because it does not say what the project itself asks for."""
    directs: list[str] = field(default_factory=list)
    """Repositories and addresses that are asked for."""
    unread: set[str] = field(default_factory=set)
    """Names whose version the file does not tell."""
    problems: list[str] = field(default_factory=list)
    """Lines that cannot be read: "4: ..."."""

    def add(self, name: str, version: str) -> None:
        """Take a pin; a version that is none is passed over."""
        try:
            self.pins[canonicalize_name(name)] = str(Version(version))
        except InvalidVersion:
            self.roots.append(canonicalize_name(name))


def is_freeze(text: str) -> bool:
    """Whether a text can only be a list of a whole environment: conda's, `pip list`, or with paths of other machines."""
    if _PIP_LIST.search(text) or _BUILT_ELSEWHERE.search(text):
        return True
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return bool(lines) and sum(bool(_CONDA_LINE.match(line)) for line in lines) * 2 > len(lines)


def is_freeze_file(raw: bytes) -> bool:
    """Whether the bytes of a file can only be such a list; pins in UTF-16 are what `pip freeze >` of PowerShell writes."""
    text = decoded(raw)
    return is_freeze(text) or (b"\0" in raw[:64] and is_pure_freeze(text, fewest=1))


def is_pure_freeze(text: str, *, fewest: int = FEWEST) -> bool:
    """Whether a text looks like `pip freeze`: enough exact pins and nothing else, sorted by name."""
    if is_freeze(text):
        return True
    names = []
    for _, line in logical_lines(text, {}):
        found = re.match(r"^([A-Za-z0-9][\w.-]*)\s*(===?|@)", line)
        if not found and not line.startswith("-e "):
            return False
        names += [re.sub(r"[-_.]+", "-", found[1]).lower()] if found else []
    return len(names) >= fewest and names == sorted(names)


def read(path: Path, text: str, environment: Mapping[str, str]) -> Locked:
    """Read a file of any of these kinds; raises ValueError for TOML, JSON or YAML that is none."""
    if path.name == "poetry.lock":
        return _poetry(tomllib.loads(text), environment, _main_of(path.parent, _POETRY))
    if path.name == "pdm.lock":
        return _poetry(tomllib.loads(text), environment, [])
    if path.name == "Pipfile.lock":
        return _pipfile(json.loads(text), environment, _main_of(path.parent, _PIPFILE))
    if path.suffix in (".yml", ".yaml"):
        return _conda_environment(text, environment)
    if _PIP_LIST.search(text):
        return _pip_list(text)
    return _freeze(text, environment)


def _holds(marker: object, environment: Mapping[str, str]) -> bool:
    if not isinstance(marker, str) or not marker:
        return True
    try:
        return Marker(marker).evaluate({**environment, "extra": ""})
    except InvalidMarker:
        return True


_POETRY = ("pyproject.toml", ("tool", "poetry", "dependencies"))
_PIPFILE = ("Pipfile", ("packages",))


def _main_of(folder: Path, where: tuple[str, tuple[str, ...]]) -> list[str]:
    """Return the names in a table of the file beside a lock; none if there is no such table."""
    try:
        table: Any = tomllib.loads((folder / where[0]).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    for key in where[1]:
        table = table.get(key, {}) if isinstance(table, dict) else {}
    lines = []
    for name, said in table.items() if isinstance(table, dict) else ():
        facts = said if isinstance(said, dict) else {}
        if name == "python" or facts.get("optional") or facts.keys() & {"path", "git", "url"}:
            continue
        extras = facts.get("extras", [])
        lines.append(f"{canonicalize_name(name)}[{','.join(extras)}]" if extras else canonicalize_name(name))
    return lines


def _poetry(data: Mapping[str, Any], environment: Mapping[str, str], roots: list[str]) -> Locked:
    found = Locked(roots=roots, everything=not roots)
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
            found.unread.add(canonicalize_name(package["name"]))
        else:
            found.add(package["name"], str(package.get("version", "")))
    return _with_all(found)


def _pipfile(data: Mapping[str, Any], environment: Mapping[str, str], roots: list[str]) -> Locked:
    found = Locked(roots=roots, everything=not roots)
    for name, facts in data.get("default", {}).items():
        if not _holds(facts.get("markers", ""), environment):
            continue
        if version := str(facts.get("version", "")).lstrip("="):
            found.add(name, version)
        else:
            found.unread.add(canonicalize_name(name))
    return _with_all(found)


def _with_all(found: Locked) -> Locked:
    if found.everything:
        found.roots += [name for name in found.pins if name not in found.roots]
    return found


@cache
def _conda_table() -> tuple[dict[str, str], frozenset[str], tuple[str, ...]]:
    text = (resources.files("offline_kit") / "data" / "conda.toml").read_text(encoding="utf-8")
    data = tomllib.loads(text)
    names = {str(canonicalize_name(conda)): pypi for conda, pypi in data["names"].items()}
    native = frozenset(str(canonicalize_name(name)) for name in data["native"]["names"])
    return names, native, tuple(data["native"]["starts"])


def _of_conda(name: str) -> str:
    """Return what PyPI calls a package of conda; "" for what is no Python package."""
    names, native, starts = _conda_table()
    plain = canonicalize_name(name)
    if plain in names:
        return names[plain]
    return "" if plain in native or name.lower().startswith(starts) else plain


def _add_conda(found: Locked, spec: str) -> None:
    parts = _CONDA_SPEC.match(spec.strip())
    name = _of_conda(parts[1]) if parts else ""
    if not parts or not name:
        return
    version = parts[2].strip().strip("=").partition("=")[0].strip()
    exact = re.fullmatch(r"[0-9][\w.!+]*", version)
    # conda's "1.2" means 1.2.*: as a wish it is the nearest that there is.
    if exact:
        found.add(name, version)
    if name not in found.roots:
        found.roots.append(name)


def _conda_environment(text: str, environment: Mapping[str, str]) -> Locked:
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
        str(one).count("=") >= 2 and "==" not in str(one) for one in entries if isinstance(one, str)
    )
    found = Locked(everything=exported * 2 > len(entries))
    for entry in entries:
        if isinstance(entry, str):
            _add_conda(found, entry)
        elif isinstance(entry, dict) and isinstance(entry.get("pip"), list):
            inner = _freeze("\n".join(str(line) for line in entry["pip"]), environment)
            found.pins |= inner.pins
            found.roots += [line for line in inner.roots if line not in found.roots]
            found.directs += inner.directs
            found.unread |= inner.unread
            found.problems += [f"pip {line}" for line in inner.problems]
    return found


def _pip_list(text: str) -> Locked:
    found = Locked(everything=True)
    _, _, table = text.partition("\n-")
    for line in table.splitlines()[1:]:
        words = line.split()
        if len(words) >= 2 and not (len(words) > 2 and re.search(r"[\\/]", words[2])):
            found.add(words[0], words[1])
    return _with_all(found)


def _freeze(text: str, environment: Mapping[str, str]) -> Locked:
    found = Locked(everything=True)
    for number, line in logical_lines(text, {}):
        if line.startswith(("git+", "https://", "http://")):
            found.directs.append(line)
            continue
        conda = _CONDA_LINE.match(line)
        if conda:
            if conda[3].startswith("pypi"):
                found.add(conda[1], conda[2])
            else:
                _add_conda(found, line)
            continue
        try:
            if (said := option(line)) is not None:
                egg = said[1].partition("#egg=")[2].partition("&")[0]
                found.unread |= {canonicalize_name(egg)} if egg else set()
                continue
            wanted = Requirement(split_options(line)[0])
        except (BadLineError, InvalidRequirement) as error:
            found.problems.append(f"{number}: {str(error).splitlines()[0]}")
            continue
        if wanted.marker is None or wanted.marker.evaluate({**environment, "extra": ""}):
            _add_line(found, wanted, line)
    return _with_all(found)


def _add_line(found: Locked, wanted: Requirement, line: str) -> None:
    name = canonicalize_name(wanted.name)
    if wanted.url:
        version = _version_of_wheel(wanted.url)
        if version:
            found.pins[name] = version
        elif _BUILT_ELSEWHERE.search(line):
            # conda's own build of a package that PyPI has too; which version, the line does not tell.
            found.roots.append(_of_conda(wanted.name))
        else:
            found.unread.add(name)
    elif version := exact(wanted):
        found.pins[name] = version
        if wanted.extras:
            found.roots.append(f"{name}[{','.join(sorted(wanted.extras))}]")
    else:
        found.roots.append(str(wanted))
    found.roots = [one for one in found.roots if one]


def _version_of_wheel(url: str) -> str:
    try:
        return str(parse_wheel_filename(url.partition("#")[0].rsplit("/", 1)[-1].replace("%2B", "+"))[1])
    except (InvalidWheelFilename, InvalidVersion):
        return ""


def exact(wanted: Requirement) -> str:
    """Return the version of an exact pin ("==1.2" or "===1.2"), else an empty string."""
    for one in wanted.specifier:
        if one.operator in ("==", "===") and not one.version.endswith(".*"):
            try:
                return str(Version(one.version))
            except InvalidVersion:
                return ""
    return ""


def decoded(raw: bytes) -> str:
    """Return the text of a file that PowerShell or an editor wrote: UTF-8 or UTF-16. Raises UnicodeDecodeError."""
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        return raw.decode("utf-16")
    if b"\0" in raw[:64]:
        return raw.decode("utf-16-le" if raw[1:2] == b"\0" else "utf-16-be")
    return raw.decode("utf-8-sig")


def is_conda(path: Path) -> bool:
    """Whether a file is an environment of conda by its name."""
    return path.suffix in (".yml", ".yaml")


def named(paths: Iterable[str]) -> list[str]:
    """Return those of these paths whose name says that they lock an environment or describe one of conda."""
    conda = re.compile(r"(conda|environment|env)[\w.-]*\.ya?ml$", re.IGNORECASE)
    locks = [one for one in paths if Path(one).name in NAMES or conda.match(Path(one).name)]
    # rye's lock for developers holds all of the other one.
    return [
        one for one in locks if Path(one).name != "requirements-dev.lock" or "requirements.lock" not in paths
    ]
