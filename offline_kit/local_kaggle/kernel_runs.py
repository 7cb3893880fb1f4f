"""Runs of notebook versions: queued, run in the background, their output and log kept."""

import json
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from offline_kit.local_kaggle.running import Finder, Job, Result, Runner
from offline_kit.local_kaggle.settings import Settings
from offline_kit.local_kaggle.store import Record, Store

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


class KernelRuns:
    """The runs of one local Kaggle; a version's record holds its state."""

    def __init__(
        self, store: Store, settings: Settings, runner: Runner, finders: Mapping[str, Finder]
    ) -> None:
        self.store = store
        self.settings = settings
        self.runner = runner
        self.finders = finders

    def invalid(self, kind: str, refs: list[str], user: str) -> list[str]:
        """Return those of the data sources that cannot be attached."""
        finder = self.finders.get(kind)
        return [ref for ref in refs if finder is None or finder(ref, user) is None]

    def begin(self, key: Key) -> None:
        """Let a version run in the background."""
        threading.Thread(target=self._run, args=(key,), daemon=True).start()

    def output(self, key: Key) -> Path:
        """Return the folder of a version's output; there once its run has ended."""
        return self.store.place(*key) / "output"

    def source(self, key: Key) -> str:
        """Return a version's source as it was pushed."""
        return (self.store.place(*key) / "source.txt").read_text(encoding="utf-8")

    def execute(
        self,
        key: Key,
        folder: Path,
        *,
        covered: Mapping[str, Mapping[str, Path]],
        rerun: bool,
        timeout: float = _HOURS,
    ) -> Result:
        """Run a version's source in `folder`, which is made empty.

        `covered` gives, for the place of a data source, the entries that are there instead of its own.
        """
        record = self.store.read(*key) or {}
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        job = Job(
            notebook=_notebook(self.source(key), str(record["kernelType"])),
            inputs=tuple(self._inputs(record, covered)),
            folder=folder,
            timeout=min(timeout, record.get("timeout") or _HOURS),
            rerun=rerun,
        )
        with _AT_ONCE:
            return self.runner(job)

    def _inputs(
        self, record: Record, covered: Mapping[str, Mapping[str, Path]]
    ) -> Iterator[tuple[str, Path]]:
        for kind, field in SOURCES.items():
            finder = self.finders.get(kind)
            for ref in record.get(field, ()):
                mounted = finder(ref, record["owner"]) if finder else None
                if mounted is None:
                    continue
                place, folder = mounted
                if place in covered:
                    yield from (
                        (f"{self._place(place)}/{name}", path) for name, path in covered[place].items()
                    )
                else:
                    yield self._place(place), folder

    def _place(self, place: str) -> str:
        if self.settings.layout == "new":
            return place
        kind, _, rest = place.partition("/")
        return rest if kind == "models" else rest.rpartition("/")[2]

    def _run(self, key: Key) -> None:
        time.sleep(self.settings.queued)
        began = self.store.now()
        if not self._change(key, state="RUNNING", began=began):
            return
        run = Path(tempfile.mkdtemp(prefix="run-", dir=self.store.place(*key)))
        try:
            result = self.execute(key, run, covered={}, rerun=False)
        except Exception as error:  # noqa: BLE001 - a run must end in a state, whatever the runner does
            result = Result(failure=f"Kaggle Error: {error}", log=((0.0, f"{error}\n"),))
        if not self.store.place(*key).exists():
            return  # deleted meanwhile
        events = [{"stream_name": "stdout", "time": at, "data": data} for at, data in result.log]
        (self.store.place(*key) / "log.json").write_text(json.dumps(events), encoding="utf-8")
        output = self.output(key)
        shutil.rmtree(output, ignore_errors=True)
        (run / "output").replace(output) if (run / "output").is_dir() else output.mkdir()
        shutil.rmtree(run, ignore_errors=True)
        state = "ERROR" if result.failure else "COMPLETE"
        self._change(key, state=state, failure=result.failure, seconds=self.store.now() - began)

    def log(self, key: Key) -> str:
        """Return a version's log, the text of a JSON array; empty before the run has ended."""
        path = self.store.place(*key) / "log.json"
        return path.read_text(encoding="utf-8") if path.is_file() else ""

    def _change(self, key: Key, **facts: object) -> bool:
        with self.store.lock:
            record = self.store.read(*key)
            if record is None:
                return False
            self.store.write({**record, **facts}, *key)
        return True


def _notebook(source: str, kind: str) -> str:
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
