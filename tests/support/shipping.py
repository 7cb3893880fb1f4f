"""A small project on its way to a local Kaggle, by the real command line.

The project needs no package, has one checkpoint and takes part in the competition `small-digits`; its
notebook is the one that `build` renders.
"""

import json
import os
import pickle
import pty
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from offline_kit.core.retry import RetryPolicy
from offline_kit.kaggle.push.poll_policy import ClientSettings, PollPolicy
from offline_kit.kit import manifest
from offline_kit.local_kaggle.faults import Fault
from offline_kit.local_kaggle.kernel_runs import NotebookRunner, RunJob
from offline_kit.local_kaggle.settings import LocalKaggleSettings
from offline_kit.project.kaggle_names import MARKER
from offline_kit.project.types import Kit
from tests.support.command_line import Done, offline_kit
from tests.support.competitions import competition
from tests.support.local_kaggle import HASTY, Bench, launch_words, serving
from tests.support.warm_python import client_python

CONTEST, DATASET, NOTEBOOK = "small-digits", "local/small-kit", "local/project-inference"
CONFIG = f"""
competition = "{CONTEST}"
dataset = "small-kit"
checkpoints = ["model.ckpt"]

[notebook]
template = "function"
function = "predict.py:main"

[notebook.params]
"""
"""Ends so that parameters can be added: they change the notebook and no data."""
PREDICT = """
import csv, time


def main(context):
    assert all(checkpoint.read_bytes() for checkpoint in context.checkpoints)
    time.sleep(context.params.get("seconds", 0))
    if context.params.get("fail"):
        raise ValueError("asked to fail")
    rows = csv.DictReader((context.input / "test.csv").open())
    return [{"id": row["id"], "label": int(row["x"]) % 2} for row in rows]
"""
WEIGHTS = 300_000
"""Bytes of the checkpoint."""
HURRIED = """
import pickle, sys
from offline_kit.cli.main import main
main(sys.argv[1:], client=pickle.loads({client}))
"""
"""The command line with hours made seconds, in a process of its own."""


SHOWS_FAILURES = """
import sys
sys.modules["pandas"] = None  # or each run would draw its submission, which takes longer than all the rest
def show(kind, error, trace):
    if hasattr(error, "to_json"):
        print(error.to_json())
    sys.__excepthook__(kind, error, trace)
sys.excepthook = show
"""
"""What IPython does by the error's `_render_traceback_`."""


def in_places(job: RunJob, more: Mapping[str, str] | None = None) -> str:
    """Run a kit's notebook in a bare subprocess that is told where its inputs and its outputs are."""
    output, shown = job.folder / "output", job.folder / "shown"
    output.mkdir()
    for place, folder in job.inputs:
        (shown / place).parent.mkdir(parents=True, exist_ok=True)
        (shown / place).symlink_to(folder)
    shown.mkdir(exist_ok=True)
    places = {"INPUT": shown, "WORKING": output, "SCRATCH": job.folder / "scratch"}
    env = {f"OFFLINE_KIT_{name}": str(path) for name, path in places.items()} | {"PATH": os.environ["PATH"]}
    env |= {"PYTHONDONTWRITEBYTECODE": "1", **(more or {})}  # Kaggle's inputs are read-only
    words = launch_words(job, SHOWS_FAILURES)
    done = subprocess.run(
        words, cwd=output, env=env | ({"KAGGLE_IS_COMPETITION_RERUN": "1"} if job.rerun else {}),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    job.say(done.stdout)
    return done.stdout.splitlines()[-1] if done.returncode else ""


def make_project(folder: Path, *, more: str = "") -> Path:
    """Write a committed project; `more` is TOML put first."""
    folder.mkdir(parents=True)
    (folder / "offline-kit.toml").write_text(more + CONFIG)
    (folder / "predict.py").write_text(PREDICT)
    (folder / ".gitignore").write_text("dist\n")
    retrain(folder, b"1")
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "A project"]):
        subprocess.run([*git, *words], cwd=folder, check=True)
    return folder


def retrain(project: Path, byte: bytes, size: int = WEIGHTS) -> bytes:
    """Write another checkpoint of this size; return its bytes, which no reader of pickles takes for one."""
    data = b"\0" + byte * (size - 1)
    (project / "model.ckpt").write_bytes(data)
    return data


