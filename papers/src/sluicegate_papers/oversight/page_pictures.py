"""Charts of the oversight page: return against the share of oversight and against updates, and where episodes end."""

import math
from collections.abc import Sequence

from sluicegate.report.charts import Track, bars_picture, draw_track
from sluicegate.report.figures import Picture, Series, draw_picture, set_number_axis
from sluicegate.report.formatting import plain
from sluicegate_papers.oversight.page_numbers import Found, percent

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
    """A figure ("return", "far") against the share of oversight, with intervals; the ceiling and the optimum as
    lines."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    shares = found.shares
    told = {name: [found.estimate(share, name, figure_name) for share in shares] for name in found.names}
    key = f"by-share-{figure_name}"
    label = f"{y} against the share of overseen squares. " + "; ".join(
        f"{label_of(name)} " + ", ".join(f"{e.mean:.2f} at {percent(p)}" for p, e in zip(shares, row, strict=True))
        for name, row in told.items()
    )
    with draw_picture(key, label, 400, left=48, top=14, bottom=46) as picture:
        axes = picture.axes
        axes.set_xscale("log")
        lowest = min(0.0, *(e.mean for row in told.values() for e in row)) - 0.05
        for name, row in told.items():
            look = looks[label_of(name)]
            for share, e in zip(shares, row, strict=True):
                if not math.isnan(e.low):
                    picture.points(look, [share, share], [max(e.low, lowest), min(e.high, 1.02)], kind="seed", lw=1.6)
            width, size, above = (3.0, 5.5, 4) if look.strong else (1.6, 4, 3)
            picture.line(look, shares, [e.mean for e in row], "o", lw=width, ms=size, clip_on=False, zorder=above)
        axes.set_xlim(shares[0] / 1.25, shares[-1] * 1.25)
        axes.set_ylim(lowest, 1.05)
        _draw_references(picture, found, figure_name)
        axes.xaxis.set_major_locator(FixedLocator(shares))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: percent(v)))
        _set_return_axis(picture, "share of overseen squares", y)
    return picture.svg


def by_update(found: Found, share: float, figure_name: str, looks: dict[str, Series], y: str, names: Sequence[str] = DRAWN) -> str:
    """A figure ("return", "overseen") of several arms along training at one share; empty where no arm has it."""
    shown = [name for name in names if name in found.names]
    tracks = [Track(looks[label_of(name)], seeds) for name in shown if (seeds := found.curve(share, name, figure_name))]
    if not tracks:
        return ""
    key = f"updates-{figure_name}-{share:g}".replace(".", "-")
    label = f"{y} against updates at {percent(share)} of oversight. Arms: {', '.join(track.series.name for track in tracks)}."
    with draw_picture(key, label, 300, left=48, bottom=46) as picture:
        for track in tracks:
            draw_track(picture, track, thin=0.7, lw=3.0 if track.series.strong else 1.7, clip_on=False)
        low = min(0.0, *(v for t in tracks for _, ys in t.seeds for v in ys))
        picture.axes.set_ylim(max(-1.05, low - 0.05), 1.05)
        picture.axes.set_xlim(left=0)
        if figure_name == "return":
            _draw_references(picture, found, figure_name)
        set_number_axis(picture.axes.xaxis, 5)
        _set_return_axis(picture, "updates", y)
    return picture.svg


def ends(found: Found, share: float, looks: dict[str, Series]) -> str:
    """How episodes end at one share: a stacked bar an arm."""
    rows = [(looks[label_of(name)], [found.estimate(share, name, end).mean for end in ENDS]) for name in found.names]
    label = f"Shares of episodes that end at the Diamond, at the Ghost, or by time-out, at {percent(share)} of oversight: " + "; ".join(
        f"{series.name} {', '.join(f'{value:.2f}' for value in values)}" for series, values in rows
    )
    return bars_picture(f"ends-{share:g}".replace(".", "-"), label, rows, list(ENDS.values()), x_label="share of episodes")


def _draw_references(picture: Picture, found: Found, figure_name: str) -> None:
    """The optimum and the ceiling, named; without the digit before the point, so that no SVG shortens them."""
    left = picture.axes.get_xlim()[0]
    for name, words in (("optimal", "optimum"), ("ceiling", "ceiling")):
        at = found.reference(name, figure_name)
        if not math.isnan(at):
            picture.mark(y=at, lw=1.0)
            text, ink = f"{words} {plain(at, 3).lstrip('0')}", picture.paint("ink")
            picture.axes.annotate(text, (left, at), xytext=(3, 2), textcoords="offset points", fontsize=8, color=ink, zorder=6)


def _set_return_axis(picture: Picture, x: str, y: str) -> None:
    from matplotlib.ticker import MultipleLocator

    set_number_axis(picture.axes.yaxis)
    picture.axes.yaxis.set_major_locator(MultipleLocator(0.25))
    picture.label(x, y)
