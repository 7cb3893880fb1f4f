"""What a command shows when it is done: tables for a person, one object for a script."""

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from offline_kit.cli.console import Console
from offline_kit.core.files import format_size
from offline_kit.project import images
from offline_kit.project.types import Checkpoint, CheckpointKind, Fate, Finding, Freeze, Kit, Severity

if TYPE_CHECKING:
    # Only named: showing the images must not import what a build needs.
    from offline_kit.rehearsal.rehearse import Rehearsal
    from offline_kit.workflow.pipeline import BuildPlan, BuildResult, LocalStatus


def show_images(console: Console) -> None:
    """Show the built-in images."""
    built_in = images.load_built_in_images()
    console.print_lines(
        [
            f"{item.name:<20} Python {item.python_minor}   {len(item.packages)} packages   {item.title}"
            for item in built_in
        ]
    )
    console.print_result({"ok": True, "images": [_image_facts(item) for item in built_in]})


def show_image(name: str, package: str | None, console: Console) -> None:
    """Show one image, or one package in it."""
    image = images.load_image(name, accelerator="none", project=Path.cwd())
    if package:
        package_facts = images.describe_package(image, package)
        protected = "   protected: replaced only if `replace` names it" if package_facts.protected else ""
        console.print_lines(
            [
                f"{package_facts.name}=={package_facts.version or '(version not known)'}   in {image.name}{protected}"
            ]
        )
        console.print_result(
            {
                "ok": True,
                "image": image.name,
                "package": package_facts.name,
                "version": package_facts.version,
                "protected": package_facts.protected,
            }
        )
        return
    facts = _image_facts(image)
    console.print_lines([f"{key}: {value}" for key, value in facts.items() if value])
    console.print_lines(["", *(f"{item.name}=={item.version}" for item in images.describe_packages(image))])
    console.print_result({"ok": True, **facts, "packages": dict(image.packages)})


def show_constraints(name: str, console: Console) -> None:
    """Show the versions of an image as a file of constraints; local parts, which no index has, are left out."""
    image = images.load_image(name, accelerator="none", project=Path.cwd())
    pins = [
        f"{line.name}=={line.version.partition('+')[0]}"
        for line in images.describe_packages(image)
        if line.version
    ]
    console.print_lines([f"# {image.name}, Python {image.python}", *pins])
    console.print_result({"ok": True, "image": image.name, "python": image.python, "constraints": pins})


def show_captured(item: images.Image, path: Path, console: Console) -> None:
    """Show an image that was captured, and how it is used."""
    console.note(f"{item.title}, glibc {item.glibc[0]}.{item.glibc[1]}, {item.provenance}")
    console.step(f"written to '{path}'; build for it with --image {path}")
    console.print_result({"ok": True, "file": str(path), **_image_facts(item)})


def _image_facts(item: images.Image) -> dict[str, Any]:
    return {
        "name": item.name,
        "title": item.title,
        "python": item.python,
        "accelerator": item.accelerator,
        "glibc": ".".join(map(str, item.glibc)),
        "digest": item.digest,
        "provenance": item.provenance,
        "confidence": item.confidence,
    }


def show_plan(plan: "BuildPlan", console: Console, *, final: bool = True) -> None:
    """Show what a build would put into the kit; `final` also prints the JSON object."""
    from offline_kit.kit.manifest import read_package_sizes

    known_sizes = read_package_sizes(
        plan.config.out
    )  # what the last build brought; of others only the index knows it
    sizes = {
        pin.name: known_sizes[pin.name, pin.version]
        for pin in plan.freeze.pins
        if (pin.name, pin.version) in known_sizes
    }
    _show_freeze(plan.freeze, sizes, console)
    _show_checkpoints(plan.checkpoints, console)
    console.step(f"a build would write '{plan.config.out}' and '{plan.config.lock}'; nothing was written")
    if final:
        console.print_result({"ok": True, "dry_run": True, **plan_facts(plan)})


def plan_facts(plan: "BuildPlan") -> dict[str, Any]:
    """Return what a build would put into the kit, for a script."""
    weights = [
        {"name": checkpoint.original, "size": checkpoint.size, "sha256": checkpoint.sha256}
        for checkpoint in plan.checkpoints
    ]
    return {**_freeze_facts(plan.freeze), "checkpoints": weights}


