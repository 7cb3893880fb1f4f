"""A finished version to its competition: checked, submitted once, waited for until it is scored.

A submission is spent by one call that cannot be taken back. Its description bears a mark, and the journal
says before the call what is about to happen: an answer that is lost, or a run that is killed, is settled by
looking for the mark, at once or by the next run; nothing is submitted twice.
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
    KaggleApi,
    NewSubmission,
    NoResponseError,
    RefusedError,
    Submission,
    UnreachableError,
)
from offline_kit.kaggle.push.journal import Effect, Phase
from offline_kit.kaggle.push.poll_policy import poll_until
from offline_kit.kaggle.push.push_settings import PushSettings
from offline_kit.kaggle.push.rendered_for import parse_part_ids
from offline_kit.kaggle.push.run_once import run_once
from offline_kit.kaggle.push.submission_causes import explain_failure
from offline_kit.kaggle.push.submission_ledger import LedgerEntry, SubmissionLedger
from offline_kit.kaggle.push.submission_plan import (
    SubmitPlan,
    SubmitRequest,
    check_submission,
    describe_reset,
    format_timespan,
    rules_page,
)
from offline_kit.kaggle.push.submission_remote import find_earlier, inspect_submission, wait_until_listed
from offline_kit.kaggle.push.submission_tag import SubmissionTag, find_exact, parse_tag
from offline_kit.kit.manifest import compute_kit_id
from offline_kit.project.kaggle_names import LOCAL_ONLY

ACTION = "submit"
"""What the journal calls a submission."""
SCORING_SECONDS = 13 * 3600.0
"""Runs of 9 hours are allowed, of 12 in some competitions, and they may queue."""
_LATER = "run the same command again later: it looks for it first, and nothing is submitted twice"


@dataclass(frozen=True, kw_only=True)
class SubmissionResult:
    """A submission that is made."""

    ref: int
    """Its number."""
    version: int
    """The notebook's version."""
    message: str
    """Its description, the mark included."""
    existed_before: bool
    """Whether it was made before: nothing was spent now."""


def plan_submission(
    request: SubmitRequest,
    kaggle: KaggleApi,
    ways: PushSettings,
    ledger: SubmissionLedger,
    report: Reporter = SILENT,
) -> SubmitPlan:
    """Look at Kaggle and return what a submission would be; settles first what an earlier run left open.

    Where the same version and file was submitted before, the plan is that submission; with `again`, only
    as long as that one has no end. Raises as `check`, with all that stands against a new one.
    """
    account = kaggle.fetch_account()
    report.step(f"Looking at '{request.competition}' at {account.server_name} as '{account.username}'")
    contest = kaggle.get_competition(request.competition)
    taking_part = contest is not None and contest.has_entered
    settled = None
    if taking_part and ways.effect_journal.find_open_entry(_journal_target(request)):
        with hold_lock(_lock_path(ways)):
            settled = _recover_interrupted(request, kaggle, ways, report)
    made = kaggle.list_submissions(request.competition) if taking_part else ()
    notebook = kaggle.get_notebook(request.notebook, request.version)
    parts = parse_part_ids(notebook.text) if notebook else {}
    kit = compute_kit_id(parts.values()) if parts else request.kit
    mark = SubmissionTag(notebook=request.notebook, version=request.version, file=request.file, kit=kit)
    same = find_earlier(mark, request.competition, made, kaggle, ledger)
    if settled and not same:
        same = (settled,)
    already = _find_existing(request, same, settled)
    limits = None
    if contest is None or already is None:
        seen = inspect_submission(request, contest, notebook, kaggle, ways, report)
        known = (each.commit for each in reversed(ledger.find_by_version(request.notebook, request.version)))
        contest, limits = check_submission(request, replace(seen, commit=next(filter(None, known), "")))
    again = 1 + max((_repeat_count(each) for each in same), default=-1)
    return SubmitPlan(
        request=request,
        competition=contest,
        mark=replace(mark, again=_repeat_count(already) if already else again),
        parts=parts or request.parts,
        last_ref=max((each.ref for each in made), default=0),
        limits=limits,
        existing=already,
        server_name=account.server_name,
    )


def submit_version(
    plan: SubmitPlan,
    kaggle: KaggleApi,
    ways: PushSettings,
    ledger: SubmissionLedger,
    report: Reporter = SILENT,
) -> SubmissionResult:
    """Do what a plan says, and return when Kaggle has queued it; what was made before is only written down.

    Raises RefusedError with Kaggle's words and the remedy, and OutsideError where it is not known whether
    there was an effect; the same plan, made anew, settles it.
    """
    request = plan.request
    if plan.existing is not None:
        return _record_existing(plan, plan.existing, ledger, report)
    with hold_lock(_lock_path(ways)):
        # Another run may have been faster since the plan was made.
        settled = _recover_interrupted(request, kaggle, ways, report)
        found = settled or find_exact(plan.mark.as_text, kaggle.list_submissions(request.competition))
        if found:
            return _record_existing(plan, found, ledger, report)
        report.step(
            f"Submitting version {request.version} of '{request.notebook}' to '{request.competition}'"
        )
        return _send_submission(plan, kaggle, ways, ledger, report)


