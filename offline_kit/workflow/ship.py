"""From the project to the score: build, rehearse, push, run, submit; each step only if it is not done yet.

Every step first looks at what exists, so that the same command continues wherever an earlier one stopped.
"""

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from offline_kit.core import git
from offline_kit.core.errors import OutsideError, ProjectError, UsageError
from offline_kit.core.report import SILENT, Reporter
from offline_kit.kaggle.client.api_types import Competition, Submission
from offline_kit.kaggle.push import notebook_runs, push_notebook
from offline_kit.kaggle.push import submit as submissions
from offline_kit.kaggle.push.dataset_plan import PushOptions, PushPlan
from offline_kit.kaggle.push.push_datasets import PushedPart
from offline_kit.kaggle.push.push_notebook import NotebookPlan
from offline_kit.kaggle.push.submission_ledger import SubmissionTag
from offline_kit.kaggle.push.submission_plan import SubmitPlan, SubmitRequest, rules_page
from offline_kit.kaggle.push.submit import SubmissionResult
from offline_kit.project.config import Config
from offline_kit.project.types import Kit
from offline_kit.rehearsal.rehearse import Rehearsal
from offline_kit.workflow import build_remotely, outdated, pipeline, push_steps
from offline_kit.workflow.kaggle_session import KaggleSession
from offline_kit.workflow.pipeline import BuildResult
from offline_kit.workflow.push_steps import ApprovalPolicy, NotebookRun


@dataclass(frozen=True, kw_only=True)
class SubmissionOptions:
    """How a version is submitted; see the options of `offline-kit submit`."""

    message: str = ""
    wait: bool = False
    again: bool = False
    late: bool = False


@dataclass(frozen=True, kw_only=True)
class ShipOptions:
    """How a kit is shipped."""

    rehearsal: pipeline.RehearsalOptions | None
    """None: do not rehearse."""
    data: PushOptions
    submission: SubmissionOptions
    approval: ApprovalPolicy
    upgrade: bool = False
    """Resolve again, to the newest versions."""


@dataclass(frozen=True, kw_only=True)
class SubmissionOutcome:
    """What became of a version that was to be submitted."""

    plan: SubmitPlan
    submitted: SubmissionResult
    """The submission, new or existing."""
    scored: Submission | None = None
    """None if nobody waited for the score."""


@dataclass(frozen=True, kw_only=True)
class ShipResult:
    """A kit that was submitted."""

    built: BuildResult
    rehearsal: Rehearsal | dict[str, Any] | None
    """Its rehearsal, or the report of an earlier one; None for none."""
    pushed: tuple[PushedPart, ...]
    ran: NotebookRun
    outcome: SubmissionOutcome


@dataclass(frozen=True, kw_only=True)
class ShipPlan:
    """What each step would do now."""

    build: pipeline.BuildPlan
    kit: Kit
    """The kit that a build would make, which the steps below are about."""
    outdated: str
    """The id of the existing kit that would be replaced; empty if it stays or there is none."""
    changed: tuple[str, ...]
    """How a build would differ from the existing kit."""
    rehearsal: str
    data: PushPlan
    notebook: NotebookPlan
    disturbed: tuple[str, ...]
    """Submissions under way that new data would spoil."""
    submission: SubmitPlan
    """Of version 0 if the notebook has to be pushed or run first."""


def ship_kit(
    config: Config, session: KaggleSession, options: ShipOptions, report: Reporter = SILENT
) -> ShipResult:
    """Do all that is not done yet, in order, and stop at the first problem; raises what the steps raise."""
    contest = find_competition(session)
    if contest.deadline and contest.deadline < datetime.now(UTC) and not options.submission.late:
        report.warn(f"the deadline of '{contest.slug}' is over: what was not submitted before is refused")
    if options.approval.alone and not options.approval.yes:
        report.warn(
            "there is no terminal to ask on: a submission is spent only with --yes; all before it is done"
        )
    built = pipeline.build_kit(config, upgrade=options.upgrade, report=report)
    kit = built.kit
    rehearsal: Rehearsal | dict[str, Any] | None = None
    if options.rehearsal is None:
        report.note("not rehearsed, as asked")
    elif last := pipeline.passed_rehearsal(config, kit, options.rehearsal):
        report.note(f"rehearsed already: passed at fidelity '{last['fidelity']}' in {last['seconds']} s")
        rehearsal = last
    else:
        build_remotely.fetch_wheels(kit, session, report)
        rehearsal = pipeline.rehearse_kit(config, kit, options.rehearsal, report=report)
    session.read_notebook(kit)  # its problems are reported before anything is uploaded
    pushed = push_steps.push_data(session, kit, options.data, options.approval, report)
    run = push_steps.run_notebook(session, kit, report)
    for note in run.notes:
        report.note(note)
    request = request_submission(session, kit, run.pushed.version, options.submission, seconds=run.seconds)
    outcome = submit_version(session, request, options.submission, options.approval, report)
    return ShipResult(built=built, rehearsal=rehearsal, pushed=pushed, ran=run, outcome=outcome)


