"""Submitting a finished version to a competition of the local Kaggle."""

import dataclasses
import json
import signal
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import pytest

from offline_kit.core.errors import Exit, OfflineKitError, OutsideError, ProjectError, UsageError
from offline_kit.kaggle.client.api_types import RefusedError, Submission
from offline_kit.kaggle.client.session import KaggleEndpoint
from offline_kit.kaggle.push import submit
from offline_kit.kaggle.push.journal import Effect, Phase
from offline_kit.kaggle.push.kit_parts import parse_part_ids
from offline_kit.kaggle.push.submission_ledger import SubmissionTag, build_message, parse_tag
from offline_kit.kaggle.push.submission_plan import find_disturbed
from offline_kit.kaggle.push.submit import find_failure
from offline_kit.local_kaggle.faults import Fault
from offline_kit.local_kaggle.server import TrafficEvent
from offline_kit.project import config
from offline_kit.rehearsal.causes import explain_failure
from offline_kit.workflow import kaggle_session
from tests.support.competitions import ANSWER
from tests.support.listener import Listener
from tests.support.local_kaggle import KERNEL, notebook
from tests.support.pushing import datasets, make_kit, pushed
from tests.support.submitting import SLUG, Contest, contest, submit_elsewhere

PAGE = "/competitions/small-digits"
FIRST = 1001
"""The number of the first submission."""
STATES = [Phase.BEGUN, Phase.ANSWERED, Phase.DONE]


@pytest.fixture
def held(tmp_path: Path) -> Iterator[Contest]:
    """A competition with a finished version."""
    with contest(tmp_path) as made:
        made.finished()
        yield made


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Contest]:
    """A competition that takes many looks and no submission."""
    with contest(tmp_path_factory.mktemp("shared")) as made:
        made.finished()
        yield made


@pytest.fixture
def seen(shared: Contest) -> Iterator[Contest]:
    """The shared one, with its ordinary rules."""
    shared.rules("")
    yield shared
    assert shared.made() == []


def phases(held: Contest) -> list[Phase]:
    """Return the phases in the journal."""
    return [entry.phase for entry in held.ways.effect_journal.read_entries()]


# ------------------------------------------------------------------ once, and to its score


def test_a_version_is_submitted_once_and_scored(held: Contest) -> None:
    """The plan shows what is asked; the list bears the mark; the score stands in the ledger as LOCAL; again: nothing."""
    plan = held.plan(commit="c" * 40, run_seconds=12.5)
    assert (plan.remaining_today, plan.existing, plan.server_name) == (5, None, "the local Kaggle")
    shown = dict(plan.list_facts())
    assert "5 of 5; 0 made today; the limit resets at 00:00 UTC" in shown["left today"]
    assert shown["deadline"].startswith("2099-01-01 00:00 UTC, in ")
    assert f"{KERNEL}, version 1, submission.csv" in shown["notebook"]
    done = held.submit(plan)
    assert (done.ref, done.existed_before) == (FIRST, False)
    assert done.message == f"first try [offline-kit notebook={KERNEL}@v1 file=submission.csv]"
    assert phases(held) == STATES
    assert held.wait(done.ref).private_score == "1.00000 (LOCAL)"
    (entry,) = held.ledger.read_entries()
    assert (entry.submission, entry.place, entry.score) == (FIRST, "LOCAL", "0.50000 (LOCAL)")
    assert (entry.commit, entry.run_seconds, entry.state) == ("c" * 40, 12.5, "complete")
    again = held.submit(message="other words")
    assert (again.ref, again.existed_before) == (FIRST, True)
    assert dict(held.plan().list_facts())["submitted"] == "before, as submission 1001: complete"
    assert len(held.made()) == 1


def test_again_is_for_a_submission_that_has_its_end(held: Contest) -> None:
    """While it is pending it is waited for; then --again spends another with a mark of its own."""
    first = held.submit()
    held.wait(first.ref)
    second = held.submit(again=True)
    assert not second.existed_before
    assert second.message.endswith("file=submission.csv again=1]")
    assert held.submit().ref == second.ref, "the latest is the one that is told"
    held.wait(second.ref)
    assert held.submit(again=True).message.endswith("again=2]")
    assert len(held.made()) == 3


