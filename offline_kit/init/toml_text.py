"""Settings as TOML with comments, laid into a file of which every byte else stays."""

import json
import re
import tomllib
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from offline_kit.core.errors import UsageError
from offline_kit.init.proposal import Setting

WIDE = 110
"""Characters of a line; a longer comment stands above its key."""
_MAIN = ("tool", "offline-kit")
_NOTEBOOK = ("tool", "offline-kit", "notebook")


def _table(header: str, settings: Sequence[Setting]) -> str:
    if not settings:
        return ""
    lines = [f"[{header}]"] if header else []
    for one in settings:
        lines += _lines(one)
    return "\n".join(lines) + "\n"


def _lines(one: Setting) -> list[str]:
    found = one.value is not None
    pair = f"{one.key} = {_value(one.value if found else one.example)}"
    line = pair if found else f"# {pair}"
    comments = [f"# {_printable(text)}" for text in one.more]
    why = _printable(one.why)
    if not why:
        return [*comments, line]
    if len(line) + len(why) + 4 <= WIDE:
        return [*comments, f"{line}  # {why}"]
    return [f"# {why}", *comments, line]


def _value(value: object) -> str:
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_key(key)} = {_value(item)}' for key, item in value.items())}}}"
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        return f"[{', '.join(map(_value, value))}]"
    # JSON's strings and lists of strings are TOML's as well
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _value(key)


def _printable(text: str) -> str:
    return "".join(sign if sign.isprintable() else "?" for sign in text)


def begun(old: str, settings: Sequence[Setting], *, nested: bool, where: str) -> str:
    """Return the text of a file that has no configuration of ours, with one behind all that it has.

    `nested` as for `extended`; raises UsageError where the file does not take our tables.
    """
    new = _appended(old, block(settings, nested=nested))
    _check(old, new, where, settings, nested=nested)
    return new


def block(settings: Iterable[Setting], *, nested: bool) -> str:
    """Return both tables as they stand in pyproject.toml (`nested`) or in a file of ours.

    What was not found is a comment.
    """
    rows = list(settings)
    names = (".".join(_MAIN), ".".join(_NOTEBOOK)) if nested else ("", _NOTEBOOK[2])
    first = _table(names[0], [one for one in rows if not one.notebook])
    second = _table(names[1], [one for one in rows if one.notebook])
    return "\n".join(part for part in (first, second) if part)


def _appended(old: str, lines: str) -> str:
    gap = "" if not old.strip() else "\n" if old.endswith("\n") else "\n\n"
    return _in_style_of(old, old + gap + lines)


def extended(old: str, settings: Sequence[Setting], *, nested: bool, where: str) -> str:
    """Return the text of a file with these settings put into tables that are there already.

    `nested`: the tables are [tool.offline-kit] and its [.notebook]; else the file's top and [notebook].
    Raises UsageError where the file writes them in a way that cannot be extended, with the lines to add by hand.
    """
    lines = old.splitlines(keepends=True)
    main = [one for one in settings if not one.notebook]
    notebook = [one for one in settings if one.notebook]
    # The notebook's first: what is put in above it would move its header.
    if notebook:
        name = _NOTEBOOK if nested else _NOTEBOOK[2:]
        at = _header(lines, name)
        if at is None:
            lines = _appended("".join(lines), _table(".".join(name), notebook)).splitlines(keepends=True)
        else:
            lines = _put(lines, at, _table("", notebook))
    if main:
        at = _header(lines, _MAIN) if nested else -1
        if at is None:  # only the notebook's has a header so far
            lines = [_appended("".join(lines), _table(".".join(_MAIN), main))]
        else:
            lines = _put(lines, at, _table("", main) + ("\n" if at < 0 else ""))
    new = _in_style_of(old, "".join(lines))
    _check(old, new, where, settings, nested=nested)
    return new


def _put(lines: list[str], at: int, added: str) -> list[str]:
    """Put lines behind a header: keys there are its table's, whatever follows."""
    before = lines[: at + 1]
    if before and not before[-1].endswith("\n"):
        before[-1] += "\n"
    return [*before, added, *lines[at + 1 :]]


def _header(lines: Sequence[str], name: Sequence[str]) -> int | None:
    """Return the number of the line that opens a table."""
    words = r"\s*\.\s*".join(rf"""["']?{re.escape(word)}["']?""" for word in name)
    pattern = re.compile(rf"\s*\[\s*{words}\s*\]\s*(#.*)?$")
    return next((number for number, line in enumerate(lines) if pattern.match(line.rstrip("\r\n"))), None)


def _in_style_of(old: str, new: str) -> str:
    return new.replace("\r\n", "\n").replace("\n", "\r\n") if "\r\n" in old else new


def _check(old: str, new: str, where: str, settings: Sequence[Setting], *, nested: bool) -> None:
    """Raise where the new text does not say what the old one said and the settings beside."""
    try:
        said = tomllib.loads(new)
    except tomllib.TOMLDecodeError as error:
        raise _by_hand(where, settings) from error
    wanted = tomllib.loads(old)
    table = _descend(wanted, _MAIN if nested else ())
    for one in settings:
        if one.value is not None:
            into = table.setdefault("notebook", {}) if one.notebook else table
            into[one.key] = one.value
    _drop_empty(said, nested=nested)
    _drop_empty(wanted, nested=nested)
    if said != wanted:
        raise _by_hand(where, settings)


def _drop_empty(data: dict[str, Any], *, nested: bool) -> None:
    """Take out a table of nothing, which a header with comments alone makes."""
    table = _descend(data, _MAIN if nested else ())
    if not table.get("notebook", True):
        del table["notebook"]


def _descend(data: dict[str, Any], names: Collection[str]) -> dict[str, Any]:
    for name in names:
        data = data.setdefault(name, {})
    return data


def _by_hand(where: str, settings: Sequence[Setting]) -> UsageError:
    return UsageError(
        f"'{where}' is written in a way that [tool.offline-kit] cannot be added to by a program",
        hint="put the lines above into it by hand",
        details=block(settings, nested=True).splitlines(),
    )
