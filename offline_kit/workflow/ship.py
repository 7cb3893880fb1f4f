"""From the project to the score: build, rehearse, push, run, submit; each step only if it is not done yet.

Every step looks first at what is there, so that the same command goes on wherever an earlier one stopped.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from offline_kit.core import git
from offline_kit.core.errors import OutsideError, ProjectError, UsageError
from offline_kit.core.files import format_size
from offline_kit.core.report import SILENT, Reporter
from offline_kit.kaggle.client.api_types import Competition, Submission
from offline_kit.kaggle.push import submit as submissions
from offline_kit.kaggle.push.dataset_plan import DEFAULT_OPTIONS, PushOptions, PushPlan
from offline_kit.kaggle.push.push_datasets import PushedPart
from offline_kit.kaggle.push.push_notebook import NotebookPlan
from offline_kit.kaggle.push.submission_ledger import SubmissionTag
from offline_kit.kaggle.push.submission_plan import SubmitPlan, SubmitRequest, rules_page
from offline_kit.kaggle.push.submit import SubmissionResult
from offline_kit.project.config import Config
from offline_kit.project.types import Kit
from offline_kit.rehearsal.rehearse import Rehearsal
from offline_kit.workflow import build_remotely, kaggle_session, outdated, pipeline
from offline_kit.workflow.kaggle_session import KaggleSession, NotebookRun
from offline_kit.workflow.pipeline import BuildResult

Confirm = Callable[[str], bool]
"""Asks a person; False if there is none."""


@dataclass(frozen=True, kw_only=True)
class ApprovalPolicy:
    """Whether a submission may be spent."""

    yes: bool = False
    """It was agreed to beforehand."""
    confirm: Confirm = lambda _question: False
    """Asks a person."""
    alone: bool = False
    """There is nobody to ask."""


@dataclass(frozen=True, kw_only=True)
class SubmissionOptions:
    """How a version is submitted."""

    message: str = ""
    """A person's words in Kaggle's list of submissions."""
    wait: bool = False
    """Wait for the score."""
    again: bool = False
    """Submit the same version once more."""
    late: bool = False
    """Submit after the deadline, too."""


@dataclass(frozen=True, kw_only=True)
class ShipOptions:
    """How a kit is shipped."""

    rehearsal: pipeline.RehearsalOptions | None
    """How to rehearse; None: not at all."""
    data: PushOptions = DEFAULT_OPTIONS
    sending: SubmissionOptions = SubmissionOptions()
    """How to submit."""
    asking: ApprovalPolicy = ApprovalPolicy()
    """Whether to."""
    upgrade: bool = False
    """Resolve again, to the newest versions."""


@dataclass(frozen=True, kw_only=True)
class SubmissionOutcome:
    """What became of a version that was to be submitted."""

    plan: SubmitPlan
    """What was to be done."""
    submitted: SubmissionResult
    """The submission, new or found."""
    scored: Submission | None = None
    """Its end; None if nobody waited for it and it has none yet."""


@dataclass(frozen=True, kw_only=True)
class ShipResult:
    """A kit on its way, or at its score."""

    built: BuildResult
    """The kit."""
    rehearsal: Rehearsal | dict[str, Any] | None
    """Its rehearsal, or the report of one before; None for none."""
    pushed: tuple[PushedPart, ...]
    ran: NotebookRun
    outcome: SubmissionOutcome


def ship_kit(
    config: Config, session: KaggleSession, options: ShipOptions, report: Reporter = SILENT
) -> ShipResult:
    """Do all that is not done yet, in order, and stop at the first problem; raises what the steps raise."""
    contest = competition_of(session)
    if contest.deadline and contest.deadline < datetime.now(UTC) and not options.sending.late:
        report.warn(f"the deadline of '{contest.slug}' is over: what was not submitted before is refused")
    if options.asking.alone and not options.asking.yes:
        report.warn(
            "there is no terminal to ask on: a submission is spent only with --yes; all before it is done"
        )
    built = pipeline.build_kit(config, upgrade=options.upgrade, report=report)
    rehearsal = _rehearse_if_needed(session, built.kit, options, report)
    kaggle_session.notebook_of(
        session, built.kit
    )  # what is wrong with it is told before anything is uploaded
    pushed = push_data(session, built.kit, options.data, options.asking, report)
    run = kaggle_session.run_notebook(session, built.kit, report)
    for note in run.notes:
        report.note(note)
    request = request_of(session, built.kit, run.pushed.version, options.sending, seconds=run.seconds)
    outcome = submit_version(session, request, options.sending, options.asking, report)
    return ShipResult(built=built, rehearsal=rehearsal, pushed=pushed, ran=run, outcome=outcome)


def competition_of(session: KaggleSession) -> Competition:
    """Return the competition that the project takes part in: asked for before minutes of work.

    Raises UsageError if none is configured, ProjectError if there is none of this name, OutsideError
    if its rules are not accepted.
    """
    slug = session.config.competition
    if not slug:
        raise UsageError(
            "there is no competition to submit to",
            code="competition-not-set",
            hint="set `competition` in the configuration (--competition), or use 'offline-kit push' alone",
        )
    contest = session.kaggle.get_competition(slug)
    if contest is None:
        raise ProjectError(
            f"{session.account.server_name} knows no competition '{slug}', which {session.config.describe_origin('competition')} names",
            code="competition-not-found",
            hint="serve it with 'offline-kit local --competition DIR'; a project with a competition.toml brings its own"
            if session.local
            else "set it to the last word of the competition's address: www.kaggle.com/competitions/<this>",
        )
    if not contest.has_entered:
        raise OutsideError(
            f"the account '{session.account.username}' has not accepted the rules of '{slug}'",
            code="competition-rules-not-accepted",
            hint=f"accept them at {rules_page(slug, contest)} (only a person can), then run the same command again",
        )
    return contest


def _rehearse_if_needed(
    session: KaggleSession, kit: Kit, options: ShipOptions, report: Reporter
) -> Rehearsal | dict[str, Any] | None:
    config = session.config
    if options.rehearsal is None:
        report.note("not rehearsed, as asked")
        return None
    if (last := pipeline.passed_rehearsal(config, kit, options.rehearsal)) is not None:
        report.note(f"rehearsed already: passed at fidelity '{last['fidelity']}' in {last['seconds']} s")
        return last
    build_remotely.fetch_wheels(kit, session, report)
    return pipeline.rehearse_kit(config, kit, options.rehearsal, report=report)


def push_data(
    session: KaggleSession, kit: Kit, options: PushOptions, policy: ApprovalPolicy, report: Reporter = SILENT
) -> tuple[PushedPart, ...]:
    """Push a kit's data, having asked where that may be in vain or spoil a submission under way."""

    def ask_for_approval(lines: Sequence[str], question: str, refused: OutsideError) -> None:
        if policy.yes:
            for line in lines:
                report.warn(line)
        elif lines and not policy.confirm(_lines(*lines, question)):
            raise refused

    def approve_plan(plan: PushPlan) -> None:
        sent = [part for part in plan.parts if part.file_count]
        if sent:
            sizes = [f"{format_size(part.upload_size)} to '{part.ref}'" for part in sent]
            report.step(
                f"To send: {format_size(plan.upload_size)} in {sum(p.file_count for p in sent)} files: {', '.join(sizes)}"
            )
        crowded = [part.file_count_warning for part in plan.parts if part.file_count_warning]
        refused = OutsideError(
            "Kaggle may not take so many files in one dataset; nothing was sent",
            code="too-many-files",
            hint="put small files together, divide the kit with 'parts = \"split\"', or send all the same with --yes",
            details=crowded,
        )
        ask_for_approval(crowded, "Upload them all the same?", refused)
        spoilt = kaggle_session.describe_disturbed(session, kit, plan)
        refused = OutsideError(
            "a submission under way needs the data as it is; nothing was sent",
            code="submission-pending",
            hint="wait for its score, or send all the same with --yes",
            details=spoilt,
        )
        ask_for_approval(spoilt, "Send a new version of its data all the same?", refused)

    return kaggle_session.push_data(session, kit, options, report, approve_plan)


