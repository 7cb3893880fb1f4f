"""The pictures of a report as inline SVG, drawn by matplotlib; their colors are CSS variables of the page."""

import io
import logging
import math
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from offline_kit.rehearsal.report.notebook_cells import PageCell

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# matplotlib draws in these colors, each of which becomes a variable: a page is light or dark after it was drawn.
_VARIABLES = ["muted", "line", "accent", "accent-soft", "ok", "fail", "band", "surface", "accent-middle"]
_COLORS = {name: f"#0a0b{number:02x}" for number, name in enumerate(_VARIABLES, 16)}
# CSS pixels: a picture that is only scaled has unreadable words on a phone
_WIDTHS = {"wide": 880, "narrow": 340}
_STYLE = Path(__file__).with_name("charts.mplstyle")


def draw_run(
    curve: Sequence[Sequence[float]], cells: Sequence[PageCell], limit: float | None
) -> dict[str, str]:
    """Return the memory of a run over its cells, "wide" and "narrow"; {} if there is nothing to draw.

    `curve` has seconds and bytes; `limit` is drawn if it is near.
    """
    timed = [
        (cell, cell.start, cell.end) for cell in cells if cell.start is not None and cell.end is not None
    ]
    if not timed and not curve:
        return {}
    end = max([*(cell_end for _, _, cell_end in timed), *(point[0] for point in curve)])
    peak = max((point[1] for point in curve), default=0.0)
    unit, unit_name = (1e9, "GB") if peak >= 1e9 else (1e6, "MB")
    # In the units of the axes: only then are their ticks round numbers.
    step, step_name = (3600, "h") if end > 7200 else (60, "min") if end > 180 else (1, "s")
    times, sizes = [point[0] / step for point in curve], [point[1] / unit for point in curve]

    def draw_memory(figure: "Figure", width: int) -> None:
        memory, lane = figure.subplots(
            2, 1, sharex=True, height_ratios=(1, 0.13), gridspec_kw={"hspace": 0.06}
        )
        memory.fill_between(times, sizes, color=_COLORS["accent-soft"], linewidth=0)
        memory.plot(times, sizes, color=_COLORS["accent"], linewidth=1.4, solid_joinstyle="round")
        top = peak / unit * 1.22 or 1.0
        if limit and limit < 4 * peak:
            memory.axhline(limit / unit, color=_COLORS["fail"], linewidth=1, linestyle=(0, (4, 3)))
            top = max(top, limit / unit * 1.1)
        memory.set_ylim(0, top)
        memory.set_xlim(0, end / step)
        _set_ticks(memory.yaxis, 4, lambda value: f"{value:g} {unit_name}")
        for number, (cell, cell_start, cell_end) in enumerate(timed):
            start, length = cell_start / step, (cell_end - cell_start) / step
            pixels = length * step / end * width
            color = _COLORS[
                "fail" if cell.status == "failed" else "accent" if number % 2 else "accent-middle"
            ]
            lane.barh(0, max(length, end / step / width), left=start, height=1, color=color, linewidth=0)
            if pixels > 22:
                style = {"color": _COLORS["surface"], "ha": "center", "va": "center_baseline"}
                lane.text(start + length / 2, 0, str(cell.number), **style)
            if number % 2 and pixels > 4:
                memory.axvspan(start, start + length, color=_COLORS["band"], linewidth=0, zorder=-1)
        lane.set(ylim=(-0.5, 0.5), yticks=[])
        memory.tick_params(labelbottom=False)
        for axes in (memory, lane):
            axes.spines.bottom.set_visible(False)
        lane.grid(visible=False)
        _set_ticks(lane.xaxis, 4 if width < 500 else 8, lambda value: f"{value:g} {step_name}")
        figure.subplots_adjust(left=62 / width, right=1 - 12 / width, top=0.97, bottom=0.13)

    return _draw_widths(
        {"wide": 220, "narrow": 190}, draw_memory, "The memory of the run, and when each cell ran"
    )


def draw_histogram(column: Mapping[str, Any]) -> str:
    """Return the histogram of a column of numbers; the last rehearsal's is an outline over it."""
    bins, before = column["bins"], (column.get("previous") or {}).get("bins")

    def draw_bars(figure: "Figure", _width: int) -> None:
        axes = figure.subplots()
        # In units of bins: values may be larger than a picture's coordinates can be.
        edges = range(len(bins) + 1)
        axes.bar(
            edges[:-1], bins, width=0.84, align="edge", color=_COLORS["accent"], linewidth=0, clip_on=False
        )
        if before and before != bins:
            axes.stairs(before, edges, color=_COLORS["muted"], linewidth=1.1, baseline=None, clip_on=False)
        axes.grid(visible=False)
        axes.set(yticks=[], xlim=(0, len(bins)))
        _label_ends(axes, len(bins), f"{column['min']:.4g}", f"{column['max']:.4g}")
        figure.subplots_adjust(left=0.01, right=0.99, top=0.97, bottom=0.2)

    return _draw((300, 104), draw_bars, "Histogram")


