"""Adapt the commands and tables named in messages to the Kaggle and the project of the running command.

Messages name commands and tables in their full form, `'offline-kit push'` and `[tool.offline-kit.notebook]`;
the console passes every message through here before it prints it.
"""

import re
import shlex
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from offline_kit.kaggle.push.poll_policy import KaggleTiming

_TO = re.compile(r"'offline-kit (push|submit|ship|verify)\b(?![^']*--to )")
_ABOUT = re.compile(
    r"'offline-kit (?:build|doctor|init|notebook|push|rehearse|ship|status|submit|verify)\b[^'\n]*(?=')"
)
_ON = re.compile(r"('offline-kit [^']*--on )kaggle\b")
_TABLE = re.compile(r"\[tool\.offline-kit\.([\w.-]+)\]")
_TOLD = frozenset({"error", "hint", "details", "what", "remedy", "notes", "problem", "problems", "newer"})
"""Keys of a JSON object whose values are messages; all others are data."""


class CommandWording:
    """The names that one command's messages use; updated while the command parses its options."""

    def __init__(self, *, local: bool = False, at: str = "", on_top: bool = False, project: str = "") -> None:
        """`local` as --to local, `at` as --at; `on_top` for tables at the top of an offline-kit.toml.

        `project` as it was typed; empty if commands without it mean the same project.
        """
        self.local = local
        self.at = at
        self.on_top = on_top
        self.project = project

    def __call__(self, text: str) -> str:
        """Return a message with the commands and tables of this project."""
        if self.local:
            target = f"--to local --at {self.at}" if self.at else "--to local"
            text = _TO.sub(lambda found: f"{found[0]} {target}", text)
            text = _ON.sub(r"\1local", text)
        if self.project:
            plain = shlex.quote(self.project) == self.project
            quoted_project = (
                self.project if plain else f'"{self.project}"'
            )  # the command stands in single quotes
            text = _ABOUT.sub(lambda found: f"{found[0]} {quoted_project}", text)
        if self.on_top:
            text = _TABLE.sub(r"[\1]", text).replace("[tool.offline-kit]", "offline-kit.toml")
        return text

    def word_value(self, value: Any, *, is_message: bool = False) -> Any:
        """Return data for a script with its messages adapted, and nothing else changed."""
        if isinstance(value, str):
            return self(value) if is_message else value
        if isinstance(value, dict):
            return {
                name: self.word_value(item, is_message=is_message or name in _TOLD)
                for name, item in value.items()
            }
        if isinstance(value, list | tuple):
            return [self.word_value(item, is_message=is_message) for item in value]
        return value


@dataclass(frozen=True)
class CommandContext:
    """What `main` hands to the command that it runs, as click's context object."""

    wording: CommandWording = field(default_factory=CommandWording)
    timing: "KaggleTiming | None" = None
    """None is the usual one."""