def _lines(*lines: str) -> str:
    return "\n".join(lines)


def request_of(
    session: KaggleSession, kit: Kit, version: int, sending: SubmissionOptions, *, seconds: float = 0.0
) -> SubmitRequest:
    """Return the submission of the version that is the local kit; its run took so many seconds."""
    return replace(
        _any_version(session, kit, version, sending),
        kit=kit.id,
        parts={part.name: part.id for part in kit.parts},
        commit=git.read_commit(session.config.project),
        run_seconds=seconds,
    )


def _any_version(session: KaggleSession, kit: Kit, version: int, sending: SubmissionOptions) -> SubmitRequest:
    return SubmitRequest(
        competition=session.config.competition,
        notebook=kaggle_session.notebook_of(session, kit).ref,
        version=version,
        file=session.config.notebook.submission,
        message=sending.message,
        again=sending.again,
        late=sending.late,
    )


def plan_submission(session: KaggleSession, request: SubmitRequest, report: Reporter = SILENT) -> SubmitPlan:
    """Return what a submission would be; raises all that stands against it."""
    return submissions.plan_submission(request, session.kaggle, session.settings, session.ledger, report)


def submit_version(
    session: KaggleSession,
    request: SubmitRequest,
    sending: SubmissionOptions,
    policy: ApprovalPolicy,
    report: Reporter = SILENT,
) -> SubmissionOutcome:
    """Submit a finished version once, and wait for its score where that is wanted.

    Raises what `submissions.plan`, `submit` and `wait` do, and UsageError if nobody said yes.
    """
    plan = submissions.plan_submission(request, session.kaggle, session.settings, session.ledger, report)
    if plan.existing is None:
        for name, value in plan.list_facts():
            report.note(f"{name}: {value}")
        if not (policy.yes or policy.confirm(f"Spend one of {plan.remaining_today} submissions?")):
            raise UsageError(
                "nobody agreed to spend a submission; nothing was submitted",
                code="submission-not-approved",
                hint="answer y, or add --yes in scripts and CI",
            )
    submitted = submissions.submit_version(plan, session.kaggle, session.settings, session.ledger, report)
    scored = None
    if sending.wait:
        scored = submissions.wait_for_score(
            submitted.ref, session.kaggle, session.settings, report, ledger=session.ledger
        )
    return SubmissionOutcome(plan=plan, submitted=submitted, scored=scored)


