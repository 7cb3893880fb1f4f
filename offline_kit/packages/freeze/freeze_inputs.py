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
from packaging.utils import canonicalize_name

from offline_kit.core import processes
from offline_kit.core.errors import ProjectError
from offline_kit.packages.builds.resolver_engines import matches_running_python
from offline_kit.packages.freeze import direct_references, freeze_file
from offline_kit.packages.freeze.dependency_walk import (
    PackagePolicy,
    drop_versions,
    is_reconstructed_image,
    marker_holds,
)
from offline_kit.packages.freeze.lock_files import LockedPackages, LockPin, is_lock_file, read_lock_files
from offline_kit.packages.freeze.requirement_files import (
    DirectReference,
    RequirementInputs,
    RequirementLine,
    get_exact_version,
    is_compiled_output,
    parse_requirement,
    read_requirement_files,
)
from offline_kit.packages.pip_settings import IndexSettings, redact_urls
from offline_kit.project.config_keys import Config
from offline_kit.project.images import Image

LOCK_ORIGIN = "the lock file"
"""Origin of a lock file's names, if nothing else tells what the project requires."""


@dataclass(frozen=True, kw_only=True)
class FreezeRequest:
    """What to freeze besides what the configuration says, and how."""

    config: Config
    inline: tuple[str, ...] = ()  # requirements outside of files; see `read_project_dependencies`
    origins: Mapping[str, str] = field(default_factory=dict)  # of inline lines: "the trained files"
    own: tuple[str, ...] = ()  # names of the project's packages, which never come from an index
    imported: frozenset[str] = frozenset()  # by the project's own code; their packages are never left out
    upgrade: bool = False  # ignore the committed freeze and take the newest versions of the index
    keep: bool = True  # whether to write the freeze; a dry run does not
    moment: datetime | None = None  # cut-off for uploads; None is now


@dataclass(frozen=True, kw_only=True)
class FreezeInputs:
    """Everything that a freeze depends on, read. Markers of all requirements hold in the image."""

    requirements: tuple[RequirementLine, ...]  # on packages of an index
    constraints: tuple[RequirementLine, ...]
    direct_references: tuple[RequirementLine, ...]
    lock: LockedPackages  # preferred versions
    index_options: IndexSettings
    policy: PackagePolicy  # what the user decided, without direct references and hashes
    engine: str  # "uv" or "pip-tools"
    ignored_options: list[str]  # that have no meaning for a kit, with their positions
    locked_versions: Mapping[str, LockPin] = field(
        default_factory=dict
    )  # if `lock` has those nearest to them
    left_out: Mapping[str, str] = field(default_factory=dict)  # why, although no setting says so
    imported: frozenset[str] = frozenset()  # by the project's own code, normalized like packages
    error: ProjectError | None = None  # the lines that cannot be read, unless that was raised


def gather_inputs(request: FreezeRequest, image: Image, *, strict: bool = True) -> FreezeInputs:
    """Read everything that the freeze depends on, without network.

    Raises ProjectError; without `strict`, lines that cannot be read are returned as `error` beside the rest.
    """
    config = request.config
    lock_files = [path for path in config.requirements if is_lock_file(path)]
    plain = [path for path in config.requirements if path not in lock_files]
    read = read_requirement_files(
        plain,
        request.inline,
        project=config.project,
        env=processes.copy_environment(),
        origins=request.origins,
        strict=strict,
    )
    engine, compiled_beside = _choose_engine(config, image, plain)
    environment = image.marker_environment()
    policy = PackagePolicy(
        exclude=_normalize_names(config.exclude),
        include=_normalize_names(config.include),
        replace=_normalize_names(config.replace),
        own=_normalize_names(request.own),
    )
    lock = read_lock_files([*config.locks, *lock_files, *read.compiled_files, *compiled_beside], environment)
    lock.drop_packages(policy.exclude)
    requirements = [_drop_compiled_version(line, read) for line in read.requirements]
    if not requirements and not config.requirements and not request.inline:
        requirements = _list_lock_requirements(lock, config.project)
    elif lock_files:
        requirements += _list_lock_requirements(read_lock_files(lock_files, environment), config.project)
    applicable = [line for line in requirements if _applies_to_image(line, environment)]
    training = _find_training_only(applicable, request)
    applicable = [line for line in applicable if line.name not in training]
    return FreezeInputs(
        requirements=tuple(line for line in applicable if not line.direct and line.name not in policy.own),
        direct_references=tuple(
            line
            for line in applicable
            if line.direct and not _list_reference_names(line.direct) & policy.exclude
        ),
        constraints=tuple(line for line in read.constraints if _applies_to_image(line, environment)),
        lock=lock,
        index_options=read.index_options,
        policy=policy,
        engine=engine,
        ignored_options=read.ignored_options,
        left_out={name: f"not needed offline: {cause}" for name, cause in training.items()},
        imported=_normalize_names(request.imported),
        error=read.error,
    )


