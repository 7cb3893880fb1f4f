"""The command that adopts an existing notebook: by recording a run of it, or by reading its cells."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from offline_kit.cli import options
from offline_kit.cli.console import Console, pick
from offline_kit.core.errors import Exit, UsageError
from offline_kit.core.files import format_size
from offline_kit.project.config_keys import ENVIRONMENTS, KAGGLES

if TYPE_CHECKING:
    from offline_kit.adopt.adoption_plan import AdoptionPlan
    from offline_kit.adopt.recording import RecordedRun
    from offline_kit.kaggle.client.api_types import NewNotebook
    from offline_kit.workflow.record_notebook import RecordingPlan

_MAX_CELLS = 10  # in a table
_DIFF = r"^(?:(?P<bold>(?:---|\+\+\+) .*)|(?P<cyan>@@.*)|(?P<green>\+.*)|(?P<red>-.*))$"


class _RecordingPlace(click.Choice[str]):
    """Where to record; `--record inference.ipynb` takes the notebook for the place."""

    def convert(self, value: str, param: click.Parameter | None, context: click.Context | None) -> str:
        """Return the place."""
        if value.endswith((".ipynb", ".py")):
            raise UsageError(
                f"'{value}' stands where --record expects one of {', '.join(self.choices)}",
                code="usage",
                hint=f"name the notebook first: offline-kit adopt {value} --record",
            )
        return super().convert(value, param, context)


@options.command(
    "offline-kit adopt inference.ipynb --record",
    "offline-kit adopt inference.ipynb --record kaggle",
    "offline-kit adopt inference.ipynb --import cv2=opencv-python-headless --write",
    short_help="Convert a notebook or script that needs the internet.",
)
@click.argument("notebook", type=options.PATH)
@options.project_argument
@options.repeated(
    "--import imports",
    "NAME[=DISTRIBUTION]",
    "Distribution that provides an import, if it cannot be detected.",
)
@click.option(
    "--record",
    type=_RecordingPlace(("here", *KAGGLES)),
    is_flag=False,
    flag_value="here",
    callback=options.word_target,
    help="Run it once with the internet on and record what it fetches: in a sandbox on this machine (default), or in a"
    " private notebook on Kaggle.",
)
@options.choice_option(
    "--env", ENVIRONMENTS, "Record with the image's versions, or in the running environment."
)
@options.AT
@options.YES
@options.flag("--write", "Write the configuration and the requirements without asking.")
@options.flag("--dry-run", "Show what would change, without writing or asking.")
@options.common_options
def adopt(
    notebook: Path,
    project: Path,
    console: Console,
    write: bool,
    dry_run: bool,
    imports: tuple[str, ...],
    **flags: Any,
) -> None:
    """Convert a notebook or script that needs the internet into an offline project."""
    from offline_kit.adopt import adoption_plan as adopting

    _check_recording(flags["record"], flags["at"], flags["env"], imports)
    if flags["record"]:
        _record(notebook, project, flags | {"dry_run": dry_run}, console)
        return
    plan = adopting.plan_adoption(notebook, project, console, _parse_distributions(imports))
    _show_changes(plan, console)
    agreed = plan.has_changes and write and not dry_run
    if plan.has_changes and console.can_ask() and not (write or dry_run):
        files = f"'{plan.config.path}' and '{plan.requirements.path.name}'"
        agreed = console.confirm(f"Write this into {files}?")
    written = adopting.write_adoption(plan) if agreed else ()
    _show_outcome(plan, written, console)
    ok = dry_run or not (write and plan.is_blocking)
    adoption = plan.adoption
    console.print_result(
        {
            "ok": ok,
            "dry_run": dry_run,
            "written": [str(path) for path in written],
            "notebook": str(adoption.notebook),
            "image": plan.image.name,
            "file": str(plan.config.path),
            "diff": plan.unified_diff,
            "found": [
                pick(finding, "kind cell line text value remedy", became="resolution")
                for finding in adoption.resolved
            ],
            "asked": len(adoption.unresolved),
            "by_hand": [step for step, _ in plan.manual_steps],
            "paste": [line for _, line in plan.manual_steps],
            **pick(adoption, "requirements checkpoints modules"),
            "sources": pick(adoption.sources, "competitions datasets notebooks models"),
        }
    )
    if not ok:
        sys.exit(Exit.PROJECT)


def _check_recording(where: str | None, at: str, env: str, imports: tuple[str, ...]) -> None:
    """Raise UsageError for options that would be ignored."""
    if where and imports:
        raise UsageError(
            "--import is not used with --record",
            code="options-conflict",
            hint="remove it: a recording knows the packages",
        )
    ignored = {"--at": at and where != "local", "--env": env != "matching" and where != "here"}
    if wrong := [name for name, is_given in ignored.items() if is_given]:
        raise UsageError(
            f"{', '.join(wrong)} needs --record {'local' if at else 'here'}",
            code="options-conflict",
            hint="remove it: only on this machine there is an environment to choose"
            if not at
            else "add --record local, or remove --at",
        )


def _record(notebook: Path, project: Path, flags: dict[str, Any], console: Console) -> None:
    """Record a run of the notebook, write the configuration, and show what was recorded; or only show the plan."""
    from offline_kit.adopt import adoption_plan, recording
    from offline_kit.workflow import record_here
    from offline_kit.workflow import record_notebook as recorder

    where, at, dry_run = flags["record"], flags["at"], flags["dry_run"]
    plan, facts = recorder.plan_recording(notebook, project, console), dict[str, Any]()
    console.print_lines(plan.adoption.unified_diff.splitlines(), highlight=_DIFF, fold=True)
    if where == "here" and dry_run:
        facts = _plan_here(plan)
    elif where == "here":
        recorded = record_here.record_here(plan, flags["env"], yes=flags["yes"], report=console)
    else:
        with options.session_of(plan.config, where, at, console, current=True) as session:
            if dry_run:
                facts = _plan_on_kaggle(recorder.make_recorder(session, plan), session.account.server_name)
            else:
                recorded = recorder.record_remotely(session, plan)
    if dry_run:
        console.show_plan(f"Planned recording of '{plan.source}'", facts)
        console.step("nothing was sent, run or written")
        console.print_result({"ok": True, "dry_run": True, **facts})
        return
    written = (plan.config.project / recording.RECORD, *adoption_plan.write_adoption(plan.adoption))
    _show_recording(recorded, plan, written, at, console)


def _plan_here(plan: "RecordingPlan") -> dict[str, Any]:
    """Return what a recording on this machine would do."""
    data = {plan.config.competition: plan.config.competition_data} if plan.config.competition_data else {}
    inputs = {**data, **plan.config.copies, **plan.list_local_inputs()}
    return {
        "where": "here",
        "image": plan.adoption.image.name,
        "inputs": {name: str(path) for name, path in inputs.items()},
        "beside": sorted(plan.list_beside()),
    }


def _plan_on_kaggle(new: "NewNotebook", server: str) -> dict[str, Any]:
    """Return what a recording on Kaggle would do; nothing but this notebook would be uploaded."""
    sources = pick(new.sources, "competitions datasets notebooks models")
    facts = {"where": server, "notebook": new.ref, "private": new.private, "internet": new.internet}
    return facts | {"machine": new.machine_shape or None, "sources": sources}


def _show_recording(
    recorded: "RecordedRun", plan: "RecordingPlan", written: tuple[Path, ...], at: str, console: Console
) -> None:
    from offline_kit.workflow.kaggle_session import LOCAL_ADDRESS
    from offline_kit.workflow.record_notebook import list_questions, summarize_document

    # A rehearsal fetches the part from the same local Kaggle.
    address = f"{LOCAL_ADDRESS}={at} " if at else ""
    document = recorded.document
    slowest = sorted(document["cells"], key=lambda cell: -cell["seconds"])[:_MAX_CELLS]
    rows = [
        (str(cell["cell"] or "the script"), f"{cell['seconds']:.1f} s", format_size(cell["memory"]))
        for cell in sorted(slowest, key=lambda cell: cell["cell"])
    ]
    console.show_table("Longest cells", ("cell", "time", "peak memory"), rows)
    where = (
        f"'{recorded.notebook}', version {recorded.version}" if recorded.notebook else str(recorded.folder)
    )
    facts = [
        *summarize_document(document),
        ("submission", (document["submission"] or {}).get("path", "none").removeprefix("{working}/")),
        ("part of the kit", f"{recorded.count} files, {format_size(recorded.size)}, in {where}"),
    ]
    console.show_facts(f"Recorded: {plan.source}", facts, style="bold green")
    questions = list(list_questions(document))
    for question in questions:
        console.warn(question)
    for step, line in plan.adoption.manual_steps:
        console.warn(step, hint=line)
    console.step(f"written: {', '.join(str(path) for path in written)}")
    console.note(f"next:          {address}offline-kit rehearse{options.typed_settings('project', 'env')}")
    console.print_result(
        {
            "ok": True,
            "dry_run": False,
            "written": [str(path) for path in written],
            "questions": questions,
            **pick(recorded, "id size count notebook version local"),
            "recording": dict(document),
        }
    )


def _show_changes(plan: "AdoptionPlan", console: Console) -> None:
    """Show all changes as one diff, each finding's outcome, and what is left to do."""
    from offline_kit.adopt import notebook_files
    from offline_kit.adopt.findings import NeedKind, Outcome

    console.print_lines(plan.unified_diff.splitlines(), highlight=_DIFF, fold=True)
    rows = []
    for finding in plan.adoption.resolved:
        is_open = finding.resolution in (Outcome.UNRESOLVED, Outcome.SERVED)
        switched_off = finding.resolution is Outcome.SWITCHED_OFF
        is_news = finding.kind is not NeedKind.SETTING or finding.remedy or switched_off
        if is_news and not is_open:
            outcome = f"{finding.resolution}: {finding.value}"
            rows.append((finding.position, finding.text, outcome, finding.remedy))
    if any(notebook_files.SHOWN_INPUT in cell for cell in plan.adoption.changed):
        position, setup = ("every line", "setup") if plan.adoption.is_script else ("every cell", "first cell")
        rows.append(
            (
                position,
                f"{notebook_files.INPUT}/...",
                f"{Outcome.REWRITTEN}: {notebook_files.SHOWN_INPUT}/...",
                f"the same files: the {setup} shows there what is attached and what the kit brings",
            )
        )
    console.show_table("Changes", ("where", "before", "after", "fix"), rows)
    for finding in plan.adoption.unresolved:
        console.warn(f"{finding.position} does not run offline yet: {finding.text}", hint=finding.remedy)
    for step, line in plan.manual_steps:
        console.warn(step, hint=line)


