"""The faults that a push to Kaggle must survive, as a user meets them on the command line.

For each: the exit code, the cause and the remedy; nothing is lost or doubled; the same command afterwards
succeeds. `FAULTS` says where each is shown.
"""

import ast
import dataclasses
import signal
from pathlib import Path
from typing import Any

import pytest

from offline_kit.local_kaggle.server import TrafficEvent
from tests.support.competitions import competition
from tests.support.local_kaggle import HASTY
from tests.support.shipping import DATASET, NOTEBOOK, Told, Yard, retrain, yard

TESTS = Path(__file__).parents[1]
FAULTS: dict[int, tuple[str, tuple[str, ...]]] = {
    1: ("the client cannot be imported", ("test_client.py::test_a_missing_client_is_named",)),
    2: ("no credentials", ("test_without_credentials",)),
    3: ("a token that is not valid any more", ("test_a_dead_token", "test_the_account_of_somebody_else")),
    4: ("a dead token beside a good key", ("test_a_dead_token_beside_a_good_key",)),
    5: ("nobody answers", ("test_nobody_listens", "test_nobody_answers")),
    6: ("too many requests", ("test_too_many_requests",)),
    7: ("trouble at an effect", ("test_trouble_at_an_effect",)),
    8: ("an answer lost after the effect", ("test_a_lost_answer",)),
    9: ("the dataset exists already", ("test_a_dataset_of_ones_own", "test_a_dataset_that_was_not_shown")),
    10: ("a wrong answer before the upload", ("test_a_wrong_answer_before_the_upload",)),
    11: ("an invalid title or slug", ("test_an_invalid_name",)),
    12: ("an upload is rejected", ("test_a_rejected_upload",)),
    13: ("the connection is cut in the middle of an upload", ("test_a_cut_upload",)),
    14: ("the upload session has expired", ("test_an_expired_upload",)),
    15: ("a crash between uploads and their version", ("test_a_crash_before_the_version",)),
    16: ("a dataset is still processed", ("test_slow_processing",)),
    17: ("processing failed", ("test_failed_processing",)),
    18: ("a new version is not visible yet", ("test_a_version_that_shows_late",)),
    19: ("a data source is rejected", ("test_a_rejected_source",)),
    20: ("the push is refused", ("test_a_refused_push", "test_no_free_session")),
    21: ("the run fails or is cancelled", ("test_a_failed_run", "test_a_cancelled_run")),
    22: ("the run did not get its input", ("test_a_run_without_its_input",)),
    23: ("the status of another version", ("test_the_status_of_another_version",)),
    24: ("a link to an output has expired", ("test_an_expired_link",)),
    25: ("a submission that is not allowed", ("test_a_submission_that_is_not_allowed",)),
    26: ("a submission that is scored with an error", ("test_a_failed_submission",)),
    27: (
        "long paths, a foreign temporary folder, a full disk",
        (
            "test_files.py::test_a_full_disk_is_an_error_with_a_remedy",
            "test_files.py::test_an_unwritable_place_is_an_error_with_a_remedy",
            "test_a_place_that_cannot_be_written",
        ),
    ),
}
"""Number and name of each fault, and the tests that show it: here, or in a file that is named."""
DATA = ("--no-build", "--data-only")


def test_every_fault_has_its_test() -> None:
    """27 faults, and every test that the table names is there."""
    assert list(FAULTS) == [*range(1, 28)]
    for name, tests in FAULTS.values():
        assert name
        for test in tests:
            file, _, function = test.rpartition("::")
            tree = ast.parse(next(TESTS.rglob(file or "test_faults.py")).read_text())
            assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, test


def test_a_place_that_cannot_be_written(here: Yard) -> None:
    """What we write beside the kit finds a file in its way: exit 4 with the place, and no crash report."""
    state = here.project / ".offline-kit" / "offline-kit.push"
    state.parent.mkdir(exist_ok=True)
    state.write_text("")
    here.push(*DATA).failed(4, str(state))
    assert not here.calls("StartBlobUpload")
    state.unlink()
    here.push(*DATA).good()
    assert here.datasets() == [1]


# ------------------------------------------------------------------ logging in and reaching Kaggle


def as_user(here: Yard, **changes: str | None) -> Told:
    """Push the data as the real Kaggle is pushed to; the environment leads its client to the local one."""
    env: dict[str, str | None] = {**here.bench.environment(), "KAGGLE_USERNAME": None, "KAGGLE_KEY": None}
    return here.run("push", *DATA, env={**env, **changes})


