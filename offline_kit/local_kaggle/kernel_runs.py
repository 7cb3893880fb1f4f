"""Runs of notebook versions: queued, run in the background, their output and log kept."""

import json
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from offline_kit.local_kaggle.faults import Fault, Faults
from offline_kit.local_kaggle.live_logs import RunLogs
from offline_kit.local_kaggle.running import Contest, Finder, Job, Result, Runner, unheard
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
        self,
        store: Store,
        settings: Settings,
        runner: Runner,
        finders: Mapping[str, Finder],
        faults: Faults,
        rules: Callable[[str], Record | None],
    ) -> None:
        """`rules` gives the record of a competition."""
        self.store = store
        self.settings = settings
        self.runner = runner
        self.finders = finders
        self.faults = faults
        self.rules = rules
        self.logs = RunLogs(store)

    def invalid(self, kind: str, refs: list[str], user: str) -> list[str]:
        """Return those of the data sources that cannot be attached."""
        finder = self.finders.get(kind)
        return [ref for ref in refs if finder is None or finder(ref, user) is None]

    def begin(self, key: Key) -> None:
        """Let a version run in the background."""
        self.logs.begin(key)
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
        covered: Mapping[str, Mapping[str, Path]] | None = None,
        timeout: float = _HOURS,
        say: Callable[[str], None] = unheard,
        without: str = "",
    ) -> Result:
        """Run a version's source in `folder`, which is made empty.

        `covered` makes it a hidden run: it gives, for the place of a data source, the entries that are there
        instead of its own. Sources of the kind `without` are left out.
        """
        record = self.store.read(*key) or {}
        record |= {SOURCES[without]: ()} if without else {}
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        job = Job(
            notebook=_notebook(self.source(key), str(record["kernelType"])),
            inputs=tuple(self._inputs(record, covered or {})),
            folder=folder,
            timeout=min(timeout, record.get("timeout") or _HOURS),
            rerun=covered is not None,
            contest=self._contest(record),
            say=say,
            internet=bool(record.get("enableInternet")) and covered is None,
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

    def _contest(self, record: Record) -> Contest | None:
        for ref in record.get(SOURCES["competition"], ()):
            mounted, rules = self.finders["competition"](ref, record["owner"]), self.rules(ref)
            if mounted and rules:
                place, submission = self._place(mounted[0]), str(rules["submission"])
                return Contest(place=place, submission=submission, gateway=rules.get("gateway"))
        return None

    def _place(self, place: str) -> str:
        if self.settings.layout == "new":
            return place
        kind, _, rest = place.partition("/")
        return rest.partition("/")[2] if kind == "models" else rest.rpartition("/")[2]

    def _run(self, key: Key) -> None:
        fault = self.faults.meet("RUN")
        time.sleep(self.settings.queued + fault.delay)
        began = self.store.now()
        if fault.stuck:
            self._change(key, state=fault.stuck, began=began)
            return
        if not self._change(key, state="RUNNING", began=began):
            return
        self.logs.begin(key)
        run = fresh(self.store.place(*key))
        result = self._result(key, run, fault)
        if not self.store.place(*key).exists():  # deleted meanwhile
            self.logs.end(key)
            return
        for at, text in result.log:
            self.logs.say(key, text, at=at)
        output = self.output(key)
        shutil.rmtree(output, ignore_errors=True)
        (run / "output").replace(output) if (run / "output").is_dir() else output.mkdir()
        shutil.rmtree(run, ignore_errors=True)
        state = fault.ends or ("ERROR" if result.failure else "COMPLETE")
        self._change(key, state=state, failure=result.failure, seconds=self.store.now() - began)
        self.logs.end(key)

    def _result(self, key: Key, folder: Path, fault: Fault) -> Result:
        if fault.fail or fault.ends:
            return Result(failure=fault.fail, log=((0.0, f"{fault.fail}\n"),) if fault.fail else ())
        try:
            return self.execute(key, folder, say=lambda text: self.logs.say(key, text), without=fault.without)
        except Exception as error:  # noqa: BLE001 - a run must end in a state, whatever the runner does
            return Result(failure=f"Kaggle Error: {error}", log=((0.0, f"{error}\n"),))

    def _change(self, key: Key, **facts: object) -> bool:
        with self.store.lock:
            record = self.store.read(*key)
            if record is None:
                return False
            self.store.write({**record, **facts}, *key)
        return True


def fresh(place: Path) -> Path:
    """Return a new folder for a run; what a run that did not outlive its server left there is removed."""
    for left in place.glob("run-*"):
        shutil.rmtree(left, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix="run-", dir=place))


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
