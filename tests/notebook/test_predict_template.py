"""The template `predict`: notebooks over tables, texts and pictures that run, and that a person is glad to read."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from offline_kit.checkpoints.frameworks import framework_table
from offline_kit.core.errors import ProjectError, UsageError
from offline_kit.core.resources import templates_folder
from offline_kit.notebook.predict_settings import predict_facts, read_columns
from offline_kit.project.types import Member, ModelSpec, NotebookSettings
from tests.support.lazy_modules import joblib
from tests.support.lazy_modules import pandas as pd
from tests.support.predicting import Stage


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


@pytest.fixture
def iris(stage: Stage) -> Any:
    """Train three models on flowers, write the last fifty as a test set, and return what the models say of them."""
    from sklearn.datasets import load_iris
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.tree import DecisionTreeClassifier

    flowers = load_iris(as_frame=True)
    x = flowers.data.sample(frac=1, random_state=0)
    y = flowers.target[x.index].map(dict(enumerate(flowers.target_names)))
    (stage.project / "models").mkdir()
    answers = []
    for name, model in {
        "a.joblib": make_pipeline(StandardScaler(), LogisticRegression()),
        "b.pkl": DecisionTreeClassifier(max_depth=3, random_state=0),
        "c.joblib": DecisionTreeClassifier(max_depth=2, random_state=1),
    }.items():
        model.fit(x[:100], y[:100])
        path = stage.project / "models" / name
        joblib.dump(model, path) if path.suffix == ".joblib" else path.write_bytes(pickle.dumps(model))
        answers.append(model.predict_proba(x[100:]))
    test = x[100:].copy()
    test.insert(0, "id", [f"{number:03d}" for number in range(len(test))])
    test.to_csv(stage.data / "test.csv", index=False)
    test[["id"]].assign(species="").to_csv(stage.data / "sample_submission.csv", index=False)
    columns = {"columns": x.dtypes.astype(str).to_dict()}
    (stage.project / "columns.json").write_text(json.dumps(columns))
    return np.stack(answers)


def names_of(values: Any) -> list[str]:
    return [["setosa", "versicolor", "virginica"][each] for each in values.argmax(axis=1)]


def test_an_ensemble_over_a_table_gives_the_labels_of_its_mean(stage: Stage, iris: Any) -> None:
    """Pickled and joblib models, each checked batch for batch against training's columns, and one label each."""
    rendered = stage.notebook(postprocess="argmax", columns="columns.json", batch_size=7)
    said = stage.run(rendered)
    assert "submission: agrees with 'sample_submission.csv'" in said, said
    for name in ("a.joblib", "b.pkl", "c.joblib"):
        assert f"{name}: 50 rows in" in said
    made = stage.submission()
    assert made["species"].tolist() == names_of(iris.mean(axis=0))
    assert made["id"].tolist()[:2] == ["000", "001"]


def test_at_the_end_of_the_time_the_notebook_writes_what_it_has(stage: Stage, iris: Any) -> None:
    """Rows that the first model did not reach keep the sample's values, and it says what is left out."""
    assert "deadline" not in stage.notebook(columns="columns.json").text
    rendered = stage.notebook(
        postprocess="argmax", columns="columns.json", batch_size=7, time_reserve=9 * 3600 - 0.01
    )
    said = stage.run(rendered)
    assert "submission: agrees with 'sample_submission.csv'" in said, said
    assert "#####\nTIME IS UP: 'a.joblib' predicted only its first 7 rows" in said
    assert "1 of 3 models are in the prediction, left out: b.pkl, c.joblib" in said
    made = stage.submission()
    assert made["species"].tolist()[:7] == names_of(iris[0])[:7]
    assert (made["species"].isna().sum(), len(made), len({*made["id"]})) == (43, 50, 50)


