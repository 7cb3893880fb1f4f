"""The corpus of recorded notebooks: each runs once with the internet on, and then predicts the same without it."""

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.recorded_corpus import CASES, CorpusWorld, RecordedCase, make_case_project, serve_corpus
from tests.support.workbench import run

pytestmark = [pytest.mark.slow, pytest.mark.index, pytest.mark.sandbox]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CorpusWorld]:
    """The internet of the corpus."""
    with serve_corpus(tmp_path_factory.mktemp("world")) as running:
        yield running


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_recorded_notebook_predicts_the_same_offline(
    world: CorpusWorld, case: RecordedCase, tmp_path: Path
) -> None:
    """Nothing is answered by a person: it is recorded, built and rehearsed offline, with its cells as they were."""
    project = make_case_project(case, tmp_path / case.name, world.trained)
    env = world.environment(case)
    run(
        "adopt", "inference.ipynb", "--record", "--env", "current", "--yes", "--write", cwd=project, env=env
    ).good()
    assert_no_secret_is_kept(project, case)
    requests = len(world.internet.requests)
    run("rehearse", project, "--env", "current", "--yes", env=env).good()
    assert world.internet.requests[requests:] == []
    report = json.loads((project / "dist" / "offline-kit" / "rehearsal" / "report.json").read_text())
    replay = report["replay"]
    assert (replay["submission"], replay["packages"], replay["misses"]) == ("identical", [], [])
    assert_cells_are_kept(project, case)


def assert_cells_are_kept(project: Path, case: RecordedCase) -> None:
    """Compare the kit's notebook with the user's: one code cell more, and edits only of paths that cannot be mounted."""
    (rendered,) = (project / "dist" / "offline-kit" / "notebook").glob("*.ipynb")
    before, after = read_code(project / "inference.ipynb"), read_code(rendered)
    assert len(after) == len(before) + 1
    if not case.edited:
        assert after[1:] == before
        return
    changed = [
        line
        for old, new in zip(before, after[1:], strict=True)
        for line in set(old.splitlines()) - set(new.splitlines())
    ]
    assert changed
    assert all("input" in line for line in changed), changed


def read_code(notebook: Path) -> list[str]:
    """Return the sources of a notebook's code cells."""
    cells: list[dict[str, Any]] = json.loads(notebook.read_text())["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def assert_no_secret_is_kept(project: Path, case: RecordedCase) -> None:
    """Look for the values of secrets in every file of the project, and of archives in it."""
    hidden = [value.encode() for value in case.secrets.values() if len(value) > 8]
    for path in project.rglob("*"):
        contents = [path.read_bytes()] if path.is_file() else []
        if path.is_file() and zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                contents += map(archive.read, archive.namelist())
        assert not [value for value in hidden for content in contents if value in content], path
