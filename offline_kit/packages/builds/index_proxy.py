"""A proxy on a unix socket through which a sandbox reaches package indexes, and nothing else."""

import base64
import socket
import socketserver
import threading
import urllib.request
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from urllib.parse import unquote, urlsplit

# PyPI serves pages and files from different hosts: https://docs.pypi.org/
_FILE_HOSTS = {
    "pypi.org": ("files.pythonhosted.org",),
    "test.pypi.org": ("test-files.pythonhosted.org",),
    "download.pytorch.org": ("download-r2.pytorch.org",),
    "pypi.nvidia.com": ("pypi.nvidia.com",),
}
"""Hosts other than their own on which well-known indexes keep their files."""
_LARGEST_HEAD = 65536
_TIMEOUT = 120.0


@dataclass(frozen=True, kw_only=True)
class ProxyReply:
    """The reply to one request; closing the connection ends a body without Content-Length."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Iterable[bytes] = ()


AnswerRequest = Callable[[str, str, Mapping[str, str]], AbstractContextManager[ProxyReply]]
"""Answers a request, given method, path and headers."""
RELAY = """
import os, socket, subprocess, sys, threading
door, argv = sys.argv[1], sys.argv[2:]
def pipe(a, b):
    try:
        while data := a.recv(65536):
            b.sendall(data)
    except OSError:
        pass
    for end, how in ((b, socket.SHUT_WR), (a, socket.SHUT_RD)):
        try:
            end.shutdown(how)
        except OSError:
            pass
def serve(peer):
    with peer, socket.socket(socket.AF_UNIX) as out:
        out.connect(door)
        back = threading.Thread(target=pipe, args=(out, peer), daemon=True)
        back.start()
        pipe(peer, out)
        back.join()
def listen():
    while True:
        threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()
