"""The gateway before the local Kaggle, with the real client in its worker process."""

import json
import os
import sys
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from offline_kit.core.errors import OutsideError, UsageError
from offline_kit.core.retry import RetryPolicy
from offline_kit.kaggle.client.api_types import (
    NewVersion,
    NoResponseError,
    NotLoggedInError,
    RefusedError,
    UnreachableError,
)
from offline_kit.kaggle.client.client import KaggleClient
from offline_kit.kaggle.client.session import GUARD, KaggleEndpoint
from offline_kit.local_kaggle.faults import Fault
from offline_kit.project import config
from offline_kit.workflow import kaggle_session
from tests.support.listener import Listener
from tests.support.local_kaggle import SLUG, Bench
from tests.support.pushing import BRISK
from tests.support.pushing import client as client_of
from tests.support.warm_python import client_python


def put(bench: Bench, client: KaggleClient, name: str, data: bytes) -> str:
    """Upload bytes the plain way and return their token."""
    import requests

    token, url = client.start_blob(name, len(data), 1_000_000_000)
    assert requests.put(url, data=data, timeout=20).status_code == 200
    return token


def new(bench: Bench, client: KaggleClient, files: Mapping[str, bytes], notes: str = "a note") -> NewVersion:
    """Upload files and return what makes a dataset of them."""
    tokens = {name: put(bench, client, name.rpartition("/")[2], data) for name, data in files.items()}
    return NewVersion(ref=SLUG, title="My offline kit", version_notes=notes, blob_tokens=tokens)


def test_a_dataset_with_folders_is_created_privately_and_read_back(
    bench: Bench, alice: KaggleClient, tmp_path: Path
) -> None:
    """Folders stay folders, nobody else sees the dataset, and a file comes back as it went."""
    assert alice.get_dataset(SLUG) is None
    assert alice.get_dataset_status(SLUG) == ""
    files = {"offline-kit.json": b"{}", "packages/a.whl": b"wheel", "deep/er/b.bin": b"bb"}
    page = alice.create_dataset(new(bench, alice, files))
    assert page.endswith(SLUG)
    bench.ready()
    found = alice.get_dataset(SLUG)
    assert found is not None
    assert (found.version, found.private) == (1, True)
    assert alice.get_dataset_status(SLUG) == "ready"
    assert alice.list_dataset_files(SLUG) == {n: len(d) for n, d in files.items()}
    assert alice.download_dataset_file(SLUG, None, "packages/a.whl", tmp_path / "a") == 5
    assert (tmp_path / "a").read_bytes() == b"wheel"
    with client_of(bench, "bob") as bob:
        assert bob.get_dataset(SLUG) is None


def test_a_second_version_carries_its_notes_and_number(bench: Bench, alice: KaggleClient) -> None:
    """Version number and notes are read back: by them a lost answer is recognised."""
    alice.create_dataset(new(bench, alice, {"a.txt": b"1"}))
    bench.ready()
    alice.add_dataset_version(new(bench, alice, {"b.txt": b"2"}, notes="second"))
    bench.ready(version=2)
    found = alice.get_dataset(SLUG)
    assert found is not None
    assert found.version == 2
    assert found.version_notes[2] == "second"
    assert list(alice.list_dataset_files(SLUG)) == ["b.txt"]
    assert list(alice.list_dataset_files(SLUG, 1)) == ["a.txt"]


def test_long_listings_are_read_to_their_end(bench: Bench, alice: KaggleClient) -> None:
    """A listing of several pages is one answer."""
    alice.create_dataset(new(bench, alice, {f"{n}.txt": b"x" for n in range(5)}))
    bench.ready()
    with client_of(bench, page=2) as client:
        assert len(client.list_dataset_files(SLUG)) == 5
    assert len(bench.traffic.ended_requests("/ListDatasetFiles")) == 3


