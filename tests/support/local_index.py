"""A package index of our own on loopback, with the faults that real ones have, and packages to put into it.

    with LocalIndex() as index:
        index.add(make_wheel(tmp_path, "left", "1.0", requires=["right>=2"]))
        index.cut("left-1.0-py3-none-any.whl", after=100)      # the connection breaks, once
        ... index.url ...                                       # "http://127.0.0.1:PORT/simple"

It speaks PEP 503 (HTML), 691 (JSON), 658 (metadata files), 592 (yanked), 700 (size, upload time) and Range.
"""

import base64
import hashlib
import html
import io
import json
import re
import socket
import tarfile
import time
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from tests.support.loopback import LoopbackServer

JSON = "application/vnd.pypi.simple.v1+json"


@dataclass
class Fault:
    """What goes wrong with a path, and how often it still does."""

    status: int = 0
    """Answer with this status; 0: answer, but badly."""
    cut_after: int = -1
    """Break the connection after so many bytes of the body."""
    headers: dict[str, str] = field(default_factory=dict)
    """Sent with the status."""
    times: float = 1
    """How often it happens; `math.inf` for always."""
    seconds: float = 0
    """Silence before the answer."""


@dataclass
class Entry:
    """A file on the index."""

    filename: str
    data: bytes
    sha256: str
    requires_python: str = ""
    yanked: str | bool = False
    metadata: bytes | None = None
    upload_time: str = "2026-01-01T00:00:00.000000Z"


class LocalIndex(LoopbackServer):
    """The index; a context manager that serves while the block runs."""

    def __init__(self, *, html_only: bool = False, ranges: bool = True) -> None:
        self.projects: dict[str, dict[str, Entry]] = {}
        self.faults: dict[str, Fault] = {}
        self.requests: list[tuple[str, Mapping[str, str]]] = []
        """Path and headers of every request so far."""
        self.html_only, self.ranges = html_only, ranges
        self.credentials = ""
        self.file_links = "/files/"
        """What stands before a file's name in the links of pages."""
        self.moved = False
        """Whether pages answer with a redirect to "/there/simple/"."""
        super().__init__(_Handler, index=self)

    @property
    def root(self) -> str:
        """The server's address, without the path."""
        return self.address

    @property
    def url(self) -> str:
        """What goes into index-url."""
        return f"{self.root}/simple"

    def with_credentials(self, user: str, password: str) -> str:
        """Ask for user and password from now on, and return the address that holds them."""
        self.credentials = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
        return self.url.replace("://", f"://{quote(user, safe='')}:{quote(password, safe='')}@")

    def add(
        self,
        path: Path,
        *,
        requires_python: str = "",
        yanked: str | bool = False,
        pep658: bool = True,
        upload_time: str = "2026-01-01T00:00:00.000000Z",
    ) -> Entry:
        """Put a wheel or sdist on the index."""
        data = path.read_bytes()
        entry = Entry(
            filename=path.name,
            data=data,
            sha256=hashlib.sha256(data).hexdigest(),
            requires_python=requires_python,
            yanked=yanked,
            metadata=_metadata_of(data) if pep658 and path.suffix == ".whl" else None,
            upload_time=upload_time,
        )
        self.projects.setdefault(project_of(path.name), {})[path.name] = entry
        return entry

    def fail(
        self, path: str, status: int, *, times: float = 1, headers: Mapping[str, str] | None = None
    ) -> None:
        """Answer requests whose path ends so with an HTTP status."""
        self.faults[path] = Fault(status=status, times=times, headers=dict(headers or {}))

    def cut(self, path: str, *, after: int, times: float = 1) -> None:
        """Break the connection after so many bytes."""
        self.faults[path] = Fault(cut_after=after, times=times)

    def stall(self, path: str, *, seconds: float, times: float = 1) -> None:
        """Say nothing for so long."""
        self.faults[path] = Fault(seconds=seconds, times=times)

    def lie_about_hash(self, filename: str) -> str:
        """List a wrong sha256 for a file from now on, and return it."""
        entry = self.projects[project_of(filename)][filename]
        entry.sha256 = "0" * 64
        return entry.sha256

    def asked(self, ending: str = "") -> list[str]:
        """Return the paths of the requests so far that end so."""
        return [path for path, _ in self.requests if path.endswith(ending)]

    def page(self, project: str, *, as_json: bool) -> bytes | None:
        """Return a project's page, or None for an unknown one."""
        entries = self.projects.get(project)
        if entries is None:
            return None
        if as_json:
            files = [_json_row(entry) for entry in entries.values()]
            meta = {"api-version": "1.1"}
            page = json.dumps({"meta": meta, "name": project, "versions": [], "files": files})
        else:
            page = page_of([(f"/files/{quote(name)}", entry) for name, entry in entries.items()])
        return page.replace('"/files/', f'"{self.file_links}').encode()


