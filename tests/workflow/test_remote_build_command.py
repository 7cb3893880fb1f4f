"""`build --on`, as a user runs it: the packages are made by a notebook at a local Kaggle, out of wheels at hand."""

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from offline_kit.kaggle.client.session import KaggleEndpoint
from offline_kit.local_kaggle.faults import Fault
from offline_kit.local_kaggle.kernel_runs import NotebookRunner, RunJob
from offline_kit.project import config
from offline_kit.workflow import kaggle_session, output_files
from tests.support.kits import wheel
from tests.support.listener import Listener
from tests.support.shipping import PREDICT, Yard, in_places, make_project, retrain, yard

WHEELHOUSE = "local/project-wheelhouse"
WHEEL, OTHER = "plain-1.0-py3-none-any.whl", "zweite-1.0-py3-none-any.whl"

MORE = 'requirements = ["requirements.in"]\ncompetition_data = "../small-digits/public"\n'


def with_index(wheels: Path) -> NotebookRunner:
    """Return what runs notebooks as `in_places`, and those with the internet on beside a folder of wheels."""

    def run(job: RunJob) -> str:
        index = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels)} if job.internet else {}
        return in_places(job, index)

    return run


def make(folder: Path) -> Path:
    """Write a project that asks for two packages, and their wheels beside it."""
    project = make_project(folder / "project", more=MORE)
    (project / "requirements.in").write_text("plain\nzweite\n")
    (project / "predict.py").write_text(PREDICT.replace("import csv", "import plain, csv"))
    (folder / "wheels").mkdir()
    for name, data in (wheel("plain"), wheel("zweite", files={"zweite.py": "#" * 50_000})):
        (folder / "wheels" / name).write_bytes(data)
    return project


@contextmanager
def served(folder: Path, project: Path) -> Iterator[Yard]:
    """Serve a local Kaggle that has the package, with a copy of the project and a cache of its own."""
    folder.mkdir(exist_ok=True)
    with yard(folder, project, runner=with_index(project.parent / "wheels")) as here:
        here.env["OFFLINE_KIT_CACHE"] = str(folder / "cache")  # type: ignore[index]
        yield here


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Yard]:
    """The project and a local Kaggle."""
    with served(tmp_path / "yard", make(tmp_path / "one")) as made:
        yield made


def on(here: Yard) -> tuple[str, ...]:
    """Return the words that have the packages made at the local Kaggle."""
    return ("--on", "local", "--at", here.bench.server.url)


def output(here: Yard, version: int = 1) -> Path:
    """Return the output of the wheelhouse notebook at the server."""
    return (
        here.bench.kaggle.store.key_folder("kernels", *WHEELHOUSE.split("/"), "versions", str(version))
        / "output"
    )


@pytest.mark.slow
def test_what_was_made_there_is_shown_and_verified(here: Yard) -> None:
    """The notebook's output counts as a part: its version, that it is private, every wheel by name."""
    built = here.run("build", *on(here)).good().err
    assert f"'{WHEELHOUSE}', version 1: 2 files, " in built
    assert "kB, downloaded only when a rehearsal on this machine needs them" in built
    here.push().good()
    for words in ((), here.to):
        assert f"{WHEELHOUSE} version 1" in here.run("status", *words).good().out
    assert f"{WHEELHOUSE} version 1, ready, holds this kit" in here.run("status", *here.to).good().out
    found = here.run("verify", *here.to, "--json").good().facts
    (made,) = [part for part in found["parts"] if part["part"] == "wheelhouse"]
    assert (made["kind"], made["dataset"], made["version"]) == ("notebook", WHEELHOUSE, 1)
    assert (made["private"], made["state"]) == (True, "ready")

    (output(here) / "packages" / WHEEL).unlink()
    said = here.run("verify", *here.to).failed(1, f"'{WHEELHOUSE}': 'packages/{WHEEL}' is missing")
    assert "--upgrade" in said.out
    shutil.rmtree(output(here))
    output(here).mkdir()
    here.run("verify", *here.to).failed(1, f"'{WHEELHOUSE}': version 1 holds no part of a kit")


def kept(here: Yard) -> list[str]:
    """Return the wheels of the wheelhouse that lie in the kit."""
    folder = here.project / "dist" / "offline-kit" / "dataset" / "wheelhouse"
    return sorted(path.name for path in folder.rglob("*.whl"))


