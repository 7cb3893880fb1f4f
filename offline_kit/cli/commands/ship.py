"""The commands that send a kit: push, submit, and ship, which does all of it."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from offline_kit.cli.commands.build import show_plan
from offline_kit.cli.console import Console, pick
from offline_kit.cli.options import (
    BUILD_OPTIONS,
    COMPETITION_DATA,
    KIT_OPTIONS,
    TO_OPTIONS,
    YES,
    HelpCommand,
    choice_option,
    combine_options,
    common_options,
    confirmation,
    console_of,
    load_config,
    project_argument,
    session_of,
    take_flags,
)
from offline_kit.core.errors import UsageError
from offline_kit.core.files import format_size
from offline_kit.project.config_keys import ENVIRONMENTS

if TYPE_CHECKING:
    from offline_kit.kaggle.client.api_types import Account
    from offline_kit.kaggle.push.dataset_plan import PushPlan
    from offline_kit.kaggle.push.push_datasets import PushedPart
    from offline_kit.kaggle.push.push_notebook import NotebookPlan, PushedNotebook
    from offline_kit.kaggle.push.submission_plan import SubmitPlan
    from offline_kit.project.config import Config
    from offline_kit.project.types import Kit
    from offline_kit.workflow.push_steps import NotebookRun
    from offline_kit.workflow.ship import ShipPlan, SubmissionOutcome

PUSH_OPTIONS = combine_options(
    click.option("--title", default="", help="Title of a new dataset; default its slug."),
    click.option("--drop-foreign", is_flag=True, help="Allow deleting files that offline-kit did not upload."),
    click.option("--public", is_flag=True, help="Allow pushing to a dataset that is already public."),
    click.option("--resend", is_flag=True, help="Upload all parts again, even unchanged ones."),
    click.option("--resend-part", multiple=True, metavar="NAME", help="Upload this part again, even if unchanged. Repeatable."),
)  # fmt: skip
SUBMIT_OPTIONS = combine_options(
    click.option("-m", "--message", default="", help="Description in Kaggle's list of submissions."),
    click.option("--wait/--no-wait", default=False, show_default=True, help="Wait for the score, usually for hours."),
    click.option("--again", is_flag=True, help="Submit again what was already submitted."),
    click.option("--late", is_flag=True, help="Submit even after the deadline."),
)  # fmt: skip
LOCAL_ENV = click.option(
    "--env",
    type=click.Choice(ENVIRONMENTS),
    help="With --to local: run notebooks with the image's versions (default), or in the running environment.",
)
_PUSH_FLAGS = ("title", "drop_foreign", "public", "resend", "resend_part")
_SUBMIT_FLAGS = ("message", "wait", "again", "late")


def _runs_current(env: str | None, to: str, at: str) -> bool:
    """Return whether the local Kaggle of this command runs notebooks in the running environment.

    Raises UsageError if --env is given but this command serves no local Kaggle.
    """
    if env and (to != "local" or at):
        raise UsageError(
            f"--env {env} needs a local Kaggle that this command serves",
            code="option-needs-local-kaggle",
            hint="remove it; set the environment of a running local Kaggle with 'offline-kit local --env'"
            if at
            else "add --to local, or remove --env",
        )
    return env == "current"


@click.command(
    cls=HelpCommand,
    short_help="Build, upload what Kaggle lacks, run the notebook.",
    examples=("offline-kit push --dry-run", "offline-kit push --to local --data-only"),
)
@project_argument
@BUILD_OPTIONS
@TO_OPTIONS
@PUSH_OPTIONS
@LOCAL_ENV
@click.option("--no-build", is_flag=True, help="Push the existing kit without rebuilding it.")
@click.option("--data-only", is_flag=True, help="Push only the data, not the notebook.")
@click.option("--no-wait", is_flag=True, help="Do not wait for the notebook's run.")
@click.option("--dry-run", is_flag=True, help="Show what would be pushed, without sending anything.")
@YES
@common_options
def push(project: Path, *, quiet: bool, as_json: bool, upgrade: bool, **flags: Any) -> None:
    """Build what changed, upload what Kaggle lacks, then run the notebook there and download its output."""
    from offline_kit.kaggle.push import push_notebook
    from offline_kit.kaggle.push.dataset_plan import PushOptions
    from offline_kit.workflow import outdated, push_steps

    console = console_of(quiet=quiet, as_json=as_json)
    options = PushOptions(**take_flags(flags, *_PUSH_FLAGS))
    to, at, yes, dry_run, env = take_flags(flags, "to", "at", "yes", "dry_run", "env").values()
    data_only, no_wait, no_build = take_flags(flags, "data_only", "no_wait", "no_build").values()
    current = _runs_current(env, to, at)
    config = load_config(project, flags)
    with (
        _choose_kit(config, console, no_build=no_build, dry_run=dry_run, upgrade=upgrade) as kit,
        session_of(config, to, at, console, current=current) as session,
    ):
        # Problems of the notebook are reported before anything is uploaded.
        new = None if data_only else session.read_notebook(kit)
        kaggle, settings = session.kaggle, session.settings
        if dry_run:
            for line in outdated.describe_changes(config, kit) if no_build else ():
                console.warn(line)
            plan = push_steps.plan_data(session, kit, options, console)
            cells = push_notebook.plan_notebook(new, kaggle, settings, console) if new else None
            facts = _show_push_plan(plan, cells, push_steps.describe_disturbed(session, kit, plan), console)
            console.step("nothing was sent")
            console.print_result({"ok": True, "dry_run": True, "kit": plan.kit_id, **facts})
            return
        parts = push_steps.push_data(session, kit, options, confirmation(console, yes=yes), console)
        run = push_steps.run_notebook(session, kit, console, new=new) if new and not no_wait else None
        pushed = run.pushed if run else None
        if new and no_wait:
            pushed = push_notebook.push_notebook(new, kaggle, settings, console)
        _show_parts(parts, console)
        if pushed:
            console.print_lines([_notebook_line(pushed, run)])
        for note in run.notes if run else ():
            console.note(note)
        notebook = notebook_facts(pushed, run, session.account) if pushed else None
        facts = {"parts": _part_facts(parts, session.account), "notebook": notebook}
        console.print_result({"ok": True, "kit": kit.id, **facts})


@contextmanager
def _choose_kit(
    config: "Config", console: Console, *, no_build: bool, dry_run: bool, upgrade: bool
) -> "Iterator[Kit]":
    """Yield the existing kit or build it first; in a dry run, yield its outline and write nothing."""
    from offline_kit.workflow import pipeline

    if no_build:
        yield pipeline.read_sound_kit(config)
    elif dry_run:
        with pipeline.outline_build(config, upgrade=upgrade, report=console) as (_, kit):
            yield kit
    else:
        yield pipeline.build_kit(config, upgrade=upgrade, report=console).kit


@click.command(
    cls=HelpCommand,
    examples=("offline-kit submit --dry-run", 'offline-kit submit --wait -m "five folds"'),
)
@project_argument
@KIT_OPTIONS
@TO_OPTIONS
@SUBMIT_OPTIONS
@LOCAL_ENV
@click.option(
    "--version", type=click.IntRange(min=1), metavar="N", help="Submit an earlier version of the notebook."
)
@click.option("--dry-run", is_flag=True, help="Show what would be submitted, without submitting.")
@common_options
def submit(project: Path, *, quiet: bool, as_json: bool, **flags: Any) -> None:
    """Submit the finished version of the kit's notebook, once."""
    from offline_kit.workflow import pipeline
    from offline_kit.workflow import ship as shipping

    console = console_of(quiet=quiet, as_json=as_json)
    options = shipping.SubmissionOptions(**take_flags(flags, *_SUBMIT_FLAGS))
    to, at, version, dry_run, env = take_flags(flags, "to", "at", "version", "dry_run", "env").values()
    config = load_config(project, flags)
    pipeline.read_kit(config)  # a missing kit is reported without a login
    with session_of(config, to, at, console, current=_runs_current(env, to, at)) as session:
        request = shipping.request_pushed_version(session, version, options, console, follow=not dry_run)
        if dry_run:
            plan = shipping.plan_submission(session, request, console)
            _show_submit_plan(plan, console)
            console.step("nothing was submitted")
            console.print_result({"ok": True, "dry_run": True, "submission": _submit_plan_facts(plan)})
            return
        # Running `submit` is the confirmation.
        policy = confirmation(console, yes=True)
        outcome = shipping.submit_version(session, request, options, policy, console)
        facts = _show_outcome(outcome, session.account, console)
        console.print_result({"ok": True, "submission": facts})


