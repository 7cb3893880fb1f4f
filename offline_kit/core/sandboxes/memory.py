"""How much memory a process and all its descendants hold, read from /proc."""

import os
from pathlib import Path

_PROC = Path("/proc")


class ProcessTree:
    """Samples one process tree and remembers the peak.

    PSS rather than a control group's own peak: that one counts the cached pages of every file read,
    which the kernel gives back for nothing, so a large checkpoint would look like a memory need.
    """

    def __init__(self, root: int) -> None:
        self.root = root
        """Process id of the first process."""
        self.peak = 0
        """Bytes, the highest sum of one sample."""
        self.seen: dict[int, int] = {}
        """Every process that was ever part of the tree: its id, and when it began (ids come again)."""
        self.by = "not measured"
        """"PSS"; "RSS" as soon as one process would not show its PSS; "not measured" without /proc."""

    def sample_memory(self) -> int:
        """Read the tree once and return the bytes that it holds now."""
        total = 0
        for pid in self.list_pids():
            total += self._read_memory(pid)
        self.peak = max(self.peak, total)
        return total

    def list_pids(self) -> list[int]:
        """Return the processes of the tree that are alive now."""
        children: dict[int, list[int]] = {}
        began: dict[int, int] = {}
        for entry in _PROC.glob("[0-9]*/stat"):
            if state := _parent_and_start(entry):
                pid = int(entry.parent.name)
                children.setdefault(state[0], []).append(pid)
                began[pid] = state[1]
        pids, queue = [], [self.root] if self.root in began else []
        while queue:
            pid = queue.pop()
            pids.append(pid)
            queue += children.get(pid, [])
        self.seen.update({pid: began[pid] for pid in pids})
        return pids

    def list_remaining(self) -> list[int]:
        """Return those of the tree that are alive now, also where their parent is gone."""
        states = {pid: _parent_and_start(_PROC / str(pid) / "stat") for pid in self.seen}
        return [pid for pid, state in states.items() if state and state[1] == self.seen[pid]]

    def _read_memory(self, pid: int) -> int:
        try:
            for line in (_PROC / str(pid) / "smaps_rollup").read_bytes().splitlines():
                if line.startswith(b"Pss:"):
                    self.by = "PSS" if self.by != "RSS" else "RSS"
                    return int(line.split()[1]) * 1024
        except (PermissionError, FileNotFoundError):
            return self._read_resident(pid)
        except OSError:
            pass  # it ended between the listing and the reading
        return 0

    def _read_resident(self, pid: int) -> int:
        try:
            pages = int((_PROC / str(pid) / "statm").read_bytes().split()[1])
        except (OSError, IndexError):
            return 0
        if pages:
            self.by = "RSS"
        return pages * os.sysconf("SC_PAGE_SIZE")


def _parent_and_start(stat: Path) -> tuple[int, int] | None:
    try:
        # The name in brackets may hold anything, also brackets and spaces.
        words = stat.read_bytes().rpartition(b")")[2].split()
        return int(words[1]), int(words[19])
    except (OSError, IndexError, ValueError):
        return None
