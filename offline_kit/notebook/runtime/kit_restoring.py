"""Put the files of a recording where they lay: at the start of a replay, or when a hub's client is called for them."""

import functools
import os
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from .kit_recording import RecordedObjects, open_replay, resolve_path
from .kit_sources import place_file


def restore_files(document: Mapping[str, Any], objects: RecordedObjects) -> None:
    """Put caches, and files that lay beside the notebook, where they lay; existing files stay."""
    files = (file for file in document["files"] if file["kind"] != "input")  # they are shown
    _place_files((file for file in files if not _comes_with_download(file)), objects)


def _comes_with_download(file: Mapping[str, Any]) -> bool:
    """Whether a hub's client was called to write the file to a folder other than its cache."""
    return file["kind"] == "hub" and not re.search(r"/(models|datasets|spaces)--", file["path"])


def restore_at_download(module: Any) -> None:
    """Let huggingface_hub find what it downloaded to a `local_dir`, from when it is called on.

    Before, the folder may not exist: a cell that makes it, or clones a repository there, would fail.
    """
    for name in ("hf_hub_download", "snapshot_download"):
        download = vars(module).get(name)
        if getattr(download, "__module__", "") == module.__name__:
            setattr(module, name, _restore_before(download))


def _restore_before(download: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(download)
    def restore_and_download(*arguments: Any, **options: Any) -> Any:
        if options.get("local_dir"):
            document, objects = open_replay()
            folder = os.path.abspath(options["local_dir"])  # noqa: PTH100 - `resolve` would follow links
            files = (file for file in document["files"] if _comes_with_download(file))
            _place_files(
                (file for file in files if resolve_path(file["path"]).is_relative_to(folder)), objects
            )
        return download(*arguments, **options)

    return restore_and_download


def _place_files(files: Iterable[Mapping[str, Any]], objects: RecordedObjects) -> None:
    for file in files:
        target = resolve_path(file["path"])
        try:
            place_file(objects.find_object(file["sha256"]), target, file.get("mode", 0))
        except OSError as error:
            print(f"note: cannot restore '{target}': {error}")
