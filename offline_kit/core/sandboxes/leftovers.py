"""What a box leaves behind is not trusted: only regular files and folders stay, none larger than a limit."""

import os
import shutil
import stat
from contextlib import suppress
from pathlib import Path

LIMIT = 20 * 1024**3
"""Bytes: what /kaggle/working may hold on Kaggle (https://www.kaggle.com/docs/notebooks#technical-specifications)."""
_SHOWN = 5


def clean_leftovers(folder: Path, *, limit: int = LIMIT) -> tuple[str, ...]:
    """Delete what is no regular file or folder, has no UTF-8 name or is larger than `limit`; say what it was.

    Links are deleted, never followed: a box can point them at any file of this machine. Folders that it
    closed are opened again.
    """
    deleted: list[str] = []
    pending = [folder]
    while pending:
        folder_path = pending.pop()
        with suppress(OSError):
            folder_path.chmod(0o700)
        try:
            entries = list(os.scandir(folder_path))
        except OSError:
            entries = []
        for entry in entries:
            stat_result = entry.stat(follow_symlinks=False)
            problem = _describe_problem(entry, stat_result, limit)
            if problem:
                deleted.append(f"'{_shown_path(entry.path, folder)}' is {problem}")
                _delete_entry(entry)
            elif stat.S_ISDIR(stat_result.st_mode):
                pending.append(Path(entry.path))
    more_words = [f"{len(deleted) - _SHOWN} more such files"] if len(deleted) > _SHOWN else []
    return (*sorted(deleted)[:_SHOWN], *more_words)


def is_regular(path: Path, *, limit: int = LIMIT) -> bool:
    """Whether this is a regular file, no link, of a size that may be read."""
    try:
        stat_result = path.lstat()
    except OSError:
        return False
    return stat.S_ISREG(stat_result.st_mode) and stat_result.st_size <= limit


def _describe_problem(entry: "os.DirEntry[str]", found: os.stat_result, limit: int) -> str:
    try:
        entry.name.encode()
    except UnicodeEncodeError:
        return "a name that is no UTF-8"
    if stat.S_ISLNK(found.st_mode):
        return "a symbolic link, which is not followed"
    if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
        return "neither a regular file nor a folder"
    if stat.S_ISREG(found.st_mode) and found.st_size > limit:
        return f"larger than the {limit // 1024**3} GB that Kaggle keeps"
    return ""


def _delete_entry(entry: "os.DirEntry[str]") -> None:
    with suppress(OSError):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path, ignore_errors=True)
        else:
            Path(entry.path).unlink()


def _shown_path(path: str, folder: Path) -> str:
    return os.path.relpath(path, folder).encode(errors="backslashreplace").decode()
