"""The look of a command's help, the options that several commands share, and the configuration read from them."""

import functools
import glob
import os
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from offline_kit.cli.console import CommandWording, Console
from offline_kit.project.config_keys import ENGINES, KAGGLES, KEYS, SDISTS

if TYPE_CHECKING:
    from offline_kit.kaggle.push.poll_policy import ClientSettings
    from offline_kit.project.config import Config
    from offline_kit.workflow.kaggle_session import KaggleSession

Command = Callable[..., Any]
PATH = click.Path(path_type=Path)
_USUAL = "Common options"
_GROUPS = {
    "Build options": "image accelerator packages modules template model data function exclude include replace engine"
    " sdists upgrade",
    "Kaggle options": "dataset competition to on at title drop_foreign public resend resend_part message wait again"
    " late version",
    "Output options": "out output into verbose quiet as_json",
}  # the names of the parameters in each group; all others are common ones


class HelpCommand(click.Command):
    """A command whose help has its options in groups, and examples that can be copied."""

    def __init__(self, *arguments: Any, examples: Sequence[str] = (), **attributes: Any) -> None:
        """Take complete command lines as `examples`, and what click takes."""
        super().__init__(*arguments, **attributes)
        self.examples = tuple(examples)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, one section for each group."""
        records: dict[str, list[tuple[str, str]]] = {title: [] for title in (_USUAL, *_GROUPS)}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record and isinstance(parameter, click.Option):  # click 8.5 lists arguments here, too
                titles = [title for title, names in _GROUPS.items() if parameter.name in names.split()]
                records[titles[0] if titles else _USUAL].append(record)
        for title, rows in records.items():
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples, never wrapped."""
        super().format_epilog(ctx, formatter)
        if self.examples:
            with formatter.section("Examples"):
                for example in self.examples:
                    formatter.write(f"{'':{formatter.current_indent}}{example}\n")


class CommandGroup(click.Group):
    """A group that lists its commands in the order in which they are used."""

    command_class = HelpCommand

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Return the names in the order in which the commands were added."""
        return list(self.commands)


@dataclass(frozen=True)
class CommandContext:
    """What `main` hands to the command that it runs, as click's context object."""

    wording: CommandWording = field(default_factory=CommandWording)
    client: "ClientSettings | None" = None  # None: the usual ones


def _command_context() -> CommandContext:
    return click.get_current_context().ensure_object(CommandContext)  # shell completion has none


def command(*examples: str, short_help: str | None = None, name: str | None = None) -> Command:
    """Return the decorator of a command with these examples, complete command lines."""
    return click.command(name, cls=HelpCommand, short_help=short_help, examples=examples)


def common_options(function: Command) -> Command:
    """Add the options of every command, which is called with the `console` that they ask for."""

    @functools.wraps(function)
    def run(*, quiet: bool, as_json: bool, **parameters: Any) -> None:
        console = Console(quiet=quiet, as_json=as_json, words=_command_context().wording)
        function(console=console, **parameters)

    options = (
        flag("-q --quiet", "Print only warnings and errors."),
        flag("--json as_json", "Print one JSON object on stdout."),
    )
    decorated: Command = combine_options(*options)(run)
    return decorated


def flag(names: str, text: str) -> Command:
    """Return an option without a value."""
    return click.option(*names.split(), is_flag=True, help=text)


def value(names: str, metavar: str, text: str, **attributes: Any) -> Command:
    """Return an option with a value."""
    return click.option(*names.split(), metavar=metavar, help=text, **attributes)


def repeated(names: str, metavar: str, text: str, **attributes: Any) -> Command:
    """Return an option that may be given several times."""
    return value(names, metavar, f"{text} Repeatable.", multiple=True, **attributes)


def project_argument(function: Command) -> Command:
    """Add the project's folder, by default the current one; messages name it and its tables as they are written."""

    def word_project(_context: click.Context, _parameter: click.Parameter, project: Path) -> Path:
        from offline_kit.project import config

        wording = _command_context().wording
        wording.on_top = config.has_top_level_tables(project)
        wording.project = "" if project.absolute() == Path.cwd() else str(project)
        return project

    return click.argument("project", default=".", type=PATH, callback=word_project)(function)


def combine_options(*options: Command) -> Command:
    """Return one decorator that adds all of these options in their order."""

    def add_options(function: Command) -> Command:
        for option in reversed(options):
            function = option(function)
        return function

    return add_options


COMPETITION_DATA = value(
    "--competition-data", "DIR", "Local copy of the competition's data, for the rehearsal.", type=PATH
)
OUT = value("--out", "DIR", "Folder of the kit; default dist/offline-kit.", type=PATH)
DATASET = value("--dataset", "SLUG", "Slug of the private dataset on Kaggle.")
KIT_OPTIONS = combine_options(DATASET, value("--competition", "SLUG", "Slug of the competition."), OUT)
RENDER_OPTIONS = combine_options(
    repeated(
        "-c --checkpoint checkpoints",
        "GLOB",
        "Checkpoint file, folder or glob, in the project or in the current folder.",
    ),
    value("--image", "NAME|FILE", "Kaggle image to build for; see `offline-kit image list`."),
    value("--accelerator", "NAME", "Machine shape on Kaggle; default none (CPU)."),
    repeated("--package packages", "DIR", "Own package to build as a wheel.", type=PATH),
    repeated("--module modules", "PATH", "Folder of modules or .py file to copy into the kit.", type=PATH),
    value(
        "--template",
        "NAME|FILE",
        "Notebook template: lightning, predict, function, server, plain, or your own file.",
    ),
    value("--model", "REF", "Model class: package.module:Class or file.py:Class."),
    value("--data", "REF", "Data class, in the same form."),
    value("--function", "REF", "Function of the template `function`: module:function or file.py:function."),
    KIT_OPTIONS,
)
BUILD_OPTIONS = combine_options(
    repeated("-r --requirements", "FILE", "Requirements file.", type=PATH),
    RENDER_OPTIONS,
    repeated("--exclude", "NAME", "Package never to bundle."),
    repeated("--include", "NAME", "Package to bundle although the image has it."),
    repeated("--replace", "NAME", "Protected package that may replace the image's."),
    click.option("--engine", type=click.Choice(ENGINES), help="Resolver of the freeze."),
    click.option(
        "--sdists",
        type=click.Choice(SDISTS),
        help="Bundle packages without wheels as a wheel built here, as their renamed source, or as both.",
    ),
    flag("--upgrade", "Resolve again, to the newest versions that fit."),
)


