"""`ship` killed at every point that the server sees: repeated, it ends with one of each, and with the kit's bytes.

Interrupted by ^C likewise; and two of them at once do the work of one.
"""

import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from offline_kit.local_kaggle.kernel_runs import RunJob
from offline_kit.local_kaggle.server import TrafficEvent
from tests.support.shipping import SHIP, Yard, in_places, retrain, yard

pytestmark = pytest.mark.slow
BIG = 3_000_000
EFFECTS = {
    "a version": "CreateDatasetVersion",
    "the notebook": "SaveKernel",
    "the submission": "CreateCodeSubmission",
}
Meets = Callable[["Trap", TrafficEvent], bool]


def at(phase: str, name: str) -> Meets:
    """Return what recognises a request at a phase of its life."""
    return lambda _, event: event.phase == phase and event.name.endswith(name)


def _within(_: "Trap", event: TrafficEvent) -> bool:
    return event.phase == "bytes" and event.name == "PUT" and 0 < event.received < BIG


def _processed(trap: "Trap", event: TrafficEvent) -> bool:
    return "CreateDatasetVersion" in trap.seen and at("ended", "/GetDatasetStatus")(trap, event)


POINTS: dict[str, Meets] = {
    "before anything is asked": at("begun", "/GetDataset"),
    "before the first blob": at("begun", "/StartBlobUpload"),
    "in the middle of a blob": _within,
    "between blobs": at("ended", "PUT"),
    "while it is processed": _processed,
    **{f"before {what}": at("begun", f"/{name}") for what, name in EFFECTS.items()},
    **{f"after {what}, before its answer": at("done", f"/{name}") for what, name in EFFECTS.items()},
    **{f"after the answer about {what}": at("ended", f"/{name}") for what, name in EFFECTS.items()},
    "while the notebook runs": at("runs", "here"),
    "while the output is fetched": at("begun", "/DownloadKernelOutput"),
    "while the hidden run runs": at("runs", "hidden"),
    "while the score is waited for": at("ended", "/GetSubmission"),
}
"""Names of the points, and how each is recognised."""


