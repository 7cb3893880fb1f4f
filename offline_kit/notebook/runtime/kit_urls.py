"""Answers of web servers: recorded while a client reads them, and given again without any connection.

urllib, urllib3 (hence requests, botocore, pip's own copy) and kagglehub send their requests by http.client; httpx does
not. Requests to this machine itself are left alone in both modes: a server that a notebook starts must answer anew.
"""

import contextlib
import functools
import io
import re
import socket
import sys
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

from .kit_auditing import is_loopback
from .kit_recording import (
    ObjectWriter,
    RecordedObjects,
    count_turn,
    hide_secrets,
    log_event,
    open_replay,
    redact,
    report_miss,
    request_key,
)

_METHODS = ("GET", "HEAD", "POST")
_MAX_REQUEST = 16 << 20
# Answers about an account; Kaggle's session service tells secrets (kaggle_web_client.py in github.com/Kaggle/docker-python).
_PRIVATE = re.compile(r"https?://([^/]*kaggle[^/]*/requests/|[^/]+/(api/whoami|oauth)|api\.wandb\.ai/)")
_UNSAVED_HEADERS = ("set-cookie", "transfer-encoding", "connection", "keep-alive")
_ARCHIVE = re.compile(r"\.(whl|zip|tar|tgz|gz|bz2|xz|txt)$")


class _Exchange:
    """A request, and its answer as far as the client has read it."""

    followed: set[str] = set()  # noqa: RUF012 - the URLs that redirects in pip's processes lead to

    def __init__(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes, client: str = ""
    ) -> None:
        self.method, self.url, self.in_pip = method, url, client.startswith("pip.")
        # A part of a file is another answer than the file.
        self.key = request_key(method, url, headers.get("range", "").encode() + body)
        self.writer: ObjectWriter | None = None
        self.head: dict[str, Any] = {}

    @property
    def is_recordable(self) -> bool:
        """Whether requests like this one are recorded and replayed at all."""
        return (
            self.method in _METHODS
            and not _PRIVATE.match(self.url)
            and not is_loopback(urlsplit(self.url).netloc)
        )

    def begin(self, status: int, reason: str, headers: list[tuple[str, str]]) -> bool:
        """Note an answer's head; return whether its body is to be passed to `write`."""
        kinds = {name.lower(): value for name, value in headers}
        kind = kinds.get("content-type", "")
        if not self.is_recordable or "event-stream" in kind or status < 200:
            return False
        if self.in_pip:
            # Packages are recorded as wheels. What a line names by URL is needed as it is; a page of links is not: pip
            # would prefer its files to the recorded wheels.
            url = self.url.partition("#")[0]
            if "html" in kind or not (url in self.followed or url in _read_command_line()):
                return False
            if "location" in kinds:
                self.followed.add(urljoin(url, kinds["location"]).partition("#")[0])
        unsaved = (*_UNSAVED_HEADERS, "content-length" if "transfer-encoding" in kinds else "")
        saved = [[name, redact(value)] for name, value in headers if name.lower() not in unsaved]
        self.head = {"key": self.key, "status": status, "reason": reason, "headers": saved}
        self.is_text = bool(re.match(r"text/|application/([\w.+-]*json|xml|javascript)", kind))
        self.is_compressed = "content-encoding" in kinds
        self.writer = ObjectWriter()
        return True

    def write(self, chunk: bytes) -> None:
        """Note a part of the answer's body."""
        if self.writer:
            self.writer.write(chunk)

    def finish(self) -> None:
        """Record the answer, which was read to its end."""
        if self.writer:
            if self.is_text and self.writer.size < 1 << 20:
                self._hide_secrets(self.writer)
            digest, size = self.writer.close()
            log_event("url", **self.head, sha256=digest, size=size)
        self.writer = None

    def _hide_secrets(self, writer: ObjectWriter) -> None:
        body = writer.read()
        with contextlib.suppress(zlib.error):
            body = zlib.decompress(body, 47) if self.is_compressed else body  # 47: gzip or zlib
        safe = hide_secrets(body.decode("latin-1")).encode("latin-1")
        if safe != body:
            writer.rewrite(safe)
            dropped = ("content-length", "content-encoding")
            self.head["headers"] = [pair for pair in self.head["headers"] if pair[0].lower() not in dropped]

    def discard(self) -> None:
        """Forget an answer that was not read to its end."""
        if self.writer:
            self.writer.discard()
        self.writer = None

    def is_recorded(self) -> bool:
        """Whether the replay has an answer."""
        return _plain(self.key) in _load_answers()[0]

    def find_answer(self) -> tuple[Mapping[str, Any], Path]:
        """Return the recorded answer and its body; the last one again if there are no more."""
        answers, objects = _load_answers()
        recorded = answers[_plain(self.key)]
        answer = recorded[min(count_turn(f"url {self.key}"), len(recorded) - 1)]
        return answer, objects.find_object(answer["sha256"])

    def refuse(self) -> None:
        """Fail as without a network: libraries have their own ways out of that."""
        if not self.in_pip:
            report_miss("url", self.key)
            raise socket.gaierror(
                socket.EAI_AGAIN, "Temporary failure in name resolution (not in the recording)"
            )
        if _ARCHIVE.search(urlsplit(self.url).path):
            report_miss("url", self.key)


