"""The only module that runs other programs: run a command, read its output, end it with its children."""

import os
import signal
import subprocess
import sys
import webbrowser
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from offline_kit.core.errors import OfflineKitError, OutsideError


@dataclass(frozen=True, kw_only=True)
class CompletedCommand:
    """A finished command."""

    argv: tuple[str, ...]
    code: int  # exit code; negative is the signal that ended it
    out: str
    err: str  # empty if both streams went to a log
    timed_out: bool = False

    @property
    def succeeded(self) -> bool:
        """Whether it ended with code 0."""
        return self.code == 0

    def last_lines(self, lines: int = 12) -> tuple[str, ...]:
        """Return the last lines of its errors, or of its output if it wrote no errors."""
        return tuple((self.err.strip() or self.out.strip()).splitlines()[-lines:])


class CommandError(OfflineKitError):
    """A command that had to succeed failed; callers translate this into their own words."""

    def __init__(self, done: CompletedCommand) -> None:
        super().__init__(
            f"'{Path(done.argv[0]).name}' ended with code {done.code}",
            hint="fix what it reports, then run again",
            details=done.last_lines(),
        )
        self.done = done


def copy_environment(**changes: str | None) -> dict[str, str]:
    """Return a copy of the environment with `changes`; None removes a variable."""
    return {name: value for name, value in {**os.environ, **changes}.items() if value is not None}


def open_in_browser(page: Path) -> bool:
    """Open a local page in the user's browser (BROWSER, else the system's); return whether that worked."""
    environment = copy_environment()
    has_screen = sys.platform in ("win32", "darwin") or any(
        environment.get(name) for name in ("BROWSER", "DISPLAY", "WAYLAND_DISPLAY")
    )
    # Without a screen, webbrowser would start lynx or w3m in the terminal.
    return has_screen and webbrowser.open(page.resolve().as_uri())


def run_command(
    argv: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float | None = None,
    check: bool = True,
    log: Path | None = None,
) -> CompletedCommand:
    """Run a command to its end and return its output.

    The command gets a process group of its own, which is ended as a whole when the time (seconds) is up or we are
    interrupted. With `log`, both streams are appended there as they come, and `out` is the log's text. Raises
    CommandError unless it ends with 0 or `check` is off, and OutsideError if the program cannot be started.
    """
    if log:
        process = start_process(argv, cwd=cwd, env=env, log=log)
    else:
        process = _start_process(argv, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    timed_out = False
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        timed_out = True
        end_process(process)
        out, err = process.communicate()
    except BaseException:
        end_process(process)
        raise
    completed = CompletedCommand(
        argv=tuple(map(str, argv)),
        code=process.returncode,
        out=log.read_text(errors="replace") if log else out.decode(errors="replace"),
        err=(err or b"").decode(errors="replace"),
        timed_out=timed_out,
    )
    if check and not completed.succeeded:
        raise CommandError(completed)
    return completed


def start_process(
    argv: Sequence[str | Path], *, cwd: Path | None = None, env: Mapping[str, str] | None = None, log: Path
) -> "subprocess.Popen[bytes]":
    """Start a command in a process group of its own; both streams go to `log`; raise OutsideError if it does not start."""
    with log.open("ab") as sink:
        return _start_process(argv, cwd=cwd, env=env, stdout=sink, stderr=subprocess.STDOUT)


def count_cores() -> int | None:
    """Return how many cores this thread may use; None if the system has no affinities (macOS, Windows)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


@contextmanager
def limit_cores(cores: int | None) -> Iterator[None]:
    """Let what this thread starts use at most so many cores, if the system has affinities."""
    if cores is None or (count_cores() or 0) <= cores:
        yield
        return
    # Before the start: a process that was started could have children by the time it is limited. On Linux an affinity
    # is the thread's own and inherited (https://man7.org/linux/man-pages/man2/sched_setaffinity.2.html).
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(allowed)[:cores])
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def run_in_terminal(
    argv: Sequence[str | Path], *, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> int:
    """Run a command with our terminal and return its exit code; its output goes to stderr, as stdout may be JSON."""
    process = _start_process(argv, cwd=cwd, env=env, stdin=None, stdout=2, stderr=None, own_session=False)
    try:
        return process.wait()
    except BaseException:
        process.terminate()  # an interrupt at the terminal reached it as well
        process.wait()
        raise


def start_conversation(
    argv: Sequence[str | Path], *, env: Mapping[str, str] | None = None, errors: IO[bytes]
) -> "subprocess.Popen[bytes]":
    """Start a command that is used through its stdin and stdout; its stderr goes to `errors`.

    It gets a process group of its own, so that an interrupt at the terminal reaches only us.
    """
    pipe = subprocess.PIPE
    return _start_process(argv, env=env, stdin=pipe, stdout=pipe, stderr=errors)


def wait_for_process(process: "subprocess.Popen[bytes]", seconds: float) -> None:
    """Wait until a process ends, at most this many seconds."""
    with suppress(subprocess.TimeoutExpired):
        process.wait(seconds)


def end_process(process: "subprocess.Popen[bytes]", grace: float = 5.0) -> None:
    """Terminate a process group, and kill it if it has not ended after `grace` seconds."""
    for sig in (signal.SIGTERM, getattr(signal, "SIGKILL", signal.SIGTERM)):
        with suppress(ProcessLookupError, PermissionError):
            if hasattr(os, "killpg"):
                os.killpg(process.pid, sig)
            else:  # Windows has no process groups of this kind
                process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(grace)
            return


def _start_process(
    argv: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None,
    cwd: Path | None = None,
    stdin: int | None = subprocess.DEVNULL,
    stdout: int | IO[bytes],
    stderr: int | IO[bytes] | None,
    own_session: bool = True,
) -> "subprocess.Popen[bytes]":
    words = [str(word) for word in argv]
    try:
        # A session of its own is a process group of its own: an interrupt at the terminal reaches only us, and
        # `end_process` ends the command together with its children.
        return subprocess.Popen(
            words, cwd=cwd, env=env, stdin=stdin, stdout=stdout, stderr=stderr, start_new_session=own_session
        )
    except OSError as error:
        raise OutsideError(
            f"cannot start '{words[0]}': {error.strerror}",
            code="program-not-started",
            hint="install it, or check PATH",
        ) from error
