"""Start a local Kaggle as a whole: its folder, the account, the competitions, the sandbox."""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from offline_kit.core import files
from offline_kit.core.errors import OutsideError
from offline_kit.local_kaggle.running import NotebookRunner
from offline_kit.local_kaggle.server import LocalKaggleServer
from offline_kit.local_kaggle.service import LocalKaggle
from offline_kit.local_kaggle.settings import LocalKaggleSettings
from offline_kit.project import config

PORT = 8642
"""Where it listens unless configured."""
_SERVING = "serving.json"
USER, KEY = "local", "local-kaggle"
"""The account that is always there; its key opens nothing but this server, and is no secret."""


@dataclass(frozen=True, kw_only=True)
class LocalKaggleRequest:
    """Which local Kaggle is started."""

    folder: Path
    """Its state; made if there is none."""
    port: int = PORT
    """Where it listens on 127.0.0.1; 0 takes a free port."""
    accounts: tuple[str, ...] = ()
    """Names of further accounts, which the state keeps; their key is KEY, too."""
    competitions: tuple[Path, ...] = ()
    """Folders of competitions, or of projects that bring one, to take in besides those that the state knows."""
    settings: LocalKaggleSettings = field(default_factory=LocalKaggleSettings)
    """How it behaves."""
    project: Path | None = None
    """The project that it is served for, as long as a command runs; None if it is served for all."""


def default_state_folder() -> Path:
    """Return the folder of the state unless configured."""
    return files.cache_dir() / "local-kaggle"


@contextmanager
def serve_local_kaggle(request: LocalKaggleRequest, runner: NotebookRunner) -> Iterator[LocalKaggleServer]:
    """Serve until the block ends; one server at a time for a folder.

    The folders that the projects name under `copies` stand for sources that nobody pushed.
    Raises UsageError for a competition that cannot be used, OutsideError if the port or the folder
    is taken.
    """
    with files.translate_disk_errors(request.folder):
        request.folder.mkdir(parents=True, exist_ok=True)
    with _hold_state(request.folder):
        kaggle = LocalKaggle(request.folder, request.settings, runner)
        for name in (USER, *request.accounts):
            kaggle.accounts.add_account(name, key=KEY)
        for folder in request.competitions:
            kaggle.catalog.add_competition(find_competition(folder) or folder)
        for folder in (*request.competitions, *([request.project] if request.project else [])):
            kaggle.offer_copies(config.read_local_copies(folder))
        with LocalKaggleServer(kaggle, port=request.port) as server, _announce_server(request, server.url):
            yield server


def find_competition(project: Path) -> Path | None:
    """Return the folder of the competition that a project brings with it: its own, or the one right in it.

    None if there is none, or more than one.
    """
    if (project / "competition.toml").is_file():
        return project
    folders = sorted(path.parent for path in project.glob("*/competition.toml") if path.is_file())
    return folders[0] if len(folders) == 1 else None


@contextmanager
def _announce_server(request: LocalKaggleRequest, url: str) -> Iterator[None]:
    """Tell others who serves this state, as long as it is so."""
    path = request.folder / _SERVING
    served = {"url": url, "pid": os.getpid(), "project": str(request.project or "")}
    files.write_atomic(path, json.dumps(served))
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _describe_other_server(folder: Path) -> str:
    """Return the process that serves a state, if it is known."""
    try:
        served = json.loads((folder / _SERVING).read_text(encoding="utf-8"))
        whose = f", for '{served['project']}'" if served["project"] else ""
        return f" at {served['url']} (process {served['pid']}{whose})"
    except (OSError, ValueError, KeyError, TypeError):
        return ""


@contextmanager
def _hold_state(folder: Path) -> Iterator[None]:
    import filelock

    try:
        with filelock.FileLock(folder / "serving.lock", timeout=0):
            yield
    except filelock.Timeout as error:
        raise OutsideError(
            f"another local Kaggle serves '{folder}'{_describe_other_server(folder)}",
            code="local-kaggle-already-running",
            hint="wait until it has ended, use it with --at and its address, or serve a folder of its own:"
            " 'offline-kit local --state DIR'",
        ) from error


def greeting_lines(
    url: str, folder: str, competitions: list[str], accounts: Sequence[str] = (USER,)
) -> tuple[str, ...]:
    """Return the lines shown at the start: address, use by Kaggle's client, contents."""
    other_accounts = ", ".join(name for name in accounts if name != USER)
    competition_words = ", ".join(competitions) or "none; --competition DIR takes one in"
    return (
        f"a local Kaggle listens on {url}; its state is in '{folder}'",
        f"competitions: {competition_words}",
        f"offline-kit reaches it with --to local --at {url}",
        "the unmodified `kaggle` reaches it with this environment:",
        f"  export KAGGLE_API_ENVIRONMENT=LOCALHOST http_proxy={url} https_proxy={url} no_proxy=",
        f"  export KAGGLE_USERNAME={USER} KAGGLE_KEY={KEY}",
        "  unset KAGGLE_API_TOKEN HTTP_PROXY HTTPS_PROXY ALL_PROXY NO_PROXY",
        *([f"other accounts, with the same key: {other_accounts}"] if other_accounts else []),
        "kagglehub reaches it with the same, and KAGGLE_API_ENVIRONMENT=TEST",
        f"simulated faults: '{folder}/faults.json'; scores are marked LOCAL; stop it with Ctrl-C",
    )
