"""The command that adopts an existing notebook."""

import sys
from pathlib import Path

import click

from offline_kit.cli.help_format import HelpCommand
from offline_kit.cli.options import PATH, common_options, console_of, project_argument, typed_settings
from offline_kit.core.errors import Exit, UsageError


@click.command(
    cls=HelpCommand,
    short_help="Convert a notebook that needs the internet.",
    examples=(
        "offline-kit adopt inference.ipynb",
        "offline-kit adopt inference.ipynb --import cv2=opencv-python-headless --write",
    ),
)
@click.argument("notebook", type=PATH)
@project_argument
@click.option(
    "--import",
    "imports",
    metavar="NAME[=DISTRIBUTION]",
    multiple=True,
    help="Distribution that provides an import, if it cannot be detected. Repeatable.",
)
@click.option("--write", is_flag=True, help="Write the configuration and the requirements without asking.")
@click.option("--dry-run", is_flag=True, help="Show what would change, without writing or asking.")
@common_options
def adopt(
    notebook: Path,
    project: Path,
    *,
    quiet: bool,
    as_json: bool,
    write: bool,
    dry_run: bool,
    imports: tuple[str, ...],
) -> None:
    """Convert a notebook that needs the internet into an offline project."""
    from offline_kit.adopt import adoption_plan as adopting
    from offline_kit.cli.summaries import adopt as summary_adopt

    console = console_of(quiet=quiet, as_json=as_json)
    proposal = adopting.plan_adoption(notebook, project, console, _parse_distributions(imports))
    summary_adopt.show_proposal(proposal, console)
    changes = proposal.has_changes
    asks = not (write or as_json or dry_run) and sys.stdin.isatty() and sys.stderr.isatty()
    agreed = changes and write and not dry_run
    if changes and asks:
        agreed = console.confirm(
            f"Write this into '{proposal.config_file}' and '{proposal.requirements_file.name}'?"
        )
    written = adopting.write_adoption(proposal) if agreed else ()
    ok = dry_run or not (write and proposal.is_blocking)
    summary_adopt.show_adopted(
        proposal, console, written=written, dry_run=dry_run, ok=ok, typed=typed_settings("project")
    )
    if not ok:
        sys.exit(Exit.PROJECT)


def _parse_distributions(words: tuple[str, ...]) -> dict[str, str]:
    """Return the distribution of each import; without one it is called like the import."""
    pairs = {}
    for word in words:
        name, _, distribution = word.partition("=")
        if not name.isidentifier():
            raise UsageError(
                f"'{word}' names no import", code="import-not-named", hint="write --import NAME=DISTRIBUTION"
            )
        pairs[name] = distribution or name.replace("_", "-")
    return pairs
