"""Apply to a folder what Kaggle does to an uploaded dataset, to get the folder that it mounts.

Kaggle unpacks archives, drops `+ ~ =` and non-ASCII letters from names, refuses `&` and `@` in names (also in archives:
https://github.com/Kaggle/kaggle-cli/issues/524 and 430), removes the executable bit, and empties symbolic links.
The rules for names are in kaggle_names.
"""

import bz2
import gzip
import lzma
import os
import re
import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import IO

from offline_kit.core.errors import ProjectError
from offline_kit.project.kaggle_names import (
    ARCHIVE_SUFFIXES,
    NOT_UPLOADED,
    STREAM_SUFFIXES,
    ZIP_BASED_SUFFIXES,
    split_suffix,
)
from offline_kit.project.kaggle_names import is_archive as is_archive
from offline_kit.project.kaggle_names import make_safe_name as make_safe_name

_DROPPED = re.compile(r"[+~=]|[^\x00-\x7f]")
_REFUSED = re.compile(r"[&@]")
_MAX_DEPTH = 8  # of archives in archives; a zip can contain itself


class UploadChange(StrEnum):
    """What Kaggle does with an uploaded file."""

    KEPT = "kept"
    UNPACKED = "unpacked"
    DECOMPRESSED = "decompressed"
    EMPTIED = "emptied"
    """A symbolic link becomes a file of 0 bytes."""


@dataclass(frozen=True, kw_only=True)
class UploadedFile:
    """A file of the uploaded folder."""

    path: str
    """Posix path below the folder."""
    link: bool = False
    zipped: bool = False
    """It is a zip or tar archive by its bytes; looked at only for names in ZIP_BASED_SUFFIXES."""


@dataclass(frozen=True, kw_only=True)
class UploadAction:
    """What Kaggle does with one uploaded file, and its new path."""

    change: UploadChange
    source: str
    """Posix path as uploaded."""
    target: str
    """Posix path as mounted; for an unpacked archive, its folder."""


def find_refusals(paths: Iterable[str], inside: str = "") -> tuple[str, ...]:
    """Return a message for each path for which Kaggle would refuse the whole dataset version.

    `inside` is the archive that contains the paths.
    """
    location = f" in '{inside}'" if inside else ""
    problems = []
    for path in paths:
        if bad := sorted(set(_REFUSED.findall(path))):
            problems.append(f"'{path}'{location}: Kaggle refuses names with {' and '.join(bad)}")
        if path.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", path) or re.match(r"[A-Za-z]:", path):
            problems.append(f"'{path}'{location}: the path is outside its folder")
    return tuple(problems)


def plan_upload_changes(
    uploads: Iterable[UploadedFile], *, unpack_pt: bool = True
) -> tuple[UploadAction, ...]:
    """Return what Kaggle does with each file, sorted by path, without archives in archives.

    `unpack_pt` also unpacks the formats in ZIP_BASED_SUFFIXES, as Kaggle sometimes does.
    """
    ordered = sorted(uploads, key=lambda each: each.path)
    spelled: dict[str, str] = {}
    for upload in ordered:
        _normalize_path(upload.path, spelled)
    used_paths = set(spelled)  # neither files nor unpacked archives get the name of a folder
    actions = []
    for upload in ordered:
        change, name = _decide_change(upload, unpack_pt=unpack_pt)
        target = _find_free_path(_normalize_path(name, spelled), used_paths)
        used_paths.add(target.lower())
        actions.append(UploadAction(change=change, source=upload.path, target=target))
    return tuple(actions)


def _decide_change(upload: UploadedFile, *, unpack_pt: bool) -> tuple[UploadChange, str]:
    lower = upload.path.lower()
    if upload.link:
        return UploadChange.EMPTIED, upload.path
    for suffix in ZIP_BASED_SUFFIXES:
        if lower.endswith(suffix):
            opened = unpack_pt and upload.zipped
            return (
                (UploadChange.UNPACKED, upload.path[: -len(suffix)])
                if opened
                else (UploadChange.KEPT, upload.path)
            )
    for suffixes, change in (
        (ARCHIVE_SUFFIXES, UploadChange.UNPACKED),
        (STREAM_SUFFIXES, UploadChange.DECOMPRESSED),
    ):
        for suffix in suffixes:
            if lower.endswith(suffix):
                return change, upload.path[: -len(suffix)]
    return UploadChange.KEPT, upload.path


