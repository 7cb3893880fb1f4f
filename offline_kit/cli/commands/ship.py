"""The commands that run and send a kit: rehearse, report, push, submit, and ship, which does all of it."""

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from offline_kit.cli import options
from offline_kit.cli.commands.build import show_build, show_plan
from offline_kit.cli.console import Console, count_words, pick
from offline_kit.core import processes
from offline_kit.core.errors import UsageError
from offline_kit.core.files import format_size
from offline_kit.project.config_keys import ENVIRONMENTS, INSTALLERS, LAYOUTS, REHEARSAL_ENVIRONMENTS

if TYPE_CHECKING:
    from offline_kit.kaggle.client.api_types import Account
    from offline_kit.kaggle.push.part_targets import PartPlan
    from offline_kit.kaggle.push.push_notebook import NotebookPlan
    from offline_kit.kaggle.push.submission_plan import SubmitPlan
    from offline_kit.kaggle.push.submit import SubmissionResult
    from offline_kit.project.config import Config
    from offline_kit.project.types import Kit
    from offline_kit.rehearsal.rehearse import Rehearsal
    from offline_kit.workflow.kaggle_rehearsal import KaggleRehearsal
    from offline_kit.workflow.ship import NotebookRun, PushPlan, ShipPlan


@options.command(
    "offline-kit rehearse --competition-data input",
    "offline-kit rehearse --no-build --env current --rows 100",
    "offline-kit rehearse --env image",
    short_help="Build, then run the notebook offline and check it.",
)
@options.project_argument
@options.BUILD_OPTIONS
@options.COMPETITION_DATA
@options.flag("--no-build", "Rehearse the existing kit without rebuilding it.")
@options.choice_option(
    "--env",
    REHEARSAL_ENVIRONMENTS,
    "Run with the image's versions, in the running environment, or in Kaggle's container image.",
)
@options.CONTAINER
@options.choice_option("--installer", INSTALLERS, "Installer that the notebook uses.")
@options.choice_option("--layout", LAYOUTS, "Mount layout below /kaggle/input.")
@click.option("--rows", type=click.IntRange(min=1), help="Rehearse on this number of rows of the test set.")
@options.HIDDEN
@options.value("--timeout", "SECONDS", "Time limit; default the competition's.", type=click.IntRange(min=1))
@options.on_options(
    "Run in a sandbox on this machine, or on Kaggle in a private notebook, offline and without a submission."
)
@options.flag("--open opens", "Open the report in a browser when the rehearsal has ended.")
@options.YES
@options.VERBOSE
@options.common_options
def rehearse(project: Path, console: Console, **flags: Any) -> None:
    """Build what changed, then run the notebook offline and check its submission."""
    from offline_kit.rehearsal.report import page
    from offline_kit.workflow import kaggle_rehearsal, output_files, pipeline
    from offline_kit.workflow import ship as shipping

    on, at, yes = flags["on"], flags["at"], flags["yes"]
    flags["env"] = "image" if flags["container"] else flags["env"]
    _check_place(flags)
    settings = pipeline.RehearsalOptions(**options.select(flags, "env installer layout timeout yes"))
    config = options.load_config(project, flags)
    if on == "here":
        config = pipeline.ask_hidden_rows(config, console, yes=yes)
    if flags["no_build"]:
        kit = pipeline.read_sound_kit(config)
    else:
        built = pipeline.build_kit(config, upgrade=flags["upgrade"], report=console)
        show_build(built, console, verbose=flags["verbose"])
        kit = built.kit
    if on == "here":
        if output_files.link_cached(kit):
            address = output_files.require_output_part(config, kit).address
            with options.session_of(config, address, "", console) as session:
                output_files.fetch_missing(kit, session)
        report_page, began = kit.folder / "rehearsal" / page.PAGE, time.time()
        try:
            show_rehearsal(pipeline.rehearse_kit(config, kit, settings, report=console), console)
        finally:
            # A rehearsal that could not start leaves the report of the last one.
            if flags["opens"] and report_page.exists() and report_page.stat().st_mtime >= began:
                _open_page(report_page, console)
        return
    with options.session_of(config, on, at, console, current=settings.env == "current") as session:
        shipping.push_data(session, kit, yes=yes)
        passed = kaggle_rehearsal.rehearse_on_kaggle(session, kit, config.rows)
        _show_on_kaggle(passed, session.account, console)


