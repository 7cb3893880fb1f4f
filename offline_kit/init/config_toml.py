"""Settings of a configuration, and their TOML in a file whose other bytes stay the same."""

import json
import re
import tomllib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from offline_kit.core.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One key of the configuration, detected or not."""

    key: str
    """Its name in [tool.offline-kit] or [tool.offline-kit.notebook]."""
    value: object = None
    """The detected value; None becomes a commented line with the example."""
    example: object = ""
    reason: str = ""
    """Its source or purpose, in a few words."""
    comments: tuple[str, ...] = ()
    """Further lines of comment."""
    notebook: bool = False
    """Whether it belongs into the notebook's table."""
    needed_for: str = ""
    """What fails without it, if it was not detected and must be set by hand."""


@dataclass(frozen=True, kw_only=True)
class DetectedSettings:
    """Detected settings, and notes for the person."""

    settings: tuple[Setting, ...] = ()
    notes: tuple[str, ...] = field(default=())
    """Sentences that go to the screen, not into the file."""


LINE_WIDTH = 110
"""Largest length of a line; longer comments go above their key."""
_MAIN = ("tool", "offline-kit")
_NOTEBOOK = ("tool", "offline-kit", "notebook")


def _format_table(header: str, settings: Sequence[Setting]) -> str:
    if not settings:
        return ""
    lines = [f"[{header}]"] if header else []
    for setting in settings:
        lines += _format_setting(setting)
    return "\n".join(lines) + "\n"


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
        return (
            f"{{{', '.join(f'{_format_key(key)} = {_format_value(item)}' for key, item in value.items())}}}"
        )
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        return f"[{', '.join(map(_format_value, value))}]"
    # JSON's strings and lists of strings are valid TOML, except for DEL (https://toml.io/en/v1.0.0#string)
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _format_key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _format_value(key)


def _make_printable(text: str) -> str:
    return "".join(sign if sign.isprintable() else "?" for sign in text)


def add_configuration(old: str, settings: Sequence[Setting], *, nested: bool, where: str) -> str:
    """Append a configuration to the text of a file without one; arguments and errors as in `add_settings`."""
    new = _append_lines(old, format_tables(settings, nested=nested))
    _check_result(old, new, where, settings, nested=nested)
    return new


def format_tables(settings: Iterable[Setting], *, nested: bool) -> str:
    """Return both tables for pyproject.toml (`nested`) or offline-kit.toml; undetected settings as comments."""
    rows = list(settings)
    names = (".".join(_MAIN), ".".join(_NOTEBOOK)) if nested else ("", _NOTEBOOK[2])
    first = _format_table(names[0], [setting for setting in rows if not setting.notebook])
    second = _format_table(names[1], [setting for setting in rows if setting.notebook])
    return "\n".join(part for part in (first, second) if part)


def _append_lines(old: str, lines: str) -> str:
    gap = "" if not old.strip() else "\n" if old.endswith("\n") else "\n\n"
    return _match_line_ends(old, old + gap + lines)


def add_settings(old: str, settings: Sequence[Setting], *, nested: bool, where: str) -> str:
    """Insert settings into the existing tables of a file's text.

    Args:
        nested: The tables are [tool.offline-kit] and its [.notebook]; else the file's top level and [notebook].
        where: The file's name, for errors.

    Raises:
        UsageError: The tables are written in a way that cannot be extended; the details are the lines to add.
    """
    lines = old.splitlines(keepends=True)
    main = [setting for setting in settings if not setting.notebook]
    notebook = [setting for setting in settings if setting.notebook]
    # The notebook's table first: lines inserted above would move its header.
    if notebook:
        name = _NOTEBOOK if nested else _NOTEBOOK[2:]
        at = _find_header(lines, name)
        if at is None:
            lines = _append_lines("".join(lines), _format_table(".".join(name), notebook)).splitlines(
                keepends=True
            )
        else:
            lines = _insert_lines(lines, at, _format_table("", notebook))
    if main:
        at = _find_header(lines, _MAIN) if nested else -1
        if at is None:  # so far only the notebook's table has a header
            lines = [_append_lines("".join(lines), _format_table(".".join(_MAIN), main))]
        else:
            lines = _insert_lines(lines, at, _format_table("", main) + ("\n" if at < 0 else ""))
    new = _match_line_ends(old, "".join(lines))
    _check_result(old, new, where, settings, nested=nested)
    return new


def _insert_lines(lines: list[str], at: int, added: str) -> list[str]:
    """Insert lines after a header, where keys belong to its table."""
    before = lines[: at + 1]
    if before and not before[-1].endswith("\n"):
        before[-1] += "\n"
    return [*before, added, *lines[at + 1 :]]


def _find_header(lines: Sequence[str], name: Sequence[str]) -> int | None:
    """Return the index of the line that opens a table."""
    words = r"\s*\.\s*".join(rf"""["']?{re.escape(word)}["']?""" for word in name)
    pattern = re.compile(rf"\s*\[\s*{words}\s*\]\s*(#.*)?$")
    return next((number for number, line in enumerate(lines) if pattern.match(line.rstrip("\r\n"))), None)


def _match_line_ends(old: str, new: str) -> str:
    return new.replace("\r\n", "\n").replace("\n", "\r\n") if "\r\n" in old else new


def _check_result(old: str, new: str, where: str, settings: Sequence[Setting], *, nested: bool) -> None:
    """Raise UsageError unless the new text is the old one plus the settings."""
    try:
        result = tomllib.loads(new)
    except tomllib.TOMLDecodeError as error:
        raise _manual_edit_error(where, settings) from error
    expected = tomllib.loads(old)
    table = _descend_tables(expected, _MAIN if nested else ())
    for setting in settings:
        if setting.value is not None:
            target = table.setdefault("notebook", {}) if setting.notebook else table
            target[setting.key] = setting.value
    _drop_empty(result, nested=nested)
    _drop_empty(expected, nested=nested)
    if result != expected:
        raise _manual_edit_error(where, settings)


def _drop_empty(data: dict[str, Any], *, nested: bool) -> None:
    """Delete an empty notebook table, as from a header with comments only."""
    table = _descend_tables(data, _MAIN if nested else ())
    if not table.get("notebook", True):
        del table["notebook"]


def _descend_tables(data: dict[str, Any], names: Collection[str]) -> dict[str, Any]:
    for name in names:
        data = data.setdefault(name, {})
    return data


def _manual_edit_error(where: str, settings: Sequence[Setting]) -> UsageError:
    return UsageError(
        f"'{where}' writes [tool.offline-kit] in a form that cannot be extended automatically",
        hint="add the lines above by hand",
        code="configuration-not-extendable",
        details=format_tables(settings, nested=True).splitlines(),
    )
