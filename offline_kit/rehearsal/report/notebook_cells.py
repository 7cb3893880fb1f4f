"""The executed notebook or script for a page: code, texts and pictures, never HTML or JavaScript of its outputs."""

import base64
import binascii
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from offline_kit.core.sandboxes import leftovers
from offline_kit.rehearsal import execution
from offline_kit.rehearsal.script_runs import find_script_failure

_LARGEST = 100_000_000  # bytes; a larger notebook is not shown
_MAX_OUTPUT = 8_000  # characters of a cell's text
_MAX_CELLS = 2_000
_MAX_LOG = 20_000  # bytes
# What the page may hold of a notebook, in characters; pictures in base64.
_LIMITS = {"code": 250_000, "outputs": 250_000, "pictures": 1_200_000}
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_PICTURES = {"image/png": b"\x89PNG", "image/jpeg": b"\xff\xd8\xff"}


@dataclass(frozen=True, kw_only=True)
class PageCell:
    """A cell as the page shows it; its times are seconds since the run began."""

    number: int
    kind: str  # "code" or "markdown"
    source: str
    title: str = ""
    status: str = ""
    seconds: float | None = None
    start: float | None = None
    outputs: tuple[Mapping[str, str], ...] = ()
    """Each has a "kind" ("text", "error" or "picture"), its "text" or its "uri"; an error has a "summary" of one line."""
    file: str = "executed.ipynb"  # the file of the rehearsal that holds it

    @property
    def end(self) -> float | None:
        """When it ended; None if it did not run to its end."""
        return self.start + self.seconds if self.start is not None and self.seconds is not None else None


class NotebookReader:
    """Reads cells and their outputs, cut to what a page can hold."""

    def __init__(self, file: str, began: float) -> None:
        """`file` is where the whole output is, `began` the start of the run in seconds since the epoch."""
        self.file, self.began = file, began
        self._used = Counter[str]()

    def read_cells(self, executed: Path) -> Iterator[PageCell]:
        """Yield the cells of an executed notebook."""
        heading = ""
        for number, cell in execution.load_cells(executed, limit=_LARGEST)[:_MAX_CELLS]:
            source = "".join(cell.get("source", ""))
            if cell["cell_type"] != "code":
                line = next((line for line in source.splitlines() if line.startswith("#")), "")
                heading = line.lstrip("#").strip()[:80] or heading
                shown = self._take("code", source[:_MAX_OUTPUT])
                yield PageCell(number=number, kind="markdown", source=shown)
                continue
            run = execution.parse_cell(number, cell, added_cells=0)
            outputs = tuple(self._read_outputs(cell.get("outputs", ())))
            first_line = next((line.strip() for line in source.splitlines() if line.strip()), "")
            yield PageCell(
                number=number,
                kind="code",
                source=self._shorten_code(source),
                title=heading or str(cell["metadata"].get("title") or "") or first_line.lstrip("#%! ")[:80],
                status=run.status,
                seconds=run.seconds,
                start=run.started - self.began if run.started is not None else None,
                outputs=outputs,
            )
            heading = ""

    def read_script(self, script: Path, log: Path, *, passed: bool, seconds: float) -> PageCell:
        """Return a script that ran, with its log, as a notebook's only cell."""
        log_text = (read_log(log) or {}).get("text", "")
        failure = None if passed else find_script_failure(log_text)
        outputs = [self._cut_text("text", log_text[: failure.start] if failure else log_text)]
        if failure:
            summary = failure.message.partition("\n")[0]
            outputs.append({**self._cut_text("error", "\n".join(failure.error)), "summary": summary[:300]})
        return PageCell(
            number=1,
            kind="code",
            source=self._shorten_code(script.read_text(encoding="utf-8"), script.name),
            title="the script",
            status="completed" if passed else "failed",
            seconds=seconds,
            start=0.0,
            outputs=tuple(output for output in outputs if output["text"]),
            file=script.name,
        )

    def _take(self, kind: str, text: str) -> str:
        """Return the part of a text that the page can still hold."""
        part = text[: _LIMITS[kind] - self._used[kind]] if self._used[kind] < _LIMITS[kind] else ""
        self._used[kind] += len(part)
        return part

    def _shorten_code(self, source: str, file: str = "executed.ipynb") -> str:
        shown = self._take("code", source)
        return shown if len(shown) == len(source) else f"{shown}\n# … the rest is in {file}"

    def _read_outputs(self, outputs: Any) -> Iterator[Mapping[str, str]]:
        stream_text = ""  # of the outputs in a row that are plain text
        for output in outputs:
            data, is_error = output.get("data") or {}, output.get("output_type") == "error"
            picture = self._read_picture(data)
            if not (picture or is_error):
                stream_text += "".join(output.get("text") or data.get("text/plain") or "")
                continue
            if stream_text:
                yield self._cut_text("text", stream_text)
            stream_text = ""
            if is_error:
                traceback = "\n".join(output.get("traceback") or ())
                summary = " ".join(f"{output.get('ename')}: {output.get('evalue')}".split())
                yield {**self._cut_text("error", traceback or summary), "summary": summary[:300]}
            elif picture:
                yield picture
        if stream_text.strip():
            yield self._cut_text("text", stream_text)

    def _cut_text(self, kind: str, text: str) -> Mapping[str, str]:
        """Return the end of a text: the last lines say how it went."""
        tail = text[-3 * _MAX_OUTPUT :].replace("\r\n", "\n")  # colors take most of some outputs
        plain = _clean_text(tail).strip("\n")
        shown = self._take("outputs", plain[-_MAX_OUTPUT:][::-1])[::-1]
        is_cut = len(shown) < len(plain) or len(tail) < len(text)
        return {
            "kind": kind,
            "text": f"… what was printed before is in {self.file}\n{shown}" if is_cut else shown,
        }

    def _read_picture(self, data: Mapping[str, Any]) -> Mapping[str, str] | None:
        for kind, magic in _PICTURES.items():
            encoded = "".join("".join(data.get(kind) or "").split())
            if len(encoded) > _LIMITS["pictures"] - self._used["pictures"]:
                size = f"{len(encoded) * 3 // 4:,} bytes"
                return {"kind": "text", "text": f"a picture of {size} is in executed.ipynb"}
            try:
                # Encoded again: what a cell displays must not end the attribute that holds it.
                content = base64.b64decode(encoded, validate=True)
            except (binascii.Error, ValueError):
                continue
            if content.startswith(magic):
                self._used["pictures"] += len(encoded)
                return {"kind": "picture", "uri": f"data:{kind};base64,{base64.b64encode(content).decode()}"}
        return None


def read_log(log: Path) -> Mapping[str, Any] | None:
    """Return the end of a log ("text") and whether it "is_cut"; None if there is none."""
    if not leftovers.is_regular(log, limit=_LARGEST):
        return None
    tail = execution.read_tail(log, _MAX_LOG)
    text = _clean_text(tail).strip()
    return {"text": text, "is_cut": log.stat().st_size > _MAX_LOG} if text else None


def _clean_text(text: str) -> str:
    return _CONTROLS.sub("", execution.strip_colors(text))
