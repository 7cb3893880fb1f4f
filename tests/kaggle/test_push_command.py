"""`offline-kit push` as a user runs it, against the local Kaggle."""

import base64
import json
import shutil
import signal
import threading

import pytest

from offline_kit.local_kaggle.faults import Fault
from offline_kit.local_kaggle.server import TrafficEvent
from tests.support.local_kaggle import Bench
from tests.support.push_command import (
    KIT,
    local,
    project,
    push,
    start,
)  # a fixture among them
from tests.support.push_command import (
    bench as bench,
)
from tests.support.pushing import make_kit


def test_a_push_and_the_same_again(bench: Bench) -> None:
    """First created, then nothing: both said, on stdout for a script too, with exit code 0."""
    plan = push(bench, *local(bench), "--dry-run", "--json")
    assert plan.returncode == 0, plan.stderr
    assert json.loads(plan.stdout)["parts"][0]["action"] == "create"
    assert not bench.traffic.ended_requests("PUT")
    memory = project(bench) / ".offline-kit" / "offline-kit.push"
    first = push(bench, *local(bench))
    assert (first.returncode, first.stdout) == (0, "local/plant-kit version 1: created\n"), first.stderr
    assert (memory / ".gitignore").read_text() == "*\n", "addresses of uploads are nothing for git"
    again = push(bench, *local(bench), "--json")
    assert json.loads(again.stdout)["parts"][0]["action"] == "nothing"
    assert "nothing to upload" in again.stderr


@pytest.mark.slow
def test_data_is_not_changed_where_kaggle_does_not_tell_what_waits_for_it(bench: Bench) -> None:
    """A list of submissions that does not come is no empty one; one that is refused is."""
    assert push(bench, *local(bench)).returncode == 0
    (project(bench) / "offline-kit.toml").write_text('dataset = "plant-kit"\ncompetition = "plants"\n')
    shutil.rmtree(project(bench) / "dist" / "offline-kit")
    make_kit(project(bench) / "dist" / "offline-kit", KIT | {"checkpoints/model.ckpt": b"another"})
    bench.kaggle.faults.add_fault(
        Fault(on="ListSubmissions", status=503, message="down", retry_after=0, times=5)
    )
    done = push(bench, *local(bench))
    assert (done.returncode, "Kaggle says: down" in done.stderr) == (4, True), done.stderr
    assert len(bench.traffic.ended_requests("/CreateDatasetVersion")) == 0
    assert push(bench, *local(bench)).returncode == 0


def test_a_local_kaggle_is_served_where_none_is_named(bench: Bench) -> None:
    """`--to local` works from a fresh state, and the state is there the next time."""
    first = push(bench, "--to", "local")
    assert (first.returncode, first.stdout) == (0, "local/plant-kit version 1: created\n"), first.stderr
    assert "LOCAL" in first.stderr
    assert "unchanged" in push(bench, "--to", "local").stdout
    assert not bench.traffic.ended_requests(), "another one was asked"


def test_local_and_real_are_never_mixed_up(bench: Bench) -> None:
    """An address elsewhere, one without --to local, and the real Kaggle under the guard end with 2."""
    for words, says in (
        (("--to", "local", "--at", "https://www.kaggle.com"), "error[address-not-local]"),
        (("--at", bench.server.url), "--to local"),
        ((), "error[kaggle-blocked]"),
    ):
        done = push(bench, *words, env={"OFFLINE_KIT_LOCAL_KAGGLE": bench.server.url})
        assert (done.returncode, says in done.stderr) == (2, True), done.stderr
    assert not bench.traffic.ended_requests()


def test_missing_credentials_are_exit_4_with_both_remedies(bench: Bench) -> None:
    """Who has no account is told of credentials and of --to local."""
    env = {**bench.environment(), "KAGGLE_USERNAME": "", "KAGGLE_KEY": ""}
    home = bench.folder / "nobody"
    home.mkdir()
    done = push(bench, env={**env, "HOME": str(home), "KAGGLE_CONFIG_DIR": str(home)})
    assert done.returncode == 4, done.stderr
    assert "KAGGLE_API_TOKEN" in done.stderr
    assert "--to local" in done.stderr