@pytest.mark.parametrize(("how", "weights"), [("weighted", (1.0, 5.0)), ("vote", (1.0, 1.0))])
def test_members_are_chosen_and_weighed(
    stage: Stage, iris: Any, how: str, weights: tuple[float, float]
) -> None:
    """Each entry of `models` is a member, or several by a glob, with its weight."""
    models = (
        ModelSpec(files="models/*.joblib", weight=weights[0]),
        ModelSpec(files="models/b.pkl", weight=weights[1]),
    )
    said = stage.run(stage.notebook(postprocess="argmax", ensemble=how, models=models))
    assert "agrees with" in said, said
    a, b, c = iris
    votes = sum(np.eye(3)[each.argmax(axis=1)] for each in iris)
    expected = names_of(a + c + 5 * b if how == "weighted" else votes)
    ties = votes.max(axis=1) == 1 if how == "vote" else np.zeros(50, bool)
    made = stage.submission()["species"]
    assert [m for m, tie in zip(made, ties, strict=True) if not tie] == [
        e for e, tie in zip(expected, ties, strict=True) if not tie
    ]


def test_hooks_get_what_they_name(stage: Stage, iris: Any) -> None:
    """`transform`, `tta` and `postprocess` are functions of the project, given preprocessing and params by name."""
    (stage.project / "shift.json").write_text("[0.5]")
    stage.code["hooks.py"] = (
        "def widen(piece, preprocessing):\n"
        "    return piece + preprocessing['shift.json'][0] - 0.5\n\n"
        "def twice(batch):\n"
        "    yield batch\n"
        "    yield batch\n\n"
        "def rows(predictions, ids, params):\n"
        "    return [{'id': i, 'species': params['words'][p.argmax()]} for i, p in zip(ids, predictions)]\n"
    )
    rendered = stage.notebook(
        preprocessing="shift.json",
        transform="hooks.py:widen",
        tta="hooks.py:twice",
        postprocess="hooks.py:rows",
        columns="columns.json",
        params={"words": ["x", "y", "z"]},
    )
    said = stage.run(rendered)
    assert "agrees with" in said, said
    short = {"setosa": "x", "versicolor": "y", "virginica": "z"}
    assert stage.submission()["species"].tolist() == [short[each] for each in names_of(iris.mean(axis=0))]


def test_a_scaler_beside_the_model_is_applied_by_transform(stage: Stage, iris: Any) -> None:
    """One that was fitted on a table takes what `transform` gets as it is: the ids are not among the columns."""
    from sklearn.preprocessing import StandardScaler
    from sklearn.tree import DecisionTreeClassifier

    assert iris.shape == (3, 50, 3)
    table_ = pd.read_csv(stage.data / "test.csv").drop(columns=["id"])
    scaler = StandardScaler().set_output(transform="pandas").fit(table_)
    names = names_of(iris[1])
    joblib.dump(scaler, stage.project / "scaler.joblib")
    model = DecisionTreeClassifier(random_state=0).fit(scaler.transform(table_), names)
    joblib.dump(model, stage.project / "models" / "scaled.joblib")
    stage.code["hooks.py"] = (
        "def scale(piece, preprocessing, ids):\n"
        "    assert len(ids) == len(piece)\n"
        "    return preprocessing['scaler.joblib'].transform(piece)\n"
    )
    rendered = stage.notebook(
        "models/scaled.joblib",
        "scaler.joblib",
        transform="hooks.py:scale",
        postprocess="argmax",
        batch_size=20,
    )
    said = stage.run(rendered)
    assert "agrees with" in said, said
    assert stage.submission()["species"].tolist() == list(model.predict(scaler.transform(table_)))


def test_a_test_set_unlike_the_training_is_explained(stage: Stage, iris: Any) -> None:
    """A column that is missing stops the notebook with its name and dtype."""
    assert iris.shape == (3, 50, 3)
    path = stage.data / "test.csv"
    pd.read_csv(path, dtype={"id": str}).rename(columns={"petal width (cm)": "petal"}).to_csv(
        path, index=False
    )
    said = stage.run(stage.notebook(postprocess="argmax", columns="columns.json"))
    assert "column 'petal width (cm)' (float64 in training) is missing" in said
    assert "training did not have: petal" in said


