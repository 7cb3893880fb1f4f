"""Datasets on Kaggle: our questions in the words of its API, its answers in ours."""

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from offline_kit.kaggle.client.api_types import Blob, NewVersion, RemoteDataset, RemoteFile, UnansweredError
from offline_kit.kaggle.client.calls import Asking, flag, number, parts, state, text

_SERVICE = "datasets.DatasetApiService/"
_LICENCE = "unknown"
_STATES = (
    "notyetpersisted",
    "blobsreceived",
    "blobsdecompressed",
    "blobscopiedtosds",
    "individualblobscompressed",
    "ready",
    "failed",
    "deleted",
    "reprocessing",
)
_ENDED = ("ready", "failed", "deleted")


class Datasets(Asking):
    """The part of `nouns.Kaggle` about datasets."""

    def dataset(self, ref: str) -> RemoteDataset | None:
        """Return a dataset, or None where there is none that we may see."""
        answer = self._calls.read_or_none(_SERVICE + "GetDataset", _named(ref))
        if answer is None and (processing := self.status(ref)):
            # While its first version is processed, Kaggle may tell nothing of a dataset but its status.
            if processing not in _ENDED:
                return RemoteDataset(ref=ref, version=0, private=True)
            answer = self._calls.read_or_none(_SERVICE + "GetDataset", _named(ref))
        if answer is None:
            return None
        versions = parts(answer, "versions")
        return RemoteDataset(
            ref=ref,
            version=number(answer, "currentVersionNumber"),
            private=flag(answer, "isPrivate"),
            url=text(answer, "url"),
            notes={number(v, "versionNumber"): text(v, "versionNotes") for v in versions},
        )

    def status(self, ref: str) -> str:
        """Return the processing state as `calls.state` has it, "" where there is no dataset."""
        answer = self._calls.read_or_none(_SERVICE + "GetDatasetStatus", _named(ref))
        return "" if answer is None else state(text(answer, "status"), _STATES)

    def files(
        self, ref: str, version: int | None = None, *, by_folder: bool = False
    ) -> tuple[RemoteFile, ...]:
        """Return all files of a version, sorted by name; `by_folder` asks for each folder alone."""
        body = {**_named(ref), **({"datasetVersionNumber": version} if version else {})}
        if by_folder:
            return tuple(sorted(self._below("", body), key=lambda each: each.name))
        found = [
            _file(raw)
            for page in self._calls.pages(_SERVICE + "ListDatasetFiles", body)
            for raw in parts(page, "datasetFiles")
        ]
        return tuple(sorted(found, key=lambda each: each.name))

    def _below(self, folder: str, body: Mapping[str, Any]) -> Iterator[RemoteFile]:
        for page in self._calls.pages(_SERVICE + "ListTreeDatasetFiles", {**body, "path": folder}):
            for raw in parts(page, "files"):
                yield _file(raw, folder)
            for raw in parts(page, "directories"):
                yield from self._below(_path(raw, folder), body)

    def start_blob(self, name: str, size: int, modified: int, kind: str = "DATASET") -> Blob:
        """Open a place for the bytes of a file of a dataset or a model."""
        body: dict[str, Any] = {"type": kind, "name": name, "lastModifiedEpochSeconds": modified}
        if size:
            body["contentLength"] = size
        answer = self._calls.read("blobs.BlobApiService/StartBlobUpload", body)
        token, url = text(answer, "token"), text(answer, "createUrl")
        if not token or not url:
            raise UnansweredError(
                f"Kaggle gave no place for the bytes of '{name}'", hint="run the same command again"
            )
        return Blob(token=token, url=url)

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
            **tree(new.tokens),
        }
        return text(self._calls.effect(_SERVICE + "CreateDataset", body), "url")

    def add_version(self, new: NewVersion) -> str:
        """Add a version to a dataset and return its page."""
        body = {**_named(new.ref), "body": {"versionNotes": new.notes, **tree(new.tokens)}}
        return text(self._calls.effect(_SERVICE + "CreateDatasetVersion", body), "url")

    def download(self, ref: str, name: str, into: Path, version: int | None = None) -> int:
        """Write one file to `into` and return its size in bytes."""
        body = {**_named(ref), "fileName": name, **({"datasetVersionNumber": version} if version else {})}
        return self._calls.download(_SERVICE + "DownloadDataset", body, into)


def _file(raw: Mapping[str, Any], folder: str = "") -> RemoteFile:
    return RemoteFile(name=_path(raw, folder), size=number(raw, "totalBytes"))


def _path(raw: Mapping[str, Any], folder: str) -> str:
    name = text(raw, "name")
    return f"{folder}/{PurePosixPath(name).name}" if folder else name


def _named(ref: str) -> dict[str, Any]:
    owner, _, slug = ref.partition("/")
    return {"ownerSlug": owner, "datasetSlug": slug}


def tree(tokens: Mapping[str, str]) -> dict[str, Any]:
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
