"""Who studies what: how much of a distribution of categories a team covers, and which hours of study cover the most
more.

The value of a team is the chance that at least one player knows a tossup's answer, sum_j c_j (1 - prod_i (1 - q_ij)):
c_j is category j's share, q_ij player i's skill in it, and players know things independently of each other. Study
raises q_ij with less and less gain, so the value is monotone and submodular in blocks of study: greedy choice comes
within 1 - 1/e of the greatest gain where the team has one budget of hours (Nemhauser, Wolsey and Fisher 1978), and
within 1/2 where each player has one of their own (Fisher, Nemhauser and Wolsey 1978). The exact plan is found by a
dynamic programme over categories.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sluicegate_study.errors import UserError

Array = NDArray[np.float64]
Plan = NDArray[np.int64]
MOST_WORK = 3e8
"""Additions above which the exact plan is not sought."""


@dataclass(frozen=True)
class Team:
    """Players, categories with their shares (sum 1), skill (players, categories) now, hours of study after which half
    of what is missing below the ceiling is learnt (same shape), and that ceiling."""

    players: tuple[str, ...]
    categories: tuple[str, ...]
    shares: Array
    skill: Array
    half: Array
    ceiling: float = 0.9

    def __post_init__(self) -> None:
        shape = (len(self.players), len(self.categories))
        if not all(shape):
            raise UserError(f"a team of {shape[0]} players in {shape[1]} categories: expected one of each at least.")
        if self.skill.shape != shape or self.half.shape != shape or self.shares.shape != shape[1:]:
            raise UserError(f"skill is {self.skill.shape}, half {self.half.shape}, shares {self.shares.shape}: expected {shape} for both.")
        if not ((self.skill >= 0) & (self.skill <= 1)).all():
            raise UserError("a skill is no chance: expected shares of the tossups that a player would answer, from 0 to 1.")
        if not (self.half > 0).all():
            raise UserError("hours to learn half of what is missing: expected more than 0 (inf: it is not learnt at all).")
        if not 0 < self.ceiling <= 1:
            raise UserError(f"the ceiling is {self.ceiling}: expected more than 0 and at most 1.")
        if not (self.shares >= 0).all() or not math.isclose(float(self.shares.sum()), 1.0, abs_tol=1e-9):
            raise UserError("the shares of the categories do not add up to 1: expected parts of one whole.")

    def after(self, hours: NDArray[Any]) -> Array:
        """Skill after hours of study (players, categories): q + (ceiling - q) (1 - 2^(-h / half)); above the ceiling
        study adds nothing."""
        return np.asarray(self.skill + np.maximum(self.ceiling - self.skill, 0) * (1 - 0.5 ** (hours / self.half)), np.float64)

    def value(self, skill: Array) -> float:
        """The chance that at least one player knows the answer of a tossup."""
        return float(self.shares @ self.covered(skill))

    def covered(self, skill: Array) -> Array:
        """The same for each category."""
        return np.asarray(1 - np.prod(1 - skill, axis=0))

    def swings(self, skill: Array) -> Array:
        """By how much the value falls when a player is out, for each of them."""
        whole = self.value(skill)
        return np.array([whole - self.value(np.delete(skill, i, axis=0)) for i in range(len(self.players))])


@dataclass(frozen=True)
class Study:
    """Blocks of study to be given out: hours a block, and how many each player has, or (`common`) how many the team has
    in all."""

    block: float
    budget: tuple[int, ...]
    common: bool = False


def plan_greedily(team: Team, study: Study) -> Plan:
    """Give out one block after the other, each where it adds most now. Blocks (players, categories)."""
    plan: Plan = np.zeros((len(team.players), len(team.categories)), np.int64)
    left = np.array([sum(study.budget)] * len(team.players) if study.common else study.budget)
    while left.max() > 0:
        gains = np.where(left[:, None] > 0, _gains(team, study, plan), -1.0)
        best = int(gains.argmax())
        if gains.flat[best] <= 1e-15:
            break
        i, j = divmod(best, len(team.categories))
        plan[i, j] += 1
        left -= 1 if study.common else np.arange(len(left)) == i
    return plan


def bound_gain(team: Team, study: Study, plan: Plan) -> float:
    """No plan is worth more than this: the plan's value and, for each budget, the greatest gains that blocks on top of
    it would have alone.

    It holds because the value is submodular; next to the greedy plan it says how far that can be from the best one."""
    most = sum(study.budget) if study.common else max(study.budget)
    ladder = np.array([_gains(team, study, plan, more) for more in range(most)]).reshape(most, *team.skill.shape)
    rows = [(ladder, most)] if study.common else [(ladder[:, i], count) for i, count in enumerate(study.budget)]
    extra = sum(float(np.sort(row, axis=None)[::-1][:count].sum()) for row, count in rows)
    return team.value(team.after(plan * study.block)) + extra


def plan_exactly(team: Team, study: Study) -> Plan | None:
    """The best plan; None where it would take too long (`MOST_WORK`)."""
    if count_additions(team, study) > MOST_WORK:
        return None
    return _exact_common(team, study) if study.common else _exact_own(team, study)


def count_additions(team: Team, study: Study) -> float:
    """About how many additions the exact plan takes."""
    if study.common:
        return len(team.categories) * (len(team.players) + 1) * (sum(study.budget) + 1.0) ** 2
    return len(team.categories) * float(np.prod([(h + 1.0) * (h + 2) / 2 for h in study.budget]))


def _gains(team: Team, study: Study, plan: Plan, more: int = 0) -> Array:
    """What one block more adds to the value, (players, categories), when `more` were already added in that place
    alone."""
    skill = team.after(plan * study.block)
    ones = 1 - skill
    others = np.array([np.prod(np.delete(ones, i, axis=0), axis=0) for i in range(len(ones))])
    gained = team.after((plan + more + 1) * study.block) - team.after((plan + more) * study.block)
    return np.asarray(team.shares * gained * others)


def _missing(team: Team, study: Study, blocks: int) -> Array:
    """1 - q after 0, 1, ... blocks: (blocks + 1, players, categories)."""
    return np.array([1 - team.after(np.full(team.skill.shape, n * study.block)) for n in range(blocks + 1)])


def _exact_own(team: Team, study: Study) -> Plan:
    """Over categories; the state is how many blocks each player has given out so far."""
    players, missing = len(team.players), _missing(team, study, max(study.budget))
    states = tuple(h + 1 for h in study.budget)
    ways = list(product(*(range(n) for n in states)))
    best = np.zeros(states)
    choices = []
    for j, share in enumerate(team.shares):
        values = [share * (1 - math.prod(missing[way[i], i, j] for i in range(players))) for way in ways]
        after, chosen = np.full(states, -1.0), np.zeros(states, np.int64)
        for n, (way, value) in enumerate(zip(ways, values, strict=True)):
            here = tuple(slice(w, None) for w in way)
            before = tuple(slice(None, size - w) for size, w in zip(states, way, strict=True))
            tried = best[before] + value
            better = tried > after[here] + 1e-15
            after[here] = np.where(better, tried, after[here])
            chosen[here] = np.where(better, n, chosen[here])
        best = after
        choices.append(chosen)
    plan = np.zeros(team.skill.shape, np.int64)
    state = tuple(study.budget)
    for j in reversed(range(len(team.categories))):
        way = ways[int(choices[j][state])]
        plan[:, j] = way
        state = tuple(s - w for s, w in zip(state, way, strict=True))
    return plan


def _exact_common(team: Team, study: Study) -> Plan:
    """Over categories, and within each over players: the least product of what is missing for so many blocks."""
    total = sum(study.budget)
    missing = _missing(team, study, total)
    best, trail = np.zeros(total + 1), list[tuple[Plan, list[Plan]]]()
    for j, share in enumerate(team.shares):
        least, taken = np.ones(total + 1), list[Plan]()
        for i in range(len(team.players)):
            options = np.array(
                [[least[m - h] * missing[h, i, j] if h <= m else np.inf for h in range(total + 1)] for m in range(total + 1)]
            )
            taken.append(options.argmin(1))
            least = options.min(1)
        gain = share * (1 - least)
        sums = np.array([[best[m - h] + gain[h] if h <= m else -np.inf for h in range(total + 1)] for m in range(total + 1)])
        trail.append((sums.argmax(1), taken))
        best = sums.max(1)
    plan, left = np.zeros(team.skill.shape, np.int64), total
    for j in reversed(range(len(team.categories))):
        spent, taken = trail[j]
        here = int(spent[left])
        left -= here
        for i in reversed(range(len(team.players))):
            plan[i, j] = taken[i][here]
            here -= int(plan[i, j])
    return plan


def _spend(before: Array, here: Array, combine: Any) -> tuple[Array, Plan]:
    """For each total m the greatest of combine(before[m - h], here[h]) over h, and that h."""
    best, spent = np.full(len(before), -np.inf), np.zeros(len(before), np.int64)
    for h in range(len(before)):
        tried = combine(before[: len(before) - h], here[h])
        better = tried > best[h:] + 1e-15
        best[h:], spent[h:] = np.where(better, tried, best[h:]), np.where(better, h, spent[h:])
    return best, spent


def normalize(weights: Sequence[float]) -> Array:
    """Shares that add up to 1. Raises `UserError` for weights below 0, or that are all 0."""
    array: Array = np.asarray(weights, np.float64)
    total = float(array.sum())
    if not math.isfinite(total) or (array < 0).any() or total <= 0:
        raise UserError("the shares of the categories: expected numbers of 0 or more, one of them above 0.")
    return np.asarray(array / total)
