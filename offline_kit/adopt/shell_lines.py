"""The shell lines of a notebook, each with what its commands want."""

from collections.abc import Iterator
from dataclasses import dataclass

from offline_kit.adopt import file_places, shell
from offline_kit.adopt.calls import Code
from offline_kit.adopt.findings import ARGUMENT, Kind, Wish
from offline_kit.adopt.shell_commands import of_command
from offline_kit.adopt.working_folders import Folders, moved
from offline_kit.notebook.cells import Magic

HARMLESS = frozenset({"cd", "echo", "true", ":", "clear"})
"""Commands that matter only to those beside them."""


@dataclass(frozen=True, kw_only=True)
class ShellLine:
    """A shell line, or one line of a shell script."""

    magic: Magic
    """The magic that it is, or that the script is."""
    wishes: tuple[Wish, ...]
    """What its commands want."""
    alone: bool
    """Whether it does nothing besides."""
    script: bool = False
    """Whether it is a line of a script, which is no Python at all."""


def shell_lines(code: Code, folders: Folders) -> Iterator[ShellLine]:
    """Yield the shell lines of a notebook that want something from outside, cell by cell."""
    for number, read in code.reads.items():
        for magic in read.magics:
            if magic.shell:
                folder = folders.at(number, read.line(magic.start))
                found, _ = _line(code, number, magic, (magic.end - len(magic.shell), magic.shell), folder)
                yield from found
            elif read.script and magic.sign == "%%":
                yield from _script(code, number, magic, folders.at(number, 1))


def _script(code: Code, number: int, magic: Magic, folder: str) -> Iterator[ShellLine]:
    read = code.reads[number]
    start, end = read.script or (0, 0)
    place = start
    for line in read.source[start:end].replace("\\\n", "\\ ").split("\n"):
        found, folder = _line(code, number, magic, (place, line), folder, script=True)
        yield from found
        place += len(line) + 1


def _line(
    code: Code, number: int, magic: Magic, said: tuple[int, str], folder: str, *, script: bool = False
) -> tuple[list[ShellLine], str]:
    """Return a line that wants something, if it does, and the folder that it ends in."""
    (at, text), read, wishes, alone = said, code.reads[number], [], True
    for command in shell.commands(text, code.known):
        if command.words[0] == "cd" and len(command.words) > 1:
            folder = moved(folder, command.words[1])
        made = list(of_command(command.words))
        of_word = any(each.get("detail") == ARGUMENT for each in made)
        alone = alone and not of_word and (bool(made) or command.words[0] in HARMLESS)
        whole = (command.start, command.end)
        spans = [_span(each["target"], text, whole, code) if of_word else whole for each in made]
        wishes += [
            Wish(
                cell=number,
                line=read.line(at + command.start),
                text=(magic.before + magic.sign if not script else "") + text.strip().replace("\\\n", " "),
                start=at + start if start >= 0 else -1,
                end=at + end,
                stand_in="true",
                **{**each, "into": placed(each["kind"], each.get("into", ""), folder)},
            )
            for each, (start, end) in zip(made, spans, strict=True)
        ]
    line = ShellLine(magic=magic, wishes=tuple(wishes), alone=alone, script=script)
    return ([line] if wishes else []), folder


def _span(word: str, text: str, command: tuple[int, int], code: Code) -> tuple[int, int]:
    """Return the place of a word of a command in its line, (-1, -1) where it is not known."""
    start, end = shell.place_of(word, text[slice(*command)], code.known)
    return (start + command[0], end + command[0]) if start >= 0 else (-1, -1)


def placed(kind: Kind, into: str, folder: str) -> str:
    """Return where something goes that is fetched from a folder of the run; what is installed: that folder."""
    if kind is Kind.INSTALL:
        return folder
    return file_places.joined(folder, into) if into and kind in (Kind.CLONE, Kind.DOWNLOAD) else into
