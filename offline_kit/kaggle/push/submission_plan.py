"""Check whether a notebook version can be submitted, and which queued submissions a push would break."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from offline_kit.core.errors import OfflineKitError, OutsideError, ProjectError, UsageError, describe_problems
from offline_kit.core.files import format_duration
from offline_kit.kaggle.client.api_types import (
    Competition,
    RefusedError,
    RemoteNotebook,
    Submission,
    SubmissionLimits,
)
from offline_kit.kaggle.client.client import KaggleClient
from offline_kit.kaggle.push import kit_parts
from offline_kit.kaggle.push.journal import PushContext
from offline_kit.kaggle.push.submission_ledger import (
    SubmissionLedger,
    SubmissionTag,
    build_message,
    parse_tag,
)
from offline_kit.kit.manifest import compute_kit_id

LONGEST_MESSAGE = 250  # characters of the user's message: a truncated description would lose the tag


@dataclass(frozen=True, kw_only=True)
class SubmitRequest:
    """What the user wants to submit; what is empty is filled in on the way."""

    competition: str = ""
    notebook: str = ""
    version: int = 0
    file: str = "submission.csv"
    message: str = ""
    kit: str = ""  # id of the kit that the version must belong to; empty accepts any, for earlier versions
    parts: Mapping[str, str] = field(default_factory=dict)
    """Part ids by part name; empty if only the notebook has them."""
    commit: str = ""  # the project's git commit; empty for none
    proof: str = ""  # the receipt of the kit's last rehearsal, in one line
    run_seconds: float = 0.0  # duration of the version's run; 0 if unknown
    again: bool = False  # submit even if the same version was submitted before
    late: bool = False  # submit even after the deadline
    wait: bool = False  # wait for the score


@dataclass(frozen=True, kw_only=True)
class SubmitPlan:
    """What would be submitted, for confirmation."""

    request: SubmitRequest
    competition: Competition
    mark: SubmissionTag
    parts: Mapping[str, str]  # part ids that the notebook was rendered for; empty if unknown
    last_ref: int = 0
    limits: SubmissionLimits | None = None  # None if no submission will be used
    existing: Submission | None = None
    server_name: str = "Kaggle"

    @property
    def full_message(self) -> str:
        """The description that is sent to Kaggle."""
        return build_message(self.request.message, self.mark)

    @property
    def remaining_today(self) -> int:
        """Submissions left today, including this one."""
        return self.limits.remaining if self.limits else 0

    def list_facts(self) -> tuple[tuple[str, str], ...]:
        """Return names and values to show before a submission is used."""
        request, limits = self.request, self.limits
        rows = [
            ("competition", f"{self.competition.title or request.competition} ({request.competition})"),
            ("notebook", f"{request.notebook}, version {request.version}, {request.file}"),
            ("message", self.full_message),
        ]
        if request.proof:
            rows.append(("proof", request.proof))
        if self.existing:
            rows.append(("submitted", f"before, as submission {self.existing.ref}: {self.existing.state}"))
        if limits:
            of = f" of {self.competition.daily_limit}" if self.competition.daily_limit else ""
            left = f"{limits.remaining}{of}; {limits.made_today} made today; the limit {describe_reset()}"
            rows.append(("left today", left))
        if self.competition.deadline:
            rows.append(("deadline", _format_deadline(self.competition.deadline)))
        return tuple(rows)


def find_competition(slug: str, context: PushContext, origin: str = "the request") -> Competition:
    """Return a competition that the account takes part in; raises what prevents every submission to it."""
    competition, account = context.kaggle.get_competition(slug), context.kaggle.fetch_account()
    if competition is None:
        raise ProjectError(
            f"{account.server_name} knows no competition '{slug}', which {origin} names",
            code="competition-not-found",
            hint="set it to the last word of the competition's address: www.kaggle.com/competitions/<this>"
            if account.server_name == "Kaggle"
            else "serve it with 'offline-kit local --competition DIR'; a project with a competition.toml brings its own",
        )
    if not competition.has_entered:  # rules cannot be accepted through the API
        raise OutsideError(
            f"the account '{account.username}' has not accepted the rules of '{slug}'",
            code="competition-rules-not-accepted",
            hint=f"accept them at {rules_page(competition)} (only a person can), then run the same command again",
        )
    return competition


def check_submission(
    request: SubmitRequest,
    competition: Competition,
    notebook: RemoteNotebook | None,
    context: PushContext,
    *,
    commit: str,
) -> SubmissionLimits:
    """Return how many submissions are left; raises all problems at once.

    Waits for datasets that are being processed; `commit` is the one of the version's kit. Raises ProjectError
    for the notebook or its data, UsageError for the message, OutsideError for what Kaggle does not allow; several
    problems are a ProjectError unless all are Kaggle's.
    """
    limits = SubmissionLimits(made_today=0, remaining=0)
    problems: list[OfflineKitError] = []
    try:
        limits = context.kaggle.get_submission_limits(competition.slug)
        problems += _check_competition(request, competition, limits, is_local=context.server_name != "Kaggle")
    except RefusedError as refusal:
        if refusal.is_temporary:
            raise
        page = competition.url or "the page of the competition"
        problems.append(OutsideError(refusal.what, code="submission-limits-unknown", hint=f"see {page}"))
    problems += _check_version(request, notebook, context, commit)
    if len(request.message) > LONGEST_MESSAGE:
        problems.append(
            UsageError(
                f"the message has {len(request.message)} characters",
                code="submission-message-too-long",
                hint=f"use at most {LONGEST_MESSAGE}",
            )
        )
    if not problems:
        return limits
    if len(problems) == 1:
        raise problems[0]
    outside = all(isinstance(problem, OutsideError) for problem in problems)
    raise (OutsideError if outside else ProjectError)(
        f"{len(problems)} problems prevent this submission; nothing was submitted",
        code="submission-blocked",
        hint="fix each as described above, then run the same command again",
        details=describe_problems(problems),
    )


def _check_competition(
    request: SubmitRequest, competition: Competition, limits: SubmissionLimits, *, is_local: bool
) -> Iterator[OfflineKitError]:
    slug = request.competition
    if competition.is_closed:
        page = competition.url or "its page"
        yield OutsideError(
            f"'{slug}' does not accept submissions", code="competition-closed", hint=f"see {page}"
        )
        return
    if competition.deadline and competition.deadline < datetime.now(UTC) and not request.late:
        yield OutsideError(
            f"the deadline of '{slug}' has passed: {_format_deadline(competition.deadline)}",
            code="competition-deadline-over",
            hint="use --late if the competition scores late submissions (without a rank)",
        )
    if limits.remaining <= 0:
        of = f" (of {competition.daily_limit})" if competition.daily_limit else ""
        yield OutsideError(
            f"the daily submission limit of '{slug}' is reached: {limits.made_today} made{of}",
            code="submission-limit-reached",
            hint=f"run the same command again later: the daily limit {describe_reset()}"
            + "; or raise `daily` in competition.toml" * is_local,
        )


def _check_version(
    request: SubmitRequest, notebook: RemoteNotebook | None, context: PushContext, commit: str
) -> Iterator[OfflineKitError]:
    name = f"version {request.version} of '{request.notebook}'"
    if notebook is None:
        newest = context.kaggle.get_notebook(request.notebook)
        newest_text = (
            f"the newest is version {newest.newest_version}" if newest else "the notebook does not exist"
        )
        yield ProjectError(
            f"there is no {name}; {newest_text}",
            code="notebook-version-not-found",
            hint="push it with 'offline-kit push', or name another --version",
        )
        return
    if notebook.internet:
        yield ProjectError(
            f"{name} has internet access: Kaggle does not score it",
            code="notebook-internet-on",
            hint="push the notebook again with 'offline-kit push', which turns it off",
        )
    parts = kit_parts.parse_part_ids(notebook.text)
    kit_id = compute_kit_id(parts.values()) if parts else ""
    if request.kit and kit_id and kit_id != request.kit:
        yield ProjectError(
            f"{name} was rendered for the kit {kit_id[:12]}, not for {request.kit[:12]}, the local kit",
            code="notebook-of-other-kit",
            hint=f"run 'offline-kit push', or submit that version with --version {request.version}",
        )
    yield from _check_run(name, request, context.kaggle)
    # A complete run had datasets: if Kaggle lists none, nothing can be compared.
    if not parts or not notebook.sources.datasets:
        return
    missing = kit_parts.find_missing_parts(parts, notebook.sources, context)
    if missing:
        built_from = f"; that kit was built from commit {commit}" if commit else ""
        yield ProjectError(
            f"{name} needs kit parts that its datasets no longer hold",
            code="kit-parts-missing",
            hint="build and push that kit again, or submit a version for the current kit;"
            f" Kaggle mounts only the newest version of a dataset{built_from}",
            details=(
                *(f"part '{part}' {part_id}" for part, part_id in missing.items()),
                f"its datasets: {', '.join(notebook.sources.datasets)}",
            ),
        )


def _check_run(name: str, request: SubmitRequest, kaggle: KaggleClient) -> Iterator[OfflineKitError]:
    run = kaggle.get_notebook_run(request.notebook, request.version)
    if run and run.has_failed:
        yield ProjectError(
            f"the run of {name} did not succeed: {run.state}",
            code="notebook-run-failed",
            hint="fix the notebook and run 'offline-kit push'; only a complete run can be submitted",
            details=(run.failure_message,) if run.failure_message else (),
        )
        return
    if run is None or run.state != "complete":
        yield OutsideError(
            f"the run of {name} is not complete: {run.state if run else 'no run is visible yet'}",
            code="notebook-run-incomplete",
            hint="'offline-kit push' waits for it; then run the same command again",
        )
        return
    outputs = kaggle.list_run_outputs(request.notebook, request.version)
    if request.file not in outputs:
        yield ProjectError(
            f"'{request.file}' is missing among the outputs of {name}",
            code="submission-file-missing",
            hint="make the notebook write it (`submission` in [tool.offline-kit.notebook]), and push it again",
            details=(f"its outputs: {', '.join(outputs[:20]) or 'none'}",),
        )


def describe_reset() -> str:
    """Describe when the daily limit resets."""
    now = datetime.now(UTC)
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
    return f"resets at 00:00 UTC, in {format_duration((midnight - now).total_seconds())}"


def rules_page(competition: Competition) -> str:
    """Return the page where a competition's rules are accepted."""
    return f"{competition.url.rstrip('/') or f'https://www.kaggle.com/competitions/{competition.slug}'}/rules"


