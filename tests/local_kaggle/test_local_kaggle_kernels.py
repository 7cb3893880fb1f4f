"""Notebooks on the local Kaggle, driven by the unmodified `kaggle` program."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from offline_kit.core import processes, sandbox
from offline_kit.core.errors import OfflineKitError
from offline_kit.local_kaggle.faults import Fault
from offline_kit.local_kaggle.kernel_runs import RunJob
from offline_kit.local_kaggle.sandbox_runner import SandboxRunner
from offline_kit.local_kaggle.settings import LocalKaggleSettings
from offline_kit.packages import pip_settings
from offline_kit.project.accelerators import find_machine
from offline_kit.rehearsal.environments import EnvironmentOptions
from tests.support.local_kaggle import HASTY, KERNEL, SLUG, Bench, needs_client, notebook, serving

ASK = {"userName": "alice", "kernelSlug": "my-inference"}
READ = """
import os, pathlib
data = pathlib.Path(os.environ["INPUT"], "datasets/alice/my-offline-kit/a.txt").read_text()
pathlib.Path("submission.csv").write_text("id,label\\n" + data)
print("read", data)
"""


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with serving(tmp_path) as made:
        yield made


def push(bench: Bench, *cells: str, user: str = "alice", **more: Any) -> dict[str, Any]:
    """Push as the SDK does."""
    words = {"slug": KERNEL, "newTitle": "My inference", "language": "python", "kernelType": "notebook"}
    flags = {"isPrivate": True, "enableInternet": False, "text": json.dumps(notebook(*cells))}
    return bench.rpc("SaveKernel", user, **{**words, **flags, **more})


@needs_client
def test_the_client_pushes_follows_and_fetches(bench: Bench) -> None:
    """Push, status, output, log and pull, with a dataset mounted: all by the plain client."""
    bench.cli("datasets", "create", "-p", bench.dataset({"a.txt": b"1,2"}))
    bench.ready()
    folder = bench.notebook(READ, dataset_sources=[SLUG])
    pushed = bench.cli("kernels", "push", "-p", folder)
    assert "version 1 successfully pushed" in pushed.stdout, pushed
    bench.finished(1)
    assert "COMPLETE" in bench.cli("kernels", "status", KERNEL).stdout
    goal = bench.folder / "out"
    assert bench.cli("kernels", "output", KERNEL, "-p", goal).returncode == 0
    assert (goal / "submission.csv").read_text() == "id,label\n1,2"
    log = json.loads((goal / "my-inference.log").read_text())
    assert "".join(event["data"] for event in log) == "read 1,2\n"
    assert bench.cli("kernels", "pull", KERNEL, "-p", goal, "-m").returncode == 0
    told = json.loads((goal / "kernel-metadata.json").read_text())
    assert (told["enable_internet"], told["dataset_sources"]) == (False, [SLUG])
    assert "my-inference" in bench.cli("kernels", "list", "-m").stdout
    assert "submission.csv" in bench.cli("kernels", "files", KERNEL).stdout
    assert json.loads(bench.cli("kernels", "logs", KERNEL).stdout) == log
    assert bench.cli("kernels", "logs", "-f", KERNEL).stdout == "read 1,2\n"
    assert bench.cli("kernels", "delete", KERNEL, "-y").returncode == 0
    assert bench.cli("kernels", "status", KERNEL, user="bob").returncode == 1


@needs_client
def test_the_client_pushes_a_script_and_pulls_it_back(bench: Bench) -> None:
    """A script runs, its output and log are fetched, and it is pulled as the script that it was."""
    text = "# %% [markdown]\n# A script\n\n# %%\nprint('ran as', __name__)\nopen('submission.csv', 'w').write('id')\n"
    folder = bench.notebook(code_file="inference.py", kernel_type="script")
    (folder / "inference.py").write_text(text)
    assert bench.cli("kernels", "push", "-p", folder).returncode == 0
    bench.finished(1)
    goal = bench.folder / "out"
    assert bench.cli("kernels", "output", KERNEL, "-p", goal).returncode == 0
    assert (goal / "submission.csv").read_text() == "id"
    log = json.loads((goal / "my-inference.log").read_text())
    assert "".join(event["data"] for event in log) == "ran as __main__\n"
    assert bench.cli("kernels", "pull", KERNEL, "-p", goal, "-m").returncode == 0
    told = json.loads((goal / "kernel-metadata.json").read_text())
    assert (told["kernel_type"], told["code_file"]) == ("script", "my-inference.py")
    assert (goal / "my-inference.py").read_text() == text


@needs_client
def test_a_source_that_is_not_there_is_named_and_the_push_succeeds(bench: Bench) -> None:
    """The client exits with 0 and the run goes without its input."""
    folder = bench.notebook(READ, dataset_sources=[SLUG])
    pushed = bench.cli("kernels", "push", "-p", folder)
    assert pushed.returncode == 0
    assert SLUG in pushed.stdout
    bench.finished(1, "ERROR")
    told = bench.rpc("GetKernelSessionStatus", **ASK)
    assert "FileNotFoundError" in told["failureMessage"]


def comes_to(bench: Bench, version: int, state: str) -> None:
    """Wait for a state of a version's run."""
    ask = {**ASK, "versionLabel": f"v{version}"}
    bench.until(lambda: bench.rpc("GetKernelSessionStatus", **ask).get("status") == state)


