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
"""Contains input (the mounts under the paths of the cells) and working (files from beside the notebook)."""
LARGE = 64 << 20
"""Bytes above which what is laid out is a link to the kit's file: nobody writes to weights."""


def show_sources(
    kit: OpenKit,
    attached: Mapping[str, Sequence[str]],
    served: Mapping[str, str],
    root: Path = SHOWN,
    say: Say = print,
) -> Path:
    """Create the folder of links to every source and kit file, and return it.

    `attached` has names by group ("competitions", "datasets", "notebooks", "models"); `served` maps a path
    below `root` to a file of the kit. A source that is not mounted only causes a note: the cell that reads
    it will fail.
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
    """Copy the kit's files to where the notebook's download lines would have put them in the working folder.

    `layout` has pairs of a target path and the kit's file or folder; "" makes an empty folder. Folders are
    real, so that `cd ..` works. Files are copied because cells may write to them; large ones are links.
    Existing files stay.
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
    """Copy a file, or link a large one, unless the target exists."""
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
    """Return the folder of a mounted source; None if it is not mounted."""
    for path in mount_paths(group, name):
        if folder := find_folder(inputs, path):
            return folder
    return None


def _link_source(root: Path, path: str | Path, real: Path, *, instead: bool = False) -> None:
    """Create a link; an existing one stays, unless `instead` is set."""
    target = root / path
    _expand_folder(root, target.parent)
    if os.path.lexists(target):
        if not instead or not target.is_symlink():
            return
        target.unlink()
    target.symlink_to(real.resolve())


def _expand_folder(root: Path, folder: Path) -> None:
    """Create a folder; a link on the way to it becomes a folder of links, so that files can be added."""
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
