"""Replays of recorded parts in processes of their own, with session folders below a test's folder."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support.recordings import RecordedPart

NETWORK = ("PIP_", "UV_", "GIT_CONFIG_")
"""Variables of the machine that runs the tests, and not of a notebook."""
MOUNT = "notebooks/owner/recorder"
_REPLAY = """
import json, subprocess, sys
arguments = json.loads(sys.argv[1])
sys.path.insert(0, arguments["part"])
import offline_kit_runtime
PARTS = {{"recording": arguments["id"]}}
offline_kit_runtime.open_recorded(PARTS{extra})
print(json.dumps(["PARTS" in globals()]))
for line in arguments["lines"]:
    ran = subprocess.run(line, shell=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    print(json.dumps([line, ran.returncode, ran.stdout]))
"""


@dataclass(frozen=True, kw_only=True)
class Replay:
    """A finished replay: what the setup printed, and the output of each line that the shell ran."""

    folder: Path
    setup: str
    outputs: tuple[str, ...]
    codes: tuple[int, ...]

    @property
    def misses(self) -> list[tuple[str, str]]:
        """Kind and name of everything that the recording lacked."""
        path = self.folder / "out" / "misses.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [(line["kind"], line["what"]) for line in lines]

    @property
    def versions(self) -> dict[str, str]:
        """Versions of the recorded packages, as the setup found them."""
        versions: dict[str, str] = json.loads((self.folder / "out" / "replay.json").read_text())["packages"]
        return versions


def session_env(folder: Path) -> dict[str, str]:
    """Return the environment of a process whose session folders and home lie below a folder."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(NETWORK)}
    for name in ("input", "working", "scratch"):
        env[f"OFFLINE_KIT_{name.upper()}"] = str(folder / name)
    for name in ("working", "home", "out"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    git = {"GIT_CONFIG_NOSYSTEM": "1", "GIT_TERMINAL_PROMPT": "0"}
    return env | git | {"HOME": str(folder / "home"), "OFFLINE_KIT_MISSES": str(folder / "out/misses.jsonl")}


def replay_lines(
    part: RecordedPart,
    folder: Path,
    lines: Sequence[str] = (),
    *,
    mount: str = MOUNT,
    python: str | Path = sys.executable,
    extra: str = "",
    env: Mapping[str, str] | None = None,
) -> Replay:
    """Mount a part below `folder`, open it as a notebook's setup does, and run lines as `!line` of its cells."""
    part_folder = folder / "input" / mount
    manifest = part_folder / "offline-kit.json"  # exists at a second replay
    part_id = json.loads(manifest.read_text())["id"] if manifest.exists() else part.mount(part_folder)
    arguments = json.dumps({"part": str(part_folder), "id": part_id, "lines": list(lines)})
    completed = subprocess.run(
        [str(python), "-c", _REPLAY.format(extra=extra), arguments],
        cwd=session_env(folder)["OFFLINE_KIT_WORKING"],
        env={**session_env(folder), **(env or {})},
        capture_output=True,
        text=True,
        check=False,
    )
    assert completed.returncode == 0, completed.stdout + completed.stderr
    setup, _, results = completed.stdout.partition("[false]\n")
    ran = [json.loads(line) for line in results.splitlines()]
    outputs, codes = tuple(output for _, _, output in ran), tuple(code for _, code, _ in ran)
    return Replay(folder=folder, setup=setup, outputs=outputs, codes=codes)
