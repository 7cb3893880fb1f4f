"""The layout of a kit: each file's original name, its stored name on Kaggle, and its part."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from offline_kit.core import resources
from offline_kit.core.errors import ProjectError
from offline_kit.core.files import sha256_of
from offline_kit.kit import install_plan, manifest
from offline_kit.kit.install_plan import PLAN, KitContents
from offline_kit.project.kaggle_names import map_safe_paths
from offline_kit.project.types import Artifact, Checkpoint, FileEntry, KitPart, Role

RUNTIME_PACKAGE = "offline_kit_runtime"  # the folder of the kit that the notebook imports
_PREPROCESSING = "checkpoints/preprocessing/"
# Bytes from which a checkpoint of a split kit gets its own dataset
_LARGE = 50_000_000
# If there are more large checkpoints than this, they share as many datasets
_MOST_GROUPS = 16
SPLIT_SUFFIX_LENGTH = len("-checkpoints-0000")  # the most characters that a split adds to the dataset's slug


Source = Path | bytes  # A file to copy, or the bytes themselves


@dataclass(frozen=True, kw_only=True)
class KitLayout:
    """A kit before it is written."""

    parts: tuple[KitPart, ...]
    sources: dict[str, Source]  # of all files, by original name
    remote: frozenset[str]  # original names of the files that stay on Kaggle until a rehearsal fetches them


def arrange_files(contents: KitContents) -> KitLayout:
    """Return the files of the kit and their names; hashes loose sources, writes nothing.

    Raises ProjectError listing every file that must not or cannot be shipped: keys, duplicate names, names that no
    manifest can hold.
    """
    files: dict[str, tuple[FileEntry, Source]] = {}
    problems = []
    for entry, source in _list_files(contents):
        # A wheel needed for two roles is shipped once, under the first.
        first, first_source = files.setdefault(entry.original, (entry, source))
        if first.sha256 != entry.sha256:
            problems.append(f"'{entry.original}' has two contents: '{first_source!s}' and '{source!s}'")
    if problems:
        raise ProjectError(
            "two files of the kit would have the same name",
            code="duplicate-file",
            hint="remove the wrong one from the cache folder, or pin another version",
            details=problems,
        )
    problems = [f"{name!a} {reason}" for name in sorted(files) if (reason := manifest.check_path(name))]
    if problems:
        raise ProjectError(
            "some files must not go into a kit",
            code="file-not-allowed",
            hint="move them out of the packages, modules and checkpoints that are shipped, or rename them",
            details=problems,
        )
    remote = frozenset(entry.original for part in contents.remote_parts for entry in part.entries)
    # What stays on Kaggle keeps the stored names that it has there
    stored = map_safe_paths(files.keys() - remote)
    entries = [replace(files[name][0], stored=stored_name) for name, stored_name in stored.items()]
    parts = [*contents.remote_parts]
    if contents.split:
        parts += _split_parts(entries, contents)
    elif entries:
        parts.append(manifest.make_part("kit", entries))
    return KitLayout(
        parts=tuple(sorted(parts, key=lambda part: part.name)),
        sources={name: source for name, (_, source) in files.items()},
        remote=remote,
    )


def _split_parts(entries: Sequence[FileEntry], contents: KitContents) -> list[KitPart]:
    """Return a part for each top folder; own wheels, the plan that lists them and the runtime belong to the code.

    A changed line of code thus uploads the code again, not the wheels of others, and an update of this tool only the
    code, which is the smallest part. `contents.grouped` gives each large
    file a part named after it: a new version of a Kaggle dataset uploads all its files.
    """
    own = {PLAN, *(f"packages/{wheel.filename}" for wheel in contents.own.wheels)}
    roles = (Role.CHECKPOINT, Role.PREPROCESSING) if contents.grouped else ()
    large = [entry.original for entry in entries if entry.role in roles and entry.size >= _LARGE]
    # The name follows from the file's, so that the same checkpoint stays in the same dataset.
    digits = 4 if len(large) <= _MOST_GROUPS else 1
    entries_by_part: dict[str, list[FileEntry]] = {}
    for entry in entries:
        in_code = entry.original in own or entry.role is Role.RUNTIME
        name = "code" if in_code else entry.original.partition("/")[0]
        if entry.original in large:
            name = f"{name}-{hashlib.sha256(entry.original.encode()).hexdigest()[:digits]}"
        entries_by_part.setdefault(name, []).append(entry)
    return [manifest.make_part(name, part_entries) for name, part_entries in entries_by_part.items()]


def _list_files(contents: KitContents) -> Iterator[tuple[FileEntry, Source]]:
    """Yield all files of a kit; their stored names are not known yet."""
    if contents.recorded:
        for entry, path in contents.recorded:
            # One that stays on Kaggle brings the runtime that recorded it, any other one that of this version.
            if entry.role is Role.RECORDING or contents.remote_parts:
                yield replace(entry, stored=""), path
        yield from () if contents.remote_parts else list_runtime_files()
        return
    plan = install_plan.render_plan(contents).encode()
    yield _make_entry(Role.LOCK, PLAN, len(plan), hashlib.sha256(plan).hexdigest()), plan
    yield from list_runtime_files()
    wheels = [*contents.wheelhouse.wheels, *contents.own.wheels]
    packages: list[tuple[Role, Artifact]] = [(Role.WHEEL, wheel) for wheel in wheels]
    packages += [(Role.WHEEL, sdist.wheel) for sdist in contents.prepared_sdists if sdist.wheel]
    for prepared in contents.prepared_sdists:
        packages += [(Role.SDIST, prepared.sdist)] if prepared.sdist else []
        packages += [(Role.BUILD, wheel) for wheel in prepared.closure]
    for role, package in packages:
        yield _make_entry(role, f"packages/{package.filename}", package.size, package.sha256), package.path
    for source in contents.own.sources:
        try:
            size, digest = source.path.stat().st_size, sha256_of(source.path)
        except OSError as error:
            raise ProjectError(
                f"cannot read '{source.original}': {error.strerror}",
                code="file-unreadable",
                hint="fix or remove the file, then build again",
            ) from error
        yield _make_entry(Role.SOURCE, f"code/{source.original}", size, digest), source.path
    names = name_checkpoints(contents.checkpoints)
    checkpoints = [(Role.CHECKPOINT, names[file.original], file) for file in contents.checkpoints]
    checkpoints += [
        (Role.PREPROCESSING, _PREPROCESSING + file.original, file) for file in contents.preprocessing
    ]
    for role, name, file in checkpoints:
        yield _make_entry(role, name, file.size, file.sha256), file.path


def list_runtime_files() -> Iterator[tuple[FileEntry, bytes]]:
    """Yield the files of the notebook's runtime; their stored names are not set yet."""
    for name, source in resources.runtime_files().items():
        digest = hashlib.sha256(source).hexdigest()
        yield _make_entry(Role.RUNTIME, f"{RUNTIME_PACKAGE}/{name}", len(source), digest), source


