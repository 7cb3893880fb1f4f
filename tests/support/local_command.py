"""Shared by tests: the command that serves a local Kaggle."""

import base64
import itertools
import json
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from offline_kit.workflow.kaggle_session import KEY, USER


@dataclass
class Served:
    """A local Kaggle that `offline-kit local` serves."""

    told: dict[str, Any]
    said: str = ""
    code: int | None = None

    def rpc(self, method: str, user: str = USER, /, **body: Any) -> dict[str, Any]:
        """Call it as an account, the one that is always there unless told otherwise."""
        secret = base64.b64encode(f"{user}:{KEY}".encode()).decode()
        request = urllib.request.Request(
            f"{self.told['url']}/api/v1/{method}",
            data=json.dumps(body).encode(),
            headers={"Authorization": f"Basic {secret}"},
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            return dict(json.load(answer))


@contextmanager
def command(folder: Path, *words: str | Path) -> Iterator[Served]:
    """Serve by the command, and interrupt it at the end."""
    whole = ["local", "--json", "--port", "0", "--state", folder / "state", *words]
    process = subprocess.Popen(
        [sys.executable, "-m", "offline_kit", *map(str, whole)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    served = Served({})
    try:
        assert process.stdout
        lines = list(
            itertools.takewhile(lambda line: line and line != "}\n", iter(process.stdout.readline, ""))
        )
        assert lines, process.communicate(timeout=20)
        served.told = json.loads("".join(lines) + "}")
        yield served
    finally:
        process.terminate()
        _, served.said = process.communicate(timeout=20)
        served.code = process.returncode
