"""What differs between two kits: packages, own code, checkpoints, the notebook, and what they are for."""

import difflib
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from offline_kit.kit.diff_sides import FileContent, KitPackage, KitSnapshot, NotebookCell
from offline_kit.kit.install_plan import PLAN
from offline_kit.project.types import Role

ADDED, REMOVED, CHANGED, RENAMED, REBUILT = "added", "removed", "changed", "renamed", "rebuilt"
_CONTEXT = 2  # lines around a change of the notebook


@dataclass(frozen=True, kw_only=True)
class FileChange:
    """A file that differs."""

    name: str
    """Its name, the newer one where it has two."""
    change: str
    """"added", "removed", "changed" or "renamed" (the same bytes under another name)."""
    before: int = 0
    """Bytes in the old kit."""
    after: int = 0
    """Bytes in the new kit."""
    was: str = ""
    """Its old name, where it was renamed."""


@dataclass(frozen=True, kw_only=True)
class PackageChange:
    """A package that differs."""

    name: str
    """Normalized name."""
    change: str
    """"added", "removed", "changed" (its version) or "rebuilt" (the same version in other bytes)."""
    before: str = ""
    """Version in the old kit; empty for none."""
    after: str = ""
    """Version in the new kit; empty for none."""
    note: str = ""
    """What else there is to know, such as that the image has it now."""
    files: tuple[FileChange, ...] = ()
    """What differs inside of its wheel; of own code alone."""


@dataclass(frozen=True, kw_only=True)
class ValueChange:
    """A value that differs."""

    name: str
    """What it is."""
    before: Any
    """In the old kit; None where it lacks it."""
    after: Any
    """In the new kit; None where it lacks it."""


@dataclass(frozen=True, kw_only=True)
class NotebookChange:
    """What differs in the notebook."""

    cells: tuple[tuple[str, str], ...] = ()
    """Title and "added", "removed", "changed" or "moved" of each cell that differs."""
    metadata: tuple[ValueChange, ...] = ()
    """Keys of kernel-metadata.json, and of the notebook besides its cells."""
    text: tuple[str, ...] = ()
    """A unified diff of the notebooks as percent scripts, line by line."""


@dataclass(frozen=True, kw_only=True)
class KitDifference:
    """All that differs between two kits."""

    old: KitSnapshot
    """The old kit."""
    new: KitSnapshot
    """The new kit."""
    target: tuple[ValueChange, ...]
    """Image, Python, and the parts that it lies in."""
    packages: tuple[PackageChange, ...]
    """Packages of others that are installed."""
    provided: tuple[PackageChange, ...]
    """Packages that are taken from the image."""
    own: tuple[PackageChange, ...]
    """Own code in wheels."""
    sources: tuple[FileChange, ...]
    """Own code as loose files."""
    checkpoints: tuple[FileChange, ...]
    """Trained files."""
    other: tuple[FileChange, ...]
    """All other files: what builds sdists, spares, the install plan's details."""
    notebook: NotebookChange
    """The notebook."""

    @property
    def is_identical(self) -> bool:
        """Whether the kits are identical, their notebooks included."""
        return self.old.kit.id == self.new.kit.id and self.notebook == NotebookChange()


def compare_kits(old: KitSnapshot, new: KitSnapshot) -> KitDifference:
    """Return all that differs between two kits; ProjectError where a wheel of own code cannot be read."""
    changes = _compare_packages(old, new)
    own = {name for side in (old, new) for name, package in side.installed.items() if package.own}
    provided = _compare_provided(old.provided, new.provided, old.installed.keys() | new.installed.keys())
    target, other_files = _compare_targets(old, new), _compare_other_files(old, new)
    if old.plan != new.plan and not (changes or provided or target or other_files):
        other_files = (FileChange(name=PLAN, change=CHANGED, before=len(old.plan), after=len(new.plan)),)
    return KitDifference(
        old=old,
        new=new,
        target=target,
        packages=tuple(change for change in changes if change.name not in own),
        provided=provided,
        own=tuple(change for change in changes if change.name in own),
        sources=compare_files(old.select_contents(Role.SOURCE), new.select_contents(Role.SOURCE)),
        checkpoints=compare_files(old.select_contents(Role.CHECKPOINT), new.select_contents(Role.CHECKPOINT)),
        other=other_files,
        notebook=_compare_notebooks(old, new),
    )


