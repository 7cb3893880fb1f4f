"""A kit to a local Kaggle beside the plain client (and kagglehub, where it is installed).

python bench/upload.py [--files 200] [--latency 0.1] [--megabytes 1024] [--json FILE]

Two cases: many small files where every request takes its time, and one large file on a fast line. All
clients are processes of their own, from start to end; ours also hashes every byte and waits until a
download shows the new kit, which the others do not.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from offline_kit.local_kaggle.faults import Fault
from offline_kit.local_kaggle.settings import LocalKaggleSettings
from tests.support.local_kaggle import Bench, serving
from tests.support.pushing import make_kit

AT_ONCE = LocalKaggleSettings(visible_after=0.0, processing=0.0)
KAGGLEHUB = "import sys, kagglehub; kagglehub.dataset_upload('alice/plain-hub', sys.argv[1])"


def seconds(*words: str | Path, env: Mapping[str, str]) -> float:
    """Run a command that has to succeed and return its seconds."""
    start = time.perf_counter()
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=dict(env))
    if done.returncode:
        sys.exit(f"it failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return time.perf_counter() - start


def files_of(count: int, size: int) -> dict[str, bytes]:
    """Return so many files of random bytes."""
    return {f"packages/file{n}.bin": os.urandom(size) for n in range(count)}


def measure(bench: Bench, files: Mapping[str, bytes]) -> dict[str, float]:
    """Upload the same files with each client."""
    project = bench.folder / "project"
    make_kit(project / "dist" / "offline-kit", files)
    (project / "offline-kit.toml").write_text('dataset = "bench-kit"\n')
    ours = {**os.environ, "HOME": str(bench.folder), "OFFLINE_KIT_CACHE": str(bench.folder / "cache")}
    push = ("push", "--data-only", "--no-build", "--to", "local", "--at", bench.server.url, project)
    facts = {"offline_kit": seconds(sys.executable, "-m", "offline_kit", *push, env=ours)}
    flat = bench.dataset({Path(name).name: data for name, data in files.items()}, "flat")
    plain = ("datasets", "create", "-p", flat, "--quiet")
    facts["kaggle"] = seconds(sys.executable, "-m", "kaggle.cli", *plain, env=bench.environment())
    if importlib.util.find_spec("kagglehub"):
        facts["kagglehub"] = seconds(sys.executable, "-c", KAGGLEHUB, flat, env=bench.environment())
    return facts | {f"ratio_{name}": value / facts["offline_kit"] for name, value in facts.items()}


def case(files: Mapping[str, bytes], latency: float) -> dict[str, float]:
    """Measure one case before a server of its own."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, serving(Path(folder), AT_ONCE) as bench:
        bench.kaggle.accounts.add_account("local", key="local-kaggle")
        if latency:
            bench.kaggle.faults.add_fault(Fault(on="*", delay=latency, times=0))
        return measure(bench, files)


def main() -> None:
    """Measure both cases and print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", type=int, default=200, help="how many small files (10 kB)")
    parser.add_argument("--latency", type=float, default=0.1, help="seconds that each request takes")
    parser.add_argument("--megabytes", type=int, default=1024, help="size of the large file; 0 for none")
    parser.add_argument("--json", type=Path, help="write the figures there as well")
    chosen = parser.parse_args()
    facts = {"small": case(files_of(chosen.files, 10_000), chosen.latency)}
    if chosen.megabytes:
        facts["large"] = case(files_of(1, chosen.megabytes << 20), 0.0)
    for name, figures in facts.items():
        print(name)
        for client, value in figures.items():
            print(f"  {client:<18}{value:>8.2f}{'' if client.startswith('ratio') else ' s'}")
    if chosen.json:
        chosen.json.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
