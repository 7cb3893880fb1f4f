"""The install plan: the exact files that the notebook installs, and the packages that it takes from the image."""

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from offline_kit.core.errors import ProjectError
from offline_kit.project import import_names
from offline_kit.project.images import Image
from offline_kit.project.package_lists import normalize_name
from offline_kit.project.types import (
    Checkpoint,
    Fate,
    FileEntry,
    Finding,
    Freeze,
    KitPart,
    Member,
    OwnCode,
    SettledSdist,
    Severity,
    Wheel,
    Wheelhouse,
)

FORMAT = 1
PLAN = "packages/install.json"


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
    items = [_describe_item(wheel.name, wheel.version, wheel, "own") for wheel in own.values()]
    for pin in bundled:
        if pin.name in sdists:
            items.append(_describe_sdist(sdists[pin.name]))
        else:
            wheel = wheels[pin.name]
            items.append(_describe_item(wheel.name, wheel.version, wheel, "bundled"))
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
        "format": FORMAT,
        "image": contents.image.name,
        "python": contents.image.python_minor,
        "install": sorted(items, key=lambda item: str(item["name"])),
        "provided": sorted(provided, key=lambda item: str(item["name"])),
        "roots": list(contents.own.roots),
        "imported": sorted(offered & contents.imported),
    }
    if counted := _list_counted(
        contents, {*wheels, *own, *sdists, *(str(item["name"]) for item in provided)}
    ):
        plan["counted"] = counted
    trained = [
        {"path": member.kit_path, "framework": member.framework, "version": member.version}
        for member in contents.members
        if member.version_said
    ]
    if trained:  # from the checkpoints themselves, so that the plan is the same on every machine
        plan["trained"] = trained
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


def _describe_item(name: str, version: str, wheel: Wheel | None, role: str) -> dict[str, Any]:
    return {
        "name": name,
        "version": version,
        "wheel": wheel.filename if wheel else None,
        "sdist": None,
        "build": [],
        "imports": list(import_names.read_wheel_imports(wheel.path)) if wheel else [],
        "role": role,
    }


def _describe_sdist(prepared: SettledSdist) -> dict[str, Any]:
    item = _describe_item(prepared.name, prepared.version, prepared.wheel, "bundled")
    item["build"] = sorted(wheel.filename for wheel in prepared.closure)
    if prepared.sdist:
        item["sdist"] = prepared.sdist.filename
        if not prepared.wheel:
            item["imports"] = list(import_names.read_sdist_imports(prepared.sdist.path, prepared.name))
    return item