def _open_page(page: Path, console: Console) -> bool:
    """Open a page in the user's browser; warn and return False if there is none."""
    is_opened = processes.open_in_browser(page)
    if not is_opened:
        console.warn(f"no browser could be opened; open '{page}' yourself")
    return is_opened


def _check_place(flags: dict[str, Any]) -> None:
    """Raise UsageError for options that would be ignored: a Kaggle itself decides how it runs a notebook."""
    on, at = flags["on"], flags["at"]
    is_remote = on != "here"
    ignored = {
        "--installer": is_remote and flags["installer"] != "auto",
        "--layout": is_remote and flags["layout"] != "new",
        **{f"--{name}": is_remote and flags[name] for name in ("timeout", "hidden")},
        "--open": is_remote and flags["opens"],
        "--env": flags["env"] != "matching" and (on == "kaggle" or at),
        "--env image": is_remote and flags["env"] == "image",
        "--at": at and on != "local",
    }
    if wrong := [name for name, is_given in ignored.items() if is_given]:
        raise UsageError(
            f"{', '.join(wrong)} and --on {on} do not go together",
            code="options-conflict",
            hint="remove one of them: Kaggle decides how it runs notebooks; for a running local Kaggle, set it with"
            " 'offline-kit local'"
            if is_remote
            else "add --on local, or remove --at",
        )


def show_rehearsal(passed: "Rehearsal", console: Console) -> None:
    """Show the result of a rehearsal and the folder of its files."""
    memory = (
        f"{format_size(passed.peak_memory)} ({passed.memory_by})" if passed.peak_memory else "not measured"
    )
    for difference in passed.differences:
        console.note(f"differs from the image: {difference}")
    for note in passed.notes:
        console.note(note)
    rows = [
        ("fidelity", passed.fidelity),
        ("sandbox", passed.sandbox),
        ("Python", passed.python),
        ("time", f"{passed.seconds:.1f} s"),
        ("peak memory", memory),
        ("submission", f"{passed.submission}{_row_words(passed.rows)}"),
        *([("hidden run", _describe_hidden(passed.hidden))] if passed.hidden else []),
        *([("forecast", _describe_forecast(passed.forecast))] if passed.forecast else []),
        ("evidence", str(passed.folder)),
        ("report", str(passed.report) if Path(passed.report).is_file() else "none"),
    ]
    console.show_facts("Rehearsal passed", rows, style="bold green")
    console.step("the notebook runs with the internet off")
    console.print_result({"ok": True, "rehearsal": vars(passed)})


def _describe_hidden(hidden: Mapping[str, Any]) -> str:
    session = hidden["sessions"][1]
    memory = f", {format_size(session['peak_memory'])}" if session["peak_memory"] else ""
    return f"{count_words(session['rows'], 'row')} in {session['seconds']:.1f} s{memory}"


def _describe_forecast(forecast: Mapping[str, Any]) -> str:
    hint = "" if forecast["rows"] else "; of the hidden test set if you set `hidden_rows` (--hidden-rows)"
    return f"{forecast['summary']}{hint}"


