"""What `adopt` shows."""

from typing import TYPE_CHECKING, Any

from offline_kit.adopt import notebook_files
from offline_kit.adopt.findings import ExternalNeed, NeedKind, Outcome
from offline_kit.cli.console import Console

if TYPE_CHECKING:
    from pathlib import Path

    from offline_kit.adopt.adoption_plan import AdoptionPlan


def show_proposal(proposal: "AdoptionPlan", console: Console) -> None:
    """Show all changes as one diff, each finding's outcome, and what is left to do."""
    console.print_lines(proposal.unified_diff.splitlines())
    outcomes = [
        finding
        for finding in proposal.adoption.resolved
        if finding.resolution not in (Outcome.UNRESOLVED, Outcome.SERVED)
    ]
    rows = [
        (finding.position, finding.text, f"{finding.resolution}: {finding.value}", finding.remedy)
        for finding in outcomes
        if _is_news(finding)
    ]
    if any(notebook_files.SHOWN_INPUT in cell for cell in proposal.adoption.changed):
        same_files = "the same files: the first cell shows there what is attached and what the kit brings"
        rows.append(
            (
                "every cell",
                f"{notebook_files.INPUT}/...",
                f"{Outcome.REWRITTEN}: {notebook_files.SHOWN_INPUT}/...",
                same_files,
            )
        )
    console.show_table("Changes", ("where", "before", "after", "fix"), rows)
    for finding in proposal.adoption.unresolved:
        console.warn(f"{finding.position}: {finding.text}")
        console.note(f"    {finding.remedy}")
    for step, line in zip(proposal.manual_steps, proposal.lines_to_add, strict=True):
        console.warn(step)
        console.note(f"    {line}")


def _is_news(finding: ExternalNeed) -> bool:
    return (
        finding.kind is not NeedKind.SETTING
        or bool(finding.remedy)
        or finding.resolution is Outcome.SWITCHED_OFF
    )


def show_adopted(
    proposal: "AdoptionPlan",
    console: Console,
    *,
    written: "tuple[Path, ...]",
    dry_run: bool,
    ok: bool = True,
    typed: str = "",
) -> None:
    """Report what was written and suggest the next command, with the project as it was `typed`."""
    unresolved_count = len(proposal.adoption.unresolved)
    if unresolved_count:
        console.step(
            f"{unresolved_count} {'lines need' if unresolved_count > 1 else 'line needs'} a fix before the notebook runs offline"
        )
    if written:
        console.step(f"written: {', '.join(str(path) for path in written)}")
        first = f"add by hand to '{proposal.config_file}' {' and '.join(proposal.lines_to_add)}, then   "
        console.note(
            f"next:          {first * proposal.is_blocking}offline-kit rehearse{typed}   (builds the kit and runs the adopted"
            " notebook offline)"
        )
    elif proposal.has_changes:
        console.step("nothing was written; run again with --write to write it")
    elif proposal.manual_steps:
        console.step(
            f"nothing was written: add by hand to '{proposal.config_file}' {' and '.join(proposal.lines_to_add)}"
        )
    else:
        console.step("the configuration is already complete; nothing was written")
    adoption = proposal.adoption
    console.print_result(
        {
            "ok": ok,
            "dry_run": dry_run,
            "written": [str(path) for path in written],
            "notebook": str(adoption.notebook),
            "image": proposal.image.name,
            "file": str(proposal.config_file),
            "diff": proposal.unified_diff,
            "found": [_finding_facts(finding) for finding in adoption.resolved],
            "asked": unresolved_count,
            "by_hand": list(proposal.manual_steps),
            "paste": list(proposal.lines_to_add),
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


def _finding_facts(finding: ExternalNeed) -> dict[str, Any]:
    return {
        "kind": str(finding.kind),
        "cell": finding.cell,
        "line": finding.line,
        "text": finding.text,
        "became": str(finding.resolution),
        "value": finding.value,
        "remedy": finding.remedy,
    }
