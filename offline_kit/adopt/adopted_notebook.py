"""Render a kit's notebook: from a template, or an adopted one with a setup cell above its own cells.

Cells of an adopted notebook are never passed through Jinja: their braces are code. Those of a recorded one stay as they
are, but for paths of inputs that Kaggle does not mount there.
"""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from offline_kit.adopt import input_paths, inspection, recording, script_setup, shell
from offline_kit.adopt.findings import Adoption, AttachedSources, CellEdit, ExternalNeed, NeedKind, Outcome
from offline_kit.adopt.notebook_code import NotebookCode
from offline_kit.adopt.notebook_files import SHOWN_INPUT
from offline_kit.adopt.notebook_metadata import read_cells, read_metadata
from offline_kit.adopt.recording import RecordedRun
from offline_kit.core.errors import ProjectError, UsageError
from offline_kit.core.report import SILENT, Reporter
from offline_kit.notebook import rendering, scripts
from offline_kit.notebook.rendering import NotebookTarget, RenderedNotebook
from offline_kit.notebook.runtime.kit_runtime import GROUPS
from offline_kit.project import config
from offline_kit.project.images import Image
from offline_kit.project.package_lists import normalize_name
from offline_kit.project.types import Kit, NotebookSettings, Role

TEMPLATE = "adopt"
_NAME = re.compile(r"^([A-Za-z0-9][\w.-]*)")  # the name that a requirement begins with
_AFTER_NAME = re.compile(r"-\d|[=<>~!;\[]")  # what follows the name in a file's name or a requirement
_CLEARING = re.compile(r"\b(?:rmtree\(|umount\b|rm\b)[^\n]*/kaggle/input/?(?![\w/])")
"""What the cell that Kaggle exports for Colab does; on a read-only mount it does nothing, below our links it would."""
_MARK = f"# offline-kit: the inputs of this cell are below {SHOWN_INPUT}"


def render_notebook(
    kit: Kit, settings: NotebookSettings, image: Image, target: NotebookTarget, *, report: Reporter = SILENT
) -> RenderedNotebook:
    """Render the notebook that the settings adopt, or that their template makes.

    Raises:
        UsageError: The kit lacks files that the adopted notebook reads. See also `rendering.render_notebook`.
    """
    if not settings.source:
        return rendering.render_notebook(kit, settings, image, target, report=report)
    report.step(f"Adopting '{settings.source}'")
    recorded = recording.find_recorded(target.project, settings.source)
    if recorded:
        adoption = _read_recorded(recorded, list_attached(settings, target.competition))
    else:
        adoption = _inspect_source(settings, target, image)
        _check_adoption(adoption, kit, image, settings.source, report)
    sources = adoption.sources  # with those that the notebook attaches
    settings = replace(
        settings,
        template=TEMPLATE,
        competition_sources=tuple(slug for slug in sources.competitions if slug != target.competition),
        dataset_sources=sources.datasets,
        kernel_sources=sources.notebooks,
        model_sources=sources.models,
    )
    metadata = rendering.kernel_metadata(kit, settings, image, target)
    variables = rendering.template_facts(kit, settings, image, target, metadata["title"])
    variables |= {"adopted": _template_facts(adoption, kit), "recorded": recorded}
    if recorded:
        variables["packages"] = [f"{pin.name} {pin.version}" for pin in recorded.make_freeze(image).pins]
    script = scripts.fill_template(settings.template, target.project, variables)
    if adoption.is_script:
        # As Python reads it, and Kaggle's client sends it: with ends of lines of one kind.
        source = adoption.changed[0].replace("\r\n", "\n")
        text = script_setup.insert_setup(source, script, adoption.notebook.name)
    else:
        text = render_text(adoption, script)
    return RenderedNotebook(text=text, metadata=metadata)


