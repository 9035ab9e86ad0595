"""Steering vectors from contrastive pairs: the first principal component of their differences.

Source: Zou et al. 2023, "Representation Engineering" (arXiv 2310.01405), section 3 and appendix C.1. Differences are not centred, so that
the component points along what the pairs have in common; its sign is that of the mean difference, and its length the mean difference's
projection on it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sluicegate.errors import UserError
from sluicegate.runs.room import Room
from sluicegate.steering.meandiff import activations
from sluicegate.steering.vector import SteeringVector, check_tokens


@dataclass(frozen=True)
class PCA:
    """First principal component of the differences of pairs of prompts, at a module's output."""

    module: str
    """Path of the module, such as "model.layers.10"."""
    read: str = "last"
    """Which tokens of a prompt are read (see `MeanDiff`)."""
    tokens: str = "not_first"
    """Which tokens the vector steers."""
    scale: float = 1.0
    """The vector is this many times the mean difference's projection on the component."""

    def __post_init__(self) -> None:
        check_tokens(self.read)
        check_tokens(self.tokens)

    def fit(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        positive: Sequence[str],
        negative: Sequence[str],
        *,
        template: bool | None = None,
        room: Room | None = None,
    ) -> SteeringVector:
        """The vector. Raises `UserError` unless positive and negative prompts come in pairs."""
        if len(positive) != len(negative) or not positive:
            raise UserError(f"PCA needs pairs; got {len(positive)} positive and {len(negative)} negative prompts.")
        rows = activations(model, tokenizer, [*positive, *negative], self.module, self.read, template=template, room=room).double()
        differences = rows[: len(positive)] - rows[len(positive) :]
        if not bool(differences.norm() > 0):
            raise UserError("the positive and the negative prompts give the same activations, so there is no direction between them.")
        axis = torch.linalg.svd(differences, full_matrices=False).Vh[0]
        values = axis * (differences.mean(0) @ axis) * self.scale
        made_from = {
            "method": "PCA", "read": self.read, "scale": self.scale, "positive": list(positive), "negative": list(negative),
            "model_type": str(model.config.model_type),
        }  # fmt: skip
        return SteeringVector(values, self.module, self.tokens, made_from)
