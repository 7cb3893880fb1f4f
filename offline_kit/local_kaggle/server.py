"""The HTTP side: a server on loopback that is also the client's proxy, and lets nothing through to elsewhere."""

import json
import re
import socket
import struct
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from offline_kit.core.errors import OutsideError, UsageError
from offline_kit.local_kaggle import wire
from offline_kit.local_kaggle.faults import NONE, Fault
from offline_kit.local_kaggle.service import LocalKaggle
from offline_kit.local_kaggle.wire import HttpAnswer, ServiceRefusal

_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1", "", None})
_MAX_RPC = 128 << 20  # a notebook with its pictures fits
_MAX_LINE = 256
_CHUNK = 1 << 18
_SLOW_CHUNK = 1 << 16
_NO_PAGES = (
    "A local Kaggle has no pages. `offline-kit status --to local` tells what it holds, as Kaggle's own client does;"
    " the rules of a competition are accepted in its competition.toml (entered = true).\n"
)
_PAGES = ("datasets", "models", "code", "competitions", "submissions")  # how the paths of pages begin


@dataclass(frozen=True, kw_only=True)
class TrafficEvent:
    """A point in the life of one request."""

    phase: str
    """"begun", "bytes" (some of an upload's body arrived), "done" (the effect is there, the answer not sent),
    "ended" (answered, or lost) or "refused" (not for this server)."""
    name: str  # "package.Service/Method", "PUT", "GET", or the host that was asked for
    received: int = 0  # bytes of the body so far


class LocalKaggleServer:
    """A running local Kaggle; a context that ends it."""

    def __init__(self, kaggle: LocalKaggle, *, port: int = 0) -> None:
        """Listen on 127.0.0.1; port 0 takes a free one. OutsideError if the port is taken."""
        self.kaggle = kaggle
        kaggle.store.folder.mkdir(parents=True, exist_ok=True)
        self.listeners: list[Callable[[TrafficEvent], None]] = []  # hear of every point of every request
        handler = type("_BoundHandler", (_RequestHandler,), {"server_of": self})
        try:
            self._http = _HttpServer(("127.0.0.1", port), handler)
        except OSError as error:
            raise OutsideError(
                f"cannot listen on port {port}: {error.strerror}",
                code="port-not-available",
                hint="choose another with --port",
            ) from error
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)

    @property
    def url(self) -> str:
        """Where it listens; also the proxy of its clients."""
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    def __enter__(self) -> "LocalKaggleServer":
        self.kaggle.resume_work()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()
        self.kaggle.store.close_writing()

    def wait(self) -> None:
        """Serve until interrupted."""
        while self._thread.is_alive():
            self._thread.join(0.5)


