"""Steering vectors without supervision: what changes a later layer most.

Source: Mack & Turner 2024, "Mechanistically Eliciting Latent Behaviors in Language Models": maximise over ||theta|| = R

    sum over prompts, ( sum over tokens ||z_t(theta) - z_t(0)||^p )^(q/p)

with z the target's output; each new vector may be kept orthogonal to those before. Different here: all vectors of a batch are climbed at
once, one a row, and kept orthogonal by a symmetric (Löwdin) step.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sluicegate.errors import UserError
from sluicegate.runs.room import Room
from sluicegate.steering.vector import SteeringSet, check_tokens


@dataclass(frozen=True)
class MELBO:
    """Vectors of norm R at `source` that change `target` most, climbed in batches."""

    source: str
    """Path of the module that is steered."""
    target: str
    """Path of the module whose output shall change."""
    count: int = 16
    """How many vectors."""
    norm: float = 1.0
    """R, in the activations' own units; see `MeanDiff` for a vector to take it from."""
    steps: int = 50
    """Steps of ascent a batch."""
    rate: float = 0.3
    """Length of a step, as a share of R."""
    power: float = 2.0
    """p of the source's formula; q is 1."""
    orthogonal: bool = True
    """Whether the vectors are orthogonal to each other."""
    batch: int = 16
    """How many are climbed at once."""
    tokens: str = "not_first"
    """Which tokens are steered, and over which the change is summed."""
    seed: int = 0

    def __post_init__(self) -> None:
        check_tokens(self.tokens)
        for name in ("count", "steps", "batch"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if not self.norm > 0:
            raise UserError(f"norm is {self.norm:g}; a vector without length changes nothing.")

    def fit(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        prompts: Sequence[str],
        *,
        template: bool | None = None,
        room: Room | None = None,
    ) -> SteeringSet:
        """The vectors, in the order in which they were found."""
        raise NotImplementedError
