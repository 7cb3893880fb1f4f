"""The one door to the network: answers and files over http(s) and file://, with patience and proof.

Whoever calls names the far side by URL; passwords in it are used, and never shown.
"""

import hashlib
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import unquote, urlsplit

from offline_kit.core.errors import OutsideError, ProjectError, UsageError
from offline_kit.core.files import CHUNK, translate_disk_errors
from offline_kit.core.redaction import redact_urls
from offline_kit.core.report import Advance
from offline_kit.core.retry import PATIENT as PATIENT
from offline_kit.core.retry import Attempt, TransientError, retry_attempts
from offline_kit.core.retry import RetryPolicy as RetryPolicy

if TYPE_CHECKING:
    import requests

TEMPORARY_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Statuses that may pass."""
GONE_STATUSES = frozenset({404, 410})
"""Statuses that say: there is nothing here."""
_SPAN = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")
_sessions = threading.local()


class Connection(Protocol):
    """What must be known of the way to the far side; IndexSettings is one."""

    @property
    def cert(self) -> str:
        """A bundle of certificates, or empty."""

    @property
    def client_cert(self) -> str:
        """A client certificate, or empty."""

    @property
    def trusted_hosts(self) -> tuple[str, ...]:
        """Hosts whose certificates are not verified."""

    @property
    def proxy(self) -> str:
        """A proxy, or empty."""

    @property
    def timeout(self) -> float:
        """Seconds of silence after which a connection counts as dead."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a URL answered."""

    url: str
    """The address after redirects; links in the content are relative to it."""
    content: bytes
    """The body."""
    kind: str
    """Its content type without parameters, lower case."""
    charset: str | None = None
    """Its declared encoding."""


def fetch_answer(
    url: str,
    *,
    settings: Connection,
    headers: Mapping[str, str] | None = None,
    absent: frozenset[int] = GONE_STATUSES,
    patience: RetryPolicy = PATIENT,
) -> Answer | None:
    """Return what a URL answers; None if there is nothing (`absent` statuses). Passing trouble is waited out.

    A file:// folder answers with its index.html. Raises OutsideError when the far side cannot be reached
    or refuses.
    """
    if url.startswith("file:"):
        return _read_file_url(url)
    for attempt in _retry_attempts(url, patience):
        with attempt, open_response(url, settings, headers or {}) as response:
            if response.status_code in absent:
                return None
            _raise_for_status(url, response)
            kind, _, parameters = response.headers.get("content-type", "text/html").partition(";")
            charset = re.search(r"charset=\"?([\w-]+)", parameters)
            return Answer(
                url=response.url,
                content=response.content,
                kind=kind.strip().lower(),
                charset=charset[1] if charset else None,
            )
    raise AssertionError("unreachable")


def verify_content(content: bytes, url: str, sha256: str) -> bytes:
    """Return the content that a URL gave, or raise ProjectError where its hash is another than promised."""
    actual = hashlib.sha256(content).hexdigest()
    if sha256 and actual != sha256:
        raise _mismatch_error(url, sha256, actual)
    return content


def download_file(
    url: str,
    into: Path,
    *,
    settings: Connection,
    sha256: str = "",
    size: int = 0,
    advance: Advance | None = None,
    patience: RetryPolicy = PATIENT,
) -> str:
    """Stream a URL into the file `into`, hashing on the way, and return the sha256 of what it now holds.

    A file that is there already is taken for the first part of the download and continued where the
    server can (and `sha256` is known, so that a mix-up shows); it stays when the download breaks, for the
    next call. `size` (bytes) and `sha256` are checked where known; on a mismatch the file is removed and
    ProjectError tells both. Network trouble ends in OutsideError once patience does.
    """
    with translate_disk_errors(into.parent):
        into.parent.mkdir(parents=True, exist_ok=True)
        part = _Part(into, advance or (lambda _amount: None), keep=bool(sha256))
        resumed = part.held > 0
        digest = _complete_part(url, part, settings, size, patience)
        if resumed and not _is_whole(digest, part.held, sha256, size):
            # What an earlier run left may be of another file: once more from the start.
            part.clear_content()
            digest = _complete_part(url, part, settings, size, patience)
        if not _is_whole(digest, part.held, sha256, size):
            held_bytes = part.held
            into.unlink(missing_ok=True)
            if sha256 and digest != sha256:
                raise _mismatch_error(url, sha256, digest)
            raise _mismatch_error(url, f"{size} bytes", f"{held_bytes} bytes")
    return digest