class _HttpServer(ThreadingHTTPServer):
    # A client that still follows a log must not keep the server from ending.
    daemon_threads = True
    request_queue_size = 128  # parallel uploads connect at once

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: whoever was cut off knows it."""


class _LostAnswerError(Exception):
    """The connection is reset without an answer, on purpose."""


class _TruncatedBodyError(OSError):
    """The body ended before its end, or was cut by an injected fault."""


class _RequestHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server_of: LocalKaggleServer
    timeout = 600

    def do_CONNECT(self) -> None:
        """Refuse a tunnel: whatever wanted out, to kaggle.com first of all, ends here."""
        self._refuse_foreign(self.path)

    def do_POST(self) -> None:
        """Answer a remote call, take an upload, or send a file, with the faults that are asked for."""
        target = urllib.parse.urlsplit(self.path)
        # To its proxy a client sends whole addresses; KAGGLE_API_ENVIRONMENT=LOCALHOST makes them http://localhost
        if target.scheme and target.hostname not in _LOOPBACK:
            self._refuse_foreign(str(target.hostname))
            return
        if quick := getattr(socket, "TCP_QUICKACK", None):
            # Confirm the headers at once: to a proxy urllib3 sends the body only after that (40 ms).
            with suppress(OSError):
                self.connection.setsockopt(socket.IPPROTO_TCP, quick, 1)
        self._words = target.path.strip("/").removeprefix("api/").split("/")
        is_rpc = self.command == "POST" and len(self._words) == 3 and "." in self._words[1]
        self._name = "/".join(self._words[1:]) if is_rpc else self.command
        self._received = 0
        self._serve_call()

    do_PUT = do_GET = do_POST  # noqa: N815 - as http.server calls them

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing: listeners hear of it."""

    def _refuse_foreign(self, host: str) -> None:
        self._tell_listeners(TrafficEvent(phase="refused", name=host))
        self.close_connection = True
        self._send_body(
            wire.refusal_answer(ServiceRefusal(403, f"The local Kaggle lets nothing through to {host}"))
        )

    def _serve_call(self) -> None:
        ended = False
        try:
            self._record_event("begun")
            fault = self.server_of.kaggle.faults.match_call(self._name)
            answer = self._answer_call(fault)
            self._record_event("done")
            if fault.lose_answer:
                raise _LostAnswerError
            if answer.file:
                self._send_file(answer.file, fault if self._name == "GET" else NONE)
            else:
                # Before the answer leaves: a client that has it must find its request in the log.
                ended = True
                self._record_event("ended")
                self._send_body(answer)
        except (_LostAnswerError, OSError):  # also a sender or receiver that went away
            # End the connection with a reset, as a lost one ends.
            self.close_connection = True
            with suppress(OSError):
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()
        finally:
            if not ended:
                self._record_event("ended")

    def _answer_call(self, fault: Fault) -> HttpAnswer:
        """Return the answer to a call, injected faults and refusals included."""
        time.sleep(fault.delay)
        body, kaggle = self._read_body(fault.cut if self._name != "GET" else -1), self.server_of.kaggle
        try:
            if fault.forget and self._name == "PUT":
                kaggle.store.delete_record("blobs", self._words[-1])
            if fault.status:
                wait = {} if fault.retry_after is None else {"Retry-After": f"{fault.retry_after:g}"}
                raise ServiceRefusal(fault.status, fault.message, headers=wait)
            injected = fault.answer is not None
            answer = wire.json_answer(fault.answer or {}) if injected else self._route_call(body, fault)
            answer = wire.reword_status(answer, fault.words) if fault.words else answer
        except ServiceRefusal as refusal:
            answer = wire.refusal_answer(refusal, kaggle.store.settings.error_shape)
        except UsageError as error:  # a faults.json that cannot be read
            answer = wire.refusal_answer(ServiceRefusal(500, error.what))
        except _TruncatedBodyError:
            raise
        except Exception as error:  # noqa: BLE001 - a bug of ours is a 500, not a dead connection
            answer = wire.refusal_answer(ServiceRefusal(500, f"The local Kaggle failed: {error!r}"))
        # An answer that overtakes the request is lost: the system resets a connection with unread bytes.
        for _ in body:
            pass
        return answer

    def _route_call(self, body: Iterator[bytes], fault: Fault) -> HttpAnswer:
        kaggle, words, name = self.server_of.kaggle, self._words, self._name
        authorization = self.headers.get("Authorization") or ""
        if "/" in name:
            pieces = bytearray()
            for piece in body:
                pieces += piece
                if len(pieces) > _MAX_RPC:
                    raise ServiceRefusal(413, "Request too large")
            return kaggle.answer_call(name, authorization, bytes(pieces), self.server_of.url, fault)
        if name == "PUT" and words[0] == "upload":
            return kaggle.blobs.put_bytes(words[-1], self.headers.get("Content-Range") or "", body)
        if name == "GET" and words[:4] == ["v1", "kernels", "logs", "stream"] and len(words) == 6:
            query = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(self.path).query))
            raw = json.dumps({**query, "userName": words[4], "kernelSlug": words[5]}).encode()
            return kaggle.answer_call("kernels/logs", authorization, raw, self.server_of.url, fault)
        if name == "GET" and words[0] == "files":
            return HttpAnswer(file=kaggle.store.links.find_file("".join(words[1:2])))
        if name == "GET" and words[0] in _PAGES:
            headers = {"Content-Type": "text/plain; charset=utf-8"}
            return HttpAnswer(body=_NO_PAGES.encode(), headers=headers)
        raise ServiceRefusal(404, "Not found")

    def _read_body(self, cut: int) -> Iterator[bytes]:
        """Yield the request's body as it comes; _TruncatedBodyError after `cut` bytes, or if the sender is gone."""
        if "chunked" not in (self.headers.get("Transfer-Encoding") or "").lower():
            length = self.headers.get("Content-Length") or "0"
            if not length.isdecimal():
                raise ServiceRefusal(400, "Invalid Content-Length")
            yield from self._read_bytes(int(length), cut)
            return
        while size := self._read_chunk_size():
            yield from self._read_bytes(size, cut)
            self.rfile.readline(_MAX_LINE)
        while self.rfile.readline(_MAX_LINE).strip():
            pass  # trailers

    def _read_bytes(self, size: int, cut: int) -> Iterator[bytes]:
        while size:
            most = min(size, _CHUNK)
            piece = self.rfile.read(most if cut < 0 else min(most, cut - self._received))
            if not piece:
                raise _TruncatedBodyError("the sender is gone, or an injected fault says so")
            size -= len(piece)
            self._received += len(piece)
            self._record_event("bytes")
            yield piece

    def _read_chunk_size(self) -> int:
        try:
            return int(self.rfile.readline(_MAX_LINE).partition(b";")[0], 16)
        except ValueError:
            raise _TruncatedBodyError("a chunk has no length") from None

    def _send_body(self, answer: HttpAnswer) -> None:
        self._send_headers(answer.status, {**answer.headers, "Content-Length": str(len(answer.body))})
        self.wfile.write(answer.body)

    def _send_headers(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def _send_file(self, path: Path, fault: Fault) -> None:
        """Send a file, or the rest of it that `Range` asks for."""
        stat = path.stat()
        size, etag = stat.st_size, f'"{stat.st_mtime_ns:x}-{stat.st_size:x}"'
        range_match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        is_unchanged = (self.headers.get("If-Range") or etag) == etag  # else the whole file again, RFC 9110
        start = int(range_match[1]) if range_match and is_unchanged and int(range_match[1]) < size else 0
        headers = {
            "Content-Type": "application/octet-stream",
            "Content-Length": str(size - start),
            "Last-Modified": formatdate(stat.st_mtime, usegmt=True),
            "Accept-Ranges": "bytes",
            "ETag": etag,
        }
        if start:
            headers["Content-Range"] = f"bytes {start}-{size - 1}/{size}"
        self._send_headers(206 if start else 200, headers)
        sent, cut, most = 0, fault.cut, _SLOW_CHUNK if fault.pause else _CHUNK
        with path.open("rb") as stream:
            stream.seek(start)
            while chunk := stream.read(most if cut < 0 else min(most, cut - sent)):
                time.sleep(fault.pause)
                self.wfile.write(chunk)
                sent += len(chunk)
        if 0 <= cut < size - start:
            raise _LostAnswerError

    def _record_event(self, phase: str) -> None:
        self._tell_listeners(TrafficEvent(phase=phase, name=self._name, received=self._received))

    def _tell_listeners(self, event: TrafficEvent) -> None:
        for listener in tuple(self.server_of.listeners):
            listener(event)
