"""Datasets on Kaggle: our questions in the words of its API, its answers in ours.

Reads are repeated while trouble may pass. What has an effect is sent once, and again only where Kaggle
said that it did nothing (429) or was never reached; whoever gets UnansweredError looks before sending it again.
"""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from offline_kit.errors import OfflineKitError, OutsideError
from offline_kit.kaggle_gateway.nouns import (
    Account,
    Blob,
    NewVersion,
    RefusedError,
    RemoteDataset,
    RemoteFile,
    UnansweredError,
    UnsentError,
)
from offline_kit.kaggle_gateway.session import Session, refusal
from offline_kit.kaggle_gateway.where import Where
from offline_kit.patience import PATIENT, PassingError, Patience, attempts

READ_SECONDS = 60.0
EFFECT_SECONDS = 300.0
"""Creating a dataset of many files takes the service a while."""
DOWNLOAD_SECONDS = 3600.0
PAGE = 200

_DATASETS = "datasets.DatasetApiService"
_ABSENT = frozenset({403, 404})
"""What Kaggle answers for what is not there: to strangers it does not tell private from missing."""
_LICENCE = "unknown"
_T = TypeVar("_T")


class Client:
    """`nouns.Kaggle` over Kaggle's own client."""

    def __init__(
        self,
        where: Where,
        *,
        env: Mapping[str, str] | None = None,
        python: str = sys.executable,
        patience: Patience = PATIENT,
        seconds: float = READ_SECONDS,
        page: int = PAGE,
    ) -> None:
        """`python` runs the client and has the kaggle package; a read may take `seconds`, a listing's page hold `page` files."""
        self._where = where
        self._seconds = seconds
        self._page = page
        self._session = Session(where, env=env, python=python)
        self._patience = patience

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()

    def account(self) -> Account:
        """Return who we are."""
        return self._session.account()

    def proxies(self) -> Mapping[str, str] | None:
        """Return the proxies that the bytes of a blob must take."""
        return self._where.proxies()

    def dataset(self, ref: str) -> RemoteDataset | None:
        """Return a dataset, or None where there is none that we may see."""
        answer = self._read_or_none("GetDataset", _named(ref))
        if answer is None:
            return None
        versions = answer.get("versions") or []
        return RemoteDataset(
            ref=ref,
            version=int(answer.get("currentVersionNumber") or 0),
            private=bool(answer.get("isPrivate")),
            url=str(answer.get("url") or ""),
            notes={int(v.get("versionNumber") or 0): str(v.get("versionNotes") or "") for v in versions},
        )

    def status(self, ref: str) -> str:
        """Return the processing state in lower case without underscores, "" where there is no dataset."""
        answer = self._read_or_none("GetDatasetStatus", _named(ref))
        if answer is None:
            return ""
        # A state that is left out is the first of them, as everywhere in this API.
        return str(answer.get("status") or "NOT_YET_PERSISTED").replace("_", "").lower()

    def files(self, ref: str, version: int | None = None) -> tuple[RemoteFile, ...]:
        """Return all files of a version, sorted by name."""
        found: list[RemoteFile] = []
        body: dict[str, Any] = {**_named(ref), "pageSize": self._page}
        if version:
            body["datasetVersionNumber"] = version
        while True:
            page = self._read("ListDatasetFiles", body)
            if page.get("errorMessage"):
                raise refusal(str(page["errorMessage"]), 200)
            for raw in page.get("datasetFiles") or []:
                found.append(RemoteFile(name=str(raw.get("name", "")), size=int(raw.get("totalBytes") or 0)))
            token = page.get("nextPageToken")
            if not token or token == body.get("pageToken"):
                return tuple(sorted(found, key=lambda each: each.name))
            body["pageToken"] = token

    def start_blob(self, name: str, size: int, modified: int) -> Blob:
        """Open a place for the bytes of a file."""
        body: dict[str, Any] = {"type": "DATASET", "name": name, "lastModifiedEpochSeconds": modified}
        if size:
            body["contentLength"] = size
        answer = self._read("StartBlobUpload", body, service="blobs.BlobApiService")
        if not answer.get("token") or not answer.get("createUrl"):
            raise UnansweredError(
                f"Kaggle gave no place for the bytes of '{name}'", hint="run the same command again"
            )
        return Blob(token=str(answer["token"]), url=str(answer["createUrl"]))

    def create(self, new: NewVersion) -> str:
        """Create a private dataset and return its page."""
        owner, slug = new.ref.split("/")
        body = {
            "ownerSlug": owner,
            "slug": slug,
            "title": new.title,
            "licenseName": _LICENCE,
            "isPrivate": True,
            "description": new.notes,
            **_tree(new.tokens),
        }
        return self._effect("CreateDataset", body)

    def add_version(self, new: NewVersion) -> str:
        """Add a version to a dataset and return its page."""
        body = {**_named(new.ref), "body": {"versionNotes": new.notes, **_tree(new.tokens)}}
        return self._effect("CreateDatasetVersion", body)

    def download(self, ref: str, name: str, into: Path, version: int | None = None) -> int:
        """Write one file to `into` and return its size in bytes."""
        body: dict[str, Any] = {**_named(ref), "fileName": name}
        if version:
            body["datasetVersionNumber"] = version
        request = {"service": _DATASETS, "method": "DownloadDataset", "body": body, "into": str(into)}

        def fetch() -> Any:
            into.unlink(missing_ok=True)
            return self._session.ask("download", request, deadline=DOWNLOAD_SECONDS)

        return int(self._patiently(fetch, _may_pass)["size"])

    def _read_or_none(self, method: str, body: Mapping[str, Any]) -> Any:
        try:
            return self._read(method, body)
        except RefusedError as no:
            if no.status in _ABSENT:
                return None
            raise

    def _read(self, method: str, body: Mapping[str, Any], *, service: str = _DATASETS) -> Any:
        request = {"service": service, "method": method, "body": body}
        return self._patiently(lambda: self._session.ask("call", request, deadline=self._seconds), _may_pass)

    def _effect(self, method: str, body: Mapping[str, Any]) -> str:
        request = {"service": _DATASETS, "method": method, "body": body}
        answer = self._patiently(
            lambda: self._session.ask("call", request, deadline=EFFECT_SECONDS), _had_no_effect
        )
        # A refusal comes with status 200, and the client would call it a success.
        if answer.get("error") or str(answer.get("status") or "ok").lower() != "ok":
            raise refusal(str(answer.get("error") or f"the request ended as '{answer['status']}'"), 200)
        return str(answer.get("url") or "")

    def _patiently(self, act: Callable[[], _T], may_pass: Callable[[Exception], bool]) -> _T:
        for attempt in attempts(self._patience, may_pass=may_pass, give_up=_give_up):
            with attempt:
                try:
                    return act()
                except RefusedError as no:
                    if no.after is not None and may_pass(no):
                        raise PassingError(no.what, no.after) from no
                    raise
        raise AssertionError("unreachable")


