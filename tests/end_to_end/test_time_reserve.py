"""The guard of the time limit in a rehearsal: two models, of which the second would take too long."""

import json
import pickle
from pathlib import Path

import pytest

from tests.support.workbench import run

pytestmark = [pytest.mark.slow, pytest.mark.index, pytest.mark.sandbox]

CONFIG = """
competition = "some-competition"
competition_data = "input"
dataset = "some-kit"
image = "local"
checkpoints = ["*.pkl"]
modules = ["slow.py"]
time_limit = 600

[notebook]
template = "predict"
batch_size = 1
time_reserve = 540
"""
SLOW = """
import time

class Slow:
    def __init__(self, seconds, answer):
        self.seconds, self.answer = seconds, answer

    def predict(self, table):
        time.sleep(self.seconds)
        return [self.answer] * len(table)
"""


def test_a_model_without_time_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The submission is the first model's; a warning has the numbers, and so has the report of the run."""
    (tmp_path / "input").mkdir()
    rows = range(100)
    (tmp_path / "input" / "test.csv").write_text("id,x\n" + "".join(f"{row},{row}\n" for row in rows))
    (tmp_path / "input" / "sample_submission.csv").write_text(
        "id,y\n" + "".join(f"{row},0\n" for row in rows)
    )
    (tmp_path / "offline-kit.toml").write_text(CONFIG)
    (tmp_path / "slow.py").write_text(SLOW)
    monkeypatch.syspath_prepend(tmp_path)
    slow = __import__("slow")
    for name, seconds, answer in (("a.pkl", 0, 1.0), ("b.pkl", 5, 2.0)):
        (tmp_path / name).write_bytes(pickle.dumps(slow.Slow(seconds, answer)))
    done = run("rehearse", tmp_path, "--env", "current", "--yes", "--json").good()
    (warning,) = [line for line in done.facts["rehearsal"]["warnings"] if "time" in line]
    assert "1 of 2 models are in the prediction, left out: b.pkl" in warning
    folder = tmp_path / "dist" / "offline-kit" / "rehearsal"
    assert {line.partition(",")[2] for line in (folder / "submission.csv").read_text().split()[1:]} == {"1.0"}
    assert done.facts["rehearsal"]["seconds"] < 500
    assert "left out: b.pkl" in json.dumps(json.loads((folder / "receipt.json").read_text())["warnings"])