def test_a_refusal_inside_a_200_is_an_error_with_kaggles_words(bench: Bench, alice: KaggleClient) -> None:
    """What the client reports as success and exit code 0 is an error here."""
    alice.create_dataset(new(bench, alice, {"a.txt": b"1"}))
    with pytest.raises(RefusedError, match="already in use"):
        alice.create_dataset(new(bench, alice, {"a.txt": b"1"}))


def test_nested_messages_of_the_service_are_shown(bench: Bench, alice: KaggleClient) -> None:
    """The sentence that the client hides behind '403 Client Error' reaches the user."""
    with pytest.raises(RefusedError, match=r"Permission 'datasets.update' was denied") as caught:
        alice.add_dataset_version(new(bench, alice, {"a.txt": b"1"}))
    assert caught.value.status == 403
    assert caught.value.hint


def test_reads_outlast_passing_trouble(bench: Bench, alice: KaggleClient) -> None:
    """429 with Retry-After, 503 and a cut connection are waited out where asking again does no harm."""
    alice.create_dataset(new(bench, alice, {"a.txt": b"1"}))
    bench.ready()
    for fault in (
        Fault(on="GetDataset", status=429, retry_after=0.1),
        Fault(on="GetDataset", status=503),
        Fault(on="GetDataset", lose_answer=True),
    ):
        bench.kaggle.faults.add_fault(fault)
    assert alice.get_dataset(SLUG) is not None
    assert len(bench.traffic.ended_requests("/GetDataset")) >= 4


@pytest.mark.parametrize("fault", [Fault(on="CreateDataset", lose_answer=True)])
def test_an_effect_whose_answer_is_lost_is_not_sent_again(
    bench: Bench, alice: KaggleClient, fault: Fault
) -> None:
    """The client would create twice; the gateway says that it does not know."""
    bench.kaggle.faults.add_fault(fault)
    with pytest.raises(NoResponseError, match="CreateDataset"):
        alice.create_dataset(new(bench, alice, {"a.txt": b"1"}))
    assert len(bench.traffic.ended_requests("/CreateDataset")) == 1
    bench.ready()


def test_waits_that_kaggle_asks_for_are_told(bench: Bench) -> None:
    """They may take minutes; a short trouble of its own is none of them."""
    waits: list[float] = []
    with client_of(bench, patience=RetryPolicy(sleep=lambda _: None, tell=waits.append)) as client:
        bench.kaggle.faults.add_fault(Fault(on="GetDatasetStatus", status=503, times=2))
        assert client.get_dataset_status(SLUG) == ""
        assert waits == []
        bench.kaggle.faults.add_fault(Fault(on="GetDatasetStatus", status=429, times=2, retry_after=30))
        assert client.get_dataset_status(SLUG) == ""
    assert [round(wait) for wait in waits if wait] == [30, 30]


def test_the_user_hears_of_a_wait_that_kaggle_asks_for(bench: Bench, tmp_path: Path) -> None:
    """Silence of minutes would look like a hanging command."""
    project = tmp_path / "project"
    project.mkdir()
    (project / "pyproject.toml").write_text('[project]\nname = "plant"\nversion = "1"\n')
    where = KaggleEndpoint(local=bench.server.url, username="alice", key="key-of-alice")
    listener = Listener()
    with kaggle_session.open_session(config.load_config(project, {}), where, listener) as port:
        bench.kaggle.faults.add_fault(Fault(on="GetDataset", status=429, retry_after=2.4))
        assert port.kaggle.get_dataset(SLUG) is None
    assert "Rate-limited by Kaggle (429); retrying in 2 s" in listener.notes


def test_an_effect_is_sent_again_after_429(bench: Bench, alice: KaggleClient) -> None:
    """Slow down means: nothing was done."""
    bench.kaggle.faults.add_fault(Fault(on="CreateDataset", status=429, retry_after=0.05))
    alice.create_dataset(new(bench, alice, {"a.txt": b"1"}))
    bench.ready()


