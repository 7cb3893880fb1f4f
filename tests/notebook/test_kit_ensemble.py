"""Ensembles: means, ranks and votes as their definitions say, one model in memory at a time."""

import gc
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from offline_kit.notebook.runtime.kit_ensemble import (
    Blend,
    Ensemble,
    EnsembleMember,
    apply_activation,
    as_row_array,
    compute_ranks,
    count_votes,
    model_classes,
    order_columns,
    predict_all,
)
from offline_kit.notebook.runtime.kit_runtime import KitError, print_once
from offline_kit.notebook.runtime.kit_tasks import RowBatch
from tests.support.lazy_modules import torch

SHARES = st.floats(0, 1, width=32)
MATRICES = st.integers(1, 4).flatmap(
    lambda columns: st.lists(arrays.arrays(np.float32, (6, columns), elements=SHARES), min_size=1, max_size=5)
)
ROWS = [RowBatch([1, 2], np.array([[1.0], [2.0]])), RowBatch([3], np.array([[3.0]]))]


def test_a_pickle_of_another_pandas() -> None:
    """The model, and the versions to train it with again; any other failure stays what it is."""
    import pandas as pd

    def told(error: Exception) -> str:
        def load(_path: Path, _member: EnsembleMember) -> Any:
            raise error

        with pytest.raises((KitError, NotImplementedError)) as caught:
            predict_all([EnsembleMember("ridge.joblib", "some", Path("x"))], {"some": (load, load)}, [])
        return str(caught.value)

    said = told(NotImplementedError("(<StringDtype(na_value=nan)>, array([]))"))
    assert f"'ridge.joblib' was written by another pandas than the notebook's {pd.__version__}" in said
    assert f"pip install pandas=={pd.__version__} numpy=={np.__version__}" in said
    assert told(NotImplementedError("something else")) == "something else"


def test_ranks_of_numbers_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    """Where answers are no shares, what is submitted is nothing like them; of shares nothing is said."""

    def said(how: str, factor: float) -> list[str]:
        lines: list[str] = []
        frameworks = {
            "some": (lambda _path, _member: Times(factor), lambda model, batch, _member: batch * model.factor)
        }
        predict_all([EnsembleMember("a", "some", Path("a"))], frameworks, ROWS, how)
        lines += capsys.readouterr().out.splitlines()
        return [line for line in lines if "ranks from 0 to 1" in line]

    assert (len(said("rank", 1000.0)), said("rank", 0.1), said("mean", 1000.0)) == (1, [], [])


def blended(how: str, values: list[Any], weights: list[float] | None = None) -> Any:
    blend = Blend(how)
    for number, each in enumerate(values):
        blend.add_prediction(each, weights[number] if weights else 1.0)
    return blend.combine_predictions()


class Times:
    """A model that multiplies; it has learnt `classes_` where they are given."""

    def __init__(self, factor: float, classes: list[Any] | None = None) -> None:
        self.factor = factor
        if classes:
            self.classes_ = classes


def members(*factors: float, **more: Any) -> list[EnsembleMember]:
    return [EnsembleMember(f"m{n}", "times", Path(str(factor)), **more) for n, factor in enumerate(factors)]


def times(model: Times, batch: Any, _member: EnsembleMember) -> Any:
    return batch * model.factor


TIMES = {"times": (lambda path, _member: Times(float(str(path))), times)}


@given(MATRICES)
def test_the_mean_is_the_mean(values: list[Any]) -> None:
    """Members count alike, whatever their weight."""
    expected = np.mean(np.stack(values).astype(np.float64), axis=0)
    assert np.allclose(blended("mean", values, [3.0] * len(values)), expected, atol=1e-6)


@given(MATRICES, st.data())
def test_weighted_means_follow_the_weights(values: list[Any], data: st.DataObject) -> None:
    """A weight of two is as good as the model twice, of values and of ranks, and only ratios count."""
    weights = data.draw(st.lists(st.integers(1, 4), min_size=len(values), max_size=len(values)))
    twice = [each for each, weight in zip(values, weights, strict=True) for _ in range(weight)]
    assert np.allclose(
        blended("weighted", values, [weight / 7 for weight in weights]), blended("mean", twice), atol=1e-5
    )
    assert np.allclose(blended("rank", values, [weight / 7 for weight in weights]), blended("rank", twice))


@given(MATRICES, st.randoms())
def test_the_order_of_members_does_not_matter(values: list[Any], random: Any) -> None:
    """Any order of the members gives the same, but for the last digit."""
    shuffled = list(values)
    random.shuffle(shuffled)
    for how in ("mean", "rank"):
        assert np.allclose(blended(how, values), blended(how, shuffled), atol=1e-6), how


