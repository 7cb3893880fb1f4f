"""The sample project from a fresh state to its score, and what goes to Kaggle when something or nothing changed."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from offline_kit.local_kaggle.sandbox_runner import SandboxRunner
from offline_kit.local_kaggle.server import LocalKaggleServer
from offline_kit.packages.pip_settings import read_pip_settings
from offline_kit.rehearsal.environments import EnvironmentOptions
from offline_kit.workflow import kaggle_session
from tests.support.traffic import Traffic
from tests.support.workbench import run

pytestmark = [pytest.mark.slow, pytest.mark.sandbox, pytest.mark.index]

SAMPLE = Path(__file__).parent.parent.parent / "sample_project"
SHIP = ("--yes", "--wait", "--env", "current", "--json")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LocalKaggleServer]:
    """A local Kaggle with the sample's competition; it runs notebooks offline, in this environment."""
    workshop = EnvironmentOptions(index=read_pip_settings({}), cache=tmp_path / "runs", yes=True)
    runner = SandboxRunner(workshop, current=True)
    with kaggle_session.serve_local_kaggle(tmp_path / "kaggle", runner, competitions=(SAMPLE,)) as made:
        yield made


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the sample project without what was built there."""
    copy = tmp_path / "which-digits"
    shutil.copytree(SAMPLE, copy, ignore=shutil.ignore_patterns("dist", ".offline-kit*"))
    return copy


def ship(server: LocalKaggleServer, project: Path) -> tuple[dict[str, Any], str]:
    """Ship the project; return what was told to scripts and to people."""
    env = {"HOME": str(project.parent), "OFFLINE_KIT_CACHE": str(project.parent / "cache")}
    done = run("ship", project, "--to", "local", "--at", server.url, *SHIP, env=env).good()
    return done.facts, done.err


def test_from_a_fresh_state_to_a_score_and_nothing_twice(server: LocalKaggleServer, project: Path) -> None:
    """Private data, a notebook run offline, a score on the hidden test; again at once: nothing sent, and said so."""
    traffic = Traffic(server)
    told, said = ship(server, project)
    assert [part["action"] for part in told["parts"]] == ["create"]
    assert server.kaggle.datasets.mounted_version("local/which-digits-kit", "somebody") is None, (
        "it is private"
    )
    assert "is private, has no internet, and all of its sources" in said
    assert told["rehearsal"]["passed"]
    assert told["rehearsal"]["hidden"]["data"] == "auto", "a code competition runs the notebook again"
    score = told["submission"]["score"]
    assert score.endswith(" (LOCAL)")
    assert 0.9 < float(score.split()[0]) < 1
    sent = traffic.uploaded_bytes()
    assert sent > 1_000_000
    again, said = ship(server, project)
    assert traffic.uploaded_bytes() == sent
    assert [part["action"] for part in again["parts"]] == ["nothing"]
    assert (again["notebook"]["action"], again["submission"]["already"]) == ("nothing", True)
    assert again["submission"]["score"] == score
    assert "nothing to upload" in said
    assert "nothing to submit" in said
    assert len(list(server.kaggle.store.iter_records("submissions"))) == 1


def test_of_split_parts_only_the_checkpoint_travels(server: LocalKaggleServer, project: Path) -> None:
    """A retrained checkpoint costs its own bytes and its marker's, counted at the server, and is scored anew."""
    config = project / "pyproject.toml"
    config.write_text(
        config.read_text().replace("[tool.offline-kit]\n", '[tool.offline-kit]\nparts = "split"\n')
    )
    traffic = Traffic(server)
    ship(server, project)
    before = traffic.uploaded_bytes()
    (checkpoint,) = (project / "checkpoints").glob("*.ckpt")
    retrain(checkpoint)
    told, _ = ship(server, project)
    done = {part["part"]: part["action"] for part in told["parts"]}
    assert done.pop("checkpoints") == "version"
    assert set(done.values()) == {"nothing"}
    marker = project / "dist/offline-kit/dataset/checkpoints/offline-kit.json"
    assert traffic.uploaded_bytes() - before == checkpoint.stat().st_size + marker.stat().st_size
    assert (told["submission"]["already"], told["submission"]["state"]) == (False, "complete")


def retrain(checkpoint: Path) -> None:
    """Move every weight a little."""
    import torch

    held = torch.load(checkpoint, weights_only=False)
    for weights in held["state_dict"].values():
        if weights.is_floating_point():
            weights += 1e-4
    torch.save(held, checkpoint)


def test_a_script_is_shipped_as_a_script(server: LocalKaggleServer, project: Path) -> None:
    """With one key the sample is a script: rehearsed, pushed, run and scored; again, nothing is sent."""
    with (project / "pyproject.toml").open("a") as config:
        config.write('kernel_type = "script"\n')
    told, _ = ship(server, project)
    assert told["rehearsal"]["passed"]
    assert len(told["rehearsal"]["cell_seconds"]) == 1
    score = told["submission"]["score"]
    assert 0.9 < float(score.split()[0]) < 1
    (record,) = server.kaggle.store.iter_records("kernels", "local", "which-digits-inference", "versions")
    assert (record["kernelType"], record["state"]) == ("script", "COMPLETE")
    again, _ = ship(server, project)
    assert (again["notebook"]["action"], again["submission"]["already"]) == ("nothing", True)
