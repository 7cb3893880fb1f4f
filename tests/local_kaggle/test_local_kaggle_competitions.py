"""Competitions of the local Kaggle: made from a folder, submitted to by notebook, scored on a hidden test."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from offline_kit.core.errors import UsageError
from offline_kit.local_kaggle.judge import MetricError, ScoringError, score_submission
from offline_kit.local_kaggle.settings import LocalKaggleSettings
from offline_kit.project.kaggle_names import LOCAL_ONLY
from offline_kit.rehearsal.causes import explain_failure
from tests.support.competitions import ANSWER, competition, write
from tests.support.local_kaggle import HASTY, KERNEL, SLUG, Bench, needs_client, notebook, serving


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with serving(tmp_path) as made:
        made.kaggle.catalog.add_competition(competition(tmp_path))
        yield made


def run(bench: Bench, *cells: str, **more: Any) -> int:
    """Push a notebook of alice's and wait for its run; return the version."""
    words = {"slug": KERNEL, "newTitle": "My inference", "language": "python", "kernelType": "notebook"}
    sources = {"competitionDataSources": ["small-digits"], "isPrivate": True}
    pushed = bench.rpc("SaveKernel", text=json.dumps(notebook(*cells)), **{**words, **sources, **more})
    number = int(pushed["versionNumber"])
    bench.finished(number)
    return number


def submit(bench: Bench, version: int, **more: Any) -> dict[str, Any]:
    """Submit a version of alice's notebook."""
    owner, slug = KERNEL.split("/")
    words = {"competitionName": "small-digits", "kernelOwner": owner, "kernelSlug": slug}
    asked = {"kernelVersion": version, "fileName": "submission.csv", "submissionDescription": "kit 1"}
    return bench.rpc("CreateCodeSubmission", **{**words, **asked, **more})


def scored(bench: Bench, ref: int) -> dict[str, Any]:
    """Wait for the end of a submission."""
    bench.until(lambda: bench.rpc("GetSubmission", ref=ref).get("status") in ("COMPLETE", "ERROR"))
    return bench.rpc("GetSubmission", ref=ref)


@needs_client
def test_the_client_takes_part(bench: Bench) -> None:
    """List, files, download, push, submit, limits, submissions: all by the plain client."""
    assert "small-digits" in bench.cli("competitions", "list").stdout
    listed = bench.cli("competitions", "files", "small-digits").stdout
    assert "test.csv" in listed
    goal = bench.folder / "data"
    assert bench.cli("competitions", "download", "small-digits", "-p", goal).returncode == 0
    assert (goal / "small-digits.zip").stat().st_size
    assert bench.cli("competitions", "download", "small-digits", "-f", "test.csv", "-p", goal).returncode == 0
    assert (goal / "test.csv").read_text() == "id,x\np1,4\n", "the hidden one is nobody's"
    folder = bench.notebook(ANSWER, competition_sources=["small-digits"])
    assert "successfully pushed" in bench.cli("kernels", "push", "-p", folder).stdout
    bench.finished(1)
    words = ("-k", KERNEL, "-v", "1", "-f", "submission.csv", "-m", "kit 1")
    assert "Successfully submitted" in bench.cli("competitions", "submit", "small-digits", *words).stdout
    limits = bench.cli("competitions", "submission-limits", "small-digits").stdout
    assert {"1", "4"} <= set(re.findall(r"\d+", limits)), limits
    bench.until(lambda: "COMPLETE" in str(bench.rpc("ListSubmissions", competitionName="small-digits")))
    told = bench.cli("competitions", "submissions", "small-digits").stdout
    assert "0.50000 (LOCAL)" in told, "public: one of two"
    assert "1.00000 (LOCAL)" in told, "private"
    assert "kit 1" in told


def test_the_hidden_run_is_another_run(bench: Bench) -> None:
    """A notebook that knows only the public rows is told so; nothing of the hidden run comes back."""
    version = run(bench, "open('submission.csv', 'w').write('id,label\\np1,0\\n')")
    told = scored(bench, submit(bench, version)["ref"])
    assert told["status"] == "ERROR"
    assert told["errorDescription"].startswith("Submission Scoring Error")
    output = bench.rpc("ListKernelSessionOutput", userName="alice", kernelSlug="my-inference")
    assert [each["fileName"] for each in output["files"]] == ["submission.csv"]


