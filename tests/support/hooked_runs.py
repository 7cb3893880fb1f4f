"""A run with the hooks of the runtime: recorded by a process, then replayed by another from what the first has written."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_DRIVER = """
from pathlib import Path
from offline_kit.notebook.runtime import kit_hooking
kit_hooking.install_hooks(Path({scratch!r}))
kit_hooking.activate_hooks()
exec(Path({code!r}).read_text())
"""
_FINISH = """
import json, os
from pathlib import Path
from offline_kit.notebook.runtime import kit_recording
events = kit_recording.read_events(Path(os.environ["OFFLINE_KIT_RECORDER"]))
document = {kind: [event for event in events if event["event"] == kind.removesuffix("s")] for kind in ("urls", "commands")}
part = Path({part!r})
part.mkdir()
digests = [url["sha256"] for url in document["urls"]]
digests += [file["sha256"] for command in document["commands"] for file in command["changed"]]
digests += [command["output"] for command in document["commands"] if command["output"]]
kit_recording.write_objects(digests, part)
(part / "recording.json").write_text(json.dumps(document))
"""


@dataclass(frozen=True)
class HookedRun:
    """The folders of a run, and the variables that it starts with."""

    folder: Path
    variables: Mapping[str, str]

    def record(self, code: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run code while it is recorded, and write the recording."""
        recorder = self.folder / "scratch" / "recorder"
        (recorder / "pip").mkdir(parents=True, exist_ok=True)  # reports of pip, as kit_recorder has them
        mode = {"OFFLINE_KIT_RECORDER": str(recorder), **self.variables}
        done = self._run(code, "scratch", mode | variables)
        self._python(
            _FINISH.replace("{part!r}", repr(str(self.folder / "part"))), "scratch", mode, check=True
        )
        return done

    def replay(self, code: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run code on the recording in fresh folders; its variables know no server."""
        mode = {name: value for name, value in self.variables.items() if not name.lower().endswith("proxy")}
        mode |= {"OFFLINE_KIT_REPLAY": str(self.folder / "part"), "OFFLINE_KIT_MISSES": str(self.misses)}
        shutil.rmtree(self.folder / "working")
        return self._run(code, "replayed", mode | variables)

    @property
    def misses(self) -> Path:
        """Return the file with what a replay lacked."""
        return self.folder / "misses.jsonl"

    def events(self, kind: str) -> list[dict[str, Any]]:
        """Return the recorded events of a kind."""
        path = self.folder / "scratch" / "recorder" / "events.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [event for line in lines if (event := json.loads(line))["event"] == kind]

    def _run(self, code: str, scratch: str, variables: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        source = self.folder / "code.py"
        source.write_text(code)
        driver = _DRIVER.format(scratch=str(self.folder / scratch), code=str(source))
        return self._python(driver, scratch, variables, check=False)

    def _python(
        self, code: str, scratch: str, variables: Mapping[str, str], *, check: bool
    ) -> subprocess.CompletedProcess[str]:
        folders = {
            "OFFLINE_KIT_SCRATCH": scratch,
            "OFFLINE_KIT_WORKING": "working",
            "OFFLINE_KIT_INPUT": "input",
        }
        folders |= {"HOME": "home", "TMPDIR": "tmp"}
        for name in folders.values():
            (self.folder / name).mkdir(exist_ok=True)
        environ = (
            os.environ | {name: str(self.folder / below) for name, below in folders.items()} | dict(variables)
        )
        words = [sys.executable, "-c", code]
        working = self.folder / "working"
        done = subprocess.run(
            words, env=environ, cwd=working, capture_output=True, text=True, stdin=subprocess.DEVNULL
        )
        if check and done.returncode:
            raise AssertionError(done.stderr)
        return done
