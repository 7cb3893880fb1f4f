"""What `verify` and `diff` show: tables and lines for a person, one object for a script."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from offline_kit.cli.console import Console
from offline_kit.core.files import format_size

if TYPE_CHECKING:
    # Only named: showing a difference must not import what a verification needs.
    from offline_kit.kaggle.push.verify_remote import NotebookCheck, PartCheck, Verification, VerifyProblem
    from offline_kit.kit.diff import FileChange, KitDifference, NotebookChange, PackageChange

SHORT = 40
"""Lines of the notebook's difference that a person sees."""
_MARKS = {"added": "+", "removed": "-", "renamed": ">", "moved": ">"}


def show_verification(verification: "Verification", console: Console) -> None:
    """Show whether Kaggle has the kit's files, and a fix for each difference."""
    columns = ("part", "where", "version", "state", "private", "files", "as in the kit")
    console.show_table(f"On {verification.place}", columns, [_part_row(part) for part in verification.parts])
    for note in (note for part in verification.parts for note in part.notes):
        console.note(note)
    if not verification.problems:
        console.print_lines([_agreement_lines(verification)])
        console.print_result({"ok": True, **_verification_facts(verification)})
        return
    for problem in verification.problems:
        console.warn(problem.what)
    message = _disagreement_lines(verification)
    remedies = list(dict.fromkeys(problem.remedy for problem in verification.problems))
    console.print_lines([message, *(f"  {console.words(remedy)}" for remedy in remedies)])
    failure = {
        "error": message,
        "hint": "; ".join(remedies),
        "details": [problem.what for problem in verification.problems],
    }
    console.print_result({"ok": False, **failure, **_verification_facts(verification)})


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


def _agreement_lines(verification: "Verification") -> str:
    entries = [entry for part in verification.parts for entry in part.part.entries]
    method = "by their bytes" if verification.deep else "by names, sizes and marker"
    notebook_words = (
        f", and version {verification.notebook.version} of the notebook" if verification.notebook else ""
    )
    return f"{verification.place} has kit {verification.kit[:12]} unchanged: {len(entries)} files {method}{notebook_words}"


def _disagreement_lines(verification: "Verification") -> str:
    count = len(verification.problems)
    return f"{count} difference{'' if count == 1 else 's'} between {verification.place} and kit {verification.kit[:12]}"


def _verification_facts(verification: "Verification") -> dict[str, Any]:
    return {
        "kit": verification.kit,
        "place": verification.place,
        "deep": verification.deep,
        "parts": [_part_facts(part) for part in verification.parts],
        "notebook": _notebook_facts(verification.notebook) if verification.notebook else None,
    }


def _part_facts(check: "PartCheck") -> dict[str, Any]:
    remote = check.remote
    return {
        "part": check.part.name,
        "id": check.part.id,
        "kind": remote.kind,
        "dataset": remote.ref,
        "version": remote.version,
        "state": remote.state,
        "private": remote.private if remote.version else None,
        "there": remote.part.id if remote.part else None,
        "url": remote.url,
        "hashed": check.hashed,
        "problems": _problem_facts(check.problems),
        "notes": list(check.notes),
    }


def _notebook_facts(check: "NotebookCheck") -> dict[str, Any]:
    return {"ref": check.ref, "version": check.version, "problems": _problem_facts(check.problems)}


def _problem_facts(problems: "tuple[VerifyProblem, ...]") -> list[dict[str, str]]:
    return [{"what": problem.what, "remedy": problem.remedy} for problem in problems]


def show_difference(difference: "KitDifference", console: Console) -> None:
    """Print the differences between two kits on stdout."""
    if difference.is_identical:
        console.print_lines([f"identical: both are kit {difference.new.kit.id[:12]}, with the same notebook"])
    else:
        console.print_lines(list(_difference_lines(difference)))
    console.print_result({"ok": True, "same": difference.is_identical, **_difference_facts(difference)})


def _difference_lines(difference: "KitDifference") -> Iterator[str]:
    old, new = difference.old.kit, difference.new.kit
    if old.id == new.id:
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
