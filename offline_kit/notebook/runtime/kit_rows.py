"""Shorten, lengthen or rename the test set, to rehearse quickly, or on what the hidden run may bring."""

import csv
import importlib
import json
import re
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from .kit_runtime import KitError, read_csv_rows

SUFFIXES = (".csv", ".tsv", ".json", ".parquet")
_LARGEST, _LARGEST_IN_FOLDER = 50_000_000, 20_000_000  # bytes of a list that is read as a whole
_HEAD = 1000  # rows of a larger one
KEYED = ["key", "value"]
"""Header of a JSON file with one object for each id."""
Link = Callable[[Path, Path], object]
RenamedIds = Sequence[tuple[str, str]]
"""Pairs of an id and its original."""
Choose = Callable[[Sequence[str], int], RenamedIds]
Arrange = Callable[[RenamedIds], RenamedIds]


@dataclass(frozen=True)
class TableRows:
    """A table in memory; the cells of Parquet and JSON keep their types."""

    header: list[str]
    rows: list[Sequence[Any]]
    schema: Any = None  # of Parquet


def _link_path(source: Path, target: Path) -> None:
    target.symlink_to(source.resolve())


def is_test(path: Path) -> bool:
    """Whether a name at the top of the data is one of the test set's: test.csv, test_images, arc_test_tasks.json."""
    name = path.name.lower()
    return bool(re.search(r"(?<![a-z])test", name)) and "train" not in name


def limit_rows(root: Path, sample: Path | None, rows: int, scratch: Path) -> Path:
    """Link the data of `root` with a test set of `rows` rows, repeated under new ids if there are fewer."""
    folder = scratch / "rows"
    shutil.rmtree(folder, ignore_errors=True)
    data_folder = folder / root.name
    data_folder.mkdir(parents=True)
    (folder / "cut").mkdir()
    covers, _ = cut_rows(root, sample, rows, folder / "cut")
    covered = {path.name: path for path in covers}
    for path in root.iterdir():
        (data_folder / path.name).symlink_to(covered.get(path.name, path))
    names = ", ".join(covered) or "nothing: no test*.csv, test* folder or sample was found"
    print(f"rows: {rows}, in {names}")
    return data_folder


def choose_ids(known_ids: Sequence[str], rows: int) -> RenamedIds:
    """Return `rows` pairs of an id and its original: the first ids, then the same again renamed."""
    pairs = [(name, name) for name in dict.fromkeys(known_ids[:rows])]
    if len(known_ids) >= rows or not known_ids or len(set(known_ids)) < len(known_ids):
        return pairs
    # Ids that are numbers stay numbers: user code sorts and joins by them.
    all_decimal = all(name.lstrip("-").isdecimal() for name in known_ids)
    span = max(map(int, known_ids)) - min(map(int, known_ids)) + 1 if all_decimal else 0
    for number in range(len(known_ids), rows):
        repetition, name = number // len(known_ids), known_ids[number % len(known_ids)]
        stem, dot, suffix = name.rpartition(".")
        new = f"{stem or suffix}-again{repetition}{dot}{suffix if dot else ''}"
        pairs.append((str(int(name) + repetition * span) if all_decimal else new, name))
    return pairs


