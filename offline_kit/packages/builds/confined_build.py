"""Run third-party builds in a sandbox: a few writable folders, no home, and no network but package indexes.

If no real sandbox works (macOS, Windows, machines without user namespaces), they run with a clean environment only, and
`is_confined` is false.
"""

import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

from offline_kit.core import processes, sandbox
from offline_kit.core.errors import OfflineKitError
from offline_kit.core.sandbox import Sandbox
from offline_kit.core.sandboxes.box import SYSTEM, Box, Mount
from offline_kit.packages.builds import index_proxy
from offline_kit.packages.builds.index_proxy import AnswerRequest

UNCONFINED_WARNING = (
    "no real sandbox works here: builds of source distributions run with a clean environment, but can read this"
    " machine's files, passwords of package indexes included, and use its network"
)
_LONGEST_TMPDIR = 60
"""Bytes of a temporary folder whose sockets still have a valid path."""
_KINDS = ("bubblewrap", "unshare")
_PATH_VARIABLES = [
    "PATH",
    "LD_LIBRARY_PATH",
    "LIBRARY_PATH",
    "CPATH",
    "PKG_CONFIG_PATH",
    "CUDA_HOME",
    "CUDA_PATH",
    "RUSTUP_HOME",
    "JAVA_HOME",
]
"""Variables of a build whose folders are mounted into the sandbox."""
_CERTIFICATE_VARIABLES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "PIP_CERT")
# pip reads {sys.prefix}/pip.conf: https://pip.pypa.io/en/stable/topics/configuration/
_LOGIN_FILES = ("pip.conf", "uv.toml", ".condarc", ".netrc", ".pypirc")
"""Files in the folder of an interpreter or environment that hold passwords of indexes."""


@cache
def _find_sandbox() -> Sandbox | None:
    try:
        return sandbox.find_sandbox(_KINDS)
    except OfflineKitError:
        return None


def is_confined() -> bool:
    """Whether a real sandbox works on this machine."""
    return _find_sandbox() is not None


@dataclass(frozen=True, kw_only=True)
class Confinement:
    """What a command in the sandbox may see, change and reach."""

    env: Mapping[str, str]
    """Its whole environment; the folders in its path variables are mounted."""
    cwd: Path
    """Must be inside a mounted folder."""
    writable: Sequence[Path]
    """The only folders of this machine that it may change."""
    shown: Sequence[Path] = ()
    """Folders and files that it sees besides the system's programs."""
    indexes: Sequence[str] = ()
    """URLs that it may reach; without any it has no network."""
    upstream: str = ""
    """The proxy on the way to them; empty for the environment's."""
    answering: Mapping[str, tuple[str, AnswerRequest]] = field(default_factory=dict)
    """Hosts that exist in the sandbox only: their true origin, for messages, and what answers."""


def run_confined(
    argv: Sequence[str | Path], limits: Confinement, *, log: Path | None = None, timeout: float
) -> processes.CompletedCommand:
    """Run a command in the sandbox and return its result, whatever its exit code; see `processes.run`."""
    kind = _find_sandbox()
    if kind is None:
        return processes.run_command(
            argv, env=limits.env, cwd=limits.cwd, check=False, log=log, timeout=timeout
        )
    with (
        tempfile.TemporaryDirectory(prefix="offline-kit-box-", dir=_find_short_folder()) as name,
        _open_proxy(Path(name), limits) as words,
    ):
        folder = Path(name)
        (folder / "scratch").mkdir()
        (folder / "tmp").mkdir()
        visible = [
            *list_python_folders(Path(sys.executable)),
            *limits.shown,
            *_list_named_folders(limits.env),
            *([Path(argv[0])] if Path(argv[0]).is_absolute() else []),
        ]
        confined = Box(
            argv=(*words, *map(str, argv)),
            mounts=(
                Mount(inside="/tmp", source=folder / "tmp", writable=True),  # noqa: S108 - the sandbox's own
                *(Mount(inside=str(path), source=path) for path in _select_outermost(visible)),
                *_hide_login_files(visible, folder),
                *([Mount(inside=str(folder / "door"), source=folder / "door")] if words else []),
                *(Mount(inside=str(path), source=path, writable=True) for path in limits.writable),
            ),
            env=limits.env,
            cwd=str(limits.cwd),
            log=folder / "log",
            scratch=folder / "scratch",
            timeout=timeout,
        )
        words, env = sandbox.build_command(kind, confined)
        result = processes.run_command(words, env=env, check=False, log=log, timeout=timeout)
        return replace(
            result, out=_restore_origins(result.out, limits), err=_restore_origins(result.err, limits)
        )


def _restore_origins(text: str, limits: Confinement) -> str:
    """Return the output of a command with the addresses that the user knows."""
    for host, (origin, _) in limits.answering.items():
        text = text.replace(f"http://{host}", origin)
    return text


def _hide_login_files(visible: Sequence[Path], folder: Path) -> Iterator[Mount]:
    """Yield an empty file over each file with logins at the top of a visible folder."""
    mounted = [*_select_outermost(visible), *(Path("/", name) for name in SYSTEM)]
    empty = folder / "empty"
    empty.touch()
    for path in dict.fromkeys(folder.absolute() / name for folder in visible for name in _LOGIN_FILES):
        if path.is_file() and any(folder in path.parents for folder in mounted):
            yield Mount(inside=str(path), source=empty)


def _find_short_folder() -> str | None:
    """Return a folder for the proxy's socket; None for the default.

    A socket's path may have 107 bytes (man 7 unix), and some TMPDIRs are longer.
    """
    return None if len(os.fsencode(tempfile.gettempdir())) <= _LONGEST_TMPDIR else "/tmp"  # noqa: S108


@contextmanager
def _open_proxy(folder: Path, limits: Confinement) -> Iterator[list[str]]:
    """Serve the indexes and yield the words before a command that reach them; no words for no network."""
    if not limits.indexes and not limits.answering:
        yield []
        return
    # Only this folder is mounted: the socket in it is the one way out.
    (folder / "door").mkdir()
    door = folder / "door" / "s"
    answering = {host: answer for host, (_, answer) in limits.answering.items()}
    hosts = index_proxy.list_hosts(limits.indexes)
    with index_proxy.serve_proxy(door, hosts, upstream=limits.upstream, answering=answering):
        yield [
            # The base interpreter, in isolated mode (-I): no site-packages, no PYTHON* variables.
            str(Path(sys.base_prefix) / "bin" / f"python{sys.version_info[0]}"),
            "-I",
            "-c",
            index_proxy.RELAY,
            str(door),
        ]


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
    for name in _PATH_VARIABLES:
        for text in env.get(name, "").split(os.pathsep):
            path = Path(text)
            # A folder above the home would show everything in it.
            if text and path.is_absolute() and path.is_dir() and not home.is_relative_to(path):
                yield path
    for name in _CERTIFICATE_VARIABLES:
        if (path := Path(env.get(name, ""))).is_absolute() and path.exists():
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
    return sorted(path for path in candidates if not any(parent in path.parents for parent in candidates))
