"""Log in to Kaggle or to a local Kaggle, which the command serves itself if none is running."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from offline_kit.core import files, processes
from offline_kit.core.errors import OutsideError, UsageError
from offline_kit.core.report import SILENT, Reporter
from offline_kit.kaggle.client.api_types import Account, NewNotebook, UnreachableError
from offline_kit.kaggle.client.client import KaggleClient
from offline_kit.kaggle.client.endpoint import KaggleEndpoint
from offline_kit.kaggle.push import push_models, push_notebook
from offline_kit.kaggle.push.journal import LastSeenStore, PushSettings
from offline_kit.kaggle.push.poll_policy import DEFAULT_TIMING, KaggleTiming
from offline_kit.kaggle.push.submission_ledger import SubmissionLedger
from offline_kit.notebook import rendering
from offline_kit.project.config import Config
from offline_kit.project.types import Kit, KitPart
from offline_kit.workflow import local_start, part_locations

LOCAL_ADDRESS = "OFFLINE_KIT_LOCAL_KAGGLE"
"""Variable that holds the address of a running local Kaggle."""

_LOCAL_PAUSE = 1.0  # longest seconds between two polls of a local Kaggle
_SHORT_RETRY = 2.0  # seconds; shorter waits are not reported


@dataclass(frozen=True, kw_only=True)
class KaggleSession:
    """A logged-in account at Kaggle or a local Kaggle, with the stored state of earlier commands."""

    config: Config
    kaggle: KaggleClient
    account: Account
    local: bool
    settings: PushSettings
    ledger: SubmissionLedger
    memory: LastSeenStore

    def read_notebook(self, kit: Kit) -> NewNotebook:
        """Return the kit's notebook as it would be pushed; raises as `push_notebook.read_notebook`."""
        return push_notebook.read_notebook(kit, self.account.username)

    def runs_folder(self, ref: str) -> Path:
        """Return the folder for logs and outputs of a notebook's runs."""
        return self.settings.state_folder / "runs" / ref.partition("/")[2]

    def part_datasets(self, kit: Kit) -> dict[str, str]:
        """Return the configured dataset of each part of a kit that is one, by the part's name."""
        parts = self.without_other_parts(kit).parts
        return {part.name: rendering.part_dataset(part, kit, self.config.dataset) for part in parts}

    def model_part(self, kit: Kit) -> tuple[KitPart, str] | None:
        """Return the part that is a model instead of a dataset, with the model's variation; None for none."""
        publish = self.config.publish_model
        ref = push_models.resolve_model(publish, self.account) if publish else ""
        return next(
            ((part, ref) for part in kit.parts if ref and part.name == part_locations.MODEL_PART), None
        )

    def other_locations(self, kit: Kit) -> dict[str, str]:
        """Return where a kit's other parts are, by the part's name: "notebook:owner/slug", "model:...".

        A model has the version that the kit's notebook is pinned to, 0 if there is none yet.
        Raises UsageError as `push_models.resolve_model`.
        """
        known = part_locations.part_locations(self.config)
        locations = {part.name: known[part.name] for part in kit.parts if part.name in known}
        if model := self.model_part(kit):
            part, ref = model
            pinned = part_locations.pinned_model_version(self.config, kit)
            version = pinned[0].rpartition("/")[2] if pinned else "0"
            locations[part.name] = f"model:{ref}/{version}"
        return locations

    def without_other_parts(self, kit: Kit) -> Kit:
        """Return the kit without the parts that are no datasets."""
        locations = part_locations.part_locations(self.config)
        dataset_parts = tuple(part for part in kit.parts if part.name not in locations)
        return replace(kit, parts=dataset_parts, split=len(kit.parts) > 1)


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

    A local Kaggle that listens at `address`, or at the address in LOCAL_ADDRESS, is used. Without an address, one is
    served here until the block ends, with the state that `offline-kit local` has too and the competition in `project`;
    it runs notebooks in the `current` environment or in that of their image. Raises UsageError for an address
    that is not on this machine, OutsideError if another server uses that state.
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
        if not address.startswith("http://127.0.0.1:"):
            raise UsageError(
                f"'{address}' is not a local Kaggle on this machine",
                code="address-not-local",
                hint="use the address that 'offline-kit local' prints, such as http://127.0.0.1:8642",
            )
        yield KaggleEndpoint(local=address.rstrip("/"))
    else:
        competition = local_start.find_competition(project) if project else None
        request = local_start.LocalKaggleRequest(
            folder=local_start.default_state_folder(),
            port=0,
            competitions=(competition,) if competition else (),
            project=project,
        )
        runner = local_start.make_runner(current=current, project=project)
        with local_start.serve_local_kaggle(request, runner) as server:
            report.note(
                f"a local Kaggle is served at {server.url}, while this command runs; its scores are marked LOCAL"
            )
            yield KaggleEndpoint(local=server.url)


@contextmanager
def open_session(
    config: Config,
    endpoint: KaggleEndpoint,
    report: Reporter = SILENT,
    timing: KaggleTiming = DEFAULT_TIMING,
) -> Iterator[KaggleSession]:
    """Log in; raises NotLoggedInError with the accepted sources of credentials.

    A local Kaggle that does not answer within the block is an OutsideError with its address.
    """

    def tell(seconds: float) -> None:
        if seconds >= _SHORT_RETRY:
            report.note(f"Rate-limited by Kaggle (429); retrying in {seconds:.0f} s")

    local, poll = bool(endpoint.local), timing.poll
    if local:  # a server on this machine stands a poll each second, so that nobody waits for nothing
        poll = replace(
            poll,
            max_interval=min(poll.max_interval, _LOCAL_PAUSE),
            scoring_interval=min(poll.scoring_interval, _LOCAL_PAUSE),
        )
    memory = part_locations.memory_folder(config)
    try:
        patience = replace(timing.retry, tell=tell)
        with KaggleClient(endpoint, patience=patience, seconds=timing.read_timeout) as kaggle:
            account = kaggle.fetch_account()
            state = memory / ("local" if local else "kaggle") / account.username
            try:
                yield KaggleSession(
                    config=config,
                    kaggle=kaggle,
                    account=account,
                    local=local,
                    settings=PushSettings(state_folder=state, poll_policy=poll, retry_policy=timing.retry),
                    ledger=part_locations.open_ledger(config, state, local=local),
                    memory=LastSeenStore(state),
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