def test_a_pending_one_is_not_sent_again(tmp_path: Path) -> None:
    """--again, cut while it waits and given again, continues to wait."""
    with contest(tmp_path, scoring=1.0) as held:
        held.finished()
        first = held.submit()
        again = held.submit(again=True)
        assert (again.ref, again.existed_before) == (first.ref, True)
        assert len(held.made()) == 1


def test_two_runs_at_once_submit_once(held: Contest) -> None:
    """Both have planned before either sends: the second sees what the first did."""
    plans = [held.plan(), held.plan()]
    done = [held.submit(plan) for plan in plans]
    assert [each.existed_before for each in done] == [False, True]
    assert len(held.made()) == 1


def test_another_machine_recognises_what_was_submitted(held: Contest) -> None:
    """Without our journal and ledger, Kaggle's own list tells; it is written down then."""
    held.submit()
    held.wait(FIRST)
    for name in ("journal.jsonl", "ledger.jsonl"):
        (held.ways.state_folder / name).unlink()
    done = held.submit()
    assert (done.ref, done.existed_before) == (FIRST, True)
    assert [(e.submission, e.score) for e in held.ledger.read_entries()] == [(FIRST, "0.50000 (LOCAL)")]
    assert held.ledger.read_entries()[0].at.startswith("2")


# ------------------------------------------------------------------ the checks


def stopped(held: Contest, **changes: object) -> OfflineKitError:
    """Return what stands against a submission; nothing is sent."""
    with pytest.raises(OfflineKitError) as caught:
        held.plan(**changes)
    assert held.made() == []
    assert not held.bench.traffic.ended_requests("/CreateCodeSubmission")
    return caught.value


@pytest.mark.parametrize(
    ("extra", "what", "hint"),
    [
        ("entered = false", "has not accepted the rules of 'small-digits'", f"{PAGE}/rules"),
        ("closed = true", "does not accept submissions", "see http"),
        ("deadline = 2024-05-06T07:08:00Z", "2024-05-06 07:08 UTC, passed", "--late"),
        (
            "daily = 0",
            "the daily submission limit of 'small-digits' is reached",
            "the daily limit resets at 00:00 UTC",
        ),
    ],
)
def test_what_the_competition_does_not_allow_is_told_before(
    seen: Contest, extra: str, what: str, hint: str
) -> None:
    """Rules, end, deadline and daily allowance: exit 4, the cause and the remedy, nothing sent."""
    seen.rules(extra)
    error = stopped(seen)
    assert error.exit_code is Exit.OUTSIDE
    assert what in error.what
    assert hint in error.hint


def test_a_competition_that_is_not_there_is_told(seen: Contest) -> None:
    """With what its name should be."""
    error = stopped(seen, competition="no-such-thing")
    assert error.exit_code is Exit.PROJECT
    assert "no competition 'no-such-thing'" in error.what
    assert error.code == "competition-not-found"


def test_a_version_that_is_not_there_is_told(seen: Contest) -> None:
    """With the newest that is; and a notebook that is not there at all."""
    error = stopped(seen, version=7)
    assert error.exit_code is Exit.PROJECT
    assert "no version 7" in error.what
    assert "newest is version 1" in error.what
    assert stopped(seen, notebook="alice/other").code == "notebook-version-not-found"


def test_a_run_that_failed_is_told_with_its_words(seen: Contest) -> None:
    """Only a complete run can be submitted."""
    error = stopped(seen, version=seen.finished("1 / 0"))
    assert error.exit_code is Exit.PROJECT
    assert "did not succeed: error" in error.what
    assert "ZeroDivisionError" in error.details[0]


def test_a_run_under_way_is_told(tmp_path: Path) -> None:
    """It is not Kaggle's no: the same command works later."""
    with contest(tmp_path) as held:
        held.finished()
        held.bench.kaggle.faults.add_fault(
            Fault(on="GetKernelSessionStatus", answer={"status": "RUNNING"}, times=0)
        )
        error = stopped(held)
        assert error.exit_code is Exit.OUTSIDE
        assert "not complete: running" in error.what


