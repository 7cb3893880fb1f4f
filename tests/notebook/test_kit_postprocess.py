"""From predictions to rows: each word does what it says, and outputs that do not fit are told."""

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from offline_kit.notebook.runtime.kit_ensemble import EnsembleMember, Prediction, predict_all
from offline_kit.notebook.runtime.kit_hooks import Preprocessing, load_preprocessing_file, resolve_labels
from offline_kit.notebook.runtime.kit_postprocess import build_submission, list_labels, select_sample_rows
from offline_kit.notebook.runtime.kit_runtime import KitError, print_once
from offline_kit.notebook.runtime.kit_tasks import RowBatch, SampleSubmission, read_sample
from tests.support.lazy_modules import pandas as pd

SHARES = st.floats(0, 1, width=32)


def rows(
    values: Any, targets: list[str], word: str = "", *, classes: list[Any] | None = None, **more: Any
) -> Any:
    """Return the columns of the submission, and what was said, under "said"."""
    print_once.cache_clear()
    stream = io.StringIO()
    values = np.asarray(values, dtype=np.float32)
    ids = [f"r{number}" for number in range(len(values))]
    sample = SampleSubmission(Path("sample_submission.csv"), ("id", *targets), ids)
    with contextlib.redirect_stdout(stream):
        frame = build_submission(Prediction(ids, values, classes or []), sample, word, **more)
    assert isinstance(frame, pd.DataFrame)
    assert list(frame.columns) == list(sample.columns)
    assert frame["id"].tolist() == ids
    return {name: frame[name].tolist() for name in targets} | {"said": stream.getvalue().splitlines()}


