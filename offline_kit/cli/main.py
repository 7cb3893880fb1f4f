"""The command line: its front door; each command is one short function in commands/: parse, call, show."""

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

import click

from offline_kit import __version__
from offline_kit.cli import crash_report
from offline_kit.cli.command_wording import CommandWording
from offline_kit.cli.commands import adopt, compare, kaggle, kit, render, start, stores
from offline_kit.cli.console import Console, ReaderGoneError, unwritable_error
from offline_kit.cli.help_format import CommandGroup
from offline_kit.core import files, processes
from offline_kit.core.errors import Exit, OfflineKitError


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


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with the code that errors.py tells."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    wording = CommandWording()
    console = Console(as_json="--json" in words, words=wording)
    signal.signal(
        signal.SIGTERM, _raise_interrupt
    )  # a CI's or scheduler's end is an interrupt: nothing half made
    try:
        code = _run_command(words, console, wording)
    except OSError:
        if _write_problem(sys.stderr, probe=b"\n") is None:
            raise
        code = Exit.OUTSIDE  # stderr takes no word about what went wrong
    for stream in (sys.stdout, sys.stderr):
        _let_go(stream)
    sys.exit(code)


def _run_command(words: list[str], console: Console, wording: CommandWording) -> int:
    """Run one command and return its exit code, having said what went wrong."""
    try:
        if not {"--help", "-h", "--version"} & set(words):
            files.check_surroundings(words)
        cli.main(args=words, prog_name="offline-kit", standalone_mode=False, obj=wording)
    except OfflineKitError as error:
        console.show_error(error)
        return error.exit_code
    except click.ClickException as error:
        error.show()
        console.report_usage(error.format_message())
        return Exit.USAGE
    except (KeyboardInterrupt, click.Abort):
        console.report_interrupt()
        # Python would first wait for every thread that still reads from a silent server.
        for stream in (sys.stdout, sys.stderr):
            _write_problem(stream)
        os._exit(Exit.INTERRUPTED)
    except ReaderGoneError:
        return Exit.DONE  # `offline-kit image show … | head` is no failure
    except Exception as error:  # noqa: BLE001 - whatever escapes is our bug, and leaves a report
        return _report_unexpected(error, words, console)
    return _flush_streams(console) or Exit.DONE


def _report_unexpected(error: Exception, words: list[str], console: Console) -> int:
    """Say what no command foresaw: a stream that takes nothing is not our bug, all else is."""
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
    """Return 0 where the standard streams take what is written, else the code, having said so."""
    refused = _write_problem(sys.stdout, probe)
    if refused and not isinstance(refused, BrokenPipeError):
        console.show_error(unwritable_error(refused.strerror or str(refused)))
        return Exit.OUTSIDE
    return Exit.OUTSIDE if _write_problem(sys.stderr, probe) else 0


def _write_problem(stream: TextIO | None, probe: bytes = b"") -> OSError | None:
    """Return why a standard stream does not take what it still holds, nor a `probe`; None where it does."""
    try:
        if stream is not None:
            stream.flush()
            if probe:
                os.write(stream.fileno(), probe)
    except OSError as error:
        return error
    return None


def _let_go(stream: TextIO | None) -> None:
    """Send what a stream cannot write nowhere: Python tries once more at its end, with words of its own."""
    if stream is not None and _write_problem(stream):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
