"""The layout of a kit: each file's original name, its stored name on Kaggle, and its part."""

import hashlib
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from offline_kit.core.errors import ProjectError
from offline_kit.core.files import sha256_of
from offline_kit.kit import install_plan, manifest
from offline_kit.kit.install_plan import PLAN, KitContents
from offline_kit.project.import_names import list_wheel_files
from offline_kit.project.kaggle_names import map_safe_paths
from offline_kit.project.types import Artifact, Checkpoint, FileEntry, KitPart, Role

# .env.example and its like are templates without secrets.
_SECRETS = re.compile(
    r"kaggle\.json|access_token|\.?netrc|_netrc|\.pypirc|\.git-credentials|id_(rsa|dsa|ecdsa|ed25519)"
    r"|.*\.(pem|p12|pfx|ppk)|\.env(\.(?!example|sample|template|dist)[^/]*)?",
    re.IGNORECASE,
)
"""Names of files that hold keys or passwords."""

_LARGE = 50_000_000
"""Bytes from which a checkpoint of a split kit gets its own dataset."""
_MOST_GROUPS = 16
"""If there are more large checkpoints than this, they share as many datasets."""
SPLIT_SUFFIX_LENGTH = len("-checkpoints-0000")
"""The most characters that a split adds to the dataset's slug."""


@dataclass(frozen=True, kw_only=True)
class KitFile:
    """A file that goes into the kit."""

    role: Role
    original: str
    """Its name inside the kit, which tools see."""
    size: int
    sha256: str
    path: Path | None = None
    """The file to copy; None if the bytes are `data`."""
    data: bytes = b""


@dataclass(frozen=True, kw_only=True)
class KitLayout:
    """A kit before it is written."""

    parts: tuple[KitPart, ...]
    """Sorted by name."""
    files: dict[str, KitFile]
    """By original name."""
    remote: frozenset[str] = frozenset()
    """Original names of the files that stay on Kaggle until a rehearsal fetches them."""


def arrange_files(contents: KitContents) -> KitLayout:
    """Return the files of the kit and their names; hashes loose sources, writes nothing.

    Raises ProjectError listing every file that must not or cannot be shipped: keys, duplicate names, names that no
    manifest can hold.
    """
    items = _index_by_name(
        [*_list_package_files(contents), *_list_source_files(contents), *_list_checkpoint_files(contents)]
    )
    problems = _find_secrets(contents)
    problems += [f"{name!a} {reason}" for name in items if (reason := manifest.check_path(name))]
    if problems:
        raise ProjectError(
            "some files must not go into a kit",
            code="file-not-allowed",
            hint="move them out of the packages, modules and checkpoints that are shipped, or rename them",
            details=problems,
        )
    remote = frozenset(entry.original for part in contents.remote_parts for entry in part.entries)
    stored = map_safe_paths(items.keys() - remote)
    entries = [
        FileEntry(role=item.role, original=name, stored=stored[name], size=item.size, sha256=item.sha256)
        for name, item in items.items()
        if name not in remote
    ]
    own = {PLAN, *(f"packages/{wheel.filename}" for wheel in contents.own.wheels)}
    parts = (
        *(
            _split_parts(entries, own, grouped=contents.grouped)
            if contents.split
            else (manifest.make_part("kit", entries),)
        ),
        *contents.remote_parts,
    )
    return KitLayout(parts=tuple(sorted(parts, key=lambda part: part.name)), files=items, remote=remote)


def _split_parts(entries: Sequence[FileEntry], own: Collection[str], *, grouped: bool) -> tuple[KitPart, ...]:
    """Return a part for each top folder; own wheels and the plan that lists them belong to the code.

    A changed line of code thus uploads the code again, not the wheels of others. `grouped` gives each large file a
    part named after it: a new version of a Kaggle dataset uploads all its files.
    """
    roles = (Role.CHECKPOINT, Role.PREPROCESSING) if grouped else ()
    large = [entry.original for entry in entries if entry.role in roles and entry.size >= _LARGE]
    # The name follows from the file's, so that the same checkpoint stays in the same dataset.
    digits = 4 if len(large) <= _MOST_GROUPS else 1
    entries_by_part: dict[str, list[FileEntry]] = {}
    for entry in entries:
        name = "code" if entry.original in own else entry.original.partition("/")[0]
        if entry.original in large:
            name = f"{name}-{hashlib.sha256(entry.original.encode()).hexdigest()[:digits]}"
        entries_by_part.setdefault(name, []).append(entry)
    return tuple(manifest.make_part(name, entries_by_part[name]) for name in sorted(entries_by_part))