def test_a_hanging_service_ends_within_the_deadline(bench: Bench) -> None:
    """The client has no timeouts; we have, and the next question works."""
    bench.kaggle.faults.add_fault(Fault(on="GetDatasetStatus", delay=30))
    with client_of(bench, seconds=1.5, patience=RetryPolicy(attempts=1)) as client:
        began = time.monotonic()
        with pytest.raises(NoResponseError, match="GetDatasetStatus"):
            client.get_dataset_status(SLUG)
        assert time.monotonic() - began < 20
        assert client.get_dataset_status(SLUG) == ""


def test_a_silent_download_ends_alone_and_a_slow_one_comes_to_its_end(bench: Bench, tmp_path: Path) -> None:
    """A download takes as long as bytes come; one that gets none is asked for anew, and the others go on."""
    with client_of(bench, seconds=0.5) as client:
        client.create_dataset(new(bench, client, {"big.bin": b"x" * 655_360}))
        bench.ready()
        client.fetch_account()
        bench.kaggle.faults.add_fault(Fault(on="GET", delay=30))
        bench.kaggle.faults.add_fault(Fault(on="GET", pause=0.45))
        asked = threading.Event()
        bench.traffic.listeners.append(lambda event: asked.set() if event.name == "GET" else None)
        with ThreadPoolExecutor(2) as pool:
            silent = pool.submit(client.download_dataset_file, SLUG, None, "big.bin", tmp_path / "silent")
            assert asked.wait(20)
            began = time.monotonic()
            assert client.download_dataset_file(SLUG, None, "big.bin", tmp_path / "slow") == 655_360
            assert time.monotonic() - began > 1 + 1.2 * 5 * 0.5, "longer than any request may be silent"
            assert silent.result() == 655_360
    assert len(bench.traffic.ended_requests("/DownloadDataset")) == 3


def test_a_download_that_is_cut_is_requested_again(bench: Bench, alice: KaggleClient, tmp_path: Path) -> None:
    """What came before the cut is replaced; the file is whole."""
    data = bytes(range(256)) * 4096
    alice.create_dataset(new(bench, alice, {"big.png": data}))
    bench.ready()
    bench.kaggle.faults.add_fault(Fault(on="GET", cut=140_000, times=2))
    assert alice.download_dataset_file(SLUG, None, "big.png", tmp_path / "big.png") == len(data)
    assert (tmp_path / "big.png").read_bytes() == data


def test_a_download_that_was_given_up_begins_anew(bench: Bench, alice: KaggleClient, tmp_path: Path) -> None:
    """What was held is gone with the failure; the same file asked for again is whole."""
    data = bytes(range(256)) * 2048
    alice.create_dataset(new(bench, alice, {"big.bin": data}))
    bench.ready()
    bench.kaggle.faults.add_fault(Fault(on="GET", cut=140_000))
    bench.kaggle.faults.add_fault(Fault(on="GET", status=403, times=4))
    with pytest.raises(NoResponseError):
        alice.download_dataset_file(SLUG, None, "big.bin", tmp_path / "big.bin")
    assert not (tmp_path / "big.bin").exists()
    assert alice.download_dataset_file(SLUG, None, "big.bin", tmp_path / "big.bin") == len(data)
    assert (tmp_path / "big.bin").read_bytes() == data


def test_an_expired_login_is_renewed(bench: Bench, alice: KaggleClient) -> None:
    """One 401 in the middle is answered by logging in again."""
    alice.fetch_account()
    bench.kaggle.faults.add_fault(Fault(on="GetDatasetStatus", status=401))
    assert alice.get_dataset_status(SLUG) == ""


def homely(bench: Bench, **changes: str) -> dict[str, str]:
    """Return an environment like a user's, whose Kaggle is the local one, with no credentials but `changes`."""
    return {**bench.environment(), "KAGGLE_USERNAME": "", "KAGGLE_KEY": "", **changes}


