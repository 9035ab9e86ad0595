from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from sluicegate.errors import UserError, nearest
from sluicegate.routing.penalties import Weighted, groups

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class L1(Weighted):
    """Sparse activations: units that a row does not need go silent on it.

    ``L = w * mean_i ||z_i||_1``, the sum over features averaged over the rows.

    Source: Cloud et al. 2024 (arXiv 2410.04332), the MNIST autoencoder (w 3e-3, and 2e-2 on a half
    alone), TinyStories (1e-4). Different here: w may rise over the first part of the training;
    with the full weight from the first step a small autoencoder collapsed to one constant picture.
    """

    NAME: ClassVar[str] = "l1"

    weight: float = 3e-3
    """w: the coefficient, for a sum over features (a wider layer is penalised more)."""
    on: str = ""
    """Name of the one block that is penalised, or rest; empty: all features."""

    def __call__(self, z: "Tensor", blocks: Mapping[str, tuple[int, int]], step_share: float = 1.0) -> "Tensor":
        import torch

        found = groups(z, blocks)
        if self.on and self.on not in found:
            raise UserError(f"on is {self.on!r}, but there is no such block here. There are: {nearest(self.on, list(found), most=20)}.")
        chosen = [found[self.on]] if self.on else list(found.values())
        norm = torch.stack([group.abs().sum() for group in chosen]).sum() / max(len(chosen[0]), 1)
        return self.at(step_share) * norm
