"""The command that adopts an existing notebook."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from offline_kit.cli import options
from offline_kit.cli.console import Console, pick
from offline_kit.core.errors import Exit, UsageError

if TYPE_CHECKING:
    from offline_kit.adopt.adoption_plan import AdoptionPlan

_DIFF = r"^(?:(?P<bold>(?:---|\+\+\+) .*)|(?P<cyan>@@.*)|(?P<green>\+.*)|(?P<red>-.*))$"


@options.command(
    "offline-kit adopt inference.ipynb",
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
@options.flag("--write", "Write the configuration and the requirements without asking.")
@options.flag("--dry-run", "Show what would change, without writing or asking.")
@options.common_options
def adopt(
    notebook: Path, project: Path, console: Console, write: bool, dry_run: bool, imports: tuple[str, ...]
) -> None:
    """Convert a notebook or script that needs the internet into an offline project."""
    from offline_kit.adopt import adoption_plan as adopting

    plan = adopting.plan_adoption(notebook, project, console, _parse_distributions(imports))
    _show_changes(plan, console)
    agreed = plan.has_changes and write and not dry_run
    if plan.has_changes and console.can_ask() and not (write or console.as_json or dry_run):
        files = f"'{plan.config_file}' and '{plan.requirements_file.name}'"
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
            "file": str(plan.config_file),
            "diff": plan.unified_diff,
            "found": [
                pick(finding, "kind cell line text value remedy", became="resolution")
                for finding in adoption.resolved
            ],
            "asked": len(adoption.unresolved),
            "by_hand": list(plan.manual_steps),
            "paste": list(plan.lines_to_add),
            **pick(adoption, "requirements checkpoints modules"),
            "sources": pick(adoption.sources, "competitions datasets notebooks models"),
        }
    )
    if not ok:
        sys.exit(Exit.PROJECT)


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
    for step, line in zip(plan.manual_steps, plan.lines_to_add, strict=True):
        console.warn(step, hint=line)


def _show_outcome(plan: "AdoptionPlan", written: tuple[Path, ...], console: Console) -> None:
    """Report what was written and suggest the next command, with the project as it was typed."""
    if count := len(plan.adoption.unresolved):
        lines = "lines need" if count > 1 else "line needs"
        console.step(f"{count} {lines} a fix before the notebook runs offline")
    manual = f"add by hand to '{plan.config_file}' {' and '.join(plan.lines_to_add)}"
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
