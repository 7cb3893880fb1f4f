"""The test set in batches: the same rows whatever the batch size, and training's columns or a clear word."""

import csv
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from offline_kit.notebook.runtime.kit_runtime import KitError, track_progress
from offline_kit.notebook.runtime.kit_tasks import (
    ImageBatches,
    RowBatch,
    SampleSubmission,
    TableBatches,
    cast_column,
    dtype_kind,
    find_images,
    find_test_table,
    find_text_column,
    fit_columns,
    read_header,
    read_sample,
    stack_items,
)
from tests.support.lazy_modules import pandas as pd

SAME_FOLDER = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=25
)
WORDS = st.text("abcdefgh ,\"'\nß", min_size=1, max_size=6)


def data_of(
    folder: Path, rows: dict[str, Any], targets: tuple[str, ...] = ("target",), kind: str = "csv"
) -> Path:
    """Write a competition's data: the test table and a sample for its ids."""
    folder.mkdir(exist_ok=True)
    table = pd.DataFrame(rows)
    table.to_csv(folder / "test.csv", index=False) if kind == "csv" else table.to_parquet(
        folder / "test.parquet"
    )
    with (folder / "sample_submission.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows(
            [["id", *targets], *([each, *[0] * len(targets)] for each in rows["id"])]
        )
    return folder


def table_of(folder: Path, **more: Any) -> TableBatches:
    return TableBatches(find_test_table(folder), read_sample(folder), **more)


@SAME_FOLDER
@given(
    st.lists(st.tuples(st.integers(-99, 99), st.floats(-1e6, 1e6), WORDS), min_size=1, max_size=30),
    st.integers(1, 40),
    st.sampled_from(["csv", "parquet"]),
)
def test_batches_are_the_table_in_pieces(
    tmp_path: Path, rows: list[tuple[int, float, str]], size: int, kind: str
) -> None:
    """No row is lost, doubled or moved by the size of a batch, and none is larger than asked for."""
    folder = tmp_path / kind
    whole, number, words = (list(each) for each in zip(*rows, strict=True))
    ids = [f"{place:03d}" for place in range(len(rows))]
    data_of(folder, {"id": ids, "whole": whole, "number": number, "word": words}, kind=kind)
    table = table_of(folder, size=size, columns={"word": "object", "whole": "int64", "number": "float64"})
    batches = list(table)
    assert [each for batch in batches for each in batch.ids] == ids
    assert all(len(batch.data) == len(batch.ids) <= size for batch in batches)
    together = pd.concat([batch.data for batch in batches])
    assert list(together.columns) == ["word", "whole", "number"]
    assert together["whole"].tolist() == whole
    assert together["word"].tolist() == [each.replace("\r", "") for each in words]
    assert np.allclose(together["number"], number)


def test_ids_stay_as_they_are_written(tmp_path: Path) -> None:
    """An id "007" is not the number 7, and neither is a recorded category that looks like one."""
    data_of(tmp_path, {"id": ["007", "008"], "zip": ["01234", "56789"], "x": [1, 2]})
    (batch,) = table_of(tmp_path, columns={"zip": "category", "x": "int64"})
    assert list(batch.ids) == ["007", "008"]
    assert list(batch.data["zip"]) == ["01234", "56789"]
    assert str(batch.data["zip"].dtype) == "category"


def test_without_recorded_columns_all_but_the_id_are_features(tmp_path: Path) -> None:
    """The model gets every column of the table but the ids."""
    data_of(tmp_path, {"x": [1, 2], "id": [5, 6], "y": [3, 4]})
    (batch,) = table_of(tmp_path)
    assert list(batch.data.columns) == ["x", "y"]


def test_a_table_without_ids_goes_by_the_sample(tmp_path: Path) -> None:
    """Where the id column is not in the table, the sample's order counts, and its number of rows."""
    data_of(tmp_path, {"id": ["a", "b"]})
    pd.DataFrame({"x": [1, 2]}).to_csv(tmp_path / "test.csv", index=False)
    assert [batch.ids for batch in table_of(tmp_path, size=1)] == [["a"], ["b"]]
    pd.DataFrame({"x": [1, 2, 3]}).to_csv(tmp_path / "test.csv", index=False)
    with pytest.raises(KitError, match="3 rows without ids"):
        list(table_of(tmp_path))


