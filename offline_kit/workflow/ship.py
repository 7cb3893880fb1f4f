"""From the project to the score: build, rehearse, push, run, submit; each step only if it is not done yet.

Every step first looks at what exists, so that the same command continues wherever an earlier one stopped.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from offline_kit.core import files, git
from offline_kit.core.errors import OfflineKitError, OutsideError, ProjectError, UsageError
from offline_kit.kaggle.client.api_types import Competition, NewNotebook, RefusedError
from offline_kit.kaggle.push import notebook_runs, push_notebook, push_parts, submission_plan
from offline_kit.kaggle.push import submit as submissions
from offline_kit.kaggle.push.part_targets import PartPlan, PushAction
from offline_kit.kaggle.push.push_parts import DEFAULT_OPTIONS, PushOptions
from offline_kit.kaggle.push.submission_ledger import SubmissionTag
from offline_kit.kaggle.push.submission_plan import SubmitPlan, SubmitRequest
from offline_kit.project.config import Config
from offline_kit.project.types import Kit
from offline_kit.rehearsal import receipt
from offline_kit.rehearsal import rehearse as rehearsing
from offline_kit.workflow import output_files, part_locations, pipeline, project_status
from offline_kit.workflow.kaggle_session import KaggleSession


@dataclass(frozen=True, kw_only=True)
class NotebookRun:
    """A successful run of the kit's notebook."""

    pushed: push_notebook.NotebookPlan
    seconds: float  # as its log says
    submission: Path | None
    """The file that it wrote, downloaded; None if it wrote none and no competition asks for one."""
    log: Path
    notes: tuple[str, ...]  # how the file differs from the rehearsal's


@dataclass(frozen=True, kw_only=True)
class PushPlan:
    """What a push would do."""

    data: tuple[PartPlan, ...]
    notebook: push_notebook.NotebookPlan | None  # None: only the data is pushed
    disturbed: tuple[str, ...]  # submissions under way that new data would spoil


def plan_push(
    session: KaggleSession, kit: Kit, options: PushOptions, *, with_notebook: bool = True
) -> PushPlan:
    """Look at Kaggle and return what a push would do; raises as `push_parts.plan_push`."""
    # Problems of the notebook are reported before those of the data.
    new = session.read_notebook(kit) if with_notebook else None
    _check_parts(session, kit, options)
    data = push_parts.plan_push(kit, session.locate_parts(kit), session, options)
    notebook = push_notebook.plan_notebook(new, session) if new else None
    return PushPlan(data=data, notebook=notebook, disturbed=_describe_disturbed(session, kit, data))


def push_data(
    session: KaggleSession, kit: Kit, options: PushOptions = DEFAULT_OPTIONS, *, yes: bool
) -> tuple[PartPlan, ...]:
    """Upload the kit's changed parts; ask first, or warn if `yes`, if that may be in vain or spoil a submission."""

    def approve_plans(plans: tuple[PartPlan, ...]) -> None:
        if sent := [part for part in plans if part.file_count]:
            sizes = [f"{files.format_size(part.upload_size)} to '{part.ref}'" for part in sent]
            file_count = sum(part.file_count for part in sent)
            upload_size = files.format_size(sum(part.upload_size for part in sent))
            session.report.step(f"To send: {upload_size} in {file_count} files: {', '.join(sizes)}")
        crowded = OutsideError(
            "Kaggle may not take so many files in one dataset; nothing was sent",
            code="too-many-files",
            hint="put small files together, divide the kit with 'parts = \"split\"', or send all the same with --yes",
            details=[part.file_count_warning for part in plans if part.file_count_warning],
        )
        disturbing = OutsideError(
            "a submission under way needs the data as it is; nothing was sent",
            code="submission-pending",
            hint="wait for its score, or send all the same with --yes",
            details=_describe_disturbed(session, kit, plans),
        )
        for refusal, question in (
            (crowded, "Upload them all the same?"),
            (disturbing, "Send a new version of its data all the same?"),
        ):
            for line in refusal.details if yes else ():
                session.report.warn(line)
            if refusal.details and not (
                yes or session.report.confirm("\n".join((*refusal.details, question)))
            ):
                raise refusal

    _check_parts(session, kit, options)
    pushed = push_parts.push_kit(kit, session.locate_parts(kit), session, options, approve_plans)
    for part in (part for part in pushed if part.kind == "model"):
        # The notebook attaches exactly the version that holds this kit's checkpoints.
        push_notebook.pin_model(kit, f"{part.ref}/{part.version}")
    facts = [
        {"part": part.part.name, "id": part.part.id, "dataset": part.ref, "version": part.version}
        for part in pushed
    ]
    session.save_facts(part_locations.LAST_PUSH, {"kit": kit.id, "parts": facts, "at": files.utc_timestamp()})
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


