"""The commands beside the way to a submission: init, doctor, completion and local."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import get_completion_class

from offline_kit.cli.console import Console, count_words, pick
from offline_kit.cli.options import (
    PATH,
    HelpCommand,
    choice_option,
    common_options,
    console_of,
    project_argument,
    typed_settings,
)
from offline_kit.core.errors import Exit
from offline_kit.project.config_keys import ENVIRONMENTS, LAYOUTS

if TYPE_CHECKING:
    from offline_kit.workflow.doctor import CheckFinding


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
    from offline_kit.init import config_proposal

    console = console_of(quiet=quiet, as_json=as_json)
    proposal = config_proposal.propose_config(config_proposal.InitRequest(project=project, **flags), console)
    console.print_lines(proposal.block.splitlines())
    for note in proposal.notes:
        console.note(note)
    for setting in proposal.missing_settings:
        console.warn(f"`{setting.key}` was not found: set it {setting.needed_for}")
    agreed = bool(proposal.block) and not dry_run
    if agreed and console.can_ask() and not (yes or as_json):
        agreed = console.confirm(f"Write this into '{proposal.file}'?")
    if agreed:
        config_proposal.write_config(proposal)
        console.step(f"wrote '{proposal.file}': check it and change what you like")
        console.note(f"next:          offline-kit build{typed_settings('project')} --dry-run")
    elif proposal.block:
        console.step(f"this would go into '{proposal.file}'; nothing was written")
    else:
        console.step(f"'{proposal.file}' is already complete; nothing was written")
    console.print_result(
        {
            "ok": True,
            "dry_run": dry_run,
            "written": agreed,
            "file": str(proposal.file),
            "settings": {
                setting.key: pick(setting, "value", why="reason", more="comments")
                for setting in proposal.settings
            },
            "missing": [setting.key for setting in proposal.missing_settings],
            **pick(proposal, "notes", text="block", kept="existing_keys"),
        }
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
    from offline_kit.workflow import doctor as checking

    console = console_of(quiet=quiet, as_json=as_json)
    findings = checking.run_checks(project, online=online, ignore=ignore, report=console)
    _show_checks(findings, console)
    states = [str(finding.result.state) for finding in findings]
    failed, warned = states.count("failed"), states.count("warning")
    words = [f"{failed} failed"] if failed else []
    words += [count_words(warned, "warning")] if warned else []
    console.step(", ".join(words) or "no problems found")
    checks = [
        pick(finding, "code title", what="result.what", remedy="result.remedy", details="result.details")
        | {"state": state}
        for finding, state in zip(findings, states, strict=True)
    ]
    console.print_result({"ok": not failed, "checks": checks})
    if failed:
        sys.exit(Exit.PROJECT)


def _show_checks(findings: "tuple[CheckFinding, ...]", console: Console) -> None:
    """Show the result of every check, with its fix."""
    signs = {"ok": "ok", "warning": "warn", "failed": "FAIL", "skipped": "-"}
    wide = max((len(finding.title) for finding in findings), default=0)
    indent = " " * (wide + 14)
    lines = []
    for finding in findings:
        result = finding.result
        lines.append(f"{finding.code}  {signs[result.state]:<4}  {finding.title:<{wide}}  {result.what}")
        lines += [f"{indent}{detail}" for detail in result.details]
        lines += [f"{indent}→ {result.remedy}"] if result.remedy else []
    console.print_lines([console.words(line) for line in lines])


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
    from offline_kit.local_kaggle.settings import LocalKaggleSettings
    from offline_kit.workflow import local_start

    console = console_of(quiet=quiet, as_json=as_json)
    folder = (flags["state"] or local_start.default_state_folder()).absolute()
    request = local_start.LocalKaggleRequest(
        folder=folder,
        port=flags["port"],
        accounts=flags["accounts"],
        competitions=flags["competitions"],
        settings=LocalKaggleSettings(layout=flags["layout"]).with_delays(flags["slow"]),
    )
    runner = local_start.make_runner(current=flags["env"] == "current")
    with local_start.serve_local_kaggle(request, runner) as server:
        competitions, accounts = map(server.kaggle.store.key_names, ("competitions", "accounts"))
        for line in local_start.greeting_lines(server.url, str(folder), competitions, accounts):
            console.note(line)
        facts = {"url": server.url, "state": str(folder), "competitions": competitions, "accounts": accounts}
        console.print_result(facts)
        sys.stdout.flush()  # a script that waits for the address reads a pipe
        server.wait()
