"""Inspect a notebook: what it needs from outside, how each need is met, and the edited cells."""

import ast
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path

from offline_kit.adopt import calls, decisions, input_paths, missing_imports, shell
from offline_kit.adopt.findings import (
    Adoption,
    AttachedSources,
    CellEdit,
    ExternalNeed,
    NeedKind,
    NotebookCell,
    Outcome,
)
from offline_kit.adopt.notebook_code import NotebookCode
from offline_kit.adopt.notebook_files import INPUT, MOUNT, SHOWN_INPUT, InspectedNotebook, join_run_path
from offline_kit.adopt.notebook_metadata import NotebookMetadata, read_cells, read_metadata
from offline_kit.core.errors import OfflineKitError
from offline_kit.core.redaction import find_secrets, redact_secrets
from offline_kit.project.accelerators import find_machine_shape
from offline_kit.project.images import Image

_MARK = "# offline-kit:"
"""Begins the comment that keeps a disabled statement."""
_ASSIGNED = re.compile(r"[^\W\d][\w.,* \t\[\]\"'-]*=[ \t]*(?=[!%])")
_STAYS_MOUNTED = "what is attached stays mounted"
_MOUNT_CHANGES = (
    *("rm", "rmtree", "remove", "unlink", "rmdir", "mkdir", "makedirs"),
    *("umount", "mount", "ln", "symlink", "link", "chmod", "chown"),
)
"""Commands and calls that delete, replace or change the mounts, as importers of Colab do."""
_MAPPING = re.compile(r"^\s*DATA_SOURCE_MAPPING\s*=", re.MULTILINE)
"""Begins the download in the cell that Kaggle exports for Colab."""


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
    cells = read_cells(path)
    metadata = read_metadata(path)
    sources = attached or AttachedSources()
    for kind, names in metadata.sources.by_kind().items():
        sources = sources.add(kind, *names)
    code = NotebookCode((cell.number, cell.source) for cell in cells if cell.kind == "code")
    notebook = InspectedNotebook(path=path, project=project, image=image, code=code, lines=lines)
    notebook.sources, notebook.unnamed = sources, metadata.unnamed
    _decide_needs(notebook)
    input_paths.place_read_files(notebook)
    _disable_mount_changes(notebook)
    _disable_magics(notebook)
    notebook.resolved += missing_imports.resolve_imports(notebook)
    value = "Python {}.{} cannot parse it: only magics and input paths were checked".format(*sys.version_info)
    unread = (
        notebook.make_need(NeedKind.UNREAD, number, 1) for number in code.reads if number not in code.trees
    )
    notebook.resolved += [need.resolve(Outcome.UNCHANGED, value) for need in unread]
    competition = next(iter(notebook.sources.competitions), "")
    notebook.edits += input_paths.edit_input_paths(code, competition)
    notebook.resolved += input_paths.resolve_sources(notebook)
    notebook.resolved += _resolve_metadata(metadata)
    changed = tuple(apply_edits(cell, notebook.edits) for cell in cells)
    notebook.resolved += _find_written_secrets(cells, changed)
    resolved = {replace(need, in_script=path.suffix == ".py"): None for need in notebook.resolved}
    return Adoption(
        notebook=path,
        cells=cells,
        changed=changed,
        resolved=tuple(sorted(resolved, key=lambda need: (need.cell or len(cells) + 1, need.line))),
        requirements=(*notebook.indexes, *notebook.requirements),
        requirement_files=tuple(notebook.requirement_files),
        needs_own_requirements=notebook.needs_own_requirements,
        packages=tuple(notebook.packages),
        checkpoints=tuple(notebook.checkpoints),
        modules=tuple(notebook.modules),
        served=tuple(sorted(notebook.served.items())),
        laid_out=tuple(sorted(notebook.beside.items())),
        sources=notebook.sources,
        accelerator=metadata.accelerator,
        accelerator_source=metadata.source,
    )


def _decide_needs(notebook: InspectedNotebook) -> None:
    """Decide on what shell lines and calls need, and edit those that can be disabled."""
    notebook.needs = [*shell.find_needs(notebook), *calls.find_needs(notebook)]
    notebook.needs.sort(key=lambda need: (need.cell, need.line, need.span[0] if need.span else -1))
    decided = [decisions.decide_need(need, notebook) for need in notebook.needs]
    notebook.resolved += _switch_off(decided, notebook)


