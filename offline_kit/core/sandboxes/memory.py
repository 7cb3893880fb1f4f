"""Memory of a process and all its descendants, read from /proc."""

import os
from pathlib import Path

_PROC = Path("/proc")


class ProcessTree:
    """Samples one process tree and keeps the peak."""

    # PSS instead of a control group's own peak: that one counts the cached pages of every file read, which the kernel
    # gives back for nothing, so a large checkpoint would look like a need of memory.

    def __init__(self, root: int) -> None:
        self.root = root
        self.peak = 0
        """Bytes; the highest sum of one sample."""
        self.began: dict[int, int] = {}
        """When each process that was ever part of the tree began: the system reuses process ids."""
        self.by = "not measured"
        """"PSS"; "RSS" as soon as one process does not show its PSS; "not measured" without /proc."""

    def sample_memory(self) -> int:
        """Return the bytes that the tree holds now."""
        total = sum(map(self._read_memory, self.list_pids()))
        self.peak = max(self.peak, total)
        return total

    def list_pids(self) -> list[int]:
        """Return the processes of the tree that are alive now."""
        states = {int(entry.name): _read_state(int(entry.name)) for entry in _PROC.glob("[0-9]*")}
        children: dict[int, list[int]] = {}
        for pid, state in states.items():
            if state:
                children.setdefault(state[0], []).append(pid)
        pids, queue = [], [self.root] if states.get(self.root) else []
        while queue:
            pid = queue.pop()
            pids.append(pid)
            queue += children.get(pid, [])
        self.began |= {pid: state[1] for pid in pids if (state := states[pid])}
        return pids

    def list_remaining(self) -> list[int]:
        """Return the processes of the tree that are alive now, even if their parent is gone."""
        return [pid for pid, began in self.began.items() if (state := _read_state(pid)) and state[1] == began]

    def _read_memory(self, pid: int) -> int:
        try:
            for line in (_PROC / str(pid) / "smaps_rollup").read_bytes().splitlines():
                if line.startswith(b"Pss:"):
                    self.by = "PSS" if self.by != "RSS" else "RSS"
                    return int(line.split()[1]) * 1024
        except (PermissionError, FileNotFoundError):
            try:
                pages = int((_PROC / str(pid) / "statm").read_bytes().split()[1])
            except (OSError, IndexError):
                return 0
            self.by = "RSS" if pages else self.by
            return pages * os.sysconf("SC_PAGE_SIZE")
        except OSError:
            pass  # it ended between the listing and the reading
        return 0


def _read_state(pid: int) -> tuple[int, int] | None:
    """Return the parent of a process and when it began (https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html)."""
    try:
        # The name in brackets may contain anything, even brackets and spaces.
        words = (_PROC / str(pid) / "stat").read_bytes().rpartition(b")")[2].split()
        return int(words[1]), int(words[19])
    except (OSError, IndexError, ValueError):
        return None
