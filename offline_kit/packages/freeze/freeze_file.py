"""The committed freeze file: requirements with hashes for pip, and everything else in comments for offline-kit."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from offline_kit.core.errors import ProjectError
from offline_kit.project.types import Fate, Freeze, Pin, Replacement

FORMAT = "1"
_TITLE = "# This file is made by offline-kit from the project's requirements; edits by hand are refused."
_SECTIONS = {
    Fate.PROVIDED: "# In the image already, so not installed:",
    Fate.SKIPPED: "# Left out:",
}
_NOTES = "# Notes:"


@dataclass(frozen=True, kw_only=True)
class _PinBlock:
    """The lines of one pin."""

    fate: Fate
    first_line: str
    fields: dict[str, list[str]]


def render_freeze(freeze: Freeze) -> str:
    """Return the text of the freeze file; the same freeze gives the same text."""
    broken_packages = {replacement.name: replacement.breaks for replacement in freeze.replacements}
    lines = ["#", _TITLE, "# Renew it with:", "#", "#    offline-kit build --upgrade", "#"]
    lines += [f"# {key}: {value}".rstrip() for key, value in _build_header(freeze).items()]
    lines += ["#"]
    for pin in freeze.pins_with(Fate.BUNDLED):
        lines += _render_pin(pin, broken_packages.get(pin.name, ()))
    for fate, title in _SECTIONS.items():
        pins = freeze.pins_with(fate)
        if pins:
            lines += ["", title]
        for pin in pins:
            lines += ["#", *(f"# {line}" for line in _render_pin(pin, ()))]
    if freeze.differences:
        lines += ["", _NOTES, "#", *(f"# - {line}" for line in freeze.differences)]
    body = "\n".join(lines) + "\n"
    return body.replace("# content:", f"# content: {_hash_content(body)}", 1)


def is_freeze_text(text: str) -> bool:
    """Whether a text was written by `render`."""
    return _TITLE in text[:400]


def read_header(text: str) -> dict[str, str]:
    """Return the fields at the top of a freeze file: image, python, engine, cut-off, inputs, content."""
    header_fields = {}
    for line in _split_lines(text)[6:]:
        if line == "#":
            break
        key, _, value = line.removeprefix("# ").partition(":")
        header_fields[key] = value.strip()
    return header_fields


def parse_freeze(text: str, *, name: str) -> Freeze:
    """Parse a freeze file; its pins have no `local` paths, which belong to one machine.

    `name` is for messages. Raises ProjectError for another tool's file, another format, or a manual edit.
    """
    if not is_freeze_text(text):
        raise ProjectError(
            f"offline-kit writes its freeze to '{name}', but this file is not one",
            hint=f"move '{name}' elsewhere; list it under `locks` to prefer its pins",
            code="freeze-file-foreign",
        )
    header_fields = read_header(text)
    if header_fields.get("format") != FORMAT:
        raise ProjectError(
            f"'{name}' has format {header_fields.get('format')}, and this version reads {FORMAT}",
            hint="renew it with 'offline-kit build --upgrade'",
            code="freeze-format-unsupported",
        )
    _check_unedited(text, header_fields, name)
    blocks = list(_iter_blocks(_split_lines(text)))
    pins = tuple(sorted((_build_pin(block) for block in blocks), key=lambda pin: pin.name))
    breaks = {_get_name(block): tuple(block.fields.get("breaks", ())) for block in blocks}
    return Freeze(
        image=header_fields.get("image", ""),
        python=header_fields.get("python", ""),
        engine=header_fields.get("engine", ""),
        cutoff=header_fields.get("cut-off", ""),
        input_hash=header_fields.get("inputs", ""),
        pins=pins,
        replacements=list_replacements(pins, breaks),
        differences=_read_notes(_split_lines(text)),
        text="\n".join(_split_lines(text)) + "\n",
    )


def list_replacements(pins: Iterable[Pin], breaks: Mapping[str, tuple[str, ...]]) -> tuple[Replacement, ...]:
    """Return the replacements among pins with the image packages that each breaks."""
    return tuple(
        Replacement(
            name=pin.name,
            image_version=pin.replaces,
            version=pin.version,
            asked_by=pin.asked_by,
            breaks=breaks.get(pin.name, ()),
        )
        for pin in pins
        if pin.replaces
    )


def _build_header(freeze: Freeze) -> dict[str, str]:
    return {
        "format": FORMAT,
        "image": freeze.image,
        "python": freeze.python,
        "engine": freeze.engine,
        "cut-off": freeze.cutoff,
        "inputs": freeze.input_hash,
        "content": "",
    }


def _render_pin(pin: Pin, breaks: tuple[str, ...]) -> list[str]:
    first_line = f"{pin.name}=={pin.version}" if pin.version else pin.name
    parts = [first_line, *(f"    --hash={value}" for value in pin.hashes)]
    lines = [f"{word} \\" for word in parts[:-1]] + [parts[-1]]
    if len(pin.asked_by) == 1:
        lines.append(f"    # via {pin.asked_by[0]}")
    elif pin.asked_by:
        lines += ["    # via", *(f"    #   {entry}" for entry in pin.asked_by)]
    fields = [("wanted", entry) for entry in pin.requires]
    fields += [("why", pin.reason), ("from", pin.url), ("replaces", pin.replaces)]
    fields += [("spare", "yes" if pin.spare else ""), *(("breaks", entry) for entry in breaks)]
    return lines + [f"    # {key}: {value}" for key, value in fields if value]


def _split_lines(text: str) -> list[str]:
    # git on Windows checks text out with CRLF by default (core.autocrlf).
    return text.replace("\r\n", "\n").removesuffix("\n").split("\n")


def _hash_content(text: str) -> str:
    lines = [line for line in _split_lines(text) if not line.startswith("# content:")]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _check_unedited(text: str, header_fields: dict[str, str], name: str) -> None:
    if header_fields.get("content") != _hash_content(text):
        raise ProjectError(
            f"'{name}' was edited by hand, so it may not match the requirements",
            hint="undo the edit ('git checkout'), or change the requirements and renew the file with "
            "'offline-kit build --upgrade'",
            code="freeze-file-edited",
        )


def _iter_blocks(lines: list[str]) -> Iterator[_PinBlock]:
    fate, block = Fate.BUNDLED, None
    titles = {title: fate for fate, title in _SECTIONS.items()}
    start = next((number for number, line in enumerate(lines) if line.startswith("# content:")), 0) + 2
    via = False
    for raw_line in lines[start:]:
        if raw_line in titles:
            fate = titles[raw_line]
            continue
        if raw_line == _NOTES:
            break
        line = raw_line if fate is Fate.BUNDLED else raw_line.removeprefix("#").removeprefix(" ")
        if line and not line.startswith(" "):
            if block:
                yield block
            block, via = _PinBlock(fate=fate, first_line=line.removesuffix(" \\"), fields={}), False
        elif block and line:
            via = _add_field(block, line, via=via)
    if block:
        yield block


def _add_field(block: _PinBlock, line: str, *, via: bool) -> bool:
    """Add one line below the first; return whether lines of "via" may follow."""
    text = line.removeprefix("    ")
    if text.startswith("--hash="):
        block.fields.setdefault("hash", []).append(text.removeprefix("--hash=").removesuffix(" \\"))
        return False
    if text == "# via":
        return True
    if via and text.startswith("#   "):
        block.fields.setdefault("via", []).append(text.removeprefix("#   "))
        return True
    if text.startswith("# via "):
        block.fields["via"] = [text.removeprefix("# via ")]
        return False
    key, _, value = text.removeprefix("# ").partition(": ")
    block.fields.setdefault(key, []).append(value)
    return False


def _get_name(block: _PinBlock) -> str:
    return block.first_line.partition("==")[0]


def _build_pin(block: _PinBlock) -> Pin:
    name, _, version = block.first_line.partition("==")
    fields = block.fields

    def get_field(key: str) -> str:
        return fields.get(key, [""])[0]

    return Pin(
        name=name,
        version=version,
        fate=block.fate,
        reason=get_field("why"),
        asked_by=tuple(fields.get("via", ())),
        requires=tuple(fields.get("wanted", ())),
        hashes=tuple(fields.get("hash", ())),
        url=get_field("from"),
        replaces=get_field("replaces"),
        spare=bool(get_field("spare")),
    )


def _read_notes(lines: list[str]) -> tuple[str, ...]:
    if _NOTES not in lines:
        return ()
    return tuple(
        line.removeprefix("# - ") for line in lines[lines.index(_NOTES) :] if line.startswith("# - ")
    )
