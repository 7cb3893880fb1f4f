"""Push a kit: its data, then its notebook, whose run is followed and whose output is fetched."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from offline_kit.core import files
from offline_kit.core.errors import OfflineKitError, OutsideError, UsageError
from offline_kit.core.files import format_size
from offline_kit.core.report import SILENT, Reporter
from offline_kit.kaggle.client.api_types import NewNotebook, RefusedError
from offline_kit.kaggle.push import (
    notebook_runs,
    push_datasets,
    push_models,
    push_notebook,
    submission_plan,
)
from offline_kit.kaggle.push.dataset_plan import DEFAULT_OPTIONS, PushAction, PushOptions, PushPlan
from offline_kit.kaggle.push.push_datasets import PushedPart
from offline_kit.kaggle.push.push_notebook import PushedNotebook
from offline_kit.project.types import Kit
from offline_kit.rehearsal import rehearse as rehearsing
from offline_kit.workflow import part_locations
from offline_kit.workflow.kaggle_session import KaggleSession

LAST_RUN = "last-run"
"""Key of the newest run in the stored state."""


@dataclass(frozen=True, kw_only=True)
class ApprovalPolicy:
    """Who approves what cannot be undone: the option --yes, or a person."""

    yes: bool = False
    confirm: Callable[[str], bool] = lambda _question: False
    """Asks a person; False if there is none."""
    alone: bool = False
    """There is nobody to ask."""


@dataclass(frozen=True, kw_only=True)
class NotebookRun:
    """A successful run of the kit's notebook."""

    pushed: PushedNotebook
    seconds: float
    """As its log says."""
    submission: Path | None
    """The file that it wrote, downloaded; None if it wrote none and no competition asks for one."""
    log: Path
    notes: tuple[str, ...]
    """How the file differs from the rehearsal's."""


def plan_data(
    session: KaggleSession, kit: Kit, options: PushOptions = DEFAULT_OPTIONS, report: Reporter = SILENT
) -> PushPlan:
    """Look at Kaggle and return what a push would do; raises as `push_datasets.plan_datasets`."""
    _check_parts(session, kit, options)
    if model := session.model_part(kit):
        part, ref = model
        plan = push_models.plan_model(part, ref, session.kaggle, session.settings, options, report)
        report.note(f"the model '{ref}': {plan.action.value}, {plan.reason}")
    datasets = session.part_datasets(kit)
    return push_datasets.plan_datasets(
        session.without_other_parts(kit), datasets, session.kaggle, session.settings, options, report
    )


def push_data(
    session: KaggleSession, kit: Kit, options: PushOptions, policy: ApprovalPolicy, report: Reporter = SILENT
) -> tuple[PushedPart, ...]:
    """Upload the kit's changed parts; ask first if that may be in vain, or spoil a submission under way."""

    def ask_for_approval(lines: tuple[str, ...], question: str, refused: OutsideError) -> None:
        if policy.yes:
            for line in lines:
                report.warn(line)
        elif lines and not policy.confirm("\n".join((*lines, question))):
            raise refused

    def approve_plan(plan: PushPlan) -> None:
        if sent := [part for part in plan.parts if part.file_count]:
            sizes = [f"{format_size(part.upload_size)} to '{part.ref}'" for part in sent]
            file_count = sum(part.file_count for part in sent)
            report.step(f"To send: {format_size(plan.upload_size)} in {file_count} files: {', '.join(sizes)}")
        crowded = tuple(part.file_count_warning for part in plan.parts if part.file_count_warning)
        refused = OutsideError(
            "Kaggle may not take so many files in one dataset; nothing was sent",
            code="too-many-files",
            hint="put small files together, divide the kit with 'parts = \"split\"', or send all the same with --yes",
            details=crowded,
        )
        ask_for_approval(crowded, "Upload them all the same?", refused)
        disturbed = describe_disturbed(session, kit, plan)
        refused = OutsideError(
            "a submission under way needs the data as it is; nothing was sent",
            code="submission-pending",
            hint="wait for its score, or send all the same with --yes",
            details=disturbed,
        )
        ask_for_approval(disturbed, "Send a new version of its data all the same?", refused)

    _check_parts(session, kit, options)
    kaggle, settings, datasets = session.kaggle, session.settings, session.part_datasets(kit)
    pushed = push_datasets.push_kit(
        session.without_other_parts(kit), datasets, kaggle, settings, options, report, approve_plan
    )
    if model := session.model_part(kit):
        part, ref = model
        sent_model = push_models.push_model(kit, part, ref, kaggle, settings, options, report)
        # The notebook attaches exactly the version that holds this kit's checkpoints.
        push_notebook.pin_model(kit, sent_model.source)
        pushed += (sent_model,)
    ids = {part.name: part.id for part in kit.parts}
    facts = [
        {"part": part.part, "id": ids[part.part], "dataset": part.ref, "version": part.version}
        for part in pushed
    ]
    session.memory.save_facts(
        part_locations.LAST_PUSH, {"kit": kit.id, "parts": facts, "at": files.utc_timestamp()}
    )
    return pushed