def test_a_file_that_is_missing_is_told(seen: Contest) -> None:
    """With the outputs that there are."""
    error = stopped(seen, version=seen.finished("open('other.txt', 'w').write('x')"))
    assert "'submission.csv' is missing" in error.what
    assert "other.txt" in error.details[0]


def test_internet_that_is_on_is_told(seen: Contest) -> None:
    """Kaggle would not score it."""
    body = {"slug": KERNEL, "newTitle": "My inference", "language": "python", "kernelType": "notebook"}
    sources = {"competitionDataSources": [SLUG], "enableInternet": True, "isPrivate": True}
    text = json.dumps(notebook(ANSWER))
    version = int(seen.bench.rpc("SaveKernel", text=text, **body, **sources)["versionNumber"])
    seen.bench.finished(version)
    error = stopped(seen, version=version)
    assert error.exit_code is Exit.PROJECT
    assert "has internet access" in error.what


def test_all_that_stands_against_it_comes_at_once(seen: Contest) -> None:
    """One error with every problem and its remedy."""
    seen.rules("closed = true")
    error = stopped(seen, version=7, message="x" * 300)
    assert error.exit_code is Exit.PROJECT
    assert error.what.startswith("3 problems prevent this submission; nothing was submitted")
    lines = "\n".join(error.details)
    for word in (
        "does not accept submissions",
        "no version 7",
        "300 characters",
        "--version",
    ):
        assert word in lines
    assert isinstance(stopped(seen, competition="no-such", message="x" * 300), OfflineKitError)


def test_only_kaggles_noes_together_are_exit_4(seen: Contest) -> None:
    """Nothing of the project is wrong."""
    seen.rules("deadline = 2024-05-06T07:08:00Z\ndaily = 0")
    error = stopped(seen)
    assert (error.exit_code, error.code) == (Exit.OUTSIDE, "submission-blocked")


def test_a_message_that_is_too_long_is_a_usage_error(seen: Contest) -> None:
    """A list that cut it would cut the mark."""
    assert isinstance(stopped(seen, message="x" * 300), UsageError)


def test_limits_that_kaggle_does_not_tell_are_told_in_its_words(seen: Contest) -> None:
    """A refusal to tell them is one to take part."""
    seen.bench.kaggle.faults.add_fault(
        Fault(on="GetSubmissionLimits", status=403, message="phone number needed")
    )
    assert "phone number needed" in stopped(seen).what


def test_late_submissions_go_where_they_are_taken(held: Contest) -> None:
    """--late passes our check; where Kaggle refuses all the same, its words are shown."""
    held.rules("deadline = 2024-05-06T07:08:00Z")
    with pytest.raises(RefusedError, match="deadline has passed"):
        held.submit(late=True)
    assert phases(held) == [Phase.BEGUN, Phase.REFUSED]
    held.rules("")
    assert not held.submit().existed_before


# ------------------------------------------------------------------ refusals and lost answers


REFUSALS = [
    (400, "Your team has used its daily Submission allowance (5) today", "the daily limit resets"),
    (403, "You must accept this competition's rules", f"{PAGE}/rules"),
    (404, "Notebook version not found", "'offline-kit push' pushes a new version"),
    (400, "Submission not allowed: too large", "no submission was used"),
]


def test_a_refusal_is_shown_in_kaggles_words_with_its_remedy(held: Contest) -> None:
    """Exit 4 for each; the same command afterwards succeeds."""
    for status, message, hint in REFUSALS:
        held.bench.kaggle.faults.add_fault(Fault(on="CreateCodeSubmission", status=status, message=message))
        with pytest.raises(RefusedError) as caught:
            held.submit()
        assert message in caught.value.what
        assert hint in caught.value.hint
        assert phases(held)[-2:] == [Phase.BEGUN, Phase.REFUSED]
    assert not held.submit().existed_before
    assert len(held.made()) == 1