def show_build(built: "BuildResult", console: Console, *, final: bool = True, typed: str = "") -> None:
    """Show the kit that was built; `final` also prints the JSON object and what to do next, with what was `typed`."""
    kit, contents = built.kit, built.contents
    sizes = {item.name: item.size for item in (*contents.wheelhouse.wheels, *contents.own.wheels)}
    sizes |= {
        item.name: sum(f.size for f in (item.sdist, item.wheel, *item.closure) if f)
        for item in contents.prepared_sdists
    }
    _show_freeze(contents.freeze, sizes, console)
    own = [(wheel.filename, format_size(wheel.size)) for wheel in contents.own.wheels]
    own += [(source.original, format_size(source.path.stat().st_size)) for source in contents.own.sources]
    console.show_table("Own code", ("file", "size"), own)
    _show_checkpoints(contents.checkpoints, console)
    for line in built.advice:
        console.warn(line)
    _show_findings(built.findings, console)
    state = "built" if built.changed else "unchanged"
    console.step(f"kit {kit.id[:12]} {state}: {_kit_extent(kit)} in '{kit.folder}' ({built.seconds:.1f} s)")
    if final:
        console.note(f"the notebook:  {kit.folder / 'notebook' / 'inference.ipynb'}")
        console.note(f"next:          offline-kit rehearse{typed}")
        console.print_result(
            {
                "ok": True,
                "changed": built.changed,
                **_kit_facts(kit),
                **_freeze_facts(contents.freeze),
                "findings": [asdict(finding) for finding in built.findings],
            }
        )


def _show_findings(findings: Iterable[Finding], console: Console) -> None:
    alike: dict[tuple[Severity, str, str], list[str]] = {}
    for finding in findings:
        subjects = alike.setdefault((finding.severity, finding.what, finding.remedy), [])
        subjects += [finding.about] if finding.about not in subjects else []
    for (severity, message, remedy), subjects in alike.items():
        tell = console.warn if severity is Severity.WARN else console.note
        others_words = (
            f" (and {len(subjects) - 1} more: {', '.join(map(repr, subjects[1:4]))})" if subjects[1:] else ""
        )
        tell(f"'{subjects[0]}'{others_words} {message}{'; ' * bool(remedy)}{remedy}")


def show_rehearsal(passed: "Rehearsal", console: Console) -> None:
    """Show the result of a rehearsal and the folder of its files."""
    memory = (
        f"{format_size(passed.peak_memory)} ({passed.memory_by})" if passed.peak_memory else "not measured"
    )
    rows_told = f" ({_count_words(passed.rows, 'row')})" if passed.rows else ""
    rows = [
        ("fidelity", passed.fidelity),
        ("sandbox", passed.sandbox),
        ("Python", passed.python),
        ("time", f"{passed.seconds:.1f} s"),
        ("peak memory", memory),
        ("submission", f"{passed.submission}{rows_told}"),
        ("evidence", str(passed.folder)),
    ]
    for difference in passed.differences:
        console.note(f"differs from the image: {difference}")
    for note in passed.notes:
        console.note(note)
    console.show_facts("Rehearsal passed", rows)
    console.step("the notebook runs with the internet off")
    facts = {name: getattr(passed, name) for name in passed.__dataclass_fields__}
    console.print_result({"ok": True, "rehearsal": facts})


def status_lines(status: "LocalStatus", newer: Iterable[str] = ()) -> list[str]:
    """Return the lines of `status` about this disk; `newer` lists what changed since the build."""
    lines = [f"project     {status.config.project}"]
    if status.kit is None:
        lines.append(f"kit         none in '{status.config.out}': make one with 'offline-kit build'")
    else:
        lines.append(f"kit         {status.kit.id[:12]}: {_kit_extent(status.kit)} in '{status.kit.folder}'")
        lines += [
            f"  part      {part.name}: {part.id[:12]}, {_count_words(len(part.entries), 'file')}"
            for part in status.kit.parts
        ]
        lines.append(f"rehearsal   {_rehearsal_line(status.rehearsal)}")
    lines += [f"  newer     {line}" for line in newer]
    return lines + [f"  problem   {problem}" for problem in status.problems]


