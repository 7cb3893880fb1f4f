"""The command `report`: the page of the last rehearsal, brought up to date, printed and opened."""

import json
import os
import sys
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from offline_kit.core.files import append_line
from tests.support import command_line
from tests.support.report_pages import write_evidence

SCORE = {
    "competition": "leaves",
    "notebook": "me/leaves",
    "version": 7,
    "file": "submission.csv",
    "message": "m",
    "state": "complete",
    "score": "0.9137",
    "at": "2026-11-28T10:00:00+00:00",
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "offline-kit.toml").write_text('dataset = "some-kit"\n')
    write_evidence(tmp_path / "dist" / "offline-kit" / "rehearsal")
    return tmp_path


def run_report(project: Path, *words: str, **env: str) -> "CompletedProcess[str]":
    environment = {name: value for name, value in os.environ.items() if "DISPLAY" not in name}
    return command_line.offline_kit("report", *words, str(project), env={**environment, **env})


def test_a_report_is_printed_and_has_the_newest_score(project: Path) -> None:
    """What was submitted since the rehearsal is on the page; at a pipe no browser is started."""
    state = project / ".offline-kit" / "offline-kit.push" / "kaggle" / "me"
    state.mkdir(parents=True)
    append_line(project / ".offline-kit" / "submissions.jsonl", json.dumps(SCORE))
    done = run_report(project, BROWSER="false")
    page = project / "dist" / "offline-kit" / "rehearsal" / "report.html"
    assert (done.returncode, done.stdout) == (0, f"{page}\n")
    assert "0.9137" in page.read_text()


def test_a_browser_is_given_the_page(project: Path) -> None:
    """--open starts the user's browser with the address of the file."""
    browser = project / "browser"
    browser.write_text(
        f'#!{sys.executable}\nimport sys\nopen(__file__ + ".opened", "w").write(sys.argv[1])\n'
    )
    browser.chmod(0o755)
    done = run_report(project, "--open", "--json", BROWSER=f"{browser} %s")
    page = project / "dist" / "offline-kit" / "rehearsal" / "report.html"
    assert json.loads(done.stdout) == {"ok": True, "report": str(page), "opened": True}
    assert (project / "browser.opened").read_text() == page.as_uri()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems always have a screen")
def test_without_a_screen_the_path_is_enough(project: Path) -> None:
    """No browser for the terminal takes it over: the command warns and succeeds."""
    done = run_report(project, "--open", "--json")
    assert (done.returncode, json.loads(done.stdout)["opened"]) == (0, False)


def test_a_project_without_a_rehearsal_has_no_report(tmp_path: Path) -> None:
    """The error says what writes one."""
    (tmp_path / "offline-kit.toml").write_text('dataset = "some-kit"\n')
    done = run_report(tmp_path, "--json")
    assert (done.returncode, json.loads(done.stdout)["code"]) == (1, "report-not-found")