def compare_files(old: Mapping[str, FileContent], new: Mapping[str, FileContent]) -> tuple[FileChange, ...]:
    """Return how files (by name) changed; the same bytes under one other name were renamed."""
    removed, added = sorted(old.keys() - new.keys()), sorted(new.keys() - old.keys())
    left = {old[name]: name for name in reversed(removed)}
    renamed = {name: left.pop(new[name]) for name in added if new[name] in left}
    changes = [
        FileChange(name=name, change=RENAMED, before=new[name][0], after=new[name][0], was=old_name)
        for name, old_name in renamed.items()
    ]
    changes += [
        FileChange(name=name, change=ADDED, after=new[name][0]) for name in added if name not in renamed
    ]
    changes += [
        FileChange(name=name, change=REMOVED, before=old[name][0])
        for name in removed
        if name not in renamed.values()
    ]
    changes += [
        FileChange(name=name, change=CHANGED, before=old[name][0], after=new[name][0])
        for name in old.keys() & new.keys()
        if old[name] != new[name]
    ]
    return tuple(sorted(changes, key=lambda change: change.name))


def _compare_targets(old: KitSnapshot, new: KitSnapshot) -> tuple[ValueChange, ...]:
    pairs = {
        "image": (old.image, new.image),
        "python": (old.python, new.python),
        "parts": ([part.name for part in old.kit.parts], [part.name for part in new.kit.parts]),
    }
    return tuple(
        ValueChange(name=name, before=before, after=after)
        for name, (before, after) in pairs.items()
        if before != after
    )


def _compare_packages(old: KitSnapshot, new: KitSnapshot) -> tuple[PackageChange, ...]:
    """Return how the packages that are installed changed, sorted by name."""
    changes = []
    for name in sorted(old.installed.keys() | new.installed.keys()):
        before, after = old.installed.get(name), new.installed.get(name)
        if before is None and after is not None:
            image_package_before = old.provided.get(name)
            note = (
                f"the image's {image_package_before.version} was used before" if image_package_before else ""
            )
            changes.append(PackageChange(name=name, change=ADDED, after=after.version, note=note))
        elif after is None and before is not None:
            image_package_now = new.provided.get(name)
            note = f"the image's {image_package_now.version} is used now" if image_package_now else ""
            changes.append(PackageChange(name=name, change=REMOVED, before=before.version, note=note))
        elif (
            before is not None
            and after is not None
            and _list_package_digests(old, before) != _list_package_digests(new, after)
        ):
            changes.append(_describe_update(old, new, before, after))
    return tuple(changes)


def _list_package_digests(side: KitSnapshot, package: KitPackage) -> list[tuple[str, str]]:
    entries = side.entries_by_name
    return [
        (package.version, ""),
        *sorted((name, entries[name].sha256) for name in package.files if name in entries),
    ]


def _describe_update(
    old: KitSnapshot, new: KitSnapshot, before: KitPackage, after: KitPackage
) -> PackageChange:
    kinds = [" and ".join(_name_file_kind(name) for name in package.files) for package in (before, after)]
    return PackageChange(
        name=after.name,
        change=REBUILT if before.version == after.version else CHANGED,
        before=before.version,
        after=after.version,
        note=f"as {kinds[1]}, before as {kinds[0]}" if kinds[0] != kinds[1] else "",
        files=_compare_wheel_files(old, new, before, after) if after.own or before.own else (),
    )


def _name_file_kind(name: str) -> str:
    return "wheel" if name.endswith(".whl") else "sdist"


