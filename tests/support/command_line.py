"""The command line inside this process: what it prints and how it ends, without the start of another Python.

What is about the process itself (signals, pipes, a terminal, the time until `--help`) starts one.
"""

import contextlib
import contextvars
import io
import os
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from subprocess import CompletedProcess

from offline_kit.cli.main import main
from offline_kit.kaggle.push.poll_policy import ClientSettings


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
