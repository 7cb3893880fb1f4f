"""Calls about models, their variations (one per framework) and versions."""

import re
from pathlib import Path
from typing import Any

from offline_kit.kaggle.client.api_types import NewModelVersion, RefusedError, RemoteFile, RemoteModel
from offline_kit.kaggle.client.calls import (
    NOT_VISIBLE,
    ApiService,
    get_flag,
    get_number,
    get_objects,
    get_text,
)
from offline_kit.kaggle.client.datasets import build_file_tree

_SERVICE = "models.ModelApiService/"


class ModelCalls(ApiService):
    """Calls about models."""

    def get_model(self, ref: str) -> RemoteModel | None:
        """Return the model "owner/slug", or None if it does not exist or is not visible to us."""
        owner, _, slug = ref.partition("/")
        answer = self._caller.call_read_or_none(
            _SERVICE + "GetModel", {"ownerSlug": owner, "modelSlug": slug}
        )
        if answer is None:
            return None
        return RemoteModel(ref=ref, private=get_flag(answer, "isPrivate"), url=get_text(answer, "url"))

    def get_model_version(self, ref: str) -> int:
        """Return the newest version of "owner/model/framework/variation", 0 if there is none."""
        answer = self._caller.call_read_or_none(_SERVICE + "GetModelInstance", _variation_fields(ref))
        return get_number(answer, "versionNumber") if answer else 0

    def list_model_files(self, ref: str, version: int) -> tuple[RemoteFile, ...]:
        """Return all files of a version of a variation, sorted by name; empty while the version is not visible."""
        body = {**_variation_fields(ref), "versionNumber": version}
        try:
            model_files = [
                RemoteFile(name=get_text(raw, "name"), size=get_number(raw, "size"))
                for page in self._caller.iterate_pages(_SERVICE + "ListModelInstanceVersionFiles", body)
                for raw in get_objects(page, "files")
            ]
        except RefusedError as refusal:
            if refusal.status not in NOT_VISIBLE:
                raise
            return ()
        return tuple(sorted(model_files, key=lambda file: file.name))

    def download_model_file(self, ref: str, version: int, name: str, target_path: Path) -> int:
        """Download one file of a version to `target_path`, which must not exist; return its size in bytes."""
        body = {**_variation_fields(ref), "versionNumber": version, "path": name}
        return self._caller.download_file(_SERVICE + "DownloadModelInstanceVersion", body, target_path)

    def create_model(self, ref: str, title: str, notes: str) -> str:
        """Create a private model "owner/slug" without variations and return its URL. Not idempotent."""
        owner, _, slug = ref.partition("/")
        body = {"ownerSlug": owner, "slug": slug, "title": title, "isPrivate": True, "description": notes}
        return get_text(self._caller.call_effect(_SERVICE + "CreateModel", body), "url")

    def create_variation(self, new: NewModelVersion) -> str:
        """Create a variation with its first version and return its URL.

        No licence is set: Kaggle accepts only names from its own list, and a private model needs none.
        """
        variation = _variation_fields(new.ref)
        body = {
            "framework": variation.pop("framework"),
            "instanceSlug": variation.pop("instanceSlug"),
            "overview": new.version_notes,
            "fineTunable": False,
            **build_file_tree(new.blob_tokens),
        }
        answer = self._caller.call_effect(_SERVICE + "CreateModelInstance", {**variation, "body": body})
        return get_text(answer, "url")

    def add_model_version(self, new: NewModelVersion) -> str:
        """Add a version to a variation and return its URL. Not idempotent."""
        body = {
            **_variation_fields(new.ref),
            "body": {"versionNotes": new.version_notes, **build_file_tree(new.blob_tokens)},
        }
        return get_text(self._caller.call_effect(_SERVICE + "CreateModelInstanceVersion", body), "url")


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