def test_a_foreign_dataset_is_refused_before_anything_is_sent(bench: Bench) -> None:
    """The account is compared with the owner."""
    (project(bench) / "offline-kit.toml").write_text('dataset = "bob/plant-kit"\n')
    done = push(bench, *local(bench))
    assert done.returncode == 2
    assert "belongs to 'bob'" in done.stderr
    assert "change 'dataset' in offline-kit.toml" in done.stderr
    assert not bench.traffic.ended_requests("/StartBlobUpload")


def test_interrupted_it_stops_at_once_and_goes_on_later(bench: Bench) -> None:
    """^C in the middle of an upload ends with 130; the next push sends only what is missing."""
    big = b"3" * 4_000_000
    make_kit(project(bench) / "dist" / "offline-kit", {**KIT, "checkpoints/model.ckpt": big})
    hit = threading.Event()

    def watch(event: TrafficEvent) -> None:
        if event.phase == "bytes" and event.received > 2_500_000 and not hit.is_set():
            hit.set()
            process.send_signal(signal.SIGINT)
            process.wait(30)  # not another byte is taken

    bench.traffic.listeners.append(watch)
    bench.kaggle.faults.add_fault(Fault(on="PUT", delay=0.2))
    process = start(bench, *local(bench))
    _, err = process.communicate(timeout=60)
    assert hit.is_set()
    assert process.returncode == 130, err
    bench.until(lambda: bench.traffic.uploaded_bytes() > 2_500_000)
    before = bench.traffic.uploaded_bytes()
    assert push(bench, *local(bench)).returncode == 0
    assert bench.traffic.uploaded_bytes() - before < len(big)


@pytest.mark.parametrize(
    "fault", [None, Fault(on="CreateDataset", status=400), Fault(on="GetDataset", status=401, times=9)]
)
def test_secrets_stay_where_they_are(bench: Bench, fault: Fault | None) -> None:
    """Neither key nor upload address is in the output; no key is in any file that we write."""
    key = "planted-key-of-carol-81"
    bench.kaggle.accounts.add_account("carol", key=key)
    if fault:
        bench.kaggle.faults.add_fault(fault)
    env = {**bench.environment(), "KAGGLE_USERNAME": "carol", "KAGGLE_KEY": key, "VERBOSE": "1"}
    done = push(bench, env=env)
    assert done.returncode == (4 if fault else 0), done.stderr
    planted = [key, base64.b64encode(f"carol:{key}".encode()).decode().rstrip("=")]
    assert not [word for word in (*planted, "/upload/") if word in done.stdout + done.stderr]
    ours = [path for path in bench.folder.rglob("*") if path.is_file() and "state" not in path.parts]
    assert not [path for path in ours for word in planted if word.encode() in path.read_bytes()]


def test_more_files_than_kaggle_may_take_are_asked_about(bench: Bench) -> None:
    """Before a byte is sent; a script has to say --yes."""
    shutil.rmtree(project(bench) / "dist")
    make_kit(project(bench) / "dist" / "offline-kit", {f"packages/{n}.txt": b"" for n in range(1000)})
    done = push(bench, *local(bench))
    assert done.returncode == 4
    assert "may refuse more than 1000" in " ".join(done.stderr.replace("│", " ").split())
    assert bench.traffic.ended_requests("/StartBlobUpload") == []


def test_a_part_that_the_kit_has_not_is_not_sent_again(bench: Bench) -> None:
    """The names that there are, are told."""
    done = push(bench, *local(bench), "--resend-part", "weights")
    assert done.returncode == 2
    assert "no part 'weights'" in done.stderr
    assert "--resend-part takes kit" in done.stderr