def _may_pass(error: Exception) -> bool:
    if isinstance(error, RefusedError):
        return error.status == 429 or error.status >= 500
    return isinstance(error, UnansweredError | UnsentError)


def _had_no_effect(error: Exception) -> bool:
    return isinstance(error, UnsentError) or (isinstance(error, RefusedError) and error.status == 429)


def _give_up(trouble: Exception) -> OfflineKitError:
    cause = trouble.__cause__ if isinstance(trouble, PassingError) else trouble
    if isinstance(cause, OfflineKitError):
        return cause
    return OutsideError(str(trouble), hint="run the same command again later")


def _named(ref: str) -> dict[str, str]:
    owner, _, slug = ref.partition("/")
    return {"ownerSlug": owner, "datasetSlug": slug}


def _tree(tokens: Mapping[str, str]) -> dict[str, Any]:
    """Return files and folders as Kaggle takes them: `files` here, `directories` of the same shape below."""
    top: dict[str, Any] = {"files": [], "directories": []}
    folders = {"": top}

    def folder(path: PurePosixPath) -> dict[str, Any]:
        key = "" if str(path) == "." else str(path)
        if key not in folders:
            folders[key] = {"name": path.name, "files": [], "directories": []}
            folder(path.parent)["directories"].append(folders[key])
        return folders[key]

    for name, token in sorted(tokens.items()):
        folder(PurePosixPath(name).parent)["files"].append({"token": token})
    return top
