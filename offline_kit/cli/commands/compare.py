"""The commands that compare: a kit with what is on Kaggle, and two kits with each other."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from offline_kit.cli.help_format import HelpCommand
from offline_kit.cli.options import (
    PATH,
    TO_OPTIONS,
    common_options,
    console_of,
    load_config,
    project_argument,
    session_of,
)
from offline_kit.core.errors import Exit
from offline_kit.project.kaggle_names import MARKER

if TYPE_CHECKING:
    from offline_kit.project.types import Kit


@click.command(
    cls=HelpCommand,
    short_help="Compare what is on Kaggle with the local kit.",
    examples=("offline-kit verify --deep", "offline-kit verify --to local --no-notebook"),
)
@project_argument
@TO_OPTIONS
@click.option("--dataset", metavar="SLUG", help="Slug of the private dataset on Kaggle.")
@click.option("--out", type=PATH, metavar="DIR", help="Folder of the kit; default dist/offline-kit.")
@click.option("--deep", is_flag=True, help="Download every file and compare its bytes.")
@click.option("--no-notebook", is_flag=True, help="Compare only the data.")
@common_options
def verify(project: Path, *, quiet: bool, as_json: bool, deep: bool, no_notebook: bool, **flags: Any) -> None:
    """Compare what is on Kaggle with the local kit, file by file."""
    from offline_kit.cli.summaries import compare as summary_compare
    from offline_kit.kaggle.push import verify_remote as verifying
    from offline_kit.workflow import pipeline

    console = console_of(quiet=quiet, as_json=as_json)
    to, at = flags.pop("to"), flags.pop("at")
    config = load_config(project, flags)
    kit = pipeline.kit_of(config)
    scope = verifying.VerifyOptions(deep=deep, notebook=not no_notebook)
    with session_of(config, to, at, console) as session:
        arguments = (session.part_datasets(kit), session.kaggle, scope, console, session.other_locations(kit))
        verification = verifying.verify_kit(kit, *arguments)
    summary_compare.show_verification(verification, console)
    if verification.problems:
        sys.exit(Exit.PROJECT)


@click.command(
    cls=HelpCommand,
    short_help="Compare two kits.",
    examples=("offline-kit diff ../other-project", "offline-kit diff old-kit dist/offline-kit --exit-code"),
)
@click.argument("old", type=PATH)
@click.argument("new", type=PATH, default=".")
@click.option("--exit-code", is_flag=True, help="Exit with 1 if the kits differ.")
@common_options
def diff(old: Path, new: Path, *, quiet: bool, as_json: bool, exit_code: bool) -> None:
    """Compare two kits, each given as its folder or its project's; NEW defaults to the current project's kit."""
    from offline_kit.cli.summaries import compare as summary_compare
    from offline_kit.kit import diff as differing

    sides = [differing.read_snapshot(_read_kit(folder)) for folder in (old, new)]
    difference = differing.compare_kits(*sides)
    summary_compare.show_difference(difference, console_of(quiet=quiet, as_json=as_json))
    if exit_code and not difference.is_identical:
        sys.exit(Exit.PROJECT)


def _read_kit(folder: Path) -> "Kit":
    """Return the kit in a folder, or that of the project there."""
    from offline_kit.kit import manifest
    from offline_kit.workflow import pipeline

    dataset = folder / "dataset"
    if (dataset / MARKER).is_file() or any(dataset.glob(f"*/{MARKER}")):
        return manifest.read_kit(folder)
    return pipeline.kit_of(load_config(folder, {}))
