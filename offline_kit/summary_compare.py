"""What `verify` and `diff` show: tables and lines for a person, one object for a script."""

from typing import TYPE_CHECKING, Any

from offline_kit.console import Console
from offline_kit.files import human_size

if TYPE_CHECKING:
    # Only named: showing a difference must not import what a verification needs.
    from offline_kit.push.verify import NotebookCheck, PartCheck, Problem, Verification


def show_verification(found: "Verification", console: Console) -> None:
    """Show what is on Kaggle as in the kit, and what is not, with what to do about it."""
    columns = ("part", "dataset", "version", "state", "private", "files", "as in the kit")
    console.table(f"On {found.place}", columns, [_part_row(part) for part in found.parts])
    for note in (note for part in found.parts for note in part.notes):
        console.note(note)
    if not found.problems:
        console.lines([_agreement(found)])
        console.result({"ok": True, **_verification_facts(found)})
        return
    for problem in found.problems:
        console.warn(problem.what)
    what = _disagreement(found)
    remedies = list(dict.fromkeys(problem.remedy for problem in found.problems))
    console.lines([what, *(f"  {remedy}" for remedy in remedies)])
    told = {"error": what, "hint": "; ".join(remedies), "details": [each.what for each in found.problems]}
    console.result({"ok": False, **told, **_verification_facts(found)})


def _part_row(check: "PartCheck") -> tuple[str, ...]:
    remote = check.remote
    if not remote.version:
        return (check.part.name, remote.ref, "none", "", "", "", "no")
    return (
        check.part.name,
        remote.ref,
        str(remote.version),
        remote.state,
        "yes" if remote.private else "NO",
        f"{len(remote.files)}, {human_size(sum(file.size for file in remote.files))}",
        "no" if check.problems else "yes",
    )


def _agreement(found: "Verification") -> str:
    entries = [entry for part in found.parts for entry in part.part.entries]
    how = "by their bytes" if found.deep else "by names, sizes and marker"
    more = f", and version {found.notebook.version} of the notebook" if found.notebook else ""
    return f"{found.place} has kit {found.kit[:12]} as it is on this disk: {len(entries)} files {how}{more}"


def _disagreement(found: "Verification") -> str:
    count = len(found.problems)
    return f"{count} difference{'' if count == 1 else 's'} between {found.place} and kit {found.kit[:12]}"


def _verification_facts(found: "Verification") -> dict[str, Any]:
    return {
        "kit": found.kit,
        "place": found.place,
        "deep": found.deep,
        "parts": [_part_facts(part) for part in found.parts],
        "notebook": _notebook_facts(found.notebook) if found.notebook else None,
    }


def _part_facts(check: "PartCheck") -> dict[str, Any]:
    remote = check.remote
    return {
        "part": check.part.name,
        "id": check.part.id,
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


def _problem_facts(problems: "tuple[Problem, ...]") -> list[dict[str, str]]:
    return [{"what": problem.what, "remedy": problem.remedy} for problem in problems]
