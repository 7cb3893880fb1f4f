"""Shorten, lengthen or rename the test set, to rehearse quickly, or on what the hidden run may bring."""

import csv
import importlib
import json
import re
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
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
Copies = Mapping[str, Sequence[str]]
"""New ids by each known id; [] for those that are left out."""


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
    folder = scratch / "rows" / root.name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    covers, _ = cut_rows(root, sample, rows, folder)
    names = [path.name for path in covers]
    for path in root.iterdir():
        if path.name not in names:
            (folder / path.name).symlink_to(path)
    nothing = "nothing: no test*.csv, test* folder or sample was found"
    print(f"rows: {rows}, in {', '.join(names) or nothing}")
    return folder


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
    data: Path, sample: Path | None, rows: int, target: Path, link: Link = _link_path
) -> tuple[list[Path], Path | None]:
    """Write copies of the sample, the test set's lists and its folders with `rows` rows into the folder `target`.

    Returns what covers the originals, and the sample to compare with; see `read_test_set`.
    """
    test_set = read_test_set(data, sample, rows)
    pairs = choose_ids(test_set.ids, test_set.count_ids(rows))
    return test_set.write(test_set.rename_tables(pairs), pairs, target, link)


def read_test_set(data: Path, sample: Path | None, rows: int) -> "PublicTestSet":
    """Read the test set of a competition; of a list that is too large for memory so many rows.

    It is recognised by its name at the top of the data: lists of rows or JSON objects by id, and folders in which files
    or folders are named by the ids. Ids may be those of rows, `<id of a file>_<n>`: then files are chosen. Raises
    KitError for a list without a head.
    """
    paths = sorted(path for path in data.iterdir() if path != sample and "train" not in path.name.lower())
    tables: dict[Path, TableRows] = {}
    for path in [*([sample] if sample else []), *paths]:
        if table := _try_reading(path, None if path == sample else max(rows, _HEAD), needed=path == sample):
            tables[path] = table
    folders = [path for path in paths if path.is_dir() and is_test(path)]
    reference = next((table for path, table in tables.items() if path == sample or is_test(path)), None)
    row_ids = [str(row[0]) for row in reference.rows] if reference else _list_stems(folders)
    file_ids = _find_file_ids(row_ids, folders, [table for path, table in tables.items() if is_test(path)])
    return PublicTestSet(data, sample, tables, folders, reference.header[0] if reference else "", file_ids)


@dataclass(frozen=True)
class PublicTestSet:
    """The lists of a test set, and its folders."""

    data: Path
    sample: Path | None
    tables: dict[Path, TableRows]  # also lists at the top of the data that are not the test set's alone
    folders: list[Path]
    key: str  # name of the column with the ids, in the sample or the first list
    file_ids: list[str]  # of the files or objects that its rows are about

    @property
    def ids(self) -> list[str]:
        """The ids, each once."""
        return list(dict.fromkeys(self.file_ids))

    def count_ids(self, rows: int) -> int:
        """Return how many ids have so many rows."""
        return max(1, round(rows * len(self.ids) / max(len(self.file_ids), 1)))

    def rename_tables(
        self, pairs: RenamedIds, arrange: Callable[[RenamedIds], RenamedIds] = lambda pairs: pairs
    ) -> dict[Path, TableRows]:
        """Return the lists that have ids, with the rows of these ids under their new names.

        `arrange` decides on their order in each list. Lists that are not the test set's keep their other rows.
        """
        named = {path: self._name_rows(path, table, pairs) for path, table in self.tables.items()}
        by_position = [
            path
            for path, (table, ids) in named.items()
            if not ids and is_test(path) and len(table.rows) == len(self.file_ids)
        ]
        renamed = {}
        for path, (table, ids) in named.items():
            if ids or path in by_position:
                # Without ids, the order of the rows alone tells which belong together.
                ordered = pairs if by_position else arrange(pairs)
                renamed[path] = _rename_rows(table, ids or self.file_ids, ordered, keep=not is_test(path))
        return renamed

    def _name_rows(self, path: Path, table: TableRows, pairs: RenamedIds) -> tuple[TableRows, list[str]]:
        """Return a table, of a large list the chosen rows alone, and the id of each row; see `_find_ids`."""
        copies = self._list_copies(pairs)
        ids, column = _find_ids(table, copies, self.key, in_test_set=is_test(path))
        if ids and path != self.sample and is_test(path) and _is_large(path):
            chosen = (row for row in iterate_rows(path) if copies.get(_read_id(row, column, copies)))
            table = replace(table, rows=[*chosen])
            ids = [_read_id(row, column, copies) for row in table.rows]
        return table, ids

    def write(
        self, tables: Mapping[Path, TableRows], pairs: RenamedIds, target: Path, link: Link = _link_path
    ) -> tuple[list[Path], Path | None]:
        """Write lists into a folder, and with `link` the test set's folders with the files of these ids.

        Returns what covers the originals, and the sample to compare with. Anything else stays whole.
        """
        for path, table in tables.items():
            write_rows(target / path.name, table)
        covers = [target / path.name for path in tables if path.parent == self.data]
        for folder in self.folders:
            if _link_tree(folder, target / folder.name, self._list_copies(pairs), link):
                covers.append(target / folder.name)
            else:
                shutil.rmtree(target / folder.name, ignore_errors=True)
        sample = self.sample
        return covers, target / sample.name if sample and sample in tables else sample

    def _list_copies(self, pairs: RenamedIds) -> Copies:
        copies: dict[str, list[str]] = {name: [] for name in self.ids}
        for new, old in pairs:
            copies[old].append(new)
        return copies


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


