"""Models of the two teams: how sure we become of our guess as a tossup is read, and when the other team buzzes.

Both are models to be argued with. The constants of the presets are ours; the shares and accuracies of the opponents are
round numbers for weak, even and strong teams, not fitted to any record of games.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from sluicegate_study.errors import UserError, nearest

Array = NDArray[np.float64]
TICKS = 20
"""A tossup is read in so many ticks; the last one is "the reading is over"."""
MARK = 10
"""The last tick on which a correct answer is a power."""
GRID = 41
"""Beliefs: 0, .025, ..., 1."""


@dataclass(frozen=True)
class Reader:
    """Our side. At the first tick the guess is right with chance `start`. From tick to tick the chance p moves as a
    Beta draw with mean p (`concentration`: how little), and with a hazard that grows with the tick we recognise the
    answer: p becomes `sure`.

    `known` is the share of tossups that are recognised by the end, `shape` how late (1: evenly), `bonus` our rate of
    bonus parts."""

    start: float = 0.05
    concentration: float = 30.0
    known: float = 0.63
    shape: float = 1.5
    sure: float = 0.925
    bonus: float = 0.55

    def __post_init__(self) -> None:
        for name in ("start", "known", "sure", "bonus"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name} is {getattr(self, name)}: expected a share from 0 to 1.")
        if self.concentration <= 0 or self.shape <= 0:
            raise UserError(f"concentration ({self.concentration}) and shape ({self.shape}) must be more than 0.")

    @property
    def beliefs(self) -> Array:
        """The grid of chances, shape (41,)."""
        return np.linspace(0, 1, GRID)

    @property
    def first(self) -> int:
        """The place of `start` on the grid."""
        return round(self.start * (GRID - 1))

    def kernels(self, ticks: int = TICKS) -> Array:
        """Chances of going from one belief to another, shape (ticks - 1, 41, 41); rows sum to 1."""
        drift, jumps = self._drift, self._jumps(ticks)
        sure = round(self.sure * (GRID - 1))
        below = (np.arange(GRID) < sure)[:, None]
        recognised = np.zeros((GRID, GRID))
        recognised[:, sure] = 1.0
        return (
            np.stack([np.where(below, (1 - jump) * drift + jump * recognised, drift) for jump in jumps])
            if ticks > 1
            else np.empty((0, GRID, GRID))
        )

    def _jumps(self, ticks: int) -> Array:
        share = self.known * (np.arange(1, ticks + 1) / ticks) ** self.shape
        return np.diff(share) / np.maximum(1 - share[:-1], 1e-12)

    @cached_property
    def _drift(self) -> Array:
        """Beta draws put on the grid so that their mean is the belief they come from, exactly: what calibrated
        means."""
        grid = self.beliefs
        fine = (np.arange(4000) + 0.5) / 4000
        hats = np.maximum(0, 1 - np.abs(fine[:, None] - grid) * (GRID - 1))
        made = np.zeros((GRID, GRID))
        made[0, 0] = made[-1, -1] = 1.0
        for n, p in enumerate(grid[1:-1], 1):
            log = (self.concentration * p - 1) * np.log(fine) + (self.concentration * (1 - p) - 1) * np.log1p(-fine)
            weights = np.exp(log - log.max()) @ hats
            made[n] = _with_mean(weights / weights.sum(), grid, p)
        return made


def _with_mean(weights: Array, grid: Array, mean: float) -> Array:
    """The distribution nearest to `weights` (in relative entropy) with this mean: an exponential tilt, found by
    Newton's method."""
    tilt = 0.0
    tilted = weights
    for _ in range(50):
        tilted = weights * np.exp(tilt * (grid - mean))
        tilted /= tilted.sum()
        error = float(tilted @ grid) - mean
        if abs(error) < 1e-15:
            break
        tilt -= error / float(tilted @ (grid - tilted @ grid) ** 2)
    return tilted


@dataclass(frozen=True)
class Opponent:
    """The other team, which does not react to us: it would buzz on `share` of the tossups by the end of the reading
    (`shape`: how late), and is right with a chance from `low` at the first tick to `high` at the last. After our miss a
    team that would not have buzzed still ventures an answer with chance `venture`. `bonus` is its rate of bonus
    parts."""

    name: str = "even"
    share: float = 0.7
    shape: float = 1.7
    low: float = 0.78
    high: float = 0.9
    venture: float = 0.3
    bonus: float = 0.55

    def __post_init__(self) -> None:
        for name in ("share", "low", "high", "venture", "bonus"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name} of the opponent is {getattr(self, name)}: expected a share from 0 to 1.")
        if self.shape <= 0:
            raise UserError(f"shape of the opponent is {self.shape}: expected more than 0.")

    def cumulative(self, ticks: int = TICKS) -> Array:
        """F_0 = 0, F_1, ..., F_ticks: the chance of having buzzed by a tick, were nobody else there."""
        return self.share * (np.arange(ticks + 1) / ticks) ** self.shape

    def hazards(self, ticks: int = TICKS) -> Array:
        """h_1, ..., h_ticks: the chance of buzzing in a tick, given silence before it."""
        share = self.cumulative(ticks)
        return np.clip(np.diff(share) / np.maximum(1 - share[:-1], 1e-12), 0, 1)

    def accuracy(self, ticks: int = TICKS) -> Array:
        """a_1, ..., a_ticks."""
        return np.linspace(self.low, self.high, ticks) if ticks > 1 else np.array([self.high])


OPPONENTS: dict[str, Opponent] = {
    "weak": Opponent("weak", share=0.45, shape=2.5, low=0.70, high=0.85, venture=0.15, bonus=0.40),
    "even": Opponent(),
    "strong": Opponent("strong", share=0.90, shape=1.1, low=0.85, high=0.93, venture=0.5, bonus=0.70),
}


def opponent_of(name: str) -> Opponent:
    """One of weak, even, strong. Raises `UserError` for another name."""
    if name not in OPPONENTS:
        raise UserError(f"no opponent {name!r}. There are: {nearest(name, list(OPPONENTS))}.")
    return OPPONENTS[name]
