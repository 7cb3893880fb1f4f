"""What Kaggle does to an uploaded folder: the folder that it mounts of it.

Archives are unpacked wherever they lie, `+ ~ =` and non-ASCII letters are dropped from names, `&` and `@`
are refused (also in members of the archives that it unpacks), no executable bit is kept and symbolic links
become empty files. Standard library only; the rules for names are in kaggle_names.
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
_MAX_DEPTH = 8  # archives in archives; a zip that holds itself has no end


class UploadChange(StrEnum):
    """What becomes of one uploaded file."""

    KEPT = "kept"
    UNPACKED = "unpacked"
    DECOMPRESSED = "decompressed"
    EMPTIED = "emptied"
    """A symbolic link becomes a file of 0 bytes."""


@dataclass(frozen=True, kw_only=True)
class UploadedFile:
    """One file of the folder that is uploaded."""

    path: str
    """Posix path below the folder."""
    link: bool = False
    zipped: bool = False
    """It is a zip or tar archive by its bytes; looked at only for names in ZIP_BASED_SUFFIXES."""


@dataclass(frozen=True, kw_only=True)
class UploadAction:
    """What becomes of one uploaded file, and where."""

    change: UploadChange
    source: str
    """Posix path as uploaded."""
    target: str
    """Posix path as mounted; for an unpacked archive, its folder."""


def find_refusals(paths: Iterable[str], inside: str = "") -> tuple[str, ...]:
    """Return a line for each path for which Kaggle would refuse the whole dataset version.

    `inside` names the archive whose members the paths are.
    """
    location = f" in '{inside}'" if inside else ""
    problems = []
    for path in paths:
        if bad := sorted(set(_REFUSED.findall(path))):
            problems.append(f"'{path}'{location}: Kaggle refuses names with {' and '.join(bad)}")
        if path.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", path) or re.match(r"[A-Za-z]:", path):
            problems.append(f"'{path}'{location}: the path leads out of its folder")
    return tuple(problems)


def plan_upload_changes(
    uploads: Iterable[UploadedFile], *, unpack_pt: bool = True
) -> tuple[UploadAction, ...]:
    """Return what Kaggle makes of the files, sorted by path; archives inside archives come later.

    `unpack_pt` also unpacks the formats in ZIPPED, which Kaggle does on some days.
    """
    ordered = sorted(uploads, key=lambda each: each.path)
    spelled: dict[str, str] = {}
    for upload in ordered:
        _normalize_path(upload.path, spelled)
    used_paths = set(spelled)  # no file and no unpacked archive takes a folder's name
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
    """Drop the letters that Kaggle drops; of two spellings of a folder the first one stays."""
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
    """Make in `target` (empty or absent) the folder that Kaggle mounts of the uploaded folder `source`.

    Symbolic links are never followed and no member of an archive lands outside. An archive that cannot be
    read stays whole; .7z and .rar become empty folders, for want of a reader. With `link`, unchanged files
    are hard links: the caller promises that neither side is written in place. Returns what was done,
    paths inside archives as "a.zip/member". Raises ProjectError with every reason for which Kaggle would
    refuse the upload, and leaves no target then.
    """
    if not source.is_dir():
        raise ProjectError(f"there is no folder '{source}' to upload", hint="build the kit first")
    if target.exists() and any(target.iterdir()):
        raise ProjectError(f"'{target}' is not empty", hint="give an empty folder to mount into")
    work = UploadTreatment(unpack_pt=unpack_pt, link=link)
    try:
        work.treat_folder(source, target)
        if work.refused:
            raise ProjectError(
                f"Kaggle would refuse the folder '{source}'",
                hint="rename these, or give the archive a suffix that Kaggle leaves alone",
                details=work.refused,
            )
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise
    return tuple(work.done)


_UNREADABLE = (
    *(zipfile.BadZipFile, tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, gzip.BadGzipFile),
    *(FileExistsError, NotADirectoryError, IsADirectoryError),  # members that stand in each other's way
    *(RuntimeError, NotImplementedError, KeyError, ValueError),  # passwords, methods, dangling hard links
)
_READERS: dict[str, Callable[[Path], IO[bytes] | gzip.GzipFile | bz2.BZ2File | lzma.LZMAFile]] = {
    ".gz": gzip.GzipFile,
    ".bz2": bz2.BZ2File,
    ".xz": lzma.LZMAFile,
}


class UploadTreatment:
    """One run over a folder and, in turn, over what its archives hold."""

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
            if action.change is not change:  # no archive after all: its name stays too
                goal = _find_unused_path(goal.with_name(_drop_characters(path.name)))
            self.place_file(path, goal)
        mounted = goal.relative_to(target).as_posix()
        self.done.append(UploadAction(change=change, source=inside + action.source, target=mounted))

    def apply_change(self, action: UploadAction, path: Path, goal: Path, inside: str, depth: int) -> bool:
        """Do what the action says to the bytes; False where the file stays as it is."""
        if action.change is UploadChange.EMPTIED:
            goal.touch(mode=0o644)
            return True
        if action.change is UploadChange.UNPACKED and depth < _MAX_DEPTH:
            return self.unpack_archive(path, goal, inside, depth)
        return action.change is UploadChange.DECOMPRESSED and _decompress_file(path, goal)

    def unpack_archive(self, path: Path, goal: Path, inside: str, depth: int) -> bool:
        """Unpack into `goal`; False (and nothing made) where the archive cannot be read."""
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
                pass  # another file system, or one without hard links
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
    """Open an archive and give its files as (name, how to open it); links and the like open to None."""
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
    """Return the path, or a numbered neighbour: an existing file may be a hard link to the upload."""
    twins = (path.with_name(f"{path.stem}-{number:03}{path.suffix}") for number in range(1, 1000))
    return next((candidate for candidate in (path, *twins) if not candidate.exists()), path)


def _decompress_file(path: Path, goal: Path) -> bool:
    """Decompress a single file; False (and nothing made) where its bytes are not what its name says."""
    reader = _READERS[path.suffix.lower()]
    try:
        with reader(path) as stream, goal.open("xb") as target:
            shutil.copyfileobj(stream, target, 1 << 20)
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        goal.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk's own trouble, not the file's
        return False
    goal.chmod(0o644)
    return True