def _show_on_kaggle(passed: "KaggleRehearsal", account: "Account", console: Console) -> None:
    """Show how a rehearsal on Kaggle went, and its forecast."""
    run, forecast = passed.ran, passed.forecast
    for note in passed.notes:
        console.note(note)
    rows = [
        ("where", f"{account.server_name}, '{run.pushed.notebook.ref}' version {run.pushed.version}"),
        ("time", f"{run.seconds:.1f} s"),
        ("submission", f"{run.submission or 'none'}{_row_words(passed.rows)}"),
        ("log", str(run.log)),
    ]
    if forecast:
        rows.append(("forecast", _describe_forecast(forecast)))
        if forecast["warning"]:
            console.warn(forecast["warning"])
    console.show_facts("Rehearsal passed", rows, style="bold green")
    facts = {**_notebook_facts(run.pushed, run, account), "rows": passed.rows, "forecast": forecast}
    console.print_result({"ok": True, "place": account.server_name, "rehearsal": facts})


def _row_words(rows: int) -> str:
    return f" ({count_words(rows, 'row')})" if rows else ""


@options.command("offline-kit report", "offline-kit report --no-open")
@options.project_argument
@options.OUT
@click.option(
    "--open/--no-open",
    "opens",
    default=None,
    help="Open it in a browser, or not; default: only at a terminal.",
)
@options.common_options
def report(project: Path, console: Console, opens: bool | None, **flags: Any) -> None:
    """Open the report of the last rehearsal, and print its path.

    It is a single HTML file, updated with what was pushed, submitted and scored since.
    """
    from offline_kit.workflow import rehearsal_report

    page = rehearsal_report.find_report(options.load_config(project, flags), console)
    console.print_lines([str(page)])
    is_opened = (console.is_watched() if opens is None else opens) and _open_page(page, console)
    console.print_result({"ok": True, "report": str(page), "opened": is_opened})


PUSH_OPTIONS = options.combine_options(
    click.option("--title", default="", help="Title of a new dataset; default its slug."),
    options.flag("--drop-foreign", "Allow deleting files that offline-kit did not upload."),
    options.flag("--public", "Allow pushing to a dataset that is already public."),
    options.flag("--resend", "Upload all parts again, even unchanged ones."),
    options.repeated("--resend-part", "NAME", "Upload this part again, even if unchanged."),
)
SUBMIT_OPTIONS = options.combine_options(
    click.option("-m", "--message", default="", help="Description in Kaggle's list of submissions."),
    click.option(
        "--wait/--no-wait", default=False, show_default=True, help="Wait for the score, usually for hours."
    ),
    options.flag("--again", "Submit again what was already submitted."),
    options.flag("--late", "Submit even after the deadline."),
)
LOCAL_ENV = click.option(
    "--env",
    type=click.Choice(ENVIRONMENTS),
    help="With --to local: run notebooks with the image's versions (default), or in the running environment.",
)
_PUSH_FLAGS = "title drop_foreign public resend resend_part"
_SUBMIT_FLAGS = "message wait again late"


def _runs_current(flags: dict[str, Any]) -> bool:
    """Return whether the local Kaggle that this command serves runs notebooks in the running environment."""
    env, at = flags["env"], flags["at"]
    if env and (flags["to"] != "local" or at):
        raise UsageError(
            f"--env {env} needs a local Kaggle that this command serves",
            code="option-needs-local-kaggle",
            hint="remove it; set the environment of a running local Kaggle with 'offline-kit local --env'"
            if at
            else "add --to local, or remove --env",
        )
    return bool(env == "current")


