"""Resumable uploads to Kaggle's storage that verify the digest of what they send.

Unfinished uploads are stored by digest and name. Kaggle's client stores them by path,
size and time, and can create a dataset from the old bytes of a rebuilt file.
"""

import hashlib
import json
import math
import re
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from offline_kit.core.errors import OfflineKitError, OutsideError, ProjectError
from offline_kit.core.files import CHUNK, translate_disk_errors, write_atomic
from offline_kit.core.http import GONE_STATUSES, TEMPORARY_STATUSES
from offline_kit.core.redaction import redact_urls
from offline_kit.core.report import Advance
from offline_kit.core.retry import PATIENT, RetryPolicy, TransientError, retry_call
from offline_kit.kaggle.client.api_types import Blob
from offline_kit.kaggle.client.client import KaggleClient

if TYPE_CHECKING:
    import requests

MAX_AGE = 5 * 86400
"""Seconds; Google's resumable uploads expire after a week, Kaggle's after about six days."""
CONNECT_SECONDS, SILENT_SECONDS = 15.0, 120.0

_SHORT_BODY = 4096
_COMPLETE_STATUSES = frozenset({200, 201})
_HELD = re.compile(r"bytes=0-(\d+)")


@dataclass(frozen=True, kw_only=True)
class UploadFile:
    """A file to upload."""

    path: Path
    name: str
    """POSIX path in the dataset."""
    size: int
    sha256: str


class Uploader:
    """Upload files and store in `state` which uploads are unfinished; thread-safe."""

    def __init__(
        self, kaggle: KaggleClient, state: Path, *, patience: RetryPolicy = PATIENT, kind: str = "DATASET"
    ) -> None:
        """`kind` is "DATASET" or "MODEL"."""
        self._kaggle = kaggle
        self._kind = kind
        self._state = state
        self._patience = patience
        self._wire = _StorageConnection(kaggle.upload_proxies())
        with translate_disk_errors(state):
            # The upload addresses in this folder let anyone who reads them write to our uploads.
            state.mkdir(parents=True, exist_ok=True, mode=0o700)

    def upload_file(self, file: UploadFile, advance: Advance = lambda _bytes: None) -> str:
        """Upload a file and return its token.

        Resumes an interrupted upload; if the address of an earlier run does not answer, a new one is
        opened. Raises ProjectError if the file has changed, OutsideError if Kaggle refuses
        it.
        """
        counter = _ProgressCounter(advance)
        resumable = _ResumableUpload(
            file, self._kaggle, self._wire, self._state / _note_name(file), self._kind
        )
        while True:
            try:
                return self._retry_upload(file, resumable, counter)
            except UploadFailedError:
                if not resumable.try_other_blob():
                    raise

    def _retry_upload(
        self, file: UploadFile, resumable: "_ResumableUpload", counter: "_ProgressCounter"
    ) -> str:
        def upload_once() -> str:
            blob = resumable.open_blob()
            offset = resumable.query_offset(blob)
            if offset < file.size or (file.size == 0 and not resumable.complete):
                resumable.send_bytes(blob, offset, counter)
            resumable.mark_complete()
            counter.report_position(file.size)
            return blob.token

        return retry_call(
            upload_once,
            self._patience,
            may_pass=_is_network_error,
            give_up=lambda e: _build_failed_error(file, e),
            progress=counter.count_bytes,
        )

    def forget_uploads(self) -> None:
        """Delete all stored uploads: they are part of a version now, and a token can be used only once."""
        for pattern in ("*.json", "*.whole"):
            for note in self._state.glob(pattern):
                note.unlink(missing_ok=True)


class UploadFailedError(OutsideError):
    """The retries of an upload are used up."""

    default_code = "upload-failed"


class _ProgressCounter:
    """Reports uploaded bytes to a progress bar, each byte once."""

    def __init__(self, advance: Advance) -> None:
        self._advance = advance
        self._reached = 0

    def count_bytes(self) -> int:
        return self._reached

    def report_position(self, position: int) -> None:
        if position > self._reached:
            self._advance(position - self._reached)
            self._reached = position


