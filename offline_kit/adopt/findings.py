"""What a notebook needs from outside, what became of each need, and all that was collected on the way."""

from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from offline_kit.core.redaction import redact_secrets


class NeedKind(StrEnum):
    """What a line of a notebook needs from the internet, or from a folder that has moved."""

    INSTALL = "install"
    """Installs packages."""
    IMPORT = "import"
    """Imports what the image lacks."""
    CLONE = "clone"
    """Clones a repository."""
    DOWNLOAD = "download"
    """Downloads a file."""
    KAGGLE = "kaggle"
    """Downloads a dataset, model, notebook output or competition from Kaggle."""
    HUB = "hub"
    """Loads a model or tokenizer by its id on a hub."""
    PRETRAINED = "pretrained"
    """Builds a model with pretrained weights."""
    CORPUS = "corpus"
    """Downloads data of NLTK or spaCy."""
    FILE = "file"
    """Reads a file next to the notebook."""
    MOUNT = "mount"
    """Reads below /kaggle/input."""
    SYSTEM = "system"
    """Installs system packages."""
    ACCOUNT = "account"
    """Logs in, or contains a credential."""
    MAGIC = "magic"
    """Uses a magic that the image's IPython cannot run."""
    UNREAD = "unread"
    """Could not be parsed."""
    SETTING = "setting"
    """Is set in the notebook's metadata."""


class FindingResolution(StrEnum):
    """How a need is met offline. The values are part of the JSON output."""

    REQUIREMENT = "requirement"
    CHECKPOINT = "checkpoint"
    MODULE = "module"
    SOURCE = "source"
    SWITCHED_OFF = "switched off"
    SERVED = "served"
    REWRITTEN = "rewritten"
    """Replaced by code with the same effect."""
    UNCHANGED = "kept"
    """Works offline as it is."""
    UNRESOLVED = "asked"
    """Fails offline or must not be pushed: needs a manual fix."""


@dataclass(frozen=True, kw_only=True)
class NotebookCell:
    """One cell of the notebook."""

    number: int
    """Position in the notebook, from 1."""
    kind: str
    """"code", "markdown" or "raw"."""
    source: str
    node: dict[str, Any] = field(default_factory=dict)
    """Its other keys: id, metadata, attachments."""


ARGUMENT = "argument"
"""Detail of a need that is one argument of a command that does more than download it."""


@dataclass(frozen=True, kw_only=True)
class ExternalNeed:
    """Something that a line needs from outside, not yet decided on."""

    kind: NeedKind
    cell: int
    line: int
    text: str
    target: str = ""
    """What is downloaded or read: requirement, URL, hub id, slug, path."""
    destination: str = ""
    """File or folder that it is stored in, as written in the notebook; empty if not stated."""
    detail: str = ""
    """Depends on the kind: "dataset", "model", ... for Kaggle, pip's verb, the variable of a model."""
    start: int = -1
    """Offset in the cell's text of what can be replaced; -1 if nothing can."""
    end: int = -1
    stand_in: str = ""
    """Its replacement."""
    is_statement: bool = False
    """Whether the replaced text is a whole statement."""


@dataclass(frozen=True, kw_only=True)
class ResolvedNeed:
    """A need and how it is met."""

    kind: NeedKind
    cell: int
    """Number of the cell, from 1; 0 for the notebook's metadata."""
    line: int
    text: str
    """The line, shortened and without secrets."""
    resolution: FindingResolution
    value: str = ""
    """The requirement, checkpoint, source, ... that meets it."""
    remedy: str = ""
    """What is left to do by hand."""
    source: str = ""
    """The metadata that contains it, if no cell does."""

    @property
    def position(self) -> str:
        """Cell and line, or the metadata, for messages."""
        return f"cell {self.cell}, line {self.line}" if self.cell else self.source


@dataclass(frozen=True, kw_only=True)
class CellEdit:
    """One replacement in a cell's text."""

    cell: int
    start: int
    end: int
    text: str


@dataclass(frozen=True, kw_only=True)
class AttachedSources:
    """What is attached to the notebook on Kaggle."""

    competitions: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    """"owner/slug", as in `notebooks`."""
    notebooks: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    """"owner/model/framework/variation/version"."""

    def by_kind(self) -> dict[str, tuple[str, ...]]:
        """Return the names by kind: "competition", "dataset", "notebook", "model"."""
        return {
            "competition": self.competitions,
            "dataset": self.datasets,
            "notebook": self.notebooks,
            "model": self.models,
        }

    def add(self, kind: str, *names: str) -> "AttachedSources":
        """Return the sources with these names of a kind after the existing ones."""
        merged = tuple(dict.fromkeys((*self.by_kind()[kind], *names)))
        return replace(self, **{f"{kind}s": merged})