def _describe_disturbed(session: KaggleSession, kit: Kit, plans: Sequence[PartPlan]) -> tuple[str, ...]:
    """Return a line for each submission under way whose hidden run would meet other data than it was made for."""
    # A notebook cannot pin a dataset's version: the hidden run mounts the newest one. Models are pinned.
    versions = [part for part in plans if part.action is PushAction.VERSION and part.kind == "dataset"]
    changed = {part.ref: part.held_part_id for part in versions}
    if not changed:
        return ()
    # The configuration may name another competition by now, or none: the ledger knows the earlier ones.
    waiting = [
        entry.competition
        for entry in session.ledger.read_entries()
        if entry.state not in ("complete", "error")
    ]
    lines: list[str] = []
    parts = [part.id for part in kit.parts]
    for competition in sorted({session.config.competition, *waiting} - {""}):
        try:
            lines += submission_plan.find_disturbed(
                competition, changed, parts, session.kaggle, session.ledger
            )
        except RefusedError as refusal:
            # Whoever has not accepted the rules gets 403, and has no submissions.
            if refusal.is_temporary:
                raise
    return tuple(lines)


def run_notebook(
    session: KaggleSession,
    kit: Kit,
    *,
    new: NewNotebook | None = None,
    remember: str = part_locations.LAST_RUN,
) -> NotebookRun:
    """Push the kit's notebook, or `new`, follow this version's run, download its output, and `remember` its end."""
    new = new or session.read_notebook(kit)
    folder = session.runs_folder(new.ref)
    facts: dict[str, Any] = {"kit": kit.id, "notebook": new.ref}
    try:
        pushed, finished = notebook_runs.push_and_follow(new, session)
        submission = _fetch_submission(session, finished)
    except OfflineKitError as error:
        problem = {"what": error.what, "hint": error.hint}
        session.save_facts(remember, {**facts, "at": files.utc_timestamp(), "problem": problem})
        raise
    # A run that was seen before keeps the time when its end was seen first.
    facts |= {"version": pushed.version, "seconds": finished.seconds}
    last = session.load_facts(remember)
    if any(last.get(key) != value for key, value in facts.items()) or last.get("problem"):
        session.save_facts(remember, {**facts, "at": files.utc_timestamp()})
    before = " before" * (pushed.action == "nothing")
    output = f"; its output is '{submission}'" if submission else ""
    session.report.note(
        f"version {pushed.version} of '{new.ref}' ran offline{before}, in {finished.seconds:.0f} s{output}"
    )
    # The public run sees the same data as a rehearsal: other predictions are worth a note.
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


def _fetch_submission(session: KaggleSession, finished: notebook_runs.FinishedRun) -> Path | None:
    """Download the submission file of a run; None if there is none to expect."""
    name, folder = session.config.notebook.submission, session.runs_folder(finished.ref)
    if name not in finished.outputs and not session.config.competition:
        session.report.note(f"it wrote no '{name}', and no competition is configured that would want one")
        return None
    return session.fetch_outputs(finished, folder / f"v{finished.version}", [name])[0]


@dataclass(frozen=True, kw_only=True)
class ShipOptions:
    """How a kit is shipped."""

    rehearsal: pipeline.RehearsalOptions | None  # None: do not rehearse
    data: PushOptions
    submission: SubmitRequest  # its message, and whether it is again, late or waited for
    yes: bool  # approve what cannot be undone
    upgrade: bool = False  # resolve again, to the newest versions


@dataclass(frozen=True, kw_only=True)
class ShipResult:
    """A kit that was submitted."""

    built: pipeline.BuildResult
    rehearsal: dict[str, Any] | None  # the fields of its rehearsal, or the report of an earlier one
    pushed: tuple[PartPlan, ...]
    ran: NotebookRun
    submitted: submissions.SubmissionResult


