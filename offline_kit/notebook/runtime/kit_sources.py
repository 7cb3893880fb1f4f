"""Find what is attached beside the kit, and show it to the cells of an adopted notebook.

A source is written as "dataset:owner/slug", "notebook:owner/slug" or "model:owner/model/framework/variation/version",
and is mounted in one of two layouts. /kaggle/input is read-only, so the cells of an adopted notebook read below
/tmp/kaggle/input instead: links to whatever is mounted, under the old path and the new one, with the kit's files
among them.
"""

import os
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from . import kit_runtime
from .kit_hooks import alias_main
from .kit_install import restore_kit
from .kit_runtime import KitError, OpenKit, PartFile

HOW_TO_ATTACH = {
    "dataset": "attach the dataset (Add Input), and see that it is yours, shared with you, or public",
    "notebook": "attach the notebook's output (Add Input > Notebooks), and see that its last run was complete",
    "model": "attach the model at this very version (Add Input > Models), and accept its licence on its page",
}
SHOWN = Path("/tmp/kaggle")  # noqa: S108 - as it stands in the cells
"""Contains input, the mounts under the paths of the cells, and working, from which `../input` leads there."""
SETUP_NAMES = ("PARTS", "import_runtime")
"""What the setup cell defines, and the notebook's own cells must not find."""


def find_source(source: str, inputs: Path) -> Path:
    """Return the folder of a mounted source; raises KitError with what is mounted instead."""
    kind, _, name = source.partition(":")
    if kind not in HOW_TO_ATTACH or "/" not in name:
        raise KitError(f"'{source}' is no source", code="source-invalid")
    if folder := kit_runtime.find_mount(f"{kind}s", name, inputs):
        return folder
    # A Kaggle Model is mounted at one version, and a notebook often keeps an older one attached.
    versions: list[str] = []
    if kind == "model":
        parents = [
            kit_runtime.find_folder(inputs, path.rpartition("/")[0])
            for path in kit_runtime.mount_paths("models", name)
        ]
        versions = [
            path.name for parent in parents if parent for path in sorted(parent.iterdir()) if path.is_dir()
        ]
    wanted = name.rpartition("/")[2]
    raise KitError(
        f"'{source}' is not attached to this notebook",
        [
            *(f"its version {version} is mounted, and version {wanted} is wanted" for version in versions),
            *kit_runtime.list_mounted(inputs),
        ],
        code="source-not-attached",
        hint=f"{HOW_TO_ATTACH[kind]}; for a rehearsal, name a local copy of it under `copies`",
    )


def find_published(folder: Path) -> dict[str, Path]:
    """Return the trained files that offline-kit has published in a folder, by original name; empty if it has not."""
    # Kaggle would unpack `best.pt`, so it is stored as `best.pt.xyz`.
    if not (folder / kit_runtime.MARKER).is_file():
        return {}
    entries = [
        entry for entry in kit_runtime.read_part(folder) if entry.role in ("checkpoint", "preprocessing")
    ]
    return kit_runtime.verify_files(entries)[0]


def match_original(pattern: str, folder: Path) -> str:
    """Return the pattern to use in a folder of original names, in which `checkpoints/` may be left out."""
    spelled = (pattern, f"checkpoints/{pattern}")
    return next((spelling for spelling in spelled if _match_files(folder, spelling)), "")


def _match_files(folder: Path, pattern: str) -> list[Path]:
    """Return what a pattern names below a folder, sorted: a name that exists means itself, as "model[1].pt"."""
    exact = folder / pattern
    return [exact] if exact.exists() else sorted(folder.glob(pattern))


def find_source_files(
    source: str,
    pattern: str,
    inputs: Path,
    known_files: Mapping[str, Any] | None = None,
    scratch: Path | None = None,
) -> list[Path]:
    """Return the files or folders of a source that match a glob pattern, sorted.

    Files that offline-kit published are restored below `scratch` under their original names, which the
    pattern may use; stored names work as well. `known_files` has size and SHA-256 by path, from when the
    kit was built. Raises KitError if nothing matches, and with every changed file.
    """
    folder = find_source(source, inputs)
    matches = _match_files(folder, pattern)
    if scratch and (originals := find_published(folder)):
        restored = kit_runtime.restore_names(originals, scratch / "sources" / re.sub(r"\W+", "-", source))
        if spelled := match_original(pattern, restored):
            folder, matches = restored, _match_files(restored, spelled)
    if not matches:
        names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        remainder = [f"and {len(names) - 30} more"] if len(names) > 30 else []
        raise KitError(
            f"'{source}' has no file that matches '{pattern}'",
            [*(f"it has: {name}" for name in names[:30]), *remainder] or ["it is empty"],
            code="source-file-not-found",
        )
    if known_files:
        _check_unchanged(source, folder, matches, known_files)
    return matches