def _compare_wheel_files(
    old: KitSnapshot, new: KitSnapshot, before: KitPackage, after: KitPackage
) -> tuple[FileChange, ...]:
    """Return which files of a wheel changed; of what is told about it, only what does not follow from that."""
    # In another version, all that is told has another name and another text.
    derived = (
        (".dist-info/RECORD", ".dist-info/WHEEL") if before.version == after.version else (".dist-info/",)
    )
    contents = [
        {
            name: content
            for name, content in side.read_wheel_contents(package).items()
            if not any(suffix in name for suffix in derived)
        }
        for side, package in ((old, before), (new, after))
    ]
    return compare_files(*contents)


def _compare_provided(
    old: Mapping[str, KitPackage], new: Mapping[str, KitPackage], reported: Iterable[str]
) -> tuple[PackageChange, ...]:
    """Return how the packages of the image changed, but those that are told of as installed ones."""
    changes = []
    for name in sorted((old.keys() | new.keys()) - set(reported)):
        before, after = (side[name].version if name in side else "" for side in (old, new))
        if before != after:
            change = CHANGED if before and after else ADDED if after else REMOVED
            changes.append(PackageChange(name=name, change=change, before=before, after=after))
    return tuple(changes)


def _compare_other_files(old: KitSnapshot, new: KitSnapshot) -> tuple[FileChange, ...]:
    """Return the changes of files that no package stands for."""
    contents = []
    for side in (old, new):
        package_files = {PLAN, *(name for package in side.installed.values() for name in package.files)}
        all_files = side.select_contents(Role.WHEEL, Role.SDIST, Role.BUILD, Role.LOCK)
        contents.append({name: content for name, content in all_files.items() if name not in package_files})
    return compare_files(*contents)


def _compare_notebooks(old: KitSnapshot, new: KitSnapshot) -> NotebookChange:
    keys = sorted(old.metadata.keys() | new.metadata.keys())
    values = [(key, old.metadata.get(key), new.metadata.get(key)) for key in keys]
    before, after = (render_script(side.cells).splitlines() for side in (old, new))
    return NotebookChange(
        cells=_compare_cells(old.cells, new.cells),
        metadata=tuple(ValueChange(name=k, before=b, after=a) for k, b, a in values if b != a),
        text=tuple(
            _add_cell_title(line, before)
            for line in difflib.unified_diff(before, after, "old", "new", n=_CONTEXT, lineterm="")
        ),
    )


def _add_cell_title(line: str, before: list[str]) -> str:
    """Return a line of a unified difference; a hunk's head also names the cell that it begins in."""
    match = re.match(r"@@ -(\d+)", line)
    if not match:
        return line
    heads = [cell_line for cell_line in before[: int(match[1])] if cell_line.startswith("# %%")]
    return f"{line} {heads[-1].removeprefix('# ')}" if heads else line


def _compare_cells(
    old: tuple[NotebookCell, ...], new: tuple[NotebookCell, ...]
) -> tuple[tuple[str, str], ...]:
    before, after = _key_by_title(old), _key_by_title(new)
    changes = [(key, REMOVED) for key in before if key not in after]
    changes += [(key, ADDED) for key in after if key not in before]
    changes += [(key, CHANGED) for key in after if key in before and before[key] != after[key]]
    if not changes and list(before) != list(after):
        changes = [(key, "moved") for key, was in zip(after, before, strict=True) if key != was]
    return tuple(changes)


def _key_by_title(cells: tuple[NotebookCell, ...]) -> dict[str, NotebookCell]:
    """Return cells by a name that is theirs alone: kind and title, numbered where they come twice."""
    titled, counts = {}, Counter[str]()
    for cell in cells:
        name = f"{cell.title} ({cell.kind})"
        counts[name] += 1
        titled[name if counts[name] == 1 else f"{name} {counts[name]}"] = cell
    return titled


def render_script(cells: Iterable[NotebookCell]) -> str:
    """Return cells as a percent script."""
    written = []
    for cell in cells:
        if cell.kind == "code":
            written.append(f"# %% {cell.title}\n{cell.source}")
        else:
            lines = [f"# {line}".rstrip() for line in cell.source.splitlines()]
            written.append("\n".join([f"# %% [{cell.kind}]", *lines]))
    return "\n\n".join(written)
