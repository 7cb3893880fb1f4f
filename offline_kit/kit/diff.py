"""Compare two kits: packages, own code, checkpoints, notebook, and what they are built for."""

import difflib
import json
import re
import zipfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from offline_kit.core.errors import ProjectError
from offline_kit.kit.install_plan import PLAN
from offline_kit.kit.manifest import OUTPUT_PARTS, REBUILD_HINT
from offline_kit.project.types import Kit, Role

ADDED, REMOVED, CHANGED, RENAMED, REBUILT = "added", "removed", "changed", "renamed", "rebuilt"
_CONTEXT = 2  # lines around a change of the notebook
FileContent = tuple[int, str]  # size in bytes, and a checksum


@dataclass(frozen=True, kw_only=True)
class KitPackage:
    """A package that a kit installs, or takes from the image."""

    version: str
    is_own: bool
    files: tuple[str, ...]  # original names of its wheel and its sdist; none if the image has it


@dataclass(frozen=True, kw_only=True)
class ComparedCell:
    """A cell of the notebook."""

    kind: str  # "code" or "markdown"
    title: str
    source: str
    metadata: str  # as JSON


@dataclass(frozen=True, kw_only=True)
class KitSnapshot:
    """One of two kits, as far as they are compared."""

    kit: Kit
    image: str
    python: str
    installed: Mapping[str, KitPackage]
    provided: Mapping[str, KitPackage]
    plan: str
    cells: tuple[ComparedCell, ...]
    metadata: Mapping[str, Any]  # kernel-metadata.json, and the notebook besides its cells.

    def map_contents(self, *roles: Role) -> dict[str, FileContent]:
        """Return the contents of the files with these roles, by their original names."""
        entries = (entry for part in self.kit.parts for entry in part.entries)
        return {entry.original: (entry.size, entry.sha256) for entry in entries if entry.role in roles}

    def read_wheel_contents(self, package: KitPackage, is_rebuilt: bool) -> dict[str, FileContent]:
        """Return the contents of a package's wheels; raise ProjectError if one cannot be read.

        Metadata that changes whenever other files do (`is_rebuilt`) or the version does is left out.
        """
        # RECORD holds the hashes of the other files, WHEEL the version of the build backend.
        derived = (".dist-info/RECORD", ".dist-info/WHEEL") if is_rebuilt else (".dist-info/",)
        contents: dict[str, FileContent] = {}
        for name in package.files:
            path = _find_kit_file(self.kit, name)
            if not name.endswith(".whl") or path is None:
                continue
            try:
                with zipfile.ZipFile(path) as wheel:
                    members = [member for member in wheel.infolist() if not member.is_dir()]
            except (OSError, zipfile.BadZipFile) as error:
                raise ProjectError(
                    f"'{path}' cannot be read as a wheel: {error}", code="wheel-invalid", hint=REBUILD_HINT
                ) from error
            for member in members:
                if not any(part in member.filename for part in derived):
                    # Size and CRC are in the zip's central directory: nothing has to be unpacked.
                    contents[member.filename] = (member.file_size, str(member.CRC))
        return contents


@dataclass(frozen=True, kw_only=True)
class FileChange:
    """A file that differs, with its bytes in both kits."""

    name: str
    change: str  # "added", "removed", "changed" or "renamed" (the same bytes under another name)
    before: int = 0
    after: int = 0
    was: str = ""  # its old name, if it was renamed


@dataclass(frozen=True, kw_only=True)
class PackageChange:
    """A package that differs, with its versions in both kits (empty for none)."""

    name: str
    change: str  # "added", "removed", "changed" (its version) or "rebuilt" (the same version in other bytes)
    before: str = ""
    after: str = ""
    note: str = ""  # A remark, such as that the image's version is used now
    files: tuple[FileChange, ...] = ()  # changes inside the wheel of own code


@dataclass(frozen=True, kw_only=True)
class ValueChange:
    """A value that differs; None if a kit does not have it."""

    name: str
    before: Any
    after: Any


