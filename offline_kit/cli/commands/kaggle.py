"""The commands that talk to Kaggle or to a local Kaggle."""

import sys
from pathlib import Path
from typing import Any

import click

from offline_kit.cli.help_format import HelpCommand
from offline_kit.cli.options import (
    BUILD_OPTIONS,
    COMPETITION_DATA,
    KIT_OPTIONS,
    LOCAL_ENV,
    PATH,
    TO_OPTIONS,
    YES,
    choice_option,
    combine_options,
    common_options,
    confirmation,
    console_of,
    kit_of,
    load_config,
    project_argument,
    runs_current,
    session_of,
    take_flags,
)
from offline_kit.project.config_keys import ENVIRONMENTS, LAYOUTS

PUSH_OPTIONS = combine_options(
    click.option("--title", default="", help="Title of a new dataset; default its slug."),
    click.option("--drop-foreign", is_flag=True, help="Allow deleting files that offline-kit did not upload."),
    click.option("--public", is_flag=True, help="Allow pushing to a dataset that is already public."),
    click.option("--resend", is_flag=True, help="Upload all parts again, even unchanged ones."),
    click.option("--resend-part", multiple=True, metavar="NAME", help="Upload this part again, even if unchanged. Repeatable."),
)  # fmt: skip
SUBMIT_OPTIONS = combine_options(
    click.option("-m", "--message", default="", help="Description in Kaggle's list of submissions."),
    click.option("--wait/--no-wait", default=False, show_default=True, help="Wait for the score, usually for hours."),
    click.option("--again", is_flag=True, help="Submit again what was already submitted."),
    click.option("--late", is_flag=True, help="Submit even after the deadline."),
)  # fmt: skip


@click.command(
    cls=HelpCommand,
    short_help="Build, upload what Kaggle lacks, run the notebook.",
    examples=("offline-kit push --dry-run", "offline-kit push --to local --data-only"),
)
@project_argument
@BUILD_OPTIONS
@TO_OPTIONS
@PUSH_OPTIONS
@LOCAL_ENV
@click.option("--no-build", is_flag=True, help="Push the existing kit without rebuilding it.")
@click.option("--data-only", is_flag=True, help="Push only the data, not the notebook.")
@click.option("--no-wait", is_flag=True, help="Do not wait for the notebook's run.")
@click.option("--dry-run", is_flag=True, help="Show what would be pushed, without sending anything.")
@YES
@common_options
def push(project: Path, *, quiet: bool, as_json: bool, upgrade: bool, **flags: Any) -> None:
    """Build what changed, upload what Kaggle lacks, then run the notebook there and download its output."""
    from offline_kit.cli.summaries import kaggle as summary_kaggle
    from offline_kit.kaggle.push.dataset_plan import PushOptions
    from offline_kit.workflow import kaggle_session, outdated, ship

    console = console_of(quiet=quiet, as_json=as_json)
    options = PushOptions(**take_flags(flags, "title", "drop_foreign", "public", "resend", "resend_part"))
    to, at, yes, dry_run, env = take_flags(flags, "to", "at", "yes", "dry_run", "env").values()
    data_only, no_wait, no_build = take_flags(flags, "data_only", "no_wait", "no_build").values()
    in_current = runs_current(env, to, at)
    config = load_config(project, flags)
    with (
        kit_of(config, console, no_build=no_build, dry_run=dry_run, upgrade=upgrade) as kit,
        session_of(config, to, at, console, current=in_current) as session,
    ):
        if dry_run:
            for line in outdated.describe_changes(config, kit) if no_build else ():
                console.warn(line)
            plan = kaggle_session.plan_data(session, kit, options, console)
            cells = None if data_only else kaggle_session.plan_notebook(session, kit, console)
            summary_kaggle.show_push_plan(
                plan, cells, kaggle_session.describe_disturbed(session, kit, plan), console
            )
            return
        if not data_only:
            kaggle_session.notebook_of(session, kit)  # its problems are reported before anything is uploaded
        parts = ship.push_data(session, kit, options, confirmation(console, yes=yes), console)
        run = None if data_only or no_wait else kaggle_session.run_notebook(session, kit, console)
        notebook = run.pushed if run else None
        if no_wait and not data_only:
            notebook = kaggle_session.push_notebook(session, kit, console)
        summary_kaggle.show_push((parts, notebook, run), kit, session.account, console)


@click.command(
    cls=HelpCommand,
    examples=("offline-kit submit --dry-run", 'offline-kit submit --wait -m "five folds"'),
)
@project_argument
@KIT_OPTIONS
@TO_OPTIONS
@SUBMIT_OPTIONS
@LOCAL_ENV
@click.option(
    "--version", type=click.IntRange(min=1), metavar="N", help="Submit an earlier version of the notebook."
)
@click.option("--dry-run", is_flag=True, help="Show what would be submitted, without submitting.")
@common_options
def submit(project: Path, *, quiet: bool, as_json: bool, **flags: Any) -> None:
    """Submit the finished version of the kit's notebook, once."""
    from offline_kit.cli.summaries import kaggle as summary_kaggle
    from offline_kit.workflow import pipeline, ship

    console = console_of(quiet=quiet, as_json=as_json)
    sending = ship.SubmissionOptions(**take_flags(flags, "message", "wait", "again", "late"))
    to, at, version, dry_run, env = take_flags(flags, "to", "at", "version", "dry_run", "env").values()
    config = load_config(project, flags)
    pipeline.kit_of(config)  # a missing kit is reported without a login
    with session_of(config, to, at, console, current=runs_current(env, to, at)) as session:
        request = ship.request_for(session, version, sending, console, follow=not dry_run)
        if dry_run:
            summary_kaggle.show_submit_plan(ship.plan_submission(session, request, console), console)
            return
        # Running `submit` is the confirmation.
        outcome = ship.submit_version(session, request, sending, confirmation(console, yes=True), console)
        summary_kaggle.show_outcome(outcome, session.account, console)


