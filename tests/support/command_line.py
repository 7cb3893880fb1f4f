"""The command line inside this process: what it prints and how it ends, without the start of another Python.

What is about the process itself (signals, pipes, a terminal, the time until `--help`) starts one.
"""

import contextlib
import contextvars
import io
import json
import os
import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

from offline_kit.cli.main import main
from offline_kit.kaggle.push.poll_policy import ClientSettings


@dataclass(frozen=True, kw_only=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str
    seconds: float = 0.0

    @property
    def facts(self) -> dict[str, Any]:
        """What it printed with --json."""
        return dict(json.loads(self.out))

    def good(self) -> "Done":
        """Return itself, or fail with what the command said."""
        assert self.code == 0, f"exit code {self.code}\n{self.err[-6000:]}"
        return self

    def failed(self, code: int, *words: str) -> "Done":
        """Return itself, or fail where it ended otherwise or does not say all of these words."""
        said = " ".join(self.err.replace("│", " ").split())
        assert (self.code, [word for word in words if word not in said]) == (code, []), self.err[-5000:]
        return self


def offline_kit(
    *words: str | Path,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    client: ClientSettings | None = None,
) -> "CompletedProcess[str]":
    """Run `offline-kit WORDS` in a folder and with this whole environment, those of the tests where not given."""
    argv = [*map(str, words)]
    out, err = _stream(), _stream()
    with (
        _inside(Path.cwd() if cwd is None else cwd, os.environ if env is None else env),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        code = contextvars.copy_context().run(_code, argv, client)
    return CompletedProcess(argv, code, _text(out), _text(err))


def _code(argv: list[str], client: ClientSettings | None) -> int:
    try:
        main(argv, client=client)
    except SystemExit as end:
        return int(end.code or 0)
    raise AssertionError("main always exits")


@contextlib.contextmanager
def _inside(folder: Path, env: Mapping[str, str]) -> Iterator[None]:
    usual, ours, at_term = dict(os.environ), dict(env), signal.getsignal(signal.SIGTERM)
    try:
        os.environ.clear()
        os.environ.update(ours)
        with contextlib.chdir(folder):
            yield
    finally:
        os.environ.clear()
        os.environ.update(usual)
        signal.signal(signal.SIGTERM, at_term)


def _stream() -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(), encoding="utf-8", newline="\n")


def _text(stream: io.TextIOWrapper) -> str:
    stream.flush()
    data = stream.buffer
    assert isinstance(data, io.BytesIO)
    return data.getvalue().decode()
