"""The memory of a process tree over time, sampled from Linux's /proc; other systems have no samples."""

import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

_PROC = Path("/proc")
_POINTS = 512  # samples that a curve keeps at most


class MemorySample(NamedTuple):
    """What a process tree held at one time."""

    seconds: float  # since the box was started
    memory: int  # bytes


class MemoryCurve:
    """The samples of a run, however long it is: each kept sample is the highest of its interval."""

    def __init__(self) -> None:
        self.samples: list[MemorySample] = []
        self._interval = 0.0
        self._opened = 0.0  # when the interval of the last sample began

    def add_sample(self, sample: MemorySample) -> None:
        """Add a sample; beyond the limit, double the intervals."""
        if self.samples and sample.seconds < self._opened + self._interval:
            self.samples[-1] = max(self.samples[-1], sample, key=lambda kept: kept.memory)
            return
        self._opened = sample.seconds
        self.samples.append(sample)
        if len(self.samples) > _POINTS:
            # The mean distance, as samples of a huge process are rare.
            self._interval = 2 * sample.seconds / _POINTS
            pairs = (self.samples[start : start + 2] for start in range(0, len(self.samples), 2))
            self.samples = [max(pair, key=lambda kept: kept.memory) for pair in pairs]


class ProcessTree:
    """The processes below one, and the memory that they hold."""

    # PSS instead of a control group's own peak: that one counts the cached pages of every file read, which the kernel
    # gives back for nothing, so a large checkpoint would look like a need of memory.

    def __init__(self, root: int) -> None:
        self.root = root
        self.began: dict[int, int] = {}
        """When each process that was ever part of the tree began: the system reuses process ids."""
        self.by = "not measured"
        """"PSS"; "RSS" as soon as one process does not show its PSS; "not measured" without /proc."""

    def sample_memory(self) -> int:
        """Return the bytes that the tree holds now."""
        return sum(map(self._read_memory, self.list_pids()))

    def list_pids(self) -> list[int]:
        """Return the processes of the tree that are alive now."""
        states = {int(entry.name): read_state(int(entry.name)) for entry in _PROC.glob("[0-9]*")}
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

    def kill_remaining(self) -> None:
        """Kill what is left of it."""
        # Kernels leave their process group, and not every sandbox has a namespace that ends them.
        for pid, start in self.began.items():
            if (state := read_state(pid)) and state[1] == start:
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)

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


def read_state(pid: int) -> tuple[int, int] | None:
    """Return the parent of a process and when it began (https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html)."""
    try:
        # The name in brackets may contain anything, even brackets and spaces.
        words = (_PROC / str(pid) / "stat").read_bytes().rpartition(b")")[2].split()
        return int(words[1]), int(words[19])
    except (OSError, IndexError, ValueError):
        return None
