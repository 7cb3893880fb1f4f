"""What the commands about Kaggle show when they are done."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from offline_kit.cli.console import Console
from offline_kit.core.files import format_size

if TYPE_CHECKING:
    from offline_kit.kaggle.client.api_types import Account
    from offline_kit.kaggle.push.dataset_plan import PushPlan
    from offline_kit.kaggle.push.push_datasets import PushedPart
    from offline_kit.kaggle.push.push_notebook import NotebookPlan, PushedNotebook
    from offline_kit.kaggle.push.submission_ledger import LedgerEntry
    from offline_kit.kaggle.push.submission_plan import SubmitPlan
    from offline_kit.project.types import Kit, KitPart
    from offline_kit.rehearsal.rehearse import Rehearsal
    from offline_kit.workflow.kaggle_rehearsal import KaggleRehearsal
    from offline_kit.workflow.kaggle_session import NotebookRun
    from offline_kit.workflow.remote_status import RemotePart, RemoteStatus
    from offline_kit.workflow.ship import ShipPlan, ShipResult, SubmissionOutcome

PushOutcome = tuple["Sequence[PushedPart]", "PushedNotebook | None", "NotebookRun | None"]
"""The pushed parts, the notebook if it was pushed, and its run if it was waited for."""
_DID = {"create": "created", "version": "a new version", "nothing": "unchanged, nothing uploaded"}
_NOTEBOOK = {"new": "pushed", "version": "a new version", "nothing": "unchanged, not run again"}


def show_push_plan(
    plan: "PushPlan", notebook: "NotebookPlan | None", disturbed: "Sequence[str]", console: Console
) -> None:
    """Show what a push would do, and the lines about submissions under way that it would disturb."""
    _say_push_plan(plan, notebook, console)
    for line in disturbed:
        console.warn(line)
    console.step("nothing was sent")
    facts = {**_push_plan(plan, notebook), "disturbed": list(disturbed)}
    console.print_result({"ok": True, "dry_run": True, "kit": plan.kit_id, **facts})


def _say_push_plan(plan: "PushPlan", notebook: "NotebookPlan | None", console: Console) -> None:
    rows = [
        (
            _part_name(part.part),
            part.ref,
            str(part.action),
            str(part.file_count),
            format_size(part.upload_size),
            part.reason,
        )
        for part in plan.parts
    ]
    if notebook:
        rows.append(("notebook", notebook.notebook.ref, notebook.action, "", "", notebook.reason))
    console.show_table("A push would", ["part", "to", "do", "files", "bytes", "why"], rows)
    for part in plan.parts:
        for name in part.dropped_files:
            console.note(f"'{part.ref}' would lose '{name}'")
        for warning in part.warnings:
            console.warn(f"'{part.ref}': {warning}")


def _part_name(part: "KitPart") -> str:
    """Return a part's name, with its file if that is the only one."""
    only = f" ({part.entries[0].original.rpartition('/')[2]})" if len(part.entries) == 1 else ""
    return f"{part.name}{only}"


def _push_plan(plan: "PushPlan", notebook: "NotebookPlan | None") -> dict[str, Any]:
    parts = [
        {
            "part": part.part.name,
            "dataset": part.ref,
            "action": part.action.value,
            "bytes": part.upload_size,
            "files": part.file_count,
            "why": part.reason,
            "dropped": list(part.dropped_files),
        }
        for part in plan.parts
    ]
    notebook_facts = (
        {"notebook": notebook.notebook.ref, "action": notebook.action, "why": notebook.reason}
        if notebook
        else None
    )
    return {"parts": parts, "notebook": notebook_facts}


def show_ship_plan(plan: "ShipPlan", build: dict[str, Any], console: Console) -> None:
    """Show what each step of shipping would do; `build` are the facts of what was shown of the build."""
    if plan.outdated:
        console.step(
            f"{', '.join(plan.changed[:5]) or 'content changed'} since kit {plan.outdated[:12]}: a new kit"
            " would be built, rehearsed, pushed and submitted"
        )
    console.step(f"rehearsal: {plan.rehearsal}")
    console.step(f"kit {plan.kit.id[:12]} is what a build would make")
    _say_push_plan(plan.data, plan.notebook, console)
    for line in plan.disturbed:
        console.warn(line)
    submission = plan.submission
    if submission.request.version:
        title = "This would be submitted" if submission.existing is None else "Submitted already"
        console.show_facts(title, list(submission.list_facts()))
    else:
        rows = [row for row in submission.list_facts() if row[0] not in ("notebook", "message")]
        console.show_facts("To be submitted when its run is complete", rows)
    console.step("nothing was built, sent or submitted")
    facts = {
        "build": build,
        "kit": plan.kit.id,
        "outdated": plan.outdated or None,
        "changed": list(plan.changed),
        "rehearsal": plan.rehearsal,
        **_push_plan(plan.data, plan.notebook),
        "disturbed": list(plan.disturbed),
        "submission": _submit_plan(submission),
    }
    console.print_result({"ok": True, "dry_run": True, **facts})


