"""Draw `report.html` from the evidence of a rehearsal and the facts beside it."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from offline_kit.core import files
from offline_kit.rehearsal.report import charts, history, notebook_cells, run_facts
from offline_kit.rehearsal.report.notebook_cells import PageCell
from offline_kit.rehearsal.request import ReportContext

if TYPE_CHECKING:
    from markupsafe import Markup

PAGE = "report.html"
_MAX_CHARTS = 8  # histograms; further columns have their figures in the table
_MAX_PAGE = 3_000_000  # bytes; a larger one is drawn without the notebook
_SHOWN_CELLS = 5  # the slowest
_SCRIPT = "script.py"  # in the folder of a rehearsal that ran a script
_SHOWN_ITEMS = 8  # packages and files of the kit that are not folded


def write_page(folder: Path, context: ReportContext) -> Path:
    """Draw the page of the rehearsal in `folder` (its report.json, facts and notebook) and return its path.

    Raises OSError, ValueError, KeyError or TypeError if its files are missing or damaged.
    """
    outcome = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    facts = json.loads((folder / run_facts.FACTS).read_text(encoding="utf-8"))
    cells: Sequence[PageCell] = notebook_cells.read_page_cells(folder / "executed.ipynb")
    if (script := folder / _SCRIPT).is_file():
        times = {"seconds": outcome["seconds"], "started": facts["started"]}
        log = folder / "log.txt"
        cells = [notebook_cells.read_script_cell(script, log, passed=outcome["passed"], **times)]
    # A notebook that did not start has no cells: then the log says what happened.
    log_end = None if cells else notebook_cells.read_log(folder / "log.txt")
    page = _render_page(outcome, facts, cells, log_end, context)
    if len(page.encode()) > _MAX_PAGE:
        page = _render_page(outcome, facts, [], log_end, context)
    files.write_atomic(folder / PAGE, page)
    return folder / PAGE


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
    environment.filters |= {
        "size": _format_size,
        "duration": lambda seconds: _join_words(files.format_duration(seconds)),
        "figure": _format_figure,
        "share": _format_share,
        "day": _format_moment,
        "capitalize_first": lambda text: str(text)[:1].upper() + str(text)[1:],
        "prose": _mark_code_words,
        "code": _highlight_code,
        "markdown": _render_markdown,
        "drawn": _mark_drawn,
    }
    template = environment.get_template("page.html.j2")
    timeline = _time_cells(cells, facts["started"])
    past = history.read_history(context.records)
    columns = (facts["submission"] or {}).get("columns", [])
    numbers = [column for column in columns if column["kind"] == "numbers"]
    return template.render(
        outcome=outcome,
        facts=facts,
        error_line=_find_error_line(cells),
        forecast=outcome.get("forecast"),
        cells=cells,
        code_file=cells[0].file if cells else "executed.ipynb",
        log=log,
        timeline=timeline,
        slowest=sorted(timeline, key=lambda cell: -(cell["seconds"] or 0))[:_SHOWN_CELLS],
        run_charts=charts.draw_run(facts["curve"], timeline, facts["limits"]["memory"]),
        histograms={column["name"]: charts.draw_histogram(column) for column in numbers[:_MAX_CHARTS]},
        history=past,
        history_charts=charts.draw_history(past),
        remote=[
            {**account, "charts": charts.draw_scores([*reversed(account["scores"])])}
            for account in context.remote
        ],
        shown_items=_SHOWN_ITEMS,
    )


def _time_cells(cells: Sequence[PageCell], started: float) -> list[dict[str, Any]]:
    """Return the code cells with their start and end in seconds since the run began; None if they did not run."""
    timeline = []
    for cell in cells:
        if cell.kind != "code":
            continue
        start = cell.started - started if cell.started is not None and cell.seconds is not None else None
        end = start + cell.seconds if start is not None and cell.seconds is not None else None
        timeline.append(
            {
                "number": cell.number,
                "title": cell.title,
                "status": cell.status,
                "seconds": cell.seconds,
                "start": start,
                "end": end,
            }
        )
    return timeline


def _format_size(size: float) -> str:
    return _join_words(files.format_size(size).replace(".0 ", " "))


def _join_words(text: str) -> str:
    """Return a number with its unit in one line."""
    return text.replace(" ", "\N{NO-BREAK SPACE}")


def _find_error_line(cells: Sequence[PageCell]) -> str:
    """Return the error that stopped the notebook in one line, "" if there is none."""
    outputs = (output for cell in cells if cell.status == "failed" for output in cell.outputs)
    return next((output["summary"] for output in outputs if output["kind"] == "error"), "")


def _format_figure(number: float) -> str:
    if float(number).is_integer() and abs(number) < 1e15:
        return f"{int(number):,}"
    return f"{number:.4g}"


def _format_share(part: float, whole: float) -> str:
    """Return a share in percent; "0 %" only for nothing."""
    percent = 100 * part / whole if whole else 0.0
    if 0 < percent < 1:
        return "less than 1\N{NO-BREAK SPACE}%"
    return f"{percent:.0f}\N{NO-BREAK SPACE}%"


def _format_moment(text: str) -> str:
    """Return a time of a file as a day and time in UTC."""
    try:
        return datetime.fromisoformat(text).astimezone(UTC).strftime("%d %b %Y, %H:%M UTC")
    except ValueError:
        return text


def _mark_code_words(text: str) -> "Markup":
    """Return a message as HTML, escaped, with its words in backticks as code."""
    from markupsafe import Markup, escape

    pieces = text.split("`")
    if len(pieces) % 2 == 0:
        return escape(text)  # a backtick without its partner
    return Markup("").join(
        Markup("<code>{}</code>").format(piece) if number % 2 else escape(piece)
        for number, piece in enumerate(pieces)
    )


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


def _mark_drawn(svg: str) -> "Markup":
    """Return a picture of ours as it is: matplotlib escapes its words, which are numbers and dates alone."""
    from markupsafe import Markup

    return Markup(svg)  # noqa: S704 - see above
