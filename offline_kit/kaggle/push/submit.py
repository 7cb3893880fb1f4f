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
from offline_kit.core.files import locked
from offline_kit.core.report import SILENT, Reporter, Say
from offline_kit.core.retry import PassingError
from offline_kit.kaggle.client.api_types import (
    Kaggle,
    NewSubmission,
    RefusedError,
    Submission,
    UnansweredError,
    UnsentError,
)
from offline_kit.kaggle.push.journal import Effect, Phase
from offline_kit.kaggle.push.poll_policy import poll
from offline_kit.kaggle.push.push_settings import Ways
from offline_kit.kaggle.push.rendered_for import parts_of
from offline_kit.kaggle.push.run_once import once
from offline_kit.kaggle.push.submission_causes import explain
from offline_kit.kaggle.push.submission_ledger import Entry, Ledger
from offline_kit.kaggle.push.submission_plan import (
    SubmitPlan,
    SubmitRequest,
    check,
    day_turns,
    human_time,
    rules_page,
)
from offline_kit.kaggle.push.submission_remote import earlier, listed, look
from offline_kit.kaggle.push.submission_tag import Mark, exactly, read
from offline_kit.kit.manifest import compute_kit_id
from offline_kit.project.kaggle_names import LOCAL_ONLY

ACTION = "submit"
"""What the journal calls a submission."""
SCORING_SECONDS = 13 * 3600.0
"""Runs of 9 hours are allowed, of 12 in some competitions, and they may queue."""
_LATER = "run the same command again later: it looks for it first, and nothing is submitted twice"


@dataclass(frozen=True, kw_only=True)
class Submitted:
    """A submission that is made."""

    ref: int
    """Its number."""
    version: int
    """The notebook's version."""
    message: str
    """Its description, the mark included."""
    already: bool
    """Whether it was made before: nothing was spent now."""


def plan(
    request: SubmitRequest, kaggle: Kaggle, ways: Ways, ledger: Ledger, report: Reporter = SILENT
) -> SubmitPlan:
    """Look at Kaggle and return what a submission would be; settles first what an earlier run left open.

    Where the same version and file was submitted before, the plan is that submission; with `again`, only
    as long as that one has no end. Raises as `check`, with all that stands against a new one.
    """
    account = kaggle.account()
    report.step(f"Looking at '{request.competition}' at {account.place} as '{account.username}'")
    contest = kaggle.competition(request.competition)
    taking_part = contest is not None and contest.entered
    settled = None
    if taking_part and ways.journal.open(_target(request)):
        with locked(_lock(ways)):
            settled = _settle(request, kaggle, ways, report)
    made = kaggle.submissions(request.competition) if taking_part else ()
    notebook = kaggle.notebook(request.notebook, request.version)
    parts = parts_of(notebook.text) if notebook else {}
    kit = compute_kit_id(parts.values()) if parts else request.kit
    mark = Mark(notebook=request.notebook, version=request.version, file=request.file, kit=kit)
    same = earlier(mark, request.competition, made, kaggle, ledger)
    if settled and not same:
        same = (settled,)
    already = _already(request, same, settled)
    limits = None
    if contest is None or already is None:
        seen = look(request, contest, notebook, kaggle, ways, report)
        known = (each.commit for each in reversed(ledger.of_version(request.notebook, request.version)))
        contest, limits = check(request, replace(seen, commit=next(filter(None, known), "")))
    again = 1 + max((_again(each) for each in same), default=-1)
    return SubmitPlan(
        request=request,
        competition=contest,
        mark=replace(mark, again=_again(already) if already else again),
        parts=parts or request.parts,
        before=max((each.ref for each in made), default=0),
        limits=limits,
        already=already,
        place=account.place,
    )


def submit(
    plan: SubmitPlan, kaggle: Kaggle, ways: Ways, ledger: Ledger, report: Reporter = SILENT
) -> Submitted:
    """Do what a plan says, and return when Kaggle has queued it; what was made before is only written down.

    Raises RefusedError with Kaggle's words and the remedy, and OutsideError where it is not known whether
    there was an effect; the same plan, made anew, settles it.
    """
    request = plan.request
    if plan.already is not None:
        return _made(plan, plan.already, ledger, report)
    with locked(_lock(ways)):
        # Another run may have been faster since the plan was made.
        settled = _settle(request, kaggle, ways, report)
        found = settled or exactly(plan.mark.text, kaggle.submissions(request.competition))
        if found:
            return _made(plan, found, ledger, report)
        report.step(
            f"Submitting version {request.version} of '{request.notebook}' to '{request.competition}'"
        )
        return _send(plan, kaggle, ways, ledger, report)


