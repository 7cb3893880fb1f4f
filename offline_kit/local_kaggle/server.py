"""The HTTP side: a server on loopback that is also the client's proxy, and lets nothing through to elsewhere."""

import re
import socket
import struct
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from offline_kit.core.errors import OutsideError, UsageError
from offline_kit.local_kaggle import wire
from offline_kit.local_kaggle.faults import NONE, Fault
from offline_kit.local_kaggle.incoming import IncomingBody, RequestTarget, TruncatedBodyError, target_of
from offline_kit.local_kaggle.service import LocalKaggle
from offline_kit.local_kaggle.traffic import TrafficEvent, TrafficLog
from offline_kit.local_kaggle.wire import HttpAnswer, ServiceRefusal

_MAX_RPC = 128 << 20  # a notebook with its pictures fits
_CHUNK = 1 << 18
_SLOW_CHUNK = 1 << 16
_SENDING = ("GET", "LOGS")  # where a cut is one of the answer


class LocalKaggleServer:
    """A running local Kaggle; a context that ends it."""

    def __init__(self, kaggle: LocalKaggle, *, port: int = 0) -> None:
        """Listen on 127.0.0.1; port 0 takes a free one. OutsideError if the port is taken."""
        self.kaggle = kaggle
        kaggle.store.folder.mkdir(parents=True, exist_ok=True)
        self.traffic = TrafficLog(kaggle.store.folder / "traffic.jsonl")
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
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: whoever was cut off knows it."""


class _LostAnswerError(Exception):
    """The connection is reset without an answer, on purpose."""


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
        target = target_of(self.path)
        self._serve_call(target, target.rpc_name() or "POST")

    def do_PUT(self) -> None:
        """Take an upload."""
        self._serve_call(target_of(self.path), "PUT")

    def do_GET(self) -> None:
        """Send a file, or a log as it grows."""
        target = target_of(self.path)
        self._serve_call(target, "LOGS" if target.log_request() else "GET")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing; the traffic is logged without secrets."""

    def _refuse_foreign(self, host: str) -> None:
        self._record_event("refused", host)
        self.close_connection = True
        self._send_answer(
            wire.refusal_answer(ServiceRefusal(403, f"The local Kaggle lets nothing through to {host}"))
        )

    def _serve_call(self, target: RequestTarget, name: str) -> None:
        if target.is_foreign:
            self._refuse_foreign(target.host)
            return
        fault, status, sent, body, ended = NONE, 0, 0, None, False
        self._acknowledge_headers()
        try:
            body = IncomingBody(
                self._request_headers(),
                self.rfile,
                lambda count: self._record_event("bytes", name, received=count),
            )
            self._record_event("begun", name)
            fault = self.server_of.kaggle.faults.match_call(name)
            answer = self._answer_call(target, name, body, fault)
            self._record_event("done", name, received=body.received, status=answer.status)
            if fault.lose_answer:
                raise _LostAnswerError
            if not (answer.file or answer.stream):
                # Before the answer leaves: a client that has it must find its request in the log.
                ended = True
                self._record_event(
                    "ended", name, received=body.received, sent=len(answer.body), status=answer.status
                )
            status, sent = answer.status, self._send_answer(answer, fault if name in _SENDING else NONE)
        except (_LostAnswerError, OSError):  # also a sender or receiver that went away
            self._reset_connection()
        finally:
            if not ended:
                received = body.received if body else 0
                self._record_event("ended", name, received=received, sent=sent, status=status)

    def _acknowledge_headers(self) -> None:
        """Confirm the headers at once, where the system can: to a proxy urllib3 sends the body only after that (40 ms)."""
        quick = getattr(socket, "TCP_QUICKACK", None)
        if quick is not None:
            with suppress(OSError):
                self.connection.setsockopt(socket.IPPROTO_TCP, quick, 1)

    def _answer_call(self, target: RequestTarget, name: str, body: IncomingBody, fault: Fault) -> HttpAnswer:
        """Return the answer to a call, injected faults and refusals included."""
        time.sleep(fault.delay)
        body.cut_after = fault.cut if name not in _SENDING else -1
        shape = self.server_of.kaggle.settings.error_shape
        try:
            if fault.forget:
                self.server_of.kaggle.blobs.expire_session(target.word_after("/upload/"))
            if fault.status:
                body.drain_rest()
                wait = {} if fault.retry_after is None else {"Retry-After": f"{fault.retry_after:g}"}
                raise ServiceRefusal(fault.status, fault.message, headers=wait)
            if fault.answer is not None:
                body.drain_rest()
                return wire.json_answer(fault.answer)
            answer = self._route_call(target, name, body, fault)
            return wire.reword_status(answer, fault.words) if fault.words else answer
        except ServiceRefusal as refusal:
            body.drain_rest()
            return wire.refusal_answer(refusal, shape)
        except UsageError as error:  # a faults.json that cannot be read
            return wire.refusal_answer(ServiceRefusal(500, error.what), "nested")
        except TruncatedBodyError:
            raise
        except Exception as error:  # noqa: BLE001 - a bug of ours is a 500, not a dead connection
            return wire.refusal_answer(ServiceRefusal(500, f"The local Kaggle failed: {error!r}"), "nested")

    def _route_call(self, target: RequestTarget, name: str, body: IncomingBody, fault: Fault) -> HttpAnswer:
        kaggle = self.server_of.kaggle
        if name == "PUT":
            return kaggle.blobs.put_bytes(target.word_after("/upload/"), self._request_headers(), body)
        if name == "GET":
            body.drain_rest()
            if target.path.split("/")[1] in wire.PAGES:
                return wire.placeholder_page()
            return HttpAnswer(file=kaggle.links.find_file(target.word_after("/files/")))
        if name == "LOGS":
            body.drain_rest()
            return kaggle.follow_log(target.log_request(), self._request_headers(), self.server_of.url)
        if target.rpc_name():
            raw = body.read_all(_MAX_RPC)
            return kaggle.answer_call(
                target.rpc_name(), self._request_headers(), raw, self.server_of.url, fault
            )
        raise ServiceRefusal(404, "Not found")

    def _request_headers(self) -> Mapping[str, str]:
        return _TitledHeaders(self.headers.items())

    def _send_answer(self, answer: HttpAnswer, fault: Fault = NONE) -> int:
        """Send an answer; return the bytes of its body."""
        if answer.file:
            return self._send_file(answer.file, fault)
        if answer.stream:
            return self._send_stream(answer, answer.stream, fault.cut)
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body)
        return len(answer.body)

    def _send_stream(self, answer: HttpAnswer, pieces: Iterator[bytes], cut: int) -> int:
        """Send pieces in chunks, each at once; return the bytes of all."""
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        sent = 0
        for piece in pieces:
            if 0 <= cut < sent + len(piece):
                raise _LostAnswerError
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            sent += len(piece)
        self.wfile.write(b"0\r\n\r\n")
        return sent

    def _send_file(self, path: Path, fault: Fault) -> int:
        """Send a file, or the rest of it that `Range` asks for."""
        stat_result = path.stat()
        etag = f'"{stat_result.st_mtime_ns:x}-{stat_result.st_size:x}"'
        start = self._range_start(stat_result.st_size, etag)
        self.send_response(206 if start else 200)
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Length", str(stat_result.st_size - start))
        self.send_header("Last-Modified", formatdate(stat_result.st_mtime, usegmt=True))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", etag)
        if start:
            self.send_header(
                "Content-Range", f"bytes {start}-{stat_result.st_size - 1}/{stat_result.st_size}"
            )
        self.end_headers()
        sent, cut, most = 0, fault.cut, _SLOW_CHUNK if fault.pause else _CHUNK
        with path.open("rb") as stream:
            stream.seek(start)
            while chunk := stream.read(most if cut < 0 else min(most, cut - sent)):
                time.sleep(fault.pause)
                self.wfile.write(chunk)
                sent += len(chunk)
        if 0 <= cut < stat_result.st_size - start:
            raise _LostAnswerError
        return sent

    def _range_start(self, size: int, etag: str) -> int:
        requested = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        is_unchanged = (self.headers.get("If-Range") or etag) == etag
        return int(requested[1]) if requested and is_unchanged and int(requested[1]) < size else 0

    def _reset_connection(self) -> None:
        """End the connection with a reset, as a lost one ends."""
        self.close_connection = True
        with suppress(OSError):
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()

    def _record_event(self, phase: str, name: str, **facts: int) -> None:
        self.server_of.traffic.record_event(TrafficEvent(phase=phase, name=name, **facts))


class _TitledHeaders(dict[str, str]):
    """Headers by their usual spelling, whichever came."""

    def __init__(self, pairs: Any) -> None:
        super().__init__({name.title(): value for name, value in pairs})
