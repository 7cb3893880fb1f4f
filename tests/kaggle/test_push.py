"""Pushing a kit's data to the local Kaggle."""

import dataclasses
import itertools
import signal
import threading
import time
from pathlib import Path

import pytest

from offline_kit.core.errors import OutsideError, ProjectError, UsageError
from offline_kit.core.files import format_size
from offline_kit.kaggle.client.api_types import Account, RefusedError
from offline_kit.kaggle.client.client import KaggleClient
from offline_kit.kaggle.push import push_parts as pushing
from offline_kit.kaggle.push.journal import Effect, Phase
from offline_kit.kaggle.push.kit_parts import RemotePartState, find_differences
from offline_kit.kaggle.push.part_targets import PushAction
from offline_kit.kaggle.push.push_parts import (
    PushOptions,
    find_foreign_files,
    plan_parts,
    resolve_locations,
)
from offline_kit.kit import manifest
from offline_kit.local_kaggle.faults import Fault
from offline_kit.local_kaggle.server import TrafficEvent
from offline_kit.project.kaggle_names import MARKER
from offline_kit.project.types import KitPart, Role
from tests.support.local_kaggle import HASTY, Bench, serving
from tests.support.pushing import (
    EAGER,
    FILES,
    access,
    client,
    content,
    datasets,
    make_kit,
    planned,
    push_elsewhere,
    pushed,
    ways,
)

ALICE = Account(username="alice", auth_method="LEGACY_API_KEY")
REF = "alice/plant-kit"


def versions(bench: Bench, ref: str = REF) -> list[int]:
    """Return the numbers of all versions that the server made."""
    return list(map(int, bench.kaggle.store.key_names("datasets", *ref.split("/"), "versions")))


def listed(part: KitPart) -> dict[str, int]:
    """Return how Kaggle lists the files of a part."""
    return {entry.stored: entry.size for entry in part.entries}


# ------------------------------------------------------------------ the plan


def test_what_kaggle_has_already_is_not_sent(tmp_path: Path) -> None:
    """The same part id means nothing to do; another one a version; no dataset a creation."""
    kit = make_kit(tmp_path / "kit", split=True)
    same, other = kit.parts
    remotes = {
        same.name: RemotePartState(ref="a/one", version=4, state="ready", part=same, files=listed(same)),
        other.name: RemotePartState(ref="a/two-kit", version=0),
    }
    plan = plan_parts(kit, remotes, PushOptions())
    assert [part.action for part in plan] == [PushAction.NOTHING, PushAction.CREATE]
    assert sum(part.upload_size for part in plan) == sum(entry.size for entry in other.entries)
    old = dataclasses.replace(other, id="0" * 64)
    remotes[other.name] = RemotePartState(ref="a/two-kit", version=2, state="ready", part=old)
    assert plan_parts(kit, remotes, PushOptions())[1].action is PushAction.VERSION
    remotes[other.name] = RemotePartState(ref="a/two-kit", version=2, state="failed")
    assert "failed" in plan_parts(kit, remotes, PushOptions())[1].reason


def test_what_an_update_of_the_tool_costs_is_said_before(tmp_path: Path) -> None:
    """Its runtime is a file of the kit, and one dataset is sent whole; another change needs no such remark."""
    kit = make_kit(tmp_path / "kit")
    (part,) = kit.parts
    runtime = dataclasses.replace(part.entries[0], role=Role.RUNTIME, original="r.py", stored="r.py")
    new = manifest.make_part("kit", [*part.entries, runtime])
    updated = manifest.make_part("kit", [*part.entries, dataclasses.replace(runtime, sha256="0" * 64)])
    extended = manifest.make_part(
        "kit", [*updated.entries, dataclasses.replace(part.entries[0], original="new")]
    )
    warnings = []
    for after in (updated, extended):
        remote = RemotePartState(ref=REF, version=1, state="ready", part=new, files=listed(new))
        (plan,) = plan_parts(dataclasses.replace(kit, parts=(after,)), {"kit": remote}, PushOptions())
        warnings.append([format_size(plan.upload_size) in line for line in plan.warnings])
    assert warnings == [[True], []]