def _already(
    request: SubmitRequest, same: tuple[Submission, ...], settled: Submission | None
) -> Submission | None:
    """Return the submission that makes another one needless, None where there is none."""
    if not request.again:
        return same[0] if same else None
    # An interrupted --again is finished, not repeated; nor is what is waited for.
    if settled and _again(settled):
        return settled
    return next((each for each in same if not each.ended), None)


def _again(submission: Submission) -> int:
    mark = read(submission.message)
    return mark.again if mark else 0


def _lock(ways: Ways) -> Path:
    return ways.state / "submit.lock"


def _target(request: SubmitRequest) -> str:
    return f"{request.competition}:{request.notebook}@v{request.version}"


def _settle(request: SubmitRequest, kaggle: Kaggle, ways: Ways, report: Reporter) -> Submission | None:
    """Find out what became of a submission that an earlier run did not see arrive; None where it did not.

    Raises OutsideError where Kaggle has said yes and still shows nothing: it may come yet.
    """
    entry = ways.journal.open(_target(request))
    if entry is None:
        return None
    report.note(f"an earlier submission of '{request.notebook}' was interrupted; looking what became of it")
    age = max(0.0, time.time() - entry.at)
    left = max(0.0, ways.waiting.grace - age)
    found = listed(entry.effect.content, request.competition, kaggle, ways.waiting, left)
    taken = entry.phase is Phase.ANSWERED and not _is_no(entry.said)
    if found is None and taken and age < ways.waiting.processing:
        raise _unseen(request, entry.said)
    ways.journal.write(entry.effect, Phase.DONE if found else Phase.LOST)
    return found


def _send(plan: SubmitPlan, kaggle: Kaggle, ways: Ways, ledger: Ledger, report: Reporter) -> Submitted:
    """Submit, once, and wait until it shows; what was answered, or seen to have happened, is in the journal."""
    request, text = plan.request, plan.mark.text
    effect = Effect(action=ACTION, target=_target(request), before=plan.before, content=text)
    new = NewSubmission(
        competition=request.competition,
        notebook=request.notebook,
        version=request.version,
        file=request.file,
        message=plan.message,
    )

    def shown() -> Submission | None:
        return listed(text, request.competition, kaggle, ways.waiting, ways.waiting.grace)

    about = f"the submission to '{request.competition}'"
    try:
        answer = once(ways.journal, effect, lambda: kaggle.submit(new), shown, about, report)
    except RefusedError as no:
        raise (_refused(no, plan) if no.status < 500 else no) from no
    said = "" if answer.ref else answer.error
    if said:
        ways.journal.write(effect, Phase.ANSWERED, said)
    # What Kaggle may have refused is no submission before it shows.
    entry = None if _is_no(said) else ledger.add(_entry(plan, answer.ref, ledger))
    found = shown()
    if not found and entry is None:
        ways.journal.write(effect, Phase.LOST)
        raise _refused(RefusedError(said, hint="", status=200), plan)
    if not found and not answer.ref:
        raise _unseen(request, said)
    ref = found.ref if found else answer.ref
    entry = entry or ledger.add(_entry(plan, ref, ledger))
    if found:
        ledger.update(found)
        ways.journal.write(effect, Phase.DONE)
    report.note(f"submitted as number {ref}: '{entry.message}'")
    return Submitted(ref=ref, version=request.version, message=entry.message, already=False)


def _made(plan: SubmitPlan, found: Submission, ledger: Ledger, report: Reporter) -> Submitted:
    """Write down a submission that was made before, where that is not done yet."""
    if ledger.update(found) is None:
        sent = f"{found.date:%Y-%m-%dT%H:%M:%S+00:00}" if found.date else ""
        ledger.add(replace(_entry(plan, found.ref, ledger), message=found.message, at=sent))
        ledger.update(found)
    report.note(
        f"nothing submitted: this version was submitted before, as number {found.ref} ({found.state});"
        " --again submits it once more"
    )
    return Submitted(ref=found.ref, version=plan.request.version, message=found.message, already=True)


def _entry(plan: SubmitPlan, ref: int, ledger: Ledger) -> Entry:
    request = plan.request
    kit = compute_kit_id(plan.parts.values()) if plan.parts else request.kit
    # An earlier version was not made from the commit that is checked out now.
    known = (each.commit for each in reversed(ledger.entries()) if each.kit == kit and each.commit)
    commit = request.commit if request.kit == kit else next(known, "")
    return Entry(
        competition=request.competition,
        notebook=request.notebook,
        version=request.version,
        file=request.file,
        message=plan.message,
        submission=ref,
        kit=kit,
        parts=dict(plan.parts),
        commit=commit,
        run_seconds=request.run_seconds,
        place="Kaggle" if plan.place == "Kaggle" else "LOCAL",
    )


def _is_no(said: str) -> bool:
    """Whether words that came without a number, and without a submission that shows, refuse it."""
    return bool(said) and "success" not in said.lower()