@given(arrays.arrays(np.float32, (7, 2), elements=st.floats(-1e3, 1e3, width=32)))
def test_ranks_know_order_alone(values: Any) -> None:
    """Ranks are between 0 and 1, equal values share one, and stretching the values changes nothing."""
    ranks = compute_ranks(values)
    assert ranks.min() > 0
    assert ranks.max() <= 1
    assert np.allclose(ranks.mean(axis=0), 8 / 14)  # the mean of 1..7, whoever ties
    assert np.array_equal(ranks, compute_ranks(values.astype(np.float64) * 4))
    for column in range(2):
        for one in range(7):
            for other in range(7):
                a, b = values[one, column], values[other, column]
                assert (a < b) == (ranks[one, column] < ranks[other, column])


@given(MATRICES.filter(lambda values: len(values) % 2 == 1))
def test_the_majority_wins_the_vote(values: list[Any]) -> None:
    """What most members choose is chosen."""
    result = blended("vote", values)
    chosen = sum(count_votes(each) for each in values)
    assert set(np.unique(result)) <= {0.0, 1.0}
    for row, votes in zip(result, chosen, strict=True):
        if len(votes) == 1:
            assert bool(row[0]) == (votes[0] > len(values) / 2)
        else:
            assert row.sum() == 1
            assert votes[row.argmax()] == votes.max()


def test_where_votes_are_equal_the_means_decide() -> None:
    """Two members of two minds: the surer one wins; with weights, the heavier one."""
    one, other = np.array([[0.9, 0.1]], np.float32), np.array([[0.4, 0.6]], np.float32)
    assert blended("vote", [one, other]).tolist() == [[1, 0]]
    assert blended("vote", [one, other], [1, 2]).tolist() == [[0, 1]]


def test_several_labels_are_voted_on_one_by_one() -> None:
    """Where each output is a yes or no of its own, each has its own majority."""
    votes = [np.array([row], np.float32) for row in ([0.9, 0.8, 0.1], [0.7, 0.2, 0.1], [0.1, 0.9, 0.4])]
    blend = Blend("vote", independent=True)
    for each in votes:
        blend.add_prediction(each)
    assert blend.combine_predictions().tolist() == [[1, 1, 0]]


def test_one_column_and_two_columns_of_two_classes_are_one_thing() -> None:
    """A binary classifier may answer with the second class alone, in any place of the ensemble."""
    two, one = np.array([[0.2, 0.8]], np.float32), np.array([[0.6]], np.float32)
    assert np.allclose(blended("mean", [two, one]), [[0.3, 0.7]])
    assert np.allclose(blended("mean", [one, two]), [[0.7]])
    with pytest.raises(KitError, match="3 columns"):
        blended("mean", [two, np.zeros((1, 3), np.float32)])


@given(arrays.arrays(np.float64, (5, 2), elements=st.floats(0, 1)))
def test_ranks_of_one_and_two_columns_do_not_depend_on_their_order(shares: Any) -> None:
    """Two columns of two classes and a single one have the same mean rank, whichever comes first."""
    two, one = np.stack([-shares[:, 0], shares[:, 0]], axis=1), shares[:, 1:]
    first, last = blended("rank", [two, one]), blended("rank", [one, two])
    assert np.allclose(first[:, 1:], last)
    assert np.allclose(first[:, 1], compute_ranks(shares).mean(axis=1))
    assert np.allclose(first.sum(axis=1), 6 / 5)  # what one class gains the other loses


def test_members_are_averaged_over_all_batches() -> None:
    """Ids stand in the order of the batches, predictions beside them."""
    found = predict_all(members(1, 3), TIMES, ROWS)
    assert found.ids == [1, 2, 3]
    assert found.values.tolist() == [[2], [4], [6]]


@pytest.mark.parametrize(
    ("kind", "kept"),
    [
        ("float64", "float64"),
        ("int64", "float64"),
        ("int32", "float64"),
        ("float32", "float32"),
        ("bool", "float32"),
    ],
)
def test_answers_are_kept_as_exact_as_they_are(kind: str, kept: str) -> None:
    """A large whole number comes out as the model said it; what is float32 takes no more room."""
    frameworks = {
        "times": (TIMES["times"][0], lambda _model, batch, _member: np.array([123456789] * len(batch), kind))
    }
    found = predict_all(members(1, 2), frameworks, ROWS)
    assert found.values.dtype == kept
    expected = np.array([123456789], kind).astype(np.float64)
    assert np.array_equal(found.values[:, 0], np.repeat(expected, 3))


