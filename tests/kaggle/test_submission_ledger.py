"""The ledger of submissions, and the commit that stands in it."""

import subprocess
import threading
from pathlib import Path

import pytest

from offline_kit.core.git import DIRTY, read_commit
from offline_kit.kaggle.client.api_types import Submission
from offline_kit.kaggle.push.submission_ledger import LedgerEntry, SubmissionLedger


def entry(version: int = 1, submission: int = 7, competition: str = "digits") -> LedgerEntry:
    """Return a submission."""
    return LedgerEntry(
        competition=competition,
        notebook="alice/nb",
        version=version,
        file="submission.csv",
        message=f"v{version} of {competition}",
        submission=submission,
        kit="k" * 64,
        parts={"kit": "p" * 64},
        commit="c" * 40,
        run_seconds=61.5,
    )


def scored(ref: int, message: str = "", **facts: str) -> Submission:
    """Return what Kaggle tells."""
    return Submission(ref=ref, submitted_at=None, message=message, **{"state": "complete", **facts})


@pytest.fixture
def ledger(tmp_path: Path) -> SubmissionLedger:
    """An empty ledger in a folder that is not there yet."""
    return SubmissionLedger(tmp_path / "state" / "ledger.jsonl")


def test_what_was_submitted_is_there_for_the_next_run(ledger: SubmissionLedger) -> None:
    """All of an entry comes back, with the time; the latest stands last."""
    assert ledger.read_entries() == ()
    first = ledger.add_entry(entry())
    second = ledger.add_entry(entry(2, 8, "other"))
    again = SubmissionLedger(ledger.path)
    assert again.read_entries() == (first, second)
    assert first.at.endswith("+00:00")
    assert again.find_by_version("Alice/nb", 1) == (first,)
    assert again.find_by_version("alice/nb", 3) == ()


def test_a_score_is_laid_over_its_submission(ledger: SubmissionLedger) -> None:
    """One entry remains, in its place; what is not new writes nothing."""
    ledger.add_entry(entry())
    ledger.add_entry(entry(2, 8))
    told = scored(7, "v1 of digits", public_score="0.9 (LOCAL)")
    updated = ledger.update_entry(told, 3600.0)
    assert [(e.version, e.state, e.score) for e in ledger.read_entries()] == [
        (1, "complete", "0.9 (LOCAL)"),
        (2, "pending", ""),
    ]
    assert updated is not None
    assert (updated.scored_seconds, updated.run_seconds, updated.kit) == (3600.0, 61.5, "k" * 64)
    size = ledger.path.stat().st_size
    assert ledger.update_entry(told) == updated
    assert ledger.path.stat().st_size == size
    assert ledger.update_entry(scored(99, "v1 of digits")) is None


def test_a_number_that_is_learned_later_finds_its_entry(ledger: SubmissionLedger) -> None:
    """Where Kaggle did not tell the number, the message does."""
    made = ledger.add_entry(entry(submission=0))
    ledger.update_entry(scored(41, made.message))
    assert [e.submission for e in ledger.read_entries()] == [41]


@pytest.mark.parametrize("cut", [1, 30, 200])
def test_a_line_cut_by_a_crash_costs_that_line_alone(ledger: SubmissionLedger, cut: int) -> None:
    """Older lines stand, and what is added afterwards is whole."""
    first = ledger.add_entry(entry())
    ledger.add_entry(entry(2, 8))
    ledger.path.write_bytes(ledger.path.read_bytes()[:-cut])
    third = ledger.add_entry(entry(3, 9))
    found = ledger.read_entries()
    assert (found[0], found[-1]) == (first, third)


def test_lines_of_a_later_version_of_ours_are_read(ledger: SubmissionLedger) -> None:
    """Unknown fields are passed over; what is no entry at all is left out."""
    made = ledger.add_entry(entry())
    text = ledger.path.read_text().replace('{"competition"', '{"colour": "blue", "competition"')
    ledger.path.write_text(text + '[]\nnull\n{"competition": "x"}\n\xff\n')
    assert ledger.read_entries() == (made,)


def test_entries_of_two_runs_at_once_are_both_there(ledger: SubmissionLedger) -> None:
    """Lines never run into each other."""
    runs = [threading.Thread(target=lambda n=number: ledger.add_entry(entry(n, n))) for number in range(1, 9)]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert sorted(e.version for e in ledger.read_entries()) == list(range(1, 9))


# ------------------------------------------------------------------ git


def git(folder: Path, *words: str) -> str:
    """Run git."""
    who = ["-c", "user.name=a", "-c", "user.email=a@b.example"]
    done = subprocess.run(["git", *who, *words], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_the_commit_is_told_and_a_changed_tree_marked(tmp_path: Path) -> None:
    """Untracked files, as builds write them, mark nothing."""
    git(tmp_path, "init", "-q")
    assert read_commit(tmp_path) == "", "no commit yet"
    project = tmp_path / "project"
    project.mkdir()
    (project / "model.py").write_text("1")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "first")
    commit = git(tmp_path, "rev-parse", "HEAD")
    (project / "dist").write_text("built")
    assert read_commit(project) == commit
    (project / "model.py").write_text("2")
    assert read_commit(project) == commit + DIRTY


def test_without_git_or_a_repository_there_is_no_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never an error: the ledger does without."""
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert read_commit(tmp_path) == ""
    assert read_commit(tmp_path / "gone") == ""
    monkeypatch.setenv("PATH", "")
    assert read_commit(tmp_path) == ""
