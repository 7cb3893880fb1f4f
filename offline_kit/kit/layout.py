"""What a kit consists of: its contents, the plan of what the notebook installs, and each file's names and part.

The plan names exact files, and the packages that the notebook takes from the image.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from offline_kit.core import resources
from offline_kit.core.errors import ProjectError
from offline_kit.core.files import sha256_of
from offline_kit.kit import manifest
from offline_kit.project import import_names
from offline_kit.project.images import Image
from offline_kit.project.kaggle_names import map_safe_paths
from offline_kit.project.package_lists import normalize_name
from offline_kit.project.types import (
    Artifact,
    Checkpoint,
    Fate,
    FileEntry,
    Finding,
    Freeze,
    KitPart,
    Member,
    OwnCode,
    Role,
    SettledSdist,
    Severity,
    Wheel,
    Wheelhouse,
)

_PLAN_FORMAT = 1
PLAN = "packages/install.json"
RUNTIME_PACKAGE = "offline_kit_runtime"  # the folder of the kit that the notebook imports
_PREPROCESSING = "checkpoints/preprocessing/"
# Bytes from which a checkpoint of a split kit gets its own dataset
_LARGE = 50_000_000
# If there are more large checkpoints than this, they share as many datasets
_MOST_GROUPS = 16
SPLIT_SUFFIX_LENGTH = len("-checkpoints-0000")  # the most characters that a split adds to the dataset's slug
Source = Path | bytes  # A file to copy, or the bytes themselves


@dataclass(frozen=True, kw_only=True)
class KitContents:
    """Everything that goes into a kit."""

    freeze: Freeze
    image: Image
    wheelhouse: Wheelhouse = field(default_factory=Wheelhouse)  # wheels of the bundled pins and of the spares
    prepared_sdists: tuple[SettledSdist, ...] = ()  # packages that exist only as sdists
    own: OwnCode = field(default_factory=OwnCode)
    imported: frozenset[str] = frozenset()  # top-level names that the project's own code imports
    checkpoints: tuple[Checkpoint, ...] = ()
    preprocessing: tuple[Checkpoint, ...] = ()  # files that are loaded by name besides the checkpoints
    members: tuple[Member, ...] = ()
    split: bool = False  # whether packages, code and checkpoints each have a dataset of their own
    grouped: bool = False  # whether each large checkpoint of a split kit has a dataset of its own
    remote_parts: tuple[KitPart, ...] = ()  # existing parts on Kaggle; their wheels here hold metadata only
    recorded: tuple[
        tuple[FileEntry, Path], ...
    ] = ()  # the files of a recording, which are then all of the kit


def render_plan(contents: KitContents) -> str:
    """Return the plan as JSON, the same text for the same contents.

    Raises ProjectError listing every bundled pin without a file.
    """
    own = {wheel.name: wheel for wheel in contents.own.wheels}
    wheels = {wheel.name: wheel for wheel in contents.wheelhouse.wheels}
    sdists = {prepared.name: prepared for prepared in contents.prepared_sdists}
    # An own package takes the place of a pin of its name
    bundled = [pin for pin in contents.freeze.pins_with(Fate.BUNDLED) if pin.name not in own]
    missing_pins = [f"{pin.name}=={pin.version}" for pin in bundled if pin.name not in wheels | sdists]
    if missing_pins:
        raise ProjectError(
            f"{len(missing_pins)} bundled packages have no file in the wheelhouse",
            code="package-file-missing",
            hint="run the build again; if it fails again, freeze again with --upgrade",
            details=missing_pins,
        )
    _check_import_names(own, [wheels[pin.name] for pin in bundled if pin.name in wheels])
    items = [_describe_item(wheel, "own", wheel) for wheel in own.values()]
    for pin in bundled:
        prepared = sdists.get(pin.name)
        package = prepared or wheels[pin.name]
        items.append(
            _describe_item(package, "bundled", prepared.wheel if prepared else wheels[pin.name], prepared)
        )
    provided = []
    for pin in contents.freeze.pins_with(Fate.PROVIDED):
        spare = wheels.get(pin.name) if pin.spare else None
        provided.append(
            {
                "name": pin.name,
                "version": pin.version,
                "requires": list(pin.requires),
                # Paths of the user's files differ between machines, and the kit's id must not.
                "asked_by": sorted({"the project" if by.startswith("-") else by for by in pin.asked_by}),
                "spare": spare.filename if spare else None,
            }
        )
    offered = {str(name).partition(".")[0] for item in items for name in item["imports"]}
    plan: dict[str, Any] = {
        "format": _PLAN_FORMAT,
        "image": contents.image.name,
        "python": contents.image.python_minor,
        "install": sorted(items, key=lambda item: str(item["name"])),
        "provided": sorted(provided, key=lambda item: str(item["name"])),
        "roots": list(contents.own.roots),
        "imported": sorted(offered & contents.imported),
    }
    known = {*wheels, *own, *sdists, *(str(item["name"]) for item in provided)}
    more = {
        "counted": _list_counted(contents, known),
        # From the checkpoints themselves, so that the plan is the same on every machine
        "trained": [
            {"path": member.kit_path, "framework": member.framework, "version": member.version}
            for member in contents.members
            if member.version_said
        ],
    }
    plan |= {key: value for key, value in more.items() if value}
    # Sorted keys: the plan is part of the kit's id.
    return json.dumps(plan, indent=1, sort_keys=True) + "\n"


def _list_counted(contents: KitContents, known: Collection[str]) -> dict[str, str]:
    """Return the image's version of each package that the project's code imports and no requirement reaches."""
    counted = {}
    for name in sorted(contents.imported):
        # Not what the running environment says: the plan must be the same on every machine.
        guesses = (*import_names.find_distributions(name), normalize_name(name))
        package = next((guess for guess in guesses if guess in contents.image.packages), "")
        if package and package not in known:
            counted[package] = contents.image.packages[package]
    return counted


def find_shadowed_packages(contents: KitContents) -> tuple[Finding, ...]:
    """Return a warning for each bundled package that an own module of the same import name hides."""
    own: dict[str, str] = {}
    for source in contents.own.sources:
        for root in contents.own.roots:
            inside = PurePosixPath(source.original)
            parts = inside.relative_to(root).parts if inside.is_relative_to(root) else ()
            is_module = len(parts) == 1 and parts[0].endswith(".py")
            if is_module or (len(parts) == 2 and parts[1] == "__init__.py"):
                own[parts[0].removesuffix(".py")] = source.original
    wheels = [*contents.wheelhouse.wheels]
    wheels += [prepared.wheel for prepared in contents.prepared_sdists if prepared.wheel]
    return tuple(
        Finding(
            severity=Severity.WARN,
            about=own[name],
            what=f"is imported as '{name}' instead of the kit's package {wheel.name} {wheel.version}",
            remedy=f'rename the module if you need the package, or leave the package out: exclude = ["{wheel.name}"]',
        )
        for wheel in wheels
        for name in import_names.read_wheel_imports(wheel.path)
        if name in own
    )


def _check_import_names(own: Mapping[str, Wheel], wheels: Iterable[Wheel]) -> None:
    """Raise ProjectError if a package of the kit would overwrite an own one of the same import name."""
    tops = {
        name: wheel.name for wheel in own.values() for name in import_names.read_wheel_imports(wheel.path)
    }
    twins = [
        (name, wheel)
        for wheel in wheels
        for name in import_names.read_wheel_imports(wheel.path)
        if name in tops and wheel.name != tops[name]
    ]
    if twins:
        raise ProjectError(
            f"{len(twins)} packages of the kit have the import name of your own package",
            code="duplicate-import-name",
            hint=f'leave them out with exclude = ["{twins[0][1].name}"], or rename your package',
            details=[
                f"'{name}' is in {wheel.name} {wheel.version} and in {tops[name]}" for name, wheel in twins
            ],
        )


def _describe_item(
    package: Wheel | SettledSdist, role: str, wheel: Wheel | None, prepared: SettledSdist | None = None
) -> dict[str, Any]:
    sdist = prepared.sdist if prepared else None
    imports = import_names.read_wheel_imports(wheel.path) if wheel else ()
    if sdist and not wheel:
        imports = import_names.read_sdist_imports(sdist.path, package.name)
    return {
        "name": package.name,
        "version": package.version,
        "wheel": wheel.filename if wheel else None,
        "sdist": sdist.filename if sdist else None,
        "build": sorted(item.filename for item in prepared.closure) if prepared else [],
        "imports": list(imports),
        "role": role,
    }


@dataclass(frozen=True, kw_only=True)
class KitLayout:
    """A kit before it is written."""

    parts: tuple[KitPart, ...]
    sources: dict[str, Source]  # of all files, by original name
    remote: frozenset[str]  # original names of the files that stay on Kaggle until a rehearsal fetches them


def arrange_files(contents: KitContents) -> KitLayout:
    """Return the files of the kit and their names; hashes loose sources, writes nothing.

    Raises ProjectError listing every file that must not or cannot be shipped: keys, duplicate names, names that no
    manifest can hold.
    """
    files: dict[str, tuple[FileEntry, Source]] = {}
    problems = []
    for entry, source in _list_files(contents):
        # A wheel needed for two roles is shipped once, under the first.
        first, first_source = files.setdefault(entry.original, (entry, source))
        if first.sha256 != entry.sha256:
            problems.append(f"'{entry.original}' has two contents: '{first_source!s}' and '{source!s}'")
    if problems:
        raise ProjectError(
            "two files of the kit would have the same name",
            code="duplicate-file",
            hint="remove the wrong one from the cache folder, or pin another version",
            details=problems,
        )
    problems = [f"{name!a} {reason}" for name in sorted(files) if (reason := manifest.check_path(name))]
    if problems:
        raise ProjectError(
            "some files must not go into a kit",
            code="file-not-allowed",
            hint="move them out of the packages, modules and checkpoints that are shipped, or rename them",
            details=problems,
        )
    remote = frozenset(entry.original for part in contents.remote_parts for entry in part.entries)
    # What stays on Kaggle keeps the stored names that it has there
    stored = map_safe_paths(files.keys() - remote)
    entries = [replace(files[name][0], stored=stored_name) for name, stored_name in stored.items()]
    parts = [*contents.remote_parts]
    if contents.split:
        parts += _split_parts(entries, contents)
    elif entries:
        parts.append(manifest.make_part("kit", entries))
    return KitLayout(
        parts=tuple(sorted(parts, key=lambda part: part.name)),
        sources={name: source for name, (_, source) in files.items()},
        remote=remote,
    )


def _split_parts(entries: Sequence[FileEntry], contents: KitContents) -> list[KitPart]:
    """Return a part for each top folder; own wheels, the plan that lists them and the runtime belong to the code.

    A changed line of code thus uploads the code again, not the wheels of others, and an update of this tool only the
    code, which is the smallest part. `contents.grouped` gives each large
    file a part named after it: a new version of a Kaggle dataset uploads all its files.
    """
    own = {PLAN, *(f"packages/{wheel.filename}" for wheel in contents.own.wheels)}
    roles = (Role.CHECKPOINT, Role.PREPROCESSING) if contents.grouped else ()
    large = [entry.original for entry in entries if entry.role in roles and entry.size >= _LARGE]
    # The name follows from the file's, so that the same checkpoint stays in the same dataset.
    digits = 4 if len(large) <= _MOST_GROUPS else 1
    entries_by_part: dict[str, list[FileEntry]] = {}
    for entry in entries:
        in_code = entry.original in own or entry.role is Role.RUNTIME
        name = "code" if in_code else entry.original.partition("/")[0]
        if entry.original in large:
            name = f"{name}-{hashlib.sha256(entry.original.encode()).hexdigest()[:digits]}"
        entries_by_part.setdefault(name, []).append(entry)
    return [manifest.make_part(name, part_entries) for name, part_entries in entries_by_part.items()]


def _list_files(contents: KitContents) -> Iterator[tuple[FileEntry, Source]]:
    """Yield all files of a kit; their stored names are not known yet."""
    if contents.recorded:
        for entry, path in contents.recorded:
            # One that stays on Kaggle brings the runtime that recorded it, any other one that of this version.
            if entry.role is Role.RECORDING or contents.remote_parts:
                yield replace(entry, stored=""), path
        yield from () if contents.remote_parts else list_runtime_files()
        return
    plan = render_plan(contents).encode()
    yield _make_entry(Role.LOCK, PLAN, len(plan), hashlib.sha256(plan).hexdigest()), plan
    yield from list_runtime_files()
    wheels = [*contents.wheelhouse.wheels, *contents.own.wheels]
    packages: list[tuple[Role, Artifact]] = [(Role.WHEEL, wheel) for wheel in wheels]
    packages += [(Role.WHEEL, sdist.wheel) for sdist in contents.prepared_sdists if sdist.wheel]
    for prepared in contents.prepared_sdists:
        packages += [(Role.SDIST, prepared.sdist)] if prepared.sdist else []
        packages += [(Role.BUILD, wheel) for wheel in prepared.closure]
    for role, package in packages:
        yield _make_entry(role, f"packages/{package.filename}", package.size, package.sha256), package.path
    for source in contents.own.sources:
        try:
            size, digest = source.path.stat().st_size, sha256_of(source.path)
        except OSError as error:
            raise ProjectError(
                f"cannot read '{source.original}': {error.strerror}",
                code="file-unreadable",
                hint="fix or remove the file, then build again",
            ) from error
        yield _make_entry(Role.SOURCE, f"code/{source.original}", size, digest), source.path
    names = name_checkpoints(contents.checkpoints)
    checkpoints = [(Role.CHECKPOINT, names[file.original], file) for file in contents.checkpoints]
    checkpoints += [
        (Role.PREPROCESSING, _PREPROCESSING + file.original, file) for file in contents.preprocessing
    ]
    for role, name, file in checkpoints:
        yield _make_entry(role, name, file.size, file.sha256), file.path


def list_runtime_files() -> Iterator[tuple[FileEntry, bytes]]:
    """Yield the files of the notebook's runtime; their stored names are not set yet."""
    for name, source in resources.runtime_files().items():
        digest = hashlib.sha256(source).hexdigest()
        yield _make_entry(Role.RUNTIME, f"{RUNTIME_PACKAGE}/{name}", len(source), digest), source


