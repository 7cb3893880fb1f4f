"""What `adopt` shows."""

from typing import TYPE_CHECKING, Any

from offline_kit.adopt import file_places
from offline_kit.adopt.findings import Became, Found, Kind
from offline_kit.cli.console import Console

if TYPE_CHECKING:
    from pathlib import Path

    from offline_kit.adopt.adopt import Proposal


def show_proposal(proposal: "Proposal", console: Console) -> None:
    """Show all changes as one diff, what became of each line, and what is left to do."""
    console.lines(proposal.diff.splitlines())
    told = [one for one in proposal.adoption.found if one.became not in (Became.ASKED, Became.SERVED)]
    rows = [(one.place, one.text, f"{one.became}: {one.value}", one.remedy) for one in told if _is_news(one)]
    if any(file_places.SHOWN in cell for cell in proposal.adoption.changed):
        same = "the same files: the first cell shows there what is attached and what the kit brings"
        rows.append(
            ("every cell", f"{file_places.INPUT}/...", f"{Became.REWRITTEN}: {file_places.SHOWN}/...", same)
        )
    console.table("What became of it", ("where", "there", "now", ""), rows)
    for one in proposal.adoption.asked:
        console.warn(f"{one.place}: {one.text}")
        console.note(f"    {one.remedy}")
    for said, line in zip(proposal.by_hand, proposal.paste, strict=True):
        console.warn(said)
        console.note(f"    {line}")


def _is_news(one: Found) -> bool:
    return one.kind is not Kind.SETTING or bool(one.remedy) or one.became is Became.SWITCHED_OFF


def show_adopted(
    proposal: "Proposal",
    console: Console,
    *,
    written: "tuple[Path, ...]",
    dry_run: bool,
    ok: bool = True,
    typed: str = "",
) -> None:
    """Say what was written and what to do next, with the project as it was `typed`."""
    asked = len(proposal.adoption.asked)
    if asked:
        console.step(
            f"{asked} {'lines need' if asked > 1 else 'line needs'} you before the notebook runs offline"
        )
    if written:
        console.step(f"written: {', '.join(str(path) for path in written)}")
        first = f"add by hand to '{proposal.file}' {' and '.join(proposal.paste)}, then   "
        console.note(
            f"next:          {first * proposal.fails}offline-kit rehearse{typed}   (builds the kit and runs the adopted"
            " notebook offline)"
        )
    elif proposal.changes:
        console.step("nothing was written; --write does it")
    elif proposal.by_hand:
        console.step(f"nothing was written: add by hand to '{proposal.file}' {' and '.join(proposal.paste)}")
    else:
        console.step("the configuration says all that already; nothing was written")
    adoption = proposal.adoption
    console.result(
        {
            "ok": ok,
            "dry_run": dry_run,
            "written": [str(path) for path in written],
            "notebook": str(adoption.notebook),
            "image": proposal.image.name,
            "file": str(proposal.file),
            "diff": proposal.diff,
            "found": [_facts(one) for one in adoption.found],
            "asked": asked,
            "by_hand": list(proposal.by_hand),
            "paste": list(proposal.paste),
            "requirements": list(adoption.requirements),
            "checkpoints": list(adoption.checkpoints),
            "modules": list(adoption.modules),
            "sources": {
                "competitions": list(adoption.sources.competitions),
                "datasets": list(adoption.sources.datasets),
                "notebooks": list(adoption.sources.notebooks),
                "models": list(adoption.sources.models),
            },
        }
    )


def _facts(one: Found) -> dict[str, Any]:
    return {
        "kind": str(one.kind),
        "cell": one.cell,
        "line": one.line,
        "text": one.text,
        "became": str(one.became),
        "value": one.value,
        "remedy": one.remedy,
    }