def _switch_off(needs: Iterable[ExternalNeed], notebook: InspectedNotebook) -> Iterator[ExternalNeed]:
    """Edit the lines of needs that are met, and yield all needs; a line without an edit is a question."""

    def find_text(need: ExternalNeed) -> tuple[int, tuple[int, int] | None, int]:
        span = need.statement or need.span
        return need.cell, span, 0 if span else need.line

    for (cell, span, _), group in groupby(needs, key=find_text):
        own, text = list(group), ""
        is_met, statement = all(need.switches_off for need in own), own[0].statement
        if is_met and span:
            is_whole = statement and own[0].kind is not NeedKind.KAGGLE  # whose value is a path
            source = notebook.code.reads[cell].source
            text = _comment_out(source, span) if is_whole else own[-1].stand_in
        if span and text:
            notebook.edits.append(CellEdit(cell=cell, span=span, text=text))
        elif statement and statement != own[0].span:  # a shell line of several commands
            yield from _switch_off((replace(need, statement=None) for need in own), notebook)
            continue
        elif is_met:
            remedy = "remove it by hand: its position in the line is not known"
            own = [replace(need, resolution=Outcome.UNRESOLVED, remedy=remedy) for need in own]
        yield from own


def _resolve_metadata(metadata: NotebookMetadata) -> Iterator[ExternalNeed]:
    setting = ExternalNeed(kind=NeedKind.SETTING, cell=0, line=0, text="accelerator", source=metadata.source)
    if metadata.internet:
        value = "the adopted notebook runs without"
        yield replace(setting, text="enable_internet").resolve(Outcome.SWITCHED_OFF, value)
    try:
        if find_machine_shape(metadata.accelerator):
            yield setting.resolve(Outcome.UNCHANGED, metadata.accelerator)
    except OfflineKitError as error:
        remedy = f"{error.what}; write `accelerator` into the configuration: {error.hint}"
        yield setting.ask(remedy, metadata.accelerator)
    for kind, names in metadata.sources.by_kind().items():
        attached = replace(setting, text=f"{kind}_sources")
        yield from (attached.resolve(Outcome.SOURCE, f"{kind} {name}") for name in names)


def apply_edits(cell: NotebookCell, edits: Iterable[CellEdit]) -> str:
    """Return the edited text; of overlapping edits, the one that starts first and ends last wins."""
    source, parts, position = cell.source, list[str](), 0
    own = {edit for edit in edits if edit.cell == cell.number}
    for edit in sorted(own, key=lambda edit: (edit.span[0], -edit.span[1])):
        if edit.span[0] >= position:
            parts += [source[position : edit.span[0]], edit.text]
            position = edit.span[1]
    return "".join([*parts, source[position:]])


def _comment_out(source: str, span: tuple[int, int]) -> str:
    """Return a statement as a comment after `pass`, on as many lines, without secrets: the notebook is pushed.

    A shell line whose output is assigned, `files = !ls`, becomes an empty list.
    """
    indent = source[source.rfind("\n", 0, span[0]) + 1 : span[0]]
    text = source[slice(*span)]
    assigned = _ASSIGNED.match(text)
    first, *following = redact_secrets(text[assigned.end() :] if assigned else text).split("\n")
    rest = [f"{indent}# {line.removeprefix(indent)}".rstrip() for line in following]
    return "\n".join([f"{assigned[0] + '[]' if assigned else 'pass'}  {_MARK} {first.strip()}", *rest])


def _find_written_secrets(cells: Sequence[NotebookCell], changed: Sequence[str]) -> Iterator[ExternalNeed]:
    """Yield the lines that still contain a secret after the edits, with its variable but never its value."""
    for cell, text in zip(cells, changed, strict=True):
        secrets: dict[str, tuple[str, int]] = {}
        for secret in find_secrets(cell.source):
            value = cell.source[secret.start : secret.end]
            if value in text and not any(value in other for other in secrets):
                secrets[value] = (secret.name, cell.source.count("\n", 0, secret.start) + 1)
        for name, line in secrets.values():
            shown = cell.source.split("\n")[line - 1]
            for value in secrets:
                shown = shown.replace(value, "***")
            described = f"the value of '{name}'" if name else "a token"
            need = ExternalNeed(kind=NeedKind.ACCOUNT, cell=cell.number, line=line, text=shown, target=name)
            remedy = (
                f"{described} would be pushed with the notebook: remove it, an offline notebook needs no account"
                " (set it outside the notebook for online runs, and revoke it if others have seen it)"
            )
            yield need.ask(remedy, name or "a token")


