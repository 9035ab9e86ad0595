"""Steering vectors from contrastive pairs: the first principal component of their differences.

Source: Zou et al. 2023, "Representation Engineering" (arXiv 2310.01405), section 3 and appendix C.1. Differences are
not centred, so that the component points along what the pairs have in common; its sign is that of the mean difference,
and its length the mean difference's projection on it.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from sluicegate.errors import UserError
from sluicegate.steering.meandiff import Contrast, check_apart


@dataclass(frozen=True)
class PCA(Contrast):
    """First principal component of the differences of pairs of prompts, at a module's output."""

    def check(self, positive: int, negative: int) -> None:
        """Raise `UserError` unless positive and negative prompts come in pairs."""
        if positive != negative or not positive:
            raise UserError(f"PCA needs pairs; got {positive} positive and {negative} negative prompts.")

    def direction(self, positive: Tensor, negative: Tensor) -> Tensor:
        """[d] the component, as long as the mean difference's projection on it."""
        differences = positive.double() - negative.double()
        check_apart(differences)
        axis = torch.linalg.svd(differences, full_matrices=False).Vh[0]
        return axis * (differences.mean(0) @ axis)  # type: ignore[no-any-return]
