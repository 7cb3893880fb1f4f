"""Pushes to a Kaggle that shows things late, in part, or answers that it is busy."""

import dataclasses
import threading
from pathlib import Path

import pytest

from offline_kit.core.errors import OutsideError
from offline_kit.kaggle.client.api_types import NotebookSources
from offline_kit.kaggle.client.client import KaggleClient
from offline_kit.kaggle.push import push_parts as pushing
from offline_kit.kaggle.push.kit_parts import find_missing_parts
from offline_kit.kaggle.push.part_targets import OvertakenError, PartPlan, PushAction
from offline_kit.kaggle.push.push_parts import PushOptions
from offline_kit.kaggle.push.verify_remote import verify_kit
from offline_kit.local_kaggle.faults import Fault
from offline_kit.local_kaggle.server import TrafficEvent
from offline_kit.project.kaggle_names import MARKER
from tests.support.local_kaggle import HASTY, Bench, serving
from tests.support.pushing import (
    BRISK,
    EAGER,
    FILES,
    PushSettings,
    access,
    client,
    datasets,
    make_kit,
    pushed,
    ways,
)

REF = "alice/plant-kit"
SHORT = dataclasses.replace(EAGER, visibility_timeout=0.4)
ONLY_MARKER = {"datasetFiles": [{"name": MARKER, "totalBytes": 10}]}


def versions(bench: Bench) -> list[int]:
    """Return the numbers of all versions that the server made."""
    return list(map(int, bench.kaggle.store.key_names("datasets", *REF.split("/"), "versions")))


def test_a_version_that_lost_a_file_on_kaggle_is_told_each_time(
    bench: Bench, alice: KaggleClient, tmp_path: Path
) -> None:
    """The marker is there and a file is not: an error that names it, again at the next push; --resend mends it."""
    kit = make_kit(tmp_path / "kit")
    for listing in ("ListDatasetFiles", "ListTreeDatasetFiles"):
        bench.kaggle.faults.add_fault(Fault(on=listing, answer=ONLY_MARKER, times=0))
    for _ in range(2):
        with pytest.raises(OutsideError, match="not all of its files") as caught:
            pushing.push_kit(kit, datasets(kit), access(alice, ways(bench, SHORT)))
        assert "'packages/a.whl' is missing" in caught.value.details
        assert "--resend" in caught.value.hint
    assert versions(bench) == [1]


def test_a_damaged_version_is_sent_once_more_when_asked(
    bench: Bench, alice: KaggleClient, tmp_path: Path
) -> None:
    """What the first push could not see whole, the same command with --resend makes a second version of."""
    kit = make_kit(tmp_path / "kit")
    for listing in ("ListDatasetFiles", "ListTreeDatasetFiles"):
        bench.kaggle.faults.add_fault(Fault(on=listing, answer=ONLY_MARKER, times=0))
    with pytest.raises(OutsideError, match="not all of its files"):
        pushing.push_kit(kit, datasets(kit), access(alice, ways(bench, SHORT)))
    bench.kaggle.faults.clear_faults()
    (done,) = pushed(bench, kit, alice, PushOptions(resend=True))
    assert (done.version, done.action) == (2, PushAction.VERSION)


@pytest.mark.parametrize("status", [404, 429])
@pytest.mark.parametrize("method", ["DownloadDataset", "ListDatasetFiles", "GetDatasetStatus"])
def test_a_fresh_version_may_be_hidden_or_unanswered_for_a_while(
    bench: Bench, alice: KaggleClient, tmp_path: Path, method: str, status: int
) -> None:
    """Longer than a single question is asked again: the push waits, then ends as if nothing had been."""
    planning = 1 if method == "GetDatasetStatus" else 0  # asked once whether there is such a dataset
    bench.kaggle.faults.add_fault(
        Fault(on=method, after=planning, status=status, times=6, message="Not found")
    )
    (done,) = pushed(bench, make_kit(tmp_path / "kit"), alice)
    assert (done.version, versions(bench)) == (1, [1])


