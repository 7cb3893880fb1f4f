"""What becomes of a wish, and what is gathered on the way."""

from dataclasses import dataclass, field, replace
from pathlib import Path

from offline_kit.adopt.file_places import NotebookFiles
from offline_kit.adopt.findings import AttachedSources, ExternalNeed, Resolution, ResolvedNeed
from offline_kit.core.redaction import redact_secrets

_MAX_TEXT = 120


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What becomes of one wish."""

    resolved: ResolvedNeed
    """For the person."""
    switches_off: bool = False
    """Whether its line can be switched off: what it fetches is there."""
    stand_in: str | None = None
    """What is written in its place, where the wish does not say it."""


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


def resolve_need(wish: ExternalNeed, became: Resolution, value: str = "", remedy: str = "") -> ResolvedNeed:
    """Return what is told of a wish; on screens, in logs and in the notebook: tokens and passwords are left out."""
    text = " ".join(redact_secrets(wish.text).split())
    return ResolvedNeed(
        kind=wish.kind,
        cell=wish.cell,
        line=wish.line,
        text=text if len(text) <= _MAX_TEXT else f"{text[: _MAX_TEXT - 1]}…",
        resolution=became,
        value=redact_secrets(value),
        remedy=redact_secrets(remedy),
    )


def leave_unresolved(wish: ExternalNeed, remedy: str, value: str = "") -> Decision:
    """Return the verdict that a line stays as it is, and what the person has to do about it."""
    return Decision(resolved=resolve_need(wish, Resolution.UNRESOLVED, value or wish.target, remedy))


def serve_file(path: str, file: Path, ground: NotebookFiles, basket: Collected) -> None:
    """Have a file or folder of the project travel, and be found at a path of the notebook's."""
    name = ground.relative_name(file)
    basket.checkpoints[name] = None
    basket.served[path.removeprefix("./")] = name