@click.command(
    "ship",
    cls=HelpCommand,
    short_help="Build, rehearse, push, run and submit.",
    examples=("offline-kit ship --dry-run", "offline-kit ship --to local --yes --wait"),
)
@project_argument
@BUILD_OPTIONS
@COMPETITION_DATA
@TO_OPTIONS
@PUSH_OPTIONS
@SUBMIT_OPTIONS
@choice_option(
    "--env",
    ENVIRONMENTS,
    "Rehearse with the image's versions, or in the running environment; also applies to a local Kaggle.",
)
@click.option("--no-rehearsal", is_flag=True, help="Skip the rehearsal.")
@click.option(
    "--dry-run", is_flag=True, help="Show what each step would do, without writing, sending or submitting."
)
@YES
@common_options
def ship_command(project: Path, *, quiet: bool, as_json: bool, upgrade: bool, **flags: Any) -> None:
    """Build, rehearse, push, run and submit, skipping what is already done."""
    from offline_kit.kaggle.push.dataset_plan import PushOptions
    from offline_kit.workflow import pipeline
    from offline_kit.workflow import ship as shipping

    console = console_of(quiet=quiet, as_json=as_json)
    to, at, yes, env = take_flags(flags, "to", "at", "yes", "env").values()
    no_rehearsal, dry_run = take_flags(flags, "no_rehearsal", "dry_run").values()
    rehearsal = pipeline.RehearsalOptions(env=env, yes=yes, confirm=console.confirm)
    options = shipping.ShipOptions(
        rehearsal=None if no_rehearsal else rehearsal,
        data=PushOptions(**take_flags(flags, *_PUSH_FLAGS)),
        submission=shipping.SubmissionOptions(**take_flags(flags, *_SUBMIT_FLAGS)),
        approval=confirmation(console, yes=yes),
        upgrade=upgrade,
    )
    config = load_config(project, flags)
    pipeline.check_project(config)
    with session_of(config, to, at, console, current=env == "current") as session:
        if dry_run:
            plan = shipping.plan_ship(config, session, options, console)
            _show_ship_plan(plan, show_plan(plan.build, console), console)
            return
        shipped, account = shipping.ship_kit(config, session, options, console), session.account
        _show_parts(shipped.pushed, console)
        console.print_lines([_notebook_line(shipped.ran.pushed, shipped.ran)])
        submission = _show_outcome(shipped.outcome, account, console)
        last = shipped.rehearsal
        console.print_result(
            {
                "ok": True,
                "kit": shipped.built.kit.id,
                "changed": shipped.built.changed,
                "rehearsal": last
                if last is None or isinstance(last, dict)
                else {**vars(last), "passed": True},
                "parts": _part_facts(shipped.pushed, account),
                "notebook": notebook_facts(shipped.ran.pushed, shipped.ran, account),
                "submission": submission,
            }
        )


