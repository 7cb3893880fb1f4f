"""Competitions and submissions through the gateway: the real client before the local Kaggle."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from offline_kit.core.retry import RetryPolicy
from offline_kit.kaggle.client.api_types import (
    NewNotebook,
    NoResponseError,
    NotebookSources,
    RefusedError,
    Submission,
    SubmissionLimits,
)
from offline_kit.kaggle.client.calls import parse_time
from offline_kit.kaggle.client.client import KaggleClient
from offline_kit.kaggle.client.session import KaggleEndpoint
from offline_kit.local_kaggle.faults import Fault
from tests.support.competitions import ANSWER, competition
from tests.support.local_kaggle import KERNEL, Bench, notebook, serving
from tests.support.pushing import client
from tests.support.warm_python import client_python

SLUG = "small-digits"


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """A local Kaggle with a competition."""
    with serving(tmp_path) as running:
        running.kaggle.catalog.add_competition(competition(tmp_path))
        yield running


def where(bench: Bench) -> KaggleEndpoint:
    """Return alice's way to the local Kaggle."""
    return KaggleEndpoint(local=bench.server.url, username="alice", key="key-of-alice")


def wish(message: str = "kit 1", **changes: Any) -> dict[str, Any]:
    """Return a submission of the first version of the notebook."""
    words = {"competition": SLUG, "notebook": KERNEL, "version": 1, "file": "submission.csv"}
    return {**words, "message": message, **changes}


def ready(bench: Bench, alice: KaggleClient) -> None:
    """Push a notebook that takes part, and wait for its run."""
    text = json.dumps(notebook(ANSWER))
    sources = NotebookSources(competitions=(SLUG,))
    alice.save_notebook(NewNotebook(ref=KERNEL, title="My inference", text=text, sources=sources))
    bench.finished(1)


def scored(bench: Bench, alice: KaggleClient, ref: int) -> Submission:
    """Wait for the end of a submission."""

    def ended() -> bool:
        found = alice.get_submission(ref)
        return found is not None and found.state != "pending"

    bench.until(ended)
    found = alice.get_submission(ref)
    assert found is not None
    return found


def test_a_competition_is_described(bench: Bench, alice: KaggleClient, tmp_path: Path) -> None:
    """Deadline in UTC, what it takes, how often, and whether we take part."""
    extra = 'deadline = "2031-05-06T07:08:09Z"\ndaily = 3\nclosed = true\nentered = false'
    bench.kaggle.catalog.add_competition(competition(tmp_path / "other", extra))
    found = alice.get_competition(SLUG)
    assert found is not None
    assert (found.slug, found.title, found.daily_limit) == (SLUG, "Small digits", 3)
    assert found.deadline == datetime(2031, 5, 6, 7, 8, 9, tzinfo=UTC)
    assert (found.is_closed, found.has_entered) == (True, False)
    assert found.url.endswith(SLUG)


@pytest.mark.parametrize("status", [403, 404])
def test_a_competition_that_is_not_there_is_none(bench: Bench, alice: KaggleClient, status: int) -> None:
    """Missing and private look alike."""
    bench.kaggle.faults.add_fault(Fault(on="GetCompetition", status=status))
    assert alice.get_competition(SLUG) is None
    assert alice.get_competition("no-such") is None


@pytest.mark.parametrize(
    "words",
    ["You must accept this competition's rules", "Permission 'competitions.participate' was denied"],
)
def test_a_competition_that_shows_after_its_rules_are_accepted(
    bench: Bench, alice: KaggleClient, words: str
) -> None:
    """It is not taken for a wrong name: the sentence says what lacks, the hint where."""
    bench.kaggle.faults.add_fault(Fault(on="GetCompetition", status=403, message=words))
    with pytest.raises(RefusedError, match=f"has not accepted the rules of '{SLUG}'") as caught:
        alice.get_competition(SLUG)
    assert f"{bench.server.url}/competitions/{SLUG}/rules" in caught.value.hint


