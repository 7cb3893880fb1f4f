"""The way to Kaggle and back: from a built kit to what is there, at the real Kaggle or a local one."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from offline_kit.core import files, processes
from offline_kit.core.errors import OfflineKitError, OutsideError, ProjectError, UsageError
from offline_kit.core.report import SILENT, Reporter
from offline_kit.kaggle.client.api_types import (
    Account,
    NewNotebook,
    RefusedError,
    UnreachableError,
)
from offline_kit.kaggle.client.client import KaggleClient
from offline_kit.kaggle.client.endpoint import KaggleEndpoint
from offline_kit.kaggle.push import (
    compare_outputs,
    notebook_runs,
    push_models,
    queued_submissions,
)
from offline_kit.kaggle.push import (
    push_datasets as datasets,
)
from offline_kit.kaggle.push import (
    push_notebook as notebooks,
)
from offline_kit.kaggle.push.dataset_plan import DEFAULT_OPTIONS, PushAction, PushOptions, PushPlan
from offline_kit.kaggle.push.journal import LastSeenStore, PushSettings
from offline_kit.kaggle.push.notebook_runs import FinishedRun
from offline_kit.kaggle.push.poll_policy import DEFAULT_TIMING, KaggleTiming, PollPolicy
from offline_kit.kaggle.push.push_datasets import PushedPart
from offline_kit.kaggle.push.push_notebook import NotebookPlan, PushedNotebook
from offline_kit.kaggle.push.queued_submissions import QueuedSubmission
from offline_kit.kaggle.push.submission_ledger import SubmissionLedger
from offline_kit.kit.manifest import select_local_files, verify_part
from offline_kit.local_kaggle.sandbox_runner import SandboxRunner
from offline_kit.notebook import rendering
from offline_kit.packages import pip_settings
from offline_kit.project.config import Config
from offline_kit.project.types import Kit, KitPart
from offline_kit.rehearsal import rehearse as rehearsing
from offline_kit.rehearsal.environments import EnvironmentOptions
from offline_kit.workflow import local_start, part_locations

LOCAL_ADDRESS = "OFFLINE_KIT_LOCAL_KAGGLE"
"""Variable that holds the address of a running local Kaggle."""


_LOCAL_PAUSE = 1.0  # longest seconds between two polls of a local Kaggle
_WORTH_TELLING = 2.0  # seconds of a wait that Kaggle asks for
LAST_RUN = "last-run"
"""Key of the newest run in the stored state."""


@dataclass(frozen=True, kw_only=True)
class KaggleSession:
    """A logged-in account at Kaggle or a local Kaggle, with the stored state of earlier commands."""

    config: Config
    """Whose things go there."""
    kaggle: KaggleClient
    """Who takes them."""
    account: Account
    """Who we are there."""
    local: bool
    """Whether it is a local one."""
    settings: PushSettings
    """How a push goes about it."""
    ledger: SubmissionLedger
    """What was submitted; beside the project for the real Kaggle."""
    memory: LastSeenStore

    def part_datasets(self, kit: Kit) -> dict[str, str]:
        """Return the configured dataset of each part of a kit that is one, by the part's name."""
        parts = self.without_other_parts(kit).parts
        return {part.name: rendering.part_dataset(part, kit, self.config.dataset) for part in parts}

    def other_locations(self, kit: Kit) -> dict[str, str]:
        """Return where a kit's other parts are, by the part's name: "notebook:owner/slug", "model:...".

        A model is named at the version that the kit's notebook is pinned to, at 0 if it is to none yet.
        Raises UsageError as `models.target`.
        """
        locations = {
            part.name: part_locations.part_locations(self.config).get(part.name, "") for part in kit.parts
        }
        for part, ref in _model_part(self, kit):
            pinned = part_locations.pinned_model_version(self.config, kit)
            version = pinned[0].rpartition("/")[2] if pinned else "0"
            locations[part.name] = f"model:{ref}/{version}"
        return {name: home for name, home in locations.items() if home}

    def without_other_parts(self, kit: Kit) -> Kit:
        """Return the kit without the parts that are somewhere else than in datasets."""
        locations = part_locations.part_locations(self.config)
        dataset_parts = tuple(part for part in kit.parts if part.name not in locations)
        return replace(kit, parts=dataset_parts, split=len(kit.parts) > 1)


@dataclass(frozen=True, kw_only=True)
class NotebookRun:
    """A successful run of the kit's notebook."""

    pushed: PushedNotebook
    """Where the notebook is, and whether it was pushed for this."""
    seconds: float
    """How long the run took, as its log says."""
    submission: Path | None
    """What it wrote, fetched; None if it writes none and no competition asks for one."""
    log: Path
    notes: tuple[str, ...]
    """How what it wrote differs from the rehearsal's."""


