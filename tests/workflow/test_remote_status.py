"""`status`: what of a kit is on Kaggle, as it was seen last or looked at now."""

import json
from pathlib import Path

import pytest

from offline_kit.local_kaggle.faults import Fault
from tests.support.shipping import DATASET, NOTEBOOK, Yard, retrain, yard

SPLIT = 'parts = "split"\n'


def calls(here: Yard) -> int:
    """Return how many requests the server has answered."""
    return len(here.bench.traffic.ended_requests())


def test_before_anything_was_sent(here: Yard) -> None:
    """Nothing is known, and nothing is there: no error, and how to look."""
    told = here.run("status").good()
    assert "nothing was pushed from here" in told.out
    assert "--to kaggle" in told.out
    there = here.run("status", *here.to, "--json").good().facts["there"][0]
    assert [(piece["holds"], piece["version"]) for piece in there["pieces"]] == [("nothing", 0)] * 2
    words = here.run("status", *here.to).good().out
    assert f"{DATASET}: not on this Kaggle" in words
    assert f"{NOTEBOOK}: not on this Kaggle" in words


def test_what_was_seen_last_is_told_without_asking(here: Yard) -> None:
    """Dataset, notebook, run and submission; the server hears nothing."""
    here.ship().good()
    before = calls(here)
    told = here.run("status").good()
    assert calls(here) == before
    for words in (
        "the local Kaggle as 'local', as seen last",
        f"{DATASET} version 1, holds this kit",
        f"{NOTEBOOK} version 1, complete, holds this kit",
        "last run",
        "1001, notebook version 1, complete: 0.50000 (LOCAL)",
    ):
        assert words in told.out
    (there,) = here.run("status", "--json").good().facts["there"]
    assert (there["looked"], there["run"]["version"]) == (False, 1)
    retrain(here.project, b"5")
    here.run("build").good()
    assert f"{DATASET} version 1, holds another kit (" in here.run("status").good().out


@pytest.mark.slow
def test_of_split_parts_the_changed_one_is_told(tmp_path: Path, built: Path) -> None:
    """The others still hold this kit's parts, as it was seen last and looked at now."""
    with yard(tmp_path, built) as here:
        config = here.project / "offline-kit.toml"
        config.write_text(SPLIT + config.read_text())
        here.push().good()
        retrain(here.project, b"6")
        here.run("build").good()
        for words in ((), here.to):
            lines = here.run("status", *words).good().out.splitlines()
            held = {line.split()[0]: "holds this kit" in line for line in lines if f"{DATASET}-" in line}
            assert held == {"checkpoints": False, "code": True}, lines


def test_looked_at_now(here: Yard) -> None:
    """States and versions of now, and what became of a submission that nobody waited for."""
    here.run("ship", *here.to, "--yes", "--no-rehearsal").good()
    here.bench.until(lambda: here.submissions()[0]["state"] == "COMPLETE")
    told = here.run("status", *here.to).good()
    assert f"{DATASET} version 1, ready, holds this kit" in told.out
    assert "complete: 0.50000 (LOCAL)" in told.out
    assert "complete: 0.50000 (LOCAL)" in here.run("status").good().out, "it is remembered"


@pytest.mark.slow
def test_a_failed_run_stays_to_be_read(here: Yard) -> None:
    """What was wrong and what to do stand in the status, until a run goes well."""
    here.bench.kaggle.faults.add_fault(Fault(on="RUN", fail="Notebook Out of Memory"))
    said = here.push()
    assert said.code == 1
    told = here.run("status").good()
    line = next(line for line in told.out.splitlines() if "last run" in line)
    assert "failed: the notebook failed on the local Kaggle: version 1" in line
    assert f"{NOTEBOOK}: not on this Kaggle" not in told.out
    problem = here.run("status", "--json").good().facts["there"][0]["run"]["problem"]
    assert problem["hint"] in said.err
    here.push().good()
    assert "failed: " not in here.run("status").good().out


@pytest.mark.slow
def test_trouble_on_the_way_is_exit_4(here: Yard) -> None:
    """What was seen last can still be told, and is not mistaken for what is."""
    here.push().good()
    here.bench.kaggle.faults.add_fault(Fault(on="GetDataset", status=503, times=0))
    told = here.run("status", *here.to, "--json")
    assert (told.code, json.loads(told.out)["ok"]) == (4, False)
    away = here.run("status", "--to", "local", "--at", "http://127.0.0.1:9")
    away.failed(4, "no local Kaggle answers at 'http://127.0.0.1:9'", "offline-kit local")
    here.run("status").good()


@pytest.mark.slow
def test_a_damaged_memory_is_no_trouble(here: Yard) -> None:
    """It is only a memory: what cannot be read is as if it was never seen."""
    here.ship().good()
    for path in (here.project / ".offline-kit").glob("offline-kit.push/*/*/last-*.json"):
        path.write_text("{")
    assert "1001, notebook version 1" in here.run("status").good().out


def test_a_model_that_was_named_after_the_build_is_newer_and_our_own_version_is_not(here: Yard) -> None:
    """A push writes the version of our own model into the kit's notebook; all others come with a build."""
    config, said = here.project / "offline-kit.toml", "configuration, template or code changed after"
    config.write_text('publish_model = "small-weights"\n' + config.read_text())
    here.run("build").good()
    here.push("--data-only").good()
    pinned = (here.project / "dist/offline-kit/notebook/kernel-metadata.json").read_text()
    assert "local/small-weights/other/checkpoints/1" in pinned
    assert said not in here.run("status").good().out
    wanted = 'model_sources = ["ann/resnet/pyTorch/base/3"]'
    config.write_text(config.read_text().replace("[notebook]", f"[notebook]\n{wanted}"))
    assert said in here.run("status").good().out
