"""Commands that download do in a replay what they did when they were recorded: files, output, exit code."""

import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.hooked_runs import HookedRun
from tests.support.internet import Internet, WebAnswer, WebRequest


class Host:
    """A table that changes with each request, a file, and one that waits a little for a second request."""

    def __init__(self) -> None:
        self.count, self.pair = 0, threading.Barrier(2)

    def answer(self, request: WebRequest) -> WebAnswer:
        """Answer by path."""
        self.count += 1
        if request.path == "/table.csv":
            return WebAnswer(body=b"id\n%d\n" % self.count)
        if request.path == "/pair.pt":
            try:
                self.pair.wait(0.3)
            except threading.BrokenBarrierError:
                self.pair.reset()
        return WebAnswer(body=b"weights") if request.path.endswith(".pt") else WebAnswer(status=404)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[HookedRun]:
    """Serve the host, and put programs first on the PATH that stand for apt-get and conda."""
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "apt-get").write_text("#!/bin/sh\necho installed $2\n")
    (programs / "apt-get").chmod(0o755)
    (programs / "conda").write_text(
        '#!/bin/sh\n[ "$1" = run ] && echo "ran in $MODE" || echo "changed in $MODE"\n'
    )
    (programs / "conda").chmod(0o755)
    with Internet(tmp_path, {"files.example.org": Host().answer}) as internet:
        yield HookedRun(tmp_path, {**internet.environment(), "PATH": f"{programs}:{os.environ['PATH']}"})


# wget with GnuTLS reads no variable for certificates, hence its http.
def run_lines(*lines: str) -> str:
    """Return code that runs each line in a shell and prints code and output, then every file of the folder."""
    return f"""
import json, pathlib, subprocess
results = []
for line in {lines!r}:
    done = subprocess.run(line, shell=True, capture_output=True, text=True)
    results.append([done.returncode, done.stdout])
files = {{path.name: path.read_text() for path in sorted(pathlib.Path().iterdir())}}
print(json.dumps([results, files]))
"""


DOWNLOADS = run_lines(
    "wget -q http://files.example.org/weights.pt",
    "wget -q http://files.example.org/weights.pt -O renamed.pt && chmod +x renamed.pt",
    "curl -sS https://files.example.org/table.csv",
    "curl -sS https://files.example.org/table.csv",
    "curl -sS https://files.example.org/table.csv | head -1 > head.txt",
    "curl -fsS https://files.example.org/missing -o missing.bin",
    "wget -q --header='Authorization: Bearer '$HF_TOKEN http://files.example.org/weights.pt -O private.pt",
    "apt-get install ffmpeg",
)


@pytest.mark.slow
def test_commands_do_the_same_without_the_server(run: HookedRun) -> None:
    """wget and curl with files, output, pipes and failures, in the order of the recording; a secret is gone by then."""
    recorded = run.record(DOWNLOADS, HF_TOKEN="hf_bbbbbbbbbbbbbbbbbbbbbbbb")
    results, files = json.loads(recorded.stdout)
    assert [code for code, _ in results] == [0, 0, 0, 0, 0, 22, 0, 0], recorded.stderr
    assert files == {
        "weights.pt": "weights",
        "renamed.pt": "weights",
        "private.pt": "weights",
        "head.txt": "id\n",
    }
    assert results[2][1] != results[3][1]
    replayed = run.replay(DOWNLOADS, HF_TOKEN="")
    assert replayed.stdout == recorded.stdout, replayed.stderr
    assert not run.misses.exists()
    assert "hf_b" not in json.dumps(run.events("command") + run.events("process"))


OTHERS = run_lines(
    "wget -q http://files.example.org/other.csv",
    "conda run python x.py update",
    "conda install -y x",
    "curl -sS http://127.0.0.1:9/predict",
)


def test_an_unknown_command_fails_and_what_is_no_download_runs(run: HookedRun) -> None:
    """A miss with its cell and code 1; `conda run`, and requests to this machine's own servers, are the real ones."""
    run.record(run_lines("conda run python x.py update", "conda install -y x"), MODE="recording")
    results, files = json.loads(run.replay(OTHERS, OFFLINE_KIT_CELL="3", MODE="replay").stdout)
    assert results == [[1, ""], [0, "ran in replay\n"], [0, "changed in recording\n"], [7, ""]]
    assert files == {}
    (miss,) = [json.loads(line) for line in run.misses.read_text().splitlines()]
    assert miss == {"kind": "command", "what": "wget -q http://files.example.org/other.csv", "cell": 3}


@pytest.mark.slow
def test_files_of_a_command_are_its_own(run: HookedRun) -> None:
    """Two at the same time are told apart; an executable stays one; what lay there before is not recorded."""
    code = """
import os, pathlib, subprocess
pathlib.Path("mine.txt").write_text("mine")
url = "http://files.example.org/pair.pt"
subprocess.run(f"wget -q {url} -O a.pt & wget -q {url} -O b.pt & wait", shell=True, check=True)
"""
    run.record(code)
    changed = [[file["path"] for file in command["changed"]] for command in run.events("command")]
    assert sorted(changed) == [["{working}/a.pt"], ["{working}/b.pt"]]
