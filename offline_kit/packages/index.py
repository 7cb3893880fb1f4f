"""Package indexes: the files of a project from all of them together, and the metadata of a file."""

import io
import json
import threading
from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit, urlunsplit

from packaging.version import InvalidVersion, Version

from offline_kit.core import files, http
from offline_kit.core.cache import Cache, cache_key
from offline_kit.core.errors import OutsideError
from offline_kit.core.redaction import redact_urls
from offline_kit.core.report import Advance
from offline_kit.packages import distribution_metadata
from offline_kit.packages.pip_settings import IndexSettings
from offline_kit.project.package_lists import normalize_name

# As pip does: JSON (PEP 691) if the index has it, else HTML (PEP 503).
_ACCEPT = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.01"
_SUFFIXES = (".whl", ".tar.gz", ".zip")
# Answers 403 instead of 404 for projects that it does not have: an S3 bucket without the right to list.
_MISSING_IS_403 = "pytorch.org"


@dataclass(frozen=True, kw_only=True)
class IndexFile:
    """A distribution file as an index lists it; a field that the index does not state is empty."""

    project: str
    version: str  # from the file name, normalized if it is valid
    filename: str
    url: str  # may hold a password: show it through `redact_urls` only
    sha256: str = ""
    size: int = 0
    requires_python: str = ""
    yanked: bool = False
    has_metadata: bool = False  # whether the index serves its METADATA beside it (PEP 658)
    metadata_sha256: str = ""
    upload_time: str = ""  # ISO 8601 in UTC (PEP 700)


