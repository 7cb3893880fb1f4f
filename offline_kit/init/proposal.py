"""What was found in a project, as lines of its configuration."""

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One key of the configuration, found or not."""

    key: str
    """Its name in [tool.offline-kit], or in [tool.offline-kit.notebook]."""
    value: object = None
    """What was found; None for nothing, which becomes a commented line."""
    example: object = ""
    """What stands in the commented line."""
    reason: str = ""
    """Where it comes from, or what it is for, in a few words."""
    comments: tuple[str, ...] = ()
    """Further lines of comment: what was left out."""
    notebook: bool = False
    """Whether it belongs into the notebook's table."""
    needed_for: str = ""
    """What cannot be done without it, where it was not found and the person must say it."""


@dataclass(frozen=True, kw_only=True)
class DetectedSettings:
    """Settings, and what the person should know."""

    settings: tuple[Setting, ...] = ()
    """In the order in which they are written."""
    notes: tuple[str, ...] = field(default=())
    """Sentences for the person that stand in no file."""
