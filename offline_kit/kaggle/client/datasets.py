"""Calls about datasets."""

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from offline_kit.kaggle.client.api_types import (
    Blob,
    NewDatasetVersion,
    NoResponseError,
    RemoteDataset,
    RemoteFile,
)
from offline_kit.kaggle.client.calls import (
    ApiService,
    get_flag,
    get_number,
    get_objects,
    get_text,
    parse_state,
)

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


class DatasetCalls(ApiService):
    """Calls about datasets."""

    def get_dataset(self, ref: str) -> RemoteDataset | None:
        """Return a dataset, or None if it does not exist or is not visible to us."""
        answer = self._caller.call_read_or_none(_SERVICE + "GetDataset", _dataset_fields(ref))
        if answer is None and (processing := self.get_dataset_status(ref)):
            # While the first version is processed, Kaggle may answer for a dataset's status only.
            if processing not in _ENDED:
                return RemoteDataset(ref=ref, version=0, private=True)
            answer = self._caller.call_read_or_none(_SERVICE + "GetDataset", _dataset_fields(ref))
        if answer is None:
            return None
        versions = get_objects(answer, "versions")
        return RemoteDataset(
            ref=ref,
            version=get_number(answer, "currentVersionNumber"),
            private=get_flag(answer, "isPrivate"),
            url=get_text(answer, "url"),
            version_notes={get_number(v, "versionNumber"): get_text(v, "versionNotes") for v in versions},
        )

    def get_dataset_status(self, ref: str) -> str:
        """Return the processing state in lower case without underscores, "" if there is no dataset."""
        answer = self._caller.call_read_or_none(_SERVICE + "GetDatasetStatus", _dataset_fields(ref))
        return "" if answer is None else parse_state(get_text(answer, "status"), _STATES)

    def list_dataset_files(
        self, ref: str, version: int | None = None, *, by_folder: bool = False
    ) -> tuple[RemoteFile, ...]:
        """Return all files of a version (None: the current one), sorted by name; `by_folder` sends one request per folder."""
        body = {**_dataset_fields(ref), **({"datasetVersionNumber": version} if version else {})}
        if by_folder:
            return tuple(sorted(self._walk_folder("", body), key=lambda file: file.name))
        listed_files = [
            _parse_file(raw)
            for page in self._caller.iterate_pages(_SERVICE + "ListDatasetFiles", body)
            for raw in get_objects(page, "datasetFiles")
        ]
        return tuple(sorted(listed_files, key=lambda file: file.name))

    def _walk_folder(self, folder: str, body: Mapping[str, Any]) -> Iterator[RemoteFile]:
        for page in self._caller.iterate_pages(_SERVICE + "ListTreeDatasetFiles", {**body, "path": folder}):
            for raw in get_objects(page, "files"):
                yield _parse_file(raw, folder)
            for raw in get_objects(page, "directories"):
                yield from self._walk_folder(_join_path(raw, folder), body)

    def start_blob(self, name: str, size: int, modified: int, kind: str = "DATASET") -> Blob:
        """Open an upload slot for a file of a "DATASET" or a "MODEL"; idempotent."""
        body: dict[str, Any] = {"type": kind, "name": name, "lastModifiedEpochSeconds": modified}
        if size:
            body["contentLength"] = size
        answer = self._caller.call_read("blobs.BlobApiService/StartBlobUpload", body)
        token, url = get_text(answer, "token"), get_text(answer, "createUrl")
        if not token or not url:
            raise NoResponseError(
                f"Kaggle returned no upload address for '{name}'", hint="run the same command again"
            )
        return Blob(token=token, url=url)

    def create_dataset(self, new: NewDatasetVersion) -> str:
        """Create a private dataset and return its URL. Not idempotent: never retried once it may have had an effect."""
        owner, slug = new.ref.split("/")
        body = {
            "ownerSlug": owner,
            "slug": slug,
            "title": new.title,
            "licenseName": _LICENCE,
            "isPrivate": True,
            "description": new.version_notes,
            **build_file_tree(new.blob_tokens),
        }
        return get_text(self._caller.call_effect(_SERVICE + "CreateDataset", body), "url")

    def add_dataset_version(self, new: NewDatasetVersion) -> str:
        """Add a version to a dataset and return its URL. Not idempotent: never retried once it may have had an effect."""
        body = {
            **_dataset_fields(new.ref),
            "body": {"versionNotes": new.version_notes, **build_file_tree(new.blob_tokens)},
        }
        return get_text(self._caller.call_effect(_SERVICE + "CreateDatasetVersion", body), "url")

    def download_dataset_file(
        self, ref: str, name: str, target_path: Path, version: int | None = None
    ) -> int:
        """Download one file to `target_path`, which must not exist, and return its size in bytes."""
        body = {
            **_dataset_fields(ref),
            "fileName": name,
            **({"datasetVersionNumber": version} if version else {}),
        }
        return self._caller.download_file(_SERVICE + "DownloadDataset", body, target_path)


def _parse_file(raw: Mapping[str, Any], folder: str = "") -> RemoteFile:
    return RemoteFile(name=_join_path(raw, folder), size=get_number(raw, "totalBytes"))


def _join_path(raw: Mapping[str, Any], folder: str) -> str:
    name = get_text(raw, "name")
    return f"{folder}/{PurePosixPath(name).name}" if folder else name


def _dataset_fields(ref: str) -> dict[str, Any]:
    owner, _, slug = ref.partition("/")
    return {"ownerSlug": owner, "datasetSlug": slug}


def build_file_tree(tokens: Mapping[str, str]) -> dict[str, Any]:
    """Return files and folders as Kaggle's API takes them: `files` and nested `directories`."""
    top: dict[str, Any] = {"files": [], "directories": []}
    folders = {"": top}

    def get_folder(path: PurePosixPath) -> dict[str, Any]:
        key = "" if str(path) == "." else str(path)
        if key not in folders:
            folders[key] = {"name": path.name, "files": [], "directories": []}
            get_folder(path.parent)["directories"].append(folders[key])
        return folders[key]

    for name, token in sorted(tokens.items()):
        get_folder(PurePosixPath(name).parent)["files"].append({"token": token})
    return top
