"""What `build --on` shows."""

from typing import TYPE_CHECKING

from offline_kit.cli.console import Console
from offline_kit.core.files import format_size

if TYPE_CHECKING:
    from offline_kit.kaggle.client.api_types import Account
    from offline_kit.workflow.build_remotely import RemoteBuild, RemoteBuildPlan

_DO = {"new": "pushed for the first time and run", "version": "pushed as a new version and run"}


def show_made(remote_build: "RemoteBuild", console: Console) -> None:
    """Show the notebook that made the packages."""
    record = remote_build.record
    console.note(
        f"the packages:  '{record.notebook}', version {record.version}: {record.files} wheels,"
        f" {format_size(remote_build.wheels_size)}, downloaded only when a rehearsal on this machine needs them"
    )


def show_plan(plan: "RemoteBuildPlan", account: "Account", console: Console) -> None:
    """Show the notebook that would make the packages and the one that would attach its output."""
    notebook, request = plan.notebook, plan.asked
    rerun_reason = "run again, as --upgrade asks" if plan.upgrade else "not run again"
    rows = [
        (
            "notebook",
            f"'{notebook.notebook.ref}' on {account.server_name}: {_DO.get(notebook.action, rerun_reason)}; {notebook.reason}",
        ),
        ("private", "yes" if notebook.notebook.private else "NO"),
        ("internet", f"{'on' if notebook.notebook.internet else 'off'} there: its pip downloads and builds"),
        ("machine", notebook.notebook.machine_shape or "no accelerator"),
        *(("asked for", line) for line in request.requirements),
        *(("constraint", line) for line in request.constraints),
        *(("preferred", f"{name}=={version}") for name, version in request.preferred),
        ("kept", f"{len(request.protected)} packages of the image at their versions"),
        *(("replaced", name) for name in request.include),
        *(("left out", name) for name in request.exclude),
        ("attached", f"its output to '{plan.offline}', which has the internet off"),
        ("fetched", "a list and outlines of the wheels; the wheels only for a rehearsal on this machine"),
    ]
    console.show_facts("Planned build of the packages", rows)
    console.step("pip on Kaggle selects the wheels; nothing was pushed, run, downloaded or written")
    facts = {
        "notebook": notebook.notebook.ref,
        "place": account.server_name,
        "action": notebook.action,
        "why": notebook.reason,
        "runs": plan.needs_run,
        "version": notebook.version or None,
        "private": notebook.notebook.private,
        "internet": notebook.notebook.internet,
        "machine": notebook.notebook.machine_shape or None,
        "requirements": list(request.requirements),
        "constraints": list(request.constraints),
        "preferred": dict(request.preferred),
        "protected": list(request.protected),
        "include": list(request.include),
        "exclude": list(request.exclude),
        "attached_to": plan.offline,
    }
    console.print_result({"ok": True, "dry_run": True, "chained": facts})
