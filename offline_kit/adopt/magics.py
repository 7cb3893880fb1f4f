"""Magics that the IPython of an image cannot run, in words that it can."""

from collections.abc import Iterator

from offline_kit.adopt import file_places, rewrite
from offline_kit.adopt.calls import Code
from offline_kit.adopt.findings import Became, Edit, Found, Kind, Wish
from offline_kit.adopt.outcomes import found_of
from offline_kit.notebook.cells import Magic, Read
from offline_kit.project.images import Image


def look(code: Code, image: Image) -> Iterator[tuple[Found, Edit]]:
    """Yield the magics that IPython 7 cannot run on Python 3.12 or later, as both stand in Kaggle's images.

    `name = !command`: its search for the sign goes by a token that Python's tokenizer gives no more, and the
    cell is a SyntaxError; what IPython would have made of the line is Python, and is written there.
    `%autoreload`: imports a module of Python's that is gone, and is of no use in a run from top to bottom.
    """
    ipython = image.public_version("ipython")
    if not ipython.startswith("7.") or tuple(map(int, image.python_minor.split("."))) < (3, 12):
        return
    why = f"IPython {ipython} cannot run it on Python {image.python_minor}"
    for number, read in code.reads.items():
        for magic in read.magics:
            if magic.before and magic.sign == "!":
                command = file_places.MOUNT.sub(file_places.SHOWN, magic.text.replace("\\\n", " "))
                text = f"{magic.before}get_ipython().getoutput({command!r})"
                yield _made(number, read, magic, text, Became.REWRITTEN, why)
            elif magic.sign == "%" and "autoreload" in magic.text.split()[:2]:
                text = rewrite.statement_off(read.source[magic.start : magic.end], magic.indent)
                yield _made(number, read, magic, text, Became.SWITCHED_OFF, why)


def _made(number: int, read: Read, magic: Magic, text: str, became: Became, why: str) -> tuple[Found, Edit]:
    there = read.source[magic.start : magic.end]
    wish = Wish(kind=Kind.MAGIC, cell=number, line=read.line(magic.start), text=there)
    return (
        found_of(wish, became, why),
        Edit(cell=number, start=magic.start, end=magic.end, text=text),
    )