def logged_in(bench: Bench, env: Mapping[str, str]) -> tuple[str, str, str]:
    """Return account, method and dropped token that a client of this environment has."""
    clean = {name: value for name, value in env.items() if value}
    with KaggleClient(KaggleEndpoint(), env=clean, python=client_python(), patience=BRISK) as client:
        account = client.fetch_account()
        client.get_dataset_status(SLUG)
        return account.username, account.auth_method, account.ignored_token_source


def test_credentials_come_from_every_source_of_the_client(bench: Bench) -> None:
    """Key in variables, kaggle.json, token in a variable, token in a file: all log in."""
    home = bench.folder / "home-alice"
    folder = home / ".kaggle"
    assert logged_in(bench, homely(bench, KAGGLE_USERNAME="bob", KAGGLE_KEY="key-of-bob"))[:2] == (
        "bob",
        "LEGACY_API_KEY",
    )
    assert logged_in(bench, homely(bench, KAGGLE_API_TOKEN="KGAT_bob"))[:2] == ("bob", "ACCESS_TOKEN")
    folder.mkdir(exist_ok=True)
    (folder / "kaggle.json").write_text(json.dumps({"username": "alice", "key": "key-of-alice"}))
    (folder / "kaggle.json").chmod(0o600)
    assert logged_in(bench, homely(bench))[0] == "alice"
    (folder / "access_token").write_text("KGAT_bob\n")
    assert logged_in(bench, homely(bench))[:2] == ("bob", "ACCESS_TOKEN")


def test_a_stale_token_does_not_shadow_a_good_key(bench: Bench) -> None:
    """The client would say 'key' and send the dead token; we lay it aside and say so."""
    env = homely(bench, KAGGLE_USERNAME="bob", KAGGLE_KEY="key-of-bob", KAGGLE_API_TOKEN="KGAT_dead")
    assert logged_in(bench, env) == ("bob", "LEGACY_API_KEY", "KAGGLE_API_TOKEN")


def test_a_stale_token_file_is_named(bench: Bench) -> None:
    """A dead token that cannot be laid aside stops us, with its place."""
    folder = bench.folder / "home-alice" / ".kaggle"
    folder.mkdir(parents=True)
    (folder / "access_token").write_text("KGAT_dead")
    with pytest.raises(NotLoggedInError, match="access_token"):
        logged_in(bench, homely(bench, KAGGLE_USERNAME="bob", KAGGLE_KEY="key-of-bob"))


def test_without_credentials_the_sources_are_named(bench: Bench) -> None:
    """No exit, no help text on our stdout: an error with what to do, never a silent switch to local."""
    with pytest.raises(NotLoggedInError, match="no valid credentials") as caught:
        logged_in(bench, homely(bench))
    assert "KAGGLE_API_TOKEN" in caught.value.hint
    assert "--to local" in caught.value.hint


def test_nothing_is_printed(bench: Bench, capfd: pytest.CaptureFixture[str]) -> None:
    """The client prints help, warnings and, with VERBOSE, tokens; none of it reaches our terminal."""
    with pytest.raises(NotLoggedInError):
        logged_in(bench, homely(bench, VERBOSE="1"))
    logged_in(bench, homely(bench, KAGGLE_API_TOKEN="KGAT_bob", VERBOSE="1"))
    assert capfd.readouterr() == ("", "")


def test_wrong_keys_are_told_without_showing_them(bench: Bench) -> None:
    """A key that Kaggle refuses is an error of the login."""
    with pytest.raises(NotLoggedInError) as caught:
        logged_in(bench, homely(bench, KAGGLE_USERNAME="bob", KAGGLE_KEY="planted-key-5"))
    assert "planted-key-5" not in repr((caught.value.what, caught.value.hint, caught.value.details))


