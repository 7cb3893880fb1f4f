"""Render a kit's notebook: from a template, or an adopted one with a setup cell above its own cells.

Cells of an adopted notebook are never passed through Jinja: their braces are code.
"""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from offline_kit.adopt import inspection, shell
from offline_kit.adopt.findings import Adoption, AttachedSources, ExternalNeed, NeedKind, Outcome
from offline_kit.core.errors import ProjectError, UsageError
from offline_kit.core.report import SILENT, Reporter
from offline_kit.notebook import rendering, scripts
from offline_kit.notebook.rendering import NotebookTarget, RenderedNotebook
from offline_kit.project import config
from offline_kit.project.images import Image
from offline_kit.project.package_lists import normalize_name
from offline_kit.project.types import Kit, NotebookSettings, Role

TEMPLATE = "adopt"
_ADOPT_AGAIN = "run `offline-kit adopt {} --write`: it adds the key, or prints the line to add"
_INSTALLED_NAME = re.compile(r"-\d|[=<>~!;\[]")
"""What follows the name in a file's name or a requirement."""
_REQUIREMENT_NAME = re.compile(r"^([A-Za-z0-9][\w.-]*)")


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
    adoption = inspect_source(settings, target.competition, target.project, image)
    check_adoption(adoption, kit, image, settings.source, report)
    settings = merge_attached(settings, target.competition, adoption)
    metadata = rendering.kernel_metadata(kit, settings, image, target)
    variables = rendering.template_facts(kit, settings, image, target, metadata["title"])
    script = scripts.fill_template(
        settings.template, target.project, variables | {"adopted": template_facts(adoption, kit)}
    )
    return RenderedNotebook(text=render_text(adoption, script), metadata=metadata)


def check_notebook(
    settings: NotebookSettings, image: Image, target: NotebookTarget, *, weights: bool
) -> None:
    """Raise what `render_notebook` would raise for every kit; `weights`: the kit will contain checkpoints."""
    rendering.check_rendering(settings, image, target, weights=weights)
    if settings.source:
        inspect_source(settings, target.competition, target.project, image)


def inspect_source(settings: NotebookSettings, competition: str, project: Path, image: Image) -> Adoption:
    """Inspect the notebook that the configuration names; raises as `inspect_notebook` does."""
    attached = list_attached(settings, competition)
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


def merge_attached(settings: NotebookSettings, competition: str, adoption: Adoption) -> NotebookSettings:
    """Return the settings with every source that the notebook attaches, and the template of adopted notebooks."""
    own = adoption.sources
    return replace(
        settings,
        template=TEMPLATE,
        competition_sources=tuple(slug for slug in own.competitions if slug != competition),
        dataset_sources=own.datasets,
        kernel_sources=own.notebooks,
        model_sources=own.models,
    )


def check_adoption(
    adoption: Adoption, kit: Kit, image: Image, source: str, report: Reporter = SILENT
) -> None:
    """Raise for files that cells read and the kit lacks; warn of missing packages and open manual fixes.

    A missing package only warns: its requirement may have been removed on purpose.
    """
    missing = [f"'{name}'" for _, name in adoption.served if not _entry_names(kit, name)]
    if missing:
        raise UsageError(
            f"'{source}' reads {', '.join(dict.fromkeys(missing))}, which `checkpoints` does not name",
            hint=_ADOPT_AGAIN.format(source),
            code="adopted-file-not-in-kit",
        )
    missing = [f"'{name}'" for _, name in adoption.laid_out if name and not _laid_out_names(kit, name)]
    if missing:
        raise UsageError(
            f"'{source}' downloads {', '.join(dict.fromkeys(missing))}, which neither `modules` nor `checkpoints` names",
            hint=_ADOPT_AGAIN.format(source),
            code="adopted-file-not-in-kit",
        )
    for name in dict.fromkeys(_find_missing_packages(adoption, kit, image)):
        report.warn(
            f"'{source}' installs '{name}', which is neither in the kit nor in the image: add it to `requirements`"
        )
    for need, name in _find_shadowed_installs(adoption, kit):
        report.warn(
            f"'{source}', {need.position} installs '{name}' from its inputs, but Python imports the kit's version:"
            f' to use the notebook\'s, set exclude = ["{name}"] in [tool.offline-kit]'
        )
    for need in adoption.unresolved:
        if need.kind is not NeedKind.SETTING:  # by now the configuration decides on the accelerator
            report.warn(f"'{source}', {need.position}: {need.text}: {need.remedy}")


def _bundled_names(kit: Kit) -> set[str]:
    return {
        normalize_name(entry.original.rpartition("/")[2].split("-")[0])
        for part in kit.parts
        for entry in part.entries
        if entry.role in (Role.WHEEL, Role.SDIST)
    }


