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
from collections.abc import Callable, Iterable
from contextlib import suppress
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

_DROPPED = re.compile(r"[+~=]|[^\x00-\x7f]")
_REFUSED = re.compile(r"[&@]")
_MAX_DEPTH = 8  # of archives in archives; a zip can contain itself
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


class UploadChange(StrEnum):
    """What Kaggle does with an uploaded file."""

    KEPT = "kept"
    UNPACKED = "unpacked"
    DECOMPRESSED = "decompressed"


def apply_upload_rules(source: Path, target: Path, *, unpack_pt: bool = True, link: bool = True) -> None:
    """Create in `target` (empty or absent) the folder that Kaggle mounts for the uploaded folder `source`.

    Symbolic links are never followed, and no member of an archive is written outside `target`. Unreadable archives are
    kept; .7z and .rar become empty folders, because the standard library cannot read them. `unpack_pt` also unpacks the
    formats in ZIP_BASED_SUFFIXES, as Kaggle sometimes does. With `link`, unchanged files are hard links, so neither side
    may be modified in place.

    Raises ProjectError if Kaggle would refuse the upload; its details list all reasons, and `target` is
    deleted.
    """
    if not source.is_dir():
        raise ProjectError(
            f"there is no folder '{source}' to upload", hint="build the kit first", code="folder-not-found"
        )
    if target.exists() and any(target.iterdir()):
        raise ProjectError(f"'{target}' is not empty", hint="use an empty folder", code="folder-not-empty")
    treatment = _Treatment(unpack_pt=unpack_pt, link=link)
    try:
        treatment.treat_folder(source, target)
        if treatment.refused:
            raise ProjectError(
                f"Kaggle would refuse the folder '{source}'",
                hint="rename these files, or give the archive a suffix that Kaggle does not unpack",
                code="upload-refused",
                details=treatment.refused,
            )
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise


def find_change(path: str, *, zipped: bool) -> tuple[UploadChange, str]:
    """Return what Kaggle does with a file of this name, and its new path.

    `zipped` tells of a name in ZIP_BASED_SUFFIXES whether the file is unpacked.
    """
    for suffixes, change in (
        (ZIP_BASED_SUFFIXES, UploadChange.UNPACKED if zipped else UploadChange.KEPT),
        (ARCHIVE_SUFFIXES, UploadChange.UNPACKED),
        (STREAM_SUFFIXES, UploadChange.DECOMPRESSED),
    ):
        for suffix in suffixes:
            if path.lower().endswith(suffix):
                return change, path if change is UploadChange.KEPT else path[: -len(suffix)]
    return UploadChange.KEPT, path


class _Treatment:
    """One pass over a folder and the archives in it."""

    def __init__(self, *, unpack_pt: bool, link: bool) -> None:
        self.unpack_pt, self.link = unpack_pt, link
        self.refused: list[str] = []  # why Kaggle would refuse the whole dataset version

    def treat_folder(self, source: Path, target: Path, inside: str = "", depth: int = 0) -> None:
        """Apply the rules to every file of a folder; `inside` names the `depth` archives around it."""
        paths = [path for path in _list_paths(source) if depth or path.lower() not in NOT_UPLOADED]
        self.refused += _find_refusals(paths, inside.rstrip("/"))
        target.mkdir(parents=True, exist_ok=True)
        spelled: dict[str, str] = {}
        for path in paths:
            _normalize_path(path, spelled)
        used_paths = set(spelled)  # neither files nor unpacked archives get the name of a folder

        def claim_path(name: str) -> Path:
            new_path = _find_free_path(_normalize_path(name, spelled), used_paths)
            used_paths.add(new_path.lower())
            goal = target / new_path
            goal.parent.mkdir(parents=True, exist_ok=True)
            return goal

        for path in paths:
            file = source / path
            if file.is_symlink():
                claim_path(path).touch(mode=0o644)  # the upload has the link's bytes: none
                continue
            is_candidate = self.unpack_pt and path.lower().endswith(ZIP_BASED_SUFFIXES)
            zipped = is_candidate and (zipfile.is_zipfile(file) or tarfile.is_tarfile(file))
            change, name = find_change(path, zipped=zipped)
            done = False
            if change is UploadChange.DECOMPRESSED:
                done = _decompress_file(file, claim_path(name))
            elif change is UploadChange.UNPACKED and depth < _MAX_DEPTH:
                done = self.unpack_archive(file, claim_path(name), inside, depth)
            if not done:  # it stays as it is, maybe because it is no archive after all
                self.place_file(file, claim_path(path))

    def unpack_archive(self, path: Path, goal: Path, inside: str, depth: int) -> bool:
        """Unpack to `goal`; return False, and create nothing, if the archive cannot be read."""
        # Kaggle was seen to unpack .7z, of .rar reports differ; the empty folder shows that the file is gone.
        if path.name.lower().endswith((".7z", ".rar")):
            goal.mkdir()
            return True
        with tempfile.TemporaryDirectory(prefix=".treat-", dir=goal.parent) as scratch:
            content = Path(scratch) / "content"
            content.mkdir()
            try:
                self.refused += _extract_archive(path, content, inside + path.name)
            except _UNREADABLE:
                return False
            self.treat_folder(content, goal, f"{inside}{path.name}/", depth + 1)
        return True

    def place_file(self, path: Path, goal: Path) -> None:
        """Put an unchanged file into place, as a hard link if possible."""
        if self.link and stat.S_IMODE(path.stat().st_mode) == 0o644:
            # Another file system, or one without hard links (FAT, some network drives), refuses.
            with suppress(OSError):
                os.link(path, goal)
                return
        shutil.copyfile(path, goal)
        goal.chmod(0o644)


