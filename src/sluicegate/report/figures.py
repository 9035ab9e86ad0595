"""Pictures as SVG strings to be put inside a page: matplotlib draws, the page's style sheet colours.

Every colour is drawn as a stand-in and replaced by a CSS variable, so that one picture suits a
light and a dark page. Things that belong to one arm carry its class (``a3``), so that the legend
can bring it forward. The same numbers give the same bytes.
"""

import html
import io
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sluicegate.values.curves import Curve
from sluicegate.values.statistics import Estimate

WIDTH = 440
"""Width of a picture in CSS pixels at its natural size; a phone shows it at about four fifths of that."""


@dataclass(frozen=True)
class Series:
    """How one arm looks in every picture."""

    name: str
    key: str
    """CSS class, unique on the page."""
    colour: str
    """Name of a CSS variable of style.css, for example "dial-2"."""
    dash: str = "solid"
    """solid | dashed | dotted | dashdot."""
    strong: bool = False
    """Drawn thicker: the reference."""


@dataclass(frozen=True)
class Line:
    """A curve to draw."""

    series: Series
    curve: Curve


@dataclass(frozen=True)
class Point:
    """A point with intervals; `x` and `y` may be without."""

    series: Series
    x: Estimate
    y: Estimate
    order: float | None = None
    """Points that have one are joined by a line in this order."""


_NAMED = ("ink", "faint", "grid", "paper")


class _Paint:
    """Hands out a stand-in colour for each CSS variable and replaces them in the finished SVG."""

    def __init__(self) -> None:
        self._names: list[str] = list(_NAMED)

    def __call__(self, name: str) -> str:
        if name not in self._names:
            self._names.append(name)
        return f"#0f{self._names.index(name) + 1:02x}b7"

    def replace(self, svg: str) -> str:
        for i, name in enumerate(self._names):
            svg = svg.replace(f"#0f{i + 1:02x}b7", f"var(--{name})")
        return svg


@contextmanager
def _style(paint: _Paint, salt: str) -> Iterator[None]:
    import matplotlib

    ink, faint = paint("ink"), paint("faint")
    settings: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": f"sluicegate {salt}",
        "text.parse_math": False,
        "font.family": ["DejaVu Sans"],
        "font.size": 9.0,
        "text.color": ink,
        "axes.labelcolor": ink,
        "axes.edgecolor": faint,
        "axes.linewidth": 0.8,
        "axes.unicode_minus": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "xtick.color": faint,
        "ytick.color": faint,
        "xtick.labelcolor": ink,
        "ytick.labelcolor": ink,
        "grid.color": paint("grid"),
        "grid.linewidth": 0.7,
        "lines.dash_capstyle": "butt",
        "path.simplify": False,
    }
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(settings)
        yield


