"""Calls about competitions and submissions."""

from datetime import UTC, datetime

from offline_kit.kaggle.client.api_types import Competition, RefusedError, Submission, SubmissionLimits
from offline_kit.kaggle.client.calls import NOT_VISIBLE, Answer, ApiService, parse_state, parse_time

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
            title=answer.text("title"),
            deadline=parse_time(answer.text("deadline")),
            has_entered=answer.flag("userHasEntered"),
            is_closed=answer.flag("submissionsDisabled"),
            daily_limit=answer.number("maxDailySubmissions"),
            url=answer.text("url") or page,
        )

    def get_submission_limits(self, slug: str) -> SubmissionLimits:
        """Return how many submissions are left."""
        answer = self._read(_SERVICE + "GetSubmissionLimits", {"competitionName": slug})
        return SubmissionLimits(
            made_today=answer.number("numToday"),
            remaining=answer.number("numAllowedNow"),
        )

    def submit_notebook(
        self, *, competition: str, notebook: str, version: int, file: str, message: str
    ) -> Submission:
        """Queue a code submission; if Kaggle returns no number, it is 0 and `error` holds its message. Not idempotent."""
        owner, _, slug = notebook.partition("/")
        body = {
            "competitionName": competition,
            "kernelOwner": owner,
            "kernelSlug": slug,
            "kernelVersion": version,
            "fileName": file,
            "submissionDescription": message,
        }
        answer = self._send(_SERVICE + "CreateCodeSubmission", body)
        ref = answer.number("ref")
        words = "" if ref else answer.text("message").strip()
        return Submission(ref=ref, submitted_at=None, state="pending", message=message, error=words)

    def get_submission(self, ref: int) -> Submission | None:
        """Return one submission; None while it is not visible."""
        answer = self._read_or_none(_SERVICE + "GetSubmission", {"ref": ref}, absent=frozenset({404}))
        return None if answer is None else _parse_submission(Answer({"ref": ref, **answer.fields}))

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


def _parse_submission(raw: Answer) -> Submission:
    return Submission(
        ref=raw.number("ref"),
        submitted_at=parse_time(raw.text("date")),
        state=parse_state(raw.text("status"), _STATES),
        message=raw.text("description"),
        file=raw.text("fileName"),
        error=raw.text("errorDescription"),
        public_score=raw.text("publicScore"),
        private_score=raw.text("privateScore"),
        url=raw.text("url"),
    )
