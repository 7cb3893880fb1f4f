"""Find weights that lie outside of the kit: in a dataset, in a notebook's output, in a Kaggle Model.

This file is part of offline-kit and is pasted into the notebooks that it renders. A source is written as
"dataset:owner/slug", "notebook:owner/slug" or "model:owner/model/framework/variation/version", and is
mounted in one of two layouts; what was known of its files when the kit was built is checked.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from offline_kit.notebook.runtime.kit_runtime import (
    MARKER,
    Entry,
    KitError,
    Say,
    listing,
    read_part,
    restore,
    verify,
)

HOW_TO_ATTACH = {
    "dataset": "attach the dataset (Add Input), and see that it is yours, shared with you, or public",
    "notebook": "attach the notebook's output (Add Input > Notebooks), and see that its last run was complete",
    "model": "attach the model at this very version (Add Input > Models), and accept its licence on its page",
}


def source_folder(source: str, inputs: Path) -> Path:
    """Return where a source is mounted; raises KitError that tells what is mounted instead."""
    for place in source_places(source):
        folder = _below(inputs, place)
        if folder:
            return folder
    kind = source.partition(":")[0]
    raise KitError(
        f"'{source}' is not attached to this notebook",
        [*_other_versions(source, inputs), *(f"mounted: {line}" for line in listing(inputs))],
        code="source-not-attached",
        hint=f"{HOW_TO_ATTACH[kind]}; for a rehearsal, name a local copy of it under `copies`",
    )


def source_places(source: str) -> list[str]:
    """Return the places of a source below the inputs: in the layout of 2026, then in the older one."""
    kind, _, ref = source.partition(":")
    owner, _, rest = ref.partition("/")
    if kind not in HOW_TO_ATTACH or not rest:
        raise KitError(
            f"'{source}' is no source",
            code="source-invalid",
            hint="write dataset:, notebook: or model: before its name",
        )
    return [f"{kind}s/{owner}/{rest}", rest]


def published(folder: Path) -> dict[str, Path]:
    """Return the trained files that offline-kit has published in a folder, by original name; empty if it has not.

    Kaggle would unpack `best.pt`, so it is stored as `best.pt.xyz`. Raises KitError for damaged files.
    """
    if not (folder / MARKER).is_file():
        return {}
    entries = [each for each in read_part(folder) if each.role in ("checkpoint", "preprocessing")]
    return verify(entries)[0]


def original_pattern(pattern: str, folder: Path) -> str:
    """Return the pattern that names something below a folder of original names: there, `checkpoints/` may be left out."""
    spelled = (pattern, f"checkpoints/{pattern}")
    return next((each for each in spelled if _files_named(folder, each)), "")


def _files_named(folder: Path, pattern: str) -> list[Path]:
    """Return what a pattern names below a folder, sorted: a name that exists means itself, as "model[1].pt"."""
    exact = folder / pattern
    return [exact] if exact.exists() else sorted(folder.glob(pattern))


def source_files(
    source: str,
    pattern: str,
    inputs: Path,
    known: Mapping[str, Any] | None = None,
    say: Say = print,
    scratch: Path | None = None,
) -> list[Path]:
    """Return the files or folders of a source that a glob pattern names, sorted.

    What offline-kit has published there is laid out below `scratch` under its original names, which the pattern
    may use; names as they are stored work as well.

    `known` gives size and SHA-256 of files by their path in the source, as they were when the kit was
    built. Raises KitError where nothing matches, and with every file that is not what it was.
    """
    folder = source_folder(source, inputs)
    found = _files_named(folder, pattern)
    if scratch and (originals := published(folder)):
        restored = restore(originals, scratch / "sources" / re.sub(r"\W+", "-", source))
        if spelled := original_pattern(pattern, restored):
            folder, found = restored, _files_named(restored, spelled)
    if not found:
        held = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        more = [f"and {len(held) - 30} more"] if len(held) > 30 else []
        raise KitError(
            f"'{source}' holds nothing that matches '{pattern}'",
            [*(f"it holds: {name}" for name in held[:30]), *more] or ["it is empty"],
            code="source-file-not-found",
            hint="correct `files`, or look whether the notebook wrote it in its newest run",
        )
    _compare(source, folder, found, known or {}, say)
    return found


def _compare(source: str, folder: Path, found: list[Path], known: Mapping[str, Any], say: Say) -> None:
    chosen = [path.relative_to(folder).as_posix() for path in found]
    entries = [
        Entry(folder, "checkpoint", name, name, int(size), str(sha256))
        for name, (size, sha256) in known.items()
    ]
    try:
        verify(entries)
    except KitError as error:
        problems = [line[4:] for line in str(error).splitlines() if line.startswith("  - ")]
        raise KitError(
            f"'{source}' is not what it was when the kit was built",
            problems,
            code="source-changed",
            hint="if it was changed on purpose, bring the local copy up to date and build the kit again",
        ) from None
    below = tuple(f"{name}/" for name in chosen)
    new = [name for name in chosen if name not in known and not any(k.startswith(below) for k in known)]
    if known and new:
        say(f"note: '{source}' has files that it had not when the kit was built: {', '.join(new)}")
    if entries:
        say(f"{source}: {len(entries)} files, every hash as expected")


def _below(inputs: Path, place: str) -> Path | None:
    """Return a folder below another one, however its names are written: Kaggle changes their case."""
    folder = inputs
    for word in place.split("/"):
        if (folder / word).is_dir():
            folder = folder / word
            continue
        try:
            alike = [path for path in folder.iterdir() if path.name.lower() == word.lower() and path.is_dir()]
        except OSError:
            return None
        if not alike:
            return None
        folder = alike[0]
    return folder


def _other_versions(source: str, inputs: Path) -> list[str]:
    kind, _, ref = source.partition(":")
    if kind != "model":
        return []
    found = []
    for place in source_places(source):
        folder = _below(inputs, place.rpartition("/")[0])
        found += sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder else []
    wanted = ref.rpartition("/")[2]
    return [f"its version {name} is mounted, and version {wanted} is wanted" for name in found]