def _axes(height: float, left: float, right: float, top: float, bottom: float) -> tuple[Any, Any]:
    """A figure WIDTH wide with one pair of axes; margins in CSS pixels."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH / 96, height / 96), dpi=72)
    FigureCanvasSVG(figure)
    box = (left / WIDTH, bottom / height, (WIDTH - left - right) / WIDTH, (height - top - bottom) / height)
    axes = figure.add_axes(box)
    axes.set_axisbelow(True)
    return figure, axes


def _svg(figure: Any, paint: _Paint, name: str, label: str) -> str:
    """The figure as an SVG element that can stand inside a page beside others."""
    out = io.StringIO()
    figure.savefig(out, format="svg", transparent=True, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    svg = paint.replace(out.getvalue())
    svg = svg[svg.index("<svg") :]
    # The style sheet inside would hold for the whole page, and the names of XML are not needed in HTML.
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.S)
    box = re.search(r'viewBox="[^"]*"', svg)
    head = f'<svg class="picture" role="img" {box.group() if box else ""} aria-label="{html.escape(label)}">'
    svg = head + svg[svg.index(">") + 1 :]
    svg = svg.replace("xlink:href", "href")
    svg = re.sub(r"font-family: [^;\"]*", "font-family: inherit", svg)
    svg = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", svg)
    used = set(re.findall(r"(?:url\(|href=\")#([^)\"]+)", svg))

    def named(match: "re.Match[str]") -> str:
        own = match.group(1)
        if own.startswith("class:"):
            return f' class="{own[6:]}"'
        return f' id="{name}-{own}"' if own in used else ""

    svg = re.sub(r' id="([^"]*)"', named, svg)
    svg = re.sub(r'(url\(|href=")#', rf"\1#{name}-", svg)
    svg = re.sub(r"(\d\.\d\d)\d+", r"\1", svg)
    return re.sub(r"\s*\n\s*", "\n", svg).strip()


def _steps_axis(axes: Any, budget: float, unit: str) -> None:
    """0, 1, 3, 10, 30, 100: even steps of effort, the first of them visible."""
    import numpy as np
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    axes.set_xscale("function", functions=(np.log1p, np.expm1))
    ticks = [0.0] + [m * 10.0**e for e in range(9) for m in (1, 3) if m * 10.0**e <= budget]
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    axes.set_xlim(0, budget)
    axes.set_xlabel(unit)


def _shares_axis(axis: Any) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter

    axis.set_major_locator(FixedLocator([0, 0.25, 0.5, 0.75, 1]))
    axis.set_major_formatter(FuncFormatter(lambda v, _: f"{100 * v:.0f} %"))


_DASHES = {"solid": "solid", "dashed": (0, (5, 2)), "dotted": (0, (1, 1.6)), "dashdot": (0, (5, 1.6, 1, 1.6))}
DASHES = tuple(_DASHES)
"""Names of what a line may look like, to tell series of one colour apart."""


def curves_picture(name: str, label: str, lines: Sequence[Line], level: float | None = None) -> str:
    """Recall against effort: the mean as a line, every seed as a thin one; `level` is marked.

    `name` is unique on the page; `label` says in words what the picture shows.
    """
    paint = _Paint()
    with _style(paint, name):
        figure, axes = _axes(290, 48, 14, 12, 46)
        budget = max(line.curve.budget for line in lines)
        _steps_axis(axes, budget, lines[0].curve.unit)
        _shares_axis(axes.yaxis)
        axes.set_ylim(-0.015, 1.02)
        axes.grid(axis="y")
        if level is not None:
            axes.axhline(level, color=paint("faint"), lw=0.9, dashes=(2, 3), zorder=1)
        # The reference last: it lies on top.
        for line in sorted(lines, key=lambda line: line.series.strong):
            x, look = line.curve.effort, line.series
            if len(line.curve.recall) > 1:
                for row in line.curve.recall:
                    axes.plot(x, row, color=paint(look.colour), lw=0.7, gid=f"class:seed {look.key}", clip_on=False, zorder=2)
            mean = [sum(column) / len(column) for column in zip(*line.curve.recall, strict=True)]
            width = 3.0 if look.strong else 1.7
            axes.plot(
                x, mean, color=paint(look.colour), lw=width, ls=_DASHES[look.dash], gid=f"class:arm {look.key}", clip_on=False, zorder=3
            )
        return _svg(figure, paint, name, label)


def dial_picture(name: str, label: str, points: Sequence[Point], *, x_label: str, y_label: str, relative: bool) -> str:
    """Robustness (0 to 1) against cost on a logarithmic scale; points with an order are joined.

    With `relative`, costs are multiples of the reference's and 1 is marked.
    """
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    from sluicegate.report.numbers import flops

    paint = _Paint()
    with _style(paint, name):
        figure, axes = _axes(360, 60, 16, 16, 48)
        costs = [p.x.mean for p in points]
        low, high = min(costs), max(costs)
        axes.set_xscale("log")
        axes.set_xlim(low / 1.5, high * 2.1)
        if relative:
            marks = [m * 10.0**e for e in range(-6, 7) for m in (1, 2, 5) if low / 1.5 <= m * 10.0**e <= high * 2.1]
            axes.axvline(1, color=paint("faint"), lw=0.9, dashes=(2, 3), zorder=1)
            axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}×"))
        else:
            marks = [m * 10.0**e for e in range(30) for m in (1, 2, 5) if low / 1.5 <= m * 10.0**e <= high * 2.1]
            axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: re.sub(r"\.0+(?=\D)", "", flops(v))))
        axes.xaxis.set_major_locator(FixedLocator(marks))
        axes.xaxis.set_minor_locator(NullLocator())
        _shares_axis(axes.yaxis)
        top = max(1.0, *(p.y.mean for p in points))
        bottom = min(0.0, *(p.y.mean for p in points))
        axes.set_ylim(bottom - 0.07, top + 0.12)
        axes.grid(axis="y")
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        joined = sorted((p for p in points if p.order is not None), key=lambda p: p.order or 0.0)
        if len(joined) > 1:
            axes.plot([p.x.mean for p in joined], [p.y.mean for p in joined], color=paint(joined[-1].series.colour), lw=1.3, zorder=2)
        for p in points:
            _cross(axes, p, paint)
        _label_points(figure, axes, points)
        return _svg(figure, paint, name, label)


def _cross(axes: Any, point: Point, paint: _Paint) -> None:
    """A point with whiskers; the axes cut what leaves them."""
    colour, key = paint(point.series.colour), point.series.key
    x, y = point.x, point.y
    if not math.isnan(y.low):
        axes.plot([x.mean, x.mean], [y.low, y.high], color=colour, lw=1.0, gid=f"class:whisker {key}", zorder=2)
    if not math.isnan(x.low):
        axes.plot([max(x.low, 1e-12), x.high], [y.mean, y.mean], color=colour, lw=1.0, gid=f"class:whisker {key}", zorder=2)
    marker = "D" if point.series.strong else "o"
    axes.plot(
        [x.mean], [y.mean], marker, color=colour, ms=7.5, mec=paint("paper"), mew=1.2, gid=f"class:arm {key}", zorder=4, clip_on=False
    )


def _label_points(figure: Any, axes: Any, points: Sequence[Point]) -> None:
    """Write every point's name where it covers neither a point nor another name."""
    renderer = figure.canvas.get_renderer() if hasattr(figure.canvas, "get_renderer") else figure._get_renderer()
    frame = axes.get_window_extent(renderer)
    at = [tuple(axes.transData.transform((p.x.mean, p.y.mean))) for p in points]
    taken = [(x - 5, y - 5, x + 5, y + 5) for x, y in at]
    order = [(p, spot) for p, spot in zip(points, at, strict=True)]
    for point, (x, y) in sorted(order, key=lambda pair: -pair[1][1]):
        text = axes.text(0, 0, _cut(point.series.name, 22), transform=None, gid=f"class:name {point.series.key}", zorder=5)
        size = text.get_window_extent(renderer)
        w, h = size.width, size.height
        best = (math.inf, taken[0])
        for dx, dy in _places(w, h):
            box = (x + dx, y + dy, x + dx + w, y + dy + h)
            beyond = (frame.x0 - box[0], box[2] - frame.x1 - 8, frame.y0 - box[1], box[3] - frame.y1)
            outside = sum(max(0.0, by) for by in beyond)
            covered = sum(_overlap(box, other) for other in taken) + 50 * outside
            if covered < best[0]:
                best = (covered, box)
            if covered == 0:
                break
        if best[0] > 0:  # a name over another is worth less than none: the legend and the table have it
            text.remove()
            continue
        text.set_position((best[1][0], best[1][1]))
        text.set_verticalalignment("bottom")
        taken.append(best[1])


