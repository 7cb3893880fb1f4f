"""The notebook's side of an inference server, against the stand-in package of a rehearsal."""

import functools
import json
import os
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from offline_kit.cli.commands.ship import show_rehearsal
from offline_kit.cli.console import Console
from offline_kit.core.errors import UsageError
from offline_kit.notebook.runtime import kit_server
from offline_kit.notebook.runtime.kit_runtime import KitError
from offline_kit.rehearsal import gateway, gateway_driver, gateway_standin, rehearse, submission_check
from tests.support.lazy_modules import pandas as pd
from tests.support.warm_python import notebook_python

ROWS = 23


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A competition's data, and a working folder to stand in."""
    root = tmp_path / "input" / "digits"
    root.mkdir(parents=True)
    table = pd.DataFrame(
        {"row_id": range(ROWS), "x": [n / 10 for n in range(ROWS)], "day": [n // 4 for n in range(ROWS)]}
    )
    table.to_csv(root / "test.csv", index=False)
    pd.DataFrame({"row_id": range(ROWS), "y": 0.0}).to_csv(root / "sample_submission.csv", index=False)
    (tmp_path / "working").mkdir()
    monkeypatch.chdir(tmp_path / "working")
    monkeypatch.delenv(gateway_standin.RERUN, raising=False)
    return root


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """Each test imports the package of its own data."""
    path = list(sys.path)
    yield
    sys.path[:] = path
    for name in [name for name in sys.modules if name.partition(".")[0] == kit_server.PACKAGE]:
        del sys.modules[name]


def standin(data: Path, *, new: bool = False, **options: Any) -> None:
    gateway.write_standin(data, {"batches": "pandas", "rows": 5, **options}, name="Digits", new=new)


def serve(data: Path, predict: Callable[..., Any], name: str = "submission.csv", **params: Any) -> Path:
    path = kit_server.serve_gateway(predict, data, Path.cwd() / name, params)
    assert path
    return path


def half(test: Any) -> Any:
    return pd.DataFrame({"row_id": test["row_id"], "y": test["x"] / 2})


@pytest.mark.parametrize("new", [False, True], ids=["the pair", "run"])
@pytest.mark.parametrize("name", ["submission.csv", "submission.parquet"])
def test_every_batch_is_answered(data: Path, name: str, new: bool) -> None:
    """With the older pair of calls and with `run`, batches come in random order and every row is predicted."""
    standin(data, new=new, submission=name)
    seen: list[int] = []

    def predict(test: Any) -> Any:
        seen.extend(test["row_id"])
        return half(test)

    path = serve(data, predict, name)
    written = pd.read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path)
    assert sorted(seen) == list(range(ROWS))
    assert seen != sorted(seen)
    assert list(written["row_id"]) == seen
    assert list(written["y"]) == pytest.approx([row / 20 for row in seen])


def test_polars_batches_come_as_polars(data: Path) -> None:
    """Where the gateway sends polars frames, polars answers are taken, and pandas ones too."""
    pl = pytest.importorskip("polars")
    standin(data, batches="polars", submission="submission.parquet")
    kinds = set()

    def predict(test: Any) -> Any:
        kinds.add(type(test))
        answer = test.select("row_id", (pl.col("x") / 2).alias("y"))
        return answer if len(test) == 5 else answer.to_pandas()

    written = pd.read_parquet(serve(data, predict, "submission.parquet"))
    assert kinds == {pl.DataFrame}
    assert dict(zip(written["row_id"], written["y"], strict=True)) == pytest.approx(
        {n: n / 20 for n in range(ROWS)}
    )


@pytest.mark.parametrize(
    ("rows", "sizes"),
    [(23, [4] * 5 + [3]), (1, [1]), (4, [1] * 4), (1000, [50] * 20)],
)
def test_there_are_several_batches_unless_told_otherwise(
    data: Path, monkeypatch: pytest.MonkeyPatch, rows: int, sizes: list[int]
) -> None:
    """A small public test set comes in parts as well, and in the second run in the opposite order."""
    pd.DataFrame({"row_id": range(rows), "x": 0.5}).to_csv(data / "test.csv", index=False)
    pd.DataFrame({"row_id": range(rows), "y": 0.0}).to_csv(data / "sample_submission.csv", index=False)
    gateway.write_standin(data, {"batches": "pandas", "submission": "submission.csv"})
    seen: list[list[int]] = []

    def predict(test: Any) -> Any:
        seen.append(list(test["row_id"]))
        return half(test)

    serve(data, predict)
    assert sorted(map(len, seen), reverse=True) == sizes
    first, seen = seen, []
    monkeypatch.setenv(gateway_standin.BACKWARDS, "1")
    serve(data, predict)
    assert seen == first[::-1]


def test_batches_by_a_column_with_their_sample(data: Path) -> None:
    """Batches may be days, and may come with their part of the sample; a series is an answer."""
    standin(data, by="day", sends=["test", "sample_submission"], submission="submission.csv")
    days = []

    def predict(test: Any, sample: Any) -> Any:
        days.append(set(test["day"]))
        assert list(sample["row_id"]) == list(test["row_id"])
        return test["x"]

    written = pd.read_csv(serve(data, predict))
    assert all(len(day) == 1 for day in days)
    assert len(days) == 6
    assert list(written.columns) == ["row_id", "y"]


@pytest.mark.parametrize("kept", [4, 0, 6])
def test_a_wrong_number_of_rows_is_explained(data: Path, kept: int) -> None:
    """It is told how many rows were asked for, how many came back, and in which batch."""
    standin(data, submission="submission.csv")
    calls = []

    def predict(test: Any) -> Any:
        calls.append(len(test))
        answer = half(test)
        return answer if len(calls) < 3 else pd.concat([answer, answer])[:kept]

    with pytest.raises(KitError) as caught:
        serve(data, predict)
    text = str(caught.value)
    assert "batch 3" in text
    assert f"{calls[-1]} rows were asked for" in text
    assert f"predict returned {kept}" in text
    assert f"returned: pandas.DataFrame of {kept} rows" in text
    assert "exactly one row for each row" in text


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (None, "predict returned None"),
        ([1.0] * 5, "predict returned a list"),
        ({"y": [1.0] * 5}, "predict returned a dict"),
        (lambda: pd.DataFrame({"z": [1.0] * 5}), "columns z instead of y"),
        (
            lambda: pd.DataFrame({"row_id": [99] * 5, "y": [1.0] * 5}),
            "column 'row_id' is not that of the batch",
        ),
        (0.5, "5 rows were asked for"),
    ],
)
def test_answers_that_kaggle_refuses_are_refused_here(data: Path, answer: Any, words: str) -> None:
    """None, plain lists, foreign columns and foreign ids do not get through."""
    pd.read_csv(data / "test.csv")[:20].to_csv(data / "test.csv", index=False)
    standin(data)
    with pytest.raises(KitError) as caught:
        serve(data, lambda test: answer() if callable(answer) else answer)
    assert words in str(caught.value)
    assert "hint: return a data frame or a series with the columns that are to be predicted" in str(
        caught.value
    )


