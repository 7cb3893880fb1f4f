"""Make data for the hidden run from the public data: other ids, another order, more rows, rare cases."""

import itertools
import os
import random
import re
import shutil
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from offline_kit.core import files
from offline_kit.notebook.runtime import kit_rows
from offline_kit.notebook.runtime.kit_rows import RenamedIds, TableRows, split_id
from offline_kit.notebook.runtime.kit_runtime import KitError

_DOUBLED = 500  # rows up to which the hidden run has twice as many; above, half as many: it takes time
_MOST = 20_000
_MOST_TIMES = 10  # the forecast tells what more rows cost
_MAX_CATEGORIES = 50
_MAX_NAMES = 20_000  # in which ids are looked for
_DIGITS, _LETTERS = "0123456789", "abcdefghijklmnopqrstuvwxyz"
_SAME_LENGTH = 20  # attempts at a name of the same length
_LONG = 140_000  # characters; Python's csv refuses more than 131,072 in a cell unless told otherwise
_LONGER = 10  # times the longest text
_AUTO = re.compile(r"auto(?::unreadable)?(?::(\d+))?(?::unreadable)?")
_READABLE = 100  # bytes of an unreadable file: what says of which format it is
_DATE = re.compile(r"(?:19|20)\d\d[-_/.]?(?:0[1-9]|1[0-2])[-_/.]?(?:0[1-9]|[12]\d|3[01])")


@dataclass(frozen=True, kw_only=True)
class HiddenData:
    """Data for a hidden run."""

    covers: tuple[Path, ...] = ()  # what replaces the entries of the same names at the top of the public data
    sample: Path | None
    rows: int = 0  # of the sample, else of the test set; 0 if unknown
    changes: tuple[str, ...] = ()
    rare_changes: tuple[str, ...] = ()
    """What a hidden test set may well lack: without them, the run is tried again if it failed."""
    originals: Mapping[str, str] = field(default_factory=dict)  # by new id
    altered_ids: frozenset[str] = frozenset()  # those of rows in which more than the id changed


@dataclass(frozen=True, kw_only=True)
class DataChoice:
    """How data of `auto` is made: `auto`, `auto:<seed>`, `auto:unreadable`, or both in any order."""

    seed: int = 0
    unreadable: bool = False  # one file of the test set is damaged


def parse_auto(hidden: str) -> DataChoice | None:
    """Return what a request for hidden data says; None if it is a folder."""
    match = _AUTO.fullmatch(hidden)
    return DataChoice(seed=int(match[1] or 0), unreadable="unreadable" in hidden) if match else None


def overlay_folder(data: Path, folder: Path, sample: Path | None) -> HiddenData:
    """Return a folder of the user's, whose entries replace those of the public data."""
    covers = tuple(path for path in sorted(folder.iterdir()) if (data / path.name).exists())
    sample, rows = next((path for path in covers if sample and path.name == sample.name), sample), 0
    with suppress(ImportError, OSError, ValueError, KitError):
        rows = len(kit_rows.read_rows(sample).rows) if sample else 0
    names = ", ".join(path.name for path in covers) or "nothing: it has no names of the public data"
    return HiddenData(covers=covers, sample=sample, rows=rows, changes=(f"from '{folder.name}': {names}",))