def _plain(key: str) -> str:
    # A secret is "***" in the recording, and empty in a replay.
    return key.replace("***", "")


@functools.cache
def _load_answers() -> tuple[dict[str, list[Mapping[str, Any]]], RecordedObjects]:
    document, objects = open_replay()
    answers: dict[str, list[Mapping[str, Any]]] = {}
    for answer in document["urls"]:
        answers.setdefault(_plain(answer["key"]), []).append(answer)
    return answers, objects


@functools.cache
def _read_command_line() -> str:
    """Return the words of this process's command, and the text of the requirements files among them."""
    words = list(sys.orig_argv)
    for word in sys.orig_argv[1:]:
        with contextlib.suppress(OSError, ValueError):
            path = Path(word.removeprefix("-r"))
            if path.is_file() and path.stat().st_size < 1 << 20:
                words.append(path.read_text(encoding="utf-8"))
    return "\n".join(words)


def _parse_request(connection: Any, sent: bytes) -> _Exchange:
    head, _, body = sent.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    method, target, _ = first.split(" ", 2)
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if target.startswith(
        "/"
    ):  # else to a proxy, with the whole URL; in a tunnel through one it is a path again
        scheme = "https" if connection.default_port == 443 else "http"
        target = f"{scheme}://{headers.get('host', connection.host)}{target}"
    return _Exchange(method, target, headers, body, type(connection).__module__)


def note_sent(connection: Any, data: Any) -> None:
    """Remember what a connection sends until its response comes; for the audit event http.client.send."""
    if not isinstance(data, (bytes, bytearray, memoryview)) or bytes(data[:8]) == b"CONNECT ":
        return
    if re.match(rb"[A-Z]+ \S+ HTTP/1\.[01]\r\n", data):
        connection.offline_kit_sent = bytearray()
    if len(connection.offline_kit_sent) <= _MAX_REQUEST:
        connection.offline_kit_sent += data


class _RecordedBody(io.RawIOBase):
    """The body of a response, which is recorded while it is read."""

    def __init__(self, response: Any, exchange: _Exchange) -> None:
        self.response, self.exchange = response, exchange

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        # `read1` of a chunked response returns what has arrived; of any other, Python < 3.13 miscounts there.
        response = self.response
        chunk = response.read1(len(buffer)) if response.chunked else response.read(len(buffer))
        buffer[: len(chunk)] = chunk
        self.exchange.write(chunk)
        if response.isclosed() and not response.length:
            self.exchange.finish()
        return len(chunk)

    def close(self) -> None:
        self.exchange.discard()
        self.response.close()
        super().close()


