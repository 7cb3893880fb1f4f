"""Runs of notebook versions: queued, run in the background, their output and log kept."""

import json
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from offline_kit.local_kaggle.faults import Fault, FaultTable
from offline_kit.local_kaggle.live_logs import LiveLogs
from offline_kit.local_kaggle.running import (
    Finder,
    NotebookRunner,
    RunCompetition,
    RunJob,
    RunResult,
    discard_text,
)
from offline_kit.local_kaggle.settings import LocalKaggleSettings
from offline_kit.local_kaggle.store import Record, RecordStore

SOURCES = {
    "dataset": "datasetDataSources",
    "competition": "competitionDataSources",
    "kernel": "kernelDataSources",
    "model": "modelDataSources",
}
"""Kinds of data sources, with their field in a push."""
ENDED = ("COMPLETE", "ERROR", "CANCEL_ACKNOWLEDGED")
_HOURS = 12 * 3600.0
_AT_ONCE = threading.Semaphore(2)  # this machine is no cloud
Key = tuple[str, ...]


class NotebookRuns:
    """The runs of one local Kaggle; a version's record holds its state."""

    def __init__(
        self,
        store: RecordStore,
        settings: LocalKaggleSettings,
        runner: NotebookRunner,
        finders: Mapping[str, Finder],
        faults: FaultTable,
        rules: Callable[[str], Record | None],
    ) -> None:
        """`rules` gives the record of a competition."""
        self.store = store
        self.settings = settings
        self.runner = runner
        self.finders = finders
        self.faults = faults
        self.rules = rules
        self.logs = LiveLogs(store)

    def find_invalid_sources(self, kind: str, refs: list[str], user: str) -> list[str]:
        """Return those of the data sources that cannot be attached."""
        finder = self.finders.get(kind)
        return [ref for ref in refs if finder is None or finder(ref, user) is None]

    def start_run(self, key: Key) -> None:
        """Let a version run in the background."""
        self.logs.begin_log(key)
        threading.Thread(target=self._run_version, args=(key,), daemon=True).start()

    def output_folder(self, key: Key) -> Path:
        """Return the folder of a version's output; there once its run has ended."""
        return self.store.key_folder(*key) / "output"

    def pushed_source(self, key: Key) -> str:
        """Return a version's source as it was pushed."""
        return (self.store.key_folder(*key) / "source.txt").read_text(encoding="utf-8")

    def execute_version(
        self,
        key: Key,
        folder: Path,
        *,
        covered: Mapping[str, Mapping[str, Path]] | None = None,
        timeout: float = _HOURS,
        say: Callable[[str], None] = discard_text,
        without: str = "",
    ) -> RunResult:
        """Run a version's source in `folder`, which is made empty.

        `covered` makes it a hidden run: it gives, for the place of a data source, the entries that are there
        instead of its own. Sources of the kind `without` are left out.
        """
        record = self.store.read(*key) or {}
        record |= {SOURCES[without]: ()} if without else {}
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        job = RunJob(
            notebook=_as_notebook(self.pushed_source(key), str(record["kernelType"])),
            inputs=tuple(self._mount_inputs(record, covered or {})),
            folder=folder,
            timeout=min(timeout, record.get("timeout") or _HOURS),
            rerun=covered is not None,
            contest=self._find_contest(record),
            say=say,
            internet=bool(record.get("enableInternet")) and covered is None,
        )
        with _AT_ONCE:
            return self.runner(job)

    def _mount_inputs(
        self, record: Record, covered: Mapping[str, Mapping[str, Path]]
    ) -> Iterator[tuple[str, Path]]:
        for kind, field in SOURCES.items():
            finder = self.finders.get(kind)
            for ref in record.get(field, ()):
                mounted = finder(ref, record["owner"]) if finder else None
                if mounted is None:
                    continue
                location, folder = mounted
                if location in covered:
                    yield from (
                        (f"{self._mount_folder(location)}/{name}", path)
                        for name, path in covered[location].items()
                    )
                else:
                    yield self._mount_folder(location), folder

    def _find_contest(self, record: Record) -> RunCompetition | None:
        for ref in record.get(SOURCES["competition"], ()):
            mounted, rules = self.finders["competition"](ref, record["owner"]), self.rules(ref)
            if mounted and rules:
                location, submission = self._mount_folder(mounted[0]), str(rules["submission"])
                return RunCompetition(place=location, submission=submission, gateway=rules.get("gateway"))
        return None

    def _mount_folder(self, place: str) -> str:
        if self.settings.layout == "new":
            return place
        kind, _, name = place.partition("/")
        return name.partition("/")[2] if kind == "models" else name.rpartition("/")[2]

    def _run_version(self, key: Key) -> None:
        fault = self.faults.match_call("RUN")
        time.sleep(self.settings.queued + fault.delay)
        began = self.store.current_time()
        if fault.stuck:
            self._change_record(key, state=fault.stuck, began=began)
            return
        if not self._change_record(key, state="RUNNING", began=began):
            return
        self.logs.begin_log(key)
        run = make_run_folder(self.store.key_folder(*key))
        result = self._collect_result(key, run, fault)
        if not self.store.key_folder(*key).exists():  # deleted meanwhile
            self.logs.end_log(key)
            return
        for at, text in result.log:
            self.logs.add_text(key, text, at=at)
        output = self.output_folder(key)
        shutil.rmtree(output, ignore_errors=True)
        (run / "output").replace(output) if (run / "output").is_dir() else output.mkdir()
        shutil.rmtree(run, ignore_errors=True)
        state = fault.ends or ("ERROR" if result.failure else "COMPLETE")
        self._change_record(
            key, state=state, failure=result.failure, seconds=self.store.current_time() - began
        )
        self.logs.end_log(key)

    def _collect_result(self, key: Key, folder: Path, fault: Fault) -> RunResult:
        if fault.fail or fault.ends:
            return RunResult(failure=fault.fail, log=((0.0, f"{fault.fail}\n"),) if fault.fail else ())
        try:
            return self.execute_version(
                key, folder, say=lambda text: self.logs.add_text(key, text), without=fault.without
            )
        except Exception as error:  # noqa: BLE001 - a run must end in a state, whatever the runner does
            return RunResult(failure=f"Kaggle Error: {error}", log=((0.0, f"{error}\n"),))

    def _change_record(self, key: Key, **facts: object) -> bool:
        with self.store.lock:
            record = self.store.read(*key)
            if record is None:
                return False
            self.store.write_record({**record, **facts}, *key)
        return True


def make_run_folder(folder: Path) -> Path:
    """Return a new folder for a run; what a run that did not outlive its server left there is removed."""
    for leftover in folder.glob("run-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix="run-", dir=folder))


def _as_notebook(source: str, kind: str) -> str:
    """Return the source as a notebook: a script is one of a single cell."""
    if kind == "notebook":
        return source
    cell: dict[str, object] = {
        "cell_type": "code",
        "id": "script",
        "metadata": {},
        "source": source,
        "outputs": [],
        "execution_count": None,
    }
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    return json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": kernel, "cells": [cell]})
