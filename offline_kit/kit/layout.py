"""Where each file of a kit lies: its name for tools, its name for Kaggle, and the part that it is in."""

import hashlib
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from offline_kit.core.errors import ProjectError
from offline_kit.core.files import sha256_of
from offline_kit.kit import install_plan, manifest
from offline_kit.kit.install_plan import PLAN, Contents
from offline_kit.project.import_names import files_of
from offline_kit.project.kaggle_names import safe_paths
from offline_kit.project.types import Artifact, Checkpoint, FileEntry, Part, Role

_SECRETS = re.compile(
    r"kaggle\.json|access_token|\.?netrc|_netrc|\.pypirc|\.git-credentials|id_(rsa|dsa|ecdsa|ed25519)"
    r"|.*\.(pem|p12|pfx|ppk)|\.env(\.(?!example|sample|template|dist)[^/]*)?",
    re.IGNORECASE,
)
"""Names of files that hold somebody's keys."""

_LARGE = 50_000_000
"""Bytes from which a checkpoint of a split kit is worth a dataset of its own."""
_MOST_GROUPS = 16
"""Large checkpoints beyond this number share as many datasets."""
GROUP_SUFFIX = len("-checkpoints-0000")
"""Characters that a split adds at most to the dataset's slug."""


@dataclass(frozen=True, kw_only=True)
class Item:
    """A file that goes into the kit."""

    role: Role
    """What it is for."""
    original: str
    """Its name for tools, below the part's folder."""
    size: int
    """Bytes."""
    sha256: str
    """Hex digest."""
    path: Path | None = None
    """Where its bytes lie; None when they are `data`."""
    data: bytes = b""
    """The bytes of what exists only here."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A kit before it is written."""

    parts: tuple[Part, ...]
    """The parts with their ids, sorted by name."""
    items: dict[str, Item]
    """Every file by its original name."""
    away: frozenset[str] = frozenset()
    """Original names of the files that stay on Kaggle, until a rehearsal needs them."""


def arrange(contents: Contents) -> Layout:
    """Return what the kit will hold and under which names; hashes the loose sources, writes nothing.

    Raises ProjectError with all that must not or cannot go along: keys, two files of one name, names that
    no manifest can hold.
    """
    items = _unique([*_packages(contents), *_code(contents), *_checkpoints(contents)])
    problems = [*_secrets(contents), *_bad_names(items)]
    if problems:
        raise ProjectError(
            "some files must not go into a kit",
            hint="move them out of the packages, modules and checkpoints that are shipped, or rename them",
            details=problems,
        )
    elsewhere = frozenset(entry.original for part in contents.elsewhere for entry in part.entries)
    stored = safe_paths(items.keys() - elsewhere)
    entries = [
        FileEntry(role=item.role, original=name, stored=stored[name], size=item.size, sha256=item.sha256)
        for name, item in items.items()
        if name not in elsewhere
    ]
    own = {PLAN, *(f"packages/{wheel.filename}" for wheel in contents.own.wheels)}
    parts = (
        *(_parts(entries, own, grouped=contents.grouped) if contents.split else _whole(entries)),
        *contents.elsewhere,
    )
    return Layout(parts=tuple(sorted(parts, key=lambda part: part.name)), items=items, away=elsewhere)


def _whole(entries: Sequence[FileEntry]) -> tuple[Part, ...]:
    return (manifest.make_part("kit", entries),)


def _parts(entries: Sequence[FileEntry], own: Collection[str], *, grouped: bool) -> tuple[Part, ...]:
    """Return a part for each top folder; own wheels and the plan that names them count as code.

    So a changed line of code sends the code again, and not the wheels of others beside it. `grouped`: Kaggle replaces
    a dataset's version as a whole, so a large file is a part of its own, whose name follows from the file's.
    """
    large = [entry.original for entry in entries if grouped and _is_large(entry)]
    digits = 4 if len(large) <= _MOST_GROUPS else 1
    found: dict[str, list[FileEntry]] = {}
    for entry in entries:
        name = "code" if entry.original in own else entry.original.partition("/")[0]
        if entry.original in large:
            name = f"{name}-{hashlib.sha256(entry.original.encode()).hexdigest()[:digits]}"
        found.setdefault(name, []).append(entry)
    return tuple(manifest.make_part(name, found[name]) for name in sorted(found))


def _is_large(entry: FileEntry) -> bool:
    return entry.role in (Role.CHECKPOINT, Role.PREPROCESSING) and entry.size >= _LARGE


