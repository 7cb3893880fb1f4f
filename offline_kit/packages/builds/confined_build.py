"""Run third-party builds in a sandbox: a few writable folders, no home, and no network but package indexes.

If no real sandbox works (macOS, Windows, machines without user namespaces), they run with a clean environment only, and
`is_confined` is false.
"""

import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from offline_kit.core import processes, sandbox
from offline_kit.core.errors import OfflineKitError
from offline_kit.core.sandbox import Sandbox
from offline_kit.core.sandboxes.box import SYSTEM, Box, Mount
from offline_kit.packages.builds.index_server import RELAY, IndexServer

UNCONFINED_WARNING = (
    "no real sandbox works here: builds of source distributions run with a clean environment, but can read this"
    " machine's files, passwords of package indexes included, and use its network"
)
# A socket's path may have 107 bytes (man 7 unix), and some TMPDIRs are longer.
_LONGEST_TMPDIR = 60
# Variables of a build whose folders and files are mounted into the sandbox.
_PATH_VARIABLES = (
    "PATH LD_LIBRARY_PATH LIBRARY_PATH CPATH PKG_CONFIG_PATH CUDA_HOME CUDA_PATH RUSTUP_HOME JAVA_HOME"
)
# Files in the folder of an interpreter or environment that hold passwords of indexes. pip reads
# {sys.prefix}/pip.conf: https://pip.pypa.io/en/stable/topics/configuration/
_LOGIN_FILES = ("pip.conf", "uv.toml", ".condarc", ".netrc", ".pypirc")


@cache
def _find_sandbox() -> Sandbox | None:
    try:
        return sandbox.find_sandbox(("bubblewrap",))
    except OfflineKitError:
        return None


def is_confined() -> bool:
    """Whether a real sandbox works on this machine."""
    return _find_sandbox() is not None


def make_offline_prefix() -> tuple[str, ...]:
    """Return the words before a command that cut its network alone; empty if this system cannot do that."""
    sandbox_kind = _find_sandbox()
    # Without a user namespace of its own, only who is root on this machine may make one for the network.
    words = ("--unshare-user-try", "--unshare-net", "--dev-bind", "/", "/", "--")
    return (str(sandbox_kind.program), *words) if sandbox_kind else ()


@dataclass(frozen=True, kw_only=True)
class Confinement:
    """What a command in the sandbox may see, change and reach."""

    env: Mapping[str, str]  # its whole environment; the folders in its path variables are mounted
    cwd: Path  # must be inside a mounted folder
    writable: Sequence[Path]  # the only folders of this machine that it may change
    shown: Sequence[Path] = ()  # folders and files that it sees besides the system's programs
    index: IndexServer | None = None  # without, it has no network


def run_confined(
    argv: Sequence[str | Path], limits: Confinement, *, log: Path | None = None, timeout: float
) -> processes.CompletedCommand:
    """Run a command in the sandbox and return its result, whatever its exit code; see `processes.run_command`."""
    kind = _find_sandbox()
    if kind is None:
        with limits.index.serve(None) if limits.index else nullcontext() as variables:
            proxied = {**limits.env, **(variables or {})}
            return processes.run_command(
                argv, env=proxied, cwd=limits.cwd, check=False, log=log, timeout=timeout
            )
    short_folder = None if len(os.fsencode(tempfile.gettempdir())) <= _LONGEST_TMPDIR else "/tmp"  # noqa: S108
    with tempfile.TemporaryDirectory(prefix="offline-kit-box-", dir=short_folder) as name:
        folder = Path(name)
        for part in ("scratch", "tmp", "door"):
            (folder / part).mkdir()
        # Only this folder is mounted: the socket in it is the one way out.
        door = folder / "door" / "s"
        relay: list[str] = []
        if limits.index:
            # The base interpreter, in isolated mode (-I): no site-packages, no PYTHON* variables.
            base_python = str(Path(sys.base_prefix) / "bin" / f"python{sys.version_info[0]}")
            relay = [base_python, "-I", "-c", RELAY, str(door)]
        visible = [
            *list_python_folders(Path(sys.executable)),
            *limits.shown,
            *_list_named_folders(limits.env),
        ]
        visible += [Path(argv[0])] if Path(argv[0]).is_absolute() else []
        confined = Box(
            argv=(*relay, *map(str, argv)),
            mounts=(
                Mount(inside="/tmp", source=folder / "tmp", writable=True),  # noqa: S108 - the sandbox's own
                *(Mount(inside=str(path), source=path) for path in _select_outermost(visible)),
                *_hide_login_files(visible, folder),
                *([Mount(inside=str(door.parent), source=door.parent)] if relay else []),
                *(Mount(inside=str(path), source=path, writable=True) for path in limits.writable),
            ),
            env=limits.env,
            cwd=str(limits.cwd),
            log=folder / "log",
            scratch=folder / "scratch",
            timeout=timeout,
        )
        words, env = sandbox.build_command(kind, confined)
        with limits.index.serve(door) if limits.index else nullcontext():
            return processes.run_command(words, env=env, check=False, log=log, timeout=timeout)


def _hide_login_files(visible: Sequence[Path], folder: Path) -> Iterator[Mount]:
    """Yield an empty file over each file with logins at the top of a visible folder."""
    mounted = [*_select_outermost(visible), *(Path("/", name) for name in SYSTEM)]
    empty = folder / "empty"
    empty.touch()
    for path in dict.fromkeys(folder.absolute() / name for folder in visible for name in _LOGIN_FILES):
        if path.is_file() and any(folder in path.parents for folder in mounted):
            yield Mount(inside=str(path), source=empty)


def list_python_folders(python: Path) -> tuple[Path, ...]:
    """Return the folders that an interpreter needs: its own, its environment's, and that environment's base."""
    folders = []
    for path in dict.fromkeys((python, python.resolve())):
        prefix = path.parent.parent
        folders.append(prefix)
        config = prefix / "pyvenv.cfg"
        if config.is_file():
            for line in config.read_text(encoding="utf-8", errors="replace").splitlines():
                name, _, value = line.partition("=")
                # PEP 405: "home" is the folder of the interpreter that the environment was created from.
                if name.strip() == "home":
                    home = Path(value.strip())
                    folders += [home.parent, home.resolve().parent]
    return tuple(folders)


def _list_named_folders(env: Mapping[str, str]) -> Iterator[Path]:
    home = Path.home()
    for name in _PATH_VARIABLES.split():
        for text in env.get(name, "").split(os.pathsep):
            path = Path(text)
            # A folder above the home would show everything in it.
            if text and path.is_absolute() and path.is_dir() and not home.is_relative_to(path):
                yield path


def _select_outermost(paths: Sequence[Path]) -> list[Path]:
    """Return the existing paths to mount, without those that the system shows anyway or that are inside another."""
    home = Path.home()
    candidates = {
        path
        for path in map(Path.absolute, paths)
        # The home, or a folder above it, is never mounted as a whole.
        if path.exists() and not home.is_relative_to(path) and path != Path("/tmp")  # noqa: S108
    }
    candidates = {path for path in candidates if path.parts[1] not in (*SYSTEM, "etc", "proc", "dev")}
    return sorted(path for path in candidates if candidates.isdisjoint(path.parents))