class _Part:
    """A file that grows, with the running hash of what it holds."""

    def __init__(self, path: Path, advance: Advance, *, keep: bool) -> None:
        self.path, self.advance = path, advance
        self.digest, self.held = hashlib.sha256(), 0
        if not keep:
            path.unlink(missing_ok=True)
        if path.is_file():
            with path.open("rb") as stream:
                while chunk := stream.read(CHUNK):
                    self._count_chunk(chunk)

    def _count_chunk(self, chunk: bytes) -> None:
        self.digest.update(chunk)
        self.held += len(chunk)
        self.advance(len(chunk))

    def take_chunks(self, chunks: Iterator[bytes]) -> None:
        with self.path.open("ab") as stream:
            for chunk in chunks:
                stream.write(chunk)
                self._count_chunk(chunk)

    def clear_content(self) -> None:
        self.advance(-self.held)
        self.digest, self.held = hashlib.sha256(), 0
        self.path.unlink(missing_ok=True)


def _is_whole(digest: str, held: int, sha256: str, size: int) -> bool:
    return (not sha256 or digest == sha256) and (not size or held == size)


def _complete_part(url: str, part: _Part, settings: Connection, size: int, patience: RetryPolicy) -> str:
    """Bring the part to its full length and return its digest."""
    if size and part.held == size:
        return part.digest.hexdigest()
    if size and part.held > size:
        part.clear_content()
    if url.startswith("file:"):
        part.clear_content()
        part.take_chunks(_read_disk_chunks(url))
        return part.digest.hexdigest()
    for attempt in _retry_attempts(url, patience, lambda: part.held):
        with attempt:
            _continue_part(url, part, settings)
            return part.digest.hexdigest()
    raise AssertionError("unreachable")


def _continue_part(url: str, part: _Part, settings: Connection) -> None:
    """Ask once for what is missing and take it."""
    headers = {"Accept-Encoding": "identity"}
    if part.held:
        headers["Range"] = f"bytes={part.held}-"
    with open_response(url, settings, headers) as response:
        if response.status_code == 416:
            # Nothing lies behind what is held: the part is whole, or it is longer than the file.
            if response.headers.get("content-range", "").rpartition("/")[2] == str(part.held):
                return
            part.clear_content()
            raise TransientError("the server has less than was held")
        if response.status_code in GONE_STATUSES:
            raise _missing_error(url)
        _raise_for_status(url, response)
        span = _SPAN.match(response.headers.get("content-range", ""))
        if part.held and not (response.status_code == 206 and span and int(span[1]) == part.held):
            part.clear_content()
            if response.status_code == 206:
                raise TransientError("the server sent another range than was asked for")
        part.take_chunks(response.raw.stream(CHUNK, decode_content=False))
        length = response.headers.get("content-length", "")
        if length.isdigit() and response.raw.tell() < int(length):
            raise TransientError("the connection ended early")


def _retry_attempts(
    url: str, patience: RetryPolicy, progress: Callable[[], int] = lambda: 0
) -> Iterator[Attempt]:
    return retry_attempts(
        patience,
        may_pass=_is_transient,
        give_up=lambda trouble: _unreachable_error(url, trouble),
        progress=progress,
    )


def _is_transient(error: Exception) -> bool:
    import requests
    import urllib3

    return isinstance(error, requests.RequestException | urllib3.exceptions.HTTPError)


@contextmanager
def open_response(
    url: str, settings: Connection, headers: Mapping[str, str], *, method: str = "GET", redirects: bool = True
) -> "Iterator[requests.Response]":
    """Ask once, and yield the answer, whatever its status, before its body is read.

    Raises OutsideError for a certificate that cannot be verified, UsageError for what is no address, and
    requests.RequestException for trouble that may pass.
    """
    import requests

    try:
        response = thread_session().request(
            method,
            url,
            headers=dict(headers),
            stream=True,
            allow_redirects=redirects,
            **_proxies_for(url, settings),
        )
    except requests.exceptions.SSLError as error:
        raise OutsideError(
            f"the certificate of '{_host_of(url)}' cannot be verified",
            code="certificate-not-verified",
            hint="name your bundle of certificates in pip's configuration: 'pip config set global.cert FILE'",
            details=[redact_urls(str(error))],
        ) from error
    except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema) as error:
        raise UsageError(
            f"'{redact_urls(url)}' is no address that can be fetched",
            code="url-not-supported",
            hint="write an address that begins with https://, http:// or file://",
        ) from error
    with response:
        yield response