def _read_recorded(recorded: RecordedRun, attached: AttachedSources) -> Adoption:
    """Return a recorded notebook as an adoption whose cells are unchanged, unless they name inputs that are elsewhere.

    Files of kind "input" come with the recording, and /kaggle/input is read-only. A recording here shows sources in the
    older layout, too, which most sessions on Kaggle no longer have; what ran on Kaggle stays. Raises as `read_cells`.
    """
    path, document = recorded.project / recorded.source, recorded.document
    cells = read_cells(path)
    for kind, names in read_metadata(path).sources.by_kind().items():
        attached = attached.add(kind, *names)
    packed_folders = [file["folder"].split("/") for file in document["files"] if file["kind"] == "input"]
    packed_mounts = {parts[1] for parts in packed_folders if len(parts) > 1}
    old_mounts = set[str]()
    if document["where"] == "here":
        references = [name for names in attached.by_kind().values() for name in names]
        old_mounts = {name.split("/")[1] if "/" in name else name for name in references}
        old_mounts |= {entry["mount"].partition("/")[0] for entry in document["inputs"]} - {*GROUPS}
    code = NotebookCode((cell.number, cell.source) for cell in cells if cell.kind == "code")
    edits = list(_edit_recorded_paths(code, packed_mounts, old_mounts))
    edited, changed, resolved = {edit.cell for edit in edits}, list[str](), list[ExternalNeed]()
    for cell in cells:
        source = inspection.apply_edits(cell, edits)
        # A cell magic takes all of its cell, perhaps as the text of a file.
        is_marked = cell.number in edited and not source.lstrip().startswith("%%")
        changed.append(f"{source.rstrip()}\n{_MARK}" if is_marked else source)
    for edit in edits:
        read = code.reads[edit.cell]
        line = read.line_number(edit.span[0])
        text = read.source.splitlines()[line - 1]
        need = ExternalNeed(kind=NeedKind.MOUNT, cell=edit.cell, line=line, text=text)
        resolved.append(need.resolve(Outcome.SERVED, "the inputs"))
    return Adoption(
        notebook=path, cells=cells, changed=tuple(changed), resolved=tuple(resolved), sources=attached
    )


def _edit_recorded_paths(code: NotebookCode, packed: set[str], old: set[str]) -> Iterator[CellEdit]:
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


def check_notebook(
    settings: NotebookSettings, image: Image, target: NotebookTarget, *, weights: bool
) -> None:
    """Raise what `render_notebook` would raise for every kit; `weights`: the kit will contain checkpoints."""
    rendering.check_rendering(settings, image, target, weights=weights)
    if settings.source and not recording.find_recorded(target.project, settings.source):
        _inspect_source(settings, target, image)


def _inspect_source(settings: NotebookSettings, target: NotebookTarget, image: Image) -> Adoption:
    project, attached = target.project, list_attached(settings, target.competition)
    lines = read_requirement_comments(project, settings.source)
    return inspection.inspect_notebook(project / settings.source, project, image, attached, lines)


def list_attached(settings: NotebookSettings, competition: str) -> AttachedSources:
    """Return the sources that the configuration attaches."""
    return AttachedSources(
        competitions=tuple(filter(None, (competition, *settings.competition_sources))),
        datasets=settings.dataset_sources,
        notebooks=settings.kernel_sources,
        models=settings.model_sources,
    )


def read_requirement_comments(project: Path, source: str) -> tuple[str, ...]:
    """Return the lines of the project's requirements files; `# import NAME` there names an import's distribution."""
    names = [f"{Path(source).stem}-requirements.in", "requirements.in", "requirements.txt"]
    files = [*config.load_config(project, {}).requirements, *(project / name for name in names)]
    texts = [path.read_text(encoding="utf-8", errors="replace") for path in files if path.is_file()]
    return tuple(dict.fromkeys(line.strip() for text in texts for line in text.splitlines()))


def _check_adoption(adoption: Adoption, kit: Kit, image: Image, source: str, report: Reporter) -> None:
    """Raise for files that cells read and the kit lacks; warn of missing packages and open manual fixes.

    A missing package only warns: its requirement may have been removed on purpose.
    """
    unserved = [name for _, name in adoption.served if not _find_entries(kit, name, "checkpoints")]
    beside = [name for _, name in adoption.laid_out if not _find_entries(kit, name)]
    for missing, reads, keys in (
        (unserved, "reads", "which `checkpoints` does not name"),
        (beside, "reads", "which neither `modules` nor `checkpoints` names"),
    ):
        if missing:
            names = ", ".join(f"'{name}'" for name in dict.fromkeys(missing))
            raise UsageError(
                f"'{source}' {reads} {names}, {keys}",
                hint=f"run `offline-kit adopt {source} --write`: it adds the key, or prints the line to add",
                code="adopted-file-not-in-kit",
            )
    _warn_of_packages(adoption, kit, image, source, report)
    for need in adoption.unresolved:
        if need.kind is not NeedKind.SETTING:  # by now the configuration decides on the accelerator
            report.warn(f"'{source}', {need.position} does not run offline yet: {need.text}; {need.remedy}")


