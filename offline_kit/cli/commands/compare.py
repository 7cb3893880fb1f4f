"""The commands that compare: a kit with what is on Kaggle, and two kits with each other."""

import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from offline_kit.cli.console import Console, count_words, pick
from offline_kit.cli.options import (
    PATH,
    TO_OPTIONS,
    HelpCommand,
    common_options,
    console_of,
    load_config,
    project_argument,
    session_of,
)
from offline_kit.core.errors import Exit
from offline_kit.core.files import format_size
from offline_kit.project.kaggle_names import MARKER

if TYPE_CHECKING:
    # Only named: comparing two kits must not import what a verification needs.
    from offline_kit.kaggle.push.verify_remote import PartCheck, Verification
    from offline_kit.kit.diff import FileChange, KitDifference, NotebookChange, PackageChange
    from offline_kit.project.types import Kit

SHORT = 40
"""Lines of the notebook's difference that a person sees."""
_MARKS = {"added": "+", "removed": "-", "renamed": ">", "moved": ">"}


@click.command(
    cls=HelpCommand,
    short_help="Compare what is on Kaggle with the local kit.",
    examples=("offline-kit verify --deep", "offline-kit verify --to local --no-notebook"),
)
@project_argument
@TO_OPTIONS
@click.option("--dataset", metavar="SLUG", help="Slug of the private dataset on Kaggle.")
@click.option("--out", type=PATH, metavar="DIR", help="Folder of the kit; default dist/offline-kit.")
@click.option("--deep", is_flag=True, help="Download every file and compare its bytes.")
@click.option("--no-notebook", is_flag=True, help="Compare only the data.")
@common_options
def verify(project: Path, *, quiet: bool, as_json: bool, deep: bool, no_notebook: bool, **flags: Any) -> None:
    """Compare what is on Kaggle with the local kit, file by file."""
    from offline_kit.kaggle.push import verify_remote
    from offline_kit.workflow import pipeline

    console = console_of(quiet=quiet, as_json=as_json)
    to, at = flags.pop("to"), flags.pop("at")
    config = load_config(project, flags)
    kit = pipeline.read_kit(config)
    scope = verify_remote.VerifyOptions(deep=deep, notebook=not no_notebook)
    with session_of(config, to, at, console) as session:
        datasets, others = session.part_datasets(kit), session.other_locations(kit)
        verification = verify_remote.verify_kit(kit, datasets, session.kaggle, scope, console, others)
    _show_verification(verification, console)
    if verification.problems:
        sys.exit(Exit.PROJECT)


def _show_verification(verification: "Verification", console: Console) -> None:
    """Show whether Kaggle has the kit's files, and a fix for each difference."""
    place, kit, notebook = verification.place, verification.kit[:12], verification.notebook
    columns = ("part", "where", "version", "state", "private", "files", "as in the kit")
    console.show_table(f"On {place}", columns, [_part_row(part) for part in verification.parts])
    for note in (note for part in verification.parts for note in part.notes):
        console.note(note)
    facts = {
        **pick(verification, "kit place deep"),
        "parts": [_part_facts(part) for part in verification.parts],
        "notebook": pick(notebook, "ref version") | {"problems": [asdict(item) for item in notebook.problems]}
        if notebook
        else None,
    }
    problems = verification.problems
    if not problems:
        file_count = sum(len(part.part.entries) for part in verification.parts)
        method = "by their bytes" if verification.deep else "by names, sizes and marker"
        notebook_words = f", and version {notebook.version} of the notebook" if notebook else ""
        console.print_lines([f"{place} has kit {kit} unchanged: {file_count} files {method}{notebook_words}"])
        console.print_result({"ok": True, **facts})
        return
    for problem in problems:
        console.warn(problem.what)
    message = f"{count_words(len(problems), 'difference')} between {place} and kit {kit}"
    remedies = list(dict.fromkeys(problem.remedy for problem in problems))
    console.print_lines([message, *(f"  {console.words(remedy)}" for remedy in remedies)])
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
        f"{len(remote.files)}, {format_size(sum(file.size for file in remote.files))}",
        "no" if check.problems else "yes",
    )


def _part_facts(check: "PartCheck") -> dict[str, Any]:
    remote = check.remote
    return {
        **pick(check, "hashed notes", part="part.name", id="part.id"),
        **pick(remote, "kind version state url", dataset="ref"),
        "private": remote.private if remote.version else None,
        "there": remote.part.id if remote.part else None,
        "problems": [asdict(problem) for problem in check.problems],
    }


