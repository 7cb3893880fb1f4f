"""Kaggle's submission beside the rehearsal's."""

from pathlib import Path

import pytest

from offline_kit.kaggle.push import compare_outputs

HEAD = "id,score,label\n"


@pytest.fixture
def both(tmp_path: Path) -> tuple[Path, Path]:
    """The places of two submissions."""
    for name in ("ours", "theirs"):
        (tmp_path / name).mkdir()
    return tmp_path / "ours" / "submission.csv", tmp_path / "theirs" / "submission.csv"


def compared(both: tuple[Path, Path], ours: str, theirs: str) -> tuple[str, ...]:
    """Return the notes on two texts."""
    for path, text in zip(both, (ours, theirs), strict=True):
        path.write_text(text)
    return compare_outputs.compare_submissions(*both)


def test_the_same_bytes_are_the_same(both: tuple[Path, Path]) -> None:
    """One line says it all."""
    assert compared(both, HEAD + "1,0.5,a\n", HEAD + "1,0.5,a\n") == (
        "the submission is identical to the rehearsal's",
    )


def test_small_differences_agree_in_any_order_of_rows(both: tuple[Path, Path]) -> None:
    """Other hardware, other last digits; rows are matched by their ids."""
    notes = compared(both, HEAD + "1,0.5,a\n2,1e-9,b\n", HEAD + "2,0,b\n1,0.50001,a\n")
    assert notes == ("the same 2 rows as in the rehearsal", "2 of 2 columns agree within 0.1%")


def test_large_differences_are_measured(both: tuple[Path, Path]) -> None:
    """Numbers with largest and mean difference, labels by count."""
    notes = compared(both, HEAD + "1,0.5,a\n2,1,b\n3,2,c\n", HEAD + "1,0.7,a\n2,1,x\n3,2,y\n")
    assert (
        "column 'score': 1 of 3 values differ by more than 0.1% (largest difference 0.2, mean 0.0667)"
        in notes
    )
    assert "column 'label': 2 of 3 values differ" in notes


def test_rows_in_common_are_compared(both: tuple[Path, Path]) -> None:
    """A rehearsal on part of the data is compared as far as it goes."""
    notes = compared(both, HEAD + "1,0.5,a\n", HEAD + "1,0.5,a\n2,1,b\n")
    assert notes == (
        "1 rows in common of 2 on Kaggle and 1 in the rehearsal",
        "2 of 2 columns agree within 0.1%",
    )


def test_other_data_are_not_compared(both: tuple[Path, Path]) -> None:
    """Without a common id there is nothing to say about values."""
    (note,) = compared(both, HEAD + "1,0.5,a\n", HEAD + "7,0.5,a\n")
    assert "the input data differ" in note


def test_other_columns_are_told(both: tuple[Path, Path]) -> None:
    """New, gone and reordered columns; the shared ones are compared all the same."""
    notes = compared(both, "id,a,b\n1,1,2\n", "id,b,c\n1,2,3\n")
    assert notes[0] == "the columns differ; only on Kaggle: 'c'; only in the rehearsal: 'a'"
    assert notes[-1] == "1 of 1 columns agree within 0.1%"
    assert compared(both, "id,a,b\n1,1,2\n", "id,b,a\n1,2,1\n")[0] == (
        "the columns are in another order on Kaggle"
    )


def test_odd_values_are_no_failure(both: tuple[Path, Path]) -> None:
    """NaN is like NaN and unlike a number, infinity has no measure, short rows and repeated ids are borne."""
    ours = "id,a,b,c\n1,nan,inf,\n2,nan,1,x\n2,9,9,9\n3\n"
    theirs = "id,a,b,c\n1,NaN,1,\n2,1,1,x\n3\n"
    notes = compared(both, ours, theirs)
    assert "some ids occur more than once; only the first row of each is compared" in notes
    assert "column 'a': 2 of 3 values differ" in notes
    assert any(note.startswith("column 'b': 1 of 3 values differ") for note in notes)


def test_many_columns_that_differ_are_counted(both: tuple[Path, Path]) -> None:
    """A thousand classes do not make a thousand lines."""
    head = "id," + ",".join(f"c{n}" for n in range(40)) + "\n"
    notes = compared(both, head + "1" + ",1" * 40 + "\n", head + "1" + ",2" * 40 + "\n")
    assert len(notes) == 12
    assert notes[-1] == "and 30 more columns differ"


def test_other_formats_are_compared_by_size(tmp_path: Path) -> None:
    """Parquet and the like: sizes only."""
    ours, theirs = tmp_path / "a.parquet", tmp_path / "b.parquet"
    ours.write_bytes(b"1")
    theirs.write_bytes(b"22")
    assert compare_outputs.compare_submissions(ours, theirs) == (
        "2 B on Kaggle, 1 B in the rehearsal; only CSV files are compared by value",
    )


@pytest.mark.parametrize("text", ["", "\0\0", "id\n", '"' + "x" * 200_000 + '"\n', "\xff\n"])
def test_what_is_no_table_is_no_failure(both: tuple[Path, Path], text: str) -> None:
    """Empty, binary, without rows, with a field beyond reason: notes."""
    assert compared(both, HEAD + "1,2,3\n", text)
