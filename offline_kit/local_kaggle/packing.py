"""Archives of folders and of single files, made when they are first asked for."""

import tarfile
import threading
import zipfile
from collections.abc import Iterable
from pathlib import Path

from offline_kit.core import files

_LOCK = threading.Lock()
_PACKED = (".zip", ".gz", ".bz2", ".xz", ".7z", ".rar", ".png", ".jpg", ".jpeg", ".parquet")
"""Suffixes of what becomes no smaller: never wrapped."""


def pack_folder(folder: Path, final: Path, names: Iterable[Path] | None = None) -> Path:
    """Return `final`, a .zip or .tar.gz of a folder that no longer changes, or of these files of it."""
    with _LOCK:
        if not final.exists():
            final.parent.mkdir(parents=True, exist_ok=True)
            part = final.with_suffix(".part")
            paths = files.list_tree(folder) if names is None else names
            if final.name.endswith(".tar.gz"):
                with tarfile.open(part, "w:gz", compresslevel=1) as tar:
                    for path in paths:
                        tar.add(folder / path, path.as_posix(), recursive=False)
            else:
                kind = zipfile.ZIP_STORED if names is None else zipfile.ZIP_DEFLATED
                with zipfile.ZipFile(part, "w", kind, strict_timestamps=False) as zipped:
                    for path in paths:
                        zipped.write(folder / path, path.as_posix() if names is None else path.name)
            part.replace(final)
    return final


def wrap_file(folder: Path, name: Path, beside: Path, size: int) -> Path:
    """Return one file of a folder as it is sent: NAME.zip, made below `beside`, for one of so many bytes."""
    path = folder / name
    if path.stat().st_size < size or path.suffix.lower() in _PACKED:
        return path
    return pack_folder(folder, beside / f"{name.as_posix()}.zip", (name,))
