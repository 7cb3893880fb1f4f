"""The command line: its front door; each command is one short function in commands/: parse, call, show."""

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from offline_kit import __version__, crash, proc
from offline_kit.commands import adopt, compare, kaggle, kit, render, start, stores
from offline_kit.console import Console
from offline_kit.errors import Exit, OfflineKitError
from offline_kit.wording import Words


class _InOrder(click.Group):
    """Lists its commands in the order in which they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(self.commands)


@click.group(cls=_InOrder, context_settings={"help_option_names": ["-h", "--help"]})
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
):
    cli.add_command(command)


def _terminated(_signal: int, _frame: object) -> None:
    raise KeyboardInterrupt


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with the code that errors.py tells."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    wording = Words()
    console = Console(as_json="--json" in words, words=wording)
    signal.signal(signal.SIGTERM, _terminated)  # a CI's or scheduler's end is an interrupt: nothing half made
    code: int = Exit.DONE
    try:
        cli.main(args=words, prog_name="offline-kit", standalone_mode=False, obj=wording)
    except OfflineKitError as error:
        console.error(error)
        code = error.exit_code
    except click.ClickException as error:
        error.show()
        console.usage(error.format_message())
        code = Exit.USAGE
    except (KeyboardInterrupt, click.Abort):
        console.interrupted()
        # Python would first wait for every thread that still reads from a silent server.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(Exit.INTERRUPTED)
    except BrokenPipeError:
        code = Exit.DONE  # `offline-kit image show … | head` is no failure
    except Exception as error:  # noqa: BLE001 - whatever escapes is our bug, and leaves a report
        place = crash.write_report(error, words, Path.cwd(), crash.secrets_of(proc.environment()))
        console.bug(type(error).__name__, place)
        code = Exit.BUG
    sys.exit(code)
