"""The executed notebook or script for a page: code, texts and pictures, never HTML or JavaScript of its outputs."""

import base64
import binascii
import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from offline_kit.core.sandboxes import leftovers
from offline_kit.rehearsal.execution import parse_time
from offline_kit.rehearsal.script_runs import find_script_failure

_LARGEST = 100_000_000  # bytes; a larger notebook is not shown
_MAX_OUTPUT = 8_000  # characters of a cell's text
_MAX_CELLS = 2_000
_MAX_LOG = 20_000  # bytes
_MAX_TEXT = 250_000  # characters of all outputs, and again of all code
_MAX_PICTURES = 1_200_000  # characters of all pictures, base64
_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_PICTURES = {"image/png": b"\x89PNG", "image/jpeg": b"\xff\xd8\xff"}
_ERROR_TAG = "papermill-error-cell-tag"  # papermill's own cells before the one that failed


@dataclass
class _Budget:
    """What the page may still hold of a notebook, in characters."""

    code: int = _MAX_TEXT
    outputs: int = _MAX_TEXT
    pictures: int = _MAX_PICTURES


@dataclass(frozen=True, kw_only=True)
class PageCell:
    """A cell as the page shows it."""

    number: int
    kind: str  # "code" or "markdown"
    source: str
    title: str = ""
    status: str = ""
    seconds: float | None = None
    started: float | None = None  # seconds since the epoch
    outputs: tuple[Mapping[str, str], ...] = field(default=())
    """Each has a "kind" ("text", "error" or "picture"), its "text" or its "uri"; an error has a "summary" of one line."""
    file: str = "executed.ipynb"  # the file of the rehearsal that holds it


def read_page_cells(executed: Path) -> tuple[PageCell, ...]:
    """Return the cells of an executed notebook, cut to what a page can hold; () if it is missing or damaged."""
    if not leftovers.is_regular(executed, limit=_LARGEST):
        return ()
    budget = _Budget()
    try:
        notebook = json.loads(executed.read_text(encoding="utf-8"))
        own_cells = [cell for cell in notebook["cells"] if _ERROR_TAG not in cell["metadata"].get("tags", ())]
        cells, heading = [], ""
        for number, cell in enumerate(own_cells[:_MAX_CELLS], 1):
            source = "".join(cell.get("source", ""))
            if cell["cell_type"] != "code":
                heading = _find_heading(source) or heading
                shown = source[: max(0, min(_MAX_OUTPUT, budget.code))]
                budget.code -= len(shown)
                cells.append(PageCell(number=number, kind="markdown", source=shown))
                continue
            cells.append(_read_code_cell(number, cell, source, heading, budget))
            heading = ""
        return tuple(cells)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return ()  # the run could write anything to this file


def read_script_cell(script: Path, log: Path, *, passed: bool, seconds: float, started: float) -> PageCell:
    """Return a script that ran, with its log, as a notebook's only cell."""
    budget = _Budget()
    source = script.read_text(encoding="utf-8")
    omitted = "\n# … the rest is in script.py" if len(source) > budget.code else ""
    log_text = (read_log(log) or {}).get("text", "")
    failure = None if passed else find_script_failure(log_text)
    outputs = [_cut_text("text", log_text[: failure.start] if failure else log_text, budget, "log.txt")]
    if failure:
        summary = failure.message.partition("\n")[0]
        outputs.append({**_cut_text("error", "\n".join(failure.error), budget), "summary": summary[:300]})
    return PageCell(
        number=1,
        kind="code",
        source=source[: budget.code] + omitted,
        title="the script",
        status="completed" if passed else "failed",
        seconds=seconds,
        started=started,
        outputs=tuple(output for output in outputs if output["text"]),
        file=script.name,
    )