@click.command(
    cls=HelpCommand,
    short_help="Compare two kits.",
    examples=("offline-kit diff ../other-project", "offline-kit diff old-kit dist/offline-kit --exit-code"),
)
@click.argument("old", type=PATH)
@click.argument("new", type=PATH, default=".")
@click.option("--exit-code", is_flag=True, help="Exit with 1 if the kits differ.")
@common_options
def diff(old: Path, new: Path, *, quiet: bool, as_json: bool, exit_code: bool) -> None:
    """Compare two kits, each given as its folder or its project's; NEW defaults to the current project's kit."""
    from offline_kit.kit import diff as differing

    console = console_of(quiet=quiet, as_json=as_json)
    difference = differing.compare_kits(
        *(differing.read_snapshot(_read_kit(folder)) for folder in (old, new))
    )
    console.print_lines(list(_difference_lines(difference)))
    console.print_result({"ok": True, "same": difference.is_identical, **_difference_facts(difference)})
    if exit_code and not difference.is_identical:
        sys.exit(Exit.PROJECT)


def _read_kit(folder: Path) -> "Kit":
    """Return the kit in a folder, or that of the project there."""
    from offline_kit.kit import manifest
    from offline_kit.workflow import pipeline

    dataset = folder / "dataset"
    if (dataset / MARKER).is_file() or any(dataset.glob(f"*/{MARKER}")):
        return manifest.read_kit(folder)
    return pipeline.read_kit(load_config(folder, {}))


def _difference_lines(difference: "KitDifference") -> Iterator[str]:
    old, new = difference.old.kit, difference.new.kit
    if difference.is_identical:
        yield f"identical: both are kit {new.id[:12]}, with the same notebook"
    elif old.id == new.id:
        yield f"kit {new.id[:12]} in both, with another notebook"
    else:
        yield f"kit {old.id[:12]} -> {new.id[:12]}"
    yield from (
        f"{change.name}: {_shown_value(change.before)} -> {_shown_value(change.after)}"
        for change in difference.target
    )
    yield from _section_lines("Packages", [_package_line(change) for change in difference.packages])
    yield from _section_lines("From the image", [_package_line(change) for change in difference.provided])
    own = [
        line
        for change in difference.own
        for line in (_package_line(change), *(f"    {_file_line(file)}" for file in change.files))
    ]
    yield from _section_lines("Own code", [*own, *map(_file_line, difference.sources)])
    yield from _section_lines("Checkpoints", list(map(_file_line, difference.checkpoints)))
    yield from _section_lines("Other files", list(map(_file_line, difference.other)))
    yield from _section_lines("Notebook", list(_notebook_lines(difference.notebook)))


def _section_lines(title: str, lines: list[str]) -> list[str]:
    return [title, *(f"  {line}" for line in lines)] if lines else []


def _package_line(change: "PackageChange") -> str:
    note = f" ({change.note})" if change.note else ""
    if change.change == "rebuilt":
        return f"~ {change.name} {change.after}: rebuilt, the same version in other bytes{note}"
    versions = " -> ".join(version for version in (change.before, change.after) if version)
    return f"{_MARKS.get(change.change, '~')} {change.name} {versions}{note}"


def _file_line(change: "FileChange") -> str:
    mark = _MARKS.get(change.change, "~")
    if change.change == "renamed":
        return f"{mark} {change.was} -> {change.name} ({format_size(change.after)}, the same bytes)"
    if change.change == "changed":
        sizes = dict.fromkeys((format_size(change.before), format_size(change.after)))
        return f"{mark} {change.name} ({' -> '.join(sizes)})"
    return f"{mark} {change.name} ({format_size(change.before or change.after)})"


def _notebook_lines(change: "NotebookChange") -> Iterator[str]:
    for title, change_words in change.cells:
        yield f"{_MARKS.get(change_words, '~')} cell {title}"
    for key in change.metadata:
        yield f"~ {key.name}: {_shown_value(key.before)} -> {_shown_value(key.after)}"
    yield from change.text[:SHORT]
    if len(change.text) > SHORT:
        yield f"... and {len(change.text) - SHORT} more lines: --json has them all"


def _shown_value(value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    return "none" if value in (None, "") else str(value)


def _difference_facts(difference: "KitDifference") -> dict[str, Any]:
    groups = ("target", "packages", "provided", "own", "sources", "checkpoints", "other")
    sides = {
        name: {"kit": side.kit.id, "folder": str(side.kit.folder), "image": side.image, "python": side.python}
        for name, side in (("old", difference.old), ("new", difference.new))
    }
    cells = [{"cell": cell, "change": change} for cell, change in difference.notebook.cells]
    return {
        **sides,
        **{name: [asdict(change) for change in getattr(difference, name)] for name in groups},
        "notebook": {**asdict(difference.notebook), "cells": cells},
    }