@contextmanager
def choose_kaggle(
    to: str,
    address: str = "",
    report: Reporter = SILENT,
    *,
    project: Path | None = None,
    current: bool = False,
) -> Iterator[KaggleEndpoint]:
    """Give the Kaggle that `--to` means, while the block lasts.

    A local one that listens at `address`, or where the variable says, is used; without an address one is
    served here, on the state that `offline-kit local` has too, with the competition that
    the `project` brings, its notebooks run in the `current` environment or in that of their image. Raises UsageError for an address
    that is not on this machine, OutsideError if another server has that state.
    """
    address = address or (processes.copy_environment().get(LOCAL_ADDRESS, "") if to == "local" else "")
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
        with _serve_local(project, current=current) as url:
            report.note(
                f"a local Kaggle is served at {url}, while this command runs; its scores are marked LOCAL"
            )
            yield KaggleEndpoint(local=url)


@contextmanager
def _serve_local(project: Path | None, *, current: bool) -> Iterator[str]:
    competition = local_start.find_competition(project) if project else None
    cache = files.cache_dir()
    workshop = EnvironmentOptions(
        index=pip_settings.read_pip_settings(processes.copy_environment()), cache=cache, yes=True
    )
    request = local_start.LocalKaggleRequest(
        folder=cache / "local-kaggle",
        port=0,
        competitions=(competition,) if competition else (),
        project=project,
    )
    with local_start.serve_local_kaggle(
        request, SandboxRunner(workshop, current=current, project=project)
    ) as server:
        yield server.url


@contextmanager
def open_session(
    config: Config,
    endpoint: KaggleEndpoint,
    report: Reporter = SILENT,
    timing: KaggleTiming = DEFAULT_TIMING,
) -> Iterator[KaggleSession]:
    """Log in; raises NotLoggedInError with the accepted sources of credentials.

    A local Kaggle that does not answer to what is done in the block is an OutsideError with its address.
    """

    def told(seconds: float) -> None:
        if seconds >= _WORTH_TELLING:
            report.note(f"Rate-limited by Kaggle (429); retrying in {seconds:.0f} s")

    patience = replace(timing.retry, tell=told)
    with (
        _name_local_kaggle(endpoint),
        KaggleClient(endpoint, patience=patience, seconds=timing.read_timeout) as kaggle,
    ):
        account = kaggle.fetch_account()
        state = _state_folder(config, endpoint, account.username)
        try:
            yield KaggleSession(
                config=config,
                kaggle=kaggle,
                account=account,
                local=bool(endpoint.local),
                settings=PushSettings(
                    state_folder=state,
                    poll_policy=_poll_policy(timing.poll, endpoint),
                    retry_policy=timing.retry,
                ),
                ledger=SubmissionLedger(
                    part_locations.ledger_path(config, state, local=bool(endpoint.local))
                ),
                memory=LastSeenStore(state),
            )
        finally:
            files.ignore_in_git(
                part_locations.memory_folder(config)
            )  # addresses of uploads are among what is remembered


def _poll_policy(policy: PollPolicy, endpoint: KaggleEndpoint) -> PollPolicy:
    """Return how often to poll: a server on this machine stands a poll each second, so that nobody waits for nothing."""
    if not endpoint.local:
        return policy
    longest, scoring = (min(pause, _LOCAL_PAUSE) for pause in (policy.max_interval, policy.scoring_interval))
    return replace(policy, max_interval=longest, scoring_interval=scoring)


@contextmanager
def _name_local_kaggle(endpoint: KaggleEndpoint) -> Iterator[None]:
    """Report a local Kaggle that does not answer by its address, instead of blaming the network."""
    try:
        yield
    except UnreachableError as lost:
        if not endpoint.local:
            raise
        raise OutsideError(
            f"no local Kaggle answers at '{endpoint.local}'",
            code="local-kaggle-unreachable",
            hint="start it with 'offline-kit local' and run the same command again; without an address"
            f" (--at, {LOCAL_ADDRESS}) the command serves one itself",
            details=lost.details,
        ) from lost


def _state_folder(config: Config, endpoint: KaggleEndpoint, username: str) -> Path:
    return part_locations.memory_folder(config) / ("local" if endpoint.local else "kaggle") / username


