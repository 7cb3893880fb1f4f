"""Uploads before the local Kaggle: cuts, later runs, wrong bytes."""

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from offline_kit.core.errors import OutsideError, ProjectError
from offline_kit.core.retry import RetryPolicy
from offline_kit.kaggle.client.client import KaggleClient
from offline_kit.kaggle.client.uploads import Uploader, UploadFile
from offline_kit.local_kaggle.faults import Fault
from tests.support.local_kaggle import Bench

BIG = bytes(range(256)) * 12_000  # three of our chunks


def upload_of(folder: Path, data: bytes, name: str = "checkpoints/model.ckpt") -> UploadFile:
    """Write a file and say what it is."""
    path = folder / name.replace("/", "_")
    path.write_bytes(data)
    return UploadFile(path=path, name=name, size=len(data), sha256=hashlib.sha256(data).hexdigest())


def sent(bench: Bench) -> int:
    """Return how many bytes of uploads arrived; the server writes it down just after its answer."""
    before = -1
    while (count := bench.traffic.uploaded_bytes()) != before:
        before = count
        time.sleep(0.1)
    return count


def arrived(bench: Bench, token: str) -> bytes:
    """Return the bytes that the server has for a token."""
    return bench.kaggle.blobs.finished_upload(token, "alice")[1].read_bytes()


def uploader(bench: Bench, alice: KaggleClient, attempts: int = 4) -> Uploader:
    """Return an uploader with a state that outlives it."""
    return Uploader(alice, bench.folder / "uploads", patience=RetryPolicy(attempts=attempts, backoff=0.02))


@pytest.mark.parametrize("data", [b"", b"x", BIG])
def test_bytes_arrive_once_and_the_bar_is_full(bench: Bench, alice: KaggleClient, data: bytes) -> None:
    """What was uploaded is what is there, and the bar got each byte once."""
    counted: list[int] = []
    token = uploader(bench, alice).upload_file(upload_of(bench.folder, data), counted.append)
    assert arrived(bench, token) == data
    assert sum(counted) == len(data) == sent(bench)


@pytest.mark.parametrize(
    "fault",
    [
        Fault(on="PUT", cut=2_000_000),
        Fault(on="PUT", cut=2_000_000, times=2),
        Fault(on="PUT", status=503),
        Fault(on="PUT", status=429, retry_after=0),
        Fault(on="PUT", lose_answer=True),
    ],
    ids=["cut", "cut twice", "503", "429", "answer lost"],
)
def test_trouble_on_the_way_is_outlasted(bench: Bench, alice: KaggleClient, fault: Fault) -> None:
    """Cuts go on where they ended; the bytes are right and counted once."""
    bench.kaggle.faults.add_fault(fault)
    counted: list[int] = []
    token = uploader(bench, alice).upload_file(upload_of(bench.folder, BIG), counted.append)
    assert arrived(bench, token) == BIG
    assert sum(counted) == len(BIG)
    if fault.cut > 0:
        assert sent(bench) < len(BIG) * 1.5


def cut_run(bench: Bench, alice: KaggleClient, file: UploadFile, **fault: object) -> None:
    """Let a run fail in the middle of an upload."""
    bench.kaggle.faults.add_fault(Fault(on="PUT", **{"cut": 2_000_000, **fault}))  # type: ignore[arg-type]
    with pytest.raises(OutsideError, match=r"could not be uploaded|refused"):
        uploader(bench, alice, attempts=1).upload_file(file)


def test_a_later_run_goes_on_where_the_first_was_cut(bench: Bench, alice: KaggleClient) -> None:
    """The second run sends only what is missing."""
    file = upload_of(bench.folder, BIG)
    cut_run(bench, alice, file)
    before = sent(bench)
    assert arrived(bench, uploader(bench, alice).upload_file(file)) == BIG
    assert sent(bench) - before <= len(BIG) - 1_900_000
    assert len(bench.traffic.ended_requests("/StartBlobUpload")) == 1


