"""Inspect a notebook: what it needs from outside, how each need is met, and the edited cells."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

from offline_kit.adopt import (
    calls,
    cell_edits,
    decisions,
    disabled_commands,
    input_paths,
    missing_imports,
    notebook_code,
    notebook_files,
    notebook_metadata,
    provided_imports,
)
from offline_kit.adopt.findings import (
    ARGUMENT,
    Adoption,
    AttachedSources,
    CellEdit,
    Collected,
    Decision,
    ExternalNeed,
    FindingResolution,
    NeedKind,
    NotebookCell,
    ResolvedNeed,
    resolve_need,
)
from offline_kit.adopt.notebook_code import NotebookCode
from offline_kit.adopt.notebook_files import NotebookFiles, WorkingFolders
from offline_kit.adopt.shell import ShellLine, find_shell_lines, place_destination
from offline_kit.core.errors import OfflineKitError
from offline_kit.project.accelerators import find_machine_shape
from offline_kit.project.images import Image

_EDIT_BY_HAND = "remove it by hand: its position in the line is not known"


def inspect_notebook(
    notebook: Path,
    project: Path,
    image: Image,
    attached: AttachedSources | None = None,
    lines: tuple[str, ...] = (),
) -> Adoption:
    """Inspect a notebook against a project and an image; run and download nothing.

    Args:
        attached: Sources that the configuration attaches; those of the notebook's metadata come on top.
        lines: Lines of the project's requirements files.

    Raises:
        UsageError: There is no such notebook.
        ProjectError: The file is not a Python notebook.
    """
    cells = notebook_metadata.read_cells(notebook)
    metadata = notebook_metadata.read_metadata(notebook)
    sources = attached or AttachedSources()
    for kind, names in metadata.sources.by_kind().items():
        sources = sources.add(kind, *names)
    collected = Collected(sources=sources)
    files = NotebookFiles(
        project=project,
        notebook=notebook,
        image=image,
        sources=collected.sources,
        unnamed=metadata.unnamed,
        lines=lines,
    )
    code = notebook_code.read_code((cell.number, cell.source) for cell in cells if cell.kind == "code")
    folders = WorkingFolders(code)
    needs = _collect_needs(code, folders)
    resolved, edits = _decide_needs(needs, code, files, collected)
    for need, edit in notebook_files.find_read_files(code, files, collected, folders):
        resolved.append(need)
        edits += [edit] if edit else []
    for need, change in (
        *disabled_commands.disable_folder_changes(code, collected.laid_out, folders),
        *disabled_commands.disable_magics(code, image),
    ):
        if not any(edit.cell == change.cell and edit.start <= change.start < edit.end for edit in edits):
            resolved.append(need)
            edits.append(change)
    resolved += missing_imports.collect_path_folders(code, files, collected, folders)
    resolved += missing_imports.resolve_imports(
        code, files, collected, provided_imports.find_provided_imports(code, files, folders, needs.all_needs)
    )
    resolved += missing_imports.report_unread(code)
    edits += input_paths.edit_input_paths(code)
    resolved += input_paths.resolve_sources(code, replace(files, sources=collected.sources), collected)
    resolved += _resolve_metadata(metadata)
    changed = tuple(_change_cell(cell, edits) for cell in cells)
    resolved += cell_edits.find_written_secrets(cells, changed)
    return Adoption(
        notebook=notebook,
        cells=cells,
        changed=changed,
        resolved=_sort_needs(resolved),
        requirements=(*collected.indexes, *collected.requirements),
        requirement_files=tuple(collected.files),
        packages=tuple(collected.packages),
        checkpoints=tuple(collected.checkpoints),
        modules=tuple(collected.modules),
        served=tuple(sorted((_served_below(path), name) for path, name in collected.served.items())),
        laid_out=tuple(sorted(collected.laid_out.items())),
        sources=collected.sources,
        accelerator=metadata.accelerator,
        accelerator_source=metadata.source,
    )


def _served_below(path: str) -> str:
    """Return a served path relative to the folder that contains inputs and working files."""
    return path if path.startswith("input/") else f"working/{path}"


def _change_cell(cell: NotebookCell, edits: Sequence[CellEdit]) -> str:
    own = [edit for edit in edits if edit.cell == cell.number]
    return cell_edits.apply_edits(cell.source, own) if own else cell.source


def _sort_needs(needs: Iterable[ResolvedNeed]) -> tuple[ResolvedNeed, ...]:
    return tuple(sorted(dict.fromkeys(needs), key=lambda need: (need.cell or 1 << 30, need.line)))


@dataclass(frozen=True, kw_only=True)
class _NotebookNeeds:
    lines: list[ShellLine]
    called: list[ExternalNeed]
    """The needs of calls in Python."""

    @property
    def all_needs(self) -> list[ExternalNeed]:
        return [*(need for line in self.lines for need in line.needs), *self.called]


def _collect_needs(code: NotebookCode, folders: WorkingFolders) -> _NotebookNeeds:
    called = [
        replace(
            need,
            destination=place_destination(
                need.kind, need.destination, folders.folder_at(need.cell, need.line)
            ),
        )
        for need in calls.find_needs(code)
    ]
    return _NotebookNeeds(lines=list(find_shell_lines(code, folders)), called=called)


def _decide_needs(
    needed: _NotebookNeeds, code: NotebookCode, files: NotebookFiles, collected: Collected
) -> tuple[list[ResolvedNeed], list[CellEdit]]:
    """Decide on all needs of shell lines and calls, in the notebook's order."""
    resolved: list[ResolvedNeed] = []
    edits: list[CellEdit] = []
    by_need: dict[int, Decision] = {}
    for need in sorted(needed.all_needs, key=lambda need: (need.cell, need.line, need.start)):
        by_need[id(need)] = decisions.decide_need(need, code, files, collected, needed.all_needs)
    for line in needed.lines:
        own = [by_need[id(need)] for need in line.needs]
        resolved += [decision.resolved for decision in own]
        edits += _edit_line(line, own, code)
    for _, group in groupby(needed.called, key=lambda need: (need.cell, need.start, need.end)):
        needs = list(group)
        own = [by_need[id(need)] for need in needs]
        off = all(decision.switches_off for decision in own)
        edit = _edit_call(needs[0], own, code) if off else None
        for need, decision in zip(needs, own, strict=True):
            resolved.append(_unresolve_need(need, decision) if off and not edit else decision.resolved)
        edits += [edit] if edit else []
    return resolved, edits