def test_frames_are_told_with_their_library() -> None:
    """A polars frame is not taken for a pandas one; one row is no rows."""
    pl = pytest.importorskip("polars")
    assert kit_server.describe_value(pl.DataFrame({"y": [1, 2]})) == "polars.DataFrame of 2 rows (y)"
    assert kit_server.describe_value(pd.DataFrame({"y": [1]})) == "pandas.DataFrame of 1 row (y)"
    assert kit_server.describe_value(pd.Series([1, 2])) == "pandas.Series of 2"
    assert kit_server.describe_value([1.0]) == "list of 1"


def test_batches_are_counted(capsys: pytest.CaptureFixture[str], data: Path) -> None:
    """The last line of the server's tells how many there were."""
    for size, words in ((ROWS, "server: 1 batch answered"), (12, "2 batches answered")):
        standin(data, rows=size, submission="submission.csv")
        serve(data, half)
        assert words in capsys.readouterr().out.splitlines()[-1]


def test_a_rehearsal_tells_the_rows_that_its_gateway_counted(data: Path, tmp_path: Path) -> None:
    """Of one batch too, and where a gateway tells nothing there is no number."""
    ran: Any = SimpleNamespace(executed=tmp_path / "scoring" / "executed.ipynb", working=tmp_path)
    service = gateway.prepare_gateway(data, {}, "submission.parquet", tmp_path / "side")
    assert gateway.read_gateway_result(ran) == {}
    assert len(gateway.describe_second_run(ran, service)) == 1
    folder = tmp_path / "scoring" / "gateway"
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps({"Batches": 1, "Rows": ROWS}))
    assert gateway.read_gateway_result(ran)["Rows"] == ROWS
    assert gateway.describe_second_run(ran, service)[-1].startswith(f"{ROWS} rows in 1 batch, ")


