"""The journal of effects."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offline_kit.kaggle.push.journal import Effect, Journal, Phase

EFFECT = Effect(action="version", target="alice/kit", before=3, content="a" * 64)


@pytest.mark.parametrize("phase", [Phase.BEGUN, Phase.ANSWERED])
def test_an_effect_that_may_have_happened_stays_open(tmp_path: Path, phase: Phase) -> None:
    """What was begun and not settled is there for the next run, with the version before it."""
    Journal(tmp_path / "journal.jsonl").append_entry(EFFECT, phase)
    found = Journal(tmp_path / "journal.jsonl").find_open_entry("alice/kit")
    assert found is not None
    assert (found.effect, found.phase) == (EFFECT, phase)
    assert Journal(tmp_path / "journal.jsonl").find_open_entry("alice/other") is None


@pytest.mark.parametrize("phase", [Phase.DONE, Phase.REFUSED, Phase.LOST])
def test_a_settled_effect_is_closed(tmp_path: Path, phase: Phase) -> None:
    """What was seen, refused or given up is not waited for again."""
    journal = Journal(tmp_path / "journal.jsonl")
    journal.append_entry(EFFECT, Phase.BEGUN)
    journal.append_entry(EFFECT, phase)
    assert journal.find_open_entry("alice/kit") is None


@given(cut=st.integers(min_value=0, max_value=400))
def test_a_journal_cut_by_a_crash_is_still_one(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    """Wherever the last write ended, older lines stand and new ones are whole."""
    journal = Journal(tmp_path_factory.mktemp("journal") / "journal.jsonl")
    journal.append_entry(EFFECT, Phase.DONE)
    whole = journal.path.stat().st_size
    journal.append_entry(EFFECT, Phase.BEGUN)
    size = journal.path.stat().st_size
    with journal.path.open("r+b") as stream:
        stream.truncate(max(whole, size - cut))
    journal.append_entry(EFFECT, Phase.ANSWERED)
    phases = [entry.phase for entry in journal.read_entries()]
    assert phases[0] is Phase.DONE
    assert phases[-1] is Phase.ANSWERED
