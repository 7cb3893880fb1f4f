"""The one door to other programs: run a command, show its output, end it with us."""

import os
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from offline_kit.core.errors import OfflineKitError, OutsideError


@dataclass(frozen=True, kw_only=True)
class CompletedCommand:
    """A finished command."""

    argv: tuple[str, ...]
    """What was run."""
    code: int
    """Exit code; negative is the signal that ended it."""
    out: str
    """Its standard output."""
    err: str
    """Its standard error; empty when merged into the log."""
    timed_out: bool = False
    """It was ended because its time was up."""

    @property
    def succeeded(self) -> bool:
        """Whether it ended well."""
        return self.code == 0

    def last_lines(self, lines: int = 12) -> tuple[str, ...]:
        """Return the last lines that it said, errors first choice."""
        return tuple((self.err.strip() or self.out.strip()).splitlines()[-lines:])


class CommandError(OfflineKitError):
    """A command that had to succeed did not; stages translate it into their own words."""

    def __init__(self, done: CompletedCommand) -> None:
        super().__init__(
            f"'{Path(done.argv[0]).name}' ended with code {done.code}",
            hint="its last words stand above",
            details=done.last_lines(),
        )
        self.done = done


class CommandRunner(Protocol):
    """The shape of `run`, so that a stage can take another runner."""

    def __call__(
        self,
        argv: Sequence[str | Path],
        *,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float | None = None,
        check: bool = True,
        log: Path | None = None,
    ) -> CompletedCommand:
        """Run a command; see `run`."""


def find_program(name: str) -> Path | None:
    """Return the program's path, or None if there is none."""
    program = shutil.which(name)
    return Path(program) if program else None


def copy_environment(**changes: str | None) -> dict[str, str]:
    """Return a copy of the environment with `changes` laid over it; None removes a variable."""
    env = dict(os.environ)
    for name, value in changes.items():
        if value is None:
            env.pop(name, None)
        else:
            env[name] = value
    return env


def run_command(
    argv: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float | None = None,
    check: bool = True,
    log: Path | None = None,
) -> CompletedCommand:
    """Run a command to its end and return what it said.

    The command gets a process group of its own, which is ended as a whole when the time (seconds) is up
    or we are interrupted, so that nothing is left behind. With `log`, both streams go there as they come
    and `out` holds the log's text. Raises CommandError unless it ends with 0 or `check` is off, and
    OutsideError if the program cannot be started.
    """
    words = tuple(str(word) for word in argv)
    sink = log.open("ab") if log else None
    streams = _Streams(stdout=sink, stderr=subprocess.STDOUT) if sink else _Streams()
    try:
        process = _start_process(words, streams, env, cwd)
    finally:
        if sink:
            sink.close()
    out, err, timed_out = _wait_for_output(process, timeout)
    text = log.read_text(errors="replace") if log else out
    completed = CompletedCommand(argv=words, code=process.returncode, out=text, err=err, timed_out=timed_out)
    if check and not completed.succeeded:
        raise CommandError(completed)
    return completed


def _wait_for_output(process: "subprocess.Popen[bytes]", timeout: float | None) -> tuple[str, str, bool]:
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        end_process(process)
        out, err = process.communicate()
        return _decode_output(out), _decode_output(err), True
    except BaseException:
        end_process(process)
        raise
    return _decode_output(out), _decode_output(err), False


def end_process(process: "subprocess.Popen[bytes]", grace: float = 5.0) -> None:
    """End a process group: asked first, killed after `grace` seconds."""
    for sig in (signal.SIGTERM, getattr(signal, "SIGKILL", signal.SIGTERM)):
        with suppress(ProcessLookupError, PermissionError):
            if hasattr(os, "killpg"):
                os.killpg(process.pid, sig)
            else:
                process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(grace)
            return


def start_process(
    argv: Sequence[str | Path], *, cwd: Path | None = None, env: Mapping[str, str] | None = None, log: Path
) -> "subprocess.Popen[bytes]":
    """Start a command whose life the caller watches; both streams go to `log`.

    It gets a process group of its own; `end` it. Raises OutsideError if it cannot be started.
    """
    with log.open("ab") as sink:
        return _start_process(argv, _Streams(stdout=sink, stderr=subprocess.STDOUT), env, cwd)


def wait_for_process(process: "subprocess.Popen[bytes]", seconds: float) -> None:
    """Wait until a process ends, at most this many seconds."""
    with suppress(subprocess.TimeoutExpired):
        process.wait(seconds)


def start_conversation(
    argv: Sequence[str | Path], *, env: Mapping[str, str] | None = None, errors: IO[bytes]
) -> "subprocess.Popen[bytes]":
    """Start a command that is spoken to through its stdin and stdout; what it says on stderr goes to `errors`.

    It gets a process group of its own, so that an interrupt at the terminal reaches us alone; `end` it.
    Raises OutsideError if it cannot be started.
    """
    return _start_process(argv, _Streams(stdin=subprocess.PIPE, stderr=errors), env)


@dataclass(frozen=True, kw_only=True)
class _Streams:
    """What a command is connected to: open files, or one of subprocess's numbers."""

    stdin: int | IO[bytes] = subprocess.DEVNULL
    stdout: int | IO[bytes] = subprocess.PIPE
    stderr: int | IO[bytes] = subprocess.PIPE


def _start_process(
    argv: Sequence[str | Path],
    streams: _Streams,
    env: Mapping[str, str] | None,
    cwd: Path | None = None,
) -> "subprocess.Popen[bytes]":
    words = [str(word) for word in argv]
    try:
        return subprocess.Popen(
            words,
            cwd=cwd,
            env=env,
            stdin=streams.stdin,
            stdout=streams.stdout,
            stderr=streams.stderr,
            start_new_session=True,
        )
    except OSError as error:
        raise OutsideError(
            f"cannot start '{words[0]}': {error.strerror}",
            code="program-not-started",
            hint="install it, or check PATH",
        ) from error


def _decode_output(data: bytes | None) -> str:
    return (data or b"").decode(errors="replace")
