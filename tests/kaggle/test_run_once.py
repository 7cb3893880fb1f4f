"""What is done once, and what the journal says of it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from offline_kit.core.errors import OutsideError
from offline_kit.core.report import SILENT
from offline_kit.kaggle.client.api_types import NoResponseError, RefusedError, UnreachableError
from offline_kit.kaggle.push.journal import Effect, Journal, Phase, recover_interrupted, run_once

EFFECT = Effect(action="create", target="a/kit", before=0, content="x")
LOST = NoResponseError("lost", hint="later")
NO = RefusedError("no", hint="change it", status=403)
OUTAGE = RefusedError("oh", hint="later", status=503)


def failing(error: Exception) -> Callable[[], str]:
    """Return what always fails so."""

    def fail() -> str:
        raise error

    return fail


def phases(journal: Journal) -> list[Phase]:
    """Return what the journal says."""
    return [entry.phase for entry in journal.read_entries()]


def test_an_answer_is_an_answer(tmp_path: Path) -> None:
    """Nobody looks for it."""
    journal = Journal(tmp_path / "j")
    assert run_once(journal, EFFECT, lambda: "page", failing(AssertionError()), "it", SILENT) == "page"
    assert phases(journal) == [Phase.BEGUN, Phase.ANSWERED]


@pytest.mark.parametrize(
    ("trouble", "end"), [(NO, Phase.REFUSED), (UnreachableError("off", hint="later"), Phase.LOST)]
)
def test_what_certainly_had_no_effect_is_not_looked_for(
    tmp_path: Path, trouble: OutsideError, end: Phase
) -> None:
    """A refusal, and a request that never left; both are told."""
    journal = Journal(tmp_path / "j")
    with pytest.raises(type(trouble)):
        run_once(journal, EFFECT, failing(trouble), failing(AssertionError()), "it", SILENT)
    assert phases(journal) == [Phase.BEGUN, end]


@pytest.mark.parametrize("trouble", [LOST, OUTAGE])
def test_a_lost_answer_is_looked_for(tmp_path: Path, trouble: OutsideError) -> None:
    """Found, it is the answer; not found, the trouble is told; where nobody can look, it stays open."""
    journal = Journal(tmp_path / "j")
    assert run_once(journal, EFFECT, failing(trouble), lambda: "found", "it", SILENT) == "found"
    with pytest.raises(type(trouble)):
        run_once(journal, EFFECT, failing(trouble), lambda: None, "it", SILENT)
    assert phases(journal) == [Phase.BEGUN, Phase.ANSWERED, Phase.BEGUN, Phase.LOST]
    with pytest.raises(RefusedError):
        run_once(journal, EFFECT, failing(trouble), failing(OUTAGE), "it", SILENT)
    assert journal.find_open_entry("a/kit")


def test_what_an_earlier_run_left_open_is_settled_once(tmp_path: Path) -> None:
    """By looking; afterwards nothing is open."""
    journal = Journal(tmp_path / "j")
    assert recover_interrupted(journal, "a/kit", lambda _: 1, SILENT) is None
    for found, end in ((4, Phase.DONE), (None, Phase.LOST)):
        journal.append_entry(EFFECT, Phase.BEGUN)
        assert recover_interrupted(journal, "a/kit", lambda _, found=found: found, SILENT) == found  # type: ignore[misc]
        assert phases(journal)[-1] is end
        assert journal.find_open_entry("a/kit") is None


def test_what_was_answered_and_does_not_show_yet_is_not_given_up(tmp_path: Path) -> None:
    """While it is young it stays open, and the user is told to wait; later it counts as lost."""
    journal = Journal(tmp_path / "j")
    for phase in (Phase.BEGUN, Phase.ANSWERED):
        journal.append_entry(EFFECT, phase)
    with pytest.raises(
        OutsideError, match="accepted the push of 'a/kit', but does not show it yet"
    ) as caught:
        recover_interrupted(journal, "a/kit", lambda _: None, SILENT, processing=60)
    assert "later" in caught.value.hint
    assert journal.find_open_entry("a/kit")
    assert recover_interrupted(journal, "a/kit", lambda _: 4, SILENT, processing=60) == 4
    for phase in (Phase.BEGUN, Phase.ANSWERED):
        journal.append_entry(EFFECT, phase)
    assert recover_interrupted(journal, "a/kit", lambda _: None, SILENT, processing=0) is None
    journal.append_entry(EFFECT, Phase.BEGUN)  # nobody said yes
    assert recover_interrupted(journal, "a/kit", lambda _: None, SILENT, processing=60) is None
