"""Dataset versions on disk: what was uploaded, what Kaggle makes of it, and when it shows."""

import os
import shutil
import threading
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from offline_kit.core import files
from offline_kit.core.errors import ProjectError
from offline_kit.local_kaggle import packing
from offline_kit.local_kaggle.settings import LocalKaggleSettings
from offline_kit.local_kaggle.store import Record, RecordStore
from offline_kit.local_kaggle.wire import ServiceRefusal
from offline_kit.project import kaggle_rules

STAGES = (
    "NOT_YET_PERSISTED",
    "BLOBS_RECEIVED",
    "BLOBS_DECOMPRESSED",
    "BLOBS_COPIED_TO_SDS",
    "INDIVIDUAL_BLOBS_COMPRESSED",
    "READY",
)
"""The states that a version passes, in order; FAILED is the other end."""
Key = tuple[str, ...]


class VersionStore:
    """The versions below one kind of thing ("datasets" or "models"); a key names the thing."""

    def __init__(self, store: RecordStore, settings: LocalKaggleSettings, *, verbatim: bool = False) -> None:
        """Under `verbatim` nothing is unpacked, renamed or wrapped, and all files are sent as .tar.gz: so it is for models."""
        self.verbatim = verbatim
        self.suffix = ".tar.gz" if verbatim else ".zip"
        self.store = store
        self.settings = settings
        self._working: list[threading.Thread] = []

    def add_version(self, key: Key, uploads: Iterable[tuple[str, Path]], **facts: object) -> int:
        """Make a new version of (path, bytes) pairs and begin its processing; return its number."""
        with self.store.lock:
            number = max(self.version_numbers(key), default=0) + 1
            folder = self._version_folder(key, number) / "upload"
            for path, data in uploads:
                files.link_or_copy(data, _free_path(folder / PurePosixPath(path)))
            record = {"number": number, "created": self.store.current_time(), "state": "received", **facts}
            self.store.write_record(record, *self._version_key(key, number))
        self._start_processing(key, number)
        return number

    def version_numbers(self, key: Key) -> list[int]:
        """Return the numbers of all versions, deleted ones too."""
        return self.store.version_numbers(*key)

    def get_version(self, key: Key, number: int) -> Record:
        """Return a version's record; 404 if it is not there, not yet, or no more."""
        record = self._shown(key, number) if number > 0 else None
        if record is None:
            raise ServiceRefusal(404, f"Version {number} not found")
        return record

    def is_shown(self, key: Key, number: int) -> bool:
        """Tell whether there is such a version by now, and still."""
        return self._shown(key, number) is not None

    def _shown(self, key: Key, number: int) -> Record | None:
        record = self.store.read(*self._version_key(key, number))
        is_gone = record is None or record["state"] == "deleted" or not self.is_visible(record)
        return None if is_gone else record

    def is_visible(self, record: Record) -> bool:
        """Tell whether the version shows at all by now."""
        return bool(self.store.current_time() - record["created"] >= self.settings.visible_after)

    def newest_version(self, key: Key, *, ready: bool = False) -> Record | None:
        """Return the newest version that shows (and is READY), or None."""
        for number in reversed(self.version_numbers(key)):
            record = self._shown(key, number)
            if record and (not ready or self.version_state(record) == "READY"):
                return record
        return None

    def has_unfinished(self, key: Key) -> bool:
        """Tell whether a version is on its way: visible or not, neither READY nor FAILED."""
        records = [self.store.read(*self._version_key(key, number)) for number in self.version_numbers(key)]
        ended = ("READY", "FAILED", "DELETED")
        return any(record and self.version_state(record) not in ended for record in records)

    def version_state(self, record: Record) -> str:
        """Return the state that a version shows now."""
        if record["state"] == "deleted":
            return "DELETED"
        if record.get("stuck"):
            return str(record["stuck"])
        elapsed = self.store.current_time() - record["created"] - self.settings.visible_after
        if elapsed >= self.settings.processing and record["state"] != "received":
            return "READY" if record["state"] == "treated" else "FAILED"
        share = elapsed / self.settings.processing if self.settings.processing else 1.0
        return STAGES[max(0, min(4, int(share * 5)))]

    def version_folder(self, key: Key, record: Record) -> Path:
        """Return the folder of a READY version as it is mounted."""
        return self._version_folder(key, int(record["number"])) / "files"

    def list_files(self, key: Key, record: Record) -> list[tuple[str, int]]:
        """Return (path, bytes) of a version's files, sorted; nothing before it is READY."""
        if self.version_state(record) != "READY":
            return []
        folder = self.version_folder(key, record)
        return [(path.as_posix(), (folder / path).stat().st_size) for path in files.list_tree(folder)]

    def version_file(self, key: Key, record: Record, name: str) -> Path:
        """Return one file of a version, a large one as NAME.zip; 404 if it has none of that name."""
        if name not in [path for path, _ in self.list_files(key, record)]:
            raise ServiceRefusal(404, f"File '{name}' not found")
        folder = self.version_folder(key, record)
        if self.verbatim:
            return folder / name
        return packing.wrap_file(folder, Path(name), folder.with_name("wrapped"), self.settings.wrapped_from)

    def version_archive(self, key: Key, record: Record) -> Path:
        """Return all files of a version as one archive, made at the first call."""
        folder = self.version_folder(key, record)
        return packing.pack_folder(folder, folder.with_name(f"all{self.suffix}"))

    def delete_version(self, key: Key, number: int) -> None:
        """Mark a version as deleted, and free its disk."""
        self._change_record(key, number, state="deleted")
        shutil.rmtree(self._version_folder(key, number) / "files", ignore_errors=True)

    def delete_older(self, key: Key, number: int) -> None:
        """Mark all versions before `number` as deleted, and free their disk."""
        for older in [each for each in self.version_numbers(key) if each < number]:
            self.delete_version(key, older)

    def resume_processing(self, key: Key) -> None:
        """Go on with what was being processed when the server ended."""
        for number in self.version_numbers(key):
            record = self.store.read(*self._version_key(key, number))
            if record and record["state"] == "received":
                self._start_processing(key, number)

    def wait_for_processing(self) -> None:
        """Wait for the processing that is going on."""
        for thread in self._working:
            thread.join()

    def _start_processing(self, key: Key, number: int) -> None:
        thread = threading.Thread(target=self._process_upload, args=(key, number), daemon=True)
        self._working = [worker for worker in self._working if worker.is_alive()] + [thread]
        thread.start()

    def _process_upload(self, key: Key, number: int) -> None:
        """Put an upload through Kaggle's treatment; what it refuses fails the version."""
        folder = self._version_folder(key, number)
        shutil.rmtree(folder / "files", ignore_errors=True)  # half made by a server that was ended
        (folder / "upload").mkdir(exist_ok=True)
        try:
            if self.verbatim:
                shutil.copytree(folder / "upload", folder / "files", copy_function=os.link)
            else:
                kaggle_rules.apply_upload_rules(
                    folder / "upload", folder / "files", unpack_pt=self.settings.unpack_pt
                )
        except ProjectError as error:
            self._change_record(key, number, state="failed", problems=list(error.details) or [error.what])
        except OSError as error:
            self._change_record(key, number, state="failed", problems=[str(error)])
        else:
            self._change_record(key, number, state="treated")
            shutil.rmtree(folder / "upload", ignore_errors=True)

    def _change_record(self, key: Key, number: int, **facts: object) -> None:
        with self.store.lock:
            record = self.store.read(*self._version_key(key, number))
            if record is not None:
                self.store.write_record({**record, **facts}, *self._version_key(key, number))

    def _version_key(self, key: Key, number: int) -> Key:
        return (*key, "versions", str(number))

    def _version_folder(self, key: Key, number: int) -> Path:
        return self.store.key_folder(*self._version_key(key, number))


def _free_path(path: Path) -> Path:
    """Return the path, or a numbered neighbour where one request names a file twice."""
    number, candidate = 0, path
    while os.path.lexists(candidate):
        number += 1
        candidate = path.with_name(f"{path.stem}-{number:03}{path.suffix}")
    return candidate