def cut_rows(
    data: Path,
    sample: Path | None,
    rows: int,
    target: Path,
    link: Link = _link_path,
    choose: Choose = choose_ids,
    arrange: Arrange = lambda pairs: pairs,
) -> tuple[list[Path], Path | None]:
    """Write copies of the sample, the test set's lists and its folders with `rows` rows into the folder `target`.

    The test set is recognised by its name at the top of the data: lists of rows or JSON objects by id, and folders
    in which files or folders are named by the ids, which `link` brings along. Ids may be those of rows,
    `<id of a file>_<n>`: then files are chosen. Other lists at the top keep their rows besides those of the test set.
    Anything else stays whole. `choose` decides on the ids, `arrange` on their order in each list. Returns what covers
    the originals, and the sample to compare with. Raises KitError for a list without a head.
    """
    paths = sorted(path for path in data.iterdir() if path != sample and "train" not in path.name.lower())
    tables: dict[Path, TableRows] = {}
    for path in [*([sample] if sample else []), *paths]:
        if table := _try_reading(path, None if path == sample else max(rows, _HEAD), needed=path == sample):
            tables[path] = table
    folders = [path for path in paths if path.is_dir() and is_test(path)]
    reference = next((path for path in tables if path == sample or is_test(path)), None)
    row_ids = [str(row[0]) for row in tables[reference].rows] if reference else list_stems(folders)
    file_ids = _find_file_ids(row_ids, folders, [table for path, table in tables.items() if is_test(path)])
    known_ids = list(dict.fromkeys(file_ids))
    pairs = choose(known_ids, max(1, round(rows * len(known_ids) / max(len(row_ids), 1))))
    renamer = _Renamer(pairs, frozenset(known_ids), tables[reference].header[0] if reference else "")
    ids_of: dict[Path, list[str]] = {}
    for path, table in tables.items():
        tables[path], ids_of[path] = renamer.find_rows(path, table)
    if reference and (reference == sample or not _is_large(reference)):
        ids_of[reference] = file_ids
    by_position = [
        path
        for path, ids in ids_of.items()
        if is_test(path) and not ids and len(tables[path].rows) == len(row_ids)
    ]
    covers: list[Path] = []
    for path, table in tables.items():
        ids = file_ids if path in by_position else ids_of[path]
        if ids:
            # Without ids, the order of the rows alone tells which belong together.
            ordered = pairs if path in by_position or (path == reference and by_position) else arrange(pairs)
            new_rows = renamer.rename_rows(table, ids, ordered, keep=not is_test(path))
        elif is_test(path) and path.suffix.lower() == ".csv" and choose is choose_ids:
            own_ids = [str(row[0]) for row in table.rows]
            own = _Renamer(choose_ids(own_ids, rows), frozenset(own_ids), table.header[0])
            new_rows = own.rename_rows(table, own_ids, own.pairs)
        else:
            continue
        write_rows(target / path.name, replace(table, rows=new_rows))
        covers += [target / path.name] if path.parent == data else []
    for folder in folders:
        if renamer.link_tree(folder, target / folder.name, link):
            covers.append(target / folder.name)
        else:
            shutil.rmtree(target / folder.name, ignore_errors=True)
    return covers, target / sample.name if sample in tables else sample


def _is_large(path: Path) -> bool:
    # A cell in memory takes some 60 bytes.
    return path.stat().st_size > _LARGEST


def _try_reading(path: Path, head: int | None, *, needed: bool = False) -> TableRows | None:
    """Return the rows of a list, of a large CSV the first `head`; None if it is no list, damaged, or large otherwise.

    Raises KitError for an empty list that is `needed` or of the test set.
    """
    needed = needed or is_test(path)
    if path.suffix.lower() not in SUFFIXES or not path.is_file():
        return None
    try:
        if head is None or not _is_large(path):
            return read_rows(path)
        return read_rows(path, head) if needed and path.suffix.lower() in (".csv", ".tsv") else None
    except KitError:
        if needed:
            raise
    except (ImportError, ValueError, csv.Error):
        pass
    return None


def list_stems(folders: Iterable[Path]) -> list[str]:
    """Return the names of the files in folders, without suffixes."""
    return list(
        dict.fromkeys(path.stem for folder in folders for path in sorted(folder.rglob("*")) if path.is_file())
    )