@pytest.mark.parametrize(
    ("rows", "words"), [(0, "submission.parquet"), (1, "submission.parquet (1 row)"), (7, "(7 rows)")]
)
def test_a_rehearsals_summary_tells_rows_only_when_known(
    rows: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A parquet of unknown length is not told to have 0 rows."""
    known: dict[str, Any] = {each.name: "" for each in fields(rehearse.Rehearsal)}
    known |= {"differences": (), "notes": (), "seconds": 1.0, "peak_memory": 0, "rows": rows}
    passed = rehearse.Rehearsal(
        **{**known, "submission": Path("submission.parquet"), "folder": Path("evidence")}
    )
    show_rehearsal(passed, Console())
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "submission.parquet" in line]
    assert line.endswith(words)


def test_an_error_in_predict_names_the_batch_and_stays_in_the_chain(data: Path) -> None:
    """What was raised is not hidden behind the gateway's words."""
    standin(data)

    def predict(test: Any) -> Any:
        raise ZeroDivisionError("no days")

    with pytest.raises(KitError, match=r"predict raised ZeroDivisionError at batch 1: no days") as caught:
        serve(data, predict)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


FUNCTIONS = """
from offline_kit.notebook.runtime.kit_hooks import Context

NUMBER = 3

def predict(test):
    return test["x"] / 2

def later(context):
    return lambda test: test["x"] / context.params["by"]

def annotated(session: "Context"):
    return later(session)

class Answer:
    def __init__(self, context):
        self.by = context.params["by"]

    def __call__(self, test):
        return test["x"] / self.by

answer = Answer(Context(None, {}, None, (), None, None, {"by": 2}, "cpu"))

class Bare:
    pass

def nothing(context):
    return None

def broken(context):
    return {}["weights"]

def unnamed(ctx):
    return predict

def fails(test):
    raise ValueError("a bad day")
"""


def function_of(data: Path, name: str) -> Callable[..., Any]:
    """Return a predict as the template's: made of the user's function at the first batch."""
    code = data.parents[1] / "kit" / "code"
    code.mkdir(parents=True)
    (code / "answer.py").write_text(FUNCTIONS)
    kit: Any = SimpleNamespace(folder=code.parent)
    context: Any = SimpleNamespace(params={"by": 2})
    made: list[Callable[..., Any]] = []

    def predict(*batch: Any) -> Any:
        made.extend([] if made else [kit_server.make_predictor(f"answer.py:{name}", kit, context)])
        return made[0](*batch)

    return predict


@pytest.mark.parametrize("name", ["predict", "later", "annotated", "Answer", "answer"])
def test_a_function_is_the_predict_or_makes_it(data: Path, name: str) -> None:
    """Kaggle's own predict(test), what takes a context and returns one, and classes: the signature decides."""
    standin(data, submission="submission.csv")
    written = pd.read_csv(serve(data, function_of(data, name)))
    assert list(written["y"]) == pytest.approx([row / 20 for row in written["row_id"]])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("NUMBER", "'answer.py:NUMBER' cannot be called: its type is int"),
        ("nothing", "calling 'answer.py:nothing' with the context gave a NoneType, which cannot be called"),
        ("broken", "calling 'answer.py:broken' with the context raised KeyError: 'weights'"),
        ("Bare", "constructing 'answer.py:Bare' with the context raised TypeError"),
        ("unnamed", "predict returned a function for batch 1"),
    ],
)
def test_what_makes_no_predict_is_told_apart_from_a_wrong_answer(data: Path, name: str, words: str) -> None:
    """The error names the function and what became of it; the remedy is the rule."""
    standin(data)
    with pytest.raises(KitError) as caught:
        serve(data, function_of(data, name))
    assert str(caught.value).startswith(words)
    assert kit_server.RULE in str(caught.value)
    assert str(caught.value).count("hint:") == 1


