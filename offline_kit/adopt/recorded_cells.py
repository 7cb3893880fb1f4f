"""The cells of a recorded notebook: as they are, but for paths of inputs that Kaggle does not mount there."""

import re
from collections.abc import Iterable, Iterator

from offline_kit.adopt import input_paths, inspection
from offline_kit.adopt.findings import (
    Adoption,
    AttachedSources,
    CellEdit,
    ExternalNeed,
    NeedKind,
    Outcome,
)
from offline_kit.adopt.notebook_code import NotebookCode
from offline_kit.adopt.notebook_files import SHOWN_INPUT
from offline_kit.adopt.notebook_metadata import read_cells, read_metadata
from offline_kit.adopt.recording import RecordedRun
from offline_kit.notebook.runtime.kit_runtime import GROUPS

_CLEARING = re.compile(r"\b(?:rmtree\(|umount\b|rm\b)[^\n]*/kaggle/input/?(?![\w/])")
"""What the cell that Kaggle exports for Colab does; on a read-only mount it does nothing, below our links it would."""
_MARK = f"# offline-kit: the inputs of this cell are below {SHOWN_INPUT}"


def read_recorded(recorded: RecordedRun, attached: AttachedSources) -> Adoption:
    """Return a recorded notebook as an adoption whose cells are unchanged, unless they name inputs that are elsewhere.

    Files of kind "input" come with the recording, and /kaggle/input is read-only. A recording here shows sources in the
    older layout, too, which most sessions on Kaggle no longer have; what ran on Kaggle stays. Raises as `read_cells`.
    """
    path = recorded.project / recorded.source
    cells = read_cells(path)
    for kind, references in read_metadata(path).sources.by_kind().items():
        attached = attached.add(kind, *references)
    packed = [file["folder"] for file in recorded.document["files"] if file["kind"] == "input"]
    packed_mounts = {folder.split("/")[1] for folder in packed if "/" in folder}
    code = NotebookCode((cell.number, cell.source) for cell in cells if cell.kind == "code")
    old_mounts = _list_old_mounts(recorded, attached) if recorded.document["where"] == "here" else set()
    edits = list(_edit_paths(code, packed_mounts, old_mounts))
    edited = {edit.cell for edit in edits}
    changed = []
    for cell in cells:
        source = inspection.apply_edits(cell, edits)
        # A cell magic takes all of its cell, perhaps as the text of a file.
        is_marked = cell.number in edited and not source.lstrip().startswith("%%")
        changed.append(f"{source.rstrip()}\n{_MARK}" if is_marked else source)
    return Adoption(
        notebook=path,
        cells=cells,
        changed=tuple(changed),
        resolved=tuple(_describe_edits(code, edits)),
        sources=attached,
    )


def _list_old_mounts(recorded: RecordedRun, attached: AttachedSources) -> set[str]:
    """Return the folders of the attached sources in the older layout of mounts: /kaggle/input/<slug>."""
    references = [name for names in attached.by_kind().values() for name in names]
    slugs = {name.split("/")[1] if "/" in name else name for name in references}
    return slugs | {entry["mount"].partition("/")[0] for entry in recorded.document["inputs"]} - {*GROUPS}


def _edit_paths(code: NotebookCode, packed: set[str], old: set[str]) -> Iterator[CellEdit]:
    """Yield the edits of paths below these mounts and, where one is needed, of the folder of all mounts."""
    if not packed | old:
        return
    named = re.compile(rf"/+(?:{'|'.join(map(re.escape, packed | old))})(?![\w.-])")
    edits = list(input_paths.edit_input_paths(code, ""))
    below = [edit for edit in edits if named.match(code.reads[edit.cell].source, edit.span[1])]
    yield from below
    if packed or below:  # cells join the folder of all mounts with others
        bare = re.compile(r"/*(?:[^/\w]|$)")
        for edit in edits:
            source = code.reads[edit.cell].source
            if bare.match(source, edit.span[1]) and not _CLEARING.search(source):
                yield edit


def _describe_edits(code: NotebookCode, edits: Iterable[CellEdit]) -> Iterator[ExternalNeed]:
    for edit in edits:
        read = code.reads[edit.cell]
        line = read.line_number(edit.span[0])
        need = ExternalNeed(
            kind=NeedKind.MOUNT, cell=edit.cell, line=line, text=read.source.splitlines()[line - 1]
        )
        yield need.resolve(Outcome.SERVED, "the inputs")
