"""Small kits, and /kaggle/input as a rehearsal lays it out for them."""

from pathlib import Path
from typing import Any

from offline_kit.kit import manifest
from offline_kit.project.images import Image
from offline_kit.project.types import FileEntry, Kit, Role
from offline_kit.rehearsal import mounts
from offline_kit.rehearsal.mounts import MountedInputs
from offline_kit.rehearsal.request import RehearsalRequest


def make_kit(folder: Path, *names: str) -> Kit:
    """Make a kit of these parts, each of one checkpoint."""
    parts = []
    for name in names:
        stored = f"{name}.ckpt"
        entry = FileEntry(role=Role.CHECKPOINT, original="m.ckpt", stored=stored, size=1, sha256="0" * 64)
        parts.append(manifest.make_part(name, [entry]))
    kit = Kit(folder=folder, id="k", parts=tuple(parts))
    for part in parts:
        kit.part_folder(part).mkdir(parents=True)
        (kit.part_folder(part) / f"{part.name}.ckpt").write_text("w")
        manifest.write_manifest(kit.part_folder(part), part)
    return kit


def lay_out(folder: Path, kit: Kit, *, metadata: Any = None, **options: Any) -> MountedInputs:
    """Lay out the inputs of a kit; `options` are those of the request."""
    image = Image(name="i", title="i", accelerator="none", python="3.13.5", packages={})
    request = RehearsalRequest(
        kit=kit, image=image, **{"dataset": "me/kit", "competition": "comp", **options}
    )
    return mounts.lay_out_inputs(request, metadata or {}, folder / "run" / "input")
