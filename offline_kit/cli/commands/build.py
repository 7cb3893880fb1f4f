"""The commands that make a kit and its notebook: build and notebook."""

from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from offline_kit.cli import options
from offline_kit.cli.console import Console, count_words, pick
from offline_kit.core.files import format_size, hold_lock
from offline_kit.project.types import Checkpoint, CheckpointKind, Fate, Finding, Freeze, Kit, Severity

if TYPE_CHECKING:
    from offline_kit.kit.assemble import KitContents
    from offline_kit.workflow.kaggle_session import KaggleSession
    from offline_kit.workflow.pipeline import BuildPlan, BuildResult


@options.command(
    "offline-kit build --dry-run",
    'offline-kit build -r requirements.txt -c "checkpoints/*.ckpt"',
    short_help="Build the kit and its notebook.",
)
@options.project_argument
@options.BUILD_OPTIONS
@options.flag("--dry-run", "Show what would be built, without writing.")
@options.on_options("Make the packages on this machine, or on Kaggle's by a notebook with the internet on.")
@options.VERBOSE
@options.common_options
def build(project: Path, console: Console, **flags: Any) -> None:
    """Build the kit: freeze and download packages, pack the files, render the notebook."""
    from offline_kit.rehearsal.kit_facts import read_notebook
    from offline_kit.workflow import part_locations, pipeline

    on, upgrade = flags["on"], flags["upgrade"]
    config = options.load_config(project, flags)
    if on != "here":
        from offline_kit.workflow import build_remotely

        with options.session_of(config, on, flags["at"], console, current=True) as session:
            if flags["dry_run"]:
                _show_remote_plan(session, upgrade, console)
                return
            built = build_remotely.build_remotely(session, upgrade=upgrade)
    elif flags["dry_run"]:
        plan = pipeline.plan_build(config, upgrade=upgrade, report=console)
        facts = show_plan(plan, console)
        console.print_result({"ok": True, "dry_run": True, **facts})
        return
    else:
        built = pipeline.build_kit(config, upgrade=upgrade, report=console)
    show_build(built, console, verbose=flags["verbose"])
    kit, output = built.kit, part_locations.find_output_part(config)
    for part in kit.parts:
        if output and output.name == part.name:
            console.note(
                f"the {part.name}: '{output.notebook}', version {output.version}: {describe_extent(replace(kit, parts=(part,)))},"
                " downloaded only when a rehearsal on this machine needs them"
            )
    console.note(f"the notebook:  {read_notebook(kit)[0]}")
    console.note(f"next:          offline-kit rehearse{options.typed_settings()}")
    facts = {**kit_facts(kit), **_freeze_facts(built.contents.freeze)}
    findings = [asdict(finding) for finding in built.findings]
    console.print_result({"ok": True, "changed": built.changed, **facts, "findings": findings})


def show_plan(plan: "BuildPlan", console: Console) -> dict[str, Any]:
    """Show what a build would put into the kit; return it for a script."""
    config, checkpoints = plan.project.config, plan.project.models.checkpoints
    _show_freeze(plan.freeze, {}, console)
    _show_checkpoints(checkpoints, console)
    lock = "" if plan.project.recorded else f" and '{config.lock}'"
    console.step(f"a build would write '{config.out}'{lock}; nothing was written")
    weights = [pick(checkpoint, "size sha256", name="original") for checkpoint in checkpoints]
    return {**_freeze_facts(plan.freeze), "checkpoints": weights}


def show_build(built: "BuildResult", console: Console, *, verbose: bool) -> None:
    """Show the kit that was built; its contents only if they changed, or if `verbose`."""
    kit = built.kit
    if built.changed or verbose:
        _show_contents(built.contents, console)
    for line in built.advice:
        console.warn(line)
    _show_findings(built.findings, console)
    state = "built" if built.changed else "unchanged"
    console.step(
        f"kit {kit.id[:12]} {state}: {describe_extent(kit)} in '{kit.folder}' ({built.seconds:.1f} s)"
    )


def _show_contents(contents: "KitContents", console: Console) -> None:
    sizes = {item.name: item.size for item in (*contents.wheelhouse.wheels, *contents.own.wheels)}
    for sdist in contents.prepared_sdists:
        sizes[sdist.name] = sum(file.size for file in (sdist.sdist, sdist.wheel, *sdist.closure) if file)
    _show_freeze(contents.freeze, sizes, console)
    own = [(wheel.filename, format_size(wheel.size)) for wheel in contents.own.wheels]
    own += [(source.original, format_size(source.path.stat().st_size)) for source in contents.own.sources]
    console.show_table("Own code", ("file", "size"), own)
    _show_checkpoints(contents.checkpoints, console)


def _show_findings(findings: Iterable[Finding], console: Console) -> None:
    """Show findings, those that say the same of several subjects once."""
    alike: dict[tuple[Severity, str, str], list[str]] = {}
    for finding in findings:
        subjects = alike.setdefault((finding.severity, finding.what, finding.remedy), [])
        subjects += [finding.about] if finding.about not in subjects else []
    for (severity, message, remedy), subjects in alike.items():
        more = (
            f" (and {len(subjects) - 1} more: {', '.join(map(repr, subjects[1:4]))})" if subjects[1:] else ""
        )
        sentence = f"'{subjects[0]}'{more} {message}"
        if severity is Severity.WARN:
            console.warn(sentence, hint=remedy)
        else:
            console.note(f"{sentence}{'; ' * bool(remedy)}{remedy}")