GOOD = {"KAGGLE_USERNAME": "alice", "KAGGLE_KEY": "key-of-alice"}
SMALL = "alice/small-kit"


def test_without_credentials(here: Yard) -> None:
    """Exit 4 with every accepted source and the way without an account; with credentials it succeeds."""
    as_user(here).failed(4, "no valid credentials", "KAGGLE_API_TOKEN", "kaggle.json", "--to local")
    assert here.datasets(SMALL) == []
    as_user(here, **GOOD).good()
    assert here.datasets(SMALL) == [1]


@pytest.mark.slow
def test_a_dead_token(here: Yard) -> None:
    """Exit 4, and the token is in no word of it; a good one succeeds."""
    told = as_user(here, KAGGLE_API_TOKEN="KGAT_dead").failed(4, "credentials", "KAGGLE_API_TOKEN")
    assert "KGAT_dead" not in told.out + told.err
    as_user(here, KAGGLE_API_TOKEN="KGAT_alice").good()
    assert here.datasets(SMALL) == [1]


@pytest.mark.slow
def test_the_account_of_somebody_else(here: Yard) -> None:
    """Credentials that fell through to another account do not fill that one: exit 2 with both names."""
    config = here.project / "offline-kit.toml"
    config.write_text(config.read_text().replace('"small-kit"', '"alice/small-kit"'))
    as_user(here, KAGGLE_API_TOKEN="KGAT_bob").failed(2, "belongs to 'alice'", "'bob'", "log in as its owner")
    assert not here.calls("StartBlobUpload")
    as_user(here, KAGGLE_API_TOKEN="KGAT_alice").good()
    assert here.datasets(SMALL) == [1]


@pytest.mark.slow
def test_a_dead_token_beside_a_good_key(here: Yard) -> None:
    """The key is used and said so; without the token the same command has nothing to do."""
    told = as_user(here, **GOOD, KAGGLE_API_TOKEN="KGAT_dead").good()
    assert "the token from KAGGLE_API_TOKEN has expired" in told.err
    assert "unchanged" in as_user(here, **GOOD).good().out
    assert here.datasets(SMALL) == [1]


def test_nobody_listens(here: Yard) -> None:
    """Exit 4 after a few attempts, with who does not answer; once there is a Kaggle it succeeds."""
    nowhere = "http://127.0.0.1:9"
    here.run("push", *DATA, "--to", "local", "--at", nowhere).failed(4, nowhere, "offline-kit local")
    away = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), nowhere)
    as_user(here, **GOOD, **away).failed(4, "Kaggle cannot be reached", "check the network")
    as_user(here, **GOOD).good()
    assert here.datasets(SMALL) == [1]


@pytest.mark.slow
def test_nobody_answers(tmp_path: Path, built: Path) -> None:
    """A Kaggle that is silent ends the command within its deadline, with exit 4."""
    with yard(tmp_path, built, answer=0.5) as here:
        with here.broken(on="GetDataset", delay=3):
            here.push(*DATA).failed(4, "GetDataset", "run the same command again")
        here.push(*DATA).good()
        assert here.datasets() == [1]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["GetDataset", "SaveKernel", "CreateCodeSubmission"])
def test_too_many_requests(here: Yard, method: str) -> None:
    """Asked to wait, it waits; asked for ever, it ends with exit 4; nothing is done twice."""
    with here.broken(on=method, status=429, message="Too many requests", retry_after=0.05):
        here.ship().failed(4, "Too many requests")
    here.breaks(on=method, status=429, retry_after=0.05, times=2)
    here.ship().good()
    assert here.made() == (1, 1, 1)


EFFECTS = [
    pytest.param(name, marks=() if name == "CreateDataset" else pytest.mark.slow)
    for name in ("CreateDataset", "CreateDatasetVersion", "SaveKernel", "CreateCodeSubmission")
]


def expected(method: str) -> tuple[int, int, int]:
    """Return how many versions and submissions there are once all is done."""
    return (2, 2, 2) if method == "CreateDatasetVersion" else (1, 1, 1)


def first(here: Yard, method: str) -> None:
    """Do what comes before this effect."""
    if method == "CreateDatasetVersion":
        here.ship().good()
        retrain(here.project, b"2")


