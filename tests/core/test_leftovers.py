"""What a box leaves: links, devices, odd names and giants do not get out of it."""

import os
from pathlib import Path

import pytest

from offline_kit.core.sandboxes import leftovers


def test_only_regular_files_and_folders_stay(tmp_path: Path) -> None:
    """Links to files and folders, pipes, names that are no UTF-8 and giants go; what they led to stays as it was."""
    secret = tmp_path / "kaggle.json"
    secret.write_text("key")
    box = tmp_path / "box"
    (box / "deep" / "er").mkdir(parents=True)
    (box / "deep" / "er" / "kept.txt").write_text("x")
    (box / "submission.csv").symlink_to(secret)
    (box / "home").symlink_to(tmp_path)
    (box / "nowhere").symlink_to("/nonexistent")
    os.mkfifo(box / "deep" / "pipe")
    with (box / "huge.bin").open("wb") as stream:
        stream.truncate(200 * 1024**3)
    if os.name == "posix":
        Path(os.fsdecode(os.fsencode(box) + b"/b\xff")).write_text("x")
        Path(os.fsdecode(os.fsencode(box) + b"/d\xff")).mkdir()
    (box / "deep" / "er").chmod(0)
    told = leftovers.clean_leftovers(box)
    left = sorted(path.relative_to(box).as_posix() for path in box.rglob("*"))
    assert left == ["deep", "deep/er", "deep/er/kept.txt"]
    assert secret.read_text() == "key"
    assert any("huge.bin" in line and "20 GB" in line for line in told)
    assert told[-1] == "2 more such files"
    "\n".join(told).encode()


def test_many_files_are_no_trouble(tmp_path: Path) -> None:
    """A loop over all of them, without a recursion."""
    place = tmp_path
    for number in range(300):
        place = place / f"{number}"
        place.mkdir()
    for number in range(2000):
        (tmp_path / f"{number}.txt").touch()
    assert leftovers.clean_leftovers(tmp_path) == ()


@pytest.mark.parametrize("kind", ["link", "pipe", "folder", "nothing"])
def test_what_is_no_regular_file_is_not_read(tmp_path: Path, kind: str) -> None:
    """A look that does not follow a link."""
    place = tmp_path / "x"
    (tmp_path / "y").write_text("y")
    if kind == "link":
        place.symlink_to(tmp_path / "y")
    elif kind == "pipe":
        os.mkfifo(place)
    elif kind == "folder":
        place.mkdir()
    assert not leftovers.is_regular(place)
    assert leftovers.is_regular(tmp_path / "y")
    assert not leftovers.is_regular(tmp_path / "y", limit=0)
