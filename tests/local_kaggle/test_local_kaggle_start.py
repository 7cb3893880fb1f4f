"""The command that serves a local Kaggle."""

import os
import subprocess
import time
import urllib.error
import urllib.request
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import pytest

from offline_kit.core.errors import OutsideError
from offline_kit.local_kaggle.server import LocalKaggleServer
from offline_kit.local_kaggle.settings import LocalKaggleSettings
from offline_kit.workflow.kaggle_session import (
    find_competition,
    greeting_lines,
    serve_local_kaggle,
)
from tests.support.competitions import competition
from tests.support.local_command import Served, command
from tests.support.local_kaggle import HASTY, needs_client, plainly
from tests.support.warm_python import client_python


def test_the_command_serves_until_interrupted(tmp_path: Path) -> None:
    """It tells its address as JSON, holds the competition, answers the default account, and ends by 130."""
    with command(tmp_path, "--competition", competition(tmp_path)) as served:
        assert served.told["competitions"] == ["small-digits"]
        listed = served.rpc("competitions.CompetitionApiService/ListCompetitions")
        assert listed["competitions"][0]["title"] == "Small digits"
    assert served.code == 130, served.said
    assert "KAGGLE_API_ENVIRONMENT=LOCALHOST" in served.said


@needs_client
def test_the_environment_that_is_told_reaches_it(tmp_path: Path) -> None:
    """The plain client gets there by the very lines of the greeting, also where NO_PROXY names this machine."""
    with serve_local_kaggle(tmp_path / "state", plainly) as server:
        server.kaggle.catalog.add_competition(competition(tmp_path))
        told = [line for line in greeting_lines(server.url, "state", []) if line.startswith("  ")]
        env = {
            **os.environ,
            "HOME": str(tmp_path),
            "NO_PROXY": "localhost,127.0.0.1",
            "HTTPS_PROXY": "http://127.0.0.1:9",
        }
        script = "\n".join([*told, f"exec '{client_python()}' -m kaggle.cli competitions list"])
        done = subprocess.run(
            ["sh", "-c", script], env=env, cwd=tmp_path, capture_output=True, text=True, timeout=60
        )
    assert "small-digits" in done.stdout, done.stderr


def test_further_accounts_can_be_asked_for(tmp_path: Path) -> None:
    """Each logs in with the same key, is told at the start, and is kept by the state."""
    with command(tmp_path, "--account", "bob", "--account", "carol") as served:
        assert served.told["accounts"] == ["bob", "carol", "local"]
        assert served.rpc("api.v1.DiagnosticsService/Hello", "bob") == {"userName": "bob"}
    assert "bob, carol" in served.said
    with command(tmp_path) as served:
        assert served.rpc("api.v1.DiagnosticsService/Hello", "carol") == {"userName": "carol"}


def test_the_command_makes_it_slow(tmp_path: Path) -> None:
    """What was made does not show for so many times its usual time."""
    with command(tmp_path, "--slow", "1000", "--layout", "old") as served:
        words = {"slug": "local/my-inference", "newTitle": "My inference", "text": "1"}
        made = served.rpc(
            "kernels.KernelsApiService/SaveKernel", **words, language="python", kernelType="script"
        )
        assert made["versionNumber"] == 1
        with pytest.raises(urllib.error.HTTPError, match="403"):
            served.rpc("kernels.KernelsApiService/GetKernel", userName="local", kernelSlug="my-inference")


def test_slow_is_of_all_that_takes_time() -> None:
    """And of nothing else."""
    slow = LocalKaggleSettings(visible_after=1, processing=2, queued=3, scoring=4).with_delays(10)
    assert slow == LocalKaggleSettings(visible_after=10, processing=20, queued=30, scoring=40)


def test_the_competition_that_a_project_brings(tmp_path: Path) -> None:
    """Its own folder, or the only one right in it that is a competition."""
    assert find_competition(tmp_path) is None
    place = competition(tmp_path)
    assert find_competition(place) == find_competition(tmp_path) == place
    with serve_local_kaggle(tmp_path / "state", plainly, competitions=(tmp_path,)) as server:
        assert server.kaggle.store.key_names("competitions") == ["small-digits"]
    (tmp_path / "other").mkdir()
    (tmp_path / "other/competition.toml").touch()
    assert find_competition(tmp_path) is None


def test_folders_of_the_project_stand_for_sources_of_others(tmp_path: Path) -> None:
    """A notebook attaches what `copies` names, at its place on Kaggle; a folder that is not there is told."""
    (tmp_path / "lookup").mkdir()
    (tmp_path / "lookup/table.txt").write_text("seven")
    (tmp_path / "offline-kit.toml").write_text(
        '[copies]\n"dataset:owner/Lookup" = "lookup"\n"notebook:owner/made-there" = "lookup"\n'
        '"model:owner/net/PyTorch/base/2" = "lookup"\n"dataset:owner/lost" = "lost"\n'
        '[notebook]\nfunction = "a.py:f"\n'
    )
    places = "datasets/owner/Lookup", "notebooks/owner/made-there", "models/owner/net/pytorch/base/2"
    code = f"import os; print(*[open(os.environ['INPUT'] + '/' + p + '/table.txt').read() for p in {places}])"
    words = {"slug": "local/my-inference", "newTitle": "My inference", "text": code}
    words |= {"language": "python", "kernelType": "script"}
    sources = {
        "datasetDataSources": ["owner/lookup/3", "owner/lost"],
        "kernelDataSources": ["owner/made-there"],
        "modelDataSources": ["owner/net/pyTorch/base/2", "owner/net/pyTorch/base/1"],
    }
    hasty = replace(HASTY, visible_after=0)
    with serve_local_kaggle(tmp_path / "state", plainly, project=tmp_path, settings=hasty) as server:
        served = Served({"url": server.url})
        made = served.rpc("kernels.KernelsApiService/SaveKernel", **words, **sources)
        assert made["invalidDatasetSources"] == ["owner/lost"]
        assert made["invalidKernelSources"] == []
        assert made["invalidModelSources"] == ["owner/net/pyTorch/base/1"]
        ask = {"userName": "local", "kernelSlug": "my-inference"}
        end = time.monotonic() + 20
        while (
            told := served.rpc("kernels.KernelsApiService/ListKernelSessionOutput", **ask)
        ) and "seven" not in str(told.get("log")):
            assert time.monotonic() < end, told
            time.sleep(0.05)
        assert "seven seven seven" in told["log"]


def test_one_server_for_a_folder(tmp_path: Path) -> None:
    """A second one is refused with who is there: its address, its process, its project, and the way out."""

    def serve() -> AbstractContextManager[LocalKaggleServer]:
        return serve_local_kaggle(tmp_path, plainly, project=tmp_path / "mine")

    refused = pytest.raises(OutsideError, match="another local Kaggle")
    with serve() as first, refused as caught, serve():
        pass
    whose = f"at {first.url} (process {os.getpid()}, for '{tmp_path / 'mine'}')"
    assert whose in caught.value.what
    assert "wait until it has ended" in caught.value.hint
    assert "--state" in caught.value.hint
    with serve():
        pass


def test_a_port_that_is_taken_is_told(tmp_path: Path) -> None:
    """With the option that chooses another."""
    with serve_local_kaggle(tmp_path / "a", plainly) as server:
        port = int(server.url.rpartition(":")[2])
        refused = pytest.raises(OutsideError, match=str(port))
        with refused as caught, serve_local_kaggle(tmp_path / "b", plainly, port=port):
            pass
    assert "--port" in caught.value.hint
