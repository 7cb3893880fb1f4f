"""The commands that go to Kaggle, or to a local one."""

from pathlib import Path
from typing import Any

import click

from offline_kit.commands.options import (
    BUILD_OPTIONS,
    PATH,
    TO_OPTIONS,
    common,
    load_config,
    project_argument,
)
from offline_kit.console import Console


@click.command()
@project_argument
@BUILD_OPTIONS
@TO_OPTIONS
@click.option("--no-build", is_flag=True, help="Push the kit as it lies there.")
@click.option("--title", default="", help="Title of a new dataset; default its slug.")
@click.option("--drop-foreign", is_flag=True, help="Files on Kaggle that are not ours may go.")
@click.option("--public", is_flag=True, help="A dataset that is public already may take the kit.")
@click.option("--dry-run", is_flag=True, help="Look at Kaggle and say what would be done; send nothing.")
@common
def push(project: Path, *, quiet: bool, as_json: bool, upgrade: bool, no_build: bool, **flags: Any) -> None:
    """Build what changed, then upload what Kaggle lacks and wait until it is there."""
    from offline_kit import pipeline, shipping, summary
    from offline_kit.push.dataset_plan import Wishes

    console = Console(quiet=quiet, as_json=as_json)
    to, at = flags.pop("to"), flags.pop("at")
    wishes = Wishes(**{name: flags.pop(name) for name in ("title", "drop_foreign", "public")})
    dry_run = flags.pop("dry_run")
    config = load_config(project, flags)
    if no_build or dry_run:  # a dry run writes nothing: it is about the kit that lies there
        kit = pipeline.kit_of(config)
    else:
        kit = pipeline.build(config, upgrade=upgrade, report=console).kit
    with shipping.where(to, at, console) as there, shipping.port(config, there) as port:
        if dry_run:
            summary.show_push_plan(shipping.plan_data(port, kit, wishes, console), console)
        else:
            summary.show_push(shipping.push_data(port, kit, wishes, console), kit, console)


@click.command("local")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8642,
    show_default=True,
    help="Port on 127.0.0.1; 0 for a free one.",
)
@click.option("--state", type=PATH, metavar="DIR", help="Folder of its state; default in the cache.")
@click.option(
    "--competition",
    "competitions",
    multiple=True,
    type=PATH,
    metavar="DIR",
    help="Folder with a competition.toml; repeat for more.",
)
@click.option(
    "--env",
    type=click.Choice(["matching", "current"]),
    default="matching",
    show_default=True,
    help="Run notebooks in the versions of their kit's image, or in the running environment.",
)
@common  # fmt: skip
def local_kaggle(*, quiet: bool, as_json: bool, **flags: Any) -> None:
    """Serve a local Kaggle, for `--to local` and for the unmodified client."""
    from offline_kit.local_kaggle import start

    start.serve(Console(quiet=quiet, as_json=as_json), **flags)
