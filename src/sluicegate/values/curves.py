"""Curves: recall against effort, over seeds, and the savings between two of them.

Ebbinghaus (1885) measured memory that could no longer be recalled by how much sooner it was
relearned. The same number is read off any two curves here::

    savings = 1 - effort(edited model -> s) / effort(reference -> s)

0: the edited model is as hard to teach as one that never knew; 1: the knowledge was merely hidden.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from sluicegate.errors import UserError
from sluicegate.values.statistics import Estimate, estimate


@dataclass(frozen=True)
class Curve:
    """Recall against effort, one row a seed."""

    effort: tuple[float, ...]
    """Increasing, in `unit`; the first is usually 0: before any effort."""
    recall: tuple[tuple[float, ...], ...]
    """[seeds, points], each in 0..1."""
    seeds: tuple[int, ...]
    unit: str = "attack steps"
    attack: str = ""
    """Digest of the attack's settings: two curves can only be compared when theirs agree."""

    def __post_init__(self) -> None:
        if list(self.effort) != sorted(set(self.effort)) or not self.effort:
            raise UserError(f"a curve's effort must increase; got {list(self.effort)}.")
        if len(self.recall) != len(self.seeds):
            raise UserError(f"a curve needs one row of recall a seed; got {len(self.recall)} for {len(self.seeds)} seeds.")
        if any(len(row) != len(self.effort) for row in self.recall):
            raise UserError(f"a curve needs one recall for each of its {len(self.effort)} efforts.")

    @property
    def budget(self) -> float:
        """The largest effort spent."""
        return self.effort[-1]

    def by_seed(self) -> "list[Curve]":
        """Each seed's curve alone."""
        return [Curve(self.effort, (row,), (seed,), self.unit, self.attack) for seed, row in zip(self.seeds, self.recall, strict=True)]

    def per_seed(self, effort: float) -> tuple[float, ...]:
        """Recall of every seed at `effort`, linear between the points that were measured."""
        if not self.effort[0] <= effort <= self.budget:
            raise UserError(f"effort {effort:g} lies outside what was measured: {self.effort[0]:g} to {self.budget:g} {self.unit}.")
        return tuple(float(np.interp(effort, self.effort, row)) for row in self.recall)

    def at(self, effort: float) -> Estimate:
        """Mean recall at `effort` with its interval over seeds."""
        return estimate(self.per_seed(effort), at_least=0.0, at_most=1.0)

    def effort_to(self, s: float) -> tuple[float, ...]:
        """Effort until recall first reaches `s`, for every seed; infinity where it never did."""
        if not 0 < s <= 1:
            raise UserError(f"a recall level lies in (0, 1]; got {s:g}.")
        return tuple(self._first(row, s) for row in self.recall)

    def _first(self, row: tuple[float, ...], s: float) -> float:
        if row[0] >= s:
            return self.effort[0]
        for (x, y), (after, higher) in pairwise(zip(self.effort, row, strict=True)):
            if higher >= s:
                return x + (s - y) / (higher - y) * (after - x)
        return math.inf

    def savings(self, reference: "Curve", s: float = 0.5) -> Estimate:
        """Share of the reference's effort that is saved on the way to recall `s`, paired by seed.

        Where a curve ends below `s`, its budget stands in for the effort, and the estimate says which kind of bound
        that makes it. Raises `UserError` unless measured at equal effort: same attack and seeds, a reference below `s`.
        """
        if self.attack != reference.attack or self.unit != reference.unit:
            raise UserError("these curves come from different attacks; savings need equal effort: run both with the same settings.")
        shared = [seed for seed in self.seeds if seed in reference.seeds]
        if not shared:
            raise UserError(f"no seed is in both curves: {list(self.seeds)} and {list(reference.seeds)}.")
        mine = dict(zip(self.seeds, self.effort_to(s), strict=True))
        theirs = dict(zip(reference.seeds, reference.effort_to(s), strict=True))
        values, open_mine, open_theirs = [], False, False
        for seed in shared:
            a, b = mine[seed], theirs[seed]
            open_mine, open_theirs = open_mine or math.isinf(a), open_theirs or math.isinf(b)
            a, b = min(a, self.budget), min(b, reference.budget)
            if b <= 0:
                raise UserError(f"the reference already recalls {s:g} before any effort (seed {seed}): it is no reference for savings.")
            values.append(1 - a / b)
        found = estimate(values, at_most=1.0)
        bound = {(False, False): "", (False, True): "at least", (True, False): "at most"}.get((open_mine, open_theirs), "about")
        return Estimate(found.mean, found.low, found.high, found.n, bound)

    def halfway(self) -> float:
        """The recall halfway from the start to the highest, means over seeds: the level where none is given."""
        means = [sum(column) / len(column) for column in zip(*self.recall, strict=True)]
        return float(means[0] + max(means)) / 2

    def past_peak(self) -> tuple[bool, ...]:
        """For every seed: did recall stop rising (or hit 1) before the last point? Else the attack was cut short."""
        return tuple(max(row[:-1], default=0.0) >= row[-1] or row[-1] >= 1.0 for row in self.recall)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> "Curve":
        recall = tuple(tuple(row) for row in record["recall"])
        return cls(tuple(record["effort"]), recall, tuple(record["seeds"]), record["unit"], record["attack"])

    def dumps(self) -> str:
        return json.dumps(self.to_json())


def stack(curves: Sequence[Curve]) -> Curve:
    """Join curves of single seeds into one; raises `UserError` unless effort and attack agree."""
    if not curves:
        raise UserError("stack needs at least one curve.")
    first = curves[0]
    for other in curves[1:]:
        if (other.effort, other.unit, other.attack) != (first.effort, first.unit, first.attack):
            raise UserError("only curves of one attack at the same efforts can be joined over seeds.")
    seeds = tuple(seed for curve in curves for seed in curve.seeds)
    if len(set(seeds)) != len(seeds):
        raise UserError(f"a seed occurs twice among the curves: {list(seeds)}.")
    return Curve(first.effort, tuple(row for c in curves for row in c.recall), seeds, first.unit, first.attack)
