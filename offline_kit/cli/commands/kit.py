"""The commands about the local kit: build, rehearse and status."""

import sys
from pathlib import Path
from typing import Any

import click

from offline_kit.cli.help_format import HelpCommand
from offline_kit.cli.options import (
    AT,
    BUILD_OPTIONS,
    COMPETITION_DATA,
    KIT_OPTIONS,
    YES,
    choice_option,
    common_options,
    confirmation,
    console_of,
    load_config,
    on_options,
    project_argument,
    session_of,
    take_flags,
    typed_settings,
    word_target,
)
from offline_kit.core.errors import Exit
from offline_kit.project.config_keys import ENVIRONMENTS, INSTALLERS, KAGGLES, LAYOUTS


@click.command(
    cls=HelpCommand,
    short_help="Build the kit and its notebook.",
    examples=("offline-kit build --dry-run", 'offline-kit build -r requirements.txt -c "checkpoints/*.ckpt"'),
)
@project_argument
@BUILD_OPTIONS
@click.option("--dry-run", is_flag=True, help="Show what would be built, without writing.")
@on_options("Make the packages on this machine, or on Kaggle's by a notebook with the internet on.")
@common_options
def build(project: Path, *, quiet: bool, as_json: bool, dry_run: bool, upgrade: bool, **flags: Any) -> None:
    """Build the kit: freeze and download packages, pack the files, render the notebook."""
    from offline_kit.cli.summaries import kit as summary
    from offline_kit.workflow import pipeline

    console = console_of(quiet=quiet, as_json=as_json)
    on, at = take_flags(flags, "on", "at").values()
    config = load_config(project, flags)
    if on != "here":
        from offline_kit.cli.summaries import chained as summary_chained
        from offline_kit.workflow import build_remotely

        with session_of(config, on, at, console, current=True) as session:
            if dry_run:
                plan = build_remotely.plan_build(config, session, upgrade=upgrade, report=console)
                summary_chained.show_plan(plan, session.account, console)
                return
            chained = build_remotely.build_remotely(config, session, upgrade=upgrade, report=console)
        summary_chained.show_made(chained, console)
        summary.show_build(chained.built, console, typed=typed_settings())
        return
    if dry_run:
        summary.show_plan(pipeline.plan_build(config, upgrade=upgrade, report=console), console)
        return
    built = pipeline.build_kit(config, upgrade=upgrade, report=console)
    summary.show_build(built, console, typed=typed_settings())


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
    from offline_kit.cli.summaries import kaggle as summary_kaggle
    from offline_kit.cli.summaries import kit as summary
    from offline_kit.kaggle.push.dataset_plan import DEFAULT_OPTIONS
    from offline_kit.workflow import build_remotely, kaggle_rehearsal, kaggle_session, pipeline, ship

    console = console_of(quiet=quiet, as_json=as_json)
    on, at = take_flags(flags, "on", "at").values()
    _check_place(on, at, flags)
    options = pipeline.RehearsalOptions(
        **take_flags(flags, "env", "installer", "layout", "timeout", "yes"), confirm=console.confirm
    )
    config = load_config(project, flags)
    if no_build:
        kit = kaggle_session.check_kit(pipeline.kit_of(config))
    else:
        built = pipeline.build_kit(config, upgrade=upgrade, report=console)
        summary.show_build(built, console, final=False)
        kit = built.kit
    if on == "here":
        if build_remotely.missing_wheels(kit):
            with session_of(config, build_remotely.remote_address(config), "", console) as session:
                build_remotely.fetch_wheels(kit, session, console)
        summary.show_rehearsal(pipeline.rehearse_kit(config, kit, options, report=console), console)
        return
    with session_of(config, on, at, console, current=options.env == "current") as session:
        ship.push_data(session, kit, DEFAULT_OPTIONS, confirmation(console, yes=options.yes), console)
        passed = kaggle_rehearsal.rehearse_on_kaggle(session, kit, config.rows, console)
        summary_kaggle.show_rehearsed(passed, session.account, console)


def _check_place(on: str, at: str, flags: dict[str, Any]) -> None:
    """Raise UsageError for options that would be ignored: a Kaggle itself decides how it runs a notebook."""
    from offline_kit.core.errors import UsageError

    is_remote = on != "here"
    odd = {
        "--installer": is_remote and flags["installer"] != "auto",
        "--layout": is_remote and flags["layout"] != "new",
        "--timeout": is_remote and flags["timeout"],
        "--env": flags["env"] != "matching" and (on == "kaggle" or at),
        "--at": at and on != "local",
    }
    if wrong := [name for name, is_given in odd.items() if is_given]:
        raise UsageError(
            f"{', '.join(wrong)} and --on {on} do not go together",
            code="options-conflict",
            hint="remove one of them: Kaggle decides how it runs notebooks; for a running local Kaggle, set it with"
            " 'offline-kit local'"
            if is_remote
            else "add --on local, or remove --at",
        )


@click.command(
    cls=HelpCommand,
    short_help="Show what is built, rehearsed, pushed and submitted.",
    examples=("offline-kit status", "offline-kit status --to kaggle"),
)
@project_argument
@KIT_OPTIONS
@click.option(
    "--to",
    type=click.Choice(KAGGLES),
    callback=word_target,
    help="Ask this Kaggle; default: show what was seen last.",
)
@AT
@common_options
def status(project: Path, *, quiet: bool, as_json: bool, **flags: Any) -> None:
    """Show the kit, its last rehearsal, what is on Kaggle, and the last submissions."""
    from offline_kit.cli.summaries import kaggle as summary_kaggle
    from offline_kit.cli.summaries import kit as summary
    from offline_kit.workflow import outdated, pipeline, remote_status

    console = console_of(quiet=quiet, as_json=as_json)
    to, at = take_flags(flags, "to", "at").values()
    config = load_config(project, flags)
    local_status = pipeline.read_status(config)
    newer = outdated.describe_changes(config, local_status.kit) if local_status.kit else ()
    if to:
        with session_of(config, to, at, console) as session:
            remote_states: tuple[remote_status.RemoteStatus, ...] = (
                remote_status.read_remote_status(session, local_status.kit),
            )
    else:
        remote_states = remote_status.remembered_status(config)
    lines = [
        *summary.status_lines(local_status, newer),
        *summary_kaggle.whereabouts_lines(remote_states, local_status.kit),
    ]
    console.print_lines([console.words(line) for line in lines])
    console.print_result(
        summary.status_facts(local_status, newer) | {"there": summary_kaggle.whereabouts_facts(remote_states)}
    )
    if local_status.problems:
        sys.exit(Exit.PROJECT)
