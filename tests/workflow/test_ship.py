"""`ship` and `submit` as a user runs them, from a project to its score at a local Kaggle."""

import json
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from offline_kit.local_kaggle.faults import Fault
from offline_kit.local_kaggle.server import TrafficEvent
from tests.support.competitions import competition
from tests.support.local_kaggle import HASTY
from tests.support.report_pages import write_evidence
from tests.support.shipping import DATASET, WEIGHTS, Yard, built_copy, make_project, retrain, yard

PENDING = Fault(on="SCORE", stuck="PENDING", times=0)


@pytest.fixture(scope="module")
def built_split(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with split parts."""
    return built_copy(make_project(tmp_path_factory.mktemp("split") / "project", more='parts = "split"\n'))


@pytest.fixture
def split(tmp_path: Path, built_split: Path) -> Iterator[Yard]:
    """The same with split parts."""
    with yard(tmp_path, built_split) as made:
        yield made


def test_from_a_project_to_its_score_and_again(here: Yard) -> None:
    """Private data, an offline notebook, the hidden test's score; again at once nothing is sent, which is said."""
    first = here.ship("--json").good()
    told = first.facts
    assert (told["parts"][0]["action"], told["notebook"]["action"]) == ("create", "new")
    assert told["submission"]["score"].endswith("(LOCAL)")
    assert (told["submission"]["already"], told["submission"]["place"]) == (False, "the local Kaggle")
    assert "left today: 5 of 5" in first.err, "what is left is shown before one is spent"
    owner, slug = DATASET.split("/")
    seen = here.bench.rpc("GetDataset", "alice", ownerSlug=owner, datasetSlug=slug)
    assert seen["status_code"] == 403, "nobody else sees it"
    assert here.holds_the_kit()
    sent = here.uploaded()
    evidence = write_evidence(here.kit.folder / "rehearsal")  # as a rehearsal leaves it
    again = here.ship().good()
    assert (here.made(), here.uploaded()) == ((1, 1, 1), sent)
    assert told["submission"]["score"] in (evidence / "report.html").read_text()
    for words in ("unchanged, nothing uploaded", "unchanged, not run again", "not submitted again"):
        assert words in again.out
    assert "runs on" not in again.err, "its run had ended before"
    assert " Kaggle " not in again.err.replace("the local Kaggle", "").replace("a local Kaggle", "")
    quiet = here.ship("-q").good()
    assert (quiet.err, quiet.out) == ("", again.out)


def test_only_the_changed_part_travels(split: Yard) -> None:
    """Of split parts, a new checkpoint sends its bytes alone; a new parameter none at all."""
    split.ship().good()
    before = split.uploaded()
    retrain(split.project, b"2")
    told = split.ship("--json").good().facts
    done = {part["part"]: part["action"] for part in told["parts"]}
    assert done == {"checkpoints": "version", "code": "nothing"}, "this project brings no package of others"
    sent = split.uploaded() - before
    marker = split.kit.folder / "dataset" / "checkpoints" / "offline-kit.json"
    assert sent == WEIGHTS + marker.stat().st_size
    assert split.holds_the_kit(f"{DATASET}-checkpoints", "checkpoints")
    split.params("some = 1")
    told = split.ship("--json").good().facts
    assert {part["action"] for part in told["parts"]} == {"nothing"}
    assert told["notebook"]["action"] == "version"
    assert split.uploaded() - before == sent


@pytest.mark.slow
def test_large_checkpoints_travel_alone(tmp_path: Path, built: Path) -> None:
    """A new kit of large checkpoints is split by itself: a changed line sends kilobytes, a changed fold that fold."""
    with yard(tmp_path, built) as here:
        shutil.rmtree(here.project / "dist")
        config = here.project / "offline-kit.toml"
        config.write_text(config.read_text().replace("model.ckpt", "*.ckpt"))
        for fold in range(2):
            (here.project / f"fold{fold}.ckpt").write_bytes(bytes([fold]) * 51_000_000)
        planned = here.run("push", *here.to, "--dry-run", "--json").good().facts["parts"]
        assert sum(part["bytes"] > 50_000_000 for part in planned) == 2
        here.push().good()
        first = here.uploaded()
        assert first > 102_000_000
        (here.project / "predict.py").write_text((here.project / "predict.py").read_text() + "# changed\n")
        here.push().good()
        line = here.uploaded() - first
        assert line < 400_000, "code, runtime and their manifest"
        (here.project / "fold1.ckpt").write_bytes(b"x" * 51_000_000)
        told = here.push().good()
        assert "To send: 51.0 MB" in told.err
        assert 51_000_000 < here.uploaded() - first - line < 51_100_000


@pytest.mark.slow
def test_a_kit_of_one_dataset_keeps_its_form(here: Yard) -> None:
    """Large checkpoints do not divide an existing kit; `parts` does."""
    (here.project / "large.ckpt").write_bytes(b"x" * 101_000_000)
    config = here.project / "offline-kit.toml"
    config.write_text(config.read_text().replace("model.ckpt", "*.ckpt"))
    here.run("build").good()
    assert [part.name for part in here.kit.parts] == ["kit"]
    config.write_text('parts = "split"\n' + config.read_text())
    here.run("build").good()
    assert len([part for part in here.kit.parts if part.name.startswith("checkpoints-")]) == 1


@pytest.mark.slow
def test_a_kit_of_one_dataset_keeps_its_form_without_its_folder(here: Yard) -> None:
    """What was pushed tells the form when `dist` is deleted; another dataset is a new kit."""
    here.push().good()
    retrain(here.project, b"x", 101_000_000)
    shutil.rmtree(here.project / "dist")
    here.run("build").good()
    assert [part.name for part in here.kit.parts] == ["kit"]
    config = here.project / "offline-kit.toml"
    config.write_text(config.read_text().replace("small-kit", "other-kit"))
    shutil.rmtree(here.project / "dist")
    here.run("build").good()
    assert "kit" not in [part.name for part in here.kit.parts]


@pytest.mark.slow
def test_a_split_kit_keeps_its_form_without_its_folder(split: Yard) -> None:
    """Parts that were pushed stay parts, although the key is gone and the checkpoints are small."""
    split.push().good()
    config = split.project / "offline-kit.toml"
    config.write_text(config.read_text().replace('parts = "split"', ""))
    shutil.rmtree(split.project / "dist")
    split.run("build").good()
    assert [part.name for part in split.kit.parts] == ["checkpoints", "code"]


def test_a_submission_is_spent_only_when_somebody_agrees(here: Yard) -> None:
    """Without --yes and a terminal it stops at the last step; on one, what is left and the deadline are shown first."""
    alone = here.run("ship", *here.to, "--no-rehearsal")
    alone.failed(2, "nobody agreed to spend a submission", "--yes", "left today: 5 of 5")
    assert alone.err.startswith(
        "warning: there is no terminal to ask on: a submission is spent only with --yes"
    )
    assert here.made() == (1, 1, 0)
    code, said = here.run_on_terminal({"[y/N]": "n"}, "ship", *here.to, "--no-rehearsal")
    assert (code, here.made()) == (2, (1, 1, 0)), said
    assert said.index("left today") < said.index("Spend one of 5 submissions? [y/N]")
    code, said = here.run_on_terminal({"[y/N]": "y"}, "ship", *here.to, "--no-rehearsal")
    assert "no terminal" not in said
    assert (code, here.made()) == (0, (1, 1, 1)), said


@pytest.mark.slow
def test_a_dry_run_says_what_each_step_would_do(tmp_path: Path, built: Path) -> None:
    """Nothing is built, sent or spent; what would be is known as far as a kit lies there."""
    with yard(tmp_path, built) as here:
        retrain(here.project, b"9")
        kit = here.kit.id
        changed = here.run("ship", *here.to, "--dry-run", "--json").good().facts
        planned = changed["parts"][0]
        files = len(here.kit.parts[0].entries) + 1
        assert (changed["outdated"], planned["action"], planned["files"]) == (kit, "create", files)
        assert (here.kit.id, planned["bytes"] > WEIGHTS) == (kit, True)
        assert changed["rehearsal"].startswith("to run")
        here.run("build").good()
        kit = here.kit.id
        assert changed["kit"] == kit
        told = here.run("ship", *here.to, "--no-rehearsal", "--dry-run", "--json").good()
        facts = told.facts
        assert (facts["dry_run"], facts["rehearsal"]) == (True, "skipped (--no-rehearsal)")
        assert (facts["parts"][0]["action"], facts["notebook"]["action"]) == ("create", "new")
        assert (facts["submission"]["version"], facts["submission"]["left"]) == (0, 5)
        assert "nothing was built, sent or submitted" in told.err
        assert (here.kit.id, here.uploaded(), here.made()) == (kit, 0, (0, 0, 0))
        here.ship().good()
        facts = here.run("ship", *here.to, "--dry-run", "--json").good().facts
        assert facts["rehearsal"] == "to run, with --env matching"
        assert (facts["parts"][0]["action"], facts["submission"]["already"]) == ("nothing", 1001)


@pytest.mark.slow
def test_a_dry_run_after_a_change_answers_nothing_for_the_old_kit(tmp_path: Path, built: Path) -> None:
    """What changed is named; the push that is planned is of the new kit, and no submission is told as done."""
    with yard(tmp_path, built) as here:
        here.ship().good()
        same = here.run("ship", *here.to, "--no-rehearsal", "--dry-run", "--json").good().facts
        assert (same["kit"], same["changed"], same["submission"]["already"]) == (here.kit.id, [], 1001)
        retrain(here.project, b"7")
        here.params("some = 2")
        told = here.run("ship", *here.to, "--no-rehearsal", "--dry-run", "--json").good()
        assert told.facts["changed"] == [
            "'model.ckpt' changed",
            "the notebook's configuration, template or code changed",
        ]
        assert f"since kit {here.kit.id[:12]}: a new kit would be built, rehearsed, pushed" in told.err
        assert (told.facts["parts"][0]["action"], told.facts["notebook"]["action"]) == ("version", "version")
        assert told.facts["kit"] != here.kit.id
        assert (told.facts["submission"]["already"], told.facts["submission"]["version"]) == (None, 0)


@pytest.mark.slow
def test_what_is_newer_than_the_kit_is_told(here: Yard) -> None:
    """By `status`, `submit` and `push --no-build --dry-run`, which are about the existing kit; not if nothing changed."""
    here.push().good()
    assert "after this kit was built" not in here.run("status").good().out
    assert "newer" not in here.run("submit", *here.to, "--dry-run").good().err
    retrain(here.project, b"8")
    line = "'model.ckpt' changed after this kit was built: run 'offline-kit ship' to include it"
    assert here.run("status", "--json").good().facts["newer"] == [line]
    assert line in here.run("status").good().out
    for command in (("submit",), ("push", "--no-build")):
        said = here.run(*command, *here.to, "--dry-run").good().err
        assert f"{line.partition(':')[0]}: run 'offline-kit ship --to local" in said
    retrain(here.project, b"1")
    here.params("other = 1")
    assert "configuration, template or code changed after" in here.run("status").good().out
    (here.project / "model.ckpt").unlink()
    stopped = "  newer     a build would fail now: 1 problem with the checkpoints\n"
    assert stopped in here.run("status").good().out
    (here.project / "offline-kit.toml").unlink()
    assert "  newer  " not in here.run("status").good().out, "the flags that it was made with are not known"


def test_a_planned_push_is_the_push(here: Yard) -> None:
    """After a change, `push --dry-run` names the bytes that the push then sends, and writes nothing into the project."""
    here.push().good()
    before = here.uploaded()
    retrain(here.project, b"8")
    lying = {path: path.stat().st_mtime_ns for path in here.project.rglob("*")}
    (planned,) = here.run("push", *here.to, "--dry-run", "--json").good().facts["parts"]
    assert {path: path.stat().st_mtime_ns for path in here.project.rglob("*")} == lying
    assert (here.uploaded(), planned["action"]) == (before, "version")
    here.push().good()
    marker = here.kit.folder / "dataset" / "offline-kit.json"
    assert here.uploaded() - before == planned["bytes"] + marker.stat().st_size


@pytest.mark.slow
def test_a_dry_run_without_a_kit(here: Yard) -> None:
    """Parts, bytes and files are those of the kit that would be built, and nothing is written."""
    words = ("--no-rehearsal", "--dry-run", "--out", str(here.bench.folder / "nowhere"))
    told = here.run("ship", *here.to, *words, "--json").good()
    (part,) = told.facts["parts"]
    files = len(here.kit.parts[0].entries) + 1
    assert (part["action"], part["files"], told.facts["submission"]["left"]) == ("create", files, 5)
    assert not (here.bench.folder / "nowhere").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("extra", "words"),
    [("entered = false", "has not accepted the rules"), ("deadline = 2020-01-01T00:00:00Z", "the deadline")],
)
def test_what_cannot_be_submitted_is_told_before_the_work(here: Yard, extra: str, words: str) -> None:
    """Rules that nobody accepted stop it at once; a deadline that is over is said first."""
    here.bench.kaggle.catalog.add_competition(competition(here.bench.folder, extra))
    told = here.ship()
    said = next(line for line in told.err.splitlines() if words in line)
    assert told.code == 4
    assert "•" not in told.err[: told.err.index(said)], "before any step"


