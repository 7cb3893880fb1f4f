"""Uploads: a session per file, which can be asked how far it came and gone on with."""

import re
import secrets
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from offline_kit.local_kaggle.store import Record, Service
from offline_kit.local_kaggle.wire import HttpAnswer, RpcCall, ServiceRefusal, rpc

_QUERY = re.compile(r"bytes \*/(\d+|\*)")
_PIECE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
_LIFETIME = 6 * 86400.0  # seconds for which a session can be gone on with
# By session: a client that lost its connection sends anew while the old request still writes.
_LOCKS: dict[str, threading.Lock] = {}


class UploadService(Service):
    """The upload sessions of one local Kaggle; what arrived before a cut is kept."""

    @rpc("blobs.BlobApiService/StartBlobUpload")
    def _start_upload(self, call: RpcCall) -> Mapping[str, Any]:
        if not call.user:
            raise ServiceRefusal(401, "Unauthenticated")
        name = call.text("name")
        # The name becomes a file name on this disk.
        if not name or "/" in name or "\\" in name or name in (".", ".."):
            raise ServiceRefusal(400, f"Invalid file name: {name}")
        return self.open_session(call, name)

    def open_session(self, call: RpcCall, name: str) -> dict[str, Any]:
        """Open a session for a file of `contentLength` bytes; return its token and where to put it."""
        token = secrets.token_hex(16)
        record = {"token": token, "owner": call.user, "name": name, "size": call.integer("contentLength")}
        self.store.write_record({**record, "started": time.time(), "complete": False}, "blobs", token)
        return {"token": token, "createUrl": f"{call.base}/upload/{token}"}

    def put_bytes(self, token: str, span: str, body: Iterable[bytes]) -> HttpAnswer:
        """Take bytes, or answer how many there are; `span` is the Content-Range, as in resumable uploads."""
        record = self.store.read("blobs", token)
        if record is None or _has_expired(record):
            raise ServiceRefusal(404, "Upload session not found")
        piece = _PIECE.fullmatch(span)
        if span and not piece and not _QUERY.fullmatch(span):
            raise ServiceRefusal(400, "Invalid Content-Range")
        if piece or not span:
            start = int(piece[1]) if piece else 0
            with self.store.lock:
                lock = _LOCKS.setdefault(token, threading.Lock())
            with lock:
                record = self.store.read("blobs", token) or record
                # Datasets are hard links to finished uploads: those are never written again.
                if not record["complete"] and start <= self._count_received(record):
                    self._append_bytes(record, start, body)
        if record["complete"]:
            return HttpAnswer()
        received = self._count_received(record)
        # "Resume Incomplete", as Google Cloud Storage says it.
        return HttpAnswer(status=308, headers={"Range": f"bytes=0-{received - 1}"} if received else {})

    def _append_bytes(self, record: Record, start: int, body: Iterable[bytes]) -> None:
        data = self._data_path(record)
        with data.open("r+b" if data.exists() else "w+b") as stream:
            stream.seek(start)
            # A client may send bytes again that have already arrived: the new ones replace them.
            stream.truncate()
            for chunk in body:  # what came before a cut stays
                if stream.tell() + len(chunk) > record["size"]:
                    raise ServiceRefusal(400, "More bytes than were announced")
                stream.write(chunk)
        record["complete"] = self._count_received(record) == record["size"]
        if record["complete"]:
            self.store.write_record(record, "blobs", record["token"])

    def _count_received(self, record: Record) -> int:
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

    def list_uploads(self, call: RpcCall) -> list[tuple[str, Path]]:
        """Return (path, bytes) of what a request names by tokens; refuses nothing at all with 400."""
        uploads = list(self._iter_uploads(call, ""))
        if not uploads:
            raise ServiceRefusal(400, "Please upload at least one file")
        return uploads

    def _iter_uploads(self, call: RpcCall, below: str) -> Iterator[tuple[str, Path]]:
        for item in call.items("files"):
            name, data = self.finished_upload(call.inner(item).text("token"), call.user)
            yield below + name, data
        for item in call.items("directories"):
            folder = call.inner(item)
            name = folder.text("name")
            if not name or "/" in name or name in (".", ".."):
                raise ServiceRefusal(400, f"Invalid directory name: {name}")
            yield from self._iter_uploads(folder, f"{below}{name}/")

    def remove_expired(self) -> None:
        """Remove sessions that have expired; files made of them are their own."""
        for token in self.store.key_names("blobs"):
            record = self.store.read("blobs", token)
            if record is None or _has_expired(record):
                self.store.delete_record("blobs", token)


def _has_expired(record: Record) -> bool:
    return bool(time.time() - record["started"] > _LIFETIME)
