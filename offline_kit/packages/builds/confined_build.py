"""Programs that run somebody else's build: in a box with one writable folder, no home, and only package indexes.

Where no real sandbox works (macOS, Windows, machines without user namespaces) they run with a clean environment alone,
and `is_confined` says so.
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
    " machine's files, the passwords of its package indexes among them, and use its network"
)
_LONGEST = 60
"""Bytes of a temporary folder in which a socket can still be made."""
_KINDS = ("bubblewrap", "unshare")
_PATHS = (
    "PATH",
    "LD_LIBRARY_PATH",
    "LIBRARY_PATH",
    "CPATH",
    "PKG_CONFIG_PATH",
    "CUDA_HOME",
    "CUDA_PATH",
    "RUSTUP_HOME",
    "JAVA_HOME",
)
"""Variables of a build's environment whose folders a box shows."""
_FILES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "PIP_CERT")
_WITH_LOGINS = ("pip.conf", "uv.toml", ".condarc", ".netrc", ".pypirc")
"""What may lie in the folder of an interpreter or of its environment, and holds passwords of indexes."""


@cache
def _find_sandbox() -> Sandbox | None:
    try:
        return sandbox.find_sandbox(_KINDS)
    except OfflineKitError:
        return None


def is_confined() -> bool:
    """Whether a real sandbox holds builds on this machine."""
    return _find_sandbox() is not None


@dataclass(frozen=True, kw_only=True)
class Confinement:
    """What a command in a box may see, change and reach."""

    env: Mapping[str, str]
    """Its whole environment; the folders of its paths are shown."""
    cwd: Path
    """Where it starts; must be among what it sees."""
    writable: Sequence[Path]
    """Folders that it may change; nothing else of this machine."""
    shown: Sequence[Path] = ()
    """What it sees besides the system's programs."""
    indexes: Sequence[str] = ()
    """Addresses that it may reach; without any it has no network."""
    upstream: str = ""
    """A proxy on the way to them; empty: as the environment says."""
    answering: Mapping[str, tuple[str, AnswerRequest]] = field(default_factory=dict)
    """Hosts that exist in the box alone: the true origin, for messages, and what answers."""


def run_confined(
    argv: Sequence[str | Path], limits: Confinement, *, log: Path | None = None, timeout: float
) -> processes.CompletedCommand:
    """Run a command to its end in a box and return what it said, whatever its exit code; see `proc.run`."""
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
            *_iterate_python_folders(Path(sys.executable)),
            *limits.shown,
            *_list_named_folders(limits.env),
            *_list_program(Path(str(argv[0]))),
        ]
        box = Box(
            argv=(*words, *map(str, argv)),
            mounts=(
                Mount(inside="/tmp", source=folder / "tmp", writable=True),  # noqa: S108 - the box's own
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
        words_of_box, env_of_box = sandbox.build_command(kind, box)
        result = processes.run_command(words_of_box, env=env_of_box, check=False, log=log, timeout=timeout)
        return replace(
            result, out=_restore_origins(result.out, limits), err=_restore_origins(result.err, limits)
        )


def _restore_origins(text: str, limits: Confinement) -> str:
    """Return what a command said with the addresses that a person knows."""
    for host, (origin, _) in limits.answering.items():
        text = text.replace(f"http://{host}", origin)
    return text


def _hide_login_files(visible: Sequence[Path], folder: Path) -> Iterator[Mount]:
    """Yield an empty file over each file of logins at the top of a folder that the box sees."""
    mounted = [*_select_outermost(visible), *(Path("/", name) for name in SYSTEM)]
    empty = folder / "empty"
    empty.touch()
    for path in dict.fromkeys(folder.absolute() / name for folder in visible for name in _WITH_LOGINS):
        if path.is_file() and any(folder in path.parents for folder in mounted):
            yield Mount(inside=str(path), source=empty)


def _find_short_folder() -> str | None:
    """Return where the box's folder is made: a socket's path may have 107 bytes, and some TMPDIRs have more."""
    return None if len(os.fsencode(tempfile.gettempdir())) <= _LONGEST else "/tmp"  # noqa: S108


@contextmanager
def _open_proxy(folder: Path, limits: Confinement) -> Iterator[list[str]]:
    """Yield the words before a command that may reach these indexes; none for no network."""
    if not limits.indexes and not limits.answering:
        yield []
        return
    (folder / "door").mkdir()
    door = folder / "door" / "s"
    answering = {host: answer for host, (_, answer) in limits.answering.items()}
    hosts = index_proxy.list_hosts(limits.indexes)
    with index_proxy.serve_proxy(door, hosts, upstream=limits.upstream, answering=answering):
        yield [
            str(Path(sys.base_prefix) / "bin" / f"python{sys.version_info[0]}"),
            "-I",
            "-c",
            index_proxy.RELAY,
            str(door),
        ]


def list_python_folders(python: Path) -> tuple[Path, ...]:
    """Return the folders that an interpreter needs: its own, that of its environment, and what both stand on."""
    return tuple(_iterate_python_folders(python))


def _iterate_python_folders(python: Path) -> Iterator[Path]:
    for path in dict.fromkeys((python, python.resolve())):
        prefix = path.parent.parent
        yield prefix
        config = prefix / "pyvenv.cfg"
        if config.is_file():
            for line in config.read_text(encoding="utf-8", errors="replace").splitlines():
                name, _, value = line.partition("=")
                if name.strip() == "home":
                    home = Path(value.strip())
                    yield home.parent
                    yield home.resolve().parent


def _list_program(program: Path) -> list[Path]:
    return [program] if program.is_absolute() else []


def _list_named_folders(env: Mapping[str, str]) -> Iterator[Path]:
    home = Path.home()
    for name in _PATHS:
        for text in env.get(name, "").split(os.pathsep):
            path = Path(text)
            # a folder above the home would show it all
            if text and path.is_absolute() and path.is_dir() and not home.is_relative_to(path):
                yield path
    for name in _FILES:
        if (path := Path(env.get(name, ""))).is_absolute() and path.exists():
            yield path


def _select_outermost(paths: Sequence[Path]) -> list[Path]:
    """Return what must be mounted: existing places that the system does not show anyway, none inside of another."""
    home = Path.home()
    hidden = {
        path
        for path in map(Path.absolute, paths)
        # a home, or a folder above it, is never shown as a whole
        if path.exists() and not home.is_relative_to(path) and path != Path("/tmp")  # noqa: S108
    }
    hidden = {path for path in hidden if path.parts[1] not in (*SYSTEM, "etc", "proc", "dev")}
    return sorted(path for path in hidden if not any(parent in path.parents for parent in hidden))
