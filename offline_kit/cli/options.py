"""Options that several commands share, and the configuration read from them."""

import glob
import os
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from offline_kit.cli.command_wording import CommandContext, CommandWording
from offline_kit.cli.console import Console
from offline_kit.project.config_keys import ENGINES, ENVIRONMENTS, KAGGLES, SDISTS

if TYPE_CHECKING:
    from offline_kit.project.config import Config
    from offline_kit.project.types import Kit
    from offline_kit.workflow.kaggle_session import KaggleSession
    from offline_kit.workflow.ship import ApprovalPolicy

Command = Callable[..., Any]
PATH = click.Path(path_type=Path)


def common_options(command: Command) -> Command:
    """Add the options of every command."""
    command = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")(
        command
    )
    return click.option("-q", "--quiet", is_flag=True, help="Print only warnings and errors.")(command)


def console_of(*, quiet: bool, as_json: bool) -> Console:
    """Return the console of the running command."""
    return Console(quiet=quiet, as_json=as_json, words=_command_wording())


def _command_wording() -> CommandWording:
    return _command_context().wording


def _command_context() -> CommandContext:
    context = click.get_current_context().obj
    return context if isinstance(context, CommandContext) else CommandContext()


def _word_tables(_context: click.Context, _parameter: click.Parameter, project: Path) -> Path:
    """Make messages name the tables as in the project's file, and the project as it was typed."""
    from offline_kit.project import config

    _command_wording().on_top = config.has_top_level_tables(project)
    _command_wording().project = "" if project.absolute() == Path.cwd() else str(project)
    return project


def project_argument(command: Command) -> Command:
    """Add the project's folder, by default the current one."""
    return click.argument("project", default=".", type=PATH, callback=_word_tables)(command)