def list_names(folders: Iterable[Path]) -> set[str]:
    """Return the names of what is in these folders, with suffixes and without."""
    return {name for folder in folders for path in folder.rglob("*") for name in (path.name, path.stem)}


def _list_stems(folders: Iterable[Path]) -> list[str]:
    paths = [path for folder in folders for path in sorted(folder.rglob("*"))]
    return list(dict.fromkeys(path.stem for path in paths if path.is_file()))


def _find_file_ids(row_ids: Sequence[str], folders: Iterable[Path], tables: Iterable[TableRows]) -> list[str]:
    """Return the id of the file or of the object that each row is about: `<file>_<n>` or the id itself."""
    file_names = list_names(folders)
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


def _find_ids(table: TableRows, copies: Copies, key: str, *, in_test_set: bool) -> tuple[list[str], int]:
    """Return the id of each row, "" for rows of others, and the column that has them; [] if no column has ids."""
    columns = [number for number, name in enumerate(table.header) if name == key]
    is_decimal = all(name.isdecimal() for name in copies)
    if not columns and (in_test_set or not is_decimal):
        columns = list(range(len(table.header)))
    for column in columns:
        ids = [_read_id(row, column, copies) for row in table.rows]
        distinct, name = len({*ids} - {""}), table.header[column]
        is_usual = all(ids) or distinct > len(copies) / 2
        # Any column of small numbers has some of the ids.
        is_id = is_usual if not is_decimal or name.lower().endswith("id") else distinct == len(ids)
        if any(ids) and (name == key or is_id):
            return ids, column
    return [], 0


def _read_id(row: Sequence[Any], column: int, known_ids: Collection[str]) -> str:
    return split_id(str(row[column]), known_ids) if len(row) > column else ""


def _rename_rows(table: TableRows, ids: Sequence[str], pairs: RenamedIds, *, keep: bool = False) -> TableRows:
    """Return the rows of ids that stay in their own order, then the renamed ones; `keep` those of no id."""
    named_rows = [*zip(table.rows, ids, strict=True)]
    kept_ids = {old for new, old in pairs if new == old} | ({""} if keep else set())
    rows = [row for row, name in named_rows if name in kept_ids]
    by_id: dict[str, list[Sequence[Any]]] = {}
    for row, name in named_rows:
        by_id.setdefault(name, []).append(row)
    samples = [(row, name) for row, name in named_rows if name][:_HEAD]
    columns = [
        number
        for number in range(len(table.header))
        if all(
            len(row) > number and _rename_cell(row[number], name, "0") is not None for row, name in samples
        )
    ]
    for new, old in pairs:
        for row in by_id.get(old, ()) if new != old else ():
            renamed = list(row)
            for number in columns:
                cell = _rename_cell(row[number], old, new)
                renamed[number] = row[number] if cell is None else cell
            rows.append(renamed)
    return replace(table, rows=rows)


def _link_tree(folder: Path, target: Path, copies: Copies, link: Link) -> int:
    """Bring along what the ids name, under the new ids, and what no id names; return the number of the former."""
    count = 0
    for path in sorted(folder.iterdir()):
        # An id is a whole name, or what stands before the suffix.
        old = split_id(path.name, copies)
        for new in copies[old] if old else ("",):
            new_path = target / (_rename_cell(path.name, old, new) if old else path.name)
            own_copies: Copies = {old: [new]} if old else copies
            target.mkdir(exist_ok=True, parents=True)
            if path.is_dir():
                count += _link_tree(path, new_path, own_copies, link)
            elif not _rename_list(path, new_path, own_copies):
                link(path, new_path)
            count += bool(old)
    return count


def _rename_list(path: Path, target: Path, copies: Copies) -> bool:
    """Write a list in a folder with its ids renamed; return whether all of its rows have one."""
    pairs = [(new, old) for old, names in copies.items() for new in names]
    if path.stat().st_size > _LARGEST_IN_FOLDER or all(new == old for new, old in pairs):
        return False
    table = _try_reading(path, None)
    ids = _find_ids(table, copies, "", in_test_set=True)[0] if table else []
    if not table or not ids or "" in ids:
        return False
    write_rows(target, _rename_rows(table, ids, pairs))
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
