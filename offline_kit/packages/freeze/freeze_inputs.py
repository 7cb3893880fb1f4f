"""The inputs of a freeze, and the hash that tells whether they changed."""

import hashlib
import json
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from importlib import resources
from pathlib import Path
from urllib.parse import urlsplit

from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from offline_kit.core import processes
from offline_kit.core.errors import ProjectError, UsageError
from offline_kit.packages.freeze import direct_references, freeze_file
from offline_kit.packages.freeze.dependency_walk import marker_holds
from offline_kit.packages.freeze.lock_files import LockedPackages, LockPin, read_lock_files, split_lock_files
from offline_kit.packages.freeze.pin_fates import PackagePolicy, is_reconstructed_image
from offline_kit.packages.freeze.requirement_files import (
    DirectReference,
    IndexOptions,
    RequirementInputs,
    RequirementLine,
    get_exact_version,
    is_compiled_output,
    parse_requirement,
    read_requirement_files,
)
from offline_kit.packages.freeze.resolver_engines import matches_running_python
from offline_kit.packages.pip_settings import redact_urls
from offline_kit.project.config_keys import ENGINES
from offline_kit.project.images import Image

LOCK_ORIGIN = "the lock file"
"""Origin of a lock file's names, if nothing else tells what the project requires."""


@dataclass(frozen=True, kw_only=True)
class FreezeRequest:
    """What to freeze, and how."""

    project: Path
    requirements: tuple[Path, ...] = ()
    """Requirements files, and lock files that are read as such."""
    inline: tuple[str, ...] = ()
    """Requirements outside of requirements files; see `read_project_dependencies`."""
    origins: Mapping[str, str] = field(default_factory=dict)
    """Origin of inline lines that are not from pyproject.toml: "the trained files"."""
    locks: tuple[Path, ...] = ()
    """uv.lock, pylock.toml and `pip freeze` files: their pins are preferred."""
    exclude: tuple[str, ...] = ()
    """Packages that are never bundled."""
    include: tuple[str, ...] = ()
    """Packages that are bundled even if the image has them."""
    imported: frozenset[str] = frozenset()
    """Top-level names that the project's own code imports; their packages are never left out."""
    replace: tuple[str, ...] = ()
    """Protected packages that may be replaced, and lock pins that win over the image."""
    pins: str = "image"
    """Which versions win if a lock file and the image differ: "image" or "lock"."""
    engine: str = "auto"
    """"auto", "uv" or "pip-tools"."""
    upgrade: bool = False
    """Ignore the committed freeze and take the newest versions of the index."""
    freeze_path: Path
    """The committed freeze beside the project."""
    keep: bool = True
    """Whether to write the freeze; a dry run does not."""
    moment: datetime | None = None
    """Cut-off for uploads; None is now."""


@dataclass(frozen=True, kw_only=True)
class FreezeInputs:
    """Everything that a freeze depends on, read. Markers of all requirements hold in the image."""

    requirements: tuple[RequirementLine, ...]
    """Requirements on packages of an index."""
    constraints: tuple[RequirementLine, ...]
    direct_references: tuple[RequirementLine, ...]
    lock: LockedPackages
    """Preferred versions."""
    index_options: IndexOptions
    policy: PackagePolicy
    """What the user decided, without direct references and hashes."""
    engine: str
    """"uv" or "pip-tools"."""
    ignored_options: tuple[str, ...]
    """Options without meaning for a kit, with their positions."""
    locked_versions: Mapping[str, LockPin] = field(default_factory=dict)
    """The lock's own versions, if `lock` has the nearest ones that fit the image."""
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Packages that are left out although no setting says so, with the reason."""
    imported: frozenset[str] = frozenset()
    """Names that the project's own code imports, normalized like packages."""
    error: ProjectError | None = None
    """The lines that cannot be read, unless that was raised."""


def gather_inputs(
    request: FreezeRequest, image: Image, own: tuple[str, ...], *, strict: bool = True
) -> FreezeInputs:
    """Read everything that the freeze depends on, without network.

    `own` names the project's packages. Raises ProjectError and UsageError; without `strict`, lines that cannot
    be read are returned as `error` beside the rest.
    """
    plain, lock_files = split_lock_files(request.requirements)
    requirement_files = read_requirement_files(
        plain,
        request.inline,
        project=request.project,
        env=processes.copy_environment(),
        origins=request.origins,
        strict=strict,
    )
    engine, compiled_beside = _choose_engine(request, image, plain)
    environment = image.marker_environment()
    lock = read_lock_files(
        [*request.locks, *lock_files, *requirement_files.compiled_files, *compiled_beside], environment
    ).drop_packages(_normalize_names(request.exclude))
    requirements = [
        _drop_compiled_version(line, requirement_files) for line in requirement_files.requirements
    ]
    if not requirements and not request.requirements and not request.inline:
        requirements = _list_lock_requirements(lock, request.project)
    elif lock_files:
        requirements += _list_lock_requirements(read_lock_files(lock_files, environment), request.project)
    applicable = [line for line in requirements if _applies_to_image(line, environment)]
    training = _find_training_only(applicable, request)
    applicable = [line for line in applicable if line.name not in training]
    policy = PackagePolicy(
        exclude=_normalize_names(request.exclude),
        include=_normalize_names(request.include),
        replace=_normalize_names(request.replace),
        own=_normalize_names(own),
    )
    return FreezeInputs(
        requirements=tuple(line for line in applicable if not line.direct and line.name not in policy.own),
        direct_references=tuple(
            line
            for line in applicable
            if line.direct and not _list_reference_names(line.direct) & policy.exclude
        ),
        constraints=tuple(
            line for line in requirement_files.constraints if _applies_to_image(line, environment)
        ),
        lock=lock,
        index_options=requirement_files.index_options,
        policy=policy,
        engine=engine,
        ignored_options=requirement_files.ignored_options,
        left_out={name: f"not needed offline: {cause}" for name, cause in training.items()},
        imported=_normalize_names(request.imported),
        error=requirement_files.error,
    )


