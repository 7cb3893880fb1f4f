"""Gathering the inputs of a freeze, and the digest that says whether they changed."""

import hashlib
import json
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from importlib import resources
from pathlib import Path
from urllib.parse import urlsplit

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from offline_kit.core import processes
from offline_kit.core.errors import ProjectError, UsageError
from offline_kit.packages.freeze import (
    direct_references,
    engines,
    lock_formats,
    requirement_inputs,
)
from offline_kit.packages.freeze import (
    freeze_file as written,
)
from offline_kit.packages.freeze import (
    lock_files as locks,
)
from offline_kit.packages.freeze.dependency_walk import holds
from offline_kit.packages.freeze.lock_files import Lock, LockPin
from offline_kit.packages.freeze.pin_fates import Policy, is_doubtful
from offline_kit.packages.freeze.requirement_inputs import IndexOptions, Inputs
from offline_kit.packages.freeze.requirement_lines import Direct, Wanted, parse
from offline_kit.packages.pip_settings import redact
from offline_kit.project.config_keys import ENGINES
from offline_kit.project.images import Image

OF_LOCK = "the lock file"
"""Who asks for the names of a lock file, if nothing else says what the project needs."""


@dataclass(frozen=True, kw_only=True)
class FreezeRequest:
    """What is to be frozen, and how."""

    project: Path
    """The project's folder."""
    requirements: tuple[Path, ...] = ()
    """Requirements files; lock files among them are taken as such."""
    inline: tuple[str, ...] = ()
    """Requirements that stand in no file of requirements; see `inputs.project_requirements`."""
    origins: Mapping[str, str] = field(default_factory=dict)
    """Who asks for a line of them, where that is not pyproject.toml: "the trained files"."""
    locks: tuple[Path, ...] = ()
    """uv.lock, pylock.toml and `pip freeze` files: their pins are liked."""
    exclude: tuple[str, ...] = ()
    """Packages that are never bundled."""
    include: tuple[str, ...] = ()
    """Packages that are bundled although the image has them."""
    imported: frozenset[str] = frozenset()
    """Top-level names that the project's own code imports: what it imports is never left out."""
    replace: tuple[str, ...] = ()
    """Protected packages that may be replaced, and lock pins that win over the image."""
    pins: str = "image"
    """Who wins where a lock file and the image differ: "image" or "lock"."""
    engine: str = "auto"
    """"auto", "uv" or "pip-tools"."""
    upgrade: bool = False
    """Forget the committed freeze and take what the index has now."""
    written: Path
    """The committed freeze beside the project."""
    keep: bool = True
    """Whether the freeze is written; a dry run leaves the file as it is."""
    now: datetime | None = None
    """The moment of the freeze, which becomes its cut-off; None is the clock's."""


@dataclass(frozen=True, kw_only=True)
class Gathered:
    """All inputs, read."""

    wanted: tuple[Wanted, ...]
    """Requirements on packages of the index, whose markers hold in the image."""
    constraints: tuple[Wanted, ...]
    """Constraints, likewise."""
    directs: tuple[Wanted, ...]
    """Direct references, likewise."""
    lock: Lock
    """Liked versions."""
    options: IndexOptions
    """Index lines of the files."""
    policy: Policy
    """What the user decided; direct references and hashes are yet to come."""
    engine: str
    """"uv" or "pip-tools"."""
    ignored: tuple[str, ...]
    """Options of requirements files that have no meaning here, with their lines."""
    wishes: Mapping[str, LockPin] = field(default_factory=dict)
    """The lock's versions as it has them, where `lock` has nearer ones that the image can take."""
    left_out: Mapping[str, str] = field(default_factory=dict)
    """What is left out of the requirements unasked, with the reason."""
    imported: frozenset[str] = frozenset()
    """Names that the project's own code imports, written as those of distributions."""
    refused: ProjectError | None = None
    """Lines that cannot be read, if that was not raised."""


def gather(request: FreezeRequest, image: Image, own: tuple[str, ...], *, strict: bool = True) -> Gathered:
    """Read everything that the freeze depends on. Raises ProjectError and UsageError, without network.

    Without `strict`, lines that cannot be read are returned as `refused`, so that others are looked at too.
    """
    lock_files = [path for path in request.requirements if locks.is_lock(path)]
    plain = [path for path in request.requirements if not locks.is_lock(path)]
    found = requirement_inputs.read(
        plain,
        request.inline,
        project=request.project,
        env=processes.environment(),
        origins=request.origins,
        strict=strict,
    )
    engine, beside = _engine(request, image, plain)
    environment = image.environment()
    lock = locks.read([*request.locks, *lock_files, *found.compiled, *beside], environment).without(
        _names(request.exclude)
    )
    wanted = [_loosened(one, found) for one in found.wanted]
    if not wanted and not request.requirements and not request.inline:
        wanted = _of_lock(lock, request.project)
    elif lock_files:
        wanted += _of_lock(locks.read(lock_files, environment), request.project)
    kept = [one for one in wanted if _applies(one, environment)]
    training = _training_only(kept, request)
    kept = [one for one in kept if one.name not in training]
    policy = Policy(
        exclude=_names(request.exclude),
        include=_names(request.include),
        replace=_names(request.replace),
        own=_names(own),
    )
    return Gathered(
        wanted=tuple(one for one in kept if not one.direct and one.name not in policy.own),
        directs=tuple(one for one in kept if one.direct and not _names_of(one.direct) & policy.exclude),
        constraints=tuple(one for one in found.constraints if _applies(one, environment)),
        lock=lock,
        options=found.options,
        policy=policy,
        engine=engine,
        ignored=found.ignored,
        left_out={name: f"not needed offline: {why}" for name, why in training.items()},
        imported=_names(request.imported),
        refused=found.refused,
    )