def test_an_error_of_an_answer_is_no_error_of_the_construction(data: Path) -> None:
    """A predict that raises is told with its batch, and without the rule."""
    standin(data)
    with pytest.raises(KitError, match="predict raised ValueError at batch 1: a bad day") as caught:
        serve(data, function_of(data, "fails"))
    assert kit_server.RULE not in str(caught.value)


def test_the_package_is_found_and_its_absence_told(data: Path) -> None:
    """It may lie one folder deeper; a competition without it is named with what its data has."""
    with pytest.raises(KitError, match=r"has no kaggle_evaluation(.|\n)*test\.csv"):
        kit_server.find_server_package(data)
    with pytest.raises(KitError, match="names none"):
        kit_server.find_server_package(None)
    gateway.write_standin(data / "more", {})
    assert kit_server.find_server_package(data) == data / "more" / "kaggle_evaluation"


def test_two_servers_in_one_package_have_to_be_chosen_from(data: Path) -> None:
    """The error shows both, and `server` in the params decides."""
    standin(data)
    gateway.write_standin(data, {"batches": "pandas"}, name="Letters")
    with pytest.raises(KitError, match=r"digits_inference_server:DigitsInferenceServer(.|\n)*Letters"):
        serve(data, half)
    for name in (
        "kaggle_evaluation.letters_inference_server:LettersInferenceServer",
        "LettersInferenceServer",
    ):
        assert serve(data, half, "submission.parquet", server=name)
    with pytest.raises(KitError, match=r"Letters(.|\n)*`server = "):
        serve(data, half, server="Nobody")


NESTED_SERVER = """
from kaggle_evaluation.core.standin import InferenceServer as Base
from kaggle_evaluation.rain_20441 import asks

class Common(Base):
    pass

class RainAnswers(Common):
    def _get_gateway_for_test(self, data_paths=None, file_share_dir=None):
        return asks.RainHost(data_paths[0] if data_paths else "")

if __name__ == "__main__":
    class ForItsOwnRun(Base):
        pass
"""
NESTED_GATEWAY = """
from kaggle_evaluation.core import standin

class RainHost(standin.Gateway):
    def __init__(self, folder):
        super().__init__([folder] if folder else None)
"""


def nested(data: Path, **options: Any) -> None:
    """Write a package as newer competitions have it: their files in a folder of their own, under any name."""
    package = gateway.write_standin(
        data, {"batches": "pandas", "rows": 5, "submission": "submission.csv", **options}
    )
    for path in package.glob("*_*.py"):
        if path.name != "__init__.py":
            path.unlink()
    (package / "rain_20441").mkdir()
    (package / "rain_20441" / "__init__.py").touch()
    (package / "rain_20441" / "serves.py").write_text(NESTED_SERVER)
    (package / "rain_20441" / "asks.py").write_text(NESTED_GATEWAY)
    (package / "rain_20441" / "broken.py").write_text("!pip install polars\n")


def test_server_and_gateway_are_found_by_what_they_derive_from(
    capsys: pytest.CaptureFixture[str], data: Path
) -> None:
    """Nested in a folder and named otherwise, they serve in one process and in two; both are told."""
    nested(data, port=free_port())
    path = kit_server.serve_gateway(half, data, Path.cwd() / "submission.csv", {})
    said = capsys.readouterr().out.splitlines()
    assert path is not None
    assert len(pd.read_csv(path)) == ROWS
    assert "RainAnswers" in said[0]
    assert "kaggle_evaluation.rain_20441.asks:RainHost" in said[0]
    code, outcome, result, log = scored(data, "return pd.DataFrame({'y': test['x'] * 2})")
    assert (code, outcome["gateway"], result.get("Rows")) == (0, 0, ROWS), log
    assert "RainHost" in log


@pytest.mark.parametrize(
    ("named", "code"),
    [
        ({"gateway": "kaggle_evaluation.rain_20441.asks:RainHost"}, 0),
        ({"gateway": "RainHost", "server": "RainAnswers"}, 0),
        ({"gateway": "SnowHost"}, 1),
    ],
)
def test_the_configuration_names_the_gateway(data: Path, named: dict[str, str], code: int) -> None:
    """One that is not there is told with those that are."""
    nested(data, port=free_port())
    ended, _, _, log = scored(data, "return test['x']", **named)
    assert ended == code, log
    assert "rain_20441.asks" in log