@pytest.mark.parametrize("method", EFFECTS)
def test_trouble_at_an_effect(here: Yard, method: str) -> None:
    """A 5xx may hide an effect: it is looked for, and where there is none, the same command sends it."""
    first(here, method)
    sent = here.uploaded()
    here.breaks(on=method, status=503, message="The service is unavailable")
    here.ship().failed(4, "no answer", "The service is unavailable", "run the same command again")
    bytes_of_one = here.uploaded() - sent
    here.ship().good()
    assert here.made() == expected(method)
    assert here.holds_the_kit()
    assert here.uploaded() - sent == bytes_of_one, "what had arrived was sent again"


@pytest.mark.parametrize("method", EFFECTS)
def test_a_lost_answer(here: Yard, method: str) -> None:
    """The effect is recognised, in the same run; nothing is done twice, then or later."""
    first(here, method)
    here.breaks(on=method, lose_answer=True)
    assert "no answer" in here.ship().good().err
    here.ship().good()
    assert here.made() == expected(method)
    assert here.holds_the_kit()


# ------------------------------------------------------------------ datasets


@pytest.mark.slow
def test_a_dataset_of_ones_own(here: Yard) -> None:
    """Files that we did not upload stop the push with exit 1; allowed, they make room for a version."""
    here.bench.kaggle.accounts.add_account("local", key="key-of-local")
    tokens = here.bench.upload({"notes.txt": b"mine"}, "local")
    words = {"ownerSlug": "local", "slug": "small-kit", "title": "Small kit", "isPrivate": True}
    here.bench.rpc("CreateDataset", "local", files=tokens, **words)
    here.bench.ready(DATASET)
    here.bench.kaggle.accounts.add_account("local", key="local-kaggle")
    here.push(*DATA).failed(1, "did not upload", "notes.txt", "--drop-foreign")
    assert here.datasets() == [1]
    here.push(*DATA, "--drop-foreign").good()
    assert here.datasets() == [1, 2]
    assert here.holds_the_kit()


def test_a_dataset_that_was_not_shown(here: Yard) -> None:
    """A dataset that hides behind a 403 is refused as in use; the same command then makes a version of it."""
    here.push(*DATA).good()
    retrain(here.project, b"2")
    with here.broken(on="GetDataset", status=403):
        here.push("--data-only").failed(4, "in use")
    here.push("--data-only").good()
    assert here.datasets() == [1, 2]
    assert here.holds_the_kit()


@pytest.mark.parametrize("status", [401, pytest.param(500, marks=pytest.mark.slow)])
def test_a_wrong_answer_before_the_upload(here: Yard, status: int) -> None:
    """Only 403 and 404 mean that there is no dataset; else not a byte is sent, exit 4."""
    with here.broken(on="GetDataset", status=status, message="Out of order"):
        here.push(*DATA).failed(4, "Out of order")
    assert not here.calls("StartBlobUpload")
    here.push(*DATA).good()
    assert here.datasets() == [1]


def test_an_invalid_name(here: Yard) -> None:
    """Exit 2 before anything is asked, with what may stand there."""
    here.push(*DATA, "--dataset", "Small_Kit").failed(2, "'Small_Kit'")
    here.push(*DATA, "--title", "kit").failed(2, "6 to 50")
    assert not here.calls("StartBlobUpload")
    here.push(*DATA, "--title", "A small kit").good()
    assert here.datasets() == [1]


@pytest.mark.parametrize("status", [403, pytest.param(500, marks=pytest.mark.slow)])
def test_a_rejected_upload(here: Yard, status: int) -> None:
    """No version is made of what is incomplete: exit 4, and the same command uploads it."""
    with here.broken(on="PUT", status=status):
        here.push(*DATA).failed(4, str(status), "run the same command again")
    assert not here.calls("CreateDataset")
    here.push(*DATA).good()
    assert here.datasets() == [1]
    assert here.holds_the_kit()


def test_a_cut_upload(here: Yard) -> None:
    """It goes on where it was cut: hardly a byte twice."""
    here.breaks(on="PUT", cut=100_000, times=2)
    here.push(*DATA).good()
    size = sum(entry.size for part in here.kit.parts for entry in part.entries)
    assert here.uploaded() < size + 50_000
    assert here.datasets() == [1]
    assert here.holds_the_kit()


