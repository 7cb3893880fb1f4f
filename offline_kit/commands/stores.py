"""The commands about images, and about what is kept between builds."""

import click

from offline_kit.commands.options import common
from offline_kit.console import Console


@click.group()
def image() -> None:
    """Kaggle's images, as data."""


@image.command("list")
@common
def image_list(*, quiet: bool, as_json: bool) -> None:
    """List the built-in images."""
    from offline_kit import summary

    summary.show_images(Console(quiet=quiet, as_json=as_json))


@image.command("show")
@click.argument("name")
@click.argument("package", required=False)
@common
def image_show(name: str, package: str | None, *, quiet: bool, as_json: bool) -> None:
    """Show an image, or one package in it."""
    from offline_kit import summary

    summary.show_image(name, package, Console(quiet=quiet, as_json=as_json))


@click.group()
def cache() -> None:
    """Look after the downloads, built wheels and environments kept between builds."""


@cache.command("prune")
@click.option(
    "--days", type=click.IntRange(min=0), default=30, show_default=True, help="Keep what was used so lately."
)
@common
def cache_prune(days: int, *, quiet: bool, as_json: bool) -> None:
    """Remove what was not used lately."""
    from offline_kit import pipeline, summary

    summary.show_pruned(pipeline.prune(days), Console(quiet=quiet, as_json=as_json))
