"""The second sandbox: namespaces by util-linux, with a small script that lays out the mounts."""

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

from offline_kit.core import processes
from offline_kit.core.sandboxes.box import PROC_READ_ONLY, Box, account_files, list_system_paths

_NEEDED = ("unshare", "setpriv", "mount", "chroot", "sh")
_LOOPBACK_UP = (
    "import fcntl, socket, struct\n"
    "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
    "fcntl.ioctl(s, 0x8914, struct.pack('16sh', b'lo', 0x41))"  # SIOCSIFFLAGS, IFF_UP | IFF_RUNNING
)
_PRELUDE = """set -e
bind() {
    if [ -d "$1" ]; then mkdir -p "$2"; elif [ ! -e "$2" ]; then mkdir -p "${2%/*}"; true > "$2"; fi
    MOUNT --rbind "$1" "$2"
}
show() {
    bind "$1" "$2"
    lock "$2"
    # a remount does not reach the mounts below: those of /sys (cgroups) would stay writable
    while read -r _ point _; do
        case "$point" in "$2"/*) lock "$(printf %b "$point")" ;; esac
    done < /proc/self/mounts
}
link() {
    mkdir -p "${2%/*}"
    ln -s "$1" "$2"
}
lock() {
    MOUNT -o remount,bind,ro,nosuid,nodev "$1" 2>/dev/null || MOUNT -o remount,bind,ro,nosuid,nodev,noexec "$1"
}
MOUNT -t tmpfs -o mode=755 none "$ROOT"
mkdir "$ROOT/proc" "$ROOT/dev"
MOUNT -t proc proc "$ROOT/proc"
for name in null zero full random urandom tty; do bind "/dev/$name" "$ROOT/dev/$name"; done
mkdir "$ROOT/dev/shm" "$ROOT/dev/pts"
MOUNT -t tmpfs -o mode=1777 none "$ROOT/dev/shm"
MOUNT -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts "$ROOT/dev/pts"
ln -s pts/ptmx "$ROOT/dev/ptmx"
ln -s /proc/self/fd "$ROOT/dev/fd"
"""


def find_programs() -> list[Path]:
    """Return `unshare`, unless it or one of its companions is missing."""
    unshare, *companions = (_find_tool(name) for name in _NEEDED)
    return [unshare] if unshare and all(companions) else []


def _find_tool(name: str) -> Path | None:
    # An ordinary user's PATH often lacks the folders of the administrator's programs.
    candidates = (processes.find_program(name), Path("/usr/sbin", name), Path("/sbin", name))
    return next((path for path in candidates if path and path.exists()), None)


def build_command(unshare: Path, box: Box) -> tuple[list[str], Mapping[str, str]]:
    """Return the command that runs a box in namespaces of its own, and its environment; `box.scratch` becomes its root."""
    words = [str(_find_tool("setpriv")), "--pdeathsig", "KILL", str(unshare)]
    words += ["--user", "--map-root-user", *([] if box.network else ["--net"])]
    words += ["--mount", "--pid", "--fork", "--kill-child", "--ipc", "--uts"]
    return [*words, str(_find_tool("sh")), "-c", _write_mount_script(box), "sh", *box.argv], box.env


def _write_mount_script(box: Box) -> str:
    """Return the script that lays out the mounts, enters them, drops all capabilities and runs "$@"."""
    root = str(box.scratch)
    lines = [f"ROOT={shlex.quote(root)}", _PRELUDE.replace("MOUNT", str(_find_tool("mount")))]
    for name in PROC_READ_ONLY:
        target_path = f"{root}/proc/{name}"
        lines.append(f"[ ! -e {target_path} ] || {shlex.join(['show', target_path, target_path])}")
    for path, target in list_system_paths():
        words = ["link", target] if target else ["show", str(path)]
        lines.append(shlex.join([*words, root + str(path)]))
    lines += [f"printf %s {shlex.quote(text)} > {root}/etc/{name}" for name, text in account_files(0).items()]
    for mount in box.mounts:
        verb = "bind" if mount.writable else "show"
        lines.append(shlex.join([verb, str(mount.source), root + mount.inside]))
    lines += [shlex.join(["link", target, root + link]) for link, target in box.links.items()]
    if not box.network:  # the loopback of a new network is down
        python = shlex.join([sys.executable, "-I", "-c", _LOOPBACK_UP])
        lines.append(f"{_find_tool('ip') or 'ip'} link set lo up 2>/dev/null || {python}")
    enter = [str(_find_tool("chroot")), root, str(_find_tool("setpriv"))]
    enter += ["--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"]
    # The inner shell stays process 1 of the namespace: when it ends, everything that is left ends with it.
    enter += ["/bin/sh", "-c", f'cd {shlex.quote(box.cwd)} && "$@"; exit $?', "sh"]
    lines.append(f'exec {shlex.join(enter)} "$@"')
    return "\n".join(lines)
