"""An arm: what one way of doing something gave, by seed, read from finished run folders."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from sluicegate.values.curves import Curve, stack
from sluicegate.values.statistics import Estimate, estimate


@dataclass(frozen=True)
class Arm:
    """What one arm gave, by seed."""

    name: str
    results: Mapping[int, Mapping[str, Any]]
    """result.json of its stage."""
    attacks: Mapping[int, Mapping[str, Any]]
    """result.json of the attack on it."""
    flops: Mapping[int, float]
    """What making it cost, from the pretrained model on: its stages and those they were made from."""
    folders: Mapping[int, Path]

    @property
    def by(self) -> str:
        """How its scores are read: exact answers, or tokens (argmax) where its attack measured running text."""
        return "exact" if {attack.get("measure", "exact") for attack in self.attacks.values()} <= {"exact"} else "argmax"

    def scores(self, group: str, measure: str = "") -> list[float]:
        """A group's mean score, one number a seed; by default the one that its scores are read `by`."""
        measure = measure or self.by
        return [r["scores"][group][measure] for r in self.results.values() if group in r["scores"]]

    def measured(self, name: str) -> list[float]:
        """A trial's number, one a seed: NaN where a seed has none. Empty where no seed has one."""
        found = [r.get("measures", {}).get(name) for r in self.results.values()]
        return [math.nan if value is None else value for value in found] if any(value is not None for value in found) else []

    def estimate(self, name: str) -> Estimate | None:
        """The same as a mean with its interval, over the seeds that have one."""
        found = [value for value in self.measured(name) if math.isfinite(value)]
        return estimate(found) if found else None

    @cached_property
    def owned(self) -> Curve:
        """Recall of the facts that the attacker holds, over seeds."""
        return stack([Curve.from_json(a["owned"]) for a in self.attacks.values()])

    @cached_property
    def held_out(self) -> Curve:
        """Recall of the facts it never sees, over seeds."""
        return stack([Curve.from_json(a["held_out"]) for a in self.attacks.values()])