class _ResumableUpload:
    """The upload of one file, with its stored state."""

    def __init__(
        self, file: UploadFile, kaggle: KaggleClient, wire: "_StorageConnection", note: Path, kind: str
    ) -> None:
        self._file = file
        self._kind = kind
        self._kaggle = kaggle
        self._wire = wire
        self._whole = note.with_suffix(".whole")
        # At most two notes: the address of an earlier run, and the one that is tried instead.
        self._note, self._other = sorted((note, note.with_suffix(".beside.json")), key=self._saved_at)
        self._untried = self._saved_at(self._other) < math.inf
        self._fresh = False
        self._of_before = self._load_blob() is not None
        self._doubted = False
        self._holds = False
        self._cut: bool | None = None
        self.complete = False
        """Whether Kaggle has all bytes."""

    def open_blob(self) -> Blob:
        """Return the upload slot of an earlier attempt or run, or open a new one."""
        self.complete = False
        if not self._doubted and (known_blob := self._load_blob()):
            self._fresh = False
            return known_blob
        file = self._file
        blob = self._kaggle.start_blob(
            PurePosixPath(file.name).name, file.size, int(file.path.stat().st_mtime), self._kind
        )
        note = {**asdict(blob), "sha256": file.sha256, "size": file.size, "at": time.time()}
        note["time"] = file.path.stat().st_mtime_ns
        if self._doubted and self._saved_at(self._other) == math.inf:
            self._swap_notes()
        self._whole.unlink(missing_ok=True)
        write_atomic(self._note, json.dumps(note))
        self._note.chmod(0o600)
        self._fresh, self._doubted, self._of_before = True, False, False
        self._holds, self._cut = False, None
        return blob

    def try_other_blob(self) -> bool:
        """Switch to another upload slot after this one failed; return False if there is none to try.

        A slot that may hold bytes is kept for the next run; one that never received any is deleted.
        The slot of an earlier run is kept until the new one has received bytes, so that nothing is lost
        while the storage is unreachable.
        """
        if self._holds or self._cut:
            return False
        if not self._of_before:
            self._delete_notes()
            return False
        if self._untried:
            self._swap_notes()
        else:
            self._doubted = True
        self._untried = False
        return True

    def _swap_notes(self) -> None:
        self._note, self._other = self._other, self._note

    def mark_complete(self) -> None:
        """Store that Kaggle has all bytes: they are not sent again, even if the slot expires."""
        if self._note.exists():
            with translate_disk_errors(self._note.parent):
                self._note.replace(self._whole)
                self._other.unlink(missing_ok=True)

    def _load_blob(self) -> Blob | None:
        raw = self._read_note(self._whole if self._whole.exists() else self._note)
        return Blob(token=raw["token"], url=raw["url"]) if raw else None

    def _saved_at(self, note: Path) -> float:
        """Return when a note was written, infinity if there is none."""
        raw = self._read_note(note)
        return float(raw["at"]) if raw else math.inf

    def _read_note(self, note: Path) -> dict[str, Any] | None:
        try:
            raw: dict[str, Any] = json.loads(note.read_bytes())
            file = self._file
            is_same_file = (raw["sha256"], raw["size"]) == (file.sha256, file.size)
            is_same_file = (
                is_same_file and raw["time"] == file.path.stat().st_mtime_ns
            )  # the file is unchanged
            young = 0 <= time.time() - raw["at"] < MAX_AGE
            return raw if is_same_file and young and raw["token"] and raw["url"] else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def query_offset(self, blob: Blob) -> int:
        """Return how many bytes Kaggle has received."""
        if self._fresh:
            return 0
        size = self._file.size
        answer = self._query_status(blob)
        self.complete = answer is None or answer.status_code in _COMPLETE_STATUSES
        offset = self._parse_offset(answer) if answer is not None and not self.complete else size
        if offset:
            self._holds = True
            self._other.unlink(missing_ok=True)
        # The answer settles what became of an interrupted request.
        self._cut = None if self._cut is None else False
        return offset

    def _query_status(self, blob: Blob) -> "requests.Response | None":
        """Ask for the upload's status; None if there is no answer and all bytes are known to be there."""
        try:
            answer = self._wire.put_bytes(blob, b"", {"Content-Range": f"bytes */{self._file.size}"})
        except OSError as error:
            if _is_network_error(error) and self._whole.exists():
                return None
            raise
        return None if answer.status_code in TEMPORARY_STATUSES and self._whole.exists() else answer

    def send_bytes(self, blob: Blob, start: int, counter: _ProgressCounter) -> None:
        """Send the missing bytes and verify the digest on the way."""
        file = self._file
        # After an interruption the server may hold a part: query the offset before sending more.
        self._fresh = False
        headers = {"Content-Range": f"bytes {start}-{file.size - 1}/{file.size}"} if start else {}
        body = _CheckedBody(file, start, counter) if file.size else b""
        try:
            answer = self._wire.put_bytes(blob, body, headers)
        except ProjectError:
            self._delete_notes()
            raise
        except OSError:
            # Only the server knows how much arrived; less than a chunk is not worth a query.
            if self._cut is None and isinstance(body, _CheckedBody) and body.sent >= CHUNK:
                self._cut = True
            raise
        if answer.status_code == 308:
            raise TransientError(f"Kaggle received only {self._parse_offset(answer)} bytes")
        if answer.status_code not in _COMPLETE_STATUSES:
            self._raise_refusal(answer)

    def _parse_offset(self, answer: "requests.Response") -> int:
        if answer.status_code != 308:
            self._raise_refusal(answer)
        range_match = _HELD.fullmatch(answer.headers.get("Range", ""))
        return min(int(range_match[1]) + 1, self._file.size) if range_match else 0

    def _raise_refusal(self, answer: "requests.Response") -> None:
        code = answer.status_code
        if code in GONE_STATUSES:
            self._delete_notes()
            raise TransientError("the upload address has expired", after=0.0)
        if code in TEMPORARY_STATUSES:
            wait = answer.headers.get("Retry-After", "")
            raise TransientError(f"status {code}", after=float(wait) if wait.isdecimal() else None)
        self._delete_notes()
        raise OutsideError(
            f"Kaggle's storage refused '{self._file.name}' with status {code}",
            code="upload-refused",
            hint="run the same command again; an incomplete upload is never used",
        )

    def _delete_notes(self) -> None:
        for note in (self._note, self._whole):
            note.unlink(missing_ok=True)


