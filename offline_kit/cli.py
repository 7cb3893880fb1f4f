"""The command line: one short function per command; parse, call, show, exit."""

import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from offline_kit import __version__, crash
from offline_kit.console import Console
from offline_kit.errors import Exit, OfflineKitError

if TYPE_CHECKING:
    from offline_kit.config import Config

Command = Callable[..., Any]
PATH = click.Path(path_type=Path)


def _common(command: Command) -> Command:
    """Add what every command takes."""
    command = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")(
        command
    )
    return click.option("-q", "--quiet", is_flag=True, help="Say only warnings and errors.")(command)


def _project(command: Command) -> Command:
    return click.argument("project", default=".", type=PATH)(command)


def _options(*options: Command) -> Command:
    def add(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add


BUILD_OPTIONS = _options(
    click.option("-r", "--requirements", multiple=True, type=PATH, metavar="FILE", help="Requirements file; repeat for more."),
    click.option("-c", "--checkpoint", "checkpoints", multiple=True, metavar="GLOB", help="Checkpoint file, folder or glob; repeat for more."),
    click.option("--dataset", metavar="SLUG", help="Slug of the private dataset on Kaggle."),
    click.option("--competition", metavar="SLUG", help="Slug of the competition."),
    click.option("--competition-data", type=PATH, metavar="DIR", help="Local copy of its data, for rehearsals."),
    click.option("--image", metavar="NAME|FILE", help="Kaggle image to build for (see `image list`)."),
    click.option("--accelerator", metavar="NAME", help="Machine shape on Kaggle; default none (CPU)."),
    click.option("--package", "packages", multiple=True, type=PATH, metavar="DIR", help="Own package to build as a wheel."),
    click.option("--module", "modules", multiple=True, type=PATH, metavar="PATH", help="Folder of modules or .py file to ship as it is."),
    click.option("--template", metavar="NAME|FILE", help="Notebook template: lightning, function, plain, or your own file."),
    click.option("--model", metavar="REF", help="Model class: package.module:Class or file.py:Class."),
    click.option("--data", metavar="REF", help="Data class, written likewise."),
    click.option("--function", metavar="REF", help="For the template `function`: module:function or file.py:function."),
    click.option("--exclude", multiple=True, metavar="NAME", help="Package never to bundle."),
    click.option("--include", multiple=True, metavar="NAME", help="Package to bundle although the image has it."),
    click.option("--replace", multiple=True, metavar="NAME", help="Protected package that may replace the image's."),
    click.option("--engine", type=click.Choice(["auto", "uv", "pip-tools"]), help="Resolver of the freeze."),
    click.option("--sdists", type=click.Choice(["both", "rename", "wheel"]), help="How packages without wheels travel."),
    click.option("--out", type=PATH, metavar="DIR", help="Where the kit goes; default dist/offline-kit."),
    click.option("--upgrade", is_flag=True, help="Freeze anew, with the newest versions that fit."),
)  # fmt: skip

NOTEBOOK_FLAGS = ("template", "model", "data", "function")


def _config(project: Path, flags: dict[str, Any]) -> "Config":
    from offline_kit import config

    for name in ("competition_data", "out"):
        flags[name] = flags[name].absolute() if flags.get(name) else None
    for name in ("requirements", "packages", "modules"):
        flags[name] = tuple(path.absolute() for path in flags.get(name, ()))
    notebook = {name: flags.pop(name) for name in NOTEBOOK_FLAGS}
    return config.load(project, flags | {"notebook": notebook})


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="offline-kit")
def cli() -> None:
    """Take a project and its checkpoints to an offline Kaggle code competition."""


@cli.command()
@_project
@BUILD_OPTIONS
@click.option("--dry-run", is_flag=True, help="Say what would be built; write nothing.")
@_common
def build(project: Path, *, quiet: bool, as_json: bool, dry_run: bool, upgrade: bool, **flags: Any) -> None:
    """Freeze, download, pack and render: the kit and its notebook."""
    from offline_kit import pipeline, summary

    console = Console(quiet=quiet, as_json=as_json)
    config = _config(project, flags)
    if dry_run:
        summary.show_plan(pipeline.plan(config, upgrade=upgrade, report=console), console)
        return
    summary.show_build(pipeline.build(config, upgrade=upgrade, report=console), console)


@cli.command()
@_project
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
@_common
def rehearse(project: Path, *, quiet: bool, as_json: bool, upgrade: bool, no_build: bool, **flags: Any) -> None:  # fmt: skip
    """Build what changed, then run the notebook offline and check its submission."""
    from offline_kit import pipeline, summary

    console = Console(quiet=quiet, as_json=as_json)
    names = ("env", "installer", "layout", "timeout", "yes")
    wishes = pipeline.Wishes(**{name: flags.pop(name) for name in names}, confirm=console.confirm)
    config = _config(project, flags)
    if no_build:
        kit = pipeline.kit_of(config)
    else:
        built = pipeline.build(config, upgrade=upgrade, report=console)
        summary.show_build(built, console, final=False)
        kit = built.kit
    summary.show_rehearsal(pipeline.rehearse(config, kit, wishes, report=console), console)


