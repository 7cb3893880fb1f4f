"""A first configuration: what is found in a project, written where configurations are read."""

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from offline_kit.core import files
from offline_kit.core.errors import UsageError
from offline_kit.core.report import SILENT, Reporter
from offline_kit.init import (
    checkpoint_patterns,
    file_tree,
    project_code,
    requirements,
    template_choice,
)
from offline_kit.init import (
    competition as contest,
)
from offline_kit.init import (
    toml_text as text,
)
from offline_kit.init.proposal import Findings, Setting
from offline_kit.project import images
from offline_kit.project.kaggle_names import dataset_slug, slug_problems

ORDER = (
    *("competition", "competition_data", "dataset", "image", "requirements", "locks", "packages", "modules"),
    *(
        "checkpoints",
        "preprocessing",
        "parts",
        "template",
        "task",
        "models",
        "transform",
        "model",
        "data",
        "function",
    ),
)
"""In which the settings are written: a person reads them from what it is about to how it is done."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a person said about the first configuration."""

    project: Path
    """The project's folder."""
    competition: str = ""
    """Slug of the competition; empty looks for it."""
    dataset: str = ""
    """Slug of the dataset; empty makes one of the project's name."""
    force: bool = False
    """Whether keys may be added to a configuration that is there."""


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """What would be written, and why."""

    file: Path
    """The file that gets it."""
    text: str
    """That file's whole new text."""
    block: str
    """What is new in it; empty where nothing is to be added."""
    settings: tuple[Setting, ...]
    """The new settings, those that were not found included."""
    kept: tuple[str, ...]
    """Keys that were there already and stay as they are."""
    notes: tuple[str, ...]
    """What the person should know besides."""

    @property
    def missing(self) -> tuple[Setting, ...]:
        """What was not found and the person has to say."""
        return tuple(one for one in self.settings if one.value is None and one.needed)


@dataclass(frozen=True, kw_only=True)
class _Place:
    """Where the configuration is, or is to be."""

    file: Path
    """The file."""
    old: str
    """Its text; empty where there is none."""
    table: Mapping[str, Any] | None
    """The configuration in it; None where there is none."""
    nested: bool
    """Whether it is [tool.offline-kit], else the file's top."""


def propose(request: Request, report: Reporter = SILENT) -> Proposal:
    """Look at a project and return its first configuration; nothing is written and nothing of it is run.

    It goes into pyproject.toml where there is one, else into a new offline-kit.toml. With `force`, a
    configuration that is there keeps all that it says, and gets what it does not say and was found. Raises
    UsageError for a configuration without `force`, for names that Kaggle refuses, and for files that are no TOML.
    """
    root = request.project.expanduser().absolute()
    if not root.is_dir():
        raise UsageError(
            f"there is no folder '{request.project}'",
            hint="name the project's folder, or leave it out for this one",
        )
    pyproject = _read(root / "pyproject.toml")
    place = _place(root, pyproject)
    if place.table is not None and not request.force:
        raise UsageError(
            f"'{place.file}' has a configuration for offline-kit already",
            hint="edit it, or add what it does not say yet with --force, which changes nothing that it says",
        )
    _check_said(request, place)
    report.step(f"Looking at '{root}'")
    found = _said(_find(root, tomllib.loads(pyproject or ""), place, request), request)
    _check_names(found.settings)
    return _proposal(place, found)


def write(proposal: Proposal) -> None:
    """Write what was proposed; OutsideError where the file cannot be written."""
    if proposal.block:
        # Through a link to the file itself; bytes, so that line ends stay as they are.
        files.write_atomic(proposal.file.resolve(), proposal.text.encode("utf-8"))


def _read(path: Path) -> str | None:
    """Return the text of a TOML file with its line ends as they are; None where there is no such file."""
    try:
        found = path.read_bytes().decode("utf-8")
        tomllib.loads(found)
    except FileNotFoundError:
        return None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"'{path}' is not valid TOML: {error}", hint="mend the line it names") from error
    return found


def _place(root: Path, pyproject: str | None) -> _Place:
    """Return where the configuration is or goes; two of them are an error, as they are for every command."""
    beside = root / "offline-kit.toml"
    own = _read(beside)
    told = tomllib.loads(own or "")
    inside = tomllib.loads(pyproject or "").get("tool", {}).get("offline-kit")
    if told and inside is not None:
        raise UsageError(
            f"'{root}' has both offline-kit.toml and [tool.offline-kit] in pyproject.toml",
            hint="keep one of the two, so that it is clear which one counts",
        )
    if pyproject is None or told:
        nested = "offline-kit" in told.get("tool", {})
        table = told["tool"]["offline-kit"] if nested else told or None
        return _Place(file=beside, old=own or "", table=table, nested=nested)
    return _Place(file=root / "pyproject.toml", old=pyproject, table=inside, nested=True)