def _find_shadowed_installs(adoption: Adoption, kit: Kit) -> Iterator[tuple[ExternalNeed, str]]:
    """Yield the lines that install a package from the inputs which the kit has too: the kit's is imported."""
    for need in adoption.resolved:
        if need.kind is NeedKind.INSTALL and need.resolution is Outcome.UNCHANGED:
            names = {
                normalize_name(_INSTALLED_NAME.split(word.rpartition("/")[2])[0])
                for word in need.text.split()
            }
            yield from ((need, name) for name in sorted(names & _bundled_names(kit)))


def _find_missing_packages(adoption: Adoption, kit: Kit, image: Image) -> list[str]:
    bundled = _bundled_names(kit)
    names = [
        match[1]
        for line in adoption.requirements
        if not shell.is_nameless(line) and (match := _REQUIREMENT_NAME.match(line))
    ]
    return [
        name
        for name in names
        if normalize_name(name) not in bundled and normalize_name(name) not in image.packages
    ]


def _entry_names(kit: Kit, name: str) -> list[str]:
    """Return the original names of the kit's checkpoints that belong to a file or folder of the project."""
    prefix = f"checkpoints/{name}"
    return [
        entry.original
        for part in kit.parts
        for entry in part.entries
        if entry.original == prefix or entry.original.startswith(f"{prefix}/")
    ]


def _laid_out_names(kit: Kit, name: str) -> list[str]:
    """Return the kit's folders or files that together make up a folder or file of the project."""
    names = {
        f"{top}/{name}": None
        for part in kit.parts
        for entry in part.entries
        for top in ("code", "checkpoints")
        if entry.original == f"{top}/{name}" or entry.original.startswith(f"{top}/{name}/")
    }
    return sorted(names, reverse=True)


def template_facts(adoption: Adoption, kit: Kit) -> dict[str, Any]:
    """Return the variables of the setup cell's template."""
    served = {
        path + original.removeprefix(f"checkpoints/{name}"): original
        for path, name in adoption.served
        for original in _entry_names(kit, name)
    }
    return {
        "notebook": adoption.notebook.name,
        "served": dict(sorted(served.items())),
        "made": [
            (path, original)
            for path, name in adoption.laid_out
            for original in (_laid_out_names(kit, name) if name else [""])
        ],
        "attached": {f"{kind}s": list(names) for kind, names in adoption.sources.by_kind().items() if names},
        "changes": [
            {"cell": need.cell, "line": need.line, "text": need.text, "now": describe_resolution(need)}
            for need in adoption.resolved
            if need.cell and need.resolution is not Outcome.UNCHANGED
        ],
    }


def describe_resolution(need: ExternalNeed) -> str:
    """Return how a need is met, in a few words."""
    words = {
        Outcome.REQUIREMENT: f"in the requirements: {need.value}",
        Outcome.CHECKPOINT: f"in the kit: {need.value}",
        Outcome.MODULE: f"code in the kit: {need.value}",
        Outcome.SOURCE: f"attached: {need.value}",
        Outcome.SERVED: f"shown, from '{need.value}'",
        Outcome.SWITCHED_OFF: need.value,
        Outcome.REWRITTEN: need.value,
        Outcome.UNCHANGED: f"left as it is: {need.value}",
        Outcome.UNRESOLVED: f"NOT DONE: {need.remedy}",
    }
    return words[need.resolution]


def render_text(adoption: Adoption, script: str) -> str:
    """Return the notebook's JSON: the setup's cells, then the adopted ones, without outputs.

    Raises:
        ProjectError: The notebook violates the format of notebooks.
    """
    import nbformat as untyped

    nbformat: Any = untyped
    document = nbformat.reads(scripts.to_notebook(script), as_version=4)
    makers = {
        "code": nbformat.v4.new_code_cell,
        "markdown": nbformat.v4.new_markdown_cell,
        "raw": nbformat.v4.new_raw_cell,
    }
    used_ids = {cell["id"] for cell in document.cells}
    for cell, source in zip(adoption.cells, adoption.changed, strict=True):
        node = makers[cell.kind](source, **{name: value for name, value in cell.node.items() if name != "id"})
        node["id"] = _cell_id(str(cell.node.get("id", "")), cell.number, used_ids)
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


def _cell_id(wanted: str, number: int, taken: set[str]) -> str:
    """Return a cell's own id if it is valid and unused, else one made of its number."""
    # nbformat 4.5: 1 to 64 of [a-zA-Z0-9-_], unique in the notebook (https://jupyter.org/enhancement-proposals/62-cell-id)
    if re.fullmatch(r"[\w-]{1,64}", wanted, re.ASCII) and wanted not in taken:
        return wanted
    return f"cell-{number}"
