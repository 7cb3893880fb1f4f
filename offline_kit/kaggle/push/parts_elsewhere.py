"""Parts of a kit that lie in no dataset: the marker in a version of a model, or in a notebook's output."""

import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from offline_kit.core.errors import ProjectError
from offline_kit.kaggle.client.api_types import Kaggle, RefusedError, Sources
from offline_kit.kit import manifest
from offline_kit.project.kaggle_names import MARKER
from offline_kit.project.types import Part

_MAX_MARKER = 64 << 20
_WORDS = 5  # of a model that is attached: owner/model/framework/variation/version
_BACK = 20  # versions without an output that are passed over


def of_model(kaggle: Kaggle, ref: str, version: int) -> Part | None:
    """Return the part in a version of "owner/model/framework/variation", None where it shows none of ours."""
    if not any(each.name == MARKER for each in kaggle.model_files(ref, version)):
        return None
    return _read(ref, lambda into: kaggle.fetch_model_file(ref, version, MARKER, into))


def of_notebook(kaggle: Kaggle, ref: str) -> Part | None:
    """Return the part in the output of "owner/slug" that is attached, None where it shows none of ours."""
    there = kaggle.notebook(ref)
    version = attached(kaggle, ref, there.current) if there else 0
    return of_output(kaggle, ref, version) if version else None


def of_output(kaggle: Kaggle, ref: str, version: int) -> Part | None:
    """Return the part in the output of a version of "owner/slug", None where it shows none of ours."""
    if MARKER not in kaggle.outputs(ref, version):
        return None
    return _read(ref, lambda into: kaggle.fetch_output(ref, version, MARKER, into))


def attached(kaggle: Kaggle, ref: str, newest: int) -> int:
    """Return the version of "owner/slug" whose output a notebook gets: the newest that ran to its end; 0 for none."""
    for version in range(newest, max(0, newest - _BACK), -1):
        run = kaggle.run(ref, version)
        if run and run.state == "complete":
            return version
    return 0


def lacking(wanted: Mapping[str, str], sources: Sources, kaggle: Kaggle) -> dict[str, str]:
    """Return those of the parts (id by name) that neither models nor notebooks among the sources hold."""
    left = dict(wanted)
    looks: list[Callable[[], Part | None]] = []
    for source in sources.models:
        *words, version = source.split("/")
        if len(words) == _WORDS - 1 and version.isdecimal():
            looks.append(partial(of_model, kaggle, "/".join(words), int(version)))
    for source in sources.notebooks:
        looks.append(partial(of_notebook, kaggle, "/".join(source.split("/")[:2])))
    for look in looks:
        part = look() if left else None
        if part and left.get(part.name) == part.id:
            del left[part.name]
    return left


def _read(ref: str, fetch: Callable[[Path], int]) -> Part | None:
    with tempfile.TemporaryDirectory(prefix="offline-kit-") as folder:
        path = Path(folder) / MARKER
        try:
            if fetch(path) > _MAX_MARKER:
                return None
            return manifest.parse_manifest(path.read_text(encoding="utf-8"), f"{ref}/{MARKER}")
        except (ProjectError, UnicodeDecodeError):
            return None
        except RefusedError as no:
            if no.status != 404:
                raise
            return None  # listed, and not ready to be downloaded
