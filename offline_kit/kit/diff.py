"""What differs between two kits: packages, own code, checkpoints, the notebook, and what they are for."""

import difflib
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from offline_kit.kit.diff_sides import Cell, Content, Package, Side
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
class Difference:
    """All that differs between two kits."""

    old: Side
    """The old kit."""
    new: Side
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
    def same(self) -> bool:
        """Whether the kits are identical, their notebooks included."""
        return self.old.kit.id == self.new.kit.id and self.notebook == NotebookChange()


def compare(old: Side, new: Side) -> Difference:
    """Return all that differs between two kits; ProjectError where a wheel of own code cannot be read."""
    changes = _package_changes(old, new)
    own = {name for side in (old, new) for name, package in side.installed.items() if package.own}
    provided = _moves(old.provided, new.provided, old.installed.keys() | new.installed.keys())
    target, other = _target(old, new), _other(old, new)
    if old.plan != new.plan and not (changes or provided or target or other):
        other = (FileChange(name=PLAN, change=CHANGED, before=len(old.plan), after=len(new.plan)),)
    return Difference(
        old=old,
        new=new,
        target=target,
        packages=tuple(change for change in changes if change.name not in own),
        provided=provided,
        own=tuple(change for change in changes if change.name in own),
        sources=files(old.contents(Role.SOURCE), new.contents(Role.SOURCE)),
        checkpoints=files(old.contents(Role.CHECKPOINT), new.contents(Role.CHECKPOINT)),
        other=other,
        notebook=_notebook(old, new),
    )


def files(old: Mapping[str, Content], new: Mapping[str, Content]) -> tuple[FileChange, ...]:
    """Return how files (by name) changed; the same bytes under one other name were renamed."""
    gone, come = sorted(old.keys() - new.keys()), sorted(new.keys() - old.keys())
    left = {old[name]: name for name in reversed(gone)}
    renamed = {name: left.pop(new[name]) for name in come if new[name] in left}
    found = [
        FileChange(name=name, change=RENAMED, before=new[name][0], after=new[name][0], was=was)
        for name, was in renamed.items()
    ]
    found += [FileChange(name=name, change=ADDED, after=new[name][0]) for name in come if name not in renamed]
    found += [
        FileChange(name=name, change=REMOVED, before=old[name][0])
        for name in gone
        if name not in renamed.values()
    ]
    found += [
        FileChange(name=name, change=CHANGED, before=old[name][0], after=new[name][0])
        for name in old.keys() & new.keys()
        if old[name] != new[name]
    ]
    return tuple(sorted(found, key=lambda each: each.name))


def _target(old: Side, new: Side) -> tuple[ValueChange, ...]:
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


def _package_changes(old: Side, new: Side) -> tuple[PackageChange, ...]:
    """Return how the packages that are installed changed, sorted by name."""
    found = []
    for name in sorted(old.installed.keys() | new.installed.keys()):
        before, after = old.installed.get(name), new.installed.get(name)
        if before is None and after is not None:
            had = old.provided.get(name)
            note = f"the image's {had.version} was used before" if had else ""
            found.append(PackageChange(name=name, change=ADDED, after=after.version, note=note))
        elif after is None and before is not None:
            has = new.provided.get(name)
            note = f"the image's {has.version} is used now" if has else ""
            found.append(PackageChange(name=name, change=REMOVED, before=before.version, note=note))
        elif before is not None and after is not None and _bytes(old, before) != _bytes(new, after):
            found.append(_in_both(old, new, before, after))
    return tuple(found)


def _bytes(side: Side, package: Package) -> list[tuple[str, str]]:
    entries = side.entries
    return [
        (package.version, ""),
        *sorted((name, entries[name].sha256) for name in package.files if name in entries),
    ]


def _in_both(old: Side, new: Side, before: Package, after: Package) -> PackageChange:
    kinds = [" and ".join(_kind(name) for name in package.files) for package in (before, after)]
    return PackageChange(
        name=after.name,
        change=REBUILT if before.version == after.version else CHANGED,
        before=before.version,
        after=after.version,
        note=f"as {kinds[1]}, before as {kinds[0]}" if kinds[0] != kinds[1] else "",
        files=_inside(old, new, before, after) if after.own or before.own else (),
    )


