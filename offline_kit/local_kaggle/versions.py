"""What datasets, models and notebooks share: an owner, and versions on disk that show a while after they are made."""

import os
import shutil
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from offline_kit.core import files
from offline_kit.core.errors import ProjectError
from offline_kit.local_kaggle import store as records
from offline_kit.local_kaggle import wire
from offline_kit.local_kaggle.blobs import UploadService
from offline_kit.local_kaggle.store import Foundation, Key, Record, Service
from offline_kit.local_kaggle.wire import HttpAnswer, RpcCall, ServiceRefusal
from offline_kit.project import kaggle_rules

# DatabundleVersionStatus of kagglesdk (datasets/types/dataset_enums.py) has the same names.
STAGES = (
    "NOT_YET_PERSISTED",
    "BLOBS_RECEIVED",
    "BLOBS_DECOMPRESSED",
    "BLOBS_COPIED_TO_SDS",
    "INDIVIDUAL_BLOBS_COMPRESSED",
    "READY",
)
"""The states that a version passes, in order; FAILED is the other end."""


class OwnedThings(Service):
    """The things of one kind: each has an owner, a slug and a number, and is private or not."""

    kind: str  # first word of their keys, and of their permissions

    def key_of(self, record: Record) -> Key:
        """Return the key of a thing."""
        return (self.kind, record["owner"], record["slug"])

    def read_record(self, owner: str, slug: str) -> Record | None:
        """Return the thing of this name, or None."""
        return self.store.read(self.kind, owner, slug) if owner and slug else None

    def find_by_id(self, number: int) -> Record | None:
        """Return the thing of this number, or None."""
        return next((record for record in self.all_records() if record["id"] == number), None)

    def all_records(self) -> Iterator[Record]:
        """Yield the things of all owners."""
        for owner in self.store.key_names(self.kind):
            yield from self.store.iter_records(self.kind, owner)

    def may_see(self, record: Record, user: str) -> bool:
        """Tell whether a thing is public or the user's own."""
        return not record["private"] or record["owner"] == user

    def open_record(self, call: RpcCall, owner: str, slug: str) -> Record:
        """Return a thing that the caller may see; anything else is 403, as on Kaggle, also what is not there."""
        record = self.read_record(owner, slug)
        if record is None or not self.may_see(record, call.user):
            raise self.refusal("get")
        return record

    def find_mounted(self, ref: str, user: str) -> Record | None:
        """Return the thing of a reference "owner/slug/..." that a notebook of this user may attach, or None."""
        owner, slug, *_ = [*ref.split("/"), ""]
        record = self.read_record(owner, slug)
        return record if record and self.may_see(record, user) else None

    def require_owner(self, call: RpcCall, record: Record | None, right: str) -> Record:
        """Return the caller's own thing; refuses what is another's, or nobody's."""
        if record is None or record["owner"] != call.user:
            raise self.refusal(right)
        return record

    def refusal(self, right: str) -> ServiceRefusal:
        """Return the refusal of a right."""
        return ServiceRefusal(403, f"Permission '{self.kind}.{right}' was denied")


