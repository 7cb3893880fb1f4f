"""Answers of web servers: recorded while a client reads them, and given again without any connection.

urllib and urllib3, hence requests, botocore, kagglehub and pip, send their requests by http.client; httpx does not.
Requests to this machine are left alone: a server that a notebook starts must answer anew.
"""

import contextlib
import functools
import io
import os
import re
import socket
import sys
import tempfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

from . import kit_recording

_MAX_REQUEST = 16 << 20
# Answers about an account; Kaggle's session service tells secrets (kaggle_web_client.py in github.com/Kaggle/docker-python).
_PRIVATE = re.compile(
    r"https?://([^/]*kaggle[^/]*/(requests/|v1/security\.)|[^/]+/(api/whoami|oauth)|api\.wandb\.ai/)"
)
_TEXT = re.compile(r"text/|application/([\w.+-]*json|xml|javascript)")
_UNSAVED_HEADERS = {"set-cookie", "transfer-encoding", "connection", "keep-alive"}
_ARCHIVE = re.compile(r"\.(whl|zip|tar|tgz|gz|bz2|xz|txt)$")
_followed: set[str] = set()  # the URLs that redirects in a process of pip lead to


class _HttpRequest:
    """A request as http.client has sent it."""

    def __init__(self, connection: Any, sent: bytes) -> None:
        head, _, body = sent.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        self.method, self.url, _ = first.split(" ", 2)
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        if self.url.startswith("/"):  # not the whole URL, which a proxy gets
            scheme = "https" if connection.default_port == 443 else "http"
            self.url = f"{scheme}://{headers.get('host', connection.host)}{self.url}"
        # A part of a file is another answer than the file.
        self.key = kit_recording.request_key(self.method, self.url, headers.get("range", "").encode() + body)
        self.is_of_pip = type(connection).__module__.startswith("pip.")


def note_sent(connection: Any, data: Any) -> None:
    """Remember what a connection sends until its answer comes; for the audit event http.client.send."""
    if not isinstance(data, (bytes, bytearray, memoryview)) or bytes(data[:8]) == b"CONNECT ":
        return
    if re.match(rb"[A-Z]+ \S+ HTTP/1\.[01]\r\n", data):
        connection.offline_kit_sent = bytearray()
    if len(connection.offline_kit_sent) <= _MAX_REQUEST:
        connection.offline_kit_sent += data


def record_http(module: Any) -> None:
    """Record the answers that clients of http.client read."""
    getresponse = module.HTTPConnection.getresponse

    @functools.wraps(getresponse)
    def get_recorded(self: Any, *args: Any, **kwargs: Any) -> Any:
        response = getresponse(self, *args, **kwargs)
        sent = self.__dict__.pop("offline_kit_sent", b"")
        if not 0 < len(sent) <= _MAX_REQUEST or kit_recording.RECORDER not in os.environ:
            return response
        request = _HttpRequest(self, bytes(sent))
        if not _is_to_record(request, response):
            return response
        # The true body is read through a copy of the response.
        inner = module.HTTPResponse.__new__(module.HTTPResponse)
        inner.__dict__.update(response.__dict__)
        if response.chunked:
            # urllib3 would decode it once more, from the socket's file.
            response.chunked = False
            del response.headers["Transfer-Encoding"], response.headers["Content-Length"]
        body = _RecordedBody(inner, request.key)
        response.fp = io.BufferedReader(body, 1 << 18)  # large downloads come in large pieces
        if response.length == 0:  # nobody need read it
            body.record()
        return response

    module.HTTPConnection.getresponse = get_recorded


def _is_to_record(request: _HttpRequest, response: Any) -> bool:
    kind = response.headers.get("Content-Type", "")
    is_ours = request.method in ("GET", "HEAD", "POST") and not kit_recording.is_loopback(
        urlsplit(request.url).netloc
    )
    if not is_ours or _PRIVATE.match(request.url) or "event-stream" in kind or response.status < 200:
        return False
    if not request.is_of_pip:
        return True
    # Packages are recorded as wheels. What a line names by URL is needed as it is; a page of links is not: pip would
    # prefer its files to the recorded wheels.
    url = request.url.partition("#")[0]
    if "html" in kind or not (url in _followed or url in _read_command_line()):
        return False
    _followed.add(urljoin(url, response.headers.get("Location", "")).partition("#")[0])
    return True


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