def test_files_that_we_did_not_put_there_are_not_dropped(tmp_path: Path) -> None:
    """A version replaces everything: foreign files stop the push unless they may go, ours go silently."""
    old = make_kit(tmp_path / "old", {**FILES, "packages/gone.whl": b"g"})
    kit = make_kit(tmp_path / "new")
    names = [*(entry.stored for entry in old.parts[0].entries), MARKER]
    files = dict.fromkeys(names, 1)
    remote = RemotePartState(ref=REF, version=1, state="ready", part=old.parts[0], files=files)
    assert plan_parts(kit, {"kit": remote}, PushOptions())[0].dropped_files == ("packages/gone.whl",)
    remote = dataclasses.replace(remote, files={**files, "my/notes.txt": 3})
    with pytest.raises(ProjectError, match="did not upload") as caught:
        plan_parts(kit, {"kit": remote}, PushOptions())
    assert caught.value.details == ("my/notes.txt",)
    plan = plan_parts(kit, {"kit": remote}, PushOptions(drop_foreign=True))
    assert plan[0].dropped_files == ("my/notes.txt", "packages/gone.whl")


def test_listings_by_bare_name_are_understood(tmp_path: Path) -> None:
    """A listing without folders is no sign of foreign or missing files, as long as names are unique."""
    kit = make_kit(tmp_path, {**FILES, "packages/twin.bin": b"1", "checkpoints/twin.bin": b"2"})
    (part,) = kit.parts
    bare = {e.stored.rpartition("/")[2]: e.size for e in part.entries}
    remote = RemotePartState(ref=REF, version=1, state="ready", part=part, files=bare)
    assert find_foreign_files(part, remote) == ("twin.bin",)
    unique = {name: size for name, size in bare.items() if name != "twin.bin"}
    assert find_foreign_files(part, dataclasses.replace(remote, files=unique)) == ()
    assert find_differences(part, unique) == (
        "'checkpoints/twin.bin' is missing",
        "'packages/twin.bin' is missing",
    )


def test_a_public_dataset_gets_no_kit(tmp_path: Path) -> None:
    """What the user's account shows to everybody is no place for a kit, unless it is meant."""
    kit = make_kit(tmp_path)
    remote = RemotePartState(ref=REF, version=1, state="ready", private=False)
    with pytest.raises(ProjectError, match="public"):
        plan_parts(kit, {"kit": remote}, PushOptions())
    assert plan_parts(kit, {"kit": remote}, PushOptions(public=True))[0].action is PushAction.VERSION


def test_all_problems_come_at_once(tmp_path: Path) -> None:
    """Two parts with a problem each make one error that tells both."""
    kit = make_kit(tmp_path, split=True)
    file = {"x": 1}
    remotes = {
        part.name: RemotePartState(ref=f"a/{part.name}", version=1, state="ready", files=file)
        for part in kit.parts
    }
    with pytest.raises(ProjectError, match="2 problems") as caught:
        plan_parts(kit, remotes, PushOptions())
    assert [line for line in caught.value.details if "a/" in line] != []


def test_datasets_belong_to_the_account() -> None:
    """A bare slug is the account's; somebody else's dataset is an error before anything is sent."""
    assert resolve_locations({"kit": "plant-kit"}, ALICE) == {"kit": "alice/plant-kit"}
    assert resolve_locations({"kit": "Alice/plant-kit"}, ALICE) == {"kit": "Alice/plant-kit"}
    with pytest.raises(UsageError, match=r"belongs to 'bob', and these credentials to 'alice'"):
        resolve_locations({"kit": "bob/plant-kit"}, ALICE)
    with pytest.raises(UsageError, match="2 problems"):
        resolve_locations({"kit": "x", "more": "Bad_Slug"}, ALICE)


# ------------------------------------------------------------------ the push


