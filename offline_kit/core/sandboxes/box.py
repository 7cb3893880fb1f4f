"""What runs in a sandbox and how it ended, whichever sandbox it is."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from offline_kit.core.sandboxes.process_tree import MemorySample

SYSTEM = ("usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32", "sys", "nix", "gnu")
"""Folders of the system that stay visible, read-only; homes, mounts, /opt, /var and /run do not."""
# What programs read of /etc; passwords, private keys and settings of services are not among it.
_ETC = (
    "alternatives ca-certificates/extracted crypto-policies debian_version fonts gai.conf glvnd host.conf hosts ld.so.cache "
    "ld.so.conf ld.so.conf.d locale.alias locale.conf localtime magic magic.mime mime.types nsswitch.conf OpenCL os-release "
    "pki/ca-trust/extracted pki/tls/cert.pem pki/tls/certs pki/tls/openssl.cnf protocols resolv.conf services ssl/cert.pem "
    "ssl/certs ssl/openssl.cnf static timezone vulkan java-* python3*"
)
PROC_READ_ONLY = ("acpi", "bus", "fs", "irq", "scsi", "sys", "sysrq-trigger")
"""Entries of /proc through which root changes the machine: outside, we may be root."""
ACCOUNT_FILES = {
    "passwd": "".join(
        f"{name}:x:{number}:{number}::/home/kaggle:/bin/sh\n"
        for number, name in ((0, "root"), (1000, "kaggle"), (65534, "nobody"))
    ),
    "group": "root:x:0:\nkaggle:x:1000:\nnobody:x:65534:\n",
}
"""/etc/passwd and /etc/group of a box; the machine's own stay outside."""
_VISIBLE = ("/usr/", "/etc/", "/proc/", "/nix/", "/gnu/")


def list_system_paths() -> Iterator[tuple[Path, str]]:
    """Yield what a box sees of the system: each path, and its target if it is a link that works in the box too."""
    entries = {path for pattern in _ETC.split() for path in Path("/etc").glob(pattern)}
    for path in (*(Path("/", name) for name in SYSTEM), *sorted(entries)):
        if path.exists():
            kept_link = path.is_symlink() and str(path.resolve()).startswith(_VISIBLE)
            yield path, str(path.readlink()) if kept_link else ""


@dataclass(frozen=True, kw_only=True)
class Mount:
    """A file or folder of this machine that the box sees."""

    inside: str  # absolute path in the box; later mounts may cover parts of earlier ones
    source: Path  # must exist
    writable: bool = False
    limit: int | None = None  # bytes that it may hold


@dataclass(frozen=True, kw_only=True)
class Box:
    """A command, and all that it may see; times are in seconds of wall-clock time."""

    argv: tuple[str, ...]  # the command; paths are those in the box, here and in `cwd`
    mounts: tuple[Mount, ...]
    links: Mapping[str, str] = field(default_factory=dict)  # symbolic links in the box: path to target
    env: Mapping[str, str]  # its whole environment; nothing is inherited
    cwd: str
    log: Path
    scratch: Path  # an empty folder that the sandbox itself may use
    timeout: float
    memory: int | None = None  # bytes that the whole process tree may hold; None: no limit
    cores: int | None = None  # that it may use; None: all of this machine
    network: bool = False


@dataclass(frozen=True, kw_only=True)
class BoxOutcome:
    """How a boxed command ended."""

    code: int
    started: float  # seconds since the epoch
    seconds: float
    memory_curve: tuple[MemorySample, ...]  # the whole process tree; empty without /proc
    memory_by: str  # "PSS", "RSS" (counts shared pages twice) or "not measured"
    timed_out: bool = False
    over_memory: bool = False
    over_disk: bool = False  # a mount held more than its limit

    @property
    def peak_memory(self) -> int:
        """Bytes of the whole process tree, as sampled; 0 if nothing could be read."""
        return max((sample.memory for sample in self.memory_curve), default=0)

    @property
    def is_over_limit(self) -> bool:
        """Whether it reached a limit."""
        return self.timed_out or self.over_memory or self.over_disk

    @property
    def succeeded(self) -> bool:
        """Whether it ended with code 0, and within its limits."""
        return self.code == 0 and not self.is_over_limit
