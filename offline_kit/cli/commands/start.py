"""The commands to start a project with: init, doctor and completion."""

import sys
from pathlib import Path
from typing import Any

import click
from click.shell_completion import get_completion_class

from offline_kit.cli.help_format import HelpCommand
from offline_kit.cli.options import common_options, console_of, project_argument, typed_settings
from offline_kit.core.errors import Exit


@click.command(
    cls=HelpCommand,
    examples=("offline-kit init", "offline-kit init my-project --competition titanic --yes"),
)
@project_argument
@click.option("--competition", default="", metavar="SLUG", help="Slug of the competition; default: detected.")
@click.option(
    "--dataset",
    default="",
    metavar="SLUG",
    help="Slug of the private dataset on Kaggle; default: from the project's name.",
)
@click.option("--force", is_flag=True, help="Add missing keys to an existing configuration.")
@click.option("--yes", is_flag=True, help="Write without asking.")
@click.option("--dry-run", is_flag=True, help="Print what would be written, without writing.")
@common_options  # fmt: skip
def init(project: Path, *, quiet: bool, as_json: bool, yes: bool, dry_run: bool, **flags: Any) -> None:
    """Write a first configuration from what the project contains."""
    from offline_kit.cli.summaries import start as summary_start
    from offline_kit.init import config_proposal as starting

    console = console_of(quiet=quiet, as_json=as_json)
    proposal = starting.propose_config(starting.InitRequest(project=project, **flags), console)
    summary_start.show_proposal(proposal, console)
    asks = not (yes or as_json or dry_run) and sys.stdin.isatty() and sys.stderr.isatty()
    agreed = bool(proposal.block) and not dry_run
    if agreed and asks:
        agreed = console.confirm(f"Write this into '{proposal.file}'?")
    if agreed:
        starting.write_config(proposal)
    summary_start.show_init(
        proposal, console, written=agreed, dry_run=dry_run, typed=typed_settings("project")
    )


@click.command(
    cls=HelpCommand,
    short_help="Check this machine and the project.",
    examples=("offline-kit doctor --online", "offline-kit doctor my-project --ignore K3"),
)
@project_argument
@click.option("--online", is_flag=True, help="Also check the package index and Kaggle.")
@click.option(
    "--ignore",
    multiple=True,
    metavar="CODE",
    help="Skip the checks whose code starts with this. Repeatable.",
)
@common_options  # fmt: skip
def doctor(project: Path, *, quiet: bool, as_json: bool, online: bool, ignore: tuple[str, ...]) -> None:
    """Check this machine and the project, with a fix for each problem."""
    from offline_kit.cli.summaries import start as summary_start
    from offline_kit.workflow import doctor as examining
    from offline_kit.workflow.check_types import CheckState

    console = console_of(quiet=quiet, as_json=as_json)
    findings = examining.run_checks(project, online=online, ignore=ignore, report=console)
    summary_start.show_findings(findings, console)
    if any(finding.result.state is CheckState.FAILED for finding in findings):
        sys.exit(Exit.PROJECT)


@click.command(
    cls=HelpCommand,
    examples=(
        "offline-kit completion bash >> ~/.bashrc        # bash 4.4 or newer",
        "offline-kit completion zsh >> ~/.zshrc          # after compinit",
        "offline-kit completion fish > ~/.config/fish/completions/offline-kit.fish",
    ),
)
@click.argument("shell", type=click.Choice(("bash", "zsh", "fish")))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the completion script of a shell."""
    # Click's own scripts call the tool with _OFFLINE_KIT_COMPLETE set, which `cli.main` answers:
    # https://click.palletsprojects.com/en/stable/shell-completion/
    script = get_completion_class(shell)
    if script is not None:
        text = script(context.find_root().command, {}, "offline-kit", "_OFFLINE_KIT_COMPLETE").source()
        console_of(quiet=False, as_json=False).print_lines(text.splitlines())
