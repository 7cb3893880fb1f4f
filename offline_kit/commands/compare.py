"""The commands that compare: a kit with what is on Kaggle, and two kits with each other."""

import sys
from pathlib import Path
from typing import Any

import click

from offline_kit.commands.options import (
    NOTEBOOK_FLAGS,
    PATH,
    TO_OPTIONS,
    common,
    load_config,
    project_argument,
)
from offline_kit.console import Console
from offline_kit.errors import Exit


@click.command()
@project_argument
@TO_OPTIONS
@click.option("--dataset", metavar="SLUG", help="Slug of the private dataset on Kaggle.")
@click.option("--out", type=PATH, metavar="DIR", help="Where the kit is; default dist/offline-kit.")
@click.option("--deep", is_flag=True, help="Download every file and compare its bytes.")
@click.option("--no-notebook", is_flag=True, help="Compare the datasets alone.")
@common
def verify(project: Path, *, quiet: bool, as_json: bool, deep: bool, no_notebook: bool, **flags: Any) -> None:
    """Compare what is on Kaggle with the kit on this disk, file by file."""
    from offline_kit import pipeline, shipping, summary_compare
    from offline_kit.push import verify as verifying

    console = Console(quiet=quiet, as_json=as_json)
    to, at = flags.pop("to"), flags.pop("at")
    config = load_config(project, {**dict.fromkeys(NOTEBOOK_FLAGS), **flags})
    kit = pipeline.kit_of(config)
    scope = verifying.Scope(deep=deep, notebook=not no_notebook)
    with shipping.where(to, at, console) as there, shipping.port(config, there) as port:
        found = verifying.verify(kit, port.datasets(kit), port.kaggle, scope, console)
    summary_compare.show_verification(found, console)
    if found.problems:
        sys.exit(Exit.PROJECT)
