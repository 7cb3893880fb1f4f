"""Calls about competitions and submissions."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from offline_kit.kaggle.client.api_types import (
    Competition,
    NewSubmission,
    RefusedError,
    Submission,
    SubmissionLimits,
)
from offline_kit.kaggle.client.calls import (
    NOT_VISIBLE,
    ApiService,
    get_flag,
    get_number,
    get_text,
    parse_state,
    parse_time,
)

_SERVICE = "competitions.CompetitionApiService/"
_STATES = ("pending", "complete", "error")
# Of the list of submissions, newest first; older ones are not needed.
_MAX_PAGES = 20
# Parts of Kaggle's message if the rules are not accepted.
_RULES = ("competition's rules", "competitions.participate")


class CompetitionCalls(ApiService):
    """Calls about competitions and submissions."""

    def get_competition(self, slug: str) -> Competition | None:
        """Return a competition, or None if it does not exist or is not visible to us.

        Raises RefusedError with the page of the rules if only participants can see it.
        """
        page = f"{self._session.site_url}/competitions/{slug}"
        try:
            answer = self._read(_SERVICE + "GetCompetition", {"competitionName": slug})
        except RefusedError as refusal:
            if refusal.status not in NOT_VISIBLE:
                raise
            if any(words in refusal.what.lower() for words in _RULES):
                raise RefusedError(
                    f"this account has not accepted the rules of '{slug}'",
                    code="competition-rules-not-accepted",
                    hint=f"accept them at {page}/rules (only a person can), then run the same command again",
                    status=refusal.status,
                ) from refusal
            return None
        return Competition(
            slug=slug,
            title=get_text(answer, "title"),
            deadline=parse_time(get_text(answer, "deadline")),
            has_entered=get_flag(answer, "userHasEntered"),
            is_closed=get_flag(answer, "submissionsDisabled"),
            daily_limit=get_number(answer, "maxDailySubmissions"),
            url=get_text(answer, "url") or page,
        )

    def get_submission_limits(self, slug: str) -> SubmissionLimits:
        """Return how many submissions are left."""
        answer = self._read(_SERVICE + "GetSubmissionLimits", {"competitionName": slug})
        return SubmissionLimits(
            made_today=get_number(answer, "numToday"),
            made_total=get_number(answer, "numTotal"),
            remaining=get_number(answer, "numAllowedNow"),
        )

    def submit_notebook(self, new: NewSubmission) -> Submission:
        """Queue a code submission; if Kaggle returns no number, it is 0 and `error` holds its message. Not idempotent."""
        owner, _, slug = new.notebook.partition("/")
        body = {
            "competitionName": new.competition,
            "kernelOwner": owner,
            "kernelSlug": slug,
            "kernelVersion": new.version,
            "fileName": new.file,
            "submissionDescription": new.message,
        }
        answer = self._send(_SERVICE + "CreateCodeSubmission", body)
        ref = get_number(answer, "ref")
        words = "" if ref else get_text(answer, "message").strip()
        return Submission(ref=ref, submitted_at=None, state="pending", message=new.message, error=words)

    def get_submission(self, ref: int) -> Submission | None:
        """Return one submission; None while it is not visible."""
        answer = self._read_or_none(_SERVICE + "GetSubmission", {"ref": ref}, absent=frozenset({404}))
        return None if answer is None else _parse_submission({"ref": ref, **answer})

    def list_submissions(self, slug: str) -> tuple[Submission, ...]:
        """Return our submissions to a competition, newest first, at most 4,000."""
        method, body = _SERVICE + "ListSubmissions", {"competitionName": slug}
        by_ref: dict[int, Submission] = {}
        for raw in self._list_items(method, body, "submissions", max_pages=_MAX_PAGES):
            submission = _parse_submission(raw)
            by_ref[submission.ref] = submission
        never = datetime.min.replace(tzinfo=UTC)
        order = sorted(by_ref.values(), key=lambda item: (item.submitted_at or never, item.ref))
        return tuple(reversed(order))


def _parse_submission(raw: Mapping[str, Any]) -> Submission:
    return Submission(
        ref=get_number(raw, "ref"),
        submitted_at=parse_time(get_text(raw, "date")),
        state=parse_state(get_text(raw, "status"), _STATES),
        message=get_text(raw, "description"),
        file=get_text(raw, "fileName"),
        error=get_text(raw, "errorDescription"),
        public_score=get_text(raw, "publicScore"),
        private_score=get_text(raw, "privateScore"),
        url=get_text(raw, "url"),
    )
