"""Trials: experiments in one stage each. One trains one arm, measures it, and returns named numbers and curves; a
recipe lists arms, which claims the numbers are to bear out, and which pictures to draw."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from sluicegate.runs.stage import Stage, setting, stages
from sluicegate.values.ranges import Seed


@dataclass(frozen=True)
class Trial(Stage):
    """One arm of an experiment that trains and measures in one go."""

    MEASURES: ClassVar[Mapping[str, str]] = {}
    """What it measures: the name of each number, and in a few words what it is, with its unit."""

    variant: str = setting("", was="arm")
    """Which way of doing it; each trial says which there are."""
    seed: Seed = 0
    """Seed of everything random."""

    @property
    def method(self) -> str:
        return self.variant


def outcome(
    trial: Trial,
    measures: Mapping[str, float],
    *,
    flops: float,
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]] | None = None,
) -> dict[str, Any]:
    """What a trial's `run` returns: its numbers, FLOPs of training, and curves by name as (x, y); None for what is not
    finite, since JSON has no NaN. Raises `KeyError` for a measure that the trial does not declare."""
    for name in measures:
        if name not in trial.MEASURES:
            raise KeyError(f"{trial.VERB} declares no measure {name!r}")
    drawn = {name: {"x": [_finite(v) for v in x], "y": [_finite(v) for v in y]} for name, (x, y) in (curves or {}).items()}
    return {
        "verb": trial.VERB,
        "method": trial.method,
        "measures": {name: _finite(value) for name, value in measures.items()},
        "curves": drawn,
        "flops": {"total": flops},
        "scores": {},
        "steps": 0,
    }


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def trials() -> dict[str, type[Trial]]:
    """Every trial, by its verb."""
    return {verb: cls for verb, cls in stages().items() if issubclass(cls, Trial)}