def test_an_expired_upload(here: Yard) -> None:
    """The place that a failed push left behind is gone on the next day: another one is asked for."""
    with here.broken(on="PUT", cut=0):
        here.push(*DATA).failed(4, "could not be uploaded")
    here.breaks(on="PUT", forget=True)
    here.push(*DATA).good()
    assert here.datasets() == [1]
    assert here.holds_the_kit()


def test_a_crash_before_the_version(here: Yard) -> None:
    """Killed with all bytes uploaded, the checkpoint rebuilt in equal size: the version holds the new bytes."""
    process = here.start("push", *here.to, *DATA)

    def kill(event: TrafficEvent) -> None:
        if event.phase == "begun" and event.name.endswith("/CreateDataset"):
            process.kill()
            process.wait()

    with here.broken(on="CreateDataset", delay=0.1, status=500):
        here.bench.traffic.listeners.append(kill)
        process.communicate(timeout=60)
        here.bench.traffic.listeners.remove(kill)
    assert process.returncode == -signal.SIGKILL
    data = retrain(here.project, b"2")
    here.push("--data-only").good()
    assert here.datasets() == [1]
    assert here.holds_the_kit()
    assert (here.kit.folder / "dataset/checkpoints/model.ckpt").read_bytes() == data


def test_slow_processing(tmp_path: Path, built: Path) -> None:
    """Exit 4 when patience ends; the same command continues to wait and sends nothing."""
    slow = dataclasses.replace(HASTY, processing=3.0)
    with yard(tmp_path, built, slow, processing=0.3) as here:
        here.push(*DATA).failed(4, "not ready in time", "continues to wait")
        sent = here.uploaded()
        patient = dataclasses.replace(here, processing=15.0)
        assert "unchanged" in patient.push(*DATA).good().out
        assert (here.datasets(), here.uploaded()) == ([1], sent)


def test_failed_processing(here: Yard) -> None:
    """Exit 4 with the usual causes and the page that knows the reason; the same command makes a version."""
    here.breaks(on="CreateDataset", stuck="FAILED")
    here.push(*DATA).failed(4, "could not process version 1", "usual causes", "its page, http")
    here.push(*DATA).good()
    assert here.datasets() == [1, 2]
    assert here.holds_the_kit()


@pytest.mark.slow
def test_a_version_that_shows_late(tmp_path: Path, built: Path) -> None:
    """The old version says READY for a while: the notebook is not run before the new one is there."""
    with yard(tmp_path, built, dataclasses.replace(HASTY, visible_after=0.8, processing=0.5)) as here:
        here.ship().good()
        retrain(here.project, b"2")
        here.ship().good()
        assert here.made() == (2, 2, 2)
        assert here.holds_the_kit()


# ------------------------------------------------------------------ notebooks


def test_a_rejected_source(here: Yard) -> None:
    """Exit 4 with the source and its remedy, although Kaggle answers 200; the same command pushes again."""
    rejected = {"ref": f"/code/{NOTEBOOK}", "versionNumber": 1, "invalidDatasetSources": [DATASET]}
    here.breaks(on="SaveKernel", answer=rejected)
    here.push().failed(4, f"dataset '{DATASET}'", "offline-kit push", "run the same command again")
    here.push().good()
    assert (here.datasets(), here.notebooks()) == ([1], [1])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (
            {"answer": {"error": "Maximum weekly GPU quota of 30.00 hours reached."}},
            ("quota", "weekly quota"),
        ),
        ({"status": 409, "message": "ALREADY_EXISTS"}, ("title or slug", "set another `title`")),
    ],
    ids=["quota", "title"],
)
def test_a_refused_push(here: Yard, fault: dict[str, Any], words: tuple[str, ...]) -> None:
    """What does not pass by waiting is told at once, exit 4; later the same command succeeds."""
    here.breaks(on="SaveKernel", **fault)
    here.push().failed(4, *words)
    here.push("--no-build").good()
    assert (here.datasets(), here.notebooks()) == ([1], [1])


@pytest.mark.slow
def test_no_free_session(tmp_path: Path, built: Path) -> None:
    """Other runs of the account are waited for; where they do not end in time, exit 4 says what to do."""
    with yard(tmp_path, built, processing=1.0) as here:
        refusal = {"error": "Maximum batch CPU session count of 2 reached."}
        with here.broken(on="SaveKernel", answer=refusal):
            here.push().failed(4, "no free session", "stop a running notebook")
        here.breaks(on="SaveKernel", answer=refusal, times=2)
        here.push("--no-build").good()
        assert (here.datasets(), here.notebooks()) == ([1], [1])