def test_a_refusal_in_a_friendly_answer_is_one(held: Contest) -> None:
    """Words in a 200 without a number, and nothing that shows: told in these words, and no reason to wait."""
    held = dataclasses.replace(held, grace=0.3)
    words = "Could not submit: the notebook uses a forbidden data source"
    held.bench.kaggle.faults.add_fault(Fault(on="CreateCodeSubmission", answer={"message": words}))
    with pytest.raises(RefusedError) as caught:
        held.submit()
    assert caught.value.what == words
    assert "no submission was used" in caught.value.hint
    assert held.ledger.read_entries() == ()
    assert not held.submit().existed_before
    assert len(held.made()) == 1


def test_a_friendly_refusal_that_killed_the_run_is_settled_by_the_next(held: Contest) -> None:
    """Its words are in the journal, so that nobody waits for what will not come."""
    held = dataclasses.replace(held, grace=0.3)
    effect = Effect(action="submit", target=f"{SLUG}:{KERNEL}@v1", before=0, content=held.plan().mark.as_text)
    held.ways.effect_journal.append_entry(effect, Phase.BEGUN)
    held.ways.effect_journal.append_entry(effect, Phase.ANSWERED, "Submission not allowed")
    assert not held.submit().existed_before
    assert len(held.made()) == 1


def test_the_words_of_a_yes_that_does_not_show_are_told(held: Contest) -> None:
    """At once, and by the next run."""
    held = dataclasses.replace(held, grace=0.3)
    words = "Successfully submitted to Small digits"
    held.bench.kaggle.faults.add_fault(Fault(on="CreateCodeSubmission", answer={"message": words}))
    for _again in range(2):
        with pytest.raises(OutsideError, match="does not show it yet") as caught:
            held.submit()
        assert caught.value.details == (f"Kaggle's message: {words}",)
    assert held.made() == []


@pytest.mark.parametrize("visible", [0.05, pytest.param(0.7, marks=pytest.mark.slow)])
def test_an_answer_that_is_lost_submits_once(tmp_path: Path, visible: float) -> None:
    """The mark tells, however late it shows."""
    with contest(tmp_path, visible_after=visible) as held:
        held.finished()
        held.bench.kaggle.faults.add_fault(Fault(on="CreateCodeSubmission", lose_answer=True))
        done = held.submit()
        assert (done.ref, done.existed_before) == (FIRST, False)
        assert phases(held) == STATES
        assert held.submit().existed_before
        assert len(held.made()) == 1


def test_a_5xx_without_effect_is_told_and_the_next_run_submits(held: Contest) -> None:
    """Looked for within the grace, never sent again blindly."""
    held = dataclasses.replace(held, grace=0.3)
    held.bench.kaggle.faults.add_fault(Fault(on="CreateCodeSubmission", status=502))
    with pytest.raises(RefusedError):
        held.submit()
    assert held.made() == []
    assert phases(held) == [Phase.BEGUN, Phase.LOST]
    assert not held.submit().existed_before
    assert len(held.made()) == 1


@pytest.mark.slow
def test_what_kaggle_took_and_does_not_show_is_not_sent_again(tmp_path: Path) -> None:
    """Answered, and nowhere to be seen: told, waited for by the next run, and once."""
    with contest(tmp_path, grace=0.3, visible_after=1.5) as held:
        held.finished()
        assert held.submit().ref == FIRST
        assert phases(held) == [Phase.BEGUN, Phase.ANSWERED]
        with pytest.raises(OutsideError, match="does not show it yet"):
            held.submit()
        held.bench.until(lambda: bool(held.alice.list_submissions(SLUG)))
        assert held.submit().existed_before
        assert phases(held) == STATES
        assert len(held.made()) == 1


