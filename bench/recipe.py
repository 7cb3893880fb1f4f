"""The hand recipe against ours, in one run: packages, bytes, freeze and download, restore.

    python bench/recipe.py [--json FILE] [--keep DIR]      needs Python 3.13, the internet, and 15 GB of disk

The hand recipe is the one of countless notebooks: `pip download -r requirements.txt` on Kaggle's Python, all of
it uploaded, `pip install --no-index --find-links` in the notebook. Ours is `offline-kit build`, and the install
cell of its notebook. Both start with empty caches and end offline.

What is compared, and what is not: the recipe is restored into an empty environment. Over Kaggle's image pip would
leave alone what is there in the wanted version; it would still have been downloaded and uploaded. Ours is restored
over the recipe's environment, from which the packages of our kit were removed before.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from offline_kit.core import interpreters

ROOT = Path(__file__).parent.parent
IMAGE = "kaggle-2026-10-cpu"
REQUIREMENTS = Path(__file__).parent / "vision.txt"


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One way of doing it."""

    way: str
    packages: int
    bytes: int
    prepare_seconds: float
    restore_seconds: float
    """Until all files are installed."""
    import_seconds: float
    """The first import of what our kit bundles, byte code and torch included; our notebook does it as proof."""


def run(*words: str | Path, env: dict[str, str] | None = None) -> float:
    """Run a command that has to succeed and return its seconds."""
    start = time.perf_counter()
    done = subprocess.run(words, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{words[0]} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return time.perf_counter() - start


def weigh(files: Sequence[Path]) -> int:
    """Return the bytes of some files."""
    return sum(path.stat().st_size for path in files)


IMPORTS = ("iterstrat", "segmentation_models_pytorch", "ttach")


def by_hand(work: Path, python: Path) -> tuple[Measured, Path]:
    """Download everything, install it from there into an empty environment."""
    wheels, env = work / "wheels", work / "env"
    run(python, "-m", "venv", env)
    pip = env / "bin" / "pip"
    prepare = run(pip, "download", "-q", "--no-cache-dir", "-r", REQUIREMENTS, "-d", wheels)
    offline = {**os.environ, "PIP_CONFIG_FILE": os.devnull, "PIP_FIND_LINKS": ""}
    restore = run(
        pip,
        "install",
        "-q",
        "--no-cache-dir",
        "--no-index",
        "--find-links",
        wheels,
        "-r",
        REQUIREMENTS,
        env=offline,
    )
    imports = run(env / "bin" / "python", "-c", f"import {', '.join(IMPORTS)}")
    files = list(wheels.iterdir())
    return Measured(
        way="pip download, pip install",
        packages=len(files),
        bytes=weigh(files),
        prepare_seconds=prepare,
        restore_seconds=restore,
        import_seconds=imports,
    ), env


RESTORE = """
import json, pathlib, sys, time
sys.path.append(sys.argv[1])
from offline_kit.notebook.runtime import kit_install, kit_runtime
dataset, scratch, installer = pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3]), sys.argv[4]
manifest = json.loads((dataset / kit_runtime.MARKER).read_text())
places = kit_runtime.SessionFolders(inputs=dataset.parent, working=scratch / "working", scratch=scratch / "scratch")
proof, proved = kit_install.check_imports, []
def timed(*words, **more):
    start = time.perf_counter()
    proof(*words, **more)
    proved.append(time.perf_counter() - start)
kit_install.check_imports = timed
start = time.perf_counter()
kit = kit_runtime.open_kit({manifest["part"]: manifest["id"]}, places)
kit_install.install_packages(kit, installer)
pathlib.Path(sys.argv[5]).write_text(json.dumps([time.perf_counter() - start - proved[0], proved[0]]))
"""


def by_us(work: Path, env: Path) -> list[Measured]:
    """Build the kit with empty caches, then run its notebook's install over the environment."""
    project, out = work / "project", work / "kit"
    project.mkdir()
    shutil.copy(REQUIREMENTS, project / "requirements.txt")
    (project / "predict.py").write_text("def predict(context):\n    return []\n")
    fresh = {**os.environ, "OFFLINE_KIT_CACHE": str(work / "cache"), "UV_CACHE_DIR": str(work / "uv-cache")}
    notebook = [
        "--template",
        "function",
        "--function",
        "predict.py:predict",
        "--module",
        project / "predict.py",
    ]
    words = ["build", project, "--image", IMAGE, "--dataset", "bench-kit", "--out", out, "--quiet", *notebook]
    prepare = run(sys.executable, "-m", "offline_kit", *words, env=fresh)
    files = [path for path in (out / "dataset").rglob("*") if path.is_file()]
    plan = json.loads((out / "dataset" / "packages" / "install.json").read_text())
    names = [item["name"] for item in plan["install"]]
    run(env / "bin" / "python", "-m", "pip", "uninstall", "-q", "-y", *names)
    measured = []
    for installer in ("pip", "uv"):
        scratch = work / f"restored-{installer}"
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        figures = work / f"figures-{installer}.json"
        run(
            env / "bin" / "python", "-c", RESTORE, ROOT, out / "dataset", scratch, installer, figures,
            env={**os.environ, "PATH": path, "UV_CACHE_DIR": str(scratch / "uv-cache")},
        )  # fmt: skip
        restored, imported = json.loads(figures.read_text())
        measured.append(
            Measured(
                way=f"offline-kit, {installer}",
                packages=len(names),
                bytes=weigh(files),
                prepare_seconds=prepare,
                restore_seconds=restored,
                import_seconds=imported,
            )
        )
    return measured


def ratios(hand: Measured, ours: Measured) -> dict[str, float]:
    """Return how many times less ours takes."""
    return {
        "packages": hand.packages / max(ours.packages, 1),
        "bytes": hand.bytes / ours.bytes,
        "prepare": hand.prepare_seconds / ours.prepare_seconds,
        "restore": hand.restore_seconds / ours.restore_seconds,
        "restore and import": (hand.restore_seconds + hand.import_seconds)
        / (ours.restore_seconds + ours.import_seconds),
    }


def show(rows: list[Measured]) -> None:
    """Print the table."""
    titles = ("packages", "MB", "freeze+download s", "restore s", "first import s")
    print(f"{'':<26}" + "".join(f"{title:>{len(title) + 6}}" for title in titles))
    for row in rows:
        seconds = (row.prepare_seconds, row.restore_seconds, row.import_seconds)
        values = (str(row.packages), f"{row.bytes / 1e6:.1f}", *(f"{value:.1f}" for value in seconds))
        line = (f"{value:>{len(title) + 6}}" for title, value in zip(titles, values, strict=True))
        print(f"{row.way:<26}" + "".join(line))
    for row in rows[1:]:
        said = ", ".join(f"{name} {value:.1f}x" for name, value in ratios(rows[0], row).items())
        print(f"ours with {row.way.split(', ')[1]}: fewer or faster by {said}")


def main() -> None:
    """Measure both ways and say how they compare."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="write the figures there as well")
    parser.add_argument("--keep", type=Path, help="work in this folder and leave it there")
    chosen = parser.parse_args()
    python = interpreters.find_interpreter("3.13", os.environ)
    if python is None:
        sys.exit("no Python 3.13 on this machine; `uv python install 3.13` brings one")
    work = chosen.keep or Path(tempfile.mkdtemp(prefix="bench-"))
    work.mkdir(parents=True, exist_ok=True)
    try:
        hand, env = by_hand(work, python)
        rows = [hand, *by_us(work, env)]
    finally:
        if not chosen.keep:
            shutil.rmtree(work)
    show(rows)
    if chosen.json:
        facts = {
            "image": IMAGE,
            "rows": [asdict(row) for row in rows],
            "ratios": [ratios(hand, row) for row in rows[1:]],
        }
        chosen.json.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
