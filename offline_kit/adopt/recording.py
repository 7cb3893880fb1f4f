"""The recorded run of a notebook: the record beside the project, to be committed, and where its part of a kit lies.

The record is the recording's document with its files summed up, and what identifies the part. The part itself,
or of one that stays on Kaggle its manifest and document, lies in a folder of the project that git ignores.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from packaging.utils import parse_wheel_filename

from offline_kit.adopt import notebook_metadata
from offline_kit.core import files
from offline_kit.core.errors import ProjectError
from offline_kit.kit import manifest
from offline_kit.notebook.runtime import kit_recording
from offline_kit.project.images import Image
from offline_kit.project.kaggle_names import MARKER
from offline_kit.project.package_lists import normalize_name
from offline_kit.project.types import Fate, FileEntry, Freeze, KitPart, OutputPart, Pin

RECORD = "offline-kit.recording.json"
PART = "recording"  # the name of the part as a recorder writes it
_FORMAT = 1
_FOLDER_DEPTH = 5  # names of a folder in the record: "{scratch}/caches/huggingface/hub/models--owner--name"


@dataclass(frozen=True, kw_only=True)
class RecordedRun:
    """A recorded run, and the part of a kit that holds what it fetched."""

    project: Path
    document: Mapping[str, Any]  # recording.json, its files summed up
    id: str  # of the part as it was recorded
    size: int
    count: int  # number of its files
    notebook: str = ""  # "owner/slug" of the notebook whose output the part is; empty: it is on this disk
    version: int = 0
    local: bool = False  # whether that notebook is at a local Kaggle

    @property
    def source(self) -> str:
        """The notebook or script that was recorded, relative to the project."""
        return str(self.document["source"]["name"])

    @property
    def output(self) -> OutputPart | None:
        """The part, if it stays on Kaggle."""
        part = OutputPart(
            name=PART,
            id=self.id,
            notebook=self.notebook,
            version=self.version,
            local=self.local,
            record=RECORD,
            command=f"offline-kit adopt {self.source} --record",
        )
        return part if self.notebook else None

    @property
    def rebuild_command(self) -> str:
        """The command that records again, where this was recorded."""
        if self.output:
            return self.output.rebuild_command
        return f"'offline-kit adopt {self.source} --record here'"

    @property
    def folder(self) -> Path:
        """Where the part lies."""
        return recording_folder(self.project)

    @property
    def is_here(self) -> bool:
        """Whether the folder has this very recording, not one that was made elsewhere before or since."""
        return (self.folder / MARKER).is_file() and manifest.read_manifest(self.folder).id == self.id

    @cached_property
    def part(self) -> KitPart:
        """The part as it was recorded; raises ProjectError if it is not on this machine, or not complete."""
        folder = self.folder
        if not self.is_here:
            copy = f"copy '{folder}' from the machine that has it, or record again: "
            raise ProjectError(
                f"the recording {self.id[:12]} of '{self.source}' is not on this machine",
                code="recording-not-here",
                hint=f"{'fetch what names it: ' if self.notebook else copy}{self.rebuild_command}",
            )
        part = manifest.read_manifest(folder)
        entries = () if self.notebook else part.entries
        if wrong := [
            f"'{e.stored}' is missing or has another size" for e in entries if not _is_whole(folder, e)
        ]:
            raise ProjectError(
                f"the recording in '{folder}' is damaged",
                code="recording-damaged",
                hint=f"record again: {self.rebuild_command}",
                details=wrong,
            )
        return part

    def read_document(self) -> dict[str, Any]:
        """Return the whole document, with every file; raises ProjectError if it is not on this machine, or invalid."""
        return _read_document(self.folder / PART / kit_recording.DOCUMENT)

    def make_freeze(self, image: Image) -> Freeze:
        """Return what the run installed, as the pins of a kit."""
        # On Kaggle it was the image's version that was replaced; here, that of this machine.
        is_here = self.document["where"] == "here"
        pins = [
            Pin(
                name=normalize_name(package["name"]),
                version=package["version"],
                fate=Fate.BUNDLED,
                reason="recorded",
                asked_by=(f"cell {package['cell']}" if package["cell"] else self.source,),
                replaces="" if image_version == package["version"] else image_version,
            )
            for package in self.document["packages"]
            for image_version in [
                image.packages.get(normalize_name(package["name"]), "") if is_here else package["replaces"]
            ]
        ]
        pins.sort(key=lambda pin: pin.name)
        lines = [f"# recorded by offline-kit: {self.source}", *(f"{pin.name}=={pin.version}" for pin in pins)]
        return Freeze(
            image=image.name,
            python=image.python,
            engine="recorder",
            cutoff="",
            input_hash=self.id,
            pins=tuple(pins),
            text="\n".join(lines) + "\n",
        )

    def find_unfit_wheels(self, image: Image) -> list[str]:
        """Return the recorded wheels that an image cannot install."""
        wheels = [package["wheel"] for package in self.document["packages"] if package["wheel"]]
        fitting_tags = frozenset(image.wheel_tags)
        return [wheel for wheel in wheels if not parse_wheel_filename(wheel)[3] & fitting_tags]

    def has_changed(self) -> bool:
        """Whether the notebook has other cells than the recorded one."""
        recorded = self.document["source"]["sha256"]
        return bool(describe_source(self.project, self.source)["sha256"] != recorded)


def _is_whole(folder: Path, entry: FileEntry) -> bool:
    path = folder / entry.stored
    return path.is_file() and path.stat().st_size == entry.size


def recording_folder(project: Path) -> Path:
    """Return where the recorded part of a project lies."""
    return project / ".offline-kit" / "recording"


def describe_source(project: Path, source: str) -> dict[str, Any]:
    """Return a notebook or script as a recording names it: its name, a digest of its cells, the cells that run.

    "cells" and "may_fail" are numbers. nbclient skips blank cells and those with a tag, and runs on after those with
    another one (https://github.com/jupyter/nbclient/blob/main/nbclient/client.py). A script has none.
    """
    cells = notebook_metadata.read_cells(project / source)
    digest = hashlib.sha256(json.dumps([cell.source for cell in cells]).encode()).hexdigest()
    tags = {cell.number: (cell.node.get("metadata") or {}).get("tags") or () for cell in cells}
    is_script = source.endswith(".py")
    runs = [c.number for c in cells if c.kind == "code" and c.source.strip() and not is_script]
    return {
        "name": source,
        "sha256": digest,
        "cells": [number for number in runs if "skip-execution" not in tags[number]],
        "may_fail": [number for number in runs if "raises-exception" in tags[number]],
    }


def write_record(project: Path, *, notebook: str = "", version: int = 0, local: bool = False) -> RecordedRun:
    """Write and return the record of the part in the project's folder of it, which a recorder has just written.

    Raises ProjectError if its manifest or its document is missing or invalid.
    """
    folder = recording_folder(project)
    files.ignore_in_git(folder)
    part = manifest.read_manifest(folder)
    document = _read_document(folder / PART / kit_recording.DOCUMENT)
    document["files"] = sum_files(document["files"])
    for command in document["commands"]:
        changed = command.pop("changed")  # perhaps all the files of an archive
        command |= {"files": len(changed), "size": sum(file["size"] for file in changed)}
    recorded = RecordedRun(
        project=project,
        document=document,
        id=part.id,
        size=sum(entry.size for entry in part.entries),
        count=len(part.entries),
        notebook=notebook,
        version=version,
        local=local,
    )
    facts = {key: value for key, value in asdict(recorded).items() if key not in ("project", "document")}
    files.write_atomic(project / RECORD, json.dumps({**document, "part": facts}, indent=1) + "\n")
    return recorded


def read_record(project: Path) -> RecordedRun | None:
    """Return the project's record, None if there is none; raises ProjectError for one that is damaged."""
    if not (project / RECORD).exists():
        return None
    document = _read_document(project / RECORD)
    try:
        return RecordedRun(project=project, document=document, **document.pop("part"))
    except (KeyError, TypeError) as error:
        raise _invalid_error(project / RECORD, error) from error


def find_recorded(project: Path, source: str) -> RecordedRun | None:
    """Return the recorded run of the notebook that the project adopts; None if that one was not recorded."""
    recorded = read_record(project) if source else None
    return recorded if recorded and recorded.source == source else None


def _read_document(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if (document["format"], bool(document["source"]["name"])) != (_FORMAT, True):
            raise ValueError(f"its format is {document['format']!r}, and this offline-kit supports {_FORMAT}")
        _, _, _ = document["packages"], document["files"], document["commands"]
        return dict(document)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _invalid_error(path, error) from error


def _invalid_error(path: Path, error: Exception) -> ProjectError:
    return ProjectError(
        f"'{path}' cannot be read: {error!r}",
        code="recording-invalid",
        hint="restore it, or record again with 'offline-kit adopt NOTEBOOK --record'",
    )


def sum_files(recorded: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return number and bytes of the files by kind and folder: one line of the record for thousands of files."""
    folders: dict[tuple[str, str], list[int]] = {}
    for file in recorded:
        parents = PurePosixPath(file["path"]).parent.parts[:_FOLDER_DEPTH]
        folders.setdefault((file["kind"], str(PurePosixPath(*parents))), []).append(file["size"])
    return [
        {"kind": kind, "folder": folder, "files": len(sizes), "size": sum(sizes)}
        for (kind, folder), sizes in sorted(folders.items())
    ]
