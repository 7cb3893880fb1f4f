"""Submit a finished notebook version once and wait for its score.

The call that submits cannot be undone. Its description contains a tag, and the journal stores it
beforehand: if the answer is lost or the process is killed, this or the next run looks for the
tag; nothing is submitted twice.
"""

import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from offline_kit.core.errors import OfflineKitError, OutsideError, ProjectError
from offline_kit.core.files import hold_lock
from offline_kit.core.report import SILENT, Reporter, Say
from offline_kit.core.retry import TransientError
from offline_kit.kaggle.client.api_types import (
    NewSubmission,
    NoResponseError,
    RefusedError,
    Submission,
    UnreachableError,
)
from offline_kit.kaggle.client.client import KaggleClient
from offline_kit.kaggle.push.journal import Effect, Phase, PushSettings, run_once
from offline_kit.kaggle.push.kit_parts import parse_part_ids
from offline_kit.kaggle.push.poll_policy import poll_until
from offline_kit.kaggle.push.submission_causes import SYSTEM_ERROR, explain_failure
from offline_kit.kaggle.push.submission_ledger import (
    LedgerEntry,
    SubmissionLedger,
    SubmissionTag,
    find_exact,
    parse_tag,
)
from offline_kit.kaggle.push.submission_plan import (
    SubmitPlan,
    SubmitRequest,
    check_submission,
    describe_reset,
    find_earlier,
    format_timespan,
    inspect_submission,
    rules_page,
    wait_until_listed,
)
from offline_kit.kit.manifest import compute_kit_id
from offline_kit.project.kaggle_names import LOCAL_ONLY

ACTION = "submit"
"""The journal's action for a submission."""
SCORING_SECONDS = 13 * 3600.0
"""Code competitions allow runs of 9 h, some of 12 h, plus the queue."""
_LATER = "run the same command again later: it first looks for the submission, and nothing is submitted twice"


@dataclass(frozen=True, kw_only=True)
class SubmissionResult:
    """A submission that was made, now or before."""

    ref: int
    version: int
    message: str
    existed_before: bool


def plan_submission(
    request: SubmitRequest,
    kaggle: KaggleClient,
    settings: PushSettings,
    ledger: SubmissionLedger,
    report: Reporter = SILENT,
) -> SubmitPlan:
    """Return what would be submitted, after recovering what an earlier run left open.

    Where the same version and file was submitted before, the plan is that submission; with `repeat`, only
    while that one is pending. Raises as `check_submission`, with all problems at once.
    """
    account = kaggle.fetch_account()
    report.step(f"Looking at '{request.competition}' at {account.server_name} as '{account.username}'")
    contest = kaggle.get_competition(request.competition)
    taking_part = contest is not None and contest.has_entered
    recovered = None
    if taking_part and settings.effect_journal.find_open_entry(_journal_target(request)):
        with hold_lock(_lock_path(settings)):
            recovered = _recover_interrupted(request, kaggle, settings, report)
    submissions = kaggle.list_submissions(request.competition) if taking_part else ()
    notebook = kaggle.get_notebook(request.notebook, request.version)
    parts = parse_part_ids(notebook.text) if notebook else {}
    kit = compute_kit_id(parts.values()) if parts else request.kit
    mark = SubmissionTag(notebook=request.notebook, version=request.version, file=request.file, kit=kit)
    same_version = find_earlier(mark, request.competition, submissions, kaggle, ledger)
    if recovered and not same_version:
        same_version = (recovered,)
    already = _find_existing(request, same_version, recovered)
    limits = None
    if contest is None or already is None:
        state = inspect_submission(request, contest, notebook, kaggle, settings, report)
        commits = (
            entry.commit for entry in reversed(ledger.find_by_version(request.notebook, request.version))
        )
        contest, limits = check_submission(request, replace(state, commit=next(filter(None, commits), "")))
    repeat = 1 + max((_repeat_count(entry) for entry in same_version), default=-1)
    return SubmitPlan(
        request=request,
        competition=contest,
        mark=replace(mark, again=_repeat_count(already) if already else repeat),
        parts=parts or request.parts,
        last_ref=max((entry.ref for entry in submissions), default=0),
        limits=limits,
        existing=already,
        server_name=account.server_name,
    )