@dataclass
class Trap:
    """Kills a process at a point, once."""

    meets: Meets
    """Recognises the point."""
    by: signal.Signals = signal.SIGKILL
    """How it kills."""
    process: "subprocess.Popen[str] | None" = None
    """Who is killed; None while nobody is to be."""
    seen: set[str] = field(default_factory=set)
    """Methods that were begun."""
    hits: list[TrafficEvent] = field(default_factory=list)
    """What it was killed at."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def tell(self, event: TrafficEvent) -> None:
        """Look at a request, and kill at the first that is meant."""
        if self.process is None:
            return
        self.seen.add(event.name.rpartition("/")[2])
        with self.lock:
            if self.hits or not self.meets(self, event):
                return
            self.hits.append(event)
            self.process.send_signal(self.by)
            self.process.wait(5)  # an interrupt, too, is obeyed at once

    def run(self, job: RunJob) -> str:
        """Run a notebook, having told of it."""
        self.tell(TrafficEvent(phase="runs", name="hidden" if job.rerun else "here"))
        return in_places(job)

    def spring(self, here: Yard) -> None:
        """Ship, and be killed; return when the server has done what it had in hand."""
        self.process = here.start("ship", *here.to, *SHIP)
        self.process.communicate(timeout=120)
        code = 130 if self.by is signal.SIGINT else -self.by
        assert (len(self.hits), self.process.returncode) == (1, code), "it was never there"
        self.process = None
        time.sleep(0.5)


@contextmanager
def trapped(
    folder: Path, built: Path, meets: Meets, by: signal.Signals = signal.SIGKILL
) -> Iterator[tuple[Yard, Trap]]:
    """Serve a local Kaggle that kills whoever comes to a point."""
    trap = Trap(meets, by)
    with yard(folder, built, runner=trap.run) as here:
        here.bench.traffic.listeners.append(trap.tell)
        yield here, trap


def arrived(here: Yard, made: tuple[int, int, int], data: bytes) -> None:
    """Ship twice more, and see that there are so many of each, and what the newest dataset holds."""
    told = here.ship().good()
    assert "score 0.50000 (LOCAL)" in told.out
    for _ in range(2):
        assert here.made() == made
        assert here.holds_the_kit()
        assert (here.kit.folder / "dataset/checkpoints/model.ckpt").read_bytes() == data
        sent = here.uploaded()
        here.ship().good()
        assert here.uploaded() == sent


@pytest.mark.exhaustive
@pytest.mark.parametrize("point", POINTS)
def test_killed_anywhere_the_same_command_ends_with_one_of_each(
    tmp_path: Path, built: Path, point: str
) -> None:
    """A new checkpoint, killed on its way: one new dataset version, one notebook version, one submission."""
    with trapped(tmp_path, built, POINTS[point]) as (here, trap):
        here.ship().good()
        data = retrain(here.project, b"2", BIG)
        trap.spring(here)
        arrived(here, (2, 2, 2), data)


@pytest.mark.parametrize("point", POINTS)
def test_killed_and_rebuilt_in_equal_size_the_new_bytes_arrive(
    tmp_path: Path, built: Path, point: str
) -> None:
    """Between kill and repetition the checkpoint changes, not its size: one more of each for the new kit."""
    with trapped(tmp_path, built, POINTS[point]) as (here, trap):
        here.ship().good()
        retrain(here.project, b"2", BIG)
        trap.spring(here)
        datasets, notebooks, submissions = here.made()
        data = retrain(here.project, b"3", BIG)
        arrived(here, (datasets + 1, notebooks + 1, submissions + 1), data)


@pytest.mark.parametrize(
    "point",
    [
        "in the middle of a blob",
        "after a version, before its answer",
        "while the notebook runs",
        "after the submission, before its answer",
        "while the score is waited for",
    ],
)
def test_interrupted_it_stops_at_once_and_goes_on(tmp_path: Path, built: Path, point: str) -> None:
    """^C ends it with 130, and the same command afterwards does the rest and no more."""
    with trapped(tmp_path, built, POINTS[point], signal.SIGINT) as (here, trap):
        here.ship().good()
        data = retrain(here.project, b"2", BIG)
        trap.spring(here)
        arrived(here, (2, 2, 2), data)


def test_two_at_once_do_the_work_of_one(tmp_path: Path, built: Path) -> None:
    """The second waits for the first at each step, and finds it done."""
    with yard(tmp_path, built) as here:
        both = [here.start("ship", *here.to, *SHIP) for _ in range(2)]
        ends = [(process.communicate(timeout=120)[1], process.returncode) for process in both]
        assert [code for _, code in ends] == [0, 0], ends
        assert here.made() == (1, 1, 1)
        assert here.holds_the_kit()


@pytest.mark.parametrize("phase", ["begun", "done", "ended"])
@pytest.mark.parametrize("rebuilt", [False, True], ids=["same kit", "rebuilt"])
def test_killed_at_the_creation_there_is_one_dataset(
    tmp_path: Path, built: Path, phase: str, *, rebuilt: bool
) -> None:
    """From a fresh state: the dataset is created once, and holds the kit as it is by then."""
    with trapped(tmp_path, built, at(phase, "/CreateDataset")) as (here, trap):
        data = retrain(here.project, b"2", BIG)
        trap.spring(here)
        created = len(here.datasets())
        if rebuilt:
            data = retrain(here.project, b"3", BIG)
        arrived(here, (created + 1 if rebuilt else 1, 1, 1), data)
        assert here.calls("CreateDataset") <= 2


def test_killed_between_two_parts_each_gets_one_version(tmp_path: Path, built: Path) -> None:
    """Split parts, both changed, killed after the first version: the second is made, the first not again."""
    with trapped(tmp_path, built, at("ended", "/CreateDatasetVersion")) as (here, trap):
        config = here.project / "offline-kit.toml"
        config.write_text('parts = "split"\n' + config.read_text())
        here.ship().good()
        parts = {part.name: f"local/small-kit-{part.name}" for part in here.kit.parts}
        retrain(here.project, b"2", BIG)
        (here.project / "predict.py").write_text("# changed\n" + (here.project / "predict.py").read_text())
        trap.spring(here)
        for _ in range(2):
            here.ship().good()
            changed = {"checkpoints", "code"}
            assert {name: len(here.datasets(ref)) for name, ref in parts.items()} == {
                name: 2 if name in changed else 1 for name in parts
            }
            assert all(here.holds_the_kit(ref, name) for name, ref in parts.items())
            assert (len(here.notebooks()), len(here.submissions())) == (2, 2)