def _list_package_files(contents: KitContents) -> Iterator[KitFile]:
    plan = install_plan.render_plan(contents).encode()
    digest = hashlib.sha256(plan).hexdigest()
    yield KitFile(role=Role.LOCK, original=PLAN, size=len(plan), sha256=digest, data=plan)
    prepared_sdists = contents.prepared_sdists
    built = [prepared.wheel for prepared in prepared_sdists if prepared.wheel]
    for wheel in (*contents.wheelhouse.wheels, *contents.own.wheels, *built):
        yield _make_package_file(Role.WHEEL, wheel)
    for prepared in prepared_sdists:
        if prepared.sdist:
            yield _make_package_file(Role.SDIST, prepared.sdist)
        for wheel in prepared.closure:
            yield _make_package_file(Role.BUILD, wheel)


def _make_package_file(role: Role, file: Artifact) -> KitFile:
    return KitFile(
        role=role, original=f"packages/{file.filename}", size=file.size, sha256=file.sha256, path=file.path
    )


def _list_source_files(contents: KitContents) -> Iterator[KitFile]:
    for source in contents.own.sources:
        try:
            size, digest = source.path.stat().st_size, sha256_of(source.path)
        except OSError as error:
            raise ProjectError(
                f"cannot read '{source.original}': {error.strerror}",
                code="file-unreadable",
                hint="fix or remove the file, then build again",
            ) from error
        name = f"code/{source.original}"
        yield KitFile(role=Role.SOURCE, original=name, size=size, sha256=digest, path=source.path)


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
    files = [file for file in files if not file.original.startswith("caches/")]
    counts = Counter(PurePosixPath(file.original).name for file in files)
    names = {}
    for file in files:
        name = PurePosixPath(file.original).name
        names[name if counts[name] == 1 else file.original] = f"checkpoints/preprocessing/{file.original}"
    return names


def _list_checkpoint_files(contents: KitContents) -> Iterator[KitFile]:
    names = name_checkpoints(contents.checkpoints)
    for checkpoint in contents.checkpoints:
        yield KitFile(
            role=Role.CHECKPOINT,
            original=names[checkpoint.original],
            size=checkpoint.size,
            sha256=checkpoint.sha256,
            path=checkpoint.path,
        )
    for checkpoint in contents.preprocessing:
        yield KitFile(
            role=Role.PREPROCESSING,
            original=f"checkpoints/preprocessing/{checkpoint.original}",
            size=checkpoint.size,
            sha256=checkpoint.sha256,
            path=checkpoint.path,
        )


def _index_by_name(items: Iterable[KitFile]) -> dict[str, KitFile]:
    """Return files by name, sorted; a wheel needed for two roles is shipped once, under the first."""
    files_by_name: dict[str, KitFile] = {}
    problems = []
    for item in items:
        first = files_by_name.setdefault(item.original, item)
        if first.sha256 != item.sha256:
            problems.append(f"'{item.original}' has two contents: '{first.path}' and '{item.path}'")
    if problems:
        raise ProjectError(
            "two files of the kit would have the same name",
            code="duplicate-file",
            hint="remove the wrong one from the cache folder, or pin another version",
            details=problems,
        )
    return dict(sorted(files_by_name.items()))


def _find_secrets(contents: KitContents) -> list[str]:
    names = [source.original for source in contents.own.sources]
    names += [checkpoint.original for checkpoint in (*contents.checkpoints, *contents.preprocessing)]
    inside = [
        (wheel.filename, name) for wheel in contents.own.wheels for name in list_wheel_files(wheel.path)
    ]
    return [
        *(f"'{name}' looks like a file with keys" for name in names if _is_secret_name(name)),
        *(
            f"'{name}' in '{wheel}' looks like a file with keys"
            for wheel, name in inside
            if _is_secret_name(name)
        ),
    ]


def _is_secret_name(name: str) -> bool:
    return _SECRETS.fullmatch(PurePosixPath(name).name) is not None
