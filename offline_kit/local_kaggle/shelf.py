"""What datasets and models share: files that were uploaded, kept in versions, sent by link."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from offline_kit.local_kaggle import wire
from offline_kit.local_kaggle.blobs import Blobs
from offline_kit.local_kaggle.links import Links
from offline_kit.local_kaggle.store import Record, Store
from offline_kit.local_kaggle.versions import Key, Versions
from offline_kit.local_kaggle.wire import Answer, Call, Refusal


class Shelf:
    """The things of one kind, each of which has versions."""

    def __init__(self, store: Store, versions: Versions, blobs: Blobs, links: Links) -> None:
        self.store = store
        self.versions = versions
        self.blobs = blobs
        self.links = links

    def uploads(self, call: Call, body: Mapping[str, Any]) -> list[tuple[str, Path]]:
        """Return (path, bytes) of what a request names by tokens; refuses nothing at all with 400."""
        found = list(self.blobs.tree(call.user, body))
        if not found:
            raise Refusal(400, "Please upload at least one file")
        return found

    def sent(self, call: Call, key: Key, version: Record, name: str) -> Answer:
        """Send to the link of one file of a version, or of an archive of all; 404 before it is READY."""
        if self.versions.stage(version) != "READY":
            raise Refusal(404, "The version is not ready")
        path = self.versions.file(key, version, name) if name else self.versions.packed(key, version)
        shown = path.name if name else f"{key[-1]}{self.versions.suffix}"
        return wire.redirect(self.links.give(call.base, path, shown))