def test_a_dataset_that_is_there_may_be_hidden_for_a_while_too(
    bench: Bench, alice: KaggleClient, tmp_path: Path
) -> None:
    """The look before a push waits likewise, and finds that nothing is to be done."""
    kit = make_kit(tmp_path / "kit")
    pushed(bench, kit, alice)
    for method in ("DownloadDataset", "GetDatasetStatus"):
        bench.kaggle.faults.add_fault(Fault(on=method, status=404, times=3))
    (again,) = pushed(bench, kit, alice)
    assert again.action is PushAction.NOTHING


def test_an_answer_that_is_lost_is_not_given_up_in_the_dark(
    bench: Bench, alice: KaggleClient, tmp_path: Path
) -> None:
    """While nobody can look whether it happened, it is not called lost; the next push finds it and sends nothing."""
    kit = make_kit(tmp_path / "kit")
    bench.kaggle.faults.add_fault(Fault(on="CreateDataset", lose_answer=True))
    bench.kaggle.faults.add_fault(Fault(on="GetDataset", after=1, times=0, status=503))
    with pytest.raises(OutsideError):
        pushing.push_kit(kit, datasets(kit), access(alice, ways(bench, SHORT)))
    bench.kaggle.faults.clear_faults()
    sent = bench.traffic.uploaded_bytes()
    (done,) = pushed(bench, kit, alice)
    assert (done.action, versions(bench)) == (PushAction.NOTHING, [1])
    assert bench.traffic.uploaded_bytes() == sent


def test_what_a_cut_run_sent_may_be_listed_late(bench: Bench, alice: KaggleClient, tmp_path: Path) -> None:
    """The next run waits for the listing within the grace before it calls the version damaged."""
    kit = make_kit(tmp_path / "kit")
    bench.kaggle.faults.add_fault(Fault(on="ListDatasetFiles", status=401, times=2))
    with pytest.raises(OutsideError):
        pushed(bench, kit, alice)
    bench.kaggle.faults.clear_faults()
    bench.kaggle.faults.add_fault(Fault(on="ListDatasetFiles", answer=ONLY_MARKER, times=3))
    bench.kaggle.faults.add_fault(Fault(on="ListTreeDatasetFiles", answer=ONLY_MARKER, times=3))
    (done,) = pushed(bench, kit, alice)
    assert (done.action, done.version) == (PushAction.NOTHING, 1)


def test_what_kaggle_took_and_shows_late_is_not_sent_twice(tmp_path: Path) -> None:
    """Longer than the grace after its yes: the next run tells so, and the one after finds it."""
    kit = make_kit(tmp_path / "kit")
    with serving(tmp_path, dataclasses.replace(HASTY, visible_after=3.0)) as bench, client(bench) as alice:
        impatient = ways(bench, dataclasses.replace(SHORT, visibility_timeout=0.2, processing_timeout=0.2))
        with pytest.raises(OutsideError):
            pushing.push_kit(kit, datasets(kit), access(alice, impatient))
        with pytest.raises(OutsideError, match="accepted the push of 'alice/plant-kit'") as caught:
            pushing.push_kit(
                kit,
                datasets(kit),
                access(alice, ways(bench, dataclasses.replace(SHORT, visibility_timeout=0.2))),
            )
        assert caught.value.exit_code == 4
        assert pushing.push_kit(
            kit, datasets(kit), access(alice, ways(bench, dataclasses.replace(EAGER, visibility_timeout=9)))
        )
        assert versions(bench) == [1]


