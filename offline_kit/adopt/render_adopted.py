"""Render a kit's notebook: from a template, or an adopted one with a setup cell on top of its own cells.

The cells of an adopted notebook never go through jinja.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from offline_kit.adopt import inspect, shell
from offline_kit.adopt.findings import Adoption, Became, Found, Kind, Sources
from offline_kit.core.errors import ProjectError, UsageError
from offline_kit.core.report import SILENT, Reporter
from offline_kit.notebook import rendering, scripts
from offline_kit.notebook.rendering import Rendered, Target
from offline_kit.project import config
from offline_kit.project.images import Image
from offline_kit.project.package_lists import normalized
from offline_kit.project.types import Kit, NotebookSettings, Role

TEMPLATE = "adopt"
AGAIN = "`offline-kit adopt {} --write` writes it, or shows the line to add"
_NAME = re.compile(r"^([A-Za-z0-9][\w.-]*)")


def render_notebook(
    kit: Kit, settings: NotebookSettings, image: Image, target: Target, *, report: Reporter = SILENT
) -> Rendered:
    """Render the notebook that the settings adopt, or that their template makes.

    Raises what `notebook.render` raises, and UsageError for an adopted notebook that lacks something.
    """
    if not settings.source:
        return rendering.render(kit, settings, image, target, report=report)
    report.step(f"Adopting '{settings.source}'")
    adoption = adopted(settings, target.competition, target.project, image)
    check(adoption, kit, image, settings.source, report)
    settings = with_sources(settings, target.competition, adoption)
    metadata = rendering.kernel_metadata(kit, settings, image, target)
    variables = rendering.template_facts(kit, settings, image, target, metadata["title"])
    script = scripts.fill(settings.template, target.project, variables | {"adopted": facts(adoption, kit)})
    return Rendered(text=text(adoption, script), metadata=metadata)


def check_notebook(settings: NotebookSettings, image: Image, target: Target, *, weights: bool) -> None:
    """Raise what `render_notebook` would raise for any kit; `weights`: the kit will hold checkpoints."""
    rendering.check(settings, image, target, weights=weights)
    if settings.source:
        adopted(settings, target.competition, target.project, image)


def adopted(settings: NotebookSettings, competition: str, project: Path, image: Image) -> Adoption:
    """Look through the notebook that the configuration names; raises as `looking.look` does."""
    competitions = (*([competition] if competition else []), *settings.competition_sources)
    attached = Sources(
        competitions=competitions,
        datasets=settings.dataset_sources,
        notebooks=settings.kernel_sources,
        models=settings.model_sources,
    )
    return inspect.look(
        project / settings.source, project, image, attached, answers(project, settings.source)
    )


def answers(project: Path, source: str) -> tuple[str, ...]:
    """Return the lines of the project's requirements files: a person may have said there where an import comes from."""
    names = [f"{Path(source).stem}-requirements.in", "requirements.in", "requirements.txt"]
    files = [*config.load(project, {}).requirements, *(project / name for name in names)]
    texts = [path.read_text(encoding="utf-8", errors="replace") for path in files if path.is_file()]
    return tuple(dict.fromkeys(line.strip() for text in texts for line in text.splitlines()))


def with_sources(settings: NotebookSettings, competition: str, adoption: Adoption) -> NotebookSettings:
    """Return the settings with all that the notebook attaches, and our own template."""
    own = adoption.sources
    return replace(
        settings,
        template=TEMPLATE,
        competition_sources=tuple(each for each in own.competitions if each != competition),
        dataset_sources=own.datasets,
        kernel_sources=own.notebooks,
        model_sources=own.models,
    )


def check(adoption: Adoption, kit: Kit, image: Image, source: str, report: Reporter = SILENT) -> None:
    """Raise for files that cells are to find in the kit, and that it does not hold.

    A package that a line installed and that neither kit nor image has is warned of (a person may have taken it
    out, knowing better), and so is what was asked for and not done.
    """
    lacking = [f"'{name}'" for _, name in adoption.served if not _entries(kit, name)]
    if lacking:
        raise UsageError(
            f"'{source}' reads {', '.join(dict.fromkeys(lacking))}, which `checkpoints` does not name",
            hint=AGAIN.format(source),
        )
    lacking = [f"'{name}'" for _, name in adoption.made if name and not _laid(kit, name)]
    if lacking:
        raise UsageError(
            f"'{source}' fetches {', '.join(dict.fromkeys(lacking))}, which neither `modules` nor `checkpoints` names",
            hint=AGAIN.format(source),
        )
    for name in dict.fromkeys(_lacking_packages(adoption, kit, image)):
        report.warn(
            f"'{source}' installs '{name}', which neither the kit nor the image has: ask for it in `requirements`"
        )
    # the machine is what the configuration says by now
    for one in (each for each in adoption.asked if each.kind is not Kind.SETTING):
        report.warn(f"'{source}', {one.place}: {one.text}: {one.remedy}")