class PackageIndex:
    """All indexes and find-links of the settings, merged as pip merges them.

    Thread-safe; each project is requested once per object.
    """

    def __init__(
        self, settings: IndexSettings, *, cache: Path, patience: http.RetryPolicy = http.PATIENT
    ) -> None:
        self.settings = settings
        self.cache = Cache(cache)
        self._patience = patience
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._listed: dict[str, tuple[IndexFile, ...]] = {}  # by project, location of find-links, page

    def list_files(self, name: str) -> tuple[IndexFile, ...]:
        """Return every file of a project, from find-links first, then from each index; none if it is unknown.

        Raises OutsideError, naming the index or folder, if one of them does not answer: without it the result
        could be another one.
        """
        project = normalize_name(name)
        with self._locks[project]:
            if project not in self._listed:
                linked = [file for url in self.settings.find_links for file in self._list_links(url)]
                listed = [file for file in linked if file.project == project]
                for url in self.settings.list_index_urls():
                    listed += self._read_page(url, project)
                unique: dict[tuple[str, str], IndexFile] = {}
                for file in map(_add_hash, listed):
                    # The same name with another hash is another file: an index may have its own builds.
                    unique.setdefault((file.filename, file.sha256), file)
                self._listed[project] = tuple(unique.values())
            return self._listed[project]

    def read_metadata(self, file: IndexFile) -> bytes | None:
        """Return a file's METADATA; None for an sdist whose dependencies only a build can tell.

        It comes from the index if served there (PEP 658; the hash is verified), else from the file, of a wheel in
        ranges if the server has them, and is cached by the file's sha256. Raises OutsideError or ProjectError as `http.download_file` does, and ProjectError
        for a file that is no archive.
        """
        record = self.cache.read_record("metadata", file.sha256) if file.sha256 else None
        if record is not None:
            text = record.get("text")
            return text.encode(errors="surrogateescape") if isinstance(text, str) else None
        metadata = None
        if file.has_metadata:
            address = urlsplit(file.url)
            url = urlunsplit(address._replace(path=address.path + ".metadata", fragment=""))
            # A mirror may list PEP 658 metadata that it does not have yet; the file itself has it too.
            answer = http.fetch_answer(
                url, settings=self.settings, sha256=file.metadata_sha256, patience=self._patience
            )
            metadata = answer.content if answer else None
        is_remote = file.url.startswith("http") and not self.find_cached(file)
        if metadata is None and is_remote and file.filename.endswith(".whl"):
            # A resolver asks for many versions: without PEP 658 it would be gigabytes.
            with suppress(io.UnsupportedOperation):
                remote = http.RemoteFile(file.url, settings=self.settings, patience=self._patience)
                metadata = distribution_metadata.read_metadata(io.BufferedReader(remote), file.filename)
        if metadata is None:
            metadata = distribution_metadata.read_metadata(self.fetch_file(file), file.filename)
        if file.sha256:
            text = None if metadata is None else metadata.decode(errors="surrogateescape")
            self.cache.write_record("metadata", file.sha256, {"filename": file.filename, "text": text})
        return metadata

    def fetch_file(self, file: IndexFile) -> Path:
        """Return the verified file, downloaded into the cache unless it is there; a local file is used in place."""
        return http.local_path(file.url) if file.url.startswith("file:") else self.download_file(file)

    def find_cached(self, file: IndexFile) -> Path | None:
        """Return the file in the cache, or None."""
        return self.cache.find_blob(file.sha256, size=file.size) if file.sha256 else None

    def download_file(self, file: IndexFile, advance: Advance | None = None) -> Path:
        """Download a file into the cache, unless it is there, and return its path, whose name is the sha256.

        Raises OutsideError or ProjectError as `http.download_file` does.
        """
        key = file.sha256 or cache_key(redact_urls(file.url))
        with self.cache.hold_lock(key):
            if path := self.find_cached(file):  # another run was faster
                if advance:
                    advance(file.size)
                return path
            part = self.cache.partial_path(key)
            digest = http.download_file(
                file.url,
                part,
                settings=self.settings,
                sha256=file.sha256,
                size=file.size,
                advance=advance,
                patience=self._patience,
            )
            return self.cache.store_file(part, digest)[0]

    def _read_page(self, url: str, project: str) -> tuple[IndexFile, ...]:
        """Return the files of a project on one index."""
        if url.startswith("file:") and not http.local_path(url).is_dir():
            raise _make_missing_folder_error(url)
        host = urlsplit(url).hostname or ""
        # A project that one index lacks is no error, as in pip: another one may have it.
        absent = http.GONE_STATUSES | ({403} if host.endswith(_MISSING_IS_403) else set())
        return self._parse_page(f"{url}/{project}/", absent, project)

    def _list_links(self, location: str) -> tuple[IndexFile, ...]:
        """Return all distributions at one location of find-links; each location is read once."""
        with self._locks[f"find-links {location}"]:
            if location not in self._listed:
                self._listed[location] = self._load_links(location)
            return self._listed[location]

    def _load_links(self, location: str) -> tuple[IndexFile, ...]:
        is_url = "://" in location or location.startswith("file:")
        address = location if is_url else Path(location).absolute().as_uri()
        if urlsplit(address).path.endswith(_SUFFIXES):
            return _list_by_name([address])
        if address.startswith("file:"):
            path = http.local_path(address)
            if path.is_dir():
                return _list_by_name(child.as_uri() for child in sorted(path.iterdir()) if child.is_file())
            if not path.is_file():
                raise _make_missing_folder_error(location)
        return self._parse_page(address, frozenset(), None)

    def _parse_page(self, address: str, absent: frozenset[int], project: str | None) -> tuple[IndexFile, ...]:
        """Read a page, HTML (PEP 503) or JSON (PEP 691), of one project, or of find-links if `project` is None."""
        from pypi_simple import RepositoryPage, UnsupportedRepoVersionError

        answer = http.fetch_answer(
            address,
            settings=self.settings,
            headers={"Accept": _ACCEPT},
            absent=absent,
            patience=self._patience,
        )
        if answer is None:
            return ()
        credentials = urlsplit(address).netloc
        try:
            if answer.kind.endswith("json"):
                # pypi-simple takes seconds for the pages of a freeze: some have 10,000 files.
                data = json.loads(answer.content)
                if not str(data["meta"]["api-version"]).startswith("1."):
                    raise ValueError(f"its version is {data['meta']['api-version']}")
                rows = data["files"]
            else:
                # find-links pages and old mirrors serve plain HTML without the PEP 503 attributes.
                links = RepositoryPage.from_html(answer.content, answer.url, answer.charset).links
                rows = [_read_link(link.url, link.attrs) for link in links]
            listed = [_make_index_file(row, project, answer.url, credentials) for row in rows]
        except (ValueError, KeyError, TypeError, AttributeError, UnsupportedRepoVersionError) as error:
            raise OutsideError(
                f"{redact_urls(answer.url)} is not a package index page that this version can read",
                code="index-page-invalid",
                hint="check the index addresses ('python -m pip config list')",
                details=[redact_urls(str(error))[:300]],
            ) from error
        return tuple(file for file in listed if file and (project is None or file.project == project))


