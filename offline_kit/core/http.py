"""The only module that uses the network, but for Kaggle's client: answers and files over http(s) and file://.

Temporary trouble is retried, and downloads are resumed and hashed. Passwords in URLs are used, and never shown.
"""

import hashlib
import io
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import unquote, urlsplit

from offline_kit.core.errors import OutsideError, ProjectError, UsageError
from offline_kit.core.files import CHUNK, translate_disk_errors
from offline_kit.core.redaction import redact_urls
from offline_kit.core.report import Advance
from offline_kit.core.retry import PATIENT as PATIENT
from offline_kit.core.retry import RetryPolicy as RetryPolicy
from offline_kit.core.retry import TransientError, retry_call

if TYPE_CHECKING:
    import requests

# 425 is Too Early (https://www.rfc-editor.org/rfc/rfc8470), 429 Too Many Requests.
TEMPORARY_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})
GONE_STATUSES = frozenset({404, 410})
_TAIL = 65_536
_SPAN = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")
_T = TypeVar("_T")
_thread_local = threading.local()


@dataclass(frozen=True, kw_only=True)
class ConnectionSettings:
    """How to reach a server."""

    cert: str = ""
    client_cert: str = ""
    trusted_hosts: tuple[str, ...] = ()  # hosts ("name" or "name:port") whose certificates are not verified
    proxy: str = field(default="", repr=False)  # for http and https; empty for the environment's *_PROXY
    timeout: float = 15.0  # seconds without data after which a connection counts as dead


@dataclass(frozen=True, kw_only=True)
class HttpResponse:
    """The answer of a URL."""

    url: str  # the address after redirects; links in the content are relative to it
    content: bytes
    kind: str  # content type without parameters, lower case
    charset: str | None = None


def fetch_answer(
    url: str,
    *,
    settings: ConnectionSettings,
    headers: Mapping[str, str] | None = None,
    absent: frozenset[int] = GONE_STATUSES,
    sha256: str = "",
    patience: RetryPolicy = PATIENT,
) -> HttpResponse | None:
    """Return the answer of a URL; None if there is nothing (`absent` statuses).

    A file:// folder answers with its index.html. Raises OutsideError if the server cannot be reached or refuses,
    ProjectError if `sha256` is known and the content has another one.
    """

    def request_once() -> HttpResponse | None:
        with open_response(url, settings, headers or {}) as response:
            if response.status_code in absent:
                return None
            _raise_for_status(url, response)
            kind, _, parameters = response.headers.get("content-type", "text/html").partition(";")
            charset = re.search(r"charset=\"?([\w-]+)", parameters)
            return HttpResponse(
                url=response.url,
                content=response.content,
                kind=kind.strip().lower(),
                charset=charset[1] if charset else None,
            )

    answer = _read_file_url(url) if url.startswith("file:") else _retry(request_once, url, patience)
    if answer and sha256 and (actual := hashlib.sha256(answer.content).hexdigest()) != sha256:
        raise _mismatch_error(url, sha256, actual)
    return answer


def _read_file_url(url: str) -> HttpResponse | None:
    path = local_path(url)
    if path.is_dir():
        path, url = path / "index.html", url.rstrip("/") + "/index.html"
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise OutsideError(
            f"cannot read '{path}': {error.strerror}", code="file-not-readable", hint="check its permissions"
        ) from error
    return HttpResponse(
        url=url, content=content, kind="application/json" if path.suffix == ".json" else "text/html"
    )


def download_file(
    url: str,
    into: Path,
    *,
    settings: ConnectionSettings,
    sha256: str = "",
    size: int = 0,
    advance: Advance | None = None,
    patience: RetryPolicy = PATIENT,
) -> str:
    """Stream a URL into the file `into`, and return the sha256 of its content.

    An existing file counts as the first part of the download and is continued if the server can do that, and if
    `sha256` is known, which would show a mix-up. When the download breaks, the file stays for the next call. `size`
    (bytes) and `sha256` are checked if they are known; on a mismatch the file is deleted and ProjectError is raised.
    OutsideError if the retries end without success.
    """
    with translate_disk_errors(into.parent):
        into.parent.mkdir(parents=True, exist_ok=True)
        if not sha256:
            into.unlink(missing_ok=True)
        part = _PartialFile(into, advance or (lambda _amount: None))
        resumed = part.held > 0
        _complete_part(url, part, settings, size, patience)
        if resumed and not part.is_whole(sha256, size):
            # An earlier run may have left a part of another file: download it once more from the start.
            part.clear()
            _complete_part(url, part, settings, size, patience)
        if not part.is_whole(sha256, size):
            into.unlink(missing_ok=True)
            if part.is_whole(sha256, 0):
                raise _mismatch_error(url, f"{size} bytes", f"{part.held} bytes")
            raise _mismatch_error(url, sha256, part.digest.hexdigest())
    return part.digest.hexdigest()


