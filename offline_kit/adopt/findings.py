"""What a notebook needs from outside, what became of each need, and all that was collected on the way."""

from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from offline_kit.core.redaction import redact_secrets


class NeedKind(StrEnum):
    """What a line of a notebook asks of the internet, or of a folder that is elsewhere now."""

    INSTALL = "install"
    """Installs packages."""
    IMPORT = "import"
    """Imports what the image lacks."""
    CLONE = "clone"
    """Copies a repository."""
    DOWNLOAD = "download"
    """Fetches a file."""
    KAGGLE = "kaggle"
    """Fetches a dataset, model, notebook output or competition of Kaggle's."""
    HUB = "hub"
    """Loads a model or tokenizer of a hub by its id."""
    PRETRAINED = "pretrained"
    """Builds a model with weights that are fetched."""
    CORPUS = "corpus"
    """Fetches data of NLTK or spaCy."""
    FILE = "file"
    """Reads a file that lies with the notebook."""
    MOUNT = "mount"
    """Reads below /kaggle/input."""
    SYSTEM = "system"
    """Installs programs of the system."""
    ACCOUNT = "account"
    """Logs in somewhere, or holds what one logs in with."""
    MAGIC = "magic"
    """Is written in a way that the image's IPython does not read."""
    UNREAD = "unread"
    """Could not be read here."""
    SETTING = "setting"
    """Stands in the notebook's metadata."""


class Resolution(StrEnum):
    """What a found thing became."""

    REQUIREMENT = "requirement"
    CHECKPOINT = "checkpoint"
    MODULE = "module"
    SOURCE = "source"
    SWITCHED_OFF = "switched off"
    SERVED = "served"
    REWRITTEN = "rewritten"
    """Says the same in other words."""
    UNCHANGED = "kept"
    """Stays as it is and does no harm."""
    UNRESOLVED = "asked"
    """Stays as it is and fails offline, or must not be pushed: the person has to do something."""


@dataclass(frozen=True, kw_only=True)
class NotebookCell:
    """One cell of the notebook."""

    number: int
    """Its place in the notebook, from 1."""
    kind: str
    """"code", "markdown" or "raw"."""
    source: str
    """Its text, to the letter."""
    node: dict[str, Any] = field(default_factory=dict)
    """What else it holds: id, metadata, attachments."""


ARGUMENT = "argument"
"""Detail of a need that is one word of a command, which does more than fetch it."""


@dataclass(frozen=True, kw_only=True)
class ExternalNeed:
    """Something that a line wants from outside, before anybody decided what becomes of it."""

    kind: NeedKind
    """What it asks for."""
    cell: int
    """Number of the cell."""
    line: int
    """Line of the cell, from 1."""
    text: str
    """The line or the command as it stands."""
    target: str = ""
    """What is fetched: requirement, address, hub id, slug, path."""
    destination: str = ""
    """Where it goes: a file or folder, as the notebook calls it; empty where nobody says."""
    detail: str = ""
    """More about it: "dataset", "model", "competition", "notebook"; or the argument to change."""
    start: int = -1
    """Where in the cell's text stands what can be taken out; -1 where nothing can."""
    end: int = -1
    """Where that ends."""
    stand_in: str = ""
    """What may stand there instead."""
    is_statement: bool = False
    """Whether the place is one whole statement."""


@dataclass(frozen=True, kw_only=True)
class ResolvedNeed:
    """A need, and what became of it."""

    kind: NeedKind
    """What was asked for."""
    cell: int
    """Number of the cell; 0 for the notebook's metadata."""
    line: int
    """Line of the cell, from 1."""
    text: str
    """The line as it stands, shortened."""
    resolution: Resolution
    """What became of it."""
    value: str = ""
    """The requirement, the checkpoint, the source, ..."""
    remedy: str = ""
    """What the person has to do, where anything is left to do."""
    source: str = ""
    """The metadata that it stands in, where it stands in no cell."""

    @property
    def position(self) -> str:
        """Where it stands, for a person."""
        return f"cell {self.cell}, line {self.line}" if self.cell else self.source


@dataclass(frozen=True, kw_only=True)
class CellEdit:
    """One change of a cell's text."""

    cell: int
    """Number of the cell."""
    start: int
    """Where it begins."""
    end: int
    """Where it ends."""
    text: str
    """What stands there afterwards."""