def _show_ship_plan(plan: "ShipPlan", build: dict[str, Any], console: Console) -> None:
    """Show what each step of shipping would do; `build` are the facts of what was shown of the build."""
    if plan.outdated:
        console.step(
            f"{', '.join(plan.changed[:5]) or 'content changed'} since kit {plan.outdated[:12]}: a new kit"
            " would be built, rehearsed, pushed and submitted"
        )
    console.step(f"rehearsal: {plan.rehearsal}")
    console.step(f"kit {plan.kit.id[:12]} is what a build would make")
    push_facts = _show_push_plan(plan.data, plan.notebook, plan.disturbed, console)
    if plan.submission.request.version:
        _show_submit_plan(plan.submission, console)
    else:
        rows = [row for row in plan.submission.list_facts() if row[0] not in ("notebook", "message")]
        console.show_facts("To be submitted when its run is complete", rows)
    console.step("nothing was built, sent or submitted")
    facts = {
        "build": build,
        "kit": plan.kit.id,
        "outdated": plan.outdated or None,
        "changed": list(plan.changed),
        "rehearsal": plan.rehearsal,
        **push_facts,
        "submission": _submit_plan_facts(plan.submission),
    }
    console.print_result({"ok": True, "dry_run": True, **facts})


def _show_push_plan(
    plan: "PushPlan", notebook: "NotebookPlan | None", disturbed: tuple[str, ...], console: Console
) -> dict[str, Any]:
    """Show what a push would do, and the submissions under way that it would disturb; return it for a script."""
    rows = []
    for part in plan.parts:
        entries, size = part.part.entries, format_size(part.upload_size)
        file = f" ({entries[0].original.rpartition('/')[2]})" if len(entries) == 1 else ""
        name = f"{part.part.name}{file}"
        rows.append((name, part.ref, str(part.action), str(part.file_count), size, part.reason))
    if notebook:
        rows.append(("notebook", notebook.notebook.ref, notebook.action, "", "", notebook.reason))
    console.show_table("A push would", ["part", "to", "do", "files", "bytes", "why"], rows)
    for part in plan.parts:
        for name in part.dropped_files:
            console.note(f"'{part.ref}' would lose '{name}'")
        for warning in part.warnings:
            console.warn(f"'{part.ref}': {warning}")
    for line in disturbed:
        console.warn(line)
    keys = {"part": "part.name", "dataset": "ref", "action": "action.value", "why": "reason"}
    sizes = {"bytes": "upload_size", "files": "file_count", "dropped": "dropped_files"}
    return {
        "parts": [pick(part, **keys, **sizes) for part in plan.parts],
        "notebook": pick(notebook, "action", notebook="notebook.ref", why="reason") if notebook else None,
        "disturbed": list(disturbed),
    }