class VersionStore(Service):
    """The versions below one kind of thing ("datasets" or "models"); a key names the thing.

    Under `verbatim` nothing is unpacked, renamed or wrapped, and all files are sent as .tar.gz: so it is for models.
    """

    verbatim = False
    _working: tuple[threading.Thread, ...] = ()

    def add_version(self, key: Key, uploads: Iterable[tuple[str, Path]], **facts: object) -> int:
        """Make a new version of (path, bytes) pairs and begin its processing; return its number."""
        with self.store.lock:
            number = max(self.version_numbers(key), default=0) + 1
            folder = self._version_folder(key, number) / "upload"
            for path, data in uploads:
                files.link_or_copy(
                    data, _find_free_path(folder / PurePosixPath(path))
                )  # a kit of gigabytes costs no disk here
            record = {"number": number, "created": self.store.current_time(), "state": "received", **facts}
            self.store.write_record(record, *_version_key(key, number))
        self._start_processing(key, number)
        return number

    def version_numbers(self, key: Key) -> list[int]:
        """Return the numbers of all versions, deleted ones too."""
        return self.store.version_numbers(*key)

    def iter_versions(self, key: Key, *, deleted: bool = False) -> Iterator[Record]:
        """Yield the versions that show by now (and still, unless `deleted`), the newest first."""
        for number in reversed(self.version_numbers(key)):
            record = self.store.read(*_version_key(key, number))
            if record and self.is_visible(record) and (deleted or record["state"] != "deleted"):
                yield record

    def get_version(self, key: Key, number: int) -> Record:
        """Return a version's record; 404 if it is not there, not yet, or no more."""
        for record in self.iter_versions(key):
            if record["number"] == number:
                return record
        raise ServiceRefusal(404, f"Version {number} not found")

    def newest_version(self, key: Key, *, ready: bool = False) -> Record | None:
        """Return the newest version that shows (and is READY), or None."""
        versions = self.iter_versions(key)
        return next((each for each in versions if not ready or self.version_state(each) == "READY"), None)

    def has_unfinished(self, key: Key) -> bool:
        """Tell whether a version is on its way: visible or not, neither READY nor FAILED."""
        versions = self.store.iter_records(*key, "versions")
        return any(self.version_state(record) not in ("READY", "FAILED", "DELETED") for record in versions)

    def version_state(self, record: Record) -> str:
        """Return the state that a version shows now."""
        # The clock decides what shows: nothing has to run for a version to come forward, not even over a restart.
        if record["state"] == "deleted":
            return "DELETED"
        if record.get("stuck"):
            return str(record["stuck"])
        age, processing = self.store.current_time() - record["created"], self.settings.processing
        age -= self.settings.visible_after
        if age >= processing and record["state"] != "received":
            return "READY" if record["state"] == "treated" else "FAILED"
        return STAGES[max(0, min(4, int(age / processing * 5 if processing else 5)))]

    def version_folder(self, key: Key, record: Record) -> Path:
        """Return the folder of a READY version as it is mounted."""
        return self._version_folder(key, int(record["number"])) / "files"

    def list_files(self, key: Key, record: Record) -> list[tuple[str, int]]:
        """Return (path, bytes) of a version's files, sorted; nothing before it is READY."""
        if self.version_state(record) != "READY":
            return []
        folder = self.version_folder(key, record)
        return [(path.as_posix(), (folder / path).stat().st_size) for path in files.list_tree(folder)]

    def send_version(self, call: RpcCall, key: Key, record: Record, name: str) -> HttpAnswer:
        """Send to the link of one file of a version, or of an archive of all; 404 before it is READY."""
        if self.version_state(record) != "READY":
            raise ServiceRefusal(404, "The version is not ready")
        folder = self.version_folder(key, record)
        if not name:
            suffix = ".tar.gz" if self.verbatim else ".zip"
            archive = records.pack_folder(folder, folder.with_name(f"all{suffix}"))
            return self.links.redirect(call, archive, f"{key[-1]}{suffix}")
        if name not in [path for path, _ in self.list_files(key, record)]:
            raise ServiceRefusal(404, f"File '{name}' not found")
        if self.verbatim:
            return self.links.redirect(call, folder / name)
        path = records.wrap_file(folder, name, folder.with_name("wrapped"), self.settings.wrapped_from)
        return self.links.redirect(call, path)

    def delete_version(self, key: Key, number: int) -> None:
        """Mark a version as deleted, and free its disk."""
        self.store.change_record(*_version_key(key, number), state="deleted")
        shutil.rmtree(self._version_folder(key, number) / "files", ignore_errors=True)

    def resume_processing(self, key: Key) -> None:
        """Go on with what was being processed when the server ended."""
        for record in self.store.iter_records(*key, "versions"):
            if record["state"] == "received":
                self._start_processing(key, int(record["number"]))

    def wait_for_processing(self) -> None:
        """Wait for the processing that is going on."""
        for thread in self._working:
            thread.join()

    def _start_processing(self, key: Key, number: int) -> None:
        thread = threading.Thread(target=self._process_upload, args=(key, number), daemon=True)
        self._working = (*(worker for worker in self._working if worker.is_alive()), thread)
        thread.start()

    def _process_upload(self, key: Key, number: int) -> None:
        """Put an upload through Kaggle's treatment; what it refuses fails the version."""
        folder = self._version_folder(key, number)
        upload, mounted = folder / "upload", folder / "files"
        shutil.rmtree(mounted, ignore_errors=True)  # half made by a server that was ended
        upload.mkdir(exist_ok=True)
        problems: list[str] = []
        try:
            # Files of models were never seen unpacked; those of datasets are: https://github.com/Kaggle/kaggle-cli/pull/111
            if self.verbatim:
                shutil.copytree(upload, mounted, copy_function=os.link)
            else:
                kaggle_rules.apply_upload_rules(upload, mounted, unpack_pt=self.settings.unpack_pt)
        except ProjectError as error:
            problems = list(error.details) or [error.what]
        except OSError as error:
            problems = [str(error)]
        version_key = _version_key(key, number)
        if problems:
            self.store.change_record(*version_key, state="failed", problems=problems)
        else:
            self.store.change_record(*version_key, state="treated")
            shutil.rmtree(upload, ignore_errors=True)

    def _version_folder(self, key: Key, number: int) -> Path:
        return self.store.key_folder(*_version_key(key, number))


def _version_key(key: Key, number: int) -> Key:
    return (*key, "versions", str(number))


def _find_free_path(path: Path) -> Path:
    """Return the path, or a numbered neighbour where one request names a file twice."""
    number, candidate = 0, path
    while os.path.lexists(candidate):
        number += 1
        candidate = path.with_name(f"{path.stem}-{number:03}{path.suffix}")
    return candidate


class VersionedThings(OwnedThings):
    """Things that consist of versions of uploaded files."""

    verbatim = False

    def __init__(self, base: Foundation) -> None:
        super().__init__(base)
        self.blobs = UploadService(base)
        self.versions = VersionStore(base)
        self.versions.verbatim = self.verbatim

    def version_keys(self, record: Record) -> Iterator[Key]:
        """Yield the keys below which a thing has versions."""
        yield self.key_of(record)

    def resume_processing(self) -> None:
        """Go on with what was being processed when the server ended."""
        for record in self.all_records():
            for key in self.version_keys(record):
                self.versions.resume_processing(key)

    def delete_thing(self, key: Key) -> Mapping[str, Any]:
        """Remove what lies below a key, and answer the call."""
        # A thread that still writes would make the folder anew.
        self.versions.wait_for_processing()
        self.store.delete_record(*key)
        return {}

    def list_version_files(self, key: Key, version: Record, size_name: str) -> Iterator[dict[str, Any]]:
        """Yield the files of a version as the service tells them."""
        created = wire.format_time(version["created"])
        for name, size in self.versions.list_files(key, version):
            yield {"name": name, size_name: size, "creationDate": created}

    def page_of(self, call: RpcCall, record: Record) -> str:
        """Return the address of a thing's page."""
        return f"{call.base}/{self.kind}/{record['owner']}/{record['slug']}"

    def accept(self, call: RpcCall, record: Record) -> dict[str, Any]:
        """Return the answer to a change that was made."""
        ref = f"/{record['owner']}/{record['slug']}"
        return {"ref": ref, "url": self.page_of(call, record), "error": ""}