def test_the_local_kaggle_never_sees_the_users_credentials(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`--to local` is another account, whatever lies in the home folder and the environment."""
    (tmp_path / "me" / ".kaggle").mkdir(parents=True)
    (tmp_path / "me" / ".kaggle" / "access_token").write_text("KGAT_bob")
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    monkeypatch.setenv("KAGGLE_API_TOKEN", "KGAT_bob")
    with client_of(bench) as client:
        assert client.fetch_account().username == "alice"


def test_production_is_out_of_reach_of_the_test_suite(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the guard set there is no client for the real Kaggle; one for the local Kaggle cannot leave it."""
    monkeypatch.setenv(GUARD, "1")
    monkeypatch.delenv("KAGGLE_API_ENVIRONMENT", raising=False)
    with KaggleClient(KaggleEndpoint()) as client, pytest.raises(UsageError, match="blocks the real Kaggle"):
        client.fetch_account()
    env = KaggleEndpoint(local=bench.server.url).build_environment(dict(os.environ), str(bench.folder))
    import subprocess

    reach = "import requests; requests.post('https://api.kaggle.com/v1/x', timeout=20)"
    done = subprocess.run([sys.executable, "-c", reach], env=env, capture_output=True, text=True)
    assert done.returncode != 0
    assert bench.traffic.refused_hosts() == ["api.kaggle.com:443"]


@pytest.mark.parametrize("said", ["TEST", "STAGING", "localhost"])
def test_an_environment_that_the_client_would_ignore_is_refused(bench: Bench, said: str) -> None:
    """KAGGLE_API_ENVIRONMENT=TEST would talk to production with real credentials."""
    env = homely(bench, KAGGLE_API_ENVIRONMENT=said, KAGGLE_USERNAME="bob", KAGGLE_KEY="k")
    with (
        KaggleClient(KaggleEndpoint(), env=env, python=client_python()) as client,
        pytest.raises(UsageError, match=said),
    ):
        client.fetch_account()


@pytest.mark.parametrize("address", ["http://127.0.0.1:9", "http://nowhere.invalid:9"])
def test_an_unreachable_kaggle_is_told_as_such(address: str) -> None:
    """A closed port or a name that is not known is no crash, and certainly had no effect."""
    with (
        KaggleClient(
            KaggleEndpoint(local=address, username="alice", key="key"), python=client_python(), patience=BRISK
        ) as client,
        pytest.raises(UnreachableError, match="cannot be reached"),
    ):
        client.create_dataset(NewVersion(ref=SLUG, title="My offline kit", version_notes="", blob_tokens={}))


def test_a_closed_client_begins_no_other_one(bench: Bench) -> None:
    """A thread that still waits when all is over ends with it: it does not ask a silent server again and again."""
    bench.kaggle.faults.add_fault(Fault(on="GetDataset", delay=30.0, times=0))
    troubles: list[Exception] = []
    where = KaggleEndpoint(local=bench.server.url, username="alice", key="key-of-alice")
    with KaggleClient(where, python=client_python(), patience=BRISK) as client:

        def ask() -> None:
            try:
                client.get_dataset(SLUG)
            except OutsideError as error:
                troubles.append(error)

        client.fetch_account()
        thread = threading.Thread(target=ask)
        thread.start()
        time.sleep(0.5)
    thread.join(5)
    assert [str(each) for each in troubles] == ["the connection to Kaggle was closed"]


def test_a_missing_client_is_named(bench: Bench, tmp_path: Path) -> None:
    """Without the kaggle package, or without six that it forgets to ask for, the remedy is told."""
    (tmp_path / "six.py").write_text("raise ModuleNotFoundError(\"No module named 'six'\", name='six')\n")
    env = homely(bench, KAGGLE_USERNAME="bob", KAGGLE_KEY="k", PYTHONPATH=str(tmp_path))
    with (
        KaggleClient(KaggleEndpoint(), env=env) as client,
        pytest.raises(OutsideError, match="six") as caught,
    ):
        client.fetch_account()
    assert "pip install" in caught.value.hint


def test_a_project_file_does_not_shadow_the_client(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A user's own kaggle.py in the current folder is left alone."""
    (tmp_path / "kaggle.py").write_text("raise SystemExit('wrong kaggle')")
    monkeypatch.chdir(tmp_path)
    with client_of(bench, python=sys.executable) as client:
        assert client.fetch_account().username == "alice"
