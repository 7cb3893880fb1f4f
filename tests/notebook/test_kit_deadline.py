"""The guard of the time limit: when it strikes, and what is left then."""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from offline_kit.notebook.runtime.kit_deadline import Deadline, fill_from_sample, find_session_start
from offline_kit.notebook.runtime.kit_ensemble import EnsembleMember, predict_all
from offline_kit.notebook.runtime.kit_tasks import RowBatch, read_sample

BATCHES = [RowBatch([1, 2], np.array([[1.0], [2.0]])), RowBatch([3], np.array([[3.0]]))]
MEMBERS = [EnsembleMember(name, "some", Path(name)) for name in "abc"]


def predict_until(strikes_at: str) -> tuple[Any, list[str]]:
    """Predict with three models under a deadline that is over from a model's batch on: "b2" is the second one of b."""
    deadline, answered = Deadline(1000, 10, started=time.time()), list[str]()

    def predict(model: str, batch: Any, _member: EnsembleMember) -> Any:
        answered.append(f"{model}{len(batch)}")
        if answered[-1] == strikes_at:
            deadline.started -= 2000
        return batch * (1 + "abc".index(model))

    frameworks = {"some": (lambda path, _member: str(path), predict)}
    return predict_all(MEMBERS, frameworks, BATCHES, deadline=deadline), answered


@pytest.mark.parametrize(
    ("strikes_at", "values", "answered", "told"),
    [
        ("", [2.0, 4.0, 6.0], ["a2", "a1", "b2", "b1", "c2", "c1"], []),
        ("b1", [1.5, 3.0, 4.5], ["a2", "a1", "b2", "b1"], ["2 of 3 models", "left out: c"]),
        ("b2", [1.0, 2.0, 3.0], ["a2", "a1", "b2"], ["1 of 3 models", "left out: b, c"]),
        ("a2", [1.0, 2.0], ["a2"], ["'a' predicted only its first 2 rows", "left out: b, c"]),
    ],
)
def test_whole_models_are_combined(
    strikes_at: str,
    values: list[float],
    answered: list[str],
    told: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A model that was cut short counts only if it is the first; what is left out is printed."""
    prediction, done = predict_until(strikes_at)
    assert (prediction.values[:, 0].tolist(), prediction.ids, done) == (
        values,
        [1, 2, 3][: len(values)],
        answered,
    )
    printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("TIME IS UP: ")]
    assert len(printed) == bool(told)
    assert all(words in printed[0] for words in told)


def test_rows_that_no_model_reached_keep_the_sample_s_values(tmp_path: Path) -> None:
    """As they are written there; a sample of other ids adds nothing."""
    (tmp_path / "sample_submission.csv").write_text("id,label\n007,0.50\n008,x\n009,\n")
    sample = read_sample(tmp_path)
    result = pd.DataFrame({"id": ["008"], "label": [0.25]})
    filled = fill_from_sample(result, sample)
    assert filled.values.tolist() == [["008", 0.25], ["007", "0.50"], ["009", ""]]
    for other in (filled, pd.DataFrame({"id": ["1"], "label": [0.25]}), pd.DataFrame({"id": ["008"]})):
        assert fill_from_sample(other, sample) is other
    assert fill_from_sample([{"id": "008"}], sample) == [{"id": "008"}]


START = """
import sys, time
sys.path.insert(0, {folder!r})
time.sleep(0.5)
from offline_kit.notebook.runtime.kit_deadline import find_session_start
print(time.time() - find_session_start(1000), flush=True)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_a_session_begins_with_papermill(tmp_path: Path) -> None:
    """Or with the process itself, if no program that runs notebooks started it."""
    code = START.format(folder=str(Path(__file__).parents[2]))
    (tmp_path / "kernel.py").write_text(code)
    runner = tmp_path / "papermill.py"
    runner.write_text(
        f"import subprocess, sys, time\ntime.sleep(2)\nsubprocess.run([sys.executable, {str(tmp_path / 'kernel.py')!r}])"
    )
    alone, run = (
        float(subprocess.check_output([sys.executable, path], text=True))
        for path in (tmp_path / "kernel.py", runner)
    )
    assert alone >= 0.5
    assert run >= 2.5


def test_a_start_that_cannot_be_is_none() -> None:
    """What is longer ago than a whole session is no start of it."""
    assert time.time() - find_session_start(0) < 60
