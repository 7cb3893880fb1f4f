"""Record the run of a notebook or script with the internet on: watch its cells, and pack at the end what it fetched.

The recorder's notebook calls `start_recording` in a cell on top and `finish_recording` in one at the bottom. A cell
that fails ends the recording, because papermill then ends the kernel; what was recorded until then is packed.
"""

import atexit
import os
import shutil
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .kit_hooking import activate_hooks, install_hooks
from .kit_packages import PackageRecorder
from .kit_packing import RecordedSession, lay_out_project, pack_session
from .kit_recording import CELL, RECORDER, count_cells, import_from_working, redact, redirect_caches
from .kit_repositories import RepositoryRecorder
from .kit_runtime import KitError, SessionFolders

_INTERVAL = 1.0  # seconds between two measurements of memory
_recorders: "list[SessionRecorder]" = []  # the recorder of this process, if there is one


def start_recording(
    source: Mapping[str, Any],
    where: str,
    pack_inputs: Sequence[str] = (),
    beside: str = "",
    tool_version: str = "",
    lacking: Sequence[str] = (),
) -> None:
    """Record this session from now on; nothing in a child process of a recorded one.

    `source` has "name", "sha256", "cells" (numbers of the cells that run, in order; none for a script) and may have
    "may_fail" (those whose error does not end the run). `where` is "here", "kaggle" or "local". `pack_inputs` names
    folders below the inputs, each packed whole if it is used; `beside` is the folder of the project's files, of which
    those that are used are packed; `lacking` names the packages of this session that Kaggle's image lacks.
    """
    # A process of multiprocessing runs the top of a script once more.
    if RECORDER not in os.environ:
        recorder = SessionRecorder(
            RecordedSession(dict(source), where, tuple(pack_inputs), beside, tool_version, tuple(lacking))
        )
        _recorders.append(recorder)
        recorder.start()


def finish_recording() -> None:
    """Pack the recording into the working folder as a part of a kit; raises KitError if it is too large for it."""
    for recorder in _recorders:
        recorder.finish()


class SessionRecorder:
    """Watches the cells of a session: time, memory, and what must be looked at before the next cell changes it."""

    def __init__(self, session: RecordedSession) -> None:
        self.session, self.running, self.process = session, False, os.getpid()
        self.scratch = SessionFolders().scratch
        self.folder = self.scratch / "recorder"
        self.memory = MemoryWatch()
        self.began = time.perf_counter()

    def start(self) -> None:
        """Set the variables, install the hooks, and watch from the next cell on."""
        shutil.rmtree(self.folder, ignore_errors=True)
        for name in ("git", "pip"):
            (self.folder / name).mkdir(parents=True)
        # Beside the caches of hubs, which are packed.
        installers = {
            f"{name.upper()}_CACHE_DIR": str(self.scratch / "installers" / name) for name in ("pip", "uv")
        }
        plain_environ = {**os.environ, **installers}
        os.environ |= {
            **installers,
            RECORDER: str(self.folder),
            CELL: "0",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "HF_HUB_DISABLE_XET": "1",  # its downloads do not go through http.client
            # A file for each git process (https://git-scm.com/docs/api-trace2), addresses with their credentials, because
            # the repositories are cloned once more.
            "GIT_TRACE2_EVENT": str(self.folder / "git"),
            "GIT_TRACE2_REDACT": "0",
        }
        redirect_caches()
        lay_out_project(self.session.beside, SessionFolders().working)
        import_from_working()
        install_hooks(self.scratch)
        activate_hooks()
        self.packages = PackageRecorder(self.folder, plain_environ, self.session.lacking)
        self.repositories = RepositoryRecorder(self.folder, plain_environ)
        self.running = True
        self.memory.start()
        if not count_cells(self.session.source["cells"], self._end_cell, self._begin_cell):
            atexit.register(self._finish_script)

    def _begin_cell(self, info: Any) -> None:
        self.session.code.append(info.raw_cell)
        self.memory.take_peak()
        self.began = time.perf_counter()

    def _end_cell(self, result: Any) -> None:
        # The first cell that ends is the one that started the recording; the last one finishes it.
        if not (self.running and self.session.code):
            return
        self._note_cell()
        error = result.error_before_exec or result.error_in_exec
        if error is not None and int(os.environ[CELL]) not in self.session.source.get("may_fail", ()):
            self._fail(error)
            self.finish()

    def _note_cell(self) -> None:
        cell, seconds = int(os.environ[CELL]), round(time.perf_counter() - self.began, 1)
        memory = self.memory.take_peak()
        self.session.cells.append({"cell": cell, "seconds": seconds, "memory": memory})
        self.packages.note_changes(cell)
        self.repositories.record_new(cell)
        if cell:
            print(f"recording: cell {cell} took {seconds} s, {memory / 1e9:.1f} GB of memory", flush=True)

    def _fail(self, error: BaseException) -> None:
        message = redact(f"{type(error).__name__}: {error}")[:2000]
        self.session.error = {"cell": int(os.environ[CELL]), "message": message}

    def _finish_script(self) -> None:
        try:
            if error := getattr(sys, "last_value", None):  # what has just ended the script
                self._fail(error)
            self.finish()
        except KitError as error:
            # Python ignores what is raised at exit, and would report success.
            print(error.to_json(), error, sep="\n", flush=True)
            os._exit(1)

    def finish(self) -> None:
        """Pack the recording, once; a forked process leaves that to its parent."""
        if not self.running or os.getpid() != self.process:
            return
        self.running = False
        if not self.session.source["cells"]:
            self._note_cell()
        os.environ[CELL] = "0"
        pack_session(self.session, self.packages, self.repositories)


class MemoryWatch(threading.Thread):
    """Measures the memory of this process and its descendants every second."""

    def __init__(self) -> None:
        super().__init__(name="offline-kit memory", daemon=True)
        self.peak = 0

    def run(self) -> None:
        """Measure until the process ends."""
        while True:
            self.peak = max(self.peak, measure_memory())
            time.sleep(_INTERVAL)

    def take_peak(self) -> int:
        """Return the largest number of bytes since the last call."""
        peak, self.peak = max(self.peak, measure_memory()), 0
        return peak


def measure_memory() -> int:
    """Return how many bytes this process and its descendants hold, shared pages once; 0 where there is no /proc."""
    parents, pages = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            # The second field, the program's name, may contain spaces and parentheses (man 5 proc).
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            resident, shared = map(int, (folder / "statm").read_text().split()[1:3])
        except (OSError, ValueError):
            continue  # it has ended
        pages[int(folder.name)] = resident if int(folder.name) == os.getpid() else resident - shared
    family = [os.getpid()]
    for process in family:
        family += [child for child, parent in parents.items() if parent == process]
    return sum(pages.get(process, 0) for process in family) * (os.sysconf("SC_PAGE_SIZE") if pages else 0)
