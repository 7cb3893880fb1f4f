"""What the folders of a box hold while it runs: a limit on this machine's disk would need a file system of its own."""

import math
import os
import stat
import time
from contextlib import suppress
from pathlib import Path

_PAUSE = 1.0  # seconds between two measurements, at least
_SHARE = 20  # a measurement takes at most one in so many seconds: 100,000 files take about one


class FolderWatch:
    """Measures a folder from time to time."""

    def __init__(self, folder: Path, limit: int | None) -> None:
        self.folder = folder
        self.limit = math.inf if limit is None else limit
        self._due = 0.0

    def is_over(self, *, now: bool = False) -> bool:
        """Whether the folder holds more than its limit, measured if it is time, or `now`."""
        began = time.monotonic()
        if self.limit == math.inf or (began < self._due and not now):
            return False
        size, ended = measure_folder(self.folder), time.monotonic()
        self._due = ended + max(_PAUSE, _SHARE * (ended - began))
        return size > self.limit


def measure_folder(folder: Path) -> int:
    """Return the bytes of all files below a folder that is being written to, links not followed."""
    size, pending = 0, [str(folder)]
    while pending:
        with (
            suppress(OSError),
            os.scandir(pending.pop()) as entries,
        ):  # it may be deleted meanwhile, or closed
            for entry in entries:
                with suppress(FileNotFoundError):
                    status = entry.stat(follow_symlinks=False)
                    if stat.S_ISDIR(status.st_mode):
                        pending.append(entry.path)
                    else:
                        # A sparse file has fewer blocks than its size; XFS allocates more than that in advance.
                        size += min(status.st_size, status.st_blocks * 512)
    return size
