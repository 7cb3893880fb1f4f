"""Whether a version of a notebook is the one that we want: by what counts, not by the bytes of its JSON.

Kaggle writes a notebook anew: it joins lines, drops outputs, adds metadata. So cells are compared by type
and source, sources and images by what they name.
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
    "verify the account's phone number (kaggle.com/settings): without that Kaggle gives a notebook no internet;"
    " then run the same command again"
)
_SETTINGS = "look at the settings of this version on its page, then run the same command again: it pushes a new version"


@dataclass(frozen=True, kw_only=True)
class NotebookDifference:
    """Something about a version that is not as it was wanted."""

    summary: str
    """What it is, for a person."""
    remedy: str = _SETTINGS
    """What to do about it."""
    is_exposed: bool = False
    """Whether it is no matter of waiting: others may see it, or it may use the network."""
    is_rewritten_text: bool = False
    """Whether it may come of the way in which Kaggle writes notebooks: a text that we cannot foresee."""


def normalise_cells(text: str) -> tuple[tuple[str, str], ...]:
    """Return type and source of every cell; text that is no notebook counts as a single one."""
    try:
        found = json.loads(text)["cells"]
        return tuple(
            (str(cell["cell_type"]), _normalise_source("".join(cell.get("source", "")))) for cell in found
        )
    except (ValueError, KeyError, TypeError):
        return (("", _normalise_source(text)),)


def hash_content(new: NewNotebook) -> str:
    """Return the hash over all that makes one version differ from another."""
    told = {
        "cells": normalise_cells(new.text),
        "sources": {kind: sorted(each) for kind, each in asdict(new.sources).items()},
        "flags": [new.private, new.gpu, new.machine_shape, new.image],
        **({"internet": True} if new.internet else {}),
    }
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def find_mismatches(new: NewNotebook, there: RemoteNotebook) -> tuple[NotebookDifference, ...]:
    """Return what a version on Kaggle has not as `new` wants it; sources beyond those count in `extra`."""
    found = []
    if there.internet and not new.internet:
        found.append(
            NotebookDifference(
                summary="its internet is on", remedy=_suggest_internet_off(there), is_exposed=True
            )
        )
    if new.internet and not there.internet:
        found.append(NotebookDifference(summary="its internet is off", remedy=_NO_INTERNET))
    if there.private != new.private:
        what = "everybody may see it" if new.private else "it is private"
        remedy = f"make it private at once on {there.url or 'its page'} (Share)" if new.private else _SETTINGS
        found.append(NotebookDifference(summary=what, remedy=remedy, is_exposed=new.private))
    if normalise_cells(there.text) != normalise_cells(new.text):
        found.append(NotebookDifference(summary="its cells are others", is_rewritten_text=True))
    site = there.url.partition("/code/")[0]
    found += [
        NotebookDifference(
            summary=f"the {kind} '{ref}' is not attached", remedy=suggest_source_fix(kind, ref, site)
        )
        for kind, ref in _list_missing_sources(new.sources, there.sources)
    ]
    return (*found, *_compare_accelerator(new, there), *_compare_image(new, there))


def find_extra_sources(new: NewNotebook, there: RemoteNotebook) -> tuple[NotebookDifference, ...]:
    """Return the sources that a version has besides those that are wanted."""
    return tuple(
        NotebookDifference(summary=f"the {kind} '{ref}' is attached and not wanted any more")
        for kind, ref in _list_missing_sources(there.sources, new.sources)
    )


def suggest_source_fix(kind: str, ref: str, site: str) -> str:
    """Return what to do about a source that the Kaggle whose pages are at `site` does not attach."""
    remedies = {
        "dataset": "see that it is ready ('offline-kit push' waits for the kit's), and yours or public",
        "competition": f"see that it is called so, and accept its rules at {site}/competitions/{ref}/rules",
        "notebook": "see that it has a run that is finished, and is yours or public",
        "model": f"see that this version exists, and accept its licence at {site}/models/{ref}",
    }
    remedy = remedies.get(kind, "see that it is there, and that this account may use it")
    if not site.startswith("http://127.0.0.1"):
        return remedy
    # A local Kaggle has nothing of other people's.
    return remedy + (
        "; a local Kaggle knows the folders that have a competition.toml (docs/guide/local-kaggle.md)"
        if kind == "competition"
        else f'; for a local Kaggle, name a folder under `copies`: "{kind}:{ref}" = "FOLDER"'
    )


def _suggest_internet_off(there: RemoteNotebook) -> str:
    return (
        f"turn it off on {there.url or 'its page'} (Settings), and verify the account's phone number:"
        " without that Kaggle may change settings; then run the same command again"
    )


def _normalise_source(source: str) -> str:
    return source.replace("\r\n", "\n").rstrip("\n")


def _list_missing_sources(wanted: NotebookSources, have: NotebookSources) -> list[tuple[str, str]]:
    return [
        (KINDS[field.name], ref)
        for field in fields(NotebookSources)
        for ref in getattr(wanted, field.name)
        if not _is_among(ref, getattr(have, field.name))
    ]


def _is_among(ref: str, others: Collection[str]) -> bool:
    """Tell whether a source is among others, one of which may say its version where the other does not."""
    mine = ref.casefold().split("/")
    return any(
        all(one == two for one, two in zip(mine, other.casefold().split("/"), strict=False))
        for other in others
    )


def _compare_accelerator(new: NewNotebook, there: RemoteNotebook) -> tuple[NotebookDifference, ...]:
    wanted, have = (
        each.machine_shape if each.machine_shape.lower() not in _NO_MACHINE else "" for each in (new, there)
    )
    if bool(new.gpu or wanted) != bool(there.gpu or have):
        what = (
            "it has no accelerator" if new.gpu or wanted else "it has an accelerator that was not asked for"
        )
        return (NotebookDifference(summary=what),)
    if wanted and have and wanted.casefold() != have.casefold():
        return (NotebookDifference(summary=f"its machine is '{have}', not '{wanted}'"),)
    return ()


def _compare_image(new: NewNotebook, there: RemoteNotebook) -> tuple[NotebookDifference, ...]:
    wanted, have = (each.image.rpartition("@")[2].casefold() for each in (new, there))
    if not wanted or wanted == have:
        return ()
    return (
        NotebookDifference(
            summary=f"its image is '{there.image or 'not pinned'}', not '{new.image}'",
            remedy="Kaggle may have retired this image: capture the one of today ('offline-kit image capture'),"
            " or remove `pin_image`",
        ),
    )
