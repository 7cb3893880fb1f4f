"""Show the sources of a notebook and the files of its kit under the paths that its cells know.

This file is part of offline-kit and is pasted into the notebooks that it renders. /kaggle/input is read-only, and
has had two layouts. The cells of an adopted notebook read below /tmp/kaggle/input instead: links to whatever is
mounted, under the old path and the new one, with the kit's files among them.
"""

import os
import shutil
from collections.abc import Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any

from offline_kit.notebook.runtime.kit_runtime import OpenKit, Say, find_folder, mounted_sources

SHOWN = Path("/tmp/kaggle")  # noqa: S108 - as it stands in the cells
"""Below it: input (the mounts, as the cells call them) and working (files that lay beside the notebook)."""
LARGE = 64 << 20
"""Bytes above which what is laid out is a link to the kit's file: nobody writes to weights."""


def show_sources(
    kit: OpenKit,
    attached: Mapping[str, Sequence[str]],
    served: Mapping[str, str],
    root: Path = SHOWN,
    say: Say = print,
) -> Path:
    """Make the folder that shows everything, anew, and return it.

    `attached` has the names of "competitions", "datasets", "notebooks" and "models"; `served` gives the
    kit's file for a path below `root`. A source that is not mounted is told: only a cell that reads it fails.
    """
    shutil.rmtree(root, ignore_errors=True)
    for folder in ("input", "working"):
        (root / folder).mkdir(parents=True)
    inputs = kit.places.inputs
    for group, names in attached.items():
        for name in names:
            real = find_mount(group, name, inputs)
            if real is None:
                say(f"note: {group[:-1]} '{name}' is not mounted: attach it to this notebook (Add Input)")
            else:
                for shown_path in mount_paths(group, name):
                    _link_source(root, f"input/{shown_path}", real)
    for slug, path in mounted_sources(inputs).items():
        _link_source(root, f"input/{slug}", path)
        _link_source(root, "input" / path.relative_to(inputs), path)
    for shown_path, name in served.items():
        _link_source(root, shown_path, kit.folder / name, instead=True)
    if (root / "working" / "nltk_data").is_dir():
        os.environ["NLTK_DATA"] = str(root / "working" / "nltk_data")
    say(f"paths: {len(mounted_sources(inputs))} sources and {len(served)} files of the kit below '{root}'")
    return root


def lay_out_files(kit: OpenKit, layout: Sequence[tuple[str, str]], say: Say = print) -> None:
    """Lay what lines would have fetched where they would have put it, below the working folder.

    `layout` has pairs: the place, and the kit's file or folder; "" for an empty folder. Folders are real ones, so that
    `cd ..` leads back. Files are copied, since they may be written to; large ones are links. What is there stays.
    """
    for target_path, name in layout:
        target, source = kit.places.working / target_path, kit.folder / name
        is_folder = not name or source.is_dir()
        source_files = (
            [path for path in sorted(source.rglob("*")) if path.is_file()] if name and is_folder else []
        )
        try:
            (target if is_folder else target.parent).mkdir(parents=True, exist_ok=True)
            for file in source_files if is_folder else [source]:
                _place_file(file, target / file.relative_to(source) if is_folder else target)
        except OSError as error:
            say(f"note: cannot make '{target}', as a line of the notebook would have: {error}")
    say(f"made: {', '.join(sorted({target_path for target_path, _ in layout}))}")


def _place_file(file: Path, target: Path) -> None:
    """Make a copy of a file, or a link to a large one, where nothing is yet."""
    if target.is_symlink() and not target.exists():
        target.unlink()  # of a kit that is gone
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    if file.stat().st_size > LARGE:
        target.symlink_to(file.resolve())
        return
    shutil.copyfile(file, target)
    with target.open("rb") as opened:
        target.chmod(0o755 if opened.read(2) == b"#!" else 0o644)


def mount_paths(group: str, name: str) -> list[str]:
    """Return the paths of a source below the inputs: in the layout of 2026, then in the older one."""
    return [f"{group}/{name}", name if group == "competitions" else name.partition("/")[2]]


def find_mount(group: str, name: str, inputs: Path) -> Path | None:
    """Return where a source is mounted; None where it is not."""
    for path in mount_paths(group, name):
        if folder := find_folder(inputs, path):
            return folder
    return None


def _link_source(root: Path, path: str | Path, real: Path, *, instead: bool = False) -> None:
    """Make a link; what is there already stays, unless a file of the kit has to come first."""
    target = root / path
    _expand_folder(root, target.parent)
    if os.path.lexists(target):
        if not instead or not target.is_symlink():
            return
        target.unlink()
    target.symlink_to(real.resolve())


def _expand_folder(root: Path, folder: Path) -> None:
    """Make a folder; one that is shown as a link becomes a folder of links, so that something can be added to it."""
    steps = folder.relative_to(root).parts
    for step in (root.joinpath(*steps[:count]) for count in range(1, len(steps) + 1)):
        if step.is_symlink():
            inner = sorted(step.iterdir())
            step.unlink()
            step.mkdir()
            for entry in inner:
                (step / entry.name).symlink_to(entry.resolve())
    folder.mkdir(parents=True, exist_ok=True)


def forget_names(namespace: MutableMapping[str, Any], names: set[str]) -> None:
    """Take every name out of a notebook but these: its cells find the ones that they make themselves, and no other."""
    for name in set(namespace) - names:
        del namespace[name]
