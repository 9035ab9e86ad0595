"""Pictures as SVG strings to be put inside a page: matplotlib draws, the page's style sheet colours.

Every colour is drawn as a stand-in and replaced by a CSS variable, so that one picture suits a
light and a dark page. Things that belong to one arm carry its class (``a3``), so that the legend
can bring it forward. The same numbers give the same bytes.
"""

import html
import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

WIDTH = 440
"""Width of a picture in CSS pixels at its natural size; a phone shows it at about four fifths of that."""

_LINES = {"solid": "solid", "dashed": (0, (5, 2)), "dotted": (0, (1, 1.6)), "dashdot": (0, (5, 1.6, 1, 1.6))}
DASHES = tuple(_LINES)
"""Names of what a line may look like, to tell series of one colour apart."""


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


_NAMED = ("ink", "faint", "grid", "paper")


class Paint:
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


class Picture:
    """One pair of axes to draw on; `svg` is there once the block of `draw_picture` is left."""

    def __init__(self, paint: Paint, width: float, height: float, left: float, right: float, top: float, bottom: float) -> None:
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure

        self.paint, self.svg = paint, ""
        self.figure: Any = Figure(figsize=(width / 96, height / 96), dpi=72)
        FigureCanvasSVG(self.figure)
        self.axes: Any = self.figure.add_axes(
            (left / width, bottom / height, (width - left - right) / width, (height - top - bottom) / height)
        )
        self.axes.set_axisbelow(True)

    def points(self, look: Series, x: Any, y: Any, *marks: str, kind: str = "arm", **more: Any) -> None:
        """Points or plain lines of one arm, in its colour; `kind` is their CSS class: arm, seed, whisker."""
        self.axes.plot(x, y, *marks, color=self.paint(look.colour), gid=f"class:{kind} {look.key}", **more)

    def line(self, look: Series, x: Any, y: Any, *marks: str, **more: Any) -> None:
        """One arm's line, with its dashes."""
        self.points(look, x, y, *marks, ls=_LINES[look.dash], **more)

    def band(self, look: Series, x: Any, low: Any, high: Any) -> None:
        """The room between two lines of one arm."""
        self.axes.fill_between(x, low, high, color=self.paint(look.colour), lw=0, gid=f"class:seed {look.key}", zorder=2)

    def level(self, at: float, look: Series) -> None:
        """A level line across the picture that stands for one arm."""
        self.axes.axhline(at, color=self.paint(look.colour), lw=1.6, ls=_LINES[look.dash], gid=f"class:arm {look.key}", zorder=3)

    def mark(self, x: float | None = None, y: float | None = None, *, lw: float = 0.9, colour: str = "faint") -> None:
        """A thin broken line across the picture, upright at `x` or level at `y`."""
        for at, draw in ((x, self.axes.axvline), (y, self.axes.axhline)):
            if at is not None:
                draw(at, color=self.paint(colour), lw=lw, dashes=(2, 3), zorder=1)

    def name_rows(self, names: Sequence[str], pad: float = 6) -> None:
        """One named row an arm, from above, without an axis beside them."""
        self.axes.set_ylim(len(names) - 0.4, -0.6)
        self.axes.set_yticks(range(len(names)), [shorten(name) for name in names], fontsize=9)
        self.axes.tick_params(axis="y", length=0, pad=pad)
        self.axes.spines["left"].set_visible(False)

    def label(self, x: str, y: str = "", *, grid: str = "y") -> None:
        """Name the axes and draw the grid."""
        self.axes.grid(axis=grid)
        self.axes.set_xlabel(x)
        if y:
            self.axes.set_ylabel(y)


@contextmanager
def draw_picture(
    name: str, label: str, height: float, *, width: float = WIDTH, left: float = 52, right: float = 14, top: float = 12, bottom: float = 44
) -> Iterator[Picture]:
    """Draw a picture of `width` by `height` CSS pixels; its `svg` can stand inside a page beside others.

    `name` is unique on the page; `label` says in words what the picture shows.
    """
    import matplotlib

    paint = Paint()
    settings: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": f"sluicegate {name}",
        "text.parse_math": False,
        "font.family": ["DejaVu Sans"],
        "font.size": 9.0,
        "text.color": paint("ink"),
        "axes.labelcolor": paint("ink"),
        "axes.edgecolor": paint("faint"),
        "axes.linewidth": 0.8,
        "axes.unicode_minus": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "xtick.color": paint("faint"),
        "ytick.color": paint("faint"),
        "xtick.labelcolor": paint("ink"),
        "ytick.labelcolor": paint("ink"),
        "grid.color": paint("grid"),
        "grid.linewidth": 0.7,
        "lines.dash_capstyle": "butt",
        "path.simplify": False,
    }
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(settings)
        picture = Picture(paint, width, height, left, right, top, bottom)
        yield picture
        picture.svg = _to_svg(picture.figure, paint, name, label)


def _to_svg(figure: Any, paint: Paint, name: str, label: str) -> str:
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


def set_steps_axis(axes: Any, budget: float, unit: str, least: float = 1.0, start: float = 0.0) -> None:
    """0, 1, 3, 10, 30, 100: even steps of effort from `start`, the first visible: by log (1 + x / `least`)."""
    import numpy as np
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    axes.set_xscale("function", functions=(lambda x: np.log1p(x / least), lambda y: least * np.expm1(y)))
    ticks = [0.0] + [m * 10.0**e for e in range(-6, 9) for m in (1, 3) if least * 0.999 <= m * 10.0**e <= budget * 1.001]
    axes.xaxis.set_major_locator(FixedLocator([tick for tick in ticks if tick >= start]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    axes.set_xlim(start, budget)
    axes.set_xlabel(unit)


def set_shares_axis(axis: Any) -> None:
    """Percentages, a mark at every quarter."""
    from matplotlib.ticker import FixedLocator, FuncFormatter

    axis.set_major_locator(FixedLocator([0, 0.25, 0.5, 0.75, 1]))
    axis.set_major_formatter(FuncFormatter(lambda v, _: f"{100 * v:.0f} %"))


def set_number_axis(axis: Any, most: int = 6, *, whole: bool = False) -> None:
    """Round numbers, at most so many."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axis.set_major_locator(MaxNLocator(most, integer=whole))
    axis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}".replace("-", "\N{MINUS SIGN}")))


def set_cost_axis(axes: Any, low: float, high: float, form: Any) -> None:
    """A logarithmic scale from `low` to `high` with marks at 1, 2, 5, 10, written by `form`."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    axes.set_xscale("log")
    axes.set_xlim(low, high)
    axes.xaxis.set_major_locator(FixedLocator([m * 10.0**e for e in range(-6, 30) for m in (1, 2, 5) if low <= m * 10.0**e <= high]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: form(v)))


def name_margin(names: Sequence[str]) -> float:
    """Room for names left of the axes, in CSS pixels; long ones are shortened."""
    return min(150.0, 14 + 7.2 * max(len(shorten(n)) for n in names))


def shorten(name: str, most: int = 19) -> str:
    """A long name without its middle: what tells arms apart is mostly the end."""
    head = (most - 1) // 2
    return name if len(name) <= most else f"{name[:head]}…{name[head + 1 - most :]}"