def _normalize_path(path: str, spelled: dict[str, str]) -> str:
    """Drop the characters that Kaggle drops; folders that differ only in case get the first spelling."""
    *folders, name = map(_drop_characters, path.split("/"))
    for count in range(1, len(folders) + 1):
        spelling = spelled.setdefault("/".join(folders[:count]).lower(), folders[count - 1])
        folders[count - 1] = spelling
    return "/".join([*folders, name])


def _drop_characters(name: str) -> str:
    remaining = _DROPPED.sub("", name)
    return remaining if remaining.strip(".") else "unnamed"  # "..+" must not become ".."


def _find_free_path(path: str, used_paths: set[str]) -> str:
    folder, _, name = path.rpartition("/")
    stem, suffix = split_suffix(name)
    candidate, number = path, 0
    while candidate.lower() in used_paths:
        number += 1
        candidate = f"{folder}/{stem}-{number:03}{suffix}".lstrip("/")
    return candidate


def apply_upload_rules(
    source: Path, target: Path, *, unpack_pt: bool = True, link: bool = True
) -> tuple[UploadAction, ...]:
    """Create in `target` (empty or absent) the folder that Kaggle mounts for the uploaded folder `source`.

    Symbolic links are never followed, and no member of an archive is written outside `target`. Unreadable archives are
    kept; .7z and .rar become empty folders, because the standard library cannot read them. With `link`, unchanged files
    are hard links, so neither side may be modified in place. Return what was done, with paths in archives as
    "a.zip/member".

    Raises:
        ProjectError: Kaggle would refuse the upload; its details list all reasons, and `target` is deleted.

    """
    if not source.is_dir():
        raise ProjectError(
            f"there is no folder '{source}' to upload", hint="build the kit first", code="folder-not-found"
        )
    if target.exists() and any(target.iterdir()):
        raise ProjectError(f"'{target}' is not empty", hint="use an empty folder", code="folder-not-empty")
    work = UploadTreatment(unpack_pt=unpack_pt, link=link)
    try:
        work.treat_folder(source, target)
        if work.refused:
            raise ProjectError(
                f"Kaggle would refuse the folder '{source}'",
                hint="rename these files, or give the archive a suffix that Kaggle does not unpack",
                code="upload-refused",
                details=work.refused,
            )
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise
    return tuple(work.done)


_UNREADABLE = (
    *(zipfile.BadZipFile, tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, gzip.BadGzipFile),
    *(FileExistsError, NotADirectoryError, IsADirectoryError),  # members with conflicting paths
    *(RuntimeError, NotImplementedError, KeyError, ValueError),  # passwords, methods, dangling hard links
)
_READERS: dict[str, Callable[[Path], IO[bytes] | gzip.GzipFile | bz2.BZ2File | lzma.LZMAFile]] = {
    ".gz": gzip.GzipFile,
    ".bz2": bz2.BZ2File,
    ".xz": lzma.LZMAFile,
}


