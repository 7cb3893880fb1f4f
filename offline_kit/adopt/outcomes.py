"""What becomes of a wish, and what is gathered on the way."""

from dataclasses import dataclass, field, replace
from pathlib import Path

from offline_kit.adopt.file_places import Ground
from offline_kit.adopt.findings import Became, Found, Sources, Wish
from offline_kit.core.redaction import redact_secrets

_SHORT = 120


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What becomes of one wish."""

    found: Found
    """For the person."""
    off: bool = False
    """Whether its line can be switched off: what it fetches is there."""
    stand_in: str | None = None
    """What is written in its place, where the wish does not say it."""


@dataclass
class Basket:
    """What was gathered so far, in the notebook's order."""

    requirements: dict[str, None] = field(default_factory=dict)
    files: dict[str, None] = field(default_factory=dict)
    packages: dict[str, None] = field(default_factory=dict)
    checkpoints: dict[str, None] = field(default_factory=dict)
    modules: dict[str, None] = field(default_factory=dict)
    served: dict[str, str] = field(default_factory=dict)
    made: dict[str, str] = field(default_factory=dict)
    """What lines that are switched off would have made, and the project's file or folder that is laid there."""
    clones: dict[str, str] = field(default_factory=dict)
    """Folder of each clone: the line that installs it."""
    indexes: dict[str, None] = field(default_factory=dict)
    """Lines of a requirements file that name other indexes."""
    sources: Sources = field(default_factory=Sources)

    def attach(self, kind: str, name: str) -> None:
        """Add a source."""
        key = {
            "competition": "competitions",
            "dataset": "datasets",
            "notebook": "notebooks",
            "model": "models",
        }[kind]
        there = getattr(self.sources, key)
        self.sources = replace(self.sources, **{key: tuple(dict.fromkeys((*there, name)))})


def found_of(wish: Wish, became: Became, value: str = "", remedy: str = "") -> Found:
    """Return what is told of a wish; on screens, in logs and in the notebook: tokens and passwords are left out."""
    text = " ".join(redact_secrets(wish.text).split())
    return Found(
        kind=wish.kind,
        cell=wish.cell,
        line=wish.line,
        text=text if len(text) <= _SHORT else f"{text[: _SHORT - 1]}…",
        became=became,
        value=redact_secrets(value),
        remedy=redact_secrets(remedy),
    )


def asked(wish: Wish, remedy: str, value: str = "") -> Verdict:
    """Return the verdict that a line stays as it is, and what the person has to do about it."""
    return Verdict(found=found_of(wish, Became.ASKED, value or wish.target, remedy))


def serve(path: str, file: Path, ground: Ground, basket: Basket) -> None:
    """Have a file or folder of the project travel, and be found at a path of the notebook's."""
    name = ground.name(file)
    basket.checkpoints[name] = None
    basket.served[path.removeprefix("./")] = name