def _normalize_names(names: Iterable[str]) -> frozenset[str]:
    return frozenset(str(canonicalize_name(name)) for name in names)


def _find_training_only(lines: Iterable[RequirementLine], request: FreezeRequest) -> dict[str, str]:
    """Return required packages that no run without internet needs, with the reason, unless own code imports them."""
    text = (resources.files("offline_kit") / "data" / "training_only.toml").read_text(encoding="utf-8")
    data = tomllib.loads(text)
    kept_names = _normalize_names((*request.config.include, *request.config.exclude))
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
    return replace(line, requirement=str(drop_versions(requirement)), hashes=())


def _list_lock_requirements(lock: LockedPackages, project: Path) -> list[RequirementLine]:
    """Return the requirements of a lock file."""
    pairs = [(line, None) for line in lock.roots]
    pairs += [("", parse_requirement(line, project)[1]) for line in lock.direct_references]  # type: ignore[misc]
    return [
        RequirementLine(requirement=text, origin=LOCK_ORIGIN, position=LOCK_ORIGIN, direct=direct)
        for text, direct in pairs
    ]


def _applies_to_image(line: RequirementLine, environment: Mapping[str, str]) -> bool:
    if line.direct:
        return not line.direct.marker or marker_holds(Marker(line.direct.marker), environment)
    return marker_holds(Requirement(line.requirement).marker, environment)


def _choose_engine(config: Config, image: Image, plain: list[Path]) -> tuple[str, list[Path]]:
    """Return the engine, and the compiled files beside the .in files, whose pins are preferences."""
    beside = [path.with_suffix(".txt") for path in plain if path.suffix == ".in"]
    texts = {
        path: path.read_text(errors="replace") for path in beside if path.is_file() and path not in plain
    }
    compiled = [path for path, text in texts.items() if is_compiled_output(text)]
    if config.engine != "auto":
        return config.engine, compiled
    by_pip_tools = any("pip-compile" in texts[path][:600] for path in compiled)
    return ("pip-tools" if by_pip_tools and matches_running_python(image) else "uv"), compiled


def hash_inputs(inputs: FreezeInputs, request: FreezeRequest, image: Image) -> str:
    """Return the hex digest of everything that the freeze depends on: no paths, times or credentials."""
    index_urls = (inputs.index_options.index_url, *inputs.index_options.extra_index_urls)
    policy = inputs.policy
    # The keys and the form of the values stay as they are: a change would renew every committed freeze.
    fields = {
        "format": freeze_file.FORMAT,
        "image": [image.name, image.python, image.machine, image.accelerator, *image.glibc],
        "packages": sorted(f"{name}=={version}" for name, version in image.packages.items()),
        "unversioned": sorted(image.unversioned),
        "protected": sorted(image.protected),
        "doubtful": is_reconstructed_image(image),
        "families": image.accelerator_families,
        "wanted": [
            f"{line.origin} {line.requirement} {' '.join(line.hashes)}"
            for line in (*inputs.requirements, *inputs.constraints)
        ],
        "directs": [
            direct_references.fingerprint_reference(line.direct, request.config.project)
            for line in inputs.direct_references
            if line.direct
        ],
        "options": [*map(redact_urls, index_urls), str(inputs.index_options.no_index)],
        "lock": {name: pin.version for name, pin in sorted(inputs.lock.pins.items())},
        "policy": [sorted(policy.exclude), sorted(policy.include), sorted(policy.replace)],
        "own": sorted(policy.own),
        "engine": [request.config.engine, request.config.pins],
    }
    lock_names = {line.name for line in inputs.requirements if line.origin == LOCK_ORIGIN}
    if imported_names := sorted(inputs.imported & lock_names):
        fields["needed"] = imported_names
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