def _make_entry(role: Role, original: str, size: int, digest: str) -> FileEntry:
    return FileEntry(role=role, original=original, stored="", size=size, sha256=digest)


def name_checkpoints(checkpoints: Sequence[Checkpoint]) -> dict[str, str]:
    """Return the name in the kit of each checkpoint, by its original name."""
    # "checkpoints/best.ckpt" of the project is not doubled to "checkpoints/checkpoints/best.ckpt".
    tops = {PurePosixPath(checkpoint.original).parts[0] for checkpoint in checkpoints}
    folder = "" if tops == {"checkpoints"} else "checkpoints/"
    names = [checkpoint.original for checkpoint in checkpoints]
    return {name: folder + name if name != "checkpoints" else "checkpoints/checkpoints" for name in names}


def name_preprocessing_files(files: Sequence[Checkpoint]) -> dict[str, str]:
    """Return the name in the kit of each preprocessing file, by the name that a notebook uses.

    That is the file name, or the path in the project if several have the same file name. Caches in "caches/" are
    left out: their libraries find them.
    """
    originals = [file.original for file in files if not file.original.startswith("caches/")]
    pairs = [(PurePosixPath(original).name, original) for original in originals]
    counts = Counter(name for name, _ in pairs)
    return {
        name if counts[name] == 1 else original: f"{_PREPROCESSING}{original}" for name, original in pairs
    }