def test_a_push_that_is_overtaken_says_so_and_stops(
    bench: Bench, alice: KaggleClient, tmp_path: Path
) -> None:
    """Two machines push one dataset at once: who came last is current, the other one does not wait for ever."""
    pushed(bench, make_kit(tmp_path / "first"), alice)
    kits = [make_kit(tmp_path / name, {**FILES, "packages/a.whl": name.encode()}) for name in ("one", "two")]
    there = PushSettings(state_folder=bench.folder / "another-machine", poll_policy=EAGER, retry_policy=BRISK)
    done: list[PartPlan] = []
    once = threading.Lock()

    def overtake(event: TrafficEvent) -> None:
        """Let the other push come to its end before the first one hears of its version."""
        if event.phase == "done" and event.name.endswith("/CreateDatasetVersion") and once.acquire(False):
            with client(bench) as other:
                done.extend(pushing.push_kit(kits[1], datasets(kits[1]), access(other, there)))

    bench.traffic.listeners.append(overtake)
    with pytest.raises(OvertakenError) as caught:
        pushed(bench, kits[0], alice)
    assert caught.value.exit_code == 4
    assert [part.version for part in done] == [3]
    (mine,) = pushed(bench, kits[0], alice)
    assert (mine.version, mine.action) == (4, PushAction.VERSION), "asked again, it is the last one"


def test_tokens_that_kaggle_refuses_are_not_used_again(
    bench: Bench, alice: KaggleClient, tmp_path: Path
) -> None:
    """The next run sends the files again; after another refusal it does not."""
    kit = make_kit(tmp_path / "kit")
    refusals = ("Title is too short", "Blob token is invalid")
    for message in refusals:
        bench.kaggle.faults.add_fault(Fault(on="CreateDataset", status=400, message=message))
    sent = []
    for message in refusals:
        with pytest.raises(OutsideError, match=message) as caught:
            pushed(bench, kit, alice)
        sent.append(len(bench.traffic.ended_requests("/StartBlobUpload")))
    assert "uploads the files again" in caught.value.hint
    assert sent[0] == sent[1]
    assert pushed(bench, kit, alice)[0].version == 1
    assert len(bench.traffic.ended_requests("/StartBlobUpload")) == 2 * sent[0]


def test_a_dataset_whose_first_version_failed_gets_a_second(tmp_path: Path) -> None:
    """Also where it has no number then: the failure is told at once, and the next push adds a version."""
    kit = make_kit(tmp_path / "kit")
    with serving(tmp_path, dataclasses.replace(HASTY, numbers_failed=False)) as bench, client(bench) as alice:
        bench.kaggle.faults.add_fault(Fault(on="CreateDataset", stuck="FAILED"))
        bench.kaggle.faults.add_fault(Fault(on="CreateDatasetVersion", stuck="FAILED"))
        with pytest.raises(OutsideError, match="could not process version 1"):
            pushed(bench, kit, alice)
        (problem,) = verify_kit(kit, datasets(kit), access(alice, ways(bench))).problems
        assert "its first version is not ready on Kaggle: 'failed'" in problem.what
        with pytest.raises(OutsideError, match="could not process"):
            pushing.push_kit(kit, datasets(kit), access(alice, ways(bench, SHORT)))
        (done,) = pushed(bench, kit, alice)
        assert (done.version, done.action) == (3, PushAction.VERSION)


def test_a_lost_answer_about_a_version_that_fails(tmp_path: Path) -> None:
    """The dataset is there without a number: it is not created twice."""
    kit = make_kit(tmp_path / "kit")
    with serving(tmp_path, dataclasses.replace(HASTY, numbers_failed=False)) as bench, client(bench) as alice:
        bench.kaggle.faults.add_fault(Fault(on="CreateDataset", stuck="FAILED", lose_answer=True))
        with pytest.raises(OutsideError, match="could not process version 1"):
            pushed(bench, kit, alice)
        assert pushed(bench, kit, alice)[0].version == 2
        assert len(bench.traffic.ended_requests("/CreateDataset")) == 1


