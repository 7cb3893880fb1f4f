"""Shared by tests: kagglehub's datasets and models, and the plain client's models, on the local Kaggle."""

import importlib.util
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.local_kaggle import Bench, serving
from tests.support.warm_python import client_python

needs_hub = pytest.mark.skipif(not importlib.util.find_spec("kagglehub"), reason="kagglehub is missing")


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with serving(tmp_path) as made:
        yield made


def hub(bench: Bench, code: str) -> list[str]:
    """Run code with kagglehub as alice; return what it printed behind GOT (it prints every request too)."""
    env = {**bench.environment(), "KAGGLE_API_ENVIRONMENT": "TEST"}
    words = [client_python(), "-c", f"import kagglehub\n{code}"]
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return [line.removeprefix("GOT ") for line in done.stdout.splitlines() if line.startswith("GOT ")]
