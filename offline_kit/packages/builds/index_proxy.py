"""A proxy on a unix socket through which a sandbox reaches package indexes, and nothing else.

A resolver builds third-party sdists, and their code can read what the resolver can: its environment, its configuration and
the command lines of pip. So a sandbox knows an index with a login by an alias without one, and the proxy adds the login.
"""

import base64
import hashlib
import re
import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urljoin, urlsplit

from offline_kit.core import http
from offline_kit.core.errors import OfflineKitError
from offline_kit.core.files import CHUNK
from offline_kit.core.redaction import redact_urls
from offline_kit.packages.pip_settings import IndexSettings

if TYPE_CHECKING:
    import requests

# Hosts other than their own on which well-known indexes keep their files: https://docs.pypi.org/
_FILE_HOSTS = {
    "pypi.org": ("files.pythonhosted.org",),
    "test.pypi.org": ("test-files.pythonhosted.org",),
    "download.pytorch.org": ("download-r2.pytorch.org",),
    "pypi.nvidia.com": ("pypi.nvidia.com",),
}
_PORTS = {"http": 80, "https": 443}
_TIMEOUT = 120.0
# Headers of a request that are passed on, and of a reply that are not.
_PASSED_HEADERS = "accept range if-range if-match if-none-match if-modified-since cache-control user-agent"
_CONNECTION_HEADERS = "connection keep-alive transfer-encoding set-cookie content-length location"
_PAGE_TYPES = ("text/html", "application/vnd.pypi.simple", "application/json")  # have links to files
# Runs in the sandbox: gives a command a proxy on the loopback interface, and forwards to the socket of ours.
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


@dataclass(frozen=True, kw_only=True)
class IndexAccess:
    """The package indexes that a sandbox may reach, as they are and as it sees them."""

    settings: IndexSettings
    inside: IndexSettings  # without logins and keys
    aliases: dict[str, str] = field(default_factory=dict, repr=False)  # by the URL of an index with a login

    def list_hosts(self) -> set[str]:
        """Return host and port ("pypi.org:443") of the indexes without a login and of their files."""
        hosts = set()
        for url in (*self.settings.list_index_urls(), *self.settings.find_links):
            parts = urlsplit(url)
            if parts.scheme in _PORTS and parts.hostname and url not in self.aliases:
                port = parts.port or _PORTS[parts.scheme]
                names = (parts.hostname, *_FILE_HOSTS.get(parts.hostname, ()))
                hosts |= {f"{name}:{port}" for name in names}
        return hosts

    def restore_origins(self, text: str) -> str:
        """Return the output of a command with the addresses that the user knows."""
        for url, alias in self.aliases.items():
            text = text.replace(f"http://{urlsplit(alias).netloc}", _parse_origin(url))
        return text


def hide_credentials(settings: IndexSettings) -> IndexAccess:
    """Give each index with a login an alias: http, a host under .invalid (RFC 2606), the same path."""
    from requests.utils import get_netrc_auth

    aliases = {}
    urls = (settings.index_url, *settings.extra_index_urls, *settings.find_links)
    for url in (*urls, *settings.list_index_urls()):  # these are without a slash at the end
        parts = urlsplit(url)
        # requests and pip also take logins from ~/.netrc.
        if parts.scheme in _PORTS and ("@" in parts.netloc or settings.client_cert or get_netrc_auth(url)):
            bare = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl().rstrip("/")
            # Each has its own, since uv and pip cache by address.
            digest = hashlib.sha256(f"{parts.username or ''} {bare}".encode()).hexdigest()[:16]
            aliases[url] = parts._replace(scheme="http", netloc=f"index-{digest}.invalid").geturl()
    inside = replace(
        settings,
        index_url=aliases.get(settings.index_url, settings.index_url),
        extra_index_urls=tuple(aliases.get(url, url) for url in settings.extra_index_urls),
        find_links=tuple(aliases.get(url, url) for url in settings.find_links),
        client_cert="",
        # pip refuses plain http from hosts that are not trusted; this goes no further than the proxy's socket.
        trusted_hosts=(*settings.trusted_hosts, *(urlsplit(alias).netloc for alias in aliases.values())),
        proxy="",
    )
    return IndexAccess(settings=settings, inside=inside, aliases=aliases)


def _parse_origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname}:{parts.port or _PORTS.get(parts.scheme, 0)}"


