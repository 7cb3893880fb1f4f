"""The entry point; each command is a short function in commands/ that parses, calls a workflow and shows the result."""

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import click

from offline_kit import __version__
from offline_kit.cli import crash_report
from offline_kit.cli.command_wording import CommandContext, CommandWording
from offline_kit.cli.commands import adopt, compare, kaggle, kit, render, start, stores
from offline_kit.cli.console import Console, ReaderGoneError, unwritable_error
from offline_kit.cli.help_format import CommandGroup
from offline_kit.core import files, processes
from offline_kit.core.errors import Exit, OfflineKitError

if TYPE_CHECKING:
    from offline_kit.kaggle.push.poll_policy import KaggleTiming


@click.group(cls=CommandGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="offline-kit")
def cli() -> None:
    """Take a project and its checkpoints to an offline Kaggle code competition."""


for command in (
    start.init,
    adopt.adopt,
    kit.build,
    render.notebook,
    kit.rehearse,
    kaggle.push,
    kaggle.submit,
    kaggle.ship_command,
    compare.verify,
    compare.diff,
    kit.status,
    start.doctor,
    stores.image,
    stores.cache,
    kaggle.local_kaggle,
    start.completion,
):
    cli.add_command(command)


def _raise_interrupt(_signal: int, _frame: object) -> None:
    raise KeyboardInterrupt


def main(arguments: Sequence[str] | None = None, *, timing: "KaggleTiming | None" = None) -> None:
    """Run the command line, with this patience with Kaggle, and exit with a code of `core.errors.Exit`."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    wording = CommandWording()
    console = Console(as_json="--json" in words, words=wording)
    signal.signal(
        signal.SIGTERM, _raise_interrupt
    )  # CI systems and schedulers stop a job with SIGTERM: clean up as for Ctrl-C
    try:
        code = _run_command(words, console, CommandContext(wording, timing))
    except OSError:
        if _write_problem(sys.stderr, probe=b"\n") is None:
            raise
        code = Exit.OUTSIDE  # stderr cannot be written, so the exit code alone reports the failure
    for stream in (sys.stdout, sys.stderr):
        _let_go(stream)
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
        error.show()
        console.report_usage(error.format_message())
        return Exit.USAGE
    except (KeyboardInterrupt, click.Abort):
        console.report_interrupt()
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
        report_path = crash_report.write_report(
            error, words, Path(), crash_report.environment_secrets(processes.copy_environment())
        )
    console.report_bug(type(error).__name__, report_path)
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


def _let_go(stream: TextIO | None) -> None:
    """Redirect a broken stream to devnull: Python flushes it again at exit and would print its own error."""
    if stream is not None and _write_problem(stream):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
