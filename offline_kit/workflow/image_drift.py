"""What another image would change for an existing kit."""

from dataclasses import dataclass

from packaging.utils import parse_wheel_filename

from offline_kit.core import files
from offline_kit.notebook.runtime.kit_install import check_provided, list_counted, list_moved
from offline_kit.notebook.runtime.kit_replay import list_replaced
from offline_kit.project.images import Image
from offline_kit.project.types import Kit, Role
from offline_kit.rehearsal import kernel, kit_facts


@dataclass(frozen=True, kw_only=True)
class ImageDrift:
    """How an image differs from the one that a kit was built for."""

    broken: tuple[str, ...]  # what would stop the notebook's first cell
    moved: tuple[str, ...]  # versions that the kit counts on: "timm 1.0.19 -> 1.0.22"


def compare_with_image(kit: Kit, image: Image) -> ImageDrift:
    """Check a kit against an image as its notebook would there, without running anything."""
    kit_files = kit_facts.list_kit_files(kit)
    plan = kit_facts.read_install_plan(kit_files)
    unfit_wheels, _ = kernel.find_unfit_wheels(plan, image.wheel_tags)
    broken = [f"'{wheel}' does not fit Python {image.python_minor}" for wheel in unfit_wheels]
    moved: list[str] = []
    recording = kit_facts.find_recording(kit_files)
    documents = [path for entry, path in kit_files if entry.role is Role.LOCK]
    for document in map(files.read_json, [*documents, *([recording] if recording else [])]):
        python = ".".join(str(document.get("python", image.python)).split(".")[:2])
        recorded = "packages" in document
        counted = list_replaced(document, image.packages) if recorded else list_counted(document)
        known = {name: version for name, version in counted.items() if name not in image.unversioned}
        moved += list_moved({"Python": python, **known}, {"Python": image.python_minor, **image.packages})
        for item in document.get("provided", ()):
            spare, problem = item.get("spare"), check_provided(item, image.packages.get(item["name"], ""))
            fits = bool(spare) and not parse_wheel_filename(spare)[3].isdisjoint(image.wheel_tags)
            if problem and not fits and item["name"] not in image.unversioned:
                broken.append(problem)
    return ImageDrift(broken=tuple(broken), moved=tuple(moved))
