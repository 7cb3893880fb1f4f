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

_KINDS = {
    "checkpoints": (Role.CHECKPOINT,),
    "preprocessing": (Role.PREPROCESSING,),
    "packages": (Role.WHEEL, Role.SDIST, Role.BUILD),
    "own code": (Role.SOURCE,),
    "recording": (Role.RECORDING,),
    "runtime": (Role.RUNTIME, Role.LOCK),
}  # in the order in which the page shows them


def describe_kit(kit: Kit) -> dict[str, Any]:
    """Return the kit as JSON: parts, kinds of files, and items (packages and files), each with bytes and a reason."""
    entries = [entry for part in kit.parts for entry in part.entries]
    kit_files = kit_facts.list_kit_files(kit)
    plan, pins = kit_facts.read_install_plan(kit_files), _read_pins(kit)
    items = [*_describe_packages(entries, plan, pins), *_describe_files(entries)]
    items += _describe_recording(kit_files)
    return {
        "size": sum(entry.size for entry in entries),
        "files": len(entries),
        "parts": [
            {"name": part.name, "size": sum(e.size for e in part.entries), "files": len(part.entries)}
            for part in kit.parts
        ],
        "kinds": _sum_kinds(items),
        "items": sorted(items, key=lambda item: (-item["size"], item["name"])),
        "provided": [
            {"name": name, "version": version, "why": _explain_pin(pins.get(name))}
            for name, version in sorted(plan.provided.items())
        ],
    }


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
) -> list[dict[str, Any]]:
    own = {str(item["name"]) for item in plan.install if item.get("role") == "own"}
    items: dict[str, dict[str, Any]] = {}
    for entry in entries:
        if entry.role not in _KINDS["packages"]:
            continue
        name, version = _parse_package(entry)
        pin = pins.get(name)
        if name in own:
            fate, why = "own", "your own code"
        elif pin and pin.replaces:
            fate, why = "replaced", f"instead of the image's {pin.replaces}; {_explain_pin(pin)}"
        elif name in plan.provided:
            fate, why = "spare", "used only if the image turns out to lack it"
        elif entry.role is Role.BUILD:
            fate, why = "build", "builds a source distribution in the notebook"
        else:
            fate, why = "bundled", _explain_pin(pin)
        item = {"name": name, "version": version, "kind": "packages", "fate": fate, "why": why, "size": 0}
        items.setdefault(name, item)["size"] += entry.size
    for item in items.values():
        item["kind"] = "own code" if item["fate"] == "own" else "packages"
    return [*items.values()]


def _parse_package(entry: FileEntry) -> tuple[str, str]:
    filename = entry.original.rpartition("/")[2]
    try:
        if entry.role is Role.SDIST:
            name, version = parse_sdist_filename(filename)
        else:
            name, version, *_ = parse_wheel_filename(filename)
    except ValueError:
        return canonicalize_name(filename), ""
    return name, str(version)


def _describe_files(entries: Sequence[FileEntry]) -> list[dict[str, Any]]:
    """Return an item for each trained file; modules of the project are one item, as is our runtime."""
    items = []
    sources = [entry for entry in entries if entry.role is Role.SOURCE]
    if sources:
        name = "1 module" if len(sources) == 1 else f"{len(sources)} modules"
        size = sum(entry.size for entry in sources)
        items.append({"name": name, "kind": "own code", "fate": "own", "why": "your own code", "size": size})
    if size := sum(entry.size for entry in entries if entry.role in _KINDS["runtime"]):
        why = "restores the kit in the notebook"
        items.append({"name": "offline-kit", "kind": "runtime", "fate": "runtime", "why": why, "size": size})
    for entry in entries:
        if entry.role in (Role.CHECKPOINT, Role.PREPROCESSING):
            kind = "checkpoints" if entry.role is Role.CHECKPOINT else "preprocessing"
            name = entry.original.partition("/")[2] or entry.original
            items.append({"name": name, "kind": kind, "fate": kind, "why": "", "size": entry.size})
    return [{"version": "", **item} for item in items]


def _describe_recording(kit_files: Iterable[KitFile]) -> Iterator[dict[str, Any]]:
    """Yield an item for each recorded package, folder of files, repository, URL and command."""
    path = kit_facts.find_recording(kit_files)
    document = files.read_json(path) if path else {}
    for package in document.get("packages", ()):
        fate = "replaced" if package["replaces"] else "bundled"
        why = f"installed in cell {package['cell']}" if package["cell"] else "installed by the script"
        facts = {"kind": "packages", "fate": fate, "why": why, "size": package["size"]}
        yield {"name": package["name"], "version": package["version"], **facts}
    sizes = Counter[str]()
    for folder in recording.sum_files(document.get("files", ())):
        sizes[folder["folder"]] += folder["size"]
    for entry in (*document.get("repositories", ()), *document.get("urls", ())):
        sizes[entry.get("url") or entry["key"]] += entry["size"]
    for command in document.get("commands", ()):
        sizes[shlex.join(command["words"])] += sum(file["size"] for file in command["changed"])
    for name, size in sizes.items():
        facts = {"kind": "recording", "fate": "recorded", "why": "", "size": size}
        yield {"name": name, "version": "", **facts}


def _sum_kinds(items: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    sizes = {kind: sum(item["size"] for item in items if item["kind"] == kind) for kind in _KINDS}
    return [{"name": kind, "size": size} for kind, size in sizes.items() if size]
