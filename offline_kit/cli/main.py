"""The entry point: run a command, show its failure, and exit with the right code, whatever broke."""

import os
import platform
import re
import signal
import sys
import tempfile
import traceback
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import click

from offline_kit import __version__
from offline_kit.cli.commands import adopt, build, compare, ship, start, stores
from offline_kit.cli.console import CommandWording, Console, ReaderGoneError, unwritable_error
from offline_kit.cli.options import CommandContext, CommandGroup
from offline_kit.core import files, processes
from offline_kit.core.errors import Exit, OfflineKitError, UsageError
from offline_kit.core.redaction import CREDENTIALS, redact_secrets

if TYPE_CHECKING:
    from offline_kit.kaggle.push.poll_policy import ClientSettings

CRASH_REPORT = "offline-kit-crash.log"
_SECRET_NAME = re.compile(r"(?i)token|secret|passw|key|credential")
_SHORT = 5  # longest value that is not redacted: replacing short ones would make a report unreadable


@click.group(cls=CommandGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="offline-kit")
def cli() -> None:
    """Take a project and its checkpoints to an offline Kaggle code competition."""


for command in (
    start.init,
    adopt.adopt,
    build.build,
    build.notebook,
    ship.rehearse,
    ship.report,
    ship.push,
    ship.submit,
    ship.ship_command,
    compare.verify,
    compare.diff,
    compare.status,
    start.doctor,
    stores.image,
    stores.cache,
    start.local_kaggle,
    start.completion,
):
    cli.add_command(command)


def main(arguments: Sequence[str] | None = None, *, client: "ClientSettings | None" = None) -> None:
    """Run the command line, with these settings of Kaggle's client, and exit with a code of `core.errors.Exit`."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    wording = CommandWording()
    console = Console(as_json="--json" in words, words=wording)

    # CI systems and schedulers stop a job with SIGTERM: clean up as for Ctrl-C
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        code = _run_command(words, console, CommandContext(wording, client))
    except OSError:
        if _write_problem(sys.stderr, probe=b"\n") is None:
            raise
        code = Exit.OUTSIDE  # stderr cannot be written, so the exit code alone reports the failure
    for stream in (sys.stdout, sys.stderr):
        # Python flushes a broken stream again at exit, and would print its own error.
        if stream is not None and _write_problem(stream):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    sys.exit(code)


def _run_command(words: list[str], console: Console, context: CommandContext) -> int:
    """Run one command, show its error if it fails, and return its exit code."""
    try:
        if not {"--help", "-h", "--version"} & set(words):
            files.check_surroundings(words)
        cli.main(args=words, prog_name="offline-kit", standalone_mode=False, obj=context)
    except OfflineKitError as error:
        console.show_error(error)
        return error.exit_code
    except click.ClickException as error:
        return _show_usage_error(error, console)
    except (KeyboardInterrupt, click.Abort):
        console.show_error(
            OfflineKitError("interrupted", hint="run the same command again to continue", code="interrupted")
        )
        # sys.exit would wait for threads that still read from a silent server:
        # https://docs.python.org/3/library/threading.html#thread-objects
        for stream in (sys.stdout, sys.stderr):
            _write_problem(stream)
        os._exit(Exit.INTERRUPTED)
    except ReaderGoneError:
        return Exit.DONE  # `offline-kit image show … | head` is no failure
    except Exception as error:  # noqa: BLE001 - whatever escapes is our bug, and leaves a report
        return _report_unexpected(error, words, console)
    return _flush_streams(console) or Exit.DONE


def _show_usage_error(error: click.ClickException, console: Console) -> int:
    """Show an error of click as one of ours; a command that only groups others shows its help."""
    context = error.ctx if isinstance(error, click.UsageError) else None
    command = context.command_path if context else "offline-kit"
    message = error.format_message().rstrip(".")
    if type(error).__name__ == "NoArgsIsHelpError":  # of click 8.2 or newer: a group alone shows its help
        error.show()
        message = f"'{command}' needs a command"
        console.print_failure("usage", message, f"see `{command} --help`")
    else:
        message = message[:1].lower() + message[1:]
        console.show_error(UsageError(message, hint=f"see `{command} --help`", code="usage"))
    return Exit.USAGE


def _report_unexpected(error: Exception, words: list[str], console: Console) -> int:
    """Report an unexpected exception: a bug, unless a stream or the disk failed."""
    if isinstance(error, OSError) and (code := _flush_streams(console, probe=b"\n")):
        return code
    try:
        with files.translate_disk_errors(files.cache_dir()):
            raise error
    except OfflineKitError as known:  # a full disk, or a limit on the size of files
        console.show_error(known)
        return known.exit_code
    except Exception:  # noqa: BLE001 - the bug itself
        secrets = environment_secrets(processes.copy_environment())
        path = write_report(error, words, Path(), secrets)
    bug = f"this is a bug in offline-kit: {type(error).__name__}"
    console.show_error(OfflineKitError(bug, hint=f"report it, with the file '{path}'", code="bug"))
    return Exit.BUG


def _flush_streams(console: Console, probe: bytes = b"") -> int:
    """Flush stdout and stderr; on failure, report it and return the exit code."""
    refused = _write_problem(sys.stdout, probe)
    if refused and not isinstance(refused, BrokenPipeError):
        console.show_error(unwritable_error(refused.strerror or str(refused)))
        return Exit.OUTSIDE
    return Exit.OUTSIDE if _write_problem(sys.stderr, probe) else 0


def _write_problem(stream: TextIO | None, probe: bytes = b"") -> OSError | None:
    """Flush a standard stream and write `probe` to it; return the error, or None."""
    try:
        if stream is not None:
            stream.flush()
            if probe:
                os.write(stream.fileno(), probe)
    except OSError as error:
        return error
    return None


def environment_secrets(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Return the values of variables that are secrets by their names, and passwords in the addresses of others."""
    values = [value for name, value in environment.items() if _SECRET_NAME.search(name)]
    logins = (match["user"] for value in environment.values() for match in CREDENTIALS.finditer(value))
    values += [login.partition(":")[2] for login in logins]
    return tuple(sorted({value for value in values if len(value) > _SHORT}, key=len, reverse=True))


def write_report(
    error: BaseException, words: Sequence[str], folder: Path, secrets: Iterable[str] = ()
) -> Path:
    """Write the crash report into `folder`, else the temporary folder, without secrets."""
    lines = [
        f"offline-kit {__version__}, Python {platform.python_version()}, {platform.platform()}",
        "command: offline-kit " + " ".join(words),
        "",
        *traceback.format_exception(error),
    ]
    text = "\n".join(lines)
    for secret in secrets:
        text = text.replace(secret, "***")
    for own in (True, False):
        with suppress(OSError):  # gettempdir raises, too, if no folder is writable
            path = (folder if own else Path(tempfile.gettempdir())) / CRASH_REPORT
            # Paths may hold bytes that are no UTF-8.
            path.write_text(redact_secrets(text) + "\n", encoding="utf-8", errors="backslashreplace")
            return path
    return Path("(nowhere: no folder was writable)")
