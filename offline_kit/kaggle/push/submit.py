"""Submit a finished notebook version once and wait for its score.

The call that submits cannot be undone. Its description contains a tag, and the journal stores it
beforehand: if the answer is lost or the process is killed, this or the next run looks for the
tag; nothing is submitted twice.
"""

import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from offline_kit.core.errors import OfflineKitError, OutsideError, ProjectError
from offline_kit.core.files import format_duration, hold_lock
from offline_kit.core.retry import TransientError, retry_call
from offline_kit.kaggle.client.api_types import RefusedError, Submission
from offline_kit.kaggle.client.calls import is_transient
from offline_kit.kaggle.push.journal import Effect, Phase, PushContext, build_unseen_error, is_refusal
from offline_kit.kaggle.push.kit_parts import parse_part_ids
from offline_kit.kaggle.push.poll_policy import GracePeriod, StatusLine, wait_until_shown
from offline_kit.kaggle.push.submission_ledger import (
    LedgerEntry,
    SubmissionLedger,
    SubmissionTag,
    count_repeats,
    parse_tag,
)
from offline_kit.kaggle.push.submission_plan import (
    SubmitPlan,
    SubmitRequest,
    check_submission,
    describe_reset,
    find_competition,
    rules_page,
)
from offline_kit.kit.manifest import compute_kit_id
from offline_kit.project.kaggle_names import LOCAL_ONLY
from offline_kit.rehearsal.causes import explain_failure

SCORING_SECONDS = 13 * 3600.0  # code competitions allow runs of 9 h, some of 12 h, plus the queue


@dataclass(frozen=True, kw_only=True)
class SubmissionResult:
    """A submission that was made, now or before."""

    ref: int
    version: int
    message: str
    existed_before: bool = False
    submission: Submission | None = None  # as last seen: if it existed before, or was waited for


def plan_submission(request: SubmitRequest, context: PushContext, ledger: SubmissionLedger) -> SubmitPlan:
    """Return what would be submitted, after recovering what an earlier run left open.

    If the same version and file was submitted before, the plan is that submission; with `again`, only
    while that one is pending. Raises as `find_competition`, and as `check_submission` with all problems at once.
    """
    account = context.kaggle.fetch_account()
    context.report.step(
        f"Looking at '{request.competition}' at {account.server_name} as '{account.username}'"
    )
    competition, recovered = find_competition(request.competition, context), None
    if context.journal.find_open_entry(_journal_target(request)):
        with hold_lock(context.state_folder / "submit.lock"):
            recovered = _recover_interrupted(request, context)
    submissions = context.kaggle.list_submissions(request.competition)
    notebook = context.kaggle.get_notebook(request.notebook, request.version)
    parts = parse_part_ids(notebook.text) if notebook else {}
    kit = compute_kit_id(parts.values()) if parts else request.kit
    tag = SubmissionTag(notebook=request.notebook, version=request.version, file=request.file, kit=kit)
    same_version = tag.filter_same_version(submissions) or ((recovered,) if recovered else ())
    if not request.again:
        existing = same_version[0] if same_version else None
    elif recovered and count_repeats(recovered):
        existing = recovered  # an interrupted --again is completed, not repeated
    else:
        existing = next((submission for submission in same_version if not submission.is_finished), None)
    limits = None
    if existing is None:
        entries = reversed(ledger.find_by_version(request.notebook, request.version))
        commit = next((entry.commit for entry in entries if entry.commit), "")
        limits = check_submission(request, competition, notebook, context, commit=commit)
    repeat = 1 + max(map(count_repeats, same_version), default=-1)
    return SubmitPlan(
        request=request,
        competition=competition,
        mark=replace(tag, again=count_repeats(existing) if existing else repeat),
        parts=parts or request.parts,
        last_ref=max((entry.ref for entry in submissions), default=0),
        limits=limits,
        existing=existing,
        server_name=account.server_name,
    )


