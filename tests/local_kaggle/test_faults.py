"""The faults that a push to Kaggle must survive, as a user meets them on the command line.

For each: the exit code, the cause and the remedy; nothing is lost or doubled; the same command afterwards
succeeds. `FAULTS` says where each is shown.
"""

import ast
from pathlib import Path

import pytest

from tests.support.command_line import Done
from tests.support.shipping import Yard, retrain

TESTS = Path(__file__).parents[1]
FAULTS = (
    ("the client cannot be imported", ("test_client.py::test_a_missing_client_is_named",)),
    ("no credentials", ("test_push_command.py::test_missing_credentials_are_exit_4_with_both_remedies",)),
    ("a token that is not valid any more", ("test_client.py::test_a_stale_token_file_is_named",)),
    ("a dead token beside a good key", ("test_client.py::test_a_stale_token_does_not_shadow_a_good_key",)),
    ("an account of somebody else", ("test_push_command.py::test_a_foreign_dataset_is_refused_before_anything_is_sent",)),
    ("nobody answers", ("test_nobody_listens", "test_client.py::test_a_hanging_service_ends_within_the_deadline")),
    ("too many requests", ("test_client.py::test_an_effect_is_sent_again_after_429", "test_push_trouble.py::test_uploads_outlast_a_kaggle_that_asks_to_slow_down")),
    ("trouble at an effect", ("test_push_submissions.py::test_a_5xx_without_effect_is_told_and_the_next_run_submits",)),
    ("an answer lost after the effect", ("test_a_lost_answer",)),
    ("the dataset exists already", ("test_push.py::test_files_that_we_did_not_put_there_are_not_dropped", "test_a_dataset_that_was_not_shown")),
    ("a wrong answer before the upload", ("test_push.py::test_only_403_and_404_mean_absent",)),
    ("an invalid title or slug", ("test_an_invalid_name",)),
    ("an upload is rejected", ("test_push.py::test_a_failed_upload_makes_no_version",)),
    ("the connection is cut in the middle of an upload", ("test_uploads.py::test_trouble_on_the_way_is_outlasted",)),
    ("the upload session has expired", ("test_uploads.py::test_an_expired_place_is_replaced",)),
    ("a crash between uploads and their version", ("test_push.py::test_killed_anywhere_the_next_push_ends_with_one_new_version",)),
    ("a dataset is still processed", ("test_push.py::test_stuck_processing_ends_at_the_deadline_and_is_waited_for_again",)),
    ("processing failed", ("test_push.py::test_a_failed_processing_is_told_and_mended_by_the_next_push",)),
    ("a new version is not visible yet", ("test_push.py::test_the_push_ends_when_the_new_version_is_there",)),
    ("a data source is rejected", ("test_push_notebooks.py::test_a_rejected_source_fails_and_its_version_does_not_count",)),
    ("the push is refused", ("test_push_notebooks.py::test_a_refusal_is_told_and_the_same_command_succeeds_later", "test_push_notebooks.py::test_sessions_that_never_come_free_end_the_wait")),
    ("the run fails or is cancelled", ("test_a_failed_run", "test_push_runs.py::test_a_cancelled_run_is_no_fault_of_the_project")),
    ("the run did not get its input", ("test_push_runs.py::test_a_run_that_did_not_see_the_kit_is_pushed_once_more",)),
    ("the status of another version", ("test_push_runs.py::test_the_run_of_exactly_this_version_is_told",)),
    ("a link to an output has expired", ("test_push_runs.py::test_an_error_page_is_never_taken_for_the_submission",)),
    ("a submission that is not allowed", ("test_push_submissions.py::test_what_the_competition_does_not_allow_is_told_before",)),
    ("a submission that is scored with an error", ("test_push_submissions.py::test_a_submission_that_fails_is_told_with_cause_and_remedy",)),
    ("a full disk, a place that cannot be written", ("test_files.py::test_a_full_disk_is_an_error_with_a_remedy", "test_a_place_that_cannot_be_written")),
)  # fmt: skip
"""Each fault, and the tests that show it: here, or in a file that is named."""
DATA = ("--no-build", "--data-only")


@pytest.mark.parametrize(("fault", "tests"), FAULTS)
def test_every_fault_has_its_test(fault: str, tests: tuple[str, ...]) -> None:
    """Every test that the table names is there."""
    for test in tests:
        file, _, function = test.rpartition("::")
        tree = ast.parse(next(TESTS.rglob(file or "test_faults.py")).read_text())
        assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, fault


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


def as_user(here: Yard, **changes: str | None) -> Done:
    """Push the data as the real Kaggle is pushed to; the environment leads its client to the local one."""
    env: dict[str, str | None] = {**here.bench.environment(), "KAGGLE_USERNAME": None, "KAGGLE_KEY": None}
    return here.run("push", *DATA, env={**env, **changes})


GOOD = {"KAGGLE_USERNAME": "alice", "KAGGLE_KEY": "key-of-alice"}
SMALL = "alice/small-kit"


def test_nobody_listens(here: Yard) -> None:
    """Exit 4 after a few attempts, with who does not answer; once there is a Kaggle it succeeds."""
    nowhere = "http://127.0.0.1:9"
    here.run("push", *DATA, "--to", "local", "--at", nowhere).failed(4, nowhere, "offline-kit local")
    away = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), nowhere)
    as_user(here, **GOOD, **away).failed(4, "Kaggle cannot be reached", "check the network")
    as_user(here, **GOOD).good()
    assert here.datasets(SMALL) == [1]


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
def test_a_lost_answer(here: Yard, method: str) -> None:
    """The effect is recognised, in the same run; nothing is done twice, then or later."""
    first(here, method)
    here.breaks(on=method, lose_answer=True)
    assert "no answer" in here.ship().good().err
    here.ship().good()
    assert here.made() == expected(method)
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


def test_an_invalid_name(here: Yard) -> None:
    """Exit 2 before anything is asked, with what may stand there."""
    here.push(*DATA, "--dataset", "Small_Kit").failed(2, "'Small_Kit'")
    here.push(*DATA, "--title", "kit").failed(2, "6 to 50")
    assert not here.calls("StartBlobUpload")
    here.push(*DATA, "--title", "A small kit").good()
    assert here.datasets() == [1]


def test_a_failed_run(here: Yard) -> None:
    """Exit 1 with the cell and its error; mended, the same command pushes the notebook alone and submits."""
    here.params("fail = true")
    here.ship().failed(1, "the notebook failed", "ValueError: asked to fail")
    sent = here.uploaded()
    here.params("")
    here.ship().good()
    assert (here.made(), here.uploaded()) == ((1, 2, 1), sent)
