"""The pictures of a report as inline SVG, drawn by matplotlib; their colors are CSS variables of the page."""

import io
import logging
import math
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# matplotlib draws in these colors, each of which becomes a variable: a page is light or dark after it was drawn.
_INK, _MUTED, _LINE, _ACCENT, _SOFT, _OK, _FAIL, _BAND, _SURFACE, _MIDDLE = (
    f"#0a0b{number:02x}" for number in range(16, 26)
)
_VARIABLES = {
    _INK: "--ink",
    _MUTED: "--muted",
    _LINE: "--line",
    _ACCENT: "--accent",
    _SOFT: "--accent-soft",
    _OK: "--ok",
    _FAIL: "--fail",
    _BAND: "--band",
    _SURFACE: "--surface",
    _MIDDLE: "--accent-middle",
}
_SVG = "http://www.w3.org/2000/svg"
_LINK = "{http://www.w3.org/1999/xlink}href"
_WIDTHS = {
    "wide": 880,
    "narrow": 340,
}  # CSS pixels: a picture that is only scaled has unreadable words on a phone
_STYLE: Any = {
    "svg.fonttype": "none",  # words stay words, in the page's font
    "svg.hashsalt": "offline-kit",  # the same picture gives the same bytes
    "font.family": "sans-serif",
    "font.size": 8.25,  # points: 11 CSS pixels
    "text.color": _MUTED,
    "text.parse_math": False,
    "axes.edgecolor": _LINE,
    "axes.labelcolor": _MUTED,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.axisbelow": True,
    "axes.grid.axis": "y",
    "axes.grid": True,
    "grid.color": _LINE,
    "grid.linewidth": 0.75,
    "xtick.color": _LINE,
    "ytick.color": _LINE,
    "xtick.labelcolor": _MUTED,
    "ytick.labelcolor": _MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}


def draw_run(
    curve: Sequence[Sequence[float]], cells: Sequence[Mapping[str, Any]], limit: float | None
) -> dict[str, str]:
    """Return the memory of a run over its cells, "wide" and "narrow"; {} if there is nothing to draw.

    `curve` has seconds and bytes, each cell its "start" and "end" in the same seconds; `limit` is drawn if it is near.
    """
    timed = [cell for cell in cells if cell["start"] is not None and cell["end"] is not None]
    ends = [*(cell["end"] for cell in timed), *(point[0] for point in curve)]
    if not ends:
        return {}
    return {
        name: _draw(
            (width, 220 if name == "wide" else 190),
            lambda figure, width=width: _draw_memory(figure, curve, timed, max(ends), limit, width),
            "The memory of the run, and when each cell ran",
        )
        for name, width in _WIDTHS.items()
    }


