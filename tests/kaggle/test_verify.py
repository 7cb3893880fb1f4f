"""`offline-kit verify`: what is on Kaggle against the kit on this disk."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from offline_kit.core.errors import OutsideError
from offline_kit.core.files import sha256_of
from offline_kit.kaggle.client.client import KaggleClient
from offline_kit.kaggle.push import notebook_runs, push_notebook
from offline_kit.kaggle.push.push_parts import PushOptions
from offline_kit.kaggle.push.verify_remote import Verification, verify_kit
from offline_kit.local_kaggle.faults import Fault
from offline_kit.local_kaggle.server import TrafficEvent
from offline_kit.notebook.runtime.kit_report import REPORT
from offline_kit.project.kaggle_names import MARKER
from offline_kit.project.types import Kit
from tests.support.command_line import offline_kit
from tests.support.local_kaggle import Bench, notebook
from tests.support.notebooks import WRITES, written
from tests.support.push_command import hasty_client
from tests.support.pushing import (
    EAGER,
    FILES,
    PushSettings,
    access,
    client,
    content,
    datasets,
    make_kit,
    pushed,
    ways,
)

REF = "alice/plant-kit"


def verified(kit: Kit, kaggle: KaggleClient, *, deep: bool = False) -> Verification:
    """Compare a kit with the datasets that it was pushed to."""
    settings = PushSettings(state_folder=kit.folder.parent, poll_policy=EAGER)
    return verify_kit(kit, datasets(kit), access(kaggle, settings), deep=deep)


def whats(found: Verification) -> list[str]:
    """Return what differs."""
    return [problem.what for problem in found.problems]


def there(bench: Bench, ref: str = REF) -> Path:
    """Return the server's folder with the files of the newest READY version."""
    found = bench.kaggle.datasets.mounted_version(ref, ref.partition("/")[0])
    assert found is not None
    return found[-1]


def change(path: Path, data: bytes) -> None:
    """Put other bytes into a file at the server, not into those that are linked to it."""
    path.unlink()
    path.write_bytes(data)


def beside(kit: Kit) -> set[str]:
    """Return what lies beside the kit, but locks."""
    return {path.name for path in kit.folder.parent.iterdir() if path.suffix != ".lock"}


# ------------------------------------------------------------------ what agrees


@pytest.mark.parametrize("split", [False, True])
def test_what_was_pushed_is_as_in_the_kit(
    bench: Bench, alice: KaggleClient, tmp_path: Path, split: bool
) -> None:
    """Right after a push nothing differs, by names and by bytes; deep, every file of every part was hashed."""
    kit = make_kit(tmp_path / "kit", split=split)
    pushed(bench, kit, alice)
    assert whats(verified(kit, alice)) == []
    before = beside(kit)
    left = kit.folder.with_name(".kit.verify")  # by a run that was killed
    left.mkdir()
    (left / "0").write_bytes(b"half a file")
    found = verified(kit, alice, deep=True)
    assert whats(found) == []
    assert sum(part.hashed for part in found.parts) == len(FILES)
    assert [part.remote.version for part in found.parts] == [1] * len(kit.parts)
    assert beside(kit) == before


def test_listings_by_bare_name_are_compared_by_bytes_too(
    bench: Bench, alice: KaggleClient, tmp_path: Path
) -> None:
    """A file that Kaggle lists without its folder is the kit's all the same."""
    kit = make_kit(tmp_path / "kit", {"packages/a.whl": b"a wheel", "model.ckpt": b""})
    pushed(bench, kit, alice)
    (there(bench) / "packages/a.whl").rename(there(bench) / "a.whl")
    found = verified(kit, alice, deep=True)
    assert whats(found) == []
    assert found.parts[0].hashed == 2


def test_a_file_that_kaggle_renamed_is_told_by_its_bytes(
    bench: Bench, alice: KaggleClient, tmp_path: Path
) -> None:
    """Another name is a difference until the bytes were seen to be the kit's: then it is a note."""
    kit = make_kit(tmp_path / "kit")
    pushed(bench, kit, alice)
    (there(bench) / "packages/a.whl").rename(there(bench) / "packages/a_1.whl")
    assert whats(verified(kit, alice)) == [
        f"'{REF}': 'packages/a.whl' is missing",
        f"'{REF}': 'packages/a_1.whl' is not part of the kit",
    ]
    found = verified(kit, alice, deep=True)
    assert whats(found) == []
    assert "'packages/a.whl' is named 'packages/a_1.whl' there" in found.parts[0].notes[0]


