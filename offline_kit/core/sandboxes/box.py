"""What runs in a sandbox and what came of it, whichever sandbox it is."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

SYSTEM = ("usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32", "sys", "nix", "gnu")
"""Folders of the system that stay visible, read-only; homes, mounts, /opt, /var and /run do not."""
_ETC = (
    "alternatives ca-certificates/extracted crypto-policies debian_version fonts gai.conf glvnd host.conf hosts ld.so.cache "
    "ld.so.conf ld.so.conf.d locale.alias locale.conf localtime magic magic.mime mime.types nsswitch.conf OpenCL os-release "
    "pki/ca-trust/extracted pki/tls/cert.pem pki/tls/certs pki/tls/openssl.cnf protocols resolv.conf services ssl/cert.pem "
    "ssl/certs ssl/openssl.cnf static timezone vulkan java-* python3*"
)
"""What programs read of /etc; passwords, private keys and settings of services are not among it."""
PROC_READ_ONLY = ("acpi", "bus", "fs", "irq", "scsi", "sys", "sysrq-trigger")
"""What changes the machine if root writes there: outside, we may be root."""
_VISIBLE = ("/usr/", "/etc/", "/proc/", "/nix/", "/gnu/")


def list_etc_entries() -> tuple[Path, ...]:
    """Return the files and folders of this machine's /etc that a box may see."""
    entries = {path for pattern in _ETC.split() for path in Path("/etc").glob(pattern) if path.exists()}
    return tuple(sorted(entries))


def is_kept_link(path: Path) -> bool:
    """Whether a link of the system leads to what the box sees too; others are shown as what they lead to."""
    return path.is_symlink() and str(path.resolve()).startswith(_VISIBLE)


def account_files(uid: int) -> dict[str, str]:
    """Return /etc/passwd and /etc/group for a box in which this user runs; the machine's own stay outside."""
    users = {0: "root", 65534: "nobody", uid: "root" if uid == 0 else "kaggle"}
    passwd = [f"{name}:x:{number}:{number}::/home/kaggle:/bin/sh" for number, name in sorted(users.items())]
    group = [f"{name}:x:{number}:" for number, name in sorted(users.items())]
    return {"passwd": "\n".join(passwd) + "\n", "group": "\n".join(group) + "\n"}


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
class BoxOutcome:
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
    def succeeded(self) -> bool:
        """Whether it ended well."""
        return self.code == 0 and not self.timed_out and not self.over_memory
