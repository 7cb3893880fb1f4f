"""The cache: whole or absent, shared, prunable."""

import hashlib
import os
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offline_kit.core.cache import Cache, cache_key
from offline_kit.core.errors import OutsideError


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def put(cache: Cache, content: bytes) -> str:
    """Bring content in as a stage does: written as a part, then adopted."""
    part = cache.partial_path("work")
    part.write_bytes(content)
    return cache.store_file(part)[1]


def test_what_came_in_is_found_by_its_digest(cache: Cache) -> None:
    """A blob is named by its sha256, and nothing of the half-made file is left."""
    digest = put(cache, b"bytes")
    assert digest == hashlib.sha256(b"bytes").hexdigest()
    found = cache.find_blob(digest, size=5)
    assert found is not None
    assert found.read_bytes() == b"bytes"
    assert not cache.partial_path("work").exists()


def test_what_never_came_in_is_not_found(cache: Cache) -> None:
    """An unknown digest is None, and asking makes no folder."""
    assert cache.find_blob("0" * 64) is None
    assert not cache.root.exists()


@pytest.mark.parametrize("damage", [b"bytez", b"", b"bytes and more"])
def test_a_damaged_blob_is_removed(cache: Cache, damage: bytes) -> None:
    """Bytes that changed in place, even at equal size, are noticed and thrown away."""
    digest = put(cache, b"bytes")
    cache.blob_path(digest).write_bytes(damage)
    assert cache.find_blob(digest) is None
    assert not cache.blob_path(digest).exists()


def test_a_touched_blob_is_hashed_and_kept(cache: Cache) -> None:
    """A broken seal alone is no damage: the bytes decide, and the seal is mended."""
    digest = put(cache, b"bytes")
    sealed = cache.blob_path(digest).stat().st_mtime_ns
    os.utime(cache.blob_path(digest))
    assert cache.find_blob(digest) == cache.blob_path(digest)
    assert cache.blob_path(digest).stat().st_mtime_ns == sealed


def test_a_wrong_size_is_a_lie_about_the_blob_not_damage(cache: Cache) -> None:
    """Whole bytes stay, whatever size an index claims."""
    digest = put(cache, b"bytes")
    assert cache.find_blob(digest, size=7) == cache.blob_path(digest)


def test_different_contents_have_different_times(cache: Cache) -> None:
    """Files of one name and size are told apart by time, as upload clients do."""
    one, two = put(cache, b"aaaa"), put(cache, b"bbbb")
    assert cache.blob_path(one).stat().st_mtime_ns != cache.blob_path(two).stat().st_mtime_ns


def test_records_come_back(cache: Cache) -> None:
    """A record is what was last remembered; another key knows nothing of it."""
    cache.write_record("choice", cache_key("a", 1), {"file": "x"})
    cache.write_record("choice", cache_key("a", 1), {"file": "y"})
    assert cache.read_record("choice", cache_key("a", 1)) == {"file": "y"}
    assert cache.read_record("choice", cache_key("a", 2)) is None


@pytest.mark.parametrize("junk", [b"", b"{", b"[1]", b"\xff"])
def test_an_unreadable_record_counts_as_none(cache: Cache, junk: bytes) -> None:
    """A record cut short by a crash is asked for again instead of crashing us."""
    cache.write_record("choice", "k", {"file": "x"})
    (cache.root / "records" / "choice" / "k.json").write_bytes(junk)
    assert cache.read_record("choice", "k") is None


@given(st.lists(st.text()), st.lists(st.text()))
def test_keys_tell_words_apart(one: list[str], two: list[str]) -> None:
    """Other words are another key: no joining of neighbours makes two lists the same."""
    assert (cache_key(*one) == cache_key(*two)) == (one == two)


def test_one_key_is_held_by_one_at_a_time(cache: Cache) -> None:
    """A second holder of the same key waits; other keys are free."""
    order: list[str] = []

    def second() -> None:
        with cache.hold_lock("k"):
            order.append("second")

    with cache.hold_lock("k"):
        thread = threading.Thread(target=second)
        thread.start()
        with cache.hold_lock("other"):
            time.sleep(0.2)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_a_lock_that_never_comes_is_said(cache: Cache) -> None:
    """Waiting ends with an error that names the lock."""
    failures: list[str] = []

    def second() -> None:
        try:
            with cache.hold_lock("k", timeout=0.1):
                pass
        except OutsideError as error:
            failures.append(error.what)

    with cache.hold_lock("k"):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
    assert len(failures) == 1
    assert "k.lock" in failures[0]


def test_pruning_takes_the_unused_and_leaves_the_used(cache: Cache) -> None:
    """Blobs, records and parts unused for a month go; what was found yesterday stays."""
    old, used = put(cache, b"old!"), put(cache, b"used")
    cache.write_record("choice", "old", {})
    cache.partial_path("half").write_bytes(b"half")
    ago = time.time() - 40 * 86_400
    for path in (cache.blob_path(old), cache.blob_path(used)):
        os.utime(path, (ago, path.stat().st_mtime))
    for path in (cache.root / "records" / "choice" / "old.json", cache.partial_path("half")):
        os.utime(path, (ago, ago))
    assert cache.find_blob(used) is not None
    assert cache.prune_unused() == 4 + 4 + len(b"{}")
    assert cache.find_blob(old) is None
    assert cache.find_blob(used) is not None
    assert cache.read_record("choice", "old") is None


def test_an_unwritable_cache_names_the_place(tmp_path: Path) -> None:
    """Where the cache cannot be made, the error names it and the way out."""
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutsideError) as caught:
        Cache(tmp_path / "file").partial_path("k")
    assert str(tmp_path / "file") in caught.value.what
    assert "OFFLINE_KIT_CACHE" in caught.value.hint


def test_environments_that_nobody_used_go_too(tmp_path: Path) -> None:
    """The gigabytes of a rehearsal's environment are freed as a whole; one used lately stays."""
    old, new = tmp_path / "environments" / "kernel-1", tmp_path / "environments" / "kernel-2"
    for place in (old, new):
        place.mkdir(parents=True)
        (place / "torch.so").write_bytes(b"x" * 1000)
    os.utime(old, (0, 0))
    assert Cache(tmp_path).prune_unused(unused_days=30) == 1000
    assert [path.name for path in (tmp_path / "environments").iterdir()] == ["kernel-2"]