def test_a_rebuilt_file_of_equal_size_and_time_is_sent_anew(bench: Bench, alice: KaggleClient) -> None:
    """State is kept by digest: old bytes never get into a new dataset."""
    import os

    old = upload_of(bench.folder, BIG)
    stat = old.path.stat()
    cut_run(bench, alice, old)
    new = upload_of(bench.folder, BIG[::-1])
    os.utime(new.path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert arrived(bench, uploader(bench, alice).upload_file(new)) == BIG[::-1]


def test_an_expired_place_is_replaced(bench: Bench, alice: KaggleClient) -> None:
    """A session that is gone (404) costs a new upload, not the file."""
    file = upload_of(bench.folder, BIG)
    cut_run(bench, alice, file)
    bench.kaggle.faults.add_fault(Fault(on="PUT", forget=True))
    assert arrived(bench, uploader(bench, alice).upload_file(file)) == BIG


NO_ANSWER = {"cut": 0, "lose_answer": True}
TROUBLE = [NO_ANSWER, {"status": 503}]


@pytest.mark.parametrize("trouble", TROUBLE, ids=["no answer", "503"])
def test_a_place_of_an_earlier_run_that_never_answers_is_given_up_for_a_new_one(
    bench: Bench, alice: KaggleClient, trouble: dict[str, int]
) -> None:
    """When patience with it has ended, the same run asks for another place and sends the file there."""
    file = upload_of(bench.folder, BIG)
    cut_run(bench, alice, file)
    bench.kaggle.faults.add_fault(Fault(on="PUT", times=2, **trouble))  # type: ignore[arg-type]
    assert arrived(bench, uploader(bench, alice, attempts=2).upload_file(file)) == BIG
    assert len(bench.traffic.ended_requests("/StartBlobUpload")) == 2


@pytest.mark.parametrize("trouble", TROUBLE, ids=["no answer", "503"])
def test_a_new_place_that_never_answers_is_not_remembered(
    bench: Bench, alice: KaggleClient, trouble: dict[str, int]
) -> None:
    """The run after it begins at another place, not with minutes of waiting for that one."""
    file = upload_of(bench.folder, b"small")
    bench.kaggle.faults.add_fault(Fault(on="PUT", times=2, **trouble))  # type: ignore[arg-type]
    with pytest.raises(OutsideError, match="could not be uploaded"):
        uploader(bench, alice, attempts=2).upload_file(file)
    assert arrived(bench, uploader(bench, alice).upload_file(file)) == b"small"
    assert len(bench.traffic.ended_requests("/StartBlobUpload")) == 2


def test_the_place_of_a_cut_file_is_kept_while_kaggle_cannot_be_reached(
    bench: Bench, alice: KaggleClient
) -> None:
    """It is given up when there is another one: an outage of everything costs no bytes that are there."""
    file = upload_of(bench.folder, BIG)
    cut_run(bench, alice, file)
    bench.kaggle.faults.add_fault(Fault(on="PUT", lose_answer=True))
    bench.kaggle.faults.add_fault(Fault(on="StartBlobUpload", status=503, times=4))
    with pytest.raises(OutsideError):
        uploader(bench, alice, attempts=1).upload_file(file)
    before = sent(bench)
    assert arrived(bench, uploader(bench, alice, attempts=1).upload_file(file)) == BIG
    assert sent(bench) - before <= len(BIG) - 1_900_000


@pytest.mark.parametrize("trouble", TROUBLE, ids=["no answer", "503"])
def test_the_place_of_a_cut_file_is_kept_while_the_storage_alone_cannot_be_reached(
    bench: Bench, alice: KaggleClient, trouble: dict[str, int]
) -> None:
    """Kaggle gives another place, which takes nothing either: the next run goes on at the first one."""
    file = upload_of(bench.folder, BIG)
    cut_run(bench, alice, file)
    bench.kaggle.faults.add_fault(Fault(on="PUT", times=2, **trouble))  # type: ignore[arg-type]
    with pytest.raises(OutsideError, match="could not be uploaded"):
        uploader(bench, alice, attempts=1).upload_file(file)
    assert len(bench.traffic.ended_requests("/StartBlobUpload")) == 2
    before = sent(bench)
    assert arrived(bench, uploader(bench, alice, attempts=1).upload_file(file)) == BIG
    assert sent(bench) - before <= len(BIG) - 1_900_000


def test_of_two_places_that_were_cut_one_goes_on(bench: Bench, alice: KaggleClient) -> None:
    """Where the first one did not answer once, the run after the second goes on at one of them."""
    file = upload_of(bench.folder, BIG)
    cut_run(bench, alice, file)
    bench.kaggle.faults.add_fault(Fault(on="PUT", status=503))
    cut_run(bench, alice, file)
    before = sent(bench)
    assert arrived(bench, uploader(bench, alice, attempts=1).upload_file(file)) == BIG
    assert sent(bench) - before <= len(BIG) - 1_900_000
    assert len(bench.traffic.ended_requests("/StartBlobUpload")) == 2


def test_a_place_that_answers_and_holds_bytes_is_kept_when_it_takes_no_more(
    bench: Bench, alice: KaggleClient
) -> None:
    """Each further PUT is cut at once: the next run goes on there, nothing is sent to another place."""
    file = upload_of(bench.folder, BIG)
    cut_run(bench, alice, file, cut=2_900_000)
    bench.kaggle.faults.add_fault(Fault(on="PUT", after=1, cut=0))
    with pytest.raises(OutsideError, match="could not be uploaded"):
        uploader(bench, alice, attempts=1).upload_file(file)
    before = sent(bench)
    assert arrived(bench, uploader(bench, alice, attempts=1).upload_file(file)) == BIG
    assert sent(bench) - before <= len(BIG) - 2_800_000
    assert len(bench.traffic.ended_requests("/StartBlobUpload")) == 1


@pytest.mark.parametrize("trouble", TROUBLE, ids=["no answer", "503"])
def test_what_was_seen_to_be_complete_is_not_sent_again_when_its_place_is_silent(
    bench: Bench, alice: KaggleClient, trouble: dict[str, int]
) -> None:
    """Kaggle has said that it has all bytes: its token is good, whatever becomes of the place."""
    file = upload_of(bench.folder, BIG)
    first = uploader(bench, alice).upload_file(file)
    before = sent(bench)
    bench.kaggle.faults.add_fault(Fault(on="PUT", times=0, **trouble))  # type: ignore[arg-type]
    assert uploader(bench, alice).upload_file(file) == first
    assert sent(bench) == before


def test_finished_uploads_are_not_sent_again_until_forgotten(bench: Bench, alice: KaggleClient) -> None:
    """What arrived before a crash is asked for, not sent; what is in a dataset is forgotten."""
    file = upload_of(bench.folder, BIG)
    first = uploader(bench, alice).upload_file(file)
    before = sent(bench)
    assert uploader(bench, alice).upload_file(file) == first
    assert sent(bench) == before
    uploader(bench, alice).forget_uploads()
    assert uploader(bench, alice).upload_file(file) != first


def test_equal_files_under_two_names_get_a_token_each(bench: Bench, alice: KaggleClient) -> None:
    """A name travels with the upload alone, so twins are two uploads."""
    mine = uploader(bench, alice)
    names = [upload_of(bench.folder, b"same", name) for name in ("a/x.bin", "b/x.bin", "a/y.bin")]
    assert len({mine.upload_file(file) for file in names}) == 3


@pytest.mark.parametrize(
    "change",
    [lambda data: data[::-1], lambda data: data[:-1], lambda data: data + b"!"],
    ids=["other bytes", "shorter", "longer"],
)
def test_a_file_that_is_not_what_the_manifest_says_never_completes(
    bench: Bench, alice: KaggleClient, change: Callable[[bytes], bytes]
) -> None:
    """The last bytes leave only after the digest was right; nothing is left to be taken for it later."""
    file = upload_of(bench.folder, BIG)
    file.path.write_bytes(change(BIG))
    with pytest.raises(ProjectError, match="manifest"):
        uploader(bench, alice).upload_file(file)
    records = [json.loads(each.read_text()) for each in bench.folder.rglob("state/blobs/*/*.json")]
    assert not [record for record in records if record.get("complete")]
    file.path.write_bytes(BIG)
    assert arrived(bench, uploader(bench, alice).upload_file(file)) == BIG


def test_a_refusal_is_told_at_once(bench: Bench, alice: KaggleClient) -> None:
    """403 at the storage is no passing trouble, and never a silently missing file."""
    bench.kaggle.faults.add_fault(Fault(on="PUT", status=403))
    with pytest.raises(OutsideError, match=r"refused .*model.* with status 403"):
        uploader(bench, alice).upload_file(upload_of(bench.folder, BIG))
    assert len(bench.traffic.ended_requests("PUT")) == 1


def test_the_state_is_nobody_elses(bench: Bench, alice: KaggleClient) -> None:
    """Whoever knows an upload's place may write to it: only we may read the state."""
    mine = uploader(bench, alice)
    mine.upload_file(upload_of(bench.folder, b"x"))
    state = bench.folder / "uploads"
    assert state.stat().st_mode & 0o077 == 0
    assert all(path.stat().st_mode & 0o077 == 0 for path in state.iterdir())
