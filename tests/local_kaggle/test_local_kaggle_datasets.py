"""Datasets of the local Kaggle, driven by the unmodified `kaggle` program."""

import io
import json
import socket
import tarfile
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from offline_kit.local_kaggle.settings import LocalKaggleSettings
from tests.support.local_kaggle import HASTY, SLUG, Bench, needs_client, serving

ASK = {"ownerSlug": "alice", "datasetSlug": "my-offline-kit"}


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with serving(tmp_path) as made:
        yield made


def create(bench: Bench, files: dict[str, bytes], **more: object) -> dict[str, object]:
    """Create alice's private dataset of these files."""
    words = {"ownerSlug": "alice", "slug": "my-offline-kit", "title": "My offline kit", "isPrivate": True}
    return bench.rpc("CreateDataset", **{**words, "files": bench.upload(files), **more})


@needs_client
def test_the_client_creates_lists_downloads_and_versions(bench: Bench) -> None:
    """Create from a folder, files, download of all and of one, a new version: all by the plain client."""
    folder = bench.dataset({"a.whl": b"a" * 1000, "empty.txt": b"", "wheels/deep/n.txt": b"n"})
    assert "is being created" in bench.cli("datasets", "create", "-p", folder, "-r", "zip").stdout
    bench.ready()
    assert bench.names() == {"a.whl": 1000, "empty.txt": 0, "wheels/deep/n.txt": 1}
    assert "my-offline-kit" in bench.cli("datasets", "list", "-m").stdout
    goal = bench.folder / "down"
    assert bench.cli("datasets", "download", SLUG, "-p", goal, "--unzip").returncode == 0
    assert (goal / "wheels/deep/n.txt").read_bytes() == b"n"
    assert bench.cli("datasets", "download", SLUG, "-f", "a.whl", "-p", goal).returncode == 0
    assert (goal / "a.whl").read_bytes() == b"a" * 1000
    assert bench.cli("datasets", "metadata", SLUG, "-p", goal).returncode == 0
    assert json.loads((goal / "dataset-metadata.json").read_text())["info"]["isPrivate"] is True
    (folder / "a.whl").write_bytes(b"b" * 1000)
    assert "version is being created" in bench.cli("datasets", "version", "-p", folder, "-m", "two").stdout
    bench.ready(version=2)
    assert bench.names() == {"a.whl": 1000, "empty.txt": 0}, "a version is a whole snapshot"
    assert bench.cli("datasets", "download", SLUG, "-f", "a.whl", "-p", goal, "--force").returncode == 0
    assert (goal / "a.whl").read_bytes() == b"b" * 1000


@needs_client
def test_the_client_cannot_see_what_is_private_to_others(bench: Bench) -> None:
    """Another account is told 403, for status, files and download; the name is not even taken for it."""
    create(bench, {"a.txt": b"a"})
    bench.ready()
    done = bench.cli("datasets", "status", SLUG, user="bob")
    assert (done.returncode, "403" in done.stderr) == (1, True)
    assert bench.rpc("DownloadDataset", "bob", **ASK)["status_code"] == 403
    assert bench.rpc("ListDatasets", "bob")["datasets"] == []
    body = {"versionNotes": "mine now", "files": bench.upload({"b.txt": b"b"}, "bob")}
    assert bench.rpc("CreateDatasetVersion", "bob", **ASK, body=body)["error"]["message"] == (
        "Permission 'datasets.update' was denied"
    )


@needs_client
def test_a_token_works_and_a_wrong_one_is_told(bench: Bench) -> None:
    """A Bearer token is introspected; an unknown one is inactive, and nothing is done with it."""
    create(bench, {"a.txt": b"a"})
    bench.ready()
    by_token = {"KAGGLE_USERNAME": None, "KAGGLE_KEY": None, "KAGGLE_API_TOKEN": "KGAT_alice"}
    assert "ready" in bench.cli("datasets", "status", SLUG, env=by_token).stdout
    wrong = bench.cli("datasets", "status", SLUG, env={**by_token, "KAGGLE_API_TOKEN": "KGAT_stale"})
    assert wrong.returncode == 1
    key = bench.cli("datasets", "status", SLUG, env={"KAGGLE_KEY": "wrong"})
    assert key.returncode == 1