class Answering:
    def __call__(self, test: Any) -> Any:
        return half(test)

    def method(self, test: Any) -> Any:
        return half(test)


@pytest.mark.parametrize(
    "predict",
    [
        half,
        lambda test: half(test),
        functools.partial(half),
        Answering(),
        Answering().method,
        functools.lru_cache(half),
    ],
    ids=["function", "lambda", "partial", "object", "method", "compiled wrapper"],
)
def test_whatever_can_be_called_is_served(data: Path, predict: Callable[..., Any]) -> None:
    """A relay that takes plain functions only gets one."""
    standin(data, submission="submission.csv")
    uncached = getattr(predict, "__wrapped__", None)
    assert len(pd.read_csv(serve(data, functools.partial(uncached) if uncached else predict))) == ROWS


@pytest.mark.parametrize(
    "listener", [len, Answering(), Answering().method, functools.partial(half), lambda test: test]
)
def test_the_stand_in_takes_plain_functions_only(data: Path, listener: Callable[..., Any]) -> None:
    """As the strictest relay of a real competition: a notebook that passes here must not fail there."""
    standin(data)
    made = kit_server.load_class(kit_server.find_server_package(data), kit_server.SERVER)
    with pytest.raises(ValueError, match="endpoint listener"):
        made(listener)
    with pytest.raises(ValueError, match="endpoint listener"):
        made()
    made(half)


@pytest.mark.parametrize(
    ("signature", "passed"),
    [
        ("self, *listeners", True),
        ("self, predict", True),
        ("self, *, predict_fn", True),
        ("self, data_paths=None", False),
        ("self", False),
    ],
)
def test_a_server_is_constructed_as_it_wants(data: Path, signature: str, passed: bool) -> None:
    """Whatever its parameter is called; one that takes no function is told with its signature."""
    space: dict[str, Any] = {}
    exec(f"class S:\n  def __init__({signature}):\n    self.given = locals()", space)
    if passed:
        given = kit_server.construct_server(space["S"], Answering()).given
        assert any(
            isinstance(each, types.FunctionType) and each.__name__ == "predict"
            for value in given.values()
            for each in (value if isinstance(value, tuple) else [value])
        )
    else:
        with pytest.raises(KitError, match="takes no function"):
            kit_server.construct_server(space["S"], half)


ADOPTED = """
{imported}
import pandas as pd
def predict(test):
    return pd.DataFrame({{"y": test["x"] * 2}})
server = {server}(predict)
import os
if os.getenv("KAGGLE_IS_COMPETITION_RERUN"):
    server.serve()
else:
    server.run_local_gateway(({paths},))
"""