def _make_entry(role: Role, original: str, size: int, digest: str) -> FileEntry:
    return FileEntry(role=role, original=original, stored="", size=size, sha256=digest)


def name_checkpoints(checkpoints: Sequence[Checkpoint]) -> dict[str, str]:
    """Return the name in the kit of each checkpoint, by its original name."""
    # "checkpoints/best.ckpt" of the project is not doubled to "checkpoints/checkpoints/best.ckpt".
    tops = {PurePosixPath(checkpoint.original).parts[0] for checkpoint in checkpoints}
    folder = "" if tops == {"checkpoints"} else "checkpoints/"
    names = [checkpoint.original for checkpoint in checkpoints]
    return {name: folder + name if name != "checkpoints" else "checkpoints/checkpoints" for name in names}


def name_preprocessing_files(files: Sequence[Checkpoint]) -> dict[str, str]:
    """Return the name in the kit of each preprocessing file, by the name that a notebook uses.

    That is the file name, or the path in the project if several have the same file name. Caches in "caches/" are
    left out: their libraries find them.
    """
    originals = [file.original for file in files if not file.original.startswith("caches/")]
    pairs = [(PurePosixPath(original).name, original) for original in originals]
    counts = Counter(name for name, _ in pairs)
    return {
        name if counts[name] == 1 else original: f"{_PREPROCESSING}{original}" for name, original in pairs
    }