@dataclass(frozen=True, kw_only=True)
class NotebookChange:
    """What differs in the notebook."""

    cells: tuple[tuple[str, str], ...] = ()
    """Title and "added", "removed", "changed" or "moved" of each cell that differs."""
    metadata: tuple[ValueChange, ...] = ()
    text: tuple[str, ...] = ()  # A unified diff of the notebooks as percent scripts, line by line


@dataclass(frozen=True, kw_only=True)
class KitDifference:
    """All differences between two kits."""

    old: KitSnapshot
    new: KitSnapshot
    target: tuple[ValueChange, ...]
    packages: tuple[PackageChange, ...]
    provided: tuple[PackageChange, ...]
    own: tuple[PackageChange, ...]
    sources: tuple[FileChange, ...]
    checkpoints: tuple[FileChange, ...]
    other: tuple[FileChange, ...]
    """All other files: build requirements of sdists, spares, the install plan's details, the notebook's runtime."""
    notebook: NotebookChange

    @property
    def is_identical(self) -> bool:
        """Whether the kits are the same, their notebooks included."""
        return self.old.kit.id == self.new.kit.id and self.notebook == NotebookChange()


def read_snapshot(kit: Kit) -> KitSnapshot:
    """Read what is compared of a kit; raises ProjectError for a file that cannot be read."""
    plan_path = _find_kit_file(kit, PLAN)
    folder = kit.folder / "notebook"
    try:
        plan = _read_json(plan_path) if plan_path else {}
        kernel_metadata = _read_json(folder / "kernel-metadata.json")
        code_file = folder / str(kernel_metadata.get("code_file") or "inference.ipynb")
        notebook = _read_script(code_file) if code_file.suffix == ".py" else _read_json(code_file)
        metadata = {f"notebook {key}": value for key, value in notebook.items() if key != "cells"}
        return KitSnapshot(
            kit=kit,
            image=str(plan.get("image", "")),
            python=str(plan.get("python", "")),
            installed=_parse_packages(plan.get("install")),
            provided=_parse_packages(plan.get("provided")),
            plan=json.dumps(plan, sort_keys=True),
            cells=tuple(_parse_cell(cell) for cell in notebook.get("cells", ())),
            metadata=kernel_metadata | metadata,
        )
    except (AttributeError, KeyError, TypeError) as error:
        raise ProjectError(
            f"the install plan or the notebook of the kit in '{kit.folder}' has an unknown form",
            code="kit-unreadable",
            hint=REBUILD_HINT,
            details=(f"{type(error).__name__}: {error}",),
        ) from error


def compare_kits(old: KitSnapshot, new: KitSnapshot) -> KitDifference:
    """Return all differences between two kits; raises ProjectError if a wheel of own code cannot be read."""
    changes = _compare_packages(old, new)
    own = {name for side in (old, new) for name, package in side.installed.items() if package.is_own}
    # Packages from the image, except those that either kit installs.
    names = (old.provided.keys() | new.provided.keys()) - old.installed.keys() - new.installed.keys()
    pairs = [(name, old.provided.get(name), new.provided.get(name)) for name in sorted(names)]
    provided = tuple(
        _describe_package(name, before, after)
        for name, before, after in pairs
        if not before or not after or before.version != after.version
    )
    parts = tuple([part.name for part in side.kit.parts] for side in (old, new))
    target = _compare_values(
        {"image": (old.image, new.image), "python": (old.python, new.python), "parts": (parts[0], parts[1])}
    )
    contents = []
    for side in (old, new):
        # Files of no installed package: build requirements, spares.
        package_files = {PLAN, *(name for package in side.installed.values() for name in package.files)}
        all_files = side.map_contents(Role.WHEEL, Role.SDIST, Role.BUILD, Role.LOCK, Role.RUNTIME)
        contents.append({name: content for name, content in all_files.items() if name not in package_files})
    other = compare_files(*contents)
    # The plan also holds what no other group shows: the folders of code, what is imported
    if old.plan != new.plan and not (changes or provided or target or other):
        other = (FileChange(name=PLAN, change=CHANGED, before=len(old.plan), after=len(new.plan)),)
    return KitDifference(
        old=old,
        new=new,
        target=target,
        packages=tuple(change for change in changes if change.name not in own),
        provided=provided,
        own=tuple(change for change in changes if change.name in own),
        sources=compare_files(old.map_contents(Role.SOURCE), new.map_contents(Role.SOURCE)),
        checkpoints=compare_files(old.map_contents(Role.CHECKPOINT), new.map_contents(Role.CHECKPOINT)),
        other=other,
        notebook=_compare_notebooks(old, new),
    )


