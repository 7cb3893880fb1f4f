"""Log in to Kaggle or to a local Kaggle, which is served here if none is running."""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import filelock

from offline_kit.core import files, processes
from offline_kit.core.errors import OutsideError, UsageError
from offline_kit.core.report import SILENT, Reporter
from offline_kit.kaggle.client.api_types import Account, NewNotebook, UnreachableError
from offline_kit.kaggle.client.client import KaggleClient
from offline_kit.kaggle.client.session import KaggleEndpoint
from offline_kit.kaggle.push import notebook_runs, push_notebook, push_parts
from offline_kit.kaggle.push.journal import PushContext
from offline_kit.kaggle.push.notebook_runs import FinishedRun
from offline_kit.kaggle.push.poll_policy import DEFAULT_CLIENT, ClientSettings
from offline_kit.kaggle.push.submission_ledger import SubmissionLedger
from offline_kit.local_kaggle.kernel_runs import NotebookRunner
from offline_kit.local_kaggle.sandbox_runner import SandboxRunner
from offline_kit.local_kaggle.server import LocalKaggleServer
from offline_kit.local_kaggle.service import LocalKaggle
from offline_kit.local_kaggle.settings import LocalKaggleSettings
from offline_kit.notebook import rendering
from offline_kit.packages import pip_settings
from offline_kit.project import config
from offline_kit.project.config import Config
from offline_kit.project.types import Kit
from offline_kit.rehearsal.environments import EnvironmentOptions
from offline_kit.workflow import part_locations

_SERVING = "serving.json"
USER, KEY = "local", "local-kaggle"
"""The account that always exists; its key opens nothing but this server, and is no secret."""


def default_state_folder() -> Path:
    """Return the folder of the state unless configured."""
    return files.cache_dir() / "local-kaggle"


def make_runner(*, current: bool, project: Path | None = None) -> SandboxRunner:
    """Return what runs notebooks: sandboxes with the versions of their kit's image, or the running environment's."""
    settings = pip_settings.read_pip_settings(processes.copy_environment())
    options = EnvironmentOptions(index=settings, cache=files.cache_dir(), yes=True)
    return SandboxRunner(options, current=current, project=project)


@contextmanager
def serve_local_kaggle(
    folder: Path,
    runner: NotebookRunner,
    *,
    port: int = 0,
    accounts: tuple[str, ...] = (),
    competitions: tuple[Path, ...] = (),
    settings: LocalKaggleSettings | None = None,
    project: Path | None = None,
) -> Iterator[LocalKaggleServer]:
    """Serve the state in `folder`, which one server at a time has, until the block ends; port 0 takes a free one.

    `accounts`, which have the key KEY, and `competitions`, which are folders of such or projects that bring one, are
    added to those of the state. `project` is that of the command that serves. The projects' `copies` are sources.
    """
    serving = folder / _SERVING
    with files.translate_disk_errors(folder):  # a full disk, or a folder of somebody else
        folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        try:
            stack.enter_context(filelock.FileLock(folder / "serving.lock", timeout=0))
        except filelock.Timeout as error:
            other = files.read_json(serving)
            project_note = f", for '{other['project']}'" if other.get("project") else ""
            at = f" at {other.get('url')} (process {other.get('pid')}{project_note})" if other else ""
            raise OutsideError(
                f"another local Kaggle serves '{folder}'{at}",
                code="local-kaggle-already-running",
                hint="wait until it has ended, use it with --at and its address, or serve a folder of its own:"
                " 'offline-kit local --state DIR'",
            ) from error
        kaggle = LocalKaggle(folder, settings or LocalKaggleSettings(), runner)
        for name in (USER, *accounts):
            kaggle.accounts.add_account(name, key=KEY)
        for path in (*competitions, *([project] if project else [])):
            competition = find_competition(path)
            if competition or path is not project:
                kaggle.catalog.add_competition(competition or path)
            kaggle.offer_copies(config.read_local_copies(path))
        server = stack.enter_context(LocalKaggleServer(kaggle, port=port))
        # Others that find the folder taken are told who serves it.
        stack.callback(serving.unlink, missing_ok=True)
        served = {"url": server.url, "pid": os.getpid(), "project": str(project or "")}
        files.write_atomic(serving, json.dumps(served))
        yield server


def find_competition(project: Path) -> Path | None:
    """Return the folder of the competition that a project brings: the project itself, or the only one right in it."""
    if (project / "competition.toml").is_file():
        return project
    folders = sorted(path.parent for path in project.glob("*/competition.toml") if path.is_file())
    return folders[0] if len(folders) == 1 else None


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
        # LOCALHOST makes the client speak plain HTTP to "localhost"; the proxy leads that to our port.
        f"  export KAGGLE_API_ENVIRONMENT=LOCALHOST http_proxy={url} https_proxy={url} no_proxy=",
        f"  export KAGGLE_USERNAME={USER} KAGGLE_KEY={KEY}",
        "  unset KAGGLE_API_TOKEN HTTP_PROXY HTTPS_PROXY ALL_PROXY NO_PROXY",
        *([f"other accounts, with the same key: {other_accounts}"] if other_accounts else []),
        "kagglehub reaches it with the same, and KAGGLE_API_ENVIRONMENT=TEST",
        f"simulated faults: '{folder}/faults.json'; scores are marked LOCAL; stop it with Ctrl-C",
    )


