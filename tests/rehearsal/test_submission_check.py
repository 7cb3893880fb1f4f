"""A submission against its sample."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offline_kit.rehearsal import submission_check

SAMPLE = "id,a,b\nx,0,0.5\ny,0,0.5\nz,0,0.5\n"


def problems(folder: Path, text: str, sample: str | None = SAMPLE) -> tuple[str, ...]:
    (folder / "submission.csv").write_text(text)
    if sample is not None:
        (folder / "sample.csv").write_text(sample)
    given_sample = folder / "sample.csv" if sample is not None else None
    return submission_check.check_submission(folder / "submission.csv", given_sample).problems


@pytest.mark.parametrize(
    "text",
    [
        "id,a,b\nx,1,0.1\ny,2,1e-3\nz,3,-4\n",
        "id,a,b\r\nz,1,0\r\ny,2,0\r\nx,3,0\r\n",
        '\ufeffid,a,b\n"x",1,0\ny,2,0\nz,3,0\n',
        "id,a,b\nx,0 5 12,0\ny,2,0\nz,3,0\n",
    ],
    ids=["plain", "other order and line ends", "byte order mark and quotes", "several labels in a cell"],
)
def test_a_good_submission_has_no_problems(tmp_path: Path, text: str) -> None:
    """The order of the rows and the way of writing do not matter."""
    assert problems(tmp_path, text) == ()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "empty"),
        ("id,a,b\n", "no rows"),
        ("id,a\nx,1\ny,2\nz,3\n", "missing: b"),
        ("id,a,b\nx,1,0\ny,2,0\n", "1 missing ids: z"),
        ("id,a,b\nx,1,inf\ny,2,-Infinity\nz,3,0\n", "column 'b': empty, NaN or infinite in 2 rows"),
        ("id,a,b\nx,1,cat\ny,2,0\nz,3,0\n", "not numbers ('cat')"),
    ],
)
def test_each_problem_is_named(tmp_path: Path, text: str, said: str) -> None:
    """What Kaggle would refuse or score as an error is told in words."""
    assert said in " | ".join(problems(tmp_path, text))


@pytest.mark.parametrize(
    ("sample", "text", "told"),
    [
        ("id,v\nx,\ny,\n", "id,v\nx,0.5\ny,nan\n", True),
        ("id,v\nx,\ny,\n", "id,v\nx,\ny,\n", True),
        ("id,v\nx,\ny,\n", "id,v\nx,1 4 9 2\ny,\n", False),
        ("id,v\nx,\ny,\n", "id,v\nx,0.5\ny,1\n", False),
        ("id,v\nx,\ny,0.5\n", "id,v\nx,0.5\ny,\n", False),
    ],
    ids=["a hole among numbers", "nothing at all", "masks, and none", "all filled", "some of the sample's"],
)
def test_a_sample_of_empty_cells_only_keeps_the_place(
    tmp_path: Path, sample: str, text: str, told: bool
) -> None:
    """What is to be predicted may not stay empty."""
    assert any("column 'v': empty, NaN" in problem for problem in problems(tmp_path, text, sample)) == told


def test_all_problems_come_at_once(tmp_path: Path) -> None:
    """One run tells everything that is wrong."""
    assert len(problems(tmp_path, "id,a,b\nx,nan,inf\nx,2,0\nq,3,dog\n")) == 6


def test_words_are_no_problem_where_the_sample_has_words(tmp_path: Path) -> None:
    """Label columns hold what the sample's hold."""
    assert problems(tmp_path, "id,labels\n1,scab rust\n", "id,labels\n1,healthy\n") == ()


def test_words_for_whole_numbers_are_noted(tmp_path: Path) -> None:
    """A sample may hold one label where a submission holds several: that is said, and no error."""
    assert problems(tmp_path, "id,labels\n1,3 9\n", "id,labels\n1,0\n") == ()
    notes = submission_check.check_submission(tmp_path / "submission.csv", tmp_path / "sample.csv").notes
    assert any("not numbers ('3 9')" in note for note in notes)