@options.command(
    "offline-kit push --dry-run",
    "offline-kit push --to local --data-only",
    short_help="Build, upload what Kaggle lacks, run the notebook.",
)
@options.project_argument
@options.BUILD_OPTIONS
@options.TO_OPTIONS
@PUSH_OPTIONS
@LOCAL_ENV
@options.flag("--no-build", "Push the existing kit without rebuilding it.")
@options.flag("--data-only", "Push only the data, not the notebook.")
@options.flag("--no-wait", "Do not wait for the notebook's run.")
@options.flag("--dry-run", "Show what would be pushed, without sending anything.")
@options.YES
@options.common_options
def push(project: Path, console: Console, **flags: Any) -> None:
    """Build what changed, upload what Kaggle lacks, then run the notebook there and download its output."""
    from offline_kit.kaggle.push import push_notebook
    from offline_kit.kaggle.push.push_parts import PushOptions
    from offline_kit.workflow import project_status, rehearsal_report
    from offline_kit.workflow import ship as shipping

    push_options = PushOptions(**options.select(flags, _PUSH_FLAGS))
    with_notebook, current = not flags["data_only"], _runs_current(flags)
    config = options.load_config(project, flags)
    with (
        _choose_kit(config, flags, console) as kit,
        options.session_of(config, flags["to"], flags["at"], console, current=current) as session,
    ):
        if flags["dry_run"]:
            for line in project_status.describe_changes(config, kit) if flags["no_build"] else ():
                console.warn(line)
            plan = shipping.plan_push(session, kit, push_options, with_notebook=with_notebook)
            facts = _show_push_plan(plan, console)
            console.step("nothing was sent")
            console.print_result({"ok": True, "dry_run": True, "kit": kit.id, **facts})
            return
        if with_notebook:
            session.read_notebook(kit)  # its problems are reported before anything is uploaded
        parts = shipping.push_data(session, kit, push_options, yes=flags["yes"])
        run = pushed = None
        # Read again after the data: a push of a model writes its version into the notebook's sources.
        if with_notebook and flags["no_wait"]:
            pushed = push_notebook.push_notebook(session.read_notebook(kit), session)
        elif with_notebook:
            run = shipping.run_notebook(session, kit)
            pushed = run.pushed
        part_facts = _show_parts(parts, session.account, console)
        notebook = _show_notebook(pushed, run, session.account, console) if pushed else None
        for note in run.notes if run else ():
            console.note(note)
        rehearsal_report.update_report(config, console)
        console.print_result({"ok": True, "kit": kit.id, "parts": part_facts, "notebook": notebook})


@contextmanager
def _choose_kit(config: "Config", flags: dict[str, Any], console: Console) -> "Iterator[Kit]":
    """Yield the existing kit or build it first; in a dry run, yield its outline and write nothing."""
    from offline_kit.workflow import pipeline

    if flags["no_build"]:
        yield pipeline.read_sound_kit(config)
    elif flags["dry_run"]:
        with pipeline.outline_build(config, upgrade=flags["upgrade"], report=console) as (_, kit):
            yield kit
    else:
        yield pipeline.build_kit(config, upgrade=flags["upgrade"], report=console).kit


@options.command("offline-kit submit --dry-run", 'offline-kit submit --wait -m "five folds"')
@options.project_argument
@options.KIT_OPTIONS
@options.TO_OPTIONS
@SUBMIT_OPTIONS
@LOCAL_ENV
@options.value("--version", "N", "Submit an earlier version of the notebook.", type=click.IntRange(min=1))
@options.flag("--dry-run", "Show what would be submitted, without submitting.")
@options.common_options
def submit(project: Path, console: Console, **flags: Any) -> None:
    """Submit the finished version of the kit's notebook, once."""
    from offline_kit.kaggle.push import submit as submissions
    from offline_kit.kaggle.push.submission_plan import SubmitRequest
    from offline_kit.workflow import pipeline, rehearsal_report
    from offline_kit.workflow import ship as shipping

    wanted, dry_run = SubmitRequest(**options.select(flags, _SUBMIT_FLAGS)), flags["dry_run"]
    config = options.load_config(project, flags)
    pipeline.read_kit(config)  # a missing kit is reported without a login
    current = _runs_current(flags)
    with options.session_of(config, flags["to"], flags["at"], console, current=current) as session:
        request = shipping.request_pushed_version(session, flags["version"], wanted, follow=not dry_run)
        if dry_run:
            plan = submissions.plan_submission(request, session, session.ledger)
            facts = _show_submit_plan(plan, console)
            console.step("nothing was submitted")
            console.print_result({"ok": True, "dry_run": True, "submission": facts})
            return
        submitted = shipping.submit_version(session, request, yes=True)  # the command is the confirmation
        rehearsal_report.update_report(config, console)
        facts = _show_submission(submitted, session.account, console)
        console.print_result({"ok": True, "submission": facts})


