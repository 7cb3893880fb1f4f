"""An internet on loopback: a proxy behind which a test serves hosts, https ones too, under their real names.

    with Internet(tmp_path, {"files.example.org": serve}) as internet:
        subprocess.run(["curl", "https://files.example.org/a.txt"], env={**os.environ, **internet.environment()})

Its clients are the unmodified programs: the variables of proxies and certificates lead them here. What no host of the
test serves is passed on to the real internet, unread.
"""

import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

import trustme

from tests.support.loopback import LoopbackServer


@dataclass(frozen=True, kw_only=True)
class WebRequest:
    """A request as a host gets it."""

    method: str
    host: str
    path: str  # without query, unquoted
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes
    target: str  # path and query as they were sent


@dataclass(frozen=True, kw_only=True)
class WebAnswer:
    """What a host answers."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


NOT_FOUND = WebAnswer(status=404, body=b"not found")
WebHost = Callable[[WebRequest], WebAnswer]


def redirect_to(url: str, **headers: str) -> WebAnswer:
    """Return a temporary redirect; an underscore in a header's name stands for a hyphen."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return WebAnswer(status=302, headers={"Location": url, **named})


def cut_range(request: WebRequest, data: bytes, **headers: str) -> WebAnswer:
    """Return a file, or the part of it that a Range header asks for (https://www.rfc-editor.org/rfc/rfc9110#name-range)."""
    first, dash, last = request.headers.get("range", "").removeprefix("bytes=").partition("-")
    named = {"Accept-Ranges": "bytes"} | {name.replace("_", "-"): value for name, value in headers.items()}
    if not (dash and first.isdigit()):
        return WebAnswer(body=data, headers=named)
    start, end = int(first), min(int(last or len(data)), len(data) - 1)
    if start > end:
        return WebAnswer(status=416, headers={"Content-Range": f"bytes */{len(data)}"})
    span = {"Content-Range": f"bytes {start}-{end}/{len(data)}"}
    return WebAnswer(status=206, body=data[start : end + 1], headers=named | span)


class Internet(LoopbackServer):
    """A running proxy, its hosts by name, and the requests that they had."""

    def __init__(self, folder: Path, hosts: Mapping[str, WebHost]) -> None:
        self.hosts = dict(hosts)
        self.requests: list[str] = []
        """Method and URL of every request, in order."""
        self.bundle = folder / "certificates.pem"
        """The system's certificate authorities and our own."""
        authority = trustme.CA()
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(*hosts).configure_cert(self.tls)
        system = Path(ssl.get_default_verify_paths().cafile or "/etc/ssl/certs/ca-certificates.crt")
        known = system.read_bytes() if system.is_file() else b""
        self.bundle.write_bytes(known + authority.cert_pem.bytes())
        super().__init__(_ProxyHandler, internet=self)

    def environment(self) -> dict[str, str]:
        """Return the variables that lead a process and its children through this internet."""
        url = self.address
        proxies = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), url)
        certificates = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO", "PIP_CERT")
        local = dict.fromkeys(("no_proxy", "NO_PROXY"), "127.0.0.1,localhost")
        return proxies | local | dict.fromkeys(certificates, str(self.bundle))


class _ProxyHandler(BaseHTTPRequestHandler):
    internet: Internet
    protocol_version = "HTTP/1.1"
    secure_host = ""  # whose requests this connection carries, once it is encrypted

    def do_CONNECT(self) -> None:
        """Answer as the host itself if a test serves it, else connect to the real one."""
        host, _, port = self.path.partition(":")
        if host not in self.internet.hosts:
            return self._connect_through(host, int(port))
        self.send_response(200)
        self.end_headers()
        self.secure_host, self.close_connection = host, False
        try:
            self.connection = self.internet.tls.wrap_socket(self.connection, server_side=True)
        except OSError:  # the client does not trust us, or has gone
            self.close_connection = True
            return None
        self.rfile = self.connection.makefile("rb")
        self.wfile = self.connection.makefile("wb")
        return None

    def _connect_through(self, host: str, port: int) -> None:
        self.close_connection = True
        try:
            server = socket.create_connection((host, port), timeout=30)
        except OSError:
            return self._send(WebAnswer(status=502))
        self.send_response(200)
        self.end_headers()
        upward = threading.Thread(target=_copy_bytes, args=(self.connection, server), daemon=True)
        upward.start()
        _copy_bytes(server, self.connection)
        upward.join()
        return None

    def do_GET(self) -> None:
        url = f"https://{self.secure_host}{self.path}" if self.secure_host else self.path
        parts = urlsplit(url)
        self.internet.requests.append(f"{self.command} {url}")
        request = WebRequest(
            method=self.command,
            host=parts.hostname or "",
            path=unquote(parts.path),
            query=dict(parse_qsl(parts.query)),
            headers={name.lower(): value for name, value in self.headers.items()},
            body=self.rfile.read(int(self.headers.get("Content-Length") or 0)),
            target=url.partition(parts.netloc)[2],
        )
        serve = self.internet.hosts.get(request.host)
        self._send(serve(request) if serve else NOT_FOUND)

    do_HEAD = do_POST = do_GET  # noqa: N815 - the names that http.server calls

    def _send(self, answer: WebAnswer) -> None:
        self.send_response(answer.status)
        headers = {"Content-Length": str(len(answer.body)), **answer.headers}
        for name, value in headers.items():
            self.send_header(name, value)
        with suppress(OSError):  # the client may have gone
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(answer.body)
            self.wfile.flush()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


def _copy_bytes(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while chunk := source.recv(1 << 16):
            target.sendall(chunk)
    for end in (source, target):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