def test_without_a_sample_only_itself_is_checked(tmp_path: Path) -> None:
    """Repeats and holes are found all the same, and the lack is said."""
    assert problems(tmp_path, "id,a\n1,2\n2,3\n", None) == ()
    assert len(problems(tmp_path, "id,a\n1,2\n1,\n", None)) == 2
    assert "no sample" in submission_check.check_submission(tmp_path / "submission.csv", None).notes[0]


def test_another_format_is_only_looked_at(tmp_path: Path) -> None:
    """A parquet file passes when there is something in it, and the report says how little was checked."""
    (tmp_path / "submission.parquet").write_bytes(b"PAR1")
    checked = submission_check.check_submission(tmp_path / "submission.parquet", None)
    assert not checked.problems
    assert "only CSV" in checked.notes[0]


def test_what_the_competitions_own_gateway_chose_is_only_noted(tmp_path: Path) -> None:
    """It knows which columns and rows there are; values that cannot be scored are the notebook's all the same."""
    (tmp_path / "submission.parquet").write_bytes(b"PAR1")
    (tmp_path / "rows.csv").write_text("a,b\n1,0.5\n1,\n")
    (tmp_path / "sample.csv").write_text(SAMPLE)
    checked = submission_check.check_submission(
        tmp_path / "submission.parquet", tmp_path / "sample.csv", table=tmp_path / "rows.csv", trusted=True
    )
    assert checked.problems == ("column 'b': empty, NaN or infinite in 1 rows, line 3",)
    assert any(note.startswith("columns: a, b instead of id, a, b") for note in checked.notes)


@pytest.mark.parametrize(
    ("one", "two", "said"),
    [
        ("id,v\na,1\nb,2\n", "id,v\nb,2.00000001\na,1.0\n", ""),
        ("id,v\na,\nb,nan\n", "id,v\nb,NaN\na,\n", ""),
        ("id,v\na,1\nb,2\n", "id,v\nb,3\na,1\n", "1 of 2 rows, as 'b' in column 'v': 2, then 3"),
        ("id,v\na,cat\n", "id,v\na,dog\n", "1 of 1 row, as 'a' in column 'v': cat, then dog"),
        ("id,v\na,1\na,2\n", "id,v\na,2\na,1\n", ""),
        ("id,v\na,1\na,2\n", "id,v\na,1\na,3\n", "1 of 2 rows, as 'row 2' in column 'v': 2, then 3"),
        ("id,v\na,1\nb,2\n", "id,v\na,1\n", "1 rows are in only one of the two"),
        ("id,v\na,1\n", "id,w\na,1\n", "the columns id, v and then id, w"),
    ],
)
def test_two_submissions_are_compared_by_their_ids(tmp_path: Path, one: str, two: str, said: str) -> None:
    """The order of the rows and rounding make no difference."""
    (tmp_path / "one.csv").write_text(one)
    (tmp_path / "two.csv").write_text(two)
    assert submission_check.describe_difference(tmp_path / "one.csv", tmp_path / "two.csv") == said


IDS = st.lists(st.text("abc123._-", min_size=1, max_size=5), min_size=1, max_size=20, unique=True)


@given(ids=IDS, values=st.data())
def test_whatever_has_the_samples_ids_and_numbers_passes(
    tmp_path_factory: pytest.TempPathFactory, ids: list[str], values: st.DataObject
) -> None:
    """Any finite numbers for exactly the sample's ids make a good submission."""
    ids = [name for name in ids if name not in ("nan", "na")] or ["a"]
    number = st.floats(allow_nan=False, allow_infinity=False) | st.integers()
    rows = "".join(f"{name},{values.draw(number)!r}\n" for name in ids)
    sample = "".join(f"{name},0\n" for name in reversed(ids))
    assert problems(tmp_path_factory.mktemp("s"), f"id,v\n{rows}", f"id,v\n{sample}") == ()


def test_the_mean_of_huge_numbers_is_shown(tmp_path: Path) -> None:
    """The largest floats are numbers like any other: their sum may overflow, their mean does not."""
    sample = "id,v\na,0\nb,0\nc,0\n"
    assert (
        problems(tmp_path, "id,v\na,1.7976931348623157e308\nb,1.7976931348623157e308\nc,1.7e308\n", sample)
        == ()
    )