@pytest.mark.slow
def test_no_competition_is_told_before_the_work(here: Yard) -> None:
    """Without one there is nothing to submit to; `push` is named."""
    config = here.project / "offline-kit.toml"
    config.write_text(config.read_text().replace('competition = "small-digits"', ""))
    here.ship().failed(2, "there is no competition", "--competition", "offline-kit push")
    assert here.made() == (0, 0, 0)


def test_a_wrong_name_of_a_competition_is_told_with_where_it_is_set(tmp_path: Path) -> None:
    """It is the person's to mend (1), be it in the file or a flag; an outage is not (4)."""
    project = make_project(tmp_path / "made" / "project")
    config = project / "offline-kit.toml"
    config.write_text(config.read_text().replace('"small-digits"', '"smal-digits"'))
    with yard(tmp_path, project) as here:
        config = here.project / "offline-kit.toml"
        told = f"knows no competition 'smal-digits', which `competition` in '{config}' names"
        here.ship().failed(1, told, "offline-kit local --competition DIR")
        flag = ("--competition", "other-digits")
        here.ship(*flag).failed(1, "'other-digits', which --competition names")
        here.breaks(on="GetCompetition", status=503, times=0)
        here.ship().failed(4, "Kaggle says")


@pytest.mark.slow
def test_submit_pushes_nothing(here: Yard) -> None:
    """What is not there, or not this kit, is refused with the way to it; an earlier version is named by number."""
    here.run("submit", *here.to).failed(1, "is not on the local Kaggle", "offline-kit push", "--version")
    here.run("submit", *here.to, "--version", "3").failed(1, "the notebook does not exist")
    here.push().good()
    plan = here.run("submit", *here.to, "--dry-run", "--json").good().facts["submission"]
    assert (plan["version"], plan["left"], plan["already"]) == (1, 5, None)
    here.run("submit", *here.to, "--version", "3").failed(1, "the newest is version 1")
    assert here.made() == (1, 1, 0)
    told = here.run("submit", *here.to, "--wait", "--json", "-m", "by hand").good().facts["submission"]
    assert (told["state"], told["message"].startswith("by hand [offline-kit")) == ("complete", True)
    earlier = here.run("submit", *here.to, "--version", "1", "--json").good().facts["submission"]
    assert (earlier["already"], here.made()) == (True, (1, 1, 1))


