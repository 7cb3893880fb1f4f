"""A local Kaggle with two accounts, and the unmodified `kaggle` program in a subprocess."""

import base64
import importlib.util
import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from offline_kit.core import processes
from offline_kit.local_kaggle.kernel_runs import NotebookRunner, RunJob
from offline_kit.local_kaggle.server import LocalKaggleServer
from offline_kit.local_kaggle.service import LocalKaggle
from offline_kit.local_kaggle.settings import LocalKaggleSettings
from tests.support.traffic import Traffic
from tests.support.warm_python import client_python

HASTY = LocalKaggleSettings(visible_after=0.05, processing=0.1, queued=0.05, scoring=0.05)
SLUG = "alice/my-offline-kit"
KERNEL = "alice/my-inference"
needs_client = pytest.mark.skipif(
    not importlib.util.find_spec("kaggle"), reason="the kaggle client is missing"
)


def client_environment(
    url: str, home: Path, *, username: str = "", key: str = "", token: str = ""
) -> dict[str, str]:
    """Return the whole environment of a process whose Kaggle client talks to the server at `url`.

    Nothing of the user's credentials is in it, and requests to any other host, kaggle.com too, end at the
    server, which refuses them. `home` should be an empty folder: the client reads and writes there.
    """
    env = {
        "KAGGLE_API_ENVIRONMENT": "LOCALHOST",
        "http_proxy": url,
        "https_proxy": url,
        "no_proxy": "",
        "HOME": str(home),
        "TMPDIR": str(home),
        "KAGGLE_CONFIG_DIR": str(home / ".kaggle"),
        "PYTHONUNBUFFERED": "1",
        "PYTHONUTF8": "1",
    }
    inherited = processes.copy_environment()
    env |= {name: inherited[name] for name in ("PATH", "LANG", "SYSTEMROOT") if name in inherited}
    client_settings = {"KAGGLE_USERNAME": username, "KAGGLE_KEY": key, "KAGGLE_API_TOKEN": token}
    return env | {name: value for name, value in client_settings.items() if value}


