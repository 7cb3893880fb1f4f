"""What is in a kit and why: its bytes by kind, part, package and file."""

import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from packaging.utils import canonicalize_name, parse_sdist_filename, parse_wheel_filename

from offline_kit.adopt import recording
from offline_kit.core import files
from offline_kit.core.errors import ProjectError
from offline_kit.packages.freeze import freeze_file
from offline_kit.project.types import FileEntry, Kit, Pin, Role
from offline_kit.rehearsal import kit_facts
from offline_kit.rehearsal.kit_facts import InstallPlan, KitFile

# In the order in which the page shows them.
_KINDS = ("checkpoints", "preprocessing", "packages", "own code", "recording", "runtime")
_FILES = {Role.CHECKPOINT: "checkpoints", Role.PREPROCESSING: "preprocessing"}
_PACKAGES = (Role.WHEEL, Role.SDIST, Role.BUILD)


def describe_kit(kit: Kit) -> dict[str, Any]:
    """Return the kit as JSON: parts, kinds of files, and items (packages and files), each with bytes and a reason."""
    entries = [entry for part in kit.parts for entry in part.entries]
    kit_files = kit_facts.list_kit_files(kit)
    plan, pins = kit_facts.read_install_plan(kit_files), _read_pins(kit)
    items = [
        *_describe_packages(entries, plan, pins),
        *_describe_files(entries),
        *_describe_recording(kit_files),
    ]
    sizes = {kind: sum(item["size"] for item in items if item["kind"] == kind) for kind in _KINDS}
    return {
        "size": sum(entry.size for entry in entries),
        "files": len(entries),
        "parts": [
            {"name": part.name, "size": sum(e.size for e in part.entries), "files": len(part.entries)}
            for part in kit.parts
        ],
        "kinds": [{"name": kind, "size": size} for kind, size in sizes.items() if size],
        "items": sorted(items, key=lambda item: (-item["size"], item["name"])),
        "provided": [
            {"name": name, "version": version, "why": _explain_pin(pins.get(name))}
            for name, version in sorted(plan.provided.items())
        ],
    }


def _describe_item(
    name: str, kind: str, fate: str, size: int, why: str = "", version: str = ""
) -> dict[str, Any]:
    return {"name": name, "version": version, "kind": kind, "fate": fate, "why": why, "size": size}


def _read_pins(kit: Kit) -> dict[str, Pin]:
    try:
        text = (kit.folder / "requirements.txt").read_text(encoding="utf-8")
        return {pin.name: pin for pin in freeze_file.parse_freeze(text, name="requirements.txt").pins}
    except (OSError, ValueError, ProjectError):
        return {}  # of a kit by hand: the page then gives no reasons


def _explain_pin(pin: Pin | None) -> str:
    if pin is None:
        return ""
    requesters = ["your requirements" if name.startswith("-") else name for name in pin.asked_by]
    names = ", ".join(dict.fromkeys(requesters[:3]))
    more = f" and {len(requesters) - 3} more" if len(requesters) > 3 else ""
    return f"for {names}{more}" if requesters else pin.reason


def _describe_packages(
    entries: Sequence[FileEntry], plan: InstallPlan, pins: Mapping[str, Pin]
) -> Iterable[dict[str, Any]]:
    own = {str(item["name"]) for item in plan.install if item.get("role") == "own"}
    items: dict[str, dict[str, Any]] = {}
    for entry in entries:
        if entry.role not in _PACKAGES:
            continue
        name, version = _parse_package(entry)
        pin, kind = pins.get(name), "packages"
        if name in own:
            kind, fate, why = "own code", "own", "your own code"
        elif pin and pin.replaces:
            fate, why = "replaced", f"instead of the image's {pin.replaces}; {_explain_pin(pin)}"
        elif name in plan.provided:
            fate, why = "spare", "used only if the image turns out to lack it"
        elif entry.role is Role.BUILD:
            fate, why = "build", "builds a source distribution in the notebook"
        else:
            fate, why = "bundled", _explain_pin(pin)
        items.setdefault(name, _describe_item(name, kind, fate, 0, why, version))["size"] += entry.size
    return items.values()


def _parse_package(entry: FileEntry) -> tuple[str, str]:
    filename = entry.original.rpartition("/")[2]
    parse = parse_sdist_filename if entry.role is Role.SDIST else parse_wheel_filename
    try:
        name, version = parse(filename)[:2]
    except ValueError:
        return canonicalize_name(filename), ""
    return name, str(version)


def _describe_files(entries: Sequence[FileEntry]) -> Iterator[dict[str, Any]]:
    """Yield an item for each trained file; modules of the project are one item, as is our runtime."""
    if sources := [entry.size for entry in entries if entry.role is Role.SOURCE]:
        name = f"{len(sources)} module{'s' * (len(sources) > 1)}"
        yield _describe_item(name, "own code", "own", sum(sources), "your own code")
    if size := sum(entry.size for entry in entries if entry.role in (Role.RUNTIME, Role.LOCK)):
        yield _describe_item("offline-kit", "runtime", "runtime", size, "restores the kit in the notebook")
    for entry in entries:
        if kind := _FILES.get(entry.role):
            yield _describe_item(entry.original.partition("/")[2] or entry.original, kind, kind, entry.size)


def _describe_recording(kit_files: Iterable[KitFile]) -> Iterator[dict[str, Any]]:
    """Yield an item for each recorded package, folder of files, repository, URL and command."""
    path = kit_facts.find_recording(kit_files)
    document = files.read_json(path) if path else {}
    for package in document.get("packages", ()):
        fate = "replaced" if package["replaces"] else "bundled"
        why = f"installed in cell {package['cell']}" if package["cell"] else "installed by the script"
        yield _describe_item(package["name"], "packages", fate, package["size"], why, package["version"])
    sizes = Counter[str]()
    for folder in recording.sum_files(document.get("files", ())):
        sizes[folder["folder"]] += folder["size"]
    for entry in (*document.get("repositories", ()), *document.get("urls", ())):
        sizes[entry.get("url") or entry["key"]] += entry["size"]
    for command in document.get("commands", ()):
        sizes[shlex.join(command["words"])] += sum(file["size"] for file in command["changed"])
    for name, size in sizes.items():
        yield _describe_item(name, "recording", "recorded", size)