def request_for(
    session: KaggleSession,
    version: int | None,
    sending: SubmissionOptions,
    report: Reporter = SILENT,
    *,
    follow: bool = True,
) -> SubmitRequest:
    """Return the submission of a version of the kit's notebook, None being the one that is this kit's.

    To `follow` is to wait for the run of this kit's version. Nothing is pushed. Raises as `competition_of`,
    and ProjectError if this kit's notebook is not there, or its run failed.
    """
    competition_of(session)
    kit = kaggle_session.check_kit(pipeline.kit_of(session.config))
    if version is not None:
        return _any_version(session, kit, version, sending)
    for line in outdated.describe_changes(session.config, kit):
        report.warn(line)
    plan = kaggle_session.plan_notebook(session, kit, report)
    if not plan.version:
        raise ProjectError(
            f"the notebook of this kit is not on {session.account.server_name}: {plan.reason}",
            code="notebook-not-pushed",
            hint="push it with 'offline-kit push', or name an earlier version with --version",
        )
    seconds = (
        kaggle_session.follow_version(session, plan.notebook.ref, plan.version, report).seconds
        if follow
        else 0.0
    )
    return request_of(session, kit, plan.version, sending, seconds=seconds)


@dataclass(frozen=True, kw_only=True)
class ShipPlan:
    """What each step would do now."""

    build: pipeline.BuildPlan
    """What a build would put into the kit."""
    kit: Kit
    """The kit that a build would make, which the steps below are about."""
    outdated: str
    """The id of the existing kit that would be replaced; empty if it stays or there is none."""
    changed: tuple[str, ...]
    """What a build would take otherwise than that kit has it."""
    rehearsal: str
    """What would become of the rehearsal."""
    data: PushPlan
    """The push of the kit's data."""
    notebook: NotebookPlan
    """The push of its notebook."""
    disturbed: tuple[str, ...]
    """Submissions under way that new data would spoil."""
    submission: SubmitPlan
    """What would be submitted; of version 0 if that has to be pushed or run first."""


def plan_ship(
    config: Config, session: KaggleSession, options: ShipOptions, report: Reporter = SILENT
) -> ShipPlan:
    """Look at everything, write no kit and send nothing; raises what stands against shipping already now."""
    contest = competition_of(session)
    try:
        existing: Kit | None = kaggle_session.check_kit(pipeline.kit_of(config))
    except ProjectError:
        existing = None  # none yet, or a damaged one, which a build replaces
    with pipeline.outline_build(config, upgrade=options.upgrade, report=report) as (built, kit):
        changed = outdated.list_changes(config, existing, built.freeze) if existing else ()
        stands = existing if existing and not changed and existing.id == kit.id else None
        data = kaggle_session.plan_data(session, kit, options.data, report)
        notebook = kaggle_session.plan_notebook(session, kit, report)
        return ShipPlan(
            build=built,
            kit=kit,
            outdated=existing.id if existing and not stands else "",
            changed=changed,
            rehearsal=_plan_rehearsal(config, stands, options),
            data=data,
            notebook=notebook,
            disturbed=kaggle_session.describe_disturbed(session, kit, data),
            submission=_plan_submission(session, kit, notebook, contest, options, report),
        )


def _plan_rehearsal(config: Config, kit: Kit | None, options: ShipOptions) -> str:
    if options.rehearsal is None:
        return "skipped (--no-rehearsal)"
    if kit and pipeline.passed_rehearsal(config, kit, options.rehearsal):
        return "already passed"
    return f"to run, with --env {options.rehearsal.env}"


def _plan_submission(
    session: KaggleSession,
    kit: Kit,
    notebook: NotebookPlan,
    contest: Competition,
    options: ShipOptions,
    report: Reporter,
) -> SubmitPlan:
    """Return the submission of a version whose run is complete, else what is known of it before."""
    if notebook.version:
        run = session.kaggle.get_notebook_run(notebook.notebook.ref, notebook.version)
        if run and run.state == "complete":
            request = request_of(session, kit, notebook.version, options.sending)
            return plan_submission(session, request, report)
    ref = notebook.notebook.ref
    config = session.config
    return SubmitPlan(
        request=SubmitRequest(
            competition=contest.slug, notebook=ref, version=0, file=config.notebook.submission
        ),
        competition=contest,
        mark=SubmissionTag(notebook=ref, version=0, file=config.notebook.submission),
        parts={},
        limits=session.kaggle.get_submission_limits(contest.slug),
        server_name=session.account.server_name,
    )