class RemoteFile(io.RawIOBase):
    """A file on a server of which only what is read is fetched; wrap it in an `io.BufferedReader`.

    Raises io.UnsupportedOperation if the server sends whole files only, otherwise as `fetch_answer`.
    """

    def __init__(self, url: str, *, settings: ConnectionSettings, patience: RetryPolicy = PATIENT) -> None:
        super().__init__()
        self._url, self._settings, self._patience = url, settings, patience
        self._position = self._size = 0
        self._tail = self._fetch(f"-{_TAIL}")  # where a zip file has its table of contents

    def _fetch(self, span: str) -> bytes:
        def request_once() -> bytes:
            headers = {"Accept-Encoding": "identity", "Range": f"bytes={span}"}
            with open_response(self._url, self._settings, headers) as response:
                if response.status_code in GONE_STATUSES:
                    raise _missing_error(self._url)
                if response.status_code != 416:  # of a server that knows no range from the end
                    _raise_for_status(self._url, response)
                sent = _SPAN.match(response.headers.get("content-range", ""))
                if response.status_code != 206 or sent is None or sent[2] == "*":
                    raise io.UnsupportedOperation("the server sends no ranges")
                self._size = int(sent[2])
                return response.content

        return _retry(request_once, self._url, self._patience)

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Set the position of the next read."""
        self._position = (
            offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        )
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Read at the position."""
        end = min(self._position + len(buffer), self._size)
        in_tail = self._position - (self._size - len(self._tail))
        if self._position >= end:
            data = b""
        elif in_tail >= 0:
            data = self._tail[in_tail : in_tail + len(buffer)]
        else:
            data = self._fetch(f"{self._position}-{end - 1}")[: len(buffer)]
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


class _PartialFile:
    """A file that grows, with the running hash of its content."""

    def __init__(self, path: Path, advance: Advance) -> None:
        self.path, self.advance = path, advance
        self.digest, self.held = hashlib.sha256(), 0
        if path.is_file():
            with path.open("rb") as stream:
                while chunk := stream.read(CHUNK):
                    self._count(chunk)

    def _count(self, chunk: bytes) -> None:
        self.digest.update(chunk)
        self.held += len(chunk)
        self.advance(len(chunk))

    def append(self, chunks: Iterable[bytes]) -> None:
        with self.path.open("ab") as stream:
            for chunk in chunks:
                stream.write(chunk)
                self._count(chunk)

    def clear(self) -> None:
        self.advance(-self.held)
        self.digest, self.held = hashlib.sha256(), 0
        self.path.unlink(missing_ok=True)

    def is_whole(self, sha256: str, size: int) -> bool:
        return (not sha256 or self.digest.hexdigest() == sha256) and (not size or self.held == size)


def _complete_part(
    url: str, part: _PartialFile, settings: ConnectionSettings, size: int, patience: RetryPolicy
) -> None:
    """Download what is missing, with retries: progress counts, however often the connection breaks."""
    if size and part.held > size:
        part.clear()
    if size and part.held == size:
        return
    if url.startswith("file:"):
        part.clear()
        try:
            stream = local_path(url).open("rb")
        except OSError as error:
            raise _missing_error(url) from error
        with stream:
            part.append(iter(partial(stream.read, CHUNK), b""))
        return
    _retry(lambda: _continue_part(url, part, settings), url, patience, lambda: part.held)


def _continue_part(url: str, part: _PartialFile, settings: ConnectionSettings) -> None:
    """Send one request for what is missing (https://www.rfc-editor.org/rfc/rfc9110#name-range-requests)."""
    # Compressed on the way, sizes and ranges would not be those of the file.
    headers = {"Accept-Encoding": "identity"}
    if part.held:
        headers["Range"] = f"bytes={part.held}-"
    with open_response(url, settings, headers) as response:
        content_range = response.headers.get("content-range", "")
        if response.status_code == 416:
            # There is nothing behind what is held: the part is whole, or it is longer than the file.
            if content_range.rpartition("/")[2] == str(part.held):
                return
            part.clear()
            raise TransientError("the server has less than was held")
        if response.status_code in GONE_STATUSES:
            raise _missing_error(url)
        _raise_for_status(url, response)
        span = _SPAN.match(content_range)
        if part.held and not (response.status_code == 206 and span and int(span[1]) == part.held):
            part.clear()
            if response.status_code == 206:
                raise TransientError("the server sent another range than was asked for")
        # `raw`, because requests would decode a .tar.gz that a server labels as gzip-encoded.
        part.append(response.raw.stream(CHUNK, decode_content=False))
        # A connection that ends early looks like the end of the file.
        length = response.headers.get("content-length", "")
        if length.isdigit() and response.raw.tell() < int(length):
            raise TransientError("the connection ended early")


