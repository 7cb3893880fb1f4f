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
from offline_kit.project.kaggle_names import NOT_UPLOADED, STREAMS, TREES, ZIPPED, split_suffix
from offline_kit.project.kaggle_names import is_archive as is_archive
from offline_kit.project.kaggle_names import safe_name as safe_name

_DROPPED = re.compile(r"[+~=]|[^\x00-\x7f]")
_REFUSED = re.compile(r"[&@]")
_MAX_DEPTH = 8  # archives in archives; a zip that holds itself has no end


class Change(StrEnum):
    """What becomes of one uploaded file."""

    KEPT = "kept"
    UNPACKED = "unpacked"
    DECOMPRESSED = "decompressed"
    EMPTIED = "emptied"
    """A symbolic link, now a file of 0 bytes."""


@dataclass(frozen=True, kw_only=True)
class Upload:
    """One file of the folder that is uploaded."""

    path: str
    """Posix path below the folder."""
    link: bool = False
    """It is a symbolic link."""
    zipped: bool = False
    """Its bytes are those of a zip or tar archive; asked only of names in ZIPPED."""


@dataclass(frozen=True, kw_only=True)
class Action:
    """What becomes of one uploaded file, and where."""

    change: Change
    """What is done."""
    source: str
    """Posix path as uploaded."""
    target: str
    """Posix path as mounted; the folder, for an unpacked archive."""


def refusals(paths: Iterable[str], inside: str = "") -> tuple[str, ...]:
    """Return a line for each path for which Kaggle would refuse the whole dataset version.

    `inside` names the archive whose members the paths are.
    """
    where = f" in '{inside}'" if inside else ""
    found = []
    for path in paths:
        if bad := sorted(set(_REFUSED.findall(path))):
            found.append(f"'{path}'{where}: Kaggle refuses names with {' and '.join(bad)}")
        if path.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", path) or re.match(r"[A-Za-z]:", path):
            found.append(f"'{path}'{where}: the path leads out of its folder")
    return tuple(found)


def plan(uploads: Iterable[Upload], *, unpack_pt: bool = True) -> tuple[Action, ...]:
    """Return what Kaggle makes of the files, sorted by path; archives inside archives come later.

    `unpack_pt` also unpacks the formats in ZIPPED, which Kaggle does on some days.
    """
    ordered = sorted(uploads, key=lambda each: each.path)
    spelled: dict[str, str] = {}
    for upload in ordered:
        _spelling(upload.path, spelled)
    taken = set(spelled)  # no file and no unpacked archive takes a folder's name
    actions = []
    for upload in ordered:
        change, name = _fate(upload, unpack_pt=unpack_pt)
        target = _free(_spelling(name, spelled), taken)
        taken.add(target.lower())
        actions.append(Action(change=change, source=upload.path, target=target))
    return tuple(actions)


def _fate(upload: Upload, *, unpack_pt: bool) -> tuple[Change, str]:
    lower = upload.path.lower()
    if upload.link:
        return Change.EMPTIED, upload.path
    for suffix in ZIPPED:
        if lower.endswith(suffix):
            opened = unpack_pt and upload.zipped
            return (Change.UNPACKED, upload.path[: -len(suffix)]) if opened else (Change.KEPT, upload.path)
    for suffixes, change in ((TREES, Change.UNPACKED), (STREAMS, Change.DECOMPRESSED)):
        for suffix in suffixes:
            if lower.endswith(suffix):
                return change, upload.path[: -len(suffix)]
    return Change.KEPT, upload.path


def _spelling(path: str, spelled: dict[str, str]) -> str:
    """Drop the letters that Kaggle drops; of two spellings of a folder the first one stays."""
    *folders, name = map(_dropped, path.split("/"))
    for count in range(1, len(folders) + 1):
        known = spelled.setdefault("/".join(folders[:count]).lower(), folders[count - 1])
        folders[count - 1] = known
    return "/".join([*folders, name])


def _dropped(name: str) -> str:
    rest = _DROPPED.sub("", name)
    return rest if rest.strip(".") else "unnamed"  # "..+" must not become ".."


def _free(path: str, taken: set[str]) -> str:
    folder, _, name = path.rpartition("/")
    stem, suffix = split_suffix(name)
    candidate, number = path, 0
    while candidate.lower() in taken:
        number += 1
        candidate = f"{folder}/{stem}-{number:03}{suffix}".lstrip("/")
    return candidate


def treat(source: Path, target: Path, *, unpack_pt: bool = True, link: bool = True) -> tuple[Action, ...]:
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
    work = _Treatment(unpack_pt=unpack_pt, link=link)
    try:
        work.folder(source, target)
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