def show_push(
    results: "PushOutcome",
    kit: "Kit",
    account: "Account",
    console: Console,
) -> None:
    """Show the pushed parts, the notebook if it was pushed, and its run if it was waited for."""
    parts, notebook, run = results
    _say_parts(parts, console)
    if notebook:
        console.print_lines([_notebook_line(notebook, run)])
    for note in run.notes if run else ():
        console.note(note)
    facts = _notebook_facts(notebook, run, account) if notebook else None
    console.print_result({"ok": True, "kit": kit.id, "parts": _part_facts(parts, account), "notebook": facts})


def show_submit_plan(plan: "SubmitPlan", console: Console) -> None:
    """Show what would be submitted."""
    console.show_facts(
        "This would be submitted" if plan.existing is None else "Submitted already", list(plan.list_facts())
    )
    console.step("nothing was submitted")
    console.print_result({"ok": True, "dry_run": True, "submission": _submit_plan(plan)})


def _submit_plan(plan: "SubmitPlan") -> dict[str, Any]:
    """Return a submission that is not made, for a script; version 0 is one that has to be pushed first."""
    deadline = plan.competition.deadline
    return {
        "competition": plan.competition.slug,
        "notebook": plan.request.notebook,
        "version": plan.request.version,
        "file": plan.request.file,
        "message": plan.full_message if plan.request.version else "",
        "already": plan.existing.ref if plan.existing else None,
        "left": plan.limits.remaining if plan.limits else None,
        "deadline": deadline.isoformat() if deadline else None,
    }


def show_outcome(outcome: "SubmissionOutcome", account: "Account", console: Console) -> None:
    """Show what became of a submission."""
    console.print_lines(_outcome_lines(outcome, account))
    console.print_result({"ok": True, "submission": _outcome_facts(outcome, account)})


def show_shipped(shipped: "ShipResult", account: "Account", console: Console) -> None:
    """Show where a kit is, and its submission."""
    _say_parts(shipped.pushed, console)
    console.print_lines(
        [_notebook_line(shipped.ran.pushed, shipped.ran), *_outcome_lines(shipped.outcome, account)]
    )
    kit = shipped.built.kit
    console.print_result(
        {
            "ok": True,
            "kit": kit.id,
            "changed": shipped.built.changed,
            "rehearsal": _rehearsal_facts(shipped.rehearsal),
            "parts": _part_facts(shipped.pushed, account),
            "notebook": _notebook_facts(shipped.ran.pushed, shipped.ran, account),
            "submission": _outcome_facts(shipped.outcome, account),
        }
    )


def show_rehearsed(passed: "KaggleRehearsal", account: "Account", console: Console) -> None:
    """Show how a rehearsal on Kaggle went, and what it lets expect."""
    run = passed.ran
    rows_told = f" ({passed.rows} row{'s' * (passed.rows != 1)})" if passed.rows else ""
    rows = [
        ("where", f"{account.server_name}, '{run.pushed.ref}' version {run.pushed.version}"),
        ("time", f"{run.seconds:.1f} s"),
        ("submission", f"{run.submission or 'none'}{rows_told}"),
        ("log", str(run.log)),
    ]
    if passed.forecast_rows:
        limit = f"{passed.limit / 3600:g} h, the limit of a run,"
        rows.append(("forecast", f"{limit} should be enough for {passed.forecast_rows} rows or more"))
    for note in passed.notes:
        console.note(note)
    console.show_facts("Rehearsal passed", rows)
    facts = {
        **_notebook_facts(run.pushed, run, account),
        "rows": passed.rows,
        "rows_in_limit": passed.forecast_rows,
    }
    console.print_result({"ok": True, "place": account.server_name, "rehearsal": facts})


def whereabouts_lines(statuses: "Iterable[RemoteStatus]", kit: "Kit | None") -> list[str]:
    """Return what is at each Kaggle, for a person."""
    lines = []
    for status in statuses:
        seen_at = "now" if status.looked else f"as seen last, {status.at}" if status.at else "as seen last"
        lines.append(f"{status.place:<11} as '{status.account}', {seen_at}")
        lines += [f"  {piece.name:<11} {_part_line(piece, kit)}" for piece in status.pieces]
        if status.run:
            lines.append(f"  last run    {_run_line(status.run)}")
        lines += [f"  submitted   {_entry_line(entry)}" for entry in status.submissions]
    return lines or ["Kaggle      nothing was pushed from here; check with --to kaggle"]