def _check_parts(session: KaggleSession, kit: Kit, options: PushOptions) -> None:
    """Raise ProjectError for packages at another Kaggle, UsageError for a part to resend that the kit lacks."""
    part_locations.check_locations(session.config, session.account.username, local=session.local)
    names = [part.name for part in kit.parts]
    if unknown := [name for name in options.resend_part if name not in names]:
        raise UsageError(
            f"the kit has no part '{unknown[0]}'",
            code="kit-part-unknown",
            hint=f"--resend-part takes {' or '.join(names)}",
        )


def describe_disturbed(session: KaggleSession, kit: Kit, plan: PushPlan) -> tuple[str, ...]:
    """Return a line for each submission under way whose hidden run would meet other data than it was made for."""
    changed = {part.ref: part.held_part_id for part in plan.parts if part.action is PushAction.VERSION}
    if not changed:
        return ()
    # The configuration may have another competition by now, or none.
    waiting = [
        entry.competition
        for entry in session.ledger.read_entries()
        if entry.state not in ("complete", "error")
    ]
    queued: list[submission_plan.QueuedSubmission] = []
    for competition in sorted({session.config.competition, *waiting} - {""}):
        try:
            queued += submission_plan.list_queued(session.kaggle, competition, session.ledger)
        except RefusedError as refusal:
            # Whoever has not accepted the rules gets 403, and has no submissions.
            if refusal.is_temporary:
                raise
    return submission_plan.find_disturbed(queued, changed, [part.id for part in kit.parts])


def run_notebook(
    session: KaggleSession,
    kit: Kit,
    report: Reporter = SILENT,
    *,
    new: NewNotebook | None = None,
    remember: str = LAST_RUN,
) -> NotebookRun:
    """Push the kit's notebook, or `new`, wait for the run of exactly this version and download its output.

    The run is remembered under the key `remember`, a failure too. Raises as `notebook_runs.push_and_follow`
    and `fetch_outputs`.
    """
    new = new or session.read_notebook(kit)
    folder, memory = session.runs_folder(new.ref), session.memory
    facts: dict[str, Any] = {"kit": kit.id, "notebook": new.ref}
    try:
        pushed, finished = notebook_runs.push_and_follow(
            new, session.kaggle, session.settings, report, log_folder=folder
        )
        submission = _fetch_submission(session, pushed, finished, report)
    except OfflineKitError as error:
        problem = {"what": error.what, "hint": error.hint}
        memory.save_facts(remember, {**facts, "at": files.utc_timestamp(), "problem": problem})
        raise
    # A run that was seen before keeps the time when its end was seen first.
    facts |= {"version": pushed.version, "seconds": finished.seconds}
    last = memory.load_facts(remember) or {}
    if any(last.get(key) != value for key, value in facts.items()) or last.get("problem"):
        memory.save_facts(remember, {**facts, "at": files.utc_timestamp()})
    before = " before" * (pushed.action == "nothing")
    output = f"; its output is '{submission}'" if submission else ""
    report.note(
        f"version {pushed.version} of '{pushed.ref}' ran offline{before}, in {finished.seconds:.0f} s{output}"
    )
    notes: tuple[str, ...] = ()
    last_report = rehearsing.read_last_report(kit) or {}
    rehearsed = Path(str(last_report.get("submission")))
    if submission and last_report.get("passed") and rehearsed.is_file():
        notes = notebook_runs.compare_submissions(rehearsed, submission, session.account.server_name)
    return NotebookRun(
        pushed=pushed,
        seconds=finished.seconds,
        submission=submission,
        log=folder / notebook_runs.LOG_NAME,
        notes=notes,
    )


def _fetch_submission(
    session: KaggleSession, pushed: PushedNotebook, finished: notebook_runs.FinishedRun, report: Reporter
) -> Path | None:
    """Download the submission file of a run, unless it is here already; None if there is none to expect."""
    name, folder = session.config.notebook.submission, session.runs_folder(finished.ref)
    folder /= f"v{finished.version}"
    if name not in finished.outputs and not session.config.competition:
        report.note(f"it wrote no '{name}', and no competition is configured that would want one")
        return None
    if pushed.action == "nothing" and (path := notebook_runs.find_fetched_output(finished, folder, name)):
        return path
    return notebook_runs.fetch_outputs(finished, session.kaggle, folder, [name], report)[0]