def _make_missing_folder_error(location: str) -> OutsideError:
    return OutsideError(
        f"the package folder '{redact_urls(location)}' does not exist",
        code="package-folder-not-found",
        hint="mount or create it, or remove it from pip's configuration ('python -m pip config list')",
    )


def _list_by_name(addresses: Iterable[str]) -> tuple[IndexFile, ...]:
    """Return the files behind addresses, as far as their names tell."""
    files = (_make_index_file(_read_link(address, {}), None, address, "") for address in addresses)
    return tuple(file for file in files if file)


def _read_link(url: str, attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a link of an HTML page says (PEP 503, 592, 658), as a JSON page would say it."""
    address, _, fragment = url.partition("#")
    metadata = str(attributes.get("data-core-metadata", ""))
    return {
        # pip takes the file name from the address: a link of find-links may have any text.
        "filename": http.url_file_name(address),
        "url": address,
        "hashes": dict([fragment.partition("=")[::2]]),
        "requires-python": attributes.get("data-requires-python"),
        "yanked": "data-yanked" in attributes,
        "core-metadata": dict([metadata.partition("=")[::2]]) if metadata not in ("", "false") else False,
    }


@lru_cache(maxsize=4096)
def _normalize_version(version: str) -> str:
    try:
        return str(Version(version))
    except InvalidVersion:
        return version


def _make_index_file(
    row: Mapping[str, Any], project_hint: str | None, page: str, credentials: str
) -> IndexFile | None:
    """Read a row of a JSON page; None for what is neither a wheel nor an sdist."""
    from pypi_simple import UnparsableFilenameError, parse_filename

    filename = row["filename"]
    if not filename.endswith(_SUFFIXES):
        return None
    try:
        project, version, _ = parse_filename(filename, project_hint)
    except UnparsableFilenameError:
        return None
    url = row["url"] if "://" in row["url"] else urljoin(page, row["url"])
    # Links to the page's own host get its credentials, as in pip; files on other hosts, such as object storage, must
    # not receive the password.
    if "@" in credentials and (parts := urlsplit(url)).netloc == urlsplit(page).netloc.rpartition("@")[2]:
        url = urlunsplit(parts._replace(netloc=credentials))
    metadata = row.get("core-metadata") or row.get("dist-info-metadata") or {}
    return IndexFile(
        project=normalize_name(project),
        version=_normalize_version(version),
        filename=filename,
        url=url,
        sha256=row.get("hashes", {}).get("sha256", "").lower(),
        size=row.get("size") or 0,
        requires_python=row.get("requires-python") or "",
        yanked=row.get("yanked", False) is not False,
        has_metadata=bool(metadata),
        metadata_sha256=metadata.get("sha256", "").lower() if isinstance(metadata, dict) else "",
        upload_time=row.get("upload-time") or "",
    )


def _add_hash(file: IndexFile) -> IndexFile:
    """Add size and hash of a file on this disk."""
    if not file.url.startswith("file:") or file.sha256:
        return file
    path = http.local_path(file.url)
    try:
        return replace(file, size=path.stat().st_size, sha256=files.sha256_of(path))
    except OSError as error:
        raise OutsideError(
            f"cannot read '{path}': {error.strerror}", code="file-unreadable", hint="check its permissions"
        ) from error