class _Treatment:
    """One run over a folder and, in turn, over what its archives hold."""

    def __init__(self, *, unpack_pt: bool, link: bool) -> None:
        self.unpack_pt, self.link = unpack_pt, link
        self.done: list[Action] = []
        self.refused: list[str] = []

    def folder(self, source: Path, target: Path, inside: str = "", depth: int = 0) -> None:
        uploads = [each for each in _uploads(source) if depth or each.path.lower() not in NOT_UPLOADED]
        self.refused += refusals([each.path for each in uploads], inside.rstrip("/"))
        target.mkdir(parents=True, exist_ok=True)
        for action in plan(uploads, unpack_pt=self.unpack_pt):
            self.one(action, source / action.source, target, inside, depth)

    def one(self, action: Action, path: Path, target: Path, inside: str, depth: int) -> None:
        goal = target / action.target
        goal.parent.mkdir(parents=True, exist_ok=True)
        change = action.change
        if not self.changed(action, path, goal, inside, depth):
            change = Change.KEPT
            if action.change is not change:  # no archive after all: its name stays too
                goal = _unused(goal.with_name(_dropped(path.name)))
            self.put(path, goal)
        mounted = goal.relative_to(target).as_posix()
        self.done.append(Action(change=change, source=inside + action.source, target=mounted))

    def changed(self, action: Action, path: Path, goal: Path, inside: str, depth: int) -> bool:
        """Do what the action says to the bytes; False where the file stays as it is."""
        if action.change is Change.EMPTIED:
            goal.touch(mode=0o644)
            return True
        if action.change is Change.UNPACKED and depth < _MAX_DEPTH:
            return self.unpacked(path, goal, inside, depth)
        return action.change is Change.DECOMPRESSED and _decompressed(path, goal)

    def unpacked(self, path: Path, goal: Path, inside: str, depth: int) -> bool:
        """Unpack into `goal`; False (and nothing made) where the archive cannot be read."""
        if path.name.lower().endswith((".7z", ".rar")):
            goal.mkdir()
            return True
        with tempfile.TemporaryDirectory(prefix=".treat-", dir=goal.parent) as scratch:
            content = Path(scratch) / "content"
            content.mkdir()
            try:
                with _members(path) as members:
                    bad = refusals((name for name, _ in members), inside + path.name)
                    self.refused += bad
                    for name, opened in () if bad else members:
                        _write(content / PurePosixPath(name), opened)
            except _UNREADABLE:
                return False
            self.folder(content, goal, f"{inside}{path.name}/", depth + 1)
        return True

    def put(self, path: Path, goal: Path) -> None:
        if self.link and stat.S_IMODE(path.stat().st_mode) == 0o644:
            try:
                os.link(path, goal)
            except OSError:
                pass  # another file system, or one without hard links
            else:
                return
        shutil.copyfile(path, goal)
        goal.chmod(0o644)


def _uploads(source: Path) -> Iterator[Upload]:
    for folder, folders, files in os.walk(source):
        for name in files + [each for each in folders if Path(folder, each).is_symlink()]:
            path = Path(folder, name)
            where = path.relative_to(source).as_posix()
            if path.is_symlink():
                yield Upload(path=where, link=True)
            elif path.is_file():
                zipped = name.lower().endswith(ZIPPED) and _is_zipped(path)
                yield Upload(path=where, zipped=zipped)


def _is_zipped(path: Path) -> bool:
    return zipfile.is_zipfile(path) or tarfile.is_tarfile(path)


_Member = tuple[str, Callable[[], IO[bytes] | None]]


@contextmanager
def _members(path: Path) -> Iterator[list[_Member]]:
    """Open an archive and give its files as (name, how to open it); links and the like open to None."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as packed:
            yield [
                (info.filename, _zip_opener(packed, info)) for info in packed.infolist() if not info.is_dir()
            ]
        return
    with tarfile.open(path, "r:*") as rolled:
        yield [(info.name, _tar_opener(rolled, info)) for info in rolled.getmembers() if not info.isdir()]


def _zip_opener(packed: zipfile.ZipFile, info: zipfile.ZipInfo) -> Callable[[], IO[bytes] | None]:
    link = stat.S_ISLNK(info.external_attr >> 16)
    return lambda: None if link else packed.open(info)


def _tar_opener(rolled: tarfile.TarFile, info: tarfile.TarInfo) -> Callable[[], IO[bytes] | None]:
    return lambda: rolled.extractfile(info) if info.isreg() or info.islnk() else None


def _write(path: Path, opened: Callable[[], IO[bytes] | None]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as into:
        if stream := opened():
            with stream:
                shutil.copyfileobj(stream, into, 1 << 20)


def _unused(path: Path) -> Path:
    """Return the path, or a numbered neighbour: an existing file may be a hard link to the upload."""
    twins = (path.with_name(f"{path.stem}-{number:03}{path.suffix}") for number in range(1, 1000))
    return next((each for each in (path, *twins) if not each.exists()), path)


def _decompressed(path: Path, goal: Path) -> bool:
    """Decompress a single file; False (and nothing made) where its bytes are not what its name says."""
    reader = _READERS[path.suffix.lower()]
    try:
        with reader(path) as stream, goal.open("xb") as into:
            shutil.copyfileobj(stream, into, 1 << 20)
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        goal.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk's own trouble, not the file's
        return False
    goal.chmod(0o644)
    return True
