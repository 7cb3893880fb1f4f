"""A script that needs the internet, adopted: it stays a script, runs offline, and is scored on the local Kaggle."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from offline_kit.adopt import script_setup
from offline_kit.local_kaggle.sandbox_runner import SandboxRunner
from offline_kit.local_kaggle.server import LocalKaggleServer
from offline_kit.packages.pip_settings import read_pip_settings
from offline_kit.rehearsal.environments import EnvironmentOptions
from offline_kit.workflow import kaggle_session
from tests.support.competitions import competition
from tests.support.workbench import run

pytestmark = [pytest.mark.slow, pytest.mark.index, pytest.mark.sandbox]

SCRIPT = '''#!/usr/bin/env python
"""Predict {whether} a number is odd: %s."""

from __future__ import annotations

# %% [markdown]
# # Needs

# %% needs
import os
import subprocess
import sys

subprocess.check_call([sys.executable, "-m", "pip", "install", "-q", "pyfiglet"])
import csv
import multiprocessing
from pathlib import Path

import pyfiglet

# %% work
SOURCE = Path("../input/small-digits")


def find_parity(row):
    return (row["id"], int(row["x"]) % 2)


def main() -> None:
    with open(SOURCE / "test.csv") as stream, open("submission.csv", "w", newline="") as target:
        with multiprocessing.get_context("spawn").Pool(2) as pool:  # each runs the lines above again
            rows = pool.map(find_parity, list(csv.DictReader(stream)))
        csv.writer(target).writerows([("id", "label"), *rows])
    print(pyfiglet.__name__, len(rows), "rows by", __name__, "from", os.path.basename(__file__), __doc__)


if __name__ == "__main__":
    main()
'''


SHIP = ("--yes", "--wait", "--env", "current", "--json")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LocalKaggleServer]:
    """A local Kaggle with a competition; it runs code offline, in this environment."""
    contest = competition(tmp_path / "contest")
    shop = EnvironmentOptions(index=read_pip_settings({}), cache=tmp_path / "runs", yes=True)
    runner = SandboxRunner(shop, current=True)
    with kaggle_session.serve_local_kaggle(tmp_path / "kaggle", runner, competitions=(contest,)) as made:
        yield made


def test_an_adopted_script_is_rehearsed_and_scored(server: LocalKaggleServer, tmp_path: Path) -> None:
    """Two lines change, the others are what they were; an error names the line of the user's file."""
    project = tmp_path / "odd-numbers"
    shutil.copytree(tmp_path / "contest/small-digits/public", project / "input/small-digits")
    (project / "train.py").write_text(SCRIPT)
    env = {"HOME": str(tmp_path), "OFFLINE_KIT_CACHE": str(tmp_path / "cache")}
    told = run("adopt", project / "train.py", project, "--write", "--json", env=env).good().facts
    assert told["asked"] == 0
    assert [(found["kind"], found["line"]) for found in told["found"][:1]] == [("install", 14)]

    shipped = run("ship", project, "--to", "local", "--at", server.url, *SHIP, env=env).good().facts
    assert shipped["rehearsal"]["passed"]
    assert shipped["submission"]["score"].startswith("0.5")  # of the two rows that are not private
    log = (project / "dist/offline-kit/rehearsal/log.txt").read_text()
    notebook = project / "dist/offline-kit/notebook"
    rendered = (notebook / "inference.py").read_text()
    setup = script_setup.find_setup_lines(rendered)
    own = [line for number, line in enumerate(rendered.splitlines(), 1) if number not in setup]
    changed = [(old, new) for old, new in zip(SCRIPT.splitlines(), own, strict=True) if old != new]
    assert log.count("every hash as expected") == 1
    assert [old for old, _ in changed] == [SCRIPT.splitlines()[13], 'SOURCE = Path("../input/small-digits")']
    assert "pyfiglet 1 rows by __main__ from script.py Predict {whether} a number is odd: %s." in log

    (project / "train.py").write_text(SCRIPT.replace("% 2", "% 0"))
    failed = run("rehearse", project, "--env", "current", "--json", env=env)
    assert failed.code == 1
    line = SCRIPT[: SCRIPT.index("rows = pool.map")].count("\n") + 1
    facts = failed.facts
    assert (facts["code"], facts["error"]) == ("cell-failed", f"line {line} of 'train.py' failed")


def test_a_script_from_windows_is_no_edited_one(tmp_path: Path) -> None:
    """Its ends of lines do not make what was rendered look changed, in a second build and in the status."""
    (tmp_path / "train.py").write_bytes(b"import os\r\n\r\nprint(os.name)\r\n")
    run("adopt", tmp_path / "train.py", tmp_path, "--write").good()
    run("build", tmp_path).good()
    again = run("build", tmp_path).good()
    assert "edited" not in again.err
    folder = tmp_path / "dist/offline-kit/notebook"
    assert b"\r" not in (folder / "inference.py").read_bytes()
    assert not run("notebook", tmp_path, "--json").good().facts["changed"]
