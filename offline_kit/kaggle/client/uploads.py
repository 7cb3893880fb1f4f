"""Resumable uploads to Kaggle's storage that verify the digest of what they send.

Unfinished uploads are stored by digest and name. Kaggle's client stores them by path,
size and time, and can create a dataset from the old bytes of a rebuilt file.
"""

import hashlib
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from offline_kit.core import http
from offline_kit.core.errors import OutsideError, ProjectError
from offline_kit.core.files import CHUNK, translate_disk_errors, write_atomic
from offline_kit.core.http import GONE_STATUSES, TEMPORARY_STATUSES
from offline_kit.core.redaction import redact_urls
from offline_kit.core.report import Advance
from offline_kit.core.retry import PATIENT, RetryPolicy, TransientError, retry_call
from offline_kit.kaggle.client.client import KaggleClient

if TYPE_CHECKING:
    import requests

MAX_AGE = 5 * 86400  # seconds; Google's resumable uploads expire after a week, Kaggle's after about six days
_TIMEOUT = 120.0  # seconds without a sign of life
_SHORT_BODY = 4096
_COMPLETE_STATUSES = frozenset({200, 201})


@dataclass(frozen=True, kw_only=True)
class UploadFile:
    """A file to upload; `name` is its POSIX path in the dataset."""

    path: Path
    name: str
    size: int
    sha256: str


class UploadFailedError(OutsideError):
    """The retries of an upload are used up."""

    default_code = "upload-failed"


class Uploader:
    """Upload files and store in `state` which uploads are unfinished; thread-safe."""

    def __init__(
        self, kaggle: KaggleClient, state: Path, *, patience: RetryPolicy = PATIENT, kind: str = "DATASET"
    ) -> None:
        """`kind` is "DATASET" or "MODEL"."""
        self.kaggle = kaggle
        self.kind = kind
        # Every upload to a local Kaggle is led there, whatever its address says.
        self.connection = http.ConnectionSettings(proxy=kaggle.endpoint.local, timeout=_TIMEOUT)
        self._state = state
        self._patience = patience
        with translate_disk_errors(state):
            # The upload addresses in this folder let anyone who reads them write to our uploads.
            state.mkdir(parents=True, exist_ok=True, mode=0o700)

    def upload_file(self, file: UploadFile, advance: Advance = lambda _bytes: None) -> str:
        """Upload a file and return its token.

        Resumes an interrupted upload; if the address of an earlier run does not answer, a new one is
        opened. Raises ProjectError if the file has changed, OutsideError if Kaggle refuses it.
        """
        name = hashlib.sha256(file.name.encode()).hexdigest()[:16]
        note = self._state / f"{file.sha256}-{name}.json"
        return _ResumableUpload(self, file, note, advance).upload(self._patience)

    def forget_uploads(self) -> None:
        """Delete all stored uploads: they are part of a version now, and a token can be used only once."""
        for note in self._state.iterdir():
            note.unlink(missing_ok=True)


@dataclass(frozen=True, kw_only=True)
class _UploadSlot:
    """A place for a file's bytes (Kaggle's API: blob)."""

    token: str
    url: str
    at: float
    is_complete: bool = False  # Kaggle said that it has all bytes: the token is good, if the slot expires too


