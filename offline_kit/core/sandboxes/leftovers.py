"""Files that a box leaves are not trusted: only regular files and folders stay, none larger than a limit."""

import os
import shutil
import stat
from contextlib import suppress
from pathlib import Path

LIMIT = 20 * 1024**3
"""Bytes that /kaggle/working may hold on Kaggle (https://www.kaggle.com/docs/notebooks#technical-specifications)."""
_SHOWN = 5


def clean_leftovers(folder: Path, *, limit: int = LIMIT) -> tuple[str, ...]:
    """Delete what is no regular file or folder, has no UTF-8 name or is larger than `limit`; describe what that was.

    Links are deleted, never followed: a box can point them at any file of this machine.
    """
    deleted: list[str] = []
    # A loop: a box can nest folders deeper than Python's recursion limit.
    pending = [folder]
    while pending:
        subfolder = pending.pop()
        entries: list[os.DirEntry[str]] = []
        with suppress(OSError):
            subfolder.chmod(0o700)  # the box may have closed it
            entries = list(os.scandir(subfolder))
        for entry in entries:
            status = entry.stat(follow_symlinks=False)
            if problem := _describe_problem(entry.name, status, limit):
                path = os.path.relpath(entry.path, folder).encode(errors="backslashreplace").decode()
                deleted.append(f"'{path}' is {problem}")
                if stat.S_ISDIR(status.st_mode):
                    shutil.rmtree(entry.path, ignore_errors=True)
                else:
                    with suppress(OSError):
                        Path(entry.path).unlink()
            elif stat.S_ISDIR(status.st_mode):
                pending.append(Path(entry.path))
    omitted = [f"{len(deleted) - _SHOWN} more such files"] if len(deleted) > _SHOWN else []
    return (*sorted(deleted)[:_SHOWN], *omitted)


def is_regular(path: Path, *, limit: int = LIMIT) -> bool:
    """Whether this is a regular file, no link, of a size that may be read."""
    try:
        status = path.lstat()
    except OSError:
        return False
    return stat.S_ISREG(status.st_mode) and status.st_size <= limit


def _describe_problem(name: str, status: os.stat_result, limit: int) -> str:
    try:
        name.encode()
    except UnicodeEncodeError:
        return "a name that is no UTF-8"
    if stat.S_ISLNK(status.st_mode):
        return "a symbolic link, which is not followed"
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
        return "neither a regular file nor a folder"
    if stat.S_ISREG(status.st_mode) and status.st_size > limit:
        return f"larger than the {limit // 1024**3} GB that Kaggle keeps"
    return ""
