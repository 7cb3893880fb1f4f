"""The commands that look: at what is where, at a kit and what is on Kaggle, and at two kits."""

import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from offline_kit.cli import options
from offline_kit.cli.commands.build import describe_extent, kit_facts
from offline_kit.cli.console import Console, count_words, pick
from offline_kit.core.errors import Exit
from offline_kit.core.files import format_size
from offline_kit.project.config_keys import KAGGLES
from offline_kit.project.kaggle_names import MARKER
from offline_kit.project.types import Role

if TYPE_CHECKING:
    # Only named: comparing two kits must not import what a verification needs.
    from offline_kit.kaggle.push.verify_remote import PartCheck, Verification
    from offline_kit.kit.diff import KitDifference
    from offline_kit.project.types import Kit
    from offline_kit.workflow.part_locations import RemotePart, RemoteStatus

# How lines of `status` and `diff` are colored on a terminal.
_STATES = r"^(?:rehearsal +(?:(?P<green>passed)|(?P<red>failed)|(?P<dim>none))|  (?P<yellow>newer|problem)\b)"
_CHANGES = r"^(?:  ){1,2}(?:(?P<green>\+.*)|(?P<red>-.*)|(?P<yellow>[~>] .*)|(?P<cyan>@@.*))$"


@options.command(
    "offline-kit status",
    "offline-kit status --to kaggle",
    short_help="Show what is built, rehearsed, pushed and submitted.",
)
@options.project_argument
@options.KIT_OPTIONS
@click.option(
    "--to",
    type=click.Choice(KAGGLES),
    callback=options.word_target,
    help="Ask this Kaggle; default: show what was seen last.",
)
@options.AT
@options.common_options
def status(project: Path, console: Console, **flags: Any) -> None:
    """Show the kit, its last rehearsal, what is on Kaggle, and the last submissions."""
    from offline_kit.rehearsal import rehearse
    from offline_kit.workflow import part_locations, project_status

    to, at = flags["to"], flags["at"]
    config = options.load_config(project, flags)
    kit, problems = project_status.read_local_kit(config)
    newer = project_status.describe_changes(config, kit) if kit else ()
    rehearsal = rehearse.read_last_report(kit) if kit else None
    if to:
        with options.session_of(config, to, at, console) as session:
            remote = [project_status.read_remote_status(session, kit)]
    else:
        remote = [*part_locations.read_remembered_status(config)]
    lines = [f"project     {config.project}"]
    if kit:
        _show_contents(kit, console)
        lines.append(f"kit         {kit.id[:12]}: {describe_extent(kit)} in '{kit.folder}'")
        for part in kit.parts:
            lines.append(f"  part      {part.name}: {part.id[:12]}, {count_words(len(part.entries), 'file')}")
        lines.append(f"rehearsal   {describe_rehearsal(rehearsal)}")
    else:
        lines.append(f"kit         none in '{config.out}': make one with 'offline-kit build'")
    lines += [f"  newer     {line}" for line in newer]
    lines += [f"  problem   {problem}" for problem in problems]
    for remote_status in remote:
        lines += _remote_lines(remote_status, kit)
    if not remote:
        lines.append("Kaggle      nothing was pushed from here; check with --to kaggle")
    console.print_lines([console.words(line) for line in lines], highlight=_STATES)
    console.print_result(
        {
            "ok": not problems,
            **(kit_facts(kit) if kit else {"kit": None}),
            "problems": list(problems),
            "newer": list(newer),
            "rehearsal": rehearsal,
            "there": [asdict(remote_status) for remote_status in remote],
        }
    )
    if problems:
        sys.exit(Exit.PROJECT)


def _show_contents(kit: "Kit", console: Console) -> None:
    """Show the files that the user put into a kit, and the packages; not those that build or restore it."""
    rows = [
        (str(entry.role), entry.original, format_size(entry.size))
        for part in kit.parts
        for entry in part.entries
        if entry.role not in (Role.BUILD, Role.LOCK, Role.RUNTIME, Role.RECORDING)
    ]
    console.show_table(f"Kit {kit.id[:12]}", ("for", "file", "size"), rows)


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


_MOST_LINES = 40  # of the notebook's difference that a person sees
_MARKS = {"added": "+", "removed": "-", "renamed": ">", "changed": "~", "rebuilt": "~"}
_TITLES = {
    "target": "Built for",
    "packages": "Packages",
    "own": "Own packages",
    "sources": "Own code",
    "checkpoints": "Checkpoints",
    "other": "Other files",
    "notebook": "Notebook",
}


@options.command(
    "offline-kit verify",
    "offline-kit verify --to local --no-notebook",
    short_help="Compare what is on Kaggle with the local kit.",
)
@options.project_argument
@options.TO_OPTIONS
@options.DATASET
@options.OUT
@options.flag("--no-notebook", "Compare only the data.")
@options.common_options
def verify(project: Path, console: Console, no_notebook: bool, **flags: Any) -> None:
    """Compare what is on Kaggle with the local kit, file by file."""
    from offline_kit.kaggle.push import verify_remote
    from offline_kit.workflow import pipeline

    to, at = flags.pop("to"), flags.pop("at")
    config = options.load_config(project, flags)
    kit = pipeline.read_kit(config)
    with options.session_of(config, to, at, console) as session:
        verification = verify_remote.verify_kit(
            kit, session.locate_parts(kit), session, with_notebook=not no_notebook
        )
    _show_verification(verification, console)
    if verification.problems:
        sys.exit(Exit.PROJECT)