def _disable_mount_changes(notebook: InspectedNotebook) -> None:
    """Disable the commands and calls that would delete or replace the mounts."""
    for number, read in notebook.code.reads.items():
        # A script that was downloaded from Kaggle has it too, and is more than this cell.
        if _MAPPING.search(read.source) and notebook.path.suffix != ".py":
            # Kaggle's cell for Colab goes; its imports remain, since other cells may use them
            nodes = notebook.code.walk(number)
            kept_lines = [
                ast.unparse(node) for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)
            ]
            text = "\n".join([*kept_lines, f"pass  {_MARK} a download of data sources to Colab stood here"])
            span = (0, len(read.source))
            _edit_once(notebook, NeedKind.KAGGLE, number, span, text, Outcome.SWITCHED_OFF, _STAYS_MOUNTED)
            continue
        for action in shell.list_actions(notebook, number):
            if _changes_mounts(action):
                text = "true" if action.magic else "None"
                reason = "what it is about is laid out by the first cell" if action.magic else _STAYS_MOUNTED
                _edit_once(notebook, NeedKind.FILE, number, action.span, text, Outcome.SWITCHED_OFF, reason)


def _edit_once(
    notebook: InspectedNotebook,
    kind: NeedKind,
    cell: int,
    span: tuple[int, int],
    text: str,
    outcome: Outcome,
    reason: str,
) -> None:
    """Replace a part of a cell and record why, unless it is edited already."""
    if not any(edit.cell == cell and edit.span[0] <= span[0] < edit.span[1] for edit in notebook.edits):
        need = notebook.make_need(kind, cell, notebook.code.reads[cell].line_number(span[0]))
        notebook.resolved.append(need.resolve(outcome, reason))
        notebook.edits.append(CellEdit(cell=cell, span=span, text=text))


def _changes_mounts(action: shell.Action) -> bool:
    """Whether a command or call is about the mounts' folder itself."""
    name, words = action.name.rpartition(".")[2], action.words
    if not action.magic:
        words = words[1:2] if name in ("symlink", "link") else words[:1]
    paths = [join_run_path(action.folder, word) for word in words if word]
    return name in _MOUNT_CHANGES and paths[-1:] != [] and paths[-1].rstrip("/") in (INPUT, "/kaggle")


def _disable_magics(notebook: InspectedNotebook) -> None:
    """Replace the magics that IPython 7 cannot run on Python 3.12 or later; Kaggle's images have both.

    `name = !command` becomes a SyntaxError: IPython 7 looks for an ERRORTOKEN, which Python 3.12 no longer emits
    (https://docs.python.org/3/whatsnew/3.12.html#tokenize). It is replaced by the Python that IPython makes of it.
    `%autoreload` imports `imp`, which 3.12 removed, and has no use in a run from top to bottom.
    """
    image = notebook.image
    ipython = image.public_version("ipython")
    if not ipython.startswith("7.") or tuple(map(int, image.python_minor.split("."))) < (3, 12):
        return
    reason = f"IPython {ipython} cannot run it on Python {image.python_minor}"
    for number, read in notebook.code.reads.items():
        for magic in read.magics:
            span = (magic.start, magic.end)
            if magic.before and magic.sign == "!":
                command = MOUNT.sub(SHOWN_INPUT, magic.text.replace("\\\n", " "))
                text = f"{magic.before}get_ipython().getoutput({command!r})"
                _edit_once(notebook, NeedKind.MAGIC, number, span, text, Outcome.REWRITTEN, reason)
            elif magic.sign == "%" and "autoreload" in magic.text.split()[:2]:
                text = _comment_out(read.source, span)
                _edit_once(notebook, NeedKind.MAGIC, number, span, text, Outcome.SWITCHED_OFF, reason)
