"""Sources that a notebook attaches besides the kit's datasets, and where Kaggle mounts them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from offline_kit.core.errors import UsageError
from offline_kit.project.kaggle_names import SOURCES, is_source_reference

METADATA_KEYS = {"dataset": "dataset_sources", "notebook": "kernel_sources", "model": "model_sources"}
"""Key of kernel-metadata.json for each kind of source."""
_MODEL_WORDS = 5


@dataclass(frozen=True, kw_only=True)
class KaggleSource:
    """Something on Kaggle that a notebook attaches."""

    kind: str  # "dataset", "notebook" (its output) or "model"
    ref: str  # "owner/slug"; for a model "owner/model/framework/variation/version"

    def __str__(self) -> str:
        return f"{self.kind}:{self.ref}"

    def mount_path(self, layout: str) -> str:
        """Return its path in /kaggle/input, in the layout "new" or "old"."""
        if self.kind == "model":
            owner, model, framework, *version_parts = self.ref.split("/")
            # Kaggle mounts "pyTorch" as "pytorch", whatever the case in the metadata.
            inner = "/".join((model, framework.lower(), *version_parts))
            return f"models/{owner}/{inner}" if layout == "new" else inner
        return f"{self.kind}s/{self.ref}" if layout == "new" else self.ref.rpartition("/")[2]


def parse_source(text: str) -> KaggleSource:
    """Parse "dataset:owner/slug", "notebook:owner/slug" or "model:owner/slug/framework/variation/version".

    Raises:
        UsageError: it is something else, such as a URL, or a model without a version.

    """
    kind, _, ref = text.partition(":")
    if kind in METADATA_KEYS and is_source_reference(kind, ref):
        return KaggleSource(kind=kind, ref=ref)
    unpinned = kind == "model" and len(ref.split("/")) == _MODEL_WORDS - 1
    forms = ", ".join(
        f"'{source_kind}:{shape}'"
        for source_kind, (_, shape) in SOURCES.items()
        if source_kind in METADATA_KEYS
    )
    raise UsageError(
        f"the source '{text}' is invalid",
        hint=f"add a version, as in '{text}/1'" if unpinned else f"write {forms}, as in its URL on Kaggle",
        code="source-invalid",
    )


def list_attached_sources(metadata: Mapping[str, Any]) -> tuple[KaggleSource, ...]:
    """Return the sources in kernel-metadata.json, without competitions; a slug without owner stays one."""
    return tuple(
        KaggleSource(kind=kind, ref=str(ref))
        for kind, key in METADATA_KEYS.items()
        for ref in metadata.get(key) or ()
    )


def group_by_metadata_key(sources: Iterable[KaggleSource]) -> dict[str, tuple[str, ...]]:
    """Return the references by their key in kernel-metadata.json."""
    references: dict[str, dict[str, None]] = {key: {} for key in METADATA_KEYS.values()}
    for source in sources:
        references[METADATA_KEYS[source.kind]][source.ref] = None
    return {key: tuple(refs) for key, refs in references.items()}
