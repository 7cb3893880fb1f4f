"""Faults by configuration: what goes wrong, at which call, how often.

Faults stand in `faults.json` in the state's folder, a list of objects that is read again whenever it
changes; in a process that holds the server, `FaultTable.add_fault` takes one too.
docs/guide/local-kaggle.md describes them for users.
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
    """One thing that goes wrong; what is set happens in this order."""

    on: str
    """An RPC's method ("CreateDataset") or its whole name, "PUT" (bytes of an upload), "GET" (a link to a file), with
    wildcards. "RUN" is a run of a pushed version, "SCORE" the end of a submission."""
    after: int = 0  # how many of these calls pass first
    times: int = 1  # how many of them it meets; 0 for all
    delay: float = 0.0  # seconds to wait first
    cut: int = -1
    """Bytes of the request's body (at GET: of the answer) after which the connection is reset; -1 for never."""
    pause: float = 0.0  # seconds before each 64 KiB of a file that is sent
    forget: bool = False  # the upload session has expired: 404 from now on
    status: int = 0
    """HTTP status to answer instead of the call, with `message`, and `retry_after` seconds as header; 0 for none."""
    message: str = "Injected fault"
    retry_after: float | None = None
    answer: Mapping[str, Any] | None = None  # JSON to answer with status 200 instead of the call
    words: str = ""
    """How the answer writes every "status": "KERNEL_WORKER_STATUS_{}", or a word without {} for all."""
    lose_answer: bool = False  # the call has its effect, then the connection is reset without an answer
    stuck: str = ""
    """A state at which versions made by this call stay ("BLOBS_RECEIVED", "FAILED"), or a run ("QUEUED", "RUNNING"), or
    a submission ("PENDING")."""
    fail: str = ""  # text of the error in which a run or a submission ends, without having run
    ends: str = ""
    """State in which a run or a submission ends ("CANCEL_ACKNOWLEDGED"); "" for its own, or ERROR under `fail`."""
    without: str = ""
    """A kind of data source that a run does not get: "dataset", "competition", "kernel", "model"."""


NONE = Fault(on="")  # nothing goes wrong


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
            stat = self.path.stat()
            stamp = (stat.st_mtime_ns, stat.st_size)
        except OSError:
            stamp = (0, 0)
        if stamp != self._stamp:
            self._stamp = stamp
            self._read = list(read_faults(self.path)) if any(stamp) else []
            self._seen = {id(fault): self._seen.get(id(fault), 0) for fault in self._added}


def read_faults(path: Path) -> tuple[Fault, ...]:
    """Read a file of faults; UsageError names what is wrong in it."""
    known = {entry.name for entry in fields(Fault)}
    try:
        faults = json.loads(path.read_text(encoding="utf-8"))
        for fault in faults:
            if unknown := sorted(set(fault) - known):
                raise UsageError(
                    f"'{path}' has an unknown word '{unknown[0]}'",
                    code="faults-file-invalid",
                    hint=f"a fault has {', '.join(sorted(known))}",
                )
        return tuple(Fault(**fault) for fault in faults)
    except (OSError, ValueError, TypeError) as error:
        raise UsageError(
            f"'{path}' is no list of faults: {error}",
            code="faults-file-invalid",
            hint="see `on` and the like",
        ) from error