class _Handler(BaseHTTPRequestHandler):
    index: LocalIndex
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.index.requests.append((path, dict(self.headers)))
        fault = self._fault(path)
        if fault and fault.seconds:
            time.sleep(fault.seconds)
        if fault and fault.status:
            return self._answer(fault.status, b"no", headers=fault.headers)
        if self.index.credentials and self.headers.get("Authorization") != self.index.credentials:
            return self._answer(401, b"who are you?", headers={"WWW-Authenticate": 'Basic realm="index"'})
        cut = fault.cut_after if fault else -1
        if path.startswith("/files/"):
            return self._file(path.removeprefix("/files/"), cut)
        if self.index.moved and path.startswith("/simple/"):
            return self._answer(302, b"", headers={"Location": f"{self.index.root}/there{self.path}"})
        if found := re.fullmatch(r"(?:/there)?/simple/([^/]+)/?", path):
            as_json = not self.index.html_only and JSON in self.headers.get("Accept", "")
            page = self.index.page(found[1], as_json=as_json)
            kind = JSON if as_json else "text/html; charset=utf-8"
            return self._answer(404, b"none") if page is None else self._answer(200, page, kind=kind, cut=cut)
        return self._answer(404, b"none")

    do_HEAD = do_GET  # noqa: N815

    def _fault(self, path: str) -> Fault | None:
        for ending, fault in self.index.faults.items():
            if path.rstrip("/").endswith(ending) and fault.times > 0:
                fault.times -= 1
                return fault
        return None

    def _file(self, filename: str, cut: int) -> None:
        entry = self.index.projects.get(project_of(filename), {}).get(filename.removesuffix(".metadata"))
        if entry is None or (filename.endswith(".metadata") and entry.metadata is None):
            return self._answer(404, b"none")
        data = entry.metadata if filename.endswith(".metadata") else entry.data
        assert data is not None
        wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if not wanted or not self.index.ranges:
            return self._answer(200, data, kind="application/octet-stream", cut=cut)
        first = int(wanted[1]) if wanted[1] else max(0, len(data) - int(wanted[2]))
        last = min(int((wanted[1] and wanted[2]) or len(data) - 1), len(data) - 1)
        if first > last:
            return self._answer(416, b"", headers={"Content-Range": f"bytes */{len(data)}"})
        span = {"Content-Range": f"bytes {first}-{last}/{len(data)}"}
        return self._answer(
            206, data[first : last + 1], kind="application/octet-stream", headers=span, cut=cut
        )

    def _answer(
        self,
        status: int,
        body: bytes,
        *,
        kind: str = "text/plain",
        headers: Mapping[str, str] | None = None,
        cut: int = -1,
    ) -> None:
        self.send_response(status)
        for name, value in {
            "Content-Type": kind,
            "Content-Length": str(len(body)),
            **(headers or {}),
        }.items():
            self.send_header(name, value)
        if self.index.ranges and status in (200, 206):
            self.send_header("Accept-Ranges", "bytes")
        self.end_headers()
        if self.command == "HEAD":
            return
        with suppress(OSError):
            # whoever asked may have hung up
            self.wfile.write(body if cut < 0 else body[:cut])
            if 0 <= cut < len(body):
                self.wfile.flush()
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


def unreachable() -> str:
    """Return the address of an index that nobody serves."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{taken.getsockname()[1]}/simple"


def page_of(links: Sequence[tuple[str, Entry]]) -> str:
    """Return an HTML page with these files, each at its address."""
    rows = []
    for address, entry in links:
        attributes = (
            f' data-requires-python="{html.escape(entry.requires_python)}"' if entry.requires_python else ""
        )
        if entry.yanked is not False:
            attributes += f' data-yanked="{"" if entry.yanked is True else html.escape(entry.yanked)}"'
        if entry.metadata is not None:
            attributes += f' data-core-metadata="sha256={hashlib.sha256(entry.metadata).hexdigest()}"'
        rows.append(
            f'<a href="{address}#sha256={entry.sha256}"{attributes}>{html.escape(entry.filename)}</a><br/>'
        )
    return "<!DOCTYPE html><html><body>\n" + "\n".join(rows) + "\n</body></html>\n"


def folder_index(folder: Path, wheels: Sequence[Path]) -> str:
    """Write a file:// index with these distributions into a folder and return its address."""
    for path in wheels:
        place = folder / project_of(path.name)
        place.mkdir(parents=True, exist_ok=True)
        (place / path.name).write_bytes(path.read_bytes())
    for place in folder.iterdir():
        files = [path for path in sorted(place.iterdir()) if path.name != "index.html"]
        entries = [Entry(path.name, b"", hashlib.sha256(path.read_bytes()).hexdigest()) for path in files]
        (place / "index.html").write_text(page_of([(quote(entry.filename), entry) for entry in entries]))
    return folder.as_uri()


def project_of(filename: str) -> str:
    """Return the normalized project name that a distribution's file name tells."""
    stem = filename.removesuffix(".metadata")
    name = (
        stem.split("-")[0]
        if stem.endswith(".whl")
        else re.sub(r"(\.tar\.gz|\.zip)$", "", stem).rpartition("-")[0]
    )
    return re.sub(r"[-_.]+", "-", name).lower()


