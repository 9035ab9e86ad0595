"""The coach: what the dynamic programme says of each buzz, and of each tossup that was let go with a stated chance of
being right.

What is compared is buzzing at once with waiting (and playing best from then on), at the chance that the player stated,
in the model of both teams that `buzzing` solves. A stated chance is taken at its word: whether it can be is what
`calibration` measures.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sluicegate_study.game.buzzing import EDGE, Game, Solution, find_threshold, solve
from sluicegate_study.game.players import TICKS, Array, Opponent, Reader
from sluicegate_study.game.scoring import Rules

SILENT = Opponent("none", share=0.0, low=0.0, high=0.0, venture=0.0, bonus=0.0)
"""Nobody at the other end of the table."""


@dataclass(frozen=True)
class Decision:
    """A buzz, or a tossup let go: at which tick (1 to 20), with the power mark at which tick (0: none), at which score
    difference, with how many tossups left (this one counts), after the bot's miss or not; `sure`: the stated chance
    (None: not stated)."""

    item: str
    buzzed: bool
    tick: int
    mark: int
    difference: int
    left: int
    alone: bool
    sure: float | None


def read_decision(item: str, buzzed: bool, logged: Mapping[str, Any]) -> Decision:
    """A decision as the log tells it."""
    at = {name: int(logged[name]) for name in ("tick", "mark")}
    sure = logged.get("conf")
    chance = float(sure) if isinstance(sure, int | float) else None
    return Decision(item, buzzed, **at, difference=int(logged["d"]), left=int(logged["n"]), alone=bool(logged["alone"]), sure=chance)


@dataclass(frozen=True)
class Advice:
    """`threshold` is the chance from which on to buzz (nan: never here). `win` and `points` are what the choice made
    lost against the other one, in chance to win and in expected score difference; 0 where it was the better one, nan
    where it cannot be told.

    `play`: buzz, wait or either: what was better for the chance to win (alone at the table: for points); empty without
    a stated chance."""

    decision: Decision
    threshold: float
    win: float
    points: float
    play: str

    @property
    def mistaken(self) -> bool:
        """Whether the other choice was better."""
        return self.play == ("wait" if self.decision.buzzed else "buzz")


class Coach:
    """Solves a game once for chances to win and once for points, when first asked. Without an opponent there is no
    chance to win."""

    def __init__(self, rules: Rules, opponent: Opponent | None, tossups: int, reader: Reader | None = None) -> None:
        self.game = Game(rules, reader or Reader(), opponent or SILENT)
        self.against, self.tossups = opponent is not None, tossups
        self._solved: dict[bool, Solution] = {}
        self._gains: dict[tuple[bool, int, int], tuple[Array, Array]] = {}

    def advise(self, decision: Decision) -> Advice | None:
        """What the programme says; None in overtime, which it solves without the score."""
        if not 1 <= decision.left <= self.tossups:
            return None
        points, threshold = self._gain(decision, points=True)
        win = math.nan
        if self.against:
            win, threshold = self._gain(decision, points=False)
        gain = win if self.against else points
        play = "" if math.isnan(gain) else "buzz" if gain > EDGE else "wait" if gain < -EDGE else "either"
        sign = -1 if decision.buzzed else 1
        return Advice(decision, threshold, _cost(sign * win), _cost(sign * points), play)

    def _gain(self, decision: Decision, *, points: bool) -> tuple[float, float]:
        """How much better buzzing was than waiting (nan without a stated chance), and from which chance on it is
        better."""
        if points not in self._solved:
            self._solved[points] = solve(self.game, tossups=self.tossups, points=points)
        solution = self._solved[points]
        key = (points, decision.left, decision.mark)
        if key not in self._gains:
            self._gains[key] = solution.gains(decision.left, decision.mark)
        place = int(np.searchsorted(solution.differences, decision.difference))
        place = min(place, len(solution.differences) - 1)
        row = self._gains[key][decision.alone][min(decision.tick, TICKS) - 1, place]
        grid = self.game.reader.beliefs
        gain = math.nan if decision.sure is None else float(np.interp(decision.sure, grid, row))
        return gain, float(find_threshold(row[None, :], grid)[0])


def sum_costs(advice: Sequence[Advice]) -> tuple[float, float]:
    """What all decisions together lost: (chance to win, nan where nobody was there to be beaten; points)."""
    stated = [given for given in advice if given.play]
    wins = [given.win for given in stated]
    return (math.nan if any(map(math.isnan, wins)) else sum(wins)), sum(given.points for given in stated)


def _cost(loss: float) -> float:
    return loss if math.isnan(loss) else max(0.0, loss)
