"""One package index for resolvers and the builds that they run: all that their sandbox reaches.

A resolver builds third-party sdists, and their code can read what the resolver can: its environment, its configuration and
its command line. So logins, certificates and proxies stay outside, where the files of all indexes are merged as pip does it.
"""

import io
import json
import shutil
import socketserver
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from offline_kit.core.errors import OfflineKitError, ProjectError
from offline_kit.packages.file_choice import was_uploaded_before
from offline_kit.packages.index import IndexFile, PackageIndex
from offline_kit.packages.pip_settings import IndexSettings

_HOST = "index.invalid"  # RFC 2606: no such host; requests for it come by way of the proxy variables
# What a resolver is told. Our requests have patience and retries of their own, so it waits, and asks once.
INSIDE = IndexSettings(index_url=f"http://{_HOST}/simple", trusted_hosts=(_HOST,), timeout=3600)
NO_RETRIES = {"UV_HTTP_RETRIES": "0", "PIP_RETRIES": "0"}
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
sys.exit(subprocess.call(argv, env=env))
"""


class IndexServer:
    """Serves the files that were uploaded before a cut-off, with their metadata (PEP 691 and 658).

    `list_files` returns the files of a project, if it is not the index that shall say it.
    """

    def __init__(
        self,
        index: PackageIndex,
        cutoff: str = "",
        list_files: Callable[[str], Sequence[IndexFile]] | None = None,
    ) -> None:
        self._index, self._cutoff = index, cutoff
        self._list_files = list_files or index.list_files
        self._pages: dict[str, dict[str, IndexFile]] = {}
        self.error: OfflineKitError | None = None  # the first trouble with an index: pip would pass it over

    @contextmanager
    def serve(self, door: Path | None) -> Iterator[Mapping[str, str]]:
        """Serve on a unix socket, or without on the loopback interface; yield the proxy variables for the latter."""

        class Handler(_IndexHandler):
            index_server = self

        kind = socketserver.ThreadingUnixStreamServer if door else socketserver.ThreadingTCPServer
        # uv opens 50 connections at once; one that hangs must not keep us from ending.
        options = {"request_queue_size": 64, "daemon_threads": True}
        make_server: Any = type("Server", (kind,), options)
        with make_server(str(door) if door else ("127.0.0.1", 0), Handler) as server:
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
            try:
                address = "" if door else "http://{}:{}".format(*server.server_address)
                yield {"HTTP_PROXY": address, "http_proxy": address} if address else {}
            finally:
                server.shutdown()

    def render_page(self, project: str) -> bytes | None:
        """Return a project's page as JSON; None if no index has a file of it."""
        files: dict[str, IndexFile] = {}
        for file in self._list_files(project):
            if was_uploaded_before(file, self._cutoff):
                files.setdefault(file.filename, file)
        self._pages[project] = files
        rows = [
            {
                "filename": name,
                # Resolvers cache by address: another file of the same name has another one.
                "url": f"/files/{project}/{file.sha256 or '-'}/{quote(name)}",
                "hashes": {"sha256": file.sha256} if file.sha256 else {},
                "requires-python": file.requires_python or None,
                "yanked": file.yanked,
                "core-metadata": name.endswith(".whl"),
            }
            for name, file in files.items()
        ]
        page = {"meta": {"api-version": "1.0"}, "name": project, "files": rows}
        return json.dumps(page).encode() if rows else None

    def find_file(self, project: str, filename: str) -> bytes | Path | None:
        """Return a listed file, or its metadata if ".metadata" follows its name; None if there is none."""
        file = self._pages.get(project, {}).get(filename.removesuffix(".metadata"))
        if file is None:
            return None
        if not filename.endswith(".metadata"):
            return self._index.fetch_file(file)
        try:
            return self._index.read_metadata(file)
        except ProjectError as error:
            if error.code == "hash-mismatch":
                raise
            return b""  # a damaged file: the resolver passes its version over


class _IndexHandler(BaseHTTPRequestHandler):
    """Answers one connection."""

    index_server: IndexServer
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # headers and body go out together

    def handle(self) -> None:
        # The sandbox may hang up at any time.
        with suppress(OSError, ValueError):
            super().handle()

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        """Answer with a page or file of the index, and with nothing else."""
        # A proxy gets absolute URLs in the request line (RFC 9112, 3.2).
        parts = urlsplit(self.path)
        kind, *words = unquote(parts.path).strip("/").split("/")
        if parts.netloc != _HOST or (kind, len(words)) not in (("simple", 1), ("files", 3)):
            self._send(403, b"Only package indexes", {})
            return
        try:
            content: bytes | Path | None
            if kind == "simple":
                content = self.index_server.render_page(words[0])
                headers = {"Content-Type": "application/vnd.pypi.simple.v1+json", "Cache-Control": "no-store"}
            else:
                content = self.index_server.find_file(words[0], words[2])
                caching = "no-store" if words[1] == "-" else "max-age=31536000, immutable"
                headers = {"Content-Type": "application/octet-stream", "Cache-Control": caching}
        except OfflineKitError as error:
            self.index_server.error = self.index_server.error or error
            self._send(502, str(error).encode(), {})
        else:
            self._send(404 if content is None else 200, content or b"", headers)

    do_HEAD = do_GET  # noqa: N815 - http.server looks for that name

    def _send(self, status: int, content: bytes | Path, headers: Mapping[str, str]) -> None:
        size = content.stat().st_size if isinstance(content, Path) else len(content)
        self.send_response_only(status)
        for name, value in {**headers, "Content-Length": str(size)}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            with content.open("rb") if isinstance(content, Path) else io.BytesIO(content) as stream:
                shutil.copyfileobj(stream, self.wfile)
