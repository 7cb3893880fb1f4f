"""The commands about the kit on this machine."""

import sys
from pathlib import Path
from typing import Any

import click

from offline_kit.commands.options import (
    BUILD_OPTIONS,
    common,
    load_config,
    project_argument,
)
from offline_kit.console import Console
from offline_kit.errors import Exit


@click.command()
@project_argument
@BUILD_OPTIONS
@click.option("--dry-run", is_flag=True, help="Say what would be built; write nothing.")
@common
def build(project: Path, *, quiet: bool, as_json: bool, dry_run: bool, upgrade: bool, **flags: Any) -> None:
    """Freeze, download, pack and render: the kit and its notebook."""
    from offline_kit import pipeline, summary

    console = Console(quiet=quiet, as_json=as_json)
    config = load_config(project, flags)
    if dry_run:
        summary.show_plan(pipeline.plan(config, upgrade=upgrade, report=console), console)
        return
    summary.show_build(pipeline.build(config, upgrade=upgrade, report=console), console)


@click.command()
@project_argument
@BUILD_OPTIONS
@click.option("--no-build", is_flag=True, help="Rehearse the kit as it lies there.")
@click.option(
    "--env",
    type=click.Choice(["matching", "current"]),
    default="matching",
    show_default=True,
    help="Run in the image's versions, or in the running environment.",
)
@click.option(
    "--installer",
    type=click.Choice(["auto", "uv", "pip"]),
    default="auto",
    show_default=True,
    help="What the notebook installs with.",
)
@click.option(
    "--layout",
    type=click.Choice(["new", "old"]),
    default="new",
    show_default=True,
    help="Mount layout below /kaggle/input.",
)
@click.option("--rows", type=click.IntRange(min=1), help="Rehearse on so many rows of the test set.")
@click.option(
    "--timeout",
    type=click.IntRange(min=1),
    metavar="SECONDS",
    help="Wall-clock limit; default the competition's.",
)
@click.option("--yes", is_flag=True, help="Download a large environment without asking.")
@common
def rehearse(project: Path, *, quiet: bool, as_json: bool, upgrade: bool, no_build: bool, **flags: Any) -> None:  # fmt: skip
    """Build what changed, then run the notebook offline and check its submission."""
    from offline_kit import pipeline, summary

    console = Console(quiet=quiet, as_json=as_json)
    names = ("env", "installer", "layout", "timeout", "yes")
    wishes = pipeline.Wishes(**{name: flags.pop(name) for name in names}, confirm=console.confirm)
    config = load_config(project, flags)
    if no_build:
        kit = pipeline.kit_of(config)
    else:
        built = pipeline.build(config, upgrade=upgrade, report=console)
        summary.show_build(built, console, final=False)
        kit = built.kit
    summary.show_rehearsal(pipeline.rehearse(config, kit, wishes, report=console), console)


@click.command()
@project_argument
@BUILD_OPTIONS
@common
def status(project: Path, *, quiet: bool, as_json: bool, **flags: Any) -> None:
    """Say what is built and how its last rehearsal went."""
    from offline_kit import pipeline, summary

    flags.pop("upgrade")
    found = pipeline.status(load_config(project, flags))
    summary.show_status(found, Console(quiet=quiet, as_json=as_json))
    if found.problems:
        sys.exit(Exit.PROJECT)