@needs_client
def test_the_client_deletes_a_dataset(bench: Bench) -> None:
    """Its owner does, and the name is free again."""
    create(bench, {"a.txt": b"a"})
    bench.ready()
    assert bench.cli("datasets", "delete", SLUG, "-y", user="bob").returncode == 1
    assert bench.cli("datasets", "delete", SLUG, "-y").returncode == 0
    assert bench.rpc("GetDataset", **ASK)["status_code"] == 403
    create(bench, {"b.txt": b"b"})
    bench.ready()


@needs_client
def test_production_cannot_be_reached(bench: Bench) -> None:
    """Even a client that wants kaggle.com gets no further than the server, and no secret is sent there."""
    done = bench.cli("datasets", "status", SLUG, env={"KAGGLE_API_ENVIRONMENT": None})
    assert done.returncode == 1
    assert bench.traffic.refused_hosts() == ["api.kaggle.com:443"]
    assert bench.traffic.ended_requests() == []


def test_a_plain_request_for_another_host_goes_nowhere(bench: Bench) -> None:
    """The server is a proxy for itself alone."""
    host, port = bench.server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as line:
        line.sendall(b"GET http://www.kaggle.com/ HTTP/1.1\r\nHost: www.kaggle.com\r\n\r\n")
        assert line.recv(100).startswith(b"HTTP/1.1 403")
    assert bench.traffic.refused_hosts() == ["www.kaggle.com"]


def test_no_page_at_kaggle_is_named(bench: Bench) -> None:
    """What is here is not there: addresses are the server's own, and say what to do instead of looking."""
    create(bench, {"b.txt": b"b"})
    bench.ready()
    page = bench.rpc("GetDataset", **ASK)["url"]
    assert page == f"{bench.server.url}/datasets/{SLUG}"
    with urllib.request.urlopen(page, timeout=10) as answer:
        assert "no pages" in answer.read().decode()


def test_archives_and_names_are_treated_as_on_kaggle(bench: Bench) -> None:
    """A zip and an sdist become folders, a plus sign is dropped, a wheel stays."""
    packed, rolled = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("sub/x.txt", "x")
    with tarfile.open(fileobj=rolled, mode="w:gz") as sdist:
        sdist.addfile(tarfile.TarInfo("pkg-1.0/setup.py"), io.BytesIO(b""))
    files = {
        "d.zip": packed.getvalue(),
        "pkg-1.0.tar.gz": rolled.getvalue(),
        "t-1+cpu-py3-none-any.whl": b"w",
    }
    create(bench, files)
    bench.ready()
    assert set(bench.names()) == {"d/sub/x.txt", "pkg-1.0/pkg-1.0/setup.py", "t-1cpu-py3-none-any.whl"}


