"""Competitions on Kaggle and our submissions to them, in words of our own."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from offline_kit.kaggle.client.api_types import Competition, Limits, NewSubmission, RefusedError, Submission
from offline_kit.kaggle.client.calls import ABSENT, Asking, flag, moment, number, parts, state, text

_SERVICE = "competitions.CompetitionApiService/"
_STATES = ("pending", "complete", "error")
_MOST_PAGES = 20
"""Of the list of submissions: the latest come first, and nobody looks for older ones."""
_RULES = ("competition's rules", "competitions.participate")
"""What Kaggle's words have in common where rules are not accepted."""
_NEVER = datetime.min.replace(tzinfo=UTC)


class Competitions(Asking):
    """The part of `nouns.Kaggle` about competitions and submissions."""

    def competition(self, slug: str) -> Competition | None:
        """Return a competition, or None where there is none of this name that we may see.

        Raises RefusedError with the page to go to where it is shown only to who has accepted its rules.
        """
        page = f"{self._calls.session.site}/competitions/{slug}"
        try:
            answer = self._calls.read(_SERVICE + "GetCompetition", {"competitionName": slug})
        except RefusedError as no:
            if no.status not in ABSENT:
                raise
            if any(words in no.what.lower() for words in _RULES):
                raise RefusedError(
                    f"this account has not accepted the rules of '{slug}'",
                    hint=f"accept them at {page}/rules (only a person can), then run the same command again",
                    status=no.status,
                ) from no
            return None
        return Competition(
            slug=slug,
            title=text(answer, "title"),
            deadline=moment(text(answer, "deadline")),
            entered=flag(answer, "userHasEntered"),
            closed=flag(answer, "submissionsDisabled"),
            daily=number(answer, "maxDailySubmissions"),
            url=text(answer, "url") or page,
        )

    def limits(self, slug: str) -> Limits:
        """Return how many submissions are left."""
        answer = self._calls.read(_SERVICE + "GetSubmissionLimits", {"competitionName": slug})
        return Limits(
            today=number(answer, "numToday"),
            total=number(answer, "numTotal"),
            left=number(answer, "numAllowedNow"),
        )

    def submit(self, new: NewSubmission) -> Submission:
        """Queue a code submission; its number is 0 where Kaggle does not tell it, `error` has its words then."""
        owner, _, slug = new.notebook.partition("/")
        body = {
            "competitionName": new.competition,
            "kernelOwner": owner,
            "kernelSlug": slug,
            "kernelVersion": new.version,
            "fileName": new.file,
            "submissionDescription": new.message,
        }
        answer = self._calls.effect(_SERVICE + "CreateCodeSubmission", body)
        ref = number(answer, "ref")
        words = "" if ref else text(answer, "message").strip()
        return Submission(ref=ref, date=None, state="pending", message=new.message, error=words)

    def submission(self, ref: int) -> Submission | None:
        """Return one submission; None while it does not show yet."""
        answer = self._calls.read_or_none(_SERVICE + "GetSubmission", {"ref": ref}, absent=frozenset({404}))
        return None if answer is None else _submission({"ref": ref, **answer})

    def submissions(self, slug: str) -> tuple[Submission, ...]:
        """Return our submissions to a competition, the latest first; of thousands the latest alone."""
        pages = self._calls.pages(_SERVICE + "ListSubmissions", {"competitionName": slug}, most=_MOST_PAGES)
        found = {made.ref: made for page in pages for made in map(_submission, parts(page, "submissions"))}
        return tuple(sorted(found.values(), key=lambda one: (one.date or _NEVER, one.ref), reverse=True))


def _submission(raw: Mapping[str, Any]) -> Submission:
    return Submission(
        ref=number(raw, "ref"),
        date=moment(text(raw, "date")),
        state=state(text(raw, "status"), _STATES),
        message=text(raw, "description"),
        file=text(raw, "fileName"),
        error=text(raw, "errorDescription"),
        public=text(raw, "publicScore"),
        private=text(raw, "privateScore"),
        url=text(raw, "url"),
    )