@dataclass(frozen=True, kw_only=True)
class AttachedSources:
    """What is attached to the notebook on Kaggle."""

    competitions: tuple[str, ...] = ()
    """Slugs."""
    datasets: tuple[str, ...] = ()
    """"owner/slug"."""
    notebooks: tuple[str, ...] = ()
    """"owner/slug"."""
    models: tuple[str, ...] = ()
    """"owner/model/framework/variation/version"."""


@dataclass(frozen=True, kw_only=True)
class Adoption:
    """A notebook that was looked through, and all that follows from it."""

    notebook: Path
    """The notebook."""
    cells: tuple[NotebookCell, ...]
    """Its cells as they are."""
    changed: tuple[str, ...]
    """The text of every cell in the adopted notebook."""
    resolved: tuple[ResolvedNeed, ...]
    """All that was found, in the order of the notebook."""
    requirements: tuple[str, ...] = ()
    """Lines of a requirements file, in the notebook's order."""
    requirement_files: tuple[str, ...] = ()
    """Requirements files that the notebook installs, relative to the project."""
    packages: tuple[str, ...] = ()
    """Folders that it installs as packages, relative to the project."""
    checkpoints: tuple[str, ...] = ()
    """Files and folders of the project that have to travel."""
    modules: tuple[str, ...] = ()
    """Its own modules beside the notebook."""
    served: tuple[tuple[str, str], ...] = ()
    """Pairs: path in the adopted notebook, and the project's file or folder that is to be found there."""
    laid_out: tuple[tuple[str, str], ...] = ()
    """Pairs: what a line would have fetched into the working folder (or elsewhere, where the path is absolute), and
    the project's file or folder that is laid there; "" for an empty folder."""
    sources: AttachedSources = field(default_factory=AttachedSources)
    """What has to be attached."""
    accelerator: str = ""
    """The accelerator that its metadata asks for; empty for none."""
    accelerator_source: str = ""
    """The metadata that says so."""

    @property
    def unresolved(self) -> tuple[ResolvedNeed, ...]:
        """What the person has to do something about."""
        return tuple(need for need in self.resolved if need.resolution is Resolution.UNRESOLVED)


_MAX_TEXT = 120


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What becomes of one need."""

    resolved: ResolvedNeed
    """For the person."""
    switches_off: bool = False
    """Whether its line can be switched off: what it fetches is there."""
    stand_in: str | None = None
    """What is written in its place, where the need does not say it."""


@dataclass
class Collected:
    """What was gathered so far, in the notebook's order."""

    requirements: dict[str, None] = field(default_factory=dict)
    files: dict[str, None] = field(default_factory=dict)
    packages: dict[str, None] = field(default_factory=dict)
    checkpoints: dict[str, None] = field(default_factory=dict)
    modules: dict[str, None] = field(default_factory=dict)
    served: dict[str, str] = field(default_factory=dict)
    laid_out: dict[str, str] = field(default_factory=dict)
    """What lines that are switched off would have made, and the project's file or folder that is laid there."""
    clones: dict[str, str] = field(default_factory=dict)
    """Folder of each clone: the line that installs it."""
    indexes: dict[str, None] = field(default_factory=dict)
    """Lines of a requirements file that name other indexes."""
    sources: AttachedSources = field(default_factory=AttachedSources)

    def serve_file(self, path: str, name: str) -> None:
        """Ship a file or folder of the project, and serve it at a path of the notebook."""
        self.checkpoints[name] = None
        self.served[path.removeprefix("./")] = name

    def add_source(self, kind: str, name: str) -> None:
        """Add a source."""
        key = {
            "competition": "competitions",
            "dataset": "datasets",
            "notebook": "notebooks",
            "model": "models",
        }[kind]
        names = getattr(self.sources, key)
        self.sources = replace(self.sources, **{key: tuple(dict.fromkeys((*names, name)))})


def resolve_need(need: ExternalNeed, became: Resolution, value: str = "", remedy: str = "") -> ResolvedNeed:
    """Return what is told of a need; on screens, in logs and in the notebook: tokens and passwords are left out."""
    text = " ".join(redact_secrets(need.text).split())
    return ResolvedNeed(
        kind=need.kind,
        cell=need.cell,
        line=need.line,
        text=text if len(text) <= _MAX_TEXT else f"{text[: _MAX_TEXT - 1]}…",
        resolution=became,
        value=redact_secrets(value),
        remedy=redact_secrets(remedy),
    )


def leave_unresolved(need: ExternalNeed, remedy: str, value: str = "") -> Decision:
    """Return the decision that a line stays as it is, and what the person has to do about it."""
    return Decision(resolved=resolve_need(need, Resolution.UNRESOLVED, value or need.target, remedy))
