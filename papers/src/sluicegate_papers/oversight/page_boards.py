"""Boards with arrows: what an expert, the mixture or another arm would do on each square, at the end of training and
along it."""

import base64
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sluicegate_papers.oversight.arms import ARMS, trained_as
from sluicegate_papers.oversight.page_numbers import Found, percent

if TYPE_CHECKING:
    import numpy as np

    Tensors = Mapping[str, np.ndarray]

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


def panels_of(found: Found, share: float) -> "list[tuple[Panel, Tensors]]":
    """The boards that can be shown, with what their run left: both experts and the mixture of the routed arm, or of
    another mixture, and naive beside them. Runs on boards too large for tables leave none."""
    trained = list(dict.fromkeys(trained_as(name)[0] for name in found.names))
    left = {arm: tensors for arm in trained if "judged" in (tensors := _read(found, share, arm))}
    panels = []
    for arm in sorted((arm for arm in left if ARMS[arm].mixture), key=lambda arm: arm != "routed")[:1]:
        panels = [
            Panel("Diamond expert", "what the agent is steered to", arm, "diamond", "return"),
            Panel("Ghost expert", "the other half of the net", arm, "ghost_expert", "ghost_expert"),
            Panel("Mixture", "what acts in training; background: the gate", arm, "mixture", "mixture", gated=True),
        ]
    for arm in [arm for arm in ("naive", "naive_penalty", "filter", "single") if arm in left][:1]:
        panels.append(Panel(arm.replace("_", " ").capitalize(), "one net, no experts", arm, "judged", "return"))
    return [(panel, left[panel.arm]) for panel in panels]


def boards(found: Found) -> dict[str, Any] | None:
    """What the page shows of boards, from the first seed's runs; None where no run left any.

    "fixed": (title, note, svg) at the end of training, at the smallest share; "panels": the same to be played, "data":
    what the script plays, as JSON; "shares", "places": what there is to choose from.
    """
    kept = {share: those for share in found.shares if (those := panels_of(found, share))}
    if not kept:
        return None
    share, first = next(iter(kept.items()))
    same = {p: row for p, row in kept.items() if [panel for panel, _ in row] == [panel for panel, _ in first]}  # one row serves all
    panels, tensors = [panel for panel, _ in first], first[0][1]
    placements = tensors["placements"].tolist()
    rows = [(panel.title, panel.note, _at_end(found.size, panel, own)) for panel, own in first]
    return {
        "fixed": rows[:3] if len(rows) > 1 else rows,
        "panels": rows,
        "share": percent(share),
        "seed": found.seeds[0],
        "mixture": any(panel.gated for panel in panels),
        "arm": panels[0].arm,
        "shares": [percent(p) for p in same],
        "places": [_place(n, found.size, pair) for n, pair in enumerate(placements, 1)],
        "last": int(tensors["steps"][-1]),
        "looks": len(tensors["steps"]),
        "data": json.dumps(
            {
                "size": found.size,
                "placements": placements,
                "gated": [panel.gated for panel in panels],
                "shares": [_packed(found, p, row) for p, row in same.items()],
            },
            separators=(",", ":"),
        ),
    }


def _read(found: Found, share: float, arm: str) -> "Tensors":
    """What the first seed's run left of boards; nothing where it left none."""
    from safetensors.numpy import load_file

    file = found.folders[share, arm, found.seeds[0]] / FILE
    tensors: Tensors = load_file(file) if file.is_file() else {}
    return tensors


def _at_end(size: int, panel: Panel, tensors: "Tensors") -> str:
    """The first board at the end of training, nothing overseen."""
    gate = tensors["gate"][-1, 0, 0].tolist() if panel.gated else None
    return field(size, tensors["placements"][0].tolist(), tensors[panel.tensor][-1, 0, 0].tolist(), gate, panel.title)


def _packed(found: Found, share: float, panels: "Sequence[tuple[Panel, Tensors]]") -> dict[str, Any]:
    """One share's boards along training as bytes: arrows [panel] of [look, board, flag, square, move], the gate without
    moves."""
    gates = [tensors["gate"] for panel, tensors in panels if panel.gated]
    return {
        "steps": panels[0][1]["steps"].tolist(),
        "arrows": [_bytes(tensors[panel.tensor]) for panel, tensors in panels],
        "gate": _bytes(gates[0]) if gates else "",
        "returns": [_returns(found, share, panel) for panel, _ in panels],
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
    """A board as an SVG element. `arrows` [squares, 4] are probabilities of up, down, left, right, `gate` [squares] the
    Diamond expert's share; NaN where the agent cannot stand."""
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
