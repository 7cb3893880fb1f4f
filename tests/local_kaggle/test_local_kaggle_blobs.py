"""Uploads to the local Kaggle, and injected faults."""

import http.client
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from offline_kit.core.errors import UsageError
from offline_kit.local_kaggle.faults import Fault, FaultTable, read_faults
from tests.support.local_kaggle import SLUG, Bench, needs_client, serving

DATA = bytes(range(250)) * 4000  # a million bytes


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with serving(tmp_path) as made:
        yield made


def begin(bench: Bench) -> str:
    """Open a session; return its token."""
    words = {"type": "DATASET", "name": "big.bin", "contentLength": len(DATA)}
    return str(bench.rpc("blobs.BlobApiService/StartBlobUpload", **words)["token"])


def put(bench: Bench, token: str, data: bytes = b"", span: str = "") -> tuple[int, str]:
    """PUT as the client does; return the status and the Range that came back."""
    line = http.client.HTTPConnection(bench.server.url.removeprefix("http://"), timeout=30)
    try:
        line.request("PUT", f"/upload/{token}", data, {"Content-Range": span} if span else {})
        answer = line.getresponse()
        answer.read()
        return answer.status, answer.headers.get("Range", "")
    finally:
        line.close()


def test_a_finished_upload_is_never_written_again(bench: Bench) -> None:
    """Datasets share its bytes: a second PUT changes nothing."""
    token = begin(bench)
    put(bench, token, DATA)
    assert put(bench, token, DATA[::-1]) == (200, "")
    assert bench.kaggle.blobs.finished_upload(token, "alice")[1].read_bytes() == DATA


def test_an_upload_goes_on_after_the_server_was_started_again(tmp_path: Path) -> None:
    """What came before the end of a server is there for the next."""
    with serving(tmp_path) as bench:
        token = begin(bench)
        bench.kaggle.faults.add_fault(Fault(on="PUT", cut=1234))
        with pytest.raises((ConnectionError, http.client.HTTPException)):
            put(bench, token, DATA)
    with serving(tmp_path) as bench:
        assert put(bench, token, span=f"bytes */{len(DATA)}") == (308, "bytes=0-1233")


@needs_client
def test_the_client_survives_a_cut_and_a_busy_service(bench: Bench) -> None:
    """A reset in the middle of a PUT and a 429 with Retry-After: the dataset is whole in the end."""
    bench.kaggle.faults.add_fault(Fault(on="PUT", cut=200_000))
    bench.kaggle.faults.add_fault(Fault(on="StartBlobUpload", status=429, retry_after=0.1))
    done = bench.cli("datasets", "create", "-p", bench.dataset({"big.bin": DATA}))
    assert done.returncode == 0, done.stderr
    bench.ready()
    assert bench.names() == {"big.bin": len(DATA)}
    assert bench.traffic.uploaded_bytes() == len(DATA) + 200_000, "every byte on the wire is counted"


@needs_client
def test_a_lost_answer_is_sent_again_by_the_client(bench: Bench) -> None:
    """The effect was there: the plain client's repetition meets its own dataset."""
    bench.kaggle.faults.add_fault(Fault(on="CreateDataset", lose_answer=True))
    done = bench.cli("datasets", "create", "-p", bench.dataset({"a.txt": b"a"}))
    assert "already in use" in done.stdout + done.stderr
    assert len(bench.traffic.ended_requests("CreateDataset")) == 2
    bench.ready()


@needs_client
def test_faults_stand_in_a_file_too(bench: Bench) -> None:
    """A server in another process is told by faults.json; a change of it counts at once."""
    path = bench.kaggle.store.folder / "faults.json"
    path.write_text(json.dumps([{"on": "GetDatasetStatus", "status": 503, "times": 0}]))
    assert "503" in bench.cli("datasets", "status", SLUG).stderr
    path.unlink()
    assert "403" in bench.cli("datasets", "status", SLUG).stderr


def test_faults_are_counted(tmp_path: Path) -> None:
    """`after` pass, `times` are met, the rest pass again."""
    faults = FaultTable(tmp_path / "faults.json")
    faults.add_fault(Fault(on="Get*", status=500, after=1, times=2))
    met = [faults.match_call("datasets.DatasetApiService/GetDataset").status for _ in range(4)]
    assert met == [0, 500, 500, 0]
    assert faults.match_call("PUT").status == 0


@pytest.mark.parametrize("text", ["{", "[1]", '[{"on": "PUT", "stauts": 500}]', '[{"status": 500}]'])
def test_a_wrong_file_of_faults_is_told(tmp_path: Path, text: str) -> None:
    """A fault that is misspelt must not be one that never happens."""
    path = tmp_path / "faults.json"
    path.write_text(text)
    with pytest.raises(UsageError, match=r"faults\.json"):
        read_faults(path)