def _warn_of_packages(adoption: Adoption, kit: Kit, image: Image, source: str, report: Reporter) -> None:
    """Warn of required packages that are nowhere, and of those that the kit's version replaces."""
    entries = [
        entry for part in kit.parts for entry in part.entries if entry.role in (Role.WHEEL, Role.SDIST)
    ]
    bundled = {normalize_name(entry.original.rpartition("/")[2].split("-")[0]) for entry in entries}
    required = [_NAME.match(line) for line in adoption.requirements if not shell.is_nameless(line)]
    for name in dict.fromkeys(match[1] for match in required if match):
        if normalize_name(name) not in bundled and normalize_name(name) not in image.packages:
            report.warn(
                f"'{source}' installs '{name}', which is neither in the kit nor in the image: add it to `requirements`"
            )
    for need in adoption.resolved:
        if need.kind is NeedKind.INSTALL and need.resolution is Outcome.UNCHANGED:  # from its inputs
            installed = [_AFTER_NAME.split(word.rpartition("/")[2])[0] for word in need.text.split()]
            for name in sorted(set(map(normalize_name, installed)) & bundled):
                report.warn(
                    f"'{source}', {need.position} installs '{name}' from its inputs, but Python imports the kit's version:"
                    f' to use the notebook\'s, set exclude = ["{name}"] in [tool.offline-kit]'
                )


def _find_entries(kit: Kit, name: str, *tops: str) -> list[str]:
    """Return the original names of the kit's files that belong to a file or folder of the project."""
    prefixes = [f"{top}/{name}/" for top in tops or ("code", "checkpoints")]
    names = [entry.original for part in kit.parts for entry in part.entries]
    return [name for name in names if any(f"{name}/".startswith(prefix) for prefix in prefixes)]


def _template_facts(adoption: Adoption, kit: Kit) -> dict[str, Any]:
    served = {
        path + original.removeprefix(f"checkpoints/{name}"): original
        for path, name in adoption.served
        for original in _find_entries(kit, name, "checkpoints")
    }
    layout = []
    for path, name in adoption.laid_out:
        # a file or folder of the project may be in the kit as code, as a checkpoint, or partly as both
        tops = {entry.partition("/")[0] for entry in _find_entries(kit, name)}
        layout += [(path, f"{top}/{name}") for top in sorted(tops, reverse=True)]
    return {
        "notebook": adoption.notebook.name,
        "is_script": adoption.is_script,
        "served": dict(sorted(served.items())),
        "layout": layout,
        "attached": {f"{kind}s": list(names) for kind, names in adoption.sources.by_kind().items() if names},
        "changes": [
            {"cell": need.cell, "line": need.line, "text": need.text, "now": _describe_resolution(need)}
            for need in adoption.resolved
            if need.cell and need.resolution is not Outcome.UNCHANGED
        ],
    }


def _describe_resolution(need: ExternalNeed) -> str:
    patterns = {
        Outcome.REQUIREMENT: "in the requirements: {0}",
        Outcome.CHECKPOINT: "in the kit: {0}",
        Outcome.MODULE: "code in the kit: {0}",
        Outcome.SOURCE: "attached: {0}",
        Outcome.SERVED: "shown, from '{0}'",
        Outcome.UNRESOLVED: "NOT DONE: {1}",
    }
    return patterns.get(need.resolution, "{0}").format(need.value, need.remedy)


def render_text(adoption: Adoption, script: str) -> str:
    """Return the notebook's JSON: the setup's cells, then the adopted ones, without outputs.

    Raises:
        ProjectError: The notebook violates the format of notebooks.
    """
    import nbformat as untyped

    nbformat: Any = untyped
    document = nbformat.reads(scripts.to_notebook(script), as_version=4)
    used_ids = {cell["id"] for cell in document.cells}
    for cell, source in zip(adoption.cells, adoption.changed, strict=True):
        make = getattr(nbformat.v4, f"new_{cell.kind}_cell")
        node = make(source, **{name: value for name, value in cell.node.items() if name != "id"})
        # nbformat 4.5: 1 to 64 of [a-zA-Z0-9-_], unique in the notebook
        # (https://jupyter.org/enhancement-proposals/62-cell-id)
        own_id = str(cell.node.get("id", ""))
        is_valid = re.fullmatch(r"[\w-]{1,64}", own_id, re.ASCII) and own_id not in used_ids
        node["id"] = own_id if is_valid else f"cell-{cell.number}"
        used_ids.add(node["id"])
        document.cells.append(node)
    try:
        nbformat.validate(document)
    except nbformat.ValidationError as error:
        raise ProjectError(
            f"'{adoption.notebook}' is not a valid notebook: {str(error).partition(chr(10))[0]}",
            hint="open it in Jupyter and save it again",
            code="notebook-invalid",
        ) from error
    return str(nbformat.writes(document)) + "\n"