def _unseen(request: SubmitRequest, said: str = "") -> OutsideError:
    return OutsideError(
        f"Kaggle took the submission of version {request.version} of '{request.notebook}', and does not show it yet",
        hint=_LATER,
        details=(f"Kaggle's words: {said}",) if said else (),
    )


def _refused(no: RefusedError, plan: SubmitPlan) -> RefusedError:
    """Return a refusal in Kaggle's words with the remedy that fits it."""
    slug, words = plan.request.competition, no.what.lower()
    if "allowance" in words or "daily" in words:
        hint = f"run the same command again later: {day_turns(datetime.now(UTC))}"
    elif no.status == 403:
        hint = f"accept the rules at {rules_page(slug, plan.competition)} (only a person can), and take part"
    elif no.status == 404:
        hint = f"check `competition` ('{slug}') and the notebook's version; 'offline-kit push' pushes another one"
    else:
        hint = f"nothing was spent; mend what it names. The rules: {rules_page(slug, plan.competition)}"
    return RefusedError(no.what, hint=hint, status=no.status, after=no.after)


def wait(
    ref: int,
    kaggle: Kaggle,
    ways: Ways,
    report: Reporter = SILENT,
    *,
    ledger: Ledger | None = None,
    deadline: float = SCORING_SECONDS,
) -> Submission:
    """Wait until a submission is scored, which takes hours, and return it; the ledger learns of it.

    Looks more and more rarely, at last every `ways.waiting.scoring` seconds; trouble with the network is waited for too.
    Raises what `failure` returns, and OutsideError where there is no end within `deadline` seconds.
    """
    began, seen = time.monotonic(), list[Submission]()
    waiting, place = replace(ways.waiting, longest=ways.waiting.scoring), kaggle.account().place
    with ExitStack() as line:
        says: list[Say] = []

        def ended() -> Submission:
            late = time.monotonic() - began > waiting.grace
            found = _glance(ref, kaggle, late=late)
            if found is None and late:
                raise OutsideError(
                    f"{place} shows no submission of number {ref}",
                    hint="see the list of submissions on the competition's page, then run the same command again",
                )
            if found is None or not found.ended:
                if not says:  # what has its score already is not waited for
                    says.append(line.enter_context(report.waiting(f"{place} scores submission {ref}")))
                seen.extend([found] if found else [])
                says[0](f"{found.state if found else 'not visible yet'} {_since(found, began)}")
                raise PassingError(f"it is still {found.state}" if found else "it does not show yet")
            return found

        found = poll(ended, waiting.until(deadline), lambda e: _never(ref, str(e)))
    if ledger:
        watched = (datetime.now(UTC) - found.date).total_seconds() if seen and found.date else 0.0
        ledger.update(found, round(max(0.0, watched), 1))
    if problem := failure(found):
        raise problem
    report.note(f"submission {ref} is scored: {found.public or 'no public score'}")
    return found


def _glance(ref: int, kaggle: Kaggle, *, late: bool) -> Submission | None:
    """Return a submission as it is now; None where it does not show, which Kaggle may call forbidden at first."""
    try:
        return kaggle.submission(ref)
    except (UnansweredError, UnsentError) as trouble:
        raise PassingError(trouble.what) from trouble
    except RefusedError as no:
        if no.status >= 500 or no.status == 429:
            raise PassingError(no.what, no.after) from no
        if no.status == 403 and not late:
            return None
        raise


def _since(found: Submission | None, began: float) -> str:
    if found and found.date:
        return f"since {human_time(datetime.now(UTC) - found.date)}"
    return f"since {human_time(timedelta(seconds=time.monotonic() - began))}"


def failure(found: Submission) -> OfflineKitError | None:
    """Return what is wrong with a submission that has come to its end; None for one that was scored well.

    A ProjectError, or an OutsideError where the trouble is Kaggle's own.
    """
    if found.state != "error" and not found.error:
        return None
    said, _, local = found.error.strip().partition(LOCAL_ONLY)
    known = explain(said)
    end = "failed" if found.state == "error" else f"is {found.state}, but not scored as it should be"
    words = f": {said}" if said else "; Kaggle does not say why"
    return (OutsideError if known.passing else ProjectError)(
        f"submission {found.ref} {end}{words}",
        hint=known.remedy,
        details=(
            *[f"usual cause: {known.cause}"] * bool(known.cause),
            *([LOCAL_ONLY.strip(), *(f"    {line}" for line in local.splitlines())] if local else []),
            f"its page: {found.url or 'see My Submissions on kaggle.com'}",
        ),
    )


def _never(ref: int, why: str) -> OutsideError:
    return OutsideError(
        f"submission {ref} is not scored yet: {why}",
        hint="run the same command again later: it goes on waiting, and nothing is submitted twice",
    )
