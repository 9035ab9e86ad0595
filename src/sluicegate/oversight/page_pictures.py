"""Charts of the oversight page: return against the share of oversight and against updates, and where episodes end."""

import math
from collections.abc import Sequence
from typing import Any

from sluicegate.oversight.page_numbers import Found, percent
from sluicegate.report.charts import Track
from sluicegate.report.figures import _DASHES, Series, _axes, _Paint, _style, _svg, bars_picture
from sluicegate.report.numbers import plain

LABELS = {
    "naive": "naive", "naive_penalty": "naive 1/p", "naive_stopped": "naive stopped", "naive_penalty_stopped": "naive 1/p stopped",
    "filter": "filter", "filter_hidden": "blind filter", "moe": "mixture unrouted", "routed_paper": "routed as in paper",
    "routed": "routed", "single": "single net", "reward_model": "reward model", "oracle": "oracle", "placebo": "placebo labels",
    "routed_baseline": "routed + baseline", "routed_unweighted": "routed unweighted", "routed_flags": "routed + gate flags",
    "routed_constant": "routed const. gate", "routed_negative": "routed + negative", "routed_avoid": "routed + avoiding",
    "single_avoid": "single + avoiding", "any_avoid": "any end + avoiding",
}  # fmt: skip
"""What an arm is called on the page; at most 19 letters, which is what charts have room for."""
ENDS = {"diamond": "distilled", "ghost": "suppressed", "timeout": "part-before"}
"""How episodes end, and the CSS variable of each."""
DRAWN = ("naive", "naive_penalty", "filter", "single", "routed", "reward_model", "filter_hidden")
"""Arms whose way through training is drawn; the stopped ones are points on it."""
_LOOKS = {
    "naive": ("suppressed", "solid"), "naive_penalty": ("suppressed", "dashed"), "naive_stopped": ("suppressed", "dotted"),
    "naive_penalty_stopped": ("suppressed", "dashdot"), "filter": ("distilled", "solid"), "filter_hidden": ("distilled", "dashed"),
    "moe": ("dial-2", "dotted"), "routed_paper": ("dial-2", "dashed"), "routed": ("dial-4", "solid"), "single": ("control", "solid"),
    "reward_model": ("other", "solid"), "oracle": ("reference", "dotted"), "placebo": ("pretrained", "solid"),
    "routed_baseline": ("dial-3", "dashed"), "routed_unweighted": ("dial-3", "dotted"), "routed_flags": ("dial-3", "dashdot"),
    "routed_constant": ("dial-2", "dashdot"), "routed_negative": ("dial-5", "dashed"), "routed_avoid": ("dial-5", "dashdot"),
    "single_avoid": ("control", "dashdot"), "any_avoid": ("other", "dashdot"),
}  # fmt: skip
"""Colour by family: naive, filtered, mixtures, single nets."""


def label_of(name: str) -> str:
    """What the page calls an arm."""
    return LABELS.get(name, name.replace("_", " "))


def looks_of(names: Sequence[str]) -> dict[str, Series]:
    """How each arm is drawn everywhere, by its label."""
    found = {}
    for n, name in enumerate(names):
        colour, dash = _LOOKS.get(name, ("faint", "solid"))
        found[label_of(name)] = Series(label_of(name), f"a{n}", colour, dash, name == "routed")
    return found


