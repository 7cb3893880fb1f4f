"""Inspect a notebook: what it needs from outside, how each need is met, and the edited cells."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
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
    notebook_metadata,
    provided_imports,
    shell,
)
from offline_kit.adopt.findings import Adoption, AttachedSources, CellEdit, ExternalNeed, NeedKind, Outcome
from offline_kit.adopt.notebook_files import InspectedNotebook, place_destination
from offline_kit.core.errors import OfflineKitError
from offline_kit.project.accelerators import find_machine_shape
from offline_kit.project.images import Image


def inspect_notebook(
    path: Path,
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
    cells = notebook_metadata.read_cells(path)
    metadata = notebook_metadata.read_metadata(path)
    sources = attached or AttachedSources()
    for kind, names in metadata.sources.by_kind().items():
        sources = sources.add(kind, *names)
    code = notebook_code.read_code((cell.number, cell.source) for cell in cells if cell.kind == "code")
    notebook = InspectedNotebook(
        path=path,
        project=project,
        image=image,
        code=code,
        unnamed=metadata.unnamed,
        lines=lines,
        sources=sources,
    )
    shell_lines = list(shell.find_shell_lines(notebook))
    called = []
    for need in calls.find_needs(code):
        folder = notebook.folder_at(need.cell, need.line)
        called.append(replace(need, destination=place_destination(need.kind, need.destination, folder)))
    needs = [*(need for line in shell_lines for need in line.needs), *called]

    # in the notebook's order, because later lines may install from earlier clones
    ordered = sorted(needs, key=lambda need: (need.cell, need.line, need.span[0] if need.span else -1))
    decided = {id(need): decisions.decide_need(need, notebook, needs) for need in ordered}
    resolved: list[ExternalNeed] = []
    edits: list[CellEdit] = []
    for line in shell_lines:
        own = [decided[id(need)] for need in line.needs]
        resolved += own
        edits += _edit_line(line, own, code.reads[own[0].cell].source)
    for _, group in groupby(called, key=lambda need: (need.cell, need.span)):
        own = [decided[id(need)] for need in group]
        if all(need.switches_off for need in own):
            edit = _edit_call(own[0], code.reads[own[0].cell].source)
            edits += [edit] if edit else []
            remedy = "remove it by hand: its position in the line is not known"
            own = (
                own if edit else [replace(need, resolution=Outcome.UNRESOLVED, remedy=remedy) for need in own]
            )
        resolved += own
    for need, file_edit in input_paths.find_read_files(notebook):
        resolved.append(need)
        edits += [file_edit] if file_edit else []
    for need, change in (
        *disabled_commands.disable_folder_changes(notebook),
        *disabled_commands.disable_magics(notebook),
    ):
        start = change.span[0]
        if not any(edit.cell == change.cell and edit.span[0] <= start < edit.span[1] for edit in edits):
            resolved.append(need)
            edits.append(change)
    provided = provided_imports.find_provided_imports(notebook, needs)
    resolved += provided.shipped
    resolved += missing_imports.resolve_imports(notebook, provided)
    resolved += missing_imports.report_unread(notebook)
    edits += input_paths.edit_input_paths(code)
    resolved += input_paths.resolve_sources(notebook)
    resolved += _resolve_metadata(metadata)
    changed = tuple(
        cell_edits.apply_edits(cell.source, [edit for edit in edits if edit.cell == cell.number])
        for cell in cells
    )
    resolved += cell_edits.find_written_secrets(cells, changed)
    # served paths are relative to the folder that contains inputs and working files
    served = {
        name if name.startswith("input/") else f"working/{name}": file
        for name, file in notebook.served.items()
    }
    return Adoption(
        notebook=path,
        cells=cells,
        changed=changed,
        resolved=tuple(
            sorted(dict.fromkeys(resolved), key=lambda need: (need.cell or len(cells) + 1, need.line))
        ),
        requirements=(*notebook.indexes, *notebook.requirements),
        requirement_files=tuple(notebook.requirement_files),
        packages=tuple(notebook.packages),
        checkpoints=tuple(notebook.checkpoints),
        modules=tuple(notebook.modules),
        served=tuple(sorted(served.items())),
        laid_out=tuple(sorted(notebook.laid_out.items())),
        sources=notebook.sources,
        accelerator=metadata.accelerator,
        accelerator_source=metadata.source,
    )


def _edit_line(line: shell.ShellLine, decided: Sequence[ExternalNeed], source: str) -> Iterator[CellEdit]:
    """Yield the edits of a shell line: comment it out whole, or replace the commands that can be disabled."""
    magic, cell = line.magic, decided[0].cell
    if line.alone and not line.script and all(need.switches_off for need in decided):
        text = source[magic.start + len(magic.before) : magic.end]
        off = cell_edits.comment_out(text, magic.indent, magic.before)
        yield CellEdit(cell=cell, span=(magic.start, magic.end), text=off)
        return
    for span, group in groupby(decided, key=lambda need: need.span):
        needs = list(group)
        if span and all(need.switches_off and need.stand_in for need in needs):
            yield CellEdit(cell=cell, span=span, text=needs[-1].stand_in)


def _edit_call(need: ExternalNeed, source: str) -> CellEdit | None:
    """Return the edit of a call or of one of its arguments; None if it has no replacement."""
    if need.span is None:
        return None
    if need.is_statement and need.kind is not NeedKind.KAGGLE:
        line = source[source.rfind("\n", 0, need.span[0]) + 1 :]
        indent = line[: len(line) - len(line.lstrip(" \t"))]
        text = cell_edits.comment_out(source[slice(*need.span)], indent)
        return CellEdit(cell=need.cell, span=need.span, text=text)
    return CellEdit(cell=need.cell, span=need.span, text=need.stand_in) if need.stand_in else None


def _resolve_metadata(metadata: notebook_metadata.NotebookMetadata) -> Iterator[ExternalNeed]:
    """Yield the needs of the notebook's metadata."""

    def make_need(text: str) -> ExternalNeed:
        return ExternalNeed(kind=NeedKind.SETTING, cell=0, line=0, text=text, source=metadata.source)

    if metadata.internet:
        value = "the adopted notebook runs without"
        yield make_need("enable_internet").resolve(Outcome.SWITCHED_OFF, value)
    accelerator = make_need("accelerator")
    try:
        if find_machine_shape(metadata.accelerator):
            yield accelerator.resolve(Outcome.UNCHANGED, metadata.accelerator)
    except OfflineKitError as error:
        remedy = f"{error.what}; write `accelerator` into the configuration: {error.hint}"
        yield accelerator.ask(remedy, metadata.accelerator)
    for kind, names in metadata.sources.by_kind().items():
        for name in names:
            yield make_need(f"{kind}_sources").resolve(Outcome.SOURCE, f"{kind} {name}")
