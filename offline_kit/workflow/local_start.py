"""Start a local Kaggle as a whole: its folder, the account, the competitions, the sandbox."""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import filelock

from offline_kit.core import files, processes
from offline_kit.core.errors import OutsideError
from offline_kit.local_kaggle.kernel_runs import NotebookRunner
from offline_kit.local_kaggle.sandbox_runner import SandboxRunner
from offline_kit.local_kaggle.server import LocalKaggleServer
from offline_kit.local_kaggle.service import LocalKaggle
from offline_kit.local_kaggle.settings import LocalKaggleSettings
from offline_kit.packages import pip_settings
from offline_kit.project import config
from offline_kit.rehearsal.environments import EnvironmentOptions

PORT = 8642
_SERVING = "serving.json"
USER, KEY = "local", "local-kaggle"
"""The account that always exists; its key opens nothing but this server, and is no secret."""


@dataclass(frozen=True, kw_only=True)
class LocalKaggleRequest:
    """Which local Kaggle is started."""

    folder: Path
    """Its state; made if there is none."""
    port: int = PORT
    """0 takes a free port."""
    accounts: tuple[str, ...] = ()
    """Names of further accounts, which the state keeps; their key is KEY, too."""
    competitions: tuple[Path, ...] = ()
    """Folders of competitions, or of projects that bring one, to add to those that the state knows."""
    settings: LocalKaggleSettings = field(default_factory=LocalKaggleSettings)
    project: Path | None = None
    """The project of the command that serves it; None for 'offline-kit local'."""


def default_state_folder() -> Path:
    """Return the folder of the state unless configured."""
    return files.cache_dir() / "local-kaggle"


def make_runner(*, current: bool, project: Path | None = None) -> SandboxRunner:
    """Return what runs notebooks: sandboxes with the versions of their kit's image, or the running environment's."""
    settings = pip_settings.read_pip_settings(processes.copy_environment())
    options = EnvironmentOptions(index=settings, cache=files.cache_dir(), yes=True)
    return SandboxRunner(options, current=current, project=project)


@contextmanager
def serve_local_kaggle(request: LocalKaggleRequest, runner: NotebookRunner) -> Iterator[LocalKaggleServer]:
    """Serve until the block ends; one server at a time for a folder.

    The folders that the projects name under `copies` are served as sources that nobody pushed.
    Raises UsageError for a competition that cannot be used, OutsideError if the port or the folder
    is taken.
    """
    folder, serving = request.folder, request.folder / _SERVING
    with files.translate_disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        try:
            stack.enter_context(filelock.FileLock(folder / "serving.lock", timeout=0))
        except filelock.Timeout as error:
            raise OutsideError(
                f"another local Kaggle serves '{folder}'{_describe_other_server(serving)}",
                code="local-kaggle-already-running",
                hint="wait until it has ended, use it with --at and its address, or serve a folder of its own:"
                " 'offline-kit local --state DIR'",
            ) from error
        kaggle = LocalKaggle(folder, request.settings, runner)
        for name in (USER, *request.accounts):
            kaggle.accounts.add_account(name, key=KEY)
        for path in request.competitions:
            kaggle.catalog.add_competition(find_competition(path) or path)
        for path in (*request.competitions, *([request.project] if request.project else [])):
            kaggle.offer_copies(config.read_local_copies(path))
        server = stack.enter_context(LocalKaggleServer(kaggle, port=request.port))
        # Others that find the folder taken are told who serves it.
        stack.callback(serving.unlink, missing_ok=True)
        served = {"url": server.url, "pid": os.getpid(), "project": str(request.project or "")}
        files.write_atomic(serving, json.dumps(served))
        yield server


def find_competition(project: Path) -> Path | None:
    """Return the folder of the competition that a project brings: the project itself, or the only one right in it."""
    if (project / "competition.toml").is_file():
        return project
    folders = sorted(path.parent for path in project.glob("*/competition.toml") if path.is_file())
    return folders[0] if len(folders) == 1 else None


def _describe_other_server(serving: Path) -> str:
    try:
        served = json.loads(serving.read_text(encoding="utf-8"))
        project = f", for '{served['project']}'" if served["project"] else ""
        return f" at {served['url']} (process {served['pid']}{project})"
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def greeting_lines(
    url: str, folder: str, competitions: list[str], accounts: Sequence[str] = (USER,)
) -> tuple[str, ...]:
    """Return the lines shown at the start: address, use by Kaggle's client, contents."""
    other_accounts = ", ".join(name for name in accounts if name != USER)
    return (
        f"a local Kaggle listens on {url}; its state is in '{folder}'",
        f"competitions: {', '.join(competitions) or 'none; --competition DIR takes one in'}",
        f"offline-kit reaches it with --to local --at {url}",
        "the unmodified `kaggle` reaches it with this environment:",
        f"  export KAGGLE_API_ENVIRONMENT=LOCALHOST http_proxy={url} https_proxy={url} no_proxy=",
        f"  export KAGGLE_USERNAME={USER} KAGGLE_KEY={KEY}",
        "  unset KAGGLE_API_TOKEN HTTP_PROXY HTTPS_PROXY ALL_PROXY NO_PROXY",
        *([f"other accounts, with the same key: {other_accounts}"] if other_accounts else []),
        "kagglehub reaches it with the same, and KAGGLE_API_ENVIRONMENT=TEST",
        f"simulated faults: '{folder}/faults.json'; scores are marked LOCAL; stop it with Ctrl-C",
    )