def _names(names: Iterable[str]) -> frozenset[str]:
    return frozenset(str(canonicalize_name(name)) for name in names)


def _training_only(wanted: Iterable[Wanted], request: FreezeRequest) -> dict[str, str]:
    """Return what the user's files ask for that no run without the internet needs; what code imports is kept."""
    data = tomllib.loads(
        (resources.files("offline_kit") / "data" / "training_only.toml").read_text(encoding="utf-8")
    )
    kept = _names((*request.include, *request.exclude))
    return {
        one.name: data["packages"][one.name]
        for one in wanted
        if one.name in data["packages"]
        and one.name not in kept
        and not request.imported & {one.name.replace("-", "_"), *data["imports"].get(one.name, ())}
    }


def _names_of(reference: Direct) -> frozenset[str]:
    """Return what a direct reference may be excluded by: its name, else that of its file or repository."""
    if reference.name:
        return frozenset([reference.name])
    stem = urlsplit(reference.place).path.rstrip("/").rpartition("/")[2].removesuffix(".git")
    return _names([stem, stem.partition("-")[0]] if stem.endswith(".whl") else [stem])


def _loosened(one: Wanted, found: Inputs) -> Wanted:
    """Take the version off a line of a compiled file: there it is a preference."""
    compiled = {path.name for path in found.compiled}
    if one.direct or one.where.rpartition(":")[0].rpartition("/")[2] not in compiled:
        return one
    requirement = Requirement(one.requirement)
    if not lock_formats.exact(requirement):
        return one
    requirement.specifier = type(requirement.specifier)("")
    return replace(one, requirement=str(requirement), hashes=())


def _of_lock(lock: Lock, project: Path) -> list[Wanted]:
    """Return what a lock file asks for."""
    asked = [Wanted(requirement=line, origin=OF_LOCK, where=OF_LOCK) for line in lock.roots]
    for line in lock.directs:
        place = parse(line, project)[1]
        asked.append(Wanted(requirement="", origin=OF_LOCK, where=OF_LOCK, direct=place))
    return asked


def _applies(one: Wanted, environment: Mapping[str, str]) -> bool:
    from packaging.markers import Marker

    if one.direct:
        return not one.direct.marker or holds(Marker(one.direct.marker), environment)
    return holds(Requirement(one.requirement).marker, environment)


def _engine(request: FreezeRequest, image: Image, plain: list[Path]) -> tuple[str, list[Path]]:
    """Return the engine, and the compiled files beside the user's own .in files, which are liked as locks."""
    if request.engine not in ENGINES:
        raise UsageError(f"there is no engine '{request.engine}'", hint=f"choose one of {', '.join(ENGINES)}")
    beside = [path.with_suffix(".txt") for path in plain if path.suffix == ".in"]
    beside = [path for path in beside if path.is_file() and path not in plain]
    compiled = [path for path in beside if requirement_inputs.is_compiled(path.read_text(errors="replace"))]
    if request.engine != "auto":
        return request.engine, compiled
    by_pip_tools = any("pip-compile" in path.read_text(errors="replace")[:600] for path in compiled)
    return ("pip-tools" if by_pip_tools and engines.is_own_python(image) else "uv"), compiled


def digest(read: Gathered, request: FreezeRequest, image: Image) -> str:
    """Return the hex digest of all that the freeze depends on; no place, time or credentials."""
    wanted = [
        f"{one.origin} {one.requirement} {' '.join(one.hashes)}" for one in (*read.wanted, *read.constraints)
    ]
    options = [redact(one) for one in (read.options.index_url, *read.options.extra_index_urls)]
    said = {
        "format": written.FORMAT,
        "image": [image.name, image.python, image.machine, image.accelerator, *image.glibc],
        "packages": sorted(f"{name}=={version}" for name, version in image.packages.items()),
        "unversioned": sorted(image.unversioned),
        "protected": sorted(image.protected),
        "doubtful": is_doubtful(image),
        "families": image.accelerator_families,
        "wanted": wanted,
        "directs": [
            direct_references.fingerprint(one.direct, request.project) for one in read.directs if one.direct
        ],
        "options": [*options, str(read.options.no_index)],
        "lock": {name: pin.version for name, pin in sorted(read.lock.pins.items())},
        "policy": [sorted(one) for one in (read.policy.exclude, read.policy.include, read.policy.replace)],
        "own": sorted(read.policy.own),
        "engine": [request.engine, request.pins],
    }
    needed = sorted(read.imported & {one.name for one in read.wanted if one.origin == OF_LOCK})
    if needed:
        said["needed"] = needed
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
