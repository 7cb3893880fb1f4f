"""A competition with an inference server, from a project to a rehearsal of both ways to run it."""

import json
from pathlib import Path
from typing import Any

import pytest

from offline_kit.rehearsal import gateway
from tests.support.command_line import Done
from tests.support.workbench import run

pytestmark = [pytest.mark.slow, pytest.mark.sandbox, pytest.mark.index]

CONFIG = """
competition = "rainfall"
competition_data = "input"
dataset = "rainfall-kit"
image = "{image}"
accelerator = "none"
checkpoints = ["weights/*.json"]
modules = ["answer.py"]

[notebook]
template = "server"
function = "answer.py:Forecast"
submission = "{submission}"

[notebook.params.gateway]
batches = "{batches}"
rows = 4
"""
ANSWER = """
import json
import time

class Forecast:
    loaded = 0

    def __init__(self, context):
        Forecast.loaded += 1
        print("loading", context.checkpoints[0].name, "on", context.device)
        self.slope = json.loads(context.checkpoints[0].read_text())["slope"]

    def __call__(self, test):
        assert Forecast.loaded == 1
        {before}
        values = [self.slope * float(x) for x in test["x"]]
        answer = type(test)({{"row_id": test["row_id"], "rain": values}})
        return answer{after}
"""
ROWS = 18


def project(
    folder: Path, *, batches: str = "pandas", before: str = "pass", after: str = "", **more: str
) -> Path:
    """Write a project whose model is a line, and its competition's data."""
    data = folder / "input"
    data.mkdir(parents=True)
    (data / "test.csv").write_text("row_id,x\n" + "".join(f"r{n},{n}.5\n" for n in range(ROWS)))
    (data / "sample_submission.csv").write_text("row_id,rain\n" + "".join(f"r{n},0.0\n" for n in range(ROWS)))
    (folder / "weights").mkdir()
    (folder / "weights" / "line.json").write_text('{"slope": 3}')
    (folder / "answer.py").write_text(ANSWER.format(before=before, after=after))
    said = {"image": "local", "submission": "submission.csv", "batches": batches} | more
    (folder / "offline-kit.toml").write_text(CONFIG.format(**said))
    return folder


def rehearse(folder: Path, *words: str, env: str = "current") -> Done:
    return run("rehearse", folder, "--json", "--env", env, *words)


def report(folder: Path) -> dict[str, Any]:
    path = folder / "dist" / "offline-kit" / "rehearsal" / "report.json"
    return dict(json.loads(path.read_text()))


@pytest.mark.parametrize(("batches", "layout"), [("pandas", "new"), ("polars", "old")])
def test_both_ways_are_rehearsed(tmp_path: Path, batches: str, layout: str) -> None:
    """One process, then two with the re-run variable set: every row predicted, batches in random order."""
    folder = project(tmp_path / "project", batches=batches)
    done = rehearse(folder, "--layout", layout).good()
    told = done.facts["rehearsal"]
    assert told["rows"] == ROWS
    notes = " ".join(report(folder)["notes"])
    assert "a stand-in for the competition's gateway" in notes
    assert "then in two processes as in the scoring run" in notes
    assert f"{ROWS} rows in 5 batches in random order, then in reverse" in notes
    assert report(folder)["warnings"] == []
    lines = (folder / "dist/offline-kit/rehearsal/submission.csv").read_text().splitlines()
    found = dict(line.split(",") for line in lines[1:])
    assert {name: float(value) for name, value in found.items()} == {
        f"r{n}": 3 * (n + 0.5) for n in range(ROWS)
    }
    assert list(found) != [f"r{n}" for n in range(ROWS)]
    log = (folder / "dist/offline-kit/rehearsal/log.txt").read_text()
    assert "loading line.json on cpu" in log


def test_a_predict_that_returns_too_few_rows_is_explained(tmp_path: Path) -> None:
    """The batch, the rows asked for and the rows returned are in the error, and what to do."""
    folder = project(tmp_path / "project", after="[1:]")
    done = rehearse(folder)
    assert done.code == 1
    text = done.err
    assert "batch 1: 4 rows were asked for" in text
    assert "predict returned 3" in text
    assert "exactly one row for each row" in text