def check_kit(kit: Kit) -> Kit:
    """Return a kit that is whole; ProjectError if its files on disk are damaged."""
    folders = [(kit.part_folder(part), part) for part in kit.parts]
    problems = [
        line
        for folder, part in folders
        for line in verify_part(folder, select_local_files(folder, part), hashes=False)
    ]
    if problems:
        raise ProjectError(
            f"the kit in '{kit.folder}' is damaged",
            code="kit-damaged",
            hint="build it again with 'offline-kit build'",
            details=problems,
        )
    return kit


def plan_data(
    session: KaggleSession, kit: Kit, options: PushOptions = DEFAULT_OPTIONS, report: Reporter = SILENT
) -> PushPlan:
    """Return what a push would do, having looked at Kaggle; raises as `datasets.plan`."""
    part_locations.check_locations(session.config, session.account.username, local=session.local)
    dataset_kit = session.without_other_parts(_with_resent_parts(kit, options))
    for part, ref in _model_part(session, kit):
        model_plan = push_models.plan_model(kit, part, ref, session.kaggle, session.settings, options, report)
        report.note(f"the model '{ref}': {model_plan.action.value}, {model_plan.reason}")
    return datasets.plan_datasets(
        dataset_kit, session.part_datasets(kit), session.kaggle, session.settings, options, report
    )


def push_data(
    session: KaggleSession,
    kit: Kit,
    options: PushOptions = DEFAULT_OPTIONS,
    report: Reporter = SILENT,
    approve: Callable[[PushPlan], None] = lambda _plan: None,
) -> tuple[PushedPart, ...]:
    """Bring the kit's parts to their datasets; raises as `datasets.push`."""
    ids = {part.name: part.id for part in kit.parts}
    part_locations.check_locations(session.config, session.account.username, local=session.local)
    dataset_kit = session.without_other_parts(_with_resent_parts(check_kit(kit), options))
    pushed = datasets.push_kit(
        dataset_kit, session.part_datasets(kit), session.kaggle, session.settings, options, report, approve
    )
    pushed = (*pushed, *_push_model(session, kit, options, report))
    parts = [
        {"part": part.part, "id": ids[part.part], "dataset": part.ref, "version": part.version}
        for part in pushed
    ]
    session.memory.save_facts(
        part_locations.LAST_PUSH, {"kit": kit.id, "parts": parts, "at": files.utc_timestamp()}
    )
    return pushed


def _with_resent_parts(kit: Kit, options: PushOptions) -> Kit:
    """Return a kit that has all parts that are to be sent again."""
    names = [part.name for part in kit.parts]
    if unknown := [name for name in options.resend_part if name not in names]:
        raise UsageError(
            f"the kit has no part '{unknown[0]}'",
            code="kit-part-unknown",
            hint=f"--resend-part takes {' or '.join(names)}",
        )
    return kit


def _model_part(session: KaggleSession, kit: Kit) -> tuple[tuple[KitPart, str], ...]:
    """Return the part that is a model instead of a dataset, with the model's variation; nothing for none."""
    publish = session.config.publish_model
    if not publish:
        return ()
    ref = push_models.resolve_model(publish, session.account)
    return tuple((part, ref) for part in kit.parts if part.name == part_locations.MODEL_PART)


def _push_model(
    session: KaggleSession, kit: Kit, options: PushOptions, report: Reporter
) -> tuple[PushedPart, ...]:
    """Bring that part to its model, and have the kit's notebook attach exactly the version that holds it."""
    plans = []
    for part, ref in _model_part(session, kit):
        pushed = push_models.push_model(kit, part, ref, session.kaggle, session.settings, options, report)
        notebooks.pin_model(kit, pushed.source)
        version = int(pushed.source.rpartition("/")[2])
        plans.append(
            PushedPart(part=part.name, ref=ref, version=version, action=pushed.action, url=pushed.url)
        )
    return tuple(plans)


def describe_disturbed(session: KaggleSession, kit: Kit, plan: PushPlan) -> tuple[str, ...]:
    """Return a line for each submission under way whose hidden run would meet other data than it was made for."""
    changed = {part.ref: part.held_part_id for part in plan.parts if part.action is PushAction.VERSION}
    if not changed:
        return ()
    # The configuration may have another competition by now, or none.
    waiting = [e.competition for e in session.ledger.read_entries() if e.state not in ("complete", "error")]
    competitions = sorted({session.config.competition, *waiting} - {""})
    submissions = [
        submission for competition in competitions for submission in _queued_submissions(session, competition)
    ]
    return queued_submissions.find_disturbed(submissions, changed, [part.id for part in kit.parts])


def _queued_submissions(session: KaggleSession, competition: str) -> tuple[QueuedSubmission, ...]:
    try:
        return queued_submissions.list_queued(session.kaggle, competition, session.ledger)
    except RefusedError as refusal:
        if refusal.is_temporary:
            raise
        return ()  # nobody who has not accepted the rules has submissions