def test_a_push_creates_privately_waits_and_repeats_nothing(
    bench: Bench, alice: KaggleClient, tmp_path: Path
) -> None:
    """First a private dataset with its folders; at once again, not a byte and no second version."""
    kit = make_kit(tmp_path / "kit")
    (done,) = pushed(bench, kit, alice)
    assert (done.ref, done.version, done.action) == (REF, 1, PushAction.CREATE)
    there = content(bench)
    assert there.pop(MARKER) == (kit.folder / "dataset" / MARKER).read_bytes()
    assert there == FILES
    found = alice.get_dataset(REF)
    assert found is not None
    assert found.private
    sent = bench.traffic.uploaded_bytes()
    (again,) = pushed(bench, kit, alice)
    assert (again.version, again.action) == (1, PushAction.NOTHING)
    assert bench.traffic.uploaded_bytes() == sent
    assert versions(bench) == [1]


def test_only_the_changed_part_travels(bench: Bench, alice: KaggleClient, tmp_path: Path) -> None:
    """With split parts a new checkpoint costs the checkpoint's bytes and its marker alone."""
    pushed(bench, make_kit(tmp_path / "kit", split=True), alice)
    sent = bench.traffic.uploaded_bytes()
    kit = make_kit(tmp_path / "kit", {**FILES, "checkpoints/model.ckpt": b"v" * 300_000}, split=True)
    done = pushed(bench, kit, alice)
    assert [each.action for each in done] == [PushAction.VERSION, PushAction.NOTHING]
    marker = (kit.folder / "dataset" / "checkpoints" / MARKER).stat().st_size
    assert bench.traffic.uploaded_bytes() - sent == 300_000 + marker
    assert content(bench, "alice/plant-kit-checkpoints")["checkpoints/model.ckpt"] == b"v" * 300_000


def test_a_new_version_says_what_it_is(bench: Bench, alice: KaggleClient, tmp_path: Path) -> None:
    """Version notes hold the ids, what changed, and what the last rehearsal proved."""
    pushed(bench, make_kit(tmp_path / "kit"), alice)
    kit = make_kit(tmp_path / "kit", {**FILES, "packages/b.whl": b"b"})
    pushed(bench, kit, alice)
    found = alice.get_dataset(REF)
    assert found is not None
    assert kit.parts[0].id in found.version_notes[2]
    assert "1 files added, 0 changed, 0 removed; not rehearsed" in found.version_notes[2]


def test_the_push_ends_when_the_new_version_is_there(tmp_path: Path) -> None:
    """The old version says READY for a while; the push returns when a download shows the new kit."""
    slow = dataclasses.replace(HASTY, visible_after=0.6, processing=0.8)
    with serving(tmp_path, slow) as bench, client(bench) as alice:
        pushed(bench, make_kit(tmp_path / "kit"), alice)
        kit = make_kit(tmp_path / "kit", {**FILES, "packages/a.whl": b"new"})
        began = time.monotonic()
        (done,) = pushed(bench, kit, alice)
        assert done.version == 2
        assert time.monotonic() - began >= 1.3
        assert content(bench)["packages/a.whl"] == b"new"


@pytest.mark.parametrize("method", ["CreateDataset", "CreateDatasetVersion"])
@pytest.mark.parametrize("fault", ["lost", "500 after nothing"])
def test_an_answer_that_is_lost_makes_nothing_twice(
    bench: Bench, alice: KaggleClient, tmp_path: Path, method: str, fault: str
) -> None:
    """The effect is recognised where it happened; where it did not, the same push afterwards succeeds."""
    kit, before = make_kit(tmp_path / "kit"), 0
    if method == "CreateDatasetVersion":
        pushed(bench, kit, alice)
        kit, before = make_kit(tmp_path / "kit", {**FILES, "packages/a.whl": b"new"}), 1
    happened = fault == "lost"
    bench.kaggle.faults.add_fault(
        Fault(on=method, lose_answer=True) if happened else Fault(on=method, status=500)
    )
    if happened:
        pushed(bench, kit, alice)
    else:
        with pytest.raises(RefusedError, match="Injected"):
            pushed(bench, kit, alice)
        sent = bench.traffic.uploaded_bytes()
        pushed(bench, kit, alice)
        assert bench.traffic.uploaded_bytes() == sent, "what had arrived was sent again"
    assert versions(bench) == [*range(1, before + 2)]
    assert content(bench)["packages/a.whl"] == (kit.folder / "dataset/packages/a.whl").read_bytes()


