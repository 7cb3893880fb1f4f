"""Check whether a notebook version can be submitted, before a submission is used."""

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from offline_kit.core.errors import OfflineKitError, OutsideError, ProjectError, UsageError
from offline_kit.core.report import SILENT, Reporter
from offline_kit.kaggle.client.api_types import (
    Competition,
    RefusedError,
    RemoteNotebook,
    RunStatus,
    Submission,
    SubmissionLimits,
)
from offline_kit.kaggle.client.client import KaggleClient
from offline_kit.kaggle.push import kit_parts, notebook_runs
from offline_kit.kaggle.push.journal import PushSettings
from offline_kit.kaggle.push.kit_parts import find_missing_in_datasets, parse_part_ids
from offline_kit.kaggle.push.poll_policy import PollPolicy, wait_until_shown
from offline_kit.kaggle.push.submission_ledger import (
    LONGEST_MESSAGE,
    SubmissionLedger,
    SubmissionTag,
    build_message,
    filter_same_version,
    find_exact,
    parse_tag,
)
from offline_kit.kit.manifest import compute_kit_id


@dataclass(frozen=True, kw_only=True)
class SubmitRequest:
    """What the user wants to submit."""

    competition: str
    notebook: str
    """"owner/slug"."""
    version: int
    file: str = "submission.csv"
    message: str = ""
    kit: str = ""
    """Id of the kit that the version must belong to; empty accepts any, for earlier versions."""
    parts: Mapping[str, str] = field(default_factory=dict)
    """Part ids by part name; empty if only the notebook has them."""
    commit: str = ""
    """The project's git commit; empty for none."""
    run_seconds: float = 0.0
    """Duration of the version's run; 0 if unknown."""
    again: bool = False
    """Submit even if the same version was submitted before."""
    late: bool = False


@dataclass(frozen=True, kw_only=True)
class SubmissionState:
    """The state on Kaggle that a submission depends on."""

    competition: Competition | None
    limits: SubmissionLimits | RefusedError | None = None
    """The limits, Kaggle's refusal to return them, or None if not requested."""
    notebook: RemoteNotebook | None = None
    newest_version: int = 0
    """0 if there is no notebook."""
    run: RunStatus | None = None
    """None if the version has no run."""
    file_size: int | None = None
    """Size of the submission file; None if it is missing or was not checked."""
    outputs: tuple[str, ...] = ()
    parts: Mapping[str, str] = field(default_factory=dict)
    """Part ids that the notebook was rendered for; empty if unknown."""
    missing_parts: Mapping[str, str] = field(default_factory=dict)
    """Part ids that the notebook needs and its sources do not hold."""
    commit: str = ""
    """Git commit of the missing kit, if the ledger has it."""
    at: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def kit_id(self) -> str:
        """Id of the kit that the version was rendered for; empty if unknown."""
        return compute_kit_id(self.parts.values()) if self.parts else ""


@dataclass(frozen=True, kw_only=True)
class SubmitPlan:
    """What would be submitted, for confirmation."""

    request: SubmitRequest
    competition: Competition
    mark: SubmissionTag
    parts: Mapping[str, str]
    """Part ids that the notebook was rendered for; empty if unknown."""
    last_ref: int = 0
    limits: SubmissionLimits | None = None
    """None if no submission will be used."""
    existing: Submission | None = None
    server_name: str = "Kaggle"
    """"Kaggle", or "the local Kaggle"."""
    at: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def full_message(self) -> str:
        """The description that is sent to Kaggle."""
        return build_message(self.request.message, self.mark)

    @property
    def remaining_today(self) -> int:
        """Submissions left today, including this one."""
        return self.limits.remaining if self.limits else 0

    @property
    def time_left(self) -> timedelta | None:
        """Time to the deadline, negative after it; None if Kaggle gives none."""
        return self.competition.deadline - self.at if self.competition.deadline else None

    def list_facts(self) -> tuple[tuple[str, str], ...]:
        """Return names and values to show before a submission is used."""
        request, limits = self.request, self.limits
        rows = [
            ("competition", f"{self.competition.title or request.competition} ({request.competition})"),
            ("notebook", f"{request.notebook}, version {request.version}, {request.file}"),
            ("message", self.full_message),
        ]
        if self.existing:
            rows.append(("submitted", f"before, as submission {self.existing.ref}: {self.existing.state}"))
        if limits:
            of = f" of {self.competition.daily_limit}" if self.competition.daily_limit else ""
            turn = f"the limit resets at 00:00 UTC, in {format_timespan(_until_midnight(self.at))}"
            rows.append(("left today", f"{limits.remaining}{of}; {limits.made_today} made today; {turn}"))
        if self.competition.deadline and self.time_left is not None:
            rows.append(("deadline", _format_deadline(self.competition.deadline, self.time_left)))
        return tuple(rows)