def combine_options(*options: Command) -> Command:
    """Return one decorator that adds all of these options in their order."""

    def add_options(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add_options


REQUIREMENTS = click.option("-r", "--requirements", multiple=True, type=PATH, metavar="FILE", help="Requirements file. Repeatable.")  # fmt: skip
CHECKPOINTS = click.option("-c", "--checkpoint", "checkpoints", multiple=True, metavar="GLOB", help="Checkpoint file, folder or glob, in the project or in the current folder. Repeatable.")  # fmt: skip
COMPETITION_DATA = click.option("--competition-data", type=PATH, metavar="DIR", help="Local copy of the competition's data, for the rehearsal.")  # fmt: skip
KIT_OPTIONS = combine_options(
    click.option("--dataset", metavar="SLUG", help="Slug of the private dataset on Kaggle."),
    click.option("--competition", metavar="SLUG", help="Slug of the competition."),
    click.option("--out", type=PATH, metavar="DIR", help="Folder of the kit; default dist/offline-kit."),
)
RENDER_OPTIONS = combine_options(
    CHECKPOINTS,
    click.option("--image", metavar="NAME|FILE", help="Kaggle image to build for; see `offline-kit image list`."),
    click.option("--accelerator", metavar="NAME", help="Machine shape on Kaggle; default none (CPU)."),
    click.option("--package", "packages", multiple=True, type=PATH, metavar="DIR", help="Own package to build as a wheel. Repeatable."),
    click.option("--module", "modules", multiple=True, type=PATH, metavar="PATH", help="Folder of modules or .py file to copy into the kit. Repeatable."),
    click.option("--template", metavar="NAME|FILE", help="Notebook template: lightning, predict, function, server, plain, or your own file."),
    click.option("--model", metavar="REF", help="Model class: package.module:Class or file.py:Class."),
    click.option("--data", metavar="REF", help="Data class, in the same form."),
    click.option("--function", metavar="REF", help="Function of the template `function`: module:function or file.py:function."),
    KIT_OPTIONS,
)  # fmt: skip
BUILD_OPTIONS = combine_options(
    REQUIREMENTS,
    RENDER_OPTIONS,
    click.option("--exclude", multiple=True, metavar="NAME", help="Package never to bundle. Repeatable."),
    click.option("--include", multiple=True, metavar="NAME", help="Package to bundle although the image has it. Repeatable."),
    click.option("--replace", multiple=True, metavar="NAME", help="Protected package that may replace the image's. Repeatable."),
    click.option("--engine", type=click.Choice(ENGINES), help="Resolver of the freeze."),
    click.option("--sdists", type=click.Choice(SDISTS), help="Bundle packages without wheels as a wheel built here, as their renamed source, or as both."),
    click.option("--upgrade", is_flag=True, help="Resolve again, to the newest versions that fit."),
)  # fmt: skip

NOTEBOOK_FLAGS = ("template", "model", "data", "function")


def load_config(project: Path, flags: dict[str, Any]) -> "Config":
    """Return the project's configuration with the flags of a command laid over it."""
    from offline_kit.project import config

    for name in ("competition_data", "out"):
        flags[name] = flags[name].absolute() if flags.get(name) else None
    for name in ("requirements", "packages", "modules"):
        flags[name] = tuple(path.absolute() for path in flags.get(name, ()))
    flags["checkpoints"] = tuple(
        _in_project(project, pattern_given) for pattern_given in flags.get("checkpoints", ())
    )
    notebook = {name: flags.pop(name, None) for name in NOTEBOOK_FLAGS}
    return config.load_config(project, flags | {"notebook": notebook})


def _in_project(project: Path, pattern: str) -> str:
    """Return a checkpoint's pattern relative to the project: a shell completes names of the current folder."""
    root, cwd = project.absolute(), Path.cwd()
    typed = Path(pattern).is_absolute() or pattern.startswith("~") or not pattern.strip()
    if typed or root == cwd or _matching_names(root, pattern) or not _matching_names(cwd, pattern):
        return pattern
    absolute = Path(os.path.normpath(cwd / pattern))
    inside = absolute.is_relative_to(os.path.normpath(root))
    return absolute.relative_to(os.path.normpath(root)).as_posix() if inside else str(absolute)


def _matching_names(folder: Path, pattern: str) -> bool:
    if os.path.lexists(folder / pattern):
        return True
    matches = glob.iglob(pattern, root_dir=folder, recursive=True)  # noqa: PTH207 - as the checkpoints are found
    return next(matches, None) is not None


def word_target(_context: click.Context, parameter: click.Parameter, value: Any) -> Any:
    """Make messages name the Kaggle that was typed."""
    if parameter.name == "at":
        _command_wording().at = value
    else:
        _command_wording().local = value == "local"
    return value


def choice_option(
    name: str, choices: Sequence[str], text: str, callback: Callable[..., Any] | None = None
) -> Command:
    """Return an option with a fixed list of values; the first is the default."""
    kind = click.Choice(choices)
    return click.option(name, type=kind, default=choices[0], show_default=True, callback=callback, help=text)


def on_options(text: str) -> Command:
    """Return the options --on and --at."""
    return combine_options(choice_option("--on", ("here", *KAGGLES), text, word_target), AT)


AT = click.option(
    "--at", metavar="URL", default="", callback=word_target, help="Address of a running local Kaggle."
)
TO_OPTIONS = combine_options(
    choice_option("--to", KAGGLES, "Kaggle, or a local Kaggle on this machine.", word_target),
    click.option("--at", metavar="URL", default="", callback=word_target, help="Address of a running local Kaggle; default: this command serves one."),
)  # fmt: skip

LOCAL_ENV = click.option(
    "--env",
    type=click.Choice(ENVIRONMENTS),
    help="With --to local: run notebooks with the image's versions (default), or in the running environment.",
)
YES = click.option("--yes", is_flag=True, help="Do not ask for confirmation.")


def runs_current(env: str | None, to: str, at: str) -> bool:
    """Return whether the local Kaggle of this command runs notebooks in the running environment.

    Raises UsageError if --env is given but this command serves no local Kaggle.
    """
    from offline_kit.core.errors import UsageError

    if env and (to != "local" or at):
        raise UsageError(
            f"--env {env} needs a local Kaggle that this command serves",
            code="option-needs-local-kaggle",
            hint="remove it; set the environment of a running local Kaggle with 'offline-kit local --env'"
            if at
            else "add --to local, or remove --env",
        )
    return env == "current"


def take_flags(flags: dict[str, Any], *names: str) -> dict[str, Any]:
    """Remove these flags and return them by name, in this order."""
    return {name: flags.pop(name) for name in names}


_NOT_REPEATED = frozenset({"dry_run", "on", "at", "as_json", "quiet", "upgrade"})


def typed_settings(*only: str) -> str:
    """Return the project and the settings typed for this command, to repeat them in a suggested command."""
    context = click.get_current_context()
    words: list[str] = []
    for parameter in context.command.params:
        name = str(parameter.name)
        by = context.get_parameter_source(name)
        if (
            name in _NOT_REPEATED
            or (only and name not in only)
            or by is not click.core.ParameterSource.COMMANDLINE
        ):
            continue
        typed_value = context.params[name]
        for value in typed_value if isinstance(typed_value, tuple) else (typed_value,):
            words += [*parameter.opts[:1]] * isinstance(parameter, click.Option) + [str(value)]
    return "".join(f" {shlex.quote(word)}" for word in words)


def confirmation(console: Console, *, yes: bool) -> "ApprovalPolicy":
    """Return the policy to ask before a submission is spent."""
    from offline_kit.workflow.ship import ApprovalPolicy

    return ApprovalPolicy(yes=yes, confirm=console.confirm, alone=not console.can_ask())


@contextmanager
def kit_of(
    config: "Config", console: Console, *, no_build: bool, dry_run: bool, upgrade: bool
) -> "Iterator[Kit]":
    """Yield the existing kit or build it first; in a dry run, yield its outline and write nothing."""
    from offline_kit.workflow import kaggle_session, pipeline

    if no_build:
        yield kaggle_session.check_kit(pipeline.kit_of(config))
    elif dry_run:
        with pipeline.outline_build(config, upgrade=upgrade, report=console) as (_, kit):
            yield kit
    else:
        yield pipeline.build_kit(config, upgrade=upgrade, report=console).kit


@contextmanager
def session_of(
    config: "Config", to: str, at: str, console: Console, *, current: bool = False
) -> "Iterator[KaggleSession]":
    """Yield a logged-in session with Kaggle or a local Kaggle."""
    from offline_kit.kaggle.push.poll_policy import DEFAULT_TIMING
    from offline_kit.workflow import kaggle_session

    timing = _command_context().timing or DEFAULT_TIMING
    with (
        kaggle_session.choose_kaggle(to, at, console, project=config.project, current=current) as endpoint,
        kaggle_session.open_session(config, endpoint, console, timing) as session,
    ):
        yield session
