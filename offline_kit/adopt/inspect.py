"""Look a notebook through: what it wants from the internet, what becomes of each thing, and the cells that remain."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

from offline_kit.adopt import (
    calls,
    decide,
    files_beside,
    input_paths,
    magics,
    missing_imports,
    own_names,
    read_notebook,
    rewrite,
    room_makers,
    written_secrets,
)
from offline_kit.adopt.calls import NotebookCode
from offline_kit.adopt.file_places import NotebookFiles
from offline_kit.adopt.findings import (
    ARGUMENT,
    Adoption,
    AttachedSources,
    CellEdit,
    ExternalNeed,
    NeedKind,
    NotebookCell,
    Resolution,
    ResolvedNeed,
)
from offline_kit.adopt.outcomes import Collected, Decision, resolve_need
from offline_kit.adopt.shell_lines import ShellLine, find_shell_lines, place_destination
from offline_kit.adopt.working_folders import WorkingFolders
from offline_kit.core.errors import OfflineKitError
from offline_kit.project.accelerators import find_machine_shape
from offline_kit.project.images import Image

NO_EDIT = "take it out by hand: its place in the line cannot be told"


def inspect_notebook(
    notebook: Path,
    project: Path,
    image: Image,
    attached: AttachedSources | None = None,
    lines: tuple[str, ...] = (),
) -> Adoption:
    """Look a notebook through against a project and an image; nothing of it is run and nothing is fetched.

    `lines` are those of the project's requirements files.

    Raises UsageError where there is no such notebook, ProjectError for what is none.
    """
    cells = read_notebook.read_cells(notebook)
    metadata = read_notebook.read_metadata(notebook)
    basket = Collected(sources=_merge_sources(metadata.sources, attached or AttachedSources()))
    ground = NotebookFiles(
        project=project,
        notebook=notebook,
        image=image,
        sources=basket.sources,
        unnamed=metadata.unnamed,
        lines=lines,
    )
    code = calls.read_code((cell.number, cell.source) for cell in cells if cell.kind == "code")
    folders = WorkingFolders(code)
    wishes = _collect_needs(code, folders)
    resolved, edits = _decide_needs(wishes, code, ground, basket)
    for need, edit in files_beside.find_read_files(code, ground, basket, folders):
        resolved.append(need)
        edits += [edit] if edit else []
    for need, change in (
        *room_makers.disable_folder_changes(code, basket.laid_out, folders),
        *magics.disable_magics(code, image),
    ):
        if not any(edit.cell == change.cell and edit.start <= change.start < edit.end for edit in edits):
            resolved.append(need)
            edits.append(change)
    resolved += missing_imports.collect_path_folders(code, ground, basket, folders)
    resolved += missing_imports.resolve_imports(
        code, ground, basket, own_names.find_provided_imports(code, ground, folders, wishes.all_needs)
    )
    resolved += missing_imports.report_unread(code)
    edits += input_paths.edit_input_paths(code)
    resolved += input_paths.resolve_sources(code, replace(ground, sources=basket.sources), basket)
    resolved += _resolve_metadata(metadata)
    changed = tuple(_change_cell(cell, edits) for cell in cells)
    resolved += written_secrets.find_written_secrets(cells, changed)
    return Adoption(
        notebook=notebook,
        cells=cells,
        changed=changed,
        resolved=_sort_needs(resolved),
        requirements=(*basket.indexes, *basket.requirements),
        requirement_files=tuple(basket.files),
        packages=tuple(basket.packages),
        checkpoints=tuple(basket.checkpoints),
        modules=tuple(basket.modules),
        served=tuple(sorted((_served_below(path), name) for path, name in basket.served.items())),
        laid_out=tuple(sorted(basket.laid_out.items())),
        sources=basket.sources,
        accelerator=metadata.accelerator,
        accelerator_source=metadata.source,
    )


def _merge_sources(stated: AttachedSources, attached: AttachedSources) -> AttachedSources:
    def merge_names(name: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*getattr(attached, name), *getattr(stated, name))))

    return AttachedSources(
        competitions=merge_names("competitions"),
        datasets=merge_names("datasets"),
        notebooks=merge_names("notebooks"),
        models=merge_names("models"),
    )


def _served_below(path: str) -> str:
    """Return a served path below the folder that shows everything."""
    return path if path.startswith("input/") else f"working/{path}"


def _change_cell(cell: NotebookCell, edits: Sequence[CellEdit]) -> str:
    own = [edit for edit in edits if edit.cell == cell.number]
    return rewrite.apply_edits(cell.source, own) if own else cell.source


def _sort_needs(found: Iterable[ResolvedNeed]) -> tuple[ResolvedNeed, ...]:
    return tuple(sorted(dict.fromkeys(found), key=lambda need: (need.cell or 1 << 30, need.line)))


@dataclass(frozen=True, kw_only=True)
class _NotebookNeeds:
    """What a notebook wants from outside."""

    lines: list[ShellLine]
    """In its shell lines."""
    called: list[ExternalNeed]
    """In its calls."""

    @property
    def all_needs(self) -> list[ExternalNeed]:
        return [*(wish for line in self.lines for wish in line.wishes), *self.called]


def _collect_needs(code: NotebookCode, folders: WorkingFolders) -> _NotebookNeeds:
    called = [
        replace(
            wish,
            destination=place_destination(
                wish.kind, wish.destination, folders.folder_at(wish.cell, wish.line)
            ),
        )
        for wish in calls.find_needs(code)
    ]
    return _NotebookNeeds(lines=list(find_shell_lines(code, folders)), called=called)


def _decide_needs(
    wished: _NotebookNeeds, code: NotebookCode, ground: NotebookFiles, basket: Collected
) -> tuple[list[ResolvedNeed], list[CellEdit]]:
    """Decide on all wishes of shell lines and calls, in the notebook's order."""
    lines, called, everything = wished.lines, wished.called, wished.all_needs
    resolved: list[ResolvedNeed] = []
    edits: list[CellEdit] = []
    verdicts: dict[int, Decision] = {}
    for wish in sorted(everything, key=lambda one: (one.cell, one.line, one.start)):
        verdicts[id(wish)] = decide.decide_need(wish, code, ground, basket, everything)
    for line in lines:
        own = [verdicts[id(wish)] for wish in line.wishes]
        resolved += [verdict.resolved for verdict in own]
        edits += _edit_line(line, own, code)
    for _, group in groupby(called, key=lambda wish: (wish.cell, wish.start, wish.end)):
        wishes = list(group)
        own = [verdicts[id(wish)] for wish in wishes]
        off = all(verdict.switches_off for verdict in own)
        edit = _edit_call(wishes[0], own, code) if off else None
        for wish, verdict in zip(wishes, own, strict=True):
            resolved.append(_unresolve_need(wish, verdict) if off and not edit else verdict.resolved)
        edits += [edit] if edit else []
    return resolved, edits


