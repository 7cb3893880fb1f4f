"""`offline-kit verify`: what is on Kaggle against the kit on this disk."""

import dataclasses
import json
import os
from pathlib import Path

import pytest

from offline_kit.core.errors import OutsideError
from offline_kit.core.files import sha256_of
from offline_kit.kaggle.client.client import KaggleClient
from offline_kit.kaggle.push import notebook_runs, push_notebook
from offline_kit.kaggle.push.verify_remote import Verification, verify_kit
from offline_kit.local_kaggle.faults import Fault
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
    datasets,
    make_kit,
    pushed,
    ways,
)

REF = "alice/plant-kit"


def verified(kit: Kit, kaggle: KaggleClient) -> Verification:
    """Compare a kit with the datasets that it was pushed to."""
    settings = PushSettings(state_folder=kit.folder.parent, poll_policy=EAGER)
    return verify_kit(kit, datasets(kit), access(kaggle, settings))


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


# ------------------------------------------------------------------ what agrees


@pytest.mark.parametrize("split", [False, True])
def test_what_was_pushed_is_as_in_the_kit(
    bench: Bench, alice: KaggleClient, tmp_path: Path, split: bool
) -> None:
    """Right after a push nothing differs."""
    kit = make_kit(tmp_path / "kit", split=split)
    pushed(bench, kit, alice)
    verification = verified(kit, alice)
    assert whats(verification) == []
    assert [part.remote.version for part in verification.parts] == [1] * len(kit.parts)


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
    run |= {"left_out": ["1 of 2 models are in the prediction"]}
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
    for words in ("timm 1.0 -> 1.1", "1 of 2 models", "3.12.1", "3.12.2", "12.0 s", "3.0 GB", "8.0 s"):
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


# ------------------------------------------------------------------ the command


def command_of(bench: Bench, *words: str) -> tuple[str, ...]:
    """Return the words of `offline-kit verify` on the project."""
    return ("verify", "--to", "local", "--at", bench.server.url, *words, str(bench.folder / "project"))


def environment(bench: Bench) -> dict[str, str]:
    """Return the environment of such a command."""
    return {**os.environ, "HOME": str(bench.folder), "OFFLINE_KIT_CACHE": str(bench.folder / "cache")}


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
