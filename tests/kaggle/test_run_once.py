"""What is done once, and what the journal says of it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from offline_kit.core.errors import OutsideError
from offline_kit.kaggle.client.api_types import NoResponseError, RefusedError, UnreachableError
from offline_kit.kaggle.client.client import KaggleClient
from offline_kit.kaggle.client.session import KaggleEndpoint
from offline_kit.kaggle.push.journal import Effect, Journal, Phase, PushContext
from tests.support.pushing import PushSettings, access

EFFECT = Effect(action="create", target="a/kit", before=0, content="x")
LOST = NoResponseError("lost", hint="later")
NO = RefusedError("no", hint="change it", status=403)
OUTAGE = RefusedError("oh", hint="later", status=503)


def failing(error: Exception) -> Callable[[], str]:
    """Return what always fails so."""

    def fail() -> str:
        raise error

    return fail


def context_of(folder: Path) -> PushContext:
    """Return a context whose client is never asked."""
    return access(KaggleClient(KaggleEndpoint()), PushSettings(state_folder=folder))


def phases(journal: Journal) -> list[Phase]:
    """Return what the journal says."""
    return [entry.phase for entry in journal.read_entries()]


def test_an_answer_is_an_answer(tmp_path: Path) -> None:
    """Nobody looks for it."""
    context = context_of(tmp_path)
    journal = context.journal
    assert context.run_once(EFFECT, lambda: "page", failing(AssertionError()), "it") == "page"
    assert phases(journal) == [Phase.BEGUN, Phase.ANSWERED]


@pytest.mark.parametrize(
    ("trouble", "end"), [(NO, Phase.REFUSED), (UnreachableError("off", hint="later"), Phase.LOST)]
)
def test_what_certainly_had_no_effect_is_not_looked_for(
    tmp_path: Path, trouble: OutsideError, end: Phase
) -> None:
    """A refusal, and a request that never left; both are told."""
    context = context_of(tmp_path)
    journal = context.journal
    with pytest.raises(type(trouble)):
        context.run_once(EFFECT, failing(trouble), failing(AssertionError()), "it")
    assert phases(journal) == [Phase.BEGUN, end]


@pytest.mark.parametrize("trouble", [LOST, OUTAGE])
def test_a_lost_answer_is_looked_for(tmp_path: Path, trouble: OutsideError) -> None:
    """Found, it is the answer; not found, the trouble is told; where nobody can look, it stays open."""
    context = context_of(tmp_path)
    journal = context.journal
    assert context.run_once(EFFECT, failing(trouble), lambda: "found", "it") == "found"
    with pytest.raises(type(trouble)):
        context.run_once(EFFECT, failing(trouble), lambda: None, "it")
    assert phases(journal) == [Phase.BEGUN, Phase.ANSWERED, Phase.BEGUN, Phase.LOST]
    with pytest.raises(RefusedError):
        context.run_once(EFFECT, failing(trouble), failing(OUTAGE), "it")
    assert journal.find_open_entry("a/kit")


def test_what_an_earlier_run_left_open_is_settled_once(tmp_path: Path) -> None:
    """By looking; afterwards nothing is open."""
    context = context_of(tmp_path)
    journal = context.journal
    assert context.recover_interrupted("a/kit", lambda _: 1) is None
    for found, end in ((4, Phase.DONE), (None, Phase.LOST)):
        journal.append_entry(EFFECT, Phase.BEGUN)
        assert context.recover_interrupted("a/kit", lambda _, found=found: found) == found  # type: ignore[misc]
        assert phases(journal)[-1] is end
        assert journal.find_open_entry("a/kit") is None


def test_what_was_answered_and_does_not_show_yet_is_not_given_up(tmp_path: Path) -> None:
    """While it is young it stays open, and the user is told to wait; later it counts as lost."""
    context = context_of(tmp_path)
    journal = context.journal
    for phase in (Phase.BEGUN, Phase.ANSWERED):
        journal.append_entry(EFFECT, phase)
    with pytest.raises(
        OutsideError, match="accepted the push of 'a/kit', but does not show it yet"
    ) as caught:
        context.recover_interrupted("a/kit", lambda _: None, processing=60)
    assert "later" in caught.value.hint
    assert journal.find_open_entry("a/kit")
    assert context.recover_interrupted("a/kit", lambda _: 4, processing=60) == 4
    for phase in (Phase.BEGUN, Phase.ANSWERED):
        journal.append_entry(EFFECT, phase)
    assert context.recover_interrupted("a/kit", lambda _: None, processing=0) is None
    journal.append_entry(EFFECT, Phase.BEGUN)  # nobody said yes
    assert context.recover_interrupted("a/kit", lambda _: None, processing=60) is None
