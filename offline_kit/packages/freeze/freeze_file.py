"""The freeze as a committed file: pip-tools' format to pip and to people, the whole freeze to us."""

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
class _Block:
    """The lines of one pin while they are read."""

    fate: Fate
    head: str
    facts: dict[str, list[str]]


def render(freeze: Freeze) -> str:
    """Return the freeze as text; the same freeze gives the same text. `freeze.text` is not looked at."""
    broken = {one.name: one.breaks for one in freeze.replacements}
    lines = ["#", _TITLE, "# Renew it with:", "#", "#    offline-kit build --upgrade", "#"]
    lines += [f"# {key}: {value}".rstrip() for key, value in _header(freeze).items()]
    lines += ["#"]
    for pin in freeze.having(Fate.BUNDLED):
        lines += _pin(pin, broken.get(pin.name, ()))
    for fate, title in _SECTIONS.items():
        pins = freeze.having(fate)
        if pins:
            lines += ["", title]
        for pin in pins:
            lines += ["#", *(f"# {line}" for line in _pin(pin, ()))]
    if freeze.differences:
        lines += ["", _NOTES, "#", *(f"# - {line}" for line in freeze.differences)]
    body = "\n".join(lines) + "\n"
    return body.replace("# content:", f"# content: {_content(body)}", 1)


def is_ours(text: str) -> bool:
    """Whether a text was written by `render`."""
    return _TITLE in text[:400]


def header(text: str) -> dict[str, str]:
    """Return the facts at the top of a written freeze: image, python, engine, cut-off, inputs, content."""
    found = {}
    for line in _lines(text)[6:]:
        if line == "#":
            break
        key, _, value = line.removeprefix("# ").partition(":")
        found[key] = value.strip()
    return found


def parse(text: str, *, name: str) -> Freeze:
    """Read a written freeze back, `local` paths apart; they are this machine's business.

    Raises ProjectError for a file that is not ours, is of another format, or was edited by hand; `name`
    is how to call it.
    """
    if not is_ours(text):
        raise ProjectError(
            f"'{name}' is in the way: offline-kit keeps its freeze there, and did not write this file",
            hint=f"move '{name}' elsewhere; list it under `locks` if its pins are liked",
        )
    head = header(text)
    if head.get("format") != FORMAT:
        raise ProjectError(
            f"'{name}' has format {head.get('format')}, and this version reads {FORMAT}",
            hint="renew it with 'offline-kit build --upgrade'",
        )
    _check_unedited(text, head, name)
    blocks = list(_blocks(_lines(text)))
    pins = tuple(sorted((_read(block) for block in blocks), key=lambda pin: pin.name))
    breaks = {_name(block): tuple(block.facts.get("breaks", ())) for block in blocks}
    return Freeze(
        image=head.get("image", ""),
        python=head.get("python", ""),
        engine=head.get("engine", ""),
        cutoff=head.get("cut-off", ""),
        input_hash=head.get("inputs", ""),
        pins=pins,
        replacements=replacements(pins, breaks),
        differences=_notes(_lines(text)),
        text="\n".join(_lines(text)) + "\n",
    )


def replacements(pins: Iterable[Pin], breaks: Mapping[str, tuple[str, ...]]) -> tuple[Replacement, ...]:
    """Return the replacements among pins, given what each breaks in the image."""
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


def _header(freeze: Freeze) -> dict[str, str]:
    return {
        "format": FORMAT,
        "image": freeze.image,
        "python": freeze.python,
        "engine": freeze.engine,
        "cut-off": freeze.cutoff,
        "inputs": freeze.input_hash,
        "content": "",
    }


def _pin(pin: Pin, breaks: tuple[str, ...]) -> list[str]:
    head = f"{pin.name}=={pin.version}" if pin.version else pin.name
    words = [head, *(f"    --hash={value}" for value in pin.hashes)]
    lines = [f"{word} \\" for word in words[:-1]] + [words[-1]]
    if len(pin.asked_by) == 1:
        lines.append(f"    # via {pin.asked_by[0]}")
    elif pin.asked_by:
        lines += ["    # via", *(f"    #   {one}" for one in pin.asked_by)]
    facts = [("wanted", one) for one in pin.requires]
    facts += [("why", pin.reason), ("from", pin.url), ("replaces", pin.replaces)]
    facts += [("spare", "yes" if pin.spare else ""), *(("breaks", one) for one in breaks)]
    return lines + [f"    # {key}: {value}" for key, value in facts if value]


def _lines(text: str) -> list[str]:
    # A checkout on Windows may have changed the ends of lines.
    return text.replace("\r\n", "\n").removesuffix("\n").split("\n")


def _content(text: str) -> str:
    kept = [line for line in _lines(text) if not line.startswith("# content:")]
    return hashlib.sha256("\n".join(kept).encode()).hexdigest()


def _check_unedited(text: str, head: dict[str, str], name: str) -> None:
    if head.get("content") != _content(text):
        raise ProjectError(
            f"'{name}' was edited by hand, and would no longer say what the requirements ask for",
            hint="undo the edit ('git checkout'), or change the requirements and renew the file with "
            "'offline-kit build --upgrade'",
        )


def _blocks(lines: list[str]) -> Iterator[_Block]:
    fate, block = Fate.BUNDLED, None
    titles = {title: fate for fate, title in _SECTIONS.items()}
    start = next((place for place, line in enumerate(lines) if line.startswith("# content:")), 0) + 2
    via = False
    for raw in lines[start:]:
        if raw in titles:
            fate = titles[raw]
            continue
        if raw == _NOTES:
            break
        line = raw if fate is Fate.BUNDLED else raw.removeprefix("#").removeprefix(" ")
        if line and not line.startswith(" "):
            if block:
                yield block
            block, via = _Block(fate=fate, head=line.removesuffix(" \\"), facts={}), False
        elif block and line:
            via = _fact(block, line, via=via)
    if block:
        yield block


def _fact(block: _Block, line: str, *, via: bool) -> bool:
    """Take one line below the head; returns whether lines of "via" may follow."""
    text = line.removeprefix("    ")
    if text.startswith("--hash="):
        block.facts.setdefault("hash", []).append(text.removeprefix("--hash=").removesuffix(" \\"))
        return False
    if text == "# via":
        return True
    if via and text.startswith("#   "):
        block.facts.setdefault("via", []).append(text.removeprefix("#   "))
        return True
    if text.startswith("# via "):
        block.facts["via"] = [text.removeprefix("# via ")]
        return False
    key, _, value = text.removeprefix("# ").partition(": ")
    block.facts.setdefault(key, []).append(value)
    return False


def _name(block: _Block) -> str:
    return block.head.partition("==")[0]


def _read(block: _Block) -> Pin:
    name, _, version = block.head.partition("==")
    facts = block.facts

    def one(key: str) -> str:
        return facts.get(key, [""])[0]

    return Pin(
        name=name,
        version=version,
        fate=block.fate,
        reason=one("why"),
        asked_by=tuple(facts.get("via", ())),
        requires=tuple(facts.get("wanted", ())),
        hashes=tuple(facts.get("hash", ())),
        url=one("from"),
        replaces=one("replaces"),
        spare=bool(one("spare")),
    )


def _notes(lines: list[str]) -> tuple[str, ...]:
    if _NOTES not in lines:
        return ()
    return tuple(
        line.removeprefix("# - ") for line in lines[lines.index(_NOTES) :] if line.startswith("# - ")
    )
