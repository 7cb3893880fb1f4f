"""The commands about images, and about what is kept between builds."""

from pathlib import Path

import click

from offline_kit.cli.options import PATH, common_options, console_of, session_of, word_target


@click.group()
def image() -> None:
    """Kaggle's images, as data."""


@image.command("list")
@common_options
def image_list(*, quiet: bool, as_json: bool) -> None:
    """List the built-in images."""
    from offline_kit.cli.summaries import kit as summary

    summary.show_images(console_of(quiet=quiet, as_json=as_json))


@image.command("show")
@click.argument("name")
@click.argument("package", required=False)
@click.option(
    "--constraints", is_flag=True, help="Print its versions for `pip install -c`: to train with them."
)
@common_options
def image_show(name: str, package: str | None, *, quiet: bool, as_json: bool, constraints: bool) -> None:
    """Show an image, or one package in it."""
    from offline_kit.cli.summaries import kit as summary

    if constraints and not package:
        summary.show_constraints(name, console_of(quiet=quiet, as_json=as_json))
        return
    summary.show_image(name, package, console_of(quiet=quiet, as_json=as_json))


@image.command("capture")
@click.option(
    "--on",
    type=click.Choice(["kaggle", "local", "here"]),
    default="kaggle",
    show_default=True,
    callback=word_target,
    help="By a private notebook on Kaggle or on a local one, or of the running environment.",
)
@click.option(
    "--at", metavar="URL", default="", callback=word_target, help="Address of a running local Kaggle."
)
@click.option(
    "--accelerator", metavar="NAME", help="Machine shape whose image is wanted; default none (CPU)."
)
@click.option(
    "-o", "--output", type=PATH, metavar="FILE", help="Where to; default the image's name with .toml."
)
@common_options
def image_capture(on: str, at: str, accelerator: str | None, output: Path | None, *, quiet: bool, as_json: bool) -> None:  # fmt: skip
    """Write down what an image is and holds, as a file for --image."""
    from offline_kit.cli.summaries import kit as summary
    from offline_kit.project import config
    from offline_kit.workflow import build_remotely

    console = console_of(quiet=quiet, as_json=as_json)
    if on == "here":
        text = build_remotely.capture_here()
    else:
        settings = config.load_config(Path.cwd(), {"accelerator": accelerator})
        with session_of(settings, on, at, console, current=True) as port:
            text = build_remotely.capture_on_kaggle(settings, port, console)
    path = output or Path(f"{build_remotely.name_of(text)}.toml")
    summary.show_captured(build_remotely.write_image(text, path), path, console)


@click.group(short_help="Look after what is kept between builds.")
def cache() -> None:
    """Look after the downloads, built wheels and environments kept between builds."""


@cache.command("prune")
@click.option(
    "--days",
    type=click.IntRange(min=0),
    default=30,
    show_default=True,
    help="Keep what was used within so many days.",
)
@common_options
def cache_prune(days: int, *, quiet: bool, as_json: bool) -> None:
    """Remove what was not used lately."""
    from offline_kit.cli.summaries import kit as summary
    from offline_kit.workflow import pipeline

    summary.show_pruned(pipeline.prune_cache(days), console_of(quiet=quiet, as_json=as_json))