@dataclass(frozen=True, kw_only=True)
class Adoption:
    """An inspected notebook and everything that it needs offline."""

    notebook: Path
    cells: tuple[NotebookCell, ...]
    changed: tuple[str, ...]
    """The text of every cell after adoption."""
    resolved: tuple[ResolvedNeed, ...]
    """In the notebook's order."""
    requirements: tuple[str, ...] = ()
    """Lines of a requirements file."""
    requirement_files: tuple[str, ...] = ()
    """Requirements files that the notebook installs. These and the following paths are relative to the project."""
    packages: tuple[str, ...] = ()
    """Folders that it installs as packages."""
    checkpoints: tuple[str, ...] = ()
    """Files and folders that it reads."""
    modules: tuple[str, ...] = ()
    """Modules and folders that it imports."""
    served: tuple[tuple[str, str], ...] = ()
    """Pairs of a path in the adopted notebook and the project's file or folder that is found there."""
    laid_out: tuple[tuple[str, str], ...] = ()
    """Pairs of a path that a disabled line would have created, relative to the working folder or absolute, and the
    project's file or folder that is placed there; "" for an empty folder."""
    sources: AttachedSources = field(default_factory=AttachedSources)
    accelerator: str = ""
    """The accelerator in its metadata; empty for none."""
    accelerator_source: str = ""
    """The metadata that names it."""

    @property
    def unresolved(self) -> tuple[ResolvedNeed, ...]:
        """The needs that require a manual fix."""
        return tuple(need for need in self.resolved if need.resolution is FindingResolution.UNRESOLVED)


_MAX_TEXT = 120
"""Characters of a line in a report."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """How one need is met."""

    resolved: ResolvedNeed
    switches_off: bool = False
    """Whether its line can be disabled, because what it downloads is available."""
    stand_in: str | None = None
    """The replacement, if it differs from that of the need."""


@dataclass
class Collected:
    """Everything that the needs decided so far have in common; dictionaries as ordered sets."""

    requirements: dict[str, None] = field(default_factory=dict)
    files: dict[str, None] = field(default_factory=dict)
    packages: dict[str, None] = field(default_factory=dict)
    checkpoints: dict[str, None] = field(default_factory=dict)
    modules: dict[str, None] = field(default_factory=dict)
    served: dict[str, str] = field(default_factory=dict)
    laid_out: dict[str, str] = field(default_factory=dict)
    """Path that a disabled line would have created: the project's file or folder that is placed there."""
    clones: dict[str, str] = field(default_factory=dict)
    """Folder of a clone: the requirement that installs it."""
    indexes: dict[str, None] = field(default_factory=dict)
    """Lines of a requirements file that name further indexes."""
    sources: AttachedSources = field(default_factory=AttachedSources)

    def serve_file(self, path: str, name: str) -> None:
        """Ship a file or folder of the project, and serve it at a path of the notebook."""
        self.checkpoints[name] = None
        self.served[path.removeprefix("./")] = name

    def add_source(self, kind: str, name: str) -> None:
        """Attach a source."""
        self.sources = self.sources.add(kind, name)


def resolve_need(
    need: ExternalNeed, resolution: FindingResolution, value: str = "", remedy: str = ""
) -> ResolvedNeed:
    """Return a resolved need; it is shown and pushed, so secrets are redacted."""
    text = " ".join(redact_secrets(need.text).split())
    return ResolvedNeed(
        kind=need.kind,
        cell=need.cell,
        line=need.line,
        text=text if len(text) <= _MAX_TEXT else f"{text[: _MAX_TEXT - 1]}…",
        resolution=resolution,
        value=redact_secrets(value),
        remedy=redact_secrets(remedy),
    )


def meet_need(
    need: ExternalNeed,
    resolution: FindingResolution,
    value: str,
    remedy: str = "",
    *,
    switches_off: bool = True,
    stand_in: str | None = None,
) -> Decision:
    """Return the decision that a need is met, by default with its line disabled."""
    resolved = resolve_need(need, resolution, value, remedy)
    return Decision(resolved=resolved, switches_off=switches_off, stand_in=stand_in)


def leave_unresolved(need: ExternalNeed, remedy: str, value: str = "") -> Decision:
    """Return the decision that a line stays as it is and needs a manual fix."""
    return Decision(resolved=resolve_need(need, FindingResolution.UNRESOLVED, value or need.target, remedy))
