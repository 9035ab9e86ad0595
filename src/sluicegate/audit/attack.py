"""The settings of a relearning attack. Apart from the attack, so that reading them needs no torch."""

from dataclasses import dataclass
from typing import Literal

from sluicegate.errors import UserError, check_choices


@dataclass(frozen=True)
class Attack:
    """How the attacker trains; all of the model's parameters, AdamW, constant learning rate."""

    kind: Literal["forget", "retain", "mixed"] = "forget"
    """What the attacker fine-tunes on: the forget facts it owns, harmless retain rows only, or half of each."""
    lrs: tuple[float, ...] = ()
    """Learning rates tried, of which the worst case counts; none: five, in proportion to 1 / the model's width."""
    steps: int = 100
    """Optimiser steps under each learning rate."""
    checkpoints: tuple[int, ...] = (0, 1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100)
    """Steps after which recall is measured."""
    batch: int = 32
    """Rows a step."""
    on: Literal["real", "answer"] = "real"
    """Which tokens the attacker trains on: all of them, or the answers' alone."""
    probe: int = 0
    """Measure each group on at most this many rows, the same ones for every model; 0: all."""

    def __post_init__(self) -> None:
        check_choices(type(self), vars(self))
        if any(not rate > 0 for rate in self.lrs) or len(set(self.lrs)) < len(self.lrs):
            raise UserError(f"the attack's learning rates are {list(self.lrs)}; give positive numbers, each once.")
        for name, low in (("steps", 1), ("batch", 1), ("probe", 0)):
            if (value := getattr(self, name)) < low:
                raise UserError(f"the attack's {name} is {value}; it must be at least {low}.")

    def rates(self, width: int) -> tuple[float, ...]:
        """The learning rates for a model of hidden size `width`: 3e-4 to 1.2e-2 at 64, if none are given."""
        return self.lrs or tuple(float(f"{rate * 64 / width:.2g}") for rate in (3e-4, 1e-3, 3e-3, 6e-3, 1.2e-2))

    def checkpoints_within(self) -> tuple[int, ...]:
        """The checkpoints up to the last step, which is always one of them, as is 0."""
        return tuple(sorted({0, self.steps, *(c for c in self.checkpoints if 0 <= c <= self.steps)}))
