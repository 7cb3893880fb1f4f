"""The cells of a recorded notebook: as they are, but for paths of inputs that Kaggle cannot mount."""

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

_MARK = f"# offline-kit: the inputs that the recording brings are below {SHOWN_INPUT}"


def read_recorded(recorded: RecordedRun, attached: AttachedSources) -> Adoption:
    """Return a recorded notebook as an adoption whose cells are unchanged, unless they read packed inputs.

    Files of kind "input" come with the recording, and /kaggle/input is read-only. Raises as `read_cells`.
    """
    path = recorded.project / recorded.source
    cells = read_cells(path)
    for kind, references in read_metadata(path).sources.by_kind().items():
        attached = attached.add(kind, *references)
    packed = [file["folder"] for file in recorded.document["files"] if file["kind"] == "input"]
    packed_mounts = {folder.split("/")[1] for folder in packed if "/" in folder}
    code = NotebookCode((cell.number, cell.source) for cell in cells if cell.kind == "code")
    edits = list(_edit_packed_paths(code, packed_mounts)) if packed_mounts else []
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


def _edit_packed_paths(code: NotebookCode, mounts: Iterable[str]) -> Iterator[CellEdit]:
    """Yield the edits of paths below these mounts, and of the folder of all mounts, which cells join with others."""
    behind = re.compile(rf"/*(?:(?:{'|'.join(map(re.escape, mounts))})(?![\w.-])|[^/\w]|$)")
    for edit in input_paths.edit_input_paths(code, ""):
        if behind.match(code.reads[edit.cell].source, edit.span[1]):
            yield edit


def _describe_edits(code: NotebookCode, edits: Iterable[CellEdit]) -> Iterator[ExternalNeed]:
    for edit in edits:
        read = code.reads[edit.cell]
        line = read.line_number(edit.span[0])
        need = ExternalNeed(
            kind=NeedKind.MOUNT, cell=edit.cell, line=line, text=read.source.splitlines()[line - 1]
        )
        yield need.resolve(Outcome.SERVED, "the recording")