@options.command(
    "offline-kit ship --dry-run",
    "offline-kit ship --to local --yes --wait",
    short_help="Build, rehearse, push, run and submit.",
    name="ship",
)
@options.project_argument
@options.BUILD_OPTIONS
@options.COMPETITION_DATA
@options.TO_OPTIONS
@PUSH_OPTIONS
@SUBMIT_OPTIONS
@options.choice_option(
    "--env",
    REHEARSAL_ENVIRONMENTS,
    "Rehearse with the image's versions, in the running environment (a local Kaggle does so, too), or in Kaggle's"
    " container image.",
)
@options.CONTAINER
@options.flag("--no-rehearsal", "Skip the rehearsal.")
@options.HIDDEN
@options.flag("--dry-run", "Show what each step would do, without writing, sending or submitting.")
@options.YES
@options.common_options
def ship_command(project: Path, console: Console, **flags: Any) -> None:
    """Build, rehearse, push, run and submit, skipping what is already done."""
    from offline_kit.kaggle.push.push_parts import PushOptions
    from offline_kit.kaggle.push.submission_plan import SubmitRequest
    from offline_kit.workflow import pipeline, rehearsal_report
    from offline_kit.workflow import ship as shipping

    env, yes = "image" if flags["container"] else flags["env"], flags["yes"]
    ship_options = shipping.ShipOptions(
        rehearsal=None if flags["no_rehearsal"] else pipeline.RehearsalOptions(env=env, yes=yes),
        data=PushOptions(**options.select(flags, _PUSH_FLAGS)),
        submission=SubmitRequest(**options.select(flags, _SUBMIT_FLAGS)),
        yes=yes,
        upgrade=flags["upgrade"],
    )
    config = options.load_config(project, flags)
    pipeline.check_project(config)
    current = env == "current"
    with options.session_of(config, flags["to"], flags["at"], console, current=current) as session:
        if flags["dry_run"]:
            plan = shipping.plan_ship(session, ship_options)
            _show_ship_plan(plan, show_plan(plan.build, console), console)
            return
        shipped, account = shipping.ship_kit(session, ship_options), session.account
        rehearsal_report.update_report(config, console)
        facts = {
            "kit": shipped.built.kit.id,
            "changed": shipped.built.changed,
            "rehearsal": shipped.rehearsal,
            "parts": _show_parts(shipped.pushed, account, console),
            "notebook": _show_notebook(shipped.ran.pushed, shipped.ran, account, console),
            "submission": _show_submission(shipped.submitted, account, console),
        }
        console.print_result({"ok": True, **facts})


def _show_ship_plan(plan: "ShipPlan", build: dict[str, Any], console: Console) -> None:
    """Show what each step of shipping would do; `build` are the facts of what was shown of the build."""
    if plan.outdated:
        console.step(
            f"{', '.join(plan.changed[:5]) or 'content changed'} since kit {plan.outdated[:12]}: a new kit"
            " would be built, rehearsed, pushed and submitted"
        )
    console.step(f"rehearsal: {plan.rehearsal}")
    console.step(f"kit {plan.kit.id[:12]} is what a build would make")
    push_facts = _show_push_plan(plan.push, console)
    submission = _show_submit_plan(plan.submission, console)
    console.step("nothing was built, sent or submitted")
    facts = {
        "build": build,
        "kit": plan.kit.id,
        "outdated": plan.outdated or None,
        "changed": list(plan.changed),
        "rehearsal": plan.rehearsal,
        **push_facts,
        "submission": submission,
    }
    console.print_result({"ok": True, "dry_run": True, **facts})


