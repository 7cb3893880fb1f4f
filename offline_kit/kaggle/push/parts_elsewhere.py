"""Parts of a kit that lie in no dataset: the marker in a version of a model, or in a notebook's output."""

import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from offline_kit.core.errors import ProjectError
from offline_kit.kaggle.client.api_types import KaggleApi, NotebookSources, RefusedError
from offline_kit.kit import manifest
from offline_kit.project.kaggle_names import MARKER
from offline_kit.project.types import KitPart

_MAX_MARKER = 64 << 20
_WORDS = 5  # of a model that is attached: owner/model/framework/variation/version
_BACK = 20  # versions without an output that are passed over


def read_model_part(kaggle: KaggleApi, ref: str, version: int) -> KitPart | None:
    """Return the part in a version of "owner/model/framework/variation", None where it shows none of ours."""
    if not any(file.name == MARKER for file in kaggle.list_model_files(ref, version)):
        return None
    return _read_marker(
        ref, lambda target_path: kaggle.download_model_file(ref, version, MARKER, target_path)
    )


def read_notebook_part(kaggle: KaggleApi, ref: str) -> KitPart | None:
    """Return the part in the output of "owner/slug" that is attached, None where it shows none of ours."""
    notebook = kaggle.get_notebook(ref)
    version = find_attached_version(kaggle, ref, notebook.newest_version) if notebook else 0
    return read_output_part(kaggle, ref, version) if version else None


def read_output_part(kaggle: KaggleApi, ref: str, version: int) -> KitPart | None:
    """Return the part in the output of a version of "owner/slug", None where it shows none of ours."""
    if MARKER not in kaggle.list_run_outputs(ref, version):
        return None
    return _read_marker(
        ref, lambda target_path: kaggle.download_run_output(ref, version, MARKER, target_path)
    )


def find_attached_version(kaggle: KaggleApi, ref: str, newest: int) -> int:
    """Return the version of "owner/slug" whose output a notebook gets: the newest that ran to its end; 0 for none."""
    for version in range(newest, max(0, newest - _BACK), -1):
        run = kaggle.get_notebook_run(ref, version)
        if run and run.state == "complete":
            return version
    return 0


def find_missing_parts(
    part_ids: Mapping[str, str], sources: NotebookSources, kaggle: KaggleApi
) -> dict[str, str]:
    """Return those of the parts (id by name) that neither models nor notebooks among the sources hold."""
    missing_ids = dict(part_ids)
    readers: list[Callable[[], KitPart | None]] = []
    for source in sources.models:
        *words, version = source.split("/")
        if len(words) == _WORDS - 1 and version.isdecimal():
            readers.append(partial(read_model_part, kaggle, "/".join(words), int(version)))
    for source in sources.notebooks:
        readers.append(partial(read_notebook_part, kaggle, "/".join(source.split("/")[:2])))
    for read_part in readers:
        part = read_part() if missing_ids else None
        if part and missing_ids.get(part.name) == part.id:
            del missing_ids[part.name]
    return missing_ids


def _read_marker(ref: str, fetch: Callable[[Path], int]) -> KitPart | None:
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
