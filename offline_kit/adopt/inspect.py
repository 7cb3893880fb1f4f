"""Look a notebook through: what it wants from the internet, what becomes of each thing, and the cells that remain."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

from offline_kit.adopt import (
    calls,
    decide,
    files_beside,
    input_paths,
    magics,
    missing_imports,
    own_names,
    read_notebook,
    rewrite,
    room_makers,
    written_secrets,
)
from offline_kit.adopt.calls import Code
from offline_kit.adopt.file_places import Ground
from offline_kit.adopt.findings import ARGUMENT, Adoption, Became, Cell, Edit, Found, Kind, Sources, Wish
from offline_kit.adopt.outcomes import Basket, Verdict, found_of
from offline_kit.adopt.shell_lines import ShellLine, placed, shell_lines
from offline_kit.adopt.working_folders import Folders
from offline_kit.core.errors import OfflineKitError
from offline_kit.project.accelerators import machine_shape
from offline_kit.project.images import Image

NO_EDIT = "take it out by hand: its place in the line cannot be told"


def look(
    notebook: Path,
    project: Path,
    image: Image,
    attached: Sources | None = None,
    lines: tuple[str, ...] = (),
) -> Adoption:
    """Look a notebook through against a project and an image; nothing of it is run and nothing is fetched.

    `lines` are those of the project's requirements files.

    Raises UsageError where there is no such notebook, ProjectError for what is none.
    """
    cells = read_notebook.cells(notebook)
    said = read_notebook.beside(notebook)
    basket = Basket(sources=_together(said.sources, attached or Sources()))
    ground = Ground(
        project=project,
        notebook=notebook,
        image=image,
        sources=basket.sources,
        unnamed=said.unnamed,
        lines=lines,
    )
    code = calls.code_of((cell.number, cell.source) for cell in cells if cell.kind == "code")
    folders = Folders(code)
    wishes = _wished(code, folders)
    found, edits = _decided(wishes, code, ground, basket)
    for one, edit in files_beside.look(code, ground, basket, folders):
        found.append(one)
        edits += [edit] if edit else []
    for one, change in (*room_makers.look(code, basket.made, folders), *magics.look(code, image)):
        if not any(edit.cell == change.cell and edit.start <= change.start < edit.end for edit in edits):
            found.append(one)
            edits.append(change)
    found += missing_imports.path_folders(code, ground, basket, folders)
    found += missing_imports.look(code, ground, basket, own_names.look(code, ground, folders, wishes.all))
    found += missing_imports.unread(code)
    edits += input_paths.edits(code)
    found += input_paths.resolve(code, replace(ground, sources=basket.sources), basket)
    found += _settings(said)
    changed = tuple(_changed(cell, edits) for cell in cells)
    found += written_secrets.look(cells, changed)
    return Adoption(
        notebook=notebook,
        cells=cells,
        changed=changed,
        found=_ordered(found),
        requirements=(*basket.indexes, *basket.requirements),
        requirement_files=tuple(basket.files),
        packages=tuple(basket.packages),
        checkpoints=tuple(basket.checkpoints),
        modules=tuple(basket.modules),
        served=tuple(sorted((_below(path), name) for path, name in basket.served.items())),
        made=tuple(sorted(basket.made.items())),
        sources=basket.sources,
        accelerator=said.accelerator,
        said_in=said.where,
    )


def _together(said: Sources, attached: Sources) -> Sources:
    def both(name: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*getattr(attached, name), *getattr(said, name))))

    return Sources(
        competitions=both("competitions"),
        datasets=both("datasets"),
        notebooks=both("notebooks"),
        models=both("models"),
    )


def _below(path: str) -> str:
    """Return a served path below the folder that shows everything."""
    return path if path.startswith("input/") else f"working/{path}"


def _changed(cell: Cell, edits: Sequence[Edit]) -> str:
    own = [edit for edit in edits if edit.cell == cell.number]
    return rewrite.applied(cell.source, own) if own else cell.source


def _ordered(found: Iterable[Found]) -> tuple[Found, ...]:
    return tuple(sorted(dict.fromkeys(found), key=lambda one: (one.cell or 1 << 30, one.line)))


@dataclass(frozen=True, kw_only=True)
class _Wished:
    """What a notebook wants from outside."""

    lines: list[ShellLine]
    """In its shell lines."""
    called: list[Wish]
    """In its calls."""

    @property
    def all(self) -> list[Wish]:
        return [*(wish for line in self.lines for wish in line.wishes), *self.called]


def _wished(code: Code, folders: Folders) -> _Wished:
    called = [
        replace(wish, into=placed(wish.kind, wish.into, folders.at(wish.cell, wish.line)))
        for wish in calls.wishes(code)
    ]
    return _Wished(lines=list(shell_lines(code, folders)), called=called)


def _decided(wished: _Wished, code: Code, ground: Ground, basket: Basket) -> tuple[list[Found], list[Edit]]:
    """Decide on all wishes of shell lines and calls, in the notebook's order."""
    lines, called, everything = wished.lines, wished.called, wished.all
    found: list[Found] = []
    edits: list[Edit] = []
    verdicts: dict[int, Verdict] = {}
    for wish in sorted(everything, key=lambda one: (one.cell, one.line, one.start)):
        verdicts[id(wish)] = decide.decide(wish, code, ground, basket, everything)
    for line in lines:
        own = [verdicts[id(wish)] for wish in line.wishes]
        found += [verdict.found for verdict in own]
        edits += _line_edits(line, own, code)
    for _, group in groupby(called, key=lambda wish: (wish.cell, wish.start, wish.end)):
        wishes = list(group)
        own = [verdicts[id(wish)] for wish in wishes]
        off = all(verdict.off for verdict in own)
        edit = _call_edit(wishes[0], own, code) if off else None
        for wish, verdict in zip(wishes, own, strict=True):
            found.append(_by_hand(wish, verdict) if off and not edit else verdict.found)
        edits += [edit] if edit else []
    return found, edits


