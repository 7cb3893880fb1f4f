"""Magics that the IPython of an image cannot run, in words that it can."""

from collections.abc import Iterator

from offline_kit.adopt import file_places, rewrite
from offline_kit.adopt.calls import NotebookCode
from offline_kit.adopt.findings import CellEdit, ExternalNeed, NeedKind, Resolution, ResolvedNeed
from offline_kit.adopt.outcomes import resolve_need
from offline_kit.notebook.cells import Magic, ParsedCell
from offline_kit.project.images import Image


def disable_magics(code: NotebookCode, image: Image) -> Iterator[tuple[ResolvedNeed, CellEdit]]:
    """Yield the magics that IPython 7 cannot run on Python 3.12 or later, as both stand in Kaggle's images.

    `name = !command`: its search for the sign goes by a token that Python's tokenizer gives no more, and the
    cell is a SyntaxError; what IPython would have made of the line is Python, and is written there.
    `%autoreload`: imports a module of Python's that is gone, and is of no use in a run from top to bottom.
    """
    ipython = image.public_version("ipython")
    if not ipython.startswith("7.") or tuple(map(int, image.python_minor.split("."))) < (3, 12):
        return
    reason = f"IPython {ipython} cannot run it on Python {image.python_minor}"
    for number, read in code.reads.items():
        for magic in read.magics:
            if magic.before and magic.sign == "!":
                command = file_places.MOUNT.sub(file_places.SHOWN_INPUT, magic.text.replace("\\\n", " "))
                text = f"{magic.before}get_ipython().getoutput({command!r})"
                yield _replace_magic(number, read, magic, text, Resolution.REWRITTEN, reason)
            elif magic.sign == "%" and "autoreload" in magic.text.split()[:2]:
                text = rewrite.comment_out(read.source[magic.start : magic.end], magic.indent)
                yield _replace_magic(number, read, magic, text, Resolution.SWITCHED_OFF, reason)


def _replace_magic(
    number: int, read: ParsedCell, magic: Magic, text: str, became: Resolution, why: str
) -> tuple[ResolvedNeed, CellEdit]:
    original = read.source[magic.start : magic.end]
    wish = ExternalNeed(kind=NeedKind.MAGIC, cell=number, line=read.line_number(magic.start), text=original)
    return (
        resolve_need(wish, became, why),
        CellEdit(cell=number, start=magic.start, end=magic.end, text=text),
    )