def submit_version(
    plan: SubmitPlan,
    kaggle: KaggleClient,
    settings: PushSettings,
    ledger: SubmissionLedger,
    report: Reporter = SILENT,
) -> SubmissionResult:
    """Submit and return when Kaggle has queued it; an earlier submission is only recorded.

    Raises RefusedError with Kaggle's message and a fix, and OutsideError if it is unknown whether it
    was submitted; a new plan for the same request finds out.
    """
    request = plan.request
    if plan.existing is not None:
        return _record_existing(plan, plan.existing, ledger, report)
    with hold_lock(_lock_path(settings)):
        # Another process may have submitted since the plan was made.
        recovered = _recover_interrupted(request, kaggle, settings, report)
        existing = recovered or find_exact(plan.mark.as_text, kaggle.list_submissions(request.competition))
        if existing:
            return _record_existing(plan, existing, ledger, report)
        report.step(
            f"Submitting version {request.version} of '{request.notebook}' to '{request.competition}'"
        )
        return _send_submission(plan, kaggle, settings, ledger, report)


def _find_existing(
    request: SubmitRequest, same_version: tuple[Submission, ...], recovered: Submission | None
) -> Submission | None:
    """Return the existing submission that makes a new one unnecessary, None if there is none."""
    if not request.again:
        return same_version[0] if same_version else None
    # An interrupted --again is completed, not repeated; a pending submission is not repeated either.
    if recovered and _repeat_count(recovered):
        return recovered
    return next((submission for submission in same_version if not submission.is_finished), None)


def _repeat_count(submission: Submission) -> int:
    mark = parse_tag(submission.message)
    return mark.again if mark else 0


def _lock_path(settings: PushSettings) -> Path:
    return settings.state_folder / "submit.lock"


def _journal_target(request: SubmitRequest) -> str:
    return f"{request.competition}:{request.notebook}@v{request.version}"


def _recover_interrupted(
    request: SubmitRequest, kaggle: KaggleClient, settings: PushSettings, report: Reporter
) -> Submission | None:
    """Return the submission that an earlier run sent without seeing it arrive, None if it did not arrive.

    Raises OutsideError if Kaggle accepted it and does not list it yet.
    """
    entry = settings.effect_journal.find_open_entry(_journal_target(request))
    if entry is None:
        return None
    report.note(f"an earlier submission of '{request.notebook}' was interrupted; checking its state")
    age = max(0.0, time.time() - entry.at)
    left = max(0.0, settings.poll_policy.visibility_timeout - age)
    submission = wait_until_listed(
        entry.effect.content, request.competition, kaggle, settings.poll_policy, left
    )
    was_accepted = entry.phase is Phase.ANSWERED and not _is_refusal(entry.server_message)
    if submission is None and was_accepted and age < settings.poll_policy.processing_timeout:
        raise _build_unseen_error(request, entry.server_message)
    settings.effect_journal.append_entry(entry.effect, Phase.DONE if submission else Phase.LOST)
    return submission


def _send_submission(
    plan: SubmitPlan, kaggle: KaggleClient, settings: PushSettings, ledger: SubmissionLedger, report: Reporter
) -> SubmissionResult:
    """Submit once, wait until the submission is listed, and record it in journal and ledger."""
    request, text = plan.request, plan.mark.as_text
    effect = Effect(action=ACTION, target=_journal_target(request), before=plan.last_ref, content=text)
    new = NewSubmission(
        competition=request.competition,
        notebook=request.notebook,
        version=request.version,
        file=request.file,
        message=plan.full_message,
    )

    def wait_for_listing() -> Submission | None:
        return wait_until_listed(
            text, request.competition, kaggle, settings.poll_policy, settings.poll_policy.visibility_timeout
        )

    description = f"the submission to '{request.competition}'"
    try:
        answer = run_once(
            settings.effect_journal,
            effect,
            lambda: kaggle.submit_notebook(new),
            wait_for_listing,
            description,
            report,
        )
    except RefusedError as refusal:
        raise (_build_refusal(refusal, plan) if not refusal.is_server_error else refusal) from refusal
    server_words = "" if answer.ref else answer.error
    if server_words:
        settings.effect_journal.append_entry(effect, Phase.ANSWERED, server_words)
    # An answer without number may be a refusal: record a submission only once it is listed.
    entry = None if _is_refusal(server_words) else ledger.add_entry(_build_entry(plan, answer.ref, ledger))
    listed = wait_for_listing()
    if not listed and entry is None:
        settings.effect_journal.append_entry(effect, Phase.LOST)
        raise _build_refusal(RefusedError(server_words, hint="", status=200), plan)
    if not listed and not answer.ref:
        raise _build_unseen_error(request, server_words)
    ref = listed.ref if listed else answer.ref
    entry = entry or ledger.add_entry(_build_entry(plan, ref, ledger))
    if listed:
        ledger.update_entry(listed)
        settings.effect_journal.append_entry(effect, Phase.DONE)
    report.note(f"created submission {ref}: '{entry.message}'")
    return SubmissionResult(ref=ref, version=request.version, message=entry.message, existed_before=False)


