"""How long and how fast to train. Apart from the loop, so that reading a command line needs no torch."""

import math
from dataclasses import dataclass, replace
from typing import Annotated, Literal

from sluicegate.errors import UserError
from sluicegate.values.ranges import Checked, Count, Range, Rows, Weight, Whole, setting


def training_rate(width: int) -> float:
    """Default rate for training a model of hidden size `width` from nothing: 6e-3 at 64, where it was calibrated.
    AdamW's best falls about as 1 / width (Yang et al. 2022, arXiv 2203.03466)."""
    return _two_digits(0.384 / width)


def distilling_rate(width: int) -> float:
    """Default rate for distilling: half of `training_rate`, 3e-3 at 64."""
    return _two_digits(0.192 / width)


def unlearning_rate(width: int) -> float:
    """Default rate for suppression: 2e-3 at a width of 64 and 2.5e-5 at 576, where it was calibrated. That falls as 1 /
    width squared, here not below 1e-5."""
    return max(_two_digits(8.2 / width**2), 1e-5)


def _two_digits(rate: float) -> float:
    return float(f"{rate:.2g}")


@dataclass(frozen=True, kw_only=True)
class Economies(Checked):
    """What saves memory where a model is trained, by a schedule or an attack."""

    optimizer: Literal["adamw", "adamw-bf16", "adafactor"] = setting("adamw", added=True)
    """What takes the steps, and its memory a weight: adamw 8 bytes; adamw-bf16 4; adafactor next to none (for a matrix
    one number a row and a column; no momentum)."""
    rounding: Literal["auto", "nearest", "stochastic", "master"] = setting("auto", added=True)
    """How weights in bfloat16 take a step smaller than their last digit: nearest loses it; stochastic rounds up or down
    at random so that the mean is right; master keeps a float32 copy (4 bytes a weight). auto: stochastic."""
    step_in_backward: bool = setting(False, added=True)
    """Update each weight as soon as its gradient is known and drop the gradient, whose norm is then not
    limited (give --clip 0 where there is one); the batch stays in one piece."""
    checkpointing: bool = setting(False, added=True)
    """Compute activations again in the backward pass rather than keep them: less memory, a third more FLOPs."""
    part_tokens: Whole = setting(0, added=True)
    """Most tokens, padding included, of the parts that a step's batch is cut into (at least a row of each group); the
    result is the same. 0: as --accumulate says."""
    pack: bool = setting(False, added=True)
    """Lay a batch's rows behind one another, not beside padding, where the model can; the same up to rounding."""


@dataclass(frozen=True)
class Schedule(Economies):
    """How long and how fast to train."""

    steps: Count = 200
    """Optimiser steps."""
    lr: Weight = 0.0
    """Peak learning rate of AdamW; 0: the verb's own for the model's width, which the run then records."""
    batch: Rows = 32
    """Rows a step."""
    accumulate: Rows = 1
    """Parts that a step's batch is cut into, to save memory; the result is the same."""
    warmup: Whole = 0
    """Steps over which the learning rate rises linearly to its peak."""
    decay: Literal["constant", "cosine"] = "constant"
    """Shape of the learning rate after the warm-up."""
    decay_steps: Whole = 0
    """Steps over which the cosine runs; 0: all of them."""
    final: Weight = 0.1
    """Learning rate at the end of the cosine, as a share of the peak."""
    beta2: Annotated[float, Range(0, 1, below=True)] = 0.98
    """AdamW's second moment decay (the first is 0.9)."""
    weight_decay: Weight = 0.0
    """AdamW's decoupled weight decay."""
    clip: Weight = 1.0
    """Largest norm of the gradient; 0: no limit."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.accumulate > self.batch:
            raise UserError(f"accumulate is {self.accumulate}, but a batch of {self.batch} rows cannot be cut into that many parts.")
        for name, right in (("clip", 0), ("accumulate", 1), ("part_tokens", 0)) if self.step_in_backward else ():
            if (given := getattr(self, name)) != right:
                needs = f"--{name.replace('_', '-')} {right}, or leave --step-in-backward out."
                raise UserError(f"{name} is {given}, but a step in the backward pass sees one gradient at a time, and once. Set {needs}")

    def or_rate(self, rate: float) -> "Schedule":
        """Fill in a learning rate that was left open."""
        return self if self.lr else replace(self, lr=rate)

    def rate(self, step: int) -> float:
        """The learning rate of step `step` (from 0)."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        if self.decay == "constant":
            return self.lr
        span = max((self.decay_steps or self.steps) - self.warmup, 1)
        done = min((step - self.warmup) / span, 1.0)
        return self.lr * (self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * done)))