class _ResumableUpload:
    """The upload of one file; a note keeps the slot that holds its bytes for a later run."""

    def __init__(self, uploader: Uploader, file: UploadFile, note: Path, advance: Advance) -> None:
        self._uploader, self._file, self._note = uploader, file, note
        self._advance = advance
        self._reached = 0
        self._modified = file.path.stat().st_mtime_ns
        self._slot = self._load_slot()
        self._holds_bytes = False  # whether the slot has answered that it does

    def upload(self, patience: RetryPolicy) -> str:
        """Upload the file to the slot of an earlier run, or to a new one if that does not answer; return its token."""
        is_stored = self._slot is not None
        try:
            return self._retry(patience)
        except UploadFailedError:
            if not is_stored or self._holds_bytes:
                raise
        # The note keeps the earlier slot meanwhile: the whole storage may be out of reach.
        self._slot = None
        return self._retry(patience)

    def _retry(self, patience: RetryPolicy) -> str:
        return retry_call(
            self._upload_once,
            patience,
            may_pass=_is_network_error,
            give_up=lambda trouble: UploadFailedError(
                f"'{self._file.name}' could not be uploaded: {redact_urls(str(trouble))}",
                hint="check the network and run the same command again; the upload resumes",
            ),
            progress=lambda: self._reached,
        )

    def _upload_once(self) -> str:
        size, slot, offset = self._file.size, self._slot, None
        if slot:  # after an interruption only the server knows how much it has
            offset = self._query_offset(slot)
        else:
            slot, offset = self._open_slot(), 0
        if offset is not None and (offset < size or not size):
            self._send_bytes(slot, offset)
        if not slot.is_complete:
            self._store_slot(replace(slot, is_complete=True))
        self._report_position(size)
        return slot.token

    def _open_slot(self) -> _UploadSlot:
        file, name = self._file, PurePosixPath(self._file.name).name
        token, url = self._uploader.kaggle.start_blob(
            name, file.size, self._modified // 10**9, self._uploader.kind
        )
        self._slot = _UploadSlot(token=token, url=url, at=time.time())
        return self._slot

    def _query_offset(self, slot: _UploadSlot) -> int | None:
        """Return how many bytes Kaggle has received, None for all."""
        try:
            answer = self._put_bytes(slot, b"", {"Content-Range": f"bytes */{self._file.size}"})
        except OSError as error:
            if _is_network_error(error) and slot.is_complete:
                return None
            raise
        if answer.status_code in _COMPLETE_STATUSES or (
            slot.is_complete and answer.status_code in TEMPORARY_STATUSES
        ):
            return None
        offset = self._parse_offset(answer)
        if offset:
            # Only the server knows what arrived: the slot of an earlier run is kept until then.
            self._holds_bytes = True
            self._store_slot(slot)
        return offset

    def _send_bytes(self, slot: _UploadSlot, start: int) -> None:
        """Send the missing bytes and verify the digest on the way."""
        size = self._file.size

        def report_sent(position: int) -> None:
            # Less than a chunk is not worth a query by a later run.
            if start + CHUNK <= position < size and not self._note.exists():
                self._store_slot(slot)
            self._report_position(position)

        headers = {"Content-Range": f"bytes {start}-{size - 1}/{size}"} if start else {}
        body = _CheckedBody(self._file, start, report_sent) if size else b""
        try:
            answer = self._put_bytes(slot, body, headers)
        except ProjectError:
            self._forget_slot()
            raise
        if answer.status_code == 308:
            raise TransientError(f"Kaggle received only {self._parse_offset(answer)} bytes")
        if answer.status_code not in _COMPLETE_STATUSES:
            self._raise_refusal(answer)

    def _put_bytes(
        self, slot: _UploadSlot, body: "_CheckedBody | bytes", headers: Mapping[str, str]
    ) -> "requests.Response":
        with http.open_response(
            slot.url,
            self._uploader.connection,
            headers,
            method="PUT",
            body=body,
            redirects=False,
            login=False,
        ) as answer:
            # Only status and headers matter. A short body is read to keep the connection alive, a long one is not.
            length = answer.headers.get("Content-Length", "")
            if length.isdecimal() and int(length) <= _SHORT_BODY:
                _ = answer.content
            return answer

    def _parse_offset(self, answer: "requests.Response") -> int:
        # 308 with a Range is how Google's storage answers for an unfinished upload:
        # https://cloud.google.com/storage/docs/performing-resumable-uploads
        if answer.status_code != 308:
            self._raise_refusal(answer)
        range_match = re.fullmatch(r"bytes=0-(\d+)", answer.headers.get("Range", ""))
        return min(int(range_match[1]) + 1, self._file.size) if range_match else 0

    def _raise_refusal(self, answer: "requests.Response") -> None:
        code = answer.status_code
        if code in TEMPORARY_STATUSES:
            wait = answer.headers.get("Retry-After", "")
            raise TransientError(f"status {code}", after=float(wait) if wait.isdecimal() else None)
        self._forget_slot()
        if code in GONE_STATUSES:
            raise TransientError("the upload address has expired", after=0.0)
        raise OutsideError(
            f"Kaggle's storage refused '{self._file.name}' with status {code}",
            code="upload-refused",
            hint="run the same command again; an incomplete upload is never used",
        )

    def _report_position(self, position: int) -> None:
        """Report bytes to the progress bar, each byte once."""
        if position > self._reached:
            self._advance(position - self._reached)
            self._reached = position

    def _load_slot(self) -> _UploadSlot | None:
        try:
            raw = json.loads(self._note.read_bytes())
            slot = _UploadSlot(**raw["slots"][0])
            # The digest is in the note's name.
            is_same = (raw["size"], raw["time"]) == (self._file.size, self._modified)
            return slot if is_same and 0 <= time.time() - slot.at < MAX_AGE else None
        except (OSError, ValueError, LookupError, TypeError):
            return None

    def _store_slot(self, slot: _UploadSlot) -> None:
        note = {"size": self._file.size, "time": self._modified, "slots": [asdict(slot)]}
        with translate_disk_errors(self._note.parent):
            write_atomic(self._note, json.dumps(note))
            self._note.chmod(0o600)

    def _forget_slot(self) -> None:
        self._slot = None
        self._note.unlink(missing_ok=True)


class _CheckedBody:
    """The rest of a file as a request body."""

    # The last bytes are sent only after the digest of the whole file was verified: an upload that Kaggle
    # reports as complete has the right bytes, even if this process was killed.

    def __init__(self, file: UploadFile, start: int, report_position: Callable[[int], None]) -> None:
        self._file = file
        self._start = start
        self._report_position = report_position

    def __len__(self) -> int:
        return self._file.size - self._start

    def __iter__(self) -> Iterator[bytes]:
        file, digest, position = self._file, hashlib.sha256(), 0
        with file.path.open("rb") as stream:
            while position < file.size:
                # Split at the offset to resume from, and never read beyond the announced size.
                until = self._start if position < self._start else file.size
                chunk = stream.read(min(CHUNK, until - position))
                digest.update(chunk)
                position += len(chunk)
                is_last = position == file.size and not stream.read(1)
                is_right = is_last and digest.hexdigest() == file.sha256
                if not chunk or (position == file.size and not is_right):
                    raise ProjectError(
                        f"'{file.path}' differs from the kit's manifest",
                        code="kit-damaged",
                        hint="run 'offline-kit build', and push while nothing writes to the kit",
                    )
                if position > self._start:
                    yield chunk
                self._report_position(position)


def _is_network_error(error: Exception) -> bool:
    # requests' errors are OSErrors, as are the disk's; only the network's have a `request`.
    return isinstance(error, OSError) and hasattr(error, "request")
