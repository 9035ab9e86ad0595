"""Charts of a trial's page: numbers of several arms side by side, and curves against anything."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sluicegate.report.figures import _DASHES, Series, _axes, _cut, _name_margin, _Paint, _style, _svg
from sluicegate.values.statistics import Estimate


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


def dots_picture(name: str, label: str, arms: Sequence[str], groups: Sequence[Group]) -> str:
    """One row an arm, one dot a measure, with its interval."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    paint = _Paint()
    with _style(paint, name):
        figure, axes = _axes(56 + (13 + 9 * len(groups)) * len(arms), _name_margin(list(arms)), 16, 8, 40)
        ends = [v for group in groups for e in group.values if e is not None for v in (e.mean, e.low, e.high) if math.isfinite(v)]
        low, high = min([0.0, *ends]), max([*ends, 1e-9])
        for row in range(len(arms)):
            for k, group in enumerate(groups):
                found = group.values[row]
                if found is None or not math.isfinite(found.mean):
                    continue
                y = row + (k - (len(groups) - 1) / 2) * 0.7 / max(len(groups), 2)
                colour = paint(group.colour)
                if math.isfinite(found.low):
                    axes.plot([found.low, found.high], [y, y], color=colour, lw=1.8, solid_capstyle="butt")
                axes.plot([found.mean], [y], "o", ms=5.5, color=colour, mec=paint("paper"), mew=0.6, zorder=4)
        axes.set_xlim(low - 0.03 * (high - low) if low < 0 else 0.0, high + 0.05 * (high - low))
        axes.set_ylim(len(arms) - 0.4, -0.6)
        axes.set_yticks(range(len(arms)), [_cut(arm) for arm in arms], fontsize=9)
        axes.tick_params(axis="y", length=0, pad=6)
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x")
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.xaxis.set_major_formatter(FuncFormatter(_plain))
        return _svg(figure, paint, name, label)


def lines_picture(name: str, label: str, tracks: Sequence[Track], *, x_label: str, y_label: str) -> str:
    """Curves of several arms: the mean as a line, every seed as a thin one."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    paint = _Paint()
    with _style(paint, name):
        figure, axes = _axes(300, 52, 14, 10, 44)
        for track in tracks:
            colour, dash = paint(track.series.colour), _DASHES[track.series.dash]
            if len(track.seeds) > 1:
                for x, y in track.seeds:
                    axes.plot(x, y, color=colour, lw=0.9, gid=f"class:seed {track.series.key}")
            x, y = track.mean()
            mark = "o" if len(x) == 1 else None
            axes.plot(x, y, color=colour, lw=1.9, ms=4, marker=mark, linestyle=dash, gid=f"class:arm {track.series.key}")
        axes.grid(axis="y")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(6))
            axis.set_major_formatter(FuncFormatter(_plain))
        axes.margins(x=0.01)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        return _svg(figure, paint, name, label)


def _plain(value: float, _: Any = None) -> str:
    return f"{value:g}".replace("-", "\N{MINUS SIGN}")
