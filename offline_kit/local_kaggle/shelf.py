"""What datasets and models share: files that were uploaded, kept in versions, sent by link."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from offline_kit.local_kaggle import wire
from offline_kit.local_kaggle.blobs import UploadService
from offline_kit.local_kaggle.links import DownloadLinks
from offline_kit.local_kaggle.store import Record, RecordStore
from offline_kit.local_kaggle.versions import Key, VersionStore
from offline_kit.local_kaggle.wire import HttpAnswer, RpcCall, ServiceRefusal


class VersionedService:
    """The things of one kind, each of which has versions."""

    def __init__(
        self, store: RecordStore, versions: VersionStore, blobs: UploadService, links: DownloadLinks
    ) -> None:
        self.store = store
        self.versions = versions
        self.blobs = blobs
        self.links = links

    def collect_uploads(self, call: RpcCall, body: Mapping[str, Any]) -> list[tuple[str, Path]]:
        """Return (path, bytes) of what a request names by tokens; refuses nothing at all with 400."""
        uploads = list(self.blobs.list_uploads(call.user, body))
        if not uploads:
            raise ServiceRefusal(400, "Please upload at least one file")
        return uploads

    def send_version(self, call: RpcCall, key: Key, version: Record, name: str) -> HttpAnswer:
        """Send to the link of one file of a version, or of an archive of all; 404 before it is READY."""
        if self.versions.version_state(version) != "READY":
            raise ServiceRefusal(404, "The version is not ready")
        path = (
            self.versions.version_file(key, version, name)
            if name
            else self.versions.version_archive(key, version)
        )
        file_name = path.name if name else f"{key[-1]}{self.versions.suffix}"
        return wire.redirect_answer(self.links.create_link(call.base, path, file_name))
