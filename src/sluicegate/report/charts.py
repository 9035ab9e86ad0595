"""The charts of the pages: curves, costs against robustness, savings, stacked bars, dots, and lines against
anything."""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sluicegate.report.figures import (
    Picture,
    Series,
    draw_picture,
    name_margin,
    set_cost_axis,
    set_number_axis,
    set_shares_axis,
    set_steps_axis,
    shorten,
)
from sluicegate.report.formatting import flops
from sluicegate.values.curves import Curve
from sluicegate.values.statistics import Estimate


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


@dataclass(frozen=True)
class Group:
    """One measure over the arms: a colour in the chart."""

    name: str
    colour: str
    """Name of a CSS variable of style.css."""
    values: Sequence[Estimate | None]
    """One an arm."""


@dataclass(frozen=True)
class Track:
    """One arm's curve: every seed's own points."""

    series: Series
    seeds: Sequence[tuple[Sequence[float], Sequence[float]]]
    """(x, y) of each seed, which may differ in length and in where they were measured."""

    def mean(self) -> tuple[Sequence[float], Sequence[float]]:
        """The mean over seeds, as far as all of them go; empty where there is none.

        Curves over an increasing x are joined linearly between their points; others (one number against another, along
        training) are averaged point by point, which needs equally many.
        """
        import numpy as np

        own = [(np.asarray(x, dtype=float), np.asarray(y, dtype=float)) for x, y in self.seeds]
        if all((np.diff(x) > 0).all() for x, _ in own):
            first, last = max(x[0] for x, _ in own), min(x[-1] for x, _ in own)
            grid = np.unique(np.concatenate([x for x, _ in own]))
            grid = grid[(grid >= first) & (grid <= last)]
            return grid.tolist(), np.mean([np.interp(grid, x, y) for x, y in own], axis=0).tolist() if len(grid) else []
        if len({len(x) for x, _ in own}) == 1:
            return np.mean([x for x, _ in own], axis=0).tolist(), np.mean([y for _, y in own], axis=0).tolist()
        return [], []


def curves_picture(name: str, label: str, lines: Sequence[Line], level: float | None = None) -> str:
    """Recall against effort: the mean as a line, every seed as a thin one; `level` is marked."""
    with draw_picture(name, label, 290, left=48, bottom=46) as picture:
        set_steps_axis(picture.axes, max(line.curve.budget for line in lines), lines[0].curve.unit)
        set_shares_axis(picture.axes.yaxis)
        picture.axes.set_ylim(-0.015, 1.02)
        picture.axes.grid(axis="y")
        picture.mark(y=level)
        # The reference last: it lies on top.
        for line in sorted(lines, key=lambda line: line.series.strong):
            x, look = line.curve.effort, line.series
            if len(line.curve.recall) > 1:
                for row in line.curve.recall:
                    picture.points(look, x, row, kind="seed", lw=0.7, clip_on=False, zorder=2)
            mean = [sum(column) / len(column) for column in zip(*line.curve.recall, strict=True)]
            picture.line(look, x, mean, lw=3.0 if look.strong else 1.7, clip_on=False, zorder=3)
    return picture.svg


def small_picture(name: str, label: str, lines: Sequence[Line]) -> str:
    """Recall against effort, for small multiples: the mean as a line, a band from the lowest to the highest seed.

    The scale of effort is logarithmic where it spans a decade or more.
    """
    with draw_picture(name, label, 190, width=300, left=44, right=12, top=8, bottom=40) as picture:
        efforts = sorted({x for line in lines for x in line.curve.effort})
        positive = [x for x in efforts if x > 0]
        if positive and positive[-1] >= 10 * positive[0]:
            set_steps_axis(picture.axes, efforts[-1], lines[0].curve.unit, positive[0], efforts[0])
        else:
            set_number_axis(picture.axes.xaxis, 5, whole=all(x == int(x) for x in efforts))
            picture.axes.set_xlim(efforts[0] - (len(efforts) == 1), efforts[-1] + (len(efforts) == 1))
            if len(efforts) == 1:
                picture.axes.set_xticks(efforts)
            picture.axes.set_xlabel(lines[0].curve.unit)
        set_shares_axis(picture.axes.yaxis)
        picture.axes.set_ylim(-0.015, 1.02)
        picture.axes.grid(axis="y")
        for line in sorted(lines, key=lambda line: line.series.strong):
            x, columns, look = line.curve.effort, list(zip(*line.curve.recall, strict=True)), line.series
            if len(line.curve.recall) > 1:
                picture.band(look, x, list(map(min, columns)), list(map(max, columns)))
            marks = {"marker": "o", "ms": 4} if len(x) == 1 else {}
            means = [sum(column) / len(column) for column in columns]
            picture.line(look, x, means, lw=2.6 if look.strong else 1.7, clip_on=False, zorder=3, **marks)
    return picture.svg