class _RecordedBody(io.RawIOBase):
    """The body of a response, recorded when it has been read to its end."""

    def __init__(self, response: Any, key: str) -> None:
        self.response, self.key = response, key
        self.content: Any = tempfile.NamedTemporaryFile(dir=os.environ[kit_recording.RECORDER])  # noqa: SIM115
        """What was read so far; None once it is recorded."""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        # `read1` of a chunked response returns what has arrived; of any other, Python < 3.13 miscounts there.
        response = self.response
        chunk = response.read1(len(buffer)) if response.chunked else response.read(len(buffer))
        buffer[: len(chunk)] = chunk
        if self.content:
            self.content.write(chunk)
        if response.isclosed() and not response.length:
            self.record()
        return len(chunk)

    def record(self) -> None:
        """Record the answer."""
        if self.content is None:
            return
        self.content.flush()
        unsaved = _UNSAVED_HEADERS | ({"content-length"} if self.response.chunked else set())
        body: Path | bytes = Path(self.content.name)
        if safe := self._hide_secrets():
            body, unsaved = safe, unsaved | {"content-length", "content-encoding"}
        headers = [pair for pair in self.response.getheaders() if pair[0].lower() not in unsaved]
        kit_recording.log_event(
            "url",
            key=self.key,
            status=self.response.status,
            reason=self.response.reason,
            headers=[[name, kit_recording.redact(value)] for name, value in headers],
            **kit_recording.add_object(body, is_final=True),
        )
        self._forget()

    def _hide_secrets(self) -> bytes:
        """Return a text that is not large without its secrets; nothing if it has none."""
        kind, encoding = (self.response.headers.get(f"Content-{name}", "") for name in ("Type", "Encoding"))
        if self.content.tell() >= kit_recording.LARGE or not _TEXT.match(kind):
            return b""
        body = Path(self.content.name).read_bytes()
        with contextlib.suppress(zlib.error):
            body = zlib.decompress(body, 47) if encoding else body  # 47: gzip or zlib
        safe = kit_recording.hide_in_bytes(body)
        return b"" if safe == body else safe

    def _forget(self) -> None:
        if self.content:
            self.content.close()
            self.content = None

    def close(self) -> None:
        # The page of an error, or of a host that is only tried (`urlopen(url).status`), is closed unread.
        with contextlib.suppress(Exception):
            while self.content and self.content.tell() < kit_recording.LARGE and self.read(1 << 16):
                pass
        self._forget()
        self.response.close()
        super().close()


def replay_http(module: Any) -> None:
    """Answer clients of http.client from the recording."""
    initialize = module.HTTPConnection.__init__

    def connect(self: Any, really: Any) -> None:
        if kit_recording.is_loopback(getattr(self, "_tunnel_host", None) or self.host):
            really()
        else:
            self.sock, self.is_verified = _ReplaySocket(self), True  # urllib3 warns without `is_verified`

    @functools.wraps(initialize)
    def initialize_replaying(self: Any, *args: Any, **kwargs: Any) -> None:
        initialize(self, *args, **kwargs)
        # In the object, not its class: urllib3's classes have a `connect` of their own.
        self.connect = functools.partial(connect, self, self.connect)

    module.HTTPConnection.__init__ = initialize_replaying


@functools.cache
def _load_answers() -> tuple[dict[str, list[Mapping[str, Any]]], kit_recording.RecordedObjects]:
    document, objects = kit_recording.open_replay()
    answers: dict[str, list[Mapping[str, Any]]] = {}
    for answer in document["urls"]:
        answers.setdefault(kit_recording.remove_masks(answer["key"]), []).append(answer)
    return answers, objects


class _ReplaySocket:
    """Stands in for the socket of a connection: takes a request, and answers it from the recording."""

    def __init__(self, connection: Any) -> None:
        self.connection, self.sent, self.expected = connection, bytearray(), 0

    def sendall(self, data: Any) -> None:
        self.sent += data
        if not self.expected:
            head = self.sent.partition(b"\r\n\r\n")[0]
            length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
            self.expected = len(head) + 4 + int(length[1] if length else 0)
        if len(self.sent) == self.expected:
            # A client expects that a host cannot be reached now, and not when it reads the answer.
            self._find_answers()

    def _find_answers(self) -> tuple[str, list[Mapping[str, Any]]]:
        request = _HttpRequest(self.connection, bytes(self.sent))
        key = kit_recording.remove_masks(request.key)
        answers = _load_answers()[0].get(key, [])
        if not answers and request.is_of_pip:
            # pip asks for pages of links that it does not need, and again and again if a host cannot be reached.
            if _ARCHIVE.search(urlsplit(request.url).path):
                kit_recording.report_miss("url", request.key)
            return key, [{"status": 404, "reason": "Not in the recording", "headers": []}]
        if not answers:
            kit_recording.report_miss("url", request.key)
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return key, answers

    def makefile(self, *_args: Any, **_kwargs: Any) -> io.BufferedReader:
        key, answers = self._find_answers()
        answer = kit_recording.take_turn(f"url {key}", answers)
        lines = [f"HTTP/1.1 {answer['status']} {answer['reason']}"]
        lines += [f"{name}: {value}" for name, value in answer["headers"]] + ["Connection: close", "", ""]
        body = _load_answers()[1].find_object(answer["sha256"]) if "sha256" in answer else os.devnull
        return io.BufferedReader(_ReplayedBytes("\r\n".join(lines).encode("latin-1"), Path(body)))

    def __getattr__(self, name: str) -> Any:
        return lambda *_args, **_kwargs: None  # settimeout, setsockopt, shutdown, close


class _ReplayedBytes(io.RawIOBase):
    """The head of a response and then its body, as a socket's file has them."""

    def __init__(self, head: bytes, body: Path) -> None:
        self.streams = [io.BytesIO(head), body.open("rb")]

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while self.streams:
            if count := self.streams[0].readinto(buffer):
                return count
            self.streams.pop(0).close()
        return 0
