"""Imitate a scoring run: start the notebook with the re-run variable set, and the gateway in its own process.

A rehearsal copies this file into its sandbox and starts it there with the kernel's Python:

    driver.py FOLDER ROOT PARAMS COMMAND...   runs COMMAND, the notebook, with a gateway that works in FOLDER
    driver.py --gateway ROOT PARAMS           runs that gateway: the competition's own, or the stand-in

ROOT is the competition's data; PARAMS a JSON object with "data_paths" (names below it), "server" and "gateway"
("module:Class"), as far as they are configured. It needs only the standard library and the runtime.
The exit code is 0 if the gateway succeeded.
"""

import csv
import importlib
import inspect
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
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
BACKWARDS = "KAGGLE_EVALUATION_STANDIN_BACKWARDS"  # makes our own gateway send the batches in reverse
OUTCOME, LOG = "outcome.json", "log.txt"
TABLE_SUFFIX = ".csv"  # appended to the name of a parquet file for its copy as CSV
FIRST_SUBMISSION = "of-one-process.parquet"
"""Submission of the first run, next to this file, to convert to CSV as well."""
GRACE = 15  # seconds to wait for a process to end


def main(words: Sequence[str]) -> int:
    """Run the notebook and its gateway, or the gateway alone; return the exit code."""
    if words[0] != "--gateway":
        return run_scoring(Path(words[0]), words[1:3], words[3:])
    gateway = make_gateway(Path(words[1]), json.loads(words[2]))
    print(f"gateway: {type(gateway).__name__} of {type(gateway).__module__}", flush=True)  # noqa: T201
    gateway.run()
    first_submission = Path(__file__).with_name(FIRST_SUBMISSION)
    for path in (*Path.cwd().glob("*.parquet"), *([first_submission] if first_submission.is_file() else [])):
        convert_to_csv(path, Path.cwd() / f"{path.name}{TABLE_SUFFIX}")
    return 0


def run_scoring(folder: Path, data: Sequence[str], command: Sequence[str]) -> int:
    """Run notebook and gateway until one of them ends, and write how to OUTCOME."""
    folder.mkdir(parents=True, exist_ok=True)
    # Without the variable: with it, kaggle_evaluation hides errors and expects the server on another machine.
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
        # A failed notebook leaves no server for the gateway; a server may end a moment before its gateway.
        _end_process(gateway, patience=0 if notebook.returncode else GRACE)
        _end_process(notebook, patience=1)
    outcome = {"first": first, "gateway": gateway.returncode, "notebook": notebook.returncode}
    outcome["seconds"] = f"{time.monotonic() - started:.2f}"
    (folder / OUTCOME).write_text(json.dumps(outcome), encoding="utf-8")
    if first == "notebook" and notebook.returncode > 0:
        return notebook.returncode
    return 0 if gateway.returncode == 0 else 1


def _end_process(process: "subprocess.Popen[bytes]", *, patience: float) -> None:
    """Wait for a process to end, then terminate it, then kill it."""
    for seconds, harder in ((patience, process.terminate), (GRACE, process.kill)):
        try:
            process.wait(seconds)
            return
        except subprocess.TimeoutExpired:
            harder()
    process.wait()


def make_gateway(root: Path, params: Mapping[str, Any]) -> Any:
    """Return the competition's gateway for this data, constructed as its server does for a local test."""
    package, paths = find_server_package(root), find_data_paths(root, params.get("data_paths", ()))
    make: Any = None
    if not params.get("gateway"):
        server = load_class(package, SERVER, str(params.get("server", "")))
        if hasattr(server, "_get_gateway_for_test"):
            # Hosts write this method for `run_local_gateway`; it does not use the server, so none is started.
            make = server.__new__(server)._get_gateway_for_test
    make = make or load_class(package, GATEWAY, str(params.get("gateway", "")))
    # It takes the paths as a tuple, or one path if the parameter's name is singular.
    names = list(inspect.signature(make).parameters)
    if not names:
        return make()
    single = names[0] in ("data_path", "path", "folder", "data_dir", "root")
    return make(paths[0] if paths and single else paths)


def convert_to_csv(path: Path, target: Path) -> None:
    """Convert a parquet file to CSV with polars or pandas; write nothing if neither can read it."""
    for library in ("polars", "pandas"):
        try:
            table = importlib.import_module(library).read_parquet(path)
            rows = table.iter_rows() if library == "polars" else table.itertuples(index=False, name=None)
        except Exception as error:  # noqa: BLE001 - the copy is optional: the gateway accepted the file
            sys.stderr.write(f"cannot read {path.name}: {type(error).__name__}: {error}\n")
            continue
        with target.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow(table.columns)
            writer.writerows(rows)
        return


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