def test_every_wrong_column_is_named(tmp_path: Path) -> None:
    """Missing columns, other contents and new columns are told together, with what training had."""
    data_of(
        tmp_path, {"id": [1, 2], "age": ["12", "old"], "rooms": [1.5, 2], "city": ["a", "b"], "new": [1, 1]}
    )
    columns = {"age": "int64", "rooms": "int64", "price": "float64", "city": "object"}
    with pytest.raises(KitError) as caught:
        list(table_of(tmp_path, columns=columns))
    said = str(caught.value)
    for part in (
        "'price' (float64 in training) is missing",
        "'age': int64 in training",
        "'rooms': int64 in training, now",
    ):
        assert part in said, part
    assert "1.5" in said
    assert "training did not have: new" in said


def test_a_new_column_alone_is_left_out_and_told(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The model gets training's columns in training's order; what is left out is said once."""
    data_of(tmp_path, {"id": [1, 2, 3], "new": [1, 1, 1], "x": [1, 2, 3]})
    table = TableBatches(tmp_path / "test.csv", read_sample(tmp_path), 1, {"x": "float64"})
    assert [list(batch.data.columns) for batch in table] == [["x"]] * 3
    said = capsys.readouterr().out.splitlines()
    assert said == ["note: columns that training did not have are left out: new"]


@pytest.mark.parametrize(
    ("values", "dtype", "good"),
    [
        ([1, 2], "float64", True),
        ([1.0, 2.0], "int64", True),
        ([1.5, 2.0], "int64", False),
        ([1.0, None], "int64", False),
        ([1.0, None], "float64", True),
        (["1", "2"], "int64", True),
        (["1", "x"], "float64", False),
        ([1, 2], "object", True),
        ([True, False], "bool", True),
        ([0, 1], "bool", True),
        ([0, 2], "bool", False),
        (["2026-01-01", "2026-01-02"], "datetime64[ns]", True),
        (["x"], "datetime64[ns]", False),
        (["a", "b"], "category", True),
        ([1, 2], "float32", True),
    ],
)
def test_columns_take_trainings_dtype_or_are_refused(values: list[Any], dtype: str, good: bool) -> None:
    """A column is cast where nothing is lost by it, and what cannot be is told with what it holds."""
    made, problem = cast_column(pd.Series(values), dtype)
    assert (problem == "") is good
    assert good is False or dtype_kind(str(made.dtype)) == dtype_kind(dtype)


@given(st.permutations(["a", "b", "c", "d"]))
def test_columns_come_back_in_trainings_order(order: list[str]) -> None:
    """Whatever the order in the file, the model sees training's."""
    frame = pd.DataFrame({name: [ord(name)] for name in order})
    made = fit_columns(frame, dict.fromkeys("abcd", "int64"))
    assert list(made.columns) == ["a", "b", "c", "d"]
    assert made.iloc[0].tolist() == [97, 98, 99, 100]


def test_a_transform_makes_the_columns(tmp_path: Path) -> None:
    """What `transform` returns is compared with training's columns, not what the file has."""
    data_of(tmp_path, {"id": [1, 2], "x": [1, 2]})
    double = lambda piece: piece.assign(twice=piece["x"] * 2)  # noqa: E731 - shorter than its own name
    (batch,) = table_of(tmp_path, columns={"twice": "int64"}, prepare=double)
    assert batch.data["twice"].tolist() == [2, 4]


def test_a_transform_gets_what_the_model_would_get(tmp_path: Path) -> None:
    """The ids are left out of the table for both, and are there under their own name for who asks."""
    data_of(tmp_path, {"x": [1, 2], "id": ["007", "008"], "y": [3, 4]})
    seen: list[Any] = []

    def prepare(piece: Any, ids: list[str]) -> Any:
        seen.append((list(piece.columns), ids))
        return piece

    batches = list(table_of(tmp_path, size=1, prepare=prepare))
    assert seen == [(["x", "y"], ["007"]), (["x", "y"], ["008"])]
    bare = list(table_of(tmp_path, size=1, prepare=lambda ids: ids))
    for other in (batches, bare):
        assert [list(each.data.columns) for each in other] == [
            list(each.data.columns) for each in table_of(tmp_path, size=1)
        ]


def test_ids_that_training_had_as_a_column_stay(tmp_path: Path) -> None:
    """Where the recorded columns have the ids, the model and `transform` get them."""
    data_of(tmp_path, {"id": [1, 2], "x": [3, 4]})
    for prepare in (None, lambda piece: piece[["x", "id"]]):
        (batch,) = table_of(tmp_path, columns={"id": "int64", "x": "int64"}, prepare=prepare)
        assert batch.data["id"].tolist() == [1, 2]


@pytest.mark.parametrize("prepare", [lambda piece: piece.drop(columns=["id"]), lambda piece: piece["id"]])
def test_a_transform_that_looks_for_the_ids_is_told_where_they_are(tmp_path: Path, prepare: Any) -> None:
    """A function that takes the id column from the table learns of the parameter; other columns are its own affair."""
    data_of(tmp_path, {"id": [1, 2], "x": [3, 4]})
    with pytest.raises(KitError, match="asks for the id column 'id'") as caught:
        list(table_of(tmp_path, prepare=prepare))
    assert "parameter `ids`" in str(caught.value)
    with pytest.raises(KeyError, match="'z'"):
        list(table_of(tmp_path, prepare=lambda piece: piece["z"]))


def test_categories_are_those_of_training_in_every_batch(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A batch that lacks some has them all the same; a new one is missing, and told once."""
    data_of(tmp_path, {"id": [1, 2, 3, 4], "city": ["b", "a", "x", "x"]})
    sample = read_sample(tmp_path)
    table = TableBatches(tmp_path / "test.csv", sample, 1, {"city": "category"}, {"city": ["a", "b"]})
    codes = [batch.data["city"].cat.codes.tolist()[0] for batch in table]
    said = capsys.readouterr().out.splitlines()
    assert codes == [1, 0, -1, -1]
    assert said == ["note: column 'city' has categories that training did not have: x"]


def test_the_test_table_is_found_or_asked_for(tmp_path: Path) -> None:
    """test.csv is taken, a lone test_x.csv too; of several, or of none, the key to set is named."""
    with pytest.raises(KitError, match="no test table"):
        find_test_table(tmp_path)
    for name in ("test_private.csv", "train.csv"):
        (tmp_path / name).write_text("id\n1\n")
    assert find_test_table(tmp_path).name == "test_private.csv"
    (tmp_path / "test_features.csv").write_text("id\n1\n")
    with pytest.raises(KitError, match="more than one test table") as caught:
        find_test_table(tmp_path)
    assert 'test = "name.csv"' in str(caught.value)
    assert find_test_table(tmp_path, "test_features.csv").name == "test_features.csv"
    (tmp_path / "test.csv").write_text("id\n1\n")
    assert find_test_table(tmp_path).name == "test.csv"


def test_texts_are_the_only_string_column(tmp_path: Path) -> None:
    """The one column of strings is taken; of two, the key to set is named; empty cells are empty texts."""
    data_of(tmp_path, {"id": ["a", "b"], "length": [3, 4], "body": ["one", None]})
    path = tmp_path / "test.csv"
    assert find_text_column(path, "id") == "body"
    (batch,) = table_of(tmp_path, text="body")
    assert batch.data == ["one", ""]
    data_of(tmp_path, {"id": ["a"], "title": ["x"], "body": ["y"]})
    with pytest.raises(KitError, match="title, body"):
        find_text_column(path, "id")
    assert find_text_column(path, "id", "title") == "title"
    with pytest.raises(KitError, match="no column 'text'"):
        find_text_column(path, "id", "text")


def test_the_sample_has_to_be_there(tmp_path: Path) -> None:
    """No sample, or one without a column to fill, is told with what to do instead."""
    with pytest.raises(KitError, match="no sample submission"):
        read_sample(tmp_path)
    (tmp_path / "sample_submission.csv").write_text("id\n1\n")
    with pytest.raises(KitError, match="no column beside the ids"):
        read_sample(tmp_path)


def pictures(folder: Path, names: list[str]) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return folder


@given(
    st.lists(st.from_regex(r"[a-z]{1,4}(\.v\d)?", fullmatch=True), min_size=1, max_size=8, unique=True),
    st.booleans(),
)
@SAME_FOLDER
def test_ids_find_their_pictures(
    tmp_path_factory: pytest.TempPathFactory, ids: list[str], suffix: bool
) -> None:
    """An id names its picture with the suffix or without, and the sample's order is kept."""
    root = pictures(tmp_path_factory.mktemp("data"), [f"test_images/{each}.png" for each in sorted(ids)])
    sample = SampleSubmission(
        root / "s.csv", ("id", "label"), [f"{each}.png" if suffix else each for each in ids]
    )
    found = find_images(root, sample)
    assert list(found) == sample.ids
    assert [path.name for path in found.values()] == [f"{each}.png" for each in ids]


def test_pictures_that_are_missing_are_named(tmp_path: Path) -> None:
    """An id without a picture is told, and where was looked."""
    root = pictures(tmp_path, ["test/a.png"])
    with pytest.raises(KitError, match="1 of 2 ids") as caught:
        find_images(root, SampleSubmission(root / "s.csv", ("id", "x"), ["a", "b"]))
    assert str(root / "test") in str(caught.value)


def test_in_the_scoring_run_the_pictures_that_are_there_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sample may be the public one there, so hidden pictures are predicted under ids of its kind."""
    root = pictures(tmp_path, ["test/a.png", "test/b.png", "test/notes.txt"])
    monkeypatch.setenv("KAGGLE_IS_COMPETITION_RERUN", "1")
    assert list(find_images(root, SampleSubmission(root / "s.csv", ("id", "x"), ["a"]))) == ["a", "b"]
    assert list(find_images(root, SampleSubmission(root / "s.csv", ("id", "x"), ["a.png"]))) == [
        "a.png",
        "b.png",
    ]


def test_pictures_become_batches(tmp_path: Path) -> None:
    """What `transform` makes is stacked in order; without it the model gets the pictures."""
    image = pytest.importorskip("PIL.Image")
    files = {}
    for number in range(5):
        files[str(number)] = tmp_path / f"{number}.png"
        image.new("L", (4, 3), number).save(files[str(number)])
    flat = ImageBatches(files, 2, lambda path: np.full(3, int(path.stem)))
    assert [batch.data.tolist() for batch in flat][2] == [[4, 4, 4]]
    assert [batch.ids for batch in flat] == [["0", "1"], ["2", "3"], ["4"]]
    first = next(iter(ImageBatches(files, 2))).data[0]
    assert (first.mode, first.size) == ("RGB", (4, 3))
    with pytest.raises(KitError, match="different shapes"):
        stack_items([np.zeros(2), np.zeros(3)])


def test_progress_says_how_far_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    """Batches pass through unchanged, and the rows are counted at the end."""
    rows = [RowBatch([1, 2], None), RowBatch([3], None)]
    assert list(track_progress(rows, "fold 0", 3)) == rows
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("fold 0: 3 rows in ")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
def test_memory_does_not_grow_with_the_table(tmp_path: Path) -> None:
    """A table of forty batches takes little more memory at its peak than one of four."""
    import subprocess
    import sys

    code = (
        "import sys; from pathlib import Path\n"
        "from offline_kit.notebook.runtime.kit_tasks import TableBatches, read_sample, find_test_table\n"
        "root = Path(sys.argv[1]); n = 0\n"
        "for batch in TableBatches(find_test_table(root), read_sample(root), 5000): n += len(batch.data)\n"
        "words = Path('/proc/self/status').read_text().split()\n"
        "print(n, words[words.index('VmHWM:') + 1])\n"
    )
    peaks = []
    for rows in (20_000, 200_000):
        root = tmp_path / str(rows)
        values = np.random.default_rng(0).random((rows, 12))
        data_of(root, {"id": range(rows), **{f"c{n}": values[:, n] for n in range(12)}})
        done = subprocess.run(
            [sys.executable, "-c", code, str(root)],
            capture_output=True,
            text=True,
            check=True,
            env=dict(os.environ),
        )
        count, peak = map(int, done.stdout.split())
        assert count == rows
        peaks.append(peak)
    # The ids of the sample are kept; the table itself would be 19 MB as numbers, 40 MB as text.
    assert peaks[1] - peaks[0] < 30_000, peaks


def test_headers_are_read_alike(tmp_path: Path) -> None:
    """CSV, TSV and Parquet tell their columns, a byte order mark left out."""
    frame = pd.DataFrame({"id": [1], "x": [2]})
    frame.to_csv(tmp_path / "a.csv", index=False, encoding="utf-8-sig")
    frame.to_csv(tmp_path / "b.tsv", index=False, sep="\t")
    frame.to_parquet(tmp_path / "c.parquet")
    assert all(read_header(path) == ["id", "x"] for path in tmp_path.iterdir())
