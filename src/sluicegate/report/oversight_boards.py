"""Boards with arrows: what an expert, the mixture or another arm would do on each square, at the end of training and along it."""

import base64
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sluicegate.oversight.arms import ARMS, trained_as
from sluicegate.report.oversight_numbers import Found, percent

if TYPE_CHECKING:
    import numpy as np

FILE = "boards.safetensors"
SQUARE = 40
"""Width of a square, in the units of the SVG; the script has the same."""
WHOLE, NONE = 200, 255
"""A probability of 1 as a byte, and the mark of none; the script has the same."""
TURNS = (0, 180, 270, 90)
"""Degrees from pointing up, of up, down, left, right."""
ARROW = "M0 -3V-14M-3.4 -10.5L0 -14.6L3.4 -10.5"
DIAMOND = "M0 -13L12 0L0 13L-12 0Z"
GHOST = "M-10 12V-2a10 10 0 0 1 20 0V12l-3.4 -4l-3.3 4l-3.3 -4l-3.3 4l-3.3 -4z"
EYE = "M-9 0Q0 -8 9 0Q0 8 -9 0Z"


@dataclass(frozen=True)
class Panel:
    """One board of the row: whose moves it shows."""

    title: str
    note: str
    arm: str
    """The arm that was trained."""
    tensor: str
    """Its name in the file."""
    figure: str
    """Which of the looks' figures is its return."""
    gated: bool = False
    """Whether the gate is its background."""


def panels_of(found: Found, share: float) -> list[Panel]:
    """The boards that can be shown: both experts and the mixture of the routed arm, or of another mixture, and naive beside them."""
    first = found.seeds[0]
    trained = [
        arm for arm in dict.fromkeys(trained_as(name)[0] for name in found.names) if (found.folders[share, arm, first] / FILE).is_file()
    ]
    mixtures = sorted((arm for arm in trained if ARMS[arm].mixture), key=lambda arm: arm != "routed")
    panels = []
    for arm in mixtures[:1]:
        panels = [
            Panel("Diamond expert", "what the agent is steered to", arm, "diamond", "return"),
            Panel("Ghost expert", "the other half of the net", arm, "ghost_expert", "ghost_expert"),
            Panel("Mixture", "what acts in training; background: the gate", arm, "mixture", "mixture", gated=True),
        ]
    others = [arm for arm in ("naive", "naive_penalty", "filter", "single") if arm in trained]
    return panels + [Panel(arm.replace("_", " ").capitalize(), "one net, no experts", arm, "judged", "return") for arm in others[:1]]


def boards(found: Found) -> dict[str, Any] | None:
    """What the page shows of boards, from the first seed's runs; None where no run left any.

    "fixed": (title, note, svg) at the end of training, at the smallest share; "panels": the same to be played, "data": what the
    script plays, as JSON; "shares", "places": what there is to choose from.
    """
    kept: dict[float, dict[str, Any]] = {}
    for share in found.shares:
        if panels := panels_of(found, share):
            kept[share] = {"panels": panels, "tensors": [_read(found, share, panel.arm) for panel in panels]}
    if not kept:
        return None
    share, first = next(iter(kept.items()))
    same = {p: one for p, one in kept.items() if one["panels"] == first["panels"]}  # one row of boards serves all shares
    placements = first["tensors"][0]["placements"].tolist()
    at_end = [_last(panel, tensors) for panel, tensors in zip(first["panels"], first["tensors"], strict=True)]
    drawn = [
        field(found.size, placements[0], arrows, gate, panel.title) for panel, (arrows, gate) in zip(first["panels"], at_end, strict=True)
    ]
    rows = [(panel.title, panel.note, svg) for panel, svg in zip(first["panels"], drawn, strict=True)]
    return {
        "fixed": rows[:3] if len(rows) > 1 else rows,
        "panels": rows,
        "share": percent(share),
        "seed": found.seeds[0],
        "mixture": first["panels"][0].gated or any(panel.gated for panel in first["panels"]),
        "arm": first["panels"][0].arm,
        "shares": [percent(p) for p in same],
        "places": [_place(n, found.size, pair) for n, pair in enumerate(placements, 1)],
        "last": int(first["tensors"][0]["steps"][-1]),
        "looks": len(first["tensors"][0]["steps"]),
        "data": json.dumps(
            {
                "size": found.size,
                "placements": placements,
                "gated": [panel.gated for panel in first["panels"]],
                "shares": [_packed(found, p, one["panels"], one["tensors"]) for p, one in same.items()],
            },
            separators=(",", ":"),
        ),
    }


def _read(found: Found, share: float, arm: str) -> "Mapping[str, np.ndarray]":
    from safetensors.numpy import load_file

    tensors: Mapping[str, np.ndarray] = load_file(found.folders[share, arm, found.seeds[0]] / FILE)
    return tensors