def _format_deadline(deadline: datetime) -> str:
    left = (deadline - datetime.now(UTC)).total_seconds()
    distance = f"in {format_duration(left)}" if left > 0 else f"passed {format_duration(-left)} ago"
    return f"{deadline:%Y-%m-%d %H:%M} UTC, {distance}"


def find_disturbed(
    competition: str,
    changed: Mapping[str, str],
    parts: Collection[str],
    kaggle: KaggleClient,
    ledger: SubmissionLedger,
) -> list[str]:
    """Describe each queued submission that new dataset versions would break, or might; the others go to the ledger.

    `changed` has the id of the part that each of these datasets holds, "" for none; `parts` are the ids
    that the datasets will hold afterwards. Submissions that are broken already are not reported.
    """
    held_ids = {ref.lower(): part_id for ref, part_id in changed.items()}
    lost_ids = frozenset(held_ids.values()) - frozenset(parts)
    lines = []
    for submission in kaggle.list_submissions(competition):
        ledger.update_entry(submission)
        if submission.is_finished or not held_ids:
            continue
        tag, name = parse_tag(submission.message), f"submission {submission.ref} has not run yet"
        if tag is None:
            words = f"it was submitted by hand, and may use changed datasets: '{submission.message}'"
            lines.append(f"{name}; {words}")
        elif words := _describe_conflict(tag, held_ids, lost_ids, kaggle):
            lines.append(f"{name}; {words}")
    return lines


def _describe_conflict(
    tag: SubmissionTag, held_ids: Mapping[str, str], lost_ids: Collection[str], kaggle: KaggleClient
) -> str:
    # A hidden run mounts the newest version of its datasets: it would find another kit than its own.
    notebook = kaggle.get_notebook(tag.notebook, tag.version)
    datasets = notebook.sources.datasets if notebook else ()
    parts = kit_parts.parse_part_ids(notebook.text) if notebook else {}
    used = sorted(ref for ref in datasets if ref.lower() in held_ids)
    lost = sorted(name for name, part_id in parts.items() if part_id in lost_ids)
    if (datasets and not used) or (parts and not lost):
        return ""
    subject = f"part {', '.join(lost)}" if lost else "what is there now"
    version = f"version {tag.version} of '{tag.notebook}'"
    return f"it uses {subject} of {', '.join(used) or 'its datasets'} ({version})"