def _find_existing(
    request: SubmitRequest, same: tuple[Submission, ...], settled: Submission | None
) -> Submission | None:
    """Return the submission that makes another one needless, None where there is none."""
    if not request.again:
        return same[0] if same else None
    # An interrupted --again is finished, not repeated; nor is what is waited for.
    if settled and _repeat_count(settled):
        return settled
    return next((each for each in same if not each.is_finished), None)


def _repeat_count(submission: Submission) -> int:
    mark = parse_tag(submission.message)
    return mark.again if mark else 0


def _lock_path(ways: PushSettings) -> Path:
    return ways.state_folder / "submit.lock"


def _journal_target(request: SubmitRequest) -> str:
    return f"{request.competition}:{request.notebook}@v{request.version}"


def _recover_interrupted(
    request: SubmitRequest, kaggle: KaggleApi, ways: PushSettings, report: Reporter
) -> Submission | None:
    """Find out what became of a submission that an earlier run did not see arrive; None where it did not.

    Raises OutsideError where Kaggle has said yes and still shows nothing: it may come yet.
    """
    entry = ways.effect_journal.find_open_entry(_journal_target(request))
    if entry is None:
        return None
    report.note(f"an earlier submission of '{request.notebook}' was interrupted; looking what became of it")
    age = max(0.0, time.time() - entry.at)
    left = max(0.0, ways.poll_policy.visibility_timeout - age)
    found = wait_until_listed(entry.effect.content, request.competition, kaggle, ways.poll_policy, left)
    taken = entry.phase is Phase.ANSWERED and not _is_refusal(entry.server_message)
    if found is None and taken and age < ways.poll_policy.processing_timeout:
        raise _build_unseen_error(request, entry.server_message)
    ways.effect_journal.append_entry(entry.effect, Phase.DONE if found else Phase.LOST)
    return found


def _send_submission(
    plan: SubmitPlan, kaggle: KaggleApi, ways: PushSettings, ledger: SubmissionLedger, report: Reporter
) -> SubmissionResult:
    """Submit, once, and wait until it shows; what was answered, or seen to have happened, is in the journal."""
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
            text, request.competition, kaggle, ways.poll_policy, ways.poll_policy.visibility_timeout
        )

    about = f"the submission to '{request.competition}'"
    try:
        answer = run_once(
            ways.effect_journal, effect, lambda: kaggle.submit_notebook(new), wait_for_listing, about, report
        )
    except RefusedError as no:
        raise (_build_refusal(no, plan) if no.status < 500 else no) from no
    said = "" if answer.ref else answer.error
    if said:
        ways.effect_journal.append_entry(effect, Phase.ANSWERED, said)
    # What Kaggle may have refused is no submission before it shows.
    entry = None if _is_refusal(said) else ledger.add_entry(_build_entry(plan, answer.ref, ledger))
    found = wait_for_listing()
    if not found and entry is None:
        ways.effect_journal.append_entry(effect, Phase.LOST)
        raise _build_refusal(RefusedError(said, hint="", status=200), plan)
    if not found and not answer.ref:
        raise _build_unseen_error(request, said)
    ref = found.ref if found else answer.ref
    entry = entry or ledger.add_entry(_build_entry(plan, ref, ledger))
    if found:
        ledger.update_entry(found)
        ways.effect_journal.append_entry(effect, Phase.DONE)
    report.note(f"submitted as number {ref}: '{entry.message}'")
    return SubmissionResult(ref=ref, version=request.version, message=entry.message, existed_before=False)


def _record_existing(
    plan: SubmitPlan, found: Submission, ledger: SubmissionLedger, report: Reporter
) -> SubmissionResult:
    """Write down a submission that was made before, where that is not done yet."""
    if ledger.update_entry(found) is None:
        sent = f"{found.submitted_at:%Y-%m-%dT%H:%M:%S+00:00}" if found.submitted_at else ""
        ledger.add_entry(replace(_build_entry(plan, found.ref, ledger), message=found.message, at=sent))
        ledger.update_entry(found)
    report.note(
        f"nothing submitted: this version was submitted before, as number {found.ref} ({found.state});"
        " --again submits it once more"
    )
    return SubmissionResult(
        ref=found.ref, version=plan.request.version, message=found.message, existed_before=True
    )


def _build_entry(plan: SubmitPlan, ref: int, ledger: SubmissionLedger) -> LedgerEntry:
    request = plan.request
    kit = compute_kit_id(plan.parts.values()) if plan.parts else request.kit
    # An earlier version was not made from the commit that is checked out now.
    known = (each.commit for each in reversed(ledger.read_entries()) if each.kit == kit and each.commit)
    commit = request.commit if request.kit == kit else next(known, "")
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


def _is_refusal(said: str) -> bool:
    """Whether words that came without a number, and without a submission that shows, refuse it."""
    return bool(said) and "success" not in said.lower()