def test_what_a_lost_run_left_is_removed(tmp_path: Path) -> None:
    """A server that was ended in the middle of a run leaves a folder; the run anew takes its place."""
    with serving(tmp_path) as bench:
        bench.kaggle.faults.add_fault(Fault(on="RUN", stuck="RUNNING"))
        push(bench, "print(1)")
        comes_to(bench, 1, "RUNNING")
        place = bench.kaggle.store.key_folder("kernels", *KERNEL.split("/"), "versions", "1")
        (place / "run-left/output").mkdir(parents=True)
    with serving(tmp_path) as bench:
        bench.finished(1)
        bench.until(lambda: not list(place.glob("run-*")))


def test_a_run_that_the_server_did_not_outlive_is_run_anew(tmp_path: Path) -> None:
    """The next server of the folder goes on with it."""
    with serving(tmp_path, LocalKaggleSettings(visible_after=0, queued=60)) as bench:
        push(bench, "print(1)")
    with serving(tmp_path, HASTY) as bench:
        bench.finished(1)


@pytest.mark.parametrize("shape", ["", "NvidiaH100"])
def test_a_version_runs_within_the_limits_of_its_machine(tmp_path: Path, shape: str) -> None:
    """Its machine is that of the pushed machine shape, its time the machine's, or less if the push says so."""
    jobs: list[RunJob] = []

    def keep_job(job: RunJob) -> str:
        jobs.append(job)
        return ""

    with serving(tmp_path, HASTY, keep_job) as bench:
        push(bench, "1", machineShape=shape)
        bench.finished(1)
        push(bench, "1", machineShape=shape, sessionTimeoutSeconds=60)
        bench.finished(2)
    assert [job.machine for job in jobs] == [find_machine(shape)] * 2
    assert [job.timeout for job in jobs] == [12 * 3600, 60]


@pytest.mark.sandbox
@pytest.mark.index
@pytest.mark.slow
@pytest.mark.parametrize(
    ("limits", "code", "failure"),
    [
        ({"disk": 1_000_000}, "open('large', 'wb').write(bytes(3_000_000))", "No space left on device"),
        ({"memory": 100_000_000}, "x = b'1' * 400_000_000; __import__('time').sleep(300)", "more memory"),
    ],
)
def test_a_run_that_needs_more_than_its_machine_has_fails_as_on_kaggle(
    tmp_path: Path, limits: dict[str, int], code: str, failure: str
) -> None:
    """The failure names the memory or the disk; so the causes of a push explain it."""
    shop = EnvironmentOptions(
        index=pip_settings.read_pip_settings(processes.copy_environment()), cache=tmp_path / "cache"
    )
    (tmp_path / "job").mkdir()
    machine = replace(find_machine(""), **limits)
    job = RunJob(
        notebook=code, is_script=True, inputs=(), folder=tmp_path / "job", timeout=120, machine=machine
    )
    assert failure in SandboxRunner(shop, current=True)(job)


@pytest.mark.sandbox
@pytest.mark.index
@pytest.mark.slow
def test_a_notebook_runs_in_the_real_sandbox(tmp_path: Path) -> None:
    """Its dataset is mounted read-only where Kaggle has it, there is no network, its output comes back."""
    try:
        sandbox.find_sandbox(sandbox.KINDS[:-1])
    except OfflineKitError:
        pytest.skip("no real sandbox works on this machine")
    settings = pip_settings.read_pip_settings(processes.copy_environment())
    shop = EnvironmentOptions(index=settings, cache=tmp_path / "cache", yes=True)
    cell = """
import os, pathlib, socket
folder = pathlib.Path("/kaggle/input/datasets/alice/my-offline-kit")
assert not os.access(folder, os.W_OK) or os.statvfs(folder).f_flag & os.ST_RDONLY
try:
    socket.create_connection(("1.1.1.1", 53), timeout=2)
    raise SystemExit("the network is open")
except OSError:
    pathlib.Path("submission.csv").write_text((folder / "a.txt").read_text())
print("done")
"""
    with serving(tmp_path, HASTY, SandboxRunner(shop)) as bench:
        words = {"type": "DATASET", "name": "a.txt", "contentLength": 3}
        told = bench.rpc("blobs.BlobApiService/StartBlobUpload", **words)
        import urllib.request

        request = urllib.request.Request(told["createUrl"], data=b"1,2", method="PUT")
        urllib.request.urlopen(request, timeout=30).close()
        names = {"slug": "my-offline-kit", "title": "My offline kit", "isPrivate": True}
        bench.rpc("CreateDataset", ownerSlug="alice", files=[{"token": told["token"]}], **names)
        bench.ready()
        assert push(bench, cell, datasetDataSources=[SLUG])["invalidDatasetSources"] == []
        ask = {**ASK, "versionLabel": "v1"}
        ended = ("COMPLETE", "ERROR")
        bench.until(lambda: bench.rpc("GetKernelSessionStatus", **ask).get("status") in ended, 300)
        output = bench.rpc("ListKernelSessionOutput", **ask)
        assert bench.rpc("GetKernelSessionStatus", **ask)["status"] == "COMPLETE", output["log"]
        assert [each["fileName"] for each in output["files"]] == ["submission.csv"]
        assert "done" in output["log"]