def draw_history(history: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return the time of each rehearsal, "wide" and "narrow"; {} for fewer than two."""
    longest = max((entry["seconds"] for entry in history), default=0.0)
    step, step_name = (60, "min") if longest > 180 else (1, "s")
    points = [(entry["at"], entry["seconds"] / step, entry["passed"]) for entry in history]
    return _draw_points(
        points, lambda value: f"{value:g} {step_name}", "Time of each rehearsal", from_zero=True
    )


def draw_scores(scores: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return the public scores in the order of their submissions, "wide" and "narrow"; {} for fewer than two."""
    points = []
    for score in scores:
        with suppress(ValueError, IndexError):  # no score yet; those of a local Kaggle end with "(LOCAL)"
            value = float(score["score"].split()[0])
            points += [(score["at"], value, True)] if math.isfinite(value) else []
    return _draw_points(points, lambda value: f"{value:.5g}", "Score of each submission", from_zero=False)


def _draw_points(
    points: Sequence[tuple[str, float, bool]], word: Callable[[float], str], label: str, *, from_zero: bool
) -> dict[str, str]:
    """Draw values in the order of their times (ISO 8601), each with whether it is a success, at both widths."""
    last = len(points) - 1

    def draw_line(figure: "Figure", width: int) -> None:
        axes = figure.subplots()
        values = [value for _, value, _ in points]
        axes.plot(values, color=_COLORS["line"], linewidth=1.5, zorder=1)
        for number, (_, value, is_success) in enumerate(points):
            mark, color = ("o", "ok" if from_zero else "accent") if is_success else ("X", "fail")
            size = 9 if number == last else 7
            style: Any = {"color": _COLORS[color], "markeredgecolor": _COLORS["surface"]}
            axes.plot([number], [value], mark, markersize=size, **style)
        axes.margins(y=0.25)
        if from_zero:
            axes.set_ylim(0, max(values) * 1.25 or 1)
        axes.set_xlim(-0.12, last + 0.12)
        _set_ticks(axes.yaxis, 3, word)
        begin, end = points[0][0], points[-1][0]
        shown = slice(11, 16) if begin[:10] == end[:10] else slice(10)  # of one day the times
        _label_ends(axes, last, begin[shown], end[shown])
        figure.subplots_adjust(left=56 / width, right=1 - 12 / width, top=0.95, bottom=0.2)

    return _draw_widths(dict.fromkeys(_WIDTHS, 140), draw_line, label) if last > 0 else {}


def _set_ticks(axis: Any, count: int, word: Callable[[float], str]) -> None:
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(count, steps=[1, 2, 2.5, 5, 10]))
    axis.set_major_formatter(lambda value, _: word(value))


def _label_ends(axes: "Axes", last: int, first_text: str, last_text: str) -> None:
    """Label the ends of the axis below, within the picture."""
    axes.set_xticks([0, last], [first_text, last_text])
    first_label, last_label = axes.get_xticklabels()
    first_label.set_horizontalalignment("left")
    last_label.set_horizontalalignment("right")


def _draw_widths(
    heights: Mapping[str, int], draw: "Callable[[Figure, int], None]", label: str
) -> dict[str, str]:
    return {name: _draw((width, heights[name]), draw, label) for name, width in _WIDTHS.items()}


def _draw(size: tuple[int, int], draw: "Callable[[Figure, int], None]", label: str) -> str:
    """Return what `draw` draws on a figure of this size (CSS pixels) as an SVG element for a page.

    It has no metadata, and no style sheet, which would act on the whole page; its ids are its own.
    """
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it would warn of its cache on stderr
    import matplotlib as mpl
    from matplotlib.figure import Figure

    buffer = io.StringIO()
    with mpl.rc_context(fname=_STYLE):
        figure = Figure(figsize=(size[0] / 96, size[1] / 96), dpi=96)
        draw(figure, size[0])
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = re.sub(r"<(metadata|style)\b.*?</\1>", "", buffer.getvalue(), flags=re.DOTALL)
    text = re.sub(r' id="[\w.]+_\d+"', "", text)  # of groups; what is used is named by a hash
    view = re.search(r'viewBox="[^"]*"', text)
    body = text[text.index("<svg") :].partition(">")[2]
    text = f'<svg xmlns:xlink="http://www.w3.org/1999/xlink" {view[0] if view else ""} role="img" aria-label="{label}">{body}'
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{label.split()[0].lower()}{size[0]}-", text)
    text = re.sub(r"font-family: [^;\"]*;? ?", "", text)  # words are in the page's font
    for name, color in _COLORS.items():
        text = text.replace(color, f"var(--{name})")
    return text
