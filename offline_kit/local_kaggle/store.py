"""State on disk: records as JSON in folders, each written whole or not at all; links to files, and archives of them."""

import json
import re
import secrets
import shutil
import tarfile
import threading
import time
import urllib.parse
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from offline_kit.core import files
from offline_kit.local_kaggle.settings import LocalKaggleSettings
from offline_kit.local_kaggle.wire import HttpAnswer, RpcCall, ServiceRefusal

Key = tuple[str, ...]  # A path of safe words below the state's folder
_SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
_RECORD = "record.json"
_WRAPPED_FROM = 1 << 20  # bytes of a single file from which on Kaggle sends it as NAME.zip
_INCOMPRESSIBLE = (".zip", ".gz", ".bz2", ".xz", ".7z", ".rar", ".png", ".jpg", ".jpeg", ".parquet")
_PACKING = threading.Lock()


class Record(dict[str, Any]):
    """A thing of the state, and its key."""

    key: Key = ()


class RecordStore:
    """The state of one local Kaggle: a folder of records, with its settings and the links to its files.

    One process serves a folder at a time; its threads take `lock` around reading and writing again.
    """

    def __init__(self, folder: Path, settings: LocalKaggleSettings) -> None:
        self.folder = folder.absolute()
        self.settings = settings
        self.links = DownloadLinks()
        self.lock = threading.RLock()
        self._closed = False

    def close_writing(self) -> None:
        """End the writing: work that still goes on is for the next server of the folder to do anew."""
        self._closed = True

    def key_folder(self, *key: str) -> Path:
        """Return the folder of a key; refuses words that are no slugs, so that nothing leads out of it."""
        if not key or not all(_SAFE.fullmatch(word) for word in key):
            raise ServiceRefusal(404, "Not found")
        # Slugs differ in more than case on Kaggle, and some file systems know no case.
        return self.folder.joinpath(*(word.lower() for word in key))

    def read(self, *key: str) -> Record | None:
        """Return a record, or None if there is none."""
        try:
            facts = json.loads((self.key_folder(*key) / _RECORD).read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            return None
        return _make_record(facts, key)

    def write_record(self, record: Mapping[str, Any], *key: str) -> Record:
        """Write a record whole, and return it; it outlives a crash. A closed store keeps nothing more."""
        if not self._closed:
            files.write_atomic(self.key_folder(*key) / _RECORD, json.dumps(record, indent=1) + "\n")
        return _make_record(record, key)

    def change_record(self, record: Record, **facts: object) -> bool:
        """Change some facts of a record; return False if it was deleted meanwhile."""
        with self.lock:
            current = self.read(*record.key)
            if current is not None:
                record.update(facts)
                self.write_record({**current, **facts}, *record.key)
        return current is not None

    def delete_record(self, *key: str) -> None:
        """Remove a record with all that lies below it; one that is not there is no error."""
        shutil.rmtree(self.key_folder(*key), ignore_errors=True)

    def iter_versions(self, thing: Record) -> Iterator[Record]:
        """Yield the versions of a thing, the newest first, deleted ones too."""
        yield from reversed(list(self.iter_records(*thing.key, "versions")))

    def latest_number(self, *key: str) -> int:
        """Return the number of a thing's latest version, 0 if it has none."""
        return max(map(int, self.key_names(*key, "versions")), default=0)

    def key_names(self, *key: str) -> list[str]:
        """Return the words below a key, sorted; numbers by size."""
        folder = self.key_folder(*key)
        names = [path.name for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
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
            number = int(record["last"]) + 1
            self.write_record({"last": number}, "serial", kind)
            return number


def _make_record(facts: Mapping[str, Any], key: Key) -> Record:
    record = Record(facts)
    record.key = tuple(word.lower() for word in key)
    return record


class DownloadLinks:
    """Links to files: whoever has one may fetch the file, without an account.

    Those of an earlier run of the server have expired.
    """

    def __init__(self) -> None:
        self._files: dict[str, Path] = {}

    def create_link(self, call: RpcCall, path: Path, name: str = "") -> str:
        """Return a link to the file; it ends in `name`, after which clients call what they fetched."""
        word = secrets.token_hex(12)
        self._files[word] = path
        return f"{call.base}/files/{word}/{urllib.parse.quote(name or path.name)}"

    def redirect(self, call: RpcCall, path: Path, name: str = "") -> HttpAnswer:
        """Send a caller to a link to the file."""
        return HttpAnswer(status=302, headers={"Location": self.create_link(call, path, name)})

    def find_file(self, word: str) -> Path:
        """Return the file behind a link; 403 for an unknown link, as Kaggle answers when one has expired."""
        path = self._files.get(word)
        if path is None or not path.is_file():
            raise ServiceRefusal(403, "The link has expired")
        return path


class Service:
    """One of the services of a local Kaggle; they share its state."""

    def __init__(self, store: RecordStore) -> None:
        self.store = store
        self.settings = store.settings
        self.links = store.links

    def is_visible(self, record: Record) -> bool:
        """Tell whether a thing shows by now."""
        return bool(time.time() - record["created"] >= self.settings.visible_after)


def pack_folder(folder: Path, final: Path, name: str = "") -> Path:
    """Return `final`, a .zip or .tar.gz of a folder that no longer changes, or a .zip of one file of it.

    It is made when it is first asked for.
    """
    with _PACKING:
        if final.exists():
            return final
        final.parent.mkdir(parents=True, exist_ok=True)
        part = final.with_suffix(".part")
        # As fast as possible, this is loopback; but whoever asks for one large file is to see it compressed.
        if final.name.endswith(".tar.gz"):
            with tarfile.open(part, "w:gz", compresslevel=1) as tar:
                for path in files.list_tree(folder):
                    tar.add(folder / path, path.as_posix(), recursive=False)
        else:
            kind = zipfile.ZIP_DEFLATED if name else zipfile.ZIP_STORED
            with zipfile.ZipFile(part, "w", kind, strict_timestamps=False) as zipped:
                for path in [Path(name)] if name else files.list_tree(folder):
                    zipped.write(folder / path, path.name if name else path.as_posix())
        part.replace(final)
    return final


def wrap_file(folder: Path, name: str, beside: Path) -> Path:
    """Return one file of a folder as it is sent: a large one as NAME.zip, which is made below `beside`."""
    path = folder / name
    if path.stat().st_size < _WRAPPED_FROM or path.suffix.lower() in _INCOMPRESSIBLE:
        return path
    return pack_folder(folder, beside / f"{name}.zip", name)