def _lacking_packages(adoption: Adoption, kit: Kit, image: Image) -> list[str]:
    own = {
        normalized(entry.original.rpartition("/")[2].split("-")[0])
        for part in kit.parts
        for entry in part.entries
        if entry.role in (Role.WHEEL, Role.SDIST)
    }
    named = [
        found[1]
        for line in adoption.requirements
        if not shell.is_nameless(line) and (found := _NAME.match(line))
    ]
    return [name for name in named if normalized(name) not in own and normalized(name) not in image.packages]


def _entries(kit: Kit, name: str) -> list[str]:
    """Return the kit's original names of a file or folder of the project."""
    wanted = f"checkpoints/{name}"
    return [
        entry.original
        for part in kit.parts
        for entry in part.entries
        if entry.original == wanted or entry.original.startswith(f"{wanted}/")
    ]


def _laid(kit: Kit, name: str) -> list[str]:
    """Return the kit's folders, or files, that together are a folder or file of the project."""
    found = {
        f"{top}/{name}": None
        for part in kit.parts
        for entry in part.entries
        for top in ("code", "checkpoints")
        if entry.original == f"{top}/{name}" or entry.original.startswith(f"{top}/{name}/")
    }
    return sorted(found, reverse=True)


def facts(adoption: Adoption, kit: Kit) -> dict[str, Any]:
    """Return what the setup's template is told of the notebook."""
    served = {
        path + original.removeprefix(f"checkpoints/{name}"): original
        for path, name in adoption.served
        for original in _entries(kit, name)
    }
    own = adoption.sources
    attached: Mapping[str, tuple[str, ...]] = {
        "competitions": own.competitions,
        "datasets": own.datasets,
        "notebooks": own.notebooks,
        "models": own.models,
    }
    return {
        "notebook": adoption.notebook.name,
        "served": dict(sorted(served.items())),
        "made": [
            (place, original)
            for place, name in adoption.made
            for original in (_laid(kit, name) if name else [""])
        ],
        "attached": {group: list(names) for group, names in attached.items() if names},
        "changes": [
            {"cell": one.cell, "line": one.line, "text": one.text, "now": now(one)}
            for one in adoption.found
            if one.cell and one.became is not Became.KEPT
        ],
    }


def now(one: Found) -> str:
    """Return what became of something, in a few words."""
    words = {
        Became.REQUIREMENT: f"in the requirements: {one.value}",
        Became.CHECKPOINT: f"in the kit: {one.value}",
        Became.MODULE: f"code in the kit: {one.value}",
        Became.SOURCE: f"attached: {one.value}",
        Became.SERVED: f"shown, from '{one.value}'",
        Became.SWITCHED_OFF: one.value,
        Became.REWRITTEN: one.value,
        Became.KEPT: f"left as it is: {one.value}",
        Became.ASKED: f"NOT DONE: {one.remedy}",
    }
    return words[one.became]


def text(adoption: Adoption, script: str) -> str:
    """Return the notebook's JSON: the cells of the setup's script, then the adopted ones; outputs are left out.

    Raises ProjectError where a notebook breaks the rules of its format.
    """
    import nbformat as untyped

    nbformat: Any = untyped
    document = nbformat.reads(scripts.to_notebook(script), as_version=4)
    made = {
        "code": nbformat.v4.new_code_cell,
        "markdown": nbformat.v4.new_markdown_cell,
        "raw": nbformat.v4.new_raw_cell,
    }
    taken = {cell["id"] for cell in document.cells}
    for cell, source in zip(adoption.cells, adoption.changed, strict=True):
        node = made[cell.kind](source, **{name: said for name, said in cell.node.items() if name != "id"})
        node["id"] = _id(str(cell.node.get("id", "")), cell.number, taken)
        taken.add(node["id"])
        document.cells.append(node)
    try:
        nbformat.validate(document)
    except nbformat.ValidationError as error:
        raise ProjectError(
            f"'{adoption.notebook}' breaks the rules of notebooks: {str(error).partition(chr(10))[0]}",
            hint="open it in Jupyter and save it again",
        ) from error
    return str(nbformat.writes(document)) + "\n"


def _id(wanted: str, number: int, taken: set[str]) -> str:
    """Return a cell's id: its own where it is one, else of its number."""
    if re.fullmatch(r"[\w-]{1,64}", wanted, re.ASCII) and wanted not in taken:
        return wanted
    return f"cell-{number}"
