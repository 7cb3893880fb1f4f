"""A scoring run on one machine: the notebook with the re-run variable set, and the gateway in a process of its own.

A rehearsal lays a copy of this file into its sandbox and starts it there with the kernel's Python:

    driver.py FOLDER ROOT PARAMS COMMAND...   runs COMMAND, the notebook, against a gateway that works in FOLDER
    driver.py --gateway ROOT PARAMS           is that gateway: the competition's own, or the stand-in for it

ROOT is the competition's data; PARAMS a JSON object with "data_paths" (names below it), "server" and "gateway"
("module:Class"), as far as the configuration has them. Nothing but the standard library and the runtime is needed.
Ends with 0 where the gateway was content.
"""

import csv
import inspect
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from offline_kit.notebook.runtime.kit_server import (
    GATEWAY,
    SERVER,
    find_data_paths,
    find_server_package,
    load_class,
)

RERUN = "KAGGLE_IS_COMPETITION_RERUN"
BACKWARDS = "KAGGLE_EVALUATION_STANDIN_BACKWARDS"
"""Our own gateway sends the batches in the opposite order of that in the notebook's process."""
OUTCOME, LOG = "outcome.json", "log.txt"
TABLE_SUFFIX = ".csv"
"""Behind the name of a parquet file: the same as CSV, for whoever has no library for it."""
FIRST_SUBMISSION = "of-one-process.parquet"
"""Beside this file: what the run in one process has written, to be made a CSV of as well."""
GRACE = 15
"""Seconds for a process to end by itself."""


def main(words: Sequence[str]) -> int:
    """Run one of the two sides; returns the exit code."""
    if words[0] == "--gateway":
        run_gateway(Path(words[1]), json.loads(words[2]))
        return 0
    return run_scoring(Path(words[0]), words[1:3], words[3:])


def run_scoring(folder: Path, data: Sequence[str], command: Sequence[str]) -> int:
    """Run notebook and gateway side by side until one of the two ends, and write down how."""
    folder.mkdir(parents=True, exist_ok=True)
    # Not the variable for the gateway: its errors shall come out as they are, and it asks this machine, not another.
    gateway_variables = {name: value for name, value in os.environ.items() if name != RERUN} | {
        BACKWARDS: "1"
    }
    started = time.monotonic()
    notebook = subprocess.Popen(command, env={**os.environ, RERUN: "1"})
    with (folder / LOG).open("wb") as log:
        words = [sys.executable, __file__, "--gateway", *data]
        gateway = subprocess.Popen(words, cwd=folder, env=gateway_variables, stdout=log, stderr=log)
        while notebook.poll() is None and gateway.poll() is None:
            time.sleep(0.1)
        first = "notebook" if gateway.poll() is None else "gateway"
        # A notebook that failed has nothing to serve with any more; a server may end a moment before its gateway.
        _end_process(gateway, patience=0 if notebook.returncode else GRACE)
        _end_process(notebook, patience=1)
    outcome = {"first": first, "gateway": gateway.returncode, "notebook": notebook.returncode}
    outcome["seconds"] = f"{time.monotonic() - started:.2f}"
    (folder / OUTCOME).write_text(json.dumps(outcome), encoding="utf-8")
    if first == "notebook" and notebook.returncode > 0:
        return notebook.returncode
    return 0 if gateway.returncode == 0 else 1


def _end_process(process: "subprocess.Popen[bytes]", *, patience: float) -> None:
    """Wait so long for a process to end by itself, then end it."""
    for seconds, harder in ((patience, process.terminate), (GRACE, process.kill)):
        try:
            process.wait(seconds)
            return
        except subprocess.TimeoutExpired:
            harder()
    process.wait()


def run_gateway(root: Path, params: Mapping[str, Any]) -> None:
    """Be the gateway: find its class in the competition's package and run it."""
    gateway = make_gateway(root, params)
    print(f"gateway: {type(gateway).__name__} of {type(gateway).__module__}", flush=True)  # noqa: T201
    gateway.run()
    first_submission = Path(__file__).with_name(FIRST_SUBMISSION)
    for path in (*Path.cwd().glob("*.parquet"), *([first_submission] if first_submission.is_file() else [])):
        convert_to_csv(path, Path.cwd() / f"{path.name}{TABLE_SUFFIX}")


def make_gateway(root: Path, params: Mapping[str, Any]) -> Any:
    """Return the competition's gateway for this data, constructed as its own server does for a local test."""
    package, paths = find_server_package(root), find_data_paths(root, params.get("data_paths", ()))
    if not params.get("gateway"):
        server = load_class(package, SERVER, str(params.get("server", "")))
        if hasattr(server, "_get_gateway_for_test"):
            # Hosts write this method for `run_local_gateway`; it uses nothing of the server, which is not started.
            make = server.__new__(server)._get_gateway_for_test
            return make(*_match_parameter(make, paths))
    gateway = load_class(package, GATEWAY, str(params.get("gateway", "")))
    return gateway(*_match_parameter(gateway, paths))


def _match_parameter(function: Any, paths: tuple[str, ...] | None) -> list[Any]:
    """Return the paths as the first parameter wants them, a tuple or (named in the singular) a single one."""
    names = list(inspect.signature(function).parameters)
    if not names:
        return []
    single = names[0] in ("data_path", "path", "folder", "data_dir", "root")
    return [paths[0] if paths and single else paths]


def convert_to_csv(path: Path, target: Path) -> None:
    """Write a parquet file's rows as CSV, with the library that has written it; without any, or of a strange one, nothing."""
    for read in (_read_with_polars, _read_with_pandas):
        try:
            head, rows = read(path)
        except Exception as error:  # noqa: BLE001 - it is only looked at: its gateway was content
            sys.stderr.write(f"{path.name} was not read: {type(error).__name__}: {error}\n")
            continue
        with target.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow(head)
            writer.writerows(rows)
        return


def _read_with_polars(path: Path) -> tuple[Sequence[str], Iterable[Sequence[Any]]]:
    import polars as pl

    table = pl.read_parquet(path)
    return table.columns, table.iter_rows()


def _read_with_pandas(path: Path) -> tuple[Sequence[str], Iterable[Sequence[Any]]]:
    import pandas as pd

    table = pd.read_parquet(path)
    return list(table.columns), table.itertuples(index=False, name=None)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
