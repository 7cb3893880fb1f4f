"""Compare a notebook with a version on Kaggle by content, not by the bytes of its JSON.

Kaggle rewrites notebooks: it joins lines, removes outputs and adds metadata. So cells are compared by type
and source, sources and images by name.
"""

import hashlib
import json
from collections.abc import Collection
from dataclasses import asdict, dataclass, fields

from offline_kit.kaggle.client.api_types import NewNotebook, NotebookSources, RemoteNotebook

KINDS = {
    "datasets": "dataset",
    "competitions": "competition",
    "notebooks": "notebook",
    "models": "model",
}
"""What the fields of `Sources` hold, one of each."""
_NO_MACHINE = frozenset({"", "none", "cpu"})
_NO_INTERNET = (
    "verify the account's phone number (kaggle.com/settings), which Kaggle requires for internet access;"
    " then run the same command again"
)
_SETTINGS = (
    "check the version's settings on its page, then run the same command again: it pushes a new version"
)


@dataclass(frozen=True, kw_only=True)
class NotebookDifference:
    """How a version on Kaggle differs from the notebook."""

    summary: str
    remedy: str = _SETTINGS
    is_exposed: bool = False
    """Whether others may see the version, or it may use the network: do not wait."""
    is_rewritten_text: bool = False
    """Whether Kaggle's rewriting of notebooks may be the cause."""


def normalise_cells(text: str) -> tuple[tuple[str, str], ...]:
    """Return type and source of every cell; text that is not a notebook counts as one cell."""
    try:
        raw_cells = json.loads(text)["cells"]
        return tuple(
            (str(cell["cell_type"]), _normalise_source("".join(cell.get("source", "")))) for cell in raw_cells
        )
    except (ValueError, KeyError, TypeError):
        return (("", _normalise_source(text)),)


def hash_content(notebook: NewNotebook) -> str:
    """Return a hash of everything that distinguishes two versions."""
    facts = {
        "cells": normalise_cells(notebook.text),
        "sources": {kind: sorted(source_refs) for kind, source_refs in asdict(notebook.sources).items()},
        "flags": [notebook.private, notebook.gpu, notebook.machine_shape, notebook.image],
        **({"internet": True} if notebook.internet else {}),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def find_mismatches(notebook: NewNotebook, remote: RemoteNotebook) -> tuple[NotebookDifference, ...]:
    """Return how a version on Kaggle differs from the notebook, apart from additional sources."""
    mismatches = []
    if remote.internet and not notebook.internet:
        mismatches.append(
            NotebookDifference(
                summary="its internet access is on", remedy=_suggest_internet_off(remote), is_exposed=True
            )
        )
    if notebook.internet and not remote.internet:
        mismatches.append(NotebookDifference(summary="its internet access is off", remedy=_NO_INTERNET))
    if remote.private != notebook.private:
        summary = "it is public" if notebook.private else "it is private"
        remedy = (
            f"make it private at once on {remote.url or 'its page'} (Share)"
            if notebook.private
            else _SETTINGS
        )
        mismatches.append(NotebookDifference(summary=summary, remedy=remedy, is_exposed=notebook.private))
    if normalise_cells(remote.text) != normalise_cells(notebook.text):
        mismatches.append(NotebookDifference(summary="its cells differ", is_rewritten_text=True))
    site = remote.url.partition("/code/")[0]
    mismatches += [
        NotebookDifference(
            summary=f"the {kind} '{ref}' is not attached", remedy=suggest_source_fix(kind, ref, site)
        )
        for kind, ref in _list_missing_sources(notebook.sources, remote.sources)
    ]
    return (*mismatches, *_compare_accelerator(notebook, remote), *_compare_image(notebook, remote))


def find_extra_sources(notebook: NewNotebook, remote: RemoteNotebook) -> tuple[NotebookDifference, ...]:
    """Return the sources of a version that the notebook does not ask for."""
    return tuple(
        NotebookDifference(summary=f"the {kind} '{ref}' is attached but no longer needed")
        for kind, ref in _list_missing_sources(remote.sources, notebook.sources)
    )


def suggest_source_fix(kind: str, ref: str, site: str) -> str:
    """Return the fix for a source that the Kaggle at `site` did not attach."""
    remedies = {
        "dataset": "check that it is ready ('offline-kit push' waits for the kit's datasets) and visible to this account",
        "competition": f"check its name, and accept its rules at {site}/competitions/{ref}/rules",
        "notebook": "check that it has a complete run and is visible to this account",
        "model": f"check that this version exists, and accept its license at {site}/models/{ref}",
    }
    remedy = remedies.get(kind, "check that it exists and that this account may use it")
    if not site.startswith("http://127.0.0.1"):
        return remedy
    # A local Kaggle has only what the user put there.
    return remedy + (
        "; a local Kaggle knows the folders that have a competition.toml (docs/guide/local-kaggle.md)"
        if kind == "competition"
        else f'; for a local Kaggle, name a folder under `copies`: "{kind}:{ref}" = "FOLDER"'
    )


def _suggest_internet_off(remote: RemoteNotebook) -> str:
    return (
        f"turn it off on {remote.url or 'its page'} (Settings), and verify the account's phone number,"
        " without which Kaggle may reset settings; then run the same command again"
    )


def _normalise_source(source: str) -> str:
    return source.replace("\r\n", "\n").rstrip("\n")


def _list_missing_sources(expected: NotebookSources, attached: NotebookSources) -> list[tuple[str, str]]:
    return [
        (KINDS[field.name], ref)
        for field in fields(NotebookSources)
        for ref in getattr(expected, field.name)
        if not _is_among(ref, getattr(attached, field.name))
    ]


def _is_among(ref: str, candidates: Collection[str]) -> bool:
    """Tell whether a source is among others; a missing version matches any version."""
    ref_words = ref.casefold().split("/")
    return any(
        all(
            word == other_word
            for word, other_word in zip(ref_words, candidate.casefold().split("/"), strict=False)
        )
        for candidate in candidates
    )


def _compare_accelerator(notebook: NewNotebook, remote: RemoteNotebook) -> tuple[NotebookDifference, ...]:
    expected_shape, remote_shape = (
        version.machine_shape if version.machine_shape.lower() not in _NO_MACHINE else ""
        for version in (notebook, remote)
    )
    if bool(notebook.gpu or expected_shape) != bool(remote.gpu or remote_shape):
        summary = (
            "it has no accelerator"
            if notebook.gpu or expected_shape
            else "it has an accelerator that was not requested"
        )
        return (NotebookDifference(summary=summary),)
    if expected_shape and remote_shape and expected_shape.casefold() != remote_shape.casefold():
        return (NotebookDifference(summary=f"its machine is '{remote_shape}', not '{expected_shape}'"),)
    return ()


def _compare_image(notebook: NewNotebook, remote: RemoteNotebook) -> tuple[NotebookDifference, ...]:
    expected_digest, remote_digest = (
        version.image.rpartition("@")[2].casefold() for version in (notebook, remote)
    )
    if not expected_digest or expected_digest == remote_digest:
        return ()
    return (
        NotebookDifference(
            summary=f"its image is '{remote.image or 'not pinned'}', not '{notebook.image}'",
            remedy="Kaggle may have removed this image: capture the current one ('offline-kit image capture'),"
            " or remove `pin_image`",
        ),
    )