def submit_version(plan: SubmitPlan, context: PushContext, ledger: SubmissionLedger) -> SubmissionResult:
    """Submit and return when Kaggle has queued it; an earlier submission is only recorded.

    Raises RefusedError with Kaggle's message and a fix, and OutsideError if it is unknown whether it
    was submitted; a new plan for the same request finds out.
    """
    request, existing = plan.request, plan.existing
    if existing is None:
        with hold_lock(context.state_folder / "submit.lock"):
            # Another process may have submitted since the plan was made.
            existing = _recover_interrupted(request, context) or plan.mark.find_exact(
                context.kaggle.list_submissions(request.competition)
            )
            if existing is None:
                context.report.step(
                    f"Submitting version {request.version} of '{request.notebook}' to '{request.competition}'"
                )
                return _send_submission(plan, context, ledger)
    if ledger.update_entry(existing) is None:
        sent = f"{existing.submitted_at:%Y-%m-%dT%H:%M:%S+00:00}" if existing.submitted_at else ""
        entry = _build_entry(plan, existing.ref, ledger)
        ledger.add_entry(replace(entry, message=existing.message, at=sent))
        ledger.update_entry(existing)
    context.report.note(
        f"nothing to submit: this version was submitted before, as submission {existing.ref} ({existing.state});"
        " --again submits it once more"
    )
    return SubmissionResult(
        ref=existing.ref,
        version=request.version,
        message=existing.message,
        existed_before=True,
        submission=existing,
    )


def _journal_target(request: SubmitRequest) -> str:
    return f"{request.competition}:{request.notebook}@v{request.version}"


def _wait_until_listed(
    tag: SubmissionTag | None, competition: str, context: PushContext, seconds: float
) -> Submission | None:
    """Wait until a submission with this tag is listed; None if none is within `seconds`."""

    def find_listed() -> Submission | None:
        submissions = context.kaggle.list_submissions(competition)
        return tag.find_exact(submissions) if tag else None

    return wait_until_shown(find_listed, context.poll.retry_policy(seconds))


def _recover_interrupted(request: SubmitRequest, context: PushContext) -> Submission | None:
    """Return the submission that an earlier run sent without seeing it arrive, None if it did not arrive."""
    # Raises OutsideError if Kaggle accepted it and does not list it yet.
    target, poll = _journal_target(request), context.poll
    entry = context.journal.find_open_entry(target)
    age = max(0.0, time.time() - entry.at) if entry else 0.0
    left = max(0.0, poll.visibility_timeout - age)
    return context.recover_interrupted(
        target,
        lambda effect: _wait_until_listed(parse_tag(effect.content), request.competition, context, left),
        processing=poll.processing_timeout,
        what="submission",
    )


def _send_submission(plan: SubmitPlan, context: PushContext, ledger: SubmissionLedger) -> SubmissionResult:
    """Submit once, wait until the submission is listed, and record it in journal and ledger."""
    request, journal, target = plan.request, context.journal, _journal_target(plan.request)
    effect = Effect(action="submit", target=target, before=plan.last_ref, content=plan.mark.as_text)

    def send_request() -> Submission:
        return context.kaggle.submit_notebook(
            competition=request.competition,
            notebook=request.notebook,
            version=request.version,
            file=request.file,
            message=plan.full_message,
        )

    def wait_for_listing() -> Submission | None:
        return _wait_until_listed(plan.mark, request.competition, context, context.poll.visibility_timeout)

    try:
        description = f"the submission to '{request.competition}'"
        answer = context.run_once(effect, send_request, wait_for_listing, description)
    except RefusedError as refusal:
        raise (_build_refusal(refusal, plan) if not refusal.is_server_error else refusal) from refusal
    server_words = "" if answer.ref else answer.error
    if server_words:
        journal.append_entry(effect, Phase.ANSWERED, server_words)
    # An answer without number may be a refusal: record a submission only once it is listed.
    entry = None if is_refusal(server_words) else ledger.add_entry(_build_entry(plan, answer.ref, ledger))
    listed = wait_for_listing()
    if not listed and entry is None:
        journal.append_entry(effect, Phase.LOST)
        raise _build_refusal(RefusedError(server_words, hint="", status=200), plan)
    if not listed and not answer.ref:
        raise build_unseen_error("submission", f"{request.notebook}@v{request.version}", server_words)
    ref = listed.ref if listed else answer.ref
    entry = entry or ledger.add_entry(_build_entry(plan, ref, ledger))
    if listed:
        ledger.update_entry(listed)
        journal.append_entry(effect, Phase.DONE)
    context.report.note(f"created submission {ref}: '{entry.message}'")
    return SubmissionResult(ref=ref, version=request.version, message=entry.message)


def _build_entry(plan: SubmitPlan, ref: int, ledger: SubmissionLedger) -> LedgerEntry:
    request, kit = plan.request, plan.mark.kit
    # An earlier version was not built from the current commit.
    commits = (entry.commit for entry in reversed(ledger.read_entries()) if entry.kit == kit and entry.commit)
    commit = request.commit if request.kit == kit else next(commits, "")
    return LedgerEntry(
        competition=request.competition,
        notebook=request.notebook,
        version=request.version,
        file=request.file,
        run_seconds=request.run_seconds,
        message=plan.full_message,
        submission=ref,
        kit=kit,
        parts=dict(plan.parts),
        commit=commit,
        place="Kaggle" if plan.server_name == "Kaggle" else "LOCAL",
    )