@contextmanager
def serve_proxy(path: Path, access: IndexAccess) -> Iterator[None]:
    """Serve on a socket at `path` while the block runs."""
    hosts = access.list_hosts()
    origins = {urlsplit(alias).netloc: url for url, alias in access.aliases.items()}

    class Handler(_ProxyHandler):
        def setup(self) -> None:
            self.access, self.hosts, self.origins = access, hosts, origins
            super().setup()

    class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
        daemon_threads = True  # a connection that hangs must not keep us from ending

    with Server(str(path), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield
        finally:
            server.shutdown()


class _ProxyHandler(BaseHTTPRequestHandler):
    """Answers one request: a tunnel (CONNECT) to an index, or a page or file of one."""

    access: IndexAccess
    hosts: set[str]
    origins: dict[str, str]  # the index by the host of its alias
    protocol_version = "HTTP/1.1"
    rbufsize = 0  # a tunnel reads from the socket itself

    def handle(self) -> None:
        # The sandbox may hang up at any time.
        with suppress(OSError, ValueError):
            super().handle()

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_CONNECT(self) -> None:
        """Open a tunnel for TLS, by way of the proxy that this machine itself needs."""
        from requests.utils import get_environ_proxies, select_proxy

        parts = urlsplit(f"//{self.path}")
        if f"{parts.hostname}:{parts.port}" not in self.hosts:
            self._refuse()
            return
        url = f"https://{self.path}"
        upstream = self.access.settings.proxy or select_proxy(url, get_environ_proxies(url)) or ""
        proxy = urlsplit(upstream if "//" in upstream else f"//{upstream}")
        goal = (proxy.hostname, proxy.port or 80) if upstream else (parts.hostname, parts.port)
        self.close_connection = True
        with socket.create_connection((str(goal[0]), int(goal[1] or 0)), timeout=_TIMEOUT) as out:
            if upstream:
                login = f"{unquote(proxy.username or '')}:{unquote(proxy.password or '')}".encode()
                lines = [f"CONNECT {self.path} HTTP/1.1", f"Host: {self.path}"]
                if proxy.username:
                    lines.append(f"Proxy-Authorization: Basic {base64.b64encode(login).decode()}")
                out.sendall("\r\n".join((*lines, "", "")).encode("latin-1"))
            else:
                self.send_response_only(200)
                self.end_headers()
            back = threading.Thread(target=_copy_stream, args=(out, self.connection), daemon=True)
            back.start()
            _copy_stream(self.connection, out)
            back.join()

    def do_GET(self) -> None:
        """Answer with a page or file of an index.

        Only reading is passed on: a login may allow uploads, which a build must not do.
        """
        # A proxy gets absolute URLs in the request line (RFC 9112, 3.2).
        parts = urlsplit(self.path)
        index = self.origins.get(parts.netloc, "")
        if not index and f"{parts.hostname}:{parts.port or 80}" not in self.hosts:
            self._refuse()
            return
        true_parts = urlsplit(index or self.path)
        url = parts._replace(scheme=true_parts.scheme, netloc=true_parts.netloc).geturl()
        headers = {
            name: value for name, value in self.headers.items() if name.lower() in _PASSED_HEADERS.split()
        }
        headers["Accept-Encoding"] = "identity"
        settings = self.access.settings
        with ExitStack() as stack:
            try:
                response = stack.enter_context(
                    http.open_response(url, settings, headers, method=self.command, redirects=False)
                )
                goal = urljoin(url, response.headers.get("location", ""))
                if index and response.is_redirect and _parse_origin(goal) != _parse_origin(index):
                    # Often object storage with a signed URL, which the sandbox cannot reach.
                    # The login is in the URL and not sent to the other host.
                    response = stack.enter_context(
                        http.open_response(goal, settings, headers, method=self.command)
                    )
            except (OfflineKitError, OSError) as error:
                self._send(502, {}, redact_urls(str(error)).encode())
            else:
                self._pass_on(response, index, parts.netloc)

    do_HEAD = do_GET  # noqa: N815 - http.server looks for that name

    def _refuse(self) -> None:
        self._send(403, {}, b"Only package indexes")

    def _send(self, status: int, headers: dict[str, str], body: bytes | None = None) -> None:
        self.send_response_only(status)
        if body is not None:
            headers["Content-Length"] = str(len(body))
        # One exchange per connection: its end also ends a body without Content-Length.
        for name, value in {**headers, "Connection": "close"}.items():
            self.send_header(name, value)
        self.end_headers()
        if body and self.command != "HEAD":
            self.wfile.write(body)

    def _pass_on(self, response: "requests.Response", index: str, alias_host: str) -> None:
        """Send the reply of an index; one with a login has its addresses replaced by those of its alias."""
        reply = {
            name: value
            for name, value in response.headers.items()
            if name.lower() not in _CONNECTION_HEADERS.split()
        }
        if location := response.headers.get("location"):
            reply["Location"] = _replace_origin(location.encode(), index, alias_host).decode()
        is_page = response.headers.get("content-type", "").startswith(_PAGE_TYPES)
        if is_page and index and self.command != "HEAD":
            # requests has decoded the page.
            reply = {name: value for name, value in reply.items() if name.lower() != "content-encoding"}
            self._send(response.status_code, reply, _replace_origin(response.content, index, alias_host))
            return
        if length := response.headers.get("content-length"):
            reply["Content-Length"] = length
        self._send(response.status_code, reply)
        for chunk in response.raw.stream(CHUNK, decode_content=False):
            self.wfile.write(chunk)


def _replace_origin(text: bytes, index: str, alias_host: str) -> bytes:
    if not index:
        return text
    parts = urlsplit(_parse_origin(index))
    port = f"(?::{parts.port})?" if parts.port == _PORTS[parts.scheme] else f":{parts.port}"
    own = rf"(?i)(?:{parts.scheme}:)?//(?:[^/@\s\"'<>]*@)?{re.escape(str(parts.hostname))}{port}(?=[/\"'?#\s]|$)"
    return re.sub(own.encode(), f"http://{alias_host}".encode(), text)


def _copy_stream(source: socket.socket, destination: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            destination.sendall(data)
    with suppress(OSError):
        destination.shutdown(socket.SHUT_WR)