def _by_hand(wish: Wish, verdict: Verdict) -> Found:
    return found_of(wish, Became.ASKED, verdict.found.value, NO_EDIT)


def _line_edits(line: ShellLine, verdicts: Sequence[Verdict], code: Code) -> Iterator[Edit]:
    """Yield the changes of a shell line: all of it goes, or those of its commands that can."""
    magic, source = line.magic, code.reads[line.wishes[0].cell].source
    if line.alone and all(verdict.off for verdict in verdicts) and not line.script:
        text = source[magic.start + len(magic.before) : magic.end]
        off = rewrite.statement_off(text, magic.indent, magic.before)
        yield Edit(cell=line.wishes[0].cell, start=magic.start, end=magic.end, text=off)
        return
    spans: dict[tuple[int, int], str] = {}
    for wish, verdict in zip(line.wishes, verdicts, strict=True):
        text = verdict.stand_in or "" if wish.detail == ARGUMENT else wish.stand_in
        before = spans.get((wish.start, wish.end), text)
        spans[wish.start, wish.end] = before and text if verdict.off else ""
    for (start, end), text in spans.items():
        if text:
            yield Edit(cell=line.wishes[0].cell, start=start, end=end, text=text)


def _call_edit(wish: Wish, verdicts: Sequence[Verdict], code: Code) -> Edit | None:
    """Return the change of a call, or of one argument of it; None where nothing can stand for it."""
    if wish.start < 0:
        return None
    source = code.reads[wish.cell].source
    if wish.whole and wish.kind is not Kind.KAGGLE:
        text = rewrite.statement_off(source[wish.start : wish.end], rewrite.indent_at(source, wish.start))
        return Edit(cell=wish.cell, start=wish.start, end=wish.end, text=text)
    stand_in = verdicts[0].stand_in or wish.stand_in
    return Edit(cell=wish.cell, start=wish.start, end=wish.end, text=stand_in) if stand_in else None


def _settings(said: read_notebook.Said) -> Iterator[Found]:
    """Yield what of the metadata is worth a word."""

    def one(text: str, became: Became, value: str, remedy: str = "") -> Found:
        return Found(
            kind=Kind.SETTING,
            cell=0,
            line=0,
            text=text,
            became=became,
            value=value,
            remedy=remedy,
            where=said.where,
        )

    if said.internet:
        yield one("enable_internet", Became.SWITCHED_OFF, "the adopted notebook runs without")
    try:
        if machine_shape(said.accelerator):
            yield one("accelerator", Became.KEPT, said.accelerator)
    except OfflineKitError as error:
        remedy = f"{error.what}; write `accelerator` into the configuration: {error.hint}"
        yield one("accelerator", Became.ASKED, said.accelerator, remedy)
    own = said.sources
    for kind, names in (
        ("competition", own.competitions),
        ("dataset", own.datasets),
        ("notebook", own.notebooks),
        ("model", own.models),
    ):
        for name in names:
            yield one(f"{kind}_sources", Became.SOURCE, f"{kind} {name}")