def test_long_cells_are_compared(tmp_path: Path) -> None:
    """A mask of more than 131,072 characters is a value like any other, and is compared as one."""
    mask = "1 2 " * 60_000
    sample = "id,rle\nx,1 1\ny,\n"
    assert problems(tmp_path, f"id,rle\nx,{mask}\ny,\n", sample) == ()
    (tmp_path / "other.csv").write_text(f"id,rle\nx,{mask}\ny,\n")
    assert submission_check.describe_difference(tmp_path / "submission.csv", tmp_path / "other.csv") == ""


@pytest.mark.parametrize(
    ("sample", "text", "told"),
    [
        ("id,a\nx,0\ny,0\nz,0\n", "id,a\nx,1\ny,1\nz,1\n", ["'a'"]),
        ("id,a,b\nx,1,2\ny,3,4\nz,5,6\n", "id,a,b\nx,1,2\ny,3,4.0\nz,5,6\n", ["'a', 'b'"]),
        ("id,p\nx,0.5\ny,0.5\nz,0.5\n", "id,p\nx,-0.1\ny,0.4\nz,0.9\n", ["'p'"]),
        ("id,p\nx,0\ny,1\nz,0\n", "id,p\nx,0\ny,2\nz,0\n", ["'p'"]),
        ("id,k\nx,cat\ny,dog\nz,cat\n", "id,k\nx,cat\ny,cow\nz,dog\n", ["'k'"]),
        ("id,a\nx,0\ny,0\nz,0\n", "id,a\nx,-1.5\ny,7\nz,3\n", []),
        ("id,k\nx,cat\ny,dog\nz,cat\n", "id,k\nx,cat\ny,dog\nz,dog\n", []),
        ("id,p\nx,0.5\ny,0.5\nz,0.5\n", "id,p\nx,0.1\ny,0.4\nz,0.9\n", []),
        ("id,k\nx,a b\ny,c\nz,a b\n", "id,k\nx,d\ny,c\nz,a\n", []),
        ("id,a\nx,0\ny,0\n", "id,a\nx,0\ny,0\n", []),  # of two rows, both may well be right
    ],
)
def test_what_passes_and_looks_wrong_is_a_warning(
    tmp_path: Path, sample: str, text: str, told: list[str]
) -> None:
    """Constant predictions, the sample's own and values of another kind name their column; good ones say nothing."""
    assert problems(tmp_path, text, sample) == ()
    checked = submission_check.check_submission(tmp_path / "submission.csv", tmp_path / "sample.csv")
    assert len(checked.warnings) == len(told)
    assert all(word in line for word, line in zip(told, checked.warnings, strict=True))


def test_each_column_of_numbers_shows_its_range(tmp_path: Path) -> None:
    """Smallest, mean and largest value: a look at them tells more than any check."""
    assert problems(tmp_path, "id,a,b\nx,1,0.1\ny,2,0.2\nz,6,0.3\n") == ()
    notes = submission_check.check_submission(tmp_path / "submission.csv", None).notes
    assert "column 'a': min 1, mean 3, max 6" in notes
    assert "column 'b': min 0.1, mean 0.2, max 0.3" in notes


def test_a_stored_answer_is_found(tmp_path: Path) -> None:
    """A table of the inputs with all rows of the submission is where it came from."""
    (tmp_path / "submission.csv").write_text("id,a\nx,1\ny,2\n")
    (tmp_path / "other.csv").write_text("id,a\nx,1\ny,3\n")
    (tmp_path / "best.csv").write_text("id,a\nx,1\ny,2\nz,3\n")
    tables = [tmp_path / "other.csv", tmp_path / "best.csv"]
    assert submission_check.find_stored_answer(tmp_path / "submission.csv", tables) == tmp_path / "best.csv"
    assert submission_check.find_stored_answer(tmp_path / "submission.csv", tables[:1]) is None


def test_a_crowded_working_folder_is_a_warning(tmp_path: Path) -> None:
    """So many files that Kaggle lists them slowly; folders do not count."""
    (tmp_path / "folder").mkdir()
    for number in range(6):
        (tmp_path / "folder" / f"{number}.txt").touch()
    assert submission_check.check_output_files(tmp_path, 6) == []
    assert len(submission_check.check_output_files(tmp_path, 5)) == 1