@pytest.mark.slow
def test_a_submission_under_way_is_not_disturbed_unasked(here: Yard) -> None:
    """New data for a queued submission: said and refused, asked on a terminal, sent with --yes."""
    here.bench.kaggle.faults.add_fault(PENDING)
    here.run("ship", *here.to, "--no-rehearsal", "--yes").good()
    retrain(here.project, b"2")
    plan = here.run("ship", *here.to, "--no-rehearsal", "--dry-run", "--no-rehearsal").good()
    assert "nothing" in plan.err
    refused = here.push()
    refused.failed(4, "submission 1001 has not run yet", "nothing was sent", "--yes")
    assert here.made() == (1, 1, 1)
    code, said = here.run_on_terminal({"[y/N]": "n"}, "push", *here.to)
    assert (code, here.made()) == (4, (1, 1, 1)), said
    assert "Send a new version of its data all the same?" in " ".join(said.split())
    code, said = here.run_on_terminal({"[y/N]": "y"}, "push", *here.to, "--data-only")
    assert (code, here.made()) == (0, (2, 1, 1)), said
    retrain(here.project, b"3")
    here.push("--yes", "--data-only").good()
    assert here.datasets() == [1, 2, 3]


def test_a_submission_counts_though_its_competition_is_configured_no_more(here: Yard) -> None:
    """What was submitted to another one, and has no end yet, is as spoilt by new data."""
    here.bench.kaggle.faults.add_fault(PENDING)
    here.run("ship", *here.to, "--no-rehearsal", "--yes").good()
    retrain(here.project, b"2")
    config = here.project / "offline-kit.toml"
    config.write_text(config.read_text().replace('competition = "small-digits"', ""))
    plan = here.push("--data-only", "--dry-run", "--json").good()
    assert "submission 1001" in plan.facts["disturbed"][0], "a dry run is about the kit that would be pushed"
    here.push("--data-only").failed(4, "submission 1001 has not run yet", "nothing was sent")
    plan = here.push("--data-only", "--dry-run", "--json").good()
    assert "submission 1001" in plan.facts["disturbed"][0]
    assert "submission 1001 has not run yet" in plan.err
    assert here.datasets() == [1]


@pytest.mark.slow
def test_interrupted_it_goes_on_where_it_was(tmp_path: Path, built: Path) -> None:
    """^C while the notebook runs: 130, and the same command ends with one of each."""
    with yard(tmp_path, built, HASTY) as here:
        here.bench.kaggle.faults.add_fault(Fault(on="RUN", delay=2))
        seen = threading.Event()

        def interrupt(event: TrafficEvent) -> None:
            if event.name.endswith("/GetKernelSessionStatus") and not seen.is_set():
                seen.set()
                process.send_signal(signal.SIGINT)

        here.bench.traffic.listeners.append(interrupt)
        process = here.start("ship", *here.to, "--yes", "--wait", "--no-rehearsal", "--json")
        out, err = process.communicate(timeout=60)
        assert (process.returncode, json.loads(out)["error"]) == (130, "interrupted"), err
        here.ship().good()
        assert here.made() == (1, 1, 1)


@pytest.mark.slow
def test_an_environment_that_would_be_ignored_is_refused(here: Yard) -> None:
    """--env is for a local Kaggle that the command itself serves."""
    for command in ("push", "submit"):
        here.run(command, *here.to, "--env", "current").failed(2, "offline-kit local --env")
        here.run(command, "--env", "current").failed(2, "--to local")