def whereabouts_facts(statuses: "Iterable[RemoteStatus]") -> list[dict[str, Any]]:
    """Return what is at each Kaggle, for a script."""
    return [asdict(status) for status in statuses]


def _part_line(piece: "RemotePart", kit: "Kit | None") -> str:
    if not piece.version:
        return f"{piece.ref}: not on this Kaggle"
    holds = piece.holds
    if len(holds) == 64:  # an id, of what was seen last
        own_ids = {kit.id, *(part.id for part in kit.parts)} if kit else set()
        holds = "this kit" if holds in own_ids else f"another kit ({holds[:12]})"
    return ", ".join(
        word for word in (f"{piece.ref} version {piece.version}", piece.state, f"holds {holds}") if word
    )


def _run_line(run: dict[str, Any]) -> str:
    if problem := run.get("problem"):
        return f"{run.get('at')}: failed: {problem['what']}; {problem['hint']}"
    return f"{run.get('at')}: version {run.get('version')} in {run.get('seconds', 0):.1f} s"


def _entry_line(entry: "LedgerEntry") -> str:
    end = entry.score or entry.error.partition("\n")[0] or "no score yet"
    return f"{entry.at}: {entry.submission or '?'}, notebook version {entry.version}, {entry.state}: {end}"


def _say_parts(parts: "Iterable[PushedPart]", console: Console) -> None:
    console.print_lines([f"{part.ref} version {part.version}: {_DID[part.action.value]}" for part in parts])


def _part_facts(parts: "Iterable[PushedPart]", account: "Account") -> list[dict[str, Any]]:
    return [
        {
            "part": part.part,
            "dataset": part.ref,
            "version": part.version,
            "action": part.action.value,
            "url": _kaggle_page(part.url, account),
        }
        for part in parts
    ]


def _notebook_line(pushed: "PushedNotebook", run: "NotebookRun | None") -> str:
    time = f", ran in {run.seconds:.1f} s" if run else ""
    return f"{pushed.ref} version {pushed.version}: {_NOTEBOOK[pushed.action]}{time}"


def _kaggle_page(url: str, account: "Account") -> str | None:
    """Return the URL of a page on Kaggle; None for a local Kaggle, which has no pages."""
    return url if account.server_name == "Kaggle" else None


def _rehearsal_facts(rehearsal: "Rehearsal | dict[str, Any] | None") -> dict[str, Any] | None:
    if rehearsal is None or isinstance(rehearsal, dict):
        return rehearsal
    return {name: getattr(rehearsal, name) for name in rehearsal.__dataclass_fields__} | {"passed": True}


def _notebook_facts(
    pushed: "PushedNotebook", run: "NotebookRun | None", account: "Account"
) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "notebook": pushed.ref,
        "version": pushed.version,
        "action": pushed.action,
        "url": _kaggle_page(pushed.url, account),
    }
    if run:
        facts |= {
            "seconds": run.seconds,
            "submission": str(run.submission) if run.submission else None,
            "log": str(run.log),
            "notes": list(run.notes),
        }
    return facts


def _outcome_lines(outcome: "SubmissionOutcome", account: "Account") -> list[str]:
    submission = outcome.submitted
    action = "already submitted; not submitted again" if submission.existed_before else "submitted"
    lines = [f"submission {submission.ref}, notebook version {submission.version}: {action}"]
    scored = outcome.scored or outcome.plan.existing
    if scored and scored.state == "complete":
        lines.append(f"score {scored.public_score or '(not reported)'}{_private_score(scored.private_score)}")
    else:
        lines.append(
            f"the score may take hours: run the same command with --wait, or see {account.server_name}"
        )
    return lines


def _private_score(score: str) -> str:
    return f", private {score}" if score else ""


def _outcome_facts(outcome: "SubmissionOutcome", account: "Account") -> dict[str, Any]:
    submission, scored = outcome.submitted, outcome.scored or outcome.plan.existing
    return {
        "ref": submission.ref,
        "version": submission.version,
        "message": submission.message,
        "already": submission.existed_before,
        "place": account.server_name,
        "state": scored.state if scored else "pending",
        "score": scored.public_score if scored else "",
        "private_score": scored.private_score if scored else "",
    }