@dataclass(frozen=True, kw_only=True)
class Yard:
    """A project, and the local Kaggle that it is shipped to."""

    bench: Bench
    project: Path
    env: Mapping[str, str]
    """For the command line."""
    grace: float = 1.0
    """Seconds for an effect to show."""
    processing: float = 15.0
    """Seconds for a dataset to be ready."""
    answer: float = 15.0
    """Seconds for an answer."""

    @property
    def to(self) -> tuple[str, ...]:
        """The words that name the local Kaggle."""
        return ("--to", "local", "--at", self.bench.server.url)

    @property
    def client(self) -> ClientSettings:
        """The settings of its commands."""
        poll = PollPolicy(
            visibility_timeout=self.grace,
            processing_timeout=self.processing,
            first_interval=0.02,
            max_interval=0.1,
        )
        retry = RetryPolicy(attempts=4, backoff=0.02, longest=0.2)
        return ClientSettings(poll=poll, retry=retry, read_timeout=self.answer, client_python=client_python())

    @property
    def hurried(self) -> str:
        """The code of such a command in a process of its own."""
        return HURRIED.format(client=pickle.dumps(self.client))

    def start(
        self, command: str, *words: str, env: Mapping[str, str | None] | None = None
    ) -> "subprocess.Popen[str]":
        """Start `offline-kit COMMAND` in the project; `env` changes the environment, None removes."""
        changed = {**self.env, **(env or {})}
        return subprocess.Popen(
            [sys.executable, "-c", self.hurried, command, *words, str(self.project)],
            env={name: value for name, value in changed.items() if value is not None},
            cwd=self.project,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def run(self, command: str, *words: str, env: Mapping[str, str | None] | None = None) -> Done:
        """Run a command to its end, in this process."""
        changed = {**self.env, **(env or {})}
        whole = {name: value for name, value in changed.items() if value is not None}
        words = (command, *words, str(self.project))
        done = offline_kit(*words, cwd=self.project, env=whole, client=self.client)
        return Done(code=done.returncode, out=done.stdout, err=done.stderr)

    def run_on_terminal(self, answers: Mapping[str, str], command: str, *words: str) -> tuple[int, str]:
        """Run a command on a terminal, answer its questions by words in them; return exit code and what was shown."""
        ours, theirs = pty.openpty()
        process = subprocess.Popen(
            [sys.executable, "-c", self.hurried, command, *words, str(self.project)],
            env=dict(self.env), cwd=self.project, stdin=theirs, stdout=theirs, stderr=theirs,
        )  # fmt: skip
        os.close(theirs)
        shown, pending, end = b"", dict(answers), time.monotonic() + 120
        while time.monotonic() < end:
            if not select.select([ours], [], [], 1)[0]:
                continue
            try:
                shown += os.read(ours, 65536)
            except OSError:  # the other end is closed
                break
            for question in [question for question in pending if question.encode() in shown]:
                os.write(ours, f"{pending.pop(question)}\n".encode())
        os.close(ours)  # whoever still runs is hung up
        return process.wait(10), shown.decode()

    def ship(self, *words: str) -> Done:
        """Ship to the score."""
        return self.run("ship", *self.to, *SHIP, *words)

    def push(self, *words: str) -> Done:
        """Push and run."""
        return self.run("push", *self.to, *words)

    def params(self, text: str) -> None:
        """Set the parameters of the notebook, as TOML."""
        config = self.project / "offline-kit.toml"
        config.write_text(
            config.read_text().partition("[notebook.params]")[0] + f"[notebook.params]\n{text}\n"
        )

    def breaks(self, **fault: Any) -> None:
        """Let something go wrong, once unless told otherwise."""
        self.bench.kaggle.faults.add_fault(Fault(**fault))

    @contextmanager
    def broken(self, **fault: Any) -> Iterator[None]:
        """Let something go wrong at every call, until the block ends."""
        place = self.bench.kaggle.faults.path
        place.write_text(json.dumps([{**asdict(Fault(**fault)), "times": 0}]))
        yield
        place.unlink()

    def calls(self, method: str) -> int:
        """Return how many calls of a method were answered."""
        return len(self.bench.traffic.ended_requests(f"/{method}"))

    @property
    def kit(self) -> Kit:
        """The kit that was built last."""
        return manifest.read_kit(self.project / "dist" / "offline-kit")

    def datasets(self, ref: str = DATASET) -> list[int]:
        """Return the versions of a dataset that the server made."""
        return sorted(map(int, self.bench.kaggle.store.key_names("datasets", *ref.split("/"), "versions")))

    def notebooks(self) -> list[int]:
        """Return the versions of the notebook that the server made."""
        return sorted(
            map(int, self.bench.kaggle.store.key_names("kernels", *NOTEBOOK.split("/"), "versions"))
        )

    def submissions(self) -> list[dict[str, Any]]:
        """Return the submissions that the server has, shown or not."""
        return list(self.bench.kaggle.store.iter_records("submissions"))

    def made(self) -> tuple[int, int, int]:
        """Return how many versions of dataset and notebook and how many submissions there are."""
        return len(self.datasets()), len(self.notebooks()), len(self.submissions())

    def holds_the_kit(self, ref: str = DATASET, part: str = "kit") -> bool:
        """Tell whether the READY version of a dataset has the bytes of the kit's part, and nothing else."""
        (ours,) = [self.kit.part_folder(each) for each in self.kit.parts if each.name == part]
        found = self.bench.kaggle.datasets.mounted_version(ref, ref.partition("/")[0])
        return found is not None and _bytes(found[-1]) == _bytes(ours) and MARKER in _bytes(ours)

    def uploaded(self) -> int:
        """Return how many bytes of uploads arrived so far."""
        return self.bench.traffic.uploaded_bytes()


SHIP = ("--yes", "--wait", "--no-rehearsal")


def _bytes(folder: Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


@contextmanager
def yard(
    folder: Path,
    built: Path,
    settings: LocalKaggleSettings = HASTY,
    runner: NotebookRunner = in_places,
    **times: float,
) -> Iterator[Yard]:
    """Serve a local Kaggle with the competition, and a copy of the project `built` beside it."""
    with serving(folder, settings, runner) as bench:
        bench.kaggle.accounts.add_account("local", key="local-kaggle")
        bench.kaggle.catalog.add_competition(competition(folder))
        project = folder / "project"
        shutil.copytree(built, project)
        home = folder / "home"
        home.mkdir()
        env = {**os.environ, "HOME": str(home), "OFFLINE_KIT_CACHE": str(built.parent / "cache")}
        env = {name: value for name, value in env.items() if not name.startswith("KAGGLE_")}
        yield Yard(bench=bench, project=project, env=env | {"COLUMNS": "300", "NO_COLOR": "1"}, **times)


def built_copy(project: Path) -> Path:
    """Return a copy of a project, below the folder beside it, whose kit is built."""
    place = project.parent / "first"
    place.mkdir()
    with yard(place, project) as here:
        here.run("build").good()
        return here.project