@pytest.mark.parametrize(
    ("imported", "server", "paths"),
    [
        (
            "import kaggle_evaluation.my_inference_server",
            "kaggle_evaluation.my_inference_server.MyInferenceServer",
            "str(root) + '/'",
        ),
        (
            "from kaggle_evaluation.nfl_inference_server import NFLInferenceServer as Server",
            "Server",
            "str(root / 'test.csv')",
        ),
        (
            "from kaggle_evaluation.a_12 import a_server",
            "a_server.AServer",
            "str(root / 'test.csv'), str(root / 'sample_submission.csv')",
        ),
        (
            "import kaggle_evaluation.core.templates as t\nclass Own(t.InferenceServer):\n    pass",
            "Own",
            "str(root) + '/'",
        ),
    ],
)
def test_the_stand_in_answers_to_any_competitions_names(
    data: Path, imported: str, server: str, paths: str
) -> None:
    """A notebook of the user's imports its competition's server, whatever it is called, and tells it its paths."""
    gateway.write_standin(data, {"batches": "pandas", "submission": "submission.csv"})
    script = f"from pathlib import Path\nroot = Path({str(data)!r})\n" + ADOPTED.format(
        imported=imported, server=server, paths=paths
    )
    env = {**os.environ, "PYTHONPATH": str(data)}
    done = subprocess.run(
        [notebook_python(), "-c", script], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert len(pd.read_csv("submission.csv")) == ROWS


def test_what_the_stand_in_has_not_is_told(data: Path) -> None:
    """A name that is no server and no gateway is an error with the remedy, no empty module."""
    gateway.write_standin(data, {})
    sys.path.append(str(data))
    with pytest.raises(ImportError, match="competition_data"):
        exec("from kaggle_evaluation.svg_constraints import SVGConstraints")


GATEWAY = """
class G(kaggle_evaluation.core.templates.Gateway):
    def unpack_data_paths(self):
        if not self.data_paths:
            self.test = '/kaggle/input/{place}/test.parquet'
            self.lags = "/kaggle/input/{place}/lags.parquet"
        else:
            self.test, self.lags = self.data_paths

    def other(self):
        return '/kaggle/input/another/thing.csv'
"""


@pytest.mark.parametrize("place", ["digits", "competitions/digits"])
def test_data_is_looked_for_where_it_is_mounted(data: Path, place: str) -> None:
    """A gateway written for another mount layout is told the paths that it names itself, or those of the params."""
    package = data / "kaggle_evaluation"
    package.mkdir()
    assert kit_server.find_data_paths(data) is None
    (package / "digits_gateway.py").write_text(GATEWAY.format(place=place))
    assert kit_server.find_data_paths(data) == (str(data / "test.parquet"), str(data / "lags.parquet"))
    assert kit_server.find_data_paths(data, ["a", "b"]) == (str(data / "a"), str(data / "b"))


def test_another_format_than_the_notebook_submits_is_told(data: Path) -> None:
    """A gateway that writes CSV where parquet is to be submitted: the setting is named."""
    standin(data, submission="submission.csv")
    with pytest.raises(KitError, match=r'set `submission = "submission.csv"`'):
        serve(data, half, "submission.parquet")


@pytest.mark.parametrize(
    ("params", "word"),
    [
        ({"gateway": {"batch_rows": 3}}, "batch_rows"),
        ({"gateway": {"rows": "many"}}, "rows"),
        ({"gateway": {"rows": True}}, "rows"),
        ({"gateway": {"batches": 3}}, "batches"),
        ({"gateway": {"sends": "test"}}, "sends"),
        ({"gateway": 3}, "gateway"),
        ({"gateway": "rain:RainHost"}, "rain:RainHost"),
        ({"data_paths": "test.csv"}, "data_paths"),
        ({"data_paths": 3}, "data_paths"),
    ],
)
def test_what_is_wrong_with_the_gateways_options_is_told(
    data: Path, tmp_path: Path, params: dict[str, Any], word: str
) -> None:
    """A typing error in the params does not pass in silence, nor as an error of ours."""
    with pytest.raises(UsageError) as caught:
        gateway.prepare_gateway(data, params, "submission.csv", tmp_path / "side")
    assert word in " ".join((caught.value.what, *caught.value.details))


def test_the_competitions_own_package_is_preferred(data: Path, tmp_path: Path) -> None:
    """Nothing is laid over what the data brings, and its imports count."""
    own = gateway.write_standin(data, {})
    service = gateway.prepare_gateway(data, {}, "submission.csv", tmp_path / "side")
    assert service.package is None
    assert service.added_folders() == {}
    assert own / "core" / "standin.py" in service.code


NOTEBOOK = """
import os, sys, time
from pathlib import Path
import pandas as pd
from offline_kit.notebook.runtime import kit_server
{before}
def predict(test):
    {body}
assert os.environ["KAGGLE_IS_COMPETITION_RERUN"]
kit_server.serve_gateway(predict, Path(sys.argv[1]), Path("submission.csv"))
"""


def scored(
    data: Path, body: str, before: str = "", **params: str
) -> tuple[int, dict[str, Any], dict[str, Any], str]:
    """Run notebook and gateway as two processes; return code, outcome, result and the gateway's log."""
    folder = data.parents[1] / "gateway"
    script = data.parents[1] / "notebook.py"
    script.write_text(NOTEBOOK.format(body=body, before=before))
    words = [
        gateway_driver.__file__,
        str(folder),
        str(data),
        json.dumps(params),
        notebook_python(),
        str(script),
        str(data),
    ]
    env = {**os.environ, "PYTHONPATH": str(Path(kit_server.__file__).parents[1])}
    done = subprocess.run([notebook_python(), *words], env=env, timeout=60, check=False)
    outcome = json.loads((folder / "outcome.json").read_text())
    written = folder / "result.json"
    result = json.loads(written.read_text()) if written.is_file() else {}
    return done.returncode, outcome, result, (folder / "log.txt").read_text()


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return int(probe.getsockname()[1])


def test_two_processes_with_the_rerun_variable(data: Path) -> None:
    """As in the scoring run: the notebook serves, the gateway asks and writes, and then the notebook is ended."""
    standin(data, submission="submission.csv", port=free_port())
    code, outcome, result, log = scored(data, "return pd.DataFrame({'y': test['x'] * 2})")
    assert code == 0, log
    assert outcome["gateway"] == 0
    assert result["Succeeded"] is True
    assert (result["Rows"], result["Batches"]) == (ROWS, 5)
    written = pd.read_csv(data.parents[1] / "gateway" / "submission.csv")
    assert dict(zip(written["row_id"], written["y"], strict=True)) == pytest.approx(
        {n: n / 5 for n in range(ROWS)}
    )


def test_two_processes_and_a_wrong_number_of_rows(data: Path) -> None:
    """The gateway says which batch, how many rows were asked for and how many came."""
    standin(data, submission="submission.csv", port=free_port())
    code, _, result, _ = scored(data, "return pd.DataFrame({'y': test['x'][1:]})")
    assert code == 1
    assert result["ErrorType"] == "INVALID_SUBMISSION"
    assert "batch 1: 5 rows were asked for" in result["ErrorDetails"]
    assert "predict returned 4" in result["ErrorDetails"]


def test_two_processes_and_an_error_in_predict(data: Path) -> None:
    """The gateway passes on what was raised."""
    standin(data, port=free_port())
    code, _, result, _ = scored(data, "raise KeyError('day')")
    assert code == 1
    assert result["ErrorType"] == "SERVER_RAISED_EXCEPTION"
    assert "KeyError: 'day'" in result["ErrorDetails"]


def test_a_server_that_comes_up_too_late(data: Path) -> None:
    """What is loaded before the cell that serves counts against the start limit."""
    standin(data, port=free_port(), start_limit=1.5)
    code, outcome, result, _ = scored(data, "return test['x']", before="time.sleep(30)")
    assert code == 1
    assert outcome["first"] == "gateway"
    assert result["ErrorType"] == "SERVER_NEVER_STARTED"
    assert float(outcome["seconds"]) < 20


def test_a_notebook_that_fails_first_ends_the_run(data: Path) -> None:
    """Its own code is what the run ends with; the gateway does not wait for its limit."""
    standin(data, port=free_port())
    code, outcome, _, _ = scored(data, "return test['x']", before="raise SystemExit(7)")
    assert code == 7
    assert (outcome["first"], outcome["notebook"]) == ("notebook", 7)


@pytest.mark.parametrize("batches", ["pandas", "polars"])
def test_a_parquet_submission_is_checked_as_a_csv_is(data: Path, batches: str) -> None:
    """Holes, infinities and whatever the sample has otherwise are found in what a gateway wrote as parquet too."""
    standin(data, batches=batches, submission="submission.parquet", port=free_port())
    body = "return pd.DataFrame({'y': [None, *[float('inf')] * (len(test) - 1)]})"
    code, _, _, log = scored(data, body)
    assert code == 0, log
    place = data.parents[1]
    ran: Any = SimpleNamespace(executed=place / "executed.ipynb", working=place / "working")
    table = gateway.collect_submission(ran, "submission.parquet")
    written = place / "working" / "submission.parquet"
    checked = submission_check.check_submission(written, data / "sample_submission.csv", table=table)
    (problem,) = checked.problems
    assert problem.startswith(f"column 'y': empty, NaN or infinite in {ROWS} rows")
    assert (checked.rows, checked.notes[-1]) == (
        ROWS,
        f"compared with 'sample_submission.csv': {ROWS} rows, 2 columns",
    )


def test_a_parquet_that_cannot_be_read_is_no_failure(data: Path, tmp_path: Path) -> None:
    """Its gateway was content; it is only told how little was checked."""
    (tmp_path / "odd.parquet").write_bytes(b"PAR1")
    gateway_driver.convert_to_csv(tmp_path / "odd.parquet", tmp_path / "odd.parquet.csv")
    assert not (tmp_path / "odd.parquet.csv").exists()