@click.command(
    "ship",
    cls=HelpCommand,
    short_help="Build, rehearse, push, run and submit.",
    examples=("offline-kit ship --dry-run", "offline-kit ship --to local --yes --wait"),
)
@project_argument
@BUILD_OPTIONS
@COMPETITION_DATA
@TO_OPTIONS
@PUSH_OPTIONS
@SUBMIT_OPTIONS
@choice_option(
    "--env",
    ENVIRONMENTS,
    "Rehearse with the image's versions, or in the running environment; also applies to a local Kaggle.",
)
@click.option("--no-rehearsal", is_flag=True, help="Skip the rehearsal.")
@click.option(
    "--dry-run", is_flag=True, help="Show what each step would do, without writing, sending or submitting."
)
@YES
@common_options
def ship_command(project: Path, *, quiet: bool, as_json: bool, upgrade: bool, **flags: Any) -> None:
    """Build, rehearse, push, run and submit, skipping what is already done."""
    from offline_kit.cli.summaries import kaggle as summary_kaggle
    from offline_kit.cli.summaries import kit as summary
    from offline_kit.kaggle.push.dataset_plan import PushOptions
    from offline_kit.workflow import pipeline, ship

    console = console_of(quiet=quiet, as_json=as_json)
    to, at, yes, env = take_flags(flags, "to", "at", "yes", "env").values()
    no_rehearsal, dry_run = take_flags(flags, "no_rehearsal", "dry_run").values()
    options = ship.ShipOptions(
        rehearsal=None
        if no_rehearsal
        else pipeline.RehearsalOptions(env=env, yes=yes, confirm=console.confirm),
        data=PushOptions(**take_flags(flags, "title", "drop_foreign", "public", "resend", "resend_part")),
        sending=ship.SubmissionOptions(**take_flags(flags, "message", "wait", "again", "late")),
        asking=confirmation(console, yes=yes),
        upgrade=upgrade,
    )
    config = load_config(project, flags)
    pipeline.check_project(config)
    with session_of(config, to, at, console, current=env == "current") as session:
        if dry_run:
            plan = ship.plan_ship(config, session, options, console)
            summary.show_plan(plan.build, console, final=False)
            summary_kaggle.show_ship_plan(plan, summary.plan_facts(plan.build), console)
            return
        summary_kaggle.show_shipped(
            ship.ship_kit(config, session, options, console), session.account, console
        )


@click.command(
    "local",
    cls=HelpCommand,
    short_help="Serve a local Kaggle, for `--to local` and clients.",
    examples=("offline-kit local", "offline-kit local --port 9000 --competition my-competition --slow 0"),
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8642,
    show_default=True,
    help="Port on 127.0.0.1; 0 for a free one.",
)
@click.option("--state", type=PATH, metavar="DIR", help="Folder of its state; default: in the cache.")
@click.option(
    "--competition",
    "competitions",
    multiple=True,
    type=PATH,
    metavar="DIR",
    help="Folder with a competition.toml, or a project with one. Repeatable.",
)
@click.option(
    "--account",
    "accounts",
    multiple=True,
    metavar="NAME",
    help="Additional account besides 'local', with the same key. Repeatable.",
)
@choice_option(
    "--env",
    ENVIRONMENTS,
    "Run notebooks with the versions of their kit's image, or in the running environment.",
)
@choice_option(
    "--layout", LAYOUTS, "Mount a dataset at /kaggle/input/datasets/OWNER/SLUG, or at /kaggle/input/SLUG."
)
@click.option(
    "--slow",
    type=click.FloatRange(0, 1000),
    default=1.0,
    metavar="TIMES",
    help="Multiply the duration of processing, queues and scoring; 0 for none.",
)
@common_options  # fmt: skip
def local_kaggle(*, quiet: bool, as_json: bool, **flags: Any) -> None:
    """Serve a local Kaggle until interrupted, for `--to local` and for the unmodified client."""
    from offline_kit.core import files, processes
    from offline_kit.local_kaggle.sandbox_runner import SandboxRunner
    from offline_kit.local_kaggle.settings import LocalKaggleSettings
    from offline_kit.packages import pip_settings
    from offline_kit.rehearsal.environments import EnvironmentOptions
    from offline_kit.workflow import local_start

    request = local_start.LocalKaggleRequest(
        folder=(flags["state"] or local_start.default_state_folder()).absolute(),
        port=flags["port"],
        accounts=flags["accounts"],
        competitions=flags["competitions"],
        settings=LocalKaggleSettings(layout=flags["layout"]).with_delays(flags["slow"]),
    )
    console = console_of(quiet=quiet, as_json=as_json)
    settings = pip_settings.read_pip_settings(processes.copy_environment())
    shop = EnvironmentOptions(index=settings, cache=files.cache_dir(), yes=True)
    # Notebooks run in the sandbox, in the running environment or in the versions of their kit's image.
    runner = SandboxRunner(shop, current=flags["env"] == "current")
    with local_start.serve_local_kaggle(request, runner) as server:
        competitions, accounts = (
            server.kaggle.store.key_names("competitions"),
            server.kaggle.store.key_names("accounts"),
        )
        for line in local_start.greeting_lines(server.url, str(request.folder), competitions, accounts):
            console.note(line)
        console.print_result(
            {
                "url": server.url,
                "state": str(request.folder),
                "competitions": competitions,
                "accounts": accounts,
            }
        )
        sys.stdout.flush()  # a script that waits for the address reads a pipe
        server.wait()
