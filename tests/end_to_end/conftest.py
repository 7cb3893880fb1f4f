"""Fixtures of the end-to-end tests."""

import os

import pytest

from offline_kit import interpreters


@pytest.fixture(scope="session")
def python_313() -> None:
    """Skip where the image's Python is not on this machine: a rehearsal at fidelity `matching` needs it."""
    if interpreters.find("3.13", os.environ) is None:
        pytest.skip("no Python 3.13 on this machine; `uv python install 3.13` brings one")
