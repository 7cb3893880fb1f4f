"""The records of an adoption: what a notebook needs from outside, how each need is met, and the result."""

from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from offline_kit.core.redaction import redact_secrets


class NeedKind(StrEnum):
    """What a line of a notebook needs from the internet, or from a folder that has moved."""

    INSTALL = "install"
    IMPORT = "import"  # of what the image lacks
    CLONE = "clone"
    DOWNLOAD = "download"  # a file, by its URL
    KAGGLE = "kaggle"  # a dataset, model, notebook output or competition, by Kaggle's client
    HUB = "hub"  # a model, tokenizer or dataset, by its id
    PRETRAINED = "pretrained"  # weights that an argument asks for
    CORPUS = "corpus"  # data of NLTK, a model of spaCy
    FILE = "file"  # a file next to the notebook
    MOUNT = "mount"  # a path below /kaggle/input
    SYSTEM = "system"  # system packages
    ACCOUNT = "account"  # a login, or a credential in the cell
    MAGIC = "magic"  # a magic that the image's IPython cannot run
    UNREAD = "unread"  # a cell that cannot be parsed
    SETTING = "setting"  # in the notebook's metadata


class Outcome(StrEnum):
    """How a need is met offline. The values are part of the JSON output."""

    REQUIREMENT = "requirement"
    CHECKPOINT = "checkpoint"
    MODULE = "module"
    SOURCE = "source"
    SWITCHED_OFF = "switched off"
    SERVED = "served"
    REWRITTEN = "rewritten"  # replaced by code with the same effect
    UNCHANGED = "kept"  # works offline as it is
    UNRESOLVED = "asked"  # fails offline or must not be pushed: needs a manual fix


@dataclass(frozen=True, kw_only=True)
class NotebookCell:
    """One cell of the notebook."""

    number: int  # from 1
    kind: str  # "code", "markdown" or "raw"
    source: str
    node: dict[str, Any] = field(default_factory=dict)  # its other keys: id, metadata, attachments


_RECORD = "record a run (`adopt --record`)"
_MAX_TEXT = 120  # characters of a line in a report


@dataclass(frozen=True, kw_only=True)
class ExternalNeed:
    """Something that a line needs from outside and, once decided, how it is met. Equal needs look the same."""

    kind: NeedKind
    cell: int  # from 1; 0 for the notebook's metadata
    line: int
    text: str
    target: str = ""
    """What is downloaded or read: requirement, URL, hub id, slug, path; dropped once decided, it may hold a secret."""
    destination: str = field(default="", compare=False)
    """File or folder that it is stored in, as written in the notebook; empty if not stated."""
    folder: str = field(default="", compare=False)  # that the line runs in, as from `join_run_path`
    detail: str = field(default="", compare=False)
    """Depends on the kind: "dataset", "model", ... for Kaggle, pip's verb, the branch of a clone."""
    span: tuple[int, int] | None = field(default=None, compare=False)
    """Offsets in the cell's text of what the stand-in can replace; None if nothing can be replaced."""
    stand_in: str = field(default="", compare=False)
    statement: tuple[int, int] | None = field(default=None, compare=False)
    """Offsets of the statement or shell line that does nothing else, and becomes a comment."""
    resolution: Outcome = Outcome.UNRESOLVED
    value: str = ""  # the requirement, checkpoint, source, ... that meets it.
    remedy: str = ""
    switches_off: bool = field(default=False, compare=False)
    """Whether its line can be disabled, because what it downloads is available."""
    is_recordable: bool = False  # whether it is open and a recording would settle it
    source: str = ""  # the metadata that contains it, if no cell does
    in_script: bool = False

    @property
    def position(self) -> str:
        """Cell and line, or the metadata, for messages."""
        if self.cell and self.in_script:
            return f"line {self.line}"
        return f"cell {self.cell}, line {self.line}" if self.cell else self.source

    def resolve(self, resolution: Outcome, value: str = "", remedy: str = "") -> "ExternalNeed":
        """Return the need as decided, its line kept; it is shown and pushed, so secrets are redacted."""
        text = " ".join(redact_secrets(self.text).split())
        return replace(
            self,
            text=text if len(text) <= _MAX_TEXT else f"{text[: _MAX_TEXT - 1]}…",
            target="",
            resolution=resolution,
            value=redact_secrets(value),
            remedy=redact_secrets(remedy),
        )

    def meet(
        self, resolution: Outcome, value: str, remedy: str = "", *, stand_in: str = ""
    ) -> "ExternalNeed":
        """Return the need as met, its line to be disabled or replaced."""
        met = self.resolve(resolution, value, remedy)
        return replace(met, switches_off=True, stand_in=stand_in or self.stand_in)

    def ask(self, remedy: str, value: str = "") -> "ExternalNeed":
        """Return the need as left to the person; its line stays as it is."""
        return self.resolve(Outcome.UNRESOLVED, value or self.target, remedy)

    def ask_to_record(self, alternative: str = "") -> "ExternalNeed":
        """Return the need as left to a recording, or to what the person can do instead."""
        remedy = f"{alternative}, or {_RECORD}" if alternative else _RECORD
        return replace(self.ask(remedy), is_recordable=True)


