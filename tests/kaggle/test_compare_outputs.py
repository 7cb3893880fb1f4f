"""Kaggle's submission beside the rehearsal's."""

from pathlib import Path

import pytest

from offline_kit.kaggle.push import notebook_runs

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
    return notebook_runs.compare_submissions(*both)


def test_the_same_bytes_are_the_same(both: tuple[Path, Path]) -> None:
    """One line says it all."""
    assert compared(both, HEAD + "1,0.5,a\n", HEAD + "1,0.5,a\n") == (
        "the submission is identical to the rehearsal's",
    )


def test_small_differences_agree_in_any_order_of_rows(both: tuple[Path, Path]) -> None:
    """Other hardware, other last digits; rows are matched by their ids."""
    notes = compared(both, HEAD + "1,0.5,a\n2,1e-9,b\n", HEAD + "2,0,b\n1,0.50001,a\n")
    assert notes == ("the submission agrees with the rehearsal's within 0.1%",)


def test_large_differences_are_shown(both: tuple[Path, Path]) -> None:
    """How many rows, and the values of one of them, the rehearsal's first."""
    (note,) = compared(both, HEAD + "1,0.5,a\n2,1,b\n", HEAD + "1,0.7,a\n2,1,b\n")
    assert note.endswith("on Kaggle: 1 of 2 rows, as '1' in column 'score': 0.5, then 0.7")


def test_other_formats_are_compared_by_size(tmp_path: Path) -> None:
    """Parquet and the like: sizes only."""
    ours, theirs = tmp_path / "a.parquet", tmp_path / "b.parquet"
    ours.write_bytes(b"1")
    theirs.write_bytes(b"22")
    assert notebook_runs.compare_submissions(ours, theirs) == (
        "2 B on Kaggle, 1 B in the rehearsal; only CSV files are compared by value",
    )


@pytest.mark.parametrize("text", ["", "\0\0", "id\n", '"' + "x" * 200_000 + '"\n', "\xff\n"])
def test_what_is_no_table_is_no_failure(both: tuple[Path, Path], text: str) -> None:
    """Empty, binary, without rows, with a field beyond reason: notes."""
    assert compared(both, HEAD + "1,2,3\n", text)