def make_hidden_data(
    data: Path,
    sample: Path | None,
    folder: Path,
    *,
    choice: DataChoice,
    limit: int | None,
    rows: int | None,
    rare: bool,
) -> HiddenData:
    """Write a varied test set to `folder`; nothing covers the public data if it is not recognised as a whole.

    `limit` is the number of rows of the public run, `rows` that of the real hidden test set if it is known. The same
    choice makes the same data. `rare` adds an id without a file and one long cell.
    """
    maker, covers, new_sample, new_rows = _DataMaker(choice.seed), list[Path](), sample, 0
    with suppress(KitError, OSError, UnicodeDecodeError):
        test_set = kit_rows.read_test_set(data, sample, 2 * _MOST)
        count = len(test_set.file_ids)
        public = min(count, limit or count)
        usual = 2 * public if public <= _DOUBLED else min(public // 2, _MOST)
        pairs = maker.choose_ids(test_set.ids, test_set.count_ids(min(rows or usual, _MOST_TIMES * public)))
        tables = test_set.rename_tables(pairs, maker.shuffle)
        lists = [path for path in tables if path.parent == data and kit_rows.is_test(path)]
        file_names = kit_rows.list_names(test_set.folders)
        for path in lists:
            maker.drop_categories(path, tables[path], file_names)
        if rare:
            maker.lengthen_cell({path: tables[path] for path in [*lists, sample] if path in tables})
        new_rows = len(tables[sample].rows) if sample in tables else len(pairs)
        covers, new_sample = test_set.write(tables, pairs, files.make_folder(folder), _link_target)
    covered = {path.name for path in covers}
    unknown = [
        path.name
        for path in sorted(data.iterdir())
        if path.name not in covered and (kit_rows.is_test(path) or maker.names_files_in(path))
    ]
    if unknown or not covers or not maker.originals:
        shutil.rmtree(folder, ignore_errors=True)
        names = f"'{unknown[0]}'" if unknown else "its test set"
        return HiddenData(
            sample=sample, changes=(f"nothing but the variable: the ids of {names} are not recognised",)
        )
    folders = [path for path in covers if path.is_dir()]
    if rare:
        maker.delete_file(folders)
    if choice.unreadable:
        maker.damage_file(folders)
    example = next(iter(maker.originals))
    return HiddenData(
        covers=tuple(covers),
        sample=new_sample,
        rows=new_rows,
        changes=(f"{new_rows} rows in another order, under other ids such as '{example}'", *maker.changes),
        rare_changes=tuple(maker.rare_changes),
        originals=maker.originals,
        altered_ids=frozenset(maker.altered_ids),
    )


def _link_target(source: Path, target: Path) -> None:
    files.link_or_copy(source.resolve(), target)  # a link's own target is not mounted


class _DataMaker:
    """Chance with a seed, and what it changed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)  # noqa: S311 - data, no secret
        self.originals: dict[str, str] = {}  # ids by new id
        self.changes: list[str] = []
        self.rare_changes: list[str] = []
        self.altered_ids: set[str] = set()

    def choose_ids(self, known_ids: Sequence[str], count: int) -> RenamedIds:
        """Return pairs of a new id and its original, each original as often as any other."""
        if all(_DATE.search(name) for name in known_ids[:100]):
            return ()  # another date is another row
        chosen: list[str] = []
        while len(chosen) < count:
            chosen += self.random.sample(known_ids, len(known_ids))
        # Code may look for words that all ids begin with, such as "img_".
        prefix = re.match("[A-Za-z_-]*", os.path.commonprefix(known_ids))  # noqa: RUF071
        start = max((int(name) for name in known_ids if name.isdecimal()), default=0) + 1
        taken = set(known_ids)
        for old in chosen[:count]:
            new = self._rename_id(old, prefix[0] if prefix else "", taken, start)
            taken.add(new)
            self.originals[new] = old
        return [*self.originals.items()]

    def shuffle(self, pairs: RenamedIds) -> RenamedIds:
        """Return pairs in another order."""
        return self.random.sample(pairs, len(pairs))

    def _rename_id(self, old: str, prefix: str, taken: Collection[str], start: int) -> str:
        """Return a new id that looks like the old one: digits stay digits, letters letters, hex digits those."""
        suffix = match[0] if (match := re.search(r"\.[A-Za-z]\w{1,4}$", old)) else ""
        stem = old.removesuffix(suffix)
        rest = stem[len(prefix) :]
        letters = _LETTERS if re.search("[g-zG-Z]", rest) else _LETTERS[:6]
        for attempt in itertools.count():
            if stem.isdecimal() and str(int(stem)) == stem:
                new = str(start + self.random.randrange(4 * (len(taken) + attempt)))
            else:
                new = prefix + "".join(self._change_letter(letter, letters) for letter in rest)
                # There are few short names.
                new += str(self.random.randrange(attempt)) if attempt > _SAME_LENGTH else ""
            if f"{new}{suffix}" not in taken:
                return f"{new}{suffix}"
        raise AssertionError

    def _change_letter(self, letter: str, letters: str) -> str:
        kind = _DIGITS if letter.isdecimal() else letters if letter.lower() in letters else letter
        new = self.random.choice(kind)
        return new.upper() if letter.isupper() else new

    def names_files_in(self, folder: Path) -> bool:
        """Whether files of a folder that is not marked as the test set's are named by ids: they would lack the new ones."""
        if not folder.is_dir() or folder.name.lower().startswith(
            "train"
        ):  # which counts from the same number
            return False
        known_ids = set(self.originals.values())
        paths = itertools.islice(folder.rglob("*"), _MAX_NAMES)
        return any(split_id(path.name, known_ids) for path in paths)

    def drop_categories(self, path: Path, table: TableRows, file_names: Collection[str]) -> None:
        """Replace the rarest value of each column of categories: code that learns them from the test set sees fewer."""
        # The name of a file or an id is no category.
        names = {*file_names, *self.originals, *self.originals.values()}
        for number, name in enumerate(table.header):
            cells = [row[number] if len(row) > number else None for row in table.rows]
            counts = Counter(cell for cell in cells if isinstance(cell, str) and cell).most_common()
            if not 2 <= len(counts) <= min(_MAX_CATEGORIES, len(cells) - 1):
                continue
            if any(_is_number(value) or split_id(value, names) for value, _ in counts):
                continue
            usual, rarest = counts[0][0], counts[-1][0]
            for index, cell in enumerate(cells):
                if cell == rarest:
                    self._change_cell(table, index, number, usual)
            self.changes.append(f"no row of '{path.name}' has {name} = '{rarest}'")

    def lengthen_cell(self, tables: Mapping[Path, TableRows]) -> None:
        """Make the longest mask or text of the first table that has one much longer."""
        for path, table in tables.items():
            texts = [
                (len(cell), index, number)
                for index, row in enumerate(table.rows)
                for number, cell in enumerate(row[: len(table.header)])
                if isinstance(cell, str) and " " in cell and not split_id(cell, self.originals)
            ]
            if texts:
                length, index, number = max(texts)
                cell = str(table.rows[index][number])
                # Run lengths of a large mask, or a text: tokens take time and memory.
                wanted = _LONGER * length if re.search("[A-Za-z]", cell) else _LONG
                longer = " ".join([cell] * (wanted // (length + 1) + 1))
                self._change_cell(table, index, number, longer)
                column = f"column '{table.header[number]}'"
                self.rare_changes.append(
                    f"'{path.name}' has a cell of {len(longer):,} characters in {column}"
                )
                return

    def _change_cell(self, table: TableRows, index: int, number: int, cell: str) -> None:
        row = table.rows[index]
        table.rows[index] = [*row[:number], cell, *row[number + 1 :]]
        self.altered_ids.update(split_id(str(other), self.originals) for other in row)

    def delete_file(self, folders: Sequence[Path]) -> None:
        """Delete the files of one id in the first folder."""
        paths = sorted(folders[0].rglob("*")) if folders and len(self.originals) > 1 else []
        for path in [path for path in paths if split_id(path.name, self.originals)][-1:]:
            files.remove_path(path)
            self.rare_changes.append(f"'{path.relative_to(folders[0].parent)}' is missing")
            self.altered_ids.add(split_id(path.name, self.originals))

    def damage_file(self, folders: Sequence[Path]) -> None:
        """Leave the begin alone of the first file of the test set, an image, a sound or the like if it has one."""
        paths = [path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()]
        path = min(paths, key=lambda path: path.suffix.lower() in kit_rows.SUFFIXES, default=None)
        if path is None:
            self.changes.append("no file is unreadable: no folder of the test set has any")
            return
        content = path.read_bytes()[:_READABLE]
        path.unlink()  # it may be a link to the public data
        path.write_bytes(content[: -len(content) // 2] if len(content) < _READABLE else content)
        name = path.relative_to(next(folder for folder in folders if path.is_relative_to(folder)).parent)
        self.changes.append(f"'{name}' is unreadable: it ends after {path.stat().st_size} bytes")
        self.altered_ids.update(split_id(part, self.originals) for part in name.parts)


def _is_number(value: str) -> bool:
    with suppress(ValueError):
        float(value)
        return True
    return False