def test_a_forbidden_name_inside_an_archive_fails_the_version(bench: Bench) -> None:
    """The answer to the upload was Ok; only the status tells, and not why."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("bad&name.ini", "x")
    assert create(bench, {"d.zip": packed.getvalue()})["status"] == "Ok"
    bench.until(lambda: bench.rpc("GetDatasetStatus", **ASK).get("status") == "FAILED")


def test_effects_show_late(tmp_path: Path) -> None:
    """A new dataset is 403 first; a new version leaves the old one READY for a while, then is processed."""
    with serving(tmp_path, LocalKaggleSettings(visible_after=0.4, processing=0.4)) as bench:
        create(bench, {"a.txt": b"a"})
        assert (
            bench.rpc("GetDatasetStatus", **ASK)["error"]["message"] == "Permission 'datasets.get' was denied"
        )
        early = bench.rpc("CreateDatasetVersion", **ASK, body={"files": bench.upload({"b.txt": b""})})
        assert early["status_code"] == 403, "the first version has to be finished before a second"
        bench.until(lambda: "status" in bench.rpc("GetDatasetStatus", **ASK))
        assert bench.rpc("GetDatasetStatus", **ASK)["status"] != "READY"
        bench.ready()
        bench.rpc("CreateDatasetVersion", **ASK, body={"files": bench.upload({"b.txt": b"bb"})})
        assert bench.rpc("GetDatasetStatus", **ASK)["status"] == "READY", "that of the old version"
        assert bench.rpc("GetDataset", **ASK)["currentVersionNumber"] == 1
        assert bench.rpc("ListDatasetFiles", **ASK, datasetVersionNumber=2)["status_code"] == 404
        bench.until(lambda: bench.rpc("GetDataset", **ASK)["currentVersionNumber"] == 2)
        assert bench.rpc("GetDatasetStatus", **ASK)["status"] != "READY"
        assert bench.names() == {"a.txt": 1}, "files of the last version that is READY"
        bench.ready(version=2)
        assert bench.names() == {"b.txt": 2}


def test_nobody_can_use_the_uploads_of_another(bench: Bench) -> None:
    """A token belongs to who began the upload, and an unfinished one is worth nothing."""
    stolen = bench.upload({"a.txt": b"a"}, "bob")
    open_ = bench.rpc("blobs.BlobApiService/StartBlobUpload", name="b.txt", contentLength=5)
    for files in (stolen, [{"token": open_["token"]}], [{"token": "../accounts"}]):
        words = {"ownerSlug": "alice", "slug": "my-offline-kit", "title": "My offline kit", "files": files}
        assert bench.rpc("CreateDataset", **words)["status_code"] in (400, 404)


def test_the_state_outlives_the_server(tmp_path: Path) -> None:
    """What one server took, the next one has; processing that was cut off is gone on with."""
    with serving(tmp_path) as bench:
        create(bench, {"a.txt": b"a"})
        bench.ready()
        bench.rpc("CreateDatasetVersion", **ASK, body={"files": bench.upload({"b.txt": b"bb"})})
        record = tmp_path / "state/datasets/alice/my-offline-kit/versions/2/record.json"
        bench.until(lambda: json.loads(record.read_text())["state"] == "treated")
        bench.until(lambda: not (record.parent / "upload").exists())
    told = json.loads(record.read_text())
    upload_again = record.parent / "upload"
    upload_again.mkdir()
    (upload_again / "b.txt").write_bytes(b"bb")
    record.write_text(json.dumps({**told, "state": "received"}))
    with serving(tmp_path, HASTY) as bench:
        bench.ready(version=2)
        assert bench.names() == {"b.txt": 2}


def test_no_secret_is_kept(bench: Bench) -> None:
    """Neither keys nor tokens stand anywhere in the state or the log."""
    create(bench, {"a.txt": b"a"})
    bench.ready()
    for path in bench.kaggle.store.folder.rglob("*"):
        if path.is_file():
            assert b"key-of-" not in path.read_bytes(), path
            assert b"KGAT_" not in path.read_bytes(), path


def test_names_lead_nowhere_else(bench: Bench) -> None:
    """Owners, slugs and file names of a request cannot leave the state's folder."""
    for owner, slug in (("..", "accounts"), ("alice", "../bob"), ("alice/..", "x")):
        told = bench.rpc("GetDatasetStatus", ownerSlug=owner, datasetSlug=slug)
        assert told["status_code"] in (403, 404)
    bad = bench.rpc("blobs.BlobApiService/StartBlobUpload", name="../x", contentLength=1)
    assert bad["status_code"] == 400
    create(bench, {"a.txt": b"a"})
    bench.ready()
    told = bench.rpc("DownloadDataset", **ASK, fileName="../record.json")
    assert told["status_code"] == 404