def test_a_number_that_is_not_told_is_found_by_the_mark(held: Contest) -> None:
    """An answer without a number is a yes all the same."""
    plan = held.plan()
    words = {"competition": SLUG, "notebook": KERNEL, "file": "submission.csv", "message": plan.full_message}
    held.bench.kaggle.faults.add_fault(Fault(on="CreateCodeSubmission", after=1, answer={"message": "fine"}))
    assert held.alice.submit_notebook(version=1, **words).ref == FIRST
    held.bench.kaggle.faults.add_fault(Fault(on="ListSubmissions", answer={"submissions": []}))
    assert held.submit(plan).ref == FIRST
    assert held.ledger.read_entries()[0].submission == FIRST


POINTS = {
    "before the effect": ("begun", "/CreateCodeSubmission"),
    "after the effect, before its answer": ("done", "/CreateCodeSubmission"),
    "after the answer": ("ended", "/CreateCodeSubmission"),
    "while it is scored": ("begun", "/GetSubmission"),
}


@pytest.mark.parametrize(
    "point",
    [
        pytest.param(name, marks=() if name.startswith("after the effect") else pytest.mark.slow)
        for name in POINTS
    ],
)
def test_killed_anywhere_it_is_submitted_once(held: Contest, point: str) -> None:
    """SIGKILL, then the same command: one submission in all, with its score."""
    phase, name = POINTS[point]
    hit = threading.Event()

    def watch(event: TrafficEvent) -> None:
        if event.phase == phase and event.name.endswith(name) and not hit.is_set():
            process.send_signal(signal.SIGKILL)
            hit.set()
            time.sleep(0.2)

    process = submit_elsewhere(held)
    held.bench.traffic.listeners.append(watch)
    process.wait(60)
    assert hit.is_set()
    time.sleep(0.3)  # what the server has in hand by now may still have its effect
    done = held.submit()
    assert held.wait(done.ref).state == "complete"
    assert held.submit().existed_before
    assert len(held.made()) == 1
    assert [(e.submission, e.score) for e in held.ledger.read_entries()] == [(FIRST, "0.50000 (LOCAL)")]


def test_an_interrupted_again_is_finished_not_repeated(held: Contest) -> None:
    """A journal left open by --again is what the next --again meant."""
    held.wait(held.submit().ref)
    plan = held.plan(again=True)
    held.submit(plan)
    held.wait(FIRST + 1)
    effect = Effect(action="submit", target=f"{SLUG}:{KERNEL}@v1", before=1, content=plan.mark.as_text)
    held.ways.effect_journal.append_entry(effect, Phase.BEGUN)
    done = held.submit(again=True)
    assert (done.ref, done.existed_before) == (FIRST + 1, True)
    assert len(held.made()) == 2


# ------------------------------------------------------------------ the wait


@pytest.mark.parametrize(
    ("cell", "words", "remedy"),
    [
        ("if rerun: 1 / 0", "Notebook Threw Exception", "rehearse"),
        ("if rerun: pathlib.Path('submission.csv').unlink()", "Submission CSV Not Found", "for any"),
        ("if rerun: pathlib.Path('submission.csv').write_text('id,label\\n')", "Scoring Error", "ids"),
    ],
)
def test_a_submission_that_fails_is_told_with_cause_and_remedy(
    held: Contest, cell: str, words: str, remedy: str
) -> None:
    """Kaggle's words, the number, the page; exit 1; the ledger keeps it, and it is not sent again by itself."""
    version = held.finished(ANSWER, cell)
    done = held.submit(version=version)
    with pytest.raises(ProjectError) as caught:
        held.wait(done.ref)
    assert f"submission {done.ref} failed" in caught.value.what
    assert words in caught.value.what
    assert remedy in caught.value.hint
    assert f"{held.bench.server.url}/submissions/{done.ref}" in caught.value.details[-1]
    (entry,) = held.ledger.read_entries()
    assert (entry.state, words in entry.error) == ("error", True)
    assert held.submit(version=version).existed_before


def told(**facts: object) -> Fault:
    """Return a fault: what Kaggle tells about a submission."""
    return Fault(on="GetSubmission", answer={"ref": FIRST, "url": "https://k/1", **facts}, times=0)