def compare_files(old: Mapping[str, FileContent], new: Mapping[str, FileContent]) -> tuple[FileChange, ...]:
    """Return how files changed, sorted by name; the same bytes under another name were renamed."""
    removed, added = sorted(old.keys() - new.keys()), sorted(new.keys() - old.keys())
    # Each old name serves once: of two copies, one was renamed and one is new
    candidates = {old[name]: name for name in reversed(removed)}
    renamed = {name: candidates.pop(new[name]) for name in added if new[name] in candidates}
    changes = []
    for name in sorted((old.keys() | new.keys()) - set(renamed.values())):
        was = renamed.get(name, "")
        before, after = old.get(was or name), new.get(name)
        change = CHANGED if before and after else REMOVED if before else ADDED
        if was or before != after:
            sizes = [content[0] if content else 0 for content in (before, after)]
            kind = RENAMED if was else change
            changes.append(FileChange(name=name, change=kind, before=sizes[0], after=sizes[1], was=was))
    return tuple(changes)


def _find_kit_file(kit: Kit, original: str) -> Path | None:
    for part in kit.parts:
        for entry in part.entries:
            if entry.original == original:
                path = kit.part_folder(part) / entry.stored
                return path if path.exists() or part.name not in OUTPUT_PARTS else None
    return None


def _read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file; an empty one if there is no such file."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ProjectError(
            f"'{path}' cannot be read: {error}", code="kit-unreadable", hint=REBUILD_HINT
        ) from error
    if not isinstance(document, dict):
        raise ProjectError(f"'{path}' does not hold an object", code="kit-unreadable", hint=REBUILD_HINT)
    return document