def _last(panel: Panel, tensors: "Mapping[str, np.ndarray]") -> tuple[list[list[float]], list[float] | None]:
    """The first board's arrows and gate at the end of training, nothing overseen."""
    gate = tensors["gate"][-1, 0, 0].tolist() if panel.gated else None
    return tensors[panel.tensor][-1, 0, 0].tolist(), gate


def _packed(found: Found, share: float, panels: Sequence[Panel], tensors: "Sequence[Mapping[str, np.ndarray]]") -> dict[str, Any]:
    """One share's boards along training as bytes: arrows [panel] of [look, board, flag, square, move], the gate without moves."""
    gates = [t["gate"] for panel, t in zip(panels, tensors, strict=True) if panel.gated]
    return {
        "steps": tensors[0]["steps"].tolist(),
        "arrows": [_bytes(t[panel.tensor]) for panel, t in zip(panels, tensors, strict=True)],
        "gate": _bytes(gates[0]) if gates else "",
        "returns": [_returns(found, share, panel) for panel in panels],
    }


def _returns(found: Found, share: float, panel: Panel) -> list[float | None]:
    looks = found.results[share, panel.arm, found.seeds[0]]["looks"]
    told = [look.get(panel.figure) for look in looks]
    return [round(float(value), 3) if value is not None and math.isfinite(value) else None for value in told]


def _bytes(shares: "np.ndarray") -> str:
    import numpy as np

    whole = np.where(np.isnan(shares), NONE, np.round(np.nan_to_num(shares) * WHOLE)).astype(np.uint8)
    return base64.b64encode(whole.tobytes()).decode()


def _place(n: int, size: int, pair: Sequence[int]) -> str:
    ghost, diamond = (f"row {square // size + 1} column {square % size + 1}" for square in pair)
    return f"{n}: Ghost {ghost}, Diamond {diamond}"


# ------------------------------------------------------------------------------------ one board as SVG


def field(size: int, pair: Sequence[int], arrows: Sequence[Sequence[float]], gate: Sequence[float] | None, title: str) -> str:
    """A board as an SVG element. `arrows` [squares, 4] are probabilities of up, down, left, right, `gate` [squares] the Diamond expert's
    share; NaN where the agent cannot stand."""
    ghost, diamond = pair
    parts = []
    for square in range(size * size):
        x, y = _middle(size, square)
        colour, depth = shade(gate[square]) if gate is not None else ("paper", 0.0)
        parts.append(f'<rect class="square" x="{x - 20:g}" y="{y - 20:g}" width="{SQUARE}" height="{SQUARE}"></rect>')
        style = f'style="fill: var(--{colour}); opacity: {depth:.2f}"'
        parts.append(f'<rect class="gate" x="{x - 20:g}" y="{y - 20:g}" width="{SQUARE}" height="{SQUARE}" {style}></rect>')
    for square in range(size * size):
        x, y = _middle(size, square)
        for turn, p in zip(TURNS, arrows[square], strict=True):
            length, opacity = drawn_as(p)
            turned = f"translate({x:g} {y:g}) rotate({turn}) scale({length:g})"
            parts.append(f'<path class="arrow" d="{ARROW}" transform="{turned}" style="opacity: {opacity:g}"></path>')
    for kind, square, path in (("ghost", ghost, GHOST), ("diamond", diamond, DIAMOND)):
        x, y = _middle(size, square)
        parts.append(f'<path class="{kind}" d="{path}" transform="translate({x:g} {y:g})"></path>')
    x, y = _middle(size, ghost)
    parts.append(
        f'<g class="eye" visibility="hidden" transform="translate({x:g} {y:g})"><path d="{EYE}"></path><circle r="3"></circle></g>'
    )
    width = SQUARE * size
    label = f"{title}: on each square of a {size} by {size} board, arrows as long as the move is likely"
    return f'<svg class="board" role="img" viewBox="-1 -1 {width + 2} {width + 2}" aria-label="{label}">{"".join(parts)}</svg>'


def _middle(size: int, square: int) -> tuple[float, float]:
    row, column = divmod(square, size)
    return SQUARE * (column + 0.5), SQUARE * (row + 0.5)


def drawn_as(p: float) -> tuple[float, float]:
    """Length and opacity of an arrow of this probability; nothing for NaN. The script has the same."""
    return (0.3, 0.0) if math.isnan(p) else (round(0.3 + 0.7 * p, 3), round(0.05 + 0.95 * p, 3))


def shade(gate: float) -> tuple[str, float]:
    """Colour and depth of a square's background: towards the Diamond's above a half, towards the Ghost's below."""
    if math.isnan(gate):
        return "paper", 0.0
    return ("distilled" if gate >= 0.5 else "suppressed"), round(0.9 * abs(gate - 0.5), 2)