def _record_existing(
    plan: SubmitPlan, submission: Submission, ledger: SubmissionLedger, report: Reporter
) -> SubmissionResult:
    """Record a submission that was made before, unless the ledger has it."""
    if ledger.update_entry(submission) is None:
        sent = f"{submission.submitted_at:%Y-%m-%dT%H:%M:%S+00:00}" if submission.submitted_at else ""
        ledger.add_entry(
            replace(_build_entry(plan, submission.ref, ledger), message=submission.message, at=sent)
        )
        ledger.update_entry(submission)
    report.note(
        f"nothing to submit: this version was submitted before, as submission {submission.ref} ({submission.state});"
        " --again submits it once more"
    )
    return SubmissionResult(
        ref=submission.ref, version=plan.request.version, message=submission.message, existed_before=True
    )


def _build_entry(plan: SubmitPlan, ref: int, ledger: SubmissionLedger) -> LedgerEntry:
    request = plan.request
    kit = compute_kit_id(plan.parts.values()) if plan.parts else request.kit
    # An earlier version was not built from the current commit.
    commits = (entry.commit for entry in reversed(ledger.read_entries()) if entry.kit == kit and entry.commit)
    commit = request.commit if request.kit == kit else next(commits, "")
    return LedgerEntry(
        competition=request.competition,
        notebook=request.notebook,
        version=request.version,
        file=request.file,
        message=plan.full_message,
        submission=ref,
        kit=kit,
        parts=dict(plan.parts),
        commit=commit,
        run_seconds=request.run_seconds,
        place="Kaggle" if plan.server_name == "Kaggle" else "LOCAL",
    )


def _is_refusal(server_words: str) -> bool:
    """Tell whether an answer without a submission number is a refusal."""
    return bool(server_words) and "success" not in server_words.lower()


def _build_unseen_error(request: SubmitRequest, server_words: str = "") -> OutsideError:
    return OutsideError(
        f"Kaggle accepted the submission of version {request.version} of '{request.notebook}', but does not list it yet",
        code="submission-not-visible",
        hint=_LATER,
        details=(f"Kaggle's message: {server_words}",) if server_words else (),
    )


def _build_refusal(refusal: RefusedError, plan: SubmitPlan) -> RefusedError:
    """Return a refusal in Kaggle's words, with the fix that belongs to it."""
    slug, words = plan.request.competition, refusal.what.lower()
    rules = rules_page(slug, plan.competition)
    if "allowance" in words or "daily" in words:
        code = "submission-limit-reached"
        hint = f"run the same command again later: {describe_reset(datetime.now(UTC))}"
    elif refusal.status == 403:
        code = "competition-rules-not-accepted"
        hint = f"join the competition and accept its rules at {rules} (only a person can)"
    elif refusal.status == 404:
        code = "submission-target-not-found"
        hint = f"check `competition` ('{slug}') and the notebook version; 'offline-kit push' pushes a new version"
    else:
        code = "submission-refused"
        hint = f"no submission was used; fix what Kaggle names. The rules: {rules}"
    return RefusedError(refusal.what, hint=hint, code=code, status=refusal.status, after=refusal.retry_after)