def _show_push_plan(plan: "PushPlan", console: Console) -> dict[str, Any]:
    """Show what a push would do, and the submissions under way that it would disturb; return it for a script."""
    notebook = plan.notebook
    rows = []
    for part in plan.data:
        entries, size = part.part.entries, format_size(part.upload_size)
        file = f" ({entries[0].original.rpartition('/')[2]})" if len(entries) == 1 else ""
        name = f"{part.part.name}{file}"
        rows.append((name, part.ref, str(part.action), str(part.file_count), size, part.reason))
    if notebook:
        rows.append(("notebook", notebook.notebook.ref, notebook.action, "", "", notebook.reason))
    console.show_table("A push would", ["part", "to", "do", "files", "bytes", "why"], rows)
    for part in plan.data:
        for name in part.dropped_files:
            console.note(f"'{part.ref}' would lose '{name}'")
        for warning in part.warnings:
            console.warn(f"'{part.ref}': {warning}")
    for line in plan.disturbed:
        console.warn(line)
    keys = {"part": "part.name", "dataset": "ref", "action": "action.value", "why": "reason"}
    sizes = {"bytes": "upload_size", "files": "file_count", "dropped": "dropped_files"}
    return {
        "parts": [pick(part, **keys, **sizes) for part in plan.data],
        "notebook": pick(notebook, "action", notebook="notebook.ref", why="reason") if notebook else None,
        "disturbed": list(plan.disturbed),
    }


def _show_submit_plan(plan: "SubmitPlan", console: Console) -> dict[str, Any]:
    """Show a submission that is not made, and return it for a script; one of version 0 has to be pushed first."""
    rows, deadline = plan.list_facts(), plan.competition.deadline
    title = "This would be submitted" if plan.existing is None else "Submitted already"
    if not plan.request.version:
        title = "To be submitted when its run is complete"
        rows = tuple(row for row in rows if row[0] not in ("notebook", "message"))
    console.show_facts(title, rows)
    return {
        "competition": plan.competition.slug,
        **pick(plan.request, "notebook version file"),
        "message": plan.full_message if plan.request.version else "",
        "already": plan.existing.ref if plan.existing else None,
        "left": plan.limits.remaining if plan.limits else None,
        "deadline": deadline.isoformat() if deadline else None,
    }


def _show_parts(parts: "Iterable[PartPlan]", account: "Account", console: Console) -> list[dict[str, Any]]:
    """Show where each part is now; return it for a script."""
    results = {"create": "created", "version": "a new version", "nothing": "unchanged, nothing uploaded"}
    facts = []
    for part in parts:
        console.print_lines([f"{part.ref} version {part.version}: {results[part.action.value]}"])
        keys = pick(part, "version", part="part.name", dataset="ref", action="action.value")
        facts.append(keys | {"url": _page(part.url, account)})
    return facts


def _page(url: str, account: "Account") -> str | None:
    """Return the URL of a page on Kaggle; None for a local Kaggle, which has no pages."""
    return url if account.server_name == "Kaggle" else None


def _show_notebook(
    pushed: "NotebookPlan", run: "NotebookRun | None", account: "Account", console: Console
) -> dict[str, Any]:
    """Show a pushed notebook, and its run if it was waited for; return it for a script."""
    results = {"new": "pushed", "version": "a new version", "nothing": "unchanged, not run again"}
    time = f", ran in {run.seconds:.1f} s" if run else ""
    console.print_lines([f"{pushed.notebook.ref} version {pushed.version}: {results[pushed.action]}{time}"])
    return _notebook_facts(pushed, run, account)


def _notebook_facts(pushed: "NotebookPlan", run: "NotebookRun | None", account: "Account") -> dict[str, Any]:
    facts = pick(pushed, "version action", notebook="notebook.ref") | {"url": _page(pushed.url, account)}
    if run:
        submission = str(run.submission) if run.submission else None
        facts |= pick(run, "seconds notes") | {"submission": submission, "log": str(run.log)}
    return facts


def _show_submission(submission: "SubmissionResult", account: "Account", console: Console) -> dict[str, Any]:
    """Show what became of a submission; return it for a script."""
    scored = submission.submission
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
