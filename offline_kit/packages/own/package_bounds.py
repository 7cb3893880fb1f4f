"""Report protected versions of the image that the project's own packages exclude, before the resolver fails."""

import tomllib
from collections.abc import Collection, Iterable, Sequence
from configparser import ConfigParser
from configparser import Error as ConfigError
from pathlib import Path

from offline_kit.project.images import Image
from offline_kit.project.package_lists import normalize_name
from offline_kit.project.types import Finding, Severity

_FILES = ("pyproject.toml", "setup.cfg", "setup.py")


def check_package_bounds(
    packages: Sequence[Path], built: Iterable[str], image: Image, replaceable: Collection[str]
) -> tuple[Finding, ...]:
    """Return one finding with the protected versions of the image that the packages exclude.

    `built` holds the requirement lines of wheels built earlier, in addition to those of setup.cfg and
    pyproject.toml. `replaceable` names packages that the configuration replaces or excludes. Bounds of unprotected
    packages can stay, which the finding says: the kit brings versions that fit them.
    """
    lines = dict.fromkeys([*built, *(line for package in packages for line in _read_declared(package))])
    free = {normalize_name(name) for name in replaceable}
    excluded = {name: bound for name, bound in _find_excluded(lines, image) if name not in free}
    blocking = sorted(filter(image.is_protected, excluded))
    if not blocking:
        return ()
    bounds = ", ".join(f"{name}{excluded[name]} (image: {image.packages[name]})" for name in blocking)
    names = ", ".join(f'"{name}"' for name in blocking)
    remedy = (
        f"drop {'these bounds' if len(blocking) > 1 else 'this bound'}, or set exclude = [{names}] to use"
    )
    remedy += " the image's version anyway"
    if satisfiable := sorted(excluded.keys() - set(blocking)):
        remedy += f"; keep the bounds of {', '.join(satisfiable)}: the kit brings versions that fit"
    # The file that holds the bounds, else the package's folder.
    about = ", ".join(package.name for package in packages)
    for path in reversed([package / name for package in packages for name in _FILES]):
        text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
        if all(name in normalize_name(text) for name in blocking):
            about = path.name if len(packages) == 1 else f"{path.parent.name}/{path.name}"
    what = f"excludes protected versions of the image '{image.name}': {bounds}"
    return (Finding(severity=Severity.WARN, about=about, what=what, remedy=remedy),)


def _find_excluded(lines: Iterable[str], image: Image) -> Iterable[tuple[str, str]]:
    from packaging.requirements import InvalidRequirement, Requirement

    for line in lines:
        try:
            requirement = Requirement(line)
        except InvalidRequirement:
            continue  # reported by the freeze
        name, version = normalize_name(requirement.name), image.public_version(requirement.name)
        # "extra" must be defined, or a marker with it cannot be evaluated (PEP 508).
        applies = requirement.marker is None or requirement.marker.evaluate(
            {**image.marker_environment(), "extra": ""}
        )
        # Pre-releases of the image count: nightly builds of torch are some.
        if version and applies and not requirement.specifier.contains(version, prereleases=True):
            yield name, str(requirement.specifier)


def _read_declared(package: Path) -> list[str]:
    """Return the requirements in a package's files, without those that only a build can tell."""
    reader = ConfigParser(interpolation=None)
    try:
        reader.read(package / "setup.cfg", encoding="utf-8")
        lines = reader.get("options", "install_requires", fallback="").splitlines()
    except (ConfigError, OSError, UnicodeDecodeError):
        lines = []
    try:
        pyproject = tomllib.loads((package / "pyproject.toml").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        pyproject = {}
    dependencies = pyproject.get("project", {}).get("dependencies") or []
    return [line for line in map(str.strip, [*lines, *dependencies]) if line]