def test_what_fails_only_in_the_scoring_run_is_found(tmp_path: Path) -> None:
    """An error behind the re-run variable, which on Kaggle would be one word, is shown with its text."""
    before = (
        'import os\n        assert not os.environ.get("KAGGLE_IS_COMPETITION_RERUN"), "only in the morning"'
    )
    folder = project(tmp_path / "project", before=before)
    done = rehearse(folder)
    assert done.code == 1
    assert "SERVER_RAISED_EXCEPTION" in done.err
    assert "only in the morning" in done.err
    assert report(folder)["passed"] is False


def test_the_competitions_own_package_is_used(tmp_path: Path) -> None:
    """What lies in the data is served, whatever it is called, with the newer call `run` as well."""
    folder = project(tmp_path / "project", submission="submission.parquet")
    options = {"batches": "pandas", "rows": 7, "submission": "submission.parquet"}
    gateway.write_standin(folder / "input", options, name="Rain", new=True)
    done = rehearse(folder).good()
    assert done.facts["rehearsal"]["submission"].endswith("submission.parquet")
    assert "the competition's own gateway" in " ".join(report(folder)["notes"])
    assert "server: RainInferenceServer" in (folder / "dist/offline-kit/rehearsal/log.txt").read_text()


@pytest.mark.parametrize("own", [False, True], ids=["the stand-in", "the competition's own"])
def test_answers_of_nothing_do_not_pass_as_parquet(tmp_path: Path, own: bool) -> None:
    """What Kaggle would score as an error is found in the format that its gateways write, too."""
    folder = project(tmp_path / "project", after=".assign(rain=None)", submission="submission.parquet")
    if own:
        options = {"batches": "pandas", "rows": 7, "submission": "submission.parquet"}
        gateway.write_standin(folder / "input", options, name="Rain")
    done = rehearse(folder)
    assert done.code == 1
    assert "submission-invalid" in done.err
    assert f"column 'rain': empty, NaN or infinite in {ROWS} rows" in done.err


@pytest.mark.parametrize("submission", ["submission.csv", "submission.parquet"])
def test_answers_that_depend_on_the_order_are_warned_of(tmp_path: Path, submission: str) -> None:
    """A predict that counts its calls passes, since a series in time may, and is told with a row of it."""
    after = ".assign(rain=float(len(str(self.__dict__.setdefault('calls', []).append(1) or self.calls))))"
    folder = project(tmp_path / "project", after=after, submission=submission)
    done = rehearse(folder).good()
    (said,) = report(folder)["warnings"]
    assert "the two runs gave different predictions" in said
    assert "of 18 rows, as 'r" in said
    assert done.err.count(said) == 1


@pytest.mark.usefixtures("python_313")
def test_in_the_versions_of_the_image(tmp_path: Path) -> None:
    """Python 3.13 with the image's polars, which only the gateway imports."""
    folder = project(tmp_path / "project", batches="polars", image="kaggle-2026-10-cpu")
    done = rehearse(folder, "--yes", env="matching").good()
    assert done.facts["rehearsal"]["python"].startswith("3.13.")
    assert done.facts["rehearsal"]["rows"] == ROWS


MODELS = """
competition = "rainfall"
competition_data = "input"
dataset = "rainfall-kit"
image = "local"
accelerator = "none"
checkpoints = ["weights/*.joblib"]

[notebook]
template = "server"
task = "tabular"
submission = "submission.csv"

[[notebook.models]]
files = "weights/*.joblib"

[notebook.params.gateway]
batches = "{batches}"
rows = 7
"""


@pytest.mark.parametrize("batches", ["pandas", "polars"])
def test_the_models_answer_without_a_function(tmp_path: Path, batches: str) -> None:
    """Two models, loaded once, give every batch the mean that they gave at training time."""
    import joblib
    import pandas as pd
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.linear_model import LinearRegression

    folder = project(tmp_path / "project")
    (folder / "offline-kit.toml").write_text(MODELS.format(batches=batches))
    train = pd.DataFrame({"x": [n / 3 for n in range(60)]})
    target = train["x"] ** 2
    models = [
        LinearRegression().fit(train, target),
        RandomForestRegressor(5, random_state=0).fit(train, target),
    ]
    for number, model in enumerate(models):
        joblib.dump(model, folder / "weights" / f"m{number}.joblib")
    test = pd.read_csv(folder / "input" / "test.csv")
    wanted = sum(model.predict(test[["x"]]) for model in models) / 2
    done = rehearse(folder).good()
    assert done.facts["rehearsal"]["rows"] == ROWS
    written = pd.read_csv(folder / "dist/offline-kit/rehearsal/submission.csv").set_index("row_id")
    assert list(written.loc[test["row_id"], "rain"]) == pytest.approx(list(wanted), rel=1e-5)


