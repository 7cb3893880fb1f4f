"""Shared by tests: `offline-kit push` as a user runs it, against the local Kaggle."""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from offline_kit.kaggle.push.poll_policy import ClientSettings, PollPolicy
from tests.support.command_line import offline_kit
from tests.support.local_kaggle import Bench, serving
from tests.support.pushing import BRISK, FILES, make_kit
from tests.support.warm_python import client_python

DATA = ("push", "--no-build", "--data-only")
KIT = {
    "packages/a-1.0-py3-none-any.whl": b"a wheel",
    "checkpoints/model.ckpt": FILES["checkpoints/model.ckpt"],
}


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """A local Kaggle that knows the account of `--to local`, and a project with a kit."""
    with serving(tmp_path) as running:
        running.kaggle.accounts.add_account("local", key="local-kaggle")
        project(running).mkdir()
        (project(running) / "offline-kit.toml").write_text('dataset = "plant-kit"\n')
        make_kit(project(running) / "dist" / "offline-kit", KIT)
        yield running


def project(bench: Bench) -> Path:
    """Return the project's folder."""
    return bench.folder / "project"


def start(bench: Bench, *words: str, env: Mapping[str, str] | None = None) -> "subprocess.Popen[str]":
    """Start a push of the data of the kit as it lies there."""
    return subprocess.Popen(
        [sys.executable, "-m", "offline_kit", *DATA, *words, str(project(bench))],
        env={**_environment(bench), **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def push(
    bench: Bench, *words: str, env: Mapping[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    """Run a push to its end, in this process."""
    env = {**_environment(bench), **(env or {})}
    return offline_kit(*DATA, *words, project(bench), env=env, client=hasty_client())


def hasty_client() -> ClientSettings:
    """Return settings for a Kaggle that answers at once."""
    poll = PollPolicy(first_interval=0.02, max_interval=0.1)
    return ClientSettings(poll=poll, retry=BRISK, client_python=client_python())


def _environment(bench: Bench) -> dict[str, str]:
    return {**os.environ, "HOME": str(bench.folder), "OFFLINE_KIT_CACHE": str(bench.folder / "cache")}


def local(bench: Bench) -> tuple[str, ...]:
    """Return the words that name the local Kaggle."""
    return ("--to", "local", "--at", bench.server.url)