@dataclass(frozen=True, kw_only=True)
class CellEdit:
    """One replacement in a cell's text."""

    cell: int
    span: tuple[int, int]
    text: str


@dataclass(frozen=True, kw_only=True)
class AttachedSources:
    """What is attached to the notebook on Kaggle: "slug", "owner/slug", "owner/model/framework/variation/version"."""

    competitions: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    notebooks: tuple[str, ...] = ()
    models: tuple[str, ...] = ()

    def by_kind(self) -> dict[str, tuple[str, ...]]:
        """Return the names by kind: "competition", "dataset", "notebook", "model"."""
        return {item.name.removesuffix("s"): getattr(self, item.name) for item in fields(self)}

    def add(self, kind: str, *names: str) -> "AttachedSources":
        """Return the sources with these names of a kind after the existing ones."""
        merged = tuple(dict.fromkeys((*self.by_kind()[kind], *names)))
        return replace(self, **{f"{kind}s": merged})


@dataclass(frozen=True, kw_only=True)
class Adoption:
    """An inspected notebook and everything that it needs offline; paths are relative to the project."""

    notebook: Path
    cells: tuple[NotebookCell, ...]
    changed: tuple[str, ...]  # the text of every cell after adoption
    resolved: tuple[ExternalNeed, ...]  # in the notebook's order
    requirements: tuple[str, ...] = ()  # lines of a requirements file
    requirement_files: tuple[str, ...] = ()
    needs_own_requirements: bool = False  # whether it imports what only the project's requirements provide
    packages: tuple[str, ...] = ()  # folders that it installs as packages
    checkpoints: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    served: tuple[tuple[str, str], ...] = ()
    """Pairs of a path below the inputs ("input/...") and the project's file or folder that is shown there."""
    laid_out: tuple[tuple[str, str], ...] = ()
    """Pairs of a path relative to the working folder, and the project's file or folder that is placed there."""
    sources: AttachedSources = field(default_factory=AttachedSources)
    accelerator: str = ""
    accelerator_source: str = ""  # the metadata that names it

    @property
    def is_script(self) -> bool:
        """Whether it is a script, which has one cell and stays a script."""
        return self.notebook.suffix == ".py"

    @property
    def unresolved(self) -> tuple[ExternalNeed, ...]:
        """The needs that require a manual fix."""
        return tuple(need for need in self.resolved if need.resolution is Outcome.UNRESOLVED)

    @property
    def recordable(self) -> tuple[ExternalNeed, ...]:
        """Those of them that a recording would settle."""
        return tuple(need for need in self.unresolved if need.is_recordable)