def _retry(
    call: Callable[[], _T], url: str, patience: RetryPolicy, progress: Callable[[], int] = lambda: 0
) -> _T:
    import requests
    import urllib3

    def give_up(trouble: Exception) -> OutsideError:
        return OutsideError(
            f"cannot reach '{_host_of(url)}' for {redact_urls(url)}",
            code="host-unreachable",
            hint="check the network and the index addresses ('python -m pip config list'), then run the same command"
            " again",
            details=[redact_urls(str(trouble))],
        )

    temporary = (requests.RequestException, urllib3.exceptions.HTTPError)
    return retry_call(
        call,
        patience,
        give_up=give_up,
        may_pass=lambda error: isinstance(error, temporary),
        progress=progress,
    )


@contextmanager
def open_response(
    url: str,
    settings: ConnectionSettings,
    headers: Mapping[str, str],
    *,
    method: str = "GET",
    body: Iterable[bytes] | bytes | None = None,
    redirects: bool = True,
    login: bool = True,
) -> "Iterator[requests.Response]":
    """Send one request, and yield the answer, whatever its status, before its body is read.

    `login` allows credentials of ~/.netrc. Raises OutsideError for a certificate that cannot be verified, UsageError for an address that cannot be fetched, and
    requests.RequestException for temporary trouble.
    """
    import requests

    # A session keeps connections open between requests, and is not safe for several threads.
    session: requests.Session | None = getattr(_thread_local, "session", None)
    if session is None:
        session = _thread_local.session = requests.Session()
        session.headers["User-Agent"] = "offline-kit"
    parts = urlsplit(url)
    trusted = {parts.hostname, parts.netloc.rpartition("@")[2]} & set(settings.trusted_hosts)
    try:
        response = session.request(
            method,
            url,
            headers=dict(headers),
            data=body,
            # Only without any `auth` requests takes the one of ~/.netrc:
            # https://requests.readthedocs.io/en/latest/user/authentication/#netrc-authentication
            auth=None if login else lambda request: request,
            stream=True,
            allow_redirects=redirects,
            timeout=settings.timeout,
            verify=False if trusted else settings.cert or True,
            cert=settings.client_cert or None,
            proxies={"http": settings.proxy, "https": settings.proxy} if settings.proxy else None,
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


def _raise_for_status(url: str, response: "requests.Response") -> None:
    status, host = f"{response.status_code} {response.reason}", _host_of(url)
    if response.status_code in TEMPORARY_STATUSES:
        from urllib3 import Retry
        from urllib3.exceptions import InvalidHeader

        wait = None
        with suppress(InvalidHeader):
            wait = Retry().get_retry_after(response.raw)
        raise TransientError(f"it answers {status}", wait)
    if response.status_code in (401, 403):
        raise OutsideError(
            f"'{host}' refuses {redact_urls(url)} ({status})",
            code="url-access-denied",
            hint="put user and password into the index URL of pip's configuration or into ~/.netrc",
        )
    if response.status_code >= 400:
        raise OutsideError(
            f"'{host}' answers {status} to {redact_urls(url)}",
            code="http-error",
            hint="open the address in a browser; if it should be there, try again later",
        )


def _missing_error(url: str) -> OutsideError:
    return OutsideError(
        f"there is nothing at {redact_urls(url)}",
        code="url-not-found",
        hint="it was listed a moment ago, or is an address of yours: check it, or build again with --upgrade",
    )


def _mismatch_error(url: str, expected: str, actual: str) -> ProjectError:
    return ProjectError(
        f"'{url_file_name(url)}' does not have the expected content",
        code="hash-mismatch",
        hint="do not install it: report it to the owner of the index, or use another index or version",
        details=[f"expected {expected}", f"got      {actual}", f"from {redact_urls(url)}"],
    )


def _host_of(url: str) -> str:
    return urlsplit(url).netloc.rpartition("@")[2]


def url_file_name(url: str) -> str:
    """Return the file name that a URL ends in."""
    return unquote(urlsplit(url).path).rpartition("/")[2]


def local_path(url: str) -> Path:
    """Return the path that a file:// URL names."""
    from urllib.request import url2pathname

    parts = urlsplit(url)
    host = f"//{parts.netloc}" if parts.netloc not in ("", "localhost") else ""
    return Path(url2pathname(host + parts.path))
