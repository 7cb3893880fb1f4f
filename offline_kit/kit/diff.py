"""Compare two kits: packages, code, checkpoints, settings, and the lines of the notebook."""

import difflib
import json
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from offline_kit.core.errors import ProjectError
from offline_kit.kit.layout import PLAN
from offline_kit.kit.manifest import REBUILD_HINT
from offline_kit.project.types import Kit, Role

Content = tuple[Any, str]
"""What is shown of something (a version, bytes, a value), and a digest of it; empty for a value that says it all."""
_CONTEXT = 2  # lines around a change of the notebook
_GROUPS = {Role.SOURCE: "sources", Role.CHECKPOINT: "checkpoints", Role.PREPROCESSING: "checkpoints"}


@dataclass(frozen=True, kw_only=True)
class Change:
    """Something that differs, with its version, bytes or value in both kits (None for none)."""

    name: str
    change: str
    """"added", "removed", "changed", "renamed" (the same bytes), or "rebuilt" (the same version in other bytes)."""
    before: Any
    after: Any
    was: str = ""  # its old name, if it was renamed


@dataclass(frozen=True, kw_only=True)
class KitDifference:
    """All differences between two kits."""

    same_kit: bool  # whether both have one id
    groups: Mapping[str, tuple[Change, ...]]
    """By what they are: target, packages, own, sources, checkpoints, other, and notebook (its settings)."""
    text: tuple[str, ...]  # a unified diff of the notebooks, line by line

    @property
    def is_identical(self) -> bool:
        """Whether the kits are the same, their notebooks included."""
        return self.same_kit and not self.groups["notebook"] and not self.text


def compare_kits(old_kit: Kit, new_kit: Kit) -> KitDifference:
    """Return all differences between two kits; raises ProjectError if a file of one cannot be read."""
    old, new = _read_contents(old_kit), _read_contents(new_kit)
    groups = {name: compare_contents(contents, new[name]) for name, contents in old.items()}
    # The plan differs with the packages; alone, it holds what no other group shows, such as the folders of code.
    if any(groups[name] for name in ("target", "packages", "own")):
        groups["other"] = tuple(change for change in groups["other"] if change.name != PLAN)
    before, after = list(_read_notebook(old_kit)), list(_read_notebook(new_kit))
    text = difflib.unified_diff(before, after, "old", "new", n=_CONTEXT, lineterm="")
    return KitDifference(same_kit=old_kit.id == new_kit.id, groups=groups, text=tuple(text))


def compare_contents(old: Mapping[str, Content], new: Mapping[str, Content]) -> tuple[Change, ...]:
    """Return what changed, sorted by name; the same bytes under another name were renamed."""
    removed, added = sorted(old.keys() - new.keys()), sorted(new.keys() - old.keys())
    # Each old name serves once: of two copies, one was renamed and one is new
    old_names = {digest: name for name in reversed(removed) if (digest := old[name][1])}
    renamed = {name: old_names.pop(new[name][1]) for name in added if new[name][1] in old_names}
    changes = []
    for name in sorted((old.keys() | new.keys()) - set(renamed.values())):
        was = renamed.get(name, "")
        before, after = old.get(was or name), new.get(name)
        if not was and before == after:
            continue
        kind = "changed" if before and after else "removed" if before else "added"
        if before and after and before[0] == after[0]:
            kind = "renamed" if was else "rebuilt" if isinstance(after[0], str) else "changed"
        shown_before, shown_after = (content[0] if content else None for content in (before, after))
        changes.append(Change(name=name, change=kind, before=shown_before, after=shown_after, was=was))
    return tuple(changes)


def _read_contents(kit: Kit) -> dict[str, dict[str, Content]]:
    """Return what is compared of a kit besides its notebook's lines: contents by name, by group."""
    entries = {entry.original: entry for part in kit.parts for entry in part.entries}
    paths = {
        entry.original: kit.part_folder(part) / entry.stored for part in kit.parts for entry in part.entries
    }
    names = ("target", "packages", "own", "sources", "checkpoints", "other", "notebook")
    groups: dict[str, dict[str, Content]] = {name: {} for name in names}
    package_files: set[str] = set()
    plan = _read_json(paths[PLAN]) if PLAN in paths else {}
    try:
        for item in plan.get("install", ()):
            is_own = item.get("role") == "own"
            files = [f"packages/{item[key]}" for key in ("wheel", "sdist") if item.get(key)]
            package_files.update(files)
            digests = sorted(entries[name].sha256 for name in files if name in entries)
            groups["own" if is_own else "packages"][item["name"]] = (item["version"], " ".join(digests))
            for name in files if is_own else ():
                groups["sources"] |= _list_wheel(paths[name])
    except (AttributeError, KeyError, TypeError) as error:
        raise _unreadable_error(kit, error) from error
    for name, entry in entries.items():
        if name not in package_files:
            groups[_GROUPS.get(entry.role, "other")][name] = (entry.size, entry.sha256)
    parts = [part.name for part in kit.parts]
    target = {"image": plan.get("image"), "python": plan.get("python"), "parts": parts}
    settings = _read_json(kit.folder / "notebook/kernel-metadata.json")
    groups["target"] = {name: (value, "") for name, value in target.items()}
    groups["notebook"] = {name: (value, "") for name, value in settings.items()}
    return groups


def _list_wheel(path: Path) -> dict[str, Content]:
    """Return the files in a wheel of own code without its metadata; none of an sdist, or of one that is on Kaggle."""
    if path.suffix != ".whl" or not path.exists():
        return {}
    try:
        with zipfile.ZipFile(path) as wheel:
            members = wheel.infolist()
    except (OSError, zipfile.BadZipFile) as error:
        raise ProjectError(
            f"'{path}' cannot be read as a wheel: {error}", code="wheel-invalid", hint=REBUILD_HINT
        ) from error
    # Size and CRC are in the zip's central directory: nothing has to be unpacked.
    return {
        member.filename: (member.file_size, str(member.CRC))
        for member in members
        if not member.is_dir() and ".dist-info/" not in member.filename
    }


def _read_notebook(kit: Kit) -> Iterator[str]:
    """Yield the lines of a kit's notebook as a script, its metadata at the end; none without a notebook."""
    folder = kit.folder / "notebook"
    settings = _read_json(folder / "kernel-metadata.json")
    path = folder / str(settings.get("code_file") or "inference.ipynb")
    if path.suffix == ".py":
        yield from path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else ()
        return
    notebook = _read_json(path)
    try:
        for cell in notebook.pop("cells", ()):
            yield f"# %% [{cell['cell_type']}] {cell['metadata'].get('title', '')}".rstrip()
            yield from "".join(cell["source"]).splitlines()
    except (AttributeError, KeyError, TypeError) as error:
        raise _unreadable_error(kit, error) from error
    if notebook:
        yield f"# metadata: {json.dumps(notebook, sort_keys=True)}"


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


def _unreadable_error(kit: Kit, error: Exception) -> ProjectError:
    return ProjectError(
        f"the install plan or the notebook of the kit in '{kit.folder}' has an unknown form",
        code="kit-unreadable",
        hint=REBUILD_HINT,
        details=(f"{type(error).__name__}: {error}",),
    )
