"""Explain a failed cell: find the frame in the user's own code, the missing column or file, the failed script."""

import csv
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path, PurePosixPath

from offline_kit.core.sandboxes.box import Mount
from offline_kit.rehearsal.causes import Explanation
from offline_kit.rehearsal.execution import ExecutedCell

_FRAME = re.compile(
    r"^(?:File (?P<path>.+?):(?P<line>\d+)(?:, in (?P<function>.+))?|(?:Cell|Input) In ?\[.*)$"
)
_LIBRARY = re.compile(r"/(?:site|dist)-packages/|/lib/python3\.\d+/|^<")
_OVERLAY = "/offline-kit/site/"
"""The notebook installs the kit's packages here, including the project's own."""
_CODE = re.compile(r"^.*/offline-kit/kit/code/")
_TRACEBACK = "Traceback (most recent call last)"
_STARTS_SCRIPT = re.compile(r"(?m)^\s*[!%].*\b(?:python[\d.]*|run|bash|sh)\b|\bsubprocess\b|os\.system")
_COLUMN = (
    re.compile(r"KeyError: ['\"]?\[?'([^'\n]+)'\]?(?: not (?:in index|found in axis))?"),
    re.compile(r"None of \[Index\(\['([^'\n]+)'"),
    re.compile(r"Usecols do not match columns.*?\['([^'\n]+)'"),
    re.compile(
        r"ColumnNotFoundError: (?:unable to find column )?\"?'?([\w .-]+?)['\"]?(?:;|$)", re.MULTILINE
    ),
)
_NO_FILE = re.compile(r"No such file or directory: '?(/[^'\n]+)")
_MAX_NAMES = 8  # in a message


def find_own_frame(error: Sequence[str], own_packages: Collection[str] = ()) -> tuple[str, ...]:
    """Return the innermost frame of a traceback that lies in a file of the user's, with its lines of code.

    Frames of libraries and of cells are none (a failing cell is quoted anyway); `own_packages` has the import names of
    the packages that the kit installs and that are the project's own.
    """
    frames: list[list[str]] = []
    for line in error:
        if _FRAME.match(line):
            frames.append([line])
        elif frames and line.strip():
            frames[-1].append(line)
        elif frames:
            frames.append([])  # an empty line ends a frame
    for frame in reversed(frames):
        match = _FRAME.match(frame[0]) if frame else None
        if match and match["path"] and _is_own_file(match["path"], own_packages):
            location = f"{_CODE.sub('', match['path'])}:{match['line']}" + (
                f", in {match['function']}" if match["function"] else ""
            )
            return (f"in your code, {location}:", *(f"    {line}" for line in frame[1:]))
    return ()


def _is_own_file(path: str, own_packages: Collection[str]) -> bool:
    if _OVERLAY in path:
        top = path.partition(_OVERLAY)[2].partition("/")[0]
        return top.removesuffix(".py") in own_packages
    return not _LIBRARY.search(path)


def explain_missing_column(cell: ExecutedCell, inputs: Iterable[Mount]) -> Explanation | None:
    """Explain an error about a column that the test set lacks; None for other errors."""
    column = next((match[1] for pattern in _COLUMN if (match := pattern.search(cell.message))), None)
    if column is None:
        return None
    tables = {path.name: header for path in _list_tables(inputs) if (header := _read_header(path))}
    test = next(((name, columns) for name, columns in tables.items() if "test" in name), None)
    train = next((name for name, columns in tables.items() if "train" in name and column in columns), None)
    if test is None or column in test[1]:
        return None
    near = get_close_matches(column, test[1], n=1)
    from_table = any(word in line for line in cell.error for word in ("pandas", "polars"))
    if not (train or near or from_table):
        return None  # it may as well be the key of a dict
    remaining = f" and {len(test[1]) - _MAX_NAMES} more" if len(test[1]) > _MAX_NAMES else ""
    cause = f"'{test[0]}' has no column '{column}'; it has {', '.join(test[1][:_MAX_NAMES])}{remaining}"
    if train:
        return Explanation(
            code="column-not-in-test-set",
            cause=f"{cause}. '{train}' has it: it is known only in training",
            remedy=f"do not use '{column}' when predicting, or compute it from columns of '{test[0]}'",
        )
    meant = f"'{near[0]}'" if near else "an existing column"
    return Explanation(
        code="column-not-in-test-set", cause=cause, remedy=f"use {meant}, or add '{column}' before using it"
    )


def explain_missing_file(cell: ExecutedCell, inputs: Iterable[Mount]) -> Explanation | None:
    """Explain a file that is missing from an existing folder, usually that of an id; None for other errors."""
    match = _NO_FILE.search(cell.message)
    if not match:
        return None
    path = PurePosixPath(match[1])
    folder = _find_on_disk(path.parent, inputs)
    if folder is None or not folder.is_dir():
        return None
    names = sorted(entry.name for entry in folder.iterdir())
    if not names:
        return None
    alike = next((name for name in names if PurePosixPath(name).stem == path.stem), None)
    content = (
        f"the folder contains '{alike}'"
        if alike
        else f"the folder contains {len(names)} files or folders, such as '{names[0]}'"
    )
    return Explanation(
        code="input-file-not-found",
        cause=f"'{path.parent}' has no '{path.name}'; {content}",
        remedy="use the names in the folder, or handle ids without a file: the hidden test set may contain some",
    )


def find_script_error(cell: ExecutedCell) -> tuple[str, ...]:
    """Return the last traceback printed by a script that a cell started; () if there is none."""
    if not _STARTS_SCRIPT.search(cell.source) or f"{_TRACEBACK}:" not in cell.printed:
        return ()
    lines = [line for line in cell.printed.rpartition(f"{_TRACEBACK}:")[2].splitlines() if line.strip()]
    end = next((n for n, line in enumerate(lines, 1) if not line.startswith((" ", "\t"))), len(lines))
    return (f"{_TRACEBACK}:", *lines[:end])


def _list_tables(inputs: Iterable[Mount]) -> Iterator[Path]:
    """Yield the CSV files at the top of the mounted sources, those of the competition first."""
    mounts = sorted(inputs, key=lambda mount: "/competitions/" not in mount.inside)
    for mount in mounts:
        if mount.source.is_file() and mount.source.suffix == ".csv":
            yield mount.source
        elif mount.source.is_dir() and mount.inside != "/kaggle/input":
            yield from sorted(mount.source.glob("*.csv"))


def _read_header(path: Path) -> list[str]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            return next(csv.reader(stream), [])
    except (OSError, UnicodeDecodeError, csv.Error):
        return []


def _find_on_disk(inside: PurePosixPath, inputs: Iterable[Mount]) -> Path | None:
    """Return the path on this disk of a folder in the sandbox; None if it is not an input."""
    for mount in sorted(inputs, key=lambda mount: -len(mount.inside)):
        if inside == PurePosixPath(mount.inside) or PurePosixPath(mount.inside) in inside.parents:
            return mount.source / inside.relative_to(mount.inside)
    return None