def thread_session() -> "requests.Session":
    """Return this thread's session: connections are kept open between requests."""
    import requests

    session: requests.Session | None = getattr(_sessions, "session", None)
    if session is None:
        session = requests.Session()
        session.headers["User-Agent"] = "offline-kit"
        _sessions.session = session
    return session


def _proxies_for(url: str, settings: Connection) -> dict[str, Any]:
    parts = urlsplit(url)
    trusted = {parts.hostname, parts.netloc.rpartition("@")[2]} & set(settings.trusted_hosts)
    return {
        "timeout": settings.timeout,
        "verify": False if trusted else settings.cert or True,
        "cert": settings.client_cert or None,
        "proxies": {"http": settings.proxy, "https": settings.proxy} if settings.proxy else None,
    }


def _raise_for_status(url: str, response: "requests.Response") -> None:
    """Raise for a status that is no success."""
    status = response.status_code
    if status in TEMPORARY_STATUSES:
        raise TransientError(
            f"it answers {status} {response.reason}", _retry_after(response.headers.get("retry-after"))
        )
    if status in (401, 403):
        raise OutsideError(
            f"'{_host_of(url)}' refuses {redact_urls(url)} ({status} {response.reason})",
            code="url-access-denied",
            hint="put user and password into the index URL of pip's configuration or into ~/.netrc",
        )
    if status >= 400:
        raise OutsideError(
            f"'{_host_of(url)}' answers {status} {response.reason} to {redact_urls(url)}",
            code="http-error",
            hint="open the address in a browser; if it should be there, try again later",
        )


def _retry_after(value: str | None) -> float | None:
    """Read Retry-After, which is seconds or a date; None if it is neither."""
    if value is None or value.strip().isdigit():
        return float(value) if value else None
    from email.utils import parsedate_to_datetime

    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None


def _host_of(url: str) -> str:
    return urlsplit(url).netloc.rpartition("@")[2]


def _unreachable_error(url: str, trouble: Exception) -> OutsideError:
    return OutsideError(
        f"cannot reach '{_host_of(url)}' for {redact_urls(url)}",
        code="host-unreachable",
        hint="check the network and the index addresses ('python -m pip config list'), then run the same command again",
        details=[redact_urls(str(trouble))],
    )


def _missing_error(url: str) -> OutsideError:
    return OutsideError(
        f"there is nothing at {redact_urls(url)}",
        code="url-not-found",
        hint="it was listed a moment ago, or is an address of yours: check it, or build again with --upgrade",
    )


def _mismatch_error(url: str, expected: str, actual: str) -> ProjectError:
    return ProjectError(
        f"'{url_file_name(url)}' is not the file that was promised",
        code="hash-mismatch",
        hint="do not install it by hand: tell whoever runs the index, or name another index or version",
        details=[f"expected {expected}", f"got      {actual}", f"from {redact_urls(url)}"],
    )


def url_file_name(url: str) -> str:
    """Return the file name that a URL ends in."""
    return unquote(urlsplit(url).path).rpartition("/")[2]


def local_path(url: str) -> Path:
    """Return the path that a file:// URL names."""
    from urllib.request import url2pathname

    parts = urlsplit(url)
    host = f"//{parts.netloc}" if parts.netloc not in ("", "localhost") else ""
    return Path(url2pathname(host + parts.path))


def _read_file_url(url: str) -> Answer | None:
    path = local_path(url)
    base = url
    if path.is_dir():
        path, base = path / "index.html", url.rstrip("/") + "/index.html"
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise OutsideError(
            f"cannot read '{path}': {error.strerror}", code="file-not-readable", hint="check its permissions"
        ) from error
    kind = "application/json" if path.suffix == ".json" else "text/html"
    return Answer(url=base, content=content, kind=kind)


def _read_disk_chunks(url: str) -> Iterator[bytes]:
    path = local_path(url)
    try:
        stream = path.open("rb")
    except OSError as error:
        raise _missing_error(url) from error
    with stream:
        while chunk := stream.read(CHUNK):
            yield chunk
