"""The cache of what was fetched or built: blobs by sha256, and small records.

blobs/ab/abcd…      whole files, never written in place, so that others may link them
records/KIND/….json small answers: "the file chosen for this pin on this image"
parts/KEY.part      half a download, kept so that the next run continues it
slim/KEY/…          checkpoints made smaller, under their names: links to blobs and to files of the project
locks/KEY.lock      one process at a time for one key
logs/               output of failed builds
"""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, suppress
from pathlib import Path

from offline_kit.core import files

_DAY = 86_400


def cache_key(*words: object) -> str:
    """Return a hex digest of these words (anything JSON can write), in their order."""
    return hashlib.sha256(json.dumps(words, sort_keys=True, default=str).encode()).hexdigest()


class Cache:
    """A folder of blobs and records; safe for several threads and processes at once."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def blob_path(self, sha256: str) -> Path:
        """Return where the bytes with this digest lie, or would."""
        return self.root / "blobs" / sha256[:2] / sha256

    def find_blob(self, sha256: str, *, size: int = 0) -> Path | None:
        """Return the whole and unchanged blob, or None; a damaged one is removed.

        Size (if known) and seal are always checked. The seal is the modification time, set from the digest when a blob
        is stored: whoever writes into the file breaks it, and only then are the bytes hashed again. It differs between
        contents on purpose: Kaggle's client takes files of equal name, size and time as equal.
        """
        path = self.blob_path(sha256)
        try:
            status = path.stat()
        except FileNotFoundError:
            return None
        sealed = status.st_mtime_ns == _seal_path(sha256) and (not size or status.st_size == size)
        if not sealed and files.sha256_of(path) != sha256:
            path.unlink(missing_ok=True)
            return None
        if not sealed or time.time() - status.st_atime > _DAY:
            _write_seal(path, sha256)
        return path

    def store_file(self, path: Path, sha256: str = "") -> tuple[Path, str]:
        """Move a finished file in and return its blob and digest.

        `sha256` is the digest where the caller has just taken it; else it is taken here.
        """
        digest = sha256 or files.sha256_of(path)
        blob = self.blob_path(digest)
        with files.translate_disk_errors(self.root):
            blob.parent.mkdir(parents=True, exist_ok=True)
            path.chmod(0o644)
            _write_seal(path, digest)
            path.replace(blob)
        return blob, digest

    def partial_path(self, key: str) -> Path:
        """Return the path of a half-made file for `key`; hold `hold_lock(key)` while writing it."""
        return files.make_folder(self.root / "parts") / f"{key}.part"

    def hold_lock(self, key: str, *, timeout: float = 3600.0) -> AbstractContextManager[None]:
        """Hold `key` against other threads and processes; waits up to `timeout` seconds."""
        return files.hold_lock(self.root / "locks" / f"{key}.lock", timeout=timeout)

    def new_log(self, name: str) -> Path:
        """Return a fresh log file's path below the cache; an old log of that name is removed."""
        path = files.make_folder(self.root / "logs") / f"{name}.log"
        path.unlink(missing_ok=True)
        return path

    def read_record(self, kind: str, key: str) -> dict[str, object] | None:
        """Return what was remembered under this key, or None; an unreadable record counts as none."""
        path = self._record_path(kind, key)
        try:
            value = json.loads(path.read_bytes())
        except (OSError, ValueError):
            return None
        if not isinstance(value, dict):
            return None
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > _DAY:
                os.utime(path)
        return value

    def write_record(self, kind: str, key: str, value: Mapping[str, object]) -> None:
        """Keep a small answer in place of an earlier one."""
        files.write_atomic(self._record_path(kind, key), json.dumps(value, indent=1, sort_keys=True))

    def delete_record(self, kind: str, key: str) -> None:
        """Drop what was remembered under this key."""
        self._record_path(kind, key).unlink(missing_ok=True)

    def _record_path(self, kind: str, key: str) -> Path:
        return self.root / "records" / kind / f"{key}.json"

    def prune_unused(self, *, unused_days: float = 30) -> int:
        """Remove what was not used for so many days and return the bytes that this freed.

        Use is noted once a day. Lock files stay: removing one that another process holds would let two in.
        """
        oldest, freed = time.time() - unused_days * _DAY, 0
        for folder in ("blobs", "records", "parts", "logs"):
            for name in files.list_tree(self.root / folder):
                path = self.root / folder / name
                with suppress(FileNotFoundError):
                    status = path.stat()
                    if (status.st_atime if folder == "blobs" else status.st_mtime) < oldest:
                        path.unlink()
                        freed += status.st_size
        # Folders that are used as a whole: environments, and what direct references became.
        patterns = ("environments/*", "freeze/*", "freeze/direct/*", "slim/*")
        for unit in [path for pattern in patterns for path in self.root.glob(pattern)]:
            if unit.name not in ("direct", "locks") and unit.is_dir() and unit.stat().st_mtime < oldest:
                freed += sum((unit / name).lstat().st_size for name in files.list_tree(unit))
                # Renamed first, so that nobody finds half of it.
                doomed = unit.with_name(f".{unit.name}.old")
                unit.rename(doomed)
                shutil.rmtree(doomed, ignore_errors=True)
        return freed


def _seal_path(sha256: str) -> int:
    # Whole even seconds between 2001 and 2018: what every file system can keep.
    return (1_000_000_000 + 2 * int(sha256[:7], 16)) * 1_000_000_000


def _write_seal(path: Path, sha256: str) -> None:
    with suppress(OSError):
        os.utime(path, ns=(time.time_ns(), _seal_path(sha256)))