def _draw_memory(
    figure: "Figure",
    curve: Sequence[Sequence[float]],
    cells: Sequence[Mapping[str, Any]],
    end: float,
    limit: float | None,
    width: int,
) -> None:
    memory, lane = figure.subplots(2, 1, sharex=True, height_ratios=(1, 0.13), gridspec_kw={"hspace": 0.06})
    peak = max((point[1] for point in curve), default=0.0)
    unit, name = _choose_unit(peak)
    # In the units of the axes: only then are their ticks round numbers.
    step, sign = (3600, "h") if end > 7200 else (60, "min") if end > 180 else (1, "s")
    times, sizes = [point[0] / step for point in curve], [point[1] / unit for point in curve]
    memory.fill_between(times, sizes, color=_SOFT, linewidth=0)
    memory.plot(times, sizes, color=_ACCENT, linewidth=1.4, solid_joinstyle="round")
    top = peak / unit * 1.22 or 1.0
    if limit and limit < 4 * peak:
        memory.axhline(limit / unit, color=_FAIL, linewidth=1, linestyle=(0, (4, 3)))
        top = max(top, limit / unit * 1.1)
    memory.set_ylim(0, top)
    memory.set_xlim(0, end / step)
    memory.yaxis.set_major_locator(_locator(4))
    memory.yaxis.set_major_formatter(lambda value, _: f"{value:g} {name}")
    if curve:
        _mark_peak(memory, times, sizes, name)
    for number, cell in enumerate(cells):
        start, length = cell["start"] / step, (cell["end"] - cell["start"]) / step
        pixels = length * step / end * width
        color = _FAIL if cell["status"] == "failed" else (_ACCENT if number % 2 else _MIDDLE)
        lane.barh(0, max(length, end / step / width), left=start, height=1, color=color, linewidth=0)
        if pixels > 22:
            words = {"color": _SURFACE, "ha": "center", "va": "center_baseline"}
            lane.text(start + length / 2, 0, str(cell["number"]), **words)
        if number % 2 and pixels > 4:
            memory.axvspan(start, start + length, color=_BAND, linewidth=0, zorder=-1)
    lane.set_ylim(-0.5, 0.5)
    lane.set_yticks([])
    lane.spines.bottom.set_visible(False)
    memory.tick_params(labelbottom=False)
    memory.spines.bottom.set_visible(False)
    lane.grid(visible=False)
    lane.xaxis.set_major_locator(_locator(4 if width < 500 else 8))
    lane.xaxis.set_major_formatter(lambda value, _: f"{value:g} {sign}")
    figure.subplots_adjust(left=62 / width, right=1 - 12 / width, top=0.97, bottom=0.13)


def _mark_peak(axes: "Axes", times: Sequence[float], sizes: Sequence[float], unit: str) -> None:
    at, peak = max(zip(times, sizes, strict=True), key=lambda point: point[1])
    axes.plot([at], [peak], "o", color=_ACCENT, markersize=4.5, markeredgecolor=_SURFACE)
    is_right = at > 0.75 * axes.get_xlim()[1]
    axes.annotate(
        f"{peak:.3g} {unit}",
        (at, peak),
        xytext=(-7 if is_right else 7, 4),
        textcoords="offset points",
        ha="right" if is_right else "left",
        color=_INK,
        fontweight="bold",
    )


def draw_histogram(column: Mapping[str, Any]) -> str:
    """Return the histogram of a column of numbers; the last rehearsal's is an outline over it."""
    bins, before = column["bins"], (column.get("previous") or {}).get("bins")

    def draw_bars(figure: "Figure") -> None:
        axes = figure.subplots()
        # In units of bins: values may be larger than a picture's coordinates can be.
        edges = range(len(bins) + 1)
        for bar in axes.bar(edges[:-1], bins, width=0.84, align="edge", color=_ACCENT, linewidth=0):
            bar.set_clip_on(False)
        if before and before != bins:
            axes.stairs(before, edges, color=_MUTED, linewidth=1.1, baseline=None, clip_on=False)
        axes.grid(visible=False)
        axes.set_yticks([])
        axes.set_xlim(0, len(bins))
        axes.set_xticks([0, len(bins)], [f"{column['min']:.4g}", f"{column['max']:.4g}"])
        _align_ends(axes)
        figure.subplots_adjust(left=0.01, right=0.99, top=0.97, bottom=0.2)

    return _draw((300, 104), draw_bars, "Histogram")


def _align_ends(axes: "Axes") -> None:
    """Keep the first and the last word below an axis within the picture."""
    first, last = axes.get_xticklabels()
    first.set_horizontalalignment("left")
    last.set_horizontalalignment("right")