def test_tensors_of_any_kind_become_numbers() -> None:
    """Half precision is made float32, which numpy knows; double and whole numbers stay what they are."""
    for kind in (torch.bfloat16, torch.float16, torch.float32):
        assert as_row_array(torch.ones(2, dtype=kind, requires_grad=True), 2, "m").dtype == np.float32
    for kind in (torch.float64, torch.int64):
        assert as_row_array(torch.full((2,), 123456789, dtype=kind), 2, "m").tolist() == [[123456789]] * 2


def test_one_model_is_in_memory_at_a_time() -> None:
    """When a model is loaded, those before it are gone."""
    alive: list[Any] = []

    def load(path: Path, _member: EnsembleMember) -> Times:
        gc.collect()
        assert all(model() is None for model in alive)
        model = Times(float(str(path)))
        alive.append(weakref.ref(model))
        return model

    predict_all(members(1, 2, 3), {"times": (load, times)}, ROWS)
    assert len(alive) == 3


def test_classes_are_brought_into_one_order() -> None:
    """Models that learnt the same classes in another order agree on columns; others are refused."""
    orders = iter([["a", "b"], ["b", "a"], ["a", "c"]])
    frameworks = {
        "times": (
            lambda _path, _member: Times(1, next(orders)),
            lambda model, batch, _member: np.array(
                [[float(each == "a") for each in model.classes_]] * len(batch)
            ),
        )
    }
    found = predict_all(members(1, 1), frameworks, ROWS)
    assert found.classes == ["a", "b"]
    assert found.values.tolist() == [[1, 0]] * 3
    with pytest.raises(KitError, match="other classes"):
        order_columns(np.zeros((1, 2)), ["a", "c"], ["a", "b"], "m")


@pytest.mark.parametrize(
    "own",
    [
        [1.0, 0.0],
        np.array([1, 0], dtype="int64"),
        [np.float32(1), np.float32(0)],
        np.array([True, False]),
        ["1", "0"],
        ["True", "False"],
        ["1.0", "0.0"],
    ],
    ids=str,
)
def test_the_same_numbers_of_different_libraries_are_the_same_classes(own: Any) -> None:
    """Some keep whole numbers, some make them floats, truth values or texts; the order is the first model's."""
    values = np.array([[0.9, 0.1]])
    for first in ([0, 1], [0.0, 1.0], [False, True], ["0", "1"]):
        assert order_columns(values, own, first, "m").tolist() == [[0.1, 0.9]]
    assert order_columns(np.array([[1, 2, 3]]), [0.5, 2.0, -1], ["-1", 2, np.float32(0.5)], "m").tolist() == [
        [3, 2, 1]
    ]


@pytest.mark.parametrize(
    ("own", "first"),
    [(["01", "02"], [1, 2]), ([0, 2], [0, 1]), (["no", "yes"], [0, 1]), (["nan", "a"], ["inf", "a"])],
)
def test_names_are_no_numbers(own: list[Any], first: list[Any]) -> None:
    """A text that is not how a number is written stays a name, and is told as it is."""
    with pytest.raises(KitError, match="other classes") as caught:
        order_columns(np.zeros((1, 2)), own, first, "m")
    assert f"the first: {first[0]}, {first[1]}" in str(caught.value)


@pytest.mark.parametrize("classes", [[np.array([0, 1]), np.array([0, 1])], [["a", "b"], ["a", "b"]]])
def test_classes_of_several_targets_are_no_names(classes: list[Any]) -> None:
    """A classifier of several targets lists the classes of each: its columns have no names by that."""
    frameworks = {
        "times": (
            lambda _path, _member: Times(1, classes),
            lambda _model, batch, _member: [[0.1, 0.9]] * len(batch),
        )
    }
    assert predict_all(members(1, 2), frameworks, ROWS).classes == []
    there = Ensemble(members(1, 2), frameworks)
    assert there.predict_batch(ROWS[0]).classes == []
    assert model_classes(Times(1, ["a", "b"])) == ["a", "b"]
    assert model_classes(Times(1)) == []


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize(
    ("classes", "columns", "told"),
    [
        (["bird", "cat", "dog"], 3, "note: the columns of 'booster' are taken in the order bird, cat, dog"),
        (["no", "yes"], 1, "note: the column of 'booster' is taken for the probability of yes"),
        ([1, 2, 3], 3, "note: the columns of 'booster' are taken in the order 1, 2, 3"),
        ([0, 1, 2], 3, ""),
        ([False, True], 2, ""),
        ([0.0, 1.0], 2, ""),
    ],
)
def test_columns_without_names_are_told_once(
    capsys: pytest.CaptureFixture[str], first: int, classes: list[Any], columns: int, told: str
) -> None:
    """A model that knows no names goes by place beside one that does, and that is said, whichever comes first."""
    width = {"booster": columns, "forest": len(classes)}
    frameworks = {
        name: (
            lambda _path, member: Times(1, classes if member.name == "forest" else None),
            lambda _model, batch, _member, count=count: np.full((len(batch), count), 1 / count),
        )
        for name, count in width.items()
    }
    both = [EnsembleMember(name, name, Path(name)) for name in width][:: -1 if first else 1]
    said: list[str] = []
    predict_all(both, frameworks, ROWS)
    said += capsys.readouterr().out.splitlines()
    assert [line for line in said if "taken" in line] == [told] * bool(told)
    said.clear()
    print_once.cache_clear()
    served = Ensemble(both, frameworks)
    assert [served.predict_batch(batch).classes for batch in ROWS] == [classes, classes]
    said += capsys.readouterr().out.splitlines()
    assert said == [told] * bool(told)