def _build_refusal(refusal: RefusedError, plan: SubmitPlan) -> RefusedError:
    """Return a refusal in Kaggle's words, with the fix that belongs to it."""
    slug, words = plan.request.competition, refusal.what.lower()
    rules = rules_page(plan.competition)
    if "allowance" in words or "daily" in words:
        code = "submission-limit-reached"
        hint = f"run the same command again later: the daily limit {describe_reset()}"
    elif refusal.status == 403:
        code = "competition-rules-not-accepted"
        hint = f"join the competition and accept its rules at {rules} (only a person can)"
    elif refusal.status == 404:
        code = "submission-target-not-found"
        hint = f"check `competition` ('{slug}') and the notebook version; 'offline-kit push' pushes a new version"
    else:
        code = "submission-refused"
        hint = f"no submission was used; fix what Kaggle names. The rules: {rules}"
    return RefusedError(refusal.what, hint=hint, code=code, status=refusal.status, after=refusal.after)


def wait_for_score(
    ref: int,
    context: PushContext,
    *,
    ledger: SubmissionLedger | None = None,
    deadline: float = SCORING_SECONDS,
) -> Submission:
    """Wait until a submission is scored, which takes hours, record the score and return the submission.

    Polls more and more rarely, at last every `scoring_interval` seconds, and tolerates network failures.
    Raises what `find_failure` returns, and OutsideError if it is not scored within `deadline` seconds.
    """
    began, was_pending = datetime.now(UTC), False
    invisible = GracePeriod(context.poll.visibility_timeout)
    policy = replace(context.poll, max_interval=context.poll.scoring_interval)
    server_name = context.server_name

    def check_finished() -> Submission:
        nonlocal was_pending
        invisible.is_over()  # begins with the first look
        submission = context.kaggle.get_submission(ref)
        if submission is None:
            if invisible.is_over():
                raise OutsideError(
                    f"{server_name} has no submission {ref}",
                    code="submission-not-found",
                    hint="check the list of submissions on the competition's page, then run the same command again",
                )
            line.update_status("not visible yet")
            raise TransientError("it is not visible yet")
        if submission.is_finished:
            return submission
        was_pending = True
        submitted_at = submission.submitted_at or began
        age = max(0.0, (datetime.now(UTC) - submitted_at).total_seconds())
        line.update_status(f"{submission.state} for {format_duration(age)}")
        raise TransientError(f"it is still {submission.state}")

    def may_pass(error: Exception) -> bool:
        # Kaggle may answer 403 at first.
        is_hidden = isinstance(error, RefusedError) and error.status == 403
        return is_transient(error) or (is_hidden and not invisible.is_over())

    with StatusLine(context.report, f"{server_name} scores submission {ref}") as line:
        submission = retry_call(
            check_finished,
            policy.retry_policy(deadline),
            may_pass=may_pass,
            give_up=lambda trouble: OutsideError(
                f"submission {ref} is not scored yet: {trouble}",
                code="submission-not-scored",
                hint="run the same command again later: it continues to wait, and nothing is submitted twice",
            ),
        )
    if ledger:
        # Scored before the first poll: when is unknown.
        watched = submission.submitted_at if was_pending else None
        seconds = (datetime.now(UTC) - watched).total_seconds() if watched else 0.0
        ledger.update_entry(submission, round(max(0.0, seconds), 1))
    if problem := find_failure(submission):
        raise problem
    context.report.note(f"submission {ref} is scored: {submission.public_score or 'no public score'}")
    return submission


def find_failure(submission: Submission) -> OfflineKitError | None:
    """Return the error of a finished submission; None if it was scored.

    A ProjectError, or an OutsideError if the failure is Kaggle's own.
    """
    if submission.state != "error" and not submission.error:
        return None
    server_words, _, local = submission.error.strip().partition(LOCAL_ONLY)
    cause = explain_failure(server_words, table="submission_failures")
    end = "failed" if submission.state == "error" else f"is {submission.state}, but without a score"
    words = f": {server_words}" if server_words else "; Kaggle does not say why"
    return (OutsideError if cause.code == "submission-kaggle-error" else ProjectError)(
        f"submission {submission.ref} {end}{words}",
        code=cause.code,
        hint=cause.remedy,
        details=(
            *[f"usual cause: {cause.cause}"] * bool(cause.cause),
            *([LOCAL_ONLY.strip(), *(f"    {line}" for line in local.splitlines())] if local else []),
            f"its page: {submission.url or 'see My Submissions on kaggle.com'}",
        ),
    )
