"""The forecast against the truth: a project with a fixed and a per-row cost, forecast from 40 and 400 rows, run at 4,000.

    python bench/forecast.py [--wait] [--keep DIR]      needs a sandbox and an idle machine; takes some minutes

On a busy machine, where the same work takes twice as long a minute later, --wait lets the project wait instead of compute.
Prints the ratio of forecast to truth for time and peak memory: 1.00 is right. The work is computing and memory that stays,
besides the start of a kernel and what every notebook of ours does.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

FEW, MANY = 40, 4000  # the hidden run has ten times the rows of the first
CONFIG = """competition = "rows"
competition_data = "input"
accelerator = "none"

[notebook]
template = "function"
function = "predict.py:predict"
"""
PREDICT = '''"""Load something, then work on each row."""

import hashlib
import time

WAIT = False
LOAD, EACH = 2_500, 15  # MB to hash: some seconds, and some milliseconds for a row
HELD = 150_000  # bytes of a row


def work(megabytes):
    if WAIT:
        return time.sleep(megabytes / 1_500)
    block, digest = bytes(1_000_000), hashlib.sha256()
    for _ in range(megabytes):
        digest.update(block)
    return digest.hexdigest()


def predict(context):
    model = bytearray(b"1" * 200_000_000)
    work(LOAD)
    ids = (context.input / "sample_submission.csv").read_text().split()[1:]
    held, rows = [model], []
    for number, line in enumerate(ids):
        held.append(bytearray(b"1" * HELD))
        rows.append({"id": line.partition(",")[0], "label": number % 7 / 7})
        work(EACH)
    return rows
'''


def make_project(folder: Path, *, waits: bool) -> Path:
    """Write the project and its data."""
    (folder / "input").mkdir(parents=True)
    (folder / "offline-kit.toml").write_text(CONFIG)
    (folder / "predict.py").write_text(PREDICT.replace("WAIT = False", f"WAIT = {waits}"))
    ids = [f"plant{number:05}" for number in range(MANY)]
    (folder / "input" / "test.csv").write_text("id,x\n" + "".join(f"{name},1.5\n" for name in ids))
    sample = "id,label\n" + "".join(f"{name},0.5\n" for name in ids)
    (folder / "input" / "sample_submission.csv").write_text(sample)
    return folder


def rehearse(project: Path, *words: str) -> dict[str, Any]:
    """Return what a rehearsal printed with --json."""
    command = [sys.executable, "-m", "offline_kit", "rehearse", "--env", "current", "--json", "--yes", *words]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr[-4000:]}")
    return dict(json.loads(done.stdout)["rehearsal"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--wait", action="store_true", help="wait instead of computing")
    parser.add_argument("--keep", type=Path, help="folder of the project, kept")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        project = make_project(options.keep or Path(scratch, "project"), waits=options.wait)
        load = os.getloadavg()[0]
        small = rehearse(project, "--rows", str(FEW), "--hidden", "auto", "--hidden-rows", str(MANY))
        large = rehearse(project, "--rows", str(MANY), "--no-build")
    forecast = small["forecast"]
    print(f"load before: {load:.1f} on {os.cpu_count()} cores; {forecast['summary']}")
    for name, unit, truth in (
        ("seconds", 1, large["seconds"]),
        ("memory", 10**6, large["peak_memory"]),
    ):
        value, margin = forecast[name]["value"], forecast[name]["margin"]
        print(
            f"{name:8} {value / unit:8.1f} ± {margin / unit:.1f}, truth {truth / unit:8.1f}, ratio {value / truth:.2f}"
        )


if __name__ == "__main__":
    main()