def test_texts_are_predicted(stage: Stage) -> None:
    """The string column goes to a pipeline as a list of texts; a regression's number fills the column."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline

    texts = ["good good", "bad", "good", "bad bad good"]
    model = make_pipeline(TfidfVectorizer(), Ridge()).fit(texts, [2.0, -1.0, 1.0, -0.5])
    (stage.project / "models").mkdir()
    joblib.dump(model, stage.project / "models" / "text.joblib", compress=3)
    rows = pd.DataFrame({"id": ["a", "b", "c"], "body": ["good", "bad bad", "good bad"]})
    rows.to_csv(stage.data / "test.csv", index=False)
    rows[["id"]].assign(score=0).to_csv(stage.data / "sample_submission.csv", index=False)
    said = stage.run(stage.notebook(task="text", postprocess="clip:-0.5:1"))
    assert "texts: column 'body' of test.csv" in said, said
    assert np.allclose(stage.submission()["score"], np.clip(model.predict(rows["body"]), -0.5, 1), atol=1e-6)


def test_pictures_are_predicted(stage: Stage) -> None:
    """Pictures become arrays by `transform`, in the sample's order, several labels to a cell."""
    from sklearn.dummy import DummyClassifier

    image = pytest.importorskip("PIL.Image")
    (stage.project / "models").mkdir()
    joblib.dump(DummyClassifier().fit([[0, 0]] * 4, list("ccab")), stage.project / "models" / "net.joblib")
    folder = stage.data / "test_images"
    folder.mkdir()
    for name in ("b", "a"):
        image.new("RGB", (4, 4)).save(folder / f"{name}.png")
    (stage.data / "sample_submission.csv").write_text("id,labels\nb,\na,\n")
    stage.code["pictures.py"] = (
        "import numpy as np\nfrom PIL import Image\n\n"
        "def load(path):\n    return np.asarray(Image.open(path), dtype=np.float32).mean(axis=(0, 1))[:2]\n"
    )
    said = stage.run(stage.notebook(task="images", transform="pictures.py:load", postprocess="labels:0.2"))
    assert "2 pictures; columns to fill: labels" in said, said
    assert (stage.folder / "working" / "submission.csv").read_text() == "id,labels\nb,a b c\na,a b c\n"


@pytest.mark.parametrize("postprocess", ["", "labels:0.5"])
def test_models_of_several_targets_fill_a_column_each(stage: Stage, postprocess: str) -> None:
    """A forest tells each target's classes, a ridge alone what it chose: their mean is a column, or a name."""
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import RidgeClassifier

    random = np.random.default_rng(1)
    x = pd.DataFrame(random.normal(size=(120, 3)), columns=list("abc"))
    y = np.stack([x.a > 0, x.b > 0.3, x.a + x.c > 0], axis=1).astype(int)
    forest, ridge = RandomForestClassifier(9, random_state=0).fit(x, y), RidgeClassifier().fit(x, y)
    (stage.project / "models").mkdir()
    joblib.dump(forest, stage.project / "models" / "forest.joblib")
    joblib.dump(ridge, stage.project / "models" / "ridge.joblib")
    shares = np.stack([each[:, 1] for each in forest.predict_proba(x)], axis=1)
    expected = (shares + ridge.predict(x)) / 2
    targets = ["labels"] if postprocess else ["x", "y", "z"]
    x.assign(id=[f"r{number}" for number in range(120)]).to_csv(stage.data / "test.csv", index=False)
    sample = pd.DataFrame({"id": [f"r{number}" for number in range(120)]})
    sample.assign(**dict.fromkeys(targets, "two three")).to_csv(
        stage.data / "sample_submission.csv", index=False
    )
    said = stage.run(stage.notebook(postprocess=postprocess, params={"labels": ["one", "two", "three"]}))
    assert "agrees with" in said, said
    if not postprocess:
        assert np.allclose(stage.submission()[targets], expected, atol=1e-6)
        return
    for cell, row in zip(stage.submission()["labels"], expected, strict=True):
        named = [name for name, value in zip(("one", "two", "three"), row, strict=True) if value > 0.5]
        assert cell.split() == (named or [("one", "two", "three")[row.argmax()]])


