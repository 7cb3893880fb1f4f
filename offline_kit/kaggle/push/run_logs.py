"""Read the log of a run on Kaggle: duration, last line, failed cell and error."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from offline_kit.kaggle.client.api_types import LogLine
from offline_kit.notebook.runtime.kit_runtime import KitError, find_failure

_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_RAISED = re.compile(r"[A-Za-z_][\w.]*(error|exception|interrupt|exit)\b.*: \S", re.IGNORECASE)
_TRACEBACK = "Traceback (most recent call last)"
_CHAINED = re.compile(r"During handling of the above exception|The above exception was the direct cause")
_PAPERMILL = re.compile(r'^Exception encountered at "In \[(\d+|None| )\]":\s*$', re.MULTILINE)
_BEGUN = re.compile(r"^Executing Cell (\d+)-", re.MULTILINE)
_CONVERTING = re.compile(r"^\[NbConvertApp\]", re.MULTILINE)
_ARROW = re.compile(r"^-+>\s*(\d+) (.*\S)\s*$", re.MULTILINE)
_LINE = 100  # characters of a live line


@dataclass(frozen=True, kw_only=True)
class RunFailure:
    """Why a run failed, according to its log."""

    cell: int = 0  # 1-based number of the failed cell among all cells; 0 if unknown
    source: str = ""
    error: tuple[str, ...] = ()
    message: str = ""  # the error and the errors that caused it, without tracebacks
    failure: KitError | None = None


def plain_text(log: Sequence[LogLine]) -> str:
    """Return a log as text without colours."""
    return _ANSI.sub("", "".join(line.text for line in log))


def run_seconds(log: Sequence[LogLine]) -> float:
    """Return the time of the last event, 0 if there is none."""
    return max((line.seconds for line in log), default=0.0)


def last_line(log: Sequence[LogLine]) -> str:
    """Return the last non-empty line, shortened; of a progress bar its latest state."""
    for piece in reversed(log):
        for line in reversed(re.split(r"[\r\n]", _ANSI.sub("", piece.text))):
            if line.strip():
                return line.strip()[:_LINE]
    return ""


def find_unmounted_kit(log: Sequence[LogLine]) -> str:
    """Return the notebook's own words about a kit that was not there, "" where it says none."""
    failure = find_failure(plain_text(log))
    return failure.what if failure and failure.code == "kit-not-mounted" else ""


def analyse_failure(log: Sequence[LogLine], notebook: str) -> RunFailure:
    """Return why a run of a notebook (its JSON text) failed."""
    text = plain_text(log)
    heads = list(_PAPERMILL.finditer(text))
    start = heads[-1].end() if heads else _find_traceback(text)
    end = _CONVERTING.search(text, max(start, 0))
    # After a failure, Kaggle still converts the notebook with nbconvert, whose log comes last.
    section = text[max(start, 0) : end.start() if end else None]
    code = _code_cells(notebook)
    cell = _find_failed_cell(text, heads[-1][1] if heads else "", section, code)
    lines = tuple(line for line in section.splitlines() if line.strip().strip("-")) if start >= 0 else ()
    if lines and "DeadKernelError" in lines[-1]:
        lines = lines[-1:]  # the frames are papermill's own
    raised = [index for index, line in enumerate(lines) if _RAISED.match(line)]
    message = [*(lines[index] for index in raised[:-1]), *lines[raised[-1] if raised else -1 :]]
    return RunFailure(
        cell=cell,
        source=code.get(cell, ""),
        error=lines,
        message="\n".join(message),
        failure=find_failure(text),
    )


def _find_traceback(text: str) -> int:
    """Return where the last chain of tracebacks begins; -1 if there is none."""
    start = text.rfind(_TRACEBACK)
    while start > 0:
        before = text.rfind(_TRACEBACK, 0, start)
        if before < 0 or not _CHAINED.search(text, before, start):
            break
        start = before
    return start


def _code_cells(notebook: str) -> dict[int, str]:
    """Return the source of the code cells, by their number among all cells."""
    code = {}
    try:
        for number, cell in enumerate(json.loads(notebook)["cells"], 1):
            source = "".join(cell["source"])
            if cell["cell_type"] == "code" and source.strip():
                code[number] = source
    except (ValueError, KeyError, TypeError):
        return {}
    return code


def _find_failed_cell(text: str, executed: str, section: str, code: dict[int, str]) -> int:
    """Return the number of the failed cell among all cells, 0 if it is unknown."""
    # papermill's "In [number]" counts executed cells only.
    numbers = list(code)
    if executed.isdigit() and 0 < int(executed) <= len(numbers):
        return numbers[int(executed) - 1]
    # The only cell that has the line of a traceback's arrow, outermost frame first.
    for arrow in _ARROW.finditer(section):
        line_number, line = int(arrow[1]), arrow[2].strip()
        having = [
            number
            for number, source in code.items()
            if [words.strip() for words in source.splitlines()][line_number - 1 : line_number] == [line]
        ]
        if len(having) == 1:
            return having[0]
    # The last cell that papermill started: the kernel died or was stopped there.
    begun = _BEGUN.findall(text)
    return int(begun[-1]) if begun and int(begun[-1]) in code else 0