def read_log(log: Path) -> Mapping[str, Any] | None:
    """Return the end of a log ("text") and whether it "is_cut"; None if there is none."""
    if not leftovers.is_regular(log, limit=_LARGEST):
        return None
    with log.open("rb") as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(max(0, size - _MAX_LOG))
        text = stream.read().decode("utf-8", errors="replace")
    text = _CONTROLS.sub("", _ANSI.sub("", text)).strip()
    return {"text": text, "is_cut": size > _MAX_LOG} if text else None


def _read_code_cell(
    number: int, cell: Mapping[str, Any], source: str, heading: str, budget: _Budget
) -> PageCell:
    metadata = cell["metadata"].get("papermill") or {}
    outputs = tuple(_read_outputs(cell.get("outputs", ()), budget))
    is_failed = any(output["kind"] == "error" for output in outputs)
    shown_source = source[: max(0, budget.code)]
    budget.code -= len(shown_source)
    if len(shown_source) < len(source):
        shown_source += "\n# … the rest is in executed.ipynb"
    seconds = float(metadata["duration"]) if metadata.get("duration") is not None else None
    return PageCell(
        number=number,
        kind="code",
        source=shown_source,
        title=heading or str(cell["metadata"].get("title") or "") or _first_line(source),
        status="failed" if is_failed else str(metadata.get("status") or "pending"),
        seconds=seconds if seconds is not None and math.isfinite(seconds) else None,
        started=parse_time(metadata.get("start_time")),
        outputs=outputs,
    )


def _read_outputs(outputs: Any, budget: _Budget) -> Iterator[Mapping[str, str]]:
    stream_text = ""  # of the outputs in a row that are plain text
    for output in outputs:
        data = output.get("data") or {}
        picture = _read_picture(data, budget)
        if picture or output.get("output_type") == "error":
            if stream_text:
                yield _cut_text("text", stream_text, budget)
            stream_text = ""
        if output.get("output_type") == "error":
            traceback = "\n".join(output.get("traceback") or ())
            summary = " ".join(f"{output.get('ename')}: {output.get('evalue')}".split())
            yield {**_cut_text("error", traceback or summary, budget), "summary": summary[:300]}
        elif picture:
            yield picture
        else:
            stream_text += "".join(output.get("text") or data.get("text/plain") or "")
    if stream_text.strip():
        yield _cut_text("text", stream_text, budget)


def _cut_text(kind: str, text: str, budget: _Budget, whole: str = "executed.ipynb") -> Mapping[str, str]:
    """Return the end of a text: the last lines say how it went."""
    tail = text[-3 * _MAX_OUTPUT :].replace("\r\n", "\n")  # colors take most of some outputs
    plain = _CONTROLS.sub("", _ANSI.sub("", tail)).strip("\n")
    shown = plain[-max(1, min(_MAX_OUTPUT, budget.outputs)) :]
    budget.outputs -= len(shown)
    is_cut = len(shown) < len(plain) or len(tail) < len(text)
    return {"kind": kind, "text": f"… what was printed before is in {whole}\n{shown}" if is_cut else shown}


def _read_picture(data: Mapping[str, Any], budget: _Budget) -> Mapping[str, str] | None:
    for kind, magic in _PICTURES.items():
        encoded = "".join("".join(data.get(kind) or "").split())
        if not encoded:
            continue
        if len(encoded) > budget.pictures:
            return {
                "kind": "text",
                "text": f"a picture of {len(encoded) * 3 // 4:,} bytes is in executed.ipynb",
            }
        try:
            # Encoded again: what a cell displays must not end the attribute that holds it.
            content = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError):
            continue
        if content.startswith(magic):
            budget.pictures -= len(encoded)
            return {"kind": "picture", "uri": f"data:{kind};base64,{base64.b64encode(content).decode()}"}
    return None


def _find_heading(source: str) -> str:
    line = next((line for line in source.splitlines() if line.startswith("#")), "")
    return line.lstrip("#").strip()[:80]


def _first_line(source: str) -> str:
    line = next((line.strip() for line in source.splitlines() if line.strip()), "")
    return line.lstrip("#%! ")[:80]
