"""Calls about datasets and models, their files and versions."""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from offline_kit.core.report import Advance
from offline_kit.core.retry import ignore_progress
from offline_kit.kaggle.client.api_types import (
    Blob,
    NewVersion,
    NoResponseError,
    RefusedError,
    RemoteDataset,
    RemoteFile,
    RemoteModel,
)
from offline_kit.kaggle.client.calls import NOT_VISIBLE, Answer, ApiService, parse_state

_DATASETS = "datasets.DatasetApiService/"
_MODELS = "models.ModelApiService/"
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
        answer = self._read_or_none(_DATASETS + "GetDataset", _dataset_fields(ref))
        if answer is None and (processing := self.get_dataset_status(ref)):
            # While the first version is processed, Kaggle may answer for a dataset's status only.
            if processing not in _ENDED:
                return RemoteDataset(ref=ref, version=0, private=True)
            answer = self._read_or_none(_DATASETS + "GetDataset", _dataset_fields(ref))
        if answer is None:
            return None
        versions = answer.objects("versions")
        return RemoteDataset(
            ref=ref,
            version=answer.number("currentVersionNumber"),
            private=answer.flag("isPrivate"),
            url=answer.text("url"),
            version_notes={v.number("versionNumber"): v.text("versionNotes") for v in versions},
        )

    def get_dataset_status(self, ref: str) -> str:
        """Return the processing state in lower case without underscores, "" if there is no dataset."""
        answer = self._read_or_none(_DATASETS + "GetDatasetStatus", _dataset_fields(ref))
        return "" if answer is None else parse_state(answer.text("status"), _STATES)

    def list_dataset_files(
        self, ref: str, version: int | None = None, *, by_folder: bool = False
    ) -> tuple[RemoteFile, ...]:
        """Return all files of a version (None: the current one), sorted by name; `by_folder` sends one request per folder."""
        body = _dataset_fields(ref, version)
        if by_folder:
            return tuple(sorted(self._walk_folder("", body), key=lambda file: file.name))
        raw_files = self._list_items(_DATASETS + "ListDatasetFiles", body, "datasetFiles")
        return _sort_files(raw_files, "totalBytes")

    def _walk_folder(self, folder: str, body: Mapping[str, Any]) -> Iterator[RemoteFile]:
        for page in self._list_pages(_DATASETS + "ListTreeDatasetFiles", {**body, "path": folder}):
            for raw in page.objects("files"):
                yield RemoteFile(name=_join_path(raw, folder), size=raw.number("totalBytes"))
            for raw in page.objects("directories"):
                yield from self._walk_folder(_join_path(raw, folder), body)

    def start_blob(self, name: str, size: int, modified: int, kind: str = "DATASET") -> Blob:
        """Open an upload slot for a file of a "DATASET" or a "MODEL"; idempotent."""
        body: dict[str, Any] = {"type": kind, "name": name, "lastModifiedEpochSeconds": modified}
        if size:
            body["contentLength"] = size
        answer = self._read("blobs.BlobApiService/StartBlobUpload", body)
        token, url = answer.text("token"), answer.text("createUrl")
        if not token or not url:
            raise NoResponseError(
                f"Kaggle returned no upload address for '{name}'", hint="run the same command again"
            )
        return Blob(token=token, url=url)

    def create_dataset(self, new: NewVersion) -> str:
        """Create a private dataset and return its URL. Not idempotent: never retried once it may have had an effect."""
        owner, slug = new.ref.split("/")
        body = {
            "ownerSlug": owner,
            "slug": slug,
            "title": new.title,
            "licenseName": "unknown",
            "isPrivate": True,
            "description": new.version_notes,
            **_build_file_tree(new.blob_tokens),
        }
        return self._send(_DATASETS + "CreateDataset", body).text("url")

    def add_dataset_version(self, new: NewVersion) -> str:
        """Add a version to a dataset and return its URL. Not idempotent: never retried once it may have had an effect."""
        body = {
            **_dataset_fields(new.ref),
            "body": {"versionNotes": new.version_notes, **_build_file_tree(new.blob_tokens)},
        }
        return self._send(_DATASETS + "CreateDatasetVersion", body).text("url")

    def download_dataset_file(
        self,
        ref: str,
        version: int | None,
        name: str,
        target_path: Path,
        advance: Advance = ignore_progress,
    ) -> int:
        """Download one file to `target_path`, which must not exist, and return its size in bytes."""
        body = {**_dataset_fields(ref, version), "fileName": name}
        return self._download(_DATASETS + "DownloadDataset", body, target_path, advance)