# ------------------------------------------------------------------ what differs


def test_all_parts_are_looked_at(bench: Bench, alice: KaggleClient, tmp_path: Path) -> None:
    """A missing dataset, a public one, and a file damaged on this disk come together, each with its remedy."""
    kit = make_kit(tmp_path / "kit", split=True)
    pushed(bench, kit, alice)
    (kit.folder / "dataset/packages/packages/install.json").write_bytes(b"[]")
    bench.rpc("DeleteDataset", ownerSlug="alice", datasetSlug="plant-kit-checkpoints")
    answer = bench.rpc(
        "UpdateDatasetMetadata", ownerSlug="alice", datasetSlug="plant-kit-packages", settings={}
    )
    assert answer == {}
    found = verified(kit, alice)
    assert whats(found) == [
        "the dataset 'alice/plant-kit-checkpoints' does not exist or is not visible to this account",
        "on this disk, 'packages/install.json' has another SHA-256 than in the manifest",
        "the dataset 'alice/plant-kit-packages' is PUBLIC: everyone can see this part of the kit",
    ]
    assert [problem.remedy.partition(", which")[0] for problem in found.problems] == [
        "run 'offline-kit push'",
        "run 'offline-kit build'",
        f"make it private at once in the settings of {found.parts[1].remote.url}",
    ]


def test_a_changed_file_at_the_server_is_named_by_a_deep_comparison(
    bench: Bench, alice: KaggleClient, tmp_path: Path
) -> None:
    """Equal name and size say nothing of bytes; the remedy, a push that sends it again, mends it."""
    kit = make_kit(tmp_path / "kit")
    pushed(bench, kit, alice)
    change(there(bench) / "checkpoints/model.ckpt", b"x" * 300_000)
    assert whats(verified(kit, alice)) == []
    (problem,) = verified(kit, alice, deep=True).problems
    assert problem.what.startswith(f"'{REF}': 'checkpoints/model.ckpt' has different content (sha256 ")
    assert "push --resend" in problem.remedy
    pushed(bench, kit, alice)
    assert content(bench)["checkpoints/model.ckpt"] == b"x" * 300_000
    (done,) = pushed(bench, kit, alice, PushOptions(resend=True))
    assert done.version == 2
    assert whats(verified(kit, alice, deep=True)) == []


def test_another_kit_on_kaggle_is_told_file_by_file(
    bench: Bench, alice: KaggleClient, tmp_path: Path
) -> None:
    """The version, both part ids, and each file that is missing, too many, or other, by marker and sizes."""
    old = make_kit(tmp_path / "old", {**FILES, "packages/gone.whl": b"g"})
    pushed(bench, old, alice)
    kit = make_kit(tmp_path / "kit", {**FILES, "packages/a.whl": b"A wheel", "packages/new.whl": b"n"})
    found = verified(kit, alice)
    head, *files = whats(found)
    assert head == f"'{REF}': version 1 holds the part {old.parts[0].id[:12]}, not {kit.parts[0].id[:12]}"
    assert [line.partition(" (")[0] for line in files] == [
        f"'{REF}': 'packages/new.whl' is missing",
        f"'{REF}': 'packages/gone.whl' is not part of the kit",
        f"'{REF}': 'packages/a.whl' has different content",
    ]
    assert {problem.remedy for problem in found.problems} == {
        "run 'offline-kit push', which uploads this kit as a new version"
    }


def test_a_dataset_without_our_marker_holds_no_kit(bench: Bench, alice: KaggleClient, tmp_path: Path) -> None:
    """What is there under this name was made by others."""
    kit = make_kit(tmp_path / "kit")
    pushed(bench, kit, alice)
    (there(bench) / MARKER).unlink()
    assert whats(verified(kit, alice)) == [f"'{REF}': version 1 holds no part of a kit"]


def test_a_version_that_failed_is_not_ready(bench: Bench, alice: KaggleClient, tmp_path: Path) -> None:
    """FAILED on Kaggle is a difference that a push mends."""
    kit = make_kit(tmp_path / "kit")
    bench.kaggle.faults.add_fault(Fault(on="CreateDataset", stuck="FAILED"))
    with pytest.raises(OutsideError):
        pushed(bench, kit, alice)
    assert whats(verified(kit, alice)) == [f"'{REF}': version 1 is not ready on Kaggle: 'failed'"]


