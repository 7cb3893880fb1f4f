"""The hosts of tests.support.internet: a Hugging Face hub, a git host, files behind signed links, Google Drive, an index."""

import hashlib
import itertools
import json
import os
import re
import subprocess
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.internet import NOT_FOUND, WebAnswer, WebHost, WebRequest, cut_range, redirect_to
from tests.support.local_index import LocalIndex

HUB, HUB_FILES = "huggingface.co", "cdn-lfs-us-1.hf.co"
GIT = "github.com"
SIGNED = "release-assets.githubusercontent.com"
DRIVE, DRIVE_FILES = "drive.google.com", "drive.usercontent.google.com"
_LARGE = (".safetensors", ".bin", ".pt", ".pth", ".onnx")
_serial = itertools.count(1)


@dataclass(frozen=True, kw_only=True)
class HuggingFaceHub:
    """A hub of models and datasets, files by repository; large ones lie on a second host behind signed links.

    It speaks what huggingface_hub asks for: the info of a revision, the tree of a commit, HEAD and GET of /resolve/
    (https://huggingface.co/docs/hub/api).
    """

    repositories: Mapping[str, Mapping[str, bytes]]
    token: str = ""  # which repositories called "private" ask for

    def hosts(self) -> dict[str, WebHost]:
        """Return the hub and the host of its large files."""
        return {HUB: self.answer, HUB_FILES: self.answer_file}

    def answer(self, request: WebRequest) -> WebAnswer:
        """Answer as huggingface.co."""
        if request.path == "/api/whoami-v2":
            return self._answer_token(request)
        if matched := re.fullmatch(
            r"/api/(?:models|datasets)/([\w.-]+/[\w.-]+)(?:/(revision|tree)/([^/]+).*)?", request.path
        ):
            return self._refuse(matched[1], request) or self._answer_api(matched[1], matched[2] or "revision")
        matched = re.fullmatch(r"/(?:datasets/)?([\w.-]+/[\w.-]+)/resolve/([^/]+)/(.+)", request.path)
        if matched is None:
            return NOT_FOUND
        return self._refuse(matched[1], request) or self._resolve(matched[1], matched[3], request)

    def _answer_token(self, request: WebRequest) -> WebAnswer:
        if request.headers.get("authorization") != f"Bearer {self.token}":
            return WebAnswer(status=401)
        token = {"displayName": "reader", "role": "read"}
        return _answer_json({"type": "user", "name": "me", "auth": {"accessToken": token}})

    def answer_file(self, request: WebRequest) -> WebAnswer:
        """Answer as the host of large files, whose links hold a signature that is another one each time."""
        _, owner, name, path = request.path.split("/", 3)
        return cut_range(request, self.repositories[f"{owner}/{name}"][path])

    def commit_of(self, repository: str) -> str:
        """Return the commit of a repository's only revision."""
        rows = [f"{path} {_digest(data)}" for path, data in sorted(self.repositories[repository].items())]
        return hashlib.sha1("\n".join(rows).encode()).hexdigest()

    def _refuse(self, repository: str, request: WebRequest) -> WebAnswer | None:
        known = repository in self.repositories
        allowed = (
            "private" not in repository or request.headers.get("authorization") == f"Bearer {self.token}"
        )
        # The hub does not tell strangers which repositories exist.
        headers = {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"}
        return None if known and allowed else WebAnswer(status=401, headers=headers)

    def _answer_api(self, repository: str, asked_for: str) -> WebAnswer:
        files = self.repositories[repository]
        if asked_for == "tree":
            rows = [_describe_file(path, data) for path, data in files.items()]
            return _answer_json(rows)
        siblings = [{"rfilename": path} for path in files]
        facts = {"id": repository, "modelId": repository, "sha": self.commit_of(repository), "tags": []}
        return _answer_json({**facts, "private": False, "gated": False, "siblings": siblings})

    def _resolve(self, repository: str, path: str, request: WebRequest) -> WebAnswer:
        data = self.repositories[repository].get(path)
        commit = self.commit_of(repository)
        if data is None:
            headers = {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit}
            return WebAnswer(status=404, headers=headers)
        if path.endswith(_LARGE):
            link = f"https://{HUB_FILES}/{repository}/{path}?Expires=1&Signature=s{next(_serial)}"
            linked = {"X-Linked-Etag": f'"{_digest(data)}"', "X-Linked-Size": str(len(data))}
            return WebAnswer(
                status=302, headers={"Location": link, "X-Repo-Commit": commit, "ETag": '"pointer"', **linked}
            )
        return cut_range(request, data, ETag=f'"{_blob_id(data)}"', X_Repo_Commit=commit)


@dataclass(frozen=True, kw_only=True)
class GitHost:
    """Repositories below a folder, owner/name.git, served by git's own http-backend, and raw files beside them."""

    folder: Path
    releases: Mapping[str, bytes] = field(default_factory=dict)  # files of releases by path
    raw: Mapping[str, bytes] = field(default_factory=dict)  # files of raw.githubusercontent.com by path

    def hosts(self) -> dict[str, WebHost]:
        """Return the host, that of raw files, and the one to which downloads of a release lead."""
        return {
            GIT: self.answer,
            "raw.githubusercontent.com": FileHost(files=self.raw).answer,
            SIGNED: FileHost(files=self.releases).answer,
        }

    def make_repository(self, name: str, files: Mapping[str, str], *, tag: str = "") -> None:
        """Make a repository with these files and two commits, the tag at the first, where VERSION says 1."""
        source = self.folder.with_name("sources") / name
        git = ["git", "-C", str(source), "-c", "user.name=a", "-c", "user.email=a@example.org"]
        source.mkdir(parents=True)
        subprocess.run([*git, "init", "-q", "-b", "main"], check=True)
        for version in ("1", "2"):
            for path, content in {**files, "VERSION": version}.items():
                (source / path).parent.mkdir(parents=True, exist_ok=True)
                (source / path).write_text(content)
            subprocess.run([*git, "add", "."], check=True)
            subprocess.run([*git, "commit", "-qm", f"Version {version}"], check=True)
            if tag and version == "1":
                subprocess.run([*git, "tag", tag], check=True)
        bare = self.folder / f"{name}.git"
        subprocess.run(["git", "clone", "-q", "--bare", str(source), str(bare)], check=True)

    def answer(self, request: WebRequest) -> WebAnswer:
        """Answer as github.com: releases by a redirect to a signed link, else git's protocol."""
        if request.path in self.releases:
            return redirect_to(f"https://{SIGNED}{request.path}?sp=r&sig=s{next(_serial)}&jwt=j")
        owner, name, *below = request.path.strip("/").split("/")
        path = f"/{owner}/{name.removesuffix('.git')}.git/{'/'.join(below)}"
        # https://git-scm.com/docs/git-http-backend
        env = {
            "PATH": os.environ["PATH"],
            "GIT_PROJECT_ROOT": str(self.folder),
            "GIT_HTTP_EXPORT_ALL": "1",
            "PATH_INFO": path,
            "QUERY_STRING": request.target.partition("?")[2],
            "REQUEST_METHOD": request.method,
            "CONTENT_TYPE": request.headers.get("content-type", ""),
            "CONTENT_LENGTH": str(len(request.body)),
            "HTTP_CONTENT_ENCODING": request.headers.get("content-encoding", ""),
            "GIT_PROTOCOL": request.headers.get("git-protocol", ""),
        }
        ended = subprocess.run(
            ["git", "http-backend"], input=request.body, env=env, capture_output=True, check=False
        )
        head, _, body = ended.stdout.partition(b"\r\n\r\n")
        lines = [line.partition(": ") for line in head.decode().splitlines()]
        headers = {name: value for name, _, value in lines}
        status = int(headers.pop("Status", "200").split()[0])
        return WebAnswer(status=status, body=body, headers=headers)


@dataclass(frozen=True, kw_only=True)
class FileHost:
    """Files by path, with Range; a path that ends with a slash is a page."""

    files: Mapping[str, bytes]

    def answer(self, request: WebRequest) -> WebAnswer:
        """Return the file at the path."""
        data = self.files.get(request.path)
        is_page = request.path.endswith(("/", ".html"))
        kind = "text/html; charset=utf-8" if is_page else "application/octet-stream"
        headers = {"ETag": f'"{_digest(data)[:16]}"', "Content_Type": kind} if data is not None else {}
        return NOT_FOUND if data is None else cut_range(request, data, **headers)


@dataclass(frozen=True, kw_only=True)
class GoogleDrive:
    """Files by id, name and bytes; each is too large to be scanned for viruses, which a page asks to confirm."""

    files: Mapping[str, tuple[str, bytes]]

    def hosts(self) -> dict[str, WebHost]:
        """Return the page's host and that of the files."""
        return {DRIVE: self.answer_page, DRIVE_FILES: self.answer_file}

    def answer_page(self, request: WebRequest) -> WebAnswer:
        """Return the page of a file, whose form leads to it."""
        identifier = request.query.get("id", "")
        if identifier not in self.files:
            return NOT_FOUND
        fields = {"id": identifier, "export": "download", "confirm": "t", "uuid": f"u{next(_serial)}"}
        inputs = "".join(
            f'<input type="hidden" name="{name}" value="{value}">' for name, value in fields.items()
        )
        form = (
            f'<form id="download-form" action="https://{DRIVE_FILES}/download" method="get">{inputs}</form>'
        )
        page = f"<html><head><title>{self.files[identifier][0]}</title></head><body>{form}</body></html>"
        return WebAnswer(body=page.encode(), headers={"Content-Type": "text/html; charset=utf-8"})

    def answer_file(self, request: WebRequest) -> WebAnswer:
        """Return a file once it is confirmed."""
        name, data = self.files[request.query["id"]]
        disposition = f'attachment; filename="{name}"'
        headers = {"Content_Disposition": disposition, "Content_Type": "application/octet-stream"}
        return cut_range(request, data, **headers)


@dataclass(frozen=True, kw_only=True)
class PackageIndex:
    """An index whose projects hide those of the same name on the real pypi.org, to which all others lead."""

    index: LocalIndex

    def answer(self, request: WebRequest) -> WebAnswer:
        """Answer as pypi.org."""
        root = self.index.root
        matched = re.match(r"/(?:simple|files)/([^/]+)", request.path)
        known = matched and (request.path.startswith("/files/") or matched[1] in self.index.projects)
        return relay_request(request, root if known else "https://pypi.org")


def relay_request(request: WebRequest, root: str) -> WebAnswer:
    """Send a request on to a server, and return its answer."""
    kept = ("accept", "range", "authorization", "content-type", "user-agent")
    headers = {name: request.headers[name] for name in kept if name in request.headers}
    relayed = urllib.request.Request(
        root + request.target, data=request.body or None, headers=headers, method=request.method
    )
    try:
        response = urllib.request.urlopen(relayed, timeout=60)
    except urllib.error.HTTPError as error:
        response = error
    with response:
        dropped = ("connection", "transfer-encoding", "content-encoding", "date", "server")
        headers = {name: value for name, value in response.headers.items() if name.lower() not in dropped}
        body = response.read()
        length = {} if request.method == "HEAD" else {"Content-Length": str(len(body))}
        return WebAnswer(status=response.status, body=body, headers=headers | length)


def _answer_json(value: object) -> WebAnswer:
    return WebAnswer(body=json.dumps(value).encode(), headers={"Content-Type": "application/json"})


def _describe_file(path: str, data: bytes) -> dict[str, object]:
    facts: dict[str, object] = {"type": "file", "path": path, "size": len(data), "oid": _blob_id(data)}
    if path.endswith(_LARGE):
        facts["lfs"] = {"oid": _digest(data), "size": len(data), "pointerSize": 134}
    return facts


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _blob_id(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