def record_http(module: Any) -> None:
    """Record the responses of http.client."""
    getresponse = module.HTTPConnection.getresponse

    @functools.wraps(getresponse)
    def get_recorded(self: Any, *args: Any, **kwargs: Any) -> Any:
        response = getresponse(self, *args, **kwargs)
        sent = self.__dict__.pop("offline_kit_sent", b"")
        if not sent or len(sent) > _MAX_REQUEST:
            return response
        exchange = _parse_request(self, bytes(sent))
        if not exchange.begin(response.status, response.reason, response.getheaders()):
            return response
        if response.length == 0:
            exchange.finish()
            return response
        # The true body is read through a copy. The client is to see no transfer encoding, because urllib3 decodes
        # that by itself, from the socket's file.
        inner = module.HTTPResponse.__new__(module.HTTPResponse)
        inner.__dict__.update(response.__dict__)
        response.fp = io.BufferedReader(_RecordedBody(inner, exchange))
        if response.chunked:
            response.chunked = False
            del response.headers["Transfer-Encoding"], response.headers["Content-Length"]
        return response

    module.HTTPConnection.getresponse = get_recorded


class _ReplayedBytes(io.RawIOBase):
    """The head of a response and then its body, as a socket's file has them."""

    def __init__(self, head: bytes, body: Path | None = None) -> None:
        self.streams = [io.BytesIO(head), *([body.open("rb")] if body else [])]

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while self.streams:
            if count := self.streams[0].readinto(buffer):
                return count
            self.streams.pop(0).close()
        return 0


class _ReplaySocket:
    """Stands in for the socket of a connection: takes a request, and answers it from the recording."""

    def __init__(self, connection: Any) -> None:
        self.connection, self.sent = connection, bytearray()

    def sendall(self, data: Any) -> None:
        self.sent += data
        head, end, body = self.sent.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
        if end and len(body) == int(length[1] if length else 0):
            # Here, and not when the answer is read, a client expects that a host cannot be reached.
            exchange = _parse_request(self.connection, bytes(self.sent))
            if not exchange.is_recorded():
                exchange.refuse()

    def makefile(self, *_args: Any, **_kwargs: Any) -> io.BufferedReader:
        exchange = _parse_request(self.connection, bytes(self.sent))
        if (
            not exchange.is_recorded()
        ):  # pip, which would ask again and again if its host could not be reached
            return io.BufferedReader(
                _ReplayedBytes(b"HTTP/1.1 404 Not in the recording\r\nContent-Length: 0\r\n\r\n")
            )
        answer, body = exchange.find_answer()
        lines = [f"HTTP/1.1 {answer['status']} {answer['reason']}"]
        lines += [f"{name}: {value}" for name, value in answer["headers"]] + ["Connection: close", "", ""]
        return io.BufferedReader(_ReplayedBytes("\r\n".join(lines).encode("latin-1"), body))

    def __getattr__(self, name: str) -> Any:
        return lambda *_args, **_kwargs: None  # settimeout, setsockopt, shutdown, close


def replay_http(module: Any) -> None:
    """Answer the requests of http.client from the recording."""
    initialize = module.HTTPConnection.__init__

    def connect(self: Any, really: Any) -> None:
        if is_loopback(getattr(self, "_tunnel_host", None) or self.host):
            really()
        else:
            self.sock, self.is_verified = _ReplaySocket(self), True  # urllib3 warns without `is_verified`

    @functools.wraps(initialize)
    def initialize_replaying(self: Any, *args: Any, **kwargs: Any) -> None:
        initialize(self, *args, **kwargs)
        # In the object, not its class: urllib3's classes have a `connect` of their own.
        self.connect = functools.partial(connect, self, self.connect)

    module.HTTPConnection.__init__ = initialize_replaying