def _show_submit_plan(plan: "SubmitPlan", console: Console) -> None:
    title = "This would be submitted" if plan.existing is None else "Submitted already"
    console.show_facts(title, list(plan.list_facts()))


def _submit_plan_facts(plan: "SubmitPlan") -> dict[str, Any]:
    """Return a submission that is not made, for a script; one of version 0 has to be pushed first."""
    deadline = plan.competition.deadline
    return {
        "competition": plan.competition.slug,
        **pick(plan.request, "notebook version file"),
        "message": plan.full_message if plan.request.version else "",
        "already": plan.existing.ref if plan.existing else None,
        "left": plan.limits.remaining if plan.limits else None,
        "deadline": deadline.isoformat() if deadline else None,
    }


def _show_parts(parts: "Iterable[PushedPart]", console: Console) -> None:
    results = {"create": "created", "version": "a new version", "nothing": "unchanged, nothing uploaded"}
    for part in parts:
        console.print_lines([f"{part.ref} version {part.version}: {results[part.action.value]}"])


def _part_facts(parts: "Iterable[PushedPart]", account: "Account") -> list[dict[str, Any]]:
    return [
        pick(part, "part version", dataset="ref", action="action.value") | {"url": _page(part.url, account)}
        for part in parts
    ]


def _page(url: str, account: "Account") -> str | None:
    """Return the URL of a page on Kaggle; None for a local Kaggle, which has no pages."""
    return url if account.server_name == "Kaggle" else None


def _notebook_line(pushed: "PushedNotebook", run: "NotebookRun | None") -> str:
    results = {"new": "pushed", "version": "a new version", "nothing": "unchanged, not run again"}
    time = f", ran in {run.seconds:.1f} s" if run else ""
    return f"{pushed.ref} version {pushed.version}: {results[pushed.action]}{time}"


def notebook_facts(pushed: "PushedNotebook", run: "NotebookRun | None", account: "Account") -> dict[str, Any]:
    """Return a pushed notebook, and its run if it was waited for, for a script."""
    facts = pick(pushed, "version action", notebook="ref") | {"url": _page(pushed.url, account)}
    if run:
        submission = str(run.submission) if run.submission else None
        facts |= pick(run, "seconds notes") | {"submission": submission, "log": str(run.log)}
    return facts


def _show_outcome(outcome: "SubmissionOutcome", account: "Account", console: Console) -> dict[str, Any]:
    """Show what became of a submission; return it for a script."""
    submission, scored = outcome.submitted, outcome.scored or outcome.plan.existing
    action = "already submitted; not submitted again" if submission.existed_before else "submitted"
    lines = [f"submission {submission.ref}, notebook version {submission.version}: {action}"]
    if scored and scored.state == "complete":
        private = f", private {scored.private_score}" if scored.private_score else ""
        lines.append(f"score {scored.public_score or '(not reported)'}{private}")
    else:
        lines.append(
            f"the score may take hours: run the same command with --wait, or see {account.server_name}"
        )
    console.print_lines(lines)
    return {
        **pick(submission, "ref version message", already="existed_before"),
        "place": account.server_name,
        "state": scored.state if scored else "pending",
        "score": scored.public_score if scored else "",
        "private_score": scored.private_score if scored else "",
    }