def _build_unseen_error(request: SubmitRequest, said: str = "") -> OutsideError:
    return OutsideError(
        f"Kaggle took the submission of version {request.version} of '{request.notebook}', and does not show it yet",
        hint=_LATER,
        details=(f"Kaggle's words: {said}",) if said else (),
    )


def _build_refusal(no: RefusedError, plan: SubmitPlan) -> RefusedError:
    """Return a refusal in Kaggle's words with the remedy that fits it."""
    slug, words = plan.request.competition, no.what.lower()
    if "allowance" in words or "daily" in words:
        hint = f"run the same command again later: {describe_reset(datetime.now(UTC))}"
    elif no.status == 403:
        hint = f"accept the rules at {rules_page(slug, plan.competition)} (only a person can), and take part"
    elif no.status == 404:
        hint = f"check `competition` ('{slug}') and the notebook's version; 'offline-kit push' pushes another one"
    else:
        hint = f"nothing was spent; mend what it names. The rules: {rules_page(slug, plan.competition)}"
    return RefusedError(no.what, hint=hint, status=no.status, after=no.retry_after)


def wait_for_score(
    ref: int,
    kaggle: KaggleApi,
    ways: PushSettings,
    report: Reporter = SILENT,
    *,
    ledger: SubmissionLedger | None = None,
    deadline: float = SCORING_SECONDS,
) -> Submission:
    """Wait until a submission is scored, which takes hours, and return it; the ledger learns of it.

    Looks more and more rarely, at last every `ways.waiting.scoring` seconds; trouble with the network is waited for too.
    Raises what `failure` returns, and OutsideError where there is no end within `deadline` seconds.
    """
    began, seen = time.monotonic(), list[Submission]()
    waiting, place = (
        replace(ways.poll_policy, max_interval=ways.poll_policy.scoring_interval),
        kaggle.fetch_account().server_name,
    )
    with ExitStack() as line:
        says: list[Say] = []

        def check_finished() -> Submission:
            late = time.monotonic() - began > waiting.visibility_timeout
            found = _read_submission(ref, kaggle, late=late)
            if found is None and late:
                raise OutsideError(
                    f"{place} shows no submission of number {ref}",
                    hint="see the list of submissions on the competition's page, then run the same command again",
                )
            if found is None or not found.is_finished:
                if not says:  # what has its score already is not waited for
                    says.append(line.enter_context(report.waiting(f"{place} scores submission {ref}")))
                seen.extend([found] if found else [])
                says[0](f"{found.state if found else 'not visible yet'} {_describe_age(found, began)}")
                raise TransientError(f"it is still {found.state}" if found else "it does not show yet")
            return found

        found = poll_until(
            check_finished, waiting.retry_policy(deadline), lambda e: _build_timeout_error(ref, str(e))
        )
    if ledger:
        watched = (
            (datetime.now(UTC) - found.submitted_at).total_seconds() if seen and found.submitted_at else 0.0
        )
        ledger.update_entry(found, round(max(0.0, watched), 1))
    if problem := find_failure(found):
        raise problem
    report.note(f"submission {ref} is scored: {found.public_score or 'no public score'}")
    return found


def _read_submission(ref: int, kaggle: KaggleApi, *, late: bool) -> Submission | None:
    """Return a submission as it is now; None where it does not show, which Kaggle may call forbidden at first."""
    try:
        return kaggle.get_submission(ref)
    except (NoResponseError, UnreachableError) as trouble:
        raise TransientError(trouble.what) from trouble
    except RefusedError as no:
        if no.status >= 500 or no.status == 429:
            raise TransientError(no.what, no.retry_after) from no
        if no.status == 403 and not late:
            return None
        raise


def _describe_age(found: Submission | None, began: float) -> str:
    if found and found.submitted_at:
        return f"since {format_timespan(datetime.now(UTC) - found.submitted_at)}"
    return f"since {format_timespan(timedelta(seconds=time.monotonic() - began))}"


def find_failure(found: Submission) -> OfflineKitError | None:
    """Return what is wrong with a submission that has come to its end; None for one that was scored well.

    A ProjectError, or an OutsideError where the trouble is Kaggle's own.
    """
    if found.state != "error" and not found.error:
        return None
    said, _, local = found.error.strip().partition(LOCAL_ONLY)
    known = explain_failure(said)
    end = "failed" if found.state == "error" else f"is {found.state}, but not scored as it should be"
    words = f": {said}" if said else "; Kaggle does not say why"
    return (OutsideError if known.is_transient else ProjectError)(
        f"submission {found.ref} {end}{words}",
        hint=known.remedy,
        details=(
            *[f"usual cause: {known.cause}"] * bool(known.cause),
            *([LOCAL_ONLY.strip(), *(f"    {line}" for line in local.splitlines())] if local else []),
            f"its page: {found.url or 'see My Submissions on kaggle.com'}",
        ),
    )


def _build_timeout_error(ref: int, why: str) -> OutsideError:
    return OutsideError(
        f"submission {ref} is not scored yet: {why}",
        hint="run the same command again later: it goes on waiting, and nothing is submitted twice",
    )