def check_submission(request: SubmitRequest, state: SubmissionState) -> tuple[Competition, SubmissionLimits]:
    """Return the competition and its limits; raises all problems at once.

    Raises ProjectError for the notebook or its data, UsageError for the message, OutsideError for
    what Kaggle does not allow; several problems are a ProjectError unless all are Kaggle's.
    """
    problems = [
        *_check_competition(request, state),
        *_check_version(request, state),
        *_check_message(request),
    ]
    if not problems and state.competition and isinstance(state.limits, SubmissionLimits):
        return state.competition, state.limits
    if len(problems) == 1:
        raise problems[0]
    lines = [
        line
        for problem in problems
        for line in (problem.what, *(f"  {detail}" for detail in (*problem.details, problem.hint)))
    ]
    outside = all(isinstance(problem, OutsideError) for problem in problems)
    raise (OutsideError if outside else ProjectError)(
        f"{len(problems)} problems prevent this submission; nothing was submitted",
        code="submission-blocked",
        hint="fix the problems listed above, then run the same command again",
        details=lines,
    )


def format_timespan(span: timedelta) -> str:
    """Format a time span with its two largest units: "3 days 4 hours"."""
    minutes = max(0, int(span.total_seconds()) // 60)
    amounts = ((minutes // 1440, "day"), (minutes // 60 % 24, "hour"), (minutes % 60, "minute"))
    words = [f"{amount} {unit}{'' if amount == 1 else 's'}" for amount, unit in amounts]
    first = next((index for index, (amount, _) in enumerate(amounts) if amount), 2)
    words_shown = [word for word in words[first : first + 2] if not word.startswith("0 ")]
    return " ".join(words_shown) or "less than a minute"


def describe_reset(at: datetime) -> str:
    """Describe when the daily limit resets."""
    return f"the daily limit resets at 00:00 UTC, in {format_timespan(_until_midnight(at))}"


def rules_page(slug: str, competition: Competition | None = None) -> str:
    """Return the page where a competition's rules are accepted."""
    url = (
        competition.url if competition and competition.url else f"https://www.kaggle.com/competitions/{slug}"
    )
    return f"{url.rstrip('/')}/rules"


def _until_midnight(at: datetime) -> timedelta:
    midnight = at.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
    return midnight - at


def _format_deadline(deadline: datetime, left: timedelta) -> str:
    deadline_text = f"{deadline:%Y-%m-%d %H:%M} UTC"
    return (
        f"{deadline_text}, in {format_timespan(left)}"
        if left > timedelta()
        else f"{deadline_text}, passed {format_timespan(-left)} ago"
    )


def _check_competition(request: SubmitRequest, state: SubmissionState) -> Iterator[OfflineKitError]:
    contest, slug = state.competition, request.competition
    if contest is None:
        yield ProjectError(
            f"there is no competition '{slug}'",
            code="competition-not-found",
            hint="set `competition` to the last part of its URL: www.kaggle.com/competitions/<slug>",
        )
        return
    if contest.is_closed:
        yield OutsideError(
            f"'{slug}' does not accept submissions",
            code="competition-closed",
            hint=f"see {contest.url or 'its page'}",
        )
    elif contest.deadline and contest.deadline < state.at and not request.late:
        yield OutsideError(
            f"the deadline of '{slug}' has passed: {_format_deadline(contest.deadline, contest.deadline - state.at)}",
            code="competition-deadline-over",
            hint="use --late if the competition scores late submissions (without a rank)",
        )
    if not contest.has_entered:
        yield OutsideError(
            f"this account has not accepted the rules of '{slug}'",
            code="competition-rules-not-accepted",
            hint=f"accept them at {rules_page(slug, contest)} (only a person can)",
        )
    elif isinstance(state.limits, RefusedError):
        yield OutsideError(
            state.limits.what,
            code="submission-limits-unknown",
            hint=f"see {contest.url or 'the page of the competition'}",
        )
    elif state.limits and state.limits.remaining <= 0 and not contest.is_closed:
        yield _build_limit_error(request, contest, state.limits, state.at)


def _build_limit_error(
    request: SubmitRequest, contest: Competition, limits: SubmissionLimits, at: datetime
) -> OutsideError:
    of = f" (of {contest.daily_limit})" if contest.daily_limit else ""
    return OutsideError(
        f"the daily submission limit of '{request.competition}' is reached: {limits.made_today} made{of}",
        code="submission-limit-reached",
        hint=f"run the same command again later: {describe_reset(at)}",
    )


def _check_version(request: SubmitRequest, state: SubmissionState) -> Iterator[OfflineKitError]:
    name = f"version {request.version} of '{request.notebook}'"
    if state.notebook is None:
        newest_note = (
            f"the newest is version {state.newest_version}"
            if state.newest_version
            else "the notebook does not exist"
        )
        yield ProjectError(
            f"there is no {name}; {newest_note}",
            code="notebook-version-not-found",
            hint="push it with 'offline-kit push', or name another --version",
        )
        return
    if state.notebook.internet:
        yield ProjectError(
            f"{name} has internet access: Kaggle does not score it",
            code="notebook-internet-on",
            hint="push the notebook again with 'offline-kit push', which turns it off",
        )
    if request.kit and state.kit_id and state.kit_id != request.kit:
        yield ProjectError(
            f"{name} was rendered for the kit {state.kit_id[:12]}, not for {request.kit[:12]}, the local kit",
            code="notebook-of-other-kit",
            hint=f"run 'offline-kit push', or submit that version with --version {request.version}",
        )
    if problem := _check_run(name, state) or _check_file(name, request, state):
        yield problem
    if state.missing_parts:
        yield _build_missing_parts_error(name, state, state.notebook.sources.datasets)


def _check_run(name: str, state: SubmissionState) -> OfflineKitError | None:
    if state.run and state.run.state == "complete":
        return None
    if state.run is None or not state.run.has_failed:
        return OutsideError(
            f"the run of {name} is not complete: {state.run.state if state.run else 'no run is visible yet'}",
            code="notebook-run-incomplete",
            hint="'offline-kit push' waits for it; then run the same command again",
        )
    return ProjectError(
        f"the run of {name} did not succeed: {state.run.state}",
        code="notebook-run-failed",
        hint="fix the notebook and run 'offline-kit push'; only a complete run can be submitted",
        details=(state.run.failure_message,) if state.run.failure_message else (),
    )


def _check_file(name: str, request: SubmitRequest, state: SubmissionState) -> OfflineKitError | None:
    if state.file_size:
        return None
    wrong = "is empty" if state.file_size == 0 else "is missing"
    return ProjectError(
        f"'{request.file}' {wrong} among the outputs of {name}",
        code="submission-file-missing",
        hint="make the notebook write it (`submission` in [tool.offline-kit.notebook]), and push it again",
        details=(f"its outputs: {', '.join(state.outputs[:20]) or 'none'}",),
    )


def _build_missing_parts_error(name: str, state: SubmissionState, datasets: tuple[str, ...]) -> ProjectError:
    commit = f"; that kit was built from commit {state.commit}" if state.commit else ""
    return ProjectError(
        f"{name} needs kit parts that its datasets no longer hold",
        code="kit-parts-missing",
        hint="build and push that kit again, or submit a version for the current kit;"
        f" Kaggle mounts only the newest version of a dataset{commit}",
        details=(
            *(f"part '{part}' {part_id}" for part, part_id in state.missing_parts.items()),
            f"its datasets: {', '.join(datasets) or 'none'}",
        ),
    )


def _check_message(request: SubmitRequest) -> Iterator[OfflineKitError]:
    if len(request.message) > LONGEST_MESSAGE:
        yield UsageError(
            f"the message has {len(request.message)} characters",
            code="submission-message-too-long",
            hint=f"use at most {LONGEST_MESSAGE}",
        )


def inspect_submission(
    request: SubmitRequest,
    contest: Competition | None,
    notebook: RemoteNotebook | None,
    kaggle: KaggleClient,
    settings: PushSettings,
    report: Reporter = SILENT,
) -> SubmissionState:
    """Read everything a submission depends on; waits for datasets that are being processed."""
    limits = _read_limits(kaggle, contest)
    if notebook is None:
        newest = kaggle.get_notebook(request.notebook)
        return SubmissionState(
            competition=contest, limits=limits, newest_version=newest.newest_version if newest else 0
        )
    run = kaggle.get_notebook_run(request.notebook, request.version)
    files = (
        kaggle.list_run_outputs(request.notebook, request.version) if run and run.state == "complete" else ()
    )
    parts = parse_part_ids(notebook.text)
    # A complete run had datasets: if Kaggle lists none, nothing can be compared.
    datasets = notebook.sources.datasets if parts else ()
    return SubmissionState(
        competition=contest,
        limits=limits,
        notebook=notebook,
        newest_version=notebook.newest_version,
        run=run,
        file_size=_fetch_file_size(request, kaggle) if request.file in files else None,
        outputs=files,
        parts=parts,
        missing_parts=_find_missing_parts(parts, notebook, kaggle, settings, report) if datasets else {},
    )


def _find_missing_parts(
    parts: Mapping[str, str],
    notebook: RemoteNotebook,
    kaggle: KaggleClient,
    settings: PushSettings,
    report: Reporter,
) -> dict[str, str]:
    """Return the parts that none of the notebook's sources holds."""
    left = find_missing_in_datasets(parts, notebook.sources.datasets, kaggle, settings.poll_policy, report)
    return kit_parts.find_missing_elsewhere(left, notebook.sources, kaggle) if left else left


def _read_limits(kaggle: KaggleClient, contest: Competition | None) -> SubmissionLimits | RefusedError | None:
    if contest is None or not contest.has_entered:
        return None
    try:
        return kaggle.get_submission_limits(contest.slug)
    except RefusedError as refusal:
        if refusal.is_temporary:
            raise
        return refusal


def _fetch_file_size(request: SubmitRequest, kaggle: KaggleClient) -> int:
    """Return the size of the file by downloading it: the sizes in Kaggle's listings are wrong."""
    run = (request.notebook, request.version)
    with tempfile.TemporaryDirectory(prefix="offline-kit-") as folder:
        return notebook_runs.fetch_output(run, request.file, kaggle, Path(folder)).stat().st_size


def find_earlier(
    mark: SubmissionTag,
    competition: str,
    submissions: Iterable[Submission],
    kaggle: KaggleClient,
    ledger: SubmissionLedger,
) -> tuple[Submission, ...]:
    """Return the submissions of the same version and file, newest first.

    A submission that only the ledger has counts if Kaggle confirms its number, because lists may be truncated.
    """
    listed = filter_same_version(mark, submissions)
    if listed:
        return listed
    for entry in reversed(ledger.find_by_version(mark.notebook, mark.version)):
        if (
            entry.competition == competition
            and entry.submission
            and mark.is_same_version(parse_tag(entry.message))
        ):
            submission = kaggle.get_submission(entry.submission)
            if submission and mark.is_same_version(parse_tag(submission.message)):
                return (submission,)
    return ()


def wait_until_listed(
    text: str, competition: str, kaggle: KaggleClient, poll_policy: PollPolicy, seconds: float
) -> Submission | None:
    """Wait until a submission with this tag is listed; None if none is within `seconds`."""
    return wait_until_shown(
        lambda: find_exact(text, kaggle.list_submissions(competition)), poll_policy.retry_policy(seconds)
    )
