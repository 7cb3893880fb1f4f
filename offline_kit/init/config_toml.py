"""Settings that were found in a project, and their lines of TOML in a file of which every other byte stays."""

import json
import re
import tomllib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from offline_kit.core.errors import UsageError


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


LINE_WIDTH = 110
"""Characters of a line; a longer comment stands above its key."""
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
    # JSON's strings and lists of strings are TOML's as well
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _format_key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _format_value(key)


def _make_printable(text: str) -> str:
    return "".join(sign if sign.isprintable() else "?" for sign in text)


def add_configuration(old: str, settings: Sequence[Setting], *, nested: bool, where: str) -> str:
    """Return the text of a file that has no configuration of ours, with one behind all that it has.

    `nested` as for `extended`; raises UsageError where the file does not take our tables.
    """
    new = _append_lines(old, format_tables(settings, nested=nested))
    _check_result(old, new, where, settings, nested=nested)
    return new


def format_tables(settings: Iterable[Setting], *, nested: bool) -> str:
    """Return both tables as they stand in pyproject.toml (`nested`) or in a file of ours.

    What was not found is a comment.
    """
    rows = list(settings)
    names = (".".join(_MAIN), ".".join(_NOTEBOOK)) if nested else ("", _NOTEBOOK[2])
    first = _format_table(names[0], [setting for setting in rows if not setting.notebook])
    second = _format_table(names[1], [setting for setting in rows if setting.notebook])
    return "\n".join(part for part in (first, second) if part)


def _append_lines(old: str, lines: str) -> str:
    gap = "" if not old.strip() else "\n" if old.endswith("\n") else "\n\n"
    return _match_line_ends(old, old + gap + lines)


def add_settings(old: str, settings: Sequence[Setting], *, nested: bool, where: str) -> str:
    """Return the text of a file with these settings put into tables that are there already.

    `nested`: the tables are [tool.offline-kit] and its [.notebook]; else the file's top and [notebook].
    Raises UsageError where the file writes them in a way that cannot be extended, with the lines to add by hand.
    """
    lines = old.splitlines(keepends=True)
    main = [setting for setting in settings if not setting.notebook]
    notebook = [setting for setting in settings if setting.notebook]
    # The notebook's first: what is put in above it would move its header.
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
        if at is None:  # only the notebook's has a header so far
            lines = [_append_lines("".join(lines), _format_table(".".join(_MAIN), main))]
        else:
            lines = _insert_lines(lines, at, _format_table("", main) + ("\n" if at < 0 else ""))
    new = _match_line_ends(old, "".join(lines))
    _check_result(old, new, where, settings, nested=nested)
    return new


def _insert_lines(lines: list[str], at: int, added: str) -> list[str]:
    """Put lines behind a header: keys there are its table's, whatever follows."""
    before = lines[: at + 1]
    if before and not before[-1].endswith("\n"):
        before[-1] += "\n"
    return [*before, added, *lines[at + 1 :]]


def _find_header(lines: Sequence[str], name: Sequence[str]) -> int | None:
    """Return the number of the line that opens a table."""
    words = r"\s*\.\s*".join(rf"""["']?{re.escape(word)}["']?""" for word in name)
    pattern = re.compile(rf"\s*\[\s*{words}\s*\]\s*(#.*)?$")
    return next((number for number, line in enumerate(lines) if pattern.match(line.rstrip("\r\n"))), None)


def _match_line_ends(old: str, new: str) -> str:
    return new.replace("\r\n", "\n").replace("\n", "\r\n") if "\r\n" in old else new


def _check_result(old: str, new: str, where: str, settings: Sequence[Setting], *, nested: bool) -> None:
    """Raise where the new text does not say what the old one said and the settings beside."""
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
    """Take out a table of nothing, which a header with comments alone makes."""
    table = _descend_tables(data, _MAIN if nested else ())
    if not table.get("notebook", True):
        del table["notebook"]


def _descend_tables(data: dict[str, Any], names: Collection[str]) -> dict[str, Any]:
    for name in names:
        data = data.setdefault(name, {})
    return data


def _manual_edit_error(where: str, settings: Sequence[Setting]) -> UsageError:
    return UsageError(
        f"'{where}' is written in a way that [tool.offline-kit] cannot be added to by a program",
        hint="put the lines above into it by hand",
        details=format_tables(settings, nested=True).splitlines(),
    )
