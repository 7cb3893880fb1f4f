"""The evidence of a rehearsal by hand, and what a report's page is made of."""

import json
from collections import Counter
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

OUTCOME: dict[str, Any] = {
    "passed": True,
    "problem": None,
    "kit": "ab" * 32,
    "fidelity": "matching",
    "python": "3.13.5",
    "sandbox": "bubblewrap",
    "seconds": 12.5,
    "peak_memory": 400_000_000,
    "memory_by": "PSS",
    "rows": 3,
    "notes": [],
    "warnings": [],
}
KIT: dict[str, Any] = {"size": 0, "files": 0, "parts": [], "kinds": [], "items": [], "provided": []}
FACTS: dict[str, Any] = {
    "at": "2026-11-29T12:00:00+00:00",
    "project": "leaves",
    "competition": "leaves-2026",
    "kind": "notebook",
    "image": "kaggle-2026-10-cpu",
    "started": 1_000_000_000.0,
    "curve": [[0.1, 1e8], [5.0, 4e8], [12.0, 2e8]],
    "limits": {"seconds": 32_400, "memory": 30 * 10**9},
    "differences": [],
    "kit": KIT,
    "has_sample": True,
    "submission": None,
    "pictures": [],
}


def make_cell(
    source: str, *outputs: Any, status: str = "completed", start: str = "2001-09-09T01:46:41"
) -> Any:
    """Return a cell that papermill ran."""
    times = {"status": status, "duration": 2.0, "start_time": start}
    return {"cell_type": "code", "source": source, "outputs": [*outputs], "metadata": {"papermill": times}}


def write_evidence(folder: Path, *cells: Any, outcome: Any = None, facts: Any = None) -> Path:
    """Write report.json, the facts and the executed notebook of a rehearsal."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(json.dumps(OUTCOME | (outcome or {})))
    (folder / "report-facts.json").write_text(json.dumps(FACTS | (facts or {})))
    (folder / "executed.ipynb").write_text(json.dumps({"cells": [*cells]}))
    return folder


@dataclass
class Page(HTMLParser):
    """What a browser would see of a page."""

    source: str
    tags: Counter[str] = field(default_factory=Counter)
    attributes: list[tuple[str, str, str]] = field(default_factory=list)  # tag, name, value
    words: str = ""
    styles: str = ""

    def __post_init__(self) -> None:
        super().__init__()
        self.feed(self.source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        if self.lasttag == "style":
            self.styles += data
        else:
            self.words += data

    def values(self, *names: str) -> list[str]:
        """Return the values of these attributes."""
        return [value for _, name, value in self.attributes if name in names]

    def problems(self) -> list[str]:
        """Return what could run code or request something."""
        active = [
            tag for tag in ("script", "iframe", "object", "embed", "link", "base", "form") if self.tags[tag]
        ]
        handlers = [name for _, name, _ in self.attributes if name.startswith("on")]
        allowed = ("#", "data:image/png;base64,", "data:image/jpeg;base64,")
        urls = self.values("src", "href", "xlink:href", "srcset", "action", "poster", "background")
        styles = [self.styles, *self.values("style", "clip-path", "fill", "filter", "mask")]
        wrong_urls = [url for url in urls if not url.startswith(allowed)]
        wrong_styles = [css for css in styles if "@import" in css or "url(" in css.replace("url(#", "")]
        return [*active, *handlers, *wrong_urls, *wrong_styles]
