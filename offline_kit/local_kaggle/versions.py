"""What datasets, models and notebooks share: an owner, and versions on disk that show a while after they are made."""

import os
import shutil
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from offline_kit.core import files
from offline_kit.core.errors import ProjectError
from offline_kit.local_kaggle import store as records
from offline_kit.local_kaggle import wire
from offline_kit.local_kaggle.blobs import UploadService
from offline_kit.local_kaggle.store import Record, RecordStore, Service
from offline_kit.local_kaggle.wire import HttpAnswer, RpcCall, ServiceRefusal
from offline_kit.project import kaggle_rules

# DatabundleVersionStatus of kagglesdk (datasets/types/dataset_enums.py) has the same names.
_STAGES = (
    "NOT_YET_PERSISTED",
    "BLOBS_RECEIVED",
    "BLOBS_DECOMPRESSED",
    "BLOBS_COPIED_TO_SDS",
    "INDIVIDUAL_BLOBS_COMPRESSED",
)
"""The states that a version passes, in order; READY or FAILED is the end."""


class OwnedThings(Service):
    """The things of one kind: each has an owner, a slug and a number, and is private or not."""

    kind: str  # first word of their keys, and of their permissions

    def read_record(self, owner: str, slug: str) -> Record | None:
        """Return the thing of this name, or None."""
        return self.store.read(self.kind, owner, slug) if owner and slug else None

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

    def check_creator(self, call: RpcCall) -> None:
        """Refuse to create a thing for anybody but the caller."""
        if not call.user or (call.text("ownerSlug") or call.user).lower() != call.user:
            raise self.refusal("create")

    def require_owner(self, call: RpcCall, record: Record | None, right: str) -> Record:
        """Return the caller's own thing; refuses what is another's, or nobody's."""
        if record is None or record["owner"] != call.user:
            raise self.refusal(right)
        return record

    def refusal(self, right: str) -> ServiceRefusal:
        """Return the refusal of a right."""
        return ServiceRefusal(403, f"Permission '{self.kind}.{right}' was denied")


