"""Make data for the hidden run from the public data: other ids, another order, more rows, rare cases."""

import itertools
import random
import re
import shutil
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from offline_kit.core import files
from offline_kit.notebook.runtime import kit_rows
from offline_kit.notebook.runtime.kit_rows import RenamedIds, TableRows
from offline_kit.notebook.runtime.kit_runtime import KitError

_DOUBLED = 500  # rows up to which the hidden run has twice as many; above, half as many: it takes time
_MOST = 20_000
_MOST_TIMES = 10  # the forecast tells what more rows cost
_MAX_CATEGORIES = 50
_MAX_NAMES = 20_000  # in which ids are looked for
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
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
    renamed: RenamedIds = ()
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
    own_sample = next((path for path in covers if sample and path.name == sample.name), sample)
    rows = _count_rows(own_sample)
    names = ", ".join(path.name for path in covers) or "nothing: it has no names of the public data"
    return HiddenData(
        covers=covers, sample=own_sample, rows=rows, changes=(f"from '{folder.name}': {names}",)
    )


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
    maker = _DataMaker(choice.seed)
    try:
        count = _count_rows(sample) or max(
            map(_count_rows, filter(kit_rows.is_test, sorted(data.iterdir()))), default=0
        )
        count = count or len(kit_rows.list_stems(path for path in data.iterdir() if kit_rows.is_test(path)))
        public = min(count, limit or count)
        usual = 2 * public if public <= _DOUBLED else min(public // 2, _MOST)
        wanted = min(rows or usual, _MOST_TIMES * public)
        files.make_folder(folder)
        covers, new_sample = kit_rows.cut_rows(
            data, sample, wanted, folder, _link_target, maker.choose_hidden_ids, maker.shuffle_ids
        )
    except (KitError, OSError, UnicodeDecodeError):
        covers = []
    covered = {path.name for path in covers}
    originals = {old for _, old in maker.pairs}
    unknown = [
        path.name
        for path in sorted(data.iterdir())
        if path.name not in covered and (kit_rows.is_test(path) or _has_named_files(path, originals))
    ]
    if unknown or not maker.pairs or not covers:
        shutil.rmtree(folder, ignore_errors=True)
        names = f"'{unknown[0]}'" if unknown else "its test set"
        return HiddenData(
            sample=sample, changes=(f"nothing but the variable: the ids of {names} are not recognised",)
        )
    folders = [path for path in covers if path.is_dir()]
    tables = [path for path in covers if path.is_file() and kit_rows.is_test(path)]
    file_names = {name for entry in folders for path in entry.rglob("*") for name in (path.name, path.stem)}
    for path in tables:
        maker.drop_categories(path, file_names)
    if rare:
        maker.delete_file(folders)
        maker.lengthen_cell([*tables, *([new_sample] if new_sample and new_sample.parent == folder else [])])
    if choice.unreadable:
        maker.damage_file(folders)
    rows_made = _count_rows(new_sample) or len(maker.pairs)
    changes = (
        f"{rows_made} rows in another order, under other ids such as '{maker.pairs[0][0]}'",
        *maker.changes,
    )
    return HiddenData(
        covers=tuple(covers),
        sample=new_sample,
        rows=rows_made,
        changes=changes,
        rare_changes=tuple(maker.rare_changes),
        renamed=maker.pairs,
        altered_ids=frozenset(maker.altered_ids),
    )


def _has_named_files(path: Path, ids: Collection[str]) -> bool:
    """Whether files of a folder that is not marked as the test set's are named by ids: they would lack the new ones."""
    if not path.is_dir() or path.name.lower().startswith("train"):  # which counts from the same number
        return False
    names = (file.name for file in itertools.islice(path.rglob("*"), _MAX_NAMES))
    return any(kit_rows.split_id(name, ids) for name in names)


def _link_target(source: Path, target: Path) -> None:
    files.link_or_copy(source.resolve(), target)  # a link's own target is not mounted


def _count_rows(path: Path | None) -> int:
    if path is None or not path.is_file() or path.suffix.lower() not in kit_rows.SUFFIXES:
        return 0
    try:
        return len(kit_rows.read_rows(path).rows)
    except (ImportError, ValueError, KitError):
        return 0


@dataclass
class _DataMaker:
    """Chance with a seed, and what it changed."""

    seed: int
    pairs: list[tuple[str, str]] = field(default_factory=list)
    changes: list[str] = field(default_factory=list)
    rare_changes: list[str] = field(default_factory=list)
    altered_ids: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)  # noqa: S311 - data, no secret

    def choose_hidden_ids(self, known_ids: Sequence[str], count: int) -> RenamedIds:
        """Return pairs of a new id and its original, each original as often as any other."""
        if all(_DATE.search(name) for name in known_ids[:100]):
            return ()  # another date is another row
        originals: list[str] = []
        while known_ids and len(originals) < count:
            originals += self.random.sample(known_ids, len(known_ids))
        used_names = set(known_ids)
        prefix = _find_prefix(known_ids)
        start = max((int(name) for name in known_ids if name.isdecimal()), default=0) + 1
        for old in originals[:count]:
            new = self._rename_id(old, prefix, used_names, start)
            used_names.add(new)
            self.pairs.append((new, old))
        return self.pairs

    def shuffle_ids(self, pairs: RenamedIds) -> RenamedIds:
        """Return the ids in another order for each list."""
        return self.random.sample(pairs, len(pairs))

    def _rename_id(self, old: str, prefix: str, used_names: Collection[str], start: int) -> str:
        """Return a new id that looks like the old one: digits stay digits, letters letters."""
        stem, dot, suffix = old.rpartition(".") if re.search(r"\.[A-Za-z]\w{1,4}$", old) else (old, "", "")
        is_number = stem.isdecimal() and str(int(stem)) == stem
        rest = stem[len(prefix) :]
        letters = _LETTERS if re.search("[g-z]", rest.lower()) else _LETTERS[:6]
        name = old
        for attempt in itertools.count():
            if name not in used_names:
                return name
            if is_number:
                new = str(start + self.random.randrange(4 * (len(used_names) + attempt)))
            else:
                new = prefix + "".join(self._change_letter(letter, letters) for letter in rest)
                # There are few short names.
                new += str(self.random.randrange(attempt)) if attempt > _SAME_LENGTH else ""
            name = f"{new}{dot}{suffix}"
        raise AssertionError

    def _change_letter(self, letter: str, letters: str) -> str:
        if letter.isdecimal():
            return self.random.choice("0123456789")
        if letter.lower() in letters:
            new = self.random.choice(letters)
            return new.upper() if letter.isupper() else new
        return letter

    def drop_categories(self, path: Path, file_names: Collection[str]) -> None:
        """Replace the rarest value of each column of categories: code that learns them from the test set sees fewer."""
        table = kit_rows.read_rows(path)
        ids = dict(self.pairs)
        for number, name in enumerate(table.header):
            values = [row[number] if len(row) > number else None for row in table.rows]
            counts = Counter(value for value in values if isinstance(value, str) and value)
            if not 2 <= len(counts) <= min(_MAX_CATEGORIES, len(values) - 1):
                continue
            # The name of a file or an id is no category.
            names = {*file_names, *ids, *ids.values()}
            if any(_is_number(value) or kit_rows.split_id(value, names) for value in counts):
                continue
            usual, rarest = counts.most_common()[0][0], counts.most_common()[-1][0]
            for index, row in enumerate(table.rows):
                if values[index] == rarest:
                    table.rows[index] = [*row[:number], usual, *row[number + 1 :]]
                    self.altered_ids.update(kit_rows.split_id(str(cell), ids) for cell in row)
            self.changes.append(f"no row of '{path.name}' has {name} = '{rarest}'")
        kit_rows.write_rows(path, table)

    def delete_file(self, folders: Sequence[Path]) -> None:
        """Delete the files of one id in the first folder."""
        ids = dict(self.pairs)
        for folder in folders[:1]:
            named = [path for path in sorted(folder.rglob("*")) if kit_rows.split_id(path.name, ids)]
            for path in named[-1:] if len(self.pairs) > 1 else ():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
                self.rare_changes.append(f"'{path.relative_to(folder.parent)}' is missing")
                self.altered_ids.add(kit_rows.split_id(path.name, ids))

    def damage_file(self, folders: Sequence[Path]) -> None:
        """Leave the begin alone of the first file of the test set, an image, a sound or the like if it has one."""
        paths = [path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()]
        paths.sort(key=lambda path: path.suffix.lower() in kit_rows.SUFFIXES)
        if not paths:
            self.changes.append("no file is unreadable: no folder of the test set has any")
            return
        path, ids = paths[0], dict(self.pairs)
        content = path.read_bytes()
        path.unlink()  # it may be a link to the public data
        path.write_bytes(content[: min(_READABLE, len(content) // 2)])
        folder = next(folder for folder in folders if path.is_relative_to(folder))
        name = path.relative_to(folder.parent)
        self.changes.append(f"'{name}' is unreadable: it ends after {path.stat().st_size} bytes")
        self.altered_ids.update(kit_rows.split_id(part, ids) for part in name.parts)

    def lengthen_cell(self, paths: Sequence[Path]) -> None:
        """Make one mask or text much longer."""
        ids = dict(self.pairs)
        for path in paths:
            table = kit_rows.read_rows(path)
            if (cell := _find_text(table, ids)) is None:
                continue
            index, number = cell
            row = list(table.rows[index])
            # Run lengths of a large mask, or a text: tokens take time and memory.
            is_mask = not re.search("[A-Za-z]", row[number])
            length = _LONG if is_mask else _LONGER * len(row[number])
            row[number] = " ".join([row[number]] * (length // (len(row[number]) + 1) + 1))
            table.rows[index] = row
            kit_rows.write_rows(path, table)
            self.altered_ids.update(kit_rows.split_id(str(value), ids) for value in row)
            size = f"{len(row[number]):,} characters"
            self.rare_changes.append(f"'{path.name}' has a cell of {size} in column '{table.header[number]}'")
            return


def _find_text(table: TableRows, ids: Collection[str]) -> tuple[int, int] | None:
    """Return row and column of the longest text that is neither number, category nor id; None for none."""
    best: tuple[int, int] | None = None
    for number in range(len(table.header)):
        for index, row in enumerate(table.rows):
            cell = row[number] if len(row) > number else None
            if not isinstance(cell, str) or " " not in cell or kit_rows.split_id(cell, ids):
                continue
            if best is None or len(cell) > len(table.rows[best[0]][best[1]]):
                best = (index, number)
    return best


def _find_prefix(names: Sequence[str]) -> str:
    """Return the words that all ids begin with, such as "img_": code may look for them."""
    match = re.match(r"(?:[A-Za-z]+[_-])+|[A-Za-z]+(?=\d+$)|[A-Za-z]{3,}", names[0]) if names else None
    return match[0] if match and all(name.startswith(match[0]) for name in names) else ""


def _is_number(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True