def _unresolve_need(need: ExternalNeed, decision: Decision) -> ResolvedNeed:
    return resolve_need(need, FindingResolution.UNRESOLVED, decision.resolved.value, _EDIT_BY_HAND)


def _edit_line(line: ShellLine, decisions: Sequence[Decision], code: NotebookCode) -> Iterator[CellEdit]:
    """Yield the edits of a shell line: comment it out whole, or replace the commands that can be disabled."""
    magic, source = line.magic, code.reads[line.needs[0].cell].source
    if line.alone and all(decision.switches_off for decision in decisions) and not line.script:
        text = source[magic.start + len(magic.before) : magic.end]
        off = cell_edits.comment_out(text, magic.indent, magic.before)
        yield CellEdit(cell=line.needs[0].cell, start=magic.start, end=magic.end, text=off)
        return
    spans: dict[tuple[int, int], str] = {}
    for need, decision in zip(line.needs, decisions, strict=True):
        text = decision.stand_in or "" if need.detail == ARGUMENT else need.stand_in
        before = spans.get((need.start, need.end), text)
        spans[need.start, need.end] = before and text if decision.switches_off else ""
    for (start, end), text in spans.items():
        if text:
            yield CellEdit(cell=line.needs[0].cell, start=start, end=end, text=text)


def _edit_call(need: ExternalNeed, decisions: Sequence[Decision], code: NotebookCode) -> CellEdit | None:
    """Return the edit of a call or of one of its arguments; None if it has no replacement."""
    if need.start < 0:
        return None
    source = code.reads[need.cell].source
    if need.is_statement and need.kind is not NeedKind.KAGGLE:
        text = cell_edits.comment_out(
            source[need.start : need.end], cell_edits.find_indent(source, need.start)
        )
        return CellEdit(cell=need.cell, start=need.start, end=need.end, text=text)
    stand_in = decisions[0].stand_in or need.stand_in
    return CellEdit(cell=need.cell, start=need.start, end=need.end, text=stand_in) if stand_in else None


def _resolve_metadata(metadata: notebook_metadata.NotebookMetadata) -> Iterator[ResolvedNeed]:
    """Yield the needs of the notebook's metadata."""

    def setting_need(text: str, resolution: FindingResolution, value: str, remedy: str = "") -> ResolvedNeed:
        return ResolvedNeed(
            kind=NeedKind.SETTING,
            cell=0,
            line=0,
            text=text,
            resolution=resolution,
            value=value,
            remedy=remedy,
            source=metadata.source,
        )

    if metadata.internet:
        yield setting_need(
            "enable_internet", FindingResolution.SWITCHED_OFF, "the adopted notebook runs without"
        )
    try:
        if find_machine_shape(metadata.accelerator):
            yield setting_need("accelerator", FindingResolution.UNCHANGED, metadata.accelerator)
    except OfflineKitError as error:
        remedy = f"{error.what}; write `accelerator` into the configuration: {error.hint}"
        yield setting_need("accelerator", FindingResolution.UNRESOLVED, metadata.accelerator, remedy)
    for kind, names in metadata.sources.by_kind().items():
        for name in names:
            yield setting_need(f"{kind}_sources", FindingResolution.SOURCE, f"{kind} {name}")