def wait_for_score(
    ref: int,
    kaggle: KaggleClient,
    settings: PushSettings,
    report: Reporter = SILENT,
    *,
    ledger: SubmissionLedger | None = None,
    deadline: float = SCORING_SECONDS,
) -> Submission:
    """Wait until a submission is scored, which takes hours, record the score and return the submission.

    Looks more and more rarely, at last every `settings.waiting.scoring` seconds; trouble with the network is waited for too.
    Raises what `find_failure` returns, and OutsideError if it is not scored within `deadline` seconds.
    """
    began, earlier_states = time.monotonic(), list[Submission]()
    waiting, server_name = (
        replace(settings.poll_policy, max_interval=settings.poll_policy.scoring_interval),
        kaggle.fetch_account().server_name,
    )
    with ExitStack() as line:
        status_lines: list[Say] = []

        def check_finished() -> Submission:
            late = time.monotonic() - began > waiting.visibility_timeout
            submission = _read_submission(ref, kaggle, late=late)
            if submission is None and late:
                raise OutsideError(
                    f"{server_name} has no submission {ref}",
                    code="submission-not-found",
                    hint="check the list of submissions on the competition's page, then run the same command again",
                )
            if submission is None or not submission.is_finished:
                if not status_lines:  # no status line if the score is there already
                    status_lines.append(
                        line.enter_context(report.waiting(f"{server_name} scores submission {ref}"))
                    )
                earlier_states.extend([submission] if submission else [])
                status_lines[0](
                    f"{submission.state if submission else 'not visible yet'} {_describe_age(submission, began)}"
                )
                raise TransientError(
                    f"it is still {submission.state}" if submission else "it is not visible yet"
                )
            return submission

        submission = poll_until(
            check_finished, waiting.retry_policy(deadline), lambda e: _build_timeout_error(ref, str(e))
        )
    if ledger:
        watched = (
            (datetime.now(UTC) - submission.submitted_at).total_seconds()
            if earlier_states and submission.submitted_at
            else 0.0
        )
        ledger.update_entry(submission, round(max(0.0, watched), 1))
    if problem := find_failure(submission):
        raise problem
    report.note(f"submission {ref} is scored: {submission.public_score or 'no public score'}")
    return submission


def _read_submission(ref: int, kaggle: KaggleClient, *, late: bool) -> Submission | None:
    """Return a submission's current state; None if it is not visible (Kaggle may answer 403 at first)."""
    try:
        return kaggle.get_submission(ref)
    except (NoResponseError, UnreachableError) as trouble:
        raise TransientError(trouble.what) from trouble
    except RefusedError as refusal:
        if refusal.is_temporary:
            raise TransientError(refusal.what, refusal.retry_after) from refusal
        if refusal.status == 403 and not late:
            return None
        raise


def _describe_age(submission: Submission | None, began: float) -> str:
    if submission and submission.submitted_at:
        return f"for {format_timespan(datetime.now(UTC) - submission.submitted_at)}"
    return f"for {format_timespan(timedelta(seconds=time.monotonic() - began))}"


def find_failure(submission: Submission) -> OfflineKitError | None:
    """Return the error of a finished submission; None if it was scored.

    A ProjectError, or an OutsideError if the failure is Kaggle's own.
    """
    if submission.state != "error" and not submission.error:
        return None
    server_words, _, local = submission.error.strip().partition(LOCAL_ONLY)
    cause = explain_failure(server_words)
    end = "failed" if submission.state == "error" else f"is {submission.state}, but without a score"
    words = f": {server_words}" if server_words else "; Kaggle does not say why"
    return (OutsideError if cause.code == SYSTEM_ERROR else ProjectError)(
        f"submission {submission.ref} {end}{words}",
        code=cause.code,
        hint=cause.remedy,
        details=(
            *[f"usual cause: {cause.cause}"] * bool(cause.cause),
            *([LOCAL_ONLY.strip(), *(f"    {line}" for line in local.splitlines())] if local else []),
            f"its page: {submission.url or 'see My Submissions on kaggle.com'}",
        ),
    )


def _build_timeout_error(ref: int, detail: str) -> OutsideError:
    return OutsideError(
        f"submission {ref} is not scored yet: {detail}",
        code="submission-not-scored",
        hint="run the same command again later: it continues to wait, and nothing is submitted twice",
    )
