"""Find weights outside of the kit: in a dataset, a notebook's output, or a Kaggle Model.

This file is part of offline-kit and is pasted into the notebooks that it renders. A source is written as
"dataset:owner/slug", "notebook:owner/slug" or "model:owner/model/framework/variation/version", and is mounted
in one of two layouts; files whose hash was known when the kit was built are checked.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from offline_kit.notebook.runtime.kit_runtime import (
    MARKER,
    KitError,
    PartFile,
    Say,
    find_folder,
    list_mounted,
    read_part,
    restore_names,
    verify_files,
)

HOW_TO_ATTACH = {
    "dataset": "attach the dataset (Add Input), and see that it is yours, shared with you, or public",
    "notebook": "attach the notebook's output (Add Input > Notebooks), and see that its last run was complete",
    "model": "attach the model at this very version (Add Input > Models), and accept its licence on its page",
}


def find_source(source: str, inputs: Path) -> Path:
    """Return the folder of a mounted source; raises KitError with what is mounted instead."""
    for path in source_paths(source):
        folder = find_folder(inputs, path)
        if folder:
            return folder
    kind = source.partition(":")[0]
    raise KitError(
        f"'{source}' is not attached to this notebook",
        [*_describe_versions(source, inputs), *(f"mounted: {line}" for line in list_mounted(inputs))],
        code="source-not-attached",
        hint=f"{HOW_TO_ATTACH[kind]}; for a rehearsal, name a local copy of it under `copies`",
    )


def source_paths(source: str) -> list[str]:
    """Return the places of a source below the inputs: in the layout of 2026, then in the older one."""
    kind, _, ref = source.partition(":")
    owner, _, path = ref.partition("/")
    if kind not in HOW_TO_ATTACH or not path:
        raise KitError(
            f"'{source}' is no source",
            code="source-invalid",
            hint="write dataset:, notebook: or model: before its name",
        )
    return [f"{kind}s/{owner}/{path}", path]


def find_published(folder: Path) -> dict[str, Path]:
    """Return the trained files that offline-kit has published in a folder, by original name; empty if it has not.

    Kaggle would unpack `best.pt`, so it is stored as `best.pt.xyz`. Raises KitError for damaged files.
    """
    if not (folder / MARKER).is_file():
        return {}
    entries = [entry for entry in read_part(folder) if entry.role in ("checkpoint", "preprocessing")]
    return verify_files(entries)[0]


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
    say: Say = print,
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
        restored = restore_names(originals, scratch / "sources" / re.sub(r"\W+", "-", source))
        if spelled := match_original(pattern, restored):
            folder, matches = restored, _match_files(restored, spelled)
    if not matches:
        file_names = sorted(
            path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
        )
        remainder = [f"and {len(file_names) - 30} more"] if len(file_names) > 30 else []
        raise KitError(
            f"'{source}' has no file that matches '{pattern}'",
            [*(f"it has: {name}" for name in file_names[:30]), *remainder] or ["it is empty"],
            code="source-file-not-found",
            hint="correct `files`, or look whether the notebook wrote it in its newest run",
        )
    _check_unchanged(source, folder, matches, known_files or {}, say)
    return matches


def _check_unchanged(
    source: str, folder: Path, matches: list[Path], known_files: Mapping[str, Any], say: Say
) -> None:
    names = [path.relative_to(folder).as_posix() for path in matches]
    entries = [
        PartFile(folder, "checkpoint", name, name, int(size), str(sha256))
        for name, (size, sha256) in known_files.items()
    ]
    try:
        verify_files(entries)
    except KitError as error:
        raise KitError(
            f"'{source}' has changed since the kit was built",
            error.details,
            code="source-changed",
            hint="if the change is intended, update the local copy and build the kit again",
        ) from None
    below = tuple(f"{name}/" for name in names)
    new = [
        name
        for name in names
        if name not in known_files and not any(k.startswith(below) for k in known_files)
    ]
    if known_files and new:
        say(f"note: '{source}' has files that it had not when the kit was built: {', '.join(new)}")
    if entries:
        say(f"{source}: {len(entries)} files, every hash as expected")


def _describe_versions(source: str, inputs: Path) -> list[str]:
    kind, _, ref = source.partition(":")
    if kind != "model":
        return []
    versions = []
    for path in source_paths(source):
        folder = find_folder(inputs, path.rpartition("/")[0])
        versions += sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder else []
    required = ref.rpartition("/")[2]
    return [f"its version {name} is mounted, and version {required} is wanted" for name in versions]