class UploadTreatment:
    """One pass over a folder and the archives in it."""

    def __init__(self, *, unpack_pt: bool, link: bool) -> None:
        self.unpack_pt, self.link = unpack_pt, link
        self.done: list[UploadAction] = []
        self.refused: list[str] = []

    def treat_folder(self, source: Path, target: Path, inside: str = "", depth: int = 0) -> None:
        """Apply the rules to every file of a folder; `depth` counts the archives around it."""
        uploads = [
            upload for upload in _list_uploads(source) if depth or upload.path.lower() not in NOT_UPLOADED
        ]
        self.refused += find_refusals([upload.path for upload in uploads], inside.rstrip("/"))
        target.mkdir(parents=True, exist_ok=True)
        for action in plan_upload_changes(uploads, unpack_pt=self.unpack_pt):
            self.treat_file(action, source / action.source, target, inside, depth)

    def treat_file(self, action: UploadAction, path: Path, target: Path, inside: str, depth: int) -> None:
        """Apply one planned action to one file."""
        goal = target / action.target
        goal.parent.mkdir(parents=True, exist_ok=True)
        change = action.change
        if not self.apply_change(action, path, goal, inside, depth):
            change = UploadChange.KEPT
            if action.change is not change:  # not an archive after all, so it keeps its name
                goal = _find_unused_path(goal.with_name(_drop_characters(path.name)))
            self.place_file(path, goal)
        mounted = goal.relative_to(target).as_posix()
        self.done.append(UploadAction(change=change, source=inside + action.source, target=mounted))

    def apply_change(self, action: UploadAction, path: Path, goal: Path, inside: str, depth: int) -> bool:
        """Empty, unpack or decompress the file; return False if it stays unchanged."""
        if action.change is UploadChange.EMPTIED:
            goal.touch(mode=0o644)
            return True
        if action.change is UploadChange.UNPACKED and depth < _MAX_DEPTH:
            return self.unpack_archive(path, goal, inside, depth)
        return action.change is UploadChange.DECOMPRESSED and _decompress_file(path, goal)

    def unpack_archive(self, path: Path, goal: Path, inside: str, depth: int) -> bool:
        """Unpack to `goal`; return False, and create nothing, if the archive cannot be read."""
        if path.name.lower().endswith((".7z", ".rar")):
            goal.mkdir()
            return True
        with tempfile.TemporaryDirectory(prefix=".treat-", dir=goal.parent) as scratch:
            content = Path(scratch) / "content"
            content.mkdir()
            try:
                with _open_members(path) as members:
                    bad = find_refusals((name for name, _ in members), inside + path.name)
                    self.refused += bad
                    for name, opened in () if bad else members:
                        _write_member(content / PurePosixPath(name), opened)
            except _UNREADABLE:
                return False
            self.treat_folder(content, goal, f"{inside}{path.name}/", depth + 1)
        return True

    def place_file(self, path: Path, goal: Path) -> None:
        """Put an unchanged file into place, as a hard link if possible."""
        if self.link and stat.S_IMODE(path.stat().st_mode) == 0o644:
            try:
                os.link(path, goal)
            except OSError:
                pass  # another file system, or one without hard links (FAT, some network drives)
            else:
                return
        shutil.copyfile(path, goal)
        goal.chmod(0o644)


def _list_uploads(source: Path) -> Iterator[UploadedFile]:
    for folder, folders, files in os.walk(source):
        for name in files + [name for name in folders if Path(folder, name).is_symlink()]:
            path = Path(folder, name)
            relative_path = path.relative_to(source).as_posix()
            if path.is_symlink():
                yield UploadedFile(path=relative_path, link=True)
            elif path.is_file():
                zipped = name.lower().endswith(ZIP_BASED_SUFFIXES) and _is_zip_or_tar(path)
                yield UploadedFile(path=relative_path, zipped=zipped)


def _is_zip_or_tar(path: Path) -> bool:
    return zipfile.is_zipfile(path) or tarfile.is_tarfile(path)


_Member = tuple[str, Callable[[], IO[bytes] | None]]


@contextmanager
def _open_members(path: Path) -> Iterator[list[_Member]]:
    """Open an archive and yield its files as (name, function that opens it); links open to None."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as packed:
            yield [
                (info.filename, _make_zip_opener(packed, info))
                for info in packed.infolist()
                if not info.is_dir()
            ]
        return
    with tarfile.open(path, "r:*") as rolled:
        yield [
            (info.name, _make_tar_opener(rolled, info)) for info in rolled.getmembers() if not info.isdir()
        ]


def _make_zip_opener(packed: zipfile.ZipFile, info: zipfile.ZipInfo) -> Callable[[], IO[bytes] | None]:
    link = stat.S_ISLNK(info.external_attr >> 16)
    return lambda: None if link else packed.open(info)


def _make_tar_opener(rolled: tarfile.TarFile, info: tarfile.TarInfo) -> Callable[[], IO[bytes] | None]:
    return lambda: rolled.extractfile(info) if info.isreg() or info.islnk() else None


def _write_member(path: Path, opened: Callable[[], IO[bytes] | None]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as target:
        if stream := opened():
            with stream:
                shutil.copyfileobj(stream, target, 1 << 20)


def _find_unused_path(path: Path) -> Path:
    """Return the path, or a numbered one if it exists, because it may be a hard link to the upload."""
    twins = (path.with_name(f"{path.stem}-{number:03}{path.suffix}") for number in range(1, 1000))
    return next((candidate for candidate in (path, *twins) if not candidate.exists()), path)


def _decompress_file(path: Path, goal: Path) -> bool:
    """Decompress a single file; return False, and create nothing, if its content does not fit its suffix."""
    reader = _READERS[path.suffix.lower()]
    try:
        with reader(path) as stream, goal.open("xb") as target:
            shutil.copyfileobj(stream, target, 1 << 20)
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        goal.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno is not None:
            raise  # an error of the disk, not of the file
        return False
    goal.chmod(0o644)
    return True