class VersionedThings(OwnedThings):
    """Things that have versions of uploaded files: datasets themselves, and the variations of models."""

    verbatim = False
    """Nothing is unpacked, renamed or wrapped, and all files are sent as .tar.gz: so it is for models."""

    def __init__(self, store: RecordStore) -> None:
        super().__init__(store)
        self.blobs = UploadService(store)
        self._working: list[threading.Thread] = []

    def versioned_records(self) -> Iterator[Record]:
        """Yield all that has versions."""
        yield from self.all_records()

    def add_version(self, thing: Record, uploads: Iterable[tuple[str, Path]], **facts: object) -> None:
        """Make a new version of (path, bytes) pairs and begin its processing."""
        with self.store.lock:
            number = self.store.latest_number(*thing.key) + 1
            key = (*thing.key, "versions", str(number))
            for path, data in uploads:
                # A kit of gigabytes costs no disk here.
                target = self.store.key_folder(*key) / "upload" / PurePosixPath(path)
                files.link_or_copy(data, _find_free_path(target))
            facts |= {"number": number, "created": time.time(), "state": "received"}
            version = self.store.write_record(facts, *key)
        self._start_processing(version)

    def iter_shown(self, thing: Record, *, deleted: bool = False) -> Iterator[Record]:
        """Yield the versions that show by now (and still, unless `deleted`), the newest first."""
        for version in self.store.iter_versions(thing):
            if self.is_visible(version) and (deleted or version["state"] != "deleted"):
                yield version

    def get_version(self, thing: Record, number: int) -> Record:
        """Return a version; 404 if it is not there, not yet, or no more."""
        for version in self.iter_shown(thing):
            if version["number"] == number:
                return version
        raise ServiceRefusal(404, f"Version {number} not found")

    def newest_version(self, thing: Record, *, ready: bool = False) -> Record | None:
        """Return the newest version that shows (and is READY), or None."""
        shown = self.iter_shown(thing)
        return next(
            (version for version in shown if not ready or self.version_state(version) == "READY"), None
        )

    def has_unfinished(self, thing: Record) -> bool:
        """Tell whether a version is on its way: visible or not, neither READY nor FAILED."""
        ended = ("READY", "FAILED", "DELETED")
        return any(self.version_state(version) not in ended for version in self.store.iter_versions(thing))

    def version_state(self, version: Record) -> str:
        """Return the state that a version shows now."""
        # The clock decides what shows: nothing has to run for a version to come forward, not even over a restart.
        if version["state"] == "deleted":
            return "DELETED"
        if version.get("stuck"):
            return str(version["stuck"])
        age, processing = time.time() - version["created"], self.settings.processing
        age -= self.settings.visible_after
        if age >= processing and version["state"] != "received":
            return "READY" if version["state"] == "treated" else "FAILED"
        return _STAGES[max(0, min(4, int(age / processing * 5 if processing else 5)))]

    def version_folder(self, version: Record) -> Path:
        """Return the folder of a READY version as it is mounted."""
        return self.store.key_folder(*version.key) / "files"

    def list_files(self, version: Record) -> list[tuple[str, int]]:
        """Return (path, bytes) of a version's files, sorted; nothing before it is READY."""
        if self.version_state(version) != "READY":
            return []
        folder = self.version_folder(version)
        return [(path.as_posix(), (folder / path).stat().st_size) for path in files.list_tree(folder)]

    def describe_files(self, version: Record, size_name: str) -> Iterator[dict[str, Any]]:
        """Yield the files of a version as the service tells them."""
        created = wire.format_time(version["created"])
        for name, size in self.list_files(version):
            yield {"name": name, "ref": name, size_name: size, "creationDate": created}

    def send_version(self, call: RpcCall, version: Record, name: str) -> HttpAnswer:
        """Send to the link of one file of a version, or of an archive of all; 404 before it is READY."""
        if self.version_state(version) != "READY":
            raise ServiceRefusal(404, "The version is not ready")
        folder = self.version_folder(version)
        if not name:
            suffix = ".tar.gz" if self.verbatim else ".zip"
            archive = records.pack_folder(folder, folder.with_name(f"all{suffix}"))
            return self.links.redirect(call, archive, f"{version.key[-3]}{suffix}")
        if name not in dict(self.list_files(version)):
            raise ServiceRefusal(404, f"File '{name}' not found")
        is_wrapped = not self.verbatim
        path = records.wrap_file(folder, name, folder.with_name("wrapped")) if is_wrapped else folder / name
        return self.links.redirect(call, path)

    def delete_version(self, version: Record) -> None:
        """Mark a version as deleted, and free its disk."""
        self.store.change_record(version, state="deleted")
        shutil.rmtree(self.version_folder(version), ignore_errors=True)

    def delete_thing(self, thing: Record) -> Mapping[str, Any]:
        """Remove a thing with its versions, and answer the call."""
        self.wait_for_processing()
        self.store.delete_record(*thing.key)
        return {}

    def resume_processing(self) -> None:
        """Go on with what was being processed when the server ended."""
        for thing in self.versioned_records():
            for version in self.store.iter_versions(thing):
                if version["state"] == "received":
                    self._start_processing(version)

    def wait_for_processing(self) -> None:
        """Wait for the processing that is going on: a thread that still writes would make a deleted folder anew."""
        for thread in self._working:
            thread.join()

    def _start_processing(self, version: Record) -> None:
        thread = threading.Thread(target=self._process_upload, args=(version,), daemon=True)
        self._working = [worker for worker in self._working if worker.is_alive()] + [thread]
        thread.start()

    def _process_upload(self, version: Record) -> None:
        """Put an upload through Kaggle's treatment; what it refuses fails the version, and nobody is told why."""
        upload, mounted = self.store.key_folder(*version.key) / "upload", self.version_folder(version)
        shutil.rmtree(mounted, ignore_errors=True)  # half made by a server that was ended
        upload.mkdir(exist_ok=True)
        try:
            # Files of models were never seen unpacked; those of datasets are: https://github.com/Kaggle/kaggle-cli/pull/111
            if self.verbatim:
                shutil.copytree(upload, mounted, copy_function=os.link)
            else:
                kaggle_rules.apply_upload_rules(upload, mounted)
        except (ProjectError, OSError):
            self.store.change_record(version, state="failed")
        else:
            self.store.change_record(version, state="treated")
            shutil.rmtree(upload, ignore_errors=True)

    def page_of(self, call: RpcCall, record: Record) -> str:
        """Return the address of a thing's page."""
        return f"{call.base}/{self.kind}/{record['owner']}/{record['slug']}"

    def accept(self, call: RpcCall, record: Record) -> dict[str, Any]:
        """Return the answer to a change that was made."""
        ref = f"/{record['owner']}/{record['slug']}"
        return {"ref": ref, "url": self.page_of(call, record), "error": ""}


def _find_free_path(path: Path) -> Path:
    """Return the path, or a numbered neighbour where one request names a file twice."""
    number, candidate = 0, path
    while os.path.lexists(candidate):
        number += 1
        candidate = path.with_name(f"{path.stem}-{number:03}{path.suffix}")
    return candidate
