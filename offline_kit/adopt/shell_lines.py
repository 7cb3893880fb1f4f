"""The shell lines of a notebook, each with what its commands want."""

from collections.abc import Iterator
from dataclasses import dataclass

from offline_kit.adopt import file_places, shell
from offline_kit.adopt.calls import NotebookCode
from offline_kit.adopt.findings import ARGUMENT, ExternalNeed, NeedKind
from offline_kit.adopt.shell_commands import command_needs
from offline_kit.adopt.working_folders import WorkingFolders, change_folder
from offline_kit.notebook.cells import Magic

_HARMLESS = frozenset({"cd", "echo", "true", ":", "clear"})
"""Commands that matter only to those beside them."""


@dataclass(frozen=True, kw_only=True)
class ShellLine:
    """A shell line, or one line of a shell script."""

    magic: Magic
    """The magic that it is, or that the script is."""
    wishes: tuple[ExternalNeed, ...]
    """What its commands want."""
    alone: bool
    """Whether it does nothing besides."""
    script: bool = False
    """Whether it is a line of a script, which is no Python at all."""


def find_shell_lines(code: NotebookCode, folders: WorkingFolders) -> Iterator[ShellLine]:
    """Yield the shell lines of a notebook that want something from outside, cell by cell."""
    for number, read in code.reads.items():
        for magic in read.magics:
            if magic.shell_command:
                folder = folders.folder_at(number, read.line_number(magic.start))
                lines, _ = _read_line(
                    code, number, magic, (magic.end - len(magic.shell_command), magic.shell_command), folder
                )
                yield from lines
            elif read.script and magic.sign == "%%":
                yield from _read_script(code, number, magic, folders.folder_at(number, 1))


def _read_script(code: NotebookCode, number: int, magic: Magic, folder: str) -> Iterator[ShellLine]:
    read = code.reads[number]
    start, end = read.script or (0, 0)
    offset = start
    for line in read.source[start:end].replace("\\\n", "\\ ").split("\n"):
        lines, folder = _read_line(code, number, magic, (offset, line), folder, script=True)
        yield from lines
        offset += len(line) + 1


def _read_line(
    code: NotebookCode,
    number: int,
    magic: Magic,
    position_and_text: tuple[int, str],
    folder: str,
    *,
    script: bool = False,
) -> tuple[list[ShellLine], str]:
    """Return a line that wants something, if it does, and the folder that it ends in."""
    (at, text), read, wishes, alone = position_and_text, code.reads[number], [], True
    for command in shell.split_commands(text, code.strings):
        if command.words[0] == "cd" and len(command.words) > 1:
            folder = change_folder(folder, command.words[1])
        field_sets = list(command_needs(command.words))
        is_argument = any(fields.get("detail") == ARGUMENT for fields in field_sets)
        alone = alone and not is_argument and (bool(field_sets) or command.words[0] in _HARMLESS)
        span = (command.start, command.end)
        spans = [
            _argument_span(fields["target"], text, span, code) if is_argument else span
            for fields in field_sets
        ]
        wishes += [
            ExternalNeed(
                cell=number,
                line=read.line_number(at + command.start),
                text=(magic.before + magic.sign if not script else "") + text.strip().replace("\\\n", " "),
                start=at + start if start >= 0 else -1,
                end=at + end,
                stand_in="true",
                **{
                    **fields,
                    "destination": place_destination(fields["kind"], fields.get("destination", ""), folder),
                },
            )
            for fields, (start, end) in zip(field_sets, spans, strict=True)
        ]
    line = ShellLine(magic=magic, wishes=tuple(wishes), alone=alone, script=script)
    return ([line] if wishes else []), folder


def _argument_span(word: str, text: str, command: tuple[int, int], code: NotebookCode) -> tuple[int, int]:
    """Return the place of a word of a command in its line, (-1, -1) where it is not known."""
    start, end = shell.find_word(word, text[slice(*command)], code.strings)
    return (start + command[0], end + command[0]) if start >= 0 else (-1, -1)


def place_destination(kind: NeedKind, into: str, folder: str) -> str:
    """Return where something goes that is fetched from a folder of the run; what is installed: that folder."""
    if kind is NeedKind.INSTALL:
        return folder
    return (
        file_places.join_run_path(folder, into)
        if into and kind in (NeedKind.CLONE, NeedKind.DOWNLOAD)
        else into
    )
