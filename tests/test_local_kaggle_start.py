"""The command that serves a local Kaggle."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from local_kaggle_case import plainly
from test_local_kaggle_competitions import competition

from offline_kit.errors import OutsideError
from offline_kit.local_kaggle.start import Wanted, running


def test_the_command_serves_until_interrupted(tmp_path: Path) -> None:
    """It tells its address as JSON, holds the competition, answers the default account, and ends by 130."""
    words = ["local", "--json", "--port", "0", "--state", tmp_path / "state"]
    words += ["--competition", competition(tmp_path)]
    process = subprocess.Popen(
        [sys.executable, "-m", "offline_kit", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout
        told = "".join(iter(process.stdout.readline, "}\n")) + "}"
        assert json.loads(told)["competitions"] == ["small-digits"]
        import base64
        import urllib.request

        secret = base64.b64encode(b"local:local-kaggle").decode()
        request = urllib.request.Request(
            json.loads(told)["url"] + "/api/v1/competitions.CompetitionApiService/ListCompetitions",
            data=b"{}",
            headers={"Authorization": f"Basic {secret}"},
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            assert json.load(answer)["competitions"][0]["title"] == "Small digits"
    finally:
        process.terminate()
        _, said = process.communicate(timeout=20)
    assert process.returncode == 130, said
    assert "KAGGLE_API_ENVIRONMENT=LOCALHOST" in said


def test_one_server_for_a_folder(tmp_path: Path) -> None:
    """A second one is refused with the way out."""
    wanted = Wanted(folder=tmp_path, port=0)
    refused = pytest.raises(OutsideError, match="another local Kaggle")
    with running(wanted, plainly), refused as caught, running(wanted, plainly):
        pass
    assert "--state" in caught.value.hint
    with running(wanted, plainly):
        pass


def test_a_port_that_is_taken_is_told(tmp_path: Path) -> None:
    """With the option that chooses another."""
    with running(Wanted(folder=tmp_path / "a", port=0), plainly) as server:
        port = int(server.url.rpartition(":")[2])
        other = Wanted(folder=tmp_path / "b", port=port)
        with pytest.raises(OutsideError, match=str(port)) as caught, running(other, plainly):
            pass
    assert "--port" in caught.value.hint