class ModelCalls(ApiService):
    """Calls about models."""

    def get_model(self, ref: str) -> RemoteModel | None:
        """Return the model "owner/slug", or None if it does not exist or is not visible to us."""
        owner, _, slug = ref.partition("/")
        answer = self._read_or_none(_MODELS + "GetModel", {"ownerSlug": owner, "modelSlug": slug})
        if answer is None:
            return None
        return RemoteModel(ref=ref, private=answer.flag("isPrivate"), url=answer.text("url"))

    def get_model_version(self, ref: str) -> int:
        """Return the newest version of "owner/model/framework/variation", 0 if there is none."""
        answer = self._read_or_none(_MODELS + "GetModelInstance", _variation_fields(ref))
        return answer.number("versionNumber") if answer else 0

    def list_model_files(self, ref: str, version: int) -> tuple[RemoteFile, ...]:
        """Return all files of a version of a variation, sorted by name; empty while the version is not visible."""
        body = {**_variation_fields(ref), "versionNumber": version}
        try:
            return _sort_files(
                self._list_items(_MODELS + "ListModelInstanceVersionFiles", body, "files"), "size"
            )
        except RefusedError as refusal:
            if refusal.status not in NOT_VISIBLE:
                raise
            return ()

    def download_model_file(
        self, ref: str, version: int, name: str, target_path: Path, advance: Advance = ignore_progress
    ) -> int:
        """Download one file of a version to `target_path`, which must not exist; return its size in bytes."""
        body = {**_variation_fields(ref), "versionNumber": version, "path": name}
        return self._download(_MODELS + "DownloadModelInstanceVersion", body, target_path, advance)

    def create_model(self, ref: str, title: str, notes: str) -> str:
        """Create a private model "owner/slug" without variations and return its URL. Not idempotent."""
        owner, _, slug = ref.partition("/")
        body = {"ownerSlug": owner, "slug": slug, "title": title, "isPrivate": True, "description": notes}
        return self._send(_MODELS + "CreateModel", body).text("url")

    def create_variation(self, new: NewVersion) -> str:
        """Create a variation with its first version and return its URL."""
        # No licence is set: Kaggle accepts only names from its own list, and a private model needs none.
        variation = _variation_fields(new.ref)
        body = {
            "framework": variation.pop("framework"),
            "instanceSlug": variation.pop("instanceSlug"),
            "overview": new.version_notes,
            "fineTunable": False,
            **_build_file_tree(new.blob_tokens),
        }
        answer = self._send(_MODELS + "CreateModelInstance", {**variation, "body": body})
        return answer.text("url")

    def add_model_version(self, new: NewVersion) -> str:
        """Add a version to a variation and return its URL. Not idempotent."""
        body = {
            **_variation_fields(new.ref),
            "body": {"versionNotes": new.version_notes, **_build_file_tree(new.blob_tokens)},
        }
        return self._send(_MODELS + "CreateModelInstanceVersion", body).text("url")


def _sort_files(raw_files: Iterable[Answer], size_field: str) -> tuple[RemoteFile, ...]:
    files = (RemoteFile(name=raw.text("name"), size=raw.number(size_field)) for raw in raw_files)
    return tuple(sorted(files, key=lambda file: file.name))


def _join_path(raw: Answer, folder: str) -> str:
    name = raw.text("name")
    return f"{folder}/{PurePosixPath(name).name}" if folder else name


def _dataset_fields(ref: str, version: int | None = None) -> dict[str, Any]:
    owner, _, slug = ref.partition("/")
    number = {"datasetVersionNumber": version} if version else {}
    return {"ownerSlug": owner, "datasetSlug": slug, **number}


def _build_file_tree(tokens: Mapping[str, str]) -> dict[str, Any]:
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


def _variation_fields(ref: str) -> dict[str, Any]:
    owner, model, framework, variation = ref.split("/")[:4]
    return {
        "ownerSlug": owner,
        "modelSlug": model,
        "framework": framework_name(framework),
        "instanceSlug": variation,
    }


def framework_name(framework: str) -> str:
    """Return a framework's name in requests: "pyTorch" becomes MODEL_FRAMEWORK_PY_TORCH."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Za-z])(?=\d)", "_", framework)
    return f"MODEL_FRAMEWORK_{words.upper()}"
