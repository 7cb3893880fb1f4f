"""The shell lines of a notebook, each with what its commands want."""

from collections.abc import Iterator
from dataclasses import dataclass

from offline_kit.adopting import shell
from offline_kit.adopting.calls import Code, of_command
from offline_kit.adopting.cells import Magic, Read
from offline_kit.adopting.nouns import Wish

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


def shell_lines(code: Code) -> Iterator[ShellLine]:
    """Yield the shell lines of a notebook that want something from outside, cell by cell."""
    for number, read in code.reads.items():
        for magic in read.magics:
            if magic.shell:
                yield from _line(code, number, magic, magic.end - len(magic.shell), magic.shell)
            elif read.script and magic.sign == "%%":
                yield from _script(code, number, read, magic)


def _script(code: Code, number: int, read: Read, magic: Magic) -> Iterator[ShellLine]:
    start, end = read.script or (0, 0)
    place = start
    for line in read.source[start:end].replace("\\\n", "\\ ").split("\n"):
        yield from _line(code, number, magic, place, line, script=True)
        place += len(line) + 1


def _line(
    code: Code, number: int, magic: Magic, at: int, text: str, *, script: bool = False
) -> Iterator[ShellLine]:
    read, wishes, alone, folder = code.reads[number], [], True, ""
    for command in shell.commands(text, code.known):
        if command.words[0] == "cd" and len(command.words) > 1:
            folder = command.words[1].rstrip("/")
        made = list(of_command(command.words))
        alone = alone and (bool(made) or command.words[0] in HARMLESS)
        start, end = at + command.start, at + command.end
        wishes += [
            Wish(
                cell=number,
                line=read.line(start),
                text=(magic.before + magic.sign if not script else "") + text.strip().replace("\\\n", " "),
                start=start,
                end=end,
                stand_in="true",
                **{**each, "into": each.get("into") or folder},
            )
            for each in made
        ]
    if wishes:
        yield ShellLine(magic=magic, wishes=tuple(wishes), alone=alone, script=script)
