"""The committed freeze file: requirements with hashes for pip, and everything else in comments for offline-kit."""

import hashlib

from offline_kit.core.errors import ProjectError
from offline_kit.project.types import Fate, Freeze, Pin

FORMAT = "1"
_TITLE = "# This file is made by offline-kit from the project's requirements; edits by hand are refused."
_SECTIONS = {
    Fate.PROVIDED: "# In the image already, so not installed:",
    Fate.SKIPPED: "# Left out:",
}
_NOTES = "# Notes:"


def render_freeze(freeze: Freeze) -> str:
    """Return the text of the freeze file; the same freeze gives the same text."""
    header = {
        "format": FORMAT,
        "image": freeze.image,
        "python": freeze.python,
        "engine": freeze.engine,
        "cut-off": freeze.cutoff,
        "inputs": freeze.input_hash,
        "content": "",
    }
    lines = ["#", _TITLE, "# Renew it with:", "#", "#    offline-kit build --upgrade", "#"]
    lines += [f"# {key}: {value}".rstrip() for key, value in header.items()]
    lines += ["#"]
    for pin in freeze.pins_with(Fate.BUNDLED):
        lines += _render_pin(pin)
    for fate, title in _SECTIONS.items():
        pins = freeze.pins_with(fate)
        lines += ["", title] if pins else []
        for pin in pins:
            lines += ["#", *(f"# {line}" for line in _render_pin(pin))]
    if freeze.differences:
        lines += ["", _NOTES, "#", *(f"# - {line}" for line in freeze.differences)]
    body = "\n".join(lines) + "\n"
    return body.replace("# content:", f"# content: {_hash_content(body)}", 1)


def _render_pin(pin: Pin) -> list[str]:
    first_line = f"{pin.name}=={pin.version}" if pin.version else pin.name
    parts = [first_line, *(f"    --hash={value}" for value in pin.hashes)]
    lines = [f"{word} \\" for word in parts[:-1]] + [parts[-1]]
    if len(pin.asked_by) == 1:
        lines.append(f"    # via {pin.asked_by[0]}")
    elif pin.asked_by:
        lines += ["    # via", *(f"    #   {entry}" for entry in pin.asked_by)]
    fields = [("wanted", entry) for entry in pin.requires]
    fields += [("why", pin.reason), ("from", pin.url), ("replaces", pin.replaces)]
    fields += [("spare", "yes" if pin.spare else ""), *(("breaks", entry) for entry in pin.breaks)]
    return lines + [f"    # {key}: {value}" for key, value in fields if value]


def is_freeze_text(text: str) -> bool:
    """Whether a text was written by `render_freeze`."""
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
    header = read_header(text)
    if header.get("format") != FORMAT:
        raise ProjectError(
            f"'{name}' has format {header.get('format')}, and this version reads {FORMAT}",
            hint="renew it with 'offline-kit build --upgrade'",
            code="freeze-format-unsupported",
        )
    if header.get("content") != _hash_content(text):
        raise ProjectError(
            f"'{name}' was edited by hand, so it may not match the requirements",
            hint="undo the edit ('git checkout'), or change the requirements and renew the file with "
            "'offline-kit build --upgrade'",
            code="freeze-file-edited",
        )
    lines = _split_lines(text)
    body, notes = lines, []
    if _NOTES in lines:
        body, notes = lines[: lines.index(_NOTES)], lines[lines.index(_NOTES) :]
    pins = (_build_pin(fate, fields) for fate, fields in _parse_blocks(body))
    return Freeze(
        image=header.get("image", ""),
        python=header.get("python", ""),
        engine=header.get("engine", ""),
        cutoff=header.get("cut-off", ""),
        input_hash=header.get("inputs", ""),
        pins=tuple(sorted(pins, key=lambda pin: pin.name)),
        differences=tuple(line.removeprefix("# - ") for line in notes if line.startswith("# - ")),
        text="\n".join(lines) + "\n",
    )


def _split_lines(text: str) -> list[str]:
    # git on Windows checks text out with CRLF by default (core.autocrlf).
    return text.replace("\r\n", "\n").removesuffix("\n").split("\n")


def _hash_content(text: str) -> str:
    lines = [line for line in _split_lines(text) if not line.startswith("# content:")]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _parse_blocks(lines: list[str]) -> list[tuple[Fate, dict[str, list[str]]]]:
    """Return fate and fields of every pin; the field "pin" has its first line, name and version."""
    fate = Fate.BUNDLED
    titles = {title: fate for fate, title in _SECTIONS.items()}
    blocks: list[tuple[Fate, dict[str, list[str]]]] = []
    start = next((number for number, line in enumerate(lines) if line.startswith("# content:")), 0) + 2
    for raw_line in lines[start:]:
        if raw_line in titles:
            fate = titles[raw_line]
            continue
        line = raw_line if fate is Fate.BUNDLED else raw_line.removeprefix("#").removeprefix(" ")
        if line and not line.startswith(" "):
            blocks.append((fate, {"pin": [line.removesuffix(" \\")]}))
            continue
        text = line.removeprefix("    ")
        if not blocks or text in ("", "# via"):
            continue
        if text.startswith("--hash="):
            key, value = "hash", text.removeprefix("--hash=").removesuffix(" \\")
        elif text.startswith("#   "):  # below "# via"
            key, value = "via", text.removeprefix("#   ")
        elif text.startswith("# via "):
            key, value = "via", text.removeprefix("# via ")
        else:
            key, _, value = text.removeprefix("# ").partition(": ")
        blocks[-1][1].setdefault(key, []).append(value)
    return blocks


def _build_pin(fate: Fate, fields: dict[str, list[str]]) -> Pin:
    name, _, version = fields["pin"][0].partition("==")
    return Pin(
        name=name,
        version=version,
        fate=fate,
        reason=fields.get("why", [""])[0],
        asked_by=tuple(fields.get("via", ())),
        requires=tuple(fields.get("wanted", ())),
        hashes=tuple(fields.get("hash", ())),
        url=fields.get("from", [""])[0],
        replaces=fields.get("replaces", [""])[0],
        breaks=tuple(fields.get("breaks", ())),
        spare="spare" in fields,
    )
