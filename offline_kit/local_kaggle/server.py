"""The HTTP side: a server on loopback that is also the client's proxy, and lets nothing through to elsewhere."""

import re
import socket
import struct
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from email.message import Message
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BufferedIOBase
from pathlib import Path
from typing import Any

from offline_kit.core.errors import OutsideError, UsageError
from offline_kit.local_kaggle import wire
from offline_kit.local_kaggle.faults import NONE, Fault
from offline_kit.local_kaggle.service import LocalKaggle
from offline_kit.local_kaggle.wire import HttpAnswer, RpcCall, ServiceRefusal

_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1", "", None})
_MAX_RPC = 128 << 20  # a notebook with its pictures fits
_MAX_LINE = 256
_CHUNK = 1 << 18
_SLOW_CHUNK = 1 << 16
_SENDING = ("GET", "LOGS")  # where a cut is one of the answer


@dataclass(frozen=True, kw_only=True)
class TrafficEvent:
    """A point in the life of one request."""

    phase: str
    """"begun", "bytes" (some of an upload's body arrived), "done" (the effect is there, the answer not sent),
    "ended" (answered) or "refused" (not for this server)."""
    name: str  # "package.Service/Method", "PUT", "GET", or the host that was asked for
    received: int = 0  # bytes of the body so far
    sent: int = 0  # bytes of the answer
    status: int = 0


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


class _IncomingBody:
    """The body of a request, by length or in chunks; tells how much came."""

    def __init__(self, headers: Message, stream: BufferedIOBase, on_bytes: Callable[[int], None]) -> None:
        length = headers.get("Content-Length") or "0"
        if not length.isdecimal():
            raise ServiceRefusal(400, "Invalid Content-Length")
        self._stream = stream
        self._on_bytes = on_bytes
        self._chunked = "chunked" in (headers.get("Transfer-Encoding") or "").lower()
        self._left = 0 if self._chunked else int(length)
        self._ended = not self._chunked and not self._left
        self.received = 0
        self.cut_after = -1
        """Bytes after which reading raises _TruncatedBodyError; -1 for never."""

    def read(self, size: int, /) -> bytes:
        """Return up to `size` bytes; nothing at the end. Raises _TruncatedBodyError if the sender is gone."""
        if self._chunked and not self._left and not self._ended:
            self._begin_chunk()
        if self._ended:
            return b""
        if self.cut_after >= 0:
            size = min(size, self.cut_after - self.received)
            if size <= 0:
                raise _TruncatedBodyError("cut by an injected fault")
        piece = self._stream.read(min(size, self._left))
        if not piece:
            raise _TruncatedBodyError("the sender is gone")
        self._left -= len(piece)
        self.received += len(piece)
        if not self._left and self._chunked:
            self._stream.readline(_MAX_LINE)
        self._ended = not self._left and not self._chunked
        self._on_bytes(self.received)
        return piece

    def _begin_chunk(self) -> None:
        line = self._stream.readline(_MAX_LINE)
        try:
            self._left = int(line.partition(b";")[0], 16)
        except ValueError:
            raise _TruncatedBodyError("a chunk has no length") from None
        if not self._left:
            while self._stream.readline(_MAX_LINE).strip():
                pass  # trailers
            self._ended = True

    def read_all(self) -> bytes:
        """Return all of it; refuses what is too large for a call."""
        pieces = bytearray()
        while piece := self.read(1 << 16):
            pieces += piece
            if len(pieces) > _MAX_RPC:
                raise ServiceRefusal(413, "Request too large")
        return bytes(pieces)

    def drain_rest(self) -> None:
        """Read on to the end, so that an early answer is not lost in a reset connection."""
        self.cut_after = -1
        while self.read(_CHUNK):
            pass


