"""Read a kit's install plan and notebook."""

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from offline_kit.core import files
from offline_kit.core.errors import ProjectError
from offline_kit.kit import manifest
from offline_kit.notebook.runtime.kit_recording import DOCUMENT
from offline_kit.project.types import FileEntry, Kit, Role

KitFile = tuple[FileEntry, Path]  # A file of a kit, and its path on this disk


@dataclass(frozen=True, kw_only=True)
class InstallPlan:
    """The part of a kit's install plan that a rehearsal uses."""

    image: str  # name of the image that the kit was built for; empty for a kit without packages
    install: tuple[Mapping[str, Any], ...]
    provided: Mapping[str, str]  # what the image must provide: version by normalized name

    def imports(self) -> tuple[str, ...]:
        """Return the dotted names that the notebook imports after the installation, as a check."""
        return tuple(name for item in self.install for name in item.get("imports", ()))

    def own_packages(self) -> frozenset[str]:
        """Return the import names of the project's own packages."""
        items = (item for item in self.install if item.get("role") == "own")
        return frozenset(name.partition(".")[0] for item in items for name in item.get("imports", ()))


def find_recording(kit_files: Iterable[KitFile]) -> Path | None:
    """Return the document of the recording among a kit's files; None if there is none."""
    name = f"recording/{DOCUMENT}"
    return next((path for entry, path in kit_files if entry.original == name), None)


def read_install_plan(kit_files: Sequence[KitFile]) -> InstallPlan:
    """Read the install plan from a kit's packages; a kit without packages has an empty one, a recorded one its wheels."""
    # The plans of all parts together; the image of the first one counts.
    image, install, provided = "", list[Mapping[str, Any]](), dict[str, str]()
    for path in [path for entry, path in kit_files if entry.role is Role.LOCK]:
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
            image = image or raw.get("image", "")
            install += raw["install"]
            provided = {item["name"]: item["version"] for item in raw["provided"]} | provided
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ProjectError(
                f"'{path}' is not an install plan: {error}",
                hint="build the kit again",
                code="install-plan-invalid",
            ) from error
    if recording := find_recording(kit_files):
        install += [
            {key: package[key] for key in ("name", "wheel")}
            for package in files.read_json(recording)["packages"]
        ]
    return InstallPlan(image=image, install=tuple(install), provided=provided)


def list_kit_files(kit: Kit) -> tuple[KitFile, ...]:
    """Return every file of the kit with its path on this disk."""
    return tuple(
        (entry, kit.part_folder(part) / entry.stored) for part in kit.parts for entry in part.entries
    )


def list_mounted_files(folders: Iterable[Path]) -> tuple[KitFile, ...]:
    """Return every file of the kit parts among these mounted folders."""
    kit_files: list[KitFile] = []
    for folder in folders:
        with suppress(ProjectError):
            kit_files += [(entry, folder / entry.stored) for entry in manifest.read_manifest(folder).entries]
    return tuple((entry, path) for entry, path in kit_files if path.is_file())


def read_notebook(kit: Kit) -> tuple[Path, Mapping[str, Any]]:
    """Return the kit's notebook and its kernel-metadata.json; raise ProjectError if one is missing."""
    folder = kit.folder / "notebook"
    try:
        metadata = json.loads((folder / "kernel-metadata.json").read_text(encoding="utf-8"))
        path = folder / str(metadata.get("code_file") or "inference.ipynb")
        path.stat()
    except (OSError, ValueError) as error:
        raise ProjectError(
            f"the kit in '{kit.folder}' has no notebook: {error}", hint="build the kit", code="kit-incomplete"
        ) from error
    return path, metadata