def test_a_failed_processing_is_told_and_mended_by_the_next_push(
    bench: Bench, alice: KaggleClient, tmp_path: Path
) -> None:
    """FAILED has no reason in the API: the usual causes and the page are named; a new version mends it."""
    kit = make_kit(tmp_path / "kit")
    bench.kaggle.faults.add_fault(Fault(on="CreateDataset", stuck="FAILED"))
    with pytest.raises(OutsideError, match="could not process version 1") as caught:
        pushed(bench, kit, alice)
    assert f"{bench.server.url}/datasets/" in caught.value.hint
    (done,) = pushed(bench, kit, alice)
    assert done.version == 2


def test_stuck_processing_ends_at_the_deadline_and_is_waited_for_again(
    bench: Bench, alice: KaggleClient, tmp_path: Path
) -> None:
    """Patience ends with exit 4, and neither run sends a second version."""
    kit = make_kit(tmp_path / "kit")
    bench.kaggle.faults.add_fault(Fault(on="CreateDataset", stuck="BLOBS_RECEIVED"))
    short = dataclasses.replace(EAGER, processing_timeout=0.5)
    for _ in range(2):
        with pytest.raises(OutsideError, match=r"not ready in time.*blobsreceived"):
            pushing.push_kit(kit, datasets(kit), access(alice, ways(bench, short)))
    assert versions(bench) == [1]


def test_other_words_for_the_state_are_understood_or_waited_for(
    bench: Bench, alice: KaggleClient, tmp_path: Path
) -> None:
    """The name of its kind in front does not matter, and a word that is new is no end."""
    bench.kaggle.faults.add_fault(Fault(on="GetDatasetStatus", words="NOT_QUITE_READY", times=3))
    bench.kaggle.faults.add_fault(Fault(on="GetDatasetStatus", words="DATABUNDLE_VERSION_STATUS_{}", times=0))
    (done,) = pushed(bench, make_kit(tmp_path / "kit"), alice)
    assert done.version == 1
    (again,) = pushed(bench, make_kit(tmp_path / "kit"), alice)
    assert again.action is PushAction.NOTHING


def test_a_failed_upload_makes_no_version(bench: Bench, alice: KaggleClient, tmp_path: Path) -> None:
    """One file that Kaggle refuses: the cause is told, nothing is created, the same push then succeeds."""
    kit = make_kit(tmp_path / "kit")
    bench.kaggle.faults.add_fault(Fault(on="PUT", status=403))
    with pytest.raises(OutsideError, match="refused"):
        pushed(bench, kit, alice)
    assert versions(bench) == []
    assert not bench.traffic.ended_requests("/CreateDataset")
    pushed(bench, kit, alice)
    assert versions(bench) == [1]


@pytest.mark.parametrize("status", [401, 429, 500])
def test_only_403_and_404_mean_absent(bench: Bench, alice: KaggleClient, tmp_path: Path, status: int) -> None:
    """The client takes any refusal for 'no such dataset' and uploads all in vain; we stop at once."""
    bench.kaggle.faults.add_fault(Fault(on="GetDataset", status=status, times=0))
    with pytest.raises(OutsideError):
        pushed(bench, make_kit(tmp_path / "kit"), alice)
    assert not bench.traffic.ended_requests("/StartBlobUpload")


def test_many_small_files_go_side_by_side(bench: Bench, alice: KaggleClient, tmp_path: Path) -> None:
    """Each request takes 100 ms; others are on their way meanwhile."""
    kit = make_kit(tmp_path / "kit", {f"packages/{n}.whl": b"%d" % n for n in range(40)})
    alice.fetch_account()
    for name in ("StartBlobUpload", "PUT"):
        bench.kaggle.faults.add_fault(Fault(on=name, delay=0.1, times=0))
    phases: list[int] = []
    bench.traffic.listeners.append(
        lambda event: phases.append(
            {"begun": 1, "ended": -1}.get(event.phase, 0) if event.name == "PUT" else 0
        )
    )
    pushed(bench, kit, alice)
    assert max(itertools.accumulate(phases)) > 2


