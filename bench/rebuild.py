"""A second build of sample_project with nothing changed: seconds beyond the interpreter's start.

python bench/rebuild.py [--json FILE] [--times N]
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SAMPLE = Path(__file__).parent.parent / "sample_project"


def seconds(*words: str | Path, cache: Path) -> float:
    """Run a command that has to succeed and return its seconds."""
    env = {**os.environ, "OFFLINE_KIT_CACHE": str(cache)}
    start = time.perf_counter()
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=env)
    if done.returncode:
        sys.exit(f"it failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return time.perf_counter() - start


def measure(project: Path, times: int) -> dict[str, float]:
    """Build once with an empty cache, then again and again."""
    cache = project.parent / "cache"
    build = (sys.executable, "-m", "offline_kit", "build", project, "--quiet")
    first = seconds(*build, cache=cache)
    again = [seconds(*build, cache=cache) for _ in range(times)]
    start = [seconds(sys.executable, "-c", "pass", cache=cache) for _ in range(times)]
    second, interpreter = statistics.median(again), statistics.median(start)
    return {
        "first_build": first,
        "second_build": second,
        "interpreter_start": interpreter,
        "beyond_start": second - interpreter,
        "ratio": first / second,
    }


def main() -> None:
    """Measure on a copy of the sample and print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="write the figures there as well")
    parser.add_argument("--times", type=int, default=5, help="builds to take the median of")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        copy = shutil.copytree(SAMPLE, Path(folder) / "sample", ignore=shutil.ignore_patterns("dist"))
        facts = measure(copy, chosen.times)
    for name, value in facts.items():
        print(f"{name:<20}{value:>8.2f}{'' if name == 'ratio' else ' s'}")
    if chosen.json:
        chosen.json.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
