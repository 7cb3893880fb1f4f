"""Faults by configuration: what goes wrong, at which call, how often.

Faults stand in `faults.json` in the state's folder, a list of objects that is read again whenever it
changes; in a process that holds the server, `FaultTable.add_fault` takes one too. A fault names the calls that it
meets by `on`: an RPC's method ("CreateDataset"), its whole name, "PUT" (bytes of an upload), "GET" (a link
to a file), "LOGS" (a log that is followed), with wildcards. It passes over the first `after` calls, meets the next `times` (0: all of
them), and does, in this order:

    delay         seconds to wait first
    cut           bytes of the request's body after which the connection is reset (an upload keeps those);
                  at GET and LOGS: bytes of the answer after which it is
    pause         at GET: seconds before each 64 KiB of the answer
    forget        true: the upload session has expired (404 from now on)
    status        this HTTP status instead of the call, with `message`, and `retry_after` seconds as header
    answer        this JSON object with status 200 instead of the call
    words         how the answer writes every "status": "KERNEL_WORKER_STATUS_{}", or a word without {} for all
    lose_answer   true: the call has its effect, then the connection is reset without an answer
    twice         true: the call is delivered twice; the second answer goes back
    stuck         a processing state at which versions made by this call stay ("BLOBS_RECEIVED"), or "FAILED"

Two things happen that nobody calls: "RUN", a run of a pushed version, and "SCORE", a submission that comes to
its end. Theirs are `delay`, and

    fail          it ends as an error with this text, without having run
    ends          it ends in this state, without having run: "CANCEL_ACKNOWLEDGED"; "ERROR" at a SCORE for one
                  that does not say why; "COMPLETE" with `fail` for one that has a text and no score
    stuck         a state in which it stays: "QUEUED" or "RUNNING"; at a SCORE "PENDING"
    without       a kind of data source that the run does not get: "dataset", "competition", "kernel", "model"

    [{"on": "CreateDataset", "lose_answer": true}, {"on": "PUT", "cut": 100000, "times": 2},
     {"on": "GetDatasetStatus", "status": 429, "retry_after": 1}, {"on": "RUN", "without": "dataset"}]
"""

import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from offline_kit.core.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One thing that goes wrong; see the module's text."""

    on: str
    """Which calls, with wildcards."""
    after: int = 0
    """How many of them pass first."""
    times: int = 1
    """How many of them it meets; 0 for all."""
    delay: float = 0.0
    """Seconds to wait before anything else."""
    cut: int = -1
    """Bytes after which the connection is reset; -1 for never."""
    pause: float = 0.0
    """Seconds before each piece of a file that is sent."""
    forget: bool = False
    """The upload session is gone."""
    status: int = 0
    """HTTP status to answer instead of the call; 0 for none."""
    message: str = "Injected fault"
    """The error's sentence."""
    retry_after: float | None = None
    """Seconds for a Retry-After header."""
    answer: Mapping[str, Any] | None = None
    """JSON to answer instead of the call."""
    words: str = ""
    """How the answer writes a status, with {} for its own word; "" for as it is."""
    lose_answer: bool = False
    """The effect happens, the answer is lost."""
    twice: bool = False
    """The call is delivered twice."""
    stuck: str = ""
    """Where versions made by this call, or a run, stay."""
    fail: str = ""
    """Text of the error in which a run or a submission ends."""
    ends: str = ""
    """State in which a run or a submission ends; "" for its own, or ERROR under `fail`."""
    without: str = ""
    """Kind of data source that a run does not get."""


NONE = Fault(on="")
"""Nothing goes wrong."""


class FaultTable:
    """The faults of one local Kaggle, and how often each was met."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._added: list[Fault] = []
        self._read: list[Fault] = []
        self._stamp = (0, 0)
        self._seen: dict[int, int] = {}

    def add_fault(self, fault: Fault) -> None:
        """Let something go wrong from now on."""
        with self._lock:
            self._added.append(fault)

    def clear_faults(self) -> None:
        """Let all that was added go wrong no more."""
        with self._lock:
            self._added.clear()

    def match_call(self, name: str) -> Fault:
        """Return what goes wrong at this call ("package.Service/Method", "PUT", "RUN" ...); counts it."""
        with self._lock:
            self._reload_file()
            for fault in (*self._added, *self._read):
                if not any(fnmatchcase(call_name, fault.on) for call_name in (name, name.rpartition("/")[2])):
                    continue
                count = self._seen.get(id(fault), 0)
                self._seen[id(fault)] = count + 1
                if count >= fault.after and (not fault.times or count < fault.after + fault.times):
                    return fault
        return NONE

    def _reload_file(self) -> None:
        try:
            faults_read = self.path.stat()
        except OSError:
            self._read, self._stamp = [], (0, 0)
            return
        if (faults_read.st_mtime_ns, faults_read.st_size) != self._stamp:
            self._stamp = (faults_read.st_mtime_ns, faults_read.st_size)
            self._read = list(read_faults(self.path))
            self._seen = {id(fault): self._seen.get(id(fault), 0) for fault in self._added}


def read_faults(path: Path) -> tuple[Fault, ...]:
    """Read a file of faults; UsageError names what is wrong in it."""
    fault_fields = {entry.name for entry in fields(Fault)}
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        for entry in raw:
            if unknown := sorted(set(entry) - fault_fields):
                raise UsageError(
                    f"'{path}' has an unknown word '{unknown[0]}'",
                    code="faults-file-invalid",
                    hint=f"a fault has {', '.join(sorted(fault_fields))}",
                )
        return tuple(Fault(**entry) for entry in raw)
    except (OSError, ValueError, TypeError) as error:
        raise UsageError(
            f"'{path}' is no list of faults: {error}",
            code="faults-file-invalid",
            hint="see `on` and the like",
        ) from error