def dial_picture(name: str, label: str, points: Sequence[Point], *, x_label: str, y_label: str, relative: bool) -> str:
    """Robustness (0 to 1) against cost on a logarithmic scale; points with an order are joined.

    With `relative`, costs are multiples of the reference's and 1 is marked.
    """
    with draw_picture(name, label, 360, left=60, right=16, top=16, bottom=48) as picture:
        axes, costs, heights = picture.axes, [p.x.mean for p in points], [p.y.mean for p in points]
        form = (lambda v: f"{v:g}×") if relative else (lambda v: re.sub(r"\.0+(?=\D)", "", flops(v)))
        set_cost_axis(axes, min(costs) / 1.5, max(costs) * 2.1, form)
        picture.mark(x=1 if relative else None)
        set_shares_axis(axes.yaxis)
        axes.set_ylim(min(0.0, *heights) - 0.07, max(1.0, *heights) + 0.12)
        picture.label(x_label, y_label)
        joined = sorted((p for p in points if p.order is not None), key=lambda p: p.order or 0.0)
        if len(joined) > 1:
            colour = picture.paint(joined[-1].series.colour)
            axes.plot([p.x.mean for p in joined], [p.y.mean for p in joined], color=colour, lw=1.3, zorder=2)
        for p in points:
            draw_point(picture, p)
        label_points(picture, points)
    return picture.svg


def draw_point(picture: Picture, point: Point) -> None:
    """A point with whiskers; the axes cut what leaves them."""
    look, x, y = point.series, point.x, point.y
    if not math.isnan(y.low):
        picture.points(look, [x.mean, x.mean], [y.low, y.high], kind="whisker", lw=1.0, zorder=2)
    if not math.isnan(x.low):
        picture.points(look, [max(x.low, 1e-12), x.high], [y.mean, y.mean], kind="whisker", lw=1.0, zorder=2)
    edge = picture.paint("paper")
    picture.points(look, [x.mean], [y.mean], "D" if look.strong else "o", ms=7.5, mec=edge, mew=1.2, zorder=4, clip_on=False)


def label_points(picture: Picture, points: Sequence[Point]) -> None:
    """Write every point's name where it covers neither a point nor another name."""
    figure, axes = picture.figure, picture.axes
    renderer = figure.canvas.get_renderer() if hasattr(figure.canvas, "get_renderer") else figure._get_renderer()
    frame = axes.get_window_extent(renderer)
    at = [tuple(axes.transData.transform((p.x.mean, p.y.mean))) for p in points]
    taken = [(x - 5, y - 5, x + 5, y + 5) for x, y in at]
    order = [(p, spot) for p, spot in zip(points, at, strict=True)]
    for point, (x, y) in sorted(order, key=lambda pair: -pair[1][1]):
        text = axes.text(0, 0, shorten(point.series.name, 22), transform=None, gid=f"class:name {point.series.key}", zorder=5)
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


def forest_picture(name: str, label: str, found: Sequence[tuple[Series, Estimate]], *, x_label: str, ends: tuple[str, str]) -> str:
    """One row an arm: mean and interval of a number between 0 and 1, both of which are named."""
    from matplotlib.ticker import FixedLocator

    names = [series.name for series, _ in found]
    with draw_picture(name, label, 78 + 27 * len(found), left=name_margin(names), right=16, top=24, bottom=46) as picture:
        axes = picture.axes
        low = max(-1.0, min([-0.08, *(min(e.mean - 0.08, e.low if not math.isnan(e.low) else 0.0) for _, e in found)]))
        low = min(low, min(e.mean for _, e in found) - 0.08)
        axes.set_xlim(low, 1.06)
        for at, words, side in ((0.0, ends[0], "center" if low < -0.5 else "left"), (1.0, ends[1], "right")):
            picture.mark(x=at)
            shift = -2 if side == "left" else 2 if side == "right" else 0
            axes.annotate(
                words, (at, 1), xycoords=("data", "axes fraction"), xytext=(shift, 5), textcoords="offset points", ha=side, fontsize=8.5
            )
        for i, (look, e) in enumerate(found):
            if not math.isnan(e.low):
                picture.points(look, [max(e.low, low), e.high], [i, i], kind="whisker", lw=2.2, solid_capstyle="butt")
                if e.low < low:  # the interval goes on beyond the picture
                    picture.points(look, [low], [i], "<", kind="whisker", ms=7, clip_on=False)
            colour = picture.paint(look.colour)
            face = {"mfc": picture.paint("paper")} if e.bound else {}
            picture.points(look, [e.mean], [i], "o", ms=8, mec=colour, mew=1.8, zorder=4, clip_on=False, **face)
        picture.name_rows(names, pad=8)
        set_number_axis(axes.xaxis)
        axes.xaxis.set_major_locator(FixedLocator([t / 4 for t in range(math.ceil(4 * low), 5)] if low > -0.75 else _halves(low)))
        axes.set_xlabel(x_label)
    return picture.svg


