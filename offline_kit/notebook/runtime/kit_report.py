"""Write what a run was, when it ends: a file of its output, which `offline-kit verify` compares with the rehearsal."""

import atexit
import importlib
import json
import os
import platform
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from .kit_capture import PROVENANCE_VARIABLES, hash_packages, list_packages
from .kit_runtime import SessionFolders, in_scoring_run

REPORT = "offline_kit_report.json"
_facts: dict[str, Any] = {}


def report_at_end(folders: SessionFolders, facts: Mapping[str, Any], path: Sequence[str]) -> None:
    """Write these facts, and what is known of the session, when the process ends; `path` is sys.path of the image.

    Not before: cells list and pack the working folder. Kaggle's scoring run takes the submission alone and shows no
    output: there nothing is written.
    """
    if in_scoring_run() or not folders.working.is_dir():
        return
    if not _facts:  # the cell may run again
        atexit.register(_write_report, (folders.working / REPORT).absolute(), os.getpid(), time.time())
    variables = {name: os.environ[name] for name in PROVENANCE_VARIABLES if name in os.environ}
    packages = hash_packages(list_packages(path))
    _facts.update(facts, python=platform.python_version(), packages_hash=packages, environment=variables)


def add_fact(key: str, line: str) -> None:
    """Add a line to a list of the report."""
    _facts.setdefault(key, []).append(line)


def _write_report(path: Path, process: int, began: float) -> None:
    if os.getpid() != process:  # a child that was forked
        return
    with suppress(OSError, ImportError):  # a full disk, or a system without this module
        resource: Any = importlib.import_module("resource")
        sides = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        memory = 1024 * max(resource.getrusage(side).ru_maxrss for side in sides)
        measured = {
            "seconds": round(time.time() - began, 1),
            "peak_memory": memory,
            "memory_by": "largest process",
        }
        path.write_text(json.dumps({"format": 1, **_facts, **measured}, indent=1) + "\n", encoding="utf-8")