def _packages(contents: Contents) -> Iterator[Item]:
    plan = install_plan.make(contents).encode()
    digest = hashlib.sha256(plan).hexdigest()
    yield Item(role=Role.LOCK, original=PLAN, size=len(plan), sha256=digest, data=plan)
    settled = contents.settled
    built = [each.wheel for each in settled if each.wheel]
    for wheel in (*contents.house.wheels, *contents.own.wheels, *built):
        yield _artifact(Role.WHEEL, wheel)
    for each in settled:
        if each.sdist:
            yield _artifact(Role.SDIST, each.sdist)
        for wheel in each.closure:
            yield _artifact(Role.BUILD, wheel)


def _artifact(role: Role, file: Artifact) -> Item:
    return Item(
        role=role,
        original=f"packages/{file.filename}",
        size=file.size,
        sha256=file.sha256,
        path=file.path,
    )


def _code(contents: Contents) -> Iterator[Item]:
    for source in contents.own.sources:
        try:
            size, digest = source.path.stat().st_size, sha256_of(source.path)
        except OSError as error:
            raise ProjectError(
                f"cannot read '{source.original}': {error.strerror}",
                hint="mend or remove the file, then build again",
            ) from error
        name = f"code/{source.original}"
        yield Item(role=Role.SOURCE, original=name, size=size, sha256=digest, path=source.path)


def checkpoint_names(checkpoints: Sequence[Checkpoint]) -> dict[str, str]:
    """Return the name in the kit of each checkpoint, by its original name."""
    # "checkpoints/best.ckpt" of the project is not doubled to "checkpoints/checkpoints/best.ckpt".
    tops = {PurePosixPath(each.original).parts[0] for each in checkpoints}
    folder = "" if tops == {"checkpoints"} else "checkpoints/"
    names = [each.original for each in checkpoints]
    return {name: folder + name if name != "checkpoints" else "checkpoints/checkpoints" for name in names}


def preprocessing_names(files: Sequence[Checkpoint]) -> dict[str, str]:
    """Return the name in the kit of each preprocessing file, by the name that a notebook asks for.

    That is its bare name, and where two have the same one, the path in the project. Caches of libraries,
    below "caches/", are found by those libraries themselves.
    """
    files = [each for each in files if not each.original.startswith("caches/")]
    counts = Counter(PurePosixPath(each.original).name for each in files)
    found = {}
    for each in files:
        name = PurePosixPath(each.original).name
        found[name if counts[name] == 1 else each.original] = f"checkpoints/preprocessing/{each.original}"
    return found


def _checkpoints(contents: Contents) -> Iterator[Item]:
    names = checkpoint_names(contents.checkpoints)
    for each in contents.checkpoints:
        yield Item(
            role=Role.CHECKPOINT,
            original=names[each.original],
            size=each.size,
            sha256=each.sha256,
            path=each.path,
        )
    for each in contents.preprocessing:
        yield Item(
            role=Role.PREPROCESSING,
            original=f"checkpoints/preprocessing/{each.original}",
            size=each.size,
            sha256=each.sha256,
            path=each.path,
        )


def _unique(items: Iterable[Item]) -> dict[str, Item]:
    """Key the items by name, sorted; a wheel that is wanted twice goes once, under its first role."""
    found: dict[str, Item] = {}
    problems = []
    for item in items:
        first = found.setdefault(item.original, item)
        if first.sha256 != item.sha256:
            problems.append(
                f"'{item.original}' is wanted with two contents: '{first.path}' and '{item.path}'"
            )
    if problems:
        raise ProjectError(
            "two files of the kit would have one name",
            hint="remove the cache folder's copy of the wrong one, or pin another version",
            details=problems,
        )
    return dict(sorted(found.items()))


def _secrets(contents: Contents) -> list[str]:
    named = [source.original for source in contents.own.sources]
    named += [each.original for each in (*contents.checkpoints, *contents.preprocessing)]
    inside = [(wheel.filename, name) for wheel in contents.own.wheels for name in files_of(wheel.path)]
    return [
        *(f"'{name}' looks like a file with keys" for name in named if _is_secret(name)),
        *(f"'{name}' in '{wheel}' looks like a file with keys" for wheel, name in inside if _is_secret(name)),
    ]


def _is_secret(name: str) -> bool:
    return _SECRETS.fullmatch(PurePosixPath(name).name) is not None


def _bad_names(items: Iterable[str]) -> list[str]:
    return [f"{name!a} {reason}" for name in items if (reason := manifest.path_problem(name))]
