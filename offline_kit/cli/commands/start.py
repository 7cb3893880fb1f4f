"""The commands that a project begins with."""

import sys
from pathlib import Path
from typing import Any

import click
from click.shell_completion import get_completion_class

from offline_kit.cli.options import common_options, console_of, project_argument, typed_settings
from offline_kit.core.errors import Exit


@click.command()
@project_argument
@click.option("--competition", default="", metavar="SLUG", help="Slug of the competition; default as found.")
@click.option(
    "--dataset",
    default="",
    metavar="SLUG",
    help="Slug of the private dataset on Kaggle; default from the name.",
)
@click.option("--force", is_flag=True, help="Add what a configuration that is there does not say yet.")
@click.option("--yes", is_flag=True, help="Write without asking.")
@click.option("--dry-run", is_flag=True, help="Print what would be written; write nothing.")
@common_options  # fmt: skip
def init(project: Path, *, quiet: bool, as_json: bool, yes: bool, dry_run: bool, **flags: Any) -> None:
    """Write a first configuration from what is found."""
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


@click.command(short_help="Check this machine and the project.")
@project_argument
@click.option("--online", is_flag=True, help="Ask the package index and Kaggle as well.")
@click.option(
    "--ignore",
    multiple=True,
    metavar="CODE",
    help="Leave out the checks whose code begins with this; repeat for more.",
)
@common_options  # fmt: skip
def doctor(project: Path, *, quiet: bool, as_json: bool, online: bool, ignore: tuple[str, ...]) -> None:
    """Check this machine and the project, with a remedy for each problem."""
    from offline_kit.cli.summaries import start as summary_start
    from offline_kit.workflow import doctor as examining
    from offline_kit.workflow.check_types import CheckState

    console = console_of(quiet=quiet, as_json=as_json)
    findings = examining.run_checks(project, online=online, ignore=ignore, report=console)
    summary_start.show_findings(findings, console)
    if any(finding.said.state is CheckState.FAILED for finding in findings):
        sys.exit(Exit.PROJECT)


_COMPLETION = """\b
Examples:
  offline-kit completion bash >> ~/.bashrc        (bash 4.4 or newer)
  offline-kit completion zsh >> ~/.zshrc          (after compinit)
  offline-kit completion fish > ~/.config/fish/completions/offline-kit.fish"""


@click.command(epilog=_COMPLETION)
@click.argument("shell", type=click.Choice(("bash", "zsh", "fish")))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the completion script of a shell."""
    # Click's own scripts: they call the tool with _OFFLINE_KIT_COMPLETE set, which click answers in `main`.
    script = get_completion_class(shell)
    if script is not None:
        text = script(context.find_root().command, {}, "offline-kit", "_OFFLINE_KIT_COMPLETE").source()
        console_of(quiet=False, as_json=False).print_lines(text.splitlines())