def launch_words(job: RunJob, before: str = "") -> list[str]:
    """Return the command that runs a notebook's cells, after the code `before`, or a script under Kaggle's name."""
    if job.is_script:
        path = job.folder / "kaggle/src/script.py"
        path.parent.mkdir(parents=True)
        path.write_text(job.notebook)
        return [sys.executable, "-u", str(path)]
    cells = json.loads(job.notebook)["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    # From a file: an argument has at most 128 kB on Linux (https://man7.org/linux/man-pages/man2/execve.2.html).
    path = job.folder / "cells.py"
    path.write_text(before + code)
    return [sys.executable, "-u", "-c", f"exec(compile(open({str(path)!r}).read(), 'cells.py', 'exec'))"]


def plainly(job: RunJob) -> str:
    """Run a notebook's cells in a bare subprocess; $INPUT is what a box would show as /kaggle/input."""
    output, shown = job.folder / "output", job.folder / "shown"
    output.mkdir()
    for place, folder in job.inputs:
        (shown / place).parent.mkdir(parents=True, exist_ok=True)
        (shown / place).symlink_to(folder)
    env = {"INPUT": str(shown), **({"KAGGLE_IS_COMPETITION_RERUN": "1"} if job.rerun else {})}
    words = launch_words(job)
    with subprocess.Popen(
        words, cwd=output, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout
        said = []
        for line in process.stdout:
            job.say(line)
            said.append(line)
    return said[-1].strip() if process.returncode else ""


def notebook(*cells: str) -> dict[str, Any]:
    """Return a notebook of code cells."""
    base: dict[str, Any] = {"cell_type": "code", "metadata": {}, "outputs": [], "execution_count": None}
    made = [{**base, "id": f"c{number}", "source": cell} for number, cell in enumerate(cells)]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    return {"nbformat": 4, "nbformat_minor": 5, "metadata": kernel, "cells": made}


@dataclass(frozen=True)
class Bench:
    """A running server and a place for its clients."""

    server: LocalKaggleServer
    folder: Path
    traffic: Traffic

    @property
    def kaggle(self) -> LocalKaggle:
        return self.server.kaggle

    def environment(self, user: str = "alice") -> dict[str, str]:
        home = self.folder / f"home-{user}"
        home.mkdir(exist_ok=True)
        return client_environment(self.server.url, home, username=user, key=f"key-of-{user}")

    def cli(
        self, *words: str | Path, user: str = "alice", env: Mapping[str, str | None] | None = None
    ) -> "subprocess.CompletedProcess[str]":
        """Run `kaggle WORDS` as a user; `env` changes its environment, None removes."""
        whole: dict[str, str | None] = {**self.environment(user), **(env or {})}
        return subprocess.run(
            [client_python(), "-m", "kaggle.cli", *map(str, words)],
            env={name: value for name, value in whole.items() if value is not None},
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=120,
        )

    def rpc(self, method: str, user: str = "alice", /, **body: Any) -> dict[str, Any]:
        """Call as the client's library does; the answer, or {"status_code": ..., **body} for an error."""
        secret = base64.b64encode(f"{user}:key-of-{user}".encode()).decode()
        services = {"Dataset": "datasets.DatasetApiService", "Kernel": "kernels.KernelsApiService"}
        services |= dict.fromkeys(("Submission", "Competition", "Data"), "competitions.CompetitionApiService")
        service = (
            method if "/" in method else f"{next(v for k, v in services.items() if k in method)}/{method}"
        )
        request = urllib.request.Request(
            f"{self.server.url}/api/v1/{service}",
            data=json.dumps(body).encode(),
            headers={"Authorization": f"Basic {secret}", "Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return dict(json.load(answer))
        except urllib.error.HTTPError as error:
            return {"status_code": error.code, **json.load(error)}

    def upload(self, files: Mapping[str, bytes], user: str = "alice") -> list[dict[str, str]]:
        """Upload files as the SDK does; return what a request that makes a version of them names."""
        tokens = []
        for name, data in files.items():
            words = {"type": "DATASET", "name": name, "contentLength": len(data)}
            told = self.rpc("blobs.BlobApiService/StartBlobUpload", user, **words)
            request = urllib.request.Request(told["createUrl"], data=data, method="PUT")
            urllib.request.urlopen(request, timeout=30).close()
            tokens.append({"token": told["token"]})
        return tokens

    def dataset(self, files: Mapping[str, bytes], name: str = "upload", ref: str = SLUG) -> Path:
        """Write a folder with a dataset's metadata and these files."""
        folder = self.folder / name
        for path, data in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(data)
        metadata = {"id": ref, "title": "My offline kit", "licenses": [{"name": "CC0-1.0"}]}
        (folder / "dataset-metadata.json").write_text(json.dumps(metadata))
        return folder

    def notebook(self, *cells: str, name: str = "notebook", **metadata: Any) -> Path:
        """Write a folder with a notebook and its kernel-metadata."""
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        (folder / "inference.ipynb").write_text(json.dumps(notebook(*cells)))
        whole: dict[str, Any] = {
            "id": KERNEL,
            "title": "My inference",
            "code_file": "inference.ipynb",
            "language": "python",
        }
        whole |= {"kernel_type": "notebook", "is_private": True, "enable_internet": False, **metadata}
        (folder / "kernel-metadata.json").write_text(json.dumps(whole))
        return folder

    def finished(self, version: int, state: str = "COMPLETE") -> None:
        """Wait until the run of a version of KERNEL has come to this end."""
        ask = {"userName": "alice", "kernelSlug": KERNEL.split("/")[1], "versionLabel": f"v{version}"}
        self.until(lambda: self.rpc("GetKernelSessionStatus", **ask).get("status") in ("COMPLETE", "ERROR"))
        assert self.rpc("GetKernelSessionStatus", **ask)["status"] == state

    def until(self, true: Callable[[], bool], seconds: float = 20) -> None:
        """Wait until something holds."""
        end = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < end, "it never came true"
            time.sleep(0.02)

    def ready(self, ref: str = SLUG, version: int = 1) -> None:
        """Wait until a version of a dataset is current and READY."""
        owner, slug = ref.split("/")
        ask = {"ownerSlug": owner, "datasetSlug": slug}
        self.until(
            lambda: (
                self.rpc("GetDataset", owner, **ask).get("currentVersionNumber") == version
                and self.rpc("GetDatasetStatus", owner, **ask).get("status") == "READY"
            )
        )

    def names(self, ref: str = SLUG) -> dict[str, int]:
        """Return the files of a dataset's READY version."""
        owner, slug = ref.split("/")
        listed = self.rpc("ListDatasetFiles", owner, ownerSlug=owner, datasetSlug=slug, pageSize=200)
        return {each["name"]: each["totalBytes"] for each in listed["datasetFiles"]}


@contextmanager
def serving(
    folder: Path, settings: LocalKaggleSettings = HASTY, runner: NotebookRunner = plainly
) -> Iterator[Bench]:
    """Serve a local Kaggle from `folder`/state, with the accounts alice and bob."""
    kaggle = LocalKaggle(folder / "state", settings, runner)
    for name in ("alice", "bob"):
        kaggle.accounts.add_account(name, key=f"key-of-{name}", token=f"KGAT_{name}")
    with LocalKaggleServer(kaggle) as server:
        yield Bench(server, folder, Traffic(server))
