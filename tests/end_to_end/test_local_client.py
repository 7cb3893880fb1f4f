"""`offline-kit local` as a learner has it, and the unmodified `kaggle` program from a folder to a score."""

import json
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from offline_kit.workflow.kaggle_session import KEY, USER
from tests.support.competitions import competition
from tests.support.local_command import command
from tests.support.local_kaggle import client_environment, needs_client, notebook
from tests.support.warm_python import client_python

pytestmark = [pytest.mark.slow, pytest.mark.index, pytest.mark.sandbox, needs_client]

DATASET, KERNEL = f"{USER}/my-offline-kit", f"{USER}/my-inference"
CELL = """
import csv, os, pathlib, socket
weights = pathlib.Path("/kaggle/input/datasets/local/my-offline-kit/weights.txt").read_text()
rows = list(csv.DictReader(open("/kaggle/input/competitions/small-digits/test.csv")))
try:
    socket.create_connection(("1.1.1.1", 53), timeout=2)
    raise SystemExit("the network is open")
except OSError:
    print("offline, with", weights)
lines = [f"{row['id']},{int(row['x']) % 2}" for row in rows]
pathlib.Path("submission.csv").write_text("\\n".join(["id,label", *lines, ""]))
"""


class Person:
    """Somebody with the plain client and the environment that `offline-kit local` told."""

    def __init__(self, url: str, folder: Path) -> None:
        self.folder = folder
        home = folder / "home"
        home.mkdir()
        self.env = client_environment(url, home, username=USER, key=KEY)

    def ran(self, *words: str | Path) -> "subprocess.CompletedProcess[str]":
        """Run `kaggle WORDS`."""
        whole = [client_python(), "-m", "kaggle.cli", *map(str, words)]
        return subprocess.run(
            whole, env=self.env, cwd=self.folder, capture_output=True, text=True, timeout=600
        )

    def kaggle(self, *words: str | Path) -> str:
        """Run `kaggle WORDS`, which must work; return what it printed."""
        done = self.ran(*words)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def until(self, text: str, *words: str | Path) -> None:
        """Repeat `kaggle WORDS` until it prints a text; that it is refused at first is usual."""
        end = time.monotonic() + 300
        while text not in (shown := str(self.ran(*words))):
            assert time.monotonic() < end, shown
            time.sleep(0.3)


@pytest.fixture
def person(tmp_path: Path) -> Iterator[Person]:
    words = ("--competition", competition(tmp_path), "--env", "current", "--slow", "0.2")
    with command(tmp_path, *words) as served:
        yield Person(served.told["url"], tmp_path)


def write(folder: Path, name: str, metadata: Mapping[str, object]) -> Path:
    """Write the metadata of a folder for the client."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(json.dumps(metadata))
    return folder


def test_from_a_folder_to_a_score(person: Person) -> None:
    """Dataset, version, notebook, its log as it runs, its output, its source, and a score that says LOCAL."""
    told = {"id": DATASET, "title": "My offline kit", "licenses": [{"name": "CC0-1.0"}]}
    data = write(person.folder / "data", "dataset-metadata.json", told)
    (data / "weights.txt").write_text("weights 1")
    person.kaggle("datasets", "create", "-p", data)
    person.until("ready", "datasets", "status", DATASET)
    (data / "weights.txt").write_text("weights of version 2")
    person.kaggle("datasets", "version", "-p", data, "-m", "two")
    person.until("weights.txt,20", "datasets", "files", DATASET, "-v")
    person.kaggle("datasets", "download", DATASET, "-f", "weights.txt", "-p", person.folder / "back")
    assert (person.folder / "back/weights.txt").read_text() == "weights of version 2"

    own = {"id": KERNEL, "title": "My inference", "code_file": "inference.ipynb", "language": "python"}
    own |= {"kernel_type": "notebook", "enable_internet": "false", "is_private": "true"}
    sources = {"dataset_sources": [DATASET], "competition_sources": ["small-digits"]}
    code = write(person.folder / "code", "kernel-metadata.json", {**own, **sources})
    (code / "inference.ipynb").write_text(json.dumps(notebook(CELL)))
    assert "version 1 successfully pushed" in person.kaggle("kernels", "push", "-p", code)
    person.until("KernelWorkerStatus", "kernels", "status", KERNEL)
    assert "offline, with weights of version 2\n" in person.kaggle("kernels", "logs", "-f", KERNEL)
    person.until("COMPLETE", "kernels", "status", KERNEL)
    assert "submission.csv" in person.kaggle("kernels", "files", KERNEL)
    person.kaggle("kernels", "output", KERNEL, "-p", person.folder / "out")
    assert (person.folder / "out/submission.csv").read_text() == "id,label\np1,0\n"
    log = json.loads((person.folder / "out/my-inference.log").read_text())
    times = [event["time"] for event in log]
    assert times == sorted(times)
    assert times[-1] > times[0], "said while it ran, not all at its end"
    person.kaggle("kernels", "pull", KERNEL, "-m", "-p", person.folder / "pulled")
    assert (person.folder / "pulled/my-inference.ipynb").is_file()

    words = ("-k", KERNEL, "-v", "1", "-f", "submission.csv", "-m", "by hand")
    assert "Successfully submitted" in person.kaggle("competitions", "submit", "small-digits", *words)
    assert "1" in person.kaggle("competitions", "submission-limits", "small-digits")
    person.until("1.00000 (LOCAL)", "competitions", "submissions", "small-digits")
