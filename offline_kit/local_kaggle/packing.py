"""Folders as one zip, made when they are first asked for."""

import threading
import zipfile
from pathlib import Path

from offline_kit import files

_LOCK = threading.Lock()


def packed(folder: Path, final: Path) -> Path:
    """Return `final`, a zip of all files of a folder that no longer changes."""
    with _LOCK:
        if not final.exists():
            part = final.with_suffix(".part")
            with zipfile.ZipFile(part, "w", strict_timestamps=False) as zipped:
                for path in files.tree(folder):
                    zipped.write(folder / path, path.as_posix())
            part.replace(final)
    return final
