"""Competitions on Kaggle and our submissions to them, in words of our own."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from offline_kit.kaggle_gateway.calls import ABSENT, Asking, moment, state
from offline_kit.kaggle_gateway.nouns import (
    Competition,
    Limits,
    NewSubmission,
    RefusedError,
    Submission,
)

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
            title=str(answer.get("title") or ""),
            deadline=moment(answer.get("deadline")),
            entered=bool(answer.get("userHasEntered")),
            closed=bool(answer.get("submissionsDisabled")),
            daily=int(answer.get("maxDailySubmissions") or 0),
            url=str(answer.get("url") or page),
        )

    def limits(self, slug: str) -> Limits:
        """Return how many submissions are left."""
        answer = self._calls.read(_SERVICE + "GetSubmissionLimits", {"competitionName": slug})
        return Limits(
            today=int(answer.get("numToday") or 0),
            total=int(answer.get("numTotal") or 0),
            left=int(answer.get("numAllowedNow") or 0),
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
        ref = int(answer.get("ref") or 0)
        words = "" if ref else str(answer.get("message") or "").strip()
        return Submission(ref=ref, date=None, state="pending", message=new.message, error=words)

    def submission(self, ref: int) -> Submission | None:
        """Return one submission; None while it does not show yet."""
        answer = self._calls.read_or_none(_SERVICE + "GetSubmission", {"ref": ref}, absent=frozenset({404}))
        return None if answer is None else _submission({"ref": ref, **answer})

    def submissions(self, slug: str) -> tuple[Submission, ...]:
        """Return our submissions to a competition, the latest first; of thousands the latest alone."""
        pages = self._calls.pages(_SERVICE + "ListSubmissions", {"competitionName": slug}, most=_MOST_PAGES)
        found = {made.ref: made for page in pages for made in map(_submission, page.get("submissions") or [])}
        return tuple(sorted(found.values(), key=lambda one: (one.date or _NEVER, one.ref), reverse=True))


def _submission(raw: Mapping[str, Any]) -> Submission:
    def text(name: str) -> str:
        value = raw.get(name)
        return "" if value is None else str(value)

    return Submission(
        ref=int(raw.get("ref") or 0),
        date=moment(raw.get("date")),
        state=state(raw.get("status"), _STATES),
        message=text("description"),
        file=text("fileName"),
        error=text("errorDescription"),
        public=text("publicScore"),
        private=text("privateScore"),
        url=text("url"),
    )
