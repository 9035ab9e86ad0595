"""Orthogonal twins: vectors that do what a base vector does, orthogonal to it and to each other."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sluicegate.runs.room import Room
from sluicegate.steering.vector import SteeringSet, SteeringVector

Each = Callable[[int, Tensor, float], bool | None]
"""Called after every step with its number, the vectors so far [k, d] and the CPU seconds spent; True ends the search."""


@dataclass(frozen=True)
class Orthogonal:
    """Twins of a base vector."""

    k: int
    """How many; at most one less than the model's width."""
    objective: Literal["kl", "activation"] = "kl"
    """What is made equal to the base's effect: the next-token distributions, or the target module's output."""
    mode: Literal["joint", "sequential"] = "joint"
    """All at once, or one after the other as in the post."""
    target: str = ""
    """Path of the target module; needed for the objective "activation"."""
    max_norm: float = 1.0
    """No twin is longer than this many times the base; 0: no limit."""
    steps: int = 20
    tokens: int = 12
    """Length of the base's answer along which the KL is taken, in tokens."""
    batch: int = 32
    rate: float = 0.0
    """Step size as a share of the base's length; 0: chosen by mode."""
    seed: int = 0

    def fit(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        base: SteeringVector,
        prompts: Sequence[str],
        *,
        template: bool | None = None,
        room: Room | None = None,
        each: Each | None = None,
    ) -> SteeringSet:
        """The twins."""
        raise NotImplementedError