def test_a_kit_that_is_not_whole_is_not_sent(bench: Bench, alice: KaggleClient, tmp_path: Path) -> None:
    """A file that is missing or was changed after the build stops the push before any version."""
    kit = make_kit(tmp_path / "kit")
    (kit.folder / "dataset/packages/a.whl").write_bytes(b"A wheel")
    with pytest.raises(ProjectError, match="manifest"):
        pushed(bench, kit, alice)
    (kit.folder / "dataset/packages/a.whl").unlink()
    with pytest.raises(ProjectError, match="incomplete"):
        pushed(bench, kit, alice)
    assert versions(bench) == []


def test_the_state_of_a_dry_run_is_nothing(bench: Bench, alice: KaggleClient, tmp_path: Path) -> None:
    """A plan sends nothing and makes nothing."""
    plan = planned(bench, make_kit(tmp_path / "kit"), alice)
    assert [part.action for part in plan] == [PushAction.CREATE]
    assert sum(part.upload_size for part in plan) == sum(map(len, FILES.values()))
    assert {event.name.rpartition("/")[2] for event in bench.traffic.ended_requests()} <= {
        "GetDataset",
        "GetDatasetStatus",
    }


def test_an_effect_that_never_showed_is_given_up(bench: Bench, alice: KaggleClient, tmp_path: Path) -> None:
    """A journal that a killed run left open is settled by looking, and then the push goes its way."""
    kit = make_kit(tmp_path / "kit")
    journal = ways(bench).effect_journal
    journal.append_entry(Effect(action="create", target=REF, before=0, content=kit.parts[0].id), Phase.BEGUN)
    pushed(bench, kit, alice)
    assert versions(bench) == [1]
    assert [entry.phase for entry in journal.read_entries()] == [
        Phase.BEGUN,
        Phase.LOST,
        Phase.BEGUN,
        Phase.ANSWERED,
        Phase.DONE,
    ]


POINTS = {
    "before the first blob": ("begun", "/StartBlobUpload"),
    "in the middle of a blob": ("bytes", "PUT"),
    "between blobs": ("ended", "PUT"),
    "before the effect": ("begun", "/CreateDatasetVersion"),
    "after the effect, before its answer": ("done", "/CreateDatasetVersion"),
    "after the answer": ("ended", "/CreateDatasetVersion"),
    "while it is processed": ("begun", "/GetDatasetStatus"),
}


@pytest.mark.parametrize(
    "point",
    [
        pytest.param(name, marks=() if name.startswith("after the effect") else pytest.mark.slow)
        for name in POINTS
    ],
)
@pytest.mark.parametrize("rebuilt", [False, True], ids=["same kit", "rebuilt"])
def test_killed_anywhere_the_next_push_ends_with_one_new_version(
    bench: Bench, alice: KaggleClient, tmp_path: Path, point: str, rebuilt: bool
) -> None:
    """SIGKILL, then the same command: one new version in all; after a rebuild of equal size, the new bytes."""
    pushed(bench, make_kit(tmp_path / "kit"), alice)
    big = b"1" * 3_000_000
    kit = make_kit(tmp_path / "kit", {**FILES, "checkpoints/model.ckpt": big})
    phase, name = POINTS[point]
    sent = threading.Event()
    hit = threading.Event()

    def watch(event: TrafficEvent) -> None:
        if event.name.endswith("/CreateDatasetVersion"):
            sent.set()
        late_enough = sent.is_set() or "processed" not in point
        if event.phase == phase and event.name.endswith(name) and late_enough and not hit.is_set():
            process.send_signal(signal.SIGKILL)
            hit.set()
            time.sleep(0.3)

    process = push_elsewhere(bench, kit)
    bench.traffic.listeners.append(watch)
    process.wait(60)
    assert hit.is_set()
    time.sleep(0.6)  # what the server has in hand by now may still have its effect
    before = len(versions(bench))
    if rebuilt:
        big = b"2" * len(big)
        kit = make_kit(tmp_path / "kit", {**FILES, "checkpoints/model.ckpt": big})
    pushed(bench, kit, alice)
    pushed(bench, kit, alice)
    assert content(bench)["checkpoints/model.ckpt"] == big
    assert len(versions(bench)) == (before + 1 if rebuilt else 2)
