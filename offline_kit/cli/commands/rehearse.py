"""The command that rehearses a kit, on this machine or on Kaggle."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from offline_kit.cli.commands.build import show_build
from offline_kit.cli.commands.ship import notebook_facts
from offline_kit.cli.console import Console, count_words
from offline_kit.cli.options import (
    BUILD_OPTIONS,
    COMPETITION_DATA,
    YES,
    HelpCommand,
    choice_option,
    common_options,
    confirmation,
    console_of,
    load_config,
    on_options,
    project_argument,
    session_of,
    take_flags,
)
from offline_kit.core.errors import UsageError
from offline_kit.core.files import format_size
from offline_kit.project.config_keys import ENVIRONMENTS, INSTALLERS, LAYOUTS

if TYPE_CHECKING:
    from offline_kit.kaggle.client.api_types import Account
    from offline_kit.rehearsal.rehearse import Rehearsal
    from offline_kit.workflow.kaggle_rehearsal import KaggleRehearsal


@click.command(
    cls=HelpCommand,
    short_help="Build, then run the notebook offline and check it.",
    examples=(
        "offline-kit rehearse --competition-data input",
        "offline-kit rehearse --no-build --env current --rows 100",
    ),
)
@project_argument
@BUILD_OPTIONS
@COMPETITION_DATA
@click.option("--no-build", is_flag=True, help="Rehearse the existing kit without rebuilding it.")
@choice_option("--env", ENVIRONMENTS, "Run with the image's versions, or in the running environment.")
@choice_option("--installer", INSTALLERS, "Installer that the notebook uses.")
@choice_option("--layout", LAYOUTS, "Mount layout below /kaggle/input.")
@click.option("--rows", type=click.IntRange(min=1), help="Rehearse on this number of rows of the test set.")
@click.option(
    "--timeout",
    type=click.IntRange(min=1),
    metavar="SECONDS",
    help="Time limit; default the competition's.",
)
@on_options(
    "Run in a sandbox on this machine, or on Kaggle in a private notebook, offline and without a submission."
)
@YES
@common_options
def rehearse(project: Path, *, quiet: bool, as_json: bool, upgrade: bool, no_build: bool, **flags: Any) -> None:  # fmt: skip
    """Build what changed, then run the notebook offline and check its submission."""
    from offline_kit.kaggle.push.dataset_plan import DEFAULT_OPTIONS
    from offline_kit.workflow import build_remotely, kaggle_rehearsal, pipeline, push_steps

    console = console_of(quiet=quiet, as_json=as_json)
    on, at = take_flags(flags, "on", "at").values()
    _check_place(on, at, flags)
    options = pipeline.RehearsalOptions(
        **take_flags(flags, "env", "installer", "layout", "timeout", "yes"), confirm=console.confirm
    )
    config = load_config(project, flags)
    if no_build:
        kit = pipeline.read_sound_kit(config)
    else:
        built = pipeline.build_kit(config, upgrade=upgrade, report=console)
        show_build(built, console)
        kit = built.kit
    if on == "here":
        if build_remotely.missing_wheels(kit):
            with session_of(config, build_remotely.remote_address(config), "", console) as session:
                build_remotely.fetch_wheels(kit, session, console)
        show_rehearsal(pipeline.rehearse_kit(config, kit, options, report=console), console)
        return
    with session_of(config, on, at, console, current=options.env == "current") as session:
        policy = confirmation(console, yes=options.yes)
        push_steps.push_data(session, kit, DEFAULT_OPTIONS, policy, console)
        passed = kaggle_rehearsal.rehearse_on_kaggle(session, kit, config.rows, console)
        _show_on_kaggle(passed, session.account, console)


def _check_place(on: str, at: str, flags: dict[str, Any]) -> None:
    """Raise UsageError for options that would be ignored: a Kaggle itself decides how it runs a notebook."""
    is_remote = on != "here"
    ignored = {
        "--installer": is_remote and flags["installer"] != "auto",
        "--layout": is_remote and flags["layout"] != "new",
        "--timeout": is_remote and flags["timeout"],
        "--env": flags["env"] != "matching" and (on == "kaggle" or at),
        "--at": at and on != "local",
    }
    if wrong := [name for name, is_given in ignored.items() if is_given]:
        raise UsageError(
            f"{', '.join(wrong)} and --on {on} do not go together",
            code="options-conflict",
            hint="remove one of them: Kaggle decides how it runs notebooks; for a running local Kaggle, set it with"
            " 'offline-kit local'"
            if is_remote
            else "add --on local, or remove --at",
        )


def show_rehearsal(passed: "Rehearsal", console: Console) -> None:
    """Show the result of a rehearsal and the folder of its files."""
    memory = (
        f"{format_size(passed.peak_memory)} ({passed.memory_by})" if passed.peak_memory else "not measured"
    )
    for difference in passed.differences:
        console.note(f"differs from the image: {difference}")
    for note in passed.notes:
        console.note(note)
    rows = [
        ("fidelity", passed.fidelity),
        ("sandbox", passed.sandbox),
        ("Python", passed.python),
        ("time", f"{passed.seconds:.1f} s"),
        ("peak memory", memory),
        ("submission", f"{passed.submission}{_row_words(passed.rows)}"),
        ("evidence", str(passed.folder)),
    ]
    console.show_facts("Rehearsal passed", rows)
    console.step("the notebook runs with the internet off")
    console.print_result({"ok": True, "rehearsal": vars(passed)})


def _show_on_kaggle(passed: "KaggleRehearsal", account: "Account", console: Console) -> None:
    """Show how a rehearsal on Kaggle went, and its forecast."""
    run, forecast = passed.ran, passed.forecast_rows
    for note in passed.notes:
        console.note(note)
    rows = [
        ("where", f"{account.server_name}, '{run.pushed.ref}' version {run.pushed.version}"),
        ("time", f"{run.seconds:.1f} s"),
        ("submission", f"{run.submission or 'none'}{_row_words(passed.rows)}"),
        ("log", str(run.log)),
    ]
    if forecast:
        limit = f"{passed.limit / 3600:g} h, the limit of a run,"
        rows.append(("forecast", f"{limit} should be enough for {forecast} rows or more"))
    console.show_facts("Rehearsal passed", rows)
    facts = {**notebook_facts(run.pushed, run, account), "rows": passed.rows, "rows_in_limit": forecast}
    console.print_result({"ok": True, "place": account.server_name, "rehearsal": facts})


def _row_words(rows: int) -> str:
    return f" ({count_words(rows, 'row')})" if rows else ""
