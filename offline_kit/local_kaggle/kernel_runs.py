"""Runs of notebook versions: queued, run in the background, their output and log kept."""

import json
import math
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from offline_kit.core import files
from offline_kit.local_kaggle.faults import FaultTable
from offline_kit.local_kaggle.store import Key, Record, RecordStore, Service
from offline_kit.project.accelerators import Machine, find_machine

SOURCES = {
    "dataset": "datasetDataSources",
    "competition": "competitionDataSources",
    "kernel": "kernelDataSources",
    "model": "modelDataSources",
}
"""Kinds of data sources, with their field in a push."""
ENDED = ("COMPLETE", "ERROR", "CANCEL_ACKNOWLEDGED")
_AT_ONCE = threading.Semaphore(2)  # this machine is no cloud


@dataclass(frozen=True, kw_only=True)
class RunCompetition:
    """The competition that a notebook takes part in, as far as its run depends on it."""

    mount: str  # where its data is mounted, below /kaggle/input
    submission: str  # what its gateway writes, if it has an inference server
    gateway: Mapping[str, Any] | str | None
    """Options of the stand-in gateway, or a class of its own package; None: its competition.toml has no `gateway`."""


@dataclass(frozen=True, kw_only=True)
class RunJob:
    """What is run."""

    notebook: str  # the text of a notebook (nbformat 4) or script
    is_script: bool = False
    inputs: tuple[tuple[str, Path], ...]  # what lies below /kaggle/input: (place, folder or file)
    folder: Path  # an empty folder for the run; what is written to /kaggle/working is left in its `output`
    timeout: float
    rerun: bool = False  # whether it is the hidden run of a submission (KAGGLE_IS_COMPETITION_RERUN)
    say: Callable[[str], None] = lambda _text: None  # takes what the run says, line by line while it says it
    contest: RunCompetition | None = None
    """The competition whose data is attached; the first one, if there are several."""
    machine: Machine = field(default_factory=lambda: find_machine(""))
    internet: bool = False  # whether the version was saved with the internet on; a hidden run never has it


NotebookRunner = Callable[[RunJob], str]
"""Runs a job to its end, and returns why it failed, in one line; empty: it ran to its end."""
SourceFinder = Callable[[str, str, str], tuple[str, Path] | None]
"""From kind and reference of a data source and a user to (place below /kaggle/input, folder), or None."""