def test_rows_that_nobody_asks_for_are_left_out(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sample's ids count; a small public sample in the scoring run does not."""
    whole = Prediction(["a", "b", "c"], np.arange(6, dtype=np.float32).reshape(3, 2), [])

    def ids_for(*wanted: str) -> list[str]:
        return select_sample_rows(whole, SampleSubmission(Path("s.csv"), ("id", "x"), list(wanted))).ids

    assert ids_for("c", "b", "a") == ["a", "b", "c"]
    assert capsys.readouterr().out == ""
    some = select_sample_rows(whole, SampleSubmission(Path("s.csv"), ("id", "x"), ["c"]))
    said = capsys.readouterr().out.splitlines()
    assert (some.ids, some.values.tolist()) == (["c"], [[4, 5]])
    assert said == ["note: 2 rows of the test set are not in 's.csv', and are left out"]
    monkeypatch.setenv("KAGGLE_IS_COMPETITION_RERUN", "1")
    assert ids_for("c") == ["a", "b", "c"]
    assert ids_for("c", "a") == ["a", "c"]


@given(arrays.arrays(np.float32, (4, 3), elements=SHARES))
def test_one_output_for_each_column(values: Any) -> None:
    """Without a word the predictions are the columns."""
    made = rows(values, ["a", "b", "c"])
    assert np.array_equal(np.array([made["a"], made["b"], made["c"]], np.float32).T, values)


def test_columns_go_by_the_names_of_the_classes() -> None:
    """Where the classes are the columns' names, or their endings, order does not matter; else it is told."""
    assert rows([[0.1, 0.9]], ["y", "x"], classes=["x", "y"]) | {"said": 0} == {
        "y": [pytest.approx(0.9)],
        "x": [pytest.approx(0.1)],
        "said": 0,
    }
    made = rows([[1, 2, 3]], ["Status_D", "Status_C", "Status_CL"], classes=["C", "CL", "D"])
    assert [made[name][0] for name in ("Status_D", "Status_C", "Status_CL")] == [3, 1, 2]
    made = rows([[1, 2]], ["p", "q"], classes=[0, 1])
    assert made["said"] == ["note: columns by position: p = 0, q = 1"]


@pytest.mark.parametrize(
    ("classes", "best"), [(["a", "b", "c"], "b"), ([0, 1, 2], "a"), ([], "a"), (["x", "y", "z"], "a")]
)
def test_labels_in_another_order_than_the_models_classes(classes: list[Any], best: str) -> None:
    """Models that know these names themselves say which column is which; `labels` name columns that have no names."""
    assert rows([[0.1, 0.7, 0.2]], ["label"], "argmax", classes=classes, labels=["c", "a", "b"])["label"] == [
        best
    ]
    made = rows([[0.1, 0.7, 0.2]], ["a", "b", "c"], classes=classes, labels=["c", "a", "b"])
    assert made[best] == [pytest.approx(0.7)]


def test_of_two_classes_the_second_fills_one_column() -> None:
    """A binary classifier's two columns become the probability of the second class, and it is said."""
    made = rows([[0.25, 0.75]], ["target"], classes=["no", "yes"])
    assert made["target"] == [0.75]
    assert made["said"] == ["column 'target': the probability of yes"]


@given(arrays.arrays(np.float32, (5, 4), elements=SHARES))
def test_argmax_names_the_best_output(values: Any) -> None:
    """The label of the largest output, by the names given, the model's own, or numbers."""
    best = values.argmax(axis=1)
    assert rows(values, ["label"], "argmax")["label"] == best.tolist()
    assert rows(values, ["label"], "argmax", classes=list("abcd"))["label"] == ["abcd"[each] for each in best]
    assert rows(values, ["label"], "argmax", classes=list("abcd"), labels=list("wxyz"))["label"] == [
        "wxyz"[each] for each in best
    ]


def test_argmax_of_one_column_is_its_threshold() -> None:
    """A single probability is one of two classes."""
    assert rows([[0.4], [0.6]], ["label"], "argmax", classes=["no", "yes"])["label"] == ["no", "yes"]
    assert rows([[0.4], [0.6]], ["label"], "argmax")["label"] == [0, 1]


@pytest.mark.parametrize(
    ("cells", "classes", "written"),
    [
        (["0", "0"], [0.0, 1.0], ["0", "1"]),
        (["0", "-3"], [False, True], ["0", "1"]),
        (["0"], list(np.array([1.0, 2.0])), ["1", "2"]),
        (["0.0"], [0, 1], ["0.0", "1.0"]),
        (["False", "True"], [0, 1], ["False", "True"]),
        (["False"], [False, True], ["False", "True"]),
        (["False"], [1, 2], ["1", "2"]),
        (["0"], ["0.0", "1.0"], ["0.0", "1.0"]),
        (["0"], [0.5, 1.0], ["0.5", "1.0"]),
        (["0.5"], [0, 1], ["0", "1"]),
        (["no"], [0, 1], ["0", "1"]),
        ([], [0.0, 1.0], ["0.0", "1.0"]),
    ],
)
@pytest.mark.parametrize("word", ["argmax", "threshold:0.5"])
def test_numbers_that_name_classes_are_written_as_in_the_sample(
    tmp_path: Path, word: str, cells: list[str], classes: list[Any], written: list[str]
) -> None:
    """A model that learnt from 0.0 and 1.0, or from truths, answers 0 and 1 where the sample does; words stay."""
    lines = [f"r{number},{cell}" for number, cell in enumerate(cells)]
    (tmp_path / "sample_submission.csv").write_text("\n".join(["id,label", *lines, ""]))
    sample = read_sample(tmp_path)
    values = np.array([[0.9, 0.1], [0.2, 0.8]], np.float32)
    made = build_submission(Prediction(["r0", "r1"], values, classes), sample, word)
    assert made.to_csv(index=False).split() == ["id,label", f"r0,{written[0]}", f"r1,{written[1]}"]
    assert sample.ids == [f"r{number}" for number in range(len(cells))]


@given(arrays.arrays(np.float32, (4, 2), elements=SHARES), st.sampled_from([0.25, 0.5, 0.75]))
def test_a_threshold_makes_yes_and_no(values: Any, limit: float) -> None:
    """Each column is 1 above the threshold, else 0."""
    made = rows(values, ["a", "b"], f"threshold:{limit}")
    assert made["a"] == (values[:, 0] > limit).astype(int).tolist()
    assert made["b"] == (values[:, 1] > limit).astype(int).tolist()


def test_a_threshold_names_the_classes_where_it_knows_two() -> None:
    """Spaceships and passengers want True and False, which is what the model learnt."""
    made = rows([[0.2, 0.8], [0.7, 0.3]], ["Transported"], "threshold:0.5", classes=[False, True])
    assert made["Transported"] == [True, False]


def test_labels_above_the_threshold_are_joined() -> None:
    """All that pass stand in one cell; where none does, the best one."""
    values = [[0.9, 0.1, 0.8], [0.2, 0.3, 0.1]]
    assert rows(values, ["labels"], "labels:0.5", labels=["rust", "scab", "spot"])["labels"] == [
        "rust spot",
        "scab",
    ]


@given(arrays.arrays(np.float32, (5, 1), elements=st.floats(-100, 100, width=32)))
def test_clipping_and_rounding(values: Any) -> None:
    """Clipped values lie within, rounded ones are whole."""
    clipped = rows(values, ["y"], "clip:0:10")["y"]
    assert all(0 <= each <= 10 for each in clipped)
    assert rows(values, ["y"], "clip:0:")["y"] == np.maximum(values[:, 0], 0).tolist()
    assert rows(values, ["y"], "clip::1e1")["y"] == np.minimum(values[:, 0], 10).tolist()
    rounded = rows(values, ["y"], "round")["y"]
    assert all(isinstance(each, int) for each in rounded)
    assert np.allclose(rounded, values[:, 0], atol=0.5)


@pytest.mark.parametrize("word", ["argmax", "threshold:0.5", "labels:0.5", "round", "clip:0:1"])
def test_of_nothing_no_answer_is_made(word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A NaN would be a label, a no, or a whole number of 19 digits, and no check would see it."""
    with pytest.raises(KitError, match=r"the models answer nan for 1 of 3 rows\n.*: r1"):
        rows([[0.5], [np.nan], [1.0]], ["y"], word)
    assert rows([[0.5, 0.6], [-np.inf, 1]], ["y"], "argmax")["y"] == [1, 1]
    with pytest.raises(KitError, match="the models answer inf for 1 of 2 rows"):
        rows([[0.5], [np.inf]], ["y"], "round")
    monkeypatch.setenv("KAGGLE_IS_COMPETITION_RERUN", "1")
    said = rows([[0.5], [np.nan]], ["y"], "threshold:0.4")
    assert said == {
        "y": [1, 0],
        "said": ["note: the models answer nan for 1 of 2 rows; the first of them: r1"],
    }


def test_large_numbers_are_rounded_to_themselves() -> None:
    """A number of nine digits, which float32 has not, is not another one in the submission."""
    frameworks = {"any": (lambda _path, _member: None, lambda _model, batch, _member: batch + 0.2)}
    batches = [RowBatch(["a", "b"], np.array([123456789.0, 123456791.0]))]
    found = predict_all([EnsembleMember("m", "any", Path("m"))], frameworks, batches)
    made = build_submission(found, SampleSubmission(Path("s.csv"), ("id", "y"), ["a", "b"]), "round")
    assert made["y"].tolist() == [123456789, 123456791]


@pytest.mark.parametrize(
    ("width", "targets", "word", "said"),
    [
        (3, ["label"], "", "3 outputs"),
        (3, ["a", "b"], "", "3 outputs"),
        (3, ["a", "b"], "argmax", "fills one column"),
        (3, ["a", "b"], "labels:0.5", "fills one column"),
        (3, ["a"], "round", "3 outputs"),
    ],
)
def test_outputs_that_do_not_fit_are_told(width: int, targets: list[str], word: str, said: str) -> None:
    """The numbers of outputs and columns are named, and what would fit."""
    with pytest.raises(KitError, match=said):
        rows(np.zeros((2, width)), targets, word)


def test_labels_come_in_many_shapes() -> None:
    """A list, a map to numbers, a map from numbers, an encoder."""
    assert list_labels(["a", "b"]) == ["a", "b"]
    assert list_labels({"b": 1, "a": 0}) == ["a", "b"]
    assert list_labels({"10": "c", "9": "b"}) == ["b", "c"]
    assert list_labels(type("Encoder", (), {"classes_": np.array(["x", "y"])})) == ["x", "y"]
    with pytest.raises(KitError, match="2 labels for 3 outputs"):
        rows(np.zeros((1, 3)), ["a"], "argmax", labels=["x", "y"])


def test_preprocessing_files_are_loaded_by_name(tmp_path: Path) -> None:
    """Each kind as what it is, once, and only when it is asked for; a folder by its path."""
    (tmp_path / "map.json").write_text(json.dumps({"a": 0}))
    (tmp_path / "words.txt").write_text("one\ntwo\n")
    (tmp_path / "tok").mkdir()
    (tmp_path / "tok" / "vocab.bin").write_bytes(b"x")
    np.save(tmp_path / "means.npy", np.arange(3))
    names = ["map.json", "words.txt", "means.npy", "tok/vocab.bin"]
    files = Preprocessing({name: tmp_path / name for name in names})
    assert list(files) == names
    assert files["map.json"] == {"a": 0}
    assert files["map.json"] is files["map.json"]
    assert files["words.txt"] == ["one", "two"]
    assert files["means.npy"].tolist() == [0, 1, 2]
    assert files["tok"] == tmp_path / "tok"
    assert files["tok/vocab.bin"] == tmp_path / "tok" / "vocab.bin"
    assert resolve_labels("map.json", files) == {"a": 0}
    assert resolve_labels(["a"], files) == ["a"]
    with pytest.raises(KitError, match=r"it has: map\.json"):
        files["scaler.joblib"]


def test_pickled_preprocessing_is_the_object(tmp_path: Path) -> None:
    """A scaler comes back as it was, by joblib or pickle."""
    import pickle

    joblib = pytest.importorskip("joblib")
    joblib.dump({"mean": 1}, tmp_path / "a.joblib", compress=3)
    (tmp_path / "b.pkl").write_bytes(pickle.dumps({"mean": 2}))
    assert load_preprocessing_file(tmp_path / "a.joblib") == {"mean": 1}
    assert load_preprocessing_file(tmp_path / "b.pkl") == {"mean": 2}


def test_a_preprocessing_file_by_a_near_name_is_named(tmp_path: Path) -> None:
    """A bare name that stands for two files, or a slip, leads to the names that there are."""
    kit = Preprocessing(
        {
            name: tmp_path / name
            for name in ("models/fold0/scaler.joblib", "models/fold1/scaler.joblib", "labels.json")
        }
    )
    for asked, hint in {
        "scaler.joblib": "did you mean 'models/fold0/scaler.joblib' or 'models/fold1/scaler.joblib'? Else add it",
        "label.json": "did you mean 'labels.json'?",
        "old/scaler.joblib": "did you mean 'models/fold0/scaler.joblib' or 'models/fold1/scaler.joblib'?",
        "fold1/scaler.joblib": "did you mean 'models/fold1/scaler.joblib'?",
        "x": "add it to `preprocessing`",
    }.items():
        with pytest.raises(KitError) as caught:
            kit.path(asked)
        assert caught.value.hint.startswith(hint)
