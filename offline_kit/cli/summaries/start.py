"""What `init` and `doctor` show."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from offline_kit.cli.console import Console

if TYPE_CHECKING:
    from offline_kit.init.config_proposal import ConfigProposal
    from offline_kit.init.config_toml import Setting
    from offline_kit.workflow.doctor import CheckFinding


def show_proposal(proposal: "ConfigProposal", console: Console) -> None:
    """Show the lines to write, with notes and missing settings."""
    console.print_lines(proposal.block.splitlines())
    for note in proposal.notes:
        console.note(note)
    for setting in proposal.missing_settings:
        console.warn(f"`{setting.key}` was not found: set it {setting.needed_for}")


def show_init(
    proposal: "ConfigProposal", console: Console, *, written: bool, dry_run: bool, typed: str = ""
) -> None:
    """Report whether the proposal was written, and suggest the next command."""
    if not proposal.block:
        console.step(f"'{proposal.file}' is already complete; nothing was written")
    elif written:
        console.step(f"wrote '{proposal.file}': check it and change what you like")
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
            "settings": {setting.key: _finding_facts(setting) for setting in proposal.settings},
            "kept": list(proposal.existing_keys),
            "missing": [setting.key for setting in proposal.missing_settings],
            "notes": list(proposal.notes),
        }
    )


def _finding_facts(setting: "Setting") -> dict[str, Any]:
    return {"value": setting.value, "why": setting.reason, "more": list(setting.comments)}


_SIGNS = {"ok": "ok", "warning": "warn", "failed": "FAIL", "skipped": "-"}


def show_findings(findings: "Sequence[CheckFinding]", console: Console) -> None:
    """Show the result of every check, with its fix."""
    wide = max((len(finding.title) for finding in findings), default=0)
    lines = []
    for finding in findings:
        lines.append(
            f"{finding.code}  {_SIGNS[finding.result.state]:<4}  {finding.title:<{wide}}  {finding.result.what}"
        )
        inner = " " * (wide + 14)
        lines += [f"{inner}{detail}" for detail in finding.result.details]
        lines += [f"{inner}→ {finding.result.remedy}"] if finding.result.remedy else []
    console.print_lines([console.words(line) for line in lines])
    states = [str(finding.result.state) for finding in findings]
    failed, warned = states.count("failed"), states.count("warning")
    words = [
        f"{failed} failed" if failed else "",
        f"{warned} warning{'' if warned == 1 else 's'}" if warned else "",
    ]
    console.step(", ".join(word for word in words if word) or "no problems found")
    checks = [
        {
            "code": finding.code,
            "title": finding.title,
            "state": str(finding.result.state),
            "what": finding.result.what,
            "remedy": finding.result.remedy,
            "details": list(finding.result.details),
        }
        for finding in findings
    ]
    console.print_result({"ok": not failed, "checks": checks})