def _list_paths(source: Path) -> list[str]:
    paths = []
    for folder, folders, files in os.walk(source):
        links = [name for name in folders if Path(folder, name).is_symlink()]
        for path in (Path(folder, name) for name in files + links):
            if path.is_symlink() or path.is_file():
                paths.append(path.relative_to(source).as_posix())
    return sorted(paths)


def _find_refusals(paths: Iterable[str], inside: str) -> list[str]:
    location = f" in '{inside}'" if inside else ""
    problems = []
    for path in paths:
        if bad := sorted(set(_REFUSED.findall(path))):
            problems.append(f"'{path}'{location}: Kaggle refuses names with {' and '.join(bad)}")
        if path.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", path) or re.match(r"[A-Za-z]:", path):
            problems.append(f"'{path}'{location}: the path is outside its folder")
    return problems


def _normalize_path(path: str, spelled: dict[str, str]) -> str:
    """Drop the characters that Kaggle drops; folders that differ only in case get the first spelling."""
    *folders, name = map(drop_characters, path.split("/"))
    for count in range(1, len(folders) + 1):
        spelling = spelled.setdefault("/".join(folders[:count]).lower(), folders[count - 1])
        folders[count - 1] = spelling
    return "/".join([*folders, name])


def drop_characters(name: str) -> str:
    """Return a name without what Kaggle drops from it."""
    remaining = _DROPPED.sub("", name)
    return remaining if remaining.strip(".") else "unnamed"  # "..+" must not become ".."


def _find_free_path(path: str, used_paths: set[str]) -> str:
    folder, _, name = path.rpartition("/")
    stem, suffix = split_suffix(name)
    candidate, number = path, 0
    while candidate.lower() in used_paths:
        number += 1
        candidate = f"{folder}/{stem}-{number:03}{suffix}".lstrip("/")  # as Kaggle numbers names that collide
    return candidate


def _extract_archive(path: Path, content: Path, inside: str) -> list[str]:
    """Write the members of an archive, links as empty files, unless Kaggle refuses one; return why it does."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as packed:
            infos = [info for info in packed.infolist() if not info.is_dir()]
            refusals = _find_refusals([info.filename for info in infos], inside)
            for info in () if refusals else infos:
                is_link = stat.S_ISLNK(info.external_attr >> 16)
                _write_member(content, info.filename, None if is_link else packed.open(info))
        return refusals
    with tarfile.open(path, "r:*") as rolled:
        members = [member for member in rolled.getmembers() if not member.isdir()]
        refusals = _find_refusals([member.name for member in members], inside)
        for member in () if refusals else members:
            is_file = member.isreg() or member.islnk()
            _write_member(content, member.name, rolled.extractfile(member) if is_file else None)
    return refusals


def _write_member(folder: Path, name: str, stream: IO[bytes] | None) -> None:
    path = folder / PurePosixPath(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as target:
        if stream:
            with stream:
                shutil.copyfileobj(stream, target, 1 << 20)


def _decompress_file(path: Path, goal: Path) -> bool:
    """Decompress a single file; return False, and create nothing, if its content does not fit its suffix."""
    try:
        with _READERS[path.suffix.lower()](path) as stream, goal.open("xb") as target:
            shutil.copyfileobj(stream, target, 1 << 20)
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        goal.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno is not None:
            raise  # an error of the disk, not of the file
        return False
    goal.chmod(0o644)
    return True