def _places(w: float, h: float) -> Iterator[tuple[float, float]]:
    """Offsets of a name's lower left corner from its point, the nicest first."""
    for gap in (7.0, 15.0, 25.0, 38.0):
        yield gap, -h / 2
        yield -gap - w, -h / 2
        yield gap * 0.7, gap * 0.6
        yield gap * 0.7, -gap * 0.6 - h
        yield -gap * 0.7 - w, gap * 0.6
        yield -gap * 0.7 - w, -gap * 0.6 - h
        yield -w / 2, gap
        yield -w / 2, -gap - h


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def _name_margin(names: Sequence[str]) -> float:
    """RunContext for names left of the axes, in CSS pixels; long ones are cut."""
    return min(150.0, 14 + 7.2 * max(len(_cut(n)) for n in names))


def _cut(name: str, most: int = 19) -> str:
    """A long name without its middle: what tells arms apart is mostly the end."""
    head = (most - 1) // 2
    return name if len(name) <= most else f"{name[:head]}…{name[head + 1 - most :]}"


def forest_picture(name: str, label: str, found: Sequence[tuple[Series, Estimate]], *, x_label: str, ends: tuple[str, str]) -> str:
    """One row an arm: mean and interval of a number between 0 and 1, both of which are named."""
    from matplotlib.ticker import FixedLocator, FuncFormatter

    paint = _Paint()
    with _style(paint, name):
        height = 78 + 27 * len(found)
        figure, axes = _axes(height, _name_margin([s.name for s, _ in found]), 16, 24, 46)
        low = max(-1.0, min([-0.08, *(min(e.mean - 0.08, e.low if not math.isnan(e.low) else 0.0) for _, e in found)]))
        low = min(low, min(e.mean for _, e in found) - 0.08)
        axes.set_xlim(low, 1.06)
        axes.set_ylim(len(found) - 0.4, -0.6)
        for at, words, side in ((0.0, ends[0], "center" if low < -0.5 else "left"), (1.0, ends[1], "right")):
            axes.axvline(at, color=paint("faint"), lw=0.9, dashes=(2, 3), zorder=1)
            shift = -2 if side == "left" else 2 if side == "right" else 0
            axes.annotate(
                words, (at, 1), xycoords=("data", "axes fraction"), xytext=(shift, 5), textcoords="offset points", ha=side, fontsize=8.5
            )
        for i, (series, e) in enumerate(found):
            colour = paint(series.colour)
            if not math.isnan(e.low):
                axes.plot([max(e.low, low), e.high], [i, i], color=colour, lw=2.2, solid_capstyle="butt", gid=f"class:whisker {series.key}")
                if e.low < low:  # the interval goes on beyond the picture
                    axes.plot([low], [i], "<", color=colour, ms=7, clip_on=False, gid=f"class:whisker {series.key}")
            face = colour if not e.bound else paint("paper")
            axes.plot([e.mean], [i], "o", ms=8, color=face, mec=colour, mew=1.8, zorder=4, gid=f"class:arm {series.key}", clip_on=False)
        axes.yaxis.set_major_locator(FixedLocator(range(len(found))))
        axes.set_yticklabels([_cut(series.name) for series, _ in found], fontsize=9)
        axes.tick_params(axis="y", length=0, pad=8)
        axes.spines["left"].set_visible(False)
        axes.xaxis.set_major_locator(FixedLocator([t / 4 for t in range(math.ceil(4 * low), 5)] if low > -0.75 else _halves(low)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}".replace("-", "\N{MINUS SIGN}")))
        axes.set_xlabel(x_label)
        return _svg(figure, paint, name, label)


def _halves(low: float) -> list[float]:
    step = max(1, math.ceil(-low / 2))
    return [t / 2 for t in range(math.ceil(2 * low), 3) if t % step == 0 or t == 2]


def bars_picture(name: str, label: str, found: Sequence[tuple[Series, Sequence[float]]], parts: Sequence[str], *, x_label: str) -> str:
    """One stacked bar an arm; `parts` name the CSS variables of the segments, whose legend the page writes."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    paint = _Paint()
    with _style(paint, name):
        figure, axes = _axes(60 + 25 * len(found), _name_margin([s.name for s, _ in found]), 16, 8, 46)
        for i, (series, values) in enumerate(found):
            start = 0.0
            for value, part in zip(values, parts, strict=True):
                if value > 0:
                    axes.barh(i, value, left=start, height=0.56, color=paint(part), linewidth=0, gid=f"class:arm {series.key}")
                start += value
        axes.set_ylim(len(found) - 0.4, -0.6)
        axes.set_yticks(range(len(found)), [_cut(series.name) for series, _ in found], fontsize=9)
        axes.tick_params(axis="y", length=0, pad=6)
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x")
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
        axes.set_xlabel(x_label)
        return _svg(figure, paint, name, label)