@pytest.mark.slow
@pytest.mark.sandbox
def test_the_wheels_stay_there_until_a_rehearsal_needs_them(here: Yard) -> None:
    """A build fetches what tells of them; the first rehearsal here fetches them, checked, and no later one."""
    here.run("build", *on(here)).good()
    downloads = "DownloadKernelOutput"
    assert (here.calls(downloads), kept(here)) == (3, [])  # manifest, outlines, image
    plan = json.loads((here.project / "dist/offline-kit/dataset/kit/packages/install.json").read_text())
    assert {each["name"]: each["imports"] for each in plan["install"]} == {
        "plain": ["plain"],
        "zweite": ["zweite"],
    }
    here.run("build").good()
    here.push().good()
    assert "damaged" not in here.run("status").good().out
    assert here.calls(downloads) == 4  # the submission of the run
    local = {"OFFLINE_KIT_LOCAL_KAGGLE": here.bench.server.url}
    words = ("--no-build", "--env", "current")

    there = output(here) / "packages" / OTHER
    data = there.read_bytes()
    there.write_bytes(data[:-1] + b"x")
    here.run("rehearse", *words, env=local).failed(
        4, f"'packages/{OTHER}' of '{WHEELHOUSE}' is not what its run wrote"
    )
    assert here.calls(downloads) == 6
    there.write_bytes(data)
    said = here.run("rehearse", *words, env=local).good()
    assert f"Fetching 1 files, {len(data) / 1000:.1f} kB" in said.err
    assert (here.calls(downloads), kept(here)) == (7, [WHEEL, OTHER])
    for command in (("build", *on(here)), ("status",), ("verify", *here.to)):
        here.run(*command).good()
    assert kept(here) == [WHEEL, OTHER]

    # A new kit takes them along, one whose wheels were removed finds them in the cache.
    retrain(here.project, b"2")
    here.run("build").good()
    assert kept(here) == [WHEEL, OTHER]
    shutil.rmtree(here.project / "dist")
    here.run("build").good()
    before = here.calls(downloads)
    here.run("rehearse", *words, env=local).good()
    assert (here.calls(downloads), kept(here)) == (before, [WHEEL, OTHER])


@pytest.mark.slow
def test_a_later_run_that_failed_takes_nothing_away(here: Yard) -> None:
    """What is attached is the newest output: a version without one is passed over."""
    here.run("build", *on(here)).good()
    here.push().good()
    (here.project / "requirements.in").write_text("plain==9\n")
    here.run("build", *on(here)).failed(1, "plain==9")
    here.run("verify", *here.to).good()


def test_a_plan_of_the_build_there(here: Yard) -> None:
    """--dry-run says which notebook would be pushed, with the internet on, for what and for whom; nothing happens."""
    before = sorted(path for path in here.project.rglob("*") if ".git" not in path.parts)
    said = " ".join(here.run("build", *on(here), "--dry-run").good().err.split())
    for words in (
        f"notebook {WHEELHOUSE}",
        "action new",
        "internet yes",
        "requirements plain",
        "attached to local/project-inference",
        "nothing was pushed, run, downloaded or written",
    ):
        assert words in said
    told = here.run("build", *on(here), "--dry-run", "--json").good().facts["chained"]
    facts = {"notebook": WHEELHOUSE, "action": "new", "runs": True, "private": True, "internet": True}
    assert {key: told[key] for key in facts} == facts
    assert told["requirements"] == ["plain", "zweite"]
    assert here.calls("SaveKernel") == here.calls("DownloadKernelOutput") == 0
    ours = {path for path in here.project.rglob("*") if ".git" not in path.parts}
    assert {path for path in ours - set(before) if "offline-kit.push" not in str(path)} <= {
        here.project / "dist"
    }

    here.run("build", *on(here)).good()
    again = here.run("build", *on(here), "--dry-run", "--json").good().facts["chained"]
    assert (again["action"], again["runs"], again["version"]) == ("nothing", False, 1)
    assert re.search(r"runs +yes", here.run("build", *on(here), "--dry-run", "--upgrade").good().err)
    assert here.calls("SaveKernel") == 1


@pytest.mark.slow
def test_a_large_wheel_tells_how_far_it_is(here: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bar moves while it comes, and ends at the size of all wheels."""
    name, data = wheel("zweite", files={"zweite.bin": "#" * 60_000_000})
    (here.project.parent.parent / "one" / "wheels" / name).write_bytes(data)
    here.run("build", *on(here)).good()
    monkeypatch.setenv("OFFLINE_KIT_CACHE", here.env["OFFLINE_KIT_CACHE"])
    listener = Listener()
    here.bench.kaggle.faults.add_fault(Fault(on="GET", pause=0.003, times=0))
    with kaggle_session.open_session(
        config.load_config(here.project, {}), KaggleEndpoint(local=here.bench.server.url), listener
    ) as port:
        output_files.fetch_missing(here.kit, port)
    ((total, amounts),) = listener.bars
    assert sum(amounts) == total > 60_000_000
    assert len([amount for amount in amounts if amount]) > 2
    assert kept(here) == [WHEEL, OTHER]


@pytest.mark.slow
@pytest.mark.sandbox
def test_ship_fetches_them_for_its_rehearsal(here: Yard) -> None:
    """On the way to the score the wheels come from where they are attached; once rehearsed, they do not come again."""
    here.run("build", *on(here)).good()
    here.run("ship", *here.to, "--yes", "--wait", "--env", "current").good()
    assert kept(here) == [WHEEL, OTHER]
    calls = here.calls("DownloadKernelOutput")
    here.run("ship", *here.to, "--yes", "--wait", "--env", "current").good()
    assert here.calls("DownloadKernelOutput") == calls + 1  # what the notebook's run wrote


@pytest.mark.slow
def test_wheels_that_cannot_be_had_are_told(here: Yard) -> None:
    """Without the Kaggle that has them a rehearsal here says which one, and how it is named."""
    here.run("build", *on(here)).good()
    away = {"OFFLINE_KIT_LOCAL_KAGGLE": "http://127.0.0.1:9"}
    said = here.run("rehearse", "--no-build", "--env", "current", env=away)
    said.failed(4, "no local Kaggle answers at 'http://127.0.0.1:9'")
    said = here.run("rehearse", "--no-build", "--env", "current")
    said.failed(4, "error[part-notebook-missing]", WHEELHOUSE, "OFFLINE_KIT_LOCAL_KAGGLE")
