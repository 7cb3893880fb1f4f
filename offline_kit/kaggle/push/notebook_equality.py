"""Compare a notebook with a version on Kaggle by content, not by the bytes of its JSON.

Kaggle rewrites notebooks: it joins lines, removes outputs and adds metadata. So cells are compared by type
and source, sources and images by name.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields

from offline_kit.kaggle.client.api_types import NewNotebook, NotebookSources, RemoteNotebook

_NO_MACHINE = frozenset({"", "none", "cpu"})
_NO_INTERNET = (
    "verify the account's phone number (kaggle.com/settings), which Kaggle requires for internet access;"
    " then run the same command again"
)
_OTHER_TYPE = "set another `title` in [tool.offline-kit.notebook], and push again: that makes a new notebook"
_SETTINGS = (
    "check the version's settings on its page, then run the same command again: it pushes a new version"
)


@dataclass(frozen=True, kw_only=True)
class NotebookDifference:
    """How a version on Kaggle differs from the notebook."""

    summary: str
    remedy: str = _SETTINGS
    is_exposed: bool = False  # whether others may see the version, or it may use the network: do not wait
    is_rewritten_text: bool = False  # whether Kaggle's rewriting of notebooks may be the cause


def normalise_cells(text: str) -> tuple[tuple[str, str], ...]:
    """Return type and source of every cell; text that is not a notebook counts as one cell."""
    try:
        cells = [
            (str(cell["cell_type"]), "".join(cell.get("source", ""))) for cell in json.loads(text)["cells"]
        ]
    except (ValueError, KeyError, TypeError, RecursionError):
        cells = [("", text)]
    return tuple((kind, source.replace("\r\n", "\n").rstrip("\n")) for kind, source in cells)


def hash_content(notebook: NewNotebook) -> str:
    """Return a hash of everything that distinguishes two versions."""
    facts = {
        "cells": normalise_cells(notebook.text),
        "sources": {kind: sorted(source_refs) for kind, source_refs in asdict(notebook.sources).items()},
        "flags": [notebook.private, notebook.gpu, notebook.machine_shape, notebook.image],
        **({"internet": True} if notebook.internet else {}),
        **({"kernel_type": notebook.kernel_type} if notebook.kernel_type != "notebook" else {}),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def find_all_differences(notebook: NewNotebook, remote: RemoteNotebook) -> tuple[NotebookDifference, ...]:
    """Return how a version on Kaggle differs from the notebook, additional sources included."""
    extra_sources = (
        NotebookDifference(summary=f"the {kind} '{ref}' is attached but no longer needed")
        for kind, ref in _list_missing_sources(remote.sources, notebook.sources)
    )
    return (*find_mismatches(notebook, remote), *extra_sources)


def find_mismatches(notebook: NewNotebook, remote: RemoteNotebook) -> tuple[NotebookDifference, ...]:
    """Return how a version on Kaggle differs from the notebook, apart from additional sources."""
    return tuple(_compare_notebook(notebook, remote))


def _compare_notebook(notebook: NewNotebook, remote: RemoteNotebook) -> Iterator[NotebookDifference]:
    page = remote.url or "its page"
    if remote.internet and not notebook.internet:
        remedy = (
            f"turn it off on {page} (Settings), and verify the account's phone number,"
            " without which Kaggle may reset settings; then run the same command again"
        )
        yield NotebookDifference(summary="its internet access is on", remedy=remedy, is_exposed=True)
    if notebook.internet and not remote.internet:
        yield NotebookDifference(summary="its internet access is off", remedy=_NO_INTERNET)
    if notebook.private and not remote.private:
        remedy = f"make it private at once on {page} (Share)"
        yield NotebookDifference(summary="it is public", remedy=remedy, is_exposed=True)
    if remote.private and not notebook.private:
        yield NotebookDifference(summary="it is private")
    if remote.kernel_type not in ("", notebook.kernel_type):
        summary = f"it is a {remote.kernel_type}, not a {notebook.kernel_type}"
        yield NotebookDifference(summary=summary, remedy=_OTHER_TYPE)
    if normalise_cells(remote.text) != normalise_cells(notebook.text):
        yield NotebookDifference(summary="its cells differ", is_rewritten_text=True)
    site = remote.url.partition("/code/")[0]
    for kind, ref in _list_missing_sources(notebook.sources, remote.sources):
        remedy = suggest_source_fix(kind, ref, site)
        yield NotebookDifference(summary=f"the {kind} '{ref}' is not attached", remedy=remedy)
    yield from _compare_machine(notebook, remote)


def _compare_machine(notebook: NewNotebook, remote: RemoteNotebook) -> Iterator[NotebookDifference]:
    shape, remote_shape = (
        "" if version.machine_shape.lower() in _NO_MACHINE else version.machine_shape.casefold()
        for version in (notebook, remote)
    )
    has_accelerator = bool(notebook.gpu or shape)
    if has_accelerator != bool(remote.gpu or remote_shape):
        summary = "no accelerator" if has_accelerator else "an accelerator that was not requested"
        yield NotebookDifference(summary=f"it has {summary}")
    elif shape and remote_shape and shape != remote_shape:
        summary = f"its machine is '{remote.machine_shape}', not '{notebook.machine_shape}'"
        yield NotebookDifference(summary=summary)
    # Only the digest identifies an image, not its registry or tag.
    digest, remote_digest = (version.image.rpartition("@")[2].casefold() for version in (notebook, remote))
    if digest and digest != remote_digest:
        yield NotebookDifference(
            summary=f"its image is '{remote.image or 'not pinned'}', not '{notebook.image}'",
            remedy="Kaggle may have removed this image: capture the current one ('offline-kit image capture'),"
            " or remove `pin_image`",
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


def _list_missing_sources(expected: NotebookSources, attached: NotebookSources) -> list[tuple[str, str]]:
    """Return kind ("dataset", ...) and name of each source that is not attached in any version."""
    missing = []
    for field in fields(NotebookSources):
        attached_words = [ref.casefold().split("/") for ref in getattr(attached, field.name)]
        for ref in getattr(expected, field.name):
            words = ref.casefold().split("/")
            # A missing version matches any version.
            if not any(words[: len(other)] == other[: len(words)] for other in attached_words):
                missing.append((field.name.removesuffix("s"), ref))
    return missing
