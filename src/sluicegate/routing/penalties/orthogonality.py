from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from sluicegate.routing.penalties import Weighted, pairs

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Orthogonality(Weighted):
    """Blocks that point in different directions.

    ``L = w * mean_{k, h} cos(z_k, z_h)^2`` over all pairs of units from different blocks (and the
    rest), where z_k is unit k over the rows of the batch. Hand in a weight, transposed, in place of
    activations to keep the blocks' incoming weights apart: ``penalty(layer.weight.T, blocks)``.

    Source: the difference loss of Bousmalis et al. 2016 (domain separation networks, arXiv
    1608.06019), ``||H_a^T H_b||_F^2``. Different here: each unit is divided by its length, so that
    shrinking the units is no way out, and the sum is a mean. A unit of length 0 has cosine 0.
    """

    NAME: ClassVar[str] = "orthogonality"

    def __call__(self, z: "Tensor", blocks: Mapping[str, tuple[int, int]], step_share: float = 1.0) -> "Tensor":
        import torch

        total, count = z.new_zeros((), dtype=torch.float32), 0
        for a, b in pairs(z, blocks, self.NAME):
            total = total + (_unit(a).t() @ _unit(b)).square().sum()
            count += a.shape[1] * b.shape[1]
        return self.at(step_share) * total / count


def _unit(group: "Tensor") -> "Tensor":
    """[n, units] every unit of length 1 over the rows; the clamp comes before the root, whose gradient at 0 is
    infinite."""
    return group * group.square().sum(0).clamp_min(1e-24).rsqrt()