def test_views_of_a_batch_are_averaged() -> None:
    """A `tta` yields batches, and their answers are one; a `tta` that yields nothing is refused."""
    found = predict_all(members(1), TIMES, ROWS, tta=lambda batch: (batch, batch * 3))
    assert found.values.tolist() == [[2], [4], [6]]
    with pytest.raises(KitError, match="no batch"):
        predict_all(members(1), TIMES, ROWS, tta=lambda _batch: ())


def test_another_number_of_rows_is_told() -> None:
    """A model that answers with fewer rows is named, with both numbers."""
    with pytest.raises(KitError, match="'m0' answered a batch of 2 rows with 1"):
        predict_all(members(1), {"times": (TIMES["times"][0], lambda _model, _batch, _member: [1.0])}, ROWS)


@settings(max_examples=30, deadline=None)
@given(arrays.arrays(np.float64, st.tuples(st.integers(1, 5), st.integers(1, 3)), elements=SHARES))
def test_answers_of_any_shape_become_rows(values: Any) -> None:
    """Lists, tensors, single columns and arrays of more axes have one row for each row."""
    rows = len(values)
    for answer in (values, values.tolist(), torch.tensor(values), values[:, :, None]):
        made = as_row_array(answer, rows, "m")
        assert made.shape == values.shape
        assert made.dtype == np.float64
        assert np.allclose(made, values)
    assert as_row_array(values[:, 0], rows, "m").shape == (rows, 1)


def test_several_targets_of_a_classifier_are_columns() -> None:
    """scikit-learn answers with a list of arrays, one for each target: the second class of each, or its only number."""
    answer = [np.array([[0.1, 0.9], [0.8, 0.2]]), np.array([[0.3, 0.7], [0.6, 0.4]])]
    assert np.allclose(as_row_array(answer, 2, "m"), [[0.9, 0.7], [0.2, 0.4]])
    numbers = [values[:, 1:] for values in answer]
    assert np.allclose(as_row_array(numbers, 2, "m"), [[0.9, 0.7], [0.2, 0.4]])


@pytest.mark.parametrize("widths", [(3, 3), (2, 3), (2, 1)])
def test_targets_of_other_than_two_classes_are_told(widths: tuple[int, ...]) -> None:
    """Of three classes the last one's probability says nothing, and of a single one it is always 1."""
    answer = [np.full((2, width), 1 / width) for width in widths]
    with pytest.raises(KitError, match=f"'m' answers for 2 targets with {widths[0]}, {widths[1]} columns"):
        as_row_array(answer, 2, "m")


def test_no_member_is_told() -> None:
    """An ensemble of nothing names the key to set."""
    with pytest.raises(KitError, match="checkpoints"):
        predict_all([], TIMES, ROWS)


def test_scores_become_probabilities() -> None:
    """Softmax and sigmoid of arrays, tensors and one array for each target, at any size; nothing else is known."""
    scores = np.array([[0.0, 1.0], [1000.0, -1000.0]], dtype=np.float32)
    for kind in (scores, torch.from_numpy(scores)):
        assert apply_activation(kind, "softmax") == pytest.approx(
            torch.softmax(torch.from_numpy(scores), -1).numpy()
        )
        assert apply_activation(kind, "sigmoid") == pytest.approx(
            torch.sigmoid(torch.from_numpy(scores)).numpy()
        )
        assert apply_activation(kind, "") is kind
    assert [each[0, 0] for each in apply_activation([scores, scores], "sigmoid")] == [0.5, 0.5]
    with pytest.raises(KitError, match="'relu' is not known"):
        apply_activation(scores, "relu")
    with pytest.raises(KitError, match="single column"):
        apply_activation(scores[:, :1], "softmax")