class _StorageConnection:
    """Connections to the storage, one per thread: connecting costs more than sending a small file."""

    def __init__(self, proxies: Mapping[str, str] | None) -> None:
        self._proxies = proxies
        self._thread_local = threading.local()

    def put_bytes(
        self, blob: Blob, body: "_CheckedBody | bytes", headers: Mapping[str, str]
    ) -> "requests.Response":
        answer = self._get_session().put(
            blob.url,
            data=body,
            headers=dict(headers),
            proxies=dict(self._proxies or {}),
            timeout=(CONNECT_SECONDS, SILENT_SECONDS),
            allow_redirects=False,
            stream=True,
        )
        # Only status and headers matter. A short body is read to keep the connection alive, a long one is not.
        length = answer.headers.get("Content-Length", "")
        if length.isdecimal() and int(length) <= _SHORT_BODY:
            _ = answer.content
        else:
            answer.close()
        return answer

    def _get_session(self) -> "requests.Session":
        import requests

        if not hasattr(self._thread_local, "session"):
            session = requests.Session()
            session.trust_env = self._proxies is None
            session.auth = (
                lambda request: request
            )  # or requests sends credentials from ~/.netrc: https://requests.readthedocs.io/en/latest/user/authentication/
            self._thread_local.session = session
        thread_session: requests.Session = self._thread_local.session
        return thread_session


class _CheckedBody:
    """The rest of a file as a request body.

    The last bytes are sent only after the digest of the whole file was verified: an upload that Kaggle
    reports as complete has the right bytes, even if this process was killed.
    """

    def __init__(self, file: UploadFile, start: int, counter: _ProgressCounter) -> None:
        self._file = file
        self._start = start
        self._counter = counter
        self.sent = 0
        """Bytes sent so far."""

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
                last = position == file.size and not stream.read(1)
                if not chunk or (position == file.size and not (last and digest.hexdigest() == file.sha256)):
                    raise _build_changed_error(file)
                if position > self._start:
                    yield chunk
                    self.sent += len(chunk)
                self._counter.report_position(position)


def _note_name(file: UploadFile) -> str:
    name = hashlib.sha256(file.name.encode()).hexdigest()[:16]
    return f"{file.sha256}-{name}.json"


def _is_network_error(error: Exception) -> bool:
    # requests' errors are OSErrors, as are the disk's; only the network's have a `request`.
    return isinstance(error, OSError) and hasattr(error, "request")


def _build_failed_error(file: UploadFile, trouble: Exception) -> OfflineKitError:
    return UploadFailedError(
        f"'{file.name}' could not be uploaded: {redact_urls(str(trouble))}",
        hint="check the network and run the same command again; the upload resumes",
    )


def _build_changed_error(file: UploadFile) -> ProjectError:
    return ProjectError(
        f"'{file.path}' differs from the kit's manifest",
        code="kit-damaged",
        hint="run 'offline-kit build', and push while nothing writes to the kit",
    )