ADOPTED = """
import pandas as pd
import kaggle_evaluation.rain_inference_server

def predict(test):
    return pd.DataFrame({{"row_id": list(test["row_id"]), "rain": [3 * float(x) for x in test["x"]]}})

server = kaggle_evaluation.rain_inference_server.RainInferenceServer({predict})
import os
if os.getenv("KAGGLE_IS_COMPETITION_RERUN"):
    server.serve()
else:
    server.run_local_gateway(("/kaggle/input/competitions/rainfall/",))
"""


def adopted(folder: Path, predict: str = "predict") -> Path:
    """Write a project whose notebook is a person's own, for a competition with an inference server."""
    folder = project(folder)
    cell: dict[str, Any] = {
        "cell_type": "code",
        "id": "a",
        "metadata": {},
        "outputs": [],
        "execution_count": None,
    }
    cells = [{**cell, "source": ADOPTED.format(predict=predict)}]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    (folder / "mine.ipynb").write_text(
        json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": kernel, "cells": cells})
    )
    config = (
        'competition = "rainfall"\ncompetition_data = "input"\ndataset = "rainfall-kit"\nimage = "local"\n'
        'accelerator = "none"\n[notebook]\nsource = "mine.ipynb"\n[notebook.params.gateway]\nbatches = "pandas"\n'
    )
    (folder / "offline-kit.toml").write_text(config)
    return folder


@pytest.mark.parametrize("own", [False, True], ids=["the stand-in", "the competition's own"])
def test_a_notebook_of_ones_own_serves(tmp_path: Path, own: bool) -> None:
    """It imports the package as on Kaggle, without touching sys.path, and is rehearsed both ways."""
    folder = adopted(tmp_path / "project")
    if own:
        options = {"batches": "pandas", "rows": 7, "submission": "submission.csv"}
        gateway.write_standin(folder / "input", options, name="Rain")
    done = rehearse(folder).good()
    assert done.facts["rehearsal"]["rows"] == ROWS
    notes = " ".join(report(folder)["notes"])
    assert "then in two processes as in the scoring run" in notes
    assert ("the competition's own gateway" in notes) is own


def test_a_notebook_of_ones_own_that_serves_a_method_is_stopped(tmp_path: Path) -> None:
    """The relay of some competitions refuses it: better here than in the scoring run."""
    done = rehearse(adopted(tmp_path / "project", predict="[].append"))
    assert done.code == 1
    assert "an endpoint listener must be a function" in done.err


def contest(folder: Path, gateway_table: str = 'gateway = { batches = "pandas", rows = 4 }') -> Path:
    """Give a project the folder of a competition whose hidden test set has other rows."""
    place = folder / "competition"
    (place / "hidden").mkdir(parents=True)
    (folder / "input").replace(place / "public")
    (folder / "input").symlink_to(place / "public")
    hidden = range(100, 130)
    (place / "hidden" / "test.csv").write_text("row_id,x\n" + "".join(f"r{n},{n}.5\n" for n in hidden))
    (place / "hidden" / "sample_submission.csv").write_text(
        "row_id,rain\n" + "".join(f"r{n},0.0\n" for n in hidden)
    )
    (place / "solution.csv").write_text(
        "row_id,rain\n" + "".join(f"r{n},{3 * (n + 0.5) + n % 2}\n" for n in hidden)
    )
    (place / "competition.toml").write_text(
        f'slug = "rainfall"\nmetric = "mean_absolute_error"\n{gateway_table}\n'
    )
    return place


def ship(folder: Path) -> Done:
    words = ("--to", "local", "--env", "current", "--wait", "--yes", "--json")
    return run("ship", folder, *words, env={"OFFLINE_KIT_CACHE": str(folder.parent / "cache")})