@pytest.mark.parametrize(
    ("cell", "error"),
    [
        ("if rerun: 1 / 0", "Notebook Threw Exception"),
        ("if rerun: pathlib.Path('submission.csv').unlink()", "Submission CSV Not Found"),
        ("if rerun: pathlib.Path('submission.csv').write_text('id,label\\n')", "Submission is empty"),
    ],
)
def test_what_goes_wrong_only_in_the_hidden_run(bench: Bench, cell: str, error: str) -> None:
    """The version was COMPLETE; the submission says one of Kaggle's few sentences."""
    told = scored(bench, submit(bench, run(bench, ANSWER, cell))["ref"])
    assert told["status"] == "ERROR"
    kaggles, _, ours = told["errorDescription"].partition(LOCAL_ONLY)
    assert error in kaggles
    assert ours or "Scoring" in kaggles, "what Kaggle hides is shown, and marked"
    assert "publicScore" not in told


def test_the_old_layout_has_everything_by_its_slug(tmp_path: Path) -> None:
    """Dataset and competition at /kaggle/input/<slug>, a model without its owner, the hidden run like the other."""
    tell = "import os, pathlib\ntop = pathlib.Path(os.environ['INPUT'])\n"
    tell += "print(sorted(path.relative_to(top).as_posix() for path in top.glob('*/**/*.csv')))\n"
    tell += "print(sorted(path.as_posix() for path in (top / 'my-model/pytorch/base/1').iterdir()))\n"
    with serving(tmp_path, replace(HASTY, layout="old")) as bench:
        bench.kaggle.catalog.add_competition(competition(tmp_path))
        names = {"slug": "my-offline-kit", "title": "My offline kit", "isPrivate": True}
        bench.rpc("CreateDataset", ownerSlug="alice", files=bench.upload({"kit.csv": b""}), **names)
        models = "models.ModelApiService/"
        bench.rpc(f"{models}CreateModel", ownerSlug="alice", slug="my-model", isPrivate=True)
        words = {"framework": "MODEL_FRAMEWORK_PY_TORCH", "instanceSlug": "base"}
        body = {**words, "files": bench.upload({"weights": b""})}
        bench.rpc(f"{models}CreateModelInstance", ownerSlug="alice", modelSlug="my-model", body=body)
        which = {"ownerSlug": "alice", "modelSlug": "my-model", **words}
        bench.until(lambda: "files" in bench.rpc(f"{models}ListModelInstanceVersionFiles", **which))
        bench.ready()
        cells = (tell, ANSWER.replace("competitions/small-digits", "small-digits"))
        sources = {"datasetDataSources": [SLUG], "modelDataSources": ["alice/my-model/pyTorch/base/1"]}
        version = run(bench, *cells, **sources)
        log = bench.rpc("ListKernelSessionOutput", userName="alice", kernelSlug="my-inference")["log"]
        assert "'my-offline-kit/kit.csv'" in log
        assert "'small-digits/test.csv'" in log
        assert scored(bench, submit(bench, version)["ref"])["status"] == "COMPLETE"


@needs_client
def test_a_file_can_be_submitted_where_code_is_not_asked_for(tmp_path: Path) -> None:
    """And is refused by a code competition."""
    with serving(tmp_path) as bench:
        place = competition(tmp_path, "code_only = false")
        bench.kaggle.catalog.add_competition(place)
        rows = ("h1,1", "h2,0", "h3,1", "h4,0")
        mine = write(tmp_path / "mine.csv", "id,label", *rows)
        words = ("competitions", "submit", "small-digits", "-f", str(mine), "-m", "by hand")
        assert "Successfully submitted" in bench.cli(*words).stdout
        bench.until(lambda: "COMPLETE" in str(bench.rpc("ListSubmissions", competitionName="small-digits")))
        (place / "competition.toml").write_text('metric = "share.py:right"')
        bench.kaggle.catalog.add_competition(place)
        assert bench.cli(*words).returncode == 1


def test_scoring_goes_on_after_the_server_was_started_again(tmp_path: Path) -> None:
    """A submission that was pending when the server ended is scored by the next."""
    with serving(tmp_path, LocalKaggleSettings(visible_after=0, queued=0, scoring=60)) as bench:
        bench.kaggle.catalog.add_competition(competition(tmp_path))
        ref = submit(bench, run(bench, ANSWER))["ref"]
    with serving(tmp_path, HASTY) as bench:
        assert scored(bench, ref)["privateScore"] == "1.00000 (LOCAL)"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "metric"),
        ('metric = "f1_score"\nhiden = "x"', "hiden"),
        ('metric = "accuracy"', "did you mean 'accuracy_score'"),
        ('metric = "gone.py:right"', "gone.py"),
        ('metric = "share.py:wrong"', "defines no 'wrong'"),
        ('metric = "lazy.py:late"', "-m pip install no_such_package_of_scores'"),
        ('metric = "x"\npublic = "gone"', "gone"),
        ('metric = "x"\ndeadline = "soon"', "soon"),
    ],
)
def test_a_wrong_competition_is_told(tmp_path: Path, text: str, told: str) -> None:
    """All that is wrong with its folder at once."""
    place = competition(tmp_path)
    (place / "competition.toml").write_text(text)
    (place / "lazy.py").write_text(
        "import share, csv\ntry:\n    import not_needed_at_all\nexcept ImportError:\n    pass\n"
        "def late(submission, solution):\n    import no_such_package_of_scores\n"
    )
    with serving(tmp_path) as bench, pytest.raises(UsageError) as caught:
        bench.kaggle.catalog.add_competition(place)
    assert told in "\n".join(caught.value.details)