def _show_verification(verification: "Verification", console: Console) -> None:
    """Show whether Kaggle has the kit's files, and a fix for each difference."""
    server_name, kit, notebook = verification.place, verification.kit[:12], verification.notebook
    columns = ("part", "where", "version", "state", "private", "files", "as in the kit")
    styles = {"yes": "green", "no": "red", "NO": "red"}
    console.show_table(f"On {server_name}", columns, [_part_row(part) for part in verification.parts], styles)
    for note in notebook.notes if notebook else ():
        console.note(note)
    facts = {
        **pick(verification, "kit place"),
        "parts": [_part_facts(part) for part in verification.parts],
        "notebook": pick(notebook, "ref version notes")
        | {"problems": [asdict(item) for item in notebook.problems]}
        if notebook
        else None,
    }
    problems = verification.problems
    if not problems:
        file_count = sum(len(part.part.entries) for part in verification.parts)
        notebook_words = f", and version {notebook.version} of the notebook" if notebook else ""
        line = f"{server_name} has kit {kit} unchanged: {file_count} files by names, sizes and marker{notebook_words}"
        console.print_lines([line], highlight="(?P<green>unchanged)")
        console.print_result({"ok": True, **facts})
        return
    for problem in problems:
        console.warn(problem.what)
    message = f"{count_words(len(problems), 'difference')} between {server_name} and kit {kit}"
    remedies = list(dict.fromkeys(problem.remedy for problem in problems))
    lines = [message, *(f"  {console.words(remedy)}" for remedy in remedies)]
    console.print_lines(lines, highlight=r"(?P<red>^\d+ differences?)")
    details = [problem.what for problem in problems]
    failure = {"error": message, "hint": "; ".join(remedies), "details": details}
    console.print_result({"ok": False, **failure, **facts})


def _part_row(check: "PartCheck") -> tuple[str, ...]:
    remote = check.remote
    location = remote.ref if remote.kind == "dataset" else f"{remote.kind} {remote.ref}"
    if not remote.version:
        return (check.part.name, location, "none", "", "", "", "no")
    return (
        check.part.name,
        location,
        str(remote.version),
        remote.state,
        "yes" if remote.private else "NO",
        f"{len(remote.files)}, {format_size(sum(remote.files.values()))}",
        "no" if check.problems else "yes",
    )


def _part_facts(check: "PartCheck") -> dict[str, Any]:
    remote = check.remote
    return {
        **pick(check, part="part.name", id="part.id"),
        **pick(remote, "kind version state url", dataset="ref"),
        "private": remote.private if remote.version else None,
        "there": remote.part.id if remote.part else None,
        "problems": [asdict(problem) for problem in check.problems],
    }


@options.command(
    "offline-kit diff ../other-project",
    "offline-kit diff old-kit dist/offline-kit --exit-code",
    short_help="Compare two kits.",
)
@click.argument("old", type=options.PATH)
@click.argument("new", type=options.PATH, default=".")
@options.flag("--exit-code", "Exit with 1 if the kits differ.")
@options.common_options
def diff(old: Path, new: Path, console: Console, exit_code: bool) -> None:
    """Compare two kits, each given as its folder or its project's; NEW defaults to the current project's kit."""
    from offline_kit.kit.diff import compare_kits

    old_kit, new_kit = _read_kit(old), _read_kit(new)
    difference = compare_kits(old_kit, new_kit)
    title = f"kit {old_kit.id[:12]} -> {new_kit.id[:12]}"
    if difference.is_identical:
        title = f"identical: both are kit {new_kit.id[:12]}, with the same notebook"
    elif difference.same_kit:
        title = f"kit {new_kit.id[:12]} in both, with another notebook"
    console.print_lines([title, *_difference_lines(difference)], highlight=_CHANGES, fold=True)
    groups = {name: [asdict(change) for change in changes] for name, changes in difference.groups.items()}
    kits = {"old": old_kit, "new": new_kit}
    console.print_result(
        {
            "ok": True,
            "same": difference.is_identical,
            **{name: {"kit": kit.id, "folder": str(kit.folder)} for name, kit in kits.items()},
            **groups,
            "notebook": {"metadata": groups["notebook"], "text": difference.text},
        }
    )
    if exit_code and not difference.is_identical:
        sys.exit(Exit.PROJECT)


def _read_kit(folder: Path) -> "Kit":
    """Return the kit in a folder, or that of the project there."""
    from offline_kit.kit import manifest
    from offline_kit.workflow import pipeline

    dataset = folder / "dataset"
    if (dataset / MARKER).is_file() or any(dataset.glob(f"*/{MARKER}")):
        return manifest.read_kit(folder)
    return pipeline.read_kit(options.load_config(folder, {}))


def _difference_lines(difference: "KitDifference") -> Iterator[str]:
    for group, changes in difference.groups.items():
        if changes:
            yield _TITLES[group]
        for change in changes:
            before, after = map(_shown_value, (change.before, change.after))
            values = before if before == after else f"{before} -> {after}"
            if change.change in ("added", "removed"):
                values = after if change.before is None else before
            note = "rebuilt" if change.change == "rebuilt" else f"was {change.was}" * bool(change.was)
            yield f"  {_MARKS[change.change]} {change.name} {values}{f' ({note})' if note else ''}"
    if difference.text:
        yield "Notebook's lines"
    yield from (f"  {line}" for line in difference.text[:_MOST_LINES])
    if len(difference.text) > _MOST_LINES:
        yield f"  ... and {len(difference.text) - _MOST_LINES} more lines: --json has them all"


def _shown_value(value: object) -> str:
    """Return bytes as a size, and other values as they are."""
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return format_size(value) if type(value) is int else str(value)