@pytest.mark.parametrize(
    ("own", "submission"),
    [
        (False, "submission.csv"),
        (True, "submission.parquet"),
        pytest.param(True, "submission.csv", marks=pytest.mark.exhaustive),
        pytest.param(False, "submission.parquet", marks=pytest.mark.exhaustive),
    ],
)
def test_a_server_competition_is_shipped_to_the_score(tmp_path: Path, own: bool, submission: str) -> None:
    """The hidden run has a gateway, which asks for the hidden rows; half of them are wrong by one."""
    folder = project(tmp_path / "project", submission=submission)
    options = {"batches": "pandas", "rows": 4, "submission": submission}
    table = "" if own else f'gateway = {{ batches = "pandas" }}\nsubmission = "{submission}"'
    place = contest(folder, table)
    if own:
        gateway.write_standin(place / "public", options, name="Rain")
    done = ship(folder).good()
    assert "0.50000 (LOCAL)" in json.dumps(done.facts)


def test_a_notebook_of_ones_own_is_shipped_to_the_score(tmp_path: Path) -> None:
    """It serves the hidden run as well, without a word in competition.toml."""
    folder = adopted(tmp_path / "project")
    contest(folder)
    assert "0.50000 (LOCAL)" in json.dumps(ship(folder).good().facts)


SHARING = """
import os
from kaggle_evaluation.core import standin

class RainGateway(standin.Gateway):
    def __init__(self, data_paths=None, file_share_dir=None):
        super().__init__(data_paths)
        self.share = file_share_dir or "/kaggle/shared"

    def _make_batches(self, test, ids):
        for rows in super()._make_batches(test, ids):
            for name in [ids[row] for row in rows]:
                inside = f"{self.share}{self.root}/series/{name}.txt"
                os.makedirs(os.path.dirname(inside), exist_ok=True)
                os.symlink(f"{self.root}/series/{name}.txt", inside)
            yield rows
"""
SERVES_SHARED = """
from kaggle_evaluation.core import standin
from kaggle_evaluation.rain_gateway import RainGateway

class RainInferenceServer(standin.InferenceServer):
    def run_local_gateway(self, data_paths=None, file_share_dir=None):
        gateway = RainGateway(data_paths, file_share_dir)
        gateway.call = lambda name, batch: self.listeners[name](*batch)
        gateway.run()
"""
READS_SHARED = """
        import pathlib
        places = [next(pathlib.Path("/kaggle/shared").rglob(f"{name}.txt")) for name in test["row_id"]]
        assert [float(place.read_text()) for place in places] == list(test["x"])"""


def test_a_gateway_that_shares_files(tmp_path: Path) -> None:
    """Large inputs are links below /kaggle/shared, in a rehearsal of both ways and in the hidden run."""
    folder = project(tmp_path / "project", before=READS_SHARED.strip())
    place = contest(folder, "")
    options = {"batches": "pandas", "rows": 4, "submission": "submission.csv"}
    package = gateway.write_standin(place / "public", options, name="Rain")
    (package / "rain_gateway.py").write_text(SHARING)
    (package / "rain_inference_server.py").write_text(SERVES_SHARED)
    for data, rows in (("public", range(ROWS)), ("hidden", range(100, 130))):
        (place / data / "series").mkdir()
        for number in rows:
            (place / data / "series" / f"r{number}.txt").write_text(f"{number}.5")
    assert rehearse(folder).good().facts["rehearsal"]["rows"] == ROWS
    assert "0.50000 (LOCAL)" in json.dumps(ship(folder).good().facts)


def test_an_error_of_the_scoring_run_alone_ends_it(tmp_path: Path) -> None:
    """Not as a timeout: the gateway hears of it, and the submission is an error."""
    folder = project(tmp_path / "project", before='assert test["x"].iloc[0] < 100')
    contest(folder)
    done = ship(folder)
    assert done.code == 1
    assert "Notebook Threw Exception" in done.err


def test_the_file_that_the_gateway_wrote_is_the_submission(tmp_path: Path) -> None:
    """Gateways write parquet: it is taken where nothing says so."""
    folder = adopted(tmp_path / "project")
    options = {"batches": "pandas", "rows": 7, "submission": "submission.parquet"}
    gateway.write_standin(folder / "input", options, name="Rain")
    assert rehearse(folder).good().facts["rehearsal"]["rows"] == ROWS