def draw_history(history: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return the time of each rehearsal, "wide" and "narrow"; {} for fewer than two."""
    longest = max((entry["seconds"] for entry in history), default=0.0)
    step, sign = (60, "min") if longest > 180 else (1, "s")
    points = [(entry["at"], entry["seconds"] / step, bool(entry["passed"])) for entry in history]
    return _draw_points(points, lambda value: f"{value:g} {sign}", "Time of each rehearsal", from_zero=True)


def draw_scores(scores: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return the public scores in the order of their submissions, "wide" and "narrow"; {} for fewer than two."""
    points = []
    for score in scores:
        with suppress(ValueError, IndexError):  # no score yet; those of a local Kaggle end with "(LOCAL)"
            points.append((score["at"], float(score["score"].split()[0]), True))
    points = [point for point in points if math.isfinite(point[1])]
    return _draw_points(points, lambda value: f"{value:.5g}", "Score of each submission", from_zero=False)


def _draw_points(
    points: Sequence[tuple[str, float, bool]], word: Callable[[float], str], label: str, *, from_zero: bool
) -> dict[str, str]:
    """Draw values in the order of their times (ISO 8601), each with whether it is a success, at both widths."""

    def draw_line(figure: "Figure", width: int) -> None:
        axes = figure.subplots()
        values = [value for _, value, _ in points]
        axes.plot(range(len(values)), values, color=_LINE, linewidth=1.5, zorder=1)
        for number, (_, value, is_success) in enumerate(points):
            mark, color = ("o", _OK if from_zero else _ACCENT) if is_success else ("X", _FAIL)
            size = 9 if number == len(points) - 1 else 7
            axes.plot([number], [value], mark, color=color, markersize=size, markeredgecolor=_SURFACE)
        if from_zero:
            axes.set_ylim(0, max(values) * 1.25 or 1)
        else:
            axes.margins(y=0.25)
        axes.set_xlim(-0.12, len(points) - 0.88)
        axes.yaxis.set_major_locator(_locator(3))
        axes.yaxis.set_major_formatter(lambda value, _: word(value))
        first, last = points[0][0], points[-1][0]
        shown = slice(11, 16) if first[:10] == last[:10] else slice(10)  # of one day the times
        axes.set_xticks([0, len(points) - 1], [first[shown], last[shown]])
        _align_ends(axes)
        figure.subplots_adjust(left=56 / width, right=1 - 12 / width, top=0.95, bottom=0.2)

    if len(points) < 2:
        return {}
    return {
        name: _draw((width, 140), lambda figure, width=width: draw_line(figure, width), label)
        for name, width in _WIDTHS.items()
    }


def _choose_unit(size: float) -> tuple[float, str]:
    return (1e9, "GB") if size >= 1e9 else (1e6, "MB")


def _locator(count: int) -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(count, steps=[1, 2, 2.5, 5, 10])


def _draw(size: tuple[int, int], draw: Any, label: str) -> str:
    """Return what `draw` draws on a figure of this size (CSS pixels) as an SVG element for a page."""
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it would warn of its cache on stderr
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    buffer = io.BytesIO()
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(size[0] / 96, size[1] / 96), dpi=96)
        FigureCanvasSVG(figure)
        draw(figure)
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return _clean_svg(buffer.getvalue(), size, label)


def _clean_svg(svg: bytes, size: tuple[int, int], label: str) -> str:
    """Return matplotlib's SVG without metadata, ids and its style sheet, which would act on the whole page."""
    ET.register_namespace("", _SVG)
    root = ET.fromstring(svg)  # noqa: S314 - matplotlib wrote it
    used = set(re.findall(rb"url\(#(\w+)\)|href=\"#(\w+)\"", svg))
    kept_ids = {name.decode() for pair in used for name in pair if name}
    prefix = f"{label.split()[0].lower()}{size[0]}-"
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{{{_SVG}}}metadata", f"{{{_SVG}}}style"):
                parent.remove(child)
    for element in root.iter():
        name = element.attrib.pop("id", None)
        if name in kept_ids:
            element.set("id", f"{prefix}{name}")
        if link := element.attrib.pop(_LINK, None):
            element.set("href", link.replace("#", f"#{prefix}"))
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    root.set("role", "img")
    root.set("aria-label", label)
    text = ET.tostring(root, encoding="unicode").replace("url(#", f"url(#{prefix}")
    text = re.sub(r"font-family: [^;\"]*;? ?", "", text)  # words are in the page's font
    for color, variable in _VARIABLES.items():
        text = text.replace(color, f"var({variable})")
    return text