def load_config(project: Path, flags: dict[str, Any]) -> "Config":
    """Return the project's configuration with those of a command's flags laid over it that are its keys."""
    from offline_kit.project import config

    names = (*KEYS, "template", "model", "data", "function")
    flags = {name: value for name, value in flags.items() if name in names}
    for name in ("competition_data", "out"):
        flags[name] = flags[name].absolute() if flags.get(name) else None
    hidden = flags.get("hidden")
    if hidden and hidden.partition(":")[0] not in ("auto", "none"):
        flags["hidden"] = str(Path(hidden).absolute())
    for name in ("requirements", "packages", "modules"):
        flags[name] = tuple(path.absolute() for path in flags.get(name, ()))
    patterns = flags.get("checkpoints", ())
    flags["checkpoints"] = tuple(_in_project(project, pattern) for pattern in patterns)
    notebook = {name: flags.pop(name, None) for name in ("template", "model", "data", "function")}
    return config.load_config(project, flags | {"notebook": notebook})


def _in_project(project: Path, pattern: str) -> str:
    """Return a checkpoint's pattern relative to the project: a shell completes names of the current folder."""
    root, cwd = project.absolute(), Path.cwd()

    def has_match(folder: Path) -> bool:
        # The first match is enough: a project may hold thousands of files.
        matches = glob.iglob(pattern, root_dir=folder, recursive=True)  # noqa: PTH207 - as the checkpoints are found
        return os.path.lexists(folder / pattern) or any(matches)

    return pattern if has_match(root) or not has_match(cwd) else os.path.relpath(cwd / pattern, root)


def word_target(_context: click.Context, parameter: click.Parameter, value: Any) -> Any:
    """Make messages name the Kaggle that was typed."""
    if parameter.name == "at":
        _command_context().wording.at = value
    else:
        _command_context().wording.local = value == "local"
    return value


CONTAINER = value("--container", "REF", "Rehearse in this container image of podman or docker (--env image).")


def choice_option(
    name: str, choices: Sequence[str], text: str, callback: Callable[..., Any] | None = None
) -> Command:
    """Return an option with a fixed list of values; the first is the default."""
    kind = click.Choice(choices)
    return click.option(name, type=kind, default=choices[0], show_default=True, callback=callback, help=text)


def on_options(text: str) -> Command:
    """Return the options --on and --at."""
    return combine_options(choice_option("--on", ("here", *KAGGLES), text, word_target), AT)


AT = value(
    "--at",
    "URL",
    "Address of a running local Kaggle; default: this command serves one.",
    default="",
    callback=word_target,
)
TO_OPTIONS = combine_options(
    choice_option("--to", KAGGLES, "Kaggle, or a local Kaggle on this machine.", word_target), AT
)
HIDDEN = combine_options(
    value(
        "--hidden",
        "FOLDER|auto|none",
        "Run once more as in the scoring run, on other data: made from the public data (auto), or a folder.",
    ),
    value(
        "--hidden-rows",
        "N",
        "Rows of the hidden test set, to forecast its time and memory.",
        type=click.IntRange(min=1),
    ),
)
VERBOSE = flag("-v --verbose", "Show the contents of an unchanged kit, too.")
YES = flag("--yes", "Do not ask for confirmation.")


def select(flags: dict[str, Any], names: str) -> dict[str, Any]:
    """Return these flags by name."""
    return {name: flags[name] for name in names.split()}


_NOT_REPEATED = frozenset({"dry_run", "on", "at", "as_json", "quiet", "verbose", "upgrade"})


def typed_settings(*only: str) -> str:
    """Return the project and the settings typed for this command, to repeat them in a suggested command."""
    context = click.get_current_context()
    words: list[str] = []
    for parameter in context.command.params:
        name = str(parameter.name)
        is_typed = context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
        if name in _NOT_REPEATED or (only and name not in only) or not is_typed:
            continue
        typed_value = context.params[name]
        for value in typed_value if isinstance(typed_value, tuple) else (typed_value,):
            words += [*parameter.opts[:1]] * isinstance(parameter, click.Option) + [str(value)]
    return "".join(f" {shlex.quote(word)}" for word in words)


@contextmanager
def session_of(
    config: "Config", to: str, at: str, console: Console, *, current: bool = False
) -> "Iterator[KaggleSession]":
    """Yield a logged-in session with Kaggle or a local Kaggle."""
    from offline_kit.kaggle.push.poll_policy import DEFAULT_CLIENT
    from offline_kit.workflow import kaggle_session

    client = _command_context().client or DEFAULT_CLIENT
    with (
        kaggle_session.choose_kaggle(to, at, console, project=config.project, current=current) as endpoint,
        kaggle_session.open_session(config, endpoint, console, client) as session,
    ):
        yield session
