"""Pushes to a Kaggle that shows things late, in part, or answers that it is busy."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
from local_kaggle_case import HASTY, Bench, serving
from push_case import EAGER, client, datasets, make_kit, pushed, ways

from offline_kit.errors import OutsideError
from offline_kit.kaggle_gateway.client import Client
from offline_kit.kaggle_names import MARKER
from offline_kit.local_kaggle.faults import Fault
from offline_kit.push import datasets as pushing
from offline_kit.push.dataset_plan import Action, Wishes

REF = "alice/plant-kit"
SHORT = dataclasses.replace(EAGER, grace=0.4)
ONLY_MARKER = {"datasetFiles": [{"name": MARKER, "totalBytes": 10}]}


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """A local Kaggle that is quick."""
    with serving(tmp_path, HASTY) as running:
        yield running


@pytest.fixture
def alice(bench: Bench) -> Iterator[Client]:
    """Alice's client."""
    with client(bench) as mine:
        yield mine


def versions(bench: Bench) -> list[int]:
    """Return the numbers of all versions that the server made."""
    return bench.kaggle.datasets.versions.numbers(("datasets", *REF.split("/")))


def test_a_version_that_lost_a_file_on_kaggle_is_told_each_time(
    bench: Bench, alice: Client, tmp_path: Path
) -> None:
    """The marker is there and a file is not: an error that names it, again at the next push; --resend mends it."""
    kit = make_kit(tmp_path / "kit")
    bench.kaggle.faults.add(Fault(on="ListDatasetFiles", answer=ONLY_MARKER, times=0))
    for _ in range(2):
        with pytest.raises(OutsideError, match="not all of its files") as caught:
            pushing.push(kit, datasets(kit), alice, ways(bench, SHORT))
        assert "'packages/a.whl' is missing" in caught.value.details
        assert "--resend" in caught.value.hint
    assert versions(bench) == [1]


def test_a_damaged_version_is_sent_once_more_when_asked(bench: Bench, alice: Client, tmp_path: Path) -> None:
    """What the first push could not see whole, the same command with --resend makes a second version of."""
    kit = make_kit(tmp_path / "kit")
    bench.kaggle.faults.add(Fault(on="ListDatasetFiles", answer=ONLY_MARKER, times=0))
    with pytest.raises(OutsideError, match="not all of its files"):
        pushing.push(kit, datasets(kit), alice, ways(bench, SHORT))
    bench.kaggle.faults.clear()
    (done,) = pushed(bench, kit, alice, Wishes(resend=True))
    assert (done.version, done.action) == (2, Action.VERSION)
