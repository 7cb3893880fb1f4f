"""Shorten or lengthen the test set, to rehearse quickly, or as long as the hidden run will take."""

import csv
import shutil
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from pathlib import Path

from .kit_runtime import KitError, read_csv_rows

TEST = "[tT][eE][sS][tT]*"
"""How the test set's lists and folders are called, at the top of the data."""
Link = Callable[[Path, Path], object]
RenamedIds = Sequence[tuple[str, str]]
"""Pairs of an id and its original."""


def _link_path(source: Path, target: Path) -> None:
    target.symlink_to(source.resolve())


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


def cut_rows(
    data: Path, sample: Path | None, rows: int, target: Path, link: Link = _link_path
) -> tuple[list[Path], Path | None]:
    """Write copies of the sample, the test set's lists and its folders with `rows` rows into the folder `target`.

    The test set is recognised by its name at the top of the data: test*.csv (rows whose id is among the
    sample's, else simply the first ones) and folders called test* whose files are named by the ids, which
    `link` brings along. Anything else stays whole. Returns what covers the originals, and the sample to
    compare with. Raises KitError for a list without a head.
    """
    covers: list[Path] = []
    ids: RenamedIds = []
    key = ""
    if sample:
        head, *first = _read_csv(sample, rows)
        key, ids = head[0], choose_ids([row[0] for row in first], rows)
        cut = _write_csv(target / sample.name, [head, *_repeat_rows(first, 0, ids)])
        covers += [cut] if sample.parent == data else []
        sample = cut
    # Several lists may belong together (test.csv, test_meta.csv): all get the rows of the same ids.
    for path in sorted(data.glob(f"{TEST}.csv")):
        table = _read_matching(path, key, ids) if ids else []
        if len(table) < 2:
            head, *first = _read_csv(path, rows)
            own = choose_ids([row[0] for row in first], rows)
            table = [head, *_repeat_rows(first, 0, own)]
            ids = ids or own
        covers.append(_write_csv(target / path.name, table))
    for folder in sorted(path for path in data.glob(TEST) if path.is_dir()):
        if _link_files(folder, target / folder.name, ids, link):
            covers.append(target / folder.name)
    return covers, sample


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


def _repeat_rows(rows: Sequence[Sequence[str]], column: int, ids: RenamedIds) -> list[Sequence[str]]:
    """Return the rows that the ids name in their own order, then those that repeat them."""
    own_ids = {old for new, old in ids if new == old}
    by_id: dict[str, list[Sequence[str]]] = {}
    for row in rows:
        by_id.setdefault(row[column], []).append(row)
    repeated = [row for row in rows if row[column] in own_ids]
    for new, old in ids:
        if new != old:
            repeated += [[*row[:column], new, *row[column + 1 :]] for row in by_id.get(old, ())]
    return repeated


def _link_files(folder: Path, target: Path, ids: RenamedIds, link: Link) -> int:
    """Bring along the files that the ids name, under the new ids; return how many."""
    by_name: dict[str, list[Path]] = {}
    for path in folder.iterdir():
        if path.is_file():
            for name in {path.name, path.stem}:
                by_name.setdefault(name, []).append(path)
    count = 0
    for new, old in ids:
        for path in by_name.get(old, ()):
            target.mkdir(exist_ok=True)
            # An id is a whole file name, or what stands before the suffix.
            link(path, target / (new if path.name == old else f"{new}{path.suffix}"))
            count += 1
    return count


def _read_csv(path: Path, rows: int) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8-sig") as stream:
        table = list(islice((row for row in read_csv_rows(stream) if row), rows + 1))
    if not table:
        raise KitError(f"'{path}' is empty", code="table-empty")
    return table


def _read_matching(path: Path, key: str, ids: RenamedIds) -> list[Sequence[str]]:
    """Return the header and the rows of these ids; empty if the table has no such column."""
    original_ids = {old for _, old in ids}
    with path.open(newline="", encoding="utf-8-sig") as stream:
        reader = read_csv_rows(stream)
        head = next(reader, [])
        if key not in head:
            return []
        column = head.index(key)
        rows = [row for row in reader if len(row) > column and row[column] in original_ids]
    return [head, *_repeat_rows(rows, column, ids)]


def _write_csv(path: Path, table: Iterable[Sequence[str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream, lineterminator="\n").writerows(table)
    return path