LOCAL_ADDRESS = "OFFLINE_KIT_LOCAL_KAGGLE"  # variable that holds the address of a running local Kaggle

_LOCAL_PAUSE = 1.0  # longest seconds between two polls of a local Kaggle
_SHORT_RETRY = 2.0  # seconds; shorter waits are not reported


@dataclass(frozen=True, kw_only=True)
class KaggleSession(PushContext):
    """A logged-in account at Kaggle or a local Kaggle, with the stored state of earlier commands."""

    config: Config
    account: Account
    local: bool
    ledger: SubmissionLedger

    def read_notebook(self, kit: Kit) -> NewNotebook:
        """Return the kit's notebook as it would be pushed; raises as `push_notebook.read_notebook`."""
        return push_notebook.read_notebook(kit, self.account.username)

    def fetch_outputs(self, run: FinishedRun, folder: Path, names: Sequence[str]) -> tuple[Path, ...]:
        """Download output files of a run."""
        return notebook_runs.fetch_outputs(run, self.kaggle, folder, names, self.report)

    def locate_parts(self, kit: Kit) -> dict[str, str]:
        """Return where each part of a kit is: its dataset, or as `part_locations` does with the pinned model or 0."""
        pinned = part_locations.pinned_model_version(self.config, kit)
        elsewhere = part_locations.part_locations(
            self.config, self.account.username, pinned[0].rpartition("/")[2] if pinned else "0"
        )
        datasets = {part.name: rendering.part_dataset(part, kit, self.config.dataset) for part in kit.parts}
        locations = {name: elsewhere.get(name, dataset) for name, dataset in datasets.items()}
        return push_parts.resolve_locations(locations, self.account)


@contextmanager
def choose_kaggle(
    to: str,
    address: str = "",
    report: Reporter = SILENT,
    *,
    project: Path | None = None,
    current: bool = False,
) -> Iterator[KaggleEndpoint]:
    """Yield the Kaggle that `--to` means.

    A local one without `address` or LOCAL_ADDRESS is served here until the block ends, with the state that
    `offline-kit local` has too and the competition in `project`; see `make_runner` for `current`.
    """
    if to == "local":
        address = address or processes.copy_environment().get(LOCAL_ADDRESS, "")
    if to == "kaggle":
        if address:
            raise UsageError(
                f"--at {address} needs --to local",
                code="option-needs-local-kaggle",
                hint="add --to local, or remove --at",
            )
        yield KaggleEndpoint()
    elif address:
        # Real credentials must never go to an address that somebody typed.
        if not address.startswith("http://127.0.0.1:"):
            raise UsageError(
                f"'{address}' is not a local Kaggle on this machine",
                code="address-not-local",
                hint="use the address that 'offline-kit local' prints, such as http://127.0.0.1:8642",
            )
        yield KaggleEndpoint(local=address.rstrip("/"))
    else:
        runner = make_runner(current=current, project=project)
        with serve_local_kaggle(default_state_folder(), runner, project=project) as server:
            report.note(
                f"a local Kaggle is served at {server.url}, while this command runs; its scores are marked LOCAL"
            )
            yield KaggleEndpoint(local=server.url)


@contextmanager
def open_session(
    config: Config,
    endpoint: KaggleEndpoint,
    report: Reporter = SILENT,
    client: ClientSettings = DEFAULT_CLIENT,
) -> Iterator[KaggleSession]:
    """Log in; within the block, a local Kaggle that does not answer is an OutsideError with its address."""

    def tell(seconds: float) -> None:
        if seconds >= _SHORT_RETRY:
            report.note(f"Rate-limited by Kaggle (429); retrying in {seconds:.0f} s")

    local, poll = bool(endpoint.local), client.poll
    if local:  # a server on this machine stands a poll each second, so that nobody waits for nothing
        poll = replace(
            poll,
            max_interval=min(poll.max_interval, _LOCAL_PAUSE),
            scoring_interval=min(poll.scoring_interval, _LOCAL_PAUSE),
        )
    memory = part_locations.memory_folder(config)
    try:
        patience = replace(client.retry, tell=tell)
        with KaggleClient(
            endpoint, python=client.client_python, patience=patience, seconds=client.read_timeout
        ) as kaggle:
            account = kaggle.fetch_account()
            # Another account, or another Kaggle, has datasets and notebooks of its own.
            state = memory / ("local" if local else "kaggle") / account.username
            try:
                yield KaggleSession(
                    config=config,
                    kaggle=kaggle,
                    account=account,
                    local=local,
                    state_folder=state,
                    client=replace(client, poll=poll),
                    ledger=part_locations.open_ledger(config, state, local=local),
                    report=report,
                )
            finally:
                files.ignore_in_git(memory)  # it holds signed addresses of uploads, among other things
    except UnreachableError as lost:
        if not local:
            raise
        raise OutsideError(
            f"no local Kaggle answers at '{endpoint.local}'",
            code="local-kaggle-unreachable",
            hint="start it with 'offline-kit local' and run the same command again; without an address"
            f" (--at, {LOCAL_ADDRESS}) the command serves one itself",
            details=lost.details,
        ) from lost
