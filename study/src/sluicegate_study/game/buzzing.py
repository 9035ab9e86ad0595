"""When to buzz: the dynamic programme over score difference, tossups left, how much is read, and how sure we are.

Outside a tossup the state is (d, n): score difference in fives, tossups left. Inside it is (k, p): tick, and the chance
that our guess is right. The value is the chance to win; with ``points=True``, the expected score difference, which
makes play blind to the score. The recursion is Bellman's; all teams, ticks and rules are `players` and `scoring`. Where
buzzing and waiting are worth the same, wait.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sluicegate_study.errors import UserError
from sluicegate_study.game.players import GRID, MARK, TICKS, Array, Opponent, Reader
from sluicegate_study.game.scoring import Rules

FIVE = 5
WIDEST = 90
"""Score differences are followed up to 450 points on either side; beyond, they count as that."""
EDGE = 1e-9
"""By how much buzzing must be better than waiting."""
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Game:
    """Two teams, the rules, and how a tossup is read: `ticks`, of which the first `mark` are in power."""

    rules: Rules = Rules()
    reader: Reader = Reader()
    opponent: Opponent = Opponent()
    ticks: int = TICKS
    mark: int = MARK

    def __post_init__(self) -> None:
        if not 1 <= self.ticks <= 200 or not 0 <= self.mark <= self.ticks:
            raise UserError(f"{self.ticks} ticks with the power mark at {self.mark}: expected 1 to 200 ticks and a mark among them.")

    def rebound(self) -> Array:
        """r_1, ..., r_ticks: the chance that the other team is right after our miss at a tick, given its silence
        before.

        It may have wanted this very tick and lost the coin's toss; else it buzzes later as it would have, or ventures
        one at the end."""
        f, h = self.opponent.cumulative(self.ticks), self.opponent.hazards(self.ticks)
        gone = np.maximum(1 - f[1:], 1e-300)
        later = np.where(f[1:] < 1, ((f[-1] - f[1:]) + (1 - f[-1]) * self.opponent.venture) / gone, 1.0)
        lost_toss = (h / 2) / (1 - h / 2)
        chance: Array = self.opponent.high * (lost_toss + (1 - lost_toss) * later)
        return chance


@dataclass(frozen=True)
class Policy:
    """Where to buzz: `first` while nobody has answered, `alone` after the other team's miss; shapes (n, ticks,
    differences, 41), or broadcast to them. Index 0 of n is the last tossup."""

    first: Bools
    alone: Bools

    @classmethod
    def constant(cls, threshold: float) -> "Policy":
        """Buzz from this chance on, whatever the score and the tick."""
        wanted = (np.linspace(0, 1, GRID) >= threshold - 1e-12)[None, None, None, :]
        return cls(wanted, wanted)

    @classmethod
    def at_the_end(cls, ticks: int = TICKS, threshold: float = 0.0) -> "Policy":
        """Answer only when the reading is over: never a neg."""
        last = (np.arange(ticks) == ticks - 1)[None, :, None, None]
        wanted = last & (np.linspace(0, 1, GRID) >= threshold)[None, None, None, :]
        return cls(wanted, wanted)


@dataclass(frozen=True)
class Solution:
    """What `solve` found. `value[n]` is V_n over `differences` (in points; n = 0: the game is over); `policy` is best,
    or the one that was given; `threshold[n - 1, k - 1]` is the least chance from which to buzz at tick k, nan where
    never. `points`: values are expected score differences, not chances to win."""

    game: Game
    differences: NDArray[np.int64]
    value: Array
    policy: Policy
    threshold: Array
    points: bool = False

    def win(self, difference: int = 0, left: int | None = None) -> float:
        """The value at a score difference, with so many tossups left (default: all)."""
        return float(self.value[-1 if left is None else left, self._at(difference)])

    def theta(self, tick: int, difference: int = 0, left: int | None = None) -> float:
        """From which chance on to buzz at a tick (1 is the first); nan where never."""
        return float(self.threshold[-1 if left is None else left - 1, tick - 1, self._at(difference)])

    def _at(self, difference: int) -> int:
        if difference % FIVE:
            raise UserError(f"a score difference of {difference}: expected a multiple of 5.")
        return int(np.clip(difference // FIVE + len(self.differences) // 2, 0, len(self.differences) - 1))

    def gains(self, left: int, mark: int) -> tuple[Array, Array]:
        """How much better buzzing is than waiting in a tossup with its power mark at tick `mark`, when so many are
        left, at every tick, difference and belief: while nobody has answered, and after the other team's miss; shapes
        (ticks, differences, 41)."""
        step = _Tossup(dataclasses.replace(self.game, mark=mark), self.points)
        step(self.value[left - 1], None)
        return step.gain, step.gain_alone


def solve(
    game: Game, *, tossups: int | None = None, policy: Policy | None = None, points: bool = False, tie: float | None = None
) -> Solution:
    """Find the best play over `tossups` (default: as the rules say), or what a given `policy` is worth.

    `points`: maximise the expected score difference instead of the chance to win. `tie`: the chance to win after a tie;
    by default the overtime of the rules is solved too."""
    count = game.rules.cycles if tossups is None else tossups
    if not 1 <= count <= 200:
        raise UserError(f"{count} tossups: expected 1 to 200.")
    step = _Tossup(game, points)
    differences = np.arange(-WIDEST, WIDEST + 1) * FIVE
    if points:
        value = differences.astype(float)
    else:
        value = np.where(differences > 0, 1.0, 0.0)
        value[WIDEST] = solve_overtime(game) if tie is None else tie
    values, firsts, alones, thresholds = [value], [], [], []
    for n in range(count):
        mine = None if policy is None else Policy(_of(policy.first, n), _of(policy.alone, n))
        value, first, alone, threshold = step(value, mine)
        values.append(value)
        firsts.append(first)
        alones.append(alone)
        thresholds.append(threshold)
    return Solution(game, differences, np.stack(values), Policy(np.stack(firsts), np.stack(alones)), np.stack(thresholds), points)


def solve_overtime(game: Game) -> float:
    """The chance to win from a tie: the rules' number of tossups without bonuses, then sudden death (a fixed point),
    played best."""
    step = _Tossup(game, points=False, bonus=False)
    width = game.rules.overtime * -(-game.rules.swing // FIVE) + 1
    after = np.where(np.arange(-width, width + 1) > 0, 1.0, 0.0)
    tie = 0.5
    for _ in range(200):
        after[width] = tie
        # Only the middle of the row is asked for: what is beyond the nearest differences is won or lost.
        tie, before = float(step(after[width - 1 : width + 2], None)[0][1]), tie
        if abs(tie - before) < 1e-12:
            break
    after[width] = tie
    for _ in range(game.rules.overtime):
        after = step(after, None)[0]
    return float(after[width])


def _of(wanted: Bools, n: int) -> Bools:
    chosen: Bools = wanted[min(n, len(wanted) - 1)]
    return chosen


class _Tossup:
    """One tossup: from V_{n-1} to V_n, with the play that gives it."""

    def __init__(self, game: Game, points: bool, bonus: bool = True) -> None:
        self.game, self.points = game, points
        rules = game.rules
        ours = rules.bonus(game.reader.bonus, game.opponent.bonus) if bonus else [(0, 1.0)]
        theirs = rules.bonus(game.opponent.bonus, game.reader.bonus) if bonus else [(0, 1.0)]
        self.we = {power: [(rules.tossup(power=power) + b, c) for b, c in ours] for power in (True, False)}
        self.they = {power: [(-rules.tossup(power=power) - b, c) for b, c in theirs] for power in (True, False)}
        self.kernels = game.reader.kernels(game.ticks)
        self.h, self.a, self.r = game.opponent.hazards(game.ticks), game.opponent.accuracy(game.ticks), game.rebound()
        self.pad = rules.swing // FIVE + 2

    def __call__(self, after: Array, policy: Policy | None) -> tuple[Array, Bools, Bools, Array]:
        game, ticks = self.game, self.game.ticks
        p = game.reader.beliefs
        size, neg = len(after), game.rules.neg
        shift = -neg // FIVE
        row = self._padded(after)

        def at(points: int, wide: bool = False) -> Array:
            """V_{n-1} at every difference plus `points`; `wide`: with as many more on either side as a neg is worth."""
            more = shift if wide else 0
            start = self.pad + points // FIVE - more
            return row[start : start + size + 2 * more]

        def mean(outcomes: Sequence[tuple[int, float]], extra: int = 0, wide: bool = False) -> Array:
            total: Array = sum((chance * at(value + extra, wide) for value, chance in outcomes), start=np.zeros(1))
            return total

        first = np.empty((ticks, size, GRID), bool)
        alone = np.empty((ticks, size, GRID), bool)
        threshold = np.empty((ticks, size))
        self.gain, self.gain_alone = np.empty((ticks, size, GRID)), np.empty((ticks, size, GRID))
        solo = open_ = np.empty(0)
        for k in range(ticks, 0, -1):
            power, last = k <= game.mark, k == ticks
            # Alone, after their miss: no penalty, no hurry.
            answer = p * mean(self.we[power], wide=True)[:, None] + (1 - p) * at(0, wide=True)[:, None]
            later = np.repeat(at(0, wide=True)[:, None], GRID, axis=1) if last else solo @ self.kernels[k - 1].T
            take = answer > later + EDGE if policy is None else self._wide(_at_tick(policy.alone, k, size), shift)
            heard = solo_now = np.where(take, answer, later)
            self.gain_alone[k - 1] = (answer - later)[shift : shift + size]
            if not last:
                heard = later  # they answer in this tick, we go on listening
            alone[k - 1] = take[shift : shift + size]
            # They buzz.
            penalty = 0 if last else neg
            right = mean(self.they[power])[:, None]
            theirs = self.a[k - 1] * right + (1 - self.a[k - 1]) * heard[shift - penalty // FIVE :][:size]
            # We buzz.
            missed = self.r[k - 1] * mean(self.they[False], penalty) + (1 - self.r[k - 1]) * at(penalty)
            own = p * mean(self.we[power])[:, None] + (1 - p) * missed[:, None]
            h = self.h[k - 1]
            buzz = (1 - h / 2) * own + h / 2 * theirs
            silent = np.repeat(at(0)[:, None], GRID, axis=1) if last else open_ @ self.kernels[k - 1].T
            wait = h * theirs + (1 - h) * silent
            gain = self.gain[k - 1] = buzz - wait
            take = gain > EDGE if policy is None else _at_tick(policy.first, k, size)
            first[k - 1] = take
            threshold[k - 1] = find_threshold(gain, p)
            solo, open_ = solo_now, np.where(take, buzz, wait)
        before = np.ascontiguousarray(open_[:, game.reader.first])
        return before if self.points else np.clip(before, 0, 1), first, alone, threshold  # sums of chances, rounded, may pass 1

    def _padded(self, after: Array) -> Array:
        if not self.points:
            return np.pad(after, self.pad, mode="edge")
        outside = np.arange(1, self.pad + 1) * float(FIVE)
        return np.concatenate([after[0] - outside[::-1], after, after[-1] + outside])

    @staticmethod
    def _wide(wanted: Bools, shift: int) -> Bools:
        return np.pad(wanted, ((shift, shift), (0, 0)), mode="edge")


def _at_tick(wanted: Bools, k: int, size: int) -> Bools:
    chosen = wanted[min(k - 1, len(wanted) - 1)]
    return np.broadcast_to(chosen, (size, GRID))


def find_threshold(gain: Array, p: Array) -> Array:
    """The least p at which the gain of buzzing comes to 0, between the points of the grid; nan where it never does."""
    above = gain > EDGE
    place = above.argmax(axis=1)
    rows = np.arange(len(gain))
    before = np.maximum(place - 1, 0)
    low, high = gain[rows, before], gain[rows, place]
    share = np.where(high > low, -low / np.where(high > low, high - low, 1.0), 1.0)
    found = np.where(place == 0, 0.0, p[before] + np.clip(share, 0, 1) * (p[place] - p[before]))
    return np.where(above.any(axis=1), found, np.nan)