def _check_said(request: Request, place: _Place) -> None:
    """Raise where the person says now what the file says otherwise: it is not changed."""
    for key, said in (("competition", request.competition), ("dataset", request.dataset)):
        there = (place.table or {}).get(key, said)
        if said and there != said:
            raise UsageError(
                f"'{place.file}' says {key} = {there!r}, and --{key} says '{said}'",
                hint="change it in the file: --force only adds what is not there",
            )


def _find(root: Path, pyproject: Mapping[str, Any], place: _Place, request: Request) -> Findings:
    seen = file_tree.scan(root)
    trained = checkpoint_patterns.choose(seen)
    refer = template_choice.Refer(
        seen,
        packaged=requirements.is_package(seen, pyproject),
        table="[tool.offline-kit.notebook]" if place.nested else "[notebook]",
    )
    about = contest.find(seen)
    slugs = [one.value for one in about.settings if one.key == "competition"]
    competition = request.competition or (place.table or {}).get("competition") or slugs[0] or ""
    project = pyproject.get("project", {}).get("name", "")
    hints = (str(competition), " ".join(trained.models), f"{root.name} {project}")
    parts = (
        Findings(settings=_names(root, pyproject), notes=seen.notes),
        about,
        requirements.find(seen, pyproject),
        checkpoint_patterns.find(seen, trained),
        template_choice.find(project_code.find(seen, hints), trained.kinds, refer),
    )
    settings = sorted((one for part in parts for one in part.settings), key=lambda one: ORDER.index(one.key))
    return Findings(settings=tuple(settings), notes=tuple(note for part in parts for note in part.notes))


def _names(root: Path, pyproject: Mapping[str, Any]) -> tuple[Setting, Setting]:
    name = str(pyproject.get("project", {}).get("name") or root.name)
    return (
        Setting(
            key="dataset", value=dataset_slug(name), why="private, and yours: whoever pushes is its owner"
        ),
        Setting(
            key="image",
            value=images.default_for("none"),
            why='the newest that this version knows; for a GPU: accelerator = "NvidiaTeslaT4" in its place',
        ),
    )


def _said(found: Findings, request: Request) -> Findings:
    """Lay what the person said over what was found."""
    flags = {"competition": request.competition, "dataset": request.dataset}
    settings = tuple(
        replace(one, value=flags[one.key], why="", more=()) if flags.get(one.key) else one
        for one in found.settings
    )
    return replace(found, settings=settings)


def _check_names(settings: Iterable[Setting]) -> None:
    said = {one.key: str(one.value) for one in settings if one.value is not None}
    dataset = said.get("dataset", "").rpartition("/")[2]
    split = [f"{dataset}-checkpoints"] if said.get("parts") == "split" else []
    slugs = [slug for slug in (said.get("competition"), dataset, *split) if slug]
    problems = [line for slug in slugs for line in slug_problems(slug)]
    if problems:
        raise UsageError(
            problems[0],
            hint="a slug is the last part of an address on Kaggle; --competition and --dataset take one",
            details=problems[1:],
        )


def _proposal(place: _Place, found: Findings) -> Proposal:
    if place.table is None:
        return Proposal(
            file=place.file,
            text=text.begun(place.old, found.settings, nested=place.nested, where=str(place.file)),
            block=text.block(found.settings, nested=place.nested),
            settings=found.settings,
            kept=(),
            notes=found.notes,
        )
    notebook = place.table.get("notebook", {})
    fresh = [one for one in found.settings if one.key not in (notebook if one.notebook else place.table)]
    # what is told in a comment only was told when the file was made
    fresh = [one for one in fresh if one.value is not None and not _would_change(one, place.table)]
    kept = [one.key for one in found.settings if one.key in (notebook if one.notebook else place.table)]
    return Proposal(
        file=place.file,
        text=text.extended(place.old, fresh, nested=place.nested, where=str(place.file)),
        block=text.block(fresh, nested=place.nested),
        settings=tuple(fresh),
        kept=tuple(kept),
        notes=found.notes,
    )


def _would_change(one: Setting, table: Mapping[str, Any]) -> bool:
    """Whether adding a key gives another meaning to what is said already."""
    if one.key in ("image", "parts"):
        # an accelerator chooses its own image, and what was pushed as one dataset would become three
        return one.key == "parts" or "accelerator" in table
    if one.notebook:
        return bool(
            {"template", "task", "models", "source", "model", "data", "function"}
            & set(table.get("notebook", {}))
        )
    if one.key == "preprocessing":
        return "checkpoints" in table
    if one.key in ("packages", "modules"):
        return bool({"packages", "modules"} & set(table))
    return False