TO_OPTIONS = _options(
    click.option("--to", type=click.Choice(["kaggle", "local"]), default="kaggle", show_default=True, help="The real Kaggle, or one on this machine."),
    click.option("--at", metavar="URL", default="", help="Address of a running local Kaggle; without one, it is served meanwhile."),
)  # fmt: skip


@cli.command()
@_project
@BUILD_OPTIONS
@TO_OPTIONS
@click.option("--no-build", is_flag=True, help="Push the kit as it lies there.")
@click.option("--title", default="", help="Title of a new dataset; default its slug.")
@click.option("--drop-foreign", is_flag=True, help="Files on Kaggle that are not ours may go.")
@click.option("--public", is_flag=True, help="A dataset that is public already may take the kit.")
@click.option("--dry-run", is_flag=True, help="Look at Kaggle and say what would be done; send nothing.")
@_common
def push(project: Path, *, quiet: bool, as_json: bool, upgrade: bool, no_build: bool, **flags: Any) -> None:
    """Build what changed, then upload what Kaggle lacks and wait until it is there."""
    from offline_kit import pipeline, shipping, summary
    from offline_kit.push.dataset_plan import Wishes

    console = Console(quiet=quiet, as_json=as_json)
    to, at = flags.pop("to"), flags.pop("at")
    wishes = Wishes(**{name: flags.pop(name) for name in ("title", "drop_foreign", "public")})
    dry_run = flags.pop("dry_run")
    config = _config(project, flags)
    if no_build or dry_run:  # a dry run writes nothing: it is about the kit that lies there
        kit = pipeline.kit_of(config)
    else:
        kit = pipeline.build(config, upgrade=upgrade, report=console).kit
    with shipping.where(to, at, console) as there, shipping.shipment(config, kit, there) as ship:
        if dry_run:
            summary.show_push_plan(shipping.plan_data(ship, wishes, console), console)
        else:
            summary.show_push(shipping.push_data(ship, wishes, console), kit, console)


@cli.command("local")
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
@_common  # fmt: skip
def local_kaggle(*, quiet: bool, as_json: bool, **flags: Any) -> None:
    """Serve a local Kaggle, for `--to local` and for the unmodified client."""
    from offline_kit.local_kaggle import start

    start.serve(Console(quiet=quiet, as_json=as_json), **flags)


@cli.command()
@_project
@BUILD_OPTIONS
@_common
def status(project: Path, *, quiet: bool, as_json: bool, **flags: Any) -> None:
    """Say what is built and how its last rehearsal went."""
    from offline_kit import pipeline, summary

    flags.pop("upgrade")
    found = pipeline.status(_config(project, flags))
    summary.show_status(found, Console(quiet=quiet, as_json=as_json))
    if found.problems:
        sys.exit(Exit.PROJECT)


@cli.group()
def image() -> None:
    """Kaggle's images, as data."""


@image.command("list")
@_common
def image_list(*, quiet: bool, as_json: bool) -> None:
    """List the built-in images."""
    from offline_kit import summary

    summary.show_images(Console(quiet=quiet, as_json=as_json))


@image.command("show")
@click.argument("name")
@click.argument("package", required=False)
@_common
def image_show(name: str, package: str | None, *, quiet: bool, as_json: bool) -> None:
    """Show an image, or one package in it."""
    from offline_kit import summary

    summary.show_image(name, package, Console(quiet=quiet, as_json=as_json))


@cli.group()
def cache() -> None:
    """Look after the downloads, built wheels and environments kept between builds."""


@cache.command("prune")
@click.option(
    "--days", type=click.IntRange(min=0), default=30, show_default=True, help="Keep what was used so lately."
)
@_common
def cache_prune(days: int, *, quiet: bool, as_json: bool) -> None:
    """Remove what was not used lately."""
    from offline_kit import pipeline, summary

    summary.show_pruned(pipeline.prune(days), Console(quiet=quiet, as_json=as_json))


def _terminated(_signal: int, _frame: object) -> None:
    raise KeyboardInterrupt


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with the code that errors.py tells."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    console = Console(as_json="--json" in words)
    signal.signal(signal.SIGTERM, _terminated)  # a CI's or scheduler's end is an interrupt: nothing half made
    code: int = Exit.DONE
    try:
        cli.main(args=words, prog_name="offline-kit", standalone_mode=False)
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
        place = crash.write_report(error, words, Path.cwd())
        console.bug(type(error).__name__, place)
        code = Exit.BUG
    sys.exit(code)