class _RequestHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server_of: LocalKaggleServer
    timeout = 600

    def do_CONNECT(self) -> None:
        """Refuse a tunnel: whatever wanted out, to kaggle.com first of all, ends here."""
        self._refuse_foreign(self.path)

    def do_POST(self) -> None:
        """Answer a remote call."""
        words = self._path_words()
        is_rpc = len(words) == 3 and words[0] == "v1" and "." in words[1]
        self._serve_call("/".join(words[1:]) if is_rpc else "POST")

    def do_PUT(self) -> None:
        """Take an upload."""
        self._serve_call("PUT")

    def do_GET(self) -> None:
        """Send a file, or a log as it grows."""
        words = self._path_words()
        is_log = len(words) == 6 and words[:4] == ["v1", "kernels", "logs", "stream"]
        self._serve_call("LOGS" if is_log else "GET")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing: listeners hear of it."""

    def _path_words(self) -> list[str]:
        """Return the words of the path, which stands alone or (to a proxy) behind a host; without a leading "api"."""
        words = urllib.parse.urlsplit(self.path).path.strip("/").split("/")
        return words[1:] if words[0] == "api" and words[1:] else words

    def _refuse_foreign(self, host: str) -> None:
        self._record_event("refused", host)
        self.close_connection = True
        self._send_answer(
            wire.refusal_answer(ServiceRefusal(403, f"The local Kaggle lets nothing through to {host}"))
        )

    def _serve_call(self, name: str) -> None:
        """Answer a call ("package.Service/Method", "PUT", "GET" ...), with the faults that are asked for."""
        target = urllib.parse.urlsplit(self.path)
        # To its proxy a client sends whole addresses; KAGGLE_API_ENVIRONMENT=LOCALHOST makes them http://localhost
        if target.scheme and target.hostname not in _LOOPBACK:
            self._refuse_foreign(str(target.hostname))
            return
        status, sent, body, ended = 0, 0, None, False
        if quick := getattr(socket, "TCP_QUICKACK", None):
            # Confirm the headers at once: to a proxy urllib3 sends the body only after that (40 ms).
            with suppress(OSError):
                self.connection.setsockopt(socket.IPPROTO_TCP, quick, 1)
        try:
            body = _IncomingBody(
                self.headers, self.rfile, lambda count: self._record_event("bytes", name, received=count)
            )
            self._record_event("begun", name)
            fault = self.server_of.kaggle.faults.match_call(name)
            answer = self._answer_call(name, body, fault)
            self._record_event("done", name, received=body.received, status=answer.status)
            if fault.lose_answer:
                raise _LostAnswerError
            if not (answer.file or answer.stream):
                # Before the answer leaves: a client that has it must find its request in the log.
                ended = True
                facts = {"received": body.received, "sent": len(answer.body), "status": answer.status}
                self._record_event("ended", name, **facts)
            status, sent = answer.status, self._send_answer(answer, fault if name in _SENDING else NONE)
        except (_LostAnswerError, OSError):  # also a sender or receiver that went away
            # End the connection with a reset, as a lost one ends.
            self.close_connection = True
            with suppress(OSError):
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()
        finally:
            if not ended:
                received = body.received if body else 0
                self._record_event("ended", name, received=received, sent=sent, status=status)

    def _answer_call(self, name: str, body: _IncomingBody, fault: Fault) -> HttpAnswer:
        """Return the answer to a call, injected faults and refusals included."""
        time.sleep(fault.delay)
        body.cut_after = fault.cut if name not in _SENDING else -1
        kaggle = self.server_of.kaggle
        try:
            if fault.forget and name == "PUT":
                kaggle.store.delete_record("blobs", self._path_words()[-1])
            if fault.status:
                wait = {} if fault.retry_after is None else {"Retry-After": f"{fault.retry_after:g}"}
                raise ServiceRefusal(fault.status, fault.message, headers=wait)
            if fault.answer is not None:
                # An answer that overtakes the request is lost: the system resets a connection with unread bytes.
                body.drain_rest()
                return wire.json_answer(fault.answer)
            answer = self._route_call(name, body, fault)
            return wire.reword_status(answer, fault.words) if fault.words else answer
        except ServiceRefusal as refusal:
            body.drain_rest()
            return wire.refusal_answer(refusal, kaggle.settings.error_shape)
        except UsageError as error:  # a faults.json that cannot be read
            return wire.refusal_answer(ServiceRefusal(500, error.what))
        except _TruncatedBodyError:
            raise
        except Exception as error:  # noqa: BLE001 - a bug of ours is a 500, not a dead connection
            return wire.refusal_answer(ServiceRefusal(500, f"The local Kaggle failed: {error!r}"))

    def _route_call(self, name: str, body: _IncomingBody, fault: Fault) -> HttpAnswer:
        kaggle, words, base = self.server_of.kaggle, self._path_words(), self.server_of.url
        authorization = self.headers.get("Authorization") or ""
        if "/" in name:
            return kaggle.answer_call(name, authorization, body.read_all(), base, fault)
        if name == "PUT" and words[0] == "upload":
            return kaggle.blobs.put_bytes(words[-1], self.headers.get("Content-Range") or "", body.read)
        body.drain_rest()
        if name == "LOGS":
            query = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)
            label = query.get("versionLabel", [""])[0]
            log_request = {"userName": words[4], "kernelSlug": words[5], "versionLabel": label}
            user = kaggle.accounts.user_of(authorization)
            return kaggle.kernels.follow_log(RpcCall(user=user, body=log_request, base=base))
        if name == "GET" and words[0] in wire.PAGES:
            return wire.PLACEHOLDER_PAGE
        if name == "GET" and words[0] == "files":
            return HttpAnswer(file=kaggle.links.find_file("".join(words[1:2])))
        raise ServiceRefusal(404, "Not found")

    def _send_answer(self, answer: HttpAnswer, fault: Fault = NONE) -> int:
        """Send an answer; return the bytes of its body."""
        if answer.file:
            return self._send_file(answer.file, fault)
        length = {"Transfer-Encoding": "chunked"} if answer.stream else {"Content-Length": len(answer.body)}
        self._send_headers(answer.status, {**answer.headers, **length})
        if answer.stream:
            return self._send_pieces(answer.stream, fault.cut)
        self.wfile.write(answer.body)
        return len(answer.body)

    def _send_headers(self, status: int, headers: dict[str, Any]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, str(value))
        self.end_headers()

    def _send_pieces(self, pieces: Iterator[bytes], cut: int) -> int:
        """Send pieces in chunks, each at once; return the bytes of all."""
        sent = 0
        for piece in pieces:
            if 0 <= cut < sent + len(piece):
                raise _LostAnswerError
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            sent += len(piece)
        self.wfile.write(b"0\r\n\r\n")
        return sent

    def _send_file(self, path: Path, fault: Fault) -> int:
        """Send a file, or the rest of it that `Range` asks for; return the bytes sent."""
        stat = path.stat()
        size, etag = stat.st_size, f'"{stat.st_mtime_ns:x}-{stat.st_size:x}"'
        range_match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        is_unchanged = (self.headers.get("If-Range") or etag) == etag  # else the whole file again, RFC 9110
        start = int(range_match[1]) if range_match and is_unchanged and int(range_match[1]) < size else 0
        headers: dict[str, Any] = {
            "Content-Type": "application/octet-stream",
            "Content-Length": size - start,
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
        return sent

    def _record_event(self, phase: str, name: str, **facts: int) -> None:
        for listener in tuple(self.server_of.listeners):
            listener(TrafficEvent(phase=phase, name=name, **facts))