def test_what_kaggle_leaves_out_is_the_default(bench: Bench, alice: KaggleClient) -> None:
    """A sparse answer is no crash."""
    bench.kaggle.faults.add_fault(Fault(on="GetCompetition", answer={"title": "T"}))
    found = alice.get_competition(SLUG)
    assert found is not None
    assert (found.deadline, found.has_entered, found.is_closed) == (None, False, False)
    bench.kaggle.faults.add_fault(Fault(on="GetSubmissionLimits", answer={"numToday": 2}))
    assert alice.get_submission_limits(SLUG) == SubmissionLimits(made_today=2, remaining=0)
    bench.kaggle.faults.add_fault(Fault(on="GetSubmission", answer={}))
    assert alice.get_submission(7) == Submission(ref=7, submitted_at=None, state="pending", message="")
    bench.kaggle.faults.add_fault(Fault(on="ListSubmissions", answer={}))
    assert alice.list_submissions(SLUG) == ()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-11-22T23:59:00Z", datetime(2026, 11, 22, 23, 59, tzinfo=UTC)),
        ("2026-11-22T23:59:00.123Z", datetime(2026, 11, 22, 23, 59, 0, 123000, tzinfo=UTC)),
        ("2026-11-22T23:59:00.1234567Z", datetime(2026, 11, 22, 23, 59, 0, 123456, tzinfo=UTC)),
        ("2026-11-22T23:59:00.5", datetime(2026, 11, 22, 23, 59, 0, 500000, tzinfo=UTC)),
        ("2026-11-22T23:59:00", datetime(2026, 11, 22, 23, 59, tzinfo=UTC)),
        ("2026-11-23T00:59:00+01:00", datetime(2026, 11, 22, 23, 59, tzinfo=UTC)),
        ("", None),
        ("soon", None),
    ],
)
def test_times_are_read_as_utc(text: str, expected: datetime | None) -> None:
    """Whatever fraction, whether or not it says Z; another form is no time."""
    assert parse_time(text) == expected
    assert expected is None or (parse_time(text) or expected).tzinfo is UTC


def test_a_submission_is_queued_scored_and_listed(bench: Bench, alice: KaggleClient) -> None:
    """Number, message, scores; the limits count it; nobody else sees it."""
    ready(bench, alice)
    assert alice.get_submission_limits(SLUG) == SubmissionLimits(made_today=0, remaining=5)
    ref = alice.submit_notebook(**wish()).ref
    found = scored(bench, alice, ref)
    assert (found.ref, found.state, found.message) == (ref, "complete", "kit 1")
    assert (found.public_score, found.private_score) == ("0.50000 (LOCAL)", "1.00000 (LOCAL)")
    assert (found.file, found.error) == ("submission.csv", "")
    assert found.url.endswith(str(ref))
    assert found.submitted_at is not None
    assert abs((datetime.now(UTC) - found.submitted_at).total_seconds()) < 60
    assert alice.list_submissions(SLUG) == (found,)
    assert alice.get_submission_limits(SLUG) == SubmissionLimits(made_today=1, remaining=4)
    with client(bench, "bob") as bob:
        assert bob.get_submission(ref) is None
        assert bob.list_submissions(SLUG) == ()


def test_all_pages_are_read_and_the_latest_comes_first(bench: Bench, alice: KaggleClient) -> None:
    """By them a lost answer is recognised, so none may be missing."""
    ready(bench, alice)
    refs = [alice.submit_notebook(**wish(f"kit {number}")).ref for number in range(3)]
    bench.until(lambda: len(alice.list_submissions(SLUG)) == 3)
    with KaggleClient(where(bench), python=client_python(), page=1) as paged:
        assert [each.ref for each in paged.list_submissions(SLUG)] == refs[::-1]


def test_a_submission_that_does_not_show_yet_is_none(bench: Bench, alice: KaggleClient) -> None:
    """Just made, it may answer 404; a refusal of another kind is told."""
    assert alice.get_submission(4711) is None
    bench.kaggle.faults.add_fault(Fault(on="GetSubmission", status=403, message="Not yours"))
    with pytest.raises(RefusedError, match="Not yours"):
        alice.get_submission(4711)


def test_a_failed_submission_tells_why(bench: Bench, alice: KaggleClient) -> None:
    """The error's words; without any, the state and the page remain."""
    told = {"ref": 5, "status": "ERROR", "errorDescription": "Notebook Timeout", "url": "https://k/5"}
    bench.kaggle.faults.add_fault(Fault(on="GetSubmission", answer=told))
    found = alice.get_submission(5)
    assert found is not None
    assert (found.state, found.error, found.url, found.public_score) == (
        "error",
        "Notebook Timeout",
        "https://k/5",
        "",
    )


def test_a_submission_without_a_number_is_queued_all_the_same(bench: Bench, alice: KaggleClient) -> None:
    """Some answers have words alone."""
    answer = {"message": "Successfully submitted to Small digits"}
    bench.kaggle.faults.add_fault(Fault(on="CreateCodeSubmission", answer=answer))
    made = alice.submit_notebook(**wish())
    assert (made.ref, made.state, made.error) == (0, "pending", answer["message"])


def test_an_answer_of_another_shape_is_no_crash(bench: Bench) -> None:
    """A proxy that answers in Kaggle's place is told as an answer that makes no sense."""
    with KaggleClient(where(bench), python=client_python(), patience=RetryPolicy(attempts=1)) as alice:
        bench.kaggle.faults.add_fault(Fault(on="GetSubmissionLimits", answer=["no", "object"]))  # type: ignore[arg-type]
        with pytest.raises(NoResponseError, match="GetSubmissionLimits"):
            alice.get_submission_limits(SLUG)