def by_share(found: Found, looks: dict[str, Series], figure_name: str, y: str) -> str:
    """A figure ("return", "far") against the share of oversight, with intervals; the ceiling and the optimum as lines."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    paint, shares = _Paint(), found.shares
    told = {name: [found.estimate(share, name, figure_name) for share in shares] for name in found.names}
    key = f"by-share-{figure_name}"
    label = f"{y} against the share of overseen squares. " + "; ".join(
        f"{label_of(name)} " + ", ".join(f"{e.mean:.2f} at {percent(p)}" for p, e in zip(shares, row, strict=True))
        for name, row in told.items()
    )
    with _style(paint, key):
        figure, axes = _axes(400, 48, 14, 14, 46)
        axes.set_xscale("log")
        lowest = min(0.0, *(e.mean for row in told.values() for e in row)) - 0.05
        for name, row in told.items():
            look = looks[label_of(name)]
            colour = paint(look.colour)
            for share, e in zip(shares, row, strict=True):
                if not math.isnan(e.low):
                    axes.plot([share, share], [max(e.low, lowest), min(e.high, 1.02)], color=colour, lw=1.6, gid=f"class:seed {look.key}")
            axes.plot(
                shares, [e.mean for e in row], "o", color=colour, ls=_DASHES[look.dash], lw=3.0 if look.strong else 1.6,
                ms=5.5 if look.strong else 4, gid=f"class:arm {look.key}", clip_on=False, zorder=4 if look.strong else 3,
            )  # fmt: skip
        axes.set_xlim(shares[0] / 1.25, shares[-1] * 1.25)
        axes.set_ylim(lowest, 1.05)
        _marks(axes, paint, found, figure_name)
        axes.xaxis.set_major_locator(FixedLocator(shares))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: percent(v)))
        _returns(axes, y)
        axes.set_xlabel("share of overseen squares")
        return _svg(figure, paint, key, label)


def by_update(found: Found, share: float, figure_name: str, looks: dict[str, Series], y: str, names: Sequence[str] = DRAWN) -> str:
    """A figure ("return", "overseen") of several arms along training at one share; empty where no arm has it."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    shown = [name for name in names if name in found.names]
    tracks = [Track(looks[label_of(name)], seeds) for name in shown if (seeds := found.curve(share, name, figure_name))]
    if not tracks:
        return ""
    paint, key = _Paint(), f"updates-{figure_name}-{share:g}".replace(".", "-")
    label = f"{y} against updates at {percent(share)} of oversight. Arms: {', '.join(track.series.name for track in tracks)}."
    with _style(paint, key):
        figure, axes = _axes(300, 48, 14, 12, 46)
        for track in tracks:
            look = track.series
            colour = paint(look.colour)
            if len(track.seeds) > 1:
                for xs, ys in track.seeds:
                    axes.plot(xs, ys, color=colour, lw=0.7, gid=f"class:seed {look.key}")
            xs, ys = track.mean()
            width = 3.0 if look.strong else 1.7
            axes.plot(xs, ys, color=colour, lw=width, ls=_DASHES[look.dash], gid=f"class:arm {look.key}", clip_on=False)
        low = min(0.0, *(v for t in tracks for _, ys in t.seeds for v in ys))
        axes.set_ylim(max(-1.05, low - 0.05), 1.05)
        axes.set_xlim(left=0)
        if figure_name == "return":
            _marks(axes, paint, found, figure_name)
        _returns(axes, y)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
        axes.set_xlabel("updates")
        return _svg(figure, paint, key, label)


def ends(found: Found, share: float, looks: dict[str, Series]) -> str:
    """How episodes end at one share: a stacked bar an arm."""
    rows = [(looks[label_of(name)], [found.estimate(share, name, end).mean for end in ENDS]) for name in found.names]
    label = f"Shares of episodes that end at the Diamond, at the Ghost, or by time-out, at {percent(share)} of oversight: " + "; ".join(
        f"{series.name} {', '.join(f'{value:.2f}' for value in values)}" for series, values in rows
    )
    return bars_picture(f"ends-{share:g}".replace(".", "-"), label, rows, list(ENDS.values()), x_label="share of episodes")


def _marks(axes: Any, paint: _Paint, found: Found, figure_name: str) -> None:
    """The optimum and the ceiling, named; without the digit before the point, so that no SVG shortens them."""
    left = axes.get_xlim()[0]
    for name, words in (("optimal", "optimum"), ("ceiling", "ceiling")):
        at = found.reference(name, figure_name)
        if math.isnan(at):
            continue
        axes.axhline(at, color=paint("faint"), lw=1.0, dashes=(2, 3), zorder=1)
        axes.annotate(
            f"{words} {plain(at, 3).lstrip('0')}",
            (left, at),
            xytext=(3, 2),
            textcoords="offset points",
            fontsize=8,
            color=paint("ink"),
            zorder=6,
        )


def _returns(axes: Any, y: str) -> None:
    from matplotlib.ticker import FuncFormatter, MultipleLocator

    axes.grid(axis="y")
    axes.yaxis.set_major_locator(MultipleLocator(0.25))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}".replace("-", "\N{MINUS SIGN}")))
    axes.set_ylabel(y)
