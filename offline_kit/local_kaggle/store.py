"""The local Kaggle's state on disk: one JSON file per thing, each written whole or not at all."""

import json
import re
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from offline_kit.core import files
from offline_kit.local_kaggle.wire import ServiceRefusal

Record = dict[str, Any]
_SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
_RECORD = "record.json"


class RecordStore:
    """A folder of records; a key is a path of safe words below it.

    One process serves a folder at a time; its threads take `lock` around reading and writing again.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.lock = threading.RLock()
        self._closed = False

    def close_writing(self) -> None:
        """End the writing: work that still goes on is for the next server of the folder to do anew."""
        self._closed = True

    def current_time(self) -> float:
        """Return the time, seconds since 1970."""
        return time.time()

    def key_folder(self, *key: str) -> Path:
        """Return the folder of a key; refuses words that are no slugs, so that nothing leads out of it."""
        if not key or not all(_SAFE.fullmatch(word) for word in key):
            raise ServiceRefusal(404, "Not found")
        return self.folder.joinpath(*(word.lower() for word in key))

    def read(self, *key: str) -> Record | None:
        """Return a record, or None if there is none."""
        try:
            record = json.loads((self.key_folder(*key) / _RECORD).read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            return None
        return record if isinstance(record, dict) else None

    def write_record(self, record: Record, *key: str) -> None:
        """Write a record whole; it outlives a crash. A closed store keeps nothing more."""
        if self._closed:
            return
        files.write_atomic(self.key_folder(*key) / _RECORD, json.dumps(record, indent=1) + "\n")

    def delete_record(self, *key: str) -> None:
        """Remove a record with all that lies below it; one that is not there is no error."""
        shutil.rmtree(self.key_folder(*key), ignore_errors=True)

    def version_numbers(self, *key: str) -> list[int]:
        """Return the numbers of a thing's versions, in order."""
        return [int(name) for name in self.key_names(*key, "versions")]

    def key_names(self, *key: str) -> list[str]:
        """Return the words below a key, sorted; numbers by size."""
        folder = self.key_folder(*key)
        names = (
            [path.name for path in folder.iterdir() if (path / _RECORD).is_file() or _has_more(path)]
            if folder.is_dir()
            else []
        )
        return sorted(names, key=lambda name: (len(name), name) if name.isdecimal() else (0, name))

    def iter_records(self, *key: str) -> Iterator[Record]:
        """Yield the records directly below a key, in the order of their names."""
        for name in self.key_names(*key):
            record = self.read(*key, name)
            if record is not None:
                yield record

    def next_serial(self, kind: str) -> int:
        """Return the next number of a kind; none is given twice, not even after a restart."""
        with self.lock:
            record = self.read("serial", kind) or {"last": 1000}
            record["last"] += 1
            self.write_record(record, "serial", kind)
            return int(record["last"])


def _has_more(folder: Path) -> bool:
    return folder.is_dir() and any(path.is_dir() for path in folder.iterdir())
