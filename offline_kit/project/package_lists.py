"""Read lists of installed packages as pip prints them."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from offline_kit.core.errors import UsageError

_SEPARATORS = re.compile(r"[-_.]+")
_PIN = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)\s*={2,3}\s*([^\s;#\\]+)")
_DIRECT = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)(?:\[[^\]]*\])?\s*@\s*(\S+)")
_EGG = re.compile(r"[#&]egg=([A-Za-z0-9][A-Za-z0-9._-]*)")
_COMMENT = re.compile(r"^#\s*(python|accelerator|glibc|digest|title)\s*[:=]\s*(\S.*?)\s*$", re.IGNORECASE)


def normalize_name(name: str) -> str:
    """Return the name of a distribution as indexes compare it (PEP 503).

    packaging's `canonicalize_name` does the same, but its import takes about 50 ms, and images are read by
    commands that need nothing else of it.
    """
    return _SEPARATORS.sub("-", name).lower()


@dataclass(frozen=True, kw_only=True)
class PackageList:
    """The content of a list of installed packages."""

    packages: Mapping[str, str]  # version by normalized name
    unversioned: tuple[str, ...] = ()  # names without a version: editable and git installs
    comments: Mapping[str, str] = field(default_factory=dict)
    """Facts from comment lines such as "# python: 3.13.5"."""


def read_package_list(text: str, *, source: str) -> PackageList:
    """Read the output of `pip list --format=json`, `pip inspect` or `pip freeze`.

    `source` names the list in errors.

    Raises UsageError if the text is none of these.
    """
    comments: dict[str, str] = {}
    if not text.lstrip().startswith(("[", "{")):
        return _read_freeze(text, source)
    try:
        rows = json.loads(text)
        if isinstance(rows, dict):  # pip inspect
            comments["python"] = str(rows["environment"]["python_full_version"])
            rows = [row["metadata"] for row in rows["installed"]]
        packages = {normalize_name(str(row["name"])): str(row["version"]) for row in rows}
    except (ValueError, KeyError, TypeError) as error:
        raise _invalid_list(source) from error
    return PackageList(packages=packages, comments=comments)


def _invalid_list(source: str, details: Sequence[str] = ()) -> UsageError:
    return UsageError(
        f"'{source}' is not a list of packages as pip writes it",
        hint="create it in the image with 'python -m pip list --format=json', which has every version",
        code="package-list-invalid",
        details=details,
    )


def _read_freeze(text: str, source: str) -> PackageList:
    packages: dict[str, str] = {}
    comments: dict[str, str] = {}
    strange: list[str] = []
    for number, raw in enumerate(text.splitlines(), start=1):
        line = raw.strip()
        if comment := _COMMENT.match(line):
            comments[comment[1].lower()] = comment[2]
        elif pin := _PIN.match(line):
            packages[normalize_name(pin[1])] = pin[2]
        # Colab's freeze has lines such as "torch @ https://download.pytorch.org/...": the file name tells the version.
        elif direct := _DIRECT.match(line):
            packages[normalize_name(direct[1])] = extract_version(direct[2])
        elif line.startswith(("-e ", "--editable")):
            packages |= {normalize_name(name): "" for name in _EGG.findall(line)[:1]}
        elif line and not line.startswith(("#", "--")):
            # Column headers of `pip list` are refused; options such as "--hash=..." belong to pins.
            strange.append(f"line {number}: {line}")
    if strange or not packages:
        raise _invalid_list(source, strange[:20] or ["it has no packages"])
    return PackageList(
        packages={name: version for name, version in packages.items() if version},
        unversioned=tuple(sorted(name for name, version in packages.items() if not version)),
        comments=comments,
    )


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