def _read_script(path: Path) -> dict[str, Any]:
    """Return the cells of a percent script as those of a notebook; none if there is no such file."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return {}
    cells = []
    for piece in re.split(r"(?m)^(?=# %%)", text):
        marker, _, source = piece.partition("\n") if piece.startswith("# %%") else ("", "", piece)
        title, kind = re.split(r"\s+\S+=", marker.removeprefix("# %%"))[0].strip(), "code"
        if title.startswith("[markdown]"):
            kind, title = "markdown", title.removeprefix("[markdown]").strip()
            source = re.sub(r"(?m)^# ?", "", source)
        if piece.strip():
            cells.append({"cell_type": kind, "source": source, "metadata": {"title": title}})
    return {"cells": cells}


def _parse_packages(items: Any) -> dict[str, KitPackage]:
    return {
        str(item["name"]): KitPackage(
            version=str(item.get("version", "")),
            is_own=item.get("role") == "own",
            files=tuple(f"packages/{item[key]}" for key in ("wheel", "sdist") if item.get(key)),
        )
        for item in items or ()
        if item.get("name")
    }


def _parse_cell(cell: Mapping[str, Any]) -> ComparedCell:
    source, metadata = "".join(cell.get("source", "")), cell.get("metadata") or {}
    first_line = source.lstrip("# ").partition("\n")[0].strip()
    return ComparedCell(
        kind=str(cell.get("cell_type", "code")),
        title=str(metadata.get("title") or first_line[:60]),
        source=source,
        metadata=json.dumps(metadata, sort_keys=True),
    )


def _compare_values(pairs: Mapping[str, tuple[Any, Any]]) -> tuple[ValueChange, ...]:
    return tuple(
        ValueChange(name=name, before=before, after=after)
        for name, (before, after) in pairs.items()
        if before != after
    )


def _compare_packages(old: KitSnapshot, new: KitSnapshot) -> tuple[PackageChange, ...]:
    """Return how the installed packages changed, sorted by name."""
    known = [side.map_contents(*Role) for side in (old, new)]
    changes = []
    for name in sorted(old.installed.keys() | new.installed.keys()):
        before, after = old.installed.get(name), new.installed.get(name)
        note = ""
        files: tuple[FileChange, ...] = ()
        if before and after:
            is_same = before.files == after.files and all(
                known[0].get(f) == known[1].get(f) for f in after.files
            )
            if before.version == after.version and is_same:
                continue
            kinds = [
                " and ".join("wheel" if file.endswith(".whl") else "sdist" for file in package.files)
                for package in (before, after)
            ]
            note = f"as {kinds[1]}, before as {kinds[0]}" if kinds[0] != kinds[1] else ""
            if before.is_own or after.is_own:
                is_rebuilt = before.version == after.version
                contents = (
                    old.read_wheel_contents(before, is_rebuilt),
                    new.read_wheel_contents(after, is_rebuilt),
                )
                files = compare_files(*contents)
        elif image_package := (old if after else new).provided.get(name):
            note = f"the image's {image_package.version} {'was used before' if after else 'is used now'}"
        changes.append(_describe_package(name, before, after, note, files))
    return tuple(changes)


def _describe_package(
    name: str,
    before: KitPackage | None,
    after: KitPackage | None,
    note: str = "",
    files: tuple[FileChange, ...] = (),
) -> PackageChange:
    versions = [package.version if package else "" for package in (before, after)]
    change = ADDED if before is None else REMOVED if after is None else CHANGED
    if before and after and versions[0] == versions[1]:
        change = REBUILT
    return PackageChange(
        name=name, change=change, before=versions[0], after=versions[1], note=note, files=files
    )


def _compare_notebooks(old: KitSnapshot, new: KitSnapshot) -> NotebookChange:
    keys = sorted(old.metadata.keys() | new.metadata.keys())
    before, after = (_render_script(side.cells) for side in (old, new))
    text = []
    for line in difflib.unified_diff(before, after, "old", "new", n=_CONTEXT, lineterm=""):
        # A hunk header gets the title of the cell that it starts in.
        header = re.match(r"@@ -(\d+)", line)
        titles = [title for title in before[: int(header[1])] if title.startswith("# %%")] if header else []
        text.append(f"{line} {titles[-1].removeprefix('# ')}" if titles else line)
    old_cells, new_cells = _key_by_title(old.cells), _key_by_title(new.cells)
    changes = [(key, REMOVED) for key in old_cells if key not in new_cells]
    changes += [(key, ADDED) for key in new_cells if key not in old_cells]
    changes += [(key, CHANGED) for key, cell in new_cells.items() if old_cells.get(key, cell) != cell]
    if not changes:
        places = zip(new_cells, old_cells, strict=True)
        changes = [(new_key, "moved") for new_key, old_key in places if new_key != old_key]
    return NotebookChange(
        cells=tuple(changes),
        metadata=_compare_values({key: (old.metadata.get(key), new.metadata.get(key)) for key in keys}),
        text=tuple(text),
    )


def _render_script(cells: tuple[ComparedCell, ...]) -> list[str]:
    """Return the lines of cells as a percent script."""
    lines: list[str] = []
    for cell in cells:
        lines += [""] * bool(lines)
        source = cell.source.splitlines()
        if cell.kind == "code":
            lines += [f"# %% {cell.title}", *source]
        else:
            lines += [f"# %% [{cell.kind}]", *(f"# {line}".rstrip() for line in source)]
    return lines


def _key_by_title(cells: tuple[ComparedCell, ...]) -> dict[str, ComparedCell]:
    """Return cells by title and kind, numbered if several have the same."""
    titled, counts = {}, Counter[str]()
    for cell in cells:
        name = f"{cell.title} ({cell.kind})"
        counts[name] += 1
        titled[name if counts[name] == 1 else f"{name} {counts[name]}"] = cell
    return titled
