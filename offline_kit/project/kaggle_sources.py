"""Where weights and packages may lie besides the kit's own datasets, and where Kaggle mounts each."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from offline_kit.core.errors import UsageError
from offline_kit.project.kaggle_names import SOURCES, is_source_reference

METADATA_KEYS = {"dataset": "dataset_sources", "notebook": "kernel_sources", "model": "model_sources"}
"""Under which key of kernel-metadata.json a source of each kind is attached."""
_MODEL_WORDS = 5


@dataclass(frozen=True, kw_only=True)
class KaggleSource:
    """Something on Kaggle that a notebook attaches."""

    kind: str
    """"dataset", "notebook" (its output) or "model"."""
    ref: str
    """"owner/slug"; for a model "owner/model/framework/variation/version"."""

    def __str__(self) -> str:
        return f"{self.kind}:{self.ref}"

    def mount_path(self, layout: str) -> str:
        """Return where it is mounted below /kaggle/input, in the layout "new" or "old"."""
        if self.kind == "model":
            owner, model, framework, *version_parts = self.ref.split("/")
            # Kaggle writes the framework in lower case there, whatever the metadata says.
            inner = "/".join((model, framework.lower(), *version_parts))
            return f"models/{owner}/{inner}" if layout == "new" else inner
        return f"{self.kind}s/{self.ref}" if layout == "new" else self.ref.rpartition("/")[2]


def parse_source(text: str) -> KaggleSource:
    """Return the source that "dataset:owner/slug", "notebook:owner/slug" or "model:..." means.

    Raises UsageError for anything else: a model without its version, an address, a missing owner.
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
        f"the source '{text}' is not understood",
        hint=f"put the version behind it ('{text}/1'): a model is always attached at one version"
        if unpinned
        else f"write {forms}; the words stand in its address on Kaggle",
    )


def list_attached_sources(metadata: Mapping[str, Any]) -> tuple[KaggleSource, ...]:
    """Return what a kernel-metadata attaches, competitions left out; bare slugs stay without owner."""
    return tuple(
        KaggleSource(kind=kind, ref=str(ref))
        for kind, key in METADATA_KEYS.items()
        for ref in metadata.get(key) or ()
    )


def group_by_metadata_key(sources: Iterable[KaggleSource]) -> dict[str, tuple[str, ...]]:
    """Return the references of each kind by the key of kernel-metadata.json that they belong under."""
    references: dict[str, dict[str, None]] = {key: {} for key in METADATA_KEYS.values()}
    for source in sources:
        references[METADATA_KEYS[source.kind]][source.ref] = None
    return {key: tuple(refs) for key, refs in references.items()}
