"""What `init` and `doctor` show."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from offline_kit.cli.console import Console

if TYPE_CHECKING:
    from offline_kit.init.config_proposal import ConfigProposal
    from offline_kit.init.config_toml import Setting
    from offline_kit.workflow.doctor import CheckFinding


def show_proposal(proposal: "ConfigProposal", console: Console) -> None:
    """Show the lines that are to be written, and what the person should know."""
    console.print_lines(proposal.block.splitlines())
    for note in proposal.notes:
        console.note(note)
    for one in proposal.missing_settings:
        console.warn(f"`{one.key}` was not found: say it {one.needed_for}")


def show_init(
    proposal: "ConfigProposal", console: Console, *, written: bool, dry_run: bool, typed: str = ""
) -> None:
    """Say what became of the proposal, and what to do next with the project as it was `typed`."""
    if not proposal.block:
        console.step(f"'{proposal.file}' says all that was found already; nothing was written")
    elif written:
        console.step(f"written into '{proposal.file}': look it over, it is yours to change")
        console.note(f"next:          offline-kit build{typed} --dry-run")
    else:
        console.step(f"this would go into '{proposal.file}'; nothing was written")
    console.print_result(
        {
            "ok": True,
            "dry_run": dry_run,
            "written": written,
            "file": str(proposal.file),
            "text": proposal.block,
            "settings": {one.key: _finding_facts(one) for one in proposal.settings},
            "kept": list(proposal.existing_keys),
            "missing": [one.key for one in proposal.missing_settings],
            "notes": list(proposal.notes),
        }
    )


def _finding_facts(one: "Setting") -> dict[str, Any]:
    return {"value": one.value, "why": one.reason, "more": list(one.comments)}


_SIGNS = {"ok": "ok", "warning": "warn", "failed": "FAIL", "skipped": "-"}


def show_findings(findings: "Sequence[CheckFinding]", console: Console) -> None:
    """Show what every check said, each with its remedy."""
    wide = max((len(one.title) for one in findings), default=0)
    lines = []
    for one in findings:
        lines.append(f"{one.code}  {_SIGNS[one.said.state]:<4}  {one.title:<{wide}}  {one.said.what}")
        inner = " " * (wide + 14)
        lines += [f"{inner}{detail}" for detail in one.said.details]
        lines += [f"{inner}→ {one.said.remedy}"] if one.said.remedy else []
    console.print_lines([console.words(line) for line in lines])
    states = [str(one.said.state) for one in findings]
    failed, warned = states.count("failed"), states.count("warning")
    words = [f"{failed} failed" if failed else "", f"{warned} to look at" if warned else ""]
    console.step(", ".join(word for word in words if word) or "all is well")
    checks = [
        {
            "code": one.code,
            "title": one.title,
            "state": str(one.said.state),
            "what": one.said.what,
            "remedy": one.said.remedy,
            "details": list(one.said.details),
        }
        for one in findings
    ]
    console.print_result({"ok": not failed, "checks": checks})