def _halves(low: float) -> list[float]:
    step = max(1, math.ceil(-low / 2))
    return [t / 2 for t in range(math.ceil(2 * low), 3) if t % step == 0 or t == 2]


def bars_picture(name: str, label: str, found: Sequence[tuple[Series, Sequence[float]]], parts: Sequence[str], *, x_label: str) -> str:
    """One stacked bar an arm; `parts` name the CSS variables of the segments, whose legend the page writes."""
    names = [series.name for series, _ in found]
    with draw_picture(name, label, 60 + 25 * len(found), left=name_margin(names), right=16, top=8, bottom=46) as picture:
        for i, (series, values) in enumerate(found):
            start = 0.0
            for value, part in zip(values, parts, strict=True):
                if value > 0:
                    colour = picture.paint(part)
                    picture.axes.barh(i, value, left=start, height=0.56, color=colour, linewidth=0, gid=f"class:arm {series.key}")
                start += value
        picture.name_rows(names)
        set_number_axis(picture.axes.xaxis, 5)
        picture.label(x_label, grid="x")
    return picture.svg


def dots_picture(name: str, label: str, arms: Sequence[str], groups: Sequence[Group]) -> str:
    """One row an arm, one dot a measure, with its interval."""
    with draw_picture(name, label, 56 + (13 + 9 * len(groups)) * len(arms), left=name_margin(arms), right=16, top=8, bottom=40) as picture:
        axes = picture.axes
        ends = [v for group in groups for e in group.values if e is not None for v in (e.mean, e.low, e.high) if math.isfinite(v)]
        low, high = min([0.0, *ends]), max([*ends, 1e-9])
        for row in range(len(arms)):
            for k, group in enumerate(groups):
                found = group.values[row]
                if found is None or not math.isfinite(found.mean):
                    continue
                y = row + (k - (len(groups) - 1) / 2) * 0.7 / max(len(groups), 2)
                colour = picture.paint(group.colour)
                if math.isfinite(found.low):
                    axes.plot([found.low, found.high], [y, y], color=colour, lw=1.8, solid_capstyle="butt")
                axes.plot([found.mean], [y], "o", ms=5.5, color=colour, mec=picture.paint("paper"), mew=0.6, zorder=4)
        axes.set_xlim(low - 0.03 * (high - low) if low < 0 else 0.0, high + 0.05 * (high - low))
        picture.name_rows(arms)
        axes.grid(axis="x")
        set_number_axis(axes.xaxis)
    return picture.svg


def lines_picture(name: str, label: str, tracks: Sequence[Track], *, x_label: str, y_label: str) -> str:
    """Curves of several arms: the mean as a line, every seed as a thin one."""
    with draw_picture(name, label, 300, top=10) as picture:
        for track in tracks:
            draw_track(picture, track)
        for axis in (picture.axes.xaxis, picture.axes.yaxis):
            set_number_axis(axis)
        picture.axes.margins(x=0.01)
        picture.label(x_label, y_label)
    return picture.svg


def draw_track(picture: Picture, track: Track, *, thin: float = 0.9, **more: Any) -> None:
    """An arm's mean as a line, and every seed as a thin one."""
    if len(track.seeds) > 1:
        for x, y in track.seeds:
            picture.points(track.series, x, y, kind="seed", lw=thin)
    x, y = track.mean()
    picture.line(track.series, x, y, **({"lw": 1.9, "ms": 4, "marker": "o" if len(x) == 1 else None} | more))