def notebook_of(session: KaggleSession, kit: Kit) -> NewNotebook:
    """Return the kit's notebook as it would be pushed; raises as `notebooks.of_kit`."""
    return notebooks.read_notebook(kit, session.account.username)


def plan_notebook(session: KaggleSession, kit: Kit, report: Reporter = SILENT) -> NotebookPlan:
    """Return what a push of the kit's notebook would do, having looked at Kaggle."""
    return notebooks.plan_notebook(notebook_of(session, kit), session.kaggle, session.settings, report)


def push_notebook(session: KaggleSession, kit: Kit, report: Reporter = SILENT) -> PushedNotebook:
    """Push the kit's notebook without waiting for its run; raises as `notebooks.push`."""
    return notebooks.push_notebook(notebook_of(session, kit), session.kaggle, session.settings, report)


def run_notebook(session: KaggleSession, kit: Kit, report: Reporter = SILENT) -> NotebookRun:
    """Push the kit's notebook, wait for the run of exactly this version and fetch what it wrote.

    Raises as `runs.push_and_follow` and `runs.fetch`. What was seen is remembered, a failure too.
    """
    return follow_notebook(session, kit, notebook_of(session, kit), report)


def follow_notebook(
    session: KaggleSession, kit: Kit, new: NewNotebook, report: Reporter = SILENT, *, remember: str = LAST_RUN
) -> NotebookRun:
    """Do as `run_notebook` with this notebook for the kit, and remember it under this name."""
    folder = _runs_of(session, new.ref)
    facts: dict[str, Any] = {"kit": kit.id, "notebook": new.ref}
    try:
        pushed, finished = notebook_runs.push_and_follow(
            new, session.kaggle, session.settings, report, log_folder=folder
        )
        folder_of_run = folder / f"v{finished.version}"
        written = _fetch_outputs(session, finished, folder_of_run, report, keep=pushed.action == "nothing")
    except OfflineKitError as error:
        problem = {"what": error.what, "hint": error.hint}
        session.memory.save_facts(remember, {**facts, "at": files.utc_timestamp(), "problem": problem})
        raise
    facts |= {"version": pushed.version, "seconds": finished.seconds}
    _remember_run(session.memory, remember, facts)
    before = pushed.action == "nothing"
    report.note(
        f"version {pushed.version} of '{pushed.ref}' ran offline{' before' if before else ''},"
        f" in {finished.seconds:.0f} s" + (f"; its output is '{written}'" if written else "")
    )
    rehearsal = last_rehearsal(kit)
    notes = (
        compare_outputs.compare_submissions(rehearsal, written, session.account.server_name)
        if rehearsal and written
        else ()
    )
    return NotebookRun(
        pushed=pushed,
        seconds=finished.seconds,
        submission=written,
        log=folder / notebook_runs.LOG_NAME,
        notes=notes,
    )


def follow_version(session: KaggleSession, ref: str, version: int, report: Reporter = SILENT) -> FinishedRun:
    """Wait for the run of a version that is there, and push nothing; raises as `runs.follow`."""
    return notebook_runs.follow_run(
        ref, version, session.kaggle, session.settings, report, log_folder=_runs_of(session, ref)
    )


def _runs_of(session: KaggleSession, ref: str) -> Path:
    return session.settings.state_folder / "runs" / ref.partition("/")[2]


def _remember_run(memory: LastSeenStore, name: str, facts: dict[str, Any]) -> None:
    """Remember a run by the time when its end was seen first."""
    last = memory.load_facts(name) or {}
    if any(last.get(key) != value for key, value in facts.items()) or last.get("problem"):
        memory.save_facts(name, {**facts, "at": files.utc_timestamp()})


def last_rehearsal(kit: Kit) -> Path | None:
    """Return what the last rehearsal of this kit wrote; None if there was none or it failed."""
    last = rehearsing.read_last_report(kit)
    path = Path(str(last["submission"])) if last and last.get("passed") else None
    return path if path and path.is_file() else None


def _fetch_outputs(
    session: KaggleSession, finished: FinishedRun, folder: Path, report: Reporter, *, keep: bool
) -> Path | None:
    name = session.config.notebook.submission
    if name not in finished.outputs and not session.config.competition:
        report.note(f"it wrote no '{name}', and no competition is configured that would want one")
        return None
    if keep and (fetched := notebook_runs.find_fetched_output(finished, folder, name)):
        return fetched
    return notebook_runs.fetch_outputs(finished, session.kaggle, folder, [name], report)[0]
