"""The file with a project's configuration, and settings that are added to it while its other bytes stay the same."""

import json
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import tomlkit
import tomlkit.items

from offline_kit.core.errors import UsageError
from offline_kit.project.config import find_own_table

LINE_WIDTH = 110  # largest length of a line; longer comments go above their key
_MAIN = ("tool", "offline-kit")


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One key of the configuration, detected or not."""

    key: str
    value: object = None  # None becomes a commented line with the example
    example: object = ""
    reason: str = ""  # its source or purpose, in a few words
    comments: tuple[str, ...] = ()  # further lines
    notebook: bool = False  # whether it belongs into the notebook's table
    needed_for: str = ""  # what fails without it, if it was not detected and must be set by hand


@dataclass(kw_only=True)
class DetectedSettings:
    """Detected settings, and sentences that go to the screen, not into the file."""

    settings: dict[str, Setting] = field(default_factory=dict)  # by key
    notes: list[str] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)  # text of new files that settings name, by name
    links: dict[str, Path] = field(default_factory=dict)  # targets of new links, by name

    def add(self, *settings: Setting) -> None:
        """Add settings; those of the same keys are replaced."""
        self.settings.update((setting.key, setting) for setting in settings)

    def list_values(self, key: str) -> list[Any]:
        """Return the value of a setting that is a list; [] if it has none."""
        value = self.settings[key].value if key in self.settings else None
        return value if isinstance(value, list) else []

    def change(self, key: str, value: object, reason: str) -> None:
        """Give a setting of the main table another value; an existing comment stays."""
        self.add(replace(self.settings.get(key, Setting(key=key)), value=value, reason=reason))


@dataclass(frozen=True, kw_only=True)
class ConfigFile:
    """The file with the configuration, existing or new."""

    path: Path
    text: str  # empty if the file is new
    table: Mapping[str, Any] | None  # the existing configuration
    nested: bool  # whether the configuration is [tool.offline-kit] instead of the whole file

    def table_of(self, setting: Setting) -> Mapping[str, Any]:
        """Return the existing table that a setting belongs to."""
        table = self.table or {}
        notebook: Mapping[str, Any] = table.get("notebook", {})
        return notebook if setting.notebook else table

    def add(self, settings: Sequence[Setting]) -> str:
        """Return the file's text with these settings, in its tables or in new ones at its end.

        Raises:
            UsageError: The tables cannot be appended to this file; the details are the lines to add.
        """
        if self.table is not None:
            document = tomlkit.parse(self.text)
            for setting in settings:
                table: Any = document
                for name in (*_MAIN * self.nested, *["notebook"] * setting.notebook):
                    is_inline = isinstance(table, tomlkit.items.InlineTable)
                    table = table.setdefault(name, tomlkit.inline_table() if is_inline else tomlkit.table())
                item = tomlkit.value(_format_value(setting.value))
                if setting.reason and not isinstance(table, tomlkit.items.InlineTable):
                    item.comment(_make_printable(setting.reason)).trivia.comment_ws = "  "
                table.append(setting.key, item)
            return self._keep_line_ends(tomlkit.dumps(document))
        text = _append_lines(self.text, format_tables(settings, nested=self.nested))
        try:
            tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:  # `tool = {...}` is closed
            raise UsageError(
                f"'{self.path}' writes [tool] in a form that cannot be extended automatically",
                hint="add the lines above by hand",
                code="configuration-not-extendable",
                details=format_tables(settings, nested=True).splitlines(),
            ) from error
        return self._keep_line_ends(text)

    def _keep_line_ends(self, text: str) -> str:
        return text.replace("\r\n", "\n").replace("\n", "\r\n") if "\r\n" in self.text else text


def locate_config(root: Path) -> ConfigFile:
    """Return the file of a project's configuration: an existing one, else pyproject.toml if there is one.

    Raises:
        UsageError: There are two configurations, or a file is not valid TOML.
    """
    _, table, source = find_own_table(root)
    pyproject = root / "pyproject.toml"
    path = source or (pyproject if pyproject.is_file() else root / "offline-kit.toml")
    text = path.read_bytes().decode("utf-8") if path.is_file() else ""  # with its line ends
    nested = path == pyproject or "offline-kit" in tomllib.loads(text).get("tool", {})
    return ConfigFile(path=path, text=text, table=table if source else None, nested=nested)


def format_tables(settings: Iterable[Setting], *, nested: bool) -> str:
    """Return both tables for pyproject.toml (`nested`) or offline-kit.toml; undetected settings as comments."""
    main, notebook = list[str](), list[str]()
    for setting in settings:
        (notebook if setting.notebook else main).extend(_format_setting(setting))
    headers = ("[tool.offline-kit]", "[tool.offline-kit.notebook]") if nested else ("", "[notebook]")
    tables = [[header, *lines] for header, lines in zip(headers, (main, notebook), strict=True) if lines]
    return "\n".join("\n".join(filter(None, lines)) + "\n" for lines in tables)


def _format_setting(setting: Setting) -> list[str]:
    is_found = setting.value is not None
    pair = f"{setting.key} = {_format_value(setting.value if is_found else setting.example)}"
    line = pair if is_found else f"# {pair}"
    comments = [f"# {_make_printable(text)}" for text in setting.comments]
    reason = _make_printable(setting.reason)
    if not reason:
        return [*comments, line]
    if len(line) + len(reason) + 4 <= LINE_WIDTH:
        return [*comments, f"{line}  # {reason}"]
    return [f"# {reason}", *comments, line]


def _format_value(value: object) -> str:
    if isinstance(value, dict):
        is_bare = re.compile(r"[A-Za-z0-9_-]+").fullmatch
        keys = [key if is_bare(key) else _format_value(key) for key in value]
        pairs = zip(keys, map(_format_value, value.values()), strict=True)
        return f"{{{', '.join(f'{key} = {item}' for key, item in pairs)}}}"
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        return f"[{', '.join(map(_format_value, value))}]"
    # JSON's strings and lists of strings are valid TOML, except for DEL (https://toml.io/en/v1.0.0#string)
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _make_printable(text: str) -> str:
    return "".join(sign if sign.isprintable() else "?" for sign in text)


def _append_lines(old: str, lines: str) -> str:
    gap = "" if not old.strip() else "\n" if old.endswith("\n") else "\n\n"
    return old + gap + lines