def find_competition(session: KaggleSession) -> Competition:
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
        origin = session.config.describe_origin("competition")
        raise ProjectError(
            f"{session.account.server_name} knows no competition '{slug}', which {origin} names",
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


def request_submission(
    session: KaggleSession, kit: Kit, version: int, options: SubmissionOptions, *, seconds: float = 0.0
) -> SubmitRequest:
    """Return the submission of the version that is the local kit; its run took so many seconds."""
    return replace(
        _request_version(session, kit, version, options),
        kit=kit.id,
        parts={part.name: part.id for part in kit.parts},
        commit=git.read_commit(session.config.project),
        run_seconds=seconds,
    )


def _request_version(
    session: KaggleSession, kit: Kit, version: int, options: SubmissionOptions
) -> SubmitRequest:
    return SubmitRequest(
        competition=session.config.competition,
        notebook=session.read_notebook(kit).ref,
        version=version,
        file=session.config.notebook.submission,
        message=options.message,
        again=options.again,
        late=options.late,
    )


def plan_submission(session: KaggleSession, request: SubmitRequest, report: Reporter = SILENT) -> SubmitPlan:
    """Return what a submission would be; raises all that prevents it."""
    return submissions.plan_submission(request, session.kaggle, session.settings, session.ledger, report)


def submit_version(
    session: KaggleSession,
    request: SubmitRequest,
    options: SubmissionOptions,
    policy: ApprovalPolicy,
    report: Reporter = SILENT,
) -> SubmissionOutcome:
    """Submit a finished version once, and wait for its score if asked to.

    Raises what the functions of `kaggle.push.submit` do, and UsageError if nobody agreed.
    """
    plan = plan_submission(session, request, report)
    if plan.existing is None:
        for name, value in plan.list_facts():
            report.note(f"{name}: {value}")
        if not (policy.yes or policy.confirm(f"Spend one of {plan.remaining_today} submissions?")):
            raise UsageError(
                "nobody agreed to spend a submission; nothing was submitted",
                code="submission-not-approved",
                hint="answer y, or add --yes in scripts and CI",
            )
    kaggle, settings, ledger = session.kaggle, session.settings, session.ledger
    submitted = submissions.submit_version(plan, kaggle, settings, ledger, report)
    scored = None
    if options.wait:
        scored = submissions.wait_for_score(submitted.ref, kaggle, settings, report, ledger=ledger)
    return SubmissionOutcome(plan=plan, submitted=submitted, scored=scored)


def request_pushed_version(
    session: KaggleSession,
    version: int | None,
    options: SubmissionOptions,
    report: Reporter = SILENT,
    *,
    follow: bool = True,
) -> SubmitRequest:
    """Return the submission of a version of the kit's notebook; None: the version that is this kit's.

    To `follow` is to wait for the run of this kit's version. Nothing is pushed. Raises as `find_competition`,
    and ProjectError if this kit's notebook is not there, or its run failed.
    """
    find_competition(session)
    kit = pipeline.read_sound_kit(session.config)
    if version is not None:
        return _request_version(session, kit, version, options)
    for line in outdated.describe_changes(session.config, kit):
        report.warn(line)
    kaggle, settings, new = session.kaggle, session.settings, session.read_notebook(kit)
    plan = push_notebook.plan_notebook(new, kaggle, settings, report)
    if not plan.version:
        raise ProjectError(
            f"the notebook of this kit is not on {session.account.server_name}: {plan.reason}",
            code="notebook-not-pushed",
            hint="push it with 'offline-kit push', or name an earlier version with --version",
        )
    seconds = 0.0
    if follow:
        folder = session.runs_folder(new.ref)
        run = notebook_runs.follow_run(new.ref, plan.version, kaggle, settings, report, log_folder=folder)
        seconds = run.seconds
    return request_submission(session, kit, plan.version, options, seconds=seconds)


def plan_ship(
    config: Config, session: KaggleSession, options: ShipOptions, report: Reporter = SILENT
) -> ShipPlan:
    """Look at everything, write no kit and send nothing; raises what already prevents shipping."""
    contest = find_competition(session)
    try:
        existing: Kit | None = pipeline.read_sound_kit(config)
    except ProjectError:
        existing = None  # none yet, or a damaged one, which a build replaces
    with pipeline.outline_build(config, upgrade=options.upgrade, report=report) as (plan, kit):
        changed = outdated.list_changes(config, existing, plan) if existing else ()
        stays = existing is not None and not changed and existing.id == kit.id
        rehearsal = "skipped (--no-rehearsal)"
        if options.rehearsal:
            rehearsal = f"to run, with --env {options.rehearsal.env}"
            if existing and stays and pipeline.passed_rehearsal(config, existing, options.rehearsal):
                rehearsal = "already passed"
        data = push_steps.plan_data(session, kit, options.data, report)
        notebook = push_notebook.plan_notebook(
            session.read_notebook(kit), session.kaggle, session.settings, report
        )
        return ShipPlan(
            build=plan,
            kit=kit,
            outdated=existing.id if existing and not stays else "",
            changed=changed,
            rehearsal=rehearsal,
            data=data,
            notebook=notebook,
            disturbed=push_steps.describe_disturbed(session, kit, data),
            submission=_plan_pushed(session, kit, notebook, contest, options, report),
        )


def _plan_pushed(
    session: KaggleSession,
    kit: Kit,
    notebook: NotebookPlan,
    contest: Competition,
    options: ShipOptions,
    report: Reporter,
) -> SubmitPlan:
    """Return the submission of a version whose run is complete, else what is known of it before."""
    ref, file = notebook.notebook.ref, session.config.notebook.submission
    if notebook.version:
        run = session.kaggle.get_notebook_run(ref, notebook.version)
        if run and run.state == "complete":
            request = request_submission(session, kit, notebook.version, options.submission)
            return plan_submission(session, request, report)
    return SubmitPlan(
        request=SubmitRequest(competition=contest.slug, notebook=ref, version=0, file=file),
        competition=contest,
        mark=SubmissionTag(notebook=ref, version=0, file=file),
        parts={},
        limits=session.kaggle.get_submission_limits(contest.slug),
        server_name=session.account.server_name,
    )
