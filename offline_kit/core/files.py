"""Files that must be whole, hashed or locked, and errors of the disk."""

import errno
import hashlib
import json
import os
import re
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from offline_kit.core.errors import OutsideError, UsageError
from offline_kit.core.report import Advance

if sys.platform != "win32":
    import fcntl

CHUNK = 1 << 20
_DAY = 86_400
_TEMPORARY = re.compile(r"offline-kit(?:-box|-build|-closure|-sdist|-probe)?[-.][a-z0-9_]{8}")
REFUSED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
# As Python, uv (Rust) and Windows (112) report a full disk:
_FULL = re.compile(r"No space left on device|Disk quota exceeded|\(os error (?:28|112|122)\)")


def cache_dir() -> Path:
    """Return the cache folder: $OFFLINE_KIT_CACHE, else the usual one of this system."""
    if configured := os.environ.get("OFFLINE_KIT_CACHE"):
        return Path(configured).expanduser().absolute()
    import platformdirs

    return Path(platformdirs.user_cache_dir("offline-kit"))


def sha256_of(path: Path, advance: Advance | None = None) -> str:
    """Return the hex digest of a file's bytes, read once."""
    with path.open("rb") as stream:
        return copy_and_hash(stream, None, advance)[0]


def copy_and_hash(
    source: IO[bytes], into: IO[bytes] | None, advance: Advance | None = None
) -> tuple[str, int]:
    """Copy a stream, or only read it, and return the hex digest and the size of its bytes."""
    digest, size = hashlib.sha256(), 0
    while chunk := source.read(CHUNK):
        if into:
            into.write(chunk)
        digest.update(chunk)
        size += len(chunk)
        if advance:
            advance(len(chunk))
    return digest.hexdigest(), size


def fingerprint(path: Path) -> tuple[str, ...]:
    """Return what changes if a file's bytes do: resolved path, size, mtime, ctime and inode."""
    # `cp -p` over a file restores size and mtime, but no program can set ctime (Windows: the time of creation).
    status = path.stat()
    facts = (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
    return (str(path.resolve()), *map(str, facts))


def link_or_copy(source: Path, target: Path) -> None:
    """Put the file's bytes at `target`: a hard link if the file system allows it, else a copy.

    The caller promises that the source is never written in place (cache blobs are not).
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, target)


@contextmanager
def translate_disk_errors(path: Path) -> Iterator[None]:
    """Translate a full or unwritable disk into an error that names the path."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OutsideError(
                f"no space left while writing below '{path}'",
                code="disk-full",
                hint="free some space ('offline-kit cache prune' does), or choose another place with --out or"
                " OFFLINE_KIT_CACHE",
            ) from error
        if error.errno == errno.EFBIG:
            raise OutsideError(
                f"a file below '{path}' would be larger than the system allows",
                code="file-size-limit",
                hint="raise the limit (ulimit -f unlimited), or choose a file system that takes large files with"
                " --out or OFFLINE_KIT_CACHE",
            ) from error
        if error.errno in (*REFUSED, errno.ENOTDIR, errno.EEXIST):
            raise _unwritable_error(path, error) from error
        raise


def _unwritable_error(path: Path, error: OSError) -> OutsideError:
    # The first existing step on the way up shows whether something else than a folder is in the way.
    step = next(step for step in (path, *path.parents) if step.is_symlink() or step.exists())
    if not step.is_dir():
        obstacle = "a file" if step.exists() else "a link that leads nowhere"
        return OutsideError(
            f"'{step}' is {obstacle}, where a folder should be",
            code="path-in-the-way",
            hint="move it away or remove it, or choose another place with --out or OFFLINE_KIT_CACHE",
        )
    return OutsideError(
        f"cannot write below '{path}': {error.strerror}",
        code="folder-not-writable",
        hint="make it writable, or choose another place with --out or OFFLINE_KIT_CACHE",
    )


def full_cache_error(output: Iterable[str], cache: Path) -> OutsideError | None:
    """Return the error for a program that met a full disk while it wrote below the cache, by its output; else None."""
    lines = [line for line in output if _FULL.search(line)]
    if not lines:
        return None
    return OutsideError(
        f"no space left below '{cache}'",
        code="disk-full",
        hint="free some ('offline-kit cache prune' does), or set OFFLINE_KIT_CACHE to a folder on another disk",
        details=lines[-3:],
    )