def _show_freeze(freeze: Freeze, sizes: dict[str, int], console: Console) -> None:
    bundled = []
    for pin in freeze.pins_with(Fate.BUNDLED):
        size = format_size(sizes[pin.name]) if pin.name in sizes else ""
        bundled.append((pin.name, pin.version, size, _requested_by(pin.asked_by), pin.reason))
    heads = ("package", "version", "size", "asked for by", "why")
    is_recorded = freeze.engine == "recorder"
    title = (
        "Bundled: the recorded run installed them" if is_recorded else f"Bundled: {freeze.image} lacks them"
    )
    console.show_table(title, heads, bundled)
    if provided := [f"{pin.name} {pin.version}" for pin in freeze.pins_with(Fate.PROVIDED)]:
        console.note(f"{count_words(len(provided), 'package')} provided by the image: {', '.join(provided)}")
    skipped = [(pin.name, pin.version, pin.reason) for pin in freeze.pins_with(Fate.SKIPPED)]
    console.show_table("Skipped", ("package", "version", "why"), skipped)
    for replacement in freeze.replacements:
        breaks = f"; it breaks {', '.join(replacement.breaks)}" if replacement.breaks else ""
        console.warn(
            f"{replacement.name} {replacement.version} replaces the image's {replacement.replaces}"
            f" (asked for by {_requested_by(replacement.asked_by)}){breaks}"
        )
    for line in freeze.differences:
        console.note(line)


def _requested_by(names: tuple[str, ...]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _show_checkpoints(checkpoints: Iterable[Checkpoint], console: Console) -> None:
    from offline_kit.checkpoints.frameworks import framework_table

    rows = []
    for checkpoint in checkpoints:
        kind = str(checkpoint.kind)
        if checkpoint.kind is CheckpointKind.OTHER:  # a framework's own format has its name
            match = framework_table.match_framework(checkpoint.path)
            kind = match.title if match else kind
        rows.append((checkpoint.original, format_size(checkpoint.size), kind))
    console.show_table("Checkpoints", ("file", "size", "kind"), rows)


def describe_extent(kit: Kit) -> str:
    """Return the number and the size of a kit's files."""
    entries = [entry for part in kit.parts for entry in part.entries]
    return f"{count_words(len(entries), 'file')}, {format_size(sum(entry.size for entry in entries))}"


def kit_facts(kit: Kit) -> dict[str, Any]:
    """Return a kit for a script."""
    parts = [
        {
            "name": part.name,
            "id": part.id,
            "files": len(part.entries),
            "size": sum(entry.size for entry in part.entries),
        }
        for part in kit.parts
    ]
    return {"kit": kit.id, "folder": str(kit.folder), "parts": parts}


def _freeze_facts(freeze: Freeze) -> dict[str, Any]:
    pins = {fate.value: [pick(pin, "name version reason") for pin in freeze.pins_with(fate)] for fate in Fate}
    replaced = [pick(pin, "name breaks", image="replaces", kit="version") for pin in freeze.replacements]
    return {"image": freeze.image, "cutoff": freeze.cutoff, **pins, "replaced": replaced}


def _show_remote_plan(session: "KaggleSession", upgrade: bool, console: Console) -> None:
    """Show the notebook that would make the packages, and the one that would attach its output."""
    from offline_kit.workflow import build_remotely

    notebook, request, attached_to = build_remotely.plan_build(session)
    new = notebook.notebook
    facts = {
        "notebook": new.ref,
        "place": session.account.server_name,
        "action": notebook.action,
        "why": notebook.reason,
        "runs": notebook.action != "nothing" or upgrade,
        "version": notebook.version or None,
        "private": new.private,
        "internet": new.internet,
        "machine": new.machine_shape or None,
        **pick(request, "requirements constraints protected include exclude"),
        "preferred": dict(request.preferred),
        "attached_to": attached_to,
    }
    console.show_plan("Planned build of the packages", facts)
    console.step("pip on Kaggle selects the wheels; nothing was pushed, run, downloaded or written")
    console.print_result({"ok": True, "dry_run": True, "chained": facts})


@options.command(
    "offline-kit notebook --dry-run",
    "offline-kit notebook --template inference.py.j2 --into notebooks",
    short_help="Render the notebook of the existing kit again.",
)
@options.project_argument
@options.RENDER_OPTIONS
@options.value("--into", "DIR", "Folder to write to; default notebook/ in the kit.", type=options.PATH)
@options.flag("--dry-run", "Report whether it would change, without writing.")
@options.common_options
def notebook(project: Path, console: Console, dry_run: bool, into: Path | None, **flags: Any) -> None:
    """Render the notebook of the existing kit again, after the template or its params changed."""
    from offline_kit.workflow import pipeline

    config = options.load_config(project, flags)
    pipeline.read_kit(config)  # before the lock creates the folder of a missing kit
    with hold_lock(config.out.parent / f".{config.out.name}.lock"):
        kit, rendered = pipeline.render_notebook(config, report=console)
        folder = into.absolute() if into else config.out / "notebook"
        changed = any(_read_text(folder / name) != text for name, text in rendered.file_texts().items())
        if changed and not dry_run:
            rendered.write_files(folder, console)
    path = folder / rendered.code_file
    words = "would change" if dry_run else "written"
    console.step(f"'{path}' {words if changed else 'is unchanged'}")
    console.print_result(
        {"ok": True, "notebook": str(path), "changed": changed, "dry_run": dry_run, "kit": kit.id}
    )


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