class NotebookRuns(Service):
    """The runs of one local Kaggle; a version's record holds its state."""

    def __init__(
        self, store: RecordStore, *, runner: NotebookRunner, find_source: SourceFinder, faults: FaultTable
    ) -> None:
        super().__init__(store)
        self.runner = runner
        self.find_source = find_source
        self.faults = faults
        self._live_logs: dict[Key, list[dict[str, Any]]] = {}

    def start_run(self, version: Record) -> None:
        """Let a version run in the background."""
        threading.Thread(target=self._run_version, args=(version,), daemon=True).start()

    def output_folder(self, version: Record) -> Path:
        """Return the folder of a version's output; there once its run has ended."""
        return self.store.key_folder(*version.key) / "output"

    def read_source(self, version: Record) -> str:
        """Return a version's source as it was pushed."""
        return (self.store.key_folder(*version.key) / "source.txt").read_text(encoding="utf-8")

    def read_log(self, version: Record) -> str:
        """Return a run's log as far as it goes, the text of a JSON array; empty if nothing was said yet."""
        if events := self._live_logs.get(version.key):
            return json.dumps(list(events))
        path = self.store.key_folder(*version.key) / "log.json"
        return path.read_text(encoding="utf-8") if path.is_file() else ""

    def execute_version(
        self,
        version: Record,
        folder: Path,
        *,
        covered: Mapping[str, Mapping[str, Path]] | None = None,
        timeout: float = math.inf,
        say: Callable[[str], None],
        without: str = "",
    ) -> str:
        """Run a version's source in `folder`, which is made empty; return why it failed, "" if it did not.

        `covered` makes it a hidden run: it gives, for the place of a data source, the entries that are there
        instead of its own. Sources of the kind `without` are left out.
        """
        sources = {kind: version.get(name, ()) for kind, name in SOURCES.items() if kind != without}
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        machine = find_machine(version.get("machineShape", ""))
        job = RunJob(
            notebook=self.read_source(version),
            is_script=version["kernelType"] != "notebook",
            inputs=tuple(self._mount_inputs(version["owner"], sources, covered or {})),
            folder=folder,
            timeout=min(timeout, version.get("timeout") or machine.seconds),
            machine=machine,
            rerun=covered is not None,
            contest=self._find_contest(version["owner"], sources),
            say=say,
            internet=bool(version.get("enableInternet")) and covered is None,
        )
        with _AT_ONCE:
            return self.runner(job)

    def _mount_inputs(
        self, user: str, sources: Mapping[str, Sequence[str]], covered: Mapping[str, Mapping[str, Path]]
    ) -> Iterator[tuple[str, Path]]:
        for kind, refs in sources.items():
            for ref in refs:
                mounted = self.find_source(kind, ref, user)
                if mounted and mounted[0] in covered:
                    mount = self._mount_place(mounted[0])
                    yield from ((f"{mount}/{name}", path) for name, path in covered[mounted[0]].items())
                elif mounted:
                    yield self._mount_place(mounted[0]), mounted[1]

    def _find_contest(self, user: str, sources: Mapping[str, Sequence[str]]) -> RunCompetition | None:
        for ref in sources.get("competition", ()):
            mounted = self.find_source("competition", ref, user)
            rules = self.store.read("competitions", ref)
            if mounted and rules:
                mount, submission = self._mount_place(mounted[0]), str(rules["submission"])
                return RunCompetition(mount=mount, submission=submission, gateway=rules.get("gateway"))
        return None

    def _mount_place(self, place: str) -> str:
        # Kaggle changed its mounts in 2026, some sessions still have the old ones: /kaggle/input/<slug>.
        if self.settings.layout == "new":
            return place
        kind, _, name = place.partition("/")
        return name.partition("/")[2] if kind == "models" else name.rpartition("/")[2]

    def _run_version(self, version: Record) -> None:
        folder, output = self.store.key_folder(*version.key), self.output_folder(version)
        fault = self.faults.match_call("RUN")
        time.sleep(self.settings.queued + fault.delay)
        began = time.time()
        changed = self.store.change_record(version, state=fault.stuck or "RUNNING", began=began)
        if fault.stuck or not changed:
            return
        events = self._live_logs[version.key] = []

        def say(text: str) -> None:
            seconds = max(time.time() - began, events[-1]["time"] if events else 0.0)  # time never goes back
            events.append({"stream_name": "stdout", "time": round(seconds, 3), "data": text})

        run, failure = make_run_folder(folder), fault.fail
        if failure:
            say(f"{failure}\n")
        elif not fault.ends:
            try:
                failure = self.execute_version(version, run, say=say, without=fault.without)
            except Exception as error:  # noqa: BLE001 - a run must end in a state, whatever the runner does
                failure = f"Kaggle Error: {error}"
                say(f"{error}\n")
        # The run itself holds no lock: its notebook may be deleted or its server ended in the meantime.
        if folder.exists():
            shutil.rmtree(output, ignore_errors=True)
            (run / "output").replace(output) if (run / "output").is_dir() else output.mkdir()
            shutil.rmtree(run, ignore_errors=True)
            files.write_atomic(folder / "log.json", json.dumps(events))
            state = fault.ends or ("ERROR" if failure else "COMPLETE")
            self.store.change_record(version, state=state, failure=failure)
        del self._live_logs[version.key]


def make_run_folder(folder: Path) -> Path:
    """Return a new folder for a run; what a run that did not outlive its server left there is removed."""
    for leftover in folder.glob("run-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix="run-", dir=folder))
