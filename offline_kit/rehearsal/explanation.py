"""Explain a failed cell: find the frame in the user's own code, the missing column or file, the failed script."""

import csv
import re
from collections.abc import Collection, Iterable, Sequence
from difflib import get_close_matches
from pathlib import PurePosixPath

from offline_kit.core.sandboxes.box import Mount
from offline_kit.rehearsal import causes
from offline_kit.rehearsal.causes import Explanation
from offline_kit.rehearsal.execution import ExecutedCell, RehearsalEnvironment

_FRAME = re.compile(
    r"^(?:File (?P<path>.+?):(?P<line>\d+)(?:, in (?P<function>.+))?|(?:Cell|Input) In ?\[.*)$"
)
_LIBRARY = re.compile(r"/(?:site|dist)-packages/|/lib/python3\.\d+/|^<")
# The notebook installs the kit's packages here, including the project's own.
_OVERLAY = "/offline-kit/site/"
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
    """Return the innermost frame of a traceback in a file of the user's, with its lines of code.

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
        if match is None or not match["path"]:
            continue
        path = match["path"]
        is_own = not _LIBRARY.search(path)
        if _OVERLAY in path:
            top = path.partition(_OVERLAY)[2].partition("/")[0]
            is_own = top.removesuffix(".py") in own_packages
        if is_own:
            function = f", in {match['function']}" if match["function"] else ""
            location = f"{_CODE.sub('', path)}:{match['line']}{function}"
            return (f"in your code, {location}:", *(f"    {line}" for line in frame[1:]))
    return ()


def explain_cell(cell: ExecutedCell, environment: RehearsalEnvironment) -> Explanation:
    """Explain a failed cell by the runtime's own error, its inputs, its script, or its message."""
    if cell.failure:
        return Explanation(code=cell.failure.code, cause=cell.failure.what, remedy=cell.failure.hint)
    explained = _explain_missing_column(cell, environment.inputs)
    explained = explained or _explain_missing_file(cell, environment.inputs)
    for text in (*find_script_error(cell)[-1:], cell.message):
        if explained is None or not explained.code:
            explained = causes.explain_failure(text, current=environment.current)
    return explained or Explanation()


def _explain_missing_column(cell: ExecutedCell, inputs: Iterable[Mount]) -> Explanation | None:
    """Explain an error about a column that the test set lacks; None for other errors."""
    column = next((match[1] for pattern in _COLUMN if (match := pattern.search(cell.message))), None)
    if column is None:
        return None
    tables = _read_headers(inputs)
    test = next((name for name in tables if "test" in name), None)
    train = next((name for name, columns in tables.items() if "train" in name and column in columns), None)
    if test is None or column in tables[test]:
        return None
    columns = tables[test]
    near = get_close_matches(column, columns, n=1)
    from_table = any(word in line for line in cell.error for word in ("pandas", "polars"))
    if not (train or near or from_table):
        return None  # it may as well be the key of a dict
    remaining = f" and {len(columns) - _MAX_NAMES} more" if len(columns) > _MAX_NAMES else ""
    cause = f"'{test}' has no column '{column}'; it has {', '.join(columns[:_MAX_NAMES])}{remaining}"
    if train:
        return Explanation(
            code="column-not-in-test-set",
            cause=f"{cause}. '{train}' has it: it is known only in training",
            remedy=f"do not use '{column}' when predicting, or compute it from columns of '{test}'",
        )
    meant = f"'{near[0]}'" if near else "an existing column"
    return Explanation(
        code="column-not-in-test-set", cause=cause, remedy=f"use {meant}, or add '{column}' before using it"
    )


def _read_headers(inputs: Iterable[Mount]) -> dict[str, list[str]]:
    """Return the columns of the CSV files at the top of the mounted sources, those of the competition first."""
    headers: dict[str, list[str]] = {}
    for mount in sorted(inputs, key=lambda mount: "/competitions/" not in mount.inside):
        tables = [mount.source] if mount.source.suffix == ".csv" else []
        if mount.source.is_dir():
            tables = sorted(mount.source.glob("*.csv")) if mount.inside != "/kaggle/input" else []
        for path in tables:
            try:
                with path.open(newline="", encoding="utf-8-sig") as stream:
                    header = next(csv.reader(stream), [])
            except (OSError, UnicodeDecodeError, csv.Error):
                continue
            if header:
                headers[path.name] = header
    return headers


def _explain_missing_file(cell: ExecutedCell, inputs: Iterable[Mount]) -> Explanation | None:
    """Explain a file that is missing from an existing folder, usually that of an id; None for other errors."""
    match = _NO_FILE.search(cell.message)
    if not match:
        return None
    path = PurePosixPath(match[1])
    folder = None
    for mount in sorted(inputs, key=lambda mount: len(mount.inside)):  # the innermost mount counts
        if path.parent.is_relative_to(mount.inside):
            folder = mount.source / path.parent.relative_to(mount.inside)
    names = sorted(entry.name for entry in folder.iterdir()) if folder and folder.is_dir() else []
    if not names:
        return None
    alike = next((name for name in names if PurePosixPath(name).stem == path.stem), None)
    content = f"'{alike}'" if alike else f"{len(names)} files or folders, such as '{names[0]}'"
    return Explanation(
        code="input-file-not-found",
        cause=f"'{path.parent}' has no '{path.name}'; the folder contains {content}",
        remedy="use the names in the folder, or handle ids without a file: the hidden test set may contain some",
    )


def find_script_error(cell: ExecutedCell) -> tuple[str, ...]:
    """Return the last traceback printed by a script that a cell started; () if there is none."""
    if not _STARTS_SCRIPT.search(cell.source) or f"{_TRACEBACK}:" not in cell.printed:
        return ()
    lines = [line for line in cell.printed.rpartition(f"{_TRACEBACK}:")[2].splitlines() if line.strip()]
    end = next((n for n, line in enumerate(lines, 1) if not line.startswith((" ", "\t"))), len(lines))
    return (f"{_TRACEBACK}:", *lines[:end])
