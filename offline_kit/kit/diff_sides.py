"""A kit on disk as it is compared with another: its files, what it installs, its notebook."""

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from offline_kit.core.errors import ProjectError
from offline_kit.kit.install_plan import PLAN
from offline_kit.kit.manifest import REMOTE_PART
from offline_kit.project.types import FileEntry, Kit, Role

_BUILD = "build the kit again with 'offline-kit build'"
FileContent = tuple[int, str]
"""Size in bytes, and what tells one content from another."""


@dataclass(frozen=True, kw_only=True)
class KitPackage:
    """What a kit installs under one name, or takes from the image."""

    name: str
    """Normalized name."""
    version: str
    """Its version."""
    own: bool = False
    """Whether it is the project's own code."""
    files: tuple[str, ...] = ()
    """Original names of its wheel and its sdist; none where the image has it."""


@dataclass(frozen=True, kw_only=True)
class NotebookCell:
    """A cell of the notebook."""

    kind: str
    """"code" or "markdown"."""
    title: str
    """Its title, or its first line."""
    source: str
    """Its text."""
    metadata: str
    """Its metadata as JSON."""


@dataclass(frozen=True, kw_only=True)
class KitSnapshot:
    """One of two kits."""

    kit: Kit
    """The kit."""
    image: str
    """Name of the image that it is for; empty where it does not say."""
    python: str
    """Python of that image."""
    installed: Mapping[str, KitPackage]
    """What it installs, by name."""
    provided: Mapping[str, KitPackage]
    """What it takes from the image, by name."""
    plan: str
    """Its install plan as it is written."""
    cells: tuple[NotebookCell, ...]
    """Its notebook; empty where it has none."""
    metadata: Mapping[str, Any]
    """kernel-metadata.json, and what the notebook says besides its cells."""

    @property
    def entries_by_name(self) -> dict[str, FileEntry]:
        """All files by their original names."""
        return {entry.original: entry for part in self.kit.parts for entry in part.entries}

    def select_contents(self, *roles: Role) -> dict[str, FileContent]:
        """Return the files of these roles by their original names."""
        return {
            name: (entry.size, entry.sha256)
            for name, entry in self.entries_by_name.items()
            if entry.role in roles
        }

    def read_wheel_contents(self, package: KitPackage) -> dict[str, FileContent]:
        """Return what is in the wheels of a package; ProjectError where one cannot be read."""
        members: dict[str, FileContent] = {}
        for name in package.files:
            path = _find_kit_file(self.kit, name)
            if not name.endswith(".whl") or path is None:
                continue
            try:
                with zipfile.ZipFile(path) as wheel:
                    members |= {
                        i.filename: (i.file_size, str(i.CRC)) for i in wheel.infolist() if not i.is_dir()
                    }
            except (OSError, zipfile.BadZipFile) as error:
                raise ProjectError(f"'{path}' cannot be read as a wheel: {error}", hint=_BUILD) from error
        return members


def read_snapshot(kit: Kit) -> KitSnapshot:
    """Read what is compared of a kit; raises ProjectError for what cannot be read."""
    path = _find_kit_file(kit, PLAN)
    notebook = kit.folder / "notebook" / "inference.ipynb"
    try:
        return _make_snapshot(kit, _read_json(path) if path else {}, _read_json(notebook))
    except (AttributeError, KeyError, TypeError) as error:
        raise ProjectError(
            f"the install plan or the notebook of the kit in '{kit.folder}' is not in a form that we know",
            hint=_BUILD,
            details=(f"{type(error).__name__}: {error}",),
        ) from error


def _make_snapshot(kit: Kit, plan: Mapping[str, Any], notebook: Mapping[str, Any]) -> KitSnapshot:
    notebook_metadata = {f"notebook {key}": value for key, value in notebook.items() if key != "cells"}
    return KitSnapshot(
        kit=kit,
        image=str(plan.get("image", "")),
        python=str(plan.get("python", "")),
        installed=_parse_packages(plan.get("install")),
        provided=_parse_packages(plan.get("provided")),
        plan=json.dumps(plan, sort_keys=True),
        cells=tuple(_parse_cell(raw) for raw in notebook.get("cells", ())),
        metadata=_read_json(kit.folder / "notebook" / "kernel-metadata.json") | notebook_metadata,
    )


def _find_kit_file(kit: Kit, original: str) -> Path | None:
    for part in kit.parts:
        for entry in part.entries:
            if entry.original == original:
                path = kit.part_folder(part) / entry.stored
                return path if path.exists() or part.name != REMOTE_PART else None
    return None


def _read_json(path: Path) -> dict[str, Any]:
    """Return an object of a JSON file; an empty one where there is no such file."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ProjectError(f"'{path}' cannot be read: {error}", hint=_BUILD) from error
    if not isinstance(document, dict):
        raise ProjectError(f"'{path}' is not of a kit: it holds no object", hint=_BUILD)
    return document


def _parse_packages(items: Any) -> dict[str, KitPackage]:
    return {str(item["name"]): _parse_package(item) for item in items or () if item.get("name")}


def _parse_package(item: Mapping[str, Any]) -> KitPackage:
    files = (item.get("wheel"), item.get("sdist"))
    return KitPackage(
        name=str(item["name"]),
        version=str(item.get("version", "")),
        own=item.get("role") == "own",
        files=tuple(f"packages/{name}" for name in files if name),
    )


def _parse_cell(raw: Mapping[str, Any]) -> NotebookCell:
    source, metadata = "".join(raw.get("source", "")), raw.get("metadata") or {}
    first = source.lstrip("# ").partition("\n")[0].strip()
    return NotebookCell(
        kind=str(raw.get("cell_type", "code")),
        title=str(metadata.get("title") or first[:60]),
        source=source,
        metadata=json.dumps(metadata, sort_keys=True),
    )