def request(tmp_path: Path, given: str, metric: str, **more: Any) -> dict[str, Any]:
    """Return a request to the judge on four rows."""
    solution = write(tmp_path / "solution.csv", "id,label", "a,1", "b,0", "c,1", "d,0")
    submission = tmp_path / "submission.csv"
    submission.write_text(given)
    base = {"submission": str(submission), "solution": str(solution), "metric": metric, "options": {}}
    return {**base, "folder": str(tmp_path), "id": "", **more}


def test_metrics_of_scikit_learn_and_of_ones_own(tmp_path: Path) -> None:
    """Rows are matched by id; a function gets (submission, solution) as tables of the same rows."""
    given = "id,label\nd,0\nc,1\nb,1\na,1\n"
    assert score_submission(request(tmp_path, given, "accuracy_score"))["public"] == 0.75
    macro = score_submission(request(tmp_path, given, "f1_score", options={"average": "macro"}))
    assert 0.7 < macro["private"] < 0.75
    code = "import csv\nfrom beside import key\n\ndef count(submission, solution):\n"
    code += "    read = lambda path: [row[key] for row in csv.DictReader(open(path))]\n"
    code += "    assert read(submission) == read(solution)\n    return len(read(solution))\n"
    (tmp_path / "metric.py").write_text(code)
    (tmp_path / "beside.py").write_text("key = 'id'\n")
    assert score_submission(request(tmp_path, given, "metric.py:count"))["public"] == 4.0


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("id,label\na,1\nb,1\nc,1\n", "3 of 4 expected"),
        ("id,label\na,1\na,1\nb,1\nc,1\n", "duplicates"),
        ("id,other\na,1\nb,1\nc,1\nd,1\n", "column 'label'"),
        ("id,label\na,1\nb,\nc,1\nd,1\n", "null"),
        ("", "empty"),
    ],
)
def test_a_table_that_cannot_be_scored_says_why(tmp_path: Path, given: str, told: str) -> None:
    """Rows, ids, columns and values are checked before the metric sees them."""
    with pytest.raises(ScoringError, match=told):
        score_submission(request(tmp_path, given, "accuracy_score"))


@pytest.mark.parametrize(
    ("code", "blames"),
    [
        ("import gone_from_here\n", MetricError),
        ("raise SystemExit(3)\n", MetricError),
        ("def score(submission, solution):\n    import gone_from_here\n", MetricError),
        ("def score(submission, solution):\n    return 1 / 0\n", MetricError),
        (
            "def score(submission, solution):\n    assert 'x' not in open(submission).read(); return 1\n",
            ScoringError,
        ),
        (
            "class ParticipantVisibleError(Exception): pass\ndef score(*_): raise ParticipantVisibleError('long')",
            ScoringError,
        ),
    ],
)
def test_a_metric_that_breaks_is_not_blamed_on_the_submission(
    tmp_path: Path, code: str, blames: type[Exception]
) -> None:
    """Blamed is the submission only where the metric takes the solution itself, or says so."""
    (tmp_path / "metric.py").write_text(code)
    with pytest.raises(blames):
        score_submission(request(tmp_path, "id,label\na,x\nb,1\nc,1\nd,1\n", "metric.py:score"))


def test_a_broken_metric_ends_as_trouble_of_the_competition(bench: Bench, tmp_path: Path) -> None:
    """The words that the submission ends with do not send its author looking for rows and ids."""
    version = run(bench, ANSWER)
    (tmp_path / "small-digits/share.py").write_text(
        "def right(submission, solution):\n    return solution.gone\n"
    )
    told = scored(bench, submit(bench, version)["ref"])
    assert told["errorDescription"].startswith("Kaggle Error"), told
    cause = explain_failure(told["errorDescription"], table="submission_failures")
    assert cause.code == "submission-metric-failed"