def test_other_words_for_the_state_are_understood_or_waited_for(held: Contest) -> None:
    """The name of its kind in front does not matter, and a word that is new is no score."""
    held.bench.kaggle.faults.add_fault(Fault(on="GetSubmission", words="IN_REVIEW", times=3))
    held.bench.kaggle.faults.add_fault(Fault(on="GetSubmission", words="SUBMISSION_STATUS_{}", times=0))
    held.finished()
    made = held.submit()
    assert held.wait(made.ref).state == "complete"


def test_complete_with_an_error_is_an_error(held: Contest) -> None:
    """A score is not believed where an error stands beside it."""
    done = held.submit()
    held.bench.kaggle.faults.add_fault(
        told(status="COMPLETE", errorDescription="Notebook Timeout", publicScore="0.0")
    )
    with pytest.raises(ProjectError, match="is complete, but without a score: Notebook Timeout"):
        held.wait(done.ref)


def test_an_error_without_words_names_number_and_page(held: Contest) -> None:
    """Kaggle's API may say nothing at all."""
    done = held.submit()
    held.bench.kaggle.faults.add_fault(told(status="ERROR", errorDescription=""))
    with pytest.raises(ProjectError, match="submission 1001 failed; Kaggle does not say why") as caught:
        held.wait(done.ref)
    assert any("https://k/1" in line for line in caught.value.details)


def test_kaggles_own_trouble_is_exit_4_and_names_again(held: Contest) -> None:
    """A "Kaggle Error" is not the project's."""
    done = held.submit()
    held.bench.kaggle.faults.add_fault(told(status="ERROR", errorDescription="Kaggle Error"))
    with pytest.raises(OutsideError, match="Kaggle Error") as caught:
        held.wait(done.ref)
    assert "--again" in caught.value.hint


def test_trouble_during_the_wait_is_waited_for_too(held: Contest) -> None:
    """404 or 403 at first, 5xx, a lost answer: hours of waiting are not ended by a minute of trouble."""
    done = held.submit()
    held.bench.kaggle.faults.add_fault(Fault(on="GetSubmission", status=404))
    held.bench.kaggle.faults.add_fault(Fault(on="GetSubmission", status=403))
    held.bench.kaggle.faults.add_fault(Fault(on="GetSubmission", status=503, times=6))
    held.bench.kaggle.faults.add_fault(Fault(on="GetSubmission", lose_answer=True))
    assert held.wait(done.ref).public_score == "0.50000 (LOCAL)"


@pytest.mark.slow
def test_the_wait_shows_life_and_ends_at_its_deadline(tmp_path: Path) -> None:
    """A live line tells since when; patience ends with exit 4, and the same command continues to wait."""
    with contest(tmp_path, scoring=0.8) as held:
        held.finished()
        done = held.submit()
        listener = Listener()
        with pytest.raises(OutsideError, match="submission 1001 is not scored yet") as caught:
            held.wait(done.ref, listener, deadline=0.3)
        assert "continues to wait" in caught.value.hint
        assert listener.live[0] == "the local Kaggle scores submission 1001"
        assert listener.live[-1].startswith("pending for ")
        again = held.submit()
        assert held.wait(again.ref).state == "complete"
        assert 0.5 < held.ledger.read_entries()[0].scored_seconds < 20


def test_a_local_kaggle_is_asked_each_second_for_a_score(held: Contest) -> None:
    """Pauses that suit hours of scoring would be most of the time that `ship --to local` takes."""
    done, pauses = held.submit(), list[float]()
    where = KaggleEndpoint(local=held.bench.server.url, username="alice", key="key-of-alice")
    held.bench.kaggle.faults.add_fault(Fault(on="GetSubmission", status=404, times=6))
    with kaggle_session.open_session(config.load_config(held.bench.folder, {}), where) as port:
        waiting = dataclasses.replace(port.client, poll=dataclasses.replace(port.poll, sleep=pauses.append))
        context = dataclasses.replace(port, client=waiting)
        assert submit.wait_for_score(done.ref, context).state == "complete"
    assert len(pauses) >= 6
    assert max(pauses) <= 1.0


