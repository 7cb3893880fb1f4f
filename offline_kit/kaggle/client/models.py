"""Models on Kaggle: a model, its variations by framework, their versions."""

import re
from pathlib import Path
from typing import Any

from offline_kit.kaggle.client.api_types import NewModelVersion, RefusedError, RemoteFile, RemoteModel
from offline_kit.kaggle.client.calls import ABSENT, Asking, flag, number, parts, text
from offline_kit.kaggle.client.datasets import tree

_SERVICE = "models.ModelApiService/"


class Models(Asking):
    """The part of `nouns.Kaggle` about models."""

    def model(self, ref: str) -> RemoteModel | None:
        """Return the model "owner/slug", or None where there is none that we may see."""
        owner, _, slug = ref.partition("/")
        answer = self._calls.read_or_none(_SERVICE + "GetModel", {"ownerSlug": owner, "modelSlug": slug})
        if answer is None:
            return None
        return RemoteModel(ref=ref, private=flag(answer, "isPrivate"), url=text(answer, "url"))

    def model_version(self, ref: str) -> int:
        """Return the newest version of "owner/model/framework/variation", 0 where there is none."""
        answer = self._calls.read_or_none(_SERVICE + "GetModelInstance", _named(ref))
        return number(answer, "versionNumber") if answer else 0

    def model_files(self, ref: str, version: int) -> tuple[RemoteFile, ...]:
        """Return all files of a version of a variation, sorted by name; none while it does not show."""
        body = {**_named(ref), "versionNumber": version}
        try:
            found = [
                RemoteFile(name=text(raw, "name"), size=number(raw, "size"))
                for page in self._calls.pages(_SERVICE + "ListModelInstanceVersionFiles", body)
                for raw in parts(page, "files")
            ]
        except RefusedError as no:
            if no.status not in ABSENT:
                raise
            return ()
        return tuple(sorted(found, key=lambda each: each.name))

    def fetch_model_file(self, ref: str, version: int, name: str, into: Path) -> int:
        """Write one file of a version to `into` and return its size in bytes."""
        body = {**_named(ref), "versionNumber": version, "path": name}
        return self._calls.download(_SERVICE + "DownloadModelInstanceVersion", body, into)

    def create_model(self, ref: str, title: str, notes: str) -> str:
        """Create a private model without variations and return its page."""
        owner, _, slug = ref.partition("/")
        body = {"ownerSlug": owner, "slug": slug, "title": title, "isPrivate": True, "description": notes}
        return text(self._calls.effect(_SERVICE + "CreateModel", body), "url")

    def create_variation(self, new: NewModelVersion) -> str:
        """Create a variation with its first version and return its page.

        No licence is named: Kaggle takes names of its own alone, and that of a private model is nobody's business.
        """
        named = _named(new.ref)
        body = {
            "framework": named.pop("framework"),
            "instanceSlug": named.pop("instanceSlug"),
            "overview": new.notes,
            "fineTunable": False,
            **tree(new.tokens),
        }
        answer = self._calls.effect(_SERVICE + "CreateModelInstance", {**named, "body": body})
        return text(answer, "url")

    def add_model_version(self, new: NewModelVersion) -> str:
        """Add a version to a variation and return its page."""
        body = {**_named(new.ref), "body": {"versionNotes": new.notes, **tree(new.tokens)}}
        return text(self._calls.effect(_SERVICE + "CreateModelInstanceVersion", body), "url")


def _named(ref: str) -> dict[str, Any]:
    owner, model, framework, variation = ref.split("/")[:4]
    return {
        "ownerSlug": owner,
        "modelSlug": model,
        "framework": framework_word(framework),
        "instanceSlug": variation,
    }


def framework_word(framework: str) -> str:
    """Return a framework as requests name it: "pyTorch" is MODEL_FRAMEWORK_PY_TORCH."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Za-z])(?=\d)", "_", framework)
    return f"MODEL_FRAMEWORK_{words.upper()}"
