"""`rehearse --on`: the kit's notebook on a Kaggle, on as many rows as wanted, without a submission."""

import json
from pathlib import Path

import pytest

from offline_kit.core.errors import UsageError
from offline_kit.workflow.kaggle_rehearsal import limit_rows
from tests.support.competitions import write
from tests.support.local_kaggle import notebook
from tests.support.shipping import NOTEBOOK, Yard, built_copy, make_project

REHEARSAL = f"{NOTEBOOK}-rehearsal"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a local copy of the public data, built once."""
    place = tmp_path_factory.mktemp("rehearsed")
    project = make_project(place / "project", more='competition_data = "input"\n')
    write(project / "input/test.csv", "id,x", "p1,4")
    write(project / "input/sample_submission.csv", "id,label", "p1,0")
    return built_copy(project)


def rehearse(here: Yard, *words: str) -> tuple[str, ...]:
    """Return the words of a rehearsal on the local Kaggle."""
    return ("--on", "local", "--at", here.bench.server.url, *words)


def test_a_notebook_of_its_own_on_so_many_rows(here: Yard) -> None:
    """Private, offline, its data pushed before, nothing submitted; more rows than there are repeat them."""
    told = here.run("rehearse", *rehearse(here, "--rows", "5", "--json")).good()
    facts = told.facts["rehearsal"]
    assert (facts["notebook"], facts["version"], facts["rows"]) == (REHEARSAL, 1, 5)
    assert facts["forecast"]["rows_in_limit"] > 5
    assert len(Path(facts["submission"]).read_text().splitlines()) == 6
    assert (here.datasets(), here.notebooks(), here.submissions()) == ([1], [], [])
    owner, slug = REHEARSAL.split("/")
    seen = here.bench.rpc("GetKernel", "alice", userName=owner, kernelSlug=slug)
    assert seen["status_code"] in (403, 404), "nobody else sees it"
    assert "is private, has no internet" in told.err
    assert "compared with 'sample_submission.csv': 5 rows, 2 columns" in told.err
    again = here.run("rehearse", *rehearse(here, "--rows", "5")).good()
    assert "nothing to push" in again.err
    assert "5 rows" in again.err
    assert "should be enough for" in again.err


def test_of_a_script_the_rows_are_limited_after_its_kit() -> None:
    """The lines go between the kit's cell and the next one; a script without that cell is refused."""
    script = "# %% kit\nkit = 1\nroot = 2\n\n# %% [markdown]\n# # Work\n\n# %%\nprint(root)\n"
    limited = limit_rows(script, 5, is_script=True)
    before, _, after = limited.partition("# %% kit-rows\n")
    added, _, rest = after.partition("\n\n# %% [markdown]")
    assert before + "# %% [markdown]" + rest == script
    assert added.endswith("root = limit_rows(root, find_sample(root), 5, kit.places.scratch)")
    with pytest.raises(UsageError) as caught:
        limit_rows("print(1)\n", 5, is_script=True)
    assert caught.value.code == "rows-not-supported"


@pytest.mark.slow
def test_a_run_there_replaces_the_forecast(here: Yard) -> None:
    """That of the last rehearsal here, in its report and receipt as well; the line stays, its time is scaled."""
    rows = ("--hidden-rows", "900000000")
    here.run("rehearse", "--env", "current", "--hidden", "auto", *rows).good()
    folder = here.project / "dist/offline-kit/rehearsal"
    local = json.loads((folder / "report.json").read_text())
    facts = here.run("rehearse", *rehearse(here, "--no-build", "--rows", "5", *rows, "--json")).good().facts
    forecast = facts["rehearsal"]["forecast"]
    assert forecast["rows"] == local["forecast"]["rows"] == 900_000_000
    assert forecast["summary"] != local["forecast"]["summary"]
    for name in ("report.json", "receipt.json"):
        report = json.loads((folder / name).read_text())
        assert report["forecast"] == forecast
        assert local["forecast"]["warning"] not in report["warnings"]
    assert forecast["summary"] in (folder / "report.html").read_text()


@pytest.mark.slow
def test_the_notebook_that_is_submitted_stays_another(here: Yard) -> None:
    """A rehearsal between two ships changes nothing for them."""
    here.ship().good()
    here.run("rehearse", *rehearse(here)).good()
    here.ship().good()
    assert here.made() == (1, 1, 1)
    told = here.run("status").good().out
    assert REHEARSAL not in told


def test_what_would_not_be_scored_is_told(here: Yard) -> None:
    """Exit 1 with what differs from the sample, and where the file lies."""
    write(here.project / "input/sample_submission.csv", "id,label", "p1,0", "p2,0")
    told = here.run("rehearse", *rehearse(here))
    told.failed(
        1,
        "would not be scored",
        "1 rows instead of 2",
        "1 missing ids: p2",
        "runs/project-inference-rehearsal/v1",
    )


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--on", "local", "--installer", "pip"), "--installer and --on local"),
        (("--on", "kaggle", "--layout", "old", "--timeout", "9"), "--layout, --timeout and --on kaggle"),
        (("--on", "kaggle", "--env", "current"), "--env and --on kaggle"),
        (("--at", "http://127.0.0.1:1"), "--at and --on here"),
    ],
)
def test_what_would_be_ignored_is_refused(here: Yard, words: tuple[str, ...], says: str) -> None:
    """Before anything is built or asked."""
    told = here.run("rehearse", *words)
    told.failed(2, says)
    assert "•" not in told.err


def test_a_notebook_without_the_kit_cell_has_no_rows() -> None:
    """There is no place for them: the remedy is named."""
    with pytest.raises(UsageError, match="kit's cell"):
        limit_rows(json.dumps(notebook("1")), 5)