def test_a_number_that_never_shows_is_told(held: Contest) -> None:
    """After the grace, not after hours."""
    with pytest.raises(OutsideError, match="no submission 99"):
        dataclasses.replace(held, grace=0.2).wait(99)


def test_a_submission_that_stays_forbidden_is_told_in_kaggles_words(held: Contest) -> None:
    """After the grace: at first it is what Kaggle says of what does not show yet."""
    done = held.submit()
    held.bench.kaggle.faults.add_fault(Fault(on="GetSubmission", status=403, times=0, message="Not yours"))
    began = time.monotonic()
    with pytest.raises(RefusedError, match="Not yours"):
        dataclasses.replace(held, grace=0.4).wait(done.ref)
    assert time.monotonic() - began >= 0.4


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("Notebook Exceeded Allowed Compute", "submission-over-compute-limit"),
        ("Your notebook tried to allocate more memory than is available.", "submission-out-of-memory"),
        ("Evaluation Exception: Inference time cap exceeded.", "submission-timeout"),
        ("Submission Scoring Error: column 'label' not found", "submission-scoring-failed"),
        ("Submission Zip Not Found", "submission-file-missing"),
        ("Server never started", "submission-server-not-started"),
        ("Notebook Threw Exception (after deadline)", "submission-notebook-failed"),
    ],
)
def test_known_sentences_have_their_cause(message: str, code: str) -> None:
    """Each of Kaggle's few sentences is explained by its usual cause."""
    assert explain_failure(message, table="submission_failures").code == code


def test_other_sentences_are_not_explained_away() -> None:
    """An unknown one is said to be unknown, an empty one to be empty."""
    for message, code in (
        ("The moon is full", "submission-failed"),
        (" ", "submission-failed-without-reason"),
    ):
        assert explain_failure(message, table="submission_failures").code == code
    assert find_failure(Submission(ref=1, submitted_at=None, state="complete", message="")) is None


# ------------------------------------------------------------------ the kit behind a version


def settings_cell(parts: dict[str, str]) -> str:
    """Return a settings cell."""
    return f"PARTS = {parts!r}\nCOMPETITION = 'small-digits'\n"


def test_an_older_version_goes_only_with_its_own_kit(held: Contest) -> None:
    """Kaggle mounts the newest version of a dataset: what would fail in the hidden run is told before."""
    old = make_kit(held.bench.folder / "kit")
    refs = tuple(datasets(old).values())
    pushed(held.bench, old, held.alice)
    parts = {part.name: part.id for part in old.parts}
    version = held.finished(settings_cell(parts), ANSWER, datasets=refs)
    plan = held.plan(version=version)
    assert (plan.mark.kit, plan.parts) == (old.id, parts)
    assert f"kit={old.id[:12]} " in plan.full_message
    new = make_kit(held.bench.folder / "kit", {"packages/b.whl": b"b"})
    pushed(held.bench, new, held.alice)
    error = stopped(held, version=version)
    assert error.exit_code is Exit.PROJECT
    assert "no longer hold" in error.what
    assert f"part 'kit' {old.parts[0].id}" in error.details
    assert "build and push that kit again" in error.hint
    assert "rendered for the kit" in stopped(held, version=version, kit=new.id).details[0]
    pushed(held.bench, make_kit(held.bench.folder / "old"), held.alice)
    assert held.submit(version=version, kit=old.id, commit="c" * 40).ref == FIRST
    (entry,) = held.ledger.read_entries()
    assert (entry.kit, entry.parts, entry.commit) == (old.id, parts, "c" * 40)
    held.wait(FIRST)
    held.submit(version=version, again=True, commit="d" * 40)
    assert [each.commit for each in held.ledger.read_entries()] == ["c" * 40] * 2, "not the one of today"


def test_a_version_whose_datasets_are_not_told_is_not_held_back(seen: Contest) -> None:
    """A complete run had its kit: what cannot be compared is no reason against it."""
    version = seen.finished(settings_cell({"kit": "a" * 64}), ANSWER)
    assert seen.plan(version=version).parts == {"kit": "a" * 64}