def check_surroundings(words: Iterable[str]) -> None:
    """Raise UsageError if the working directory is gone, or if its path or an argument is no UTF-8."""
    try:
        cwd = str(Path.cwd())
    except FileNotFoundError as error:
        raise UsageError(
            "the working directory does not exist any more",
            code="working-directory-missing",
            hint="change to an existing directory",
        ) from error
    for text in (cwd, str(cache_dir()), *words):
        try:
            text.encode()
        except UnicodeEncodeError as error:
            printable_path = text.encode("utf-8", "backslashreplace").decode()
            raise UsageError(
                f"'{printable_path}' has bytes that are not UTF-8",
                code="path-not-utf8",
                hint="rename that folder or file: manifests and notebooks cannot name it",
            ) from error


def make_folder(folder: Path) -> Path:
    """Return the folder, created if it does not exist; OutsideError if it cannot be."""
    with translate_disk_errors(folder):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except FileNotFoundError as error:
            raise _unwritable_error(folder, error) from error
    return folder


def make_ignored_folder(folder: Path) -> Path:
    """Return the folder; if it does not exist, it is created, and git ignores it: its files can be made again."""
    if not folder.exists():
        make_folder(folder)
        ignore_in_git(folder)
    return folder


def ignore_in_git(folder: Path) -> None:
    """Let git ignore a folder, if it exists and has no .gitignore of its own."""
    if folder.is_dir() and not (folder / ".gitignore").exists():
        write_atomic(folder / ".gitignore", "*\n")


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write a file so that its name only ever shows the whole old or the whole new content."""
    with translate_disk_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(data.encode() if isinstance(data, str) else data)
                stream.flush()
                # Without it, a crash after the rename may leave an empty file.
                os.fsync(stream.fileno())
            Path(name).chmod(0o644)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


@contextmanager
def stage_folder(final: Path) -> Iterator[Path]:
    """Yield an empty folder beside `final` that gets its name when the block ends well.

    An old folder of that name is kept until then and removed after; on an error or an interrupt the new one is removed.
    `sweep_stages` removes what a killed run leaves.
    """
    with translate_disk_errors(final.parent):
        final.parent.mkdir(parents=True, exist_ok=True)
        new_folder = Path(tempfile.mkdtemp(dir=final.parent, prefix=f".{final.name}.", suffix=".part"))
        new_folder.chmod(0o755)
        with _lock_folder(new_folder):
            try:
                yield new_folder
                _swap_folders(new_folder, final)
            except BaseException:
                remove_path(new_folder)
                raise


def _swap_folders(new_folder: Path, final: Path) -> None:
    if not final.exists():
        new_folder.replace(final)
        return
    old = Path(tempfile.mkdtemp(dir=final.parent, prefix=f".{final.name}.", suffix=".old"))
    with _lock_folder(old):
        final.replace(old / final.name)
        try:
            new_folder.replace(final)
        except BaseException:
            (old / final.name).replace(final)
            raise
        finally:
            remove_path(old)


@contextmanager
def _lock_folder(folder: Path) -> Iterator[bool | None]:
    """Lock a folder while the block lasts, as a sign that it is in use; yield whether it was free.

    None if that cannot be known: on Windows, and on file systems without locks.
    """
    if sys.platform == "win32":
        yield None
        return
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        yield None
        return
    free: bool | None = True
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            free = False if isinstance(error, BlockingIOError) else None
        yield free
    finally:
        os.close(handle)


def list_stages(final: Path) -> tuple[Path, ...]:
    """Return the staged folders beside `final`, of running or killed processes."""
    name = re.compile(rf"\.{re.escape(final.name)}\.\w{{8}}\.(part|old)")
    entries = sorted(final.parent.iterdir()) if final.parent.is_dir() else []
    return tuple(path for path in entries if name.fullmatch(path.name))


def is_in_work(final: Path) -> bool:
    """Whether a process is making `final` at this moment."""
    for stage in list_stages(final):
        with _lock_folder(stage) as free:
            if free is False:
                return True
    return False


def sweep_stages(final: Path) -> None:
    """Remove what killed runs left beside `final`; if one was killed between two renames, restore the old folder."""
    for stage in list_stages(final):
        with _lock_folder(stage) as free:
            # Without locks, the age decides.
            in_use = free is False or (free is None and time.time() - stage.lstat().st_mtime < _DAY)
        if in_use and stage.is_dir():
            continue
        if stage.suffix == ".old" and not final.exists() and (stage / final.name).exists():
            (stage / final.name).rename(final)
        remove_path(stage)


def sweep_temporary_folders(folder: Path | None = None) -> None:
    """Delete our own folders in the temporary folder (or `folder`) that a killed run left there.

    Ours have our prefix and the random end of `tempfile`, belong to this user, and are untouched for a day: no run takes
    that long.
    """
    user = os.geteuid() if hasattr(os, "geteuid") else None
    with suppress(OSError):
        for temporary in (folder or Path(tempfile.gettempdir())).iterdir():
            status = temporary.lstat()
            is_ours = stat.S_ISDIR(status.st_mode) and user in (None, status.st_uid)
            old = time.time() - status.st_mtime > _DAY
            if _TEMPORARY.fullmatch(temporary.name) and is_ours and old:
                remove_path(temporary)


def remove_path(path: Path) -> None:
    """Remove a file, or a folder even if its rights were taken away; what resists stays."""
    if not path.is_dir() or path.is_symlink():
        with suppress(OSError):
            path.unlink()
        return
    # rmtree cannot empty a folder that lacks the rights.
    for folder, _, _ in os.walk(path):
        with suppress(OSError):
            Path(folder).chmod(0o700)
    shutil.rmtree(path, ignore_errors=True)


@contextmanager
def hold_lock(path: Path, *, timeout: float = 600.0) -> Iterator[None]:
    """Hold the lock file `path` against other processes; wait up to `timeout` seconds for it."""
    import filelock

    lock = filelock.FileLock(path, timeout=timeout)
    with translate_disk_errors(path.parent):
        try:
            make_folder(path.parent)
            # filelock would try again until its time is up where no file can be made, as below /proc.
            path.touch()
        except FileNotFoundError as error:
            raise _unwritable_error(path.parent, error) from error
        try:
            lock.acquire()
        except filelock.Timeout as error:
            raise OutsideError(
                f"another run has held '{path}' for {timeout:.0f} seconds",
                code="lock-held",
                hint="wait for it to end, or remove the lock file if no such run exists",
            ) from error
    try:
        # What goes wrong in here is not the lock's folder's fault.
        yield
    finally:
        lock.release()


def append_line(path: Path, line: str) -> None:
    """Add a line to a file under its lock, and have it on the disk before returning."""
    with hold_lock(path.with_suffix(".lock")), translate_disk_errors(path.parent):
        new = not path.exists()
        with path.open("ab+") as stream:
            cut = ""
            if stream.tell():
                # A last line that a crash cut short stays a line of its own.
                stream.seek(-1, os.SEEK_END)
                cut = "" if stream.read(1) == b"\n" else "\n"
            stream.write(f"{cut}{line}\n".encode())
            stream.flush()
            os.fsync(stream.fileno())
        if new and hasattr(os, "O_DIRECTORY"):
            # The name of a new file is in its folder, which has to be on the disk as well.
            handle = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file; an empty one if there is none, or it cannot be read."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def read_json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects in a file of JSON lines, if there is one; lines that a crash cut are skipped."""
    for line in path.read_bytes().splitlines() if path.exists() else ():
        with suppress(ValueError):
            value = json.loads(line)
            if isinstance(value, dict):
                yield value


def list_tree(folder: Path) -> tuple[Path, ...]:
    """Return all files below a folder, relative and sorted."""
    return tuple(sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file()))


def format_size(size: float) -> str:
    """Return a size for a person: "4.6 MB" (decimal units, as disks and Kaggle count)."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(size) < 1000 or unit == "GB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    raise AssertionError("unreachable")


def format_duration(seconds: float) -> str:
    """Return a duration for a person: "7.7 s", "12 min 5 s", "2 h 10 min", "3 days"."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours >= 48:
        return f"{hours // 24} days"
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


def utc_timestamp() -> str:
    """Return the time as files hold it: ISO 8601, to the second, in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def matches_glob(name: str, pattern: str) -> bool:
    """Whether a glob matches a Posix path: `*` stays within a folder, `**` crosses folders."""
    steps = [".*" if step == "**" else re.escape(step) for step in pattern.split("/")]
    text = "/".join(steps).replace(r"\*", "[^/]*").replace(r"\?", "[^/]").replace(".*/", "(.*/)?")
    text = text.replace(r"\[", "[").replace(r"\]", "]").replace("[!", "[^")
    try:
        return re.fullmatch(text, name) is not None
    except re.error:
        return False
