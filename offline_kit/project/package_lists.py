"""Read lists of installed packages as pip prints them."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from offline_kit.core.errors import UsageError

_SEPARATORS = re.compile(r"[-_.]+")
_PIN = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)\s*={2,3}\s*([^\s;#\\]+)")
_DIRECT = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)(?:\[[^\]]*\])?\s*@\s*(\S+)")
_EGG = re.compile(r"[#&]egg=([A-Za-z0-9][A-Za-z0-9._-]*)")
_COMMENT = re.compile(r"^#\s*(python|accelerator|glibc|digest|title)\s*[:=]\s*(\S.*?)\s*$", re.IGNORECASE)
_LIST_HINT = "create it in the image with 'python -m pip list --format=json', which has every version"


def normalize_name(name: str) -> str:
    """Return the name of a distribution as indexes compare it (PEP 503).

    packaging's `canonicalize_name` does the same, but its import takes about 50 ms, and images are read by
    commands that need nothing else of it.
    """
    return _SEPARATORS.sub("-", name).lower()


@dataclass(frozen=True, kw_only=True)
class PackageList:
    """The content of a list of installed packages."""

    packages: Mapping[str, str]
    """Version by normalized name."""
    unversioned: tuple[str, ...] = ()
    """Names without a version: editable and git installs."""
    comments: Mapping[str, str] = field(default_factory=dict)
    """Facts from comment lines such as "# python: 3.13.5"."""


def read_package_list(text: str, *, source: str) -> PackageList:
    """Read the output of `pip list --format=json`, `pip inspect` or `pip freeze`.

    `source` names the list in errors.

    Raises:
        UsageError: the text is none of these.

    """
    if text.lstrip().startswith(("[", "{")):
        return _read_json(text, source)
    return _read_freeze(text, source)


def _read_json(text: str, source: str) -> PackageList:
    try:
        data = json.loads(text)
        if isinstance(data, dict):
            rows = [row["metadata"] for row in data["installed"]]
            comments = {"python": str(data["environment"]["python_full_version"])}
        else:
            rows, comments = data, {}
        packages = {normalize_name(str(row["name"])): str(row["version"]) for row in rows}
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"'{source}' is not a list of packages as pip writes it",
            hint=_LIST_HINT,
            code="package-list-invalid",
        ) from error
    return PackageList(packages=packages, comments=comments)


def _read_freeze(text: str, source: str) -> PackageList:
    packages: dict[str, str] = {}
    unversioned: list[str] = []
    comments: dict[str, str] = {}
    strange: list[str] = []
    for number, raw in enumerate(text.splitlines(), start=1):
        line = raw.strip()
        if comment := _COMMENT.match(line):
            comments[comment[1].lower()] = comment[2]
        elif pin := _PIN.match(line):
            packages[normalize_name(pin[1])] = pin[2]
        elif line and not line.startswith("#") and not _read_reference(line, packages, unversioned):
            strange.append(f"line {number}: {line}")
    if strange or not (packages or unversioned):
        raise UsageError(
            f"'{source}' is not a list of packages as pip writes it",
            hint=_LIST_HINT,
            code="package-list-invalid",
            details=strange[:20] or ["it has no packages"],
        )
    return PackageList(packages=packages, unversioned=tuple(sorted(unversioned)), comments=comments)


def _read_reference(line: str, packages: dict[str, str], unversioned: list[str]) -> bool:
    """Read a line without a plain version; return False for one that pip does not write."""
    if line.startswith(("-e ", "--editable")):
        if egg := _EGG.search(line):
            unversioned.append(normalize_name(egg[1]))
        return True
    direct = _DIRECT.match(line)
    if not direct:
        # Column headers of `pip list` are refused; options such as "--hash=..." belong to pins.
        return line.startswith("--")
    name, version = normalize_name(direct[1]), extract_version(direct[2])
    if version:
        packages[name] = version
    else:
        unversioned.append(name)
    return True


def extract_version(url: str) -> str:
    """Return the version in the file name of a wheel or sdist URL, else an empty string."""
    from urllib.parse import unquote, urlsplit

    from packaging.utils import (
        InvalidSdistFilename,
        InvalidWheelFilename,
        parse_sdist_filename,
        parse_wheel_filename,
    )

    filename = unquote(urlsplit(url).path).rpartition("/")[2]
    try:
        if filename.endswith(".whl"):
            return str(parse_wheel_filename(filename)[1])
        return str(parse_sdist_filename(filename)[1])
    except (InvalidSdistFilename, InvalidWheelFilename):
        return ""