def test_a_queued_submission_is_warned_of_before_its_dataset_changes(tmp_path: Path) -> None:
    """The pending ones whose kit would go are named; finished ones, and those of other datasets, are not."""
    with contest(tmp_path, scoring=4) as held:
        kit = make_kit(held.bench.folder / "kit")
        pushed(held.bench, kit, held.alice)
        parts = {part.name: part.id for part in kit.parts}
        refs = ("alice/plant-kit",)
        held.submit(version=held.finished(settings_cell(parts), ANSWER, datasets=refs))
        now, later = {"Alice/plant-kit": parts["kit"]}, ["f" * 64]
        (line,) = disturbed(held, now, later)
        assert "submission 1001 has not run yet; it uses part kit of alice/plant-kit" in line
        assert disturbed(held, now, parts.values()) == []
        assert disturbed(held, {"alice/other": parts["kit"]}, later) == []
        assert disturbed(held, {}, later) == []
        for other in ("e" * 64, ""):
            assert disturbed(held, {"alice/plant-kit": other}, later) == [], "it is spoilt already"
        held.wait(FIRST)
        assert disturbed(held, now, later) == []


def disturbed(held: Contest, changed: Mapping[str, str], parts: Collection[str]) -> list[str]:
    """Return what is said of the queued submissions."""
    return find_disturbed(SLUG, changed, parts, held.alice, held.ledger)


def test_a_pending_submission_by_hand_may_be_disturbed(tmp_path: Path) -> None:
    """What bears no mark of ours is named, as nobody knows what it uses."""
    with contest(tmp_path, scoring=600) as held:
        words = {"competition": SLUG, "notebook": KERNEL, "file": "submission.csv"}
        held.alice.submit_notebook(version=held.finished(), message="from the web page", **words)
        held.bench.until(lambda: bool(held.alice.list_submissions(SLUG)))
        (line,) = disturbed(held, {"alice/plant-kit": ""}, [])
    assert "by hand" in line
    assert "from the web page" in line


@pytest.mark.parametrize(
    ("source", "found"),
    [
        (settings_cell({"kit": "a" * 64}), {"kit": "a" * 64}),
        ("x = 1\nPARTS = {'kit': 'nothing'}", {}),
        ("PARTS = make()", {}),
        ("PARTS = {1: 2}", {}),
        ("%pip list\nPARTS = {}", {}),
        ("", {}),
    ],
)
def test_the_parts_are_read_from_the_settings(source: str, found: dict[str, str]) -> None:
    """From a source in one string or in lines; whatever else there is means none."""
    for shape in (source, source.splitlines(keepends=True)):
        cells = [{"cell_type": "markdown", "source": "PARTS"}, {"cell_type": "code", "source": shape}]
        assert parse_part_ids(json.dumps({"cells": cells})) == found


@pytest.mark.parametrize("text", ["", "no json", "[]", '{"cells": 3}', '{"cells": [3]}', "null"])
def test_what_is_no_notebook_has_no_parts(text: str) -> None:
    """Foreign input never breaks the check."""
    assert parse_part_ids(text) == {}


# ------------------------------------------------------------------ marks and times


def test_a_mark_is_read_back_and_names_the_same_whatever_the_words() -> None:
    """The person's words, other spaces, and an account in other letters change nothing."""
    mark = SubmissionTag(notebook="alice/nb", version=4, file="my [best] file.csv", kit="ab" * 32, again=2)
    text = build_message("two\n  lines", mark)
    assert text.startswith("two lines [offline-kit kit=abababababab notebook=alice/nb@v4 file=my%20")
    back = parse_tag(text)
    assert back == dataclasses.replace(mark, kit="ab" * 6)
    assert mark.is_same_version(dataclasses.replace(mark, kit="", again=0, notebook="Alice/nb"))
    assert not mark.is_same_version(dataclasses.replace(mark, version=5))
    assert not mark.is_same_version(dataclasses.replace(mark, file="other.csv"))
    assert parse_tag("by hand [offline-kit]") is None
    assert build_message("", dataclasses.replace(mark, kit="")).startswith("[offline-kit notebook=")