def _show_outcome(plan: "AdoptionPlan", written: tuple[Path, ...], console: Console) -> None:
    """Report what was written and suggest the next command, with the project as it was typed."""
    if count := len(plan.adoption.unresolved):
        lines = "lines need" if count > 1 else "line needs"
        console.step(f"{count} {lines} a fix before the notebook runs offline")
    manual = f"add by hand to '{plan.config.path}' {' and '.join(line for _, line in plan.manual_steps)}"
    if written:
        console.step(f"written: {', '.join(str(path) for path in written)}")
        first = f"{manual}, then   " * plan.is_blocking
        console.note(
            f"next:          {first}offline-kit rehearse{options.typed_settings('project')}   (builds the kit and runs the adopted"
            " notebook offline)"
        )
    elif plan.has_changes:
        console.step("nothing was written; run again with --write to write it")
    elif plan.manual_steps:
        console.step(f"nothing was written: {manual}")
    else:
        console.step("the configuration is already complete; nothing was written")
    if settled := len(plan.adoption.recordable):
        command = f"offline-kit adopt {plan.adoption.notebook.name} --record"
        console.step(f"a recording would settle {settled} of these: {command}")


def _parse_distributions(words: tuple[str, ...]) -> dict[str, str]:
    """Return the distribution of each import; without one it is called like the import."""
    pairs = {}
    for word in words:
        name, _, distribution = word.partition("=")
        if not name.isidentifier():
            raise UsageError(
                f"'{word}' names no import", code="import-not-named", hint="write --import NAME=DISTRIBUTION"
            )
        pairs[name] = distribution or name.replace("_", "-")
    return pairs
