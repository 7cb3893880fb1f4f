"""A test set of as many rows as wanted."""

import csv
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offline_kit.notebook.runtime.kit_rows import choose_ids, cut_rows, limit_rows
from offline_kit.notebook.runtime.kit_runtime import KitError


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three pictures, their list and the sample."""
    folder = tmp_path / "comp"
    (folder / "test_images").mkdir(parents=True)
    for name in ("a", "b", "c"):
        (folder / "test_images" / f"{name}.jpg").write_text(name)
    (folder / "test.csv").write_text("row,id\n1,c\n2,b\n3,a\n")
    (folder / "sample_submission.csv").write_text("id,label\na,0\nb,0\nc,0\n")
    (folder / "train.csv").write_text("id,label\nz,1\n")
    return folder


def rows(path: Path) -> list[list[str]]:
    with path.open(newline="") as stream:
        return list(csv.reader(stream))


def test_a_notebook_sees_fewer_rows(data: Path, tmp_path: Path) -> None:
    """Sample, list and pictures of the test set shrink together, the rest is what it was."""
    shown = limit_rows(data, data / "sample_submission.csv", 2, tmp_path / "scratch")
    assert rows(shown / "sample_submission.csv") == [["id", "label"], ["a", "0"], ["b", "0"]]
    assert rows(shown / "test.csv") == [["row", "id"], ["2", "b"], ["3", "a"]]
    assert sorted(path.name for path in (shown / "test_images").iterdir()) == ["a.jpg", "b.jpg"]
    assert (shown / "train.csv").read_text() == (data / "train.csv").read_text()


def test_a_notebook_sees_more_rows_than_there_are(data: Path, tmp_path: Path) -> None:
    """The rows are repeated under new ids, each with its picture."""
    shown = limit_rows(data, data / "sample_submission.csv", 7, tmp_path / "scratch")
    ids = [row[0] for row in rows(shown / "sample_submission.csv")[1:]]
    assert len(ids) == len(set(ids)) == 7
    assert {row[1] for row in rows(shown / "test.csv")[1:]} == set(ids)
    assert {path.stem for path in (shown / "test_images").iterdir()} == set(ids)
    assert (shown / "test_images" / f"{ids[3]}.jpg").read_text() == "a"


@pytest.mark.slow
def test_a_list_larger_than_memory_should_hold_is_read_in_passing(tmp_path: Path) -> None:
    """Its last rows are reached although only its first ones decide which column has the ids."""
    folder = tmp_path / "comp"
    folder.mkdir()
    with (folder / "test.csv").open("w") as stream:
        stream.write("text,id\n")
        stream.writelines(f"{'x' * 40_000},r{number}\n" for number in range(1500))
    ids = [f"r{number}" for number in range(1499, -1, -1)]
    (folder / "sample_submission.csv").write_text("id,label\n" + "".join(f"{name},0\n" for name in ids))
    shown = limit_rows(folder, folder / "sample_submission.csv", 3, tmp_path / "scratch")
    assert [row[1] for row in rows(shown / "test.csv")] == ["id", "r1497", "r1498", "r1499"]


def test_a_second_run_of_the_cell_is_no_trouble(data: Path, tmp_path: Path) -> None:
    """People run cells again."""
    for number in (1, 2):
        shown = limit_rows(data, None, number, tmp_path / "scratch")
    assert len(rows(shown / "test.csv")) == 3


def test_an_empty_list_is_told(data: Path, tmp_path: Path) -> None:
    """A sample without a head is named."""
    (data / "sample_submission.csv").write_text("")
    with pytest.raises(KitError, match=r"sample_submission\.csv' is empty"):
        cut_rows(data, data / "sample_submission.csv", 2, tmp_path)


@given(st.lists(st.text("abc.-", min_size=1) | st.integers().map(str), max_size=8), st.integers(1, 30))
def test_ids_are_as_many_as_wanted_and_differ(have: list[str], count: int) -> None:
    """As many ids as wanted, each once, the first as they were; an id that repeats is never multiplied."""
    found = choose_ids(have, count)
    new = [name for name, _ in found]
    assert [name for name, old in found if name == old] == list(dict.fromkeys(have[:count]))
    assert all(old in have for _, old in found)
    if have and len(set(have)) == len(have):
        assert len(new) == count


@given(st.lists(st.integers(-50, 50), min_size=1, max_size=8, unique=True), st.integers(1, 40))
def test_whole_numbers_stay_whole_numbers(have: list[int], count: int) -> None:
    """Numeric ids are continued by numbers that none has yet."""
    new = [name for name, _ in choose_ids([str(number) for number in have], count)]
    assert len({int(name) for name in new}) == count