def test_a_file_in_a_wrapping_zip_is_the_file(bench: Bench, alice: KaggleClient, tmp_path: Path) -> None:
    """Kaggle sends some files in a zip of their own: what is inside is compared."""
    kit = make_kit(tmp_path / "kit", {"packages/install.json": b"{}", "model.ckpt": b"w" * 1000})
    pushed(bench, kit, alice)
    place = there(bench) / "model.ckpt"
    place.unlink()
    with zipfile.ZipFile(place, "w", zipfile.ZIP_DEFLATED) as wrapped:
        wrapped.writestr("model.ckpt", b"w" * 1000)
    files = [
        {"name": path.relative_to(there(bench)).as_posix(), "totalBytes": path.stat().st_size}
        for path in there(bench).rglob("*")
        if path.is_file()
    ]
    listing = {
        "datasetFiles": [
            {**each, "totalBytes": 1000} if each["name"] == "model.ckpt" else each for each in files
        ]
    }
    bench.kaggle.faults.add_fault(Fault(on="ListDatasetFiles", answer=listing, times=0))
    assert whats(verified(kit, alice, deep=True)) == []


# ------------------------------------------------------------------ the notebook


def test_the_notebook_is_compared_by_cells_settings_and_sources(
    bench: Bench, alice: KaggleClient, tmp_path: Path
) -> None:
    """None there, then the same, then other cells on Kaggle, and one made public."""
    kit = written(make_kit(tmp_path / "kit"), WRITES)
    pushed(bench, kit, alice)
    assert whats(verified(kit, alice)) == ["there is no notebook 'alice/plant-inference'"]
    push_notebook.push_notebook(push_notebook.read_notebook(kit, "alice"), access(alice, ways(bench)))
    found = verified(kit, alice)
    assert whats(found) == []
    assert found.notebook is not None
    assert (found.notebook.ref, found.notebook.version) == ("alice/plant-inference", 1)
    other = dataclasses.replace(
        push_notebook.read_notebook(kit, "alice"), text=json.dumps(notebook("1")), private=False
    )
    alice.save_notebook(other)
    bench.until(lambda: (seen := alice.get_notebook(other.ref)) is not None and seen.newest_version == 2)
    assert whats(verified(kit, alice)) == [
        "'alice/plant-inference' version 2: it is public",
        "'alice/plant-inference' version 2: its cells differ",
    ]


def test_the_run_is_compared_with_the_rehearsal(bench: Bench, alice: KaggleClient, tmp_path: Path) -> None:
    """What the run wrote of itself is set against the receipt; no difference fails the check."""
    kit = make_kit(tmp_path / "kit")
    run = {"format": 1, "parts": {part.name: part.id for part in kit.parts}, "moved": ["timm 1.0 -> 1.1"]}
    run |= {"python": "3.12.1", "seconds": 12.0, "peak_memory": 3_000_000_000, "memory_by": "largest process"}
    kit = written(kit, WRITES, f"open({REPORT!r}, 'w').write({json.dumps(run)!r})")
    rehearsed = {
        "kit": kit.id,
        "notebook": sha256_of(kit.folder / "notebook/inference.ipynb"),
        "passed": True,
    }
    rehearsed |= {"python": "3.12.2", "seconds": 8.0, "fidelity": "matching"}
    (kit.folder / "rehearsal").mkdir()
    (kit.folder / "rehearsal/report.json").write_text(json.dumps(rehearsed))
    pushed(bench, kit, alice)
    new = push_notebook.read_notebook(kit, "alice")
    notebook_runs.push_and_follow(new, access(alice, ways(bench)))
    verification = verified(kit, alice)
    assert verification.notebook is not None
    notes = " ".join(verification.notebook.notes)
    assert whats(verification) == []
    for words in ("timm 1.0 -> 1.1", "3.12.1", "3.12.2", "12.0 s", "3.0 GB", "8.0 s"):
        assert words in notes
    assert "of kit" not in notes


# ------------------------------------------------------------------ where Kaggle does not tell


