"""Uploads: a session per file, which can be asked how far it came and gone on with."""

import re
import secrets
import shutil
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from offline_kit.local_kaggle import wire
from offline_kit.local_kaggle.settings import LocalKaggleSettings
from offline_kit.local_kaggle.store import Record, RecordStore
from offline_kit.local_kaggle.wire import HttpAnswer, Rpc, RpcCall, ServiceRefusal

_QUERY = re.compile(r"bytes \*/(\d+|\*)")
_PIECE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
_CHUNK = 1 << 18
_MAX_DEPTH = 32


class ByteSource(Protocol):
    """A request's body."""

    def read(self, size: int, /) -> bytes:
        """Return up to `size` bytes; nothing at the end, an OSError when the sender is gone."""


class UploadService:
    """The upload sessions of one local Kaggle; what arrived before a cut is kept."""

    def __init__(self, store: RecordStore, settings: LocalKaggleSettings) -> None:
        self.store = store
        self.settings = settings
        self._locks: dict[str, threading.Lock] = {}

    def list_rpcs(self) -> dict[str, Rpc]:
        """Return the calls about uploads."""
        return {"blobs.BlobApiService/StartBlobUpload": self.start_upload}

    def start_upload(self, call: RpcCall) -> Mapping[str, Any]:
        """Open a session for one file."""
        if not call.user:
            raise ServiceRefusal(401, "Unauthenticated")
        name = call.text_field("name")
        if not name or "/" in name or "\\" in name or name in (".", ".."):
            raise ServiceRefusal(400, f"Invalid file name: {name}")
        return self.open_session(call, name, call.text_field("type") or "DATASET")

    def open_session(self, call: RpcCall, name: str, kind: str) -> dict[str, Any]:
        """Open a session for a file of `contentLength` bytes; return its token and where to put it."""
        token = secrets.token_hex(16)
        size = call.int_field("contentLength")
        record = {"token": token, "owner": call.user, "name": name, "size": size, "type": kind}
        self.store.write_record(
            {**record, "started": self.store.current_time(), "complete": False}, "blobs", token
        )
        return {"token": token, "createUrl": f"{call.base}/upload/{token}"}

    def put_bytes(self, token: str, headers: Mapping[str, str], source: ByteSource) -> HttpAnswer:
        """Take bytes, or answer how many there are; the protocol of resumable uploads."""
        record = self.store.read("blobs", token)
        if record is None or self.store.current_time() - record["started"] > self.settings.session:
            raise ServiceRefusal(404, "Upload session not found")
        span = headers.get("Content-Range") or ""
        if _QUERY.fullmatch(span):
            return self._how_far(record)
        start = 0
        if piece := _PIECE.fullmatch(span):
            start = int(piece[1])
        elif span:
            raise ServiceRefusal(400, "Invalid Content-Range")
        with self.store.lock:
            lock = self._locks.setdefault(token, threading.Lock())
        with lock:
            record = self.store.read("blobs", token) or record
            # Datasets are hard links to finished uploads: those are never written again.
            if record["complete"] or start > self._received_bytes(record):
                return self._how_far(record)
            self._append_bytes(record, start, source)
        return self._how_far(record)

    def _append_bytes(self, record: Record, start: int, source: ByteSource) -> None:
        """Append from `start` on; what comes before a cut stays."""
        data = self._data_path(record)
        with data.open("r+b" if data.exists() else "w+b") as stream:
            stream.seek(start)
            stream.truncate()
            while chunk := source.read(_CHUNK):
                if stream.tell() + len(chunk) > record["size"]:
                    raise ServiceRefusal(400, "More bytes than were announced")
                stream.write(chunk)
        if self._received_bytes(record) == record["size"]:
            self.store.write_record({**record, "complete": True}, "blobs", record["token"])
            record["complete"] = True

    def _how_far(self, record: Record) -> HttpAnswer:
        if record["complete"]:
            return HttpAnswer(status=200)
        received = self._received_bytes(record)
        return HttpAnswer(status=308, headers={"Range": f"bytes=0-{received - 1}"} if received else {})

    def _received_bytes(self, record: Record) -> int:
        data = self._data_path(record)
        return data.stat().st_size if data.exists() else 0

    def _data_path(self, record: Record) -> Path:
        return self.store.key_folder("blobs", str(record["token"])) / "data"

    def finished_upload(self, token: str, user: str) -> tuple[str, Path]:
        """Return name and bytes of a finished upload of this user; refuses any other token with 400."""
        record = self.store.read("blobs", token) if token else None
        if record is None or record["owner"] != user or not record["complete"]:
            raise ServiceRefusal(400, "Invalid or unfinished blob token")
        return str(record["name"]), self._data_path(record)

    def list_uploads(
        self, user: str, body: Mapping[str, Any], below: str = "", depth: int = 0
    ) -> Iterator[tuple[str, Path]]:
        """Yield (path, bytes) of what a request names by tokens, its `directories` too."""
        if depth > _MAX_DEPTH:
            raise ServiceRefusal(400, "Directories are nested too deeply")
        for item in wire.list_field(body, "files"):
            name, data = self.finished_upload(wire.text_field(item, "token"), user)
            yield below + name, data
        for folder in wire.list_field(body, "directories"):
            name = wire.text_field(folder, "name")
            if not name or "/" in name or name in (".", ".."):
                raise ServiceRefusal(400, f"Invalid directory name: {name}")
            yield from self.list_uploads(user, folder, f"{below}{name}/", depth + 1)

    def expire_session(self, token: str) -> None:
        """Let a session expire now."""
        self.store.delete_record("blobs", token)

    def remove_expired(self) -> None:
        """Remove sessions that have expired; files made of them are their own."""
        for token in self.store.key_names("blobs"):
            record = self.store.read("blobs", token)
            if record is None or self.store.current_time() - record["started"] > self.settings.session:
                shutil.rmtree(self.store.key_folder("blobs", token), ignore_errors=True)
