"""What a rehearsal in a container tells of its limits."""

from dataclasses import replace
from pathlib import Path

import pytest

from offline_kit.project.accelerators import find_machine
from tests.rehearsal.test_rehearse import WRITE, Theatre

pytestmark = [pytest.mark.slow, pytest.mark.container]


def test_the_memory_limit_of_a_container_names_the_cell(tmp_path: Path, container_image: str) -> None:
    """The kernel kills the notebook's process at the container's limit: the rehearsal says so, and where it was."""
    machine = replace(find_machine(""), memory=500_000_000)
    cell = "x = bytearray(b'1') * 900_000_000"
    theatre = Theatre(tmp_path, tmp_path / "cache")
    error = theatre.failure("1", cell, machine=machine, env="image", container=container_image)
    assert error.code == "memory-limit-reached"
    assert "cell 3" in error.what
    assert f"    {cell}" in error.details


def test_a_hidden_run_in_a_container(tmp_path: Path, container_image: str) -> None:
    """The hidden data covers the public data there, too."""
    theatre = Theatre(tmp_path, tmp_path / "cache")
    kit = theatre.kit("import os\nprint('RERUN', os.environ.get('KAGGLE_IS_COMPETITION_RERUN'))", WRITE)
    done = theatre.rehearse(kit, env="image", container=container_image, hidden="auto", hidden_rows=20)
    assert done.sandbox == "container"
    assert done.hidden
    assert [session["rows"] for session in done.hidden["sessions"]] == [5, 20]