def _check_unchanged(source: str, folder: Path, matches: list[Path], known_files: Mapping[str, Any]) -> None:
    entries = [
        PartFile(folder, "checkpoint", name, name, int(size), str(sha256))
        for name, (size, sha256) in known_files.items()
    ]
    try:
        kit_runtime.verify_files(entries)
    except KitError as error:
        raise KitError(
            f"'{source}' has changed since the kit was built", error.details, code="source-changed"
        ) from None
    names = [path.relative_to(folder).as_posix() for path in matches]
    new = [name for name in names if not any(f"{known}/".startswith(f"{name}/") for known in known_files)]
    if new:
        print(f"note: '{source}' has files that it had not when the kit was built: {', '.join(new)}")
    print(f"{source}: {len(entries)} files, every hash as expected")


def show_sources(
    inputs: Path, attached: Mapping[str, Sequence[str]], served: Mapping[str, Path], root: Path = SHOWN
) -> Path:
    """Create the folder of links to every source and kit file, and return it.

    `attached` has names by group ("competitions", "datasets", "notebooks", "models"); `served` maps a path
    below `root` to a file of the kit. A source that is not mounted only causes a note: the cell that reads
    it will fail.
    """
    shutil.rmtree(root, ignore_errors=True)
    for folder in ("input", "working"):
        (root / folder).mkdir(parents=True)
    for group, names in attached.items():
        for name in names:
            real = kit_runtime.find_mount(group, name, inputs)
            if real is None:
                print(f"note: {group[:-1]} '{name}' is not mounted: attach it to this notebook (Add Input)")
                continue
            for shown_path in kit_runtime.mount_paths(group, name):
                _link_source(root, f"input/{shown_path}", real)
    # Whatever else is mounted is shown too: cells may list folders.
    for slug, path in kit_runtime.mounted_sources(inputs).items():
        _link_source(root, f"input/{slug}", path)
        _link_source(root, f"input/{path.relative_to(inputs)}", path)
    for shown_path, file in served.items():
        _link_source(root, shown_path, file, instead=True)
    print(
        f"paths: {len(kit_runtime.mounted_sources(inputs))} sources and {len(served)} files of the kit below '{root}'"
    )
    return root


def _link_source(root: Path, path: str, real: Path, *, instead: bool = False) -> None:
    """Create a link; an existing one stays, unless `instead` is set."""
    target = root / path
    for step in reversed([folder for folder in target.parents if root in folder.parents]):
        if step.is_symlink():  # it becomes a folder of links, so that files can be added
            inner = sorted(step.iterdir())
            step.unlink()
            step.mkdir()
            for entry in inner:
                (step / entry.name).symlink_to(entry.resolve())
    target.parent.mkdir(parents=True, exist_ok=True)
    if os.path.lexists(target):
        if not instead or not target.is_symlink():
            return
        target.unlink()
    target.symlink_to(real.resolve())


def lay_out_files(kit: OpenKit, layout: Sequence[tuple[str, str]]) -> None:
    """Copy the kit's files to where the notebook's download lines would have put them in the working folder.

    `layout` has pairs of a target path and the kit's file or folder; "" makes an empty folder. Folders are
    real, so that `cd ..` works. Files are copied because cells may write to them; large ones are links.
    Existing files stay.
    """
    for target_path, name in layout:
        target, source = kit.places.working / target_path, kit.folder / name
        try:
            if name and not source.is_dir():
                kit_runtime.place_file(source, target)
                continue
            target.mkdir(parents=True, exist_ok=True)
            for path in sorted(source.rglob("*")) if name else ():
                if path.is_file():
                    kit_runtime.place_file(path, target / path.relative_to(source))
        except OSError as error:
            print(f"note: cannot make '{target}', as a line of the notebook would have: {error}")
    print(f"made: {', '.join(sorted({target_path for target_path, _ in layout}))}")


def empty_secrets() -> None:
    """Let kaggle_secrets answer without the network, which its secrets need: they are empty.

    https://www.kaggle.com/docs/notebooks#secrets
    """
    methods = ("get_secret", "get_gcloud_credential", "set_gcloud_credentials", "set_tensorflow_credential")
    module: Any = ModuleType("kaggle_secrets")
    module.UserSecretsClient = type("UserSecretsClient", (), dict.fromkeys(methods, lambda *_, **__: ""))
    for name in ("BackendError", "CredentialError", "ValidationError"):
        setattr(module, name, type(name, (Exception,), {}))
    sys.modules["kaggle_secrets"] = module


def open_adopted(
    parts: Mapping[str, str],
    attached: Mapping[str, Sequence[str]],
    served: Mapping[str, str],
    layout: Sequence[tuple[str, str]] = (),
    main: tuple[str, Sequence[str]] | None = None,
) -> None:
    """Do all that an adopted notebook needs before its own cells, and remove the setup's names from it.

    `parts` maps the kit's parts to their ids; for the rest see `show_sources`, `lay_out_files` and `alias_main`.
    """
    kit = restore_kit(parts)
    kit.install()
    if main:
        alias_main(*main, kit)
    show_sources(kit.places.inputs, attached, {path: kit.folder / name for path, name in served.items()})
    if layout:
        lay_out_files(kit, layout)
    empty_secrets()
    remove_setup_names()


def remove_setup_names() -> None:
    """Remove what the setup cell defined from the notebook."""
    for name in SETUP_NAMES:
        vars(sys.modules["__main__"]).pop(name, None)