def status_facts(status: "LocalStatus", newer: Iterable[str] = ()) -> dict[str, Any]:
    """Return the facts of `status` about this disk, for JSON."""
    kit = _kit_facts(status.kit) if status.kit else {"kit": None}
    return {
        "ok": not status.problems,
        **kit,
        "problems": list(status.problems),
        "newer": list(newer),
        "rehearsal": status.rehearsal,
    }


def _rehearsal_line(last: dict[str, Any] | None) -> str:
    if last is None:
        return "none of this kit: run 'offline-kit rehearse'"
    if not last.get("passed"):
        problem = last.get("problem") or {}
        return f"failed: {problem.get('what', 'no reason was recorded')}; {problem.get('hint', '')}".rstrip(
            "; "
        )
    return f"passed at fidelity '{last.get('fidelity')}' in {last.get('seconds')} s"


def show_pruned(freed: int, console: Console) -> None:
    """Show how much space was freed."""
    console.print_lines([f"freed {format_size(freed)}"])
    console.print_result({"ok": True, "freed": freed})


def _show_freeze(freeze: Freeze, sizes: dict[str, int], console: Console) -> None:
    bundled = [
        (
            pin.name,
            pin.version,
            format_size(sizes[pin.name]) if pin.name in sizes else "",
            _requested_by(pin.asked_by),
            pin.reason,
        )
        for pin in freeze.pins_with(Fate.BUNDLED)
    ]
    console.show_table(
        f"Bundled: {freeze.image} lacks them", ("package", "version", "size", "asked for by", "why"), bundled
    )
    provided = freeze.pins_with(Fate.PROVIDED)
    names = ", ".join(f"{pin.name} {pin.version}" for pin in provided)
    if provided:
        console.note(f"{_count_words(len(provided), 'package')} provided by the image: {names}")
    skipped = [(pin.name, pin.version, pin.reason) for pin in freeze.pins_with(Fate.SKIPPED)]
    console.show_table("Skipped", ("package", "version", "why"), skipped)
    for replacement in freeze.replacements:
        console.warn(
            f"{replacement.name} {replacement.version} replaces the image's {replacement.image_version} (asked for by {_requested_by(replacement.asked_by)})"
            + (f"; it breaks {', '.join(replacement.breaks)}" if replacement.breaks else "")
        )
    for line in freeze.differences:
        console.note(line)


def _show_checkpoints(checkpoints: Iterable[Checkpoint], console: Console) -> None:
    rows = [
        (checkpoint.original, format_size(checkpoint.size), _file_kind(checkpoint))
        for checkpoint in checkpoints
    ]
    console.show_table("Checkpoints", ("file", "size", "kind"), rows)


def _file_kind(checkpoint: Checkpoint) -> str:
    """Return what a file is: its format, or the framework whose own format that is."""
    from offline_kit.checkpoints.file_kinds import ClassifiedFile
    from offline_kit.checkpoints.frameworks import framework_table

    if checkpoint.kind is not CheckpointKind.OTHER:
        return str(checkpoint.kind)
    match = framework_table.match_framework(
        checkpoint.path, ClassifiedFile(kind=checkpoint.kind, refused=checkpoint.refused)
    )
    return match.title if match else str(checkpoint.kind)


def _requested_by(names: tuple[str, ...]) -> str:
    names = tuple(name.replace(" ", "\u00a0") for name in names)  # "-r requirements.in" stays in one line
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _count_words(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _kit_extent(kit: Kit) -> str:
    entries = [entry for part in kit.parts for entry in part.entries]
    return f"{_count_words(len(entries), 'file')}, {format_size(sum(entry.size for entry in entries))}"


def _kit_facts(kit: Kit) -> dict[str, Any]:
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
    pins = {
        fate.value: [
            {"name": pin.name, "version": pin.version, "reason": pin.reason} for pin in freeze.pins_with(fate)
        ]
        for fate in Fate
    }
    replaced = [
        {
            "name": replacement.name,
            "image": replacement.image_version,
            "kit": replacement.version,
            "breaks": replacement.breaks,
        }
        for replacement in freeze.replacements
    ]
    return {"image": freeze.image, "cutoff": freeze.cutoff, **pins, "replaced": replaced}