def test_uploads_outlast_a_kaggle_that_asks_to_slow_down(
    bench: Bench, alice: KaggleClient, tmp_path: Path
) -> None:
    """429 without a time, more often than other trouble is borne: each file is sent once in the end."""
    kit = make_kit(tmp_path / "kit", {"packages/a.whl": b"a"})
    bench.kaggle.faults.add_fault(Fault(on="StartBlobUpload", status=429, times=11))
    (done,) = pushed(bench, kit, alice)
    assert done.version == 1
    assert len(bench.traffic.ended_requests("/StartBlobUpload")) == 2 + 11


def test_a_kaggle_that_never_stops_refusing_ends_all_uploads(
    bench: Bench, alice: KaggleClient, tmp_path: Path
) -> None:
    """One of them gives up, and the others do not begin to wait as long after it."""
    kit = make_kit(tmp_path / "kit", {f"packages/{n}.whl": b"%d" % n for n in range(30)})
    bench.kaggle.faults.add_fault(
        Fault(on="StartBlobUpload", status=429, times=0, message="Too many requests")
    )
    alice.fetch_account()
    with pytest.raises(OutsideError, match="Too many requests"):
        pushed(bench, kit, alice)
    assert len(bench.traffic.ended_requests("/StartBlobUpload")) < 16 + 13 + 16


def test_files_below_folders_may_be_missing_in_the_listing(
    bench: Bench, alice: KaggleClient, tmp_path: Path
) -> None:
    """Each folder is asked for then, at the push, before the next one, and where the kit is verified."""
    kit = make_kit(tmp_path / "kit", {**FILES, "checkpoints/fold/0/model.ckpt": b"0"})
    bench.kaggle.faults.add_fault(Fault(on="ListDatasetFiles", answer=ONLY_MARKER, times=0))
    (done,) = pushed(bench, kit, alice)
    (again,) = pushed(bench, kit, alice)
    assert (done.version, again.action) == (1, PushAction.NOTHING)
    listed = alice.list_dataset_files(REF, 1, by_folder=True)
    assert listed.pop(MARKER)
    assert listed == {entry.stored: entry.size for entry in kit.parts[0].entries}


def test_a_listing_by_folder_that_kaggle_refuses_is_done_without(
    bench: Bench, alice: KaggleClient, tmp_path: Path
) -> None:
    """The error is about the files that are missing, not about that question."""
    bench.kaggle.faults.add_fault(Fault(on="ListDatasetFiles", answer=ONLY_MARKER, times=0))
    bench.kaggle.faults.add_fault(Fault(on="ListTreeDatasetFiles", status=400, times=0))
    with pytest.raises(OutsideError, match="not all of its files"):
        pushing.push_kit(kit := make_kit(tmp_path / "kit"), datasets(kit), access(alice, ways(bench, SHORT)))


def test_one_part_alone_is_sent_again(bench: Bench, alice: KaggleClient, tmp_path: Path) -> None:
    """A damaged part does not cost the bytes of the others."""
    kit = make_kit(tmp_path / "kit", split=True)
    pushed(bench, kit, alice)
    sent = bench.traffic.uploaded_bytes()
    done = pushed(bench, kit, alice, PushOptions(resend_part=("packages",)))
    assert [each.action for each in done] == [PushAction.NOTHING, PushAction.VERSION]
    assert bench.traffic.uploaded_bytes() - sent < 300_000


def test_a_kaggle_in_trouble_does_not_say_that_another_ones_dataset_lacks_a_part(
    bench: Bench, alice: KaggleClient
) -> None:
    """Whether a team mate's dataset holds it is not known then; where it is hidden from us, it does not."""
    wanted, sources = {"kit": "a" * 64}, NotebookSources(datasets=("bob/plant-kit",))
    assert find_missing_parts(wanted, sources, access(alice, ways(bench, SHORT))) == wanted
    bench.kaggle.faults.add_fault(Fault(on="ListDatasetFiles", status=503, message="down", times=0))
    with pytest.raises(OutsideError, match="down"):
        find_missing_parts(wanted, sources, access(alice, ways(bench, SHORT)))