def _unresolve_need(wish: ExternalNeed, verdict: Decision) -> ResolvedNeed:
    return resolve_need(wish, Resolution.UNRESOLVED, verdict.resolved.value, NO_EDIT)


def _edit_line(line: ShellLine, verdicts: Sequence[Decision], code: NotebookCode) -> Iterator[CellEdit]:
    """Yield the changes of a shell line: all of it goes, or those of its commands that can."""
    magic, source = line.magic, code.reads[line.wishes[0].cell].source
    if line.alone and all(verdict.switches_off for verdict in verdicts) and not line.script:
        text = source[magic.start + len(magic.before) : magic.end]
        off = rewrite.comment_out(text, magic.indent, magic.before)
        yield CellEdit(cell=line.wishes[0].cell, start=magic.start, end=magic.end, text=off)
        return
    spans: dict[tuple[int, int], str] = {}
    for wish, verdict in zip(line.wishes, verdicts, strict=True):
        text = verdict.stand_in or "" if wish.detail == ARGUMENT else wish.stand_in
        before = spans.get((wish.start, wish.end), text)
        spans[wish.start, wish.end] = before and text if verdict.switches_off else ""
    for (start, end), text in spans.items():
        if text:
            yield CellEdit(cell=line.wishes[0].cell, start=start, end=end, text=text)


def _edit_call(wish: ExternalNeed, verdicts: Sequence[Decision], code: NotebookCode) -> CellEdit | None:
    """Return the change of a call, or of one argument of it; None where nothing can stand for it."""
    if wish.start < 0:
        return None
    source = code.reads[wish.cell].source
    if wish.is_statement and wish.kind is not NeedKind.KAGGLE:
        text = rewrite.comment_out(source[wish.start : wish.end], rewrite.find_indent(source, wish.start))
        return CellEdit(cell=wish.cell, start=wish.start, end=wish.end, text=text)
    stand_in = verdicts[0].stand_in or wish.stand_in
    return CellEdit(cell=wish.cell, start=wish.start, end=wish.end, text=stand_in) if stand_in else None


def _resolve_metadata(said: read_notebook.NotebookMetadata) -> Iterator[ResolvedNeed]:
    """Yield what of the metadata is worth a word."""

    def setting_need(text: str, became: Resolution, value: str, remedy: str = "") -> ResolvedNeed:
        return ResolvedNeed(
            kind=NeedKind.SETTING,
            cell=0,
            line=0,
            text=text,
            resolution=became,
            value=value,
            remedy=remedy,
            source=said.source,
        )

    if said.internet:
        yield setting_need("enable_internet", Resolution.SWITCHED_OFF, "the adopted notebook runs without")
    try:
        if find_machine_shape(said.accelerator):
            yield setting_need("accelerator", Resolution.UNCHANGED, said.accelerator)
    except OfflineKitError as error:
        remedy = f"{error.what}; write `accelerator` into the configuration: {error.hint}"
        yield setting_need("accelerator", Resolution.UNRESOLVED, said.accelerator, remedy)
    own = said.sources
    for kind, names in (
        ("competition", own.competitions),
        ("dataset", own.datasets),
        ("notebook", own.notebooks),
        ("model", own.models),
    ):
        for name in names:
            yield setting_need(f"{kind}_sources", Resolution.SOURCE, f"{kind} {name}")
