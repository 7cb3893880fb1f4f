"""Notebooks of the corpus, recorded on a local Kaggle: their packages, files and answers never leave it."""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from offline_kit.core import files
from offline_kit.local_kaggle.sandbox_runner import SandboxRunner
from offline_kit.local_kaggle.server import LocalKaggleServer
from offline_kit.local_kaggle.settings import LocalKaggleSettings
from offline_kit.packages import pip_settings
from offline_kit.rehearsal.environments import EnvironmentOptions
from offline_kit.workflow import kaggle_session
from tests.support.recorded_corpus import (
    CASES,
    COMPETITION,
    CorpusWorld,
    RecordedCase,
    make_case_project,
    serve_corpus,
)
from tests.support.traffic import Traffic
from tests.support.workbench import run

pytestmark = [pytest.mark.slow, pytest.mark.index, pytest.mark.sandbox]

RULES = """
slug = "{slug}"
public = "{data}"
hidden = "{data}"
solution = "{data}/sample_submission.csv"
metric = "score.py:count_rows"
"""
METRIC = "def count_rows(submission, solution):\n    return float(len(open(submission).readlines()))\n"


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[CorpusWorld]:
    """The internet of the corpus; notebooks of a local Kaggle in this process use it."""
    with serve_corpus(tmp_path / "world") as running:
        for name, value in running.environment(CASES[0]).items():
            monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)
        yield running


@pytest.fixture
def server(tmp_path: Path, world: CorpusWorld) -> Iterator[LocalKaggleServer]:
    """A local Kaggle with the corpus' competition."""
    folder = tmp_path / "competition"
    data = make_case_project(CASES[0], tmp_path / "data", world.trained) / "input" / COMPETITION
    folder.mkdir()
    (folder / "competition.toml").write_text(RULES.format(slug=COMPETITION, data=data))
    (folder / "score.py").write_text(METRIC)
    shop = EnvironmentOptions(
        index=pip_settings.read_pip_settings(os.environ),
        cache=files.make_folder(files.cache_dir()),
        yes=True,
    )
    runner, settings = SandboxRunner(shop, current=True), LocalKaggleSettings().with_delays(0)
    with kaggle_session.serve_local_kaggle(
        tmp_path / "state", runner, settings=settings, competitions=(folder,)
    ) as running:
        yield running


def test_only_notebooks_are_sent(world: CorpusWorld, server: LocalKaggleServer, tmp_path: Path) -> None:
    """The offline notebook attaches the output of the one that recorded; nothing is uploaded, and nothing edited."""
    traffic = Traffic(server)
    for case in (case for case in CASES if case.name in ("git_clone", "downloads")):
        project = make_case_project(case, tmp_path / case.name, world.trained)
        at = ("--at", server.url, "--yes", "--json")
        run("adopt", "inference.ipynb", "--record", "local", "--write", *at, cwd=project).good()
        requests = len(world.internet.requests)
        run("push", project, "--to", "local", *at).good()
        assert world.internet.requests[requests:] == []
        recorded = json.loads((project / "offline-kit.recording.json").read_text())
        assert read_submission(server, case) == recorded["submission"]["sha256"]
    assert traffic.uploaded_bytes() == 0
    assert server.kaggle.store.key_names("datasets", "local") == []


def read_submission(server: LocalKaggleServer, case: RecordedCase) -> str:
    """Return the SHA-256 of what the offline notebook's run wrote."""
    slug = f"{case.name.replace('_', '-')}-inference"
    output = server.kaggle.store.key_folder("kernels", "local", slug, "versions", "1") / "output"
    return hashlib.sha256((output / "submission.csv").read_bytes()).hexdigest()