server = socket.create_server(("127.0.0.1", 0))
threading.Thread(target=listen, daemon=True).start()
address = "http://127.0.0.1:%d" % server.getsockname()[1]
names = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
env = {**os.environ, **{name: address for name in (*names, *map(str.lower, names))}, "NO_PROXY": "", "no_proxy": ""}
env.pop("PIP_PROXY", None)
sys.exit(subprocess.call(argv, env=env))
"""
"""Runs in the sandbox: gives a command a proxy on the loopback interface, and forwards to the socket of ours."""


def list_hosts(urls: Collection[str]) -> frozenset[str]:
    """Return host and port ("pypi.org:443") of these indexes and of the known hosts of their files."""
    hosts = set()
    for url in urls:
        parts = urlsplit(url)
        if parts.scheme in ("http", "https") and parts.hostname:
            port = parts.port or (443 if parts.scheme == "https" else 80)
            hosts |= {f"{host}:{port}" for host in (parts.hostname, *_FILE_HOSTS.get(parts.hostname, ()))}
    return frozenset(hosts)


@contextmanager
def serve_proxy(
    path: Path,
    hosts: Collection[str],
    *,
    upstream: str = "",
    answering: Mapping[str, AnswerRequest] | None = None,
) -> Iterator[None]:
    """Serve on a socket at `path` while the block runs.

    `upstream` is the proxy that this machine itself needs; empty for the environment's. Requests to hosts in
    `answering` go to that function instead of the network.
    """
    handlers = answering or {}

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with suppress(OSError, ValueError):
                _serve_request(self.request, hosts, upstream, handlers)

    class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
        # A connection that hangs must not keep us from ending.
        daemon_threads = True

    with Server(str(path), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            server.shutdown()


def _serve_request(
    peer: socket.socket, hosts: Collection[str], upstream: str, answering: Mapping[str, AnswerRequest]
) -> None:
    """Answer one request by a function of ours, or forward it."""
    head, body = _read_request(peer)
    # A proxy gets absolute URLs in the request line, or CONNECT host:port for TLS (RFC 9112, 3.2).
    method, target, _ = head.partition(b"\r\n")[0].decode("latin-1").split(" ", 2)
    parts = urlsplit(target)
    if method != "CONNECT" and (answer := answering.get(parts.netloc)):
        headers = (line.partition(":") for line in head.decode("latin-1").split("\r\n")[1:])
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        with answer(method, path, {name: value.strip() for name, _, value in headers}) as reply:
            _send_reply(peer, reply)
        return
    _forward_request(peer, (head, body), hosts, upstream)


def _send_reply(peer: socket.socket, reply: ProxyReply) -> None:
    # Header fields are Latin-1 at most (RFC 9110, 5.5).
    lines = [f"HTTP/1.1 {reply.status} {HTTPStatus(reply.status).phrase}", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in reply.headers.items()]
    peer.sendall("\r\n".join((*lines, "", "")).encode("latin-1"))
    for piece in reply.body:
        peer.sendall(piece)


def _forward_request(
    peer: socket.socket, request: tuple[bytes, bytes], hosts: Collection[str], upstream: str
) -> None:
    """Forward one request to an index: as a tunnel (CONNECT), or as one plain exchange."""
    head, body = request
    line, _, header_lines = head.partition(b"\r\n")
    method, target, version = line.decode("latin-1").split(" ", 2)
    parts = urlsplit(f"//{target}" if method == "CONNECT" else target)
    port = parts.port or 80
    host_and_port = f"{parts.hostname}:{port}"
    if host_and_port not in hosts:
        peer.sendall(b"HTTP/1.1 403 Only package indexes\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        return
    # NO_PROXY and the system's exceptions hold for us as for any other program.
    upstream = "" if _bypasses_proxy(str(parts.hostname)) else upstream or _find_environment_proxy(port)
    proxy = urlsplit(upstream if "//" in upstream else f"//{upstream}")
    goal = (proxy.hostname, proxy.port or 80) if upstream else (str(parts.hostname), port)
    with socket.create_connection((str(goal[0]), goal[1]), timeout=_TIMEOUT) as out:
        if method == "CONNECT" and not upstream:
            peer.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        else:
            path = target if upstream else (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            passed_headers = [
                header
                for header in header_lines.split(b"\r\n")
                if header and not header.lower().startswith((b"proxy-", b"connection:"))
            ]
            # One exchange per connection: the next request on it could be for another host.
            ends = [] if method == "CONNECT" else [b"Connection: close"]
            ends += [_make_authorization(proxy.username, proxy.password)] if proxy.username else []
            lines = [f"{method} {path} {version}".encode("latin-1"), *passed_headers, *ends, b"", b""]
            out.sendall(b"\r\n".join(lines))
        out.sendall(body)
        back = threading.Thread(target=_copy_stream, args=(out, peer), daemon=True)
        back.start()
        _copy_stream(peer, out)
        back.join()


def _bypasses_proxy(host: str) -> bool:
    return host in ("localhost", "127.0.0.1", "::1") or bool(urllib.request.proxy_bypass(host))


def _find_environment_proxy(port: int) -> str:
    # Also reads the system settings of macOS and Windows.
    proxies = urllib.request.getproxies()
    return proxies.get("https" if port == 443 else "http") or proxies.get("all", "")


def _make_authorization(user: str, password: str | None) -> bytes:
    word = base64.b64encode(f"{unquote(user)}:{unquote(password or '')}".encode())
    return b"Proxy-Authorization: Basic " + word


def _read_request(peer: socket.socket) -> tuple[bytes, bytes]:
    data = b""
    while b"\r\n\r\n" not in data and len(data) < _LARGEST_HEAD:
        chunk = peer.recv(65536)
        if not chunk:
            break
        data += chunk
    head, _, body = data.partition(b"\r\n\r\n")
    return head, body


def _copy_stream(source: socket.socket, destination: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            destination.sendall(data)
    with suppress(OSError):
        destination.shutdown(socket.SHUT_WR)