@pytest.mark.parametrize("gone", [False, True], ids=["one refusal", "gone"])
def test_kaggle_that_cannot_be_asked_is_no_difference(
    bench: Bench, alice: KaggleClient, tmp_path: Path, gone: bool
) -> None:
    """Exit 4, with what was found until then; a Kaggle that is gone is asked about no further part."""
    kit = make_kit(tmp_path / "kit", split=True)
    pushed(bench, kit, alice)
    (kit.folder / "dataset/packages/packages/a.whl").unlink()
    before = len(bench.traffic.ended_requests("/ListDatasetFiles"))
    if gone:
        bench.kaggle.faults.add_fault(Fault(on="GetDataset", lose_answer=True, times=0))
    else:
        bench.kaggle.faults.add_fault(Fault(on="ListDatasetFiles", status=400, message="Not today"))
    with pytest.raises(OutsideError, match="lost" if gone else "Not today") as caught:
        verified(kit, alice)
    assert "on this disk, 'packages/a.whl' is missing" in caught.value.details
    assert len(bench.traffic.ended_requests("/ListDatasetFiles")) - before == (0 if gone else 2)


def test_a_download_that_is_refused_ends_the_comparison(
    bench: Bench, alice: KaggleClient, tmp_path: Path
) -> None:
    """What was not downloaded is neither right nor wrong: exit 4, nothing left behind."""
    kit = make_kit(tmp_path / "kit")
    pushed(bench, kit, alice)
    before = beside(kit)
    bench.kaggle.faults.add_fault(
        Fault(on="DownloadDataset", status=400, message="No bytes", after=1, times=0)
    )
    with pytest.raises(OutsideError, match=r"'.*' of 'alice/plant-kit' cannot be downloaded: .*No bytes"):
        verified(kit, alice, deep=True)
    assert beside(kit) == before


# ------------------------------------------------------------------ the command


def command_of(bench: Bench, *words: str) -> tuple[str, ...]:
    """Return the words of `offline-kit verify` on the project."""
    return ("verify", "--to", "local", "--at", bench.server.url, *words, str(bench.folder / "project"))


def environment(bench: Bench) -> dict[str, str]:
    """Return the environment of such a command."""
    return {**os.environ, "HOME": str(bench.folder), "OFFLINE_KIT_CACHE": str(bench.folder / "cache")}


def start(bench: Bench, *words: str) -> "subprocess.Popen[str]":
    """Start the command in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "offline_kit", *command_of(bench, *words)],
        env=environment(bench),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def pushed_project(bench: Bench) -> Kit:
    """Make a project with a kit that is on the local Kaggle as the account of `--to local`."""
    project = bench.folder / "project"
    project.mkdir()
    (project / "offline-kit.toml").write_text('dataset = "plant-kit"\n')
    kit = make_kit(project / "dist" / "offline-kit", {**FILES, "checkpoints/model.ckpt": b"m" * 4_000_000})
    bench.kaggle.accounts.add_account("local", key="key-of-local")
    with client(bench, "local") as kaggle:
        pushed(bench, kit, kaggle)
    bench.kaggle.accounts.add_account("local", key="local-kaggle")
    return kit


def test_the_command_tells_and_its_exit_code_too(bench: Bench) -> None:
    """0 and one line where all agrees; 1, every difference and the remedy, where not; JSON has the same."""
    pushed_project(bench)
    env, settings = environment(bench), hasty_client()
    done = offline_kit(*command_of(bench), env=env, client=settings)
    assert done.returncode == 0, done.stderr
    assert "3 files by names, sizes and marker" in done.stdout
    change(there(bench, "local/plant-kit") / "packages/a.whl", b"longer")
    done = offline_kit(*command_of(bench, "--json"), env=env, client=settings)
    assert done.returncode == 1, done.stderr
    told = json.loads(done.stdout)
    assert told["details"] == ["'local/plant-kit': 'packages/a.whl' has 6 bytes, not 7"]
    about = f"--to local --at {bench.server.url} --resend {bench.folder / 'project'}"
    assert f"'offline-kit push {about}'" in told["hint"]
    assert told["parts"][0]["version"] == 1
    assert "'packages/a.whl' has 6 bytes" in done.stderr


def test_interrupted_a_deep_comparison_leaves_nothing(bench: Bench) -> None:
    """^C in the middle of a download: 130 at once, and no folder beside the kit."""
    kit = pushed_project(bench)
    before = beside(kit)
    seen: list[set[str]] = []

    def watch(event: TrafficEvent) -> None:
        begun = (event.phase, event.name) == ("begun", "GET")
        if begun and not seen and any(".verify" in name for name in beside(kit)):
            seen.append(beside(kit))
            process.send_signal(signal.SIGINT)

    bench.kaggle.faults.add_fault(Fault(on="GET", delay=2.0, after=1, times=0))
    bench.traffic.listeners.append(watch)
    process = start(bench, "--deep")
    _, err = process.communicate(timeout=60)
    assert seen
    assert process.returncode == 130, err
    assert beside(kit) == before
