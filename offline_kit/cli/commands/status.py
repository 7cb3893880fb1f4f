"""The command that shows what is built, rehearsed, pushed and submitted."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from offline_kit.cli.commands.build import describe_extent, kit_facts
from offline_kit.cli.console import count_words
from offline_kit.cli.options import (
    AT,
    KIT_OPTIONS,
    HelpCommand,
    common_options,
    console_of,
    load_config,
    project_argument,
    session_of,
    take_flags,
    word_target,
)
from offline_kit.core.errors import Exit
from offline_kit.project.config_keys import KAGGLES

if TYPE_CHECKING:
    from offline_kit.project.types import Kit
    from offline_kit.workflow.project_status import LocalStatus, RemotePart, RemoteStatus


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
    from offline_kit.workflow import outdated, project_status

    console = console_of(quiet=quiet, as_json=as_json)
    to, at = take_flags(flags, "to", "at").values()
    config = load_config(project, flags)
    local = project_status.read_local_status(config)
    newer = outdated.describe_changes(config, local.kit) if local.kit else ()
    if to:
        with session_of(config, to, at, console) as session:
            remote = [project_status.read_remote_status(session, local.kit)]
    else:
        remote = [*project_status.read_remembered_status(config)]
    lines = _local_lines(local, newer)
    for remote_status in remote:
        lines += _remote_lines(remote_status, local.kit)
    if not remote:
        lines.append("Kaggle      nothing was pushed from here; check with --to kaggle")
    console.print_lines([console.words(line) for line in lines])
    console.print_result(
        {
            "ok": not local.problems,
            **(kit_facts(local.kit) if local.kit else {"kit": None}),
            "problems": list(local.problems),
            "newer": list(newer),
            "rehearsal": local.rehearsal,
            "there": [asdict(remote_status) for remote_status in remote],
        }
    )
    if local.problems:
        sys.exit(Exit.PROJECT)


def _local_lines(local: "LocalStatus", newer: tuple[str, ...]) -> list[str]:
    """Return what is on this disk; `newer` lists what changed since the build."""
    kit = local.kit
    lines = [f"project     {local.config.project}"]
    if kit is None:
        lines.append(f"kit         none in '{local.config.out}': make one with 'offline-kit build'")
    else:
        lines.append(f"kit         {kit.id[:12]}: {describe_extent(kit)} in '{kit.folder}'")
        for part in kit.parts:
            lines.append(f"  part      {part.name}: {part.id[:12]}, {count_words(len(part.entries), 'file')}")
        lines.append(f"rehearsal   {describe_rehearsal(local.rehearsal)}")
    lines += [f"  newer     {line}" for line in newer]
    return lines + [f"  problem   {problem}" for problem in local.problems]


def describe_rehearsal(last: dict[str, Any] | None) -> str:
    """Return the result of the last rehearsal in one line."""
    if last is None:
        return "none of this kit: run 'offline-kit rehearse'"
    if not last.get("passed"):
        problem = last.get("problem") or {}
        hint = f"; {problem['hint']}" if problem.get("hint") else ""
        return f"failed: {problem.get('what', 'no reason was recorded')}{hint}"
    return f"passed at fidelity '{last.get('fidelity')}' in {last.get('seconds')} s"


def _remote_lines(remote: "RemoteStatus", kit: "Kit | None") -> list[str]:
    seen_at = "now" if remote.looked else f"as seen last, {remote.at}" if remote.at else "as seen last"
    lines = [f"{remote.place:<11} as '{remote.account}', {seen_at}"]
    lines += [f"  {piece.name:<11} {_part_line(piece, kit)}" for piece in remote.pieces]
    if run := remote.run:
        end = f"version {run.get('version')} in {run.get('seconds', 0):.1f} s"
        if problem := run.get("problem"):
            end = f"failed: {problem['what']}; {problem['hint']}"
        lines.append(f"  last run    {run.get('at')}: {end}")
    for entry in remote.submissions:
        end = entry.score or entry.error.partition("\n")[0] or "no score yet"
        what = f"{entry.submission or '?'}, notebook version {entry.version}"
        lines.append(f"  submitted   {entry.at}: {what}, {entry.state}: {end}")
    return lines


def _part_line(piece: "RemotePart", kit: "Kit | None") -> str:
    if not piece.version:
        return f"{piece.ref}: not on this Kaggle"
    holds = piece.holds
    if len(holds) == 64:  # an id, of what was seen last
        own_ids = {kit.id, *(part.id for part in kit.parts)} if kit else set()
        holds = "this kit" if holds in own_ids else f"another kit ({holds[:12]})"
    words = (f"{piece.ref} version {piece.version}", piece.state, f"holds {holds}")
    return ", ".join(word for word in words if word)
