"""The commands about images and the cache."""

from pathlib import Path

import click

from offline_kit.cli.help_format import CommandGroup
from offline_kit.cli.options import PATH, common_options, console_of, session_of, word_target


@click.group(cls=CommandGroup)
def image() -> None:
    """List, show and capture Kaggle's images."""


@image.command("list", examples=("offline-kit image list", "offline-kit image list --json"))
@common_options
def image_list(*, quiet: bool, as_json: bool) -> None:
    """List the built-in images."""
    from offline_kit.cli.summaries import kit as summary

    summary.show_images(console_of(quiet=quiet, as_json=as_json))


@image.command(
    "show",
    examples=(
        "offline-kit image show kaggle-2026-10-gpu torch",
        "offline-kit image show kaggle-2026-10-cpu --constraints > constraints.txt",
    ),
)
@click.argument("name")
@click.argument("package", required=False)
@click.option(
    "--constraints",
    is_flag=True,
    help="Print its versions as a constraints file, to train with the same ones: `pip install -c`.",
)
@common_options
def image_show(name: str, package: str | None, *, quiet: bool, as_json: bool, constraints: bool) -> None:
    """Show an image, or one package in it."""
    from offline_kit.cli.summaries import kit as summary

    if constraints and not package:
        summary.show_constraints(name, console_of(quiet=quiet, as_json=as_json))
        return
    summary.show_image(name, package, console_of(quiet=quiet, as_json=as_json))


@image.command(
    "capture",
    examples=(
        "offline-kit image capture --accelerator NvidiaTeslaT4",
        "offline-kit image capture --on here -o my-image.toml",
    ),
)
@click.option(
    "--on",
    type=click.Choice(["kaggle", "local", "here"]),
    default="kaggle",
    show_default=True,
    callback=word_target,
    help="Capture with a private notebook on Kaggle or on a local Kaggle, or capture the running environment.",
)
@click.option(
    "--at", metavar="URL", default="", callback=word_target, help="Address of a running local Kaggle."
)
@click.option(
    "--accelerator", metavar="NAME", help="Machine shape whose image to capture; default none (CPU)."
)
@click.option(
    "-o", "--output", type=PATH, metavar="FILE", help="File to write; default the image's name with .toml."
)
@common_options
def image_capture(on: str, at: str, accelerator: str | None, output: Path | None, *, quiet: bool, as_json: bool) -> None:  # fmt: skip
    """Capture an image and its packages as a file for --image."""
    from offline_kit.cli.summaries import kit as summary
    from offline_kit.project import config
    from offline_kit.workflow import build_remotely

    console = console_of(quiet=quiet, as_json=as_json)
    if on == "here":
        text = build_remotely.capture_here()
    else:
        settings = config.load_config(Path.cwd(), {"accelerator": accelerator})
        with session_of(settings, on, at, console, current=True) as session:
            text = build_remotely.capture_on_kaggle(settings, session, console)
    path = output or Path(f"{build_remotely.name_of(text)}.toml")
    summary.show_captured(build_remotely.write_image(text, path), path, console)


@click.group(cls=CommandGroup, short_help="Manage the cache.")
def cache() -> None:
    """Manage the cache of downloads, built wheels and environments."""


@cache.command("prune", examples=("offline-kit cache prune", "offline-kit cache prune --days 7"))
@click.option(
    "--days",
    type=click.IntRange(min=0),
    default=30,
    show_default=True,
    help="Keep what was used within this number of days.",
)
@common_options
def cache_prune(days: int, *, quiet: bool, as_json: bool) -> None:
    """Delete what has not been used lately."""
    from offline_kit.cli.summaries import kit as summary
    from offline_kit.workflow import pipeline

    summary.show_pruned(pipeline.prune_cache(days), console_of(quiet=quiet, as_json=as_json))