@dataclass(frozen=True, kw_only=True)
class ShipPlan:
    """What each step would do now."""

    build: pipeline.BuildPlan
    kit: Kit  # the kit that a build would make, which the steps below are about
    outdated: str  # the id of the existing kit that would be replaced; empty if it stays or there is none
    changed: tuple[str, ...]  # how a build would differ from the existing kit
    rehearsal: str
    push: PushPlan
    submission: SubmitPlan  # of version 0 if the notebook has to be pushed or run first


def ship_kit(session: KaggleSession, options: ShipOptions) -> ShipResult:
    """Do all that is not done yet, in order, and stop at the first problem; raises what the steps raise."""
    contest = find_competition(session)
    config = require_hidden_run(session.config, contest)
    # What will stop the last step is told before minutes of work.
    if contest.deadline and contest.deadline < datetime.now(UTC) and not options.submission.late:
        session.report.warn(
            f"the deadline of '{contest.slug}' is over: what was not submitted before is refused"
        )
    if not (options.yes or session.report.can_ask()):
        session.report.warn(
            "there is no terminal to ask on: a submission is spent only with --yes; all before it is done"
        )
    if options.rehearsal:  # asked before minutes of work, too
        config = pipeline.ask_hidden_rows(config, session.report, yes=options.yes)
    built = pipeline.build_kit(config, upgrade=options.upgrade, report=session.report)
    kit = built.kit
    rehearsal: dict[str, Any] | None = None
    if options.rehearsal is None:
        session.report.note("not rehearsed, as asked")
    elif last := pipeline.passed_rehearsal(config, kit, options.rehearsal):
        session.report.note(
            f"rehearsed already: passed at fidelity '{last['fidelity']}' in {last['seconds']} s"
        )
        rehearsal = last
    else:
        output_files.fetch_missing(kit, session)
        passed = pipeline.rehearse_kit(config, kit, options.rehearsal, report=session.report)
        rehearsal = {**vars(passed), "passed": True}
    session.read_notebook(kit)  # its problems are reported before anything is uploaded
    pushed = push_data(session, kit, options.data, yes=options.yes)
    run = run_notebook(session, kit)
    for note in run.notes:
        session.report.note(note)
    wanted = replace(options.submission, run_seconds=run.seconds)
    request = request_submission(session, kit, run.pushed.version, wanted)
    submitted = submit_version(session, request, yes=options.yes)
    return ShipResult(built=built, rehearsal=rehearsal, pushed=pushed, ran=run, submitted=submitted)


def require_hidden_run(config: Config, contest: Competition) -> Config:
    """Return the configuration with a hidden run if the competition will run the notebook again, unless it is set."""
    return replace(config, hidden="auto") if contest.is_code_only and not config.hidden else config


def find_competition(session: KaggleSession) -> Competition:
    """Return the project's competition, before minutes of work; raises all that prevents every submission to it."""
    slug = session.config.competition
    if not slug:
        raise UsageError(
            "there is no competition to submit to",
            code="competition-not-set",
            hint="set `competition` in the configuration (--competition), or use 'offline-kit push' alone",
        )
    return submission_plan.find_competition(slug, session, session.config.describe_origin("competition"))


def request_submission(
    session: KaggleSession, kit: Kit, version: int, wanted: SubmitRequest, *, is_kit: bool = True
) -> SubmitRequest:
    """Return the submission of a version of the kit's notebook, which `is_kit` as it is here."""
    request = replace(
        wanted,
        competition=session.config.competition,
        notebook=session.read_notebook(kit).ref,
        version=version,
        file=session.config.notebook.submission,
    )
    if not is_kit:
        return request  # of an earlier version, neither the kit nor the commit is known
    parts, commit = {part.name: part.id for part in kit.parts}, git.read_commit(session.config.project)
    proof = receipt.summarize_receipt(rehearsing.read_last_report(kit))
    return replace(request, kit=kit.id, parts=parts, commit=commit, proof=proof)


