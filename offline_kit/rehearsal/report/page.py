"""Draw `report.html` from the evidence of a rehearsal and the facts beside it."""

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from offline_kit.core import files
from offline_kit.core.errors import OfflineKitError
from offline_kit.core.report import SILENT, Reporter
from offline_kit.rehearsal import execution
from offline_kit.rehearsal.hidden_run import JudgedRun
from offline_kit.rehearsal.report import charts, history, notebook_cells, run_facts
from offline_kit.rehearsal.report.notebook_cells import NotebookReader, PageCell
from offline_kit.rehearsal.request import ReportContext

if TYPE_CHECKING:
    from markupsafe import Markup

PAGE = "report.html"
_MAX_CHARTS = 8  # histograms; further columns have their figures in the table
_MAX_PAGE = 3_000_000  # bytes; a larger one is drawn without the notebook
_SHOWN_CELLS = 5  # the slowest
_SHOWN_ITEMS = 8  # packages and files of the kit that are not folded


def write_report(folder: Path, judged: JudgedRun) -> bool:
    """Write facts and page of a run beside its evidence in `folder`, add it to the history; return whether it worked.

    What fails here is a note, never a failed rehearsal.
    """
    request, report, records = judged.request, judged.report, judged.request.context.records
    try:
        run_facts.write_facts(folder, judged)
        if records:
            outcome = json.loads((folder / "report.json").read_text(encoding="utf-8"))
            try:
                history.add_rehearsal(records, outcome, folder / Path(request.submission).name)
            except (OSError, OfflineKitError) as error:  # the project's folder may be read-only
                report.note(f"this rehearsal is missing in the history: {error}")
        write_page(folder, request.context)
    except Exception as error:  # noqa: BLE001 - whatever a run left behind, its verdict stands
        report.note(f"no report was written: {type(error).__name__}: {error}")
        return False
    return True


def redraw_report(folder: Path, context: ReportContext, *, report: Reporter = SILENT) -> Path | None:
    """Draw the page in `folder` again, with what was sent and scored since; return it, None if that is not possible."""
    try:
        return write_page(folder, context) if (folder / run_facts.FACTS).is_file() else None
    except Exception as error:  # noqa: BLE001 - a push that succeeded is not to fail for a picture
        report.note(f"the report was not updated: {type(error).__name__}: {error}")
        return None


def write_page(folder: Path, context: ReportContext) -> Path:
    """Draw the page of the rehearsal in `folder` (its report.json, facts and notebook) and return its path.

    Raises OSError, ValueError, KeyError or TypeError if its files are missing or damaged.
    """
    outcome = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    facts = json.loads((folder / run_facts.FACTS).read_text(encoding="utf-8"))
    cells = _read_cells(folder, outcome, facts["started"])
    # A notebook that did not start has no cells: then the log says what happened.
    log_end = None if cells else notebook_cells.read_log(folder / "log.txt")
    page = _render_page(outcome, facts, cells, log_end, context)
    if len(page.encode()) > _MAX_PAGE:
        page = _render_page(outcome, facts, [], log_end, context)
    files.write_atomic(folder / PAGE, page)
    return folder / PAGE


def _read_cells(folder: Path, outcome: Mapping[str, Any], began: float) -> Sequence[PageCell]:
    script, executed = folder / "script.py", folder / "executed.ipynb"
    if script.is_file():
        reader = NotebookReader("log.txt", began)
        times = {"passed": outcome["passed"], "seconds": outcome["seconds"]}
        return [reader.read_script(script, folder / "log.txt", **times)]
    try:
        return [*NotebookReader(executed.name, began).read_cells(executed)]
    except execution.DAMAGED:
        return []


def _render_page(
    outcome: Mapping[str, Any],
    facts: Mapping[str, Any],
    cells: Sequence[PageCell],
    log: Mapping[str, Any] | None,
    context: ReportContext,
) -> str:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,  # names, cells and tables are untrusted
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # Numbers stay in one line with their units.
    filters: dict[str, Callable[..., str]] = {
        "size": lambda size: _join_words(files.format_size(size).replace(".0 ", " ")),
        "duration": lambda seconds: _join_words(files.format_duration(seconds)),
        "day": _format_moment,
        "capitalize_first": lambda text: str(text)[:1].upper() + str(text)[1:],
        "code": _highlight_code,
        "markdown": _render_markdown,
    }
    environment.filters |= filters
    timeline = [cell for cell in cells if cell.kind == "code"]
    errors = (output for cell in timeline for output in cell.outputs if cell.status == "failed")
    numbers = [
        column for column in (facts["submission"] or {}).get("columns", []) if column["kind"] == "numbers"
    ]
    return environment.get_template("page.html.j2").render(
        outcome=outcome,
        facts=facts,
        error_line=next((output["summary"] for output in errors if output["kind"] == "error"), ""),
        forecast=outcome.get("forecast"),
        cells=cells,
        code_file=cells[0].file if cells else "executed.ipynb",
        log=log,
        timeline=timeline,
        slowest=sorted(timeline, key=lambda cell: -(cell.seconds or 0))[:_SHOWN_CELLS],
        charts=charts,
        histograms={column["name"]: charts.draw_histogram(column) for column in numbers[:_MAX_CHARTS]},
        history=history.read_history(context.records),
        remote=context.remote,
        shown_items=_SHOWN_ITEMS,
    )


def _join_words(text: str) -> str:
    return text.replace(" ", "\N{NO-BREAK SPACE}")


def _format_moment(text: str) -> str:
    """Return a time of a file as a day and time in UTC."""
    try:
        return datetime.fromisoformat(text).astimezone(UTC).strftime("%d %b %Y, %H:%M UTC")
    except ValueError:
        return text


def _highlight_code(source: str) -> "Markup":
    """Return Python code as HTML with its tokens in classes; pygments escapes it."""
    import pygments
    from markupsafe import Markup
    from pygments.formatters.html import HtmlFormatter
    from pygments.lexers.python import PythonLexer

    html = pygments.highlight(source, PythonLexer(), HtmlFormatter(nowrap=True, classprefix="p-"))
    return Markup(html)  # noqa: S704 - escaped above


def _render_markdown(source: str) -> "Markup":
    """Return Markdown as HTML, with its own HTML escaped, and links and pictures as text: they would lead elsewhere."""
    from markdown_it import MarkdownIt
    from markupsafe import Markup

    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    parser.disable(["link", "image", "autolink", "reference", "html_inline", "html_block"])
    return Markup(parser.render(source))  # noqa: S704 - see above