def _normalize_names(names: Iterable[str]) -> frozenset[str]:
    return frozenset(str(canonicalize_name(name)) for name in names)


def _find_training_only(lines: Iterable[RequirementLine], request: FreezeRequest) -> dict[str, str]:
    """Return required packages that no run without internet needs, with the reason, unless own code imports them."""
    data = tomllib.loads(
        (resources.files("offline_kit") / "data" / "training_only.toml").read_text(encoding="utf-8")
    )
    kept_names = _normalize_names((*request.include, *request.exclude))
    return {
        line.name: data["packages"][line.name]
        for line in lines
        if line.name in data["packages"]
        and line.name not in kept_names
        and not request.imported & {line.name.replace("-", "_"), *data["imports"].get(line.name, ())}
    }


def _list_reference_names(reference: DirectReference) -> frozenset[str]:
    """Return the names that exclude a direct reference: its own, else that of its file or repository."""
    if reference.name:
        return frozenset([reference.name])
    stem = urlsplit(reference.location).path.rstrip("/").rpartition("/")[2].removesuffix(".git")
    return _normalize_names([stem, stem.partition("-")[0]] if stem.endswith(".whl") else [stem])


def _drop_compiled_version(line: RequirementLine, inputs: RequirementInputs) -> RequirementLine:
    """Drop the exact version of a line in a compiled file: there it is a preference."""
    compiled_names = {path.name for path in inputs.compiled_files}
    if line.direct or line.position.rpartition(":")[0].rpartition("/")[2] not in compiled_names:
        return line
    requirement = Requirement(line.requirement)
    if not get_exact_version(requirement):
        return line
    requirement.specifier = SpecifierSet()
    return replace(line, requirement=str(requirement), hashes=())


def _list_lock_requirements(lock: LockedPackages, project: Path) -> list[RequirementLine]:
    """Return the requirements of a lock file."""
    lines = [
        RequirementLine(requirement=line, origin=LOCK_ORIGIN, position=LOCK_ORIGIN) for line in lock.roots
    ]
    for line in lock.direct_references:
        reference = parse_requirement(line, project)[1]
        lines.append(
            RequirementLine(requirement="", origin=LOCK_ORIGIN, position=LOCK_ORIGIN, direct=reference)
        )
    return lines


def _applies_to_image(line: RequirementLine, environment: Mapping[str, str]) -> bool:
    if line.direct:
        return marker_holds(Marker(line.direct.marker) if line.direct.marker else None, environment)
    return marker_holds(Requirement(line.requirement).marker, environment)


def _choose_engine(request: FreezeRequest, image: Image, plain: list[Path]) -> tuple[str, list[Path]]:
    """Return the engine, and the compiled files beside the .in files, whose pins are preferences."""
    if request.engine not in ENGINES:
        raise UsageError(
            f"there is no engine '{request.engine}'",
            hint=f"use one of {', '.join(ENGINES)}",
            code="engine-unknown",
        )
    compiled_beside = [path.with_suffix(".txt") for path in plain if path.suffix == ".in"]
    compiled_beside = [path for path in compiled_beside if path.is_file() and path not in plain]
    compiled = [path for path in compiled_beside if is_compiled_output(path.read_text(errors="replace"))]
    if request.engine != "auto":
        return request.engine, compiled
    by_pip_tools = any("pip-compile" in path.read_text(errors="replace")[:600] for path in compiled)
    return ("pip-tools" if by_pip_tools and matches_running_python(image) else "uv"), compiled


def hash_inputs(inputs: FreezeInputs, request: FreezeRequest, image: Image) -> str:
    """Return the hex digest of everything that the freeze depends on: no paths, times or credentials."""
    lines = [
        f"{line.origin} {line.requirement} {' '.join(line.hashes)}"
        for line in (*inputs.requirements, *inputs.constraints)
    ]
    options = [
        redact_urls(line) for line in (inputs.index_options.index_url, *inputs.index_options.extra_index_urls)
    ]
    fields = {
        "format": freeze_file.FORMAT,
        "image": [image.name, image.python, image.machine, image.accelerator, *image.glibc],
        "packages": sorted(f"{name}=={version}" for name, version in image.packages.items()),
        "unversioned": sorted(image.unversioned),
        "protected": sorted(image.protected),
        "doubtful": is_reconstructed_image(image),
        "families": image.accelerator_families,
        "wanted": lines,
        "directs": [
            direct_references.fingerprint_reference(line.direct, request.project)
            for line in inputs.direct_references
            if line.direct
        ],
        "options": [*options, str(inputs.index_options.no_index)],
        "lock": {name: pin.version for name, pin in sorted(inputs.lock.pins.items())},
        "policy": [
            sorted(line) for line in (inputs.policy.exclude, inputs.policy.include, inputs.policy.replace)
        ],
        "own": sorted(inputs.policy.own),
        "engine": [request.engine, request.pins],
    }
    imported_names = sorted(
        inputs.imported & {line.name for line in inputs.requirements if line.origin == LOCK_ORIGIN}
    )
    if imported_names:
        fields["needed"] = imported_names
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
