"""Find the import names of a distribution from its files, and the distributions of well-known import names."""

import keyword
import re
import tarfile
import tomllib
import zipfile
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

from offline_kit.core import resources
from offline_kit.core.errors import ProjectError

_CODE = re.compile(
    r"^([A-Za-z_]\w*)(\.(cpython|cp|abi|pypy|pyston|graalpy)[\w-]*)?\.(py|pyc|so|pyd)$", re.ASCII
)
# Packages that some wheels contain by mistake; importing them would test nothing.
_BYSTANDERS = {
    *("test", "tests", "testing", "doc", "docs", "example", "examples", "sample", "samples", "demo", "demos"),
    *("benchmark", "benchmarks", "bench", "script", "scripts", "tool", "tools", "conftest", "setup", "build"),
}
_TOP_LEVEL = ".egg-info/top_level.txt"
_LOOSE = 3  # modules to list from a namespace folder without packages


def find_distributions(name: str) -> tuple[str, ...]:
    """Return the distributions that provide a top-level import name, the usual one first; () if unknown.

    They are curated in data/import_names.toml, because an import name alone does not tell its distribution.
    """
    table = _load_distributions()
    if name in table["same"]:
        return (name.lower().replace("_", "-"),)
    return tuple(table["other"].get(name, ()))


@cache
def _load_distributions() -> dict[str, Any]:
    return tomllib.loads(resources.data_file("import_names.toml").read_text(encoding="utf-8"))


def read_wheel_imports(wheel: Path) -> tuple[str, ...]:
    """Return the import names of a wheel, sorted: packages, modules, and members of namespace packages (PEP 420).

    Private names, stubs, data and scripts have none.

    Raises ProjectError if the file is not a wheel.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            return derive_import_names(info.filename for info in archive.infolist() if not info.is_dir())
    except (zipfile.BadZipFile, OSError) as error:
        raise ProjectError(
            f"'{wheel.name}' cannot be read as a wheel: {error}",
            hint="remove it from the cache or the find-links folder, then build again",
            code="wheel-unreadable",
        ) from error


def derive_import_names(names: Iterable[str]) -> tuple[str, ...]:
    """Return the import names of these files (posix paths in a wheel); see `read_wheel_imports`."""
    roots: dict[str, list[Sequence[str]]] = {}
    for name in names:
        parts = PurePosixPath(name).parts
        if parts and parts[0].endswith(".data"):
            parts = parts[2:] if len(parts) > 2 and parts[1] in ("purelib", "platlib") else ()
        if parts and _CODE.match(parts[-1]) and "__pycache__" not in parts:
            roots.setdefault(_strip_module_suffix(parts[0]), []).append(parts)
    tops = {top: _list_names_below(top, files) for top, files in roots.items() if _is_public_name(top)}
    public_names = {
        name for top, import_names in tops.items() for name in import_names if top.lower() not in _BYSTANDERS
    }
    return tuple(sorted(public_names or {name for import_names in tops.values() for name in import_names}))


def read_sdist_imports(sdist: Path, name: str) -> tuple[str, ...]:
    """Return the import names in an sdist's top_level.txt, or else the package or module named like the project.

    setuptools writes top_level.txt, other build backends do not. () means that no import is tested.
    """
    try:
        files, stated = _read_sdist_files(sdist)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError):
        return ()  # building the sdist reports that it is damaged
    # An sdist with a top_level.txt was made by setuptools, which knows the names.
    if stated:
        return tuple(sorted(top for top in stated if _is_public_name(top) and top.lower() not in _BYSTANDERS))
    project_name = re.sub(r"[-.]+", "_", name).lower()
    relative = [PurePosixPath(*PurePosixPath(file).parts[1:]) for file in files]
    plain = [path.relative_to("src") if path.parts[:1] == ("src",) else path for path in relative]
    return tuple(
        top for top in derive_import_names(map(str, plain)) if top.partition(".")[0].lower() == project_name
    )


def _read_sdist_files(sdist: Path) -> tuple[list[str], list[str]]:
    """Return the file names of an sdist and the lines of its top_level.txt."""
    if zipfile.is_zipfile(sdist):
        with zipfile.ZipFile(sdist) as packed:
            names = packed.namelist()
            texts = [packed.read(name) for name in names if name.endswith(_TOP_LEVEL)]
    else:
        with tarfile.open(sdist) as rolled:
            members = [member for member in rolled.getmembers() if member.isfile()]
            names = [member.name for member in members]
            streams = [rolled.extractfile(member) for member in members if member.name.endswith(_TOP_LEVEL)]
            texts = [stream.read() for stream in streams if stream]
    return names, b"\n".join(texts).decode(errors="replace").split()


def _strip_module_suffix(part: str) -> str:
    match = _CODE.match(part)
    return match[1] if match else part


def _is_public_name(name: str) -> bool:
    return name.isidentifier() and not name.startswith("_") and not keyword.iskeyword(name)


def _list_names_below(name: str, files: Sequence[Sequence[str]], depth: int = 1) -> list[str]:
    """Return the import names for `name` (dotted), whose files share their first `depth` parts."""
    if any(len(parts) == depth for parts in files):
        return [name]  # a module
    inner: dict[str, list[Sequence[str]]] = {}
    for parts in files:
        inner.setdefault(_strip_module_suffix(parts[depth]), []).append(parts)
    if any(len(parts) == depth + 1 for parts in inner.get("__init__", ())):
        return [name]  # a package
    # A namespace package (PEP 420) always imports, even if its members are missing: test those.
    packages: list[str] = []
    loose: list[str] = []
    for part, below in sorted(inner.items()):
        if _is_public_name(part) and part.lower() not in _BYSTANDERS:
            single = any(len(parts) == depth + 1 for parts in below)
            (loose if single else packages).extend(_list_names_below(f"{name}.{part}", below, depth + 1))
    return packages or loose[:_LOOSE]
