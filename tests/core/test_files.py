"""What must be whole, hashed or locked."""

import errno
import io
import os
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offline_kit.core import files
from offline_kit.core.errors import OutsideError


def test_a_staged_folder_takes_its_name_only_when_whole(tmp_path: Path) -> None:
    """After the block ends well the folder stands under its final name, and nothing else."""
    with files.stage_folder(tmp_path / "kit") as fresh:
        (fresh / "a").write_text("new")
        assert not (tmp_path / "kit").exists()
    assert (tmp_path / "kit" / "a").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["kit"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_the_old_folder_survives_a_failure(tmp_path: Path, error: type[BaseException]) -> None:
    """An error or an interrupt leaves the previous folder as it was and no orphan."""
    (tmp_path / "kit").mkdir()
    (tmp_path / "kit" / "a").write_text("old")
    with pytest.raises(error), files.stage_folder(tmp_path / "kit") as fresh:
        (fresh / "a").write_text("half")
        raise error
    assert (tmp_path / "kit" / "a").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["kit"]


def test_staging_replaces_the_old_folder_whole(tmp_path: Path) -> None:
    """Nothing of the old folder is left in the new one."""
    for name in ("a", "b"):
        with files.stage_folder(tmp_path / "kit") as fresh:
            (fresh / name).touch()
    assert [path.name for path in (tmp_path / "kit").iterdir()] == ["b"]


def test_a_full_disk_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    """No space left names the place and what to do, and leaves nothing behind."""
    with pytest.raises(OutsideError, match="no space left") as caught, files.stage_folder(tmp_path / "kit"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert "--out" in caught.value.hint
    assert "cache prune" in caught.value.hint
    assert "kept" not in caught.value.hint, "half a download is, to go on from"
    assert list(tmp_path.iterdir()) == []


def test_an_unwritable_place_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    """A file where a folder must be, or no rights: the place is named."""
    with pytest.raises(OutsideError, match="cannot write"), files.translate_disk_errors(tmp_path):
        raise OSError(errno.EROFS, "Read-only file system")


def test_a_file_where_a_folder_belongs_is_named(tmp_path: Path) -> None:
    """Neither a lock nor a written file crashes where its folder is a file."""
    (tmp_path / "file").write_text("")
    with pytest.raises(OutsideError, match="is a file"), files.hold_lock(tmp_path / "file" / "lock"):
        pass
    with pytest.raises(OutsideError, match="is a file"):
        files.write_atomic(tmp_path / "file" / "deep" / "name", b"")


def test_what_fails_under_a_lock_is_not_the_locks_fault(tmp_path: Path) -> None:
    """An unreadable file of the user's is not called an unwritable folder of the lock."""
    with pytest.raises(PermissionError), files.hold_lock(tmp_path / "lock"):
        raise PermissionError(13, "Permission denied", "somewhere/else")


def test_an_atomic_write_leaves_no_half_file(tmp_path: Path) -> None:
    """The name shows the whole content, and no temporary file stays."""
    files.write_atomic(tmp_path / "deep" / "a.json", "{}")
    files.write_atomic(tmp_path / "deep" / "a.json", b"[]")
    assert [(path.name, path.read_bytes()) for path in (tmp_path / "deep").iterdir()] == [("a.json", b"[]")]


@given(st.binary(max_size=5000))
def test_copying_hashes_what_was_written(data: bytes) -> None:
    """Digest and size are those of the copied bytes."""
    import hashlib

    into = io.BytesIO()
    assert files.copy_and_hash(io.BytesIO(data), into) == (hashlib.sha256(data).hexdigest(), len(data))
    assert into.getvalue() == data


def test_a_timestamp_has_its_zone() -> None:
    """The present is written to the second and in UTC, so that it can be compared with what servers say."""
    written = files.utc_timestamp()
    told = datetime.fromisoformat(written)
    assert written.endswith("+00:00")
    assert told.microsecond == 0
    assert abs(datetime.now(UTC) - told) < timedelta(minutes=1)


def test_a_lock_keeps_others_out(tmp_path: Path) -> None:
    """A second holder waits and is told who is in the way when its time is up."""
    failures: list[str] = []

    def second() -> None:
        try:
            with files.hold_lock(tmp_path / "x.lock", timeout=0.05):
                failures.append("got in")
        except OutsideError as error:
            failures.append(error.what)

    with files.hold_lock(tmp_path / "x.lock"):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
    assert len(failures) == 1
    assert "another run has held" in failures[0]


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a file system that takes no new files")
def test_a_lock_where_no_file_can_be_made_is_told_at_once() -> None:
    """No waiting for the lock's time to run out; the place is named."""
    with (
        pytest.raises(OutsideError, match="cannot write below '/proc'"),
        files.hold_lock(Path("/proc/x.lock")),
    ):
        pytest.fail("there is no such lock")


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    """A file in its place is an answer from outside, not our bug."""
    (tmp_path / "taken").write_text("")
    assert files.make_folder(tmp_path / "a" / "b").is_dir()
    with pytest.raises(OutsideError, match="taken"):
        files.make_folder(tmp_path / "taken")


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (999, "999 B"), (4_600_000, "4.6 MB"), (3.2e9, "3.2 GB"), (5e12, "5000.0 GB")],
)
def test_sizes_for_a_person(size: float, text: str) -> None:
    """Decimal units, one digit after the point."""
    assert files.format_size(size) == text


@pytest.mark.parametrize("below", ["", "a/b"], ids=["itself", "on the way"])
def test_a_file_in_the_place_of_a_folder_is_called_one(tmp_path: Path, below: str) -> None:
    """Nothing is to be made writable: the file is named, and what to do with it."""
    (tmp_path / "dist").write_text("")
    for make in (files.make_folder, lambda place: files.write_atomic(place / "x", "")):
        with pytest.raises(OutsideError, match="dist' is a file, where a folder should be") as caught:
            make(tmp_path / "dist" / below)
        assert "remove it" in caught.value.hint


def test_a_link_that_leads_nowhere_is_called_one(tmp_path: Path) -> None:
    """It is neither a file nor a folder, and nothing can be made at its place."""
    (tmp_path / "dist").symlink_to(tmp_path / "gone")
    with pytest.raises(OutsideError, match="dist' is a link that leads nowhere"):
        files.make_folder(tmp_path / "dist")


def test_what_a_killed_run_left_in_the_temporary_folder_goes(tmp_path: Path) -> None:
    """Our own old folders alone: no young one, no link, and nothing that is called otherwise."""
    old = time.time() - 2 * 86_400
    kept = ["offline-kit-young123", "offline-kit-mine", "pip-abcd1234", "offline-kit-probe.new45678"]
    gone = ["offline-kit-abcd1234", "offline-kit-build-a_b_c_d1", "offline-kit-probe.abcd1234"]
    for name in (*kept, *gone):
        (tmp_path / name / "deep").mkdir(parents=True)
        if "young" not in name and "new" not in name:
            os.utime(tmp_path / name, (old, old))
    (tmp_path / "offline-kit-link1234").symlink_to(tmp_path / "pip-abcd1234")
    files.sweep_temporary_folders(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*kept, "offline-kit-link1234"])
