"""What runs in a sandbox and what came of it, whichever sandbox it is."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

SYSTEM = ("usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32", "etc", "sys", "nix", "gnu")
"""Folders of the system that stay visible, read-only; homes, mounts, /opt, /var and /run do not."""


@dataclass(frozen=True, kw_only=True)
class Mount:
    """A file or folder of this machine, as the box sees it."""

    inside: str
    """Absolute path in the box; later mounts may lie over earlier ones."""
    source: Path
    """What is seen there; must exist."""
    writable: bool = False
    """Whether the box may change it."""


@dataclass(frozen=True, kw_only=True)
class Box:
    """A command with all that it may see."""

    argv: tuple[str, ...]
    """The command, with paths as the box sees them."""
    mounts: tuple[Mount, ...]
    """What it sees besides the system, in order."""
    links: Mapping[str, str] = field(default_factory=dict)
    """Symbolic links in the box: path to target."""
    env: Mapping[str, str]
    """Its whole environment; nothing is inherited."""
    cwd: str
    """Where it starts, as the box sees it."""
    log: Path
    """Gets both of its streams, as they come."""
    scratch: Path
    """An empty folder of ours that the sandbox may use for its own ends."""
    timeout: float
    """Seconds of wall-clock time; then all of it is ended."""
    memory: int | None = None
    """Bytes that the whole process tree may hold; above it, all of it is ended. None: no limit."""
    network: bool = False
    """Whether it may use this machine's network."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a boxed command ended."""

    code: int
    """Exit code; negative is the signal that ended it."""
    seconds: float
    """Wall-clock time."""
    peak_memory: int
    """Bytes held by the whole process tree at its peak, as sampled; 0 where nothing could be read."""
    memory_by: str
    """How that was measured: "PSS", "RSS" (counts shared pages twice) or "not measured"."""
    timed_out: bool = False
    """Ended because its time was up."""
    over_memory: bool = False
    """Ended because the tree held more than its limit."""

    @property
    def ok(self) -> bool:
        """Whether it ended well."""
        return self.code == 0 and not self.timed_out and not self.over_memory
