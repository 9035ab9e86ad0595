"""Steering vectors from contrastive pairs: the first principal component of their differences.

Source: Zou et al. 2023, "Representation Engineering" (arXiv 2310.01405), section 3 and appendix C.1. Differences are
not centred, so that the component points along what the pairs have in common; its sign is that of the mean difference,
and its length the mean difference's projection on it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sluicegate.errors import UserError
from sluicegate.runs.directory import RunContext
from sluicegate.steering.meandiff import Contrast, activations, check_apart
from sluicegate.steering.vector import SteeringVector


@dataclass(frozen=True)
class PCA(Contrast):
    """First principal component of the differences of pairs of prompts, at a module's output.

    Its length is the mean difference's projection on it, times `scale`.
    """

    def fit(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        positive: Sequence[str],
        negative: Sequence[str],
        *,
        template: bool | None = None,
        run: RunContext | None = None,
    ) -> SteeringVector:
        """The vector. Raises `UserError` unless positive and negative prompts come in pairs."""
        if len(positive) != len(negative) or not positive:
            raise UserError(f"PCA needs pairs; got {len(positive)} positive and {len(negative)} negative prompts.")
        rows = activations(model, tokenizer, [*positive, *negative], self.module, self.read, template=template, run=run).double()
        differences = rows[: len(positive)] - rows[len(positive) :]
        check_apart(differences)
        axis = torch.linalg.svd(differences, full_matrices=False).Vh[0]
        return self.vector(axis * (differences.mean(0) @ axis) * self.scale, model, positive, negative)