def _find_file_ids(row_ids: Sequence[str], folders: Iterable[Path], tables: Iterable[TableRows]) -> list[str]:
    """Return the id of the file or of the object that each row is about: `<file>_<n>` or the id itself."""
    file_names = {name for folder in folders for path in folder.rglob("*") for name in (path.name, path.stem)}
    if any(split_id(name, file_names) for name in row_ids[:_HEAD]):
        return [split_id(name, file_names) or name for name in row_ids]
    cells = {
        str(cell) for table in tables for row in table.rows[:_HEAD] for cell in row if len(str(cell)) < 200
    }
    # Lists may be read in part, so the number of parts decides, not each name.
    for depth in range(8):
        if any(name.rsplit("_", depth)[0] in cells for name in row_ids[:100] if name.count("_") >= depth):
            return [name.rsplit("_", depth)[0] for name in row_ids]
    return list(row_ids)


def split_id(name: str, known_ids: Collection[str]) -> str:
    """Return the id that a name or path is, or begins with before an underscore, hyphen or dot; "" for none."""
    if name not in known_ids:
        name = name.rpartition("/")[2]
    while name not in known_ids:
        cut = max(name.rfind(mark) for mark in "_-.")
        if cut < 0:
            return ""
        name = name[:cut]
    return name


def _rename_cell(cell: Any, old: str, new: str) -> Any:
    """Return a cell with an id in it renamed, and of the same type; None if it does not contain the id."""
    before, mark, after = str(cell).partition(old)
    is_part = before[-1:].isalnum() or after[:1].isalnum()
    if not mark or is_part or isinstance(cell, dict | list | float):
        return None
    return int(new) if isinstance(cell, int) else f"{before}{new}{after}"


class _Renamer:
    """The chosen ids, and what they do to lists and folders."""

    def __init__(self, pairs: RenamedIds, known_ids: frozenset[str], key: str) -> None:
        self.pairs, self.known_ids, self.key = pairs, known_ids, key
        self.copies: dict[str, list[str]] = {}
        for new, old in pairs:
            self.copies.setdefault(old, []).append(new)

    def find_ids(self, table: TableRows, *, in_test_set: bool) -> tuple[list[str], int]:
        """Return the id of each row, "" for rows of others, and the column that has them; [] if no column has ids."""
        columns = [number for number, name in enumerate(table.header) if name == self.key]
        is_decimal = all(name.isdecimal() for name in self.known_ids)
        if not columns and (in_test_set or not is_decimal):
            columns = list(range(len(table.header)))
        for column in columns:
            ids = [self._read_id(row, column) for row in table.rows]
            distinct, name = len({*ids} - {""}), table.header[column]
            is_usual = all(ids) or distinct > len(self.known_ids) / 2
            # Any column of small numbers has some of the ids.
            is_id = is_usual if not is_decimal or name.lower().endswith("id") else distinct == len(ids)
            if any(ids) and (name == self.key or is_id):
                return ids, column
        return [], 0

    def find_rows(self, path: Path, table: TableRows) -> tuple[TableRows, list[str]]:
        """Return a table, of a large list the chosen rows alone, and the id of each row; see `find_ids`."""
        ids, column = self.find_ids(table, in_test_set=is_test(path))
        if ids and is_test(path) and _is_large(path):
            chosen = (row for row in iterate_rows(path) if self._read_id(row, column) in self.copies)
            table = replace(table, rows=[*chosen])
            ids = [self._read_id(row, column) for row in table.rows]
        return table, ids

    def _read_id(self, row: Sequence[Any], column: int) -> str:
        return split_id(str(row[column]), self.known_ids) if len(row) > column else ""

    def rename_rows(
        self, table: TableRows, ids: Sequence[str], pairs: RenamedIds, *, keep: bool = False
    ) -> list[Sequence[Any]]:
        """Return the rows of ids that stay in their own order, then the renamed ones; `keep` those of no id."""
        own_ids = {old for new, old in pairs if new == old}
        rows = [
            row for row, name in zip(table.rows, ids, strict=True) if name in own_ids or (keep and not name)
        ]
        by_id: dict[str, list[Sequence[Any]]] = {}
        for row, name in zip(table.rows, ids, strict=True):
            by_id.setdefault(name, []).append(row)
        samples = [(row, name) for row, name in zip(table.rows, ids, strict=True) if name][:1000]
        columns = [
            number
            for number in range(len(table.header))
            if all(
                len(row) > number and _rename_cell(row[number], name, "0") is not None
                for row, name in samples
            )
        ]
        for new, old in pairs:
            for row in by_id.get(old, ()) if new != old else ():
                renamed = list(row)
                for number in columns:
                    cell = _rename_cell(row[number], old, new)
                    renamed[number] = row[number] if cell is None else cell
                rows.append(renamed)
        return rows

    def link_tree(self, folder: Path, target: Path, link: Link) -> int:
        """Bring along what the ids name, under the new ids, and what no id names; return the number of the former."""
        count = 0
        for path in sorted(folder.iterdir()):
            # An id is a whole name, or what stands before the suffix.
            old = split_id(path.name, self.known_ids)
            for new in self.copies.get(old, ()) if old else ("",):
                renamer = _Renamer([(new, old)], frozenset({old}), self.key) if old else self
                new_path = target / (_rename_cell(path.name, old, new) if old else path.name)
                target.mkdir(exist_ok=True, parents=True)
                if path.is_dir():
                    count += renamer.link_tree(path, new_path, link)
                elif not renamer._rename_list(path, new_path):
                    link(path, new_path)
                count += bool(old)
        return count

    def _rename_list(self, path: Path, target: Path) -> bool:
        """Write a list in a folder with its ids renamed; return whether all of its rows have one."""
        is_renamed = any(new != old for new, old in self.pairs)
        if not is_renamed or path.stat().st_size > _LARGEST_IN_FOLDER:
            return False
        table = _try_reading(path, None)
        ids = self.find_ids(table, in_test_set=True)[0] if table else []
        if not table or not ids or "" in ids:
            return False
        write_rows(target, replace(table, rows=self.rename_rows(table, ids, self.pairs)))
        return True


