"""The commands beside the way to a submission: init, doctor, completion and local."""

import sys
from pathlib import Path
from typing import Any

import click
from click.shell_completion import get_completion_class

from offline_kit.cli import options
from offline_kit.cli.console import Console, count_words, pick
from offline_kit.core.errors import Exit
from offline_kit.project.config_keys import ENVIRONMENTS, LAYOUTS

_STATES = r"^K\d+  (?:(?P<green>ok)|(?P<yellow>warn)|(?P<red>FAIL)|(?P<dim>-)) "


@options.command(
    "offline-kit init",
    "offline-kit init my-project --competition titanic --yes",
    'offline-kit init --record "python predict.py"',
)
@options.project_argument
@options.value("--competition", "SLUG", "Slug of the competition; default: detected.", default="")
@options.value(
    "--dataset",
    "SLUG",
    "Slug of the private dataset on Kaggle; default: from the project's name.",
    default="",
)
@options.value(
    "--record",
    "COMMAND",
    "Run this command in the project, and add what it really used: packages, modules, files, caches.",
    default="",
)
@options.flag("--force", "Add missing keys to an existing configuration.")
@options.flag("--yes", "Write without asking.")
@options.flag("--dry-run", "Print what would be written, without writing.")
@options.common_options
def init(project: Path, console: Console, yes: bool, dry_run: bool, **flags: Any) -> None:
    """Write a first configuration from what the project contains."""
    from offline_kit.init import config_proposal

    proposal = config_proposal.propose_config(project, report=console, **flags)
    console.print_lines(proposal.block.splitlines())
    for path, text in proposal.files.items():
        console.print_lines(["", f"{path.name}:", *(f"  {line}" for line in text.splitlines())])
    for path, folder in proposal.links.items():
        console.note(
            f"a link '{path}' leads to '{folder}', of which a build takes what `preprocessing` names"
        )
    for note in proposal.notes:
        console.note(note)
    for setting in proposal.missing_settings:
        console.warn(f"`{setting.key}` was not found", hint=f"set it {setting.needed_for}")
    agreed = bool(proposal.block) and not dry_run
    if agreed and console.can_ask() and not yes:
        agreed = console.confirm(f"Write this into '{proposal.file}'?")
    if agreed:
        config_proposal.write_config(proposal)
        written = ", ".join(f"'{path}'" for path in (proposal.file, *proposal.files, *proposal.links))
        console.step(f"wrote {written}: check it and change what you like")
        console.note(f"next:          offline-kit build{options.typed_settings('project')} --dry-run")
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
            "files": {str(path): text for path, text in proposal.files.items()},
            "links": {str(path): str(folder) for path, folder in proposal.links.items()},
        }
    )


@options.command(
    "offline-kit doctor --online",
    "offline-kit doctor my-project --ignore K3",
    "offline-kit doctor --image kaggle-2026-10-gpu",
    short_help="Check this machine and the project.",
)
@options.project_argument
@options.flag("--online", "Also check the package index and Kaggle.")
@options.repeated("--ignore", "CODE", "Skip the checks whose code starts with this.")
@options.value(
    "--image",
    "NAME|FILE|REF",
    "Also check the existing kit against another image, or a container image here.",
)
@options.common_options
def doctor(project: Path, console: Console, online: bool, ignore: tuple[str, ...], image: str | None) -> None:
    """Check this machine and the project, with a fix for each problem."""
    from offline_kit.workflow import doctor as checking

    findings = checking.run_checks(project, online=online, ignore=ignore, image=image or "", report=console)
    signs = {"ok": "ok", "warning": "warn", "failed": "FAIL", "skipped": "-"}
    wide = max((len(check.title) for check, _ in findings), default=0)
    indent = " " * (wide + 14)
    lines = []
    for check, result in findings:
        lines.append(f"{check.code}  {signs[result.state]:<4}  {check.title:<{wide}}  {result.what}")
        lines += [f"{indent}{detail}" for detail in result.details]
        lines += [f"{indent}→ {result.remedy}"] if result.remedy else []
    console.print_lines([console.words(line) for line in lines], highlight=_STATES)
    states = [str(result.state) for _, result in findings]
    failed, warned = states.count("failed"), states.count("warning")
    words = [f"{failed} failed"] if failed else []
    words += [count_words(warned, "warning")] if warned else []
    console.step(", ".join(words) or "no problems found")
    checks = [
        pick(check, "code title") | pick(result, "what remedy details") | {"state": str(result.state)}
        for check, result in findings
    ]
    console.print_result({"ok": not failed, "checks": checks})
    if failed:
        sys.exit(Exit.PROJECT)


@options.command(
    "offline-kit completion bash >> ~/.bashrc        # bash 4.4 or newer",
    "offline-kit completion zsh >> ~/.zshrc          # after compinit",
    "offline-kit completion fish > ~/.config/fish/completions/offline-kit.fish",
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
        Console().print_script(text.rstrip("\n") + "\n")


@options.command(
    "offline-kit local",
    "offline-kit local --port 9000 --competition my-competition --slow 0",
    short_help="Serve a local Kaggle, for `--to local` and clients.",
    name="local",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8642,
    show_default=True,
    help="Port on 127.0.0.1; 0 for a free one.",
)
@options.value("--state", "DIR", "Folder of its state; default: in the cache.", type=options.PATH)
@options.repeated(
    "--competition competitions",
    "DIR",
    "Folder with a competition.toml, or a project with one.",
    type=options.PATH,
)
@options.repeated("--account accounts", "NAME", "Additional account besides 'local', with the same key.")
@options.choice_option(
    "--env",
    ENVIRONMENTS,
    "Run notebooks with the versions of their kit's image, or in the running environment.",
)
@options.choice_option(
    "--layout", LAYOUTS, "Mount a dataset at /kaggle/input/datasets/OWNER/SLUG, or at /kaggle/input/SLUG."
)
@options.value(
    "--slow",
    "TIMES",
    "Multiply the duration of processing, queues and scoring; 0 for none.",
    type=click.FloatRange(0, 1000),
    default=1.0,
)
@options.common_options
def local_kaggle(console: Console, **flags: Any) -> None:
    """Serve a local Kaggle until interrupted, for `--to local` and for the unmodified client."""
    from offline_kit.local_kaggle.settings import LocalKaggleSettings
    from offline_kit.workflow import kaggle_session

    folder = (flags["state"] or kaggle_session.default_state_folder()).absolute()
    runner = kaggle_session.make_runner(current=flags["env"] == "current")
    settings = LocalKaggleSettings(layout=flags["layout"]).with_delays(flags["slow"])
    added = options.select(flags, "port accounts competitions")
    with kaggle_session.serve_local_kaggle(folder, runner, settings=settings, **added) as server:
        competitions, accounts = map(server.kaggle.store.key_names, ("competitions", "accounts"))
        for line in kaggle_session.greeting_lines(server.url, str(folder), competitions, accounts):
            console.note(line)
        facts = {"url": server.url, "state": str(folder), "competitions": competitions, "accounts": accounts}
        console.print_result(facts)
        sys.stdout.flush()  # a script that waits for the address reads a pipe
        server.wait()
