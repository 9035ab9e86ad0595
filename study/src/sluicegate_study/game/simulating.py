"""Games played out draw by draw, to check the dynamic programme against: nothing here uses its recursion.

Each game draws its own beliefs, the other team's tick, the coin's toss, answers, bonus parts. A miss of ours lets the
other team go on listening: it answers where it would have buzzed, or ventures an answer at the end.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sluicegate_study.errors import UserError
from sluicegate_study.game.buzzing import FIVE, WIDEST, Game, Policy
from sluicegate_study.game.players import GRID

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Simulated:
    """What came of `games`: the share won (a tie counts its chance), its standard error, mean difference, and negs and
    powers a game."""

    games: int
    win: float
    error: float
    difference: float
    difference_error: float
    negs: float
    powers: float


def simulate(
    game: Game, policy: Policy, games: int, seed: int, *, tie: float, tossups: int | None = None, difference: int = 0
) -> Simulated:
    """Play `games` games of `tossups` from a score difference by a policy. Raises `UserError` for fewer than 2
    games."""
    if games < 2:
        raise UserError(f"{games} games: expected at least 2.")
    count = game.rules.cycles if tossups is None else tossups
    table = _Table(game, np.random.default_rng(np.random.SeedSequence([seed, games])), games)
    d = np.full(games, difference, dtype=np.int64)
    for n in range(count - 1, -1, -1):
        d += table.tossup(d, policy, n)
    won = np.where(d > 0, 1.0, np.where(d < 0, 0.0, tie))
    root = np.sqrt(games)
    return Simulated(
        games,
        float(won.mean()),
        float(won.std(ddof=1) / root),
        float(d.mean()),
        float(d.std(ddof=1) / root),
        table.negs / games,
        table.powers / games,
    )


class _Table:
    """Many games at once, one tossup after the other."""

    def __init__(self, game: Game, random: np.random.Generator, games: int) -> None:
        self.game, self.random, self.games = game, random, games
        kernels = game.reader.kernels(game.ticks)
        # Row after row of one sorted list: row n of a kernel lies between n and n + 1.
        steps = np.minimum(np.cumsum(kernels, axis=2), 1.0)
        steps[:, :, -1] = 1.0
        self.steps = (steps + np.arange(GRID)[None, :, None]).reshape(len(kernels), -1)
        self.hazards, self.accuracy = game.opponent.hazards(game.ticks), game.opponent.accuracy(game.ticks)
        self.negs = self.powers = 0

    def tossup(self, d: Ints, policy: Policy, n: int) -> Ints:
        """Play one tossup; returns the change of every game's score difference."""
        game, random, size = self.game, self.random, self.games
        grid, rules = game.reader.beliefs, game.rules
        belief = np.full(size, game.reader.first)
        change = np.zeros(size, dtype=np.int64)
        listening = np.ones(size, dtype=bool)  # nobody has answered
        alone = np.zeros(size, dtype=bool)  # they have missed
        rebounding = np.zeros(size, dtype=bool)  # we have missed, and they have not wanted to buzz yet
        rebounds = np.zeros(size, dtype=bool)  # we have missed, and they will answer
        for k in range(1, game.ticks + 1):
            last = k == game.ticks
            tens = rules.tossup(power=k <= game.mark)
            neg = 0 if last else rules.neg
            p = grid[belief]
            wants = _looked_up(policy.first, n, k, d, belief) & listening
            they_want = random.random(size) < self.hazards[k - 1]
            toss = random.random(size) < 0.5
            right = random.random(size) < p
            they_right = random.random(size) < self.accuracy[k - 1]
            take = _looked_up(policy.alone, n, k, d + change, belief) & alone
            ours = wants & (~they_want | toss)
            theirs = listening & they_want & ~ours
            got = (ours | take) & right
            change[got] += tens + self._bonus(got.sum(), ours=True)
            self.powers += int(got.sum()) if k <= game.mark and rules.power else 0
            missed = ours & ~right
            change[missed] += neg
            self.negs += int(missed.sum()) if neg else 0
            lost = theirs & they_right
            change[lost] -= tens + self._bonus(lost.sum(), ours=False)
            slipped = theirs & ~they_right
            change[slipped] -= neg
            rebounds |= (missed & they_want) | (rebounding & they_want)
            rebounding = (rebounding & ~they_want) | (missed & ~they_want)
            listening &= ~(ours | theirs)
            if last:
                # Their miss at the very end leaves us the same moment to answer in.
                now = slipped & _looked_up(policy.alone, n, k, d + change, belief) & (random.random(size) < p)
                change[now] += tens + self._bonus(now.sum(), ours=True)
            else:
                alone = (alone & ~take) | slipped
                draws = np.searchsorted(self.steps[k - 1], belief + random.random(size), side="right")
                belief = np.minimum(draws - belief * GRID, GRID - 1)
        rebounds |= rebounding & (random.random(size) < game.opponent.venture)
        back = rebounds & (random.random(size) < game.opponent.high)
        change[back] -= rules.tossup(power=False) + self._bonus(back.sum(), ours=False)
        return change

    def _bonus(self, size: int, *, ours: bool) -> Ints:
        """Points of bonuses for the team that won the tossup, less what bounces back."""
        rules, reader, opponent = self.game.rules, self.game.reader, self.game.opponent
        first, second = (reader.bonus, opponent.bonus) if ours else (opponent.bonus, reader.bonus)
        right = self.random.binomial(rules.parts, first, size)
        back = self.random.binomial(rules.parts - right, second) if rules.bounce else 0
        points: Ints = rules.part_value * (right - back)
        return points


def _looked_up(wanted: NDArray[np.bool_], n: int, k: int, d: Ints, belief: Ints) -> NDArray[np.bool_]:
    table = wanted[min(n, len(wanted) - 1)]
    table = table[min(k - 1, len(table) - 1)]
    rows = np.zeros_like(d) if len(table) == 1 else np.clip(d // FIVE + WIDEST, 0, 2 * WIDEST)
    chosen: NDArray[np.bool_] = table[rows, belief]
    return chosen
