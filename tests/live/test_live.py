"""The journey of `tests.support.live_probe`: through a local Kaggle, and, for whoever asks for it, the real one."""

import os
import sys
import time
from pathlib import Path

import pytest

from offline_kit.kaggle.client.client import KaggleClient
from offline_kit.kaggle.client.session import GUARD, KaggleEndpoint
from offline_kit.kaggle.push.journal import PushContext
from offline_kit.kaggle.push.poll_policy import ClientSettings
from tests.support.live_probe import DATASET_SLUG, visit_kaggle
from tests.support.local_kaggle import Bench
from tests.support.pushing import access, client, ways

ASKED, ACCOUNT = "OFFLINE_KIT_LIVE", "OFFLINE_KIT_LIVE_ACCOUNT"
OF_THE_MACHINE = (
    "inputs are",
    "the session",
    "the run is",
    "Python is",
    "uv is",
    "a CPU session",
    "the executable",
)
"""Facts of a session that a local Kaggle's bare subprocess does not imitate."""


@pytest.mark.slow
def test_a_journey_through_the_local_kaggle(bench: Bench, tmp_path: Path) -> None:
    """Created, then versions only; the facts of uploads are those that the local Kaggle imitates; nothing is deleted."""
    with client(bench) as kaggle:
        context = access(kaggle, ways(bench))
        for number in ("1", "2"):
            facts = visit_kaggle(context, tmp_path / number, number)
            differing = [fact.text for fact in facts if not fact.confirmed]
            assert [text for text in differing if not text.startswith(OF_THE_MACHINE)] == []
        remote = kaggle.get_dataset(f"alice/{DATASET_SLUG}")
    assert len(bench.traffic.ended_requests("/CreateDataset")) == 1
    assert remote
    assert (remote.version, remote.private) == (4, True)
    assert not [event.name for event in bench.traffic.ended_requests("") if "Delete" in event.name]


@pytest.mark.live
def test_a_journey_through_kaggle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Only with both variables: the second names the account of the credentials, which gets a dataset and a notebook."""
    if os.environ.get(ASKED) != "1" or not os.environ.get(ACCOUNT):
        pytest.skip(f"set {ASKED}=1 and {ACCOUNT}=<your account> to make versions of {DATASET_SLUG} there")
    env = {name: value for name, value in os.environ.items() if name != GUARD}
    with KaggleClient(KaggleEndpoint(), env=env) as kaggle:
        assert kaggle.fetch_account().username == os.environ[ACCOUNT]
        context = PushContext(kaggle=kaggle, state_folder=tmp_path / "state", client=ClientSettings())
        facts = visit_kaggle(context, tmp_path, str(int(time.time())))
    with capsys.disabled():
        sys.stdout.write("\n".join(["", *map(str, facts), ""]))
