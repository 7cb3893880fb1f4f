"""The command that shows a rehearsal to a person."""

from pathlib import Path
from typing import Any

import click

from offline_kit.cli import options
from offline_kit.cli.console import Console
from offline_kit.core import processes


@options.command("offline-kit report", "offline-kit report --no-open")
@options.project_argument
@options.OUT
@click.option(
    "--open/--no-open",
    "opens",
    default=None,
    help="Open it in a browser, or not; default: only at a terminal.",
)
@options.common_options
def report(project: Path, console: Console, opens: bool | None, **flags: Any) -> None:
    """Open the report of the last rehearsal, and print its path.

    It is a single HTML file, updated with what was pushed, submitted and scored since.
    """
    from offline_kit.workflow import rehearsal_report

    page = rehearsal_report.find_report(options.load_config(project, flags), console)
    console.print_lines([str(page)])
    is_opened = console.is_watched() if opens is None else opens
    if is_opened and not processes.open_in_browser(page):
        console.warn(f"no browser could be opened; open '{page}' yourself")
        is_opened = False
    console.print_result({"ok": True, "report": str(page), "opened": is_opened})