def submit_version(
    session: KaggleSession, request: SubmitRequest, *, yes: bool
) -> submissions.SubmissionResult:
    """Submit a finished version once, and wait for its score if asked to; UsageError if nobody agreed."""
    plan = submissions.plan_submission(request, session, session.ledger)
    # A submission cannot be taken back, and most competitions allow five a day.
    if plan.existing is None:
        for name, value in plan.list_facts():
            session.report.note(f"{name}: {value}")
        if not (yes or session.report.confirm(f"Spend one of {plan.remaining_today} submissions?")):
            raise UsageError(
                "nobody agreed to spend a submission; nothing was submitted",
                code="submission-not-approved",
                hint="answer y, or add --yes in scripts and CI",
            )
    submitted = submissions.submit_version(plan, session, session.ledger)
    if request.wait:
        scored = submissions.wait_for_score(submitted.ref, session, ledger=session.ledger)
        submitted = replace(submitted, submission=scored)
    return submitted


def request_pushed_version(
    session: KaggleSession, version: int | None, wanted: SubmitRequest, *, follow: bool = True
) -> SubmitRequest:
    """Return the submission of a version of the kit's notebook; None: the version that is this kit's.

    To `follow` is to wait for the run of this kit's version. Nothing is pushed. Raises as `find_competition`,
    and ProjectError if this kit's notebook is not there, or its run failed.
    """
    find_competition(session)
    kit = pipeline.read_sound_kit(session.config)
    if version is not None:
        return request_submission(session, kit, version, wanted, is_kit=False)
    for line in project_status.describe_changes(session.config, kit):
        session.report.warn(line)
    new = session.read_notebook(kit)
    plan = push_notebook.plan_notebook(new, session)
    if not plan.version:
        raise ProjectError(
            f"the notebook of this kit is not on {session.account.server_name}: {plan.reason}",
            code="notebook-not-pushed",
            hint="push it with 'offline-kit push', or name an earlier version with --version",
        )
    if follow:
        run = notebook_runs.follow_run(new.ref, plan.version, session)
        wanted = replace(wanted, run_seconds=run.seconds)
    return request_submission(session, kit, plan.version, wanted)


def plan_ship(session: KaggleSession, options: ShipOptions) -> ShipPlan:
    """Look at everything, write no kit and send nothing; raises what already prevents shipping."""
    contest = find_competition(session)
    config = require_hidden_run(session.config, contest)
    try:
        existing: Kit | None = pipeline.read_sound_kit(config)
    except ProjectError:
        existing = None  # none yet, or a damaged one, which a build replaces
    with pipeline.outline_build(config, upgrade=options.upgrade, report=session.report) as (plan, kit):
        changed = project_status.list_changes(config, existing, plan) if existing else ()
        stays = existing is not None and not changed and existing.id == kit.id
        rehearsal = "skipped (--no-rehearsal)"
        if options.rehearsal:
            rehearsal = f"to run, with --env {options.rehearsal.env}"
            if existing and stays and pipeline.passed_rehearsal(config, existing, options.rehearsal):
                rehearsal = "already passed"
        push = plan_push(session, kit, options.data)
        return ShipPlan(
            build=plan,
            kit=kit,
            outdated=existing.id if existing and not stays else "",
            changed=changed,
            rehearsal=rehearsal,
            push=push,
            submission=_plan_submission(session, kit, contest, push.notebook, options.submission),
        )


def _plan_submission(
    session: KaggleSession,
    kit: Kit,
    contest: Competition,
    notebook: push_notebook.NotebookPlan | None,
    wanted: SubmitRequest,
) -> SubmitPlan:
    """Return the submission of a version whose run is complete, else what is known of it before."""
    ref, file = session.read_notebook(kit).ref, session.config.notebook.submission
    version = notebook.version if notebook else 0
    # Kaggle submits only versions whose run is complete.
    run = session.kaggle.get_notebook_run(ref, version) if version else None
    if run and run.state == "complete":
        return submissions.plan_submission(
            request_submission(session, kit, version, wanted), session, session.ledger
        )
    return SubmitPlan(
        request=SubmitRequest(competition=contest.slug, notebook=ref, version=0, file=file),
        competition=contest,
        mark=SubmissionTag(notebook=ref, version=0, file=file),
        parts={},
        limits=session.kaggle.get_submission_limits(contest.slug),
        server_name=session.account.server_name,
    )
