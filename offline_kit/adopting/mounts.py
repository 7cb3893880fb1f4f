"""Paths of a notebook below /kaggle/input: which source each belongs to, and what to write in their place."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from offline_kit.adopting import literals, places
from offline_kit.adopting.calls import Code
from offline_kit.adopting.cells import Read
from offline_kit.adopting.nouns import Became, Edit, Found, Kind, Wish
from offline_kit.adopting.places import Ground, Mounted
from offline_kit.adopting.verdicts import Basket, found_of

_HOLE = re.compile(r"\{[^{}]*\}|%(?:\(\w+\))?\d*[sdi]")
_END = re.compile(r"[\s\"'\\,;|&<>)]")
_OF_COMPETITION = re.compile(r"(sample_?sub\w*|test|train)([._/-]|$)", re.IGNORECASE)
_SAMPLE = re.compile(r"sample.*sub|sub.*sample")
_LISTS = re.compile(r"walk\(\s*$")
_WALKS = re.compile(r"/?[\"']\s*\)\s*\.(rglob|walk)\(")


@dataclass(frozen=True, kw_only=True)
class Mention:
    """One path below the mounts, as it stands in a cell."""

    cell: int
    """Number of the cell."""
    start: int
    """Where the folder of the mounts begins."""
    end: int
    """Where it ends."""
    path: str
    """The whole path, "*" for what is not known."""


def edits(code: Code) -> Iterator[Edit]:
    """Yield what turns every path below the mounts into one below the folder that shows them.

    A walk over the whole folder stays: links to folders are not followed there, and it names no source.
    """
    for mention in mentions(code):
        source = code.reads[mention.cell].source
        before, behind = source[: mention.start].rstrip("\"'rRfF"), source[mention.end :]
        walks = _LISTS.search(before) or _WALKS.match(behind)
        if mention.path.rstrip("/") not in (places.INPUT, "../input") or not walks:
            yield Edit(cell=mention.cell, start=mention.start, end=mention.end, text=places.SHOWN)


def mentions(code: Code) -> Iterator[Mention]:
    """Yield the paths in strings, shell lines and the bodies of cell magics; comments are left alone."""
    for number, read in code.reads.items():
        for start, end in _texts(read):
            for found in places.MOUNT.finditer(read.source, start, end):
                rest = _HOLE.sub("*", read.source[found.end() : end])
                path = found[0] + _END.split(rest, maxsplit=1)[0]
                yield Mention(cell=number, start=found.start(), end=found.end(), path=path)


def _texts(read: Read) -> Iterator[tuple[int, int]]:
    yield from ((magic.start, magic.end) for magic in read.magics)
    yield from read.strings


def resolve(code: Code, ground: Ground, basket: Basket) -> Iterator[Found]:
    """Yield what each source that paths name became, once for each; files of the project come into the basket."""
    wanted: dict[str, list[tuple[Wish, Mounted]]] = {}
    for wish in _wishes(code):
        place = places.mounted(wish.target)
        if place.name and "*" not in place.name:
            wanted.setdefault(place.name, []).append((wish, place))
    for name, asked in wanted.items():
        ground = replace(ground, sources=basket.sources)
        yield _resolved(name, asked, ground, basket)


def _wishes(code: Code) -> list[Wish]:
    found = [_wish(one.cell, code.reads[one.cell].line(one.start), one.path, code) for one in mentions(code)]
    for number, tree in code.trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.BinOp | ast.Call | ast.JoinedStr):
                text = literals.text(node, code.known)
                if places.MOUNT.match(text):
                    found.append(_wish(number, node.lineno, text, code))
    return sorted(dict.fromkeys(found), key=lambda one: (one.cell, one.line))


def _wish(cell: int, line: int, path: str, code: Code) -> Wish:
    text = code.reads[cell].source.split("\n")[line - 1].strip()
    return Wish(kind=Kind.MOUNT, cell=cell, line=line, text=text, target=path)


def _resolved(name: str, asked: list[tuple[Wish, Mounted]], ground: Ground, basket: Basket) -> Found:
    wish, place = asked[0]
    if ground.is_attached(place):
        return found_of(wish, Became.SERVED, name)
    if place.kind and len(name.split("/")) == {"competition": 1, "model": 5}.get(place.kind, 2):
        basket.attach(place.kind, name)
        return found_of(wish, Became.SOURCE, f"{place.kind} {name}")
    if _is_competition(place, asked, ground):
        basket.attach("competition", name)
        return found_of(
            wish, Became.SOURCE, f"competition {name}", "taken for the competition's data: see that it is"
        )
    files = [file for _, each in asked for file in _serve(each, ground, basket)]
    if files:
        return found_of(wish, Became.CHECKPOINT, ", ".join(dict.fromkeys(files)))
    return found_of(
        wish,
        Became.ASKED,
        name,
        f'attach it (dataset_sources = ["owner/{place.slug}"] in [tool.offline-kit.notebook]), or put a copy into'
        f" 'input/{place.slug}' and adopt again: it travels",
    )


def _is_competition(place: Mounted, asked: list[tuple[Wish, Mounted]], ground: Ground) -> bool:
    """Whether an old path is probably the competition's: its copy holds a sample, or its files are called so."""
    copies = ground.of_mount(replace(place, rest=""))
    if any(
        _SAMPLE.search(path.name.lower()) for copy in copies if copy.is_dir() for path in copy.glob("*.csv")
    ):
        return True
    read = any(_OF_COMPETITION.match(each.rest) for _, each in asked)
    return read and not copies and not ground.sources.competitions


def _serve(place: Mounted, ground: Ground, basket: Basket) -> list[str]:
    """Have the project's files travel that a path means; return their names."""
    hits = ground.of_mount(place)
    names = []
    for hit in hits:
        group = f"{place.kind}s/" if place.kind else ""
        rest = (
            place.rest if "*" not in place.rest else f"{place.rest.rpartition('/')[0]}/{hit.name}".lstrip("/")
        )
        path = "/".join(part for part in ("input", group + place.name, rest) if part)
        if "*" not in path:
            name = ground.name(hit)
            basket.checkpoints[name] = None
            basket.served[path] = name
            names.append(name)
    return names