def _kind(name: str) -> str:
    return "wheel" if name.endswith(".whl") else "sdist"


def _inside(old: Side, new: Side, before: Package, after: Package) -> tuple[FileChange, ...]:
    """Return which files of a wheel changed; of what is told about it, only what does not follow from that."""
    # In another version, all that is told has another name and another text.
    follows = (
        (".dist-info/RECORD", ".dist-info/WHEEL") if before.version == after.version else (".dist-info/",)
    )
    contents = [
        {
            name: content
            for name, content in side.wheel_contents(package).items()
            if not any(each in name for each in follows)
        }
        for side, package in ((old, before), (new, after))
    ]
    return files(*contents)


def _moves(
    old: Mapping[str, Package], new: Mapping[str, Package], told: Iterable[str]
) -> tuple[PackageChange, ...]:
    """Return how the packages of the image changed, but those that are told of as installed ones."""
    found = []
    for name in sorted((old.keys() | new.keys()) - set(told)):
        before, after = (side[name].version if name in side else "" for side in (old, new))
        if before != after:
            change = CHANGED if before and after else ADDED if after else REMOVED
            found.append(PackageChange(name=name, change=change, before=before, after=after))
    return tuple(found)


def _other(old: Side, new: Side) -> tuple[FileChange, ...]:
    """Return the changes of files that no package stands for."""
    contents = []
    for side in (old, new):
        known = {PLAN, *(name for package in side.installed.values() for name in package.files)}
        every = side.contents(Role.WHEEL, Role.SDIST, Role.BUILD, Role.LOCK)
        contents.append({name: content for name, content in every.items() if name not in known})
    return files(*contents)


def _notebook(old: Side, new: Side) -> NotebookChange:
    keys = sorted(old.metadata.keys() | new.metadata.keys())
    values = [(key, old.metadata.get(key), new.metadata.get(key)) for key in keys]
    before, after = (script(side.cells).splitlines() for side in (old, new))
    return NotebookChange(
        cells=_cells(old.cells, new.cells),
        metadata=tuple(ValueChange(name=k, before=b, after=a) for k, b, a in values if b != a),
        text=tuple(
            _with_cell(line, before)
            for line in difflib.unified_diff(before, after, "old", "new", n=_CONTEXT, lineterm="")
        ),
    )


def _with_cell(line: str, before: list[str]) -> str:
    """Return a line of a unified difference; a hunk's head also names the cell that it begins in."""
    found = re.match(r"@@ -(\d+)", line)
    if not found:
        return line
    heads = [each for each in before[: int(found[1])] if each.startswith("# %%")]
    return f"{line} {heads[-1].removeprefix('# ')}" if heads else line


def _cells(old: tuple[Cell, ...], new: tuple[Cell, ...]) -> tuple[tuple[str, str], ...]:
    before, after = _by_title(old), _by_title(new)
    found = [(key, REMOVED) for key in before if key not in after]
    found += [(key, ADDED) for key in after if key not in before]
    found += [(key, CHANGED) for key in after if key in before and before[key] != after[key]]
    if not found and list(before) != list(after):
        found = [(key, "moved") for key, was in zip(after, before, strict=True) if key != was]
    return tuple(found)


def _by_title(cells: tuple[Cell, ...]) -> dict[str, Cell]:
    """Return cells by a name that is theirs alone: kind and title, numbered where they come twice."""
    found, seen = {}, Counter[str]()
    for cell in cells:
        name = f"{cell.title} ({cell.kind})"
        seen[name] += 1
        found[name if seen[name] == 1 else f"{name} {seen[name]}"] = cell
    return found


def script(cells: Iterable[Cell]) -> str:
    """Return cells as a percent script."""
    written = []
    for cell in cells:
        if cell.kind == "code":
            written.append(f"# %% {cell.title}\n{cell.source}")
        else:
            lines = [f"# {line}".rstrip() for line in cell.source.splitlines()]
            written.append("\n".join([f"# %% [{cell.kind}]", *lines]))
    return "\n\n".join(written)