def iterate_rows(path: Path) -> Iterator[list[str]]:
    """Yield the rows of a CSV or TSV file, its header first, without empty ones."""
    with path.open(newline="", encoding="utf-8-sig") as stream:
        yield from filter(None, read_csv_rows(stream, "\t" if path.suffix.lower() == ".tsv" else ","))


def read_rows(path: Path, limit: int | None = None) -> TableRows:
    """Return the rows of a list, at most `limit` of a CSV; [] of a JSON file that is no list.

    Raises KitError if it is empty.
    """
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        table = importlib.import_module("pyarrow.parquet").read_table(path)
        columns = [column.to_pylist() for column in table.columns]
        return TableRows(list(table.column_names), list(map(list, zip(*columns, strict=True))), table.schema)
    if suffix == ".json":
        content = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(content, dict):
            return TableRows(KEYED, [list(item) for item in content.items()])
        objects = (
            content if isinstance(content, list) and all(isinstance(row, dict) for row in content) else []
        )
        header = list(objects[0]) if objects else [""]
        return TableRows(header, [[row.get(name) for name in header] for row in objects])
    rows = [*islice(iterate_rows(path), limit and limit + 1)]
    if not rows:
        raise KitError(f"'{path}' is empty", code="table-empty")
    return TableRows(rows[0], [*rows[1:]])


def write_rows(path: Path, table: TableRows) -> None:
    """Write a table in the format of its suffix."""
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        columns = [list(column) for column in zip(*table.rows, strict=True)] or [[] for _ in table.header]
        arrow = importlib.import_module("pyarrow")
        written = arrow.table(dict(zip(table.header, columns, strict=True)), schema=table.schema)
        importlib.import_module("pyarrow.parquet").write_table(written, path)
    elif suffix == ".json":
        objects = [dict(zip(table.header, row, strict=True)) for row in table.rows]
        content = {row[0]: row[1] for row in table.rows} if table.header == KEYED else objects
        path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    else:
        with path.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream, delimiter="\t" if suffix == ".tsv" else ",", lineterminator="\n")
            writer.writerows([table.header, *table.rows])