def test_a_failed_run(here: Yard) -> None:
    """Exit 1 with the cell and its error; mended, the same command pushes the notebook alone and submits."""
    here.params("fail = true")
    here.ship().failed(1, "the notebook failed", "ValueError: asked to fail")
    sent = here.uploaded()
    here.params("")
    here.ship().good()
    assert (here.made(), here.uploaded()) == ((1, 2, 1), sent)


@pytest.mark.slow
def test_a_cancelled_run(here: Yard) -> None:
    """Somebody cancelled it: exit 4, and the same command runs another version."""
    here.breaks(on="RUN", ends="CANCEL_ACKNOWLEDGED")
    here.ship().failed(4, "was cancelled", "pushes a new version")
    here.ship().good()
    assert here.made() == (1, 2, 1)


@pytest.mark.slow
def test_a_run_without_its_input(here: Yard) -> None:
    """It is pushed once more by itself; where that does not help either, it is told, and later succeeds."""
    here.breaks(on="RUN", without="dataset", times=3)
    here.ship().failed(1, "error[kit-not-mounted]", "run 'offline-kit push")
    assert here.made() == (1, 2, 0)
    here.ship().good()
    assert here.made() == (1, 4, 1)


@pytest.mark.slow
def test_the_status_of_another_version(here: Yard) -> None:
    """A later run that failed says nothing about an earlier one: that is submitted, and scored."""
    here.push().good()
    here.params("fail = true")
    here.push().failed(1, "version 2")
    here.run("submit", *here.to, "--wait", "--version", "2").failed(1, "version 2")
    here.run("submit", *here.to, "--wait", "--version", "1").good()
    assert here.made() == (1, 2, 1)


@pytest.mark.slow
def test_an_expired_link(here: Yard) -> None:
    """An error's page is never taken for the submission: exit 4; later the same command fetches it."""
    expired: list[TrafficEvent] = []

    def expire(event: TrafficEvent) -> None:
        if event.phase == "begun" and event.name.endswith("/DownloadKernelOutput"):
            expired.append(event)
            here.breaks(on="GET", status=403, message="The link has expired")

    here.bench.traffic.listeners.append(expire)
    here.ship().failed(4, "run the same command again")
    here.bench.traffic.listeners.remove(expire)
    assert expired
    assert here.made() == (1, 1, 0)
    here.ship().good()
    assert here.made() == (1, 1, 1)


# ------------------------------------------------------------------ submissions


@pytest.mark.slow
@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ("entered = false", ("has not accepted the rules", "/rules")),
        ("daily = 0", ("daily submission limit", "00:00 UTC", "`daily` in competition.toml")),
        ("closed = true", ("does not accept submissions",)),
    ],
    ids=["rules", "limit", "closed"],
)
def test_a_submission_that_is_not_allowed(here: Yard, extra: str, words: tuple[str, ...]) -> None:
    """Exit 4 before anything is spent, the run stays good; once it is allowed, only the submission is made."""
    here.ship("--competition", "no-such-thing").failed(
        1, "no competition 'no-such-thing', which --competition"
    )
    here.push().good()
    here.bench.kaggle.catalog.add_competition(competition(here.bench.folder, extra))
    here.ship().failed(4, *words)
    assert here.made() == (1, 1, 0)
    assert not here.calls("CreateCodeSubmission")
    here.bench.kaggle.catalog.add_competition(competition(here.bench.folder))
    here.ship().good()
    assert here.made() == (1, 1, 1)


@pytest.mark.slow
@pytest.mark.parametrize("fault", [{"ends": "ERROR"}, {"ends": "COMPLETE", "fail": "Scoring Error"}])
def test_a_failed_submission(here: Yard, fault: dict[str, Any]) -> None:
    """Exit 1 with number and page, COMPLETE or not; again it is told, not submitted; --again submits anew."""
    here.breaks(on="SCORE", **fault)
    here.ship().failed(1, "submission 1001", "its page")
    here.ship().failed(1, "submission 1001", "nothing to submit")
    assert here.made() == (1, 1, 1)
    here.ship("--again").good()
    assert here.made() == (1, 1, 2)