def make_wheel(
    folder: Path,
    name: str,
    version: str,
    *,
    tag: str = "py3-none-any",
    requires: Sequence[str] = (),
    extras: Mapping[str, Sequence[str]] | None = None,
    requires_python: str = "",
    files: Mapping[str, str | bytes] | None = None,
) -> Path:
    """Write a small valid wheel; unless `files` says otherwise it holds one module of the package's name."""
    module = re.sub(r"[-_.]+", "_", name).lower()
    content = {
        path: text.encode() if isinstance(text, str) else text
        for path, text in (files or {f"{module}/__init__.py": f"__version__ = {version!r}\n"}).items()
    }
    info = f"{module}-{version}.dist-info"
    content[f"{info}/METADATA"] = metadata(name, version, requires, extras, requires_python).encode()
    pure = "true" if tag.endswith("-none-any") else "false"
    tags = "".join(f"Tag: {one}\n" for one in _expanded(tag))
    content[f"{info}/WHEEL"] = (
        f"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: {pure}\n{tags}".encode()
    )
    rows = []
    for path, data in content.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        rows.append(f"{path},sha256={digest},{len(data)}\n")
    content[f"{info}/RECORD"] = ("".join(rows) + f"{info}/RECORD,,\n").encode()
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{module}-{version}-{tag}.whl"
    with zipfile.ZipFile(target, "w") as archive:
        for path, data in content.items():
            archive.writestr(zipfile.ZipInfo(path, (2020, 1, 1, 0, 0, 0)), data)
    return target


def make_sdist(
    folder: Path,
    name: str,
    version: str,
    *,
    files: Mapping[str, str | bytes] | None = None,
    requires: Sequence[str] = (),
    build_requires: Sequence[str] = ("setuptools>=61",),
    backend: str = "setuptools.build_meta",
    metadata_version: str = "2.2",
    as_zip: bool = False,
) -> Path:
    """Write a small buildable sdist; `files` are laid over the default ones (b"" removes one)."""
    module = re.sub(r"[-_.]+", "_", name).lower()
    listed = json.dumps(list(build_requires))
    project = (
        f"[project]\nname = {name!r}\nversion = {version!r}\ndependencies = {json.dumps(list(requires))}\n"
    )
    content: dict[str, str | bytes] = {
        "pyproject.toml": f"[build-system]\nrequires = {listed}\nbuild-backend = {backend!r}\n\n{project}",
        f"{module}/__init__.py": f"__version__ = {version!r}\n",
        "PKG-INFO": metadata(name, version, requires).replace("Version: 2.1", f"Version: {metadata_version}"),
        **(files or {}),
    }
    stem = f"{module}-{version}"
    members = {
        f"{stem}/{path}": text.encode() if isinstance(text, str) else text
        for path, text in content.items()
        if text != b""
    }
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{stem}.{'zip' if as_zip else 'tar.gz'}"
    if as_zip:
        with zipfile.ZipFile(target, "w") as archive:
            for path, data in members.items():
                archive.writestr(zipfile.ZipInfo(path, (2020, 1, 1, 0, 0, 0)), data)
        return target
    with tarfile.open(target, "w:gz") as tar:
        for path, data in members.items():
            entry = tarfile.TarInfo(path)
            entry.size, entry.mode, entry.mtime = len(data), 0o644, 1_577_836_800
            tar.addfile(entry, io.BytesIO(data))
    return target


def metadata(
    name: str,
    version: str,
    requires: Sequence[str] = (),
    extras: Mapping[str, Sequence[str]] | None = None,
    requires_python: str = "",
) -> str:
    """Return METADATA of version 2.1."""
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    lines += [f"Requires-Python: {requires_python}"] if requires_python else []
    lines += [f"Requires-Dist: {requirement}" for requirement in requires]
    for extra, wanted in (extras or {}).items():
        lines.append(f"Provides-Extra: {extra}")
        lines += [f"Requires-Dist: {requirement} ; extra == '{extra}'" for requirement in wanted]
    return "\n".join(lines) + "\n"


def _json_row(entry: Entry) -> dict[str, object]:
    row: dict[str, object] = {
        "filename": entry.filename,
        "url": f"/files/{quote(entry.filename)}",
        "hashes": {"sha256": entry.sha256},
        "size": len(entry.data),
        "upload-time": entry.upload_time,
        "yanked": entry.yanked,
    }
    if entry.requires_python:
        row["requires-python"] = entry.requires_python
    if entry.metadata is not None:
        row["core-metadata"] = {"sha256": hashlib.sha256(entry.metadata).hexdigest()}
    return row


def _metadata_of(wheel: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(wheel)) as archive:
        name = next(one for one in archive.namelist() if one.endswith(".dist-info/METADATA"))
        return archive.read(name)


def _expanded(tag: str) -> list[str]:
    pythons, abis, platforms = tag.split("-")
    return [f"{a}-{b}-{c}" for a in pythons.split(".") for b in abis.split(".") for c in platforms.split(".")]