def test_a_template_of_ones_own_extends_it(stage: Stage, iris: Any) -> None:
    """Its blocks can be overridden one by one: here the cell that reads the test set, and that which predicts."""
    (stage.project / "mine.py.j2").write_text(
        '{% extends "predict.py.j2" %}\n'
        "{% block predict %}\n"
        "# %% predict\n"
        "first = members[:1]\n"
        'prediction = predict_all(first, {"sklearn": (load_sklearn, predict_sklearn)}, data)\n'
        "{% endblock %}\n"
    )
    said = stage.run(stage.notebook(template="mine.py.j2", task="tabular", postprocess="argmax"))
    assert "agrees with" in said, said
    assert stage.submission()["species"].tolist() == names_of(iris[0])


def member(name: str, framework: str, **more: Any) -> Member:
    return Member(name=name, framework=framework, path=Path(name), kit_path=f"checkpoints/{name}", **more)


@pytest.mark.parametrize("name", [each.name for each in framework_table.FRAMEWORKS])
def test_every_framework_has_its_fragment(name: str) -> None:
    """A framework of the table brings the two functions that a notebook calls."""
    text = (templates_folder() / "frameworks" / f"{name}.py.j2").read_text()
    assert f"def load_{name}(path, member):" in text
    assert f"def predict_{name}(model, batch, member):" in text


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"postprocess": "treshold:0.5"}, "treshold"),
        ({"postprocess": "threshold"}, "threshold:0.5"),
        ({"postprocess": "softmax"}, "neither one of"),
        ({"postprocess": "clip:0"}, "'clip:0:1', or with one limit as in 'clip:0:'"),
        ({"postprocess": "clip:1:0"}, "'clip:0:1'"),
        ({"postprocess": "clip::"}, "'clip:0:1'"),
        ({"postprocess": "labels:"}, "'labels:0.5'"),
        ({"postprocess": "labels:nan"}, "'labels:0.5'"),
        ({"ensemble": "mean", "models": (ModelSpec(files="a", weight=2.0),)}, "ignores the weights"),
    ],
)
def test_settings_that_do_not_fit_are_told(stage: Stage, settings: dict[str, Any], words: str) -> None:
    """A wrong word or reference is named at build, with what it should look like."""
    said = NotebookSettings(template="predict", **settings)
    with pytest.raises(UsageError) as caught:
        predict_facts(said, (member("a", "sklearn"),), {}, stage.project)
    assert words in "\n".join(caught.value.details)


@pytest.mark.parametrize(
    "settings",
    [
        *(
            {"postprocess": word}
            for word in ("clip:0:", "clip::1", "clip:-1e3:.5", "labels:.5", "threshold:5e-1")
        ),
        {"ensemble": "rank", "models": (ModelSpec(files="a", weight=2.0),)},
        {"ensemble": "vote", "models": (ModelSpec(files="a", weight=2.0),)},
    ],
)
def test_settings_that_fit_are_taken(stage: Stage, settings: dict[str, Any]) -> None:
    """Numbers as Python writes them, a clip with one limit, weights of ranks and votes."""
    said = NotebookSettings(template="predict", **settings)
    assert predict_facts(said, (member("a", "sklearn"),), {}, stage.project)["postprocess_word"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"columns": {}}',
        '{"columns": {"a": "category"}, "categories": {"b": []}}',
        '{"columns": {"a": 1}}',
        '{"other": 1}',
    ],
)
def test_a_file_of_columns_that_is_none_is_told(tmp_path: Path, text: str) -> None:
    """What to write at training stands in the error."""
    (tmp_path / "columns.json").write_text(text)
    with pytest.raises(ProjectError, match="columns of training") as caught:
        read_columns(tmp_path / "columns.json")
    assert "dtypes" in str(caught.value.hint)
